//! Performs what the core decides, and tells it what happened.
//!
//! Nothing is decided here. Every future lives in the driver, so that dropping a wait for the next thing loses nothing.

mod complete;
mod health;
mod inputs;
mod listen;
mod sessions;
mod steps;
mod vm;

pub(super) use complete::complete;
use inputs::{arrival, from_kept, from_listener};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use listen::Wall;

use super::core::{Core, Effect, EngineNotice, Input, Mode, Now, Observation, RequestId, Terms, Verdict};
use super::journal::Journal;
use super::run::{Request, Revision, View};
use super::{Awaited, Options, Report, Reporter};
use crate::act::{Slots, obstacle};
use crate::backend::{ContainerExits, Engine, Inside, Store, Vm, World};
use crate::handles::Scratch;
use crate::model::{AgentName, ContainerId, Desired, Observed};
use crate::observe::{Published, accept_published, observe_with};
use crate::plan::Lane;
use health::Checks;
use listen::Listener;
use sessions::SessionWatches;
use steps::{Ended, RunningStep, Working};
use vm::VmWatch;

/// As long as makes no difference.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What it works on.
pub(super) struct Context<'a, V, E, S> {
    pub world: &'a World<V, E, S>,
    pub options: &'a Options,
    pub reporter: &'a dyn Reporter,
    pub journal: &'a Journal,
    pub scratch: &'a Scratch,
    pub is_alone: &'a (dyn Fn(&Desired) -> bool + Send + Sync),
    pub wall: &'a Wall,
}

/// What one that is kept up hears of beside.
pub(super) struct RunInputs<'a> {
    pub revisions: watch::Receiver<Revision>,
    pub requests: &'a mut mpsc::Receiver<Request>,
    pub view: &'a watch::Sender<Option<Arc<View>>>,
    pub heartbeat: Option<(Duration, &'a (dyn Fn() + Send + Sync))>,
    /// The exit files of containers that run.
    pub exits: Option<ContainerExits>,
    pub tried_exits: bool,
}

type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who is to be answered.
enum Reply {
    Outcome(oneshot::Sender<Report>),
    View(oneshot::Sender<()>),
}

/// Drives the core on a world.
pub(super) struct Driver<'a, V, E, S> {
    outside: Context<'a, V, E, S>,
    core: Core,
    is_once: bool,
    kept: Option<RunInputs<'a>>,
    desired: Arc<Desired>,
    cancel: &'a CancellationToken,
    /// Breaks off what is in flight. A child of `cancel`.
    stop: CancellationToken,
    is_stopping: bool,
    observing: Option<Work<'a, Observation>>,
    fetching: Option<Work<'a, Published>>,
    steps: FuturesUnordered<Work<'a, Ended>>,
    in_hand: BTreeMap<Lane, RunningStep>,
    slots: Slots,
    working: (mpsc::UnboundedSender<Working>, mpsc::UnboundedReceiver<Working>),
    logs: FuturesUnordered<Work<'a, (AgentName, ContainerId, String)>>,
    answers: FuturesUnordered<Work<'a, ()>>,
    replies: BTreeMap<RequestId, Reply>,
    next_request: u64,
    checks: Checks<'a, E>,
    listener: Option<Listener<'a, E>>,
    vm_watch: VmWatch<'a, V>,
    session_watches: SessionWatches<'a, E>,
    awaited: Awaited,
    /// What asked for the newest observation.
    trigger: String,
    wake_at: Instant,
    heartbeat_at: Instant,
}

