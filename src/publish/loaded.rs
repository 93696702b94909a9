//! A tarball in a Podman of our own: nothing may be in it but the image it is published for.

use std::path::{Path, PathBuf};

use super::archive::oci_arch;
use super::bundle::BundleAgent;
use super::dist::{self, DistError, Hashed};
use crate::backend::cache::plain;
use crate::backend::podman::{Api, ThrowawayError};
use crate::backend::{EngineError, EngineErrorKind, Progress};
use crate::files::regular;
use crate::model::ids::clean;
use crate::model::{Arch, ImageId, ImageRef};

/// How many names an error lists.
const MAX_LISTED: usize = 10;

/// Why a tarball is not what it is published as.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadedError {
    /// It, or its sidecar.
    #[error(transparent)]
    Dist(#[from] DistError),
    /// There is no Podman to load it into.
    #[error(transparent)]
    Throwaway(#[from] ThrowawayError),
    /// Podman.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Podman does not take it for an archive of images.
    #[error("`{}` is not an archive of an image that Podman loads: {why}", path.display())]
    NotAnImage {
        /// The tarball.
        path: PathBuf,
        /// What Podman says.
        why: String,
    },
    /// There is no room for it.
    #[error("no space is left in `{}`, where a private Podman stores what it loads: {why}", dir.display())]
    Full {
        /// The directory.
        dir: PathBuf,
        /// What Podman says.
        why: String,
    },
    /// It holds something else, or something else as well.
    #[error("`{}` holds {}, not `{wanted}` alone", path.display(), listed(found))]
    Other {
        /// The tarball.
        path: PathBuf,
        /// The image that is wanted.
        wanted: ImageRef,
        /// The names in it; an image without one is called by its id.
        found: Vec<String>,
    },
    /// It is built for something else.
    #[error("image `{image}` in `{}` is built for {found}, not for linux/{wanted}", path.display())]
    Architecture {
        /// The tarball.
        path: PathBuf,
        /// Its name.
        image: ImageRef,
        /// What its configuration says, e.g. `linux/arm64`.
        found: String,
        /// What was asked for, as images call it.
        wanted: &'static str,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "no image".to_owned();
    }
    let shown =
        names.iter().take(MAX_LISTED).map(|name| format!("`{}`", clean(name, 200))).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Whether Podman says that it has no room left.
fn is_full(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["no space left on device", "disk quota exceeded"].iter().any(|words| message.contains(words))
}

/// Hashes a tarball beside everything else, and compares it with its sidecar.
///
/// # Errors
/// As [`dist::verified`].
pub(crate) async fn verified(tarball: &Path) -> Result<Hashed, LoadedError> {
    let path = tarball.to_owned();
    let hashed = tokio::task::spawn_blocking(move || dist::verified(&path)).await;
    let lost = |err: tokio::task::JoinError| EngineError::new(EngineErrorKind::Unknown, err.to_string());
    Ok(hashed.map_err(lost)??)
}

/// Loads a tarball into a Podman in which nothing else is and which keeps all in `dir`, and checks that it holds the agent's image,
/// built for `arch`, and nothing beside.
///
/// # Errors
/// When it cannot be loaded, or holds anything else.
pub(crate) async fn load(
    podman: &Api,
    dir: &Path,
    tarball: &Path,
    agent: &BundleAgent,
    arch: Arch,
) -> Result<ImageId, LoadedError> {
    let path = || tarball.to_owned();
    let file = regular::open(tarball).map_err(|err| DistError::Unreadable { path: path(), err: err.into() })?;
    podman.load(plain(file, Progress::new(0))).await.map_err(|err| match err.kind {
        // That says nothing of the archive, which Podman would blame.
        _ if is_full(&err.message) => LoadedError::Full { dir: dir.to_owned(), why: clean(&err.message, 500) },
        // The archive's own fault, by what Podman says of it and by what breaks off before Podman has seen all of it.
        EngineErrorKind::ApiError | EngineErrorKind::Unknown | EngineErrorKind::NotFound => {
            LoadedError::NotAnImage { path: path(), why: clean(&err.message, 500) }
        }
        _ => err.into(),
    })?;
    let images = podman.images().await?;
    let image = agent.reference();
    let full = image.qualified();
    let names = images.store.iter().flat_map(|(id, state)| match state.tags.len() {
        0 => vec![id.short().to_owned()],
        _ => state.tags.iter().map(ToString::to_string).collect(),
    });
    let found: Vec<_> = names.collect();
    let (Some(id), [name]) = (images.names.get(&full), found.as_slice()) else {
        return Err(LoadedError::Other { path: path(), wanted: image, found });
    };
    if *name != full.to_string() {
        return Err(LoadedError::Other { path: path(), wanted: image, found });
    }
    let facts = podman.image_facts(id.as_str()).await?.unwrap_or_default();
    if facts.os != "linux" || facts.arch != oci_arch(arch) {
        let found = match (facts.os.as_str(), facts.arch.as_str()) {
            ("", "") => "nothing that it tells".to_owned(),
            (os, arch) => format!("{}/{}", clean(os, 50), clean(arch, 50)),
        };
        return Err(LoadedError::Architecture { path: path(), image, found, wanted: oci_arch(arch) });
    }
    Ok(id.clone())
}
