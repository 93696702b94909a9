//! What may be typed: the verbs and their flags. A doc comment is a help text.
//!
//! Long because it is one table: each flag with its help, side by side with its likes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{cache, history, publish, session, workspace};
use crate::model::AgentName;

/// Keep agents in containers as a file says.
///
/// You describe the agents you want in a state file; steadfast fetches and verifies their images, and creates, starts,
/// replaces and removes their containers until the machine matches the file.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, propagate_version = true, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) file: FileArg,
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0 done, or nothing to do       5 another process holds the lock
  1 error                        6 verification failed (sha256, signature)
  2 plan --detailed-exitcode:   64 usage
    changes are pending         65 the state file or the manifest is invalid
  3 applied, not converged     125 `exec` itself failed
  4 rolled back                130 interrupted, 143 terminated";

/// Not a global flag, since `-f` means something else to `logs`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct FileArg {
    /// The state file; `-` reads standard input. Several are merged in this order [default: $STEADFAST_FILE, else ./steadfast.yaml]
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Directory of cache and state [default: the state file's `root`, else $STEADFAST_ROOT, else ~/.steadfast]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// What to write to standard output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(super) output: Format,
    /// How to write logs, progress and errors to standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(super) log_format: LogFormat,
    /// Log more; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Print errors and results only
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// When to use colours (see also $NO_COLOR)
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub(super) color: Color,
}

/// What is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs; stable.
    Json,
    /// The same as JSON, in YAML.
    Yaml,
    /// For a pull-request comment (`plan` only).
    #[value(hide = true)]
    Markdown,
}

impl Format {
    /// Whether it is for programs.
    pub fn is_data(self) -> bool {
        matches!(self, Format::Json | Format::Yaml)
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Write a commented starter state file
    Init(FileArg),
    /// Check the state file and touch nothing else
    Validate(FileArg),
    /// Print what the state files come to: merged, with templates, defaults and copies under each agent
    Config(FileArg),
    /// Show what `apply` would do
    Plan(PlanArgs),
    /// Make the machine match the state file
    Apply(ApplyArgs),
    /// Keep the machine as the state file says, until stopped
    Run(RunArgs),
    /// Show desired beside observed state
    Status(StatusArgs),
    /// Show what was done, when, why and with which outcome
    History(HistoryArgs),
    /// Show why an agent is as it is: what is desired, what was observed, what it waits for, and what stopped it
    Why(WhyArgs),
    /// Go back to an earlier version of an agent, until the state file says something else of it
    #[command(after_help = "EXAMPLES:\n  steadfast rollback web\n  steadfast rollback web --to 1.4.2")]
    Rollback(RollbackArgs),
    /// Remove everything this state file owns
    Down(DownArgs),
    /// Print an agent's log, standard output and standard error kept apart
    Logs(LogsArgs),
    /// Run a command in an agent; its exit code is ours
    Exec(ExecArgs),
    /// Keep long-lived commands in agents: start them, send to them, attach to them
    #[command(subcommand)]
    Session(session::SessionVerb),
    /// Bring source trees into agents, and their commits back
    #[command(subcommand)]
    Workspace(workspace::WorkspaceVerb),
    /// Work with the artifact cache alone
    #[command(subcommand)]
    Cache(CacheVerb),
    /// Work with the Lima virtual machine alone
    #[command(subcommand)]
    Vm(VmVerb),
    /// Publish agents: tarballs, manifests, object stores
    #[command(subcommand)]
    Publish(publish::PublishVerb),
    /// Manage what is known of the manifest's signatures
    #[command(subcommand)]
    Trust(TrustVerb),
    /// Have `run` started with the machine or the session, by systemd or launchd
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Check every layer and name the first that fails, with its fix
    Doctor(FileArg),
    /// Print the JSON schema of the state file, for editors
    Schema {
        /// The schema of the manifest instead
        #[arg(long)]
        manifest: bool,
        /// The schema of the bundle instead
        #[arg(long, conflicts_with = "manifest")]
        bundle: bool,
    },
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

impl Verb {
    /// The state files that the verb was given.
    pub(super) fn files(&self) -> &[PathBuf] {
        let file = match self {
            Verb::Init(file) | Verb::Validate(file) | Verb::Config(file) | Verb::Doctor(file) => file,
            Verb::Plan(args) => &args.file,
            Verb::Apply(args) => &args.file,
            Verb::Run(args) => &args.file,
            Verb::Status(args) => &args.file,
            Verb::History(args) => &args.file,
            Verb::Why(args) => &args.file,
            Verb::Rollback(args) => &args.file,
            Verb::Service(ServiceVerb::Install(args)) => &args.file,
            Verb::Service(ServiceVerb::Uninstall(args) | ServiceVerb::Status(args)) => &args.file,
            Verb::Down(args) => &args.file,
            Verb::Vm(verb) => verb.file(),
            Verb::Exec(args) => &args.file,
            Verb::Workspace(verb) => verb.file(),
            Verb::Cache(CacheVerb::Sync(args)) => &args.file,
            Verb::Cache(CacheVerb::Import(args)) => &args.file,
            Verb::Cache(CacheVerb::List(file) | CacheVerb::Verify { file, .. } | CacheVerb::Gc { file, .. }) => file,
            Verb::Trust(TrustVerb::Show(file) | TrustVerb::Reset { file, .. }) => file,
            Verb::Logs(args) => return &args.file,
            Verb::Session(verb) => return verb.files(),
            Verb::Publish(_) | Verb::Schema { .. } | Verb::Completions { .. } => return &[],
        };
        &file.file
    }
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Exit with 2 when changes are pending
    #[arg(long)]
    pub(super) detailed_exitcode: bool,
    #[command(flatten)]
    pub(super) policy: PolicyArgs,
}

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    /// Keep containers whose agent is gone from the state file, and old artifacts
    #[arg(long)]
    pub(super) no_prune: bool,
    /// Adopt what others have under a wanted name: containers (they are replaced), image names (they are moved), a VM
    #[arg(long)]
    pub(super) adopt: bool,
    /// Take the name over from the other state file it belongs to
    #[arg(long)]
    pub(super) take_over: bool,
    /// Only this agent; may be given several times
    #[arg(long, value_name = "AGENT")]
    pub(super) only: Vec<AgentName>,
}

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Maximum time it may take
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(super) timeout: Duration,
    /// Let a state file without agents remove those that are there
    #[arg(long)]
    pub(super) allow_empty: bool,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(super) lock_timeout: Duration,
    /// Observe what was started once more, this long after the last start
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    pub(super) settle: Duration,
    /// Leave after the actions: do not wait for health, do not observe once more. Where `steadfast run` reconciles this state file, leave
    /// once it has begun
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Wait for the outcome: the default, also where `steadfast run` reconciles this state file and does it
    #[arg(long, conflicts_with = "no_wait")]
    pub(super) wait: bool,
    /// Try again what failed before and is quarantined, although nothing else is wanted
    #[arg(long)]
    pub(super) retry_quarantined: bool,
    /// Container steps at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) parallel: u16,
    /// Downloads at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) parallel_downloads: u16,
    #[command(flatten)]
    pub(super) policy: PolicyArgs,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Maximum time between reconciliations
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = resync)]
    pub(super) resync: Duration,
    /// How long the state file must be quiet after a change
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    pub(super) debounce: Duration,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(super) lock_timeout: Duration,
    /// What ended counts as ready once it has stayed up for so long, and for 10 s at the least
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    pub(super) settle: Duration,
    /// Keep containers whose agent is gone from the state file, and old artifacts
    #[arg(long)]
    pub(super) no_prune: bool,
    /// Adopt what others have under a wanted name: containers (they are replaced), image names (they are moved), a VM
    #[arg(long)]
    pub(super) adopt: bool,
    /// Take the name over from the other state file it belongs to
    #[arg(long)]
    pub(super) take_over: bool,
    /// Let a state file without agents remove those that are there
    #[arg(long)]
    pub(super) allow_empty: bool,
    /// Container steps at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) parallel: u16,
    /// Downloads at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) parallel_downloads: u16,
}

