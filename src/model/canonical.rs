//! The canonical form of a container spec: the record, kept in a label, that later observations compare against.
//!
//! Drift is found by comparing what is wanted with what that label says was wanted, field by field and by meaning. What
//! Podman reports of a live container is rewritten too much (added variables, rewritten binds, expanded capabilities)
//! to be compared instead (Podman 4.3); it is consulted only where a label cannot be read any more.

mod session;
mod settings;

pub use session::CanonicalSession;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hashing::hex;
use super::ids::{ImageRef, Sha256Digest};
use super::observed::Live;
use super::redact::HIDDEN;
use super::spec::{ContainerSpec, HealthCheck, NO_CHECK, Port};
use super::text::Text;

/// The version of [`CanonicalSpec`] that this build writes into `steadfast.spec-version`.
pub const SPEC_VERSION: u32 = 2;

/// The host's own key for hashing sensitive values, from `<root>/state/key`.
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey([u8; 32]);

impl HostKey {
    /// From its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, for writing the key file.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Eight hex digits that tell keys apart and give nothing of the key away.
    pub fn id(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(b"steadfast key id\0");
        hasher.update(self.0);
        hex(&hasher.finalize()[..4])
    }

    /// 32 hex digits: HMAC-SHA256 (RFC 2104) of the value under the field it stands in, cut to 16 bytes.
    fn fingerprint(&self, field: &str, value: &str) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("HMAC takes any key length"));
        mac.update(field.as_bytes());
        mac.update(&[0]);
        mac.update(value.as_bytes());
        hex(&mac.finalize().into_bytes()[..16])
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey(#{})", self.id())
    }
}

/// One value of a canonical spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Leaf {
    Plain(String),
    Sensitive { hmac: String },
    List(Vec<Leaf>),
}

/// What a container was created to be, as its `steadfast.spec` label keeps it: field by field, sensitive values as
/// keyed hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanonicalSpec {
    fields: BTreeMap<String, Leaf>,
    /// [`HostKey::id`] of the key the hashes were made with.
    key: String,
    /// The tarball its image came from, when it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Sha256Digest>,
}

/// A field in which two specs differ, in words that may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Path in the agent, e.g. `container.env.TOKEN`.
    pub field: String,
    /// The value now; `None` when the field is not set.
    pub from: Option<String>,
    /// The value wanted; `None` when the field goes.
    pub to: Option<String>,
}

impl CanonicalSpec {
    /// The canonical form of a spec with its image.
    pub fn new(spec: &ContainerSpec, image: &ImageRef, artifact: Option<Sha256Digest>, key: &HostKey) -> Self {
        let fields = wanted_fields(spec, image, key)
            .into_iter()
            .map(|(field, Wanted { value, .. })| {
                let leaf = value.leaf(&field, key);
                (field, leaf)
            })
            .collect();
        Self { fields, key: key.id(), artifact }
    }

