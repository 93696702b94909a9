//! A draft of an outcome, completed by what only the engine knows.

use std::sync::Arc;

use crate::act::{ActError, last_lines};
use crate::backend::{Engine, Inside};
use crate::readiness::AgentHealth;
use crate::reconcile::core::{Draft, Finding, How};
use crate::reconcile::{Problem, Report, report};

/// Reads the last lines of those that are not ready into an outcome.
pub(in crate::reconcile) async fn complete<E: Engine + Inside>(engine: &E, draft: Draft) -> Report {
    let Draft { desired, taken, findings, not_waited_for, residual, manifest_fault, how, took } = draft;
    let problems = findings.into_iter().map(async |finding| match finding {
        Finding::Reported(problem) => problem,
        Finding::Unready(unready) => {
            let mut problem = Problem::of_unready(engine, &desired, unready).await;
            if let (How::TimedOut, Problem::Unready { health: AgentHealth::Starting, message, .. }) =
                (how, &mut problem)
            {
                *message = "it did not become healthy in time".to_owned();
            }
            problem
        }
        Finding::Ended { agent, id, how } => {
            let wanted = desired.agents.get(&agent);
            let container = wanted.map_or_else(|| agent.to_string(), |agent| agent.container.name.to_string());
            let log = match wanted {
                Some(wanted) => last_lines(engine, &id, &wanted.container).await,
                None => String::new(),
            };
            Problem::Failed { agent: Some(agent), error: Arc::new(ActError::EndedAtOnce { container, how, log }) }
        }
    });
    let mut problems = futures_util::future::join_all(problems).await;
    // An empty plan is no proof while health or a last observation is still awaited.
    let converged = residual.is_empty() && problems.is_empty() && not_waited_for.is_empty() && how == How::Proved;
    problems.splice(0..0, report::refused(manifest_fault.as_ref()));
    Report {
        name: desired.name.clone(),
        converged,
        taken,
        problems,
        not_waited_for,
        residual,
        manifest_fault,
        timed_out: how == How::TimedOut,
        interrupted: how == How::Interrupted,
        took,
    }
}