#[derive(Debug, Args)]
pub(super) struct DownArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Delete the virtual machine too, and with it all that is in it
    #[arg(long)]
    pub(super) vm: bool,
    /// Remove the volumes and networks of the state file too, and with them all that is in the volumes
    #[arg(long)]
    pub(super) volumes: bool,
    /// Take the name over from the other state file it belongs to
    #[arg(long)]
    pub(super) take_over: bool,
    /// Maximum time it may take
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(super) timeout: Duration,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(super) lock_timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Keep running, and print again whenever something changes
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Exit with 0 although the agents are not as the state file says (else 3)
    #[arg(long)]
    pub(super) exit_zero: bool,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Only what concerns this agent, whether or not it is still in the state file
    pub(super) agent: Option<AgentName>,
    /// Only what happened since then: `2h`, or `2026-04-24T00:00:00Z`
    #[arg(long, value_name = "WHEN", value_parser = history::since)]
    pub(super) since: Option<std::time::SystemTime>,
    /// Only the last so many entries
    #[arg(short, long, value_name = "N", default_value = "50", value_parser = at_least_one)]
    pub(super) number: usize,
    /// Follow: print new entries as they come
    #[arg(long)]
    pub(super) follow: bool,
}

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Which agent
    pub(super) agent: AgentName,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// Which agent
    pub(super) agent: AgentName,
    /// To this version, rather than to the last one before that was known to be good
    #[arg(long, value_name = "VERSION")]
    pub(super) to: Option<String>,
    /// Maximum time it may take
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(super) timeout: Duration,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(super) lock_timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The state file (here without its short form); several are merged in this order
    #[arg(long, value_name = "FILE")]
    pub(super) file: Vec<PathBuf>,
    /// Whose log
    pub(super) agent: AgentName,
    /// Follow: print new lines as they come
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "N")]
    pub(super) tail: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// In which agent
    pub(super) agent: AgentName,
    /// Pass standard input on
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the command a terminal: with `-i` (`-it`) ours, every key included, Ctrl-C too
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set a variable for the command; without a value, pass on ours
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// Directory to run it in
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// Who runs it, instead of the container's own user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ServiceVerb {
    /// Write the service's file, enable it and start it
    Install(InstallArgs),
    /// Stop it, disable it and remove its file; agents keep running
    Uninstall(ServiceArgs),
    /// Show whether it is installed, enabled and active
    Status(ServiceArgs),
}

