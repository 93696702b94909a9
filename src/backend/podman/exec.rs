//! Commands and logs through Podman's API: streams that keep standard output and standard error apart.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::api::Api;
use super::error;
use super::http::{Call, DEADLINE, segment};
use super::stream::Frames;
use crate::backend::{Chunk, Chunks, EngineError, Exec, ExecRequest, LogRequest};
use crate::model::{ContainerId, Secrets};

/// How long after the end of its output a command may take to end itself.
const EXIT: Duration = Duration::from_secs(10);
/// Between two questions whether it has.
const EXIT_STEP: Duration = Duration::from_millis(20);
/// How long starting a command may take.
const EXEC: Duration = Duration::from_secs(60);

impl Api {
    /// See [`crate::backend::Engine::exec`].
    pub async fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Exec, EngineError> {
        let what = format!("run a command in container `{id}`");
        let mut body = json!({
            "AttachStdin": request.stdin,
            "AttachStdout": true,
            "AttachStderr": true,
            "Tty": false,
            "Cmd": request.command,
            "Env": request.env,
        });
        if let Some(directory) = &request.workdir {
            body["WorkingDir"] = json!(directory);
        }
        // A word of the command that is such a value is hidden with it.
        let secrets = Secrets::new(request.env.iter().filter_map(|line| Some(line.split_once('=')?.1)));
        let path = self.container_path(id, "/exec").await?;
        let create = Call::post(&what, path).json(&body).hiding(secrets.clone());
        let answer = self.http().send(&create).await?.json(&create)?;
        let Some(exec) = answer.get("Id").and_then(Value::as_str) else {
            return Err(create.unreadable("it names no exec session"));
        };

        let start = Call::post(what, self.libpod(&format!("/exec/{}/start", segment(exec))).await?)
            .json(&json!({ "Detach": false, "Tty": false }))
            .hiding(secrets)
            .upgrading();
        let response = self.http().open(&start, Some(EXEC)).await?;
        let connection = response.upgrade().await.map_err(|err| self.http().broken(&start, &err))?;
        let (reader, writer) = tokio::io::split(connection);
        let (command, socket) = (start.command(), self.socket().to_owned());
        let broken = move |err: io::Error| error::broken(&start.what, &command, &socket, &err);
        Ok(Exec {
            id: exec.to_owned(),
            output: decode(ReaderStream::new(reader).map(move |item| item.map_err(&broken))),
            stdin: request.stdin.then(|| Box::pin(writer) as _),
        })
    }

    /// See [`crate::backend::Engine::exec_exit`].
    pub async fn exec_exit(&self, exec: &str) -> Result<i32, EngineError> {
        let path = self.libpod(&format!("/exec/{}/json", segment(exec))).await?;
        let call = Call::get("ask for a command's exit code", path).within(EXIT);
        let began = Instant::now();
        loop {
            let answer = self.http().send(&call).await?.json(&call)?;
            if answer.get("Running").and_then(Value::as_bool) != Some(true) {
                let code = answer.get("ExitCode").and_then(Value::as_i64).and_then(|code| i32::try_from(code).ok());
                return code.ok_or_else(|| call.unreadable("it has no exit code"));
            }
            // Its output ends a moment before Podman has noticed its end; one that closed its output may go on for ever.
            if began.elapsed() >= EXIT {
                return Err(call.timed_out());
            }
            tokio::time::sleep(EXIT_STEP).await;
        }
    }

    /// Whether Podman says that a command has not ended.
    pub(super) async fn exec_runs(&self, exec: &str) -> Result<bool, EngineError> {
        let path = self.libpod(&format!("/exec/{}/json", segment(exec))).await?;
        let call = Call::get("ask for a command", path);
        Ok(self.http().send(&call).await?.json(&call)?.get("Running").and_then(Value::as_bool) == Some(true))
    }

    /// See [`crate::backend::Engine::logs`].
    pub async fn logs(&self, id: &ContainerId, request: &LogRequest) -> Result<Chunks, EngineError> {
        let tail = request.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let query = format!("/logs?stdout=true&stderr=true&follow={}&tail={tail}", request.follow);
        let call = Call::get(format!("read the log of container `{id}`"), self.container_path(id, &query).await?);
        // A container that has written nothing yet may not get headers before it does.
        let deadline = (!request.follow).then_some(DEADLINE);
        let response = self.http().open(&call, deadline).await?;
        let http = self.http().clone();
        Ok(decode(response.bytes_stream().map(move |item| item.map_err(|err| http.broken(&call, &err)))))
    }
}

/// Frames into chunks. Ends after the first error.
fn decode(bytes: impl Stream<Item = Result<Bytes, EngineError>> + Send + 'static) -> Chunks {
    struct Decoder<S> {
        bytes: Option<Pin<Box<S>>>,
        frames: Frames,
        ready: VecDeque<Chunk>,
    }
    let decoder = Decoder { bytes: Some(Box::pin(bytes)), frames: Frames::default(), ready: VecDeque::new() };
    Box::pin(stream::unfold(decoder, |mut decoder| async {
        loop {
            if let Some(chunk) = decoder.ready.pop_front() {
                return Some((Ok(chunk), decoder));
            }
            match decoder.bytes.as_mut()?.next().await {
                Some(Ok(bytes)) => decoder.frames.push(bytes, &mut decoder.ready),
                Some(Err(err)) => {
                    decoder.bytes = None;
                    return Some((Err(err), decoder));
                }
                None => {
                    decoder.bytes = None;
                    decoder.ready.extend(decoder.frames.finish());
                }
            }
        }
    }))
}
