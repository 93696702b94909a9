//! HTTP and files as sources: one question, one answer, and what went wrong in words and in kind.
//!
//! Whether and when to ask again belongs in [`super::cache`]; here is only what an answer means.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{self, HeaderMap, HeaderName};
use reqwest::{StatusCode, redirect};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::timeout;

use crate::files::regular;
use crate::model::Location;

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// How much of a file is read at a time.
const FILE_CHUNK: usize = 256 * 1024;

/// Asks for manifests and artifacts. The HTTP client is made when it is first needed: loading the system's
/// certificates costs more than a whole observation of a warm cache.
#[derive(Debug)]
pub(crate) struct Client {
    http: OnceLock<reqwest::Client>,
    connect_timeout: Duration,
    stall_timeout: Duration,
}

/// What is asked for beside the place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask {
    /// Answer with [`Status::NotModified`] when this is still so.
    pub unless: Option<Validators>,
    /// Only the bytes from here on.
    pub from: u64,
    /// Only the bytes before this one.
    pub upto: Option<u64>,
    /// The strong ETag that the bytes of other answers belong to; with another one, all bytes come.
    pub if_range: Option<String>,
}

impl Ask {
    /// Whether less than all bytes are asked for.
    pub(crate) fn is_part(&self) -> bool {
        self.from > 0 || self.upto.is_some()
    }

    /// The value of `Range`; `None` where all bytes are asked for.
    fn range(&self) -> Option<String> {
        // The last byte is named, not the one behind it.
        let last = self.upto.map(|upto| upto.saturating_sub(1).to_string()).unwrap_or_default();
        self.is_part().then(|| format!("bytes={}-{last}", self.from))
    }
}

/// What a server said to tell one version of a document from the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Validators {
    /// `ETag`, with its quotes.
    pub etag: Option<String>,
    /// `Last-Modified`, as it was sent.
    pub last_modified: Option<String>,
}

impl Validators {
    /// Whether there is nothing to tell versions apart by.
    pub(crate) fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What kind.
    pub status: Status,
    /// How many bytes the body says it has.
    pub length: Option<u64>,
    /// An end that comes is the body's own (chunks), and not that of a connection that may have broken off.
    pub marks_its_end: bool,
    /// For the next conditional question.
    pub validators: Validators,
    /// The bytes.
    pub body: Body,
}

/// What kind of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// All bytes (200).
    Whole,
    /// The bytes from `start` to `last` (206).
    Part {
        /// The first byte's offset. `None` when the answer does not say.
        start: Option<u64>,
        /// The last byte's offset. `None` when the answer does not say.
        last: Option<u64>,
        /// How many bytes there are in all, where that is said.
        total: Option<u64>,
    },
    /// Nothing new (304).
    NotModified,
    /// There are no bytes from there on (416).
    PastTheEnd {
        /// How many bytes there are in all, where that is said.
        total: Option<u64>,
    },
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The HTTP status, or the cause in words. Never has the URL in it.
    pub cause: String,
    /// Whether trying again may help by itself.
    pub retryable: bool,
    /// Nobody answered at all.
    pub unreachable: bool,
    /// There is nothing at that place.
    pub absent: bool,
    /// The server's wish (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that stays.
    pub(crate) fn permanent(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), retryable: false, unreachable: false, absent: false, retry_after: None }
    }

    /// A failure that may pass.
    pub(crate) fn passing(cause: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::permanent(cause) }
    }

    fn stalled(after: Duration) -> Self {
        Self::passing(format!("no data for {}", humantime::format_duration(after)))
    }

    fn file(err: &io::Error) -> Self {
        let absent = matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        Self { absent, ..Self::permanent(plain_words(err)) }
    }
}

impl Client {
    /// A client which gives up on a connection after `connect_timeout`, and on an answer after `stall_timeout` without
    /// a byte of it.
    pub(crate) fn new(connect_timeout: Duration, stall_timeout: Duration) -> Self {
        Self { http: OnceLock::new(), connect_timeout, stall_timeout }
    }

