//! The end: what is in flight is let end, and what is left is told from what is there then.

use std::time::{Duration, Instant};

use super::outcome::How;
use super::{Core, Effect, Mode, Now, Verdict};
use crate::reconcile::run::Trigger;

/// What is in flight may take so long to end once one that is kept up is to stop.
const LANDING: Duration = Duration::from_secs(8);
/// What a step on a container may take beyond two stops before it is left to the next run.
const LANDING_ONCE: Duration = Duration::from_secs(30);
/// The last observation may take so long.
const LAST_LOOK: Duration = Duration::from_secs(10);

/// Why it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It was asked to.
    Stopped,
    /// Its time is up.
    TimedOut,
    /// The state file names another Podman.
    OtherRuntime,
}

/// An end under way.
#[derive(Debug)]
pub(super) struct Ending {
    why: Why,
    limit: Option<Instant>,
    phase: Phase,
    /// Steps have ended since the newest observation, or there was none.
    is_outdated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Steps are let end.
    Landing,
    /// What is left is observed.
    Looking,
    Over,
}

impl Ending {
    /// One that is over already.
    pub(super) fn over() -> Self {
        Self { why: Why::Stopped, limit: None, phase: Phase::Over, is_outdated: false }
    }

    /// When the next thing it waits for is given up.
    pub(super) fn limit(&self) -> Option<Instant> {
        self.limit
    }

    pub(super) fn looks_once_more(&self) -> bool {
        self.phase == Phase::Looking
    }

    /// A step ended.
    pub(super) fn step_ended(&mut self) {
        self.is_outdated = true;
    }
}

impl Core {
    /// It is to end.
    pub(super) fn stop(&mut self, why: Why, now: Now) {
        if self.ending.is_some() {
            return;
        }
        self.in_flight.clear_queue();
        self.effects.push(Effect::CancelAll);
        let landing = match self.terms.mode {
            Mode::Once { .. } => LANDING_ONCE + 2 * self.terms.grace,
            Mode::Forever { .. } => LANDING,
        };
        let is_outdated = why == Why::TimedOut && self.observing.count == 0;
        self.manifest.give_up(match why {
            Why::TimedOut => "timed out before the manifest's server had answered",
            Why::Stopped | Why::OtherRuntime => "it was stopped before the manifest's server had answered",
        });
        self.ending = Some(Ending { why, limit: Some(now.at + landing), phase: Phase::Landing, is_outdated });
        self.end_by_now(now);
    }

    /// Goes on ending, where what it waits for is there or takes too long.
    pub(super) fn end_by_now(&mut self, now: Now) {
        let is_empty = self.in_flight.is_empty();
        let is_once = self.is_once();
        let Some(ending) = &mut self.ending else { return };
        let is_late = ending.limit.is_some_and(|limit| limit <= now.at);
        match ending.phase {
            Phase::Landing if is_empty || is_late => {
                if is_late {
                    self.effects.push(Effect::LeaveUnfinished);
                }
                if is_once && ending.is_outdated {
                    ending.phase = Phase::Looking;
                    ending.limit = Some(now.at + LAST_LOOK);
                    self.observing.abandon();
                    self.observing.ask(Trigger::Step, now.at);
                } else {
                    self.finish(now);
                }
            }
            Phase::Looking if is_late => self.finish(now),
            Phase::Landing | Phase::Looking | Phase::Over => {}
        }
    }

    /// It is over.
    pub(super) fn finish(&mut self, now: Now) {
        let Some(ending) = &mut self.ending else { return };
        if std::mem::replace(&mut ending.phase, Phase::Over) == Phase::Over {
            return;
        }
        ending.limit = None;
        let how = match ending.why {
            Why::TimedOut => How::TimedOut,
            Why::Stopped | Why::OtherRuntime => How::Interrupted,
        };
        let why = ending.why;
        let verdict = match (self.terms.mode, why) {
            (Mode::Once { .. }, _) => match self.waiters.answered(true, now.at).pop() {
                Some(waiter) => Verdict::Done(Box::new(self.draft(waiter, how, now))),
                None => Verdict::Stopped,
            },
            (Mode::Forever { .. }, Why::OtherRuntime) => Verdict::OtherRuntime,
            (Mode::Forever { .. }, _) => Verdict::Stopped,
        };
        self.effects.push(Effect::Finish(verdict));
    }
}
