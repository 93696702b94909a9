//! Images through Podman's command line: looking one up, loading, pulling, naming and removing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::run::{Call, Ended, Running, answer, complaint};
use super::{Shell, script};
use crate::backend::podman::auth;
use crate::backend::podman::emulation;
use crate::backend::podman::error::{About, of_pull, timed_out};
use crate::backend::podman::image::{refuse_if_used, tag_name};
use crate::backend::podman::lifecycle::unless_gone;
use crate::backend::podman::upload::Upload;
use crate::backend::podman::wire;
use crate::backend::{ByteStream, EngineError, EngineErrorKind, EngineMachine, ImageFacts, Progress};
use crate::model::{ContainerId, ImageId, ImageRef, Images};

/// How long a pull may go without any output. Podman prints none while it writes a layer to its storage.
const PULL_STALL: Duration = Duration::from_secs(5 * 60);
/// How long the guest may work on an archive that it reads by itself.
const LOAD_WORK: Duration = Duration::from_secs(15 * 60);
/// How long removing an image may take.
const REMOVE: Duration = Duration::from_secs(120);

impl Shell {
    /// See [`crate::backend::Engine::images`].
    pub async fn images(&self) -> Result<Images, EngineError> {
        let call = self.podman("list images", About::Other, ["images", "--format", "json"]);
        let answer = call.json(&self.run_again(&call).await?)?;
        match answer {
            Value::Array(_) | Value::Null => Ok(wire::images(&answer)),
            _ => Err(call.unreadable("expected a list")),
        }
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

    /// See [`crate::backend::Engine::machine`].
    pub async fn machine(&self) -> Result<EngineMachine, EngineError> {
        const ASK: &str =
            "podman version --format '{{.Server.OsArch}}' && { cat /proc/sys/fs/binfmt_misc/* 2>/dev/null || true; }";
        let call = self.script("ask Podman for its architecture", About::Other, "podman version", ASK, &[]);
        let answer = self.run(&call).await?;
        let answer = String::from_utf8_lossy(&answer);
        let (platform, handlers) = answer.split_once('\n').unwrap_or((&answer, ""));
        let Some((os, arch)) = platform.trim().split_once('/') else {
            return Err(call.unreadable("it tells no architecture"));
        };
        let emulates = Some(emulation::of_handlers(handlers));
        Ok(EngineMachine { os: os.to_owned(), arch: arch.to_owned(), emulates })
    }

    /// See [`crate::backend::Engine::room`].
    pub async fn room(&self) -> Result<Option<u64>, EngineError> {
        let call = self.podman("ask Podman for its free space", About::Other, ["info", "--format", "json"]);
        Ok(wire::room(&call.json(&self.run(&call).await?)?))
    }

    pub(super) async fn inspect_image(&self, name: &str) -> Result<Option<Value>, EngineError> {
        let call = self.podman(format!("inspect image `{name}`"), About::Image, ["image", "inspect", "--", name]);
        let Some(answer) = unless_gone(self.run(&call).await)? else { return Ok(None) };
        match call.json(&answer)? {
            Value::Array(mut found) if found.len() == 1 => Ok(found.pop()),
            _ => Err(call.unreadable("expected a list of one image")),
        }
    }

    /// See [`crate::backend::Engine::load`].
    pub async fn load(&self, tar: ByteStream) -> Result<Vec<String>, EngineError> {
        let call = self.podman("load an image", About::Other, ["load", "--quiet"]);
        let names = loaded(&self.send_archive(&call, tar).await?);
        match names.is_empty() {
            true => Err(call.unreadable("it names no image")),
            false => Ok(names),
        }
    }

    /// See [`crate::backend::Engine::put`].
    pub async fn put(&self, id: &ContainerId, directory: &str, tar: ByteStream) -> Result<(), EngineError> {
        let what = format!("write files into container `{id}`");
        // Else all of it would become the container's user's.
        let call = self.podman(what, About::Container, ["cp", "--archive=false", "-", &format!("{id}:{directory}")]);
        self.send_archive(&call, tar).await.map(|_| ())
    }

    /// Sends an archive for as long as it moves.
    async fn send_archive(&self, call: &Call, mut tar: ByteStream) -> Result<Vec<u8>, EngineError> {
        let upload = Upload::new(call.what());
        let work = async {
            let Running { mut child, mut stdin, mut stdout, mut stderr } = self.spawn(call)?;
            let send = async {
                while let Some(item) = tar.next().await {
                    upload.saw(&item);
                    // Its end would read as the archive's: the pipe stays open until the child has been ended.
                    let Ok(bytes) = item else { return Some(stdin) };
                    // Podman gave up: it tells why by itself.
                    if stdin.write_all(&bytes).await.is_err() {
                        break;
                    }
                    upload.moved();
                }
                upload.finished();
                drop(stdin);
                None
            };
            let receive = async {
                let complaint = async { Ok(complaint(&mut stderr).await) };
                let (stdout, stderr) = tokio::try_join!(answer(call, &mut stdout), complaint)?;
                let code = child.ended().await.map_err(|err| call.broken(&err))?;
                Ok(Ended { code, stdout, stderr })
            };
            let (outcome, open) = {
                tokio::pin!(send, receive);
                let mut sending = true;
                loop {
                    tokio::select! {
                        ended = &mut receive => break (ended, None),
                        open = &mut send, if sending => match open {
                            Some(open) => break (Err(call.unreadable("the archive broke off")), Some(open)),
                            None => sending = false,
                        },
                    }
                }
            };
            drop(child);
            drop(open);
            outcome
        };
        let result = tokio::select! {
            result = work => result,
            stalled = upload.stall() => Err(EngineError { command: Some(call.shown().to_owned()), ..stalled }),
        };
        if let Some(broken) = upload.failure(EngineErrorKind::CommandFailed) {
            return Err(EngineError { command: Some(call.shown().to_owned()), ..broken });
        }
        self.success(call, result?)
    }

    /// See [`crate::backend::Routing::load_seen`]. The archive may be compressed: Podman 4.3 cannot load a gzip one itself.
    pub async fn load_seen(&self, path: &Path) -> Result<Vec<String>, EngineError> {
        // gzip(1) passes on what it did not compress only by force; a plain archive begins with a file's name. Without
        // `pipefail`, which sh has not, the decompressor's end is asked for by hand.
        const LOAD: &str = "case $(od -An -tx1 -N4 -- \"$1\" | tr -d ' \\n') in \
                            1f8b*) set -- \"$1\" gzip -dc ;; 28b52ffd) set -- \"$1\" zstd -dc ;; *) set -- \"$1\" cat ;; esac; \
                            file=$1; shift; { \"$@\" -- \"$file\" || kill $$; } | podman load --quiet";
        let path = path.to_string_lossy();
        let call = self.script("load an image", About::Other, "podman load --input", LOAD, &[&path]).within(LOAD_WORK);
        let names = loaded(&self.run(&call).await?);
        if names.is_empty() { Err(call.unreadable("it names no image")) } else { Ok(names) }
    }

    /// See [`crate::backend::Engine::pull`]. The command line tells no amounts, so `progress` stays as it is.
    pub async fn pull(&self, reference: &ImageRef, _progress: Arc<Progress>) -> Result<ImageId, EngineError> {
        let what = format!("pull image `{reference}`");
        let call = match self.logins.find(reference).await {
            None => self.podman(&what, About::Other, ["pull", "--", reference.as_str()]),
            Some(login) => {
                let script = pull_with(&login.file(&auth::registry(reference)), reference);
                let shown = format!("podman pull -- {reference}");
                self.sent(what.clone(), About::Other, shown, script).hiding(login.secrets())
            }
        };
        let Running { mut child, stdin, mut stdout, mut stderr } = self.start_child(&call).await?;
        drop(stdin);
        let updates = async {
            let (mut kept, mut piece) = (Vec::new(), [0; 8192]);
            loop {
                match tokio::time::timeout(PULL_STALL, stderr.read(&mut piece)).await {
                    Err(_) => return Err(timed_out(&what, call.shown(), PULL_STALL)),
                    Ok(Ok(length)) if length > 0 => {
                        kept.extend(piece.iter().take(length));
                        kept.drain(..kept.len().saturating_sub(NEWS_LIMIT));
                    }
                    Ok(_) => return Ok(kept),
                }
            }
        };
        let (stdout, stderr) = tokio::try_join!(answer(&call, &mut stdout), updates)?;
        let ended = tokio::time::timeout(PULL_STALL, child.ended()).await;
        let code = ended.map_err(|_| timed_out(&what, call.shown(), PULL_STALL))?.map_err(|err| call.broken(&err))?;
        let ended = self.success(&call, Ended { code, stdout, stderr });
        let answer = ended.map_err(|err| of_pull(err, &what, reference))?;
        // The id is all that it prints on standard output, and the last of it.
        let answer = String::from_utf8_lossy(&answer).into_owned();
        match answer.split_whitespace().next_back() {
            Some(id) if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(ImageId::from(id)),
            _ => Err(call.unreadable("it tells no image id")),
        }
    }

    /// See [`crate::backend::Engine::tag`].
    pub async fn tag(&self, image: &ImageId, reference: &ImageRef) -> Result<(), EngineError> {
        let what = format!("name image {} `{reference}`", image.short());
        let refused = |why| EngineError::new(EngineErrorKind::CommandFailed, format!("failed to {what}: {why}"));
        let name = tag_name(reference).map_err(refused)?;
        let call = self.podman(&what, About::Image, ["tag", "--", image.as_str(), &name]);
        self.run(&call).await.map(|_| ())
    }

    /// See [`crate::backend::Engine::remove_image`].
    pub async fn remove_image(&self, image: &ImageId) -> Result<(), EngineError> {
        let Some(found) = self.inspect_image(image.as_str()).await? else { return Ok(()) };
        let what = format!("remove image {}", image.short());
        let names = found.get("RepoTags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let mut names: Vec<_> = names.collect();
        // By id, Podman removes an image of several names only by force, and force removes containers too. So the names go
        // one by one, the last takes the image along, and use by a container is looked at first.
        if names.len() > 1 {
            let filter = format!("ancestor={image}");
            let call = self.podman(&what, About::Other, ["ps", "--all", "--format", "json", "--filter", &filter]);
            refuse_if_used(image, &call.json(&self.run(&call).await?)?)?;
        } else {
            names = vec![image.as_str()];
        }
        let call = self.script(&what, About::Image, "podman rmi", "podman rmi -- \"$@\"", &names).within(REMOVE);
        unless_gone(self.run(&call).await).map(|_| ())
    }
}

/// A pull with a file of logins of its own, which nobody else can read and which is gone afterwards. It is no argument of any
/// process: `printf` is part of the shell.
fn pull_with(logins: &str, reference: &ImageRef) -> String {
    let (logins, reference) = (script::quote(logins), script::quote(reference.as_str()));
    format!(
        "{{\numask 077\nfile=$(mktemp) || exit\ntrap 'rm -f \"$file\"' EXIT\ntrap 'exit 143' HUP INT TERM\n\
         printf '%s' {logins} >\"$file\" || exit\npodman pull --authfile \"$file\" -- {reference}\n}}"
    )
}

/// How much of a pull's output is kept: the reason for a failure stands last.
const NEWS_LIMIT: usize = 64 << 10;

/// `Loaded image: NAME` for each (4.3); older ones wrote `Loaded image(s): A,B`.
pub(super) fn loaded(stdout: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stdout);
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("Loaded image"));
    let names =
        lines.filter_map(|line| line.trim_start_matches("(s)").strip_prefix(':')).flat_map(|line| line.split(','));
    names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}
