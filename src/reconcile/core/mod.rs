//! The heart: one state machine without a clock, tasks or I/O.
//!
//! It hears what happened ([`Input`]) and says what is to be done ([`Effect`]). *When* to observe, which steps may be in flight
//! together, what is left alone for now and why, and when it is over, is decided here; *what* is to be done is
//! [`crate::plan`]'s to say, *how* is [`crate::act`]'s, and [`super::driver`] performs it.
//!
//! What it remembers explains and limits; what is to be done is always read off the newest observation.

mod backoff;
pub mod broken;
mod crash_loop;
mod drift_again;
mod ending;
mod in_flight;
mod learning;
mod manifest;
mod observing;
mod outcome;
mod starting;
mod view;
mod waiters;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub(super) use backoff::Cause;
pub(super) use outcome::{Draft, Finding, How};
pub use view::{BackingOff, View};

use super::run::{Event, Revision, Trigger};
use super::{Awaited, Refusal, TakenStep};
use crate::act::{ActError, Done};
use crate::backend::{EngineEvent, EventKind};
use crate::model::{AgentName, ContainerId, ContainerSpec, Desired, Health, HealthCheck, Observed, Reach};
use crate::observe::Published;
use crate::plan::{Action, Lane, Plan, Policy, Step};
use crate::readiness::Unready;
use backoff::FailureBackoff;
use broken::Broken;
use crash_loop::CrashLoops;
use drift_again::DriftAgain;
use ending::Ending;
use in_flight::InFlight;
use learning::CrashLoopStops;
use manifest::ManifestState;
use observing::Observing;
use view::Reported;
use waiters::Waiters;

/// The moment of an input: by the clock that never jumps, and by the one on the wall.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub at: Instant,
    pub wall: SystemTime,
}

impl Now {
    /// The time on the wall at a later moment.
    fn wall_at(&self, at: Instant) -> SystemTime {
        self.wall.checked_add(at.saturating_duration_since(self.at)).unwrap_or(self.wall)
    }
}

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestId(pub u64);

/// What is to be brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// What is desired.
    Wanted,
    /// Nothing of the state file is left; with `vm`, no virtual machine either.
    Gone { vm: bool },
}

/// How long it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
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
pub(super) struct Terms {
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
}

/// An observation that ended.
#[derive(Debug)]
pub(super) struct Observation {
    pub observed: Observed,
    /// Nobody else shares the cache, so that what is not needed may go.
    pub is_alone: bool,
    /// What these steps failed of is over, as can be seen without trying.
    pub cleared: Vec<Cause>,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
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
    /// The published manifest came, or could not be fetched.
    ManifestArrived(Box<Published>),
    /// The last lines of a container's log were read.
    LogRead { agent: AgentName, id: ContainerId, lines: String },
    /// Somebody asks for an outcome: everything is tried at once.
    Asked { id: RequestId, timeout: Duration },
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
pub(super) enum EngineNotice {
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
pub(super) struct Checked {
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
pub(super) enum Effect {
    /// Observe the world. Of these steps it is to be seen whether what they failed of is over.
    Observe { desired: Arc<Desired>, published: Arc<Published>, recheck: Vec<(Cause, Action)> },
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
    /// Read the last lines of a container's log.
    ReadLog { agent: AgentName, id: ContainerId, spec: Box<ContainerSpec> },
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
pub(super) enum Verdict {
    /// It came to this.
    Done(Box<Draft>),
    /// It would be too dangerous to begin.
    Refused(Refusal),
    /// It was stopped.
    Stopped,
    /// The state file names another Podman.
    OtherRuntime,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Core {
    terms: Terms,
    began: Instant,
    desired: Arc<Desired>,
    /// What is wrong with the state file as it is.
    file_error: Option<String>,
    policy: Policy,
    manifest: ManifestState,
    observing: Observing,
    in_flight: InFlight,
    backoff: FailureBackoff,
    crash_loops: CrashLoops,
    crash_loop_stops: CrashLoopStops,
    drift_again: DriftAgain,
    waiters: Waiters,
    reported: Reported,
    ending: Option<Ending>,
    /// What asked for the newest observation.
    trigger: String,
    /// When it was last judged what may be tried.
    judged_at: Instant,
    /// Podman's events are heard; and whether that has ever been tried.
    connected: bool,
    has_listened: bool,
    /// How the virtual machine was reached at the newest observation.
    reach: Reach,
    /// When the newest observation began.
    observed_from: Instant,
    /// When a container was last started that is to be checked once more.
    last_start: Option<Instant>,
    /// What was started here, and steps that may have started something, whose answer was lost.
    started: BTreeMap<AgentName, ContainerId>,
    unsure: BTreeMap<AgentName, Action>,
    /// Agents that this convergence does nothing more about, and what it found of them.
    given_up: BTreeMap<AgentName, Option<Finding>>,
    /// The newest plan, and who is not ready although nothing is to be done about it.
    plan: Plan,
    unready: Vec<Unready>,
    /// Something waits for what is in flight.
    others_wait: bool,
    effects: Vec<Effect>,
}

/// The first observation of one that is kept up waits so long for the published manifest.
const FIRST_MANIFEST: Duration = Duration::from_secs(2);

impl Core {
    pub(super) fn new(terms: Terms, revision: Revision, now: Now) -> Self {
        let Revision { desired, error } = revision;
        let (manifest, resync) = match terms.mode {
            Mode::Once { goal: Goal::Gone { .. }, .. } => (None, None),
            Mode::Once { timeout, .. } => (Some(now.at + timeout), None),
            Mode::Forever { resync } => (Some(now.at + FIRST_MANIFEST), Some(resync)),
        };
        let is_once = resync.is_none();
        Self {
            policy: terms.policy.clone(),
            manifest: ManifestState::new(manifest),
            observing: Observing::new(resync, now.at),
            in_flight: InFlight::new(terms.parallel, terms.downloads),
            terms,
            began: now.at,
            desired,
            file_error: error,
            backoff: FailureBackoff::default(),
            crash_loops: CrashLoops::default(),
            crash_loop_stops: CrashLoopStops::default(),
            drift_again: DriftAgain::default(),
            waiters: Waiters::default(),
            reported: Reported::default(),
            ending: None,
            trigger: Trigger::Start.word().to_owned(),
            judged_at: now.at,
            connected: false,
            has_listened: is_once,
            reach: Reach::default(),
            observed_from: now.at,
            last_start: None,
            started: BTreeMap::new(),
            unsure: BTreeMap::new(),
            given_up: BTreeMap::new(),
            plan: Plan::default(),
            unready: Vec::new(),
            others_wait: false,
            effects: Vec::new(),
        }
    }

