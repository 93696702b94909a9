//! What a convergence came to, and who is told.

use std::sync::Arc;
use std::time::Duration;

use super::backoff::{Cause, Failure, LASTING};
use super::ending::Ending;
use super::waiters::Waiter;
use super::{Core, Effect, Goal, Mode, Now, RequestId, Verdict};
use crate::act::Ending as HowEnded;
use crate::model::{AgentName, ContainerId, Desired, FailureKind, Observed};
use crate::observe::ManifestFault;
use crate::plan::{Plan, WaitingOn};
use crate::readiness::{AgentHealth, Unready};
use crate::reconcile::run::{FRESH, Trigger};
use crate::reconcile::{Awaited, Problem, TakenStep, report};

/// An observation that failed amid the work of a single convergence is taken again so often.
const BLIND_TRIES: u32 = 3;

/// How a convergence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reconcile) enum How {
    /// Nothing is left that it could do or wait for.
    Proved,
    TimedOut,
    Interrupted,
}

/// An outcome, of which the last log lines of those that are not ready are still to be read.
#[derive(Debug)]
pub(in crate::reconcile) struct Draft {
    pub desired: Arc<Desired>,
    pub taken: Vec<TakenStep>,
    pub findings: Vec<Finding>,
    pub not_waited_for: Vec<AgentName>,
    pub residual: Plan,
    pub manifest_fault: Option<ManifestFault>,
    pub how: How,
    pub took: Duration,
}

/// Something that keeps an agent from what is wanted.
#[derive(Debug, Clone)]
pub(in crate::reconcile) enum Finding {
    /// All that there is to say.
    Reported(Problem),
    /// It was started by this convergence, and is down again.
    Ended { agent: AgentName, id: ContainerId, how: HowEnded },
    /// Nothing is to be done about it, and it is not ready.
    Unready(Unready),
}

impl Finding {
    fn agent(&self) -> Option<&AgentName> {
        match self {
            Finding::Reported(problem) => problem.agent(),
            Finding::Ended { agent, .. } => Some(agent),
            Finding::Unready(unready) => Some(&unready.agent),
        }
    }
}

impl Core {
    /// Whether health is waited for, and what was started is checked once more: somebody waits for an outcome.
    pub(super) fn waits(&self) -> bool {
        match self.terms.mode {
            Mode::Once { wait, .. } => wait,
            Mode::Forever { .. } => !self.waiters.is_empty(),
        }
    }

    /// Whether a single convergence that has begun to work cannot see Podman, and may in a moment. A virtual machine is awaited by
    /// its own means.
    pub(super) fn is_hiccup(&self, observed: &Observed) -> bool {
        observed.guest.unknown().is_some()
            && self.desired.vm().is_none()
            && self.waiters.has_taken()
            && self.observing.blind_in_a_row() < BLIND_TRIES
    }

    /// Whether something is still done, or waited for, whose end belongs to the outcome.
    fn is_busy(&self, observed: &Observed, started: bool, now: Now) -> bool {
        let soon = now.at + LASTING.first / 4;
        let moves = |on: &WaitingOn| match on {
            WaitingOn::Transition { .. } => true,
            WaitingOn::Answer { .. } => self.is_once(),
            _ => false,
        };
        started
            || !self.in_flight.is_idle()
            || self.manifest.is_fetching()
            || self.plan.waiting.iter().any(|waiting| moves(&waiting.on))
            || self
                .plan
                .ready
                .iter()
                .any(|step| self.backoff.is_due_by(&Cause::of(step), soon) && !self.is_given_up(step.agent.as_ref()))
            || self.is_once() && self.is_hiccup(observed)
            || self.waits() && self.is_settling(now)
    }

    fn is_given_up(&self, agent: Option<&AgentName>) -> bool {
        agent.is_some_and(|agent| self.given_up.contains_key(agent))
    }

    /// Whether time alone may make an agent ready.
    fn is_settling(&self, now: Now) -> bool {
        let steady = self.steady();
        let given_up = |agent: &AgentName| self.given_up.contains_key(agent);
        let mut agents = self.desired.agents.keys().filter(|agent| self.policy.includes(agent) && !given_up(agent));
        self.settles_at().is_some()
            || self.unready.iter().any(|unready| unready.health.is_progressing() && !given_up(&unready.agent))
            || agents.any(|agent| self.crash_loops.must_stay_up_for(agent, steady, now.at).is_some())
    }

