//! What a convergence came to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::super::ExitStatus;
use super::errors::{problem_hint, problem_status};
use super::said::{Level, say};
use super::units;
use crate::act::ActError;
use crate::control::{self, Ended, Outcome, StateFiles};
use crate::error::Chain;
use crate::model::{AgentName, FailureKind, FieldChange};
use crate::plan::{ActionKind, WaitingOn};
use crate::reconcile::{Problem, Report, TakenStep};
use crate::words::Word;

/// What `apply -o json` prints of an outcome.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OutcomeJson<'a> {
    name: &'a str,
    converged: bool,
    actions: &'a [Value],
    duration_ms: u64,
    problems: Vec<ProblemJson<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TakenJson {
    kind: ActionKind,
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
    kind: FailureKind,
    message: String,
}

#[derive(Debug, Serialize)]
struct ProblemJson<'a> {
    agent: Option<&'a AgentName>,
    kind: &'a Word<FailureKind>,
    message: &'a str,
}

/// What a report comes to, in words: all that `apply` prints of it, for who reads it in another process. `files` are the
/// state files it is about; `state_file_error` tells why its last good state was taken instead of what stands there now.
pub(crate) fn outcome(report: &Report, files: &StateFiles, state_file_error: Option<String>) -> Outcome {
    let exit = if state_file_error.is_some() { ExitStatus::Invalid } else { status(report) };
    let (file, layers) = (files.first_text(), files.layer_texts());
    Outcome { file, layers, state_file_error, exit_code: exit as u8, ..in_words(report) }
}

fn in_words(report: &Report) -> Outcome {
    let steps = report.residual.ready.iter().map(|step| step.action.to_string());
    let waits = report.residual.waiting.iter().map(|waiting| format!("{} `{}`", waiting.kind.verb(), waiting.target));
    let of = |problem: &Problem, agent: Option<&AgentName>| control::Problem {
        agent: agent.cloned(),
        kind: Word::Known(problem.kind()),
        message: problem.to_string(),
        hint: problem_hint(problem),
    };
    let problems: Vec<_> = report
        .problems
        .iter()
        .flat_map(|problem| {
            let others = also_stopped(report, problem).into_iter().map(move |agent| of(problem, Some(agent)));
            std::iter::once(of(problem, problem.agent())).chain(others)
        })
        .collect();
    Outcome {
        name: report.name.to_string(),
        converged: report.converged,
        // Strings and numbers alone: there is nothing in it that JSON does not have.
        actions: report.taken.iter().map(|step| serde_json::to_value(taken(step)).unwrap_or_default()).collect(),
        duration_ms: units::millis(report.took),
        troubles: once(&problems).into_iter().map(sentence).collect(),
        problems,
        notes: report.residual.notes.iter().map(ToString::to_string).collect(),
        left: steps.chain(waits).collect(),
        not_waited_for: report.not_waited_for.iter().map(ToString::to_string).collect(),
        ended: match report {
            Report { interrupted: true, .. } => Ended::Interrupted,
            Report { timed_out: true, .. } => Ended::TimedOut,
            _ => Ended::Proved,
        },
        file: String::new(),
        layers: Vec::new(),
        state_file_error: None,
        exit_code: status(report) as u8,
    }
}

/// The agents that wait for what another one's step failed to bring: an image, a tarball.
fn also_stopped<'r>(report: &'r Report, problem: &Problem) -> BTreeSet<&'r AgentName> {
    let Problem::Failed { agent, error } = problem else { return BTreeSet::new() };
    let is_it = |taken: &&TakenStep| taken.outcome.as_ref().is_err_and(|err| Arc::ptr_eq(err, error));
    let Some(failed) = report.taken.iter().find(is_it).map(|taken| taken.step.action.target()) else {
        return BTreeSet::new();
    };
    let waiting = report.residual.waiting.iter().filter(|waiting| match &waiting.on {
        WaitingOn::Image { reference } => reference.as_str() == failed,
        WaitingOn::Artifact { key } => key.as_str() == failed,
        _ => false,
    });
    waiting.filter_map(|waiting| waiting.agent.as_ref()).filter(|other| agent.as_ref() != Some(other)).collect()
}

/// The report as JSON.
pub(crate) fn json(report: &Report) -> impl Serialize {
    json_of(&in_words(report))
}

