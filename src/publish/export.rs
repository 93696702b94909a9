//! One archive for an air gap: the manifest, its signature where there is one, and all that it names.
//!
//! ```text
//! vm/manifest.json                                     as it was published, byte for byte
//! vm/manifest.json.minisig                             where it lies beside it
//! vm/images/<name>-<version>-<arch>.tar.gz             each, in the order of their keys
//! vm/images/<name>-<version>-<arch>.tar.gz.sha256
//! vm/images/<name>-<version>-<arch>.tar.gz.layers.json where the manifest names it
//! ```
//!
//! Unpacked, it is what a static web server would serve. The same files are the same archive: no times, no owners.

mod error;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};
use tokio_util::sync::CancellationToken;

pub(crate) use self::error::ExportError;
use super::bundle::Bundle;
use super::dist;
use super::place;
use crate::backend::cache::import::{MANIFEST, MAX_SIGNATURE, SIGNATURE};
use crate::files::regular;
use crate::model::hashing::Hashing;
use crate::model::labels::{self, DIGEST_SIDECAR, LAYERS_LIST, beside};
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::model::{Artifact, Manifest, ManifestError, Sha256Digest};
use crate::trust;

/// What is to be exported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExportRequest<'a> {
    /// The agents, which the manifest must offer at their versions.
    pub bundle: &'a Bundle,
    /// Where the tarballs lie.
    pub dist_dir: &'a Path,
    /// The manifest.
    pub manifest: &'a Path,
}

/// An archive that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Exported {
    /// Where.
    pub path: PathBuf,
    /// What its bytes hash to.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// How many tarballs are in it.
    pub artifacts: usize,
    /// When its manifest was written.
    pub updated_at: String,
    /// Whether a signature lies in it. Only what it says of itself was checked: whoever imports it verifies it.
    pub has_signature: bool,
}

/// What the manifest says of the list of a tarball's members, beside what every reader knows.
#[derive(Deserialize)]
struct RawManifest {
    agents: BTreeMap<String, RawAgent>,
}

#[derive(Deserialize)]
struct RawAgent {
    tarballs: BTreeMap<String, RawTarball>,
}

#[derive(Deserialize)]
struct RawTarball {
    key: Option<String>,
    layers: Option<RawLayers>,
}

#[derive(Deserialize)]
struct RawLayers {
    sha256: String,
}

/// A file of the dist directory.
struct Part {
    name: String,
    path: PathBuf,
    sha256: Sha256Digest,
    size_bytes: u64,
}

/// Writes the archive: all of it, verified, or nothing.
///
/// # Errors
/// When the manifest names anything that is not there, or is something else, or the archive cannot be written. What was in
/// its place stays then.
pub(crate) fn export(
    request: &ExportRequest<'_>,
    out: &Path,
    cancel: &CancellationToken,
) -> Result<Exported, ExportError> {
    let ExportRequest { bundle, dist_dir, manifest: path } = *request;
    let unusable = |err| ExportError::Manifest { path: path.to_owned(), err };
    let bytes = read(path, MAX_MANIFEST_BYTES as u64)?.ok_or_else(|| unusable(ManifestError::TooLarge))?;
    let manifest = Manifest::parse(&bytes).map_err(unusable)?;
    check_bundle(bundle, &manifest, path)?;
    let signature_path = beside(path, labels::SIGNATURE);
    let signature = match signature_path.symlink_metadata() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        _ => match read(&signature_path, MAX_SIGNATURE)? {
            Some(bytes) => Some(bytes),
            None => return Err(ExportError::Signature { path: signature_path }),
        },
    };
    if let Some(signature) = &signature {
        // Nobody could import it.
        trust::check_claims(signature, &manifest.updated_at, SystemTime::now())
            .map_err(|err| ExportError::OtherSignature { path: signature_path, manifest: path.to_owned(), err })?;
    }
    let artifacts = artifacts(&manifest).map_err(unusable)?;
    let layers = layers(&bytes);
    let mut parts = Vec::new();
    for artifact in &artifacts {
        parts.extend(of_artifact(artifact, dist_dir, path, &layers)?);
    }

    let failed = |err| ExportError::Write { path: out.to_owned(), err };
    let replacement = place::begin(out).map_err(failed)?;
    let hashing = Hashing::new(replacement.file());
    let mut archive = tar::Builder::new(BufWriter::with_capacity(1024 * 1024, hashing));
    let mut member = |name: &str, bytes: &[u8]| append(&mut archive, name, bytes.len() as u64, bytes).map_err(failed);
    member(MANIFEST, &bytes)?;
    if let Some(signature) = &signature {
        member(SIGNATURE, signature)?;
    }
    for part in &parts {
        add(&mut archive, part, cancel, &failed)?;
        if part.name.ends_with(LAYERS_LIST) {
            continue;
        }
        let sidecar = dist::sidecar(&part.sha256, &part.path);
        append(&mut archive, &format!("{}{DIGEST_SIDECAR}", part.name), sidecar.len() as u64, sidecar.as_bytes())
            .map_err(failed)?;
    }
    let written = archive.into_inner().and_then(|to| to.into_inner().map_err(io::IntoInnerError::into_error));
    let (_, sha256, size_bytes) = written.map_err(failed)?.finish();
    if cancel.is_cancelled() {
        return Err(ExportError::Interrupted);
    }
    replacement.place(true).map_err(failed)?;
    Ok(Exported {
        path: out.to_owned(),
        sha256,
        size_bytes,
        artifacts: artifacts.len(),
        updated_at: manifest.updated_at,
        has_signature: signature.is_some(),
    })
}

