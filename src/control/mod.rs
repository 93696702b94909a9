//! The control socket of `steadfast run`: how others on this machine ask it what it sees, and to reconcile now.
//!
//! A unix stream socket `<root>/state/<name>/control.sock`, mode 0600, for the user `run` belongs to and for root.
//! JSON lines both ways, one request per connection:
//!
//! | request | answer |
//! |---|---|
//! | `{"op":"status"}` | one status line, of an observation that is a few seconds old at the most |
//! | `{"op":"watch"}` | a status line now, and again at each change |
//! | `{"op":"reconcile","timeoutMs":N,"retryQuarantined":false}` | event lines while it works, then `{"outcome": …}` |
//! | `{"op":"events"}` | event lines as they happen, until the client leaves |
//! | `{"op":"send","agent":A,"session":S,"id":I,"data":BASE64,"eof":false,"timeoutMs":N}` | `{"bytesWritten":N}`, or `{"problems":[…]}` |
//!
//! What cannot be answered ends with `{"error":{"kind": …, "message": …}}`; a client that reads too slowly misses events
//! and is told so (`{"event":"lagged","missed":N}`). [`server`] serves whatever is [`Controlled`], [`client`] asks. What
//! to do about a request belongs in the run loop, what to print in [`crate::cli`].

pub mod client;
pub mod files;
mod paths;
pub mod server;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::model::ids::clean;
use crate::model::{AgentName, FailureKind};
use crate::status::Status;
use crate::words::Word;
pub use files::{StateFiles, path_text};

pub use paths::{MAX_PATH, SOCKET};

/// The most bytes of a request line (64 KiB).
pub const MAX_REQUEST: usize = 64 * 1024;
/// How long a request line may take to come (5 s).
pub const REQUEST_TIME: Duration = Duration::from_secs(5);
/// The most clients at once (32). Of more, the one that has listened longest makes room.
pub const MAX_CLIENTS: usize = 32;
/// How long a client may leave a line unread before it is dropped (5 s).
pub const WRITE_TIME: Duration = Duration::from_secs(5);
/// The longest time `reconcile` may be given (365 days); more is cut to it.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The most bytes that are sent to a session this way (32 KiB): more would not fit into a request line.
pub const MAX_SEND: usize = 32 * 1024;
/// The time `reconcile` is given when the request names none (10 min).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// What the control socket speaks for: the run loop. None of it is ever waited for by the loop.
pub trait Controlled: Send + Sync + 'static {
    /// The newest status, a [`RunStatus`] as JSON. `null` until the first observation: who asks waits for it then.
    fn status(&self) -> watch::Receiver<Arc<Value>>;
    /// Has it observe, so that its status is no older than a few seconds. Comes back soon, also where that is unavailable.
    fn look(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// What happens, as in the journal: objects with an `event`.
    fn events(&self) -> broadcast::Receiver<Arc<Value>>;
    /// Reconciles now. Yields the [`Outcome`] as JSON; `None` when it is stopping. Dropped when the client leaves.
    fn reconcile(&self, timeout: Duration, retry_quarantined: bool) -> impl Future<Output = Option<Value>> + Send;
    /// Sends to a session, over a connection that is kept open. Yields `{"bytesWritten":N}`, or `{"problems":[…]}` as the
    /// session's keeper says them. A refusal says that it is to be sent another way, with the same id.
    fn send(&self, _input: SessionInput) -> impl Future<Output = Result<Value, Refused>> + Send {
        std::future::ready(Err(Refused::new(RefusedKind::Unavailable, "no sessions are served here")))
    }
}

/// Input for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionInput {
    /// In which agent.
    pub agent: AgentName,
    /// Which session.
    pub session: String,
    /// Tells it from others: the same input sent again is written once.
    pub id: String,
    /// The bytes, in base64 (RFC 4648): at most [`MAX_SEND`] of them.
    pub data: String,
    /// Close standard input afterwards.
    #[serde(default)]
    pub eof: bool,
    /// How long the command may take to read them, in milliseconds.
    pub timeout_ms: u64,
}