    /// What is to be done about what happened.
    pub(super) fn on(&mut self, input: Input, now: Now) -> Vec<Effect> {
        match input {
            Input::Begin => self.begin(now),
            Input::Observed(observation) => self.observed(*observation, now),
            Input::StepWorks { lane, works } => {
                self.in_flight.set_working(&lane, works);
                self.start_next();
            }
            Input::StepEnded { step, outcome, took } => self.step_ended(TakenStep { step: *step, outcome, took }, now),
            Input::Edited(revision) => self.edited(revision, now),
            Input::Engine(said) => self.engine_notice(said, now),
            Input::ContainerExited(id) => {
                if self.reported.knows(&id) {
                    self.observing.ask_soon(Trigger::Exit, now.at);
                }
            }
            Input::VmEvent => self.observing.ask_soon(Trigger::Vm, now.at),
            Input::HealthChanged => self.observing.ask_soon(Trigger::Health, now.at),
            Input::ManifestArrived(published) => self.manifest_arrived(*published, now),
            Input::LogRead { agent, id, lines } => self.log_read(&agent, &id, lines),
            Input::Asked { id, timeout } => self.asked(id, timeout, now),
            Input::AskedForView { id } => self.asked_for_view(id, now),
            Input::Gone { id } => self.waiters.gone(id),
            Input::Timer => self.on_timer(now),
            Input::Stop => self.stop(ending::Why::Stopped, now),
        }
        self.proceed(now);
        std::mem::take(&mut self.effects)
    }

    fn is_once(&self) -> bool {
        matches!(self.terms.mode, Mode::Once { .. })
    }

    fn goal(&self) -> Goal {
        match self.terms.mode {
            Mode::Once { goal, .. } => goal,
            Mode::Forever { .. } => Goal::Wanted,
        }
    }

    /// When a single convergence is over at the latest.
    fn deadline(&self) -> Option<Instant> {
        match self.terms.mode {
            Mode::Once { timeout, .. } => Some(self.began + timeout),
            Mode::Forever { .. } => None,
        }
    }

    fn begin(&mut self, now: Now) {
        if let Mode::Once { timeout, .. } = self.terms.mode {
            self.waiters.ask(RequestId(0), timeout, now.at);
        }
        if self.goal() == Goal::Wanted {
            self.fetch_manifest();
        }
    }

    /// Begins what is due, and says when to be woken.
    fn proceed(&mut self, now: Now) {
        if self.may_observe(now) && self.observing.begin(now.at) {
            self.effects.push(Effect::Observe {
                desired: self.desired.clone(),
                published: self.manifest.published().clone(),
                recheck: self.backoff.to_recheck(),
            });
        }
        let times = self.observing.next().chain(self.manifest.next()).chain(self.waiters.next()).chain(self.deadline());
        let times = times.chain(self.backoff.next(now.at)).chain(self.crash_loops.next(now.at));
        let times = times.chain(self.ending.as_ref().and_then(Ending::limit));
        self.effects.push(Effect::WakeAt(times.filter(|at| *at > now.at).min()));
    }

    fn may_observe(&self, now: Now) -> bool {
        match &self.ending {
            None => self.has_listened && !self.manifest.is_awaited(now.at),
            Some(ending) => ending.looks_once_more(),
        }
    }

