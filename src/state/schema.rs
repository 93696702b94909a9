//! The JSON Schemas (draft 2020-12) that editors complete and explain with.
//!
//! The state file's is made from the types that decode it. The manifest's is made here, since its reader is lenient on
//! purpose and a publisher should not be.

mod layered;

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use super::document::StateDoc;
use super::record::Record;

/// The schema of a state file.
pub fn schema() -> Value {
    let mut schema = generate::<StateDoc>();
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("title".into(), "steadfast state file".into());
    }
    layered::relax(&mut schema);
    schema
}

/// The schema of a manifest, version 2.
pub fn manifest_schema() -> Value {
    let mut schema = generate::<ManifestDoc>();
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("title".into(), "steadfast manifest".into());
    }
    schema
}

pub(crate) fn generate<T: JsonSchema>() -> Value {
    let mut schema = SchemaGenerator::new(SchemaSettings::draft2020_12()).into_root_schema_for::<T>().to_value();
    unwrap_lines(&mut schema);
    schema
}

/// Doc comments are wrapped where the source is; editors wrap by themselves.
fn unwrap_lines(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "description" => *text = text.replace('\n', " "),
                    value => unwrap_lines(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(unwrap_lines),
        _ => {}
    }
}

/// Makes a record's schema say what its decoder does: which fields are required, and that only a mapping or list may be
/// left blank.
pub(super) fn tidy_record<R: Record>(schema: &mut Schema) {
    let required: Vec<Value> = R::REQUIRED.iter().filter(|key| !key.is_empty()).map(|key| Value::from(*key)).collect();
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (key, property) in properties.into_iter().flatten() {
        forbid_blank(property, R::REQUIRED.contains(&key.as_str()));
    }
}

fn forbid_blank(property: &mut Value, required: bool) {
    let Some(fields) = property.as_object_mut() else { return };
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        if !types.iter().any(|word| word == "array" || word == "object") {
            types.retain(|word| word != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                fields.insert("type".into(), only);
            }
        }
        return;
    }
    let Some(Value::Array(forms)) = fields.get_mut("anyOf") else { return };
    let record = forms.len() == 2 && forms.iter().any(|form| form.get("$ref").is_some());
    if record && !required {
        return;
    }
    forms.retain(|form| form.get("type").and_then(Value::as_str) != Some("null"));
    if let [Value::Object(only)] = forms.as_slice() {
        let only = only.clone();
        fields.remove("anyOf");
        for (key, value) in only {
            fields.entry(key).or_insert(value);
        }
    }
}

/// The published list of agents, versions and image tarballs. Fields that are not listed here are kept and ignored.
#[derive(JsonSchema)]
#[schemars(rename = "Manifest", rename_all = "camelCase")]
#[allow(dead_code, reason = "only its schema is used")]
struct ManifestDoc {
    /// The version of this format.
    #[schemars(extend("const" = 2, "examples" = [2]))]
    schema_version: u64,
    /// When it was written, in RFC 3339.
    #[schemars(extend("examples" = ["2026-04-24T00:00:00.000Z"]))]
    updated_at: String,
    /// The agents by name.
    #[schemars(extend("examples" = [{}]))]
    agents: BTreeMap<String, ManifestAgentDoc>,
}

/// One agent on offer.
#[derive(JsonSchema)]
#[schemars(rename = "ManifestAgent")]
#[allow(dead_code, reason = "only its schema is used")]
struct ManifestAgentDoc {
    /// The image's repository, without tag.
    #[schemars(extend("examples" = ["ghcr.io/openclaw/openclaw"]))]
    image: String,
    /// The version on offer; with `image` it makes the image reference.
    #[schemars(extend("examples" = ["2026.4.12"]))]
    version: String,
    /// The image tarballs by architecture (`arm64`, `x64`).
    #[schemars(extend("examples" = [{}]))]
    tarballs: BTreeMap<String, TarballDoc>,
}

/// One image tarball: a docker-archive, plain or compressed with gzip or zstd.
#[derive(JsonSchema)]
#[schemars(rename = "Tarball", rename_all = "camelCase")]
#[allow(dead_code, reason = "only its schema is used")]
struct TarballDoc {
    /// Where it lies beside the manifest and in the cache: a plain relative path below `vm/`.
    #[schemars(extend("pattern" = r"^vm/[^\\]+$", "examples" = ["vm/images/openclaw-2026.4.12-arm64.tar.gz"]))]
    key: String,
    /// What its bytes hash to: 64 hex digits.
    #[schemars(extend(
        "pattern" = "^[0-9a-fA-F]{64}$",
        "examples" = ["000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"]
    ))]
    sha256: String,
    /// Its length in bytes.
    #[schemars(extend("examples" = [16]))]
    size_bytes: u64,
    /// Where its gzip members are listed, so that who has some of them already fetches only the others. Optional; one that is
    /// wrong costs a whole download.
    layers: Option<LayersDoc>,
}

/// The list of a tarball's members: a JSON list of `{"sha256", "offset", "length"}`, which together are the tarball.
#[derive(JsonSchema)]
#[schemars(rename = "Layers")]
#[allow(dead_code, reason = "only its schema is used")]
struct LayersDoc {
    /// Where it lies beside the manifest: a plain relative path below `vm/`.
    #[schemars(extend("pattern" = r"^vm/[^\\]+$", "examples" = ["vm/images/openclaw-2026.4.12-arm64.tar.gz.layers.json"]))]
    key: String,
    /// What its bytes hash to: 64 hex digits.
    #[schemars(extend(
        "pattern" = "^[0-9a-fA-F]{64}$",
        "examples" = ["000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"]
    ))]
    sha256: String,
}

/// A schema as it is written to a file: two-space-indented, with a final newline.
pub fn pretty(schema: &Value) -> String {
    format!("{schema:#}\n")
}
