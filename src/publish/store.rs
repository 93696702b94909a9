//! Where things are published: an S3-compatible store, or a directory that something serves.
//!
//! ```text
//! s3://BUCKET[/PREFIX]   AWS, Cloudflare R2, or whatever `--endpoint` names
//! file:///DIR            a directory; keys are paths below it
//! ```

mod credentials;
mod directory;
mod error;
mod s3;
mod upload;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::backend::Progress;
use crate::files::regular;
use crate::model::ids::found;
use crate::model::{ArtifactKey, Sha256Digest, hashing};
use directory::Directory;
pub use error::{StoreError, StoreErrorKind};
use s3::S3;

/// What a file is sent in, at least: parts of 8 MiB.
const PART: u64 = 8 * 1024 * 1024;
/// Parts in memory at once, of all files that are sent side by side: less than 64 MiB together with all else.
const PARTS: usize = 4;

/// What may be kept for ever, for it never changes.
pub const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// What is asked for anew each time.
pub const NO_CACHE: &str = "no-cache";

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A bucket, and what keys in it begin with: nothing, or a path that ends with a slash.
    S3 {
        /// The bucket.
        bucket: String,
        /// What stands before each key.
        prefix: String,
    },
    /// A directory of this machine.
    Directory(PathBuf),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            let text = crate::model::ids::clean(text, 200);
            format!("`{text}` is not a destination: {why}; expected s3://BUCKET, s3://BUCKET/PREFIX or file:///DIR")
        };
        if let Some(path) = text.strip_prefix("file://") {
            return match Path::new(path).is_absolute() {
                true => Ok(Self::Directory(path.into())),
                false => Err(wrong("its path is not absolute")),
            };
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(wrong("it begins neither with s3:// nor with file://"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        if bucket.is_empty() {
            return Err(wrong("it names no bucket"));
        }
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(is_plain) {
            return Err(wrong("a bucket's name has 3 to 63 small letters, digits, dots and dashes"));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() {
            ObjectKey::new(prefix).map_err(|why| wrong(&why))?;
        }
        let slash = if prefix.is_empty() { "" } else { "/" };
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: format!("{prefix}{slash}") })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Destination::Directory(dir) => write!(f, "file://{}/", dir.display().to_string().trim_end_matches('/')),
        }
    }
}

/// The name of an object: a plain path, below what the destination says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks it.
    ///
    /// # Errors
    /// When it is no plain path: it is empty, absolute or too long, or has `..`, `.`, an empty segment, a backslash or a control
    /// character.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        let refuse = |why: &str| Err(format!("key {} {why}", found(&text)));
        if text.len() > 900 {
            return refuse("is longer than 900 bytes");
        }
        if text.contains('\\') || text.chars().any(char::is_control) {
            return refuse("has a backslash or a control character");
        }
        if text.is_empty() {
            return refuse("is empty");
        }
        if text.starts_with('/') {
            return refuse("begins with `/`; keys are relative, like vm/manifest.json");
        }
        if text.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return refuse("has `..`, `.` or an empty segment; keys must be plain paths, like vm/manifest.json");
        }
        Ok(Self(text))
    }

    /// The manifest's.
    pub fn manifest() -> Self {
        Self("vm/manifest.json".to_owned())
    }

    /// Its signature's.
    pub fn signature() -> Self {
        Self(format!("{}{}", Self::manifest(), crate::model::labels::SIGNATURE))
    }

    /// The key as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of what lies beside it.
    #[must_use]
    pub fn with(&self, ending: &str) -> Self {
        Self(format!("{}{ending}", self.0))
    }
}

impl From<&ArtifactKey> for ObjectKey {
    fn from(key: &ArtifactKey) -> Self {
        Self(key.to_string())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is told of an object beside its bytes.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its media type.
    pub content_type: &'a str,
    /// How long who passes it on may keep it.
    pub cache_control: &'a str,
}

/// An object, as an observation of it without its bytes tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes.
    pub size_bytes: u64,
    /// What its bytes hash to: what was said of them when they were sent, or (in a directory) what they are.
    pub sha256: Option<Sha256Digest>,
}

/// A small object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Tells it from what is put in its place.
    pub etag: String,
}

/// When an object may be put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Whatever is there.
    Always,
    /// While nothing is (RFC 9110, `If-None-Match: *`).
    Absent,
    /// While the one with this ETag is (RFC 9110, `If-Match`).
    Unchanged(&'a str),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is there, with this ETag.
    Done(String),
    /// Somebody else was here.
    Refused,
}

/// A file that is to be an object.
#[derive(Debug, Clone)]
pub struct Local {
    /// Where it lies.
    pub path: PathBuf,
    /// What its bytes must hash to.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
}

impl Local {
    /// Hashes a file as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn hash(path: PathBuf) -> io::Result<Self> {
        let mut file = regular::open(&path)?;
        let (sha256, size_bytes) = hashing::copy(&mut file, &mut io::sink(), |_| {})?;
        Ok(Self { path, sha256, size_bytes })
    }
}

