//! An image from Podman into a dist directory: pulled or built for the wanted platform, saved, rewritten, packed and hashed in
//! one pass.
//!
//! Podman is left as it was: a name that pointed to another image points there again, and an image that was not there before goes.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use serde::Serialize;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::archive::{self, ArchiveError, oci_arch};
use super::bundle::{Build, BundleAgent};
use super::dist;
use super::members::Written;
use super::packing::Packing;
use super::place;
use crate::backend::podman::{Api, BuildImage, is_of_a_layer_gone};
use crate::backend::{ByteStream, EngineError, Progress, written};
use crate::model::{Arch, ArtifactKey, ImageId, ImageRef, Images, Sha256Digest};

/// What the file of instructions is called where nobody says.
const CONTAINERFILES: [&str; 2] = ["Containerfile", "Dockerfile"];

/// So often is built what fails only since somebody else removes images meanwhile.
const BUILD_TRIES: u32 = 5;

/// A tarball that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    /// Of which agent.
    pub agent: String,
    /// For which architecture.
    pub arch: Arch,
    /// The key it is published under.
    pub key: ArtifactKey,
    /// Where it lies.
    pub path: PathBuf,
    /// What its bytes hash to.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
}

/// Why there is no tarball.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarballError {
    /// Podman.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What it saved is not what was asked for.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The dist directory.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It was to stop.
    #[error("interrupted")]
    Interrupted,
    /// What an image is to be built from.
    #[error("cannot build agent `{agent}` from `{}`: {why}", context.display())]
    Context {
        /// Of which agent.
        agent: String,
        /// The context.
        context: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Where tarballs go, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct To<'a> {
    /// The dist directory.
    pub out: &'a Path,
    /// How they are packed.
    pub packing: Packing,
}

/// Makes the tarball of an agent for an architecture. `said` hears what is done.
///
/// # Errors
/// When the image is unavailable, is built for something else, or cannot be written. What lay there before is as it was.
pub(crate) async fn tarball(
    podman: &Api,
    agent: &BundleAgent,
    arch: Arch,
    to: &To<'_>,
    cancel: &CancellationToken,
    said: &(dyn Fn(&str) + Send + Sync),
) -> Result<Made, TarballError> {
    let reference = agent.reference();
    let before = podman.images().await?;
    let platform = format!("linux/{}", oci_arch(arch));
    let had = async {
        match &agent.build {
            None => {
                said(&format!("pulling `{reference}` for {platform}"));
                Ok(podman.pull_for(&reference, Some(&platform), Progress::new(0)).await?)
            }
            Some(build) => built(podman, agent, build, &platform, said).await,
        }
    };
    let had = tokio::select! {
        had = had => had,
        () = cancel.cancelled() => Err(TarballError::Interrupted),
    };
    let image = match had {
        Ok(image) => image,
        Err(err) => {
            restore(podman, &reference, None, &before).await;
            return Err(err);
        }
    };
    said(&format!("saving `{reference}` for {arch}"));
    let made = saved(podman, agent, &image, arch, to, cancel).await;
    restore(podman, &reference, Some(&image), &before).await;
    made
}

async fn built(
    podman: &Api,
    agent: &BundleAgent,
    build: &Build,
    platform: &str,
    said: &(dyn Fn(&str) + Send + Sync),
) -> Result<ImageId, TarballError> {
    let Build { context, containerfile, args } = build;
    let wrong = |why: String| TarballError::Context { agent: agent.name.to_string(), context: context.clone(), why };
    if !context.is_dir() {
        return Err(wrong("it is not a directory".to_owned()));
    }
    let containerfile = match containerfile {
        Some(file) => file.clone(),
        None => CONTAINERFILES
            .iter()
            .map(PathBuf::from)
            .find(|file| context.join(file).is_file())
            .ok_or_else(|| wrong(format!("it has no {}", CONTAINERFILES.join(" and no "))))?,
    };
    if !context.join(&containerfile).is_file() {
        return Err(wrong(format!("it has no `{}`", containerfile.display())));
    }
    let reference = agent.reference();
    let build = BuildImage { reference: &reference, platform, containerfile: &containerfile, args };
    said(&format!("building `{reference}` for {platform}"));
    let mut tries = 1;
    loop {
        match podman.build(&build, packed_directory(context.clone()), |line| said(line)).await {
            Err(err) if tries < BUILD_TRIES && is_of_a_layer_gone(&err) => {
                said("somebody else removed a layer that this build was about to use; building again");
                tries += 1;
            }
            outcome => return Ok(outcome?),
        }
    }
}

/// A directory as a tar, as it is read.
fn packed_directory(dir: PathBuf) -> ByteStream {
    written(256 * 1024, move |out| {
        let mut archive = tar::Builder::new(out);
        archive.follow_symlinks(false);
        archive.append_dir_all("", &dir).and_then(|()| archive.into_inner()?.flush())
    })
}

