//! The tarballs of a dist directory, pushed to an OCI registry for engines that pull: the same images, by the same ids.
//!
//! Each is pushed as `REGISTRY/<name>:<version>-<arch>`. `REGISTRY/<name>:<version>` is the list of them, or the image itself
//! where there is one architecture; it is pushed last, so it never names what is not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::bundle::BundleAgent;
use super::dist;
use super::loaded::{self, LoadedError};
use super::manifest::{Input, PublishError};
use crate::backend::podman::{PushTo, Throwaway};
use crate::backend::{EngineError, EngineErrorKind};
use crate::backoff::Backoff;
use crate::model::ids::IdError;
use crate::model::{Arch, ArtifactKey, ImageId, ImageRef, Sha256Digest};

/// How often a push is tried in all. Podman tries again by itself as well.
const TRIES: u32 = 3;

/// What is to be pushed, and where to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegistryRequest<'a> {
    /// Host, and path below it: `ghcr.io/openclaw`.
    pub registry: &'a str,
    /// Whether it must speak TLS, with a certificate that is trusted.
    pub tls_verify: bool,
    /// The agents.
    pub agents: &'a [&'a BundleAgent],
    /// For which architectures.
    pub arches: &'a [Arch],
    /// The directory with the tarballs and their sidecars.
    pub dist_dir: &'a Path,
}

/// An agent that was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pushed {
    /// Which.
    pub agent: String,
    /// What to pull.
    pub reference: ImageRef,
    /// The digest of its list of images, or of the one image's manifest.
    pub digest: String,
    /// Its images.
    pub platforms: Vec<PushedImage>,
}

/// One image of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PushedImage {
    /// For which architecture.
    pub arch: Arch,
    /// What to pull.
    pub reference: ImageRef,
    /// The digest of its manifest.
    pub digest: String,
    /// The id of the image, which is that of the tarball's.
    pub image_id: ImageId,
    /// The key of the tarball it comes from.
    pub key: ArtifactKey,
}

/// Why it was not pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// There is no such place.
    #[error("`{registry}` is not a registry: {why}")]
    Registry {
        /// What was given.
        registry: String,
        /// What is wrong with it.
        why: String,
    },
    /// What is to be pushed is not there, or not right.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A tarball is not what it is published as.
    #[error(transparent)]
    Loaded(#[from] LoadedError),
    /// The registry, or Podman.
    #[error(transparent)]
    Push(#[from] EngineError),
    /// It was to stop.
    #[error("interrupted")]
    Interrupted,
}

/// A tarball and the name it is pushed by.
struct Image<'a> {
    agent: &'a BundleAgent,
    arch: Arch,
    key: ArtifactKey,
    path: PathBuf,
    reference: ImageRef,
}

/// Pushes the verified tarballs of a dist directory. Podman as its user has it is not touched: they go through one of our own.
/// Nothing is pushed before all tarballs are there and verified. `vars` is the environment, `said` hears what goes on.
///
/// # Errors
/// When anything that is wanted is not there or not right, or the registry does not take it. What was pushed before stays.
pub(crate) async fn push(
    request: &RegistryRequest<'_>,
    vars: &BTreeMap<String, String>,
    cancel: &CancellationToken,
    said: &(dyn Fn(&str) + Send + Sync),
) -> Result<Vec<Pushed>, RegistryError> {
    let images = wanted(request)?;
    let paths: Vec<_> = images.iter().map(|image| image.path.clone()).collect();
    let verified = tokio::task::spawn_blocking(move || dist::verified_all(&paths));
    tokio::select! {
        verified = verified => verified.map_err(lost)?.map_err(PublishError::from)?,
        () = cancel.cancelled() => return Err(RegistryError::Interrupted),
    };
    let mut podman = Throwaway::start(vars).await.map_err(LoadedError::from)?;
    let pushed = tokio::select! {
        pushed = push_all(request, &images, &mut podman, said) => pushed,
        () = cancel.cancelled() => Err(RegistryError::Interrupted),
    };
    podman.close().await;
    pushed
}

fn lost(err: tokio::task::JoinError) -> EngineError {
    EngineError::new(EngineErrorKind::Unknown, err.to_string())
}

fn wanted<'a>(request: &RegistryRequest<'a>) -> Result<Vec<Image<'a>>, RegistryError> {
    let mut images = Vec::new();
    for agent in request.agents {
        for arch in request.arches {
            let reference = reference(request.registry, agent, Some(*arch))?;
            let input = Input::find(agent, *arch, request.dist_dir)?;
            images.push((input, reference));
        }
    }
    let mut missing = Vec::new();
    for (input, _) in &images {
        missing.extend(input.lacks()?.map(|path| (input, path)));
    }
    if let Some((input, path)) = missing.first() {
        let (agent, path, more) = (input.agent.name.to_string(), path.clone(), missing.len() - 1);
        return Err(PublishError::MissingInputs { agent, arch: input.arch, path, more }.into());
    }
    let image = |(input, reference): (Input<'a>, ImageRef)| {
        let Input { agent, arch, packing, path } = input;
        Image { agent, arch, key: agent.key(arch, packing), path, reference }
    };
    Ok(images.into_iter().map(image).collect())
}

