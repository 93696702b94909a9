//! From the top-level `volumes:` and `networks:` to what agents share in the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::decode::{At, Cx, Entry, Path, Table, is_null};
use super::document::{NetworkDoc, Pairs, VolumeDoc};
use super::resolve::checked;
use super::scalar::{Flag, Word};
use crate::model::{Name, NetworkSpec, VolumeSpec, labels};

/// What is shared, by its name in the engine, and those names by the keys of the file.
pub(super) struct Shared<T> {
    pub(super) specs: BTreeMap<String, T>,
    pub(super) names: BTreeMap<String, String>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { specs: BTreeMap::new(), names: BTreeMap::new() }
    }
}

impl<T> Shared<T> {
    fn insert(&mut self, cx: &mut Cx<'_>, entry: (&Entry<impl Sized>, Path<'_>), name: String, spec: T) {
        let (entry, path) = entry;
        if self.specs.contains_key(&name) {
            cx.wrong(entry.key, path, format!("another one is called `{name}` in Podman as well"));
        }
        self.names.insert(entry.name.clone(), name.clone());
        self.specs.insert(name, spec);
    }
}

/// The fields by which one that is somebody else's is told.
struct Whose {
    external: bool,
    name: Option<String>,
}

fn whose(cx: &mut Cx<'_>, external: Option<&At<Flag>>, name: Option<&At<Word>>, path: Path<'_>) -> Whose {
    let name = name.and_then(|name| checked(cx, name, path.key("name"), check_name));
    Whose { external: external.is_some_and(|flag| flag.value.0), name }
}

/// Its name in the engine: `<name>-<key>`, as a container's; of somebody else's, the key itself.
fn engine_name(owner: Option<&Name>, key: &str, whose: &Whose) -> String {
    match (&whose.name, whose.external, owner) {
        (Some(name), ..) => name.clone(),
        (None, false, Some(owner)) => format!("{owner}-{key}"),
        (None, ..) => key.to_owned(),
    }
}

/// The names that Podman gives volumes and networks (4.3 to 5).
fn check_name(name: &str) -> Result<String, String> {
    let fine = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && name.len() <= 200;
    fine.then(|| name.to_owned()).ok_or_else(|| {
        format!("`{name}` is not a name: letters, digits, `_`, `.` and `-`, beginning with a letter or digit")
    })
}

fn check_key<T>(cx: &mut Cx<'_>, entry: &Entry<T>, path: Path<'_>) -> bool {
    match check_name(&entry.name) {
        Ok(_) => true,
        Err(message) => {
            cx.wrong(entry.key, path, message);
            false
        }
    }
}

/// What is somebody else's is as it is.
fn no_more(cx: &mut Cx<'_>, path: Path<'_>, there: &[(&str, Option<super::tree::NodeId>)]) {
    for (field, node) in there {
        if let Some(node) = node {
            let message = "it is `external`, so somebody else's, and is left as it is";
            cx.wrong_help(*node, path.key(field), message, format!("leave `{field}` out, or `external`"));
        }
    }
}

fn labels(cx: &mut Cx<'_>, pairs: Option<At<Pairs>>, path: Path<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in pairs.map(|pairs| pairs.value.0.0).unwrap_or_default() {
        if entry.name.is_empty() || entry.name.starts_with(labels::PREFIX) {
            cx.wrong(
                entry.key,
                path.key(&entry.name),
                "labels have a name, and those that begin with `steadfast.` are ours",
            );
        } else {
            found.insert(entry.name, entry.at.value.0.value);
        }
    }
    found
}