    /// The JSON of the label.
    pub fn to_label(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| unreachable!("maps with string keys always serialise"))
    }

    /// Reads a label. `None` when it is not one of ours.
    pub fn from_label(label: &str) -> Option<Self> {
        serde_json::from_str(label).ok()
    }

    /// Whether the sensitive values in it can be compared with `key`. When not, [`CanonicalSpec::changes`] wants to
    /// see the live values.
    pub fn readable_with(&self, key: &HostKey) -> bool {
        let hashed = |(field, leaf): (&String, &Leaf)| leaf.has_hash() || field.starts_with(HIDDEN_MOUNT);
        self.key == key.id() || !self.fields.iter().any(hashed)
    }

    /// Whether it was made with this key, whatever is hashed in it.
    pub fn is_hashed_with(&self, key: &HostKey) -> bool {
        self.key == key.id()
    }

    /// Whether it was to be restarted so many times at most.
    pub fn limits_restarts(&self) -> bool {
        matches!(self.fields.get("container.restart"), Some(Leaf::Plain(policy)) if policy.contains(':'))
    }

    /// The image reference it was created with.
    pub fn image(&self) -> Option<&str> {
        match self.fields.get("image") {
            Some(Leaf::Plain(image)) => Some(image),
            _ => None,
        }
    }

    /// The fields in which the wanted spec differs from this one, sorted by field.
    ///
    /// Values are compared by meaning: a value that became sensitive, or ceased to be, without changing is no
    /// difference. Hashes under a lost key are compared with `live`; without it they count as equal. Fields this build
    /// does not know are ignored when a newer build wrote them (`version` greater than [`SPEC_VERSION`]).
    pub fn changes(
        &self,
        version: u32,
        spec: &ContainerSpec,
        image: &ImageRef,
        key: &HostKey,
        live: Option<&Live>,
    ) -> Vec<FieldChange> {
        let wanted = wanted_fields(spec, image, key);
        let same_key = self.key == key.id();
        let mut changes = Vec::new();
        let mut known = BTreeSet::new();
        for (field, Wanted { value, other_name }) in &wanted {
            // It may have been kept under its other name, when its target was shown and is hidden now, or was and is not.
            let name =
                [Some(field), other_name.as_ref()].into_iter().flatten().find(|name| self.fields.contains_key(*name));
            let kept = name.and_then(|name| self.fields.get(name));
            let live = || live.and_then(|live| live.field(plain_name(field, other_name)));
            let same = match (name, kept) {
                (Some(name), Some(kept)) if same_key || !kept.has_hash() => value.matches(name, kept, key),
                (_, Some(_)) => live().is_none_or(|now| value.is(&now)),
                // Its name was hashed under a key that is lost.
                (_, None) if !same_key && field.starts_with(HIDDEN_MOUNT) => live().is_none_or(|now| value.is(&now)),
                (_, None) => false,
            };
            known.extend(name);
            if !same {
                let to = value.leaf(field, key);
                // What is a secret now was one before, even where it stood in clear.
                let hidden = to.has_hash() || kept.is_some_and(Leaf::has_hash);
                let shown = |leaf: &Leaf| if hidden { leaf.hidden() } else { leaf.shown() };
                changes.push(FieldChange { field: shown_name(field), from: kept.map(shown), to: Some(shown(&to)) });
            }
        }
        let hides_targets = spec.mounts.iter().any(|mount| mount.target.is_sensitive());
        for (field, kept) in &self.fields {
            let lost = !same_key && field.starts_with(HIDDEN_MOUNT);
            if !known.contains(field) && !lost && (version <= SPEC_VERSION || known_field(field)) {
                // A target that goes where another is hidden was to be hidden as well.
                let target = field.strip_prefix(MOUNT).and_then(|target| target.strip_suffix(']'));
                let field = match target.filter(|_| hides_targets && !field.starts_with(HIDDEN_MOUNT)) {
                    Some(target) => shown_name(&hidden_mount(target, key)),
                    None => shown_name(field),
                };
                changes.push(FieldChange { field, from: Some(kept.shown()), to: None });
            }
        }
        changes.sort_by(|a, b| a.field.cmp(&b.field));
        changes
    }
}

impl Leaf {
    fn has_hash(&self) -> bool {
        match self {
            Leaf::Plain(_) => false,
            Leaf::Sensitive { .. } => true,
            Leaf::List(leaves) => leaves.iter().any(Leaf::has_hash),
        }
    }

    /// Like [`Leaf::shown`], with what could be shown hidden as well.
    fn hidden(&self) -> String {
        match self {
            Leaf::Plain(_) => HIDDEN.to_owned(),
            Leaf::Sensitive { .. } => self.shown(),
            Leaf::List(leaves) => format!("[{}]", leaves.iter().map(Leaf::hidden).collect::<Vec<_>>().join(", ")),
        }
    }

