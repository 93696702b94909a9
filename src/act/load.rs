//! From a tarball in the cache to a named image in the engine.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt;

use super::ActError;
use crate::backend::{ByteStream, Engine, EngineError, EngineErrorKind, Progress, Store, StoreError, Vm, World};
use crate::model::{Artifact, ImageId, ImageRef};

pub(super) async fn load<V: Vm, E: Engine, S: Store>(
    world: &World<V, E, S>,
    artifact: &Artifact,
    reference: &ImageRef,
    tag: Option<&ImageId>,
    progress: Arc<Progress>,
) -> Result<(), ActError> {
    if let Some(image) = tag {
        return Ok(world.engine.tag(image, reference).await?);
    }
    let names = match seen(world, artifact).await {
        Some(names) => names,
        None => sent(world, artifact, progress).await?,
    };
    let image = named(world, artifact, reference, &names).await?;
    // A failure costs a second load next time, nothing else.
    if let Err(err) = world.store.remember_image(artifact.sha256, &image).await {
        tracing::warn!(error = %crate::error::Chain(&err), "cannot remember which image an artifact yields");
    }
    Ok(())
}

/// Loaded from where the engine's machine sees the tarball. `None` where it does not, or could not load it from there.
async fn seen<V, E: Engine, S: Store>(world: &World<V, E, S>, artifact: &Artifact) -> Option<Vec<String>> {
    let file = world.engine.sees(&world.store.file(&artifact.key)?)?;
    match world.engine.load_seen(&file).await {
        Ok(names) => Some(names),
        Err(err) => {
            tracing::info!(error = %crate::error::Chain(&err), "the VM cannot load what it sees of the cache: sending it");
            None
        }
    }
}

/// Sent through, decompressed on the way.
async fn sent<V, E: Engine, S: Store>(
    world: &World<V, E, S>,
    artifact: &Artifact,
    progress: Arc<Progress>,
) -> Result<Vec<String>, ActError> {
    let broken = Arc::new(Mutex::new(None));
    let tar = watched(world.store.open(&artifact.key, progress).await?, broken.clone());
    world.engine.load(tar).await.map_err(|err| match taken(&broken) {
        Some(cause) => ActError::Store(cause),
        None => err.into(),
    })
}

/// The same stream. Should the store break it off, its reason is kept in `broken`: engines only pass on the words.
fn watched(tar: ByteStream, broken: Arc<Mutex<Option<StoreError>>>) -> ByteStream {
    Box::pin(tar.map_err(move |err| {
        let words = err.to_string();
        let cause = err.into_inner().and_then(|inner| inner.downcast::<StoreError>().ok());
        *broken.lock().unwrap_or_else(PoisonError::into_inner) = cause.map(|cause| *cause);
        std::io::Error::other(words)
    }))
}

fn taken(broken: &Mutex<Option<StoreError>>) -> Option<StoreError> {
    broken.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The image that was loaded, under the wanted name. A tarball without a name is given it; one with another name is
/// refused, since then it is not what the manifest says it is.
async fn named<V: Vm, E: Engine, S: Store>(
    world: &World<V, E, S>,
    artifact: &Artifact,
    reference: &ImageRef,
    names: &[String],
) -> Result<ImageId, ActError> {
    let is_wanted = |name: &String| ImageRef::new(name.as_str()).is_ok_and(|name| name.qualified() == *reference);
    if names.iter().any(is_wanted) {
        return world.engine.image(reference).await?.ok_or_else(|| {
            let sentence = format!("Podman said it loaded `{reference}`, and does not have it");
            ActError::Engine(EngineError::new(EngineErrorKind::Unknown, sentence))
        });
    }
    if let [only] = names
        && let Some(id) = only.strip_prefix("sha256:")
    {
        let image = ImageId::from(id);
        world.engine.tag(&image, reference).await?;
        return Ok(image);
    }
    Err(ActError::OtherImage { artifact: artifact.key.to_string(), wanted: reference.clone(), found: names.to_vec() })
}
