//! Everything HTTP: the socket port with its upgrade, its few pages, and the admin API on its own listener.

pub mod address;
pub(crate) mod admin;
pub(crate) mod listener;
mod pages;
pub(crate) mod playground;
mod proxy_protocol;
mod ws;
