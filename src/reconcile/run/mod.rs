//! `run`: the same pass as `apply`'s, woken again and again.
//!
//! Whatever wakes it is only a hint to look; what to do is decided by [`crate::plan`] from a fresh look, and done by
//! [`crate::act`]. What stands here is when to look, what is left alone for now because it failed, and what is told.

mod crashes;
mod health;
mod listen;
mod logs;
mod news;
mod setbacks;
mod trigger;
mod view;
mod vm;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use listen::Wall;
pub use news::News;
pub use trigger::Trigger;
pub use view::{BackingOff, View};

use super::backoff::Backoff;
use super::flights::Flight;
use super::journal::Journal;
use super::{Options, Refusal, Report, Reporter, Taken, reached_otherwise};
use crate::act::Slots;
use crate::backend::{Deaths, Engine, Store, Vm, World};
use crate::handles::Scratch;
use crate::model::{AgentName, Desired, ImageSource, Observed, Reach, Seen, Version};
use crate::observe::{Distrust, ManifestFault, Published, accept_published, observe};
use crate::plan::{Plan, Policy, Step, WaitingOn, plan};
use crate::readiness::{Unready, steady_after, unready};
use crashes::Crashes;
use health::Checks;
use listen::{Heard, Listener};
use logs::Logs;
use setbacks::Setbacks;
use vm::VmWatch;

/// What the state file says now.
#[derive(Debug, Clone)]
pub struct Edition {
    /// What is wanted: the newest that could be used.
    pub desired: Arc<Desired>,
    /// What is wrong with the file as it is, when it cannot be used.
    pub error: Option<String>,
}

/// Somebody asks for a look now.
#[derive(Debug)]
pub enum Request {
    /// And for what comes of it: everything is tried at once.
    Reconcile {
        /// How long whoever asks waits.
        timeout: Duration,
        /// What came of it.
        reply: oneshot::Sender<Report>,
    },
    /// And for how things are: told once the view is not older than [`FRESH`].
    Look {
        /// The view is fresh.
        reply: oneshot::Sender<()>,
    },
}

/// A view of this age is as good as a new one to whoever asks how things are.
pub const FRESH: Duration = Duration::from_secs(2);

/// What `run` works with.
pub struct Runner<'a, V, E, S> {
    /// The world.
    pub world: &'a World<V, E, S>,
    /// How to go about it. Of the policy, `prune_cache` is asked anew for each look.
    pub options: &'a Options,
    /// The longest time without a look. Spread over 90 % to 110 %.
    pub resync: Duration,
    /// What the state file says, and says next.
    pub editions: watch::Receiver<Edition>,
    /// Who asks.
    pub requests: &'a mut mpsc::Receiver<Request>,
    /// Who hears of it.
    pub reporter: &'a dyn Reporter,
    /// Where it is written down.
    pub journal: &'a Journal,
    /// Where handles are kept.
    pub scratch: &'a Scratch,
    /// Where the newest view is shown.
    pub view: &'a watch::Sender<Option<Arc<View>>>,
    /// Whether nobody else shares the cache, so that what is not needed may go.
    pub is_alone: &'a (dyn Fn(&Desired) -> bool + Send + Sync),
    /// The clock on the wall: only to notice that the machine slept.
    pub wall: &'a Wall,
    /// Called now and then while the loop is alive, at least every so often.
    pub heartbeat: Option<(Duration, &'a (dyn Fn() + Send + Sync))>,
    /// Cancelled when it is to stop: agents go on running.
    pub cancel: &'a CancellationToken,
}

impl<V, E, S> std::fmt::Debug for Runner<'_, V, E, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("resync", &self.resync).finish_non_exhaustive()
    }
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The state file names another Podman: begin anew with that one.
    OtherRuntime,
}

