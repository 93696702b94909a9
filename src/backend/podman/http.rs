//! One pooled HTTP client over Podman's unix socket. Knows requests, deadlines and failing statuses, not what any path means.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Method;
use serde_json::Value;

use super::answer;
use super::error::{self, ANSWER_LIMIT};
use crate::backend::{EngineError, EngineErrorKind};
use crate::model::Secrets;

/// How long an ordinary request may take, body included.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// The largest failing answer that is read.
const REFUSAL_LIMIT: usize = 64 << 10;
/// The longest answer about one thing: the kernel takes two megabytes of variables and arguments, which are told several times.
const OF_ONE: usize = 16 << 20;
/// Idle connections are dropped early: a socket-activated Podman leaves only when nobody is connected.
const IDLE: Duration = Duration::from_secs(3);

/// One request.
pub(super) struct Call {
    /// Completes "failed to …".
    pub what: String,
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Never shown: it may hold secrets.
    body: Option<Vec<u8>>,
    /// What an answer may repeat of it.
    secrets: Secrets,
    pub deadline: Duration,
    upgrade: bool,
    /// The most bytes its answer may have.
    most: usize,
}

impl Call {
    fn new(method: Method, what: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            method,
            path: path.into(),
            body: None,
            secrets: Secrets::default(),
            deadline: DEADLINE,
            upgrade: false,
            most: ANSWER_LIMIT,
        }
    }

    pub(super) fn get(what: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(Method::GET, what, path)
    }

    pub(super) fn post(what: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(Method::POST, what, path)
    }

    pub(super) fn put(what: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(Method::PUT, what, path)
    }

    pub(super) fn delete(what: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, what, path)
    }

    pub(super) fn json(mut self, body: &Value) -> Self {
        self.body = Some(body.to_string().into_bytes());
        self
    }

    /// Keeps these values out of what is told of a refusal.
    pub(super) fn hiding(mut self, secrets: Secrets) -> Self {
        self.secrets = secrets;
        self
    }

    pub(super) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// It is about one thing: a longer answer than that has is none, and need not be in memory.
    pub(super) fn of_one(mut self) -> Self {
        self.most = OF_ONE;
        self
    }

    /// Asks for the connection itself, for `exec`.
    pub(super) fn upgrading(mut self) -> Self {
        self.upgrade = true;
        self
    }

    /// As it stands in an error's details.
    pub(super) fn command(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(super) fn unreadable(&self, why: &str) -> EngineError {
        error::unreadable(&self.what, &self.command(), why)
    }

    pub(super) fn timed_out(&self) -> EngineError {
        error::timed_out(&self.what, &self.command(), self.deadline)
    }

    /// An error without what must not be shown of the request.
    pub(super) fn hide_in(&self, err: EngineError) -> EngineError {
        err.hiding(&self.secrets)
    }

    /// An answer with a failing status.
    pub(super) fn refused(&self, status: u16, body: &[u8]) -> EngineError {
        error::refused(&self.what, &self.command(), status, body, &self.secrets)
    }
}

/// A successful answer, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub(super) fn json(&self, call: &Call) -> Result<Value, EngineError> {
        answer::parse(&self.body).map_err(|why| call.unreadable(&why))
    }
}

/// The client. Clones share one pool of connections.
#[derive(Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    socket: PathBuf,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(socket: &Path) -> Result<Self, EngineError> {
        let failed = |err: &dyn fmt::Display| {
            EngineError::new(EngineErrorKind::Unknown, format!("failed to set up a client for Podman's socket: {err}"))
        };
        // A unix socket has no TLS. Given an empty configuration, reqwest does not read the system's certificates, which
        // would take longer than a whole observation.
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|err| failed(&err))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .unix_socket(socket)
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|err| failed(&err))?;
        Ok(Self { client, socket: socket.to_owned() })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends, and reads the whole answer, within the call's deadline. A 3xx is a success here: 304 means "already so".
    /// What only asks is asked once more when the connection breaks: it may have been an old one that Podman closed.
    pub(super) async fn send(&self, call: &Call) -> Result<Answer, EngineError> {
        tokio::time::timeout(call.deadline, async {
            match self.send_once(call).await {
                Err(err) if call.method == Method::GET && err.kind == EngineErrorKind::TransportUnavailable => {
                    self.send_once(call).await
                }
                outcome => outcome,
            }
        })
        .await
        .unwrap_or_else(|_| Err(call.timed_out()))
    }

    async fn send_once(&self, call: &Call) -> Result<Answer, EngineError> {
        let response = self.respond(call, None).await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = self.read(call, response, call.most).await?;
        Ok(Answer { status, headers, body })
    }

    /// Sends, and yields the answer once its headers are there; the body is the caller's to read. `None` for no deadline.
    pub(super) async fn open(&self, call: &Call, deadline: Option<Duration>) -> Result<reqwest::Response, EngineError> {
        match deadline {
            None => self.respond(call, None).await,
            Some(limit) => tokio::time::timeout(limit, self.respond(call, None))
                .await
                .unwrap_or_else(|_| Err(error::timed_out(&call.what, &call.command(), limit))),
        }
    }

    /// Sends with a streamed body. Deadlines are the caller's.
    pub(super) async fn upload(&self, call: &Call, body: reqwest::Body) -> Result<Bytes, EngineError> {
        let response = self.respond(call, Some(body)).await?;
        self.read(call, response, ANSWER_LIMIT).await
    }

    /// As [`Http::upload`], and yields the answer once its headers are there.
    pub(super) async fn open_with(&self, call: &Call, body: reqwest::Body) -> Result<reqwest::Response, EngineError> {
        self.respond(call, Some(body)).await
    }

    async fn respond(&self, call: &Call, stream: Option<reqwest::Body>) -> Result<reqwest::Response, EngineError> {
        let mut request = self.client.request(call.method.clone(), format!("http://d{}", call.path));
        if let Some(body) = &call.body {
            request = request.header("Content-Type", "application/json").body(body.clone());
        }
        if let Some(body) = stream {
            request = request.header("Content-Type", "application/x-tar").body(body);
        }
        if call.upgrade {
            request = request.header("Connection", "Upgrade").header("Upgrade", "tcp");
        }
        let response = request.send().await.map_err(|err| self.broken(call, &err))?;
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            let body = self.read(call, response, REFUSAL_LIMIT).await.unwrap_or_default();
            return Err(call.refused(status.as_u16(), &body));
        }
        Ok(response)
    }

    async fn read(&self, call: &Call, mut response: reqwest::Response, limit: usize) -> Result<Bytes, EngineError> {
        let too_large = || error::too_large(&call.what, &call.command(), limit);
        if response.content_length().is_some_and(|told| told > limit as u64) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|err| self.broken(call, &err))? {
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    pub(super) fn broken(&self, call: &Call, err: &reqwest::Error) -> EngineError {
        error::broken(&call.what, &call.command(), &self.socket, err)
    }
}

/// Percent-encodes what may not stand in a path segment or a query value (RFC 3986): all but unreserved characters and,
/// in a path, `/`, `:` and `@`, which image names are made of.
pub(super) fn encode(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A value in a query.
pub(super) fn query(text: &str) -> String {
    encode(text, "")
}

/// A name in a path.
pub(super) fn segment(text: &str) -> String {
    encode(text, "/:@")
}