    /// Answers those who asked for an outcome, once nothing is left that could be done or waited for.
    pub(super) fn answer(&mut self, observed: &Observed, started: bool, now: Now) {
        if self.waiters.is_empty() {
            return;
        }
        let is_busy = self.is_busy(observed, started, now);
        if self.is_once() {
            self.tell_who_is_awaited();
            if !is_busy && let Some(waiter) = self.waiters.answered(true, now.at).pop() {
                let draft = self.draft(waiter, How::Proved, now);
                self.effects.push(Effect::Finish(Verdict::Done(Box::new(draft))));
                self.ending = Some(Ending::over());
            }
            return;
        }
        let how = if is_busy { How::TimedOut } else { How::Proved };
        self.answer_all(!is_busy, how, now);
    }

    /// Answers those whose time is up.
    pub(super) fn answer_overdue(&mut self, now: Now) {
        if !self.is_once() {
            self.answer_all(false, How::TimedOut, now);
        }
    }

    fn answer_all(&mut self, all: bool, how: How, now: Now) {
        for waiter in self.waiters.answered(all, now.at) {
            let id = waiter.id;
            let draft = Box::new(self.draft(waiter, how, now));
            self.effects.push(Effect::Answer { id, draft });
        }
    }

    /// Somebody asks how things are.
    pub(super) fn asked_for_view(&mut self, id: RequestId, now: Now) {
        self.waiters.ask_view(id);
        let ended = self.observing.ended_at.filter(|_| self.observing.count > 0);
        if ended.is_some_and(|ended| now.at.duration_since(ended) < FRESH) {
            self.answer_viewers();
        } else {
            self.observing.ask(Trigger::Status, now.at);
        }
    }

    /// Those who asked how things are find it in the view, once the log lines are in it too.
    pub(super) fn answer_viewers(&mut self) {
        if !self.reported.is_reading() {
            self.effects.extend(self.waiters.viewers().into_iter().map(|id| Effect::AnswerView { id }));
        }
    }

    /// Says whom time alone may make ready, each time that it is somebody else.
    fn tell_who_is_awaited(&mut self) {
        let mut awaited = Awaited::default();
        let is_idle = self.in_flight.is_idle() && self.waits();
        for unready in self.unready.iter().filter(|unready| is_idle && unready.health.is_progressing()) {
            match unready.health {
                AgentHealth::Restarted { steady, .. } => {
                    awaited.steadiness.push(unready.agent.clone());
                    awaited.steady = awaited.steady.max(steady);
                }
                _ => awaited.health.push(unready.agent.clone()),
            }
        }
        if self.reported.awaited != awaited {
            self.reported.awaited = awaited.clone();
            self.effects.push(Effect::Await(awaited));
        }
    }

    /// What there is to tell a waiter.
    pub(super) fn draft(&self, waiter: Waiter, how: How, now: Now) -> Draft {
        let failed = self.backoff.iter().map(|(cause, failed)| match &failed.failure {
            Failure::Step { error, .. } => Problem::Failed { agent: cause.agent.clone(), error: error.clone() },
            Failure::NonConvergent { step } if self.is_once() => Problem::NonConvergent {
                agent: step.agent.clone(),
                action: step.action.to_string(),
                reason: step.reason.to_string(),
            },
            Failure::NonConvergent { .. } | Failure::Unhealthy { .. } => self.recurring(cause, failed, now),
        });
        let ended = self.given_up.values().flatten().cloned();
        let crash_loops = self.crash_looping(now).filter(|_| !self.is_once()).map(|off| off.as_problem());
        let mut findings: Vec<Finding> = ended.chain(failed.chain(crash_loops).map(Finding::Reported)).collect();
        // A failure may be what its step waits for by now.
        for blocked in report::blocked(&self.plan) {
            // The try that failed says more than that it is not tried again.
            let is_told = |finding: &Finding| finding.agent() == blocked.agent();
            if blocked.kind() == FailureKind::Quarantined && findings.iter().any(is_told) {
                continue;
            }
            if !findings.iter().any(|finding| matches!(finding, Finding::Reported(told) if *told == blocked)) {
                findings.push(Finding::Reported(blocked));
            }
        }
        let mut not_waited_for = Vec::new();
        for unready in &self.unready {
            if findings.iter().any(|finding| finding.agent() == Some(&unready.agent)) {
                continue;
            }
            let is_progressing = unready.health.is_progressing();
            if self.is_once() && is_progressing && how != How::TimedOut {
                not_waited_for.push(unready.agent.clone());
            } else if self.is_once() || !is_progressing {
                findings.push(Finding::Unready(unready.clone()));
            }
        }
        Draft {
            desired: self.desired.clone(),
            taken: waiter.taken,
            findings,
            not_waited_for,
            residual: self.plan.clone(),
            manifest_fault: self.manifest_fault(),
            how,
            took: now.at.duration_since(waiter.since),
        }
    }

    fn manifest_fault(&self) -> Option<ManifestFault> {
        match self.goal() {
            Goal::Wanted => self.manifest.published().fault.clone(),
            Goal::Gone(_) => None,
        }
    }
}
