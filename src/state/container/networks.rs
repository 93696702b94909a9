//! How a container is on the network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Ports, Surroundings};
use crate::model::spec::{self, Attachment, NetworkMode};
use crate::state::decode::{At, Cx, Path, cut, near};
use crate::state::document::{AttachmentDoc, NetworksEntry, OneOrMany};
use crate::state::ports;
use crate::state::resolve::{HasStr, checked};
use crate::state::scalar::Word;

/// The fields that say how a container is on the network.
pub(super) struct Networking {
    pub(super) hostname: Option<At<Word>>,
    pub(super) domainname: Option<At<Word>>,
    pub(super) dns: Option<At<OneOrMany<Word>>>,
    pub(super) networks: Option<At<NetworksEntry>>,
}

/// The top-level network that agents are on which name none.
const DEFAULT: &str = "default";

impl Networking {
    pub(super) fn resolve(
        self,
        cx: &mut Cx<'_>,
        around: &Surroundings<'_>,
        published: &Ports,
        path: Path<'_>,
    ) -> spec::Networking {
        let Self { hostname, domainname, dns, networks } = self;
        let host = hostname.as_ref().and_then(|name| checked(cx, name, path.key("hostname"), check_hostname));
        let domain = domainname.as_ref().and_then(|name| checked(cx, name, path.key("domainname"), check_hostname));
        if let Some(domainname) = domainname.as_ref().filter(|_| hostname.is_none()) {
            let message = "a `domainname` needs a `hostname` to stand before it";
            cx.wrong_help(domainname.node, path.key("domainname"), message, "write `hostname` as well");
        }
        let hostname = match (host, domain) {
            (Some(host), Some(domain)) => Some(format!("{host}.{domain}")),
            (host, _) => host,
        };
        let dns_path = path.key("dns");
        let dns = dns.map(|dns| dns.value.0.0).unwrap_or_default();
        let dns = dns.iter().filter_map(|(index, server)| checked(cx, server, dns_path.index(*index), check_address));
        let dns: Vec<_> = dns.collect();
        let mode = match networks {
            None => usual(around),
            Some(At { node, value }) => mode(cx, around, At { node, value }, path.key("networks")),
        };
        if let Some((index, port)) = published.first()
            && matches!(mode, NetworkMode::Host | NetworkMode::None)
        {
            let (word, why) = match mode {
                NetworkMode::Host => ("host", "its ports are those of Podman's machine already"),
                _ => ("none", "nothing reaches it"),
            };
            let ports = path.key("ports");
            let message = format!("with `networks: {word}` no port can be published: {why}");
            cx.wrong_help(port.node, ports.index(*index), message, "leave the `ports` out, or take another network");
        }
        spec::Networking { hostname, dns, mode }
    }
}

/// Where a container is that says nothing about it.
fn usual(around: &Surroundings<'_>) -> NetworkMode {
    match around.networks.get(DEFAULT) {
        Some(name) => NetworkMode::Networks(BTreeMap::from([(name.clone(), attachment(around, None, None))])),
        None => NetworkMode::Usual,
    }
}

/// On each network an agent is found by its own name.
fn attachment(around: &Surroundings<'_>, aliases: Option<Vec<String>>, ip: Option<IpAddr>) -> Attachment {
    let mut all = vec![around.agent.to_owned()];
    for alias in aliases.into_iter().flatten() {
        if !all.contains(&alias) {
            all.push(alias);
        }
    }
    Attachment { aliases: all, ip }
}

fn mode(cx: &mut Cx<'_>, around: &Surroundings<'_>, entry: At<NetworksEntry>, path: Path<'_>) -> NetworkMode {
    let mut networks = BTreeMap::new();
    match entry.value {
        NetworksEntry::Word(word) => {
            let at = At { node: entry.node, value: word };
            let word = |word: &str| match word {
                "none" => Ok(NetworkMode::None),
                "host" => Ok(NetworkMode::Host),
                _ => Err(format!(
                    "expected `none`, `host`, or a list of networks like `[{}]`, found `{}`",
                    cut(word),
                    cut(word)
                )),
            };
            return checked(cx, &at, path, word).unwrap_or_default();
        }
        NetworksEntry::Names(list) => {
            if list.0.is_empty() && matches!(cx.tree.view(entry.node), crate::state::tree::View::List([])) {
                let help = "write `none` for no network, or leave the field out";
                cx.wrong_help(entry.node, path, "a list of networks names at least one", help);
            }
            for (index, name) in list.0 {
                let Some(known) = named(cx, around, &name, path.index(index)) else { continue };
                if networks.insert(known, attachment(around, None, None)).is_some() {
                    cx.wrong(name.node, path.index(index), "this network stands in the list twice");
                }
            }
        }
        NetworksEntry::Attached(table) => {
            for entry in table.0 {
                let path = path.key(&entry.name);
                let value = Word(crate::state::scalar::Str { value: entry.name.clone(), from_env: false });
                let Some(known) = named(cx, around, &At { node: entry.key, value }, path) else { continue };
                let AttachmentDoc { aliases, ip } = entry.at.value;
                let aliases_path = path.key("aliases");
                let aliases = aliases.map(|list| list.value.0).unwrap_or_default();
                let aliases = aliases
                    .iter()
                    .filter_map(|(index, alias)| checked(cx, alias, aliases_path.index(*index), check_hostname))
                    .collect();
                let ip = ip.and_then(|ip| checked(cx, &ip, path.key("ip"), check_address));
                networks.insert(known, attachment(around, Some(aliases), ip));
            }
        }
    }
    if networks.is_empty() { NetworkMode::Usual } else { NetworkMode::Networks(networks) }
}

/// The engine's name of one of the top-level networks.
fn named(cx: &mut Cx<'_>, around: &Surroundings<'_>, at: &At<Word>, path: Path<'_>) -> Option<String> {
    let name = at.value.str().value.as_str();
    if let Some(known) = around.networks.get(name) {
        return Some(known.clone());
    }
    let shown = cut(cx.tree.text(at.node)).into_owned();
    let help = match (name, near(name, around.networks.keys().map(String::as_str))) {
        ("none" | "host", _) => format!("write `networks: {name}`, without a list"),
        (_, Some(near)) => format!("did you mean `{near}`?"),
        (_, None) => format!("write `networks: {{{shown}: {{}}}}` at the top of the file"),
    };
    cx.wrong_help(at.node, path, format!("there is no network `{shown}` among the top-level `networks`"), help);
    None
}

/// A host's name (RFC 1123), of one label or several.
fn check_hostname(name: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(name.to_owned()),
        false => Err(format!("`{name}` is not a host's name: letters, digits and `-`, parted by dots")),
    }
}

fn check_address(text: &str) -> Result<IpAddr, String> {
    ports::ip(text)?.parse().map_err(|_| format!("`{text}` is not an IP address"))
}

pub(super) fn check_host(line: &str) -> Result<(), String> {
    let wrong = || format!("`{line}` is not `host:address`, like \"db.internal:10.0.0.5\"");
    let (host, address) = line.split_once(':').ok_or_else(wrong)?;
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    if address == "host-gateway" || ports::ip(address).is_ok() {
        return Ok(());
    }
    Err(format!("`{line}` is not `host:address`: the address must be an IP address or `host-gateway`"))
}
