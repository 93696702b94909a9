//! The command line: what was typed becomes [`Settings`] once, each family of verbs has a file, and what they found out
//! is worded in [`render`]. Nothing outside of this room writes to standard output.

mod agent;
mod cache;
mod doctor;
mod file;
mod history;
mod kept;
mod logs;
mod ownership;
mod publish;
mod reconcile;
pub(crate) mod render;
mod run;
mod runtime;
mod service;
mod settings;
mod signals;
mod status;
mod trust;
mod vm;
mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use render::errors::{CliError, ExitStatus};
pub use settings::Settings;

use crate::model::AgentName;

/// Keep agents in containers as a file says.
///
/// You describe the agents you want in a state file; steadfast fetches and verifies their images, and creates, starts,
/// replaces and removes their containers until the machine matches the file.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0 done, or nothing to do       5 another process holds the lock
  1 error                        6 verification failed (sha256, signature)
  2 plan --detailed-exitcode:   64 usage
    changes are pending         65 the state file or the manifest is invalid
  3 applied, not converged     125 `exec` itself failed
  4 rolled back                130 interrupted, 143 terminated";

/// Not a global flag, since `-f` means something else to `logs`.
#[derive(Debug, Clone, Default, Args)]
struct FileArg {
    /// The state file; `-` reads standard input [default: $STEADFAST_FILE, else ./steadfast.yaml]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Global {
    /// Directory of cache and state [default: the state file's `root`, else $STEADFAST_ROOT, else ~/.steadfast]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What to write to standard output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
    /// How to write logs, progress and errors to standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
    /// Log more; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print errors and results only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// When to use colours (see also $NO_COLOR)
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    color: Color,
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
enum Verb {
    /// Write a commented starter state file
    Init(FileArg),
    /// Check the state file and touch nothing else
    Validate(FileArg),
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
    /// Remove everything this state file owns
    Down(DownArgs),
    /// Print an agent's log, standard output and standard error kept apart
    Logs(LogsArgs),
    /// Run a command in an agent; its exit code is ours
    Exec(ExecArgs),
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
    /// The state file, where the verb was given one.
    fn file(&self) -> Option<&std::path::Path> {
        let file = match self {
            Verb::Init(file) | Verb::Validate(file) | Verb::Doctor(file) => file,
            Verb::Plan(args) => &args.file,
            Verb::Apply(args) => &args.file,
            Verb::Run(args) => &args.file,
            Verb::Status(args) => &args.file,
            Verb::History(args) => &args.file,
            Verb::Why(args) => &args.file,
            Verb::Service(ServiceVerb::Install(args)) => &args.file,
            Verb::Service(ServiceVerb::Uninstall(args) | ServiceVerb::Status(args)) => &args.file,
            Verb::Down(args) => &args.file,
            Verb::Vm(verb) => verb.file(),
            Verb::Exec(args) => &args.file,
            Verb::Cache(CacheVerb::Sync(args)) => &args.file,
            Verb::Cache(CacheVerb::Import(args)) => &args.file,
            Verb::Cache(CacheVerb::List(file) | CacheVerb::Verify { file, .. } | CacheVerb::Gc { file, .. }) => file,
            Verb::Trust(TrustVerb::Show(file) | TrustVerb::Reset { file, .. }) => file,
            Verb::Logs(args) => return args.file.as_deref(),
            Verb::Publish(_) | Verb::Schema { .. } | Verb::Completions { .. } => return None,
        };
        file.file.as_deref()
    }
}

#[derive(Debug, Args)]
struct PlanArgs {
    #[command(flatten)]
    file: FileArg,
    /// Exit with 2 when changes are pending
    #[arg(long)]
    detailed_exitcode: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Debug, Args)]
