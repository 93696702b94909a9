//! Published ports: how they are written, and which of them would get in each other's way.

use std::collections::HashMap;
use std::net::IpAddr;

use super::tree::NodeId;
use crate::model::{Port, Protocol};

/// The most ports that a range may have.
const LONGEST_RANGE: u16 = 1000;

/// Reads `[[HOST_IP:][HOST_PORT]:]CONTAINER_PORT[/PROTOCOL]`; an IPv6 address stands in brackets, and ports may be ranges of
/// the same length. A host port of 0 is one that Podman is to choose.
pub(super) fn parse(text: &str) -> Result<Vec<Port>, String> {
    const FORM: &str = "[HOST_IP:]HOST_PORT:CONTAINER_PORT[/PROTOCOL]";
    let (address, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((address, "tcp")) => (address, Protocol::Tcp),
        Some((address, "udp")) => (address, Protocol::Udp),
        Some((address, "sctp")) => (address, Protocol::Sctp),
        Some((_, other)) => return Err(format!("unknown protocol `{other}`: use tcp, udp or sctp")),
    };
    let (front, container) = address.rsplit_once(':').map_or((None, address), |(front, rest)| (Some(front), rest));
    let (host_ip, host) = match front.map(|front| (front, front.rsplit_once(':'))) {
        None => ("0.0.0.0", ""),
        Some((front, None)) => ("0.0.0.0", front),
        Some((_, Some((ip, host)))) => (ip, host),
    };
    if host.ends_with(']') || (host_ip.contains(':') && !host_ip.starts_with('[')) {
        return Err(format!("expected {FORM}; an IPv6 address stands in brackets, like \"[::1]:8080:80\""));
    }
    if front.is_some() && host.is_empty() && host_ip == "0.0.0.0" && !text.starts_with("0.0.0.0") {
        return Err(format!("expected {FORM}; for a port that Podman chooses, write \"{container}\" alone"));
    }
    let host_ip = ip(host_ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(host_ip))?;
    let (first, last) = range(container, "container")?;
    let host_ports = if host.is_empty() { (0, 0) } else { range(host, "host")? };
    let more = last - first;
    if more >= LONGEST_RANGE {
        return Err(format!(
            "`{container}` is a range of {} ports: at most {LONGEST_RANGE} can be published at once",
            more + 1
        ));
    }
    if !host.is_empty() && host_ports.1 - host_ports.0 != more {
        return Err(format!("the ranges `{host}` and `{container}` differ in length"));
    }
    let ports = (0..=more).map(|at| Port {
        host_ip: host_ip.clone(),
        host_port: if host.is_empty() { 0 } else { host_ports.0 + at },
        container_port: first + at,
        protocol,
    });
    Ok(ports.collect())
}

/// A port, or the first and the last of a range.
fn range(text: &str, whose: &str) -> Result<(u16, u16), String> {
    let Some((first, last)) = text.split_once('-') else { return number(text, whose).map(|port| (port, port)) };
    let (first, last) = (number(first, whose)?, number(last, whose)?);
    if first > last {
        return Err(format!("the range `{text}` ends before it begins"));
    }
    Ok((first, last))
}

/// Reads an address and writes it the one usual way.
pub(super) fn ip(text: &str) -> Result<String, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_string()),
        Err(_) if text == "localhost" => Err("`localhost` is a name, not an address: write 127.0.0.1".into()),
        Err(_) => Err(format!("`{text}` is not an IP address")),
    }
}

fn number(text: &str, whose: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ if digits => Err(format!("the {whose} port `{text}` is out of range: ports go from 1 to 65535")),
        _ => Err(format!("the {whose} port `{text}` is not a number")),
    }
}

/// Who publishes a port.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) agent: String,
    pub(super) node: NodeId,
}

/// The host ports that are taken so far.
#[derive(Debug, Default)]
pub(super) struct Taken {
    exact: HashMap<(u16, Protocol, IpAddr), Holder>,
    /// The first that takes any IPv4 or any IPv6 address, for what wants all of them.
    first: HashMap<(u16, Protocol, bool), Holder>,
}

