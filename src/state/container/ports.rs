//! The published ports of a container.

use super::{Ports, Published};
use crate::model::{Port, Protocol};
use crate::state::decode::{At, Cx, Path, has_key};
use crate::state::document::{PortDoc, PortEntry};
use crate::state::ports;
use crate::state::resolve::checked;
use crate::state::substitute::references;

/// The ports, each of a range for itself. Those that are wrong were reported and are missing.
pub(super) fn resolve(cx: &mut Cx<'_>, entries: Vec<(usize, At<PortEntry>)>, path: Path<'_>) -> Ports {
    let mut resolved = Vec::new();
    for (index, At { node, value }) in entries {
        let path = path.index(index);
        let (these, from_env) = match value {
            PortEntry::Short(word) => {
                let from_env = word.0.from_env;
                (checked(cx, &At { node, value: word }, path, ports::parse), from_env)
            }
            PortEntry::Long(PortDoc { host_ip, host_port, container_port, protocol }) => {
                let ports = [&host_port, &container_port].into_iter().flatten().map(|port| port.node);
                let nodes = ports.chain(host_ip.as_ref().map(|ip| ip.node));
                let from_env = nodes.into_iter().any(|node| !references(cx.tree.text(node)).is_empty());
                let host_ip = match &host_ip {
                    Some(ip) => checked(cx, ip, path.key("hostIp"), ports::ip),
                    None => Some("0.0.0.0".to_owned()),
                };
                let is_there = has_key(cx.tree, node, "hostPort");
                let number = |port: u32| u16::try_from(port).ok();
                let port = match (host_ip, host_port, container_port) {
                    (Some(host_ip), host, Some(container)) => {
                        // One that is there and wrong was reported.
                        let host = host.map_or(Some(0), |host| number(host.value.0));
                        let host = host.filter(|port| *port > 0 || !is_there);
                        host.zip(number(container.value.0)).map(|(host_port, container_port)| Port {
                            host_ip,
                            host_port,
                            container_port,
                            protocol: protocol.map_or(Protocol::Tcp, |protocol| protocol.value.0),
                        })
                    }
                    _ => None,
                };
                (port.map(|port| vec![port]), from_env)
            }
        };
        let these = these.into_iter().flatten();
        resolved.extend(these.map(|port| (index, At { node, value: Published { port, from_env } })));
    }
    resolved
}
