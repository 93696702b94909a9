//! Who asked for an outcome, or for how things are, and has not been answered.

use std::time::{Duration, Instant};

use super::RequestId;
use crate::broken::Broken;
use crate::reconcile::TakenStep;

/// Somebody who waits for an outcome.
#[derive(Debug)]
pub(super) struct Waiter {
    pub id: RequestId,
    pub since: Instant,
    timeout: Duration,
    /// The steps that ended since.
    pub taken: Vec<TakenStep>,
}

impl Waiter {
    /// When it is answered, whatever there is to say.
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.timeout
    }
}

/// All who wait. Each gets exactly one answer.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    outcomes: Vec<Waiter>,
    views: Vec<RequestId>,
}

impl Waiters {
    /// Somebody waits for an outcome.
    pub(super) fn ask(&mut self, id: RequestId, timeout: Duration, now: Instant) {
        self.outcomes.push(Waiter { id, since: now, timeout, taken: Vec::new() });
    }

    /// Somebody waits for a fresh view.
    pub(super) fn ask_view(&mut self, id: RequestId) {
        self.views.push(id);
    }

    /// Nobody waits for this one any more.
    pub(super) fn gone(&mut self, id: RequestId) {
        self.outcomes.retain(|waiter| waiter.id != id);
        self.views.retain(|one| *one != id);
    }

    /// Whether nobody waits for an outcome.
    pub(super) fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// Whether a step has ended since somebody began to wait.
    pub(super) fn has_taken(&self) -> bool {
        self.outcomes.iter().any(|waiter| !waiter.taken.is_empty())
    }

    /// A step ended.
    pub(super) fn taken(&mut self, taken: &TakenStep) {
        for waiter in &mut self.outcomes {
            waiter.taken.push(taken.clone());
        }
    }

    /// Those whose time is up; with `all`, everybody.
    pub(super) fn answered(&mut self, all: bool, now: Instant) -> Vec<Waiter> {
        let (over, rest): (Vec<_>, _) =
            std::mem::take(&mut self.outcomes).into_iter().partition(|one| all || one.deadline() <= now);
        self.outcomes = rest;
        if Broken::AnswerDropped.is_in() { Vec::new() } else { over }
    }

    /// Those who wait for a view.
    pub(super) fn viewers(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.views)
    }

    /// When the time of the first is up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.outcomes.iter().map(Waiter::deadline).min()
    }
}
