//! What the core is told and what it says: its inputs and effects.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Cause, Draft, View};
use crate::act::{ActError, Done, LastWords};
use crate::backend::{EngineEvent, InAgent};
use crate::model::{AgentName, ContainerId, Desired, Health, HealthCheck, Observed, Rollouts};
use crate::observe::{Depth, Published};
use crate::plan::{Action, Lane, Policy, Step, Takedown};
use crate::reconcile::run::{Event, Revision};
use crate::reconcile::{Awaited, Refusal};

/// The moment of an input: by the clock that never jumps, and by the one on the wall.
#[derive(Debug, Clone, Copy)]
pub(in crate::reconcile) struct Now {
    pub at: Instant,
    pub wall: SystemTime,
}

impl Now {
    /// The time on the wall at a later moment.
    pub(super) fn wall_at(&self, at: Instant) -> SystemTime {
        self.wall.checked_add(at.saturating_duration_since(self.at)).unwrap_or(self.wall)
    }
}

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::reconcile) struct RequestId(pub u64);

/// What is to be brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reconcile) enum Goal {
    /// What is desired.
    Wanted,
    /// Nothing of the state file is left.
    Gone(Takedown),
}

/// How long it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reconcile) enum Mode {
    /// Until nothing is left that could be done or waited for, and not longer than this.
    Once {
        timeout: Duration,
        /// Health is waited for, and what was started is checked once more.
        wait: bool,
        goal: Goal,
    },
    /// Until it is stopped, with an observation at least so often.
    Forever { resync: Duration },
}

/// What does not change while it goes on.
#[derive(Debug, Clone)]
pub(in crate::reconcile) struct Terms {
    pub mode: Mode,
    /// So many steps work at once, and so many downloads.
    pub parallel: usize,
    pub downloads: usize,
    /// What is started is checked once more after so long.
    pub settle: Duration,
    /// How long a step on a container may take beyond what it waits for by itself, once it is to stop.
    pub grace: Duration,
    /// What is allowed. `prune_cache` is asked anew for each observation.
    pub policy: Policy,
    /// What is remembered of agents, and whether what failed is tried again all the same.
    pub remembered: Rollouts,
    pub retry_quarantined: bool,
}

/// An observation that ended.
#[derive(Debug)]
pub(in crate::reconcile) struct Observation {
    pub observed: Observed,
    /// Nobody else shares the cache, so that what is not needed may go.
    pub is_alone: bool,
    /// What these steps failed of is over, as can be seen without trying.
    pub cleared: Vec<Cause>,
}

/// What happened.
#[derive(Debug)]
pub(in crate::reconcile) enum Input {
    /// It begins.
    Begin,
    /// The observation that was asked for ended.
    Observed(Box<Observation>),
    /// A step waits from now on, and makes nothing work; or it works again.
    StepWorks { lane: Lane, works: bool },
    /// A step ended.
    StepEnded { step: Box<Step>, outcome: Result<Done, Arc<ActError>>, took: Duration },
    /// The state file says something else, or cannot be used any more.
    Edited(Revision),
    /// Podman told of something.
    Engine(EngineNotice),
    /// The process of a container ended.
    ContainerExited(ContainerId),
    /// Lima told of something that happened to the virtual machine.
    VmEvent,
    /// The verdict of a health check changed.
    HealthChanged,
    /// Something about a session changed.
    SessionChanged,
    /// The published manifest came, or could not be fetched.
    ManifestArrived(Box<Published>),
    /// The last lines of a container's log were read.
    LogRead { agent: AgentName, id: ContainerId, lines: String },
    /// Somebody asks for an outcome: everything is tried at once, but what is known to fail only where that is asked for.
    Asked { id: RequestId, timeout: Duration, retry_quarantined: bool },
    /// Somebody asks how things are.
    AskedForView { id: RequestId },
    /// Somebody who asked does not wait any more.
    Gone { id: RequestId },
    /// The time of [`Effect::WakeAt`] has come.
    Timer,
    /// It is to stop.
    Stop,
}

/// What Podman told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::reconcile) enum EngineNotice {
    /// Something happened.
    Event(EngineEvent),
    /// Its events are heard (again): whatever happened before was not.
    Connected,
    /// Its events are not heard any more.
    Lost { why: String },
    /// Its events are heard, and it does not answer.
    Silent { why: String },
    /// The machine slept, or its clock was set.
    Slept,
}

/// A container whose health is to be checked.
#[derive(Debug, Clone)]
pub(in crate::reconcile) struct Checked {
    pub id: ContainerId,
    /// Of this start: a new one begins anew.
    pub started_at: Option<SystemTime>,
    /// The check of the state file, or of the image where it is known already.
    pub check: Option<HealthCheck>,
    /// The verdict that is known.
    pub health: Option<Health>,
}

/// What is to be done.
#[derive(Debug)]
pub(in crate::reconcile) enum Effect {
    /// Observe the world. Of the steps to recheck it is to be seen whether what they
    /// failed of is over.
    Observe { desired: Arc<Desired>, published: Arc<Published>, recheck: Vec<(Cause, Action)>, depth: Depth },
    /// An observation was planned for, and this asked for it.
    Planned { asked_by: String, ready: usize, waiting: usize, took: Duration },
    /// Take a step.
    Start { step: Box<Step>, grace: Option<Duration>, deadline: Option<Instant> },
    /// Break off the waits of the step in a lane; where what is wanted changed, it goes no further than it must.
    Cancel { lane: Lane, outdated: bool },
    /// Break off all.
    CancelAll,
    /// Ask for the published manifest.
    FetchManifest,
    /// Check the health of these, and of no others.
    CheckHealth(Vec<Checked>),
    /// Watch the sessions of these, and of no others.
    WatchSessions(Vec<InAgent>),
    /// Read the last lines of a container's log, or of a session's in it.
    ReadLog { agent: AgentName, words: Box<LastWords> },
    /// Keep what is remembered of agents.
    Remember(Rollouts),
    /// Tell of something.
    Report(Event),
    /// Tell of the steps in flight.
    ReportInFlight,
    /// These are waited for.
    Await(Awaited),
    /// Show this.
    Publish(Arc<View>),
    /// Answer somebody who asked how things are: what was shown last is fresh.
    AnswerView { id: RequestId },
    /// Answer somebody who asked for an outcome.
    Answer { id: RequestId, draft: Box<Draft> },
    /// What is in flight takes too long to end: it is left to the next run.
    LeaveUnfinished,
    /// It is over.
    Finish(Verdict),
    /// Wake it then, and not at any time said before.
    WakeAt(Option<Instant>),
}

/// How it ended.
#[derive(Debug)]
pub(in crate::reconcile) enum Verdict {
    /// It came to this.
    Done(Box<Draft>),
    /// It would be too dangerous to begin.
    Refused(Refusal),
    /// It was stopped.
    Stopped,
    /// The state file names another Podman.
    OtherRuntime,
}