struct PolicyArgs {
    /// Keep containers whose agent is gone from the state file, and old artifacts
    #[arg(long)]
    no_prune: bool,
    /// Adopt what others have under a wanted name: containers (they are replaced), image names (they are moved), a VM
    #[arg(long)]
    adopt: bool,
    /// Take the name over from the other state file it belongs to
    #[arg(long)]
    take_over: bool,
    /// Only this agent; may be given several times
    #[arg(long, value_name = "AGENT")]
    only: Vec<AgentName>,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    #[command(flatten)]
    file: FileArg,
    /// Maximum time it may take
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    timeout: Duration,
    /// Let a state file without agents remove those that are there
    #[arg(long)]
    allow_empty: bool,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lock_timeout: Duration,
    /// Observe what was started once more, this long after the last start
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    settle: Duration,
    /// Leave after the actions: do not wait for health, do not observe once more. Where `steadfast run` reconciles this state file, leave
    /// once it has begun
    #[arg(long)]
    no_wait: bool,
    /// Wait for the outcome: the default, also where `steadfast run` reconciles this state file and does it
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Container steps at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Downloads at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel_downloads: u16,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    file: FileArg,
    /// Maximum time between reconciliations
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = resync)]
    resync: Duration,
    /// How long the state file must be quiet after a change
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    debounce: Duration,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lock_timeout: Duration,
    /// How long a successor must stay up before its predecessor is dropped
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    settle: Duration,
    /// Keep containers whose agent is gone from the state file, and old artifacts
    #[arg(long)]
    no_prune: bool,
    /// Adopt what others have under a wanted name: containers (they are replaced), image names (they are moved), a VM
    #[arg(long)]
    adopt: bool,
    /// Take the name over from the other state file it belongs to
    #[arg(long)]
    take_over: bool,
    /// Let a state file without agents remove those that are there
    #[arg(long)]
    allow_empty: bool,
    /// Container steps at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Downloads at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel_downloads: u16,
}

#[derive(Debug, Args)]
struct DownArgs {
    #[command(flatten)]
    file: FileArg,
    /// Delete the virtual machine too, and with it all that is in it
    #[arg(long)]
    vm: bool,
    /// Take the name over from the other state file it belongs to
    #[arg(long)]
    take_over: bool,
    /// Maximum time it may take
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    timeout: Duration,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lock_timeout: Duration,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    file: FileArg,
    /// Keep running, and print again whenever something changes
    #[arg(short, long)]
    watch: bool,
    /// Exit with 0 although the agents are not as the state file says (else 3)
    #[arg(long)]
    exit_zero: bool,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    #[command(flatten)]
    file: FileArg,
    /// Only what concerns this agent, whether or not it is still in the state file
    agent: Option<AgentName>,
    /// Only what happened since then: `2h`, or `2026-04-24T00:00:00Z`
    #[arg(long, value_name = "WHEN", value_parser = history::since)]
    since: Option<std::time::SystemTime>,
    /// Only the last so many entries
    #[arg(short, long, value_name = "N", default_value = "50", value_parser = at_least_one)]
    number: usize,
    /// Follow: print new entries as they come
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, Args)]
struct WhyArgs {
    #[command(flatten)]
    file: FileArg,
    /// Which agent
    agent: AgentName,
}

#[derive(Debug, Args)]
struct LogsArgs {
    /// The state file (here without its short form)
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Whose log
    agent: AgentName,
    /// Follow: print new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
}

#[derive(Debug, Args)]
struct ExecArgs {
    #[command(flatten)]
    file: FileArg,
    /// In which agent
    agent: AgentName,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Set a variable for the command; without a value, pass on ours
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Directory to run it in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum ServiceVerb {
    /// Write the service's file, enable it and start it
    Install(InstallArgs),
    /// Stop it, disable it and remove its file; agents keep running
    Uninstall(ServiceArgs),
    /// Show whether it is installed, enabled and active
    Status(ServiceArgs),
}

#[derive(Debug, Args)]
struct ScopeArgs {
    /// The user's own service [default, unless this is root]
    #[arg(long, conflicts_with = "system")]
    user: bool,
    /// The system's service, which runs as root [default for root]
    #[arg(long)]
    system: bool,
}

#[derive(Debug, Args)]
struct InstallArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Print what would be written, and touch nothing
    #[arg(long)]
    print: bool,
    /// Write the file only: do not enable it, do not start it
    #[arg(long)]
    no_start: bool,
    /// Write over a file that is not ours or differs
    #[arg(long)]
    force: bool,
    /// Further flags for `run`
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

#[derive(Debug, Args)]
struct ServiceArgs {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Name of the state file, where there is no state file any more
    #[arg(long, value_name = "NAME")]
    name: Option<crate::model::Name>,
    /// Also a file that is not ours (`uninstall`)
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Subcommand)]
enum VmVerb {
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
    fn file(&self) -> &FileArg {
        match self {
            VmVerb::Status(file) => file,
            VmVerb::Start(args) | VmVerb::Restart(args) | VmVerb::Delete(args) => &args.file,
            VmVerb::Stop(args) => &args.act.file,
            VmVerb::Shell(args) => &args.file,
        }
    }
}

