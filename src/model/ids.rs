//! Checked strings. A value that enters through one of these is never asked about again.

mod key;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::visible::acts;
pub use key::ArtifactKey;

/// Why a string is not what it should be. One sentence, lower case, naming what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(pub String);

/// What was found, for a sentence: without control characters, and short, since a hostile word may have megabytes.
pub(crate) fn found(text: &str) -> String {
    format!("`{}`", clean(text, 100))
}

/// At most so many characters of a word from elsewhere, without control characters.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let shown = |text: &str| text.replace(acts, "\u{fffd}");
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", shown(&text[..at])),
        None => shown(text),
    }
}

fn dns_label(what: &str, text: &str) -> Result<(), IdError> {
    let ok = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if ok {
        return Ok(());
    }
    Err(IdError(format!(
        "{} is not {what}: use 1 to 63 lower-case letters, digits and `-`, starting and ending with a letter or digit",
        found(text)
    )))
}

fn session_name(text: &str) -> Result<(), IdError> {
    let ok = !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-');
    if ok {
        return Ok(());
    }
    Err(IdError(format!(
        "{} is not a session name: use 1 to 63 of a-z, 0-9 and `-`, not beginning with `-`",
        found(text)
    )))
}

fn container_name(text: &str) -> Result<(), IdError> {
    let mut bytes = text.bytes();
    let ok = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && text.len() <= 200;
    if ok {
        return Ok(());
    }
    Err(IdError(format!(
        "{} is not a container name: Podman takes letters, digits, `_`, `.` and `-`, starting with a letter or digit",
        found(text)
    )))
}

fn instance_name(text: &str) -> Result<(), IdError> {
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let why = if text.len() > 76 {
        "it is longer than 76 characters"
    } else if !text.split(['.', '_', '-']).all(is_word) {
        "Lima takes letters and digits, with single `.`, `_` and `-` between them"
    } else if text.ends_with(".yml") || text.ends_with(".yaml") {
        "Lima takes it for a file"
    } else {
        return Ok(());
    };
    Err(IdError(format!("{} is not an instance name: {why}", found(text))))
}

fn image_ref(text: &str) -> Result<(), IdError> {
    let ok = !text.is_empty()
        && text.len() <= 512
        && text.bytes().all(|b| b.is_ascii_graphic())
        && !text.contains("//")
        && !text.starts_with(['/', ':', '@', '-'])
        && !text.ends_with(['/', ':', '@']);
    if ok { Ok(()) } else { Err(IdError(format!("{} is not an image reference", found(text)))) }
}

fn non_empty(text: &str) -> Result<(), IdError> {
    if text.is_empty() { Err(IdError("an id may not be empty".into())) } else { Ok(()) }
}

macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and wraps it.
            ///
            /// # Errors
            /// A sentence that says what is wrong with `text`.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let check: fn(&str) -> Result<(), IdError> = $check;
                check(&text)?;
                Ok(Self(text))
            }

            /// The string itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

checked_string! {
    /// The name of a state file: who owns what. A DNS label; label, lock and state directory are named after it.
    Name, |text| dns_label("a name", text)
}
checked_string! {
    /// The name of one agent. A DNS label.
    AgentName, |text| dns_label("an agent name", text)
}
checked_string! {
    /// The name of a session of an agent: 1 to 63 of `a-z`, `0-9` and `-`, not beginning with `-`.
    SessionName, session_name
}
checked_string! {
    /// The name of a workspace of an agent: a DNS label. The branch that its commits come back as is called after it.
    WorkspaceName, |text| dns_label("a workspace name", text)
}
checked_string! {
    /// A container name as Podman takes it, without a leading slash.
    ContainerName, container_name
}
checked_string! {
    /// The name of a Lima instance. Lima 2.1: `^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$`, at most 76 bytes, not ending in
    /// `.yml` or `.yaml`.
    InstanceName, instance_name
}
checked_string! {
    /// A container id as Podman gives it (64 hex digits on every version seen).
    ContainerId, non_empty
}
checked_string! {
    /// An image reference with tag or digest, e.g. `ghcr.io/openclaw/openclaw:2026.4.12`.
    ImageRef, image_ref
}

impl ImageRef {
    /// Joins repository and version: `repo:tag`, or `repo@sha256:…` when the version is a digest.
    ///
    /// # Errors
    /// When the two do not make an image reference.
    pub fn join(repository: &str, version: &str) -> Result<Self, IdError> {
        let mark = if version.starts_with("sha256:") { '@' } else { ':' };
        Self::new(format!("{repository}{mark}{version}"))
    }

    /// Its tag, or its digest.
    pub fn version(&self) -> Option<&str> {
        match self.0.split_once('@') {
            Some((_, digest)) => Some(digest),
            None => self.0.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/')),
        }
    }

    /// Whether it names an image by its digest. That is no name that could be given to one.
    pub fn is_digest(&self) -> bool {
        self.0.contains('@')
    }

    /// The name Podman files it under: short names become `docker.io/library/…` or `docker.io/…`, except `localhost/…`
    /// and names whose first segment is a host (has a dot or a colon).
    pub fn qualified(&self) -> ImageRef {
        let text = &self.0;
        let Some((first, _)) = text.split_once('/') else {
            return Self(format!("docker.io/library/{text}"));
        };
        if first == "localhost" || first.contains('.') || first.contains(':') {
            return self.clone();
        }
        Self(format!("docker.io/{text}"))
    }
}

/// An image id: the config digest as 64 hex digits, without the `sha256:` some answers put before it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as `podman images` prints them.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl From<String> for ImageId {
    fn from(text: String) -> Self {
        match text.strip_prefix("sha256:") {
            Some(hex) => Self(hex.to_owned()),
            None => Self(text),
        }
    }
}

impl From<&str> for ImageId {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> String {
        id.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageId({})", self.short())
    }
}

/// A sha256 digest. Written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// From the raw bytes a hasher yields.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What these bytes hash to.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From 64 hex digits of either case.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError(format!("{} is not a sha256: expected 64 hex digits", found(text)));
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            if pair.starts_with('+') {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What went into the hasher.
impl From<Sha256> for Sha256Digest {
    fn from(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |four: u8| char::from(DIGITS[usize::from(four)]);
        let text: String = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        f.write_str(&text)
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<Sha256Digest> for String {
    fn from(digest: Sha256Digest) -> String {
        digest.to_string()
    }
}

/// A CPU architecture that images are published for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit ARM.
    Arm64,
    /// 64-bit x86.
    X64,
}

impl Arch {
    /// Every architecture, in the order they are fetched.
    pub const ALL: [Arch; 2] = [Arch::Arm64, Arch::X64];

    /// The word used in manifests and file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Arch::Arm64 => "arm64",
            Arch::X64 => "x64",
        }
    }

    /// From a machine's own name for its architecture (`uname -m`, Rust, Node): `aarch64`/`arm64`, and
    /// `x86_64`/`amd64`/`x64`/`ia32`.
    ///
    /// # Errors
    /// `unsupported host arch: …` for anything else.
    pub fn from_machine(word: &str) -> Result<Self, IdError> {
        match word {
            "aarch64" | "arm64" => Ok(Arch::Arm64),
            "x86_64" | "amd64" | "x64" | "ia32" => Ok(Arch::X64),
            other => Err(IdError(format!("unsupported host arch: {other}"))),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
