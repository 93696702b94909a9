//! Commands and logs through Podman's API: streams that keep standard output and standard error apart.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::exec::CreateExecOptions;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::api::Api;
use super::error;
use super::http::{Call, DEADLINE, query, segment};
use super::stream::Frames;
use crate::backend::{ByteStream, Chunk, Chunks, EngineError, Exec, ExecRequest, LogRequest, TermSize};
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
        // A word of the command that is such a value is hidden with it.
        let secrets = Secrets::new(request.env.iter().filter_map(|line| Some(line.split_once('=')?.1)));
        let create = Call::post(&what, format!("/containers/{id}/exec")).hiding(secrets.clone());
        let options = || CreateExecOptions {
            attach_stdin: Some(request.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(request.tty.is_some()),
            detach_keys: request.tty.map(|_| NO_DETACHING.to_owned()),
            cmd: Some(request.command.clone()),
            env: Some(request.env.clone()),
            working_dir: request.workdir.clone(),
            user: request.user.clone(),
            ..CreateExecOptions::default()
        };
        let ask = |docker: Docker| async move { docker.create_exec(id.as_str(), options()).await };
        let exec = self.typed(&create, ask).await?.id;

        let start = Call::post(what, self.libpod(&format!("/exec/{}/start", segment(&exec))).await?)
            .json(&start_body(request.tty))
            .hiding(secrets)
            .upgrading();
        let response = self.http().open(&start, Some(EXEC)).await?;
        let connection = response.upgrade().await.map_err(|err| self.http().broken(&start, &err))?;
        let (reader, writer) = tokio::io::split(connection);
        let (command, socket) = (start.command(), self.socket().to_owned());
        let broken = move |err: io::Error| error::broken(&start.what, &command, &socket, &err);
        let bytes = ReaderStream::new(reader).map(move |item| item.map_err(&broken));
        Ok(Exec {
            id: exec,
            output: match request.tty {
                Some(_) => Box::pin(bytes.map(|item| item.map(Chunk::Stdout))),
                None => decode(bytes),
            },
            stdin: request.stdin.then(|| Box::pin(writer) as _),
        })
    }

    /// See [`crate::backend::Engine::exec_resize`].
    pub async fn exec_resize(&self, exec: &str, size: TermSize) -> Result<(), EngineError> {
        let TermSize { cols, rows } = size;
        let path = self.libpod(&format!("/exec/{}/resize?h={rows}&w={cols}", segment(exec))).await?;
        self.http().send(&Call::post("resize the terminal of a command", path)).await.map(|_| ())
    }

    /// See [`crate::backend::Engine::exec_exit`].
    pub async fn exec_exit(&self, exec: &str) -> Result<i32, EngineError> {
        let call = Call::get("ask for a command's exit code", exec_path(exec)).within(EXIT);
        let began = Instant::now();
        loop {
            let seen = self.typed(&call, |docker: Docker| async move { docker.inspect_exec(exec).await }).await?;
            if seen.running != Some(true) {
                let code = seen.exit_code.and_then(|code| i32::try_from(code).ok());
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
        let call = Call::get("ask for a command", exec_path(exec));
        let seen = self.typed(&call, |docker: Docker| async move { docker.inspect_exec(exec).await }).await?;
        Ok(seen.running == Some(true))
    }

    /// See [`crate::backend::Engine::put`].
    pub async fn put(&self, id: &ContainerId, directory: &str, tar: ByteStream) -> Result<(), EngineError> {
        // Else all of it would become the container's user's.
        let query = format!("/archive?path={}&copyUIDGID=false", query(directory));
        let path = self.container_path(id, &query).await?;
        let call = Call::put(format!("write files into container `{id}`"), path);
        self.send_archive(&call, tar).await.map(|_| ())
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

/// Keys that nobody types in a row. Podman would leave the command at Ctrl-P Ctrl-Q, and so keep each Ctrl-P back until the
/// next key; that there are none, its API (to 5.x) cannot be told.
const NO_DETACHING: &str = "ctrl-^,ctrl-@,ctrl-^,ctrl-@,ctrl-^,ctrl-@";

fn start_body(tty: Option<TermSize>) -> Value {
    match tty {
        Some(TermSize { cols, rows }) => json!({ "Detach": false, "Tty": true, "h": rows, "w": cols }),
        None => json!({ "Detach": false, "Tty": false }),
    }
}

fn exec_path(exec: &str) -> String {
    format!("/exec/{}/json", segment(exec))
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