pub(super) fn volumes(
    cx: &mut Cx<'_>,
    owner: Option<&Name>,
    table: Option<At<Table<VolumeDoc>>>,
    path: Path<'_>,
) -> Shared<VolumeSpec> {
    let mut shared = Shared::default();
    for mut entry in table.map(|table| table.value.0).unwrap_or_default() {
        let path = path.key(&entry.name);
        let VolumeDoc { external, name, labels, driver, options } = std::mem::take(&mut entry.at.value);
        let whose = whose(cx, external.as_ref(), name.as_ref(), path);
        if whose.external {
            let there = [
                ("labels", labels.as_ref().map(|at| at.node)),
                ("driver", driver.as_ref().map(|at| at.node)),
                ("options", options.as_ref().map(|at| at.node)),
            ];
            no_more(cx, path, &there);
        }
        let spec = VolumeSpec {
            key: entry.name.clone(),
            external: whose.external,
            labels: self::labels(cx, labels, path.key("labels")),
            driver: driver.and_then(|driver| checked(cx, &driver, path.key("driver"), check_name)),
            options: options
                .map(|pairs| pairs.value.0.0)
                .unwrap_or_default()
                .into_iter()
                .map(|option| (option.name, option.at.value.0.value))
                .collect(),
        };
        if check_key(cx, &entry, path) {
            let name = engine_name(owner, &entry.name, &whose);
            shared.insert(cx, (&entry, path), name, spec);
        }
    }
    shared
}

pub(super) fn networks(
    cx: &mut Cx<'_>,
    owner: Option<&Name>,
    table: Option<At<Table<NetworkDoc>>>,
    path: Path<'_>,
) -> Shared<NetworkSpec> {
    let mut shared = Shared::default();
    for mut entry in table.map(|table| table.value.0).unwrap_or_default() {
        let path = path.key(&entry.name);
        let NetworkDoc { external, name, labels, internal, subnet, ipv6, dns } = std::mem::take(&mut entry.at.value);
        if ["none", "host"].contains(&entry.name.as_str()) {
            cx.wrong(
                entry.key,
                path,
                format!("`{}` is a word of its own in `networks`: call it otherwise", entry.name),
            );
        }
        let whose = whose(cx, external.as_ref(), name.as_ref(), path);
        if whose.external {
            let there = [
                ("labels", labels.as_ref().map(|at| at.node)),
                ("internal", internal.as_ref().map(|at| at.node)),
                ("subnet", subnet.as_ref().map(|at| at.node)),
                ("ipv6", ipv6.as_ref().map(|at| at.node)),
                ("dns", dns.as_ref().map(|at| at.node)),
            ];
            no_more(cx, path, &there);
        }
        let spec = NetworkSpec {
            key: entry.name.clone(),
            external: whose.external,
            labels: self::labels(cx, labels, path.key("labels")),
            internal: internal.is_some_and(|flag| flag.value.0),
            subnet: subnet
                .filter(|at| !is_null(cx.tree, at.node))
                .and_then(|subnet| checked(cx, &subnet, path.key("subnet"), check_subnet)),
            ipv6: ipv6.is_some_and(|flag| flag.value.0),
            dns: dns.is_none_or(|flag| flag.value.0),
        };
        if check_key(cx, &entry, path) {
            let name = engine_name(owner, &entry.name, &whose);
            shared.insert(cx, (&entry, path), name, spec);
        }
    }
    shared
}

/// `ADDRESS/BITS`, with nothing behind those bits, so that it is written in one way.
fn check_subnet(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not a subnet, like 10.90.0.0/24");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let (address, bits) = (address.parse::<IpAddr>().map_err(|_| wrong())?, bits.parse::<u32>().map_err(|_| wrong())?);
    let (value, width) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    if bits > width - 2 || bits == 0 {
        return Err(wrong());
    }
    let rest = u128::MAX.checked_shr(128 - (width - bits)).unwrap_or_default();
    match value & rest {
        0 => Ok(format!("{address}/{bits}")),
        _ => {
            let value = value & !rest;
            let network = match address {
                IpAddr::V4(_) => IpAddr::V4(u32::try_from(value).unwrap_or_default().into()),
                IpAddr::V6(_) => IpAddr::V6(value.into()),
            };
            Err(format!("`{text}` is an address in the subnet {network}/{bits}: write that"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_subnet;

    #[test]
    fn a_subnet_is_written_in_one_way() {
        assert_eq!(check_subnet("10.90.0.0/24").unwrap(), "10.90.0.0/24");
        assert_eq!(check_subnet("fd00:0::/64").unwrap(), "fd00::/64");
        assert!(check_subnet("10.90.0.7/24").unwrap_err().contains("in the subnet 10.90.0.0/24"));
        for wrong in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/31", "0.0.0.0/0", "a/8", "10.0.0/8"] {
            assert!(check_subnet(wrong).is_err(), "{wrong}");
        }
    }
}