fn check_bundle(bundle: &Bundle, manifest: &Manifest, path: &Path) -> Result<(), ExportError> {
    for agent in &bundle.agents {
        let found = manifest.agent(agent.name.as_str());
        let found = found.map_err(|err| ExportError::Manifest { path: path.to_owned(), err })?;
        if (found.image.as_str(), found.version.as_str()) != (agent.image.as_str(), agent.version.as_str()) {
            return Err(ExportError::OtherBundle {
                path: path.to_owned(),
                agent: agent.name.to_string(),
                found: format!("{}:{}", found.image, found.version),
                wanted: agent.reference().to_string(),
            });
        }
    }
    Ok(())
}

/// All that a manifest names, each once, by key.
fn artifacts(manifest: &Manifest) -> Result<Vec<Artifact>, ManifestError> {
    let mut artifacts = manifest.artifacts().collect::<Result<Vec<_>, _>>()?;
    artifacts.sort_by(|one, other| one.key.cmp(&other.key));
    artifacts.dedup_by(|one, other| one.key == other.key);
    Ok(artifacts)
}

/// What the lists of members hash to, by the key of their tarball.
fn layers(manifest: &[u8]) -> BTreeMap<String, Sha256Digest> {
    // What is not read here is no list to anybody: the manifest was parsed before.
    let Ok(raw) = serde_json::from_slice::<RawManifest>(manifest) else { return BTreeMap::new() };
    let tarballs = raw.agents.into_values().flat_map(|agent| agent.tarballs.into_values());
    tarballs.filter_map(|tarball| Some((tarball.key?, Sha256Digest::parse(&tarball.layers?.sha256).ok()?))).collect()
}

fn of_artifact(
    artifact: &Artifact,
    dist_dir: &Path,
    manifest: &Path,
    layers: &BTreeMap<String, Sha256Digest>,
) -> Result<Vec<Part>, ExportError> {
    let key = artifact.key.as_str();
    let path = dist_dir.join(key.strip_prefix("vm/").unwrap_or(key));
    let missing = |path: PathBuf| ExportError::Missing { manifest: manifest.to_owned(), path };
    for needed in [path.clone(), dist::sidecar_path(&path)] {
        if !needed.exists() {
            return Err(missing(needed));
        }
    }
    let said = dist::read_sidecar(&path)?;
    if said != artifact.sha256 {
        return Err(ExportError::OtherSidecar { path: dist::sidecar_path(&path), wanted: artifact.sha256, said });
    }
    let tarball = Part { name: key.to_owned(), path, sha256: artifact.sha256, size_bytes: artifact.size_bytes };
    let list = match layers.get(key) {
        None => None,
        Some(sha256) => {
            let path = dist::layers_path(&tarball.path);
            let Ok(found) = path.metadata() else { return Err(missing(path)) };
            Some(Part { name: format!("{key}{LAYERS_LIST}"), path, sha256: *sha256, size_bytes: found.len() })
        }
    };
    Ok(std::iter::once(tarball).chain(list).collect())
}

/// Adds a file as it is read, and proves it meanwhile.
fn add<W: Write>(
    archive: &mut tar::Builder<W>,
    part: &Part,
    cancel: &CancellationToken,
    failed: &impl Fn(io::Error) -> ExportError,
) -> Result<(), ExportError> {
    let unreadable = |err| ExportError::Unreadable { path: part.path.clone(), err };
    let file = regular::open(&part.path).map_err(|err| unreadable(err.into()))?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut reading = Hashing::new(Reading { file, cancel, failed: None });
    let added = append(archive, &part.name, length, &mut reading);
    let (reading, found, _) = reading.finish();
    if cancel.is_cancelled() {
        return Err(ExportError::Interrupted);
    }
    match (added, reading.failed) {
        (_, Some(err)) => return Err(unreadable(err)),
        (Err(err), None) => return Err(failed(err)),
        (Ok(()), None) => {}
    }
    match found == part.sha256 && length == part.size_bytes {
        true => Ok(()),
        false => Err(ExportError::Mismatch { path: part.path.clone(), said: part.sha256, found }),
    }
}

/// One file, without a time or an owner.
fn append<W: Write>(archive: &mut tar::Builder<W>, name: &str, size: u64, from: impl Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    // Neither more nor less than its header says, whoever changes the file meanwhile: then its hash is another one.
    archive.append_data(&mut header, name, from.take(size))
}

fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, ExportError> {
    regular::read(path, most).map_err(|err| ExportError::Unreadable { path: path.to_owned(), err: err.into() })
}

/// A file on its way into the archive.
struct Reading<'a> {
    file: File,
    cancel: &'a CancellationToken,
    /// What it failed with: from the archive's side, reading and writing look alike.
    failed: Option<io::Error>,
}

impl Read for Reading<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        self.file.read(into).map_err(|err| {
            let kind = err.kind();
            self.failed = Some(err);
            io::Error::from(kind)
        })
    }
}
