//! What the two sides say to each other, as JSON. Fields that are not known are skipped, and those that may be missing have
//! defaults: both sides may be of another version.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are nearly always text: a string in JSON, or else a list of numbers.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(pub Vec<u8>);

impl Word {
    /// As the system takes it.
    pub fn os(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// As text; what is none is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<OsString> for Word {
    fn from(text: OsString) -> Self {
        Self(text.into_vec())
    }
}

impl std::fmt::Debug for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => to.serialize_str(text),
            Err(_) => to.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Bytes(Vec<u8>),
        }
        let word = match Either::deserialize(from)? {
            Either::Text(text) => Self(text.into_bytes()),
            Either::Bytes(bytes) => Self(bytes),
        };
        if word.0.contains(&0) { Err(D::Error::custom("a zero byte in a word")) } else { Ok(word) }
    }
}

/// Said first by either side.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The highest version of the protocol that the speaker knows. The lower of the two is spoken.
    pub version: u32,
}

/// What becomes of the command's standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// A pipe that can be sent to.
    #[default]
    Pipe,
    /// `/dev/null`.
    Closed,
}

/// When a command that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// When it ended with another code than 0, or by a signal.
    OnFailure,
    /// Always.
    Always,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// When a session that neither prints nor is sent anything is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdleStop {
    /// After so many milliseconds.
    pub after_ms: u64,
}

/// A session to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Its name in the agent: a DNS label.
    pub name: String,
    /// The agent, for sentences alone.
    pub agent: String,
    /// Of this one start, chosen by who starts it: after a lost answer it tells whether the session that runs is this one.
    pub id: String,
    /// Program and arguments.
    pub command: Vec<Word>,
    /// Where it runs; `None` for where the keeper was started.
    #[serde(default)]
    pub cwd: Option<Word>,
    /// Variables on top of the keeper's own.
    #[serde(default)]
    pub env: Vec<(Word, Word)>,
    /// Its standard input.
    #[serde(default)]
    pub stdin: Stdin,
    /// Whether it runs in a terminal.
    #[serde(default)]
    pub tty: Option<Size>,
    /// Programs that must be on the PATH.
    #[serde(default)]
    pub requires: Vec<Word>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// How large its log may be, in bytes.
    pub log_max: u64,
    /// When it is stopped because nothing happens.
    #[serde(default)]
    pub idle_stop: Option<IdleStop>,
    /// What a state file declares: the digest of it. `None` for an ad-hoc session.
    #[serde(default)]
    pub declared: Option<String>,
    /// Takes the place of a session of this name that has ended.
    #[serde(default)]
    pub replace_ended: bool,
}

/// How a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// The command runs.
    Running,
    /// It ended, and is started again later.
    BackingOff,
    /// It ended, and is not started again.
    Exited,
    /// Its keeper is gone without a word of how it ended: it was killed, or the container was started anew.
    Lost,
    /// It could not be asked.
    Unknown,
    /// A status of a later version.
    #[serde(other)]
    Other,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Exit {
    /// Its code, when it exited by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel ended it for want of memory.
    pub oom_killed: bool,
}

/// What a keeper says of its session. Moments in milliseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The session's name.
    pub name: String,
    /// Of this one start of it: never the same twice.
    pub id: String,
    /// How it is.
    pub status: Status,
    /// The command's process, while it runs.
    #[serde(default)]
    pub pid: Option<i32>,
    /// When that process started, in the kernel's ticks since boot: with `pid` it tells the process.
    #[serde(default)]
    pub pid_start: Option<u64>,
    /// When the command was last started.
    #[serde(default)]
    pub started_at: u64,
    /// When it last ended.
    #[serde(default)]
    pub ended_at: Option<u64>,
    /// How it last ended.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// When it is started again.
    #[serde(default)]
    pub restart_at: Option<u64>,
    /// Whether one can attach to it.
    #[serde(default)]
    pub attachable: bool,
    /// Its standard input.
    #[serde(default)]
    pub stdin: Stdin,
    /// Whether it runs in a terminal.
    #[serde(default)]
    pub tty: bool,
    /// When it last printed something.
    #[serde(default)]
    pub last_output_at: Option<u64>,
    /// For how long it has neither printed nor been sent anything, in milliseconds, while it runs.
    #[serde(default)]
    pub idle_ms: Option<u64>,
    /// Whether it sleeps, with all input read and nothing printed for a second. `None` where that cannot be seen.
    #[serde(default)]
    pub waiting_for_input: Option<bool>,
    /// The digest of what a state file declares; `None` for an ad-hoc session.
    #[serde(default)]
    pub declared: Option<String>,
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<Word>,
    /// The user it runs as, by number.
    #[serde(default)]
    pub uid: u32,
    /// Bytes of output that were dropped because the log could not be written.
    #[serde(default)]
    pub lost: u64,
    /// Whether it was told to end.
    #[serde(default)]
    pub stopped: bool,
    /// Whether it was its own keeper that told it to end, because it was idle: nobody else did.
    #[serde(default)]
    pub idle_stopped: bool,
    /// Why it could not be started again, or asked; or that it was idle.
    #[serde(default)]
    pub why: Option<String>,
    /// The version of the keeper's protocol.
    #[serde(default)]
    pub version: u32,
}

