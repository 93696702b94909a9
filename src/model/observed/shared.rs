//! The volumes and networks of an engine, as one observation found them.

use std::collections::BTreeMap;

use crate::model::labels::Labels;
use crate::model::shared::{NetworkSpec, VolumeSpec};
use crate::model::{FieldChange, Ownership};

/// The volumes and networks of an engine, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SharedState {
    /// Networks.
    pub networks: BTreeMap<String, NetworkState>,
    /// Volumes.
    pub volumes: BTreeMap<String, VolumeState>,
}

/// A network of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Its labels.
    pub labels: Labels,
    /// Whether nothing outside of it can be reached from it.
    pub internal: bool,
    /// Whether it has IPv6 addresses.
    pub ipv6: bool,
    /// Whether its containers find each other by their names.
    pub dns: bool,
    /// Its subnets, as `10.89.0.0/24`.
    pub subnets: Vec<String>,
}

/// A volume of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeState {
    /// Its labels.
    pub labels: Labels,
    /// Its driver.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// Whether something with these labels was made for this owner.
pub(crate) fn is_ours(labels: &Labels, owner: &Ownership) -> bool {
    owner.may_own(|name| labels.get(name).map(String::as_str))
}

impl NetworkState {
    /// In what it differs from what is wanted.
    pub fn changes(&self, wanted: &NetworkSpec) -> Vec<FieldChange> {
        let NetworkSpec { key: _, external: _, labels: _, internal, subnet, ipv6, dns } = wanted;
        let flag = |field: &str, is: bool, wanted: bool| (is != wanted).then(|| change(field, is, wanted));
        let subnets = subnet.as_ref().filter(|subnet| !self.subnets.contains(subnet));
        [
            flag("internal", self.internal, *internal),
            subnets.map(|subnet| change("subnet", self.subnets.join(", "), subnet)),
            flag("ipv6", self.ipv6, *ipv6),
            flag("dns", self.dns, *dns),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl VolumeState {
    /// In what it differs from what is wanted.
    pub fn changes(&self, wanted: &VolumeSpec) -> Vec<FieldChange> {
        let VolumeSpec { key: _, external: _, labels: _, driver, options } = wanted;
        let driver = driver.as_ref().filter(|driver| **driver != self.driver);
        let mut changes: Vec<_> = driver.map(|driver| change("driver", &self.driver, driver)).into_iter().collect();
        // Podman adds options of its own to some drivers.
        for (name, value) in options {
            match self.options.get(name) {
                Some(there) if there == value => {}
                there => changes.push(change(&format!("options.{name}"), there.map_or("none", String::as_str), value)),
            }
        }
        changes
    }
}

fn change(field: &str, from: impl ToString, to: impl ToString) -> FieldChange {
    FieldChange { field: field.to_owned(), from: Some(from.to_string()), to: Some(to.to_string()) }
}
