//! Whether a request names this server in a way that no web page elsewhere can arrange: with DNS rebinding, a page's own
//! name leads to this machine, and the browser takes our answers for that page's. `dev` answers such requests nowhere.

use http::HeaderMap;
use http::header;

/// Whether `Host` is an IP address, `localhost` or a name under it: a name that no foreign DNS server can answer for.
pub(crate) fn is_local_name(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let host = host.to_str().unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    lower == "localhost" || lower.ends_with(".localhost") || name.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_that_others_can_point_here_are_not_local() {
        let local = [
            "localhost",
            "LOCALHOST:8001",
            "app.localhost:8000",
            "localhost.",
            "127.0.0.1:8001",
            "192.168.1.5",
            "[::1]:8001",
            "[::1]",
        ];
        let others = [
            "evil.example",
            "evil.example:8001",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "mylocalhost",
            "[evil]:1",
            "",
        ];
        for (hosts, expected) in [(&local[..], true), (&others[..], false)] {
            for host in hosts {
                let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
                assert_eq!(is_local_name(&headers), expected, "{host}");
            }
        }
        assert!(!is_local_name(&HeaderMap::new()));
        let mut both = HeaderMap::new();
        both.append(header::HOST, "localhost".parse().unwrap());
        both.append(header::HOST, "evil.example".parse().unwrap());
        assert!(!is_local_name(&both));
    }
}