async fn saved(
    podman: &Api,
    agent: &BundleAgent,
    image: &ImageId,
    arch: Arch,
    To { out, packing }: &To<'_>,
    cancel: &CancellationToken,
) -> Result<Made, TarballError> {
    let packing = *packing;
    let path = dist::tarball_path(out, agent, arch, packing);
    let not_written = |path: &Path| {
        let path = path.to_owned();
        move |err| TarballError::Write { path, err }
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(not_written(dir))?;
    }
    // An archive that breaks off is none: nothing takes the place of what lies there.
    let stream = podman.save(image).await?.take_until(cancel.clone().cancelled_owned());
    let stream = SyncIoBridge::new(StreamReader::new(Box::pin(stream)));
    let (reference, to) = (agent.reference(), path.clone());
    let copy = tokio::task::spawn_blocking(move || -> Result<Written, TarballError> {
        let place = place::begin(&to).map_err(not_written(&to))?;
        let written = copied(stream, place.file(), &to, &reference, arch, packing)?;
        place.place(true).map_err(not_written(&to))?;
        Ok(written)
    });
    let copied = copy.await.map_err(|err| io::Error::other(err.to_string())).map_err(ArchiveError::from)?;
    let written = match copied {
        Err(_) if cancel.is_cancelled() => return Err(TarballError::Interrupted),
        copied => copied?,
    };
    // The tarball first: until all three are there they do not go together, and are refused.
    let layers = dist::layers_path(&path);
    match packing {
        Packing::Gzip => {
            let list = serde_json::to_vec(&written.members).map_err(io::Error::from).map_err(not_written(&layers))?;
            place::write(&layers, &[&list[..], b"\n"].concat()).map_err(not_written(&layers))?;
        }
        Packing::Zstd => match std::fs::remove_file(&layers) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(not_written(&layers)(err)),
            _ => {}
        },
    }
    let sidecar = dist::sidecar_path(&path);
    place::write(&sidecar, dist::sidecar(&written.sha256, &path).as_bytes()).map_err(not_written(&sidecar))?;
    let Written { sha256, size_bytes, .. } = written;
    Ok(Made { agent: agent.name.to_string(), arch, key: agent.key(arch, packing), path, sha256, size_bytes })
}

/// Copies an archive into the file that is to lie at `path`. What fails on its side is told from what fails on Podman's.
fn copied(
    from: impl Read,
    to: &File,
    path: &Path,
    image: &ImageRef,
    arch: Arch,
    packing: Packing,
) -> Result<Written, TarballError> {
    struct NotesFailure<'a> {
        to: &'a File,
        failed: &'a Cell<Option<io::Error>>,
    }
    impl Write for NotesFailure<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.to.write(bytes).inspect_err(|err| {
                let again = err.raw_os_error().map_or_else(|| err.kind().into(), io::Error::from_raw_os_error);
                self.failed.set(Some(again));
            })
        }
        fn flush(&mut self) -> io::Result<()> {
            self.to.flush()
        }
    }
    let failed = Cell::new(None);
    let writer = BufWriter::with_capacity(1024 * 1024, NotesFailure { to, failed: &failed });
    let copied = archive::copy(from, writer, image, arch, packing);
    match (copied, failed.take()) {
        (Ok((_, written)), _) => Ok(written),
        (Err(_), Some(err)) if err.kind() != io::ErrorKind::Interrupted => {
            Err(TarballError::Write { path: path.to_owned(), err })
        }
        (Err(err), _) => Err(err.into()),
    }
}

/// Leaves Podman as it was. What cannot be undone is left, and told in the log.
async fn restore(podman: &Api, reference: &ImageRef, image: Option<&ImageId>, before: &Images) {
    let full = reference.qualified();
    let undone = async {
        match (before.names.get(&full), image) {
            (Some(old), image) if image != Some(old) => podman.tag(old, &full).await?,
            (None, Some(image)) => podman.untag(image, &full).await?,
            _ => {}
        }
        match image {
            Some(image) if !before.store.contains_key(image) => podman.remove_image(image).await,
            _ => Ok(()),
        }
    };
    if let Err(err) = undone.await {
        tracing::warn!(image = %reference, error = %crate::error::Chain(&err), "cannot leave Podman as it was");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::archive::tests::of_one_layer;

    #[test]
    fn a_full_disk_is_not_what_podman_saved() {
        let image = ImageRef::new("r.example/a:1").unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (path, archive) = (Path::new("dist/a.tar.gz"), of_one_layer(&[7; 5000]));
        for packing in Packing::ALL {
            let copied = |archive: &[u8]| copied(archive, &full, path, &image, Arch::X64, packing).unwrap_err();
            let err = copied(&archive);
            assert!(
                matches!(&err, TarballError::Write { path: at, err } if at == path && err.kind() == io::ErrorKind::StorageFull),
                "{err}"
            );
            let err = copied(&archive[..archive.len() / 2]);
            assert!(!matches!(err, TarballError::Write { .. }) || packing == Packing::Zstd, "{err}");
        }
    }
}
