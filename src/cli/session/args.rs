//! What is typed after `session`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::args::{FileArg, duration};
use crate::model::AgentName;
use crate::session::is_session_name;
use crate::session::message::{Restart, Stdin};

/// A session's whole name: `AGENT/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct SessionRef {
    pub(in crate::cli) agent: AgentName,
    pub(in crate::cli) name: String,
}

impl fmt::Display for SessionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agent, self.name)
    }
}

impl FromStr for SessionRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((agent, name)) = text.split_once('/') else {
            return Err("a session is named AGENT/NAME, such as `coder/pi`".to_owned());
        };
        let agent = AgentName::new(agent).map_err(|err| format!("before the `/` stands an agent: {err}"))?;
        if !is_session_name(name) {
            return Err(
                "after the `/` stands a session: 1 to 63 of a-z, 0-9 and `-`, not beginning with `-`".to_owned()
            );
        }
        Ok(Self { agent, name: name.to_owned() })
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SessionVerb {
    /// Start a command that goes on without us; back once it runs
    Start(StartArgs),
    /// Show the sessions of all agents, or of one
    List(ListArgs),
    /// Send bytes to a session's standard input, whole, exactly as given
    Send(SendArgs),
    /// Show what a session printed and prints, and type to it; ctrl-p ctrl-q leaves it running
    Attach(AttachArgs),
    /// Print what a session printed, standard output and standard error kept apart
    Logs(LogsArgs),
    /// Wait for a session's end; its exit code is ours
    Wait(OneArgs),
    /// End a session: a signal to its process group, and KILL after a while
    Stop(StopArgs),
    /// Remove what is left of sessions that have ended
    Rm(RmArgs),
}

impl SessionVerb {
    pub(in crate::cli) fn files(&self) -> &[PathBuf] {
        match self {
            Self::Start(args) => &args.file.file,
            Self::List(args) => &args.file.file,
            Self::Send(args) => &args.file.file,
            Self::Attach(args) => &args.file.file,
            Self::Logs(args) => &args.file,
            Self::Wait(args) => &args.file.file,
            Self::Stop(args) => &args.file.file,
            Self::Rm(args) => &args.file.file,
        }
    }
}

/// What becomes of standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum StdinWord {
    /// It can be sent to.
    #[default]
    Pipe,
    /// There is none.
    Closed,
}

impl From<StdinWord> for Stdin {
    fn from(word: StdinWord) -> Self {
        match word {
            StdinWord::Pipe => Self::Pipe,
            StdinWord::Closed => Self::Closed,
        }
    }
}

/// When a command that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum RestartWord {
    /// Never.
    #[default]
    No,
    /// When it fails.
    OnFailure,
    /// Always.
    Always,
}

impl From<RestartWord> for Restart {
    fn from(word: RestartWord) -> Self {
        match word {
            RestartWord::No => Self::No,
            RestartWord::OnFailure => Self::OnFailure,
            RestartWord::Always => Self::Always,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StartArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// In which agent, and under which name
    #[arg(value_name = "AGENT/NAME")]
    pub(super) session: SessionRef,
    /// Its standard input
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub(super) stdin: StdinWord,
    /// Run it in a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Directory to run it in
    #[arg(short = 'w', long, alias = "workdir", value_name = "DIR")]
    pub(super) cwd: Option<OsString>,
    /// Set a variable for it; without a value, pass on ours
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// A command that must be on its PATH
    #[arg(long, value_name = "CMD")]
    pub(super) require: Vec<OsString>,
    /// When it is started again after it ended
    #[arg(long, value_enum, default_value_t, value_name = "POLICY")]
    pub(super) restart: RestartWord,
    /// Whom it runs as [default: the container's user]
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Of which agent
    pub(super) agent: Option<AgentName>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OneArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Which session
    #[arg(value_name = "AGENT/NAME")]
    pub(super) session: SessionRef,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SendArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// To which session
    #[arg(value_name = "AGENT/NAME")]
    pub(super) session: SessionRef,
    /// Close its standard input afterwards
    #[arg(long)]
    pub(super) eof: bool,
    /// How long its command may take to read them
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Duration,
    /// The bytes, at most 64 MiB; `-` reads them from standard input
    #[arg(value_name = "DATA")]
    pub(super) data: Option<OsString>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AttachArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// To which session
    #[arg(value_name = "AGENT/NAME")]
    pub(super) session: SessionRef,
    /// Only look
    #[arg(long)]
    pub(super) read_only: bool,
    /// Write in the place of whoever is attached and writes
    #[arg(long, conflicts_with = "read_only")]
    pub(super) takeover: bool,
    /// What leaves the session running, on a terminal; empty for nothing
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS", value_parser = super::keys::DetachKeys::parse)]
    pub(super) detach_keys: super::keys::DetachKeys,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// The state file (here without its short form); several are merged in this order
    #[arg(long, value_name = "FILE")]
    pub(super) file: Vec<PathBuf>,
    /// Of which session
    #[arg(value_name = "AGENT/NAME")]
    pub(super) session: SessionRef,
    /// Follow: print what it prints until it ends
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Nothing older: a duration (`10m`) or a moment (RFC 3339)
    #[arg(long, value_name = "WHEN", value_parser = super::logs::since)]
    pub(super) since: Option<u64>,
    /// Only the last so many lines
    #[arg(long, value_name = "N")]
    pub(super) tail: Option<usize>,
    /// Standard output alone
    #[arg(long, conflicts_with = "stderr")]
    pub(super) stdout: bool,
    /// Standard error alone
    #[arg(long)]
    pub(super) stderr: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Which session
    #[arg(value_name = "AGENT/NAME")]
    pub(super) session: SessionRef,
    /// The signal, by name or number
    #[arg(short, long, default_value = "TERM", value_parser = super::end::signal, value_name = "SIGNAL")]
    pub(super) signal: i32,
    /// KILL after so long
    #[arg(short, long, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Duration,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Which sessions
    #[arg(value_name = "AGENT/NAME", required = true)]
    pub(super) sessions: Vec<SessionRef>,
    /// Those that run as well: they are killed
    #[arg(long)]
    pub(super) force: bool,
}
