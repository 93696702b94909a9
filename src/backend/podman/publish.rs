//! What a publisher asks of Podman: an image built for a platform, and an image as an archive.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::api::Api;
use super::http::{Call, query, segment};
use crate::backend::{ByteStream, EngineError, EngineErrorKind};
use crate::model::{ContainerId, ImageId, ImageRef};

/// How long a build may say nothing.
const BUILD_STALL: Duration = Duration::from_secs(15 * 60);
/// How long Podman may prepare an archive before its first byte.
const SAVE_HEADERS: Duration = Duration::from_secs(5 * 60);
/// How long making a container may take.
const CREATE: Duration = Duration::from_secs(60);
/// How much a build's last words are kept.
const WORDS: usize = 4096;

/// What is to be built.
#[derive(Debug)]
pub struct BuildImage<'a> {
    /// Its name.
    pub reference: &'a ImageRef,
    /// For which platform, e.g. `linux/arm64`.
    pub platform: &'a str,
    /// The file with the instructions, in the context.
    pub containerfile: &'a Path,
    /// Values of its `ARG`s.
    pub args: &'a BTreeMap<String, String>,
}

impl Api {
    /// Builds an image from a context (a tar). `said` hears each line of the builder.
    ///
    /// # Errors
    /// What the builder says, with its last lines; and a builder that says nothing for 15 minutes.
    pub async fn build(
        &self,
        build: &BuildImage<'_>,
        context: ByteStream,
        said: impl Fn(&str),
    ) -> Result<ImageId, EngineError> {
        let BuildImage { reference, platform, containerfile, args } = build;
        let path = format!(
            "/build?dockerfile={}&t={}&platform={}&buildargs={}&layers=true&forcerm=true",
            query(&json!([containerfile.to_string_lossy()]).to_string()),
            query(reference.as_str()),
            query(platform),
            query(&json!(args).to_string()),
        );
        let call = Call::post(format!("build image `{reference}` for {platform}"), self.libpod(&path).await?);
        let failed = |why: &str| EngineError {
            command: Some("POST /libpod/build".to_owned()),
            ..EngineError::new(EngineErrorKind::ApiError, format!("failed to {}: {why}", call.what))
        };
        let response = self.http().open_with(&call, reqwest::Body::wrap_stream(context)).await?;
        let mut updates = response.bytes_stream();
        let (mut buffered, mut words, mut wrong) = (BytesMut::new(), String::new(), None);
        loop {
            let Ok(next) = tokio::time::timeout(BUILD_STALL, updates.next()).await else {
                return Err(failed("the builder said nothing for 15 minutes"));
            };
            let Some(bytes) = next.transpose().map_err(|err| self.http().broken(&call, &err))? else { break };
            buffered.extend_from_slice(&bytes);
            while let Some(end) = buffered.iter().position(|byte| *byte == b'\n') {
                let line = buffered.split_to(end + 1);
                let Ok(line) = serde_json::from_slice::<Value>(&line) else { continue };
                if let Some(text) = line.get("stream").and_then(Value::as_str) {
                    text.lines().for_each(&said);
                    words.push_str(text);
                    let from = words.len().saturating_sub(WORDS);
                    words.drain(..(from..=words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(0));
                }
                if let Some(text) = line.get("error").and_then(Value::as_str) {
                    wrong = Some(text.to_owned());
                }
            }
            if buffered.len() > WORDS * 64 {
                buffered.clear();
            }
        }
        if let Some(wrong) = wrong {
            let last = words.trim_end().lines().rev().take(10).collect::<Vec<_>>();
            let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
            return Err(failed(&format!("{wrong}\n{last}")));
        }
        match self.image(reference).await? {
            Some(id) => Ok(id),
            None => Err(failed("the builder ended, and the image is not there")),
        }
    }

    /// An image as a docker-archive, plain.
    ///
    /// # Errors
    /// When there is no such image; a stream that breaks off ends with an error.
    pub async fn save(&self, image: &ImageId) -> Result<ByteStream, EngineError> {
        let path = format!("/images/{}/get?format=docker-archive&compress=false", segment(image.as_str()));
        let call = Call::get(format!("save image {}", image.short()), self.libpod(&path).await?);
        let response = self.http().open(&call, Some(SAVE_HEADERS)).await?;
        Ok(Box::pin(response.bytes_stream().map_err(std::io::Error::other)))
    }

    /// Makes a container of an image that is to be tried: without a network, a name or anything of this machine. With a
    /// command instead of the image's own.
    ///
    /// # Errors
    /// What Podman says.
    pub async fn create_trial(&self, image: &ImageId, command: Option<&[String]>) -> Result<ContainerId, EngineError> {
        let mut body = json!({"image": image.as_str(), "netns": {"nsmode": "none"}});
        if let Some(command) = command {
            body["command"] = json!(command);
        }
        let what = format!("create a container of image {}", image.short());
        let call = Call::post(what, self.libpod("/containers/create").await?).json(&body).within(CREATE);
        let answer = self.http().send(&call).await?.json(&call)?;
        let id = answer.get("Id").and_then(Value::as_str).unwrap_or_default();
        ContainerId::new(id).map_err(|_| call.unreadable("it names no container"))
    }

    /// Takes a name from an image. The image stays, also without any.
    ///
    /// # Errors
    /// What Podman says; not that there is no such name.
    pub async fn untag(&self, image: &ImageId, reference: &ImageRef) -> Result<(), EngineError> {
        let name = reference.qualified();
        let (repository, tag) = name.as_str().rsplit_once(':').unwrap_or((name.as_str(), "latest"));
        let path = format!("/images/{image}/untag?repo={}&tag={}", query(repository), query(tag));
        let call =
            Call::post(format!("take the name `{reference}` from image {}", image.short()), self.libpod(&path).await?);
        super::lifecycle::unless_gone(self.http().send(&call).await).map(|_| ())
    }
}
