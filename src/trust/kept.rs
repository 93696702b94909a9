//! What was accepted, kept below `<root>/state/trust`: one small file per state file, under its name.
//!
//! It is written whole and synced before anything follows from it, and it is never recreated where it was: what cannot be read
//! is an error that only [`LedgerGuard::forget`] ends. It has its own checksum, since a serial with one digit less would be one that
//! lets old manifests in.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Floor, Signed, TrustedKey};
use crate::files::{self, regular};
use crate::model::{Name, Sha256Digest};

/// What lies beside the state files' own directories, and is none.
const DIRECTORY: &str = "trust";

/// How such a file's name ends: a state file may be called `trust`, and then its own files lie beside these.
const ENDING: &str = ".floor.json";

const VERSION: u32 = 1;

/// Far more than a record has.
const MAX_BYTES: u64 = 64 * 1024;

/// A manifest that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Accepted {
    /// Its serial.
    pub serial: u64,
    /// What its bytes hash to.
    pub sha256: Sha256Digest,
    /// When its publisher wrote it, as it says.
    pub updated_at: String,
    /// Until when its signature is good. `None`: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "moment")]
    pub expires: Option<SystemTime>,
    /// The key it was verified with.
    pub key: TrustedKey,
    /// What its signature's bytes hash to.
    pub signature: Sha256Digest,
}

impl Accepted {
    /// Of a manifest that was just verified.
    pub fn new(signed: &Signed, updated_at: &str) -> Self {
        let Signed { key, serial, expires, sha256, signature } = signed.clone();
        Self { serial, sha256, updated_at: updated_at.to_owned(), expires, key, signature }
    }

    /// What its signature said.
    pub fn signed(&self) -> Signed {
        let Self { serial, sha256, expires, key, signature, .. } = self.clone();
        Signed { key, serial, expires, sha256, signature }
    }

    /// What may follow it.
    pub fn floor(&self) -> Floor {
        Floor { serial: self.serial, sha256: self.sha256 }
    }
}

/// A manifest that lies in the cache as a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Copied {
    /// As it was verified.
    pub accepted: Accepted,
    /// What the copy's bytes hash to, which are indented anew.
    pub copy: Sha256Digest,
    /// Where it was published, hashed: a URL may hold a secret.
    pub place: Sha256Digest,
    /// What it names is not all there yet: the cached manifest is still an older one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// What its server told it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// As `etag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// All that is kept for one state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The manifest that was accepted last. Nothing older is.
    pub accepted: Accepted,
    /// The copies that count: the newest first, and behind it the one that it is about to replace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Copied>,
}

impl Record {
    fn check(&self) -> io::Result<Sha256Digest> {
        Ok(super::sha256(&serde_json::to_vec(self)?))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    version: u32,
    /// What the record hashes to.
    check: Sha256Digest,
    record: Record,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// Why it is not known what was accepted.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file is not as it was written.
    #[error("the record of accepted manifests cannot be used: `{}` {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        why: String,
    },
    /// The file is gone, and what came after it is not.
    #[error("the record of accepted manifests cannot be used: `{}` is gone, and a manifest that was accepted is in the cache", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else could change it.
    #[error(transparent)]
    Exposed(#[from] files::Untrusted),
    /// The file system refused.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

impl KeptError {
    /// Whether only forgetting what was accepted helps.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Gone { .. })
    }
}

/// The file of one state file.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
}

impl Ledger {
    /// That of the state file with this name. Touches nothing.
    pub fn new(root: &Path, owner: &Name) -> Self {
        Self { path: directory(root).join(format!("{owner}{ENDING}")) }
    }

