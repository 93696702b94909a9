//! The heart: one state machine without a clock, tasks or I/O.
//!
//! It hears what happened ([`Input`]) and says what is to be done ([`Effect`]). *When* to observe, which steps may be in flight
//! together, what is left alone for now and why, and when it is over, is decided here; *what* is to be done is
//! [`crate::plan`]'s to say, *how* is [`crate::act`]'s, and [`super::driver`] performs it.
//!
//! What it remembers explains and limits; what is to be done is always read off the newest observation.

mod backing_off;
mod backoff;
mod crash_loop;
mod drift_again;
mod ending;
mod in_flight;
mod learning;
mod manifest;
mod messages;
mod observing;
mod outcome;
mod rollouts;
mod sessions;
mod starting;
mod view;
mod waiters;

pub(super) use messages::{
    Checked, Effect, EngineNotice, Goal, Input, Mode, Now, Observation, RequestId, Terms, Verdict,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use backing_off::BackingOff;
pub(super) use backoff::Cause;
pub(super) use outcome::{Draft, Finding, How};
pub use view::View;

use super::TakenStep;
use super::run::{Event, Revision, Trigger};
use crate::backend::EventKind;
use crate::broken::Broken;
use crate::model::{AgentName, ContainerId, Desired, Reach, Rollouts};
use crate::observe::{Depth, Published};
use crate::plan::{Action, Lane, Plan, Policy};
use crate::readiness::Unready;
use crate::rollouts::quarantined;
use backoff::FailureBackoff;
use crash_loop::CrashLoops;
use drift_again::DriftAgain;
use ending::Ending;
use in_flight::InFlight;
use learning::CrashLoopStops;
use manifest::ManifestState;
use observing::Observing;
use sessions::Sessions;
use view::Reported;
use waiters::Waiters;

/// The state machine.
#[derive(Debug)]
pub(super) struct Core {
    terms: Terms,
    began: Instant,
    desired: Arc<Desired>,
    /// What is wrong with the state file as it is.
    file_error: Option<String>,
    policy: Policy,
    /// What is remembered of agents.
    remembered: Rollouts,
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
    sessions: Sessions,
    /// When it is to be woken.
    wake_at: Option<Instant>,
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
            Mode::Once { goal: Goal::Gone(_), .. } => (None, None),
            Mode::Once { timeout, .. } => (Some(now.at + timeout), None),
            Mode::Forever { resync } => (Some(now.at + FIRST_MANIFEST), Some(resync)),
        };
        let is_once = resync.is_none();
        Self {
            policy: Policy { quarantined: quarantined(&terms.remembered), ..terms.policy.clone() },
            remembered: terms.remembered.clone(),
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
            sessions: Sessions::default(),
            wake_at: None,
            plan: Plan::default(),
            unready: Vec::new(),
            others_wait: false,
            effects: Vec::new(),
        }
    }

    /// What is to be done about what happened.
    pub(super) fn on(&mut self, input: Input, now: Now) -> Vec<Effect> {
        // What came at the same moment as the time to be woken, or before that was noticed, is not all that is due.
        let is_due = self.wake_at.is_some_and(|at| at <= now.at) && !matches!(input, Input::Timer);
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
            Input::SessionChanged => self.observing.ask_soon(Trigger::Session, now.at),
            Input::ManifestArrived(published) => self.manifest_arrived(*published, now),
            Input::LogRead { agent, id, lines } => self.log_read(&agent, &id, lines),
            Input::Asked { id, timeout, retry_quarantined } => {
                if retry_quarantined {
                    self.retry_quarantined();
                }
                self.asked(id, timeout, now);
            }
            Input::AskedForView { id } => self.asked_for_view(id, now),
            Input::Gone { id } => self.waiters.gone(id),
            Input::Timer => self.on_timer(now),
            Input::Stop => self.stop(ending::Why::Stopped, now),
        }
        if is_due {
            self.on_timer(now);
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
            if self.terms.retry_quarantined {
                self.retry_quarantined();
            }
        }
    }

    /// Begins what is due, and says when to be woken.
    fn proceed(&mut self, now: Now) {
        if self.may_observe(now) && self.observing.begin(now.at) {
            let shared = matches!(self.goal(), Goal::Gone(what) if what.volumes);
            let depth = Depth { sources: self.looks_at_sources(now), shared };
            self.effects.push(Effect::Observe {
                depth,
                desired: self.desired.clone(),
                published: self.manifest.published().clone(),
                recheck: self.backoff.to_recheck(),
            });
        }
        let times = self.observing.next().chain(self.manifest.next()).chain(self.waiters.next()).chain(self.deadline());
        let times = times.chain(self.backoff.next(now.at)).chain(self.crash_loops.next(now.at));
        let times = times.chain(self.ending.as_ref().and_then(Ending::limit));
        self.wake_at = times.filter(|at| *at > now.at).min();
        self.effects.push(Effect::WakeAt(self.wake_at));
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
                self.backoff.try_unreachable_now(now.at);
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
