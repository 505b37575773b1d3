//! Everything HTTP: the socket port with its upgrade, its few pages, and the admin API on its own listener.

pub mod address;
pub(crate) mod admin;
mod dev_token;
mod history;
mod host;
pub(crate) mod listener;
mod origin;
mod pages;
pub(crate) mod playground;
pub(crate) mod proxy_protocol;
mod query;
mod reads;
mod write_timeout;
mod ws;