#[derive(Debug, Args)]
struct VmActArgs {
    #[command(flatten)]
    file: FileArg,
    /// How long to wait for another steadfast that holds the lock
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lock_timeout: Duration,
}

#[derive(Debug, Args)]
struct VmStopArgs {
    #[command(flatten)]
    act: VmActArgs,
    /// Do not wait for it to stop by itself: as by a power cut
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct VmShellArgs {
    #[command(flatten)]
    file: FileArg,
    /// The command and its arguments [default: a login shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum CacheVerb {
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
enum TrustVerb {
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
struct SyncArgs {
    #[command(flatten)]
    file: FileArg,
    /// The manifest [default: the state file's, else $STEADFAST_MANIFEST_URL]
    #[arg(long, value_name = "URL")]
    manifest_url: Option<String>,
    /// For which architecture: host, arm64 (or aarch64), x64 (or amd64, x86_64), all [default: the state file's, else host]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// How often a download is tried again
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
    /// How long a download may make no progress
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    stall_timeout: Duration,
}

/// Nobody means more, and what is added to the clock must not overflow it.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A duration of at most a year.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err("longer than a year, the most it may be (365 days)".to_owned()),
        Ok(duration) => Ok(duration),
        Err(err) => Err(err.to_string()),
    }
}

/// A count of entries to show; none would say nothing.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(err) => Err(format!("{err}")),
    }
}

/// More often than once a second would be polling.
fn resync(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        often if often < Duration::from_secs(1) => Err("shorter than a second, the least it may be".to_owned()),
        resync => Ok(resync),
    }
}

/// Runs the command line this process was started with.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// The whole command line. Every verb's help closes with the exit codes, since that is where people look for them.
fn command() -> clap::Command {
    fn close(verb: clap::Command) -> clap::Command {
        let verb = if verb.has_subcommands() { verb.mut_subcommands(close) } else { verb };
        verb.after_help(EXIT_CODES)
    }
    // The global one, shown with the formats that the verb has.
    let output = |formats: &'static [Format]| {
        let values = Format::value_variants().iter().filter_map(|format| {
            let value = format.to_possible_value()?;
            Some(value.hide(!formats.contains(format)))
        });
        clap::Arg::new("output")
            .short('o')
            .long("output")
            .value_name("FORMAT")
            .help("What to write to standard output")
            .value_parser(PossibleValuesParser::new(values).try_map(|word: String| Format::from_str(&word, false)))
            .default_value("text")
            .hide(formats.is_empty())
            .global(true)
    };
    let command = close(Cli::command())
        .mut_subcommand("plan", |verb| verb.arg(output(Format::value_variants())))
        .mut_subcommand("logs", |verb| verb.arg(output(&[Format::Text, Format::Json])));
    WITHOUT_FORMAT.into_iter().fold(command, |command, name| command.mut_subcommand(name, |verb| verb.arg(output(&[]))))
}

/// Verbs whose output is somebody else's words, or has one form alone.
const WITHOUT_FORMAT: [&str; 3] = ["exec", "schema", "completions"];

fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let parsed = command().try_get_matches_from(&args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(err) => {
            // Help and version are no errors and go to standard output.
            let status = if err.use_stderr() { ExitStatus::Usage } else { ExitStatus::Done };
            let printed = err.print();
            if err.kind() == clap::error::ErrorKind::UnknownArgument
                && let Some(hint) = exec_hint(&args)
            {
                render::said::say(render::said::Level::Info, &format!("hint: {hint}"), &[], false);
            }
            // Who asked for help and did not get it is told by the exit code.
            let lost = printed.is_err_and(|err| err.kind() != std::io::ErrorKind::BrokenPipe);
            return if lost && status == ExitStatus::Done { ExitStatus::Error } else { status }.into();
        }
    };
    // The streams themselves would strip what was asked for on a pipe.
    match cli.global.color {
        Color::Always => anstream::ColorChoice::AlwaysAnsi.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
        Color::Auto => {}
    }
    let settings = Settings::new(&cli.global, cli.verb.file().or(cli.file.file.as_deref()));
    if settings.log_format == LogFormat::Json {
        render::said::write_json_globally();
    }
    crate::telemetry::init(crate::telemetry::Logging {
        quiet: settings.quiet,
        verbose: settings.verbose,
        json: settings.log_format == LogFormat::Json,
        color: settings.color_stderr,
    });
    let runtime = match runtime::start(&settings) {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let outcome = runtime.block_on(dispatch(&settings, cli.verb));
    // A blocking read of standard input may never end; it must not keep us.
    runtime.shutdown_background();
    let code = match outcome {
        Ok(status) => status.into(),
        Err(err) => settings.fail(&err),
    };
    // Nor must a thread that is writing a file leave half of it.
    crate::files::live::abandon();
    code
}

/// What helps who types `exec` as other tools have it.
fn exec_hint(args: &[OsString]) -> Option<&'static str> {
    let is = |word: &str| args.iter().any(|arg| arg == word);
    if !is("exec") || is("--") {
        return ["-t", "-it", "-ti", "--tty"].into_iter().any(is).then_some(NO_TERMINAL).filter(|_| is("exec"));
    }
    Some("the command comes after `--`: `steadfast exec AGENT -- CMD ARG…`")
}

const NO_TERMINAL: &str = "`exec` gives a command no terminal; `-i` alone passes standard input on";

async fn dispatch(settings: &Settings, verb: Verb) -> Result<ExitStatus, CliError> {
    if settings.output == Format::Markdown && !matches!(verb, Verb::Plan(_)) {
        return Err(CliError::new(ExitStatus::Usage, "`-o markdown` goes with `plan` only"));
    }
    if settings.output != Format::Text && matches!(verb, Verb::Exec(_) | Verb::Schema { .. } | Verb::Completions { .. })
    {
        let why = "`-o` does not go with this verb: what it prints has one format";
        return Err(CliError::new(ExitStatus::Usage, why));
    }
    match verb {
        Verb::Init(_) => file::init(settings),
        Verb::Validate(_) => file::validate(settings),
        Verb::Schema { manifest, bundle } => file::schema(manifest, bundle),
        Verb::Completions { shell } => file::completions(shell),
        Verb::Plan(args) => reconcile::plan(settings, args).await,
        Verb::Apply(args) => reconcile::apply(settings, args).await,
        Verb::Run(args) => run::run(settings, args).await,
        Verb::Down(args) => reconcile::down(settings, args).await,
        Verb::Status(args) => status::status(settings, args).await,
        Verb::History(args) => history::history(settings, args).await,
        Verb::Why(args) => why::why(settings, args).await,
        Verb::Logs(args) => logs::logs(settings, args).await,
        Verb::Exec(args) => agent::exec(settings, args).await,
        Verb::Cache(verb) => cache::cache(settings, verb).await,
        Verb::Vm(verb) => vm::vm(settings, verb).await,
        Verb::Publish(verb) => publish::publish(settings, verb).await,
        Verb::Trust(verb) => trust::trust(settings, verb),
        Verb::Service(verb) => service::service(settings, verb),
        Verb::Doctor(_) => doctor::doctor(settings).await,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn who_types_exec_as_elsewhere_is_helped() {
        let hint = |line: &str| super::exec_hint(&line.split(' ').map(Into::into).collect::<Vec<_>>());
        assert!(hint("steadfast exec a ls -l").unwrap().contains("after `--`"));
        assert!(hint("steadfast exec a -it -- sh").unwrap().contains("no terminal"));
        assert_eq!(hint("steadfast exec a --wrong -- sh"), None);
        assert_eq!(hint("steadfast logs a -t"), None);
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