/// Podman restarts what died by itself, or tidies up after it, in about this time (4.3: 100 ms). A look at a container
/// meanwhile waits for the same lock and slows it down, so there is none for that container's sake.
const TIDYING: Duration = Duration::from_millis(120);
/// When Podman takes longer than [`TIDYING`], it is looked at again after so long, and ever longer.
const TRANSITION: Backoff = Backoff { first: Duration::from_millis(40), longest: Duration::from_secs(30) };
/// A manifest that could not be had, or does not offer what is wanted, is asked for again.
const MANIFEST: Backoff = Backoff { first: Duration::from_secs(5), longest: Duration::from_secs(300) };
/// The first look waits so long for the published manifest; the next ones go by the last good one.
const FIRST_MANIFEST: Duration = Duration::from_secs(2);
/// What is in flight may take so long to end once it is to stop.
const LANDING: Duration = Duration::from_secs(8);
/// A look that an event asks for is not taken sooner than this many times the length of the last one after it, so that a
/// machine where much happens is not busy with looking.
const LOOK_SPACING: u32 = 2;
/// Nor later than this after it: one look that hung must not delay the next.
const MOST_SPACING: Duration = Duration::from_secs(1);
/// Podman's events are heard, and yet a look failed; or it was seen, and its events are not heard: nothing else would say when
/// to look again.
const BLIND: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };

/// A container in a crash loop is looked at again after so long, whether it has recovered, and ever more rarely.
const STILL_CRASH_LOOPING: Backoff = Backoff { first: Duration::from_secs(10), longest: Duration::from_secs(60) };

/// As long as makes no difference.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A request that is being worked on.
struct Ask {
    timeout: Duration,
    reply: oneshot::Sender<Report>,
    since: Instant,
    taken: Vec<Taken>,
}

/// A step in flight.
struct Flown {
    step: Step,
    since: Instant,
    /// Breaks off its waits.
    cancel: CancellationToken,
    /// Tells it that something else is wanted by now.
    outdated: CancellationToken,
    /// What woke us when it began.
    trigger: String,
}

type Fetching<'a> = Pin<Box<dyn Future<Output = Published> + Send + 'a>>;

/// What the loop remembers. It explains and limits; what is to be done is read off the world.
struct Running<'a, V, E, S> {
    with: Runner<'a, V, E, S>,
    desired: Arc<Desired>,
    file_error: Option<String>,
    policy: Policy,
    published: Arc<Published>,
    fetching: Option<Fetching<'a>>,
    manifest_failures: u32,
    manifest_at: Option<Instant>,
    /// It does not offer what is wanted.
    manifest_lacks: bool,
    listener: Listener<'a, E>,
    connected: bool,
    deaths: Option<Deaths>,
    /// What Lima tells of the virtual machine.
    vm_watch: VmWatch<'a, V>,
    checks: Checks<'a, E>,
    flights: FuturesUnordered<Flight<'a>>,
    /// What steps work in.
    slots: Slots,
    /// Lanes in flight.
    flying: BTreeMap<String, Flown>,
    /// What woke us for the newest look, as the journal says it.
    trigger: String,
    setbacks: Setbacks,
    crashes: Crashes,
    /// Steps that ended well since the last look, and how often that did not help.
    done: BTreeSet<(String, String)>,
    repeats: BTreeMap<(String, String), u32>,
    last_start: Option<Instant>,
    asks: Vec<Ask>,
    /// Who asks how things are.
    lookers: Vec<oneshot::Sender<()>>,
    /// The last log lines of those that do not run as they should.
    logs: Logs<'a, E>,
    woken: BTreeSet<Trigger>,
    look_at: Option<Instant>,
    resync_at: Instant,
    transitions: u32,
    /// Looks in a row that did not see Podman although its events are heard, or the other way round.
    blind: u32,
    /// Containers that Podman was busy with at the last look, and since when we know.
    moving: BTreeMap<String, Instant>,
    last_look: Duration,
    looked_at: Instant,
    /// When it was last judged what may be tried.
    judged_at: Instant,
    passes: u64,
    told: view::Told,
    /// What the newest look found not to be ready, although nothing is to be done about it.
    unready: Vec<Unready>,
    /// Observations in a row that found a crash loop.
    crash_looping: u32,
    /// How the virtual machine was reached at the last look.
    reach: Reach,
    /// Ready steps that did not fit beside what flies.
    queue: VecDeque<Step>,
    /// Others wait for what is in flight.
    others_wait: bool,
    /// Agents whose containers end all the time, and with what.
    storming: BTreeMap<AgentName, i32>,
    /// What the containers of agents in flight ended with first, under the agent's name.
    first_ends: BTreeMap<AgentName, i32>,
    deaths_tried: bool,
    beat_at: Instant,
    /// The runner's own, for as long as the flights live.
    stop: &'a CancellationToken,
}