impl Taken {
    /// Takes a port. Yields who has it already: the same address, or every address (`0.0.0.0` is every IPv4 address,
    /// `::` every address at all, since Linux binds it to both).
    pub(super) fn take(&mut self, port: &Port, holder: Holder) -> Option<Holder> {
        let ip: IpAddr = port.host_ip.parse().ok()?;
        let (number, protocol) = (port.host_port, port.protocol);
        if number == 0 {
            // Podman chooses one that is free.
            return None;
        }
        let exact = |ip: IpAddr| self.exact.get(&(number, protocol, ip));
        let every = |v6: bool| {
            exact(if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() })
        };
        let first = |v6: bool| self.first.get(&(number, protocol, v6));
        let there = match ip {
            _ if ip.is_unspecified() && ip.is_ipv6() => first(true).or(first(false)),
            _ if ip.is_unspecified() => first(false).or(every(true)),
            _ => exact(ip).or_else(|| every(true)).or_else(|| if ip.is_ipv4() { every(false) } else { None }),
        };
        if let Some(there) = there {
            return Some(there.clone());
        }
        self.first.entry((number, protocol, ip.is_ipv6())).or_insert_with(|| holder.clone());
        self.exact.insert((number, protocol, ip), holder);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_has_optional_ends() {
        let shown = |text: &str| {
            let ports = parse(text).unwrap();
            ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("8080:80"), "0.0.0.0:8080:80/tcp");
        assert_eq!(shown("127.0.0.1:8080:80/udp"), "127.0.0.1:8080:80/udp");
        assert_eq!(shown("[::1]:8080:80/sctp"), "[::1]:8080:80/sctp");
        assert_eq!(shown("[0:0::1]:65535:1"), "[::1]:65535:1/tcp");
        assert_eq!(shown("80"), "0.0.0.0::80/tcp");
        assert_eq!(shown("127.0.0.1::80"), "127.0.0.1::80/tcp");
        assert_eq!(shown("[::1]::80/udp"), "[::1]::80/udp");
        assert_eq!(
            shown("8000-8002:9000-9002/udp"),
            "0.0.0.0:8000:9000/udp 0.0.0.0:8001:9001/udp 0.0.0.0:8002:9002/udp"
        );
        assert_eq!(shown("80-81"), "0.0.0.0::80/tcp 0.0.0.0::81/tcp");
    }

    #[test]
    fn what_is_no_port_says_why() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert!(wrong("8000-8002:80").contains("differ in length"));
        assert!(wrong("8001-8000:81-80").contains("ends before it begins"));
        assert!(wrong("1-65535:1-65535").contains("at most 1000"));
        assert!(wrong(":80").contains("write \"80\" alone"));
        assert!(wrong("0:80").contains("out of range"));
        assert!(wrong("8080:65536").contains("the container port `65536` is out of range"));
        assert!(wrong("http:80").contains("the host port `http` is not a number"));
        assert!(wrong("8080:80/TCP").contains("unknown protocol"));
        assert!(wrong("localhost:8080:80").contains("write 127.0.0.1"));
        assert!(wrong("::1:8080:80").contains("in brackets"));
        assert!(wrong("[::1]:80").contains("in brackets"));
        for text in ["", ":", "::", ":80", "+1:80", "-", "1-", "-1:1", "80-90-100", "1.2.3:80:80", "[]:1:1", "８０:80"]
        {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    /// Whether the second is refused once the first is taken.
    fn clash(first: &str, second: &str) -> bool {
        let mut taken = Taken::default();
        let holder = |agent: &str| Holder { agent: agent.into(), node: 0 };
        assert!(taken.take(&parse(first).unwrap()[0], holder("a")).is_none());
        taken.take(&parse(second).unwrap()[0], holder("b")).is_some()
    }

    #[test]
    fn a_port_is_shared_when_addresses_and_protocol_meet() {
        for (a, b, meet) in [
            ("8080:80", "8080:81", true),
            ("127.0.0.1:8080:80", "8080:80", true),
            ("127.0.0.1:8080:80", "127.0.0.2:8080:80", false),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/udp", false),
            ("127.0.0.1:8080:80", "127.0.0.1:8081:80", false),
            ("[::]:8080:80", "8080:80", true),
            ("[::]:8080:80", "127.0.0.1:8080:80", true),
            ("[::1]:8080:80", "8080:80", false),
            ("[::1]:8080:80", "[::]:8080:80", true),
        ] {
            assert_eq!(clash(a, b), meet, "{a} then {b}");
            assert_eq!(clash(b, a), meet, "{b} then {a}");
        }
    }
}
