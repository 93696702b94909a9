//! The command line: what was typed becomes [`Settings`] once, each family of verbs has a file, and what they found out
//! is worded in [`render`]. Nothing outside of this room writes to standard output.

mod agent;
mod args;
mod cache;
mod doctor;
mod exec;
mod file;
mod history;
mod kept;
mod logs;
mod ownership;
mod publish;
mod reconcile;
pub(crate) mod render;
mod rollback;
mod run;
mod runtime;
mod service;
mod session;
mod settings;
mod signals;
mod status;
mod terminal;
mod trust;
mod vm;
mod why;
mod workspace;

use args::*;
pub use args::{Color, Format, LogFormat};

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches, ValueEnum};

pub use render::errors::{CliError, ExitStatus};
pub use settings::Settings;

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
    let named = [&cli.file.file[..], cli.verb.files()].into_iter().rfind(|files| !files.is_empty()).unwrap_or_default();
    let settings = Settings::new(&cli.global, named);
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
    let helps = is("exec") && !is("--");
    helps.then_some("the command comes after `--`: `steadfast exec AGENT -- CMD ARG…`")
}

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
        Verb::Config(_) => file::config(settings),
        Verb::Schema { manifest, bundle } => file::schema(manifest, bundle),
        Verb::Completions { shell } => file::completions(shell),
        Verb::Plan(args) => reconcile::plan(settings, args).await,
        Verb::Apply(args) => reconcile::apply(settings, args).await,
        Verb::Run(args) => run::run(settings, args).await,
        Verb::Down(args) => reconcile::down(settings, args).await,
        Verb::Status(args) => status::status(settings, args).await,
        Verb::History(args) => history::history(settings, args).await,
        Verb::Why(args) => why::why(settings, args).await,
        Verb::Rollback(args) => rollback::rollback(settings, args).await,
        Verb::Logs(args) => logs::logs(settings, args).await,
        Verb::Exec(args) => exec::exec(settings, args).await,
        Verb::Session(verb) => session::session(settings, verb).await,
        Verb::Workspace(verb) => workspace::workspace(settings, verb).await,
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
        assert!(hint("steadfast exec -it a sh").unwrap().contains("after `--`"));
        assert_eq!(hint("steadfast exec a --wrong -- sh"), None);
        assert_eq!(hint("steadfast logs a -t"), None);
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