impl<V: Vm, E: Engine, S: Store> Runner<'_, V, E, S> {
    /// Runs until it is cancelled.
    pub async fn run(self) -> Ended {
        Running::new(self).run().await
    }
}

impl<'a, V: Vm, E: Engine, S: Store> Running<'a, V, E, S> {
    fn new(mut with: Runner<'a, V, E, S>) -> Self {
        let Edition { desired, error } = with.editions.borrow_and_update().clone();
        let now = Instant::now();
        let slots = Slots::new(with.options.parallel);
        Self {
            listener: Listener::new(&with.world.engine, desired.ownership(), with.wall),
            vm_watch: VmWatch::new(&with.world.vm, desired.vm().is_some()),
            checks: Checks::new(&with.world.engine),
            logs: Logs::new(&with.world.engine),
            policy: with.options.policy.clone(),
            resync_at: now + jittered(with.resync),
            stop: with.cancel,
            with,
            desired,
            file_error: error,
            published: Arc::new(Published::absent()),
            fetching: None,
            manifest_failures: 0,
            manifest_at: None,
            manifest_lacks: false,
            connected: false,
            deaths: None,
            flights: FuturesUnordered::new(),
            slots,
            flying: BTreeMap::new(),
            trigger: Trigger::Start.word().to_owned(),
            setbacks: Setbacks::default(),
            crashes: Crashes::default(),
            done: BTreeSet::new(),
            repeats: BTreeMap::new(),
            last_start: None,
            asks: Vec::new(),
            lookers: Vec::new(),
            woken: BTreeSet::from([Trigger::Start]),
            look_at: Some(now),
            transitions: 0,
            blind: 0,
            moving: BTreeMap::new(),
            last_look: Duration::ZERO,
            looked_at: now,
            judged_at: now,
            passes: 0,
            told: view::Told::default(),
            unready: Vec::new(),
            crash_looping: 0,
            reach: Reach::default(),
            queue: VecDeque::new(),
            others_wait: false,
            storming: BTreeMap::new(),
            first_ends: BTreeMap::new(),
            deaths_tried: false,
            beat_at: now,
        }
    }

    async fn run(mut self) -> Ended {
        self.with.world.engine.keep();
        self.first_manifest().await;
        self.listen_first().await;
        let ended = loop {
            if self.with.cancel.is_cancelled() {
                break Ended::Stopped;
            }
            if self.look_at.is_some_and(|at| at <= Instant::now()) {
                self.pass().await;
                continue;
            }
            if self.wait().await == Woken::OtherRuntime {
                break Ended::OtherRuntime;
            }
        };
        self.bring_down().await;
        ended
    }

