//! `apply` where `run` keeps the state file: it is asked to do it.

use std::time::Duration;

use crate::cli::kept::Kept;
use crate::cli::render::progress::Printer;
use crate::cli::render::said::{Level, say};
use crate::cli::render::{self, report as render_report, units};
use crate::cli::signals::Signals;
use crate::cli::{ApplyArgs, CliError, ExitStatus, Format, Settings};
use crate::control::client::{AskError, Asked};
use crate::control::{Ended, Outcome, Request};

/// How much longer than `--timeout` an outcome is waited for: what is under way on containers is finished.
const GRACE: Duration = Duration::from_secs(60);

/// `run` holds the lock: it does by itself what is to be done, or now when it is asked.
pub(super) async fn leave_to_run(settings: &Settings, args: &ApplyArgs, kept: Kept) -> Result<ExitStatus, CliError> {
    if kept.holder.file.is_some() && !kept.is_for(&settings.files) {
        return Err(CliError::kept(&kept.holder, &settings.files));
    }
    ask(settings, args, &kept).await
}

/// The flags of an `apply` that `run` does not know of: it goes by the state file alone.
fn not_for_run(args: &ApplyArgs) -> Vec<&'static str> {
    let flags = [
        ("--only", !args.policy.only.is_empty()),
        ("--adopt", args.policy.adopt),
        ("--no-prune", args.policy.no_prune),
        ("--take-over", args.policy.take_over),
        ("--allow-empty", args.allow_empty),
    ];
    flags.into_iter().filter_map(|(flag, given)| given.then_some(flag)).collect()
}

/// Has `run` reconcile now, and says what came of it as if it had been done here.
pub(super) async fn ask(settings: &Settings, args: &ApplyArgs, kept: &Kept) -> Result<ExitStatus, CliError> {
    let flags = not_for_run(args);
    if !flags.is_empty() {
        return Err(CliError::new(
            ExitStatus::Usage,
            format!("{} does the work, and cannot honour {}", kept.holder, flags.join(", ")),
        )
        .hint("`run` follows the state file alone: leave that option out, or stop `run` and apply yourself"));
    }
    let signals = Signals::listen("no longer waiting; `steadfast run` goes on with it");
    // Handed over, it is answered once `run` has looked and begun.
    let timeout = if args.no_wait { Duration::ZERO } else { args.timeout };
    let patience = timeout + GRACE;
    let mut outcome = tokio::select! {
        outcome = asked(settings, timeout, args.retry_quarantined, kept) => outcome.map_err(|err| CliError::from_asking(&kept.holder, &err))?,
        () = signals.token.cancelled() => return Ok(signals.status().unwrap_or(ExitStatus::Interrupted)),
        () = tokio::time::sleep(patience) => {
            let message = format!("{} did not report the outcome within {}", kept.holder, units::short(patience));
            return Err(CliError::new(ExitStatus::NotConverged, message)
                .hint("it may hang, or be stopped: see its log"));
        }
    };
    let is_over = outcome.ended == Ended::Proved;
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, &render_report::json_of(&outcome))?,
        // It is not what was handed over that is reconciled.
        Format::Text | Format::Markdown if args.no_wait && outcome.state_file_error.is_some() => {}
        Format::Text | Format::Markdown if args.no_wait && !is_over => {
            let how_far = "`steadfast status --watch` shows how far it is";
            render::print(&format!("`{}`: handed over to {}; {how_far}.\n", outcome.name, kept.holder))?;
        }
        Format::Text | Format::Markdown => render::print(&render_report::text_of(&outcome, false))?,
    }
    if args.no_wait && !is_over && outcome.state_file_error.is_none() {
        return Ok(ExitStatus::Done);
    }
    for note in &outcome.notes {
        if !settings.quiet {
            say(Level::Info, &format!("note: {note}"), &[], settings.color_stderr);
        }
    }
    if args.no_wait {
        // Nobody waited, so that no time was up.
        outcome.ended = Ended::Proved;
    }
    render_report::print_problems_of(&outcome, settings.color_stderr);
    if let Some(why) = &outcome.state_file_error {
        let message = format!("the state file cannot be used, its last good state was reconciled:\n{why}");
        say(Level::Error, &message, &[], settings.color_stderr);
    }
    Ok(ExitStatus::from_code(outcome.exit_code).unwrap_or(ExitStatus::Error))
}

async fn asked(
    settings: &Settings,
    timeout: Duration,
    retry_quarantined: bool,
    kept: &Kept,
) -> Result<Outcome, AskError> {
    let printer = Printer::new(settings.quiet, settings.color_stderr, false);
    let mut answers = Asked::new(&kept.dir, &Request::reconcile(timeout, retry_quarantined)).await?;
    loop {
        let mut answer = answers.next().await?;
        match answer.get_mut("outcome") {
            Some(outcome) => {
                return serde_json::from_value(outcome.take())
                    .map_err(|err| AskError::Garbled { why: format!("the outcome: {err}") });
            }
            None => printer.told(&answer),
        }
    }
}
