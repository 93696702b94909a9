//! What agents share in the engine: volumes and networks.

use std::collections::BTreeMap;

use super::labels::Labels;

/// A volume of the engine that the state file declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its key in the state file.
    pub key: String,
    /// Whether it is somebody else's: then it must be there, and is never made or removed.
    pub external: bool,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Its driver. `None`: Podman's own choice (`local`).
    pub driver: Option<String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// A volume that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeVolume {
    /// Its name in the engine.
    pub name: String,
    /// What it is to be.
    pub spec: VolumeSpec,
    /// All its labels, ours among them.
    pub labels: Labels,
}

/// A network that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeNetwork {
    /// Its name in the engine.
    pub name: String,
    /// What it is to be.
    pub spec: NetworkSpec,
    /// All its labels, ours among them.
    pub labels: Labels,
}

/// A network of the engine that the state file declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its key in the state file.
    pub key: String,
    /// Whether it is somebody else's: then it must be there, and is never made or removed.
    pub external: bool,
    /// Labels of the user.
    pub labels: BTreeMap<String, String>,
    /// Whether nothing outside of it can be reached from it.
    pub internal: bool,
    /// Its addresses, as `10.90.0.0/24`. `None`: Podman chooses.
    pub subnet: Option<String>,
    /// Whether it has IPv6 addresses beside its IPv4 ones.
    pub ipv6: bool,
    /// Whether its containers find each other by their names.
    pub dns: bool,
}
