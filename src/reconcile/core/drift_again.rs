//! Differences that come back although the step that removes them succeeded.
//!
//! A difference is told by its values, wanted and found; a wish that changed meanwhile is another difference.

use std::collections::{BTreeMap, BTreeSet};

use super::backoff::Attempt;
use crate::broken::Broken;
use crate::plan::{Action, Lane, Plan, Reason, StartMode, Step, StepKey};

/// A step that succeeded so often in a row, and is still wanted for the same difference, does not help.
const REPEATS: u32 = 2;

/// What a step was to bring about, and the difference it was to remove.
#[derive(Debug)]
struct Difference {
    attempt: Attempt,
    reason: Reason,
}

impl Difference {
    fn of(step: &Step) -> Self {
        Self { attempt: Attempt::of(step), reason: step.reason.clone() }
    }

    fn is(&self, other: &Self) -> bool {
        if Broken::DifferenceByWords.is_in() {
            return self.reason.to_string() == other.reason.to_string();
        }
        self.reason == other.reason && self.attempt == other.attempt
    }
}

#[derive(Debug)]
struct Removed {
    difference: Difference,
    lane: Lane,
    times: u32,
    /// It succeeded since the last observation that counted it.
    is_new: bool,
}

/// The differences that steps removed.
#[derive(Debug, Default)]
pub(super) struct DriftAgain {
    removed: BTreeMap<StepKey, Removed>,
}

impl DriftAgain {
    /// A step succeeded.
    pub(super) fn succeeded(&mut self, step: &Step) {
        // What ends as soon as it is started is the subject of `crash_loop`.
        if matches!(step.action, Action::StartContainer { how: StartMode::Start, .. }) {
            return;
        }
        let difference = Difference::of(step);
        match self.removed.get_mut(&step.key()) {
            Some(removed) if removed.difference.is(&difference) => removed.is_new = true,
            _ => {
                self.removed.insert(step.key(), Removed { difference, lane: step.lane(), times: 0, is_new: true });
            }
        }
    }

    /// What an observation finds wanted, except in the lanes in which a step has ended since it began. Yields the steps that
    /// succeeded and do not help. What cannot be seen has not gone away.
    pub(super) fn observed<'p>(&mut self, plan: &'p Plan, is_all_seen: bool, stale: &BTreeSet<Lane>) -> Vec<&'p Step> {
        let mut again = Vec::new();
        self.removed.retain(|key, removed| {
            if stale.contains(&removed.lane) {
                return true;
            }
            let same = |step: &&Step| step.key() == *key && removed.difference.is(&Difference::of(step));
            let Some(step) = plan.ready.iter().find(same) else {
                return !is_all_seen || plan.waiting.iter().any(|waiting| waiting.key() == *key);
            };
            if std::mem::take(&mut removed.is_new) {
                removed.times += 1;
                if removed.times >= REPEATS && !Broken::DriftFought.is_in() {
                    again.push(step);
                }
            }
            true
        });
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerId, ContainerName, FieldChange};

    fn step(to: &str) -> Step {
        let (id, name) = (ContainerId::new("1").unwrap(), ContainerName::new("demo-a").unwrap());
        let change = FieldChange { field: "container.env.G".to_owned(), from: None, to: Some(to.to_owned()) };
        Step { agent: None, action: Action::StopContainer { id, name }, reason: Reason::Changed(vec![change]) }
    }

    fn plan(ready: &[Step]) -> Plan {
        Plan { ready: ready.to_vec(), ..Plan::default() }
    }

    #[test]
    fn what_comes_back_twice_is_not_fought_over_and_another_wish_is_another_difference() {
        let mut drift = DriftAgain::default();
        drift.succeeded(&step("two"));
        let again = plan(&[step("two")]);
        assert!(drift.observed(&again, true, &BTreeSet::new()).is_empty(), "once may be somebody else's doing");
        assert!(drift.observed(&again, true, &BTreeSet::new()).is_empty(), "nothing was done about it since");
        drift.succeeded(&step("two"));
        assert_eq!(drift.observed(&again, true, &BTreeSet::new()), [&step("two")]);

        let mut drift = DriftAgain::default();
        for wish in ["two", "three", "four", "five"] {
            drift.succeeded(&step(wish));
            assert!(drift.observed(&plan(&[step("six")]), true, &BTreeSet::new()).is_empty(), "{wish}");
        }
    }

    #[test]
    fn what_was_removed_for_good_counts_from_the_beginning_and_what_is_not_seen_has_not_gone() {
        let mut drift = DriftAgain::default();
        let again = plan(&[step("two")]);
        drift.succeeded(&step("two"));
        drift.observed(&again, true, &BTreeSet::new());
        drift.succeeded(&step("two"));
        assert!(drift.observed(&plan(&[]), true, &BTreeSet::new()).is_empty());
        drift.succeeded(&step("two"));
        assert!(drift.observed(&again, true, &BTreeSet::new()).is_empty(), "it had gone");
        drift.observed(&plan(&[]), false, &BTreeSet::new());
        drift.succeeded(&step("two"));
        assert_eq!(drift.observed(&again, true, &BTreeSet::new()).len(), 1, "it was not seen, and had not gone");
    }

    #[test]
    fn what_ended_meanwhile_is_not_counted_and_all_else_is() {
        let (mut drift, again) = (DriftAgain::default(), plan(&[step("two")]));
        let stale = BTreeSet::from([step("two").lane()]);
        let other = BTreeSet::from([Lane::Vm]);
        for _ in 0..3 {
            drift.succeeded(&step("two"));
            assert!(drift.observed(&again, true, &stale).is_empty(), "seen before the step had ended");
        }
        assert!(drift.observed(&again, true, &other).is_empty());
        drift.succeeded(&step("two"));
        assert_eq!(drift.observed(&again, true, &other).len(), 1);
    }
}
