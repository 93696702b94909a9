//! The steps in flight, by lane, and those that are ready and have to wait for a free slot.

use std::collections::{BTreeMap, VecDeque};

use crate::broken::Broken;
use crate::plan::{Action, Lane, Step};

/// A step in flight.
#[derive(Debug, Clone)]
pub(super) struct Running {
    /// The step.
    pub step: Step,
    /// What woke the reconciler when it began.
    pub trigger: String,
    /// Whether it makes Podman or the disk work. While it waits it holds up nobody.
    works: bool,
}

/// The steps in flight. Steps of one lane are never in flight together: a replacement has three names under way, and nobody
/// else may touch any of them meanwhile.
#[derive(Debug)]
pub(super) struct InFlight {
    running: BTreeMap<Lane, Running>,
    queue: VecDeque<Step>,
    /// So many work at once.
    parallel: usize,
    /// So many downloads at once. They hold no other slot.
    downloads: usize,
}

fn is_download(step: &Step) -> bool {
    matches!(step.action, Action::FetchArtifact { .. })
}

impl InFlight {
    pub(super) fn new(parallel: usize, downloads: usize) -> Self {
        let (parallel, downloads) = (parallel.max(1), downloads.max(1));
        Self { running: BTreeMap::new(), queue: VecDeque::new(), parallel, downloads }
    }

    /// Whether nothing is in flight, and nothing waits for a slot.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.is_empty()
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The step in flight in a lane.
    pub(super) fn get(&self, lane: &Lane) -> Option<&Running> {
        self.running.get(lane)
    }

    /// All that are in flight.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Lane, &Running)> {
        self.running.iter()
    }

    /// These are ready and may be taken: what was ready before is of an older plan.
    pub(super) fn enqueue(&mut self, ready: impl IntoIterator<Item = Step>) {
        self.queue = ready.into_iter().filter(|step| !self.is_taken(step)).collect();
    }

    /// Whether a step of its lane is in flight, or one on the container that it is to be in.
    pub(super) fn is_taken(&self, step: &Step) -> bool {
        let is_running = |lane: &Lane| self.running.contains_key(lane);
        !Broken::LaneForgotten.is_in()
            && (is_running(&step.lane()) || step.container_lane().is_some_and(|lane| is_running(&lane)))
    }

    /// Nothing more is to be started of the plan that is there.
    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
    }

    /// The next one that may start now.
    pub(super) fn next(&mut self) -> Option<Step> {
        let may_start = |step: &Step| {
            if self.is_taken(step) {
                return false;
            }
            let same = self.running.values().filter(|running| is_download(&running.step) == is_download(step));
            if is_download(step) {
                same.count() < self.downloads
            } else {
                same.filter(|one| one.works).count() < self.parallel
            }
        };
        let at = self.queue.iter().position(may_start)?;
        self.queue.remove(at)
    }

    /// It starts.
    pub(super) fn start(&mut self, step: Step, trigger: String) {
        self.running.insert(step.lane(), Running { step, trigger, works: true });
    }

    /// A step waits from now on for an end, for a moment to pass or for health; or it works again.
    pub(super) fn set_working(&mut self, lane: &Lane, works: bool) {
        if let Some(running) = self.running.get_mut(lane) {
            running.works = works || Broken::WaitingHoldsSlot.is_in();
        }
    }

    /// It ended.
    pub(super) fn end(&mut self, lane: &Lane) -> Option<Running> {
        self.running.remove(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AgentName, ContainerId, ContainerName};
    use crate::plan::Reason;

    fn stop(agent: &str) -> Step {
        let (id, name) = (ContainerId::new("1").unwrap(), ContainerName::new(agent).unwrap());
        let agent = Some(AgentName::new(agent).unwrap());
        Step { agent, action: Action::StopContainer { id, name }, reason: Reason::WantedStopped }
    }

    fn started(in_flight: &mut InFlight) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(step) = in_flight.next() {
            names.push(step.agent.as_ref().unwrap().to_string());
            in_flight.start(step, String::new());
        }
        names
    }

    #[test]
    fn one_step_of_a_lane_and_as_many_lanes_as_work_at_once() {
        let mut in_flight = InFlight::new(2, 1);
        in_flight.enqueue(["a", "a", "b", "c"].map(stop));
        assert_eq!(started(&mut in_flight), ["a", "b"]);
        in_flight.end(&stop("b").lane());
        assert_eq!(started(&mut in_flight), ["c"], "its lane is taken");
        in_flight.end(&stop("c").lane());
        in_flight.end(&stop("a").lane());
        assert_eq!(started(&mut in_flight), ["a"]);
        in_flight.enqueue(["a"].map(stop));
        assert!(started(&mut in_flight).is_empty() && !in_flight.is_empty(), "it is in flight already");
    }

    #[test]
    fn what_waits_holds_up_nobody() {
        let mut in_flight = InFlight::new(1, 1);
        in_flight.enqueue(["a", "b", "c"].map(stop));
        assert_eq!(started(&mut in_flight), ["a"]);
        in_flight.set_working(&stop("a").lane(), false);
        assert_eq!(started(&mut in_flight), ["b"]);
        in_flight.set_working(&stop("a").lane(), true);
        in_flight.end(&stop("b").lane());
        assert!(started(&mut in_flight).is_empty(), "it works again, and comes first");
        in_flight.end(&stop("a").lane());
        assert_eq!(started(&mut in_flight), ["c"]);
    }
}
