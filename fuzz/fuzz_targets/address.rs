//! Whose address counts: the PROXY protocol, and `Forwarded` and `X-Forwarded-For` of a trusted proxy, which adds what
//! it saw to whatever the client wrote. A client cannot choose its address, nor one without a proxy by any header.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use drawbridge::fuzzing::{client_address, proxy_address};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";

#[derive(Arbitrary, Debug)]
struct Request<'a> {
    /// The first bytes of a connection behind a load balancer.
    preamble: &'a [u8],
    /// Where the client really is.
    client: IpAddr,
    port: Option<u16>,
    /// What the client wrote into the header that its proxy adds to, in separate lines.
    own: Vec<&'a [u8]>,
    /// And into the one that its proxy does not know.
    other: Vec<&'a [u8]>,
    /// The proxy adds to the last line, or writes its own line.
    same_line: bool,
    standard: bool,
}

fuzz_target!(|request: Request<'_>| {
    let _ = proxy_address(request.preamble);
    let trusted = ["10.0.0.0/8".parse().expect("a network")];
    let proxy: IpAddr = [10, 0, 0, 1].into();
    let client = request.client.to_canonical();
    if trusted.iter().any(|net: &ipnet::IpNet| net.contains(&client)) {
        return;
    }
    let (name, other) = match request.standard {
        true => (FORWARDED, X_FORWARDED_FOR),
        false => (X_FORWARDED_FOR, FORWARDED),
    };
    let mut lines: Vec<Vec<u8>> = request.own.iter().map(|line| line.to_vec()).collect();
    let added = node(request.standard, request.client, request.port);
    match lines.last_mut().filter(|_| request.same_line) {
        Some(line) => line.extend_from_slice(format!(", {added}").as_bytes()),
        None => lines.push(added.into_bytes()),
    }
    let Some(headers) = headers(name, &lines, other, &request.other) else { return };
    let found = client_address(proxy, &trusted, &headers);
    // Where the client wrote the other header, neither is believed, unless it says the same.
    assert!(found == client || (!request.other.is_empty() && found == proxy), "{found} is not {client}");
    // And without a proxy it is where it is.
    assert_eq!(client_address(client, &trusted, &headers), client);
});

/// The proxy's element of the header.
fn node(standard: bool, client: IpAddr, port: Option<u16>) -> String {
    let address = match (client, port) {
        (_, Some(port)) => SocketAddr::new(client, port).to_string(),
        (IpAddr::V6(client), None) if standard => format!("[{client}]"),
        (client, None) => client.to_string(),
    };
    if standard { format!("for=\"{address}\";proto=https") } else { address }
}

fn headers(
    name: &'static str,
    lines: &[Vec<u8>],
    other: &'static str,
    others: &[&[u8]],
) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(line).ok()?);
    }
    for line in others {
        headers.append(HeaderName::from_static(other), HeaderValue::from_bytes(line).ok()?);
    }
    Some(headers)
}
