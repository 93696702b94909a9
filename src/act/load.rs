//! From a tarball in the cache to an image in the engine, and out of it again.
//!
//! The store hands out nothing of a tarball but the image that is wanted, and that without a name. It is given its name
//! here, unless the name points to an image that somebody else gave it to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use super::ActError;
use crate::backend::{ByteStream, Engine, EngineError, EngineErrorKind, Progress, Store, StoreError, Vm, World};
use crate::error::Chain;
use crate::model::{Artifact, ImageId, ImageRef, Images};
use crate::mutex::guard;

/// What is to be loaded, and for which name.
pub(super) struct Load<'a> {
    pub artifact: &'a Artifact,
    pub reference: &'a ImageRef,
    /// The image is there already and lacks only the name.
    pub tag: Option<&'a ImageId>,
    /// The image that the name may be moved on from.
    pub supersedes: Option<&'a ImageId>,
    /// The image that keeps the name, since another state file gave it.
    pub leaves: Option<&'a ImageId>,
}

pub(super) async fn load<V: Vm, E: Engine, S: Store>(
    world: &World<V, E, S>,
    load: Load<'_>,
    progress: Arc<Progress>,
) -> Result<(), ActError> {
    let Load { artifact, reference, tag, supersedes, leaves } = load;
    if let Some(image) = tag {
        return Ok(world.engine.tag(image, reference).await?);
    }
    let before = world.engine.images().await?;
    forget_the_gone(world, &before).await;
    let image = match seen(world, &load, &before).await {
        Some(image) => image,
        None => sent(world, artifact, reference, progress).await?,
    };
    let brought = (!before.store.contains_key(&image)).then_some(reference);
    // A failure costs a second load next time, nothing else.
    if let Err(err) = world.store.remember_image(artifact.sha256, &image, brought).await {
        tracing::warn!(error = %Chain(&err), "cannot remember which image an artifact yields");
    }
    let named = before.names.get(reference);
    // A digest is no name that could be given.
    if reference.is_digest() || named == Some(&image) || named.is_some() && named == leaves {
        return Ok(());
    }
    match named.filter(|named| Some(*named) != supersedes) {
        None => Ok(world.engine.tag(&image, reference).await?),
        Some(named) if was_fetched(world, named, reference).await => Ok(()),
        Some(named) => Err(ActError::ImageNameTaken { reference: reference.clone(), held_by: named.clone() }),
    }
}

/// Whether another state file of this root brought an image under this name meanwhile.
async fn was_fetched<V, E, S: Store>(world: &World<V, E, S>, image: &ImageId, reference: &ImageRef) -> bool {
    let loaded = world.store.loaded_images().await.unwrap_or_default();
    loaded.get(image).is_some_and(|loaded| loaded.reference == *reference)
}

/// An image that was loaded, and removed by somebody since, is whose it is who brings it next.
async fn forget_the_gone<V, E, S: Store>(world: &World<V, E, S>, there: &Images) {
    for image in world.store.loaded_images().await.unwrap_or_default().into_keys() {
        if !there.store.contains_key(&image) {
            let _ = world.store.forget_image(&image).await;
        }
    }
}

/// Loaded from where the engine's machine sees the tarball, as it is. `None` where it does not, or could not load it from
/// there, and where something in it but the wanted image could come along.
async fn seen<V, E: Engine, S: Store>(world: &World<V, E, S>, load: &Load<'_>, before: &Images) -> Option<ImageId> {
    let Load { artifact, reference, supersedes, .. } = load;
    let file = world.engine.sees(&world.store.file(artifact)?)?;
    let named = before.names.get(*reference);
    if named.is_some() && named != *supersedes {
        return None;
    }
    // What is too much is told by whoever sends it.
    let unpacked = world.store.holds_only(artifact, reference).await.ok().flatten()?;
    if unpacked > UNQUESTIONED && room(world).await.is_some_and(|room| unpacked > room) {
        return None;
    }
    let loaded = async {
        let names = world.engine.load_seen(&file).await?;
        match names.iter().find_map(|name| name.strip_prefix("sha256:")) {
            Some(id) => Ok(Some(ImageId::from(id))),
            None => world.engine.image(reference).await,
        }
    };
    match loaded.await {
        Ok(image) => image,
        Err(err) => {
            tracing::info!(error = %Chain(&err), "the VM cannot load what it sees of the cache: sending it");
            None
        }
    }
}

