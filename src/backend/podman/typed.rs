//! bollard: the typed calls of Docker's API that Podman serves as Docker does. ARCHITECTURE.md says which they are, and what keeps
//! the others with [`super::http`].
//!
//! Its version is pinned, since asking Podman for one the way bollard negotiates takes a quarter of a second. It reads an answer
//! whole, whatever its size; so each request has a connection of its own, which breaks off after what an answer may have.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{BollardRequest, ClientVersion, Docker};
use futures_util::future::BoxFuture;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tower_service::Service;

use super::api::Api;
use super::error;
use super::http::Call;
use crate::backend::{EngineError, EngineErrorKind};

/// The most bytes of an answer that becomes a value. Three bytes of JSON may become fifty in memory.
const ANSWER: usize = 2 << 20;
/// Docker's API of 20.10, which Podman 4 to 6 serve.
const VERSION: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

impl Api {
    /// A call of bollard's, within the deadline of `call`, which tells what it is about. What only asks is asked once more when the
    /// connection breaks.
    pub(super) async fn typed<T, A>(&self, call: &Call, ask: impl Fn(Docker) -> A) -> Result<T, EngineError>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let docker = self.docker(call.deadline, ANSWER)?;
        let told = |err: Error| error::from_bollard(call, self.socket(), &err);
        let asked = async {
            match ask(docker.clone()).await.map_err(told) {
                Err(err) if call.method == Method::GET && err.kind == EngineErrorKind::TransportUnavailable => {
                    ask(docker.clone()).await.map_err(told)
                }
                outcome => outcome,
            }
        };
        tokio::time::timeout(call.deadline, asked).await.unwrap_or_else(|_| Err(call.timed_out()))
    }

    /// bollard's client for answers of at most so many bytes. It costs nothing until it is asked something.
    pub(super) fn docker(&self, deadline: Duration, most: usize) -> Result<Docker, EngineError> {
        let to = Connector { socket: self.socket().into(), most };
        // A connection that was kept open would have been counted already.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(to);
        let send = move |request: BollardRequest| {
            let answer = client.request(request);
            async { answer.await.map_err(Error::from) }
        };
        // Its own deadline has whole seconds; that of the call is the one that counts.
        let seconds = deadline.as_secs().saturating_add(1);
        Docker::connect_with_custom_transport(send, Some("http://podman"), seconds, &VERSION)
            .map_err(|err| error::from_bollard(&Call::get("reach Podman", "/"), self.socket(), &err))
    }
}

/// Connects to Podman's socket.
#[derive(Clone)]
struct Connector {
    socket: Arc<Path>,
    most: usize,
}

impl<U> Service<U> for Connector {
    type Response = TokioIo<Bounded>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: U) -> Self::Future {
        let Self { socket, most } = self.clone();
        Box::pin(async move {
            let stream = UnixStream::connect(socket).await?;
            Ok(TokioIo::new(Bounded { stream, most, left: most }))
        })
    }
}

/// Why a connection broke off by itself: it yielded more than these bytes.
#[derive(Debug, thiserror::Error)]
#[error("it yielded more than {0} bytes")]
pub(super) struct TooLarge(pub usize);

/// A connection that breaks off once it has yielded more than it may.
struct Bounded {
    stream: UnixStream,
    most: usize,
    left: usize,
}

impl Connection for Bounded {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        match self.left.checked_sub(into.filled().len() - before) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::Error::other(TooLarge(self.most)))),
        }
        read
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use crate::backend::podman::address::Machine;
    use crate::model::ContainerId;

    /// A Podman that answers each request with this, and what is asked of it.
    async fn asked<T>(
        answer: &'static [u8],
        ask: impl AsyncFnOnce(Api) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let _ = client.read(&mut [0; 4096]).await;
                let _ = client.write_all(answer).await;
                // A flood has no end.
                while answer.ends_with(b"[") && client.write_all(&[b' '; 1 << 16]).await.is_ok() {}
            }
        });
        let outcome = ask(Api::new(&socket, Machine::Elsewhere).unwrap()).await;
        serving.abort();
        outcome
    }

    #[tokio::test]
    async fn an_answer_without_end_is_broken_off() {
        let flood = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[";
        let err = asked(flood, async |api| api.machine().await).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::Unknown, "{err}");
        assert!(err.message.contains("yields more than 2 MiB, the most that is read"), "{err}");
    }

    #[tokio::test]
    async fn a_refusal_is_the_same_whoever_sends_the_request() {
        let gone = b"HTTP/1.1 404 Gone\r\nConnection: close\r\n\r\n{\"message\":\"no such container: abc\"}";
        let id = ContainerId::new("c".repeat(64)).unwrap();
        let err = asked(gone, async |api| api.unpause(&id).await).await.unwrap_err();
        let call = Call::post(format!("unpause container `{id}`"), format!("/containers/{id}/unpause"));
        let told = call.refused(404, br#"{"message":"no such container: abc"}"#);
        assert_eq!((err.kind, err.status, err.message), (told.kind, told.status, told.message));
        assert_eq!(err.command, told.command);
    }
}
