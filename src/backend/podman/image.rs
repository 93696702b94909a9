//! Images through Podman's API: which there are, loading, pulling, naming and removing them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::answer;
use super::api::Api;
use super::auth;
use super::emulation;
use super::error::{self, ANSWER_LIMIT};
use super::http::{Call, query, segment};
use super::lifecycle::unless_gone;
use super::upload::Upload;
use super::wire;
use crate::backend::{ByteStream, EngineError, EngineErrorKind, EngineMachine, ImageFacts, Progress};
use crate::model::{ImageId, ImageRef, Images};

/// How long a pull may go without any output. Podman sends none while it writes a layer to its storage.
const PULL_STALL: Duration = Duration::from_secs(5 * 60);
/// How long removing an image may take.
const REMOVE: Duration = Duration::from_secs(60);

impl Api {
    /// See [`crate::backend::Engine::images`].
    pub async fn images(&self) -> Result<Images, EngineError> {
        Ok(wire::images(&self.list_images(false).await?))
    }

    /// Images as Podman lists them; with `all`, those without a name too that others were made upon.
    pub(super) async fn list_images(&self, all: bool) -> Result<Value, EngineError> {
        let path = if all { "/images/json?all=true" } else { "/images/json" };
        let call = Call::get("list images", self.libpod(path).await?);
        let answer = self.send_list(&call).await?.json(&call)?;
        if !matches!(answer, Value::Array(_) | Value::Null) {
            return Err(call.unreadable("expected a list"));
        }
        Ok(answer)
    }

    /// See [`crate::backend::Engine::image`].
    pub async fn image(&self, reference: &ImageRef) -> Result<Option<ImageId>, EngineError> {
        let found = self.inspect_image(reference.as_str()).await?;
        Ok(found.as_ref().and_then(|image| image.get("Id")).and_then(Value::as_str).map(ImageId::from))
    }

    /// See [`crate::backend::Engine::image_facts`].
    pub async fn image_facts(&self, image: &str) -> Result<Option<ImageFacts>, EngineError> {
        Ok(self.inspect_image(image).await?.as_ref().map(wire::image_facts))
    }

    /// See [`crate::backend::Engine::machine`]. Podman forks several programs to answer that, so it is asked once.
    pub async fn machine(&self) -> Result<EngineMachine, EngineError> {
        if let Some(known) = self.known_machine() {
            return Ok(known);
        }
        let call = Call::get("ask Podman for its architecture", "/version");
        let told = self.typed(&call, |docker: Docker| async move { docker.version().await }).await?;
        let (Some(os), Some(arch)) = (told.os, told.arch) else {
            return Err(call.unreadable("it tells no architecture"));
        };
        let emulates = self.is_here().then(emulation::here);
        Ok(self.remember_machine(EngineMachine { os, arch, emulates }))
    }

    /// See [`crate::backend::Engine::room`]. Podman 4.3 asks all its helpers for their versions meanwhile: 170 ms.
    pub async fn room(&self) -> Result<Option<u64>, EngineError> {
        let call = Call::get("ask Podman for its free space", self.libpod("/info").await?);
        Ok(wire::room(&self.http().send(&call).await?.json(&call)?))
    }

    pub(super) async fn inspect_image(&self, name: &str) -> Result<Option<Value>, EngineError> {
        let path = self.libpod(&format!("/images/{}/json", segment(name))).await?;
        let call = Call::get(format!("inspect image `{name}`"), path);
        let Some(answer) = unless_gone(self.http().send(&call).await)? else { return Ok(None) };
        answer.json(&call).map(Some)
    }

    /// See [`crate::backend::Engine::load`].
    pub async fn load(&self, tar: ByteStream) -> Result<Vec<String>, EngineError> {
        let call = Call::post("load an image", self.libpod("/images/load").await?);
        let answer = answer::parse(&self.send_archive(&call, tar).await?).map_err(|why| call.unreadable(&why))?;
        let names = answer.get("Names").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        // 4.3 joins the names of one image with commas in some answers.
        let names: Vec<_> = names.flat_map(|line| line.split(',')).map(str::to_owned).collect();
        if names.is_empty() {
            return Err(call.unreadable("it names no image"));
        }
        Ok(names)
    }

    /// Sends an archive for as long as it moves.
    pub(super) async fn send_archive(&self, call: &Call, tar: ByteStream) -> Result<Bytes, EngineError> {
        let upload = Arc::new(Upload::new(&call.what));
        let watched = upload.clone();
        let ended = upload.clone();
        let body = tar
            .inspect(move |item| watched.saw(item))
            .chain(futures_util::stream::once(async move { ended.finished() }).filter_map(|()| async { None }));
        let sending = self.http().upload(call, reqwest::Body::wrap_stream(body));
        let result = tokio::select! {
            result = sending => result,
            // Dropping the request closes its connection: Podman sees a body that breaks off and keeps nothing of it.
            stalled = upload.stall() => Err(EngineError { command: Some(call.command()), ..stalled }),
        };
        match upload.failure(EngineErrorKind::ApiError) {
            Some(broken) => Err(EngineError { command: Some(call.command()), ..broken }),
            None => result,
        }
    }

    /// See [`crate::backend::Engine::pull`]. `progress` counts compressed bytes of layers, as far as Podman tells.
    pub async fn pull(&self, reference: &ImageRef, progress: Arc<Progress>) -> Result<ImageId, EngineError> {
        self.pull_for(reference, None, progress).await
    }