    fn http(&self) -> Result<&reqwest::Client, Failure> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        // An error only means that somebody was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .redirect(redirect::Policy::custom(follow))
            // Bulk bytes want a connection of their own, and no flow-control windows on top of TCP's.
            .http1_only()
            .build()
            .map_err(|err| Failure::permanent(deepest(&err.without_url())))?;
        Ok(self.http.get_or_init(|| http))
    }

    /// Asks once.
    ///
    /// # Errors
    /// When nobody answers, or with another status than those of [`Status`].
    pub(crate) async fn get(&self, at: &Location, ask: &Ask) -> Result<Answer, Failure> {
        match at {
            Location::Http(url) => {
                let mut request = self.http()?.get(url.clone());
                if let Some(unless) = &ask.unless {
                    for (name, value) in
                        [(header::IF_NONE_MATCH, &unless.etag), (header::IF_MODIFIED_SINCE, &unless.last_modified)]
                    {
                        if let Some(value) = value {
                            request = request.header(name, value);
                        }
                    }
                }
                if let Some(range) = ask.range() {
                    request = request.header(header::RANGE, range);
                    if let Some(etag) = &ask.if_range {
                        request = request.header(header::IF_RANGE, etag);
                    }
                }
                let response = timeout(self.stall_timeout, request.send())
                    .await
                    .map_err(|_| Failure::stalled(self.stall_timeout))?
                    .map_err(failure)?;
                self.answer(response)
            }
            // Of a file on this machine the rest is never asked for in parts.
            Location::File(path) => self.file(path, ask.from).await.map_err(|err| Failure::file(&err)),
        }
    }

    fn answer(&self, response: reqwest::Response) -> Result<Answer, Failure> {
        let headers = response.headers();
        let range = text(headers, header::CONTENT_RANGE).and_then(|range| content_range(&range));
        let ContentRange { start, last, total } = range.unwrap_or_default();
        let status = match response.status() {
            StatusCode::OK => Status::Whole,
            StatusCode::PARTIAL_CONTENT => Status::Part { start, last, total },
            StatusCode::NOT_MODIFIED => Status::NotModified,
            StatusCode::RANGE_NOT_SATISFIABLE => Status::PastTheEnd { total },
            other => {
                let retryable = other.is_server_error()
                    || matches!(other, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
                let retry_after = text(headers, header::RETRY_AFTER).and_then(|text| retry_after(&text));
                let absent = matches!(other, StatusCode::NOT_FOUND | StatusCode::GONE);
                return Err(Failure { retryable, absent, retry_after, ..Failure::permanent(other.as_str()) });
            }
        };
        Ok(Answer {
            status,
            length: response.content_length(),
            marks_its_end: text(headers, header::TRANSFER_ENCODING).is_some_and(|coding| coding.contains("chunked")),
            validators: Validators {
                etag: text(headers, header::ETAG),
                last_modified: text(headers, header::LAST_MODIFIED),
            },
            body: Body { bytes: Source::Http(response), stall_timeout: self.stall_timeout },
        })
    }

    async fn file(&self, path: &Path, from: u64) -> io::Result<Answer> {
        let owned = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || regular::open(&owned)).await.map_err(io::Error::other)?;
        let mut file = tokio::fs::File::from_std(opened?);
        let total = file.metadata().await?.len();
        let status = match from {
            0 => Status::Whole,
            from if from >= total => Status::PastTheEnd { total: Some(total) },
            from => Status::Part { start: Some(from), last: Some(total - 1), total: Some(total) },
        };
        file.seek(io::SeekFrom::Start(from.min(total))).await?;
        file.set_max_buf_size(FILE_CHUNK);
        Ok(Answer {
            status,
            length: Some(total.saturating_sub(from)),
            marks_its_end: false,
            validators: Validators::default(),
            body: Body { bytes: Source::File(file), stall_timeout: self.stall_timeout },
        })
    }
}

/// The bytes of an answer, in pieces as they come.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Source,
    stall_timeout: Duration,
}

#[derive(Debug)]
enum Source {
    Http(reqwest::Response),
    File(tokio::fs::File),
}

impl Body {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks, when the body is shorter than it said, or when nothing comes for the stall timeout.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match &mut self.bytes {
            Source::Http(response) => timeout(self.stall_timeout, response.chunk())
                .await
                .map_err(|_| Failure::stalled(self.stall_timeout))?
                .map_err(failure),
            Source::File(file) => {
                let mut piece = BytesMut::with_capacity(FILE_CHUNK);
                let read = file.read_buf(&mut piece).await.map_err(|err| Failure::file(&err))?;
                Ok((read > 0).then(|| piece.freeze()))
            }
        }
    }

    /// All bytes, unless they are more than `limit`: then `None`, with no more than that read.
    ///
    /// # Errors
    /// As [`Body::chunk`].
    pub(crate) async fn at_most(mut self, limit: usize) -> Result<Option<Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.chunk().await? {
            if bytes.len() + piece.len() > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(bytes))
    }
}

/// Follows redirects, but not from https to http: what was to be private and genuine stays so.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let downgrade =
        attempt.previous().last().is_some_and(|from| from.scheme() == "https" && attempt.url().scheme() != "https");
    if downgrade {
        attempt.error("redirected from https to http")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// `bytes 5-9/10`, `bytes 5-9/*`, `bytes */10` (RFC 9110, 14.4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ContentRange {
    start: Option<u64>,
    last: Option<u64>,
    total: Option<u64>,
}

fn content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, last) = range.split_once('-').unwrap_or_default();
    let number = |text: &str| text.trim().parse().ok();
    Some(ContentRange { start: number(start), last: number(last), total: number(total) })
}

/// Seconds, or an HTTP date (RFC 9110, 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(text.trim()).ok()?;
    Some(then.duration_since(SystemTime::now()).unwrap_or_default())
}

fn failure(err: reqwest::Error) -> Failure {
    let err = err.without_url();
    let stays = err.is_builder() || err.is_redirect() || chain(&err).any(is_tls);
    let cause = match err.is_timeout() && err.is_connect() {
        true => "connecting timed out".to_owned(),
        false => deepest(&err),
    };
    Failure { cause, retryable: !stays, unreachable: err.is_connect(), absent: false, retry_after: None }
}

fn chain<'a>(err: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(err), |err| (**err).source())
}

fn is_tls(err: &(dyn Error + 'static)) -> bool {
    err.is::<rustls::Error>()
        || err.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The last sentence of a chain says most: "client error (Connect)" helps nobody.
fn deepest(err: &(dyn Error + 'static)) -> String {
    let last = chain(err).last().unwrap_or(err);
    last.downcast_ref::<io::Error>().map_or_else(|| last.to_string(), plain_words)
}

/// An I/O error without its number.
fn plain_words(err: &io::Error) -> String {
    let text = err.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = words.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
