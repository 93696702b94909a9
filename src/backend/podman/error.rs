//! What Podman's failures mean: statuses, sentences and broken connections become an [`EngineError`].
//!
//! Podman's codes are not Docker's (a duplicate name is 500 on 4.3 and 409 on 5.x), so its sentences are read too. Every
//! phrase that is looked for stands here and nowhere else. A request's body never enters an error: it may hold secrets.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::http::Call;
use super::typed::TooLarge;
use crate::backend::{EngineError, EngineErrorKind, PullFault, PullRefusal, WayOut};
use crate::model::{ImageRef, Secrets};

/// How much of an answer's body is kept in an error.
pub(super) const BODY_LIMIT: usize = 4096;
/// How much of Podman's own sentence goes into ours.
const SENTENCE_LIMIT: usize = 600;

/// An answer with a failing status. `what` completes "failed to …". What Podman repeats of `secrets` is hidden before
/// anything is joined or cut, since half a secret would not be found any more.
pub(super) fn refused(what: &str, command: &str, status: u16, body: &[u8], secrets: &Secrets) -> EngineError {
    let text = String::from_utf8_lossy(body);
    // By Podman's own words: a value may be one of those that are looked for.
    let kind = kind(command, status, &sentence(&text).unwrap_or_default());
    let text = secrets.redact_body(&text);
    let sentence = sentence(&text).unwrap_or_else(|| format!("HTTP status {status}"));
    EngineError {
        command: Some(command.to_owned()),
        status: Some(status),
        body: Some(cut(&text, BODY_LIMIT).to_owned()),
        ..EngineError::new(kind, format!("failed to {what}: {}", meaning(&sentence)))
    }
}

/// Podman said in a stream, under status 200, that it failed.
pub(super) fn refused_midway(what: &str, command: &str, sentence: &str) -> EngineError {
    let sentence = one_line(sentence);
    EngineError {
        command: Some(command.to_owned()),
        body: Some(cut(&sentence, BODY_LIMIT).to_owned()),
        ..EngineError::new(
            kind(command, 500, &sentence),
            format!("failed to {what}: {}", cut(&sentence, SENTENCE_LIMIT)),
        )
    }
}

/// No answer within our own deadline.
pub(super) fn timed_out(what: &str, command: &str, after: Duration) -> EngineError {
    let after = humantime::format_duration(after);
    EngineError {
        command: Some(command.to_owned()),
        ..EngineError::new(EngineErrorKind::Timeout, format!("failed to {what}: Podman did not answer within {after}"))
    }
}

/// The connection could not be made, or broke.
pub(super) fn broken(what: &str, command: &str, socket: &Path, error: &(dyn Error + 'static)) -> EngineError {
    let socket = socket.display();
    let (kind, way_out, cause) = match io_kind(error) {
        Some(io::ErrorKind::PermissionDenied) => (
            EngineErrorKind::PermissionDenied,
            WayOut::ByKind,
            format!("no permission to use the Podman socket `{socket}`; run as its owner, or use a rootless socket"),
        ),
        Some(io::ErrorKind::NotFound) => (
            EngineErrorKind::TransportUnavailable,
            WayOut::InSentence,
            format!(
                "the Podman socket `{socket}` is gone; start Podman's service again, for example with `podman system \
                 service --time=0 unix://{socket}`"
            ),
        ),
        Some(io::ErrorKind::ConnectionRefused) => (
            EngineErrorKind::TransportUnavailable,
            WayOut::InSentence,
            format!(
                "nobody listens on the Podman socket `{socket}`; start Podman's service again, for example with `podman \
                 system service --time=0 unix://{socket}`"
            ),
        ),
        _ => (
            EngineErrorKind::TransportUnavailable,
            WayOut::ByKind,
            format!("the connection to Podman on `{socket}` broke ({})", deepest(error)),
        ),
    };
    let command = Some(command.to_owned());
    EngineError { command, way_out, ..EngineError::new(kind, format!("failed to {what}: {cause}")) }
}

/// An image could not be pulled: what its registry is to blame for, by the words that Podman repeats.
pub(super) fn of_pull(err: EngineError, what: &str, reference: &ImageRef) -> EngineError {
    const LOGIN: [&str; 3] = ["unauthorized", "authentication required", "requested access to the resource is denied"];
    const MISSING: [&str; 3] = ["manifest unknown", "name unknown", "not found"];
    const SILENT: [&str; 5] =
        ["no such host", "connection refused", "dial tcp", "timeout", "pinging container registry"];
    // Not by the name, which may be made of those words.
    let said = err.message.strip_prefix(&format!("failed to {what}")).unwrap_or(&err.message);
    let why = match said {
        said if says(said, &LOGIN) => Some(PullRefusal::LoginWanted),
        said if says(said, &MISSING) => Some(PullRefusal::NoSuchImage),
        said if says(said, &SILENT) => Some(PullRefusal::Unreachable),
        _ => None,
    };
    let pull = why.map(|why| Box::new(PullFault { registry: super::auth::registry(reference), why }));
    EngineError { pull, ..err }
}

/// Why a command in a container was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecRefusal {
    /// The directory that it was to work in does not exist.
    NoDirectory,
    /// What it was to work in is no directory.
    NotADirectory,
    /// There is no such program.
    NoProgram,
}