/// Asks for output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attach {
    /// Of what has been printed already, at most so many bytes.
    #[serde(default)]
    pub replay: u64,
    /// From this place in the log on, instead of `replay`.
    #[serde(default)]
    pub from: Option<u64>,
    /// Nothing older than this, in milliseconds since 1970.
    #[serde(default)]
    pub since: u64,
    /// Go on after the replay.
    #[serde(default)]
    pub follow: bool,
    /// Be the one who writes.
    #[serde(default)]
    pub writer: Option<Writer>,
}

/// Who wants to write to the command's standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    /// Chosen by the client: who comes back with the same one goes on where it was.
    pub id: String,
    /// In the place of another writer.
    #[serde(default)]
    pub takeover: bool,
    /// Its terminal.
    #[serde(default)]
    pub size: Option<Size>,
}

/// The end of a replay.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Where in the log the live output begins.
    pub at: u64,
    /// Bytes of the log between what was asked for and what is still there.
    #[serde(default)]
    pub missed: u64,
    /// Of the writer's input, so much was taken already.
    #[serde(default)]
    pub taken: u64,
    /// Whether the command runs in a terminal.
    #[serde(default)]
    pub tty: bool,
}

/// Announces input that is written whole, with nothing of anybody else between.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Send {
    /// Chosen by the client: the same input sent again after a lost answer is written once.
    pub id: String,
    /// How many bytes.
    pub bytes: u64,
    /// Close standard input after them.
    #[serde(default)]
    pub eof: bool,
    /// How long to wait for the command to read, in milliseconds.
    pub timeout_ms: u64,
}

/// The longest specification, in bytes: whatever is told of its session later is told in one frame, too.
pub const MAX_SPEC: usize = crate::frame::MAX_PAYLOAD - 8192;
/// The largest input that is sent whole, in bytes.
pub const MAX_SEND: u64 = 64 << 20;

/// Input that was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Its id.
    pub id: String,
    /// How many bytes.
    pub bytes: u64,
}

/// Ends the command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    /// The signal for its process group, by number.
    pub signal: i32,
    /// KILL after so many milliseconds.
    pub timeout_ms: u64,
}

/// What kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProblemKind {
    /// There is a session of that name.
    Exists,
    /// There is none.
    NotFound,
    /// The working directory is not there, or none.
    Cwd,
    /// Programs are not on the PATH.
    Requires,
    /// The command cannot be started.
    Command,
    /// Its standard input is closed, or was never a pipe.
    NoStdin,
    /// It does not run.
    NotRunning,
    /// It did not read in time.
    Timeout,
    /// Somebody else writes, or took over.
    Writer,
    /// The client did not read in time.
    Slow,
    /// The client said what makes no sense, or asks for too much.
    Protocol,
    /// What is asked for belongs to another user, whom it would not be refused.
    Denied,
    /// The system refused.
    System,
    /// A kind of a later version.
    #[serde(other)]
    Other,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What kind.
    pub kind: ProblemKind,
    /// A sentence.
    pub message: String,
    /// Of a time-out: how much of the input was written all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
}

impl Problem {
    /// A refusal.
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), written: None }
    }

    /// What the system refused.
    pub fn system(what: &str, err: &std::io::Error) -> Self {
        Self::new(ProblemKind::System, format!("{what}: {err}"))
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_bytes_travel() {
        for bytes in [b"plain".to_vec(), "\u{20ac} '\"\n".into(), vec![0xff, 1, b'-'], Vec::new()] {
            let json = serde_json::to_string(&Word(bytes.clone())).unwrap();
            assert_eq!(serde_json::from_str::<Word>(&json).unwrap(), Word(bytes));
        }
        assert!(serde_json::from_str::<Word>("\"a\\u0000b\"").is_err());
    }

    #[test]
    fn what_a_later_version_says_is_understood_in_part() {
        let state: State =
            serde_json::from_str(r#"{"name":"a","id":"1","status":"hibernating","mood":7,"exit":{"core":true}}"#)
                .unwrap();
        assert_eq!((state.status, state.exit, state.idle_stopped), (Status::Other, Some(Exit::default()), false));
    }
}
