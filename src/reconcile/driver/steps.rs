//! The steps in flight.

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Context, Driver};
use crate::act::{ActError, Done, Patience, act};
use crate::backend::{Engine, Inside, Progress, Store, Vm};
use crate::model::AgentName;
use crate::plan::{Action, Lane, Reason, Step};
use crate::reconcile::core::Input;
use crate::reconcile::journal::Journal;

/// A step in flight.
pub(super) struct RunningStep {
    step: Step,
    since: Instant,
    /// Breaks off its waits.
    pub cancel: CancellationToken,
    /// Tells it that something else is wanted by now.
    pub outdated: CancellationToken,
    /// What asked for the observation it was planned for.
    trigger: String,
}

impl RunningStep {
    /// Tells those who listen of it.
    pub(super) fn tell(&self, journal: &Journal) {
        let step = &self.step;
        journal.tell(
            "stepStarted",
            json!({
                "kind": step.action.kind(),
                "agent": step.agent,
                "target": step.action.target(),
                "action": step.action.to_string(),
                "reason": step.reason.to_string(),
                "sinceMs": u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            }),
        );
    }
}

/// A step waits, or works again.
pub(super) struct Working {
    pub lane: Lane,
    pub works: bool,
}

/// A step that ended.
pub(super) struct Ended {
    step: Step,
    outcome: Result<Done, Arc<ActError>>,
    took: Duration,
}

impl<'a, V: Vm, E: Engine + Inside, S: Store> Driver<'a, V, E, S> {
    /// Takes a step. Once all is broken off, transfers are dropped where they are (what they have stays for the next time);
    /// steps on containers are finished, so that none is left half done without need.
    pub(super) fn start(&mut self, step: Step, grace: Option<Duration>, deadline: Option<StdInstant>) {
        let Context { world, options, reporter, journal, .. } = self.outside;
        let (cancel, outdated) = (self.stop.child_token(), CancellationToken::new());
        let in_hand = RunningStep {
            step: step.clone(),
            since: Instant::now(),
            cancel: cancel.clone(),
            outdated: outdated.clone(),
            trigger: self.trigger.clone(),
        };
        in_hand.tell(journal);
        let lane = step.lane();
        self.in_hand.insert(lane.clone(), in_hand);
        let (slots, working, stop) = (self.slots.clone(), self.working.0.clone(), self.stop.clone());
        let patience = Patience {
            grace: grace.unwrap_or(options.patience.grace),
            deadline: deadline.map(Instant::from_std),
            cancel,
            outdated,
            undo: self.is_once,
            ..options.patience.clone()
        };
        let state_dir = self.desired.state_dir();
        self.steps.push(Box::pin(async move {
            let began = Instant::now();
            let mut patience = patience;
            if !matches!(step.action, Action::FetchArtifact { .. }) {
                patience.slot = slots.take(move |works| {
                    // Nobody listens any more once it is over.
                    let _ = working.send(Working { lane: lane.clone(), works });
                });
            }
            let progress = Progress::new(step.action.bytes().unwrap_or(0));
            reporter.started(&step, &progress);
            let work = async {
                let _slot = patience.slot.begin().await;
                act(world, &step.action, progress, &patience).await
            };
            let outcome = if is_transfer(&step) {
                tokio::select! {
                    outcome = work => outcome,
                    () = stop.cancelled() => Err(ActError::Interrupted),
                }
            } else {
                work.await
            };
            if let (Ok(_), Some(agent)) = (&outcome, leaves_for_good(&step)) {
                world.engine.forget_inside(&state_dir, agent).await;
            }
            let took = began.elapsed();
            reporter.finished(&step, outcome.as_ref(), took);
            Ended { step, outcome: outcome.map_err(Arc::new), took }
        }));
    }

    /// A step ended.
    pub(super) fn step_ended(&mut self, ended: Ended) -> Input {
        let Ended { step, outcome, took } = ended;
        let journal = self.outside.journal;
        let lane = step.lane();
        let in_hand = self.in_hand.remove(&lane);
        tracing::info!(
            kind = step.action.kind().as_str(),
            target = %step.action.target(),
            agent = step.agent.as_ref().map(|agent| agent.as_str()),
            reason = %step.reason,
            error = outcome.as_ref().err().map(|err| err.kind().as_str()),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "took a step"
        );
        if !self.is_once {
            journal.woken_by(in_hand.as_ref().map_or("", |in_hand| &in_hand.trigger));
        }
        journal.step(&step, outcome.as_ref().map_err(|err| &**err), took);
        if !self.is_once {
            journal.woken_by(&self.trigger);
        }
        if lane == Lane::Vm {
            self.vm_watch.renew();
        }
        Input::StepEnded { step: Box::new(step), outcome, took }
    }
}

/// The agent that has no container any more once this step is taken, and is to have none: what this machine remembers of what was in it
/// is of no use.
fn leaves_for_good(step: &Step) -> Option<&AgentName> {
    let is_removal = matches!(step.action, Action::RemoveContainer { .. });
    let for_good = matches!(step.reason, Reason::Orphaned | Reason::WantedAbsent | Reason::TakenDown);
    step.agent.as_ref().filter(|_| is_removal && for_good)
}

/// Whether a step can be dropped anywhere and is resumed by the next one of its kind: bytes that were moved stay moved, and a
/// machine goes on booting.
fn is_transfer(step: &Step) -> bool {
    let moves_bytes = matches!(
        step.action,
        Action::FetchArtifact { .. }
            | Action::LoadImage { .. }
            | Action::PullImage { .. }
            | Action::PrepareWorkspace { .. }
    );
    moves_bytes || step.lane() == Lane::Vm
}