impl ExecRefusal {
    /// What the words of Podman, crun or runc mean, where that is known.
    pub fn of_words(words: &str) -> Option<Self> {
        // crun 1.8 leaves the `to` out.
        if words.contains("chdir to ") || words.contains("chdir `") {
            return Some(if says(words, &["not a directory"]) { Self::NotADirectory } else { Self::NoDirectory });
        }
        let is_missing = ["executable file not found", "executable file `", "no such file or directory"];
        let is_of_runtime = words.contains("OCI runtime") && is_missing.iter().any(|phrase| words.contains(phrase));
        is_of_runtime.then_some(Self::NoProgram)
    }
}

/// An answer that cannot be read.
pub(super) fn unreadable(what: &str, command: &str, why: &str) -> EngineError {
    EngineError {
        command: Some(command.to_owned()),
        ..EngineError::new(
            EngineErrorKind::Unknown,
            format!("failed to {what}: Podman's answer cannot be read ({why})"),
        )
    }
}

/// The largest answer that is read into memory (32 MiB): a list of ten thousand containers has three quarters of it, and half of
/// what we may take in all is left for everything else.
pub(super) const ANSWER_LIMIT: usize = 32 << 20;

/// An answer that is larger.
pub(super) fn too_large(what: &str, command: &str, limit: usize) -> EngineError {
    let most = crate::sizes::limit(limit);
    unreadable(what, command, &format!("`{command}` yields more than {most}, the most that is read"))
}

/// A failure that bollard reports.
pub(super) fn from_bollard(call: &Call, socket: &Path, error: &bollard::errors::Error) -> EngineError {
    use bollard::errors::Error as Bollard;
    let (what, command) = (&call.what, &call.command());
    call.hide_in(match error {
        Bollard::DockerResponseServerError { status_code, message } => call.refused(*status_code, message.as_bytes()),
        Bollard::DockerStreamError { error } => refused_midway(what, command, error),
        Bollard::RequestTimeoutError => call.timed_out(),
        Bollard::JsonDataError { message, .. } => call.unreadable(message),
        Bollard::JsonSerdeError { err } => call.unreadable(&err.to_string()),
        other => match io_error(other).and_then(|io| io.get_ref()?.downcast_ref()) {
            Some(TooLarge(limit)) => too_large(what, command, *limit),
            None => broken(what, command, socket, other),
        },
    })
}

/// The kind by status and Podman's sentence (4.3.1 as measured; newer ones as their sources say).
fn kind(command: &str, status: u16, sentence: &str) -> EngineErrorKind {
    match status {
        404 => EngineErrorKind::NotFound,
        409 => EngineErrorKind::Conflict,
        408 => EngineErrorKind::Timeout,
        401 | 403 => EngineErrorKind::PermissionDenied,
        502..=504 => EngineErrorKind::TransportUnavailable,
        500 => kind_by_words(About::of_path(command), sentence).unwrap_or(EngineErrorKind::ApiError),
        _ => EngineErrorKind::ApiError,
    }
}

