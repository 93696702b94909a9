//! Ports in a row, as Podman lists them. One container may publish all there are, so they are never told one by one.

use std::fmt;
use std::ops::RangeInclusive;

use super::{Port, Protocol};

/// Published ports in a row: each next one on the host is the next one in the container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The first of them.
    pub first: Port,
    /// How many come after it.
    pub more: u16,
}

impl From<Port> for PortRange {
    fn from(first: Port) -> Self {
        Self { first, more: 0 }
    }
}

impl PortRange {
    /// So many ports from `first` on, as far as there are ports.
    pub fn new(first: Port, count: u16) -> Self {
        let most = u16::MAX - first.host_port.max(first.container_port);
        Self { more: count.saturating_sub(1).min(most), first }
    }

    /// The host's ports.
    pub fn host_ports(&self) -> RangeInclusive<u16> {
        self.first.host_port..=self.first.host_port.saturating_add(self.more)
    }

    /// Whether this port of the host is one of them, on whatever address.
    pub fn holds(&self, port: u16, protocol: Protocol) -> bool {
        self.first.protocol == protocol && self.host_ports().contains(&port)
    }

    /// The host's port that leads to this port of the container, at the same address.
    pub fn host_port_of(&self, port: &Port) -> Option<u16> {
        let Port { host_ip, host_port, container_port, protocol } = &self.first;
        let offset = port.container_port.checked_sub(*container_port).filter(|offset| *offset <= self.more)?;
        (*host_ip == port.host_ip && *protocol == port.protocol).then(|| host_port.saturating_add(offset))
    }

    /// The same ports in as few ranges as can be, in order.
    pub fn merged(ranges: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_by(|one, other| one.line().cmp(&other.line()).then(one.first.cmp(&other.first)));
        let mut merged: Vec<Self> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.line() == range.line() && last.reaches(&range) => {
                    let end = (*last.host_ports().end()).max(*range.host_ports().end());
                    last.more = end - last.first.host_port;
                }
                _ => merged.push(range),
            }
        }
        merged.sort();
        merged
    }

    /// What ports in a row have in common.
    fn line(&self) -> (&str, Protocol, i32) {
        let Port { host_ip, host_port, container_port, protocol } = &self.first;
        (host_ip, *protocol, i32::from(*container_port) - i32::from(*host_port))
    }

    /// Whether `next`, which begins no earlier, begins within it or right behind it.
    fn reaches(&self, next: &Self) -> bool {
        u32::from(next.first.host_port) <= u32::from(*self.host_ports().end()) + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Port { host_ip, host_port, container_port, protocol } = &self.first;
        if self.more == 0 {
            return self.first.fmt(f);
        }
        let end = |first: &u16| first.saturating_add(self.more);
        let ports = format!("{host_port}-{}:{container_port}-{}/{protocol}", end(host_port), end(container_port));
        if host_ip.contains(':') { write!(f, "[{host_ip}]:{ports}") } else { write!(f, "{host_ip}:{ports}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(host_port: u16, container_port: u16, count: u16) -> PortRange {
        let first = Port { host_ip: "0.0.0.0".to_owned(), host_port, container_port, protocol: Protocol::Tcp };
        PortRange::new(first, count)
    }

    #[test]
    fn the_same_ports_are_the_same_however_they_are_listed() {
        let one_by_one = PortRange::merged([range(82, 2, 1), range(80, 0, 1), range(81, 1, 1), range(81, 1, 1)]);
        assert_eq!(one_by_one, [range(80, 0, 3)]);
        assert_eq!(one_by_one[0].to_string(), "0.0.0.0:80-82:0-2/tcp");
        let apart = PortRange::merged([range(90, 1, 2), range(80, 80, 2), range(82, 1, 1)]);
        assert_eq!(apart, [range(80, 80, 2), range(82, 1, 1), range(90, 1, 2)]);
        assert_eq!(apart[1].to_string(), "0.0.0.0:82:1/tcp");
    }

    #[test]
    fn a_range_ends_where_ports_end() {
        let all = range(1, 1, u16::MAX);
        assert_eq!(all.host_ports(), 1..=u16::MAX);
        assert!(all.holds(u16::MAX, Protocol::Tcp) && !all.holds(1, Protocol::Udp));
        assert_eq!(range(2, 65_000, u16::MAX).host_ports(), 2..=537);
        assert_eq!(PortRange::merged(vec![all.clone(); 3]), [all]);
    }
}