    /// Looks, plans, starts what is ready, and shows what it came to.
    async fn pass(&mut self) {
        self.look_at = None;
        let Some((observed, plan)) = self.look().await else { return };
        let woken = std::mem::take(&mut self.woken);
        self.passes += 1;
        let words: Vec<_> = woken.iter().map(|trigger| trigger.word()).collect();
        self.trigger = words.join(",");
        self.with.journal.woken_by(&self.trigger);
        tracing::info!(
            woken_by = self.trigger,
            ready = plan.ready.len(),
            waiting = plan.waiting.len(),
            took_ms = u64::try_from(self.last_look.as_millis()).unwrap_or(u64::MAX),
            "observed and planned"
        );
        self.with.scratch.record(&observed).await;
        if let Some(news) = reached_otherwise(&mut self.reach, &observed) {
            // That it is reached in no way is told as what it means for Podman.
            match &news {
                News::VmReached { now: Reach { rung: None, .. }, .. } => news.write(self.with.journal),
                _ => self.tell(news),
            }
        }
        self.tell_of_refusal(&plan);
        self.unready = unready(&self.desired, &observed, &plan, &self.policy, self.steady());
        self.notice_crash_loops();
        self.learn(&observed, &plan);
        let launched = self.launch(&plan);
        self.hold_what_storms(&observed);
        self.keep_checking(&observed);
        self.plan_next_look(&observed, &plan);
        self.await_offer(&plan);
        self.show(&observed, &plan, &words);
        self.answer_lookers();
        self.answer(&plan, launched).await;
    }

    /// How long what ended must stay up before it counts as ready.
    fn steady(&self) -> Duration {
        steady_after(self.with.options.patience.settle)
    }

    /// Looks while what is in flight flies on. `None` when it was cancelled, or something landed meanwhile: then the look
    /// may be older than what it shows, and another is taken at once.
    async fn look(&mut self) -> Option<(Observed, Plan)> {
        let began = Instant::now();
        self.policy.prune_cache = (self.with.is_alone)(&self.desired);
        let (desired, published) = (self.desired.clone(), self.published.clone());
        let looking = observe(self.with.world, &desired, &published);
        tokio::pin!(looking);
        let mut fresh = true;
        let observed = loop {
            tokio::select! {
                biased;
                observed = &mut looking => break observed,
                Some(landed) = self.flights.next(), if !self.flights.is_empty() => {
                    self.land(landed);
                    fresh = false;
                }
                () = self.with.cancel.cancelled() => return None,
                () = tokio::time::sleep_until(self.beat_at) => self.beat(),
            }
        };
        self.last_look = began.elapsed();
        self.looked_at = Instant::now();
        if !fresh {
            self.wake_at(Trigger::Step, Instant::now());
            return None;
        }
        let ready = plan(&desired, &observed, &self.policy);
        let held = self.held(&ready);
        if held.is_empty() {
            return Some((observed, ready));
        }
        let plan = plan(&desired, &observed, &Policy { held, ..self.policy.clone() });
        Some((observed, plan))
    }

    /// Waits until something happens, and notes what it means for the next look.
    async fn wait(&mut self) -> Woken {
        let timer = self.next_timer();
        tokio::select! {
            biased;
            () = self.with.cancel.cancelled() => {}
            Some(landed) = self.flights.next(), if !self.flights.is_empty() => {
                self.land(landed);
                self.wake_at(Trigger::Step, Instant::now());
            }
            () = self.slots.freed(), if !self.queue.is_empty() => {
                self.launch_queue();
            }
            Ok(()) = self.with.editions.changed() => return self.read_edition(),
            Some(request) = self.with.requests.recv() => self.ask(request),
            Some(id) = next_of(&mut self.deaths) => {
                if self.told.knows(&id) {
                    self.wake_soon(Trigger::Exit);
                }
            }
            heard = self.listener.next() => self.hear(heard),
            () = self.vm_watch.next() => self.wake_soon(Trigger::Vm),
            published = arrival(&mut self.fetching) => self.receive(published),
            () = self.checks.next() => self.wake_soon(Trigger::Health),
            () = self.logs.next() => {
                self.show_logs();
                self.answer_lookers();
            }
            () = tokio::time::sleep_until(timer) => self.ring(),
            () = tokio::time::sleep_until(self.beat_at) => self.beat(),
        }
        Woken::Here
    }