/// A command of Podman's that spoke to a registry ended with a failure; `None` for the code when a signal ended it.
pub(super) fn of_registry(what: &str, command: &str, code: Option<i32>, stderr: &str) -> EngineError {
    const REFUSED: [&str; 5] =
        ["unauthorized", "authentication required", "access denied", "forbidden", "invalid username"];
    const PASSING: [&str; 14] = [
        "connection refused",
        "connection reset",
        "broken pipe",
        "i/o timeout",
        "handshake timeout",
        "timed out",
        "unexpected eof",
        ": eof",
        "too many requests",
        "internal server error",
        "bad gateway",
        "service unavailable",
        "gateway timeout",
        "temporary failure in name resolution",
    ];
    // News of what goes on stand before it, and lines of its log.
    let said = stderr.rsplit_once("Error: ").map_or(stderr, |(_, said)| said);
    let sentence = one_line(&said.lines().filter(|line| !line.starts_with("time=\"")).collect::<Vec<_>>().join(" "));
    let kind = match code {
        _ if says(&sentence, &REFUSED) => EngineErrorKind::PermissionDenied,
        _ if says(&sentence, &PASSING) => EngineErrorKind::TransportUnavailable,
        _ => EngineErrorKind::CommandFailed,
    };
    let sentence = match code {
        None => "a signal ended Podman".to_owned(),
        Some(code) if sentence.is_empty() => format!("Podman ended with exit code {code}"),
        Some(_) => sentence,
    };
    EngineError {
        command: Some(command.to_owned()),
        exit_code: code,
        stderr: Some(cut(stderr, BODY_LIMIT).to_owned()),
        ..EngineError::new(kind, format!("failed to {what}: {}", cut(&sentence, SENTENCE_LIMIT)))
    }
}

/// Whether it failed over a registry that speaks plain HTTP where TLS was wanted.
pub fn is_of_plain_http(err: &EngineError) -> bool {
    says(&err.message, &["server gave http response to https client"])
}

/// Whether these words say that a container does not run, or is there no more (4.3).
pub(crate) fn is_of_a_container_down(words: &str) -> bool {
    let phrases = ["exec sessions on running containers", "is not running", "stopped container", "no such container"];
    phrases.iter().any(|phrase| words.contains(phrase))
}

/// Whether it failed over a container's root that cannot be written (4.3).
pub(crate) fn is_of_a_read_only_root(err: &EngineError) -> bool {
    err.message.contains("read-only file system")
}

/// What Podman's sentence alone tells.
pub(super) fn kind_by_words(about: About, sentence: &str) -> Option<EngineErrorKind> {
    const TAKEN: [&str; 6] = [
        "already in use",
        "port is already allocated",
        "name is in use",
        "image is in use by",
        "already exists",
        "has no defined healthcheck",
    ];
    if says(sentence, &TAKEN) {
        return Some(EngineErrorKind::Conflict);
    }
    says(sentence, about.gone()).then_some(EngineErrorKind::NotFound)
}

pub(super) fn says(sentence: &str, phrases: &[&str]) -> bool {
    let lower = sentence.to_ascii_lowercase();
    phrases.iter().any(|phrase| lower.contains(phrase))
}

/// Whether it failed over a process that ended while Podman read of it: before 4.4 an inspection does (its issue 16383).
pub(super) fn is_of_a_process_gone(err: &EngineError) -> bool {
    says(&err.message, &["/cgroup: no such process"])
}

/// Whether it failed over a container of which Podman keeps a record, and whose storage is gone.
pub(super) fn is_of_a_lost_storage(err: &EngineError) -> bool {
    says(&err.message, &["container not known"])
}