    /// The state files that have one.
    pub fn owners(root: &Path) -> Vec<Name> {
        let entries = std::fs::read_dir(directory(root)).into_iter().flatten().flatten();
        entries.filter_map(|entry| Name::new(entry.file_name().to_str()?.strip_suffix(ENDING)?).ok()).collect()
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> KeptError {
        let path = self.path.clone();
        move |err| KeptError::Io { what, path, err }
    }

    /// What was accepted. `None` when nothing ever was.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn read(&self) -> Result<Option<Record>, KeptError> {
        files::check_directory(self.directory())?;
        let read = match files::open(&self.path, File::options().read(true)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) if files::unfit(&err).is_some() => return Err(self.damaged(format!("is not its file: {err}"))),
            Err(err) => return Err(self.failed("open")(err)),
            Ok(file) => regular::bounded(file, MAX_BYTES).map_err(self.failed("read"))?,
        };
        let too_large = || self.damaged("is larger than anything that is written there".to_owned());
        let bytes = read.ok_or_else(too_large)?;
        let broken = |err: serde_json::Error| self.damaged(format!("is damaged: {err}"));
        let Head { version } = serde_json::from_slice(&bytes).map_err(broken)?;
        if version != VERSION {
            return Err(self.damaged(format!("has version {version}, and this steadfast reads {VERSION}")));
        }
        let Page { check, record, .. } = serde_json::from_slice(&bytes).map_err(broken)?;
        match record.check().map_err(self.failed("check"))? == check {
            true => Ok(Some(record)),
            false => Err(self.damaged("is damaged: its checksum does not fit".to_owned())),
        }
    }

    fn damaged(&self, why: String) -> KeptError {
        KeptError::Damaged { path: self.path.clone(), why }
    }

    /// Keeps everybody else from changing it until the yielded is dropped. Waits for whoever does so now, which takes
    /// milliseconds.
    ///
    /// # Errors
    /// When its directory cannot be made or locked.
    pub fn hold(&self) -> Result<LedgerGuard<'_>, KeptError> {
        Ok(LedgerGuard { ledger: self, _lock: self.lock()? })
    }

    fn lock(&self) -> Result<File, KeptError> {
        files::make_directory(self.directory()).map_err(self.failed("make room for"))?;
        files::check_directory(self.directory())?;
        let lock = File::open(self.directory()).map_err(self.failed("lock"))?;
        lock.lock().map_err(self.failed("lock"))?;
        Ok(lock)
    }

    fn write(&self, record: &Record) -> Result<(), KeptError> {
        let check = record.check().map_err(self.failed("check"))?;
        let page = Page { version: VERSION, check, record: record.clone() };
        let mut bytes = serde_json::to_vec_pretty(&page).map_err(|err| self.failed("write")(err.into()))?;
        bytes.push(b'\n');
        files::replace(&self.path, true, |mut file| file.write_all(&bytes)).map_err(self.failed("write"))?;
        // The directory itself may be new, too.
        files::sync_directory_of(self.directory()).map_err(self.failed("sync"))
    }
}

/// A [`Ledger`] that nobody else changes.
#[derive(Debug)]
pub struct LedgerGuard<'a> {
    ledger: &'a Ledger,
    _lock: File,
}

impl LedgerGuard<'_> {
    /// Changes what is kept. It is on the disk when this returns. Nothing is written where nothing changes.
    ///
    /// # Errors
    /// What `change` says, and when the file cannot be read or written.
    pub fn update<E: From<KeptError>>(
        &self,
        change: impl FnOnce(Option<&Record>) -> Result<Record, E>,
    ) -> Result<(), E> {
        let before = self.ledger.read()?;
        let record = change(before.as_ref())?;
        if before.as_ref() != Some(&record) {
            self.ledger.write(&record)?;
        }
        Ok(())
    }

    /// Forgets it. Yields whether there was anything.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self) -> Result<bool, KeptError> {
        match std::fs::remove_file(&self.ledger.path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
            removed => removed.map_err(self.ledger.failed("remove"))?,
        }
        files::sync_directory_of(&self.ledger.path).map_err(self.ledger.failed("sync"))?;
        Ok(true)
    }
}

fn directory(root: &Path) -> PathBuf {
    root.join("state").join(DIRECTORY)
}

/// Removes what killed processes left of a change.
pub fn sweep(root: &Path) {
    files::sweep_directory(&directory(root));
}

/// Whether a directory below `<root>/state` is only ours, and no state file's.
pub fn is_only_trust(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name == DIRECTORY) && !directory.join("lock").exists()
}

/// Points in time as text.
mod moment {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(crate::time::rfc3339_exact).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| crate::time::parse(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests;
