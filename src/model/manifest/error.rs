//! Why a manifest cannot be used.

use super::{MANIFEST_SCHEMA_VERSION, MAX_COPY_BYTES, MAX_MANIFEST_BYTES};
use crate::model::ids::{Arch, Sha256Digest, clean, found};

/// Why a manifest, or the part of it that is wanted, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_MANIFEST_BYTES`].
    #[error("manifest is larger than {}", crate::sizes::limit(MAX_MANIFEST_BYTES))]
    TooLarge,
    /// Its copy would be longer than [`MAX_COPY_BYTES`].
    #[error("manifest is larger than {} once it is indented: it nests too deeply", crate::sizes::limit(MAX_COPY_BYTES))]
    CopyTooLarge,
    /// Not JSON, or not the JSON of a manifest.
    #[error("manifest is not valid: {0}")]
    Invalid(String),
    /// Another schema.
    #[error("manifest has schemaVersion {found}, this build reads {MANIFEST_SCHEMA_VERSION}")]
    SchemaVersion {
        /// The value found there, as JSON.
        found: String,
    },
    /// The agent is not listed.
    #[error("the manifest has no agent `{agent}`; it offers {}", listed(offered))]
    NoAgent {
        /// The wanted agent.
        agent: String,
        /// The agents on offer.
        offered: Vec<String>,
    },
    /// The agent is listed at another version.
    #[error("the manifest offers `{agent}` at version {}, not {wanted}", clean(offered, 100))]
    OtherVersion {
        /// The wanted agent.
        agent: String,
        /// The wanted version.
        wanted: String,
        /// The version on offer.
        offered: String,
    },
    /// The agent is not published for this architecture.
    #[error("the manifest has no {arch} tarball of `{agent}`; it has {}", listed(offered))]
    NoArch {
        /// The wanted agent.
        agent: String,
        /// The wanted architecture.
        arch: Arch,
        /// The architectures on offer.
        offered: Vec<String>,
    },
    /// The state file pins other bytes.
    #[error("the manifest's {arch} tarball of `{agent}` has sha256 {offered}, the state file pins {pinned}")]
    Pinned {
        /// The wanted agent.
        agent: String,
        /// The wanted architecture.
        arch: Arch,
        /// What the manifest says.
        offered: Sha256Digest,
        /// What the state file says.
        pinned: Sha256Digest,
    },
    /// The wanted entry is broken.
    #[error("the manifest's {arch} tarball of `{agent}` is not valid: {why}")]
    Artifact {
        /// The wanted agent.
        agent: String,
        /// The wanted architecture.
        arch: Arch,
        /// What is wrong.
        why: String,
    },
}

/// How many words of a manifest an error lists.
const MAX_LISTED: usize = 10;

fn listed(words: &[String]) -> String {
    if words.is_empty() {
        return "none".into();
    }
    let shown = words.iter().take(MAX_LISTED).map(|word| found(word)).collect::<Vec<_>>().join(", ");
    match words.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
