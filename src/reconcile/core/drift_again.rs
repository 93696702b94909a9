//! Differences that come back although the step that removes them succeeded.
//!
//! A difference is told by its values, wanted and found; a wish that changed meanwhile is another difference.

use std::collections::BTreeMap;

use super::backoff::Attempt;
use super::broken::Broken;
use crate::plan::{Action, Plan, Reason, StartMode, Step, StepKey};

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
                self.removed.insert(step.key(), Removed { difference, times: 0, is_new: true });
            }
        }
    }

    /// What an observation that began after those successes finds wanted. Yields the steps that succeeded and do not help.
    /// What cannot be seen has not gone away.
    pub(super) fn observed<'p>(&mut self, plan: &'p Plan, is_all_seen: bool) -> Vec<&'p Step> {
        let mut again = Vec::new();
        self.removed.retain(|key, removed| {
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
        assert!(drift.observed(&again, true).is_empty(), "once may be somebody else's doing");
        assert!(drift.observed(&again, true).is_empty(), "nothing was done about it since");
        drift.succeeded(&step("two"));
        assert_eq!(drift.observed(&again, true), [&step("two")]);

        let mut drift = DriftAgain::default();
        for wish in ["two", "three", "four", "five"] {
            drift.succeeded(&step(wish));
            assert!(drift.observed(&plan(&[step("six")]), true).is_empty(), "{wish}");
        }
    }

    #[test]
    fn what_was_removed_for_good_counts_from_the_beginning_and_what_is_not_seen_has_not_gone() {
        let mut drift = DriftAgain::default();
        let again = plan(&[step("two")]);
        drift.succeeded(&step("two"));
        drift.observed(&again, true);
        drift.succeeded(&step("two"));
        assert!(drift.observed(&plan(&[]), true).is_empty());
        drift.succeeded(&step("two"));
        assert!(drift.observed(&again, true).is_empty(), "it had gone");
        drift.observed(&plan(&[]), false);
        drift.succeeded(&step("two"));
        assert_eq!(drift.observed(&again, true).len(), 1, "it was not seen, and had not gone");
    }
}