/// An outcome as JSON: the same as of its report.
pub(crate) fn json_of(outcome: &Outcome) -> Value {
    fn problem(control::Problem { agent, kind, message, .. }: &control::Problem) -> ProblemJson<'_> {
        ProblemJson { agent: agent.as_ref(), kind, message }
    }
    let json = OutcomeJson {
        name: &outcome.name,
        converged: outcome.converged,
        actions: &outcome.actions,
        duration_ms: outcome.duration_ms,
        problems: outcome.problems.iter().map(problem).collect(),
    };
    serde_json::to_value(json).unwrap_or_default()
}

fn taken(taken: &TakenStep) -> TakenJson {
    let TakenStep { step, outcome, took } = taken;
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
pub(crate) fn text(report: &Report, gone: bool) -> String {
    text_of(&in_words(report), gone)
}

/// One closing sentence for people: the same as of its report.
pub(crate) fn text_of(outcome: &Outcome, gone: bool) -> String {
    let name = &outcome.name;
    let steps = outcome.actions.iter().filter(|action| action["result"] == "done").count();
    let took = units::short(Duration::from_millis(outcome.duration_ms));
    match (outcome.converged, steps) {
        (true, 0) if gone => format!("`{name}`: nothing to remove.\n"),
        (true, 0) => format!("`{name}`: nothing to do.\n"),
        (true, _) if gone => format!("`{name}`: removed; {} in {took}.\n", units::count(steps, "step")),
        (true, _) => format!("`{name}`: converged; {} in {took}.\n", units::count(steps, "step")),
        (false, steps) if !outcome.not_waited_for.is_empty() && outcome.left.is_empty() => {
            let names = outcome.not_waited_for.join(", ");
            format!(
                "`{name}`: applied; {} in {took}. Not waited for, and not ready yet: {names}.\n",
                units::count(steps, "step")
            )
        }
        (false, _) => {
            let left = outcome.left.len();
            format!("`{name}`: not converged; {} taken in {took}, {left} left.\n", units::count(steps, "step"))
        }
    }
}

/// How many problems are told one by one. Beyond that nobody reads on.
const MOST_TROUBLES: usize = 25;

/// Several steps may wait for the same thing, or fail over it: that is said once, with whose they are. What nothing runs of any
/// more comes first.
fn once(problems: &[control::Problem]) -> Vec<(BTreeSet<&AgentName>, &control::Problem)> {
    let mut once: Vec<(BTreeSet<&AgentName>, &control::Problem)> = Vec::new();
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for problem in problems {
        let at = *at.entry(&problem.message).or_insert_with(|| {
            once.push((BTreeSet::new(), problem));
            once.len() - 1
        });
        once[at].0.extend(&problem.agent);
    }
    once.sort_by_key(|(_, problem)| problem.kind.known() != Some(LEFT_BROKEN));
    once
}

/// More names say nothing more.
const MOST_NAMES: usize = 5;

fn sentence((agents, problem): (BTreeSet<&AgentName>, &control::Problem)) -> String {
    let names: Vec<_> = agents.iter().take(MOST_NAMES).map(|agent| format!("`{agent}`")).collect();
    let names = names.join(", ");
    let whose = match agents.len() {
        0 => String::new(),
        1 => format!("agent {names}: "),
        count if count > MOST_NAMES => format!("{count} agents ({names}, …): "),
        _ => format!("agents {names}: "),
    };
    format!("{whose}{}", problem.message)
}

/// Writes the problems to standard error.
pub(crate) fn print_problems(report: &Report, color: bool) {
    print_problems_of(&in_words(report), color);
}

/// Writes the problems to standard error: the same as of its report.
pub(crate) fn print_problems_of(outcome: &Outcome, color: bool) {
    let once = once(&outcome.problems);
    let more = once.len().saturating_sub(MOST_TROUBLES);
    for (agents, problem) in once.into_iter().take(MOST_TROUBLES) {
        let hints: Vec<_> = problem.hint.clone().into_iter().collect();
        say(Level::Error, &sentence((agents, problem)), &hints, color);
    }
    if more > 0 {
        let more = format!("… and {more} more; `-o json` has them all");
        say(Level::Warn, &more, &[], color);
    }
    match outcome.ended {
        Ended::Proved => {}
        Ended::Interrupted => {
            let message = if outcome.left.is_empty() {
                "stopped before convergence was proved".to_owned()
            } else {
                format!("stopped; left to do: {}", outcome.left.join(", "))
            };
            say(Level::Warn, &message, &["the next run continues from here".to_owned()], color);
        }
        Ended::TimedOut => {
            let hint = "--timeout gives it more; the next run continues from here".to_owned();
            say(Level::Warn, "timed out before everything was done", &[hint], color);
        }
    }
}

/// The kind of a replacement that failed, and whose predecessor did not come back.
const LEFT_BROKEN: FailureKind = FailureKind::RollBackFailed;

/// A replacement that failed, and whose predecessor did not come back.
fn is_left_broken(problem: &Problem) -> bool {
    matches!(problem, Problem::Failed { error, .. } if matches!(**error, ActError::RollBackFailed { .. }))
}

/// What the process ends with.
pub(crate) fn status(report: &Report) -> ExitStatus {
    let worst: Vec<_> =
        report.problems.iter().map(|problem| problem_status(problem, report.manifest_fault.as_ref())).collect();
    // "Rolled back" would say of all agents that they run as before.
    let broken = report.problems.iter().any(is_left_broken);
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
    let left_as_asked = !report.not_waited_for.is_empty()
        && report.residual.is_empty()
        && report.problems.is_empty()
        && !report.timed_out
        && !report.interrupted;
    if report.converged || left_as_asked { ExitStatus::Done } else { ExitStatus::NotConverged }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::Ending;
    use crate::plan::Plan;

    fn failed(error: ActError) -> Problem {
        Problem::Failed { agent: None, error: Arc::new(error) }
    }

    fn cause() -> Box<ActError> {
        Box::new(ActError::EndedAtOnce { container: "demo-a".into(), how: Ending::Exited(1), log: String::new() })
    }

    fn status_of(problems: Vec<Problem>) -> ExitStatus {
        status(&report(problems))
    }

    fn report(problems: Vec<Problem>) -> Report {
        Report {
            name: "demo".parse().unwrap(),
            converged: false,
            taken: Vec::new(),
            problems,
            not_waited_for: Vec::new(),
            residual: Plan::default(),
            manifest_fault: None,
            timed_out: false,
            interrupted: false,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn rolled_back_means_that_the_old_one_runs() {
        let back = || failed(ActError::RolledBack { container: "demo-a".into(), untried: false, cause: cause() });
        let stuck =
            || failed(ActError::RollBackFailed { container: "demo-b".into(), why: "gone".into(), cause: cause() });
        assert_eq!(status_of(vec![back()]), ExitStatus::RolledBack);
        assert_eq!(status_of(vec![stuck()]), ExitStatus::Error);
        assert_eq!(status_of(vec![back(), stuck()]), ExitStatus::Error);
    }

    #[test]
    fn an_outcome_says_the_same_in_another_process() {
        let stuck =
            || failed(ActError::RollBackFailed { container: "demo-b".into(), why: "gone".into(), cause: cause() });
        let report = Report { timed_out: true, ..report(vec![failed(*cause()), failed(*cause()), stuck()]) };
        let here = outcome(&report, &std::path::Path::new("/etc/a.yaml").into(), None);
        assert_eq!((here.ended, here.exit_code), (Ended::TimedOut, ExitStatus::Error as u8));
        assert_eq!(here.troubles.len(), 2, "each once, {:?}", here.troubles);
        assert!(here.troubles[0].contains("demo-b"), "what nothing runs of comes first: {:?}", here.troubles);
        assert_eq!(here.problems.len(), 3);
        let there: Outcome = serde_json::from_str(&serde_json::to_string(&here).unwrap()).unwrap();
        assert_eq!(there, here);
        assert_eq!(text_of(&there, false), text(&report, false));
        let json = serde_json::to_value(json(&report)).unwrap();
        assert_eq!(json_of(&there), json);
        let keys: Vec<_> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["name", "converged", "actions", "durationMs", "problems"]);
        let kept = outcome(&report, &std::path::Path::new("/etc/a.yaml").into(), Some("broken".into()));
        assert_eq!(kept.exit_code, ExitStatus::Invalid as u8);
    }
}
