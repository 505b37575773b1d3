//! What the fuzz targets (`fuzz/`) call of private parsers of bytes from outside. Not an API: it changes with them.

use std::net::IpAddr;

use drawbridge_engine::upstream::StoredEntity;
use http::HeaderMap;
use ipnet::IpNet;

use crate::broker::redis::reader;
use crate::http::{address, proxy_protocol};

/// The client's address in a PROXY protocol header; `None` where it names none.
///
/// # Errors
/// Where it is no such header.
pub fn proxy_address(header: &[u8]) -> std::io::Result<Option<IpAddr>> {
    proxy_protocol::address(header)
}

/// The client's address by the connection's peer and, from a trusted one, the request's headers.
pub fn client_address(peer: IpAddr, trusted: &[IpNet], headers: &HeaderMap) -> IpAddr {
    address::client_address(peer, trusted, headers)
}

/// The entities in these fields of a stored table, at this time in Unix milliseconds; with payloads of at most
/// `external_bytes`.
pub fn stored_entities(
    fields: &[(Vec<u8>, Vec<u8>)],
    now_ms: u64,
    external_bytes: usize,
) -> Vec<StoredEntity> {
    reader::entities_in(fields, now_ms, external_bytes)
}