impl<'a, V: Vm, E: Engine + Inside, S: Store> Driver<'a, V, E, S> {
    pub(super) fn new(
        outside: Context<'a, V, E, S>,
        mode: Mode,
        revision: Revision,
        kept: Option<RunInputs<'a>>,
        cancel: &'a CancellationToken,
    ) -> Self {
        let Context { world, options, wall, .. } = outside;
        let desired = revision.desired.clone();
        let is_once = matches!(mode, Mode::Once { .. });
        let terms = Terms {
            mode,
            parallel: options.parallel,
            downloads: options.downloads,
            settle: options.patience.settle,
            grace: options.patience.grace,
            policy: options.policy.clone(),
            remembered: options.rollouts.known(),
            retry_quarantined: options.retry_quarantined,
        };
        let now = Instant::now();
        Self {
            core: Core::new(terms, revision, Now { at: now.into_std(), wall: wall() }),
            listener: (!is_once).then(|| Listener::new(&world.engine, desired.ownership(), wall)),
            vm_watch: VmWatch::new(&world.vm, !is_once && desired.vm().is_some()),
            checks: Checks::new(&world.engine),
            session_watches: SessionWatches::new(&world.engine),
            slots: Slots::new(options.parallel),
            outside,
            is_once,
            kept,
            desired,
            stop: cancel.child_token(),
            cancel,
            is_stopping: false,
            observing: None,
            fetching: None,
            steps: FuturesUnordered::new(),
            in_hand: BTreeMap::new(),
            working: mpsc::unbounded_channel(),
            logs: FuturesUnordered::new(),
            answers: FuturesUnordered::new(),
            replies: BTreeMap::new(),
            next_request: 1,
            awaited: Awaited::default(),
            trigger: String::new(),
            wake_at: now,
            heartbeat_at: now,
        }
    }

    /// Goes on until the core says that it is over.
    pub(super) async fn drive(mut self) -> Verdict {
        if !self.is_once {
            self.outside.world.engine.keep();
        }
        let mut input = Input::Begin;
        loop {
            if let Some(verdict) = self.on(input) {
                self.close().await;
                return verdict;
            }
            input = self.next().await;
        }
    }

    fn on(&mut self, input: Input) -> Option<Verdict> {
        let is_observation = matches!(input, Input::Observed(_));
        let now = Now { at: Instant::now().into_std(), wall: (self.outside.wall)() };
        let mut verdict = None;
        for effect in self.core.on(input, now) {
            match effect {
                Effect::Finish(how) => verdict = Some(how),
                effect => self.perform(effect),
            }
        }
        if is_observation && self.is_once && !matches!(verdict, Some(Verdict::Refused(_))) {
            self.outside.world.engine.keep();
        }
        verdict
    }

