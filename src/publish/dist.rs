//! The dist directory: tarballs with their sidecars, as `publish tarball` leaves them and `publish manifest` takes them up.
//!
//! ```text
//! DIR/images/<name>-<version>-<arch>.tar.gz           the tarball
//! DIR/images/<name>-<version>-<arch>.tar.gz.sha256    `<hex>  <basename>`, as sha256sum(1) writes and checks it
//! DIR/images/<name>-<version>-<arch>.tar.gz.layers.json   its gzip members, for who has some of them already
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::bundle::BundleAgent;
use super::packing::Packing;
use crate::files::regular;
use crate::model::ids::clean;
use crate::model::labels::{DIGEST_SIDECAR, LAYERS_LIST, beside};
use crate::model::layers::MAX_LAYERS_BYTES;
use crate::model::{Arch, LayerIndex, Sha256Digest, hashing};
use crate::mutex::guard;

/// How much of a sidecar's line is shown: a digest, and a name of some length.
const SHOWN: usize = 160;

/// Where a tarball lies in a dist directory.
pub fn tarball_path(dist: &Path, agent: &BundleAgent, arch: Arch, packing: Packing) -> PathBuf {
    dist.join("images").join(agent.key(arch, packing).file_name())
}

/// Where the members of a tarball are listed.
pub fn layers_path(tarball: &Path) -> PathBuf {
    beside(tarball, LAYERS_LIST)
}

/// Where the digest of a tarball lies.
pub fn sidecar_path(tarball: &Path) -> PathBuf {
    beside(tarball, DIGEST_SIDECAR)
}

/// What stands in a sidecar.
pub fn sidecar(sha256: &Sha256Digest, tarball: &Path) -> String {
    let name = tarball.file_name().unwrap_or_default().to_string_lossy();
    format!("{sha256}  {name}\n")
}

/// Why a tarball of a dist directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DistError {
    /// It, or its sidecar, cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It is no tarball.
    #[error("`{}` is not a tarball: {why}", path.display())]
    NotATarball {
        /// The file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// Its sidecar is none.
    #[error("`{}` is not a sidecar of its tarball: expected `<64 hex digits>  {name}`, found {}", path.display(), shown(found))]
    Sidecar {
        /// The sidecar.
        path: PathBuf,
        /// The tarball's name.
        name: String,
        /// Its first line, fit for showing.
        found: String,
    },
    /// What should list the members of a tarball does not.
    #[error("`{}` does not list the members of its tarball: {why}", path.display())]
    Layers {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The tarball is not the one that its sidecar is of.
    #[error("sha256 mismatch for `{}`: its sidecar says {said}, its bytes hash to {found}", path.display())]
    Mismatch {
        /// The tarball.
        path: PathBuf,
        /// What the sidecar says.
        said: Sha256Digest,
        /// What it hashes to.
        found: Sha256Digest,
    },
}

/// A tarball as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// What the list of its members hashes to, where there is one.
    pub layers: Option<Sha256Digest>,
    /// What its bytes hash to.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
}

fn shown(line: &str) -> String {
    if line.is_empty() { "nothing".to_owned() } else { format!("`{line}`") }
}

/// Hashes a tarball and compares it with its sidecar.
///
/// # Errors
/// When either cannot be read, or they do not go together.
pub fn verified(tarball: &Path) -> Result<Hashed, DistError> {
    let said = read_sidecar(tarball)?;
    let hashed = hash(tarball)?;
    match hashed.sha256 == said {
        true => Ok(Hashed { layers: read_layers(tarball, hashed.size_bytes)?, ..hashed }),
        false => Err(DistError::Mismatch { path: tarball.to_owned(), said, found: hashed.sha256 }),
    }
}

/// The digest that the sidecar of a tarball tells.
///
/// # Errors
/// When there is none, or it is of another file.
pub fn read_sidecar(tarball: &Path) -> Result<Sha256Digest, DistError> {
    let path = sidecar_path(tarball);
    let name = tarball.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut text = String::new();
    let read = open(&path)?.take(4096).read_to_string(&mut text);
    read.map_err(|err| DistError::Unreadable { path: path.clone(), err })?;
    // sha256sum(1) marks a file read in binary mode with an asterisk, which means nothing here.
    let told = text.trim_end().split_once([' ', '\t']).and_then(|(digest, rest)| {
        let of = rest.trim_start_matches([' ', '\t', '*']);
        Sha256Digest::parse(digest).ok().filter(|_| of == name)
    });
    let found = || clean(text.lines().next().unwrap_or_default().trim(), SHOWN);
    told.ok_or_else(|| DistError::Sidecar { path, name, found: found() })
}

/// What the list of a tarball's members hashes to. `None` where there is none.
fn read_layers(tarball: &Path, size_bytes: u64) -> Result<Option<Sha256Digest>, DistError> {
    let path = layers_path(tarball);
    if !path.exists() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = open(&path)?.take(MAX_LAYERS_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|err| DistError::Unreadable { path: path.clone(), err })?;
    // Read as every fetcher will.
    match LayerIndex::parse(&bytes, size_bytes) {
        Ok(_) => Ok(Some(Sha256Digest::of(&bytes))),
        Err(err) => Err(DistError::Layers { path, why: err.to_string() }),
    }
}