/// What an agent is called in a registry.
fn reference(registry: &str, agent: &BundleAgent, arch: Option<Arch>) -> Result<ImageRef, RegistryError> {
    let wrong = |why: String| RegistryError::Registry { registry: registry.to_owned(), why };
    if let Some((scheme, _)) = registry.split_once("://") {
        return Err(wrong(format!("it is written without `{scheme}://`")));
    }
    let path = registry.trim_end_matches('/');
    let host = path.split('/').next().unwrap_or_default();
    if !(host == "localhost" || host.contains('.') || host.contains(':')) {
        return Err(wrong("it begins with no host, as `ghcr.io/openclaw` does".to_owned()));
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    if path.contains('@') || last != host && last.contains(':') {
        return Err(wrong("it names an image, and the names and versions of agents are joined to it".to_owned()));
    }
    let version = match arch {
        Some(arch) => format!("{}-{arch}", agent.version),
        None => agent.version.clone(),
    };
    let name = format!("{path}/{}", agent.name);
    ImageRef::join(&name, &version).map_err(|err: IdError| wrong(err.to_string()))
}

async fn push_all(
    request: &RegistryRequest<'_>,
    images: &[Image<'_>],
    podman: &mut Throwaway,
    said: &(dyn Fn(&str) + Send + Sync),
) -> Result<Vec<Pushed>, RegistryError> {
    let mut pushed: Vec<Pushed> = Vec::new();
    for of_agent in images.chunk_by(|one, next| one.agent.name == next.agent.name) {
        let Some(Image { agent, .. }) = of_agent.first() else { continue };
        let reference = reference(request.registry, agent, None)?;
        let whole = PushTo { reference: &reference, tls_verify: request.tls_verify };
        let (mut platforms, mut digest) = (Vec::new(), None);
        for image in of_agent {
            let to = PushTo { reference: &image.reference, tls_verify: request.tls_verify };
            let dir = podman.dir().to_owned();
            let api = podman.api().await.map_err(LoadedError::from)?;
            let id = loaded::load(api, &dir, &image.path, agent, image.arch).await?;
            said(&format!("pushing `{}`", image.reference));
            let found = again(said, || podman.push(&id, to)).await?;
            if of_agent.len() == 1 {
                digest = Some(again(said, || podman.push(&id, whole)).await?);
            }
            // The next one is to be alone again.
            podman.api().await.map_err(LoadedError::from)?.remove_image(&id).await?;
            platforms.push(PushedImage {
                arch: image.arch,
                reference: image.reference.clone(),
                digest: digest_text(&found),
                image_id: id,
                key: image.key.clone(),
            });
        }
        let digest = match digest {
            Some(digest) => digest,
            None => {
                said(&format!("pushing `{reference}`, the list of {} images", platforms.len()));
                // By digest: somebody else may have moved the tags since.
                let named = |image: &PushedImage| {
                    let text = image.reference.to_string();
                    let repository = text.rsplit_once(':').map_or(text.as_str(), |(repository, _)| repository);
                    format!("{repository}@{}", image.digest)
                };
                let list: Vec<_> = platforms.iter().map(named).collect();
                again(said, || podman.push_list(&list, whole)).await?
            }
        };
        let (agent, digest) = (agent.name.to_string(), digest_text(&digest));
        pushed.push(Pushed { agent, reference, digest, platforms });
    }
    Ok(pushed)
}

fn digest_text(digest: &Sha256Digest) -> String {
    format!("sha256:{digest}")
}

/// Tries what may pass again.
async fn again<T, F: Future<Output = Result<T, EngineError>>>(
    said: &(dyn Fn(&str) + Send + Sync),
    attempt: impl Fn() -> F,
) -> Result<T, EngineError> {
    for failures in 1..TRIES {
        match attempt().await {
            Err(err) if err.kind.is_retryable() => said(&format!("{}; trying again", err.message)),
            done => return done,
        }
        tokio::time::sleep(Backoff::PUSH.delay(failures)).await;
    }
    attempt().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AgentName;

    #[test]
    fn an_agent_is_called_after_its_registry_name_version_and_architecture() {
        let agent = BundleAgent {
            name: AgentName::new("app").unwrap(),
            image: "quay.io/other/image".to_owned(),
            version: "1.2".to_owned(),
            build: None,
            smoke: None,
        };
        let named = |registry: &str, arch| reference(registry, &agent, arch).map(|name| name.to_string());
        assert_eq!(named("ghcr.io/a/b", None).unwrap(), "ghcr.io/a/b/app:1.2");
        assert_eq!(named("localhost:5000/", Some(Arch::X64)).unwrap(), "localhost:5000/app:1.2-x64");
        for (wrong, words) in [
            ("docker://ghcr.io/a", "without `docker://`"),
            ("https://ghcr.io", "without `https://`"),
            ("openclaw", "begins with no host"),
            ("", "begins with no host"),
            ("ghcr.io/a:1", "names an image"),
            ("ghcr.io/a@sha256:12", "names an image"),
            ("ghcr.io/A B", "is not a registry"),
        ] {
            let said = named(wrong, None).unwrap_err().to_string();
            assert!(said.contains(words), "{wrong}: {said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_and_what_does_not_is_reported_at_once() {
        let tries = std::sync::atomic::AtomicU32::new(0);
        let count = |kind| {
            let tries = &tries;
            async move {
                tries.store(0, std::sync::atomic::Ordering::Relaxed);
                let attempt = || async {
                    tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    Err::<(), _>(EngineError::new(kind, "no"))
                };
                again(&|_| {}, attempt).await.unwrap_err();
                tries.load(std::sync::atomic::Ordering::Relaxed)
            }
        };
        assert_eq!(count(EngineErrorKind::TransportUnavailable).await, TRIES);
        assert_eq!(count(EngineErrorKind::PermissionDenied).await, 1);
    }
}