    fn shown(&self) -> String {
        match self {
            Leaf::Plain(text) => text.clone(),
            Leaf::Sensitive { hmac } => format!("{HIDDEN} #{}", hmac.get(..4).unwrap_or(hmac)),
            Leaf::List(leaves) => format!("[{}]", leaves.iter().map(Leaf::shown).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// A wanted value, before it is hashed.
enum Value {
    One(Text),
    Many(Vec<Text>),
}

impl Value {
    fn plain(text: impl Into<String>) -> Self {
        Value::One(Text::plain(text))
    }

    fn leaf(&self, field: &str, key: &HostKey) -> Leaf {
        let one = |text: &Text| match text.is_sensitive() {
            true => Leaf::Sensitive { hmac: key.fingerprint(field, text.expose()) },
            false => Leaf::Plain(text.expose().to_owned()),
        };
        match self {
            Value::One(text) => one(text),
            Value::Many(texts) => Leaf::List(texts.iter().map(one).collect()),
        }
    }

    fn matches(&self, field: &str, leaf: &Leaf, key: &HostKey) -> bool {
        let one = |text: &Text, leaf: &Leaf| match leaf {
            Leaf::Plain(kept) => kept == text.expose(),
            Leaf::Sensitive { hmac } => *hmac == key.fingerprint(field, text.expose()),
            Leaf::List(_) => false,
        };
        match (self, leaf) {
            (Value::Many(texts), Leaf::List(leaves)) => {
                texts.len() == leaves.len() && texts.iter().zip(leaves).all(|(text, leaf)| one(text, leaf))
            }
            (Value::Many(_), _) => false,
            (Value::One(text), leaf) => one(text, leaf),
        }
    }

    fn is(&self, now: &[String]) -> bool {
        match self {
            Value::One(text) => now.len() == 1 && now[0] == text.expose(),
            Value::Many(texts) => texts.iter().map(Text::expose).eq(now.iter().map(String::as_str)),
        }
    }
}

/// Whether this build records such a field.
fn known_field(field: &str) -> bool {
    const EXACT: [&str; 6] = [
        "image",
        "container.entrypoint",
        "container.command",
        "container.ports",
        "container.restart",
        "container.addHosts",
    ];
    const BEGINNINGS: [&str; 4] =
        ["container.env.", "container.labels.", "container.mounts[", "container.healthcheck."];
    EXACT.contains(&field) || BEGINNINGS.iter().any(|start| field.starts_with(start)) || settings::is_one(field)
}

/// What a mount's field begins with, before its target.
const MOUNT: &str = "container.mounts[";
/// What a field's name begins with where the target of a mount must not be shown: then a keyed hash stands for it.
const HIDDEN_MOUNT: &str = "container.mounts[(sensitive) #";

/// A wanted value, and what else its field may be called.
struct Wanted {
    value: Value,
    /// A mount is known by its target, in clear or as a hash.
    other_name: Option<String>,
}

fn hidden_mount(target: &str, key: &HostKey) -> String {
    format!("{HIDDEN_MOUNT}{}]", key.fingerprint("container.mounts", target))
}

/// The field's name with the target of a mount in clear, as a live container tells it.
fn plain_name<'f>(field: &'f str, other_name: &'f Option<String>) -> &'f str {
    match other_name {
        Some(other) if field.starts_with(HIDDEN_MOUNT) => other,
        _ => field,
    }
}

/// The field's name as it may be shown: of a hash, what is enough to tell two apart.
fn shown_name(field: &str) -> String {
    match field.strip_prefix(HIDDEN_MOUNT) {
        Some(hash) => format!("{HIDDEN_MOUNT}{}]", hash.get(..4).unwrap_or(hash)),
        None => field.to_owned(),
    }
}

/// What is wanted, field by field. Each name also stands in [`known_field`].
fn wanted_fields(spec: &ContainerSpec, image: &ImageRef, key: &HostKey) -> BTreeMap<String, Wanted> {
    let ContainerSpec {
        // A replacement changes it, and so does a step of its own.
        name: _,
        entrypoint,
        command,
        env,
        labels,
        mounts,
        ports,
        hidden_ports,
        restart,
        add_hosts,
        healthcheck,
        no_healthcheck,
        process,
        network,
        resources,
        security,
        logging,
    } = spec;
    let mut fields = BTreeMap::new();
    let mut put = |field: String, value| fields.insert(field, Wanted { value, other_name: None });
    put("image".to_owned(), Value::plain(image.as_str()));
    put("container.restart".to_owned(), Value::plain(restart.to_string()));
    if let Some(entrypoint) = entrypoint {
        put("container.entrypoint".to_owned(), Value::Many(entrypoint.clone()));
    }
    for (label, value) in labels {
        put(format!("container.labels.{label}"), Value::One(value.clone()));
    }
    for (field, value) in settings::fields(process, network, resources, security, logging) {
        put(field, value);
    }
    if let Some(command) = command {
        put("container.command".to_owned(), Value::Many(command.clone()));
    }
    for (variable, value) in env {
        put(format!("container.env.{variable}"), Value::One(value.clone()));
    }
    if !ports.is_empty() {
        let shown = |port: &Port| match hidden_ports.contains(port) {
            true => Text::sensitive(port.to_string()),
            false => Text::plain(port.to_string()),
        };
        let mut ports: Vec<_> = ports.iter().map(shown).collect();
        ports.sort();
        put("container.ports".to_owned(), Value::Many(ports));
    }
    if !add_hosts.is_empty() {
        let mut hosts = add_hosts.clone();
        hosts.sort();
        put("container.addHosts".to_owned(), Value::Many(hosts));
    }
    if *no_healthcheck {
        put("container.healthcheck.test".to_owned(), Value::Many(vec![Text::plain(NO_CHECK)]));
    }
    if let Some(HealthCheck { test, interval, timeout, retries, start_period, start_interval: _, on_failure: _ }) =
        healthcheck
    {
        // When steadfast runs it, and what it then does, are no properties of the container.
        let time = |time: &Duration| Value::plain(humantime::format_duration(*time).to_string());
        put("container.healthcheck.test".to_owned(), Value::Many(test.words()));
        put("container.healthcheck.interval".to_owned(), time(interval));
        put("container.healthcheck.timeout".to_owned(), time(timeout));
        put("container.healthcheck.retries".to_owned(), Value::plain(retries.to_string()));
        put("container.healthcheck.startPeriod".to_owned(), time(start_period));
    }
    for mount in mounts {
        let (target, value) = (&mount.target, Value::One(mount.kept()));
        let (plain, hashed) = (format!("{MOUNT}{}]", target.expose()), hidden_mount(target.expose(), key));
        let (field, other) = if target.is_sensitive() { (hashed, plain) } else { (plain, hashed) };
        fields.insert(field, Wanted { value, other_name: Some(other) });
    }
    fields
}

#[cfg(test)]
mod tests;