    /// The next thing that time alone brings.
    fn next_timer(&self) -> Instant {
        // What became due while we looked has not been tried by that look.
        let retries = self.setbacks.next(self.judged_at).into_iter().chain(self.crashes.next(self.judged_at));
        let asks = self.asks.iter().map(|ask| ask.since + ask.timeout);
        let times = retries.chain(asks).chain(self.look_at).chain(self.manifest_at);
        times.fold(self.resync_at, Instant::min)
    }

    /// Tells that the loop is alive.
    fn beat(&mut self) {
        let every = match self.with.heartbeat {
            Some((every, beat)) => {
                beat();
                every
            }
            None => NEVER,
        };
        self.beat_at = Instant::now() + every;
    }

    /// A timer has come.
    fn ring(&mut self) {
        let now = Instant::now();
        if self.manifest_at.is_some_and(|at| at <= now) {
            self.manifest_at = None;
            self.fetch_manifest();
        }
        if self.resync_at <= now {
            self.wake_at(Trigger::Resync, now);
        } else if self.look_at.is_none_or(|at| at > now) {
            self.wake_at(Trigger::Retry, now);
        }
    }

    /// Asks for a look, as soon as the last one is long enough ago.
    fn wake_soon(&mut self, trigger: Trigger) {
        self.wake_at(trigger, self.looked_at + (LOOK_SPACING * self.last_look).min(MOST_SPACING));
    }

