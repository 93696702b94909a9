//! From a tarball in the cache to a named image in the engine.

use std::sync::Arc;

use super::ActError;
use crate::backend::{Engine, EngineError, EngineErrorKind, Progress, Store, World};
use crate::model::{Artifact, ImageId, ImageRef};

pub(super) async fn load<E: Engine, S: Store>(
    world: &World<E, S>,
    artifact: &Artifact,
    reference: &ImageRef,
    tag: Option<&ImageId>,
    progress: Arc<Progress>,
) -> Result<(), ActError> {
    if let Some(image) = tag {
        return Ok(world.engine.tag(image, reference).await?);
    }
    let tar = world.store.open(&artifact.key, progress).await?;
    let names = world.engine.load(tar).await?;
    let image = named(world, artifact, reference, &names).await?;
    // A failure costs a second load next time, nothing else.
    if let Err(err) = world.store.remember_image(artifact.sha256, &image).await {
        tracing::warn!(error = %crate::error::Chain(&err), "cannot remember which image an artifact yields");
    }
    Ok(())
}

/// The image that was loaded, under the wanted name. A tarball without a name is given it; one with another name is
/// refused, since then it is not what the manifest says it is.
async fn named<E: Engine, S: Store>(
    world: &World<E, S>,
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