/// A request line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// The newest status.
    Status,
    /// The newest status, and again at each change.
    Watch,
    /// Reconcile now.
    Reconcile {
        /// Maximum time it may take, in milliseconds. Default 600000 (10 min), at most a year.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
        /// What failed before is tried again, although nothing else is wanted.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        retry_quarantined: bool,
    },
    /// What happens, as it happens.
    Events,
    /// Input for a session.
    Send(SessionInput),
}

impl Request {
    /// The words of `op`.
    const OPS: [&'static str; 5] = ["status", "watch", "reconcile", "events", "send"];

    /// Asks to reconcile within `timeout`.
    pub fn reconcile(timeout: Duration, retry_quarantined: bool) -> Self {
        Self::Reconcile { timeout_ms: Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)), retry_quarantined }
    }

    /// Reads a request line.
    ///
    /// # Errors
    /// `badRequest` when it is no JSON object with an `op`, `unknownOp` when the `op` is none of ours.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|err| Refused::new(RefusedKind::BadRequest, format!("the request is not JSON: {err}")))?;
        let ops = Self::OPS.map(|op| format!("`{op}`")).join(", ");
        match value.get("op") {
            Some(Value::String(op)) if !Self::OPS.contains(&op.as_str()) => {
                let op: String = op.chars().take(60).flat_map(char::escape_debug).collect();
                return Err(Refused::new(RefusedKind::UnknownOp, format!("there is no op `{op}`: it is one of {ops}")));
            }
            Some(Value::String(_)) => {}
            _ => {
                return Err(Refused::new(
                    RefusedKind::BadRequest,
                    format!("the request has no `op`: it is one of {ops}"),
                ));
            }
        }
        // What the parser says repeats what it found.
        let wrong = |err: serde_json::Error| format!("the request is wrong: {}", clean(&err.to_string(), 300));
        serde_json::from_value(value).map_err(|err| Refused::new(RefusedKind::BadRequest, wrong(err)))
    }
}

words! {
    /// What kind of reason a request is not answered for.
    pub enum RefusedKind {
        /// It is no request, or lacks something.
        BadRequest = "badRequest",
        /// There is no such operation.
        UnknownOp = "unknownOp",
        /// It is too long.
        TooLarge = "tooLarge",
        /// It did not come in time.
        TooSlow = "tooSlow",
        /// Too many others are there.
        Busy = "busy",
        /// Whoever asks may not.
        Forbidden = "forbidden",
        /// `run` is stopping.
        Stopping = "stopping",
        /// It cannot be done this way now.
        Unavailable = "unavailable",
    }
}

/// Why a request was not answered, as the socket says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What kind of reason that is.
    pub kind: Word<RefusedKind>,
    /// A sentence.
    pub message: String,
}

impl Refused {
    /// A refusal.
    pub fn new(kind: RefusedKind, message: impl Into<String>) -> Self {
        Self { kind: Word::Known(kind), message: message.into() }
    }

    fn stopping() -> Self {
        Self::new(RefusedKind::Stopping, "`steadfast run` is stopping")
    }
}

/// What `status` and `watch` answer: the status that `status -o json` prints, and what `run` says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunStatus<'a> {
    /// Desired beside observed.
    #[serde(flatten)]
    pub status: &'a Status,
    /// `run` itself.
    pub run: &'a Run,
}

/// What `run` says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its process id.
    pub pid: u32,
    /// Since when it runs (RFC 3339).
    pub since: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Absolute path of the state file it keeps, as [`path_text`] tells it.
    pub file: String,
    /// Those of the files that are merged upon it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// What woke it for the last pass.
    #[serde(default)]
    pub woken_by: String,
    /// When its last pass ended (RFC 3339).
    #[serde(default)]
    pub last_pass_at: Option<String>,
    /// How many passes it has made.
    #[serde(default)]
    pub passes: u64,
    /// Why the state file as it stands there is not what it keeps. `None` while it is.
    #[serde(default)]
    pub state_file_error: Option<StateFileError>,
    /// How it hears of changed files: `events`, or `polling: ` and why.
    #[serde(default)]
    pub watching: String,
    /// What it cannot write down, and why.
    #[serde(default)]
    pub not_recorded: Option<String>,
    /// What waits to be tried again.
    #[serde(default)]
    pub backing_off: Vec<BackingOff>,
}