/// Sent through, decompressed on the way. Where the answer to a whole one is lost, it is sent again: what is there already
/// changes nothing, and its answer says which image it is.
async fn sent<V, E: Engine, S: Store>(
    world: &World<V, E, S>,
    artifact: &Artifact,
    reference: &ImageRef,
    progress: Arc<Progress>,
) -> Result<ImageId, ActError> {
    let sending = Arc::new(Sending::default());
    let send = async || {
        let tar = world.store.open_image(artifact, reference, progress.clone()).await?;
        tokio::select! {
            loaded = world.engine.load(sending.watch(tar)) => loaded.map_err(|err| match sending.broken() {
                Some(cause) => ActError::Store(cause),
                None => err.into(),
            }),
            // Podman sees an archive that breaks off, and keeps nothing of it.
            (unpacked, room) = overflows(world, &sending) => Err(ActError::NoRoom { image: reference.clone(), unpacked, room }),
        }
    };
    let names = match send().await {
        Err(ActError::Engine(err)) if err.kind == EngineErrorKind::TransportUnavailable && sending.is_whole() => {
            tracing::info!(error = %err, "the answer to a load was lost; the image is sent again");
            progress.set(0);
            send().await?
        }
        outcome => outcome?,
    };
    match names.as_slice() {
        [only] if only.starts_with("sha256:") => Ok(ImageId::from(only.as_str())),
        names => {
            let sentence = format!("Podman was sent one image without a name, and says it loaded {}", names.join(", "));
            Err(EngineError::new(EngineErrorKind::Unknown, sentence).into())
        }
    }
}

/// Archives up to this length are sent without asking how much room there is: an answer takes as long as loading them.
const UNQUESTIONED: u64 = 64 * 1024 * 1024;

/// Ends once more has been sent than there is room left for: it has to be unpacked yet. Asked again after a part of the room,
/// so that whatever an archive unpacks to, the disk is never filled with it.
async fn overflows<V, E: Engine, S>(world: &World<V, E, S>, sending: &Sending) -> (u64, u64) {
    let mut sent = sending.sent.subscribe();
    let mut next = UNQUESTIONED;
    loop {
        let Ok(there) = sent.wait_for(|sent| *sent >= next).await.map(|sent| *sent) else {
            return std::future::pending().await;
        };
        let Some(room) = room(world).await else { return std::future::pending().await };
        if there > room {
            return (there, room);
        }
        next = there + ((room - there) / 4).max(UNQUESTIONED);
    }
}

/// `None` where that cannot be told.
async fn room<V, E: Engine, S>(world: &World<V, E, S>) -> Option<u64> {
    let room = world.engine.room().await;
    room.inspect_err(|err| tracing::info!(error = %Chain(err), "cannot tell how much room Podman has")).ok().flatten()
}

/// What is seen of an archive on its way to an engine.
#[derive(Default)]
struct Sending {
    /// How many bytes went, of the latest try.
    sent: watch::Sender<u64>,
    whole: AtomicBool,
    broken: Mutex<Option<StoreError>>,
}

impl Sending {
    /// The same stream. Should the store break it off, its reason is kept: engines only pass on the words.
    fn watch(self: &Arc<Self>, tar: ByteStream) -> ByteStream {
        let (on_break, at_end, counted) = (self.clone(), self.clone(), self.clone());
        self.sent.send_replace(0);
        let tar = tar.map_err(move |err| {
            let words = err.to_string();
            let cause = err.into_inner().and_then(|inner| inner.downcast::<StoreError>().ok());
            *guard(&on_break.broken) = cause.map(|cause| *cause);
            std::io::Error::other(words)
        });
        let tar = tar.inspect_ok(move |bytes| counted.sent.send_modify(|sent| *sent += bytes.len() as u64));
        let end = stream::once(async move { at_end.whole.store(true, Ordering::Relaxed) });
        Box::pin(tar.chain(end.filter_map(|()| async { None })))
    }

    fn broken(&self) -> Option<StoreError> {
        guard(&self.broken).take()
    }

    /// Whether it was read to its end.
    fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }
}

/// Removes an image that was loaded for `reference`, unless somebody has named or used it meanwhile: then it is theirs.
pub(super) async fn prune<V, E: Engine, S: Store>(
    world: &World<V, E, S>,
    image: &ImageId,
    reference: &ImageRef,
) -> Result<(), ActError> {
    let there = world.engine.images().await?;
    let is_free = there.store.get(image).is_some_and(|state| {
        state.tags.iter().all(|tag| tag == reference) && state.containers.is_none_or(|containers| containers == 0)
    });
    if is_free {
        match world.engine.remove_image(image).await {
            Err(err) if err.kind == EngineErrorKind::Conflict => {}
            outcome => outcome?,
        }
    }
    Ok(world.store.forget_image(image).await?)
}