#[derive(Debug, Args)]
pub(super) struct ScopeArgs {
    /// The user's own service [default, unless this is root]
    #[arg(long, conflicts_with = "system")]
    pub(super) user: bool,
    /// The system's service, which runs as root [default for root]
    #[arg(long)]
    pub(super) system: bool,
}

#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    /// Print what would be written, and touch nothing
    #[arg(long)]
    pub(super) print: bool,
    /// Write the file only: do not enable it, do not start it
    #[arg(long)]
    pub(super) no_start: bool,
    /// Write over a file that is not ours or differs
    #[arg(long)]
    pub(super) force: bool,
    /// Further flags for `run`
    #[arg(last = true, value_name = "FLAG")]
    pub(super) flags: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ServiceArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    /// Name of the state file, where there is no state file any more
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<crate::model::Name>,
    /// Also a file that is not ours (`uninstall`)
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum VmVerb {
    /// Show the machine as it is
    Status(FileArg),
    /// Start it, and make it first where there is none; what ran when it was stopped comes back, all else is left to
    /// `apply` and `run`
    Start(VmActArgs),
    /// Stop it, and with it all that runs in it
    Stop(VmStopArgs),
    /// Stop and start it: settings that changed in the state file take effect
    Restart(VmActArgs),
    /// Stop it and delete it with all that is in it
    Delete(VmActArgs),
    /// Open a shell in it, or run a command there; the exit code is the command's
    Shell(VmShellArgs),
}

impl VmVerb {
    pub(super) fn file(&self) -> &FileArg {
        match self {
            VmVerb::Status(file) => file,
            VmVerb::Start(args) | VmVerb::Restart(args) | VmVerb::Delete(args) => &args.file,
            VmVerb::Stop(args) => &args.act.file,
            VmVerb::Shell(args) => &args.file,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct VmActArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(super) lock_timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct VmStopArgs {
    #[command(flatten)]
    pub(super) act: VmActArgs,
    /// Do not wait for it to stop by itself: as by a power cut
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct VmShellArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// The command and its arguments [default: a login shell]
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheVerb {
    /// Fetch and verify what the state file wants; without a state file, all that the manifest offers
    Sync(SyncArgs),
    /// Take in an archive that `publish export` wrote, where there is no network
    Import(cache::import::ImportArgs),
    /// List the artifacts in the cache
    List(FileArg),
    /// Check the artifacts in the cache against their known digests
    Verify {
        #[command(flatten)]
        file: FileArg,
        /// Hash every byte, whatever the index says
        #[arg(long)]
        deep: bool,
    },
    /// Remove artifacts that nothing needs any more
    Gc {
        #[command(flatten)]
        file: FileArg,
        /// Show what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// Older versions to keep per agent [default: the state file's `cache.keep`, else 1]
        #[arg(long, value_name = "N")]
        keep: Option<u32>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TrustVerb {
    /// Show the keys that the manifest may be signed with, and which manifest was accepted last
    Show(FileArg),
    /// Forget which manifest was accepted last: the next one that is signed with a trusted key counts, however old it is
    Reset {
        #[command(flatten)]
        file: FileArg,
        /// Do it; without, only what would be forgotten is said
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    #[command(flatten)]
    pub(super) file: FileArg,
    /// The manifest [default: the state file's, else $STEADFAST_MANIFEST_URL]
    #[arg(long, value_name = "URL")]
    pub(super) manifest_url: Option<String>,
    /// For which architecture: host, arm64 (or aarch64), x64 (or amd64, x86_64), all [default: the state file's, else host]
    #[arg(long, value_name = "ARCH")]
    pub(super) arch: Option<String>,
    /// How often a download is tried again
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) retries: u32,
    /// How long a download may make no progress
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(super) stall_timeout: Duration,
}

/// Nobody means more, and what is added to the clock must not overflow it.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A duration of at most a year.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err("longer than a year, the most it may be (365 days)".to_owned()),
        Ok(duration) => Ok(duration),
        Err(err) => Err(err.to_string()),
    }
}

/// A count of entries to show; none would say nothing.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(err) => Err(format!("{err}")),
    }
}

/// More often than once a second would be polling.
pub(super) fn resync(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        often if often < Duration::from_secs(1) => Err("shorter than a second, the least it may be".to_owned()),
        resync => Ok(resync),
    }
}