    /// Waits for the next thing to happen.
    async fn next(&mut self) -> Input {
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled(), if !self.is_stopping => {
                    self.is_stopping = true;
                    return Input::Stop;
                }
                Some(ended) = self.steps.next(), if !self.steps.is_empty() => return self.step_ended(ended),
                Some(working) = self.working.1.recv() => {
                    let Working { lane, works } = working;
                    return Input::StepWorks { lane, works };
                }
                observation = arrival(&mut self.observing) => {
                    self.follow_exits(&observation.observed);
                    self.forget_who_went();
                    return Input::Observed(Box::new(observation));
                }
                Some(input) = from_kept(&mut self.kept, &mut self.replies, &mut self.next_request) => {
                    if let Input::Edited(revision) = &input {
                        self.desired = revision.desired.clone();
                    }
                    return input;
                }
                said = from_listener(&mut self.listener) => {
                    if let (EngineNotice::Connected, Some(kept)) = (&said, &mut self.kept) {
                        // Another Podman may keep its exit files elsewhere.
                        kept.exits = None;
                        kept.tried_exits = false;
                    }
                    return Input::Engine(said);
                }
                () = self.vm_watch.next() => return Input::VmEvent,
                published = arrival(&mut self.fetching) => return Input::ManifestArrived(Box::new(published)),
                () = self.checks.next() => return Input::HealthChanged,
                () = self.session_watches.next() => return Input::SessionChanged,
                Some((agent, id, lines)) = self.logs.next(), if !self.logs.is_empty() => {
                    return Input::LogRead { agent, id, lines };
                }
                Some(()) = self.answers.next(), if !self.answers.is_empty() => {}
                () = tokio::time::sleep_until(self.wake_at) => return Input::Timer,
                () = tokio::time::sleep_until(self.heartbeat_at), if self.kept.is_some() => self.heartbeat(),
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        let Context { world, reporter, journal, scratch, is_alone, .. } = self.outside;
        match effect {
            Effect::Observe { desired, published, recheck, depth } => {
                let is_local = self.outside.options.patience.local;
                self.observing = Some(Box::pin(async move {
                    let is_alone = is_alone(&desired);
                    let observed = observe_with(world, &desired, &published, depth).await;
                    scratch.record(&observed).await;
                    let is_over = |action: &_| is_local && obstacle(action).is_none();
                    let cleared = recheck.into_iter().filter(|(_, action)| is_over(action)).map(|(cause, _)| cause);
                    Observation { observed, is_alone, cleared: cleared.collect() }
                }));
            }
            Effect::Planned { asked_by, ready, waiting, took } => {
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(asked_by, ready, waiting, took_ms, "observed and planned");
                if !self.is_once {
                    journal.woken_by(&asked_by);
                }
                self.trigger = asked_by;
            }
            Effect::Start { step, grace, deadline } => self.start(*step, grace, deadline),
            Effect::Cancel { lane, outdated } => {
                if let Some(in_hand) = self.in_hand.get(&lane) {
                    in_hand.cancel.cancel();
                    if outdated {
                        in_hand.outdated.cancel();
                    }
                }
            }
            Effect::CancelAll => self.stop.cancel(),
            Effect::FetchManifest => {
                let desired = self.desired.clone();
                self.fetching = Some(Box::pin(async move { accept_published(&world.store, &desired).await }));
            }
            Effect::CheckHealth(checked) => self.checks.keep(&checked),
            Effect::WatchSessions(wanted) => self.session_watches.keep(wanted),
            Effect::ReadLog { agent, words } => self.logs.push(Box::pin(async move {
                let lines = words.read(&world.engine).await;
                (agent, words.container().clone(), lines)
            })),
            Effect::Remember(rollouts) => self.outside.options.rollouts.keep(&rollouts),
            Effect::Report(event) => {
                // That it is unreachable is reported as what it means for Podman.
                if !self.is_once && !event.is_for_the_journal_alone() {
                    reporter.on_event(&event);
                }
                event.write(journal);
            }
            Effect::ReportInFlight => self.in_hand.values().for_each(|in_hand| in_hand.tell(journal)),
            Effect::Await(awaited) => {
                reporter.awaiting(&awaited);
                self.awaited = awaited;
            }
            Effect::Publish(mut view) => {
                let Some(kept) = &self.kept else { return };
                if let Some(why) = scratch.problem() {
                    Arc::make_mut(&mut view).not_recorded = Some(why);
                }
                kept.view.send_replace(Some(view));
            }
            Effect::AnswerView { id } => {
                if let Some(Reply::View(reply)) = self.replies.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = reply.send(());
                }
            }
            Effect::Answer { id, draft } => {
                let Some(Reply::Outcome(reply)) = self.replies.remove(&id) else { return };
                self.answers.push(Box::pin(async move {
                    let _ = reply.send(complete(&world.engine, *draft).await);
                }));
            }
            Effect::LeaveUnfinished => tracing::warn!("left steps unfinished; the next run resumes them"),
            Effect::WakeAt(at) => {
                self.wake_at = at.map_or_else(|| Instant::now() + NEVER, Instant::from_std);
            }
            Effect::Finish(_) => unreachable!("it is over"),
        }
    }

    /// Nobody waits any more, and who was promised an answer has it.
    async fn close(&mut self) {
        if !self.awaited.is_empty() {
            self.outside.reporter.awaiting(&Awaited::default());
        }
        while self.answers.next().await.is_some() {}
    }

    fn follow_exits(&mut self, observed: &Observed) {
        let (Some(guest), Some(kept)) = (observed.guest.present(), &mut self.kept) else { return };
        if kept.exits.is_none() && !kept.tried_exits {
            kept.tried_exits =
                guest.containers.values().any(|container| container.phase == crate::model::Phase::Running);
            kept.exits = self.outside.world.engine.container_exits(guest);
        }
    }

    /// Who asked and does not wait any more needs no answer.
    fn forget_who_went(&mut self) {
        let gone = |(id, reply): (&RequestId, &Reply)| match reply {
            Reply::Outcome(reply) => reply.is_closed().then_some(*id),
            Reply::View(reply) => reply.is_closed().then_some(*id),
        };
        let gone: Vec<_> = self.replies.iter().filter_map(gone).collect();
        for id in gone {
            self.replies.remove(&id);
            // It has nothing to say to that.
            let _ = self.on(Input::Gone { id });
        }
    }

    /// Tells that the loop is alive.
    fn heartbeat(&mut self) {
        let every = match self.kept.as_ref().and_then(|kept| kept.heartbeat) {
            Some((every, heartbeat)) => {
                heartbeat();
                every
            }
            None => NEVER,
        };
        self.heartbeat_at = Instant::now() + every;
    }
}
