//! What a store says, in words that tell what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Head, Local, ObjectKey};

use crate::model::ids::clean;

/// Why it was not read or written.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct StoreError {
    /// What kind of failure.
    pub kind: StoreErrorKind,
    what: String,
    why: String,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Nobody says who we are.
    NoCredentials,
    /// The store does not know us, or does not let us.
    Denied,
    /// There is no such bucket.
    NoBucket,
    /// There is no such object.
    NotFound,
    /// Somebody else was here.
    Conflict,
    /// This machine's clock, or the store's, is wrong.
    Clock,
    /// The store does not know `If-Match` and `If-None-Match`, and two who publish would overwrite each other's work.
    NoConditions,
    /// The bucket is in another region.
    Region,
    /// Nobody answers.
    Unreachable,
    /// The file is not what it was, or what it should be.
    Changed,
    /// The file system says no.
    Io,
    /// An upload that was begun is not known any more.
    NoUpload,
    /// Anything else.
    Other,
}

impl StoreError {
    /// One of this kind: what was to be done, and why it was not.
    pub fn new(kind: StoreErrorKind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { kind, what: what.into(), why: why.into() }
    }

    pub(super) fn io(what: &str, path: &Path, err: &io::Error) -> Self {
        Self::new(StoreErrorKind::Io, format!("cannot {what} `{}`", path.display()), err.to_string())
    }

    pub(super) fn not_arrived(key: &ObjectKey, file: &Local, found: Option<Head>) -> Self {
        let found = match found {
            None => "there is nothing".to_owned(),
            Some(Head { size_bytes, .. }) if size_bytes != file.size_bytes => {
                format!("{size_bytes} bytes are there instead of {}", file.size_bytes)
            }
            Some(Head { sha256: Some(found), .. }) => format!("sha256 {found} is there instead of {}", file.sha256),
            Some(_) => "the store does not keep the metadata `sha256`".to_owned(),
        };
        Self::new(StoreErrorKind::Other, format!("`{key}` was sent and has not arrived"), found)
    }

    /// Whether a condition did not hold: 404 is said of an object that was to be replaced, too.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Conflict | StoreErrorKind::NotFound)
    }

    /// What a server said, or why it said nothing.
    pub(super) fn from_server(what: String, err: &object_store::Error, at: &str) -> Self {
        let said = Said::of(err);
        let kind = said.kind(err);
        let why = match kind {
            StoreErrorKind::Clock => said.clock(SystemTime::now()),
            StoreErrorKind::NoConditions => format!("it does not know conditional writes ({})", said.words()),
            StoreErrorKind::Unreachable => format!("{at}: {}", said.words()),
            _ => said.words(),
        };
        Self { kind, what, why }
    }
}

/// What stands in an answer: `<Error><Code>…</Code><Message>…</Message></Error>`, as all of S3's kind have it.
#[derive(Debug, Default)]
struct Said {
    text: String,
    code: Option<String>,
    message: Option<String>,
    status: Option<u16>,
    server_time: Option<String>,
}

impl Said {
    fn of(err: &object_store::Error) -> Self {
        // The last cause says most, but the answer's body stands further up.
        let mut chain = vec![err.to_string()];
        let mut source = err.source();
        while let Some(next) = source {
            chain.push(next.to_string());
            source = next.source();
        }
        let all = chain.join("\n");
        let between = |from: &str, to: &str| Some(all.split_once(from)?.1.split_once(to)?.0.to_owned());
        let status = between("status code: ", ":").and_then(|text| text.get(..3)?.parse().ok());
        Self {
            code: between("<Code>", "</Code>").map(|code| clean(&code, 80)),
            message: between("<Message>", "</Message>").map(|it| clean(&plain(&it), 300)).filter(|it| !it.is_empty()),
            server_time: between("<ServerTime>", "</ServerTime>"),
            text: clean(chain.last().map_or("", String::as_str), 400),
            status,
        }
    }