fn open(path: &Path) -> Result<File, DistError> {
    regular::open(path).map_err(|err| DistError::Unreadable { path: path.to_owned(), err: err.into() })
}

fn hash(path: &Path) -> Result<Hashed, DistError> {
    let unreadable = |err| DistError::Unreadable { path: path.to_owned(), err };
    let mut file = BufReader::new(open(path)?);
    let begins = file.fill_buf().map_err(unreadable)?;
    let why = match () {
        () if begins.is_empty() => Some("it is empty"),
        () if is_compressed(begins) || is_tar(begins) => None,
        () => Some("it begins neither like gzip, nor like zstd, nor like tar"),
    };
    if let Some(why) = why {
        return Err(DistError::NotATarball { path: path.to_owned(), why });
    }
    let (sha256, size_bytes) = hashing::copy(&mut file, &mut io::sink(), |_| {}).map_err(unreadable)?;
    Ok(Hashed { layers: None, sha256, size_bytes })
}

fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b]) || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

fn is_tar(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar")
}

/// Verifies tarballs side by side, as many at a time as there are processors. In the order they were given.
///
/// # Errors
/// The first that fails, in that order.
pub fn verified_all(tarballs: &[PathBuf]) -> Result<Vec<Hashed>, DistError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(tarballs.len());
    let queue = Mutex::new(tarballs.iter().enumerate());
    let mut outcomes: Vec<_> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let next = guard(&queue).next();
                let Some((at, tarball)) = next else { return done };
                done.push((at, verified(tarball)));
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("hashing does not panic")).collect()
    });
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tarball_goes_with_its_sidecar_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-1-x64.tar.gz");
        let error = || verified(&path).unwrap_err();
        let side = |text: &str| std::fs::write(sidecar_path(&path), text).unwrap();
        assert!(matches!(error(), DistError::Unreadable { path, .. } if path.ends_with("a-1-x64.tar.gz.sha256")));
        let bytes = [b"\x1f\x8b".as_slice(), &[7; 3_000_000]].concat();
        std::fs::write(&path, &bytes).unwrap();
        let sha256 = Sha256Digest::of(&bytes);
        assert_eq!(sidecar(&sha256, &path), format!("{sha256}  a-1-x64.tar.gz\n"));
        for good in
            [sidecar(&sha256, &path), format!("{sha256} *a-1-x64.tar.gz"), format!("{sha256}\ta-1-x64.tar.gz\r\n")]
        {
            side(&good);
            assert_eq!(verified(&path).unwrap(), Hashed { layers: None, sha256, size_bytes: bytes.len() as u64 });
        }
        for bad in ["", "x  a-1-x64.tar.gz", &sha256.to_string(), &format!("{sha256}  b-1-x64.tar.gz")] {
            side(bad);
            assert!(matches!(error(), DistError::Sidecar { .. }), "{bad}: {}", error());
        }
        assert!(error().to_string().ends_with(&format!("found `{sha256}  b-1-x64.tar.gz`")), "{}", error());
        side("\x1b[31m\nmore");
        assert!(!error().to_string().contains('\x1b'), "{}", error());
        side(&format!("{}  a-1-x64.tar.gz\n", "0".repeat(64)));
        assert!(matches!(error(), DistError::Mismatch { found, .. } if found == sha256));
        side(&sidecar(&sha256, &path));
        for (bytes, words) in [(&b""[..], "it is empty"), (b"<html>", "neither like gzip")] {
            std::fs::write(&path, bytes).unwrap();
            assert!(error().to_string().contains(words), "{}", error());
        }
    }

    #[test]
    fn a_list_of_members_lists_all_of_them_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-1-x64.tar.gz");
        let mut members = crate::publish::members::Members::new(Vec::new(), 6);
        std::io::Write::write_all(&mut members, &[7; 10_000_000]).unwrap();
        let (bytes, written) = members.finish().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(sidecar_path(&path), sidecar(&written.sha256, &path)).unwrap();
        let list = |members: &[crate::model::Member]| {
            std::fs::write(layers_path(&path), serde_json::to_vec(members).unwrap()).unwrap()
        };
        list(&written.members);
        let of = std::fs::read(layers_path(&path)).unwrap();
        assert_eq!(verified(&path).unwrap().layers, Some(Sha256Digest::of(of)));
        for (bad, why) in
            [(&written.members[1..], "instead of 0"), (&written.members[..1], "make up its"), (&[], "make up its")]
        {
            list(bad);
            let said = verified(&path).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        std::fs::write(layers_path(&path), "{}").unwrap();
        assert!(matches!(verified(&path).unwrap_err(), DistError::Layers { .. }));
    }

    #[test]
    fn many_are_hashed_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let make = |n: u8| {
            let path = dir.path().join(format!("{n}.tar.gz"));
            let bytes = [0x1f, 0x8b, n];
            std::fs::write(&path, bytes).unwrap();
            let sha256 = Sha256Digest::of(bytes);
            std::fs::write(sidecar_path(&path), sidecar(&sha256, &path)).unwrap();
            (path, Hashed { layers: None, sha256, size_bytes: 3 })
        };
        let (paths, hashed): (Vec<_>, Vec<_>) = (0..20).map(make).unzip();
        assert_eq!(verified_all(&paths).unwrap(), hashed);
        assert_eq!(verified_all(&[]).unwrap(), []);
    }
}