/// Whether a build failed over a layer that it found and that somebody else removed before it was used (Podman 4.3.1).
pub(crate) fn is_of_a_layer_gone(err: &EngineError) -> bool {
    says(&err.message, &["layer not known"])
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// A container to be.
    Creation,
    /// A container.
    Container,
    /// A container's health check.
    Healthcheck,
    /// An image.
    Image,
    /// A command in a container.
    Exec,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// Nothing that can be gone.
    Other,
}

impl About {
    fn of_path(command: &str) -> Self {
        let path = command.split([' ', '?']).nth(1).unwrap_or_default();
        let mut parts = path
            .split('/')
            .skip_while(|part| !matches!(*part, "containers" | "images" | "exec" | "networks" | "volumes"));
        match (parts.next(), parts.next()) {
            (Some("containers"), Some("create")) => Self::Creation,
            (Some("containers"), Some(_)) => Self::Container,
            (Some("images"), _) => Self::Image,
            (Some("exec"), _) => Self::Exec,
            (Some("networks"), Some(name)) if name != "create" => Self::Network,
            (Some("volumes"), Some(name)) if name != "create" => Self::Volume,
            _ => Self::Other,
        }
    }

    /// What Podman says when the very object that a call is about is not there. A container whose image or network is
    /// missing is still a container: taken for gone, it would be made a second time.
    fn gone(self) -> &'static [&'static str] {
        match self {
            // What is missing here is what the container is to be made of. `statfs /x: no such file or directory` is a
            // bind source.
            Self::Creation => &["image not known", "no such image", "statfs "],
            Self::Container | Self::Healthcheck => &["no such container", "does not exist in database"],
            Self::Image => &["image not known", "no such image"],
            Self::Exec => &["no such exec session"],
            Self::Network => &["network not found", "unable to find network"],
            Self::Volume => &["no such volume", "no volume with name"],
            Self::Other => &[],
        }
    }
}

/// Podman's sentence as we tell it: what it means where that takes more than the sentence to see, with the way out.
pub(super) fn meaning(sentence: &str) -> String {
    if let Some(address) = busy_address(sentence) {
        return format!("the host port {} is taken by another process or container", cut(address, 100));
    }
    // Podman (4.3) does not sync what it writes of a layer, and does not notice afterwards that a part of it is missing.
    if says(sentence, &["creating overlay mount"]) && says(sentence, &["no such file or directory"]) {
        return "what Podman has stored of it is damaged, as by a power cut soon after it was made; once it is removed \
                (`podman rm --force`), or its image if that does not help (`podman rmi --force`), it is made anew"
            .to_owned();
    }
    cut(sentence, SENTENCE_LIMIT).to_owned()
}

/// The address in `listen tcp4 127.0.0.1:80: bind: address already in use` or `Bind for 0.0.0.0:80 failed: port is
/// already allocated`.
fn busy_address(sentence: &str) -> Option<&str> {
    let before = match sentence.find(": bind: address already in use") {
        Some(end) => &sentence[..end],
        None => {
            let end = sentence.find("port is already allocated")?;
            sentence[..end].trim_end_matches([' ', ':']).trim_end_matches("failed").trim_end()
        }
    };
    before
        .rsplit([' ', '"'])
        .next()
        .filter(|word| word.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()))
}

/// Podman's own sentence in one line: the JSON's `message`, else the text itself.
fn sentence(body: &str) -> Option<String> {
    let parsed = serde_json::from_str::<Value>(body).ok();
    let text = match &parsed {
        Some(Value::Object(fields)) => ["message", "cause", "error"]
            .into_iter()
            .find_map(|field| fields.get(field)?.as_str().filter(|text| !text.trim().is_empty())),
        Some(Value::String(text)) => Some(text.as_str()),
        _ => Some(body),
    };
    text.map(one_line).filter(|text| !text.is_empty())
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most `limit` bytes, of whole words where there are any: callers that know a secret can still find it.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = text.get(..end).unwrap_or_default();
    cut.rfind(char::is_whitespace).and_then(|space| cut.get(..space)).unwrap_or(cut)
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    io_error(error).map(io::Error::kind)
}

fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
