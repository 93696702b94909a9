//! What is in an archive, by its headers. Nothing is taken for what it says of itself: what may stand there follows from the
//! manifest in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, Ordering};

use tar::{Archive, EntryType};

use crate::model::ids::{clean, found};
use crate::model::labels::{DIGEST_SIDECAR, LAYERS_LIST};
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::model::{ArtifactKey, Manifest};

/// Where the manifest stands in an archive.
pub(crate) const MANIFEST: &str = "vm/manifest.json";
/// Where its signature stands.
pub(crate) const SIGNATURE: &str = "vm/manifest.json.minisig";
/// The largest signature that is read.
pub(crate) const MAX_SIGNATURE: u64 = 64 * 1024;
/// The longest name that is read.
const MAX_NAME: u64 = 4096;
/// The most entries of an archive. A manifest of 4 MiB cannot name as many.
const MAX_ENTRIES: usize = 100_000;
/// The most bytes of all names together, for the same reason.
const MAX_NAMES: usize = 16 * 1024 * 1024;
/// How files begin that `publish export` does not write, and what they are packed with.
const PACKED: [(&[u8], &str); 4] =
    [(&[0x1f, 0x8b], "gzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2")];

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveFault {
    /// It cannot be read as one.
    #[error("it is not a tar archive ({0})")]
    NotTar(String),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is packed, and was not when it was written.
    #[error("it is compressed, with {0}")]
    Compressed(&'static str),
    /// It ends in the middle of an entry.
    #[error("it ends in the middle of {}", found(.0))]
    Truncated(String),
    /// A link, a device, a directory that nothing in it lies in, or what else is no file.
    #[error("{} is no file, and only files may be in it", found(.0))]
    NotAFile(String),
    /// Two entries have one name.
    #[error("{} is in it twice", found(.0))]
    Twice(String),
    /// The manifest does not name it.
    #[error("{} is in it, which its manifest does not name", found(.0))]
    Unnamed(String),
    /// It is larger than it may be.
    #[error("{} in it is too large", found(.0))]
    TooLarge(String),
    /// There are too many entries.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// It has no manifest.
    #[error("it has no `{MANIFEST}`")]
    NoManifest,
    /// What is wanted is neither in it nor in the cache.
    #[error("it lacks `{0}`, which is wanted here and not in the cache either")]
    Lacks(ArtifactKey),
}

/// Where an entry's bytes lie in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// What is in an archive.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub(super) manifest: Option<Vec<u8>>,
    pub(super) signature: Option<Vec<u8>>,
    pub(super) others: BTreeMap<String, Span>,
    /// Directories, which tar(1) adds.
    directories: BTreeSet<String>,
}

/// Why an archive was not read.
pub(super) enum Broken {
    Io(io::Error),
    Fault(ArchiveFault),
}

impl From<io::Error> for Broken {
    fn from(err: io::Error) -> Self {
        Broken::Io(err)
    }
}

impl From<ArchiveFault> for Broken {
    fn from(fault: ArchiveFault) -> Self {
        Broken::Fault(fault)
    }
}

/// Reads the headers of an archive, and what little of it is read whole.
pub(super) fn read(mut file: &File, stop: &AtomicBool) -> Result<Packed, Broken> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    if length == 0 {
        return Err(ArchiveFault::Empty.into());
    }
    let mut start = Vec::new();
    file.take(8).read_to_end(&mut start)?;
    if let Some((_, with)) = PACKED.iter().find(|(begin, _)| start.starts_with(begin)) {
        return Err(ArchiveFault::Compressed(with).into());
    }
    file.seek(SeekFrom::Start(0))?;
    // It quotes what it could not read.
    let not_tar = |err: io::Error| Broken::from(ArchiveFault::NotTar(clean(&err.to_string(), 200)));
    let mut packed = Packed::default();
    let mut seen = BTreeSet::new();
    let mut names = 0;
    let mut long_name: Option<String> = None;
    let mut archive = Archive::new(file);
    // Raw: a name that is too long for a header is an entry of its own, and is read here, within bounds.
    for (count, entry) in archive.entries_with_seek().map_err(not_tar)?.raw(true).enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("given up").into());
        }
        if count >= MAX_ENTRIES {
            return Err(ArchiveFault::TooMany.into());
        }
        let mut entry = entry.map_err(not_tar)?;
        let (kind, pending) = (entry.header().entry_type(), long_name.take());
        let has_long_name = pending.is_some();
        let name = pending.unwrap_or_else(|| String::from_utf8_lossy(&entry.header().path_bytes()).into_owned());
        let span = Span { offset: entry.raw_file_position(), size: entry.size() };
        if span.offset.checked_add(span.size).is_none_or(|end| end > length) {
            return Err(ArchiveFault::Truncated(name).into());
        }
        let mut member = |most: u64| -> Result<Vec<u8>, Broken> {
            if span.size > most {
                return Err(ArchiveFault::TooLarge(name.clone()).into());
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match kind {
            EntryType::GNULongName if !has_long_name => {
                let bytes = member(MAX_NAME)?;
                long_name = Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned());
                continue;
            }
            EntryType::Regular | EntryType::Directory => {}
            _ => return Err(ArchiveFault::NotAFile(name).into()),
        }
        match name.as_str() {
            _ if kind == EntryType::Directory => drop(packed.directories.insert(name.clone())),
            MANIFEST => packed.manifest = Some(member(MAX_MANIFEST_BYTES as u64)?),
            SIGNATURE => packed.signature = Some(member(MAX_SIGNATURE)?),
            _ => drop(packed.others.insert(name.clone(), span)),
        }
        names += name.len();
        if names > MAX_NAMES {
            return Err(ArchiveFault::TooMany.into());
        }
        if !seen.insert(name.clone()) {
            return Err(ArchiveFault::Twice(name).into());
        }
    }
    match long_name {
        Some(name) => Err(ArchiveFault::Truncated(name).into()),
        None => Ok(packed),
    }
}

/// Refuses what the manifest does not name. So no name can lead anywhere.
pub(super) fn check_names(packed: &Packed, manifest: &Manifest) -> Result<(), ArchiveFault> {
    let keys: BTreeSet<_> = manifest.listed().map(|artifact| artifact.key.to_string()).collect();
    let is_named = |name: &str| {
        let of = [DIGEST_SIDECAR, LAYERS_LIST].into_iter().find_map(|ending| name.strip_suffix(ending));
        keys.contains(name) || of.is_some_and(|key| keys.contains(key))
    };
    // What only leads to what may be in it changes nothing. None is made of it.
    let leads = |dir: &str| {
        let dir = format!("{}/", dir.trim_end_matches('/'));
        keys.iter().map(String::as_str).chain([MANIFEST]).any(|name| name.starts_with(&dir))
    };
    if let Some(dir) = packed.directories.iter().find(|dir| !leads(dir)) {
        return Err(ArchiveFault::NotAFile(dir.clone()));
    }
    match packed.others.keys().find(|name| !is_named(name)) {
        Some(name) => Err(ArchiveFault::Unnamed(name.clone())),
        None => Ok(()),
    }
}
