//! The text of a manifest: fields in the published order, what is kept as it stands.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Baseline, Tarball};
use crate::model::manifest::MANIFEST_SCHEMA_VERSION;
use crate::publish::bundle::{Bundle, BundleAgent};
use crate::publish::dist::Hashed;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    image: &'a str,
    version: &'a str,
    tarballs: InOrder<TarballEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TarballEntry {
    key: String,
    sha256: String,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Layers>,
}

/// Where the tarball's members are listed.
#[derive(Serialize)]
struct Layers {
    key: String,
    sha256: String,
}

/// A value that is recreated, or one that stands as it stood.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Number(u64),
    Text(String),
    Agent(Entry<'a>),
    Kept(Box<RawValue>),
    Agents(InOrder<Part<'a>>),
}

/// An object with its fields in this order.
struct InOrder<T>(Vec<(String, T)>);

impl<T: Serialize> Serialize for InOrder<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The text of a manifest.
pub(super) fn document(
    bundle: &Bundle,
    made: &[(BundleAgent, Vec<Tarball>)],
    baseline: Option<Baseline>,
    written_at: SystemTime,
) -> Vec<u8> {
    let Baseline { more, agents: kept } = baseline.unwrap_or(Baseline { more: Vec::new(), agents: Vec::new() });
    let mut agents: BTreeMap<String, Part<'_>> =
        kept.iter().map(|(name, value)| (name.clone(), Part::Kept(value.clone()))).collect();
    agents.extend(made.iter().map(|(agent, tarballs)| (agent.name.to_string(), Part::Agent(entry(agent, tarballs)))));
    // In the bundle's order; what only the baseline has follows in its own.
    let order = bundle.agents.iter().map(|agent| agent.name.to_string()).chain(kept.into_iter().map(|(name, _)| name));
    let agents = order.filter_map(|name| agents.remove(&name).map(|part| (name, part))).collect();
    let mut fields = vec![
        ("schemaVersion".to_owned(), Part::Number(MANIFEST_SCHEMA_VERSION)),
        ("updatedAt".to_owned(), Part::Text(crate::time::rfc3339_millis(written_at))),
        ("agents".to_owned(), Part::Agents(InOrder(agents))),
    ];
    fields.extend(more.into_iter().map(|(name, value)| (name, Part::Kept(value))));
    let text = serde_json::to_string(&InOrder(fields)).expect("values that serialize");
    pretty(&text)
}

fn entry<'a>(agent: &'a BundleAgent, tarballs: &[Tarball]) -> Entry<'a> {
    let entry = |tarball: &Tarball| {
        let Hashed { layers, sha256, size_bytes } = tarball.hashed;
        let layers = tarball.layers_key().zip(layers);
        let layers = layers.map(|(key, sha256)| Layers { key, sha256: sha256.to_string() });
        let entry = TarballEntry { key: tarball.key.to_string(), sha256: sha256.to_string(), size_bytes, layers };
        (tarball.arch.to_string(), entry)
    };
    Entry { image: &agent.image, version: &agent.version, tarballs: InOrder(tarballs.iter().map(entry).collect()) }
}

/// Indented by two spaces, token by token: numbers and strings stay as they are written, which no parser promises.
fn pretty(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 3 / 2);
    let (mut depth, mut is_fresh, mut is_string, mut is_escaped) = (0, false, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * depth));
    };
    for byte in text.bytes() {
        if is_string {
            is_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            out.push(byte);
            continue;
        }
        let is_end = matches!(byte, b'}' | b']');
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ if is_end => depth -= 1,
            _ => {}
        }
        // Nothing stands between the brackets of what is empty.
        if is_fresh != is_end {
            line(&mut out, depth);
        }
        is_fresh = false;
        out.push(byte);
        match byte {
            b'{' | b'[' => {
                depth += 1;
                is_fresh = true;
            }
            b',' => line(&mut out, depth),
            b':' => out.push(b' '),
            _ => is_string = byte == b'"',
        }
    }
    out.push(b'\n');
    out
}
