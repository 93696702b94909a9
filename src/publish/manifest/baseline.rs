//! The manifest that a slice is merged into: read in its order, and kept to the letter.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::PublishError;
use crate::model::ManifestError;
use crate::model::ids::clean;
use crate::model::manifest::{MANIFEST_SCHEMA_VERSION, MAX_MANIFEST_BYTES};

/// A manifest of which a part is recreated: what stands in it is kept as it stands there.
pub(super) struct Baseline {
    /// What is beside `schemaVersion`, `updatedAt` and `agents`.
    pub more: Vec<(String, Box<RawValue>)>,
    /// By name, each as it stands there.
    pub agents: Vec<(String, Box<RawValue>)>,
}

/// An object with its fields in their order, each as it stands there.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, Box<RawValue>>()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl Baseline {
    /// What schema 1 had and nobody reads any more.
    const DROPPED: [&str; 2] = ["vmVersion", "vmDisk"];

    pub(super) fn parse(at: &str, bytes: &[u8]) -> Result<Self, PublishError> {
        let wrong = |why: String| PublishError::Baseline { at: at.to_owned(), why: clean(&why, 300) };
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(wrong(ManifestError::TooLarge.to_string()));
        }
        let Fields(fields) = serde_json::from_slice(bytes).map_err(|err| wrong(err.to_string()))?;
        let mut baseline = Self { more: Vec::new(), agents: Vec::new() };
        let (mut version, mut has_agents) = (None, false);
        for (name, value) in fields {
            match name.as_str() {
                "schemaVersion" => version = Some(value.get().to_owned()),
                "updatedAt" => {}
                "agents" => {
                    let Fields(agents) =
                        serde_json::from_str(value.get()).map_err(|err| wrong(format!("agents: {err}")))?;
                    // Where a name stands twice, a reader of JSON takes the last.
                    let last: BTreeMap<_, _> =
                        agents.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
                    let kept = agents.into_iter().enumerate().filter(|(at, (name, _))| last[name] == *at);
                    baseline.agents = kept.map(|(_, agent)| agent).collect();
                    has_agents = true;
                }
                name if Self::DROPPED.contains(&name) => {}
                _ => baseline.more.push((name, value)),
            }
        }
        match version.as_deref() {
            Some("1" | "2") if has_agents => Ok(baseline),
            Some("1" | "2") => Err(wrong("it has no agents".to_owned())),
            Some(other) => {
                Err(wrong(format!("it has schemaVersion {other}; 1 and {MANIFEST_SCHEMA_VERSION} are read")))
            }
            None => Err(wrong("it has no schemaVersion".to_owned())),
        }
    }
}