    /// Pulls an image for a platform (`linux/arm64`) whatever Podman's own is. The name points to it then.
    pub async fn pull_for(
        &self,
        reference: &ImageRef,
        platform: Option<&str>,
        progress: Arc<Progress>,
    ) -> Result<ImageId, EngineError> {
        let what = match platform {
            Some(platform) => format!("pull image `{reference}` for {platform}"),
            None => format!("pull image `{reference}`"),
        };
        let registry = auth::registry(reference);
        let login = self.logins().find(reference).await;
        let call = Call::post(what.clone(), format!("/images/create?fromImage={reference}"))
            .within(PULL_STALL)
            .hiding(login.as_ref().map(auth::Login::secrets).unwrap_or_default());
        let options = CreateImageOptionsBuilder::new().from_image(reference.as_str());
        let options = platform.into_iter().fold(options, |options, platform| options.platform(platform)).build();
        let login = login.map(|login| login.for_docker(registry));
        let mut updates = Box::pin(self.docker(PULL_STALL, ANSWER_LIMIT)?.create_image(Some(options), None, login));
        let mut layers: HashMap<String, (u64, u64)> = HashMap::new();
        loop {
            let Ok(next) = tokio::time::timeout(PULL_STALL, updates.next()).await else {
                return Err(call.timed_out());
            };
            let info = match next {
                None => break,
                Some(Ok(info)) => info,
                // A line that bollard cannot read is not reported.
                Some(Err(bollard::errors::Error::JsonDataError { .. })) => continue,
                Some(Err(err)) => {
                    let err = error::from_bollard(&call, self.socket(), &err);
                    return Err(error::of_pull(err, &what, reference));
                }
            };
            if let (Some(layer), Some(detail)) = (info.id, info.progress_detail) {
                let amount = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
                layers.insert(layer, (amount(detail.current), amount(detail.total)));
                let (done, total) = layers
                    .values()
                    .fold((0u64, 0u64), |sum, layer| (sum.0.saturating_add(layer.0), sum.1.saturating_add(layer.1)));
                progress.set_total(total);
                progress.set(done);
            }
        }
        match self.image(reference).await? {
            Some(id) => Ok(id),
            None => Err(call.unreadable("the pull ended and the image is not there")),
        }
    }

    /// See [`crate::backend::Engine::tag`].
    pub async fn tag(&self, image: &ImageId, reference: &ImageRef) -> Result<(), EngineError> {
        let what = format!("name image {} `{reference}`", image.short());
        let name = tag_name(reference)
            .map_err(|why| EngineError::new(EngineErrorKind::ApiError, format!("failed to {what}: {why}")))?;
        // A colon after the last slash parts the tag; one before it belongs to a port.
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (name.as_str(), "latest"),
        };
        let path = format!("/images/{image}/tag?repo={}&tag={}", query(repository), query(tag));
        self.http().send(&Call::post(what, self.libpod(&path).await?)).await.map(|_| ())
    }

    /// See [`crate::backend::Engine::remove_image`].
    pub async fn remove_image(&self, image: &ImageId) -> Result<(), EngineError> {
        let Some(found) = self.inspect_image(image.as_str()).await? else { return Ok(()) };
        // By id, Podman removes an image of several names only by force, and force removes containers too. So the names go
        // one by one, the last takes the image along, and use by a container is looked at first.
        let names: Vec<_> = found.get("RepoTags").and_then(Value::as_array).into_iter().flatten().collect();
        if names.len() <= 1 {
            return self.remove_image_name(image, image.as_str()).await;
        }
        self.refuse_while_used(image).await?;
        for name in names.iter().filter_map(|name| name.as_str()) {
            self.remove_image_name(image, name).await?;
        }
        Ok(())
    }

    async fn remove_image_name(&self, image: &ImageId, name: &str) -> Result<(), EngineError> {
        let path = self.libpod(&format!("/images/{}?force=false", segment(name))).await?;
        let call = Call::delete(format!("remove image {}", image.short()), path).within(REMOVE);
        unless_gone(self.http().send(&call).await).map(|_| ())
    }

    async fn refuse_while_used(&self, image: &ImageId) -> Result<(), EngineError> {
        let filters = query(&json!({ "ancestor": [image.as_str()] }).to_string());
        let path = self.libpod(&format!("/containers/json?all=true&filters={filters}")).await?;
        let call = Call::get(format!("find the containers of image {}", image.short()), path);
        let answer = self.http().send(&call).await?.json(&call)?;
        refuse_if_used(image, &answer)
    }
}

/// The name in full: libpod would file a short one under `localhost/`, where no look-up of ours searches.
pub(super) fn tag_name(reference: &ImageRef) -> Result<String, &'static str> {
    let name = reference.qualified().as_str().to_owned();
    match name.contains('@') {
        true => Err("a digest cannot be given to an image, only a tag"),
        false => Ok(name),
    }
}

/// `containers` is the list of those that were made from it.
pub(super) fn refuse_if_used(image: &ImageId, containers: &Value) -> Result<(), EngineError> {
    let Some(user) = containers.as_array().and_then(|users| users.first()) else { return Ok(()) };
    let name = user.pointer("/Names/0").or_else(|| user.get("Id")).and_then(Value::as_str).unwrap_or("unknown");
    Err(EngineError::new(
        EngineErrorKind::Conflict,
        format!("failed to remove image {}: container `{name}` uses it", image.short()),
    ))
}