/// A state file that cannot be used, while the last good state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFileError {
    /// Since when (RFC 3339).
    pub since: String,
    /// What is wrong, one line per problem. Never a secret.
    pub message: String,
}

/// A failure that is tried again later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackingOff {
    /// Whose; `None` for what concerns no agent alone.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// What fails, in a sentence.
    pub cause: String,
    /// How often in a row.
    pub failures: u32,
    /// When it is tried again (RFC 3339); `None`: not before what is wanted changes.
    #[serde(default)]
    pub retry_at: Option<String>,
}

/// What a convergence came to, in words: what `apply -o json` prints, and what else is needed to say it to a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Of which state file.
    pub name: String,
    /// The last observation left nothing to do, and nothing went wrong.
    pub converged: bool,
    /// Every step that was taken, as `apply -o json` prints it.
    pub actions: Vec<Value>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What stands in the way, as `apply -o json` prints it.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// The same in sentences, each once, what matters most first.
    #[serde(default)]
    pub troubles: Vec<String>,
    /// What is worth knowing beside.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What is left to do, in sentences.
    #[serde(default)]
    pub left: Vec<String>,
    /// Agents that were not waited for and are not ready yet.
    #[serde(default)]
    pub not_waited_for: Vec<String>,
    /// How it ended.
    #[serde(default)]
    pub ended: Ended,
    /// Absolute path of the state file that was reconciled, as [`path_text`] tells it.
    pub file: String,
    /// Those of the files that are merged upon it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Why the state file as it stands there was not used, when the last good state was.
    #[serde(default)]
    pub state_file_error: Option<String>,
    /// What `apply` ends with.
    pub exit_code: u8,
}

/// One thing that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Whose.
    #[serde(default)]
    pub agent: Option<AgentName>,
    /// What kind of failure it is.
    pub kind: Word<FailureKind>,
    /// A sentence.
    pub message: String,
    /// What may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How a convergence ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// Nothing was left that could be done.
    #[default]
    Proved,
    /// The time was up.
    TimedOut,
    /// It was told to stop.
    Interrupted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_read_or_refused_in_words() {
        let kind = |line: &str| Request::parse(line.as_bytes()).unwrap_err().kind.known().unwrap();
        for line in ["", "status", "[]", "{}", "{\"op\":7}", "{\"op\":\"reconcile\",\"timeoutMs\":\"soon\"}", "\u{0}"] {
            assert_eq!(kind(line), RefusedKind::BadRequest, "{line}");
        }
        assert_eq!(kind("{\"op\":\"reboot\"}"), RefusedKind::UnknownOp);
        let read = |line: &str| Request::parse(line.as_bytes()).unwrap();
        assert_eq!(read("{\"op\":\"status\",\"more\":1}\n"), Request::Status);
        assert_eq!(read("{\"op\":\"reconcile\"}"), Request::Reconcile { timeout_ms: None, retry_quarantined: false });
        for request in [Request::Watch, Request::Events, Request::reconcile(Duration::from_secs(3), false)] {
            assert_eq!(read(&serde_json::to_string(&request).unwrap()), request);
        }
        assert_eq!(
            serde_json::to_string(&Request::reconcile(Duration::from_secs(3), false)).unwrap(),
            r#"{"op":"reconcile","timeoutMs":3000}"#
        );
    }

    #[test]
    fn a_refusal_is_short_and_does_nothing_to_a_terminal() {
        let word = "\u{202e}\u{9b}31m".repeat(10_000);
        for line in [serde_json::json!({"op": "reconcile", "timeoutMs": word}), serde_json::json!({"op": word})] {
            let message = Request::parse(line.to_string().as_bytes()).unwrap_err().message;
            assert!(message.len() < 2000, "{} bytes", message.len());
            assert!(!message.contains(crate::visible::acts), "{message}");
        }
    }
}