    fn kind(&self, err: &object_store::Error) -> StoreErrorKind {
        match (self.code.as_deref(), self.status) {
            (Some("RequestTimeTooSkewed" | "RequestExpired"), _) => StoreErrorKind::Clock,
            (Some("NoSuchBucket"), _) => StoreErrorKind::NoBucket,
            (Some("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied" | "XAdminUserNotFound"), _) => {
                StoreErrorKind::Denied
            }
            (Some("NoSuchUpload" | "InvalidPart" | "InvalidPartOrder"), _) => StoreErrorKind::NoUpload,
            (Some("NotImplemented"), _) | (_, Some(501)) => StoreErrorKind::NoConditions,
            (Some("PermanentRedirect" | "AuthorizationHeaderMalformed"), _) | (_, Some(301 | 307)) => {
                StoreErrorKind::Region
            }
            (_, Some(401 | 403)) => StoreErrorKind::Denied,
            (None | Some("NoSuchKey"), Some(404)) => StoreErrorKind::NotFound,
            (_, Some(304 | 409 | 412)) => StoreErrorKind::Conflict,
            (_, Some(_)) => StoreErrorKind::Other,
            (_, None) => match err {
                object_store::Error::NotFound { .. } => StoreErrorKind::NotFound,
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                    StoreErrorKind::Denied
                }
                object_store::Error::NotImplemented { .. } => StoreErrorKind::NoConditions,
                _ if is_unreachable(err) => StoreErrorKind::Unreachable,
                _ => StoreErrorKind::Other,
            },
        }
    }

    fn words(&self) -> String {
        match (&self.code, &self.message, self.status) {
            (Some(code), Some(message), _) => format!("{code}: {message}"),
            (Some(code), None, _) => code.clone(),
            (None, _, Some(status)) => format!("the store answered {status}"),
            (None, _, None) => self.text.clone(),
        }
    }

    fn clock(&self, now: SystemTime) -> String {
        let theirs = self.server_time.as_deref().and_then(|text| crate::time::parse(text.trim()).ok());
        let off = theirs.map(|theirs| match now.duration_since(theirs) {
            Ok(ahead) => format!(", which is {} ahead", Whole(ahead)),
            Err(behind) => format!(", which is {} behind", Whole(behind.duration())),
        });
        let theirs = theirs.map(|at| format!("the store says it is {}, and ", crate::time::rfc3339(at)));
        let ours = crate::time::rfc3339(now);
        format!("{}this machine's clock says {ours}{}", theirs.unwrap_or_default(), off.unwrap_or_default())
    }
}

/// Without what XML needs instead of some characters.
fn plain(text: &str) -> String {
    let entities = [
        ("&#34;", "\""),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&apos;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    entities.into_iter().fold(text.to_owned(), |text, (entity, meant)| text.replace(entity, meant))
}

/// In whole seconds.
struct Whole(Duration);

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(Duration::from_secs(self.0.as_secs())).fmt(f)
    }
}

fn is_unreachable(err: &object_store::Error) -> bool {
    use object_store::client::{HttpError, HttpErrorKind};
    let chain = std::iter::successors(Some(err as &(dyn Error + 'static)), |err| (**err).source());
    chain.filter_map(|err| err.downcast_ref::<HttpError>()).any(|err| {
        matches!(
            err.kind(),
            HttpErrorKind::Connect | HttpErrorKind::Timeout | HttpErrorKind::Interrupted | HttpErrorKind::Request
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> StoreError {
        let err = object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
        StoreError::from_server("cannot write `k`".to_owned(), &err, "http://s3")
    }

    #[test]
    fn what_a_server_says_is_reported_in_its_words() {
        let status = |status: &str, body: &str| answered(&format!("non-2xx status code: {status}: {body}"));
        let xml = |code: &str, more: &str| format!("<?xml?><Error><Code>{code}</Code>{more}</Error>");
        for (err, kind, words) in [
            (
                status("403 Forbidden", &xml("InvalidAccessKeyId", "<Message>no such &#34;key&#34;</Message>")),
                StoreErrorKind::Denied,
                "cannot write `k`: InvalidAccessKeyId: no such \"key\"",
            ),
            (
                status("404 Not Found", &xml("NoSuchBucket", "<Message></Message>")),
                StoreErrorKind::NoBucket,
                "cannot write `k`: NoSuchBucket",
            ),
            (
                status("501 Not Implemented", ""),
                StoreErrorKind::NoConditions,
                "cannot write `k`: it does not know conditional writes (the store answered 501)",
            ),
            (status("500 Oops", "<html>"), StoreErrorKind::Other, "cannot write `k`: the store answered 500"),
            (answered("tls is \u{1b}[2J odd"), StoreErrorKind::Other, "cannot write `k`: "),
        ] {
            assert_eq!(err.kind, kind, "{err}");
            assert!(err.to_string().starts_with(words), "{err}");
            assert!(!err.to_string().contains('\u{1b}'), "{err}");
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_named() {
        let at = SystemTime::now() - Duration::from_secs(3600);
        let body = format!(
            "status code: 403 Forbidden: <Code>RequestTimeTooSkewed</Code><ServerTime>{}</ServerTime>",
            crate::time::rfc3339(at)
        );
        let err = answered(&body);
        assert_eq!(err.kind, StoreErrorKind::Clock);
        assert!(err.to_string().contains("this machine's clock says") && err.to_string().contains("1h"), "{err}");
        assert!(err.to_string().ends_with("ahead"), "{err}");
    }
}
