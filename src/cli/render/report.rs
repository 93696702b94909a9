//! What a convergence came to.

use serde::Serialize;

use super::super::ExitStatus;
use super::errors::{print_hint, print_trouble, trouble_status};
use super::units;
use crate::error::Chain;
use crate::model::{AgentName, FieldChange, Name};
use crate::reconcile::{Report, Taken, Trouble};

/// The JSON of a convergence.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportJson<'a> {
    name: &'a Name,
    converged: bool,
    actions: Vec<TakenJson>,
    duration_ms: u64,
    problems: Vec<ProblemJson<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TakenJson {
    kind: &'static str,
    agent: Option<AgentName>,
    target: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<FieldChange>,
    result: &'static str,
    duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson>,
}

#[derive(Debug, Serialize)]
struct ErrorJson {
    kind: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct ProblemJson<'a> {
    agent: Option<&'a AgentName>,
    kind: &'static str,
    message: String,
}

/// The report as JSON.
pub fn json(report: &Report) -> impl Serialize {
    ReportJson {
        name: &report.name,
        converged: report.converged,
        actions: report.taken.iter().map(taken).collect(),
        duration_ms: units::millis(report.took),
        problems: report
            .troubles
            .iter()
            .map(|trouble| ProblemJson { agent: trouble.agent(), kind: kind(trouble), message: trouble.to_string() })
            .collect(),
    }
}

fn taken(taken: &Taken) -> TakenJson {
    let Taken { step, outcome, took } = taken;
    TakenJson {
        kind: step.action.kind(),
        agent: step.agent.clone(),
        target: step.action.target(),
        reason: step.reason.to_string(),
        bytes: step.action.bytes(),
        changes: step.reason.changes().to_vec(),
        result: if outcome.is_ok() { "done" } else { "failed" },
        duration_ms: units::millis(*took),
        error: outcome.as_ref().err().map(|err| ErrorJson { kind: err.kind(), message: Chain(&**err).to_string() }),
    }
}

fn kind(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::Failed { error, .. } => error.kind(),
        Trouble::NonConvergent { .. } => "nonConvergent",
        Trouble::Blocked { waiting } => match waiting.on.word() {
            "removal" => "conflict",
            "image" => "imageMissing",
            "manifest" => "manifest",
            _ => "unknown",
        },
    }
}

/// One closing sentence for people.
pub fn text(report: &Report, gone: bool) -> String {
    let name = &report.name;
    let steps = report.taken.iter().filter(|taken| taken.outcome.is_ok()).count();
    let took = units::short(report.took);
    match (report.converged, steps) {
        (true, 0) if gone => format!("`{name}`: nothing to remove.\n"),
        (true, 0) => format!("`{name}`: nothing to do.\n"),
        (true, _) if gone => format!("`{name}`: removed; {} in {took}.\n", units::count(steps, "step")),
        (true, _) => format!("`{name}`: converged; {} in {took}.\n", units::count(steps, "step")),
        (false, _) => {
            let left = report.residual.ready.len() + report.residual.waiting.len();
            format!("`{name}`: not converged; {} taken in {took}, {left} left.\n", units::count(steps, "step"))
        }
    }
}

/// How many troubles are told one by one. Beyond that nobody reads on.
const MOST_TROUBLES: usize = 25;

/// Writes the troubles to standard error.
pub fn print_troubles(report: &Report, color: bool) {
    // Several steps of one agent may wait for the same thing: that is said once.
    let mut said = std::collections::BTreeSet::new();
    let once: Vec<_> =
        report.troubles.iter().filter(|trouble| said.insert((trouble.agent(), trouble.to_string()))).collect();
    for trouble in once.iter().take(MOST_TROUBLES) {
        print_trouble(trouble, color);
    }
    if once.len() > MOST_TROUBLES {
        anstream::eprintln!("… and {} more; `-o json` has them all", once.len() - MOST_TROUBLES);
    }
    if report.interrupted {
        let left: Vec<_> = report
            .residual
            .ready
            .iter()
            .map(|step| step.action.to_string())
            .chain(report.residual.waiting.iter().map(|waiting| format!("{} `{}`", waiting.kind, waiting.target)))
            .collect();
        if left.is_empty() {
            anstream::eprintln!("stopped before it was proved that all is well");
        } else {
            anstream::eprintln!("stopped; left to do: {}", left.join(", "));
        }
        print_hint("the next run goes on from here", color);
    } else if report.timed_out {
        anstream::eprintln!("the time was up before everything was done");
        print_hint("--timeout gives it more; the next run goes on from here", color);
    }
}

/// What the process ends with.
pub fn status(report: &Report) -> ExitStatus {
    let worst = report.troubles.iter().map(|trouble| trouble_status(trouble, report.manifest_invalid));
    // What says most about what to do next wins.
    const ORDER: [ExitStatus; 5] = [
        ExitStatus::Unverified,
        ExitStatus::RolledBack,
        ExitStatus::Invalid,
        ExitStatus::Error,
        ExitStatus::NotConverged,
    ];
    let worst: Vec<_> = worst.collect();
    if let Some(status) = ORDER.into_iter().find(|status| worst.contains(status)) {
        return status;
    }
    if report.converged { ExitStatus::Done } else { ExitStatus::NotConverged }
}