/// What sending a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Sent {
    /// All of it was sent.
    Whole,
    /// Parts of it were there from before.
    Resumed,
    /// It was there.
    AlreadyThere,
}

/// A place to publish to.
#[derive(Debug)]
pub struct Store {
    to: Destination,
    kind: Kind,
    parts: Arc<Semaphore>,
}

#[derive(Debug)]
enum Kind {
    S3(S3),
    Directory(Directory),
}

impl Store {
    /// Opens it. `endpoint` is where the store is when it is not Amazon's; `vars` is the environment.
    ///
    /// # Errors
    /// When it cannot be told who asks, or how.
    pub async fn open(
        to: Destination,
        endpoint: Option<&str>,
        vars: &BTreeMap<String, String>,
    ) -> Result<Self, StoreError> {
        let kind = match &to {
            Destination::S3 { bucket, prefix } => Kind::S3(S3::open(bucket, prefix, endpoint, vars).await?),
            Destination::Directory(dir) => Kind::Directory(Directory::new(dir.clone())),
        };
        Ok(Self { to, kind, parts: Arc::new(Semaphore::new(PARTS)) })
    }

    /// Where it is.
    pub fn to(&self) -> &Destination {
        &self.to
    }

    /// Whether it is a server that may not know conditions.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.kind, Kind::S3(_))
    }

    /// Looks at an object. `None` when there is none.
    ///
    /// # Errors
    /// What the store says.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<Head>, StoreError> {
        match &self.kind {
            Kind::S3(s3) => s3.head(key).await,
            Kind::Directory(dir) => dir.head(key).await,
        }
    }

    /// Reads a small object. `None` when there is none.
    ///
    /// # Errors
    /// What the store says, and when it is larger than `limit`.
    pub async fn get(&self, key: &ObjectKey, limit: usize) -> Result<Option<Object>, StoreError> {
        match &self.kind {
            Kind::S3(s3) => s3.get(key, limit).await,
            Kind::Directory(dir) => dir.get(key, limit).await,
        }
    }

    /// Puts a small object there.
    ///
    /// # Errors
    /// What the store says; [`StoreErrorKind::NoConditions`] when it does not know the condition.
    pub async fn put(
        &self,
        key: &ObjectKey,
        bytes: &[u8],
        about: About<'_>,
        when: Condition<'_>,
    ) -> Result<Put, StoreError> {
        match &self.kind {
            Kind::S3(s3) => s3.put(key, Bytes::copy_from_slice(bytes), about, when).await,
            Kind::Directory(dir) => dir.put(key, bytes, when).await,
        }
    }

    /// Whether a file is there: an object with its length, that hashes to what it does.
    ///
    /// # Errors
    /// What the store says.
    pub async fn has(&self, key: &ObjectKey, file: &Local) -> Result<bool, StoreError> {
        let is_there = self.head(key).await?.is_some_and(|head| head.is(file));
        if let (true, Kind::S3(s3)) = (is_there, &self.kind) {
            s3.forget(key, file)?;
        }
        Ok(is_there)
    }

    /// Whether what is told of an object beside its bytes is this. Of a directory's files nothing is told.
    ///
    /// # Errors
    /// What the store says.
    pub async fn is_told_as(&self, key: &ObjectKey, about: About<'_>) -> Result<bool, StoreError> {
        match &self.kind {
            Kind::S3(s3) => s3.is_told_as(key, about).await,
            Kind::Directory(_) => Ok(true),
        }
    }

    /// Sends a file, in parts where it is long, and looks whether it has arrived.
    ///
    /// # Errors
    /// When the file is not what it should be, or what the store says. What has arrived of it is not sent again next time.
    pub async fn send(
        &self,
        key: &ObjectKey,
        file: &Local,
        about: About<'_>,
        progress: &Arc<Progress>,
    ) -> Result<Sent, StoreError> {
        progress.set_total(file.size_bytes);
        let sent = match &self.kind {
            Kind::S3(s3) => s3.send(key, file, about, &self.parts, progress).await?,
            Kind::Directory(dir) => dir.send(key, file, progress).await?,
        };
        match self.head(key).await? {
            Some(head) if head.is(file) => Ok(sent),
            found => Err(StoreError::not_arrived(key, file, found)),
        }
    }

    /// Reads an object into a file, piece by piece, and yields what its bytes hash to and how many they are.
    ///
    /// # Errors
    /// When there is none, when it changes meanwhile, or what the store or the file system says.
    pub async fn fetch(
        &self,
        key: &ObjectKey,
        out: &Path,
        progress: &Arc<Progress>,
    ) -> Result<(Sha256Digest, u64), StoreError> {
        match &self.kind {
            Kind::S3(s3) => s3.fetch(key, out, progress).await,
            Kind::Directory(dir) => dir.fetch(key, out, progress).await,
        }
    }
}

impl Head {
    fn is(&self, file: &Local) -> bool {
        (self.size_bytes, self.sha256) == (file.size_bytes, Some(file.sha256))
    }
}

#[cfg(test)]
mod tests;