    fn on_timer(&mut self, now: Now) {
        if self.ending.is_some() {
            return self.end_by_now(now);
        }
        if self.deadline().is_some_and(|at| at <= now.at) {
            return self.stop(ending::Why::TimedOut, now);
        }
        if self.manifest.is_due(now.at) {
            self.fetch_manifest();
        }
        self.observing.on_timer(now.at);
        self.answer_overdue(now);
        let mut retries = self.backoff.next(self.judged_at).into_iter().chain(self.crash_loops.next(self.judged_at));
        if retries.any(|at| at <= now.at) {
            self.observing.ask(Trigger::Retry, now.at);
        }
    }

    fn fetch_manifest(&mut self) {
        self.manifest.fetch();
        self.effects.push(Effect::FetchManifest);
    }

    fn manifest_arrived(&mut self, published: Published, now: Now) {
        let (is_other, event) = self.manifest.arrived(published, &self.desired, now.at);
        self.effects.extend(event.filter(|_| !self.is_once()).map(Effect::Report));
        if self.is_once() {
            self.manifest.ask_no_more();
        }
        if is_other || !self.waiters.is_empty() {
            self.observing.ask(Trigger::Manifest, now.at);
        }
    }

    fn engine_notice(&mut self, said: EngineNotice, now: Now) {
        self.has_listened = true;
        match said {
            EngineNotice::Event(event) => {
                self.count_end(&event, now);
                let is_known = |name: &String| event.kind == EventKind::Died && self.observing.is_moving(name);
                // Of an end that was seen already, the observation that is due will tell what comes of it.
                if !event.container.as_ref().is_some_and(is_known) {
                    self.observing.ask_soon(Trigger::Podman, now.at);
                }
            }
            EngineNotice::Connected => {
                self.connected = true;
                self.backoff.forget_unreachable();
                self.observing.ask(Trigger::Podman, now.at);
            }
            EngineNotice::Lost { .. } => {
                self.connected = false;
                self.observing.ask(Trigger::Podman, now.at);
            }
            EngineNotice::Silent { why } => {
                self.connected = false;
                // The observation that follows may take much longer, and meanwhile nobody is told what may not be so any more.
                self.show_silence(&why);
                self.observing.ask(Trigger::Podman, now.at);
            }
            EngineNotice::Slept => {
                self.effects.push(Effect::Report(Event::Slept));
                self.observing.ask(Trigger::Resync, now.at);
            }
        }
    }

    fn edited(&mut self, revision: Revision, now: Now) {
        let Revision { desired, error } = revision;
        self.show_file_error(error.as_ref());
        if let Some(why) = &error
            && self.file_error.as_ref() != Some(why)
        {
            self.effects.push(Effect::Report(Event::FileRejected { why: why.clone() }));
        }
        let had_error = std::mem::replace(&mut self.file_error, error).is_some();
        self.observing.note(Trigger::File);
        if desired.runtime != self.desired.runtime {
            return self.stop(ending::Why::OtherRuntime, now);
        }
        if !Arc::ptr_eq(&desired, &self.desired) {
            self.effects.push(Effect::Report(if had_error { Event::FileRestored } else { Event::FileAccepted }));
            self.take_over(desired);
        }
        if !Broken::EditWaits.is_in() || self.in_flight.is_empty() {
            self.observing.ask(Trigger::File, now.at);
        }
    }

    /// What is wanted is another from now on.
    fn take_over(&mut self, desired: Arc<Desired>) {
        let before = std::mem::replace(&mut self.desired, desired);
        self.observing.desired_changed();
        if before.manifest != self.desired.manifest {
            self.manifest.moved();
        }
        for (name, agent) in &before.agents {
            let wanted = self.desired.agents.get(name);
            if wanted.is_some_and(|now| now.wants_same(agent)) {
                continue;
            }
            self.crash_loops.forgive(name);
            let lane = Lane::Agent(name.clone());
            // A successor that is waited for is not wanted any more.
            if self.in_flight.get(&lane).is_some() {
                // Of one that is suspended, or not in the file any more, nobody might go on with what was begun.
                let outdated = wanted.is_some_and(|now| !now.suspend);
                self.effects.push(Effect::Cancel { lane, outdated });
            }
        }
        // Planned for what was wanted before.
        self.in_flight.clear_queue();
        let agents = self.desired.clone();
        self.crash_loops.keep(|agent| agents.agents.contains_key(agent));
        self.crash_loop_stops.keep(|agent| agents.agents.contains_key(agent));
        self.started.retain(|agent, _| agents.agents.contains_key(agent));
        self.unsure.retain(|agent, _| agents.agents.contains_key(agent));
        self.fetch_manifest();
    }

    fn asked(&mut self, id: RequestId, timeout: Duration, now: Now) {
        self.backoff.try_all_now(now.at);
        for agent in self.desired.agents.keys() {
            self.crash_loops.try_now(agent);
        }
        // Whoever asks hears of what ends from now on, and of what is under way.
        self.effects.push(Effect::ReportInFlight);
        self.waiters.ask(id, timeout, now.at);
        self.fetch_manifest();
        self.observing.ask(Trigger::Request, now.at);
    }
}

/// Spread over 90 % to 110 %, so that many do not come at once.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.9 + 0.2 * fastrand::f64())
}
