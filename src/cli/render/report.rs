//! What a convergence came to.

use serde::Serialize;

use super::super::ExitStatus;
use super::errors::{print_trouble, trouble_status};
use super::said::{Level, say};
use super::units;
use crate::act::ActError;
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
            .map(|trouble| ProblemJson { agent: trouble.agent(), kind: trouble.kind(), message: trouble.to_string() })
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
    let mut once: Vec<_> =
        report.troubles.iter().filter(|trouble| said.insert((trouble.agent(), trouble.to_string()))).collect();
    // What nothing runs of any more comes first.
    once.sort_by_key(|trouble| !is_left_broken(trouble));
    for trouble in once.iter().take(MOST_TROUBLES) {
        print_trouble(trouble, color);
    }
    if once.len() > MOST_TROUBLES {
        let more = format!("… and {} more; `-o json` has them all", once.len() - MOST_TROUBLES);
        say(Level::Warn, &more, &[], color);
    }
    if report.interrupted {
        let left: Vec<_> = report
            .residual
            .ready
            .iter()
            .map(|step| step.action.to_string())
            .chain(report.residual.waiting.iter().map(|waiting| format!("{} `{}`", waiting.kind, waiting.target)))
            .collect();
        let message = if left.is_empty() {
            "stopped before it was proved that all is well".to_owned()
        } else {
            format!("stopped; left to do: {}", left.join(", "))
        };
        say(Level::Warn, &message, &["the next run goes on from here".to_owned()], color);
    } else if report.timed_out {
        let hint = "--timeout gives it more; the next run goes on from here".to_owned();
        say(Level::Warn, "the time was up before everything was done", &[hint], color);
    }
}

/// A replacement that failed, and whose predecessor did not come back.
fn is_left_broken(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Failed { error, .. } if matches!(**error, ActError::RollBackFailed { .. }))
}

/// What the process ends with.
pub fn status(report: &Report) -> ExitStatus {
    let worst: Vec<_> =
        report.troubles.iter().map(|trouble| trouble_status(trouble, report.manifest_invalid)).collect();
    // "Rolled back" would say of all agents that they run as before.
    let broken = report.troubles.iter().any(is_left_broken);
    // What says most about what to do next wins.
    const ORDER: [ExitStatus; 5] = [
        ExitStatus::Unverified,
        ExitStatus::RolledBack,
        ExitStatus::Invalid,
        ExitStatus::Error,
        ExitStatus::NotConverged,
    ];
    let tells = |status: &ExitStatus| worst.contains(status) && !(broken && *status == ExitStatus::RolledBack);
    if let Some(status) = ORDER.into_iter().find(tells) {
        return status;
    }
    if report.converged { ExitStatus::Done } else { ExitStatus::NotConverged }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::act::Ending;
    use crate::plan::Plan;

    fn failed(error: ActError) -> Trouble {
        Trouble::Failed { agent: None, error: Arc::new(error) }
    }

    fn cause() -> Box<ActError> {
        Box::new(ActError::EndedAtOnce { container: "demo-a".into(), how: Ending::Exited(1), log: String::new() })
    }

    fn status_of(troubles: Vec<Trouble>) -> ExitStatus {
        status(&Report {
            name: "demo".parse().unwrap(),
            converged: false,
            taken: Vec::new(),
            troubles,
            residual: Plan::default(),
            manifest_invalid: false,
            timed_out: false,
            interrupted: false,
            took: Duration::ZERO,
        })
    }

    #[test]
    fn rolled_back_means_that_the_old_one_runs() {
        let back = || failed(ActError::RolledBack { container: "demo-a".into(), cause: cause() });
        let stuck =
            || failed(ActError::RollBackFailed { container: "demo-b".into(), why: "gone".into(), cause: cause() });
        assert_eq!(status_of(vec![back()]), ExitStatus::RolledBack);
        assert_eq!(status_of(vec![stuck()]), ExitStatus::Error);
        assert_eq!(status_of(vec![back(), stuck()]), ExitStatus::Error);
    }
}
