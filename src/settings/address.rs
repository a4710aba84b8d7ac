//! Addresses as people write them: `HOST:PORT` of a tracker, in a command or an invite, and where figures are served. Pure: names
//! are looked up when they are used.

use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Deserializer};

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address: write HOST:PORT, such as tracker.example:7440 or [2001:db8::1]:7440")]
pub struct BadAddress(String);

/// Longest name that the domain name system knows.
const MAX_HOST: usize = 253;

/// Checks an address and writes it in full; a port that is left out is `default_port`.
pub fn parse_host_port(text: &str, default_port: u16) -> Result<String, BadAddress> {
    let bad = || BadAddress(crate::base::escape::for_terminal(text.as_bytes()));
    let text = text.trim();
    let port = |port: &str| match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(bad()),
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(bad)?;
        let host: Ipv6Addr = host.parse().map_err(|_| bad())?;
        let port = match after.strip_prefix(':') {
            Some(after) => port(after)?,
            None if after.is_empty() => default_port,
            None => return Err(bad()),
        };
        return Ok(format!("[{host}]:{port}"));
    }
    if let Ok(host) = text.parse::<Ipv6Addr>() {
        return Ok(format!("[{host}]:{default_port}"));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, after)) => (host, port(after)?),
        None => (text, default_port),
    };
    let wrong = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if host.is_empty() || host.len() > MAX_HOST || host.contains(wrong) {
        return Err(bad());
    }
    Ok(format!("{host}:{port}"))
}

/// Where figures are served: `ADDR:PORT`, or a port of 127.0.0.1.
pub fn parse_metrics_addr(text: &str) -> Result<SocketAddr, String> {
    match text.trim().parse::<u16>() {
        Ok(port) => Ok(([127, 0, 0, 1], port).into()),
        Err(_) => text.trim().parse().map_err(|_| {
            let shown = crate::base::escape::for_terminal(text.as_bytes());
            format!("'{shown}' is not an address: write ADDR:PORT, such as 127.0.0.1:9440, or a port alone")
        }),
    }
}

/// The same in the settings file, where a port alone may be a number.
pub fn metrics_addr<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected ADDR:PORT in quotes, or a port")]
    enum Raw {
        Port(u16),
        Text(String),
    }
    match Raw::deserialize(from)? {
        Raw::Port(port) => Ok(Some(([127, 0, 0, 1], port).into())),
        Raw::Text(text) => parse_metrics_addr(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_this_machine() {
        assert_eq!(parse_metrics_addr("9440"), Ok(([127, 0, 0, 1], 9440).into()));
        assert_eq!(parse_metrics_addr("0.0.0.0:1"), Ok(([0, 0, 0, 0], 1).into()));
        for wrong in ["", "70000", "host:1", ":1", "-1"] {
            assert!(parse_metrics_addr(wrong).unwrap_err().contains("ADDR:PORT"), "{wrong}");
        }
    }

    #[test]
    fn takes_what_people_write() {
        let parse = |text| parse_host_port(text, 7440).ok();
        assert_eq!(parse("a.example:1"), Some("a.example:1".into()));
        assert_eq!(parse(" a.example "), Some("a.example:7440".into()));
        assert_eq!(parse("[::1]:5"), Some("[::1]:5".into()));
        assert_eq!(parse("[::1]"), Some("[::1]:7440".into()));
        assert_eq!(parse("2001:db8::1"), Some("[2001:db8::1]:7440".into()));
        for wrong in ["", ":7440", "a:0", "a:70000", "a:b", "a b:1", "http://a:1", "[::1", "[::1]x", "a:1:2", "ä:1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
