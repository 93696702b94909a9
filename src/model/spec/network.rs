//! How a container is on the network, beside its published ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// How a container is on the network, beside its published ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networking {
    /// Its own name. `None`: its id, as Podman has it.
    pub hostname: Option<String>,
    /// Name servers, instead of those of Podman's machine.
    pub dns: Vec<IpAddr>,
    /// Where it is.
    pub mode: NetworkMode,
}

/// Where a container is on the network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// Where Podman puts it: its default network, rootless `slirp4netns` or `pasta`.
    #[default]
    Usual,
    /// Nowhere: it has but a loopback of its own.
    None,
    /// On that of Podman's machine.
    Host,
    /// On these networks of the engine, by their names there.
    Networks(BTreeMap<String, Attachment>),
}

/// How a container is on one network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attachment {
    /// Further names under which others of the network find it, in order.
    pub aliases: Vec<String>,
    /// Its address there. `None`: Podman chooses.
    pub ip: Option<IpAddr>,
}

impl Networking {
    /// The networks of the engine it is on, by their names there.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        let named = match &self.mode {
            NetworkMode::Networks(networks) => Some(networks),
            NetworkMode::Usual | NetworkMode::None | NetworkMode::Host => None,
        };
        named.into_iter().flat_map(|networks| networks.keys().map(String::as_str))
    }
}