    fn wake_at(&mut self, trigger: Trigger, at: Instant) {
        self.woken.insert(trigger);
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Event(event) => {
                self.count_end(&event);
                let is_known = |name: &String| event.action.starts_with("die") && self.moving.contains_key(name);
                // Of an end that was seen already, the look that is due will tell what comes of it.
                if !event.container.as_ref().is_some_and(is_known) {
                    self.wake_soon(Trigger::Podman);
                }
            }
            Heard::Connected => {
                self.connected = true;
                // Another Podman may keep its exit files elsewhere.
                self.deaths = None;
                self.deaths_tried = false;
                self.setbacks.forget(|_, setback| matches!(setback.kind, "transportUnavailable" | "timeout"));
                self.wake_at(Trigger::Podman, Instant::now());
            }
            Heard::Lost(why) => {
                tracing::debug!(why, "lost Podman's events");
                self.connected = false;
                self.wake_at(Trigger::Podman, Instant::now());
            }
            Heard::Silent(why) => {
                tracing::debug!(why, "Podman does not answer");
                self.connected = false;
                // The look that follows may wait for much longer, and meanwhile nobody is told what may not be so any more.
                self.show_silence(&why);
                self.wake_at(Trigger::Podman, Instant::now());
            }
            Heard::Slept => {
                self.tell(News::Slept);
                self.wake_at(Trigger::Resync, Instant::now());
            }
        }
    }

    /// What happens from the first look on must be heard.
    async fn listen_first(&mut self) {
        tokio::select! {
            heard = self.listener.next() => self.hear(heard),
            () = self.with.cancel.cancelled() => {}
        }
    }

    // -------------------------------------------------------------------------------------------------- manifest

    async fn first_manifest(&mut self) {
        self.fetch_manifest();
        tokio::select! {
            published = arrival(&mut self.fetching) => self.receive(published),
            () = tokio::time::sleep(FIRST_MANIFEST) => {
                self.published = not_yet_published();
            }
            () = self.with.cancel.cancelled() => {}
        }
    }

    fn fetch_manifest(&mut self) {
        let (store, desired) = (&self.with.world.store, self.desired.clone());
        self.fetching = Some(Box::pin(async move { accept_published(store, &desired).await }));
    }

    fn receive(&mut self, published: Published) {
        self.fetching = None;
        let now = Instant::now();
        let same = self.published.manifest == published.manifest;
        self.manifest_at = if published.manifest.unknown().is_some() || self.manifest_lacks && same {
            self.manifest_failures = self.manifest_failures.saturating_add(1);
            Some(now + MANIFEST.delay(self.manifest_failures))
        } else {
            self.manifest_failures = 0;
            let latest =
                |agent: &crate::model::Agent| agent.version == Version::Latest && agent.source == ImageSource::Manifest;
            self.desired.agents.values().any(latest).then(|| now + jittered(self.desired.manifest_refresh))
        };
        self.tell_of_trust(&published);
        self.published = Arc::new(published);
        if !same || !self.asks.is_empty() {
            self.wake_at(Trigger::Manifest, now);
        }
    }

    /// That a manifest is refused is told once for each reason, and once more when one is trusted again.
    fn tell_of_trust(&mut self, published: &Published) {
        let refusal = |published: &Published| match &published.fault {
            Some(ManifestFault::Untrusted { why, cause }) => {
                let was_had = matches!(cause, Distrust::Judged(err) if err.is_of_published());
                Some((why.clone(), was_had))
            }
            _ => None,
        };
        match (refusal(&self.published), refusal(published)) {
            (before, Some((why, was_had))) if before.as_ref().map(|(why, _)| why) != Some(&why) => {
                self.tell(News::ManifestRefused { why, was_had });
            }
            (Some(_), None) if published.manifest.present().is_some() => self.tell(News::ManifestTrusted),
            _ => {}
        }
    }

    /// What the manifest does not offer yet may be published any moment: it is asked for again, ever more rarely.
    fn await_offer(&mut self, plan: &Plan) {
        let lacks = plan.waiting.iter().any(|waiting| matches!(waiting.on, WaitingOn::Manifest { .. }));
        self.manifest_lacks = lacks && self.desired.manifest.is_some();
        if !self.manifest_lacks || self.fetching.is_some() {
            return;
        }
        let at = Instant::now() + MANIFEST.delay(self.manifest_failures.max(1));
        self.manifest_at = Some(self.manifest_at.map_or(at, |earlier| earlier.min(at)));
    }

    // ------------------------------------------------------------------------------------- state file and requests

    fn read_edition(&mut self) -> Woken {
        let Edition { desired, error } = self.with.editions.borrow_and_update().clone();
        // Whoever reads the news finds it in the status.
        self.with.view.send_if_modified(|view| match view {
            Some(view) if view.file_error != error => {
                Arc::make_mut(view).file_error.clone_from(&error);
                true
            }
            _ => false,
        });
        if let Some(why) = &error
            && self.file_error.as_ref() != Some(why)
        {
            self.tell(News::FileRejected { why: why.clone() });
        }
        let had_error = std::mem::replace(&mut self.file_error, error).is_some();
        self.woken.insert(Trigger::File);
        if desired.runtime != self.desired.runtime {
            return Woken::OtherRuntime;
        }
        if !Arc::ptr_eq(&desired, &self.desired) {
            self.tell(if had_error { News::FileMended } else { News::FileAccepted });
            self.take_over(desired);
        }
        self.wake_at(Trigger::File, Instant::now());
        Woken::Here
    }

    /// Says once that the containers of a state file without agents stay. An edit that empties it is refused before it comes
    /// here; this is the file that was empty when we began.
    fn tell_of_refusal(&mut self, plan: &Plan) {
        let Some(refused) = plan.refused.as_ref().filter(|_| self.file_error.is_none()) else { return };
        let refusal = Refusal::Empty { name: self.desired.name.clone(), count: refused.count };
        let why = format!("{refusal}: --allow-empty lets it");
        self.tell(News::FileRejected { why: why.clone() });
        self.file_error = Some(why);
    }

    /// What is wanted is another from now on.
    fn take_over(&mut self, desired: Arc<Desired>) {
        let before = std::mem::replace(&mut self.desired, desired);
        if before.manifest != self.desired.manifest {
            // What another place publishes says nothing about this one.
            self.published = not_yet_published();
        }
        for (name, agent) in &before.agents {
            if self.desired.agents.get(name).is_some_and(|now| now.wants_same(agent)) {
                continue;
            }
            self.crashes.forgive(name);
            // A successor that is waited for is not wanted any more.
            if let Some(flown) = self.flying.get(&super::lane_of(name)) {
                flown.cancel.cancel();
                // Of one that is suspended, or not in the file any more, nobody might go on with what was begun.
                if self.desired.agents.get(name).is_some_and(|now| !now.suspend) {
                    flown.outdated.cancel();
                }
            }
        }
        // Planned for what was wanted before.
        self.queue.clear();
        let agents = self.desired.clone();
        self.crashes.keep(|agent| agents.agents.contains_key(agent));
        self.first_ends.retain(|agent, _| agents.agents.contains_key(agent));
        self.fetch_manifest();
    }

    fn ask(&mut self, request: Request) {
        let now = Instant::now();
        let (timeout, reply) = match request {
            Request::Reconcile { timeout, reply } => (timeout, reply),
            Request::Look { reply } => {
                self.lookers.push(reply);
                if self.passes > 0 && self.looked_at.elapsed() < FRESH {
                    self.answer_lookers();
                } else {
                    self.wake_at(Trigger::Status, now);
                }
                return;
            }
        };
        self.setbacks.try_all_now(now);
        for agent in self.desired.agents.keys() {
            self.crashes.try_now(agent);
        }
        // Whoever asks hears of what ends from now on, and of what is under way.
        for flown in self.flying.values() {
            self.tell_of(flown);
        }
        self.asks.push(Ask { timeout, reply, since: now, taken: Vec::new() });
        self.fetch_manifest();
        self.wake_at(Trigger::Request, now);
    }

    /// Those who asked how things are find it in the view, once their log lines are in it too.
    fn answer_lookers(&mut self) {
        if !self.logs.is_reading() {
            for looker in self.lookers.drain(..) {
                let _ = looker.send(());
            }
        }
    }

    /// Tells those who listen of a step in flight.
    fn tell_of(&self, flown: &Flown) {
        let step = &flown.step;
        self.with.journal.tell(
            "stepStarted",
            serde_json::json!({
                "kind": step.action.kind(),
                "agent": step.agent,
                "target": step.action.target(),
                "action": step.action.to_string(),
                "reason": step.reason.to_string(),
                "sinceMs": u64::try_from(flown.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            }),
        );
    }

    // --------------------------------------------------------------------------------------------------- the end

    /// Lets what is in flight end: transfers are dropped by the token, container steps are given their time.
    async fn bring_down(&mut self) {
        self.with.cancel.cancel();
        let landing = async {
            while let Some(landed) = self.flights.next().await {
                self.land(landed);
            }
        };
        if tokio::time::timeout(LANDING, landing).await.is_err() {
            tracing::warn!("left steps unfinished; the next run takes them up");
        }
    }

    fn tell(&self, news: News) {
        view::tell(&self.with, &news);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Here,
    OtherRuntime,
}

async fn next_of(deaths: &mut Option<Deaths>) -> Option<crate::model::ContainerId> {
    match deaths {
        Some(stream) => match stream.next().await {
            Some(id) => Some(id),
            None => {
                *deaths = None;
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}

fn not_yet_published() -> Arc<Published> {
    let why = "the published manifest is still being fetched".to_owned();
    Arc::new(Published { manifest: Seen::Unknown { why }, fault: None })
}

async fn arrival(fetching: &mut Option<Fetching<'_>>) -> Published {
    match fetching {
        Some(fetching) => fetching.await,
        None => std::future::pending().await,
    }
}

/// Spread over 90 % to 110 %, so that many do not come at once.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.9 + 0.2 * fastrand::f64())
}
