//! A schedule, played on the fake world: `run` is driven by the same core and driver as ever, under a clock of its own.
//!
//! What must hold is checked after each change that is made, and at the end: whatever happened, once nothing misbehaves any
//! more the world comes to what the last good edit says, within a bounded time, and then is quiet.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use steadfast::backend::fake::{Call, Effect, Fake, FakeContainer, FakeSession, Fault, FaultPoint, State};
use steadfast::broken::{self, Broken};
use steadfast::model::*;
use steadfast::reconcile::run::{Request, Revision};
use steadfast::reconcile::{Options, Report};
use steadfast::rollouts::RolloutRecord;
use steadfast::status::ConditionReason;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runs::Background;
use crate::schedule::{AGENTS, CALLS, CHANGES, Delivered, Edit, Event, How, Outside, Schedule, Work};
use crate::worlds::*;

/// Whatever failed is tried again within less, and has shown by then that it stays up.
const SETTLED: Duration = Duration::from_secs(1500);
/// In which nothing happens. Longer than two resyncs.
const QUIET: Duration = Duration::from_secs(900);

/// An edit is begun so soon, whatever else is under way.
const PROMPT: Duration = Duration::from_secs(3);

/// What does not answer is waited for so long.
const ANSWERS: Duration = Duration::from_secs(30);

/// Nothing that answers takes longer.
const SLOWEST: Duration = Duration::from_secs(10);

/// What may take long without holding up anybody else.
const WAITS: [&str; 3] = ["stop", "fetch", "published"];

/// How long somebody who applies waits.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// What is in flight then is let end, twice the time of a stop among it, and what is left is observed once more.
const APPLY_ENDS: Duration = Duration::from_secs(60 + 30 + 20 + 10 + 1);

/// What is in flight when Podman stops to answer is given up by then.
const GIVEN_UP: Duration = Duration::from_secs(120);

/// Fails with what is wrong.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

/// So many may come at once, and so many a second in the long run.
struct Allowance {
    left: f64,
    most: f64,
    a_second: f64,
}

impl Allowance {
    fn new(most: f64, a_second: f64) -> Self {
        Self { left: most, most, a_second }
    }

    /// Something happened that may want all of them again.
    fn renew(&mut self) {
        self.left = self.most;
    }

    /// Whether it is kept by so many within so many seconds.
    fn after(&mut self, seconds: f64, count: usize) -> bool {
        self.left = (self.left + seconds * self.a_second).min(self.most) - count as f64;
        self.left >= 0.0
    }
}

/// A schedule under way.
struct Play {
    fake: Fake,
    desired: Desired,
    run: Option<Background>,
    back_in: usize,
    answers: Vec<JoinHandle<Option<Report>>>,
    /// Agents whose container may have to be recreated.
    touched: BTreeSet<usize>,
    foreign_containers: Vec<ContainerId>,
    served: &'static str,
    parallel: usize,
    /// People edit, one agent or another fails, things take their time, and nothing else has happened.
    is_calm: bool,
    /// Agents whose container somebody pauses again and again.
    frozen: BTreeSet<usize>,
    /// When what others wait for was made slow, or quick again.
    paced: Option<Instant>,
    /// When each agent was edited last.
    edited: BTreeMap<usize, Instant>,
    /// Agents that somebody may take the container of.
    may_vanish: BTreeSet<usize>,
    /// The names that somebody gave to ours, and when.
    renamed: BTreeMap<String, Instant>,
    /// Since when Podman does not answer at all.
    away_since: Option<Instant>,
    /// How far the clock on the wall is ahead.
    ahead: u64,
    /// Observations, and tries to start a container.
    looks: Allowance,
    starts: Allowance,
    /// When it was looked at what has happened, and how many calls there were.
    watched: (Instant, usize),
    /// Edits that are to be begun soon, and when they were made.
    prompt: Vec<(usize, Instant)>,
    /// What failed, and what has proved itself: on the disk, which outlives each process.
    rollouts: Arc<RolloutRecord>,
    /// People edit and ask, and `run` comes and goes; nothing else has happened.
    is_undisturbed: bool,
    /// `run` was killed.
    was_killed: bool,
    /// How often a successor of each agent was made since it was edited last, and how often `run` was killed since.
    tries: BTreeMap<usize, (usize, usize)>,
    /// Agents that served well when somebody made them what can never be.
    well: BTreeSet<usize>,
    /// Agents whose containers may overlap, or might once.
    overlapped: BTreeSet<usize>,
    /// Some agent was given another restart policy.
    has_other_policy: bool,
}

fn options(parallel: usize, rollouts: Arc<RolloutRecord>) -> Options {
    let mut options = Story::new(&[]).options;
    options.policy.allow_empty = true;
    options.parallel = parallel;
    options.rollouts = rollouts;
    options
}

/// Whoever does the same over and over takes some time to do so.
fn usual_latency() -> BTreeMap<&'static str, Duration> {
    [("look", 5), ("start", 10)].map(|(word, millis)| (word, Duration::from_millis(millis))).into()
}

fn source_of(who: usize) -> std::path::PathBuf {
    format!("/src/{}", AGENTS[who]).into()
}

fn is_ours(one: &FakeContainer) -> bool {
    one.labels.get("steadfast.name").is_some_and(|name| name == "demo")
}

fn is_of(one: &FakeContainer, agent: &str) -> bool {
    is_ours(one) && one.labels.get("steadfast.agent").is_some_and(|label| label == agent)
}

fn offer(state: &mut State, version: &str) {
    publish(state, &AGENTS.map(|agent| (agent, version)));
}

fn is_offered(state: &State, agent: &str, version: &str) -> bool {
    let manifests = [&state.published, &state.local];
    manifests.into_iter().flatten().any(|one| one.agent(agent).is_ok_and(|offer| offer.version == version))
}

thread_local! {
    static BEGINNING: OnceCell<(Fake, Desired)> = const { OnceCell::new() };
}

/// A world in which everything is as wanted. It is the same each time, so it is made once.
async fn beginning() -> (Fake, Desired) {
    if let Some((fake, desired)) = BEGINNING.with(|made| made.get().cloned()) {
        return (fake.fork(), desired);
    }
    let mut story = Story::new(&AGENTS);
    // Whatever is published is heard of within less than what is waited for.
    story.desired.manifest_refresh = Duration::from_secs(600);
    for (at, name) in AGENTS.into_iter().enumerate() {
        story.agent(name).container.ports = vec![port(8001 + u16::try_from(at).unwrap())];
    }
    {
        let mut state = story.fake.state();
        offer(&mut state, "2");
        offer(&mut state, "1");
        state.latency = usual_latency();
        state.answer_within = Some(ANSWERS);
        for agent in AGENTS {
            for version in ["1", "2"] {
                state.registry.insert(reference_of(agent, version), image_of(agent, version));
            }
        }
        state.put(foreign("bystander"));
        let mut other = foreign("elses.next");
        other.labels = [("steadfast.name".into(), "elses".into()), ("steadfast.agent".into(), "a".into())].into();
        state.put(other);
    }
    let Story { fake, desired, .. } = story.settled().await;
    BEGINNING.with(|made| made.set((fake.fork(), desired.clone())).ok());
    (fake, desired)
}

impl Play {
    async fn begin(schedule: &Schedule, fault: Option<Broken>) -> Self {
        let (fake, desired) = beginning().await;
        fastrand::seed(schedule.seed);
        broken::put_in(fault);
        let parallel = schedule.parallel;
        for one in fake.state().containers.values_mut() {
            one.started = one.started.map(|_| Instant::now());
        }
        let rollouts = Arc::<RolloutRecord>::default();
        let options = options(parallel, rollouts.clone());
        let mut run = Background::with(desired.clone(), fake.clone(), options, CancellationToken::new());
        run.converged().await;
        {
            let mut state = fake.state();
            state.calls.clear();
            state.effects.clear();
        }
        let (answers, touched, foreign_containers) = (Vec::new(), BTreeSet::new(), Vec::new());
        Self {
            fake,
            desired,
            run: Some(run),
            back_in: 0,
            answers,
            touched,
            foreign_containers,
            served: "1",
            parallel,
            is_calm: true,
            frozen: BTreeSet::new(),
            edited: BTreeMap::new(),
            paced: None,
            may_vanish: BTreeSet::new(),
            renamed: BTreeMap::new(),
            away_since: None,
            ahead: 0,
            looks: Allowance::new(100.0, 1.0),
            starts: Allowance::new(8.0 * AGENTS.len() as f64, 0.1 * AGENTS.len() as f64),
            watched: (Instant::now(), 0),
            prompt: Vec::new(),
            rollouts,
            is_undisturbed: true,
            was_killed: false,
            tries: BTreeMap::new(),
            well: BTreeSet::new(),
            overlapped: BTreeSet::new(),
            has_other_policy: false,
        }
    }

    /// The name of an agent's container.
    fn container(&self, who: usize) -> String {
        let agent = self.desired.agents.get(&agent_name(AGENTS[who]));
        agent.map_or_else(|| format!("demo-{}", AGENTS[who]), |agent| agent.container.name.to_string())
    }

    fn ports(&self) -> Vec<Option<Port>> {
        let of = |name: &str| self.desired.agents.get(&agent_name(name))?.container.ports.first().cloned();
        AGENTS.into_iter().map(of).collect()
    }

    fn publish_revision(&mut self) {
        if let Some(run) = &mut self.run {
            run.desired = self.desired.clone();
            run.revisions.send_replace(Revision { desired: self.desired.clone().into(), error: None });
        }
    }

    fn up(&mut self) {
        if self.run.is_none() {
            self.fake.revive();
            let run = Background::with(
                self.desired.clone(),
                self.fake.clone(),
                options(self.parallel, self.rollouts.clone()),
                CancellationToken::new(),
            );
            run.ahead.store(self.ahead, Ordering::Relaxed);
            self.run = Some(run);
        }
    }

    async fn down(&mut self, how: How) {
        let Some(run) = self.run.take() else { return };
        match how {
            How::Stopped => {
                assert!(run.stop().await < Duration::from_secs(10));
            }
            How::Killed(after) => {
                self.was_killed = true;
                self.tries.values_mut().for_each(|(_, kills)| *kills += 1);
                self.fake.kill_after(after);
                let _ = tokio::time::timeout(Duration::from_secs(20), self.fake.killed()).await;
                run.task.abort();
                let _ = run.task.await;
            }
        }
    }

    async fn happen(&mut self, event: &Event) -> Result<(), String> {
        self.is_calm &= matches!(
            event,
            Event::Edit(..)
                | Event::Outside(_, Outside::Breaks(_), _)
                | Event::Ask
                | Event::Ailing(..)
                | Event::Frozen(_)
                | Event::Slow(..)
                | Event::Slept(_)
        );
        self.is_undisturbed &= matches!(
            event,
            Event::Edit(..)
                | Event::Ask
                | Event::Slow(..)
                | Event::Slept(_)
                | Event::SourceChanged(_)
                | Event::Down(..)
                | Event::BadEdit
        );
        match event {
            Event::Edit(who, edit) => self.edit(*who, edit),
            Event::SwapPorts(one, other) => {
                let ports = self.ports();
                for (who, from) in [(*one, *other), (*other, *one)] {
                    if let Some(agent) = self.desired.agents.get_mut(&agent_name(AGENTS[who])) {
                        agent.container.ports = ports[from].clone().into_iter().collect();
                        agent.rollout.strategy = RolloutStrategy::Replace;
                    }
                }
                // Where one of them is not there, its port is nobody's.
                self.touched.extend([*one, *other]);
                self.publish_revision();
            }
            Event::SwapNames(one, other) => {
                let names = (self.container(*one), self.container(*other));
                let is_there = |who: &usize| self.desired.agents.contains_key(&agent_name(AGENTS[*who]));
                // Where one of them is not there, its name is nobody's.
                if is_there(one) && is_there(other) {
                    for (who, name) in [(one, &names.1), (other, &names.0)] {
                        let agent = self.desired.agents.get_mut(&agent_name(AGENTS[*who]));
                        agent.unwrap().container.name = container_name(name);
                    }
                    self.publish_revision();
                }
            }
            Event::BadEdit => {
                if let Some(run) = &mut self.run {
                    run.spoil("steadfast.yaml:1:1: not a state file");
                }
            }
            Event::Outside(who, what, told) => self.outside(*who, what, *told),
            Event::Foreign(who) => {
                let name = self.container(*who);
                let mut state = self.fake.state();
                let free = state.named(&name).is_none();
                if free {
                    let mut foreign_container = foreign(&name);
                    foreign_container.spec.ports.clear();
                    let id = state.put(foreign_container);
                    drop(state);
                    self.foreign_containers.push(id);
                }
            }
            Event::KeeperKilled(who, told) => {
                let name = self.container(*who);
                let mut state = self.fake.state();
                let id = state.named(&name).map(|(id, _)| id.clone());
                let theirs =
                    state.inside.sessions.iter_mut().filter(|((container, _), _)| Some(container) == id.as_ref());
                theirs.for_each(|(_, session)| session.is_lost = true);
                if *told {
                    state.tell_of_sessions();
                }
            }
            Event::SessionEnds(who, code) => {
                let name = self.container(*who);
                let mut state = self.fake.state();
                let id = state.named(&name).map(|(id, _)| id.clone());
                let exit = SessionExit { code: Some(*code), ..SessionExit::default() };
                let theirs =
                    state.inside.sessions.iter_mut().filter(|((container, _), _)| Some(container) == id.as_ref());
                theirs.for_each(|(_, session)| session.ended = Some((exit, EndedBy::Itself)));
            }
            Event::ByHand(who, session) => {
                let name = self.container(*who);
                let mut state = self.fake.state();
                if let Some(id) = state.named(&name).filter(|(_, one)| is_ours(one)).map(|(id, _)| id.clone()) {
                    state.start_by_hand(&id, &session_name(session));
                }
            }
            Event::SourceChanged(who) => {
                *self.fake.state().inside.sources.entry(source_of(*who)).or_default() += 1;
            }
            Event::EventsCut => self.fake.state().cut_events(),
            Event::MadeUp(who, word, code) => self.fake.state().tell(word, &self.container(*who), *code),
            Event::PodmanGivesUp(does) => self.fake.state().podman_gives_up = *does,
            Event::Untagged(who) => {
                let prefix = format!("r.example/{}:", AGENTS[*who]);
                let mut state = self.fake.state();
                state.images.retain(|name, _| !name.as_str().starts_with(&prefix));
                state.tell("untag", &prefix, None);
            }
            Event::FileLost(who) => {
                self.fake
                    .state()
                    .files
                    .retain(|key, _| !key.as_str().starts_with(&format!("vm/images/{}-", AGENTS[*who])));
            }
            Event::FileRotten(who) => {
                if let Some(file) = self.fake.state().files.get_mut(&key_of(AGENTS[*who], "1")) {
                    (file.digest, file.proved) = (digest("rot"), false);
                }
            }
            Event::IndexLost => {
                let mut state = self.fake.state();
                state.files.values_mut().for_each(|file| file.proved = false);
                state.remembered.clear();
            }
            Event::LocalManifestLost => self.fake.state().local = None,
            Event::Published(version) => {
                offer(&mut self.fake.state(), version);
                self.served = version;
                self.touched.extend(0..AGENTS.len());
            }
            Event::ManifestGone => self.fake.state().published = None,
            Event::Fault(word, point, transient, times) => {
                let fault = Fault::transient(word, *point, *times);
                self.fake.order(Fault { transient: *transient, ..fault });
            }
            Event::PodmanAway(point) => {
                for word in CALLS {
                    self.fake.order(Fault::transient(word, *point, usize::MAX));
                }
                self.fake.state().cut_events();
                self.away_since.get_or_insert_with(Instant::now);
            }
            Event::Lifted => {
                self.check_patience()?;
                self.fake.lift();
            }
            Event::Ailing(who, word, times) => {
                let name = self.container(*who);
                for name in [format!("{name}.next"), name] {
                    self.fake.order(Fault::transient(word, FaultPoint::Before, *times).on(&name));
                }
            }
            Event::Frozen(who) => {
                let name = self.container(*who);
                self.frozen.insert(*who);
                let mut state = self.fake.state();
                if let Some(one) = state.named_mut(&name).filter(|one| is_ours(one) && one.phase == Phase::Running) {
                    one.phase = Phase::Paused;
                    state.tell("pause", &name, None);
                }
                state.frozen.insert(name);
            }
            Event::Slept(seconds) => {
                self.ahead += seconds;
                if let Some(run) = &self.run {
                    run.ahead.store(self.ahead, Ordering::Relaxed);
                }
            }
            Event::Slow(word, millis) => {
                if !WAITS.contains(word) {
                    self.paced = Some(Instant::now());
                }
                let usual = usual_latency().get(word).copied().unwrap_or_default();
                self.fake.state().latency.insert(word, usual.max(Duration::from_millis(*millis)));
            }
            Event::Applied(back_in) => {
                self.apply().await?;
                self.back_in = *back_in;
            }
            Event::Down(how, back_in) => {
                self.down(*how).await;
                self.back_in = *back_in;
            }
            Event::Ask => self.ask(false),
        }
        Ok(())
    }

    /// A Podman that does not answer is asked whether it does, and for nothing else.
    fn check_patience(&mut self) -> Result<(), String> {
        let Some(since) = self.away_since.take() else { return Ok(()) };
        let state = self.fake.state();
        let late = |call: &&Call| call.at > since + GIVEN_UP && CHANGES.contains(&call.word);
        let asked = state.calls.iter().find(late);
        ensure!(asked.is_none(), "{asked:?} of a Podman that has not answered since {since:?}");
        Ok(())
    }

    /// What must hold at any time.
    fn watch(&mut self) -> Result<(), String> {
        let state = self.fake.state();
        let (before, from) = std::mem::replace(&mut self.watched, (Instant::now(), state.calls.len()));
        let (passed, calls) = (before.elapsed().as_secs_f64(), &state.calls[from..]);
        let count = |word: &str| calls.iter().filter(|call| call.word == word).count();
        let looks = self.looks.after(passed, count("look"));
        ensure!(looks, "{} observations within {passed:.1} s", count("look"));
        // A replacement that is rolled back starts its predecessor too, and is one try.
        let (created, started) = (count("create"), count("start") + count("unpause"));
        let starts = self.starts.after(passed, created.max(started.saturating_sub(created)));
        ensure!(starts, "{created} times created, {started} times started or unpaused within {passed:.1} s");
        // Somebody may take a name between the observation and its use.
        let unseen = ANSWERS + 2 * SLOWEST;
        let took = |call: &Call| self.renamed.get(&call.target).is_some_and(|at| call.at < *at + unseen);
        let blindly_made = state.blindly_made.iter().find(|call| !took(call));
        ensure!(blindly_made.is_none(), "made although it was there: {blindly_made:?}");
        for (who, name) in AGENTS.into_iter().enumerate() {
            let next = format!("{}.next", self.container(who));
            let made = calls.iter().filter(|call| call.word == "create" && call.target == next).count();
            let (tries, kills) = self.tries.entry(who).or_default();
            *tries += made;
            let agent = self.desired.agents.get(&agent_name(name));
            let is_bad = agent.is_some_and(|agent| {
                agent.container.env.contains_key("CRASH") && agent.state == AgentState::Running && !agent.suspend
            });
            let again = is_bad && self.is_undisturbed && *tries > 1 + *kills;
            ensure!(!again, "what failed was tried {tries} times although nothing else was wanted: {next}");
        }
        ensure!(state.inside.too_early.is_empty(), "before its workspace: {:?}", state.inside.too_early);
        self.watch_ends(&state)?;
        for agent in AGENTS {
            let theirs = state.containers.iter().filter(|(_, one)| is_of(one, agent)).map(|(id, _)| id.clone());
            let theirs: BTreeSet<_> = theirs.collect();
            let sessions = state.inside.sessions.iter().filter(|((id, _), session)| {
                theirs.contains(id) && session.declared.is_some() && session.runs_in(&state, id)
            });
            let mut names = BTreeSet::new();
            let twice = sessions.map(|((_, name), _)| name).find(|name| !names.insert(*name));
            ensure!(twice.is_none(), "two of session {agent}/{twice:?} run");
        }
        let view = self.run.as_ref().and_then(|run| run.view.borrow().clone());
        for off in view.iter().flat_map(|view| &view.backing_off) {
            let is_lost = off.retry_at.is_none() && off.kind == FailureKind::TransportUnavailable;
            ensure!(!is_lost, "what may pass any moment is not tried again: {off:?}");
            let is_blind = matches!(off.kind, FailureKind::NotFound | FailureKind::Conflict | FailureKind::ApiError);
            ensure!(!is_blind || !self.is_calm, "nothing else had changed: {off:?}");
            let is_fought = off.kind == FailureKind::NonConvergent;
            ensure!(!is_fought || !self.is_calm || !self.frozen.is_empty(), "nobody changed it back: {off:?}");
        }
        Ok(())
    }

    /// Nobody's session is ended that runs as it is declared, and had been for a while: what was sent to it would be lost.
    fn watch_ends(&self, state: &State) -> Result<(), String> {
        for (call, session) in &state.inside.ended {
            ensure!(session.declared.is_some(), "a session that somebody started by hand was ended: {call:?}");
            let (name, what) = call.target.split_once('/').unwrap_or_default();
            let Some(who) = AGENTS.iter().position(|agent| *agent == name) else { continue };
            let wanted = self.desired.agents.get(&agent_name(name)).and_then(|agent| agent.sessions.get(what));
            let wanted = wanted.map(|spec| CanonicalSession::new(spec, &self.desired.key).to_text());
            let is_old = self.edited.get(&who).is_none_or(|at| *at + 2 * GIVEN_UP < call.at);
            ensure!(!is_old || wanted != session.declared, "it ran as declared, and was ended: {call:?}");
        }
        Ok(())
    }

    /// An edit of one whose turn it is at once, in a world where nothing misbehaves and nothing else happens for a while.
    fn expect_promptness(&mut self, event: &Event, next: u64) {
        let Event::Edit(who, Edit::Mode(mode)) = event else { return };
        let name = agent_name(AGENTS[*who]);
        let usual = usual_latency();
        let is_usual = |(word, latency)| WAITS.contains(word) || usual.get(word).unwrap_or(&Duration::ZERO) == latency;
        // What is under way may take as long as before.
        let is_quick =
            self.fake.state().latency.iter().all(is_usual) && self.paced.is_none_or(|paced| paced.elapsed() > SLOWEST);
        // What an edit a moment ago led to is not in the view yet.
        let is_settled = self.edited.get(who).is_none_or(|at| at.elapsed() > PROMPT);
        let is_prompt = is_settled && next >= 4_000 && self.is_calm && is_quick && !self.frozen.contains(who);
        let Some(run) = self.run.as_ref().filter(|_| is_prompt) else { return };
        let Some(view) = run.view.borrow().clone() else { return };
        let Some(agent) = self.desired.agents.get(&name) else { return };
        let is_other = agent.container.env.get("MODE").is_none_or(|now| now.expose() != mode.to_string());
        let is_steady = view.status.agents.get(&name).is_some_and(|agent| agent.ready);
        let is_tried = view.backing_off.iter().any(|off| off.agent.as_ref() == Some(&name));
        if is_other && is_steady && !is_tried && !agent.suspend && agent.state == AgentState::Running {
            self.prompt.push((*who, Instant::now()));
        }
    }

    /// They were begun.
    fn check_promptness(&self) -> Result<(), String> {
        let state = self.fake.state();
        for (who, at) in &self.prompt {
            let name = format!("demo-{}", AGENTS[*who]);
            let begun = state.calls.iter().any(|call| {
                call.word == "create" && call.target.starts_with(&name) && (*at..*at + PROMPT).contains(&call.at)
            });
            ensure!(begun, "the edit of {name} was not begun within {PROMPT:?}");
        }
        Ok(())
    }

    fn ask(&mut self, retry_quarantined: bool) {
        let Some(run) = &self.run else { return };
        let requests = run.requests.clone();
        self.answers.push(tokio::spawn(async move {
            let (reply, answer) = oneshot::channel();
            requests
                .send(Request::Reconcile { timeout: Duration::from_secs(60), retry_quarantined, reply })
                .await
                .ok()?;
            answer.await.ok()
        }));
    }

    /// Whether an agent that is to run fails each time that it is started, or never becomes healthy.
    fn fails(agent: &Agent) -> bool {
        let sick = agent.container.env.get("SICK").is_some_and(|seconds| seconds.expose().len() > 1);
        let is_kept = matches!(agent.container.restart, RestartPolicy::Always | RestartPolicy::UnlessStopped);
        let fails = agent.container.env.contains_key("CRASH") || sick && agent.container.healthcheck.is_some();
        fails && is_kept && agent.state == AgentState::Running && !agent.suspend
    }

    /// What fails serves nobody: what served before does, for as long as nobody wants anything else of it.
    fn note_who_serves(&mut self, who: usize, edit: &Edit, before: Option<&Agent>) {
        let name = agent_name(AGENTS[who]);
        let view = self.run.as_ref().and_then(|run| run.view.borrow().clone());
        let status = view.as_ref().and_then(|view| view.status.agents.get(&name));
        let was_well = status.is_some_and(|agent| agent.ready)
            && self.edited.get(&who).is_none_or(|at| at.elapsed() > 2 * GIVEN_UP)
            && before.is_some_and(|agent| agent.state == AgentState::Running && !Self::fails(agent));
        let fails = self.desired.agents.get(&name).is_some_and(Self::fails);
        let is_quick = matches!(edit, Edit::Crash(_) | Edit::Sick(_) | Edit::Mode(_) | Edit::Token(_));
        let serves = was_well || self.well.contains(&who);
        if fails && is_quick && serves {
            self.well.insert(who)
        } else {
            self.well.remove(&who)
        };
    }

    /// Whoever served well before it was made what fails still serves.
    fn check_who_serves(&self) -> Result<(), String> {
        let state = self.fake.state();
        let is_good = |one: &&FakeContainer| {
            let sick = one.spec.env.get("SICK").is_some_and(|seconds| seconds.expose().len() > 1);
            let fails = one.spec.env.contains_key("CRASH") || sick && one.spec.healthcheck.is_some();
            one.phase == Phase::Running && !fails
        };
        for who in self.well.iter().filter(|_| self.is_undisturbed) {
            let theirs = state.containers.values().filter(|one| is_of(one, AGENTS[*who]));
            ensure!(theirs.filter(is_good).count() == 1, "{} served, and its successor is bad", AGENTS[*who]);
        }
        Ok(())
    }

    fn edit(&mut self, who: usize, edit: &Edit) {
        let before = self.desired.agents.get(&agent_name(AGENTS[who])).cloned();
        self.edit_file(who, edit);
        self.note_who_serves(who, edit, before.as_ref());
        // What an edit a moment ago led to may still be tried.
        let is_under_way = self.edited.get(&who).is_some_and(|at| at.elapsed() < 2 * GIVEN_UP);
        self.edited.insert(who, Instant::now());
        self.tries.insert(who, (0, usize::from(is_under_way)));
        self.publish_revision();
    }

    fn edit_file(&mut self, who: usize, edit: &Edit) {
        self.touched.insert(who);
        let name = agent_name(AGENTS[who]);
        if matches!(edit, Edit::Removed | Edit::State(AgentState::Absent)) {
            self.may_vanish.insert(who);
        }
        match edit {
            Edit::Removed => {
                self.desired.agents.remove(&name);
            }
            Edit::Added => {
                let taken = |name: &ContainerName| self.desired.agents.values().any(|one| one.container.name == *name);
                let mut added = agent(AGENTS[who]);
                let names = AGENTS.iter().map(|agent| container_name(&format!("demo-{agent}")));
                let free = std::iter::once(added.container.name.clone()).chain(names).find(|name| !taken(name));
                if let (false, Some(free)) = (self.desired.agents.contains_key(&name), free) {
                    added.container.name = free;
                    self.desired.agents.insert(name, added);
                }
            }
            _ => {}
        }
        let free = {
            let taken: BTreeSet<_> = self.ports().into_iter().flatten().map(|port| port.host_port).collect();
            (8001..8004).find(|number| !taken.contains(number))
        };
        if let Some(agent) = self.desired.agents.get_mut(&agent_name(AGENTS[who])) {
            let env = &mut agent.container.env;
            match edit {
                Edit::Mode(mode) => {
                    env.insert("MODE".into(), Text::plain(mode.to_string()));
                }
                Edit::Token(token) => {
                    env.insert("TOKEN".into(), Text::sensitive(token.to_string()));
                }
                Edit::Crash(Some(code)) => {
                    env.insert("CRASH".into(), Text::plain(code.to_string()));
                }
                Edit::Crash(None) => {
                    env.remove("CRASH");
                }
                Edit::Sick(Some(seconds)) => {
                    env.insert("SICK".into(), Text::plain(seconds.to_string()));
                }
                Edit::Sick(None) => {
                    env.remove("SICK");
                }
                Edit::Version("latest") => agent.version = Version::Latest,
                Edit::Version(version) => agent.version = Version::Exact((*version).to_owned()),
                Edit::Source(source) => agent.source = *source,
                Edit::Restart(restart) => {
                    agent.container.restart = *restart;
                    self.has_other_policy = true;
                }
                Edit::State(state) => agent.state = *state,
                Edit::Suspend(suspend) => agent.suspend = *suspend,
                Edit::Checked(checked) => agent.container.healthcheck = checked.then(health_check),
                Edit::Port(false) => agent.container.ports.clear(),
                Edit::Overlap(overlap) => {
                    agent.rollout.strategy = if *overlap { RolloutStrategy::Overlap } else { RolloutStrategy::Replace };
                    if *overlap {
                        agent.container.ports.clear();
                        self.overlapped.insert(who);
                    }
                }
                Edit::Settle(seconds) => agent.rollout.settle = Duration::from_secs(*seconds),
                Edit::Port(true)
                    if agent.container.ports.is_empty() && agent.rollout.strategy == RolloutStrategy::Replace =>
                {
                    agent.container.ports = free.map(port).into_iter().collect();
                }
                Edit::Work(work) => {
                    agent.sessions.clear();
                    agent.workspaces.clear();
                    let source = source_of(who);
                    let mut put = |cwd: Option<&str>, command: String, missing: bool| {
                        let mut spec = session(cwd);
                        spec.command = vec![Text::plain(command)];
                        if missing {
                            spec.env.insert("MISSING".into(), Text::plain("yes"));
                        }
                        agent.sessions.insert(session_name("pi"), spec);
                    };
                    match work {
                        Work::None | Work::Workspace => {}
                        Work::Session(command) => put(None, format!("pi {command}"), false),
                        Work::InWorkspace(command) => put(Some("/root/repo/sub"), format!("pi {command}"), false),
                        Work::Missing => put(None, "pi".to_owned(), true),
                    }
                    if matches!(work, Work::InWorkspace(_) | Work::Workspace) {
                        let spec = workspace(source.to_str().unwrap(), "/root/repo");
                        agent.workspaces.insert(WorkspaceName::new("repo").unwrap(), spec);
                    }
                }
                Edit::Port(true) | Edit::Removed | Edit::Added => {}
            }
            if agent.source == ImageSource::Registry && agent.version == Version::Latest {
                agent.version = Version::Exact("1".to_owned());
            }
        }
    }

    fn outside(&mut self, who: usize, what: &Outside, told: Delivered) {
        let name = self.container(who);
        let mut state = self.fake.state();
        if !state.named(&name).is_some_and(|(_, one)| is_ours(one)) {
            return;
        }
        // A name may be another one's by now.
        let owner = state.named(&name).and_then(|(_, one)| AGENTS.iter().position(|agent| is_of(one, agent)));
        let who = owner.unwrap_or(who);
        let runs = |one: &FakeContainer| matches!(one.phase, Phase::Running);
        let Some(one) = state.named_mut(&name) else { return };
        let (word, code) = match what {
            Outside::Killed | Outside::Stopped | Outside::Died(_) | Outside::Paused if !runs(one) => return,
            Outside::Killed => {
                one.phase = Phase::Exited { code: 137 };
                ("died", Some(137))
            }
            Outside::Stopped => {
                one.phase = Phase::Exited { code: 143 };
                ("died", Some(143))
            }
            Outside::Died(code) => {
                state.die(&name, *code);
                ("died", Some(*code))
            }
            Outside::Breaks(code) => {
                one.breaks = Some(*code);
                if runs(one) {
                    state.die(&name, *code);
                }
                ("died", Some(*code))
            }
            Outside::Paused => {
                one.phase = Phase::Paused;
                ("pause", None)
            }
            Outside::Removed => {
                state.containers.retain(|_, one| one.name.as_str() != name);
                self.touched.insert(who);
                self.may_vanish.insert(who);
                ("remove", None)
            }
            Outside::Renamed(suffix) => {
                let other = format!("{name}{suffix}");
                if state.named(&other).is_some() {
                    return;
                }
                state.named_mut(&name).unwrap().name = container_name(&other);
                self.renamed.insert(other, Instant::now());
                ("rename", None)
            }
        };
        // `die` tells of itself.
        let times = match (told, what) {
            (Delivered::Not, _) | (Delivered::Once, Outside::Died(_) | Outside::Breaks(_)) => 0,
            (Delivered::Once, _) | (Delivered::Twice, Outside::Died(_) | Outside::Breaks(_)) => 1,
            (Delivered::Twice, _) => 2,
        };
        for _ in 0..times {
            state.tell(word, &name, code);
        }
    }

    /// Everything that fails is repaired, and everything that is wanted is offered.
    fn repair(&mut self) {
        self.fake.lift();
        {
            let mut state = self.fake.state();
            state.latency = usual_latency();
            state.frozen.clear();
            let by_hand = |session: &FakeSession| session.declared.is_none();
            state.inside.sessions.retain(|(_, name), session| name.as_str() != "pi" || !by_hand(session));
            state.containers.values_mut().for_each(|one| one.breaks = None);
            let version = |name: &str| match self.desired.agents.get(&agent_name(name)).map(|agent| &agent.version) {
                Some(Version::Exact(version)) => version.clone(),
                _ => self.served.to_owned(),
            };
            let offers: Vec<_> = AGENTS.iter().map(|name| (*name, version(name))).collect();
            let offers: Vec<_> = offers.iter().map(|(name, version)| (*name, version.as_str())).collect();
            // Bytes that nobody can tell are wrong would be taken for right.
            let rotten: Vec<_> = offers.iter().filter(|(name, version)| !is_offered(&state, name, version)).collect();
            for (name, version) in rotten {
                let key = key_of(name, version);
                if state.files.get(&key).is_some_and(|file| file.digest == digest("rot")) {
                    state.files.remove(&key);
                }
            }
            publish(&mut state, &offers);
        }
        self.up();
    }

    /// Whether an agent can never be as wanted.
    fn is_doomed(agent: &Agent) -> bool {
        let has = |name: &str| agent.container.env.contains_key(name);
        let sick = agent.container.env.get("SICK").is_some_and(|seconds| seconds.expose().len() > 1);
        agent.suspend
            || agent.sessions.values().any(|spec| spec.env.contains_key("MISSING"))
            || agent.state == AgentState::Running && (has("CRASH") || sick && agent.container.healthcheck.is_some())
    }

    /// Waits, and asks where something is not tried again by itself.
    async fn settle(&mut self) -> Result<(), String> {
        for _ in 0..4 {
            self.wait(SETTLED).await?;
            let run = self.run.as_ref().unwrap();
            assert!(!run.task.is_finished(), "it ended by itself");
            let view = run.view.borrow().clone();
            let Some(view) = view else { continue };
            let is_doomed = |agent: &AgentName| self.desired.agents.get(agent).is_some_and(Self::is_doomed);
            let waits = view.backing_off.iter().filter(|off| off.retry_at.is_none());
            let is_quarantined = |(name, agent): (&AgentName, &steadfast::status::AgentStatus)| {
                let mut reasons = agent.conditions.iter().map(|condition| condition.reason);
                !is_doomed(name) && reasons.any(|reason| reason == ConditionReason::QuarantinedDigest)
            };
            let is_stuck = waits.filter(|off| !off.agent.as_ref().is_some_and(is_doomed)).count() > 0
                || view.status.agents.iter().any(is_quarantined);
            if !is_stuck {
                return Ok(());
            }
            self.ask(true);
        }
        self.wait(SETTLED).await
    }

    /// Waits, and sees that what must hold does.
    async fn wait(&mut self, time: Duration) -> Result<(), String> {
        const STEP: Duration = Duration::from_secs(10);
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + STEP)).await;
            self.watch()?;
        }
        Ok(())
    }

    /// Somebody applies while nobody keeps it up. What that claims is so.
    async fn apply(&mut self) -> Result<(), String> {
        self.down(How::Stopped).await;
        let options = Options { timeout: APPLY_TIMEOUT, ..options(self.parallel, self.rollouts.clone()) };
        let (desired, fake) = (self.desired.clone(), self.fake.clone());
        let story = Story { desired, fake, options, cancel: CancellationToken::new() };
        let began = Instant::now();
        let outcome = tokio::time::timeout(APPLY_ENDS, story.try_converge()).await;
        let Ok(outcome) = outcome else { return Err(format!("apply has not ended after {:?}", began.elapsed())) };
        self.watched = (Instant::now(), self.fake.state().calls.len());
        let report = outcome.map_err(|refusal| format!("apply was refused: {refusal}"))?;
        for (name, agent) in self.desired.agents.iter().filter(|(_, agent)| report.converged && !agent.suspend) {
            self.matches(name, agent).map_err(|why| format!("apply said that it converged, and {why}"))?;
        }
        Ok(())
    }

    fn matches(&self, name: &AgentName, agent: &Agent) -> Result<(), String> {
        let state = self.fake.state();
        let there: Vec<_> = state.containers.values().filter(|one| is_of(one, name.as_str())).collect();
        if agent.state == AgentState::Absent {
            return if there.is_empty() { Ok(()) } else { Err(format!("{name} is there")) };
        }
        let [one] = there[..] else { return Err(format!("{name} has {} containers: {there:#?}", there.len())) };
        // Offline, `latest` means the last known.
        let known = state.published.as_ref().or(state.local.as_ref()).and_then(|one| one.agent(name.as_str()).ok());
        let version = match &agent.version {
            Version::Exact(version) => version,
            Version::Latest => known.map_or(self.served, |offer| offer.version.as_str()),
        };
        let right = match (agent.state, &one.phase) {
            (AgentState::Running, Phase::Running) => true,
            (AgentState::Running, Phase::Exited { code }) => match agent.container.restart {
                RestartPolicy::No => true,
                RestartPolicy::OnFailure | RestartPolicy::OnFailureAtMost(_) => *code == 0,
                RestartPolicy::Always | RestartPolicy::UnlessStopped => false,
            },
            (_, phase) => matches!(phase, Phase::Created | Phase::Exited { .. }),
        };
        if agent.state == AgentState::Running && one.phase == Phase::Running {
            let id = state.named(one.name.as_str()).map(|(id, _)| id.clone()).unwrap();
            self.matches_inside(&state, &id, name, agent)?;
        }
        let named = ContainerSpec { name: agent.container.name.clone(), ..one.spec.clone() };
        let same = named == agent.container && one.image == image_of(name.as_str(), version);
        if right && same && one.name == agent.container.name {
            Ok(())
        } else {
            Err(format!("{name} at {version} is {one:#?}, wanted {agent:#?}"))
        }
    }

    /// What is declared inside of a container that runs.
    fn matches_inside(
        &self,
        state: &State,
        container: &ContainerId,
        name: &AgentName,
        agent: &Agent,
    ) -> Result<(), String> {
        for (session, spec) in &agent.sessions {
            let found = state.inside.sessions.get(&(container.clone(), session.clone()));
            let declared = CanonicalSession::new(spec, &self.desired.key).to_text();
            let ended_well = |found: &FakeSession| found.ended.is_some_and(|(exit, _)| exit.is_success());
            let runs = |found: &FakeSession| found.runs_in(state, container) || ended_well(found);
            let right = found.is_some_and(|found| runs(found) && found.declared.as_ref() == Some(&declared));
            ensure!(right, "session {name}/{session} is {found:?}, wanted {spec:?}");
        }
        for ((_, session), found) in state.inside.sessions.iter().filter(|((id, _), _)| id == container) {
            let known = found.declared.is_none() || agent.sessions.contains_key(session);
            ensure!(known, "session {name}/{session} is left although nobody declares it");
        }
        for (workspace, spec) in &agent.workspaces {
            let version = state.inside.sources.get(&spec.source).copied().unwrap_or_default();
            let found = state.inside.workspaces.get(&(name.clone(), spec.target.clone()));
            let right = found.is_some_and(|found| found.is(container, version));
            ensure!(right, "workspace {name}/{workspace} is {found:?}, wanted at {version}");
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let run = self.run.as_ref().unwrap();
        let view = run.view.borrow().clone();
        let off = view.as_ref().map(|view| format!("{:#?}", view.backing_off));
        let effects: Vec<_> = self.fake.state().effects.iter().rev().take(25).map(brief).collect();
        let containers: Vec<_> =
            self.fake.state().containers.values().map(|one| format!("{} {:?}", one.name, one.phase)).collect();
        format!(
            "told {:#?}\nbacking off {}\nnewest changes {effects:#?}\nthere {containers:#?}",
            run.told(),
            off.unwrap_or_default()
        )
    }

    /// All but those whose port another one may still hold.
    fn check(&self, strict: bool) -> Result<(), String> {
        for (name, agent) in &self.desired.agents {
            // One that is suspended keeps its name from whoever is to have it.
            let is_held = self
                .fake
                .state()
                .named(agent.container.name.as_str())
                .is_some_and(|(_, one)| !is_of(one, name.as_str()));
            if strict || !Self::is_doomed(agent) && agent.container.ports.is_empty() && !is_held {
                let fits = self.matches(name, agent);
                if let Err(why) = fits {
                    return Err(format!(
                        "{why}
{}",
                        self.describe()
                    ));
                }
            }
        }
        let state = self.fake.state();
        for one in state.containers.values().filter(|one| is_ours(one)) {
            let known = self.desired.agents.keys().any(|name| is_of(one, name.as_str()));
            ensure!(known, "an orphan is left: {}", one.name);
        }
        Ok(())
    }

    /// Some time in which nothing happens.
    async fn quiet(&mut self, doomed: usize) -> Result<(), String> {
        {
            let mut state = self.fake.state();
            state.calls.clear();
            state.effects.clear();
        }
        self.watched = (Instant::now(), 0);
        self.wait(QUIET).await?;
        let state = self.fake.state();
        let looks = state.count("look");
        ensure!(looks <= 20 + 200 * doomed, "{} observations in a quiet time", looks);
        ensure!(
            state.count("ping") <= 400 && state.count("published") <= 4 && state.count("events") == 0,
            "requests in a quiet time: {} pings",
            state.count("ping")
        );
        if doomed == 0 {
            let effects: Vec<_> = state.effects.iter().map(brief).collect();
            ensure!(effects.is_empty(), "changes in a quiet time: {effects:?}");
            const LOOKS: [&str; 10] = [
                "sessions",
                "look",
                "list",
                "local",
                "logs",
                "ping",
                "published",
                "inspect",
                "run_healthcheck",
                "exec",
            ];
            let other = state.calls.iter().find(|call| !LOOKS.contains(&call.word));
            ensure!(other.is_none(), "{other:?} in a quiet time");
        }
        let started = state.count("start") + state.count("create");
        ensure!(started <= 60 * doomed, "{} starts in a quiet time", started);
        Ok(())
    }
}

fn brief(effect: &Effect) -> String {
    format!("{} {}", effect.call.word, effect.call.target)
}

/// Plays it. `Err` with what does not hold.
pub async fn play(schedule: &Schedule, fault: Option<Broken>) -> Result<(), String> {
    let events = &schedule.events;
    let mut play = Play::begin(schedule, fault).await;
    let before = play.fake.state().containers.clone();
    let began = tokio::time::Instant::now();
    for (at, (pause, event)) in events.iter().enumerate() {
        play.wait(Duration::from_millis(*pause)).await?;
        let next = events.get(at + 1).map_or(u64::MAX, |(pause, _)| *pause);
        play.expect_promptness(event, next);
        play.happen(event).await?;
        play.looks.renew();
        play.starts.renew();
        if play.run.is_none() && !matches!(event, Event::Down(..) | Event::Applied(_)) {
            play.back_in = play.back_in.saturating_sub(1);
        }
        if play.back_in == 0 {
            play.up();
        }
    }
    let took = began.elapsed();
    if !play.prompt.is_empty() {
        tokio::time::sleep(PROMPT).await;
    }
    play.watch()?;
    play.check_promptness()?;
    play.check_patience()?;
    play.repair();
    {
        let mut state = play.fake.state();
        for id in std::mem::take(&mut play.foreign_containers) {
            let untouched =
                state.containers.remove(&id).is_some_and(|one| !is_ours(&one) && one.phase == Phase::Running);
            ensure!(untouched, "a foreign container was touched");
        }
    }
    play.settle().await?;
    play.check_who_serves()?;

    {
        let state = play.fake.state();
        for effect in &state.effects {
            ensure!(effect.owner.as_ref().is_none_or(|owner| owner.as_deref() == Some("demo")), "{:?}", effect);
            let overlaps = |agent: &str| play.overlapped.iter().any(|who| AGENTS[*who] == agent);
            let is_twice = |two: &&[(String, String)]| two[0] == two[1] && two[0].0 == "demo" && !overlaps(&two[0].1);
            let twice = effect.running.windows(2).find(is_twice);
            ensure!(twice.is_none(), "two containers of one agent run after {:?}", effect);
            let stays = matches!(effect.restart, Some(RestartPolicy::Always | RestartPolicy::UnlessStopped));
            let is_unnamed = effect.call.word == "stop" && effect.call.target.ends_with(".prev") && stays;
            let is_usual = play.is_undisturbed && !play.was_killed && !play.has_other_policy;
            let is_usual = is_usual && play.overlapped.is_empty();
            ensure!(!is_usual || !is_unnamed, "it has lost its name before it has stopped: {:?}", effect.call);
        }
        for two in state.effects.windows(2) {
            for (owner, agent) in two[0].agents.difference(&two[1].agents) {
                let who = AGENTS.iter().position(|one| one == agent).filter(|_| owner == "demo");
                let is_lost = who.is_some_and(|who| !play.may_vanish.contains(&who));
                ensure!(!is_lost, "{agent} is without a container after {:?}", two[1]);
            }
        }
        for (who, agent) in AGENTS.iter().enumerate() {
            if play.touched.contains(&who) {
                continue;
            }
            let ids = |containers: &std::collections::BTreeMap<ContainerId, FakeContainer>| -> Vec<_> {
                containers.iter().filter(|(_, one)| is_of(one, agent)).map(|(id, _)| id.clone()).collect()
            };
            ensure!(ids(&before) == ids(&state.containers), "{agent} was made anew without need");
        }
        for name in ["bystander", "elses.next"] {
            let (then, now) = (before.values().find(|one| one.name.as_str() == name), state.named(name));
            ensure!(then.map(|one| format!("{one:?}")) == now.map(|(_, one)| format!("{one:?}")), "{name} was touched");
        }
        let most = 40 * (events.len() + 1) + 60 * AGENTS.len() * (took.as_secs() as usize / 3600 + 10);
        let started = state.count("start") + state.count("create");
        ensure!(started <= most, "{} starts in all", started);
    }
    for answer in std::mem::take(&mut play.answers) {
        ensure!(answer.is_finished(), "somebody was never answered");
    }

    let doomed = play.desired.agents.values().filter(|agent| Play::is_doomed(agent)).count();
    if doomed > 0 {
        play.check(false)?;
        play.quiet(doomed).await?;
        for agent in play.desired.agents.values_mut() {
            agent.suspend = false;
            for name in ["CRASH", "SICK"] {
                agent.container.env.remove(name);
            }
            agent.sessions.values_mut().for_each(|spec| drop(spec.env.remove("MISSING")));
        }
        play.publish_revision();
        play.settle().await?;
    }
    play.check(true)?;
    let view = play.run.as_ref().unwrap().view.borrow().clone().unwrap();
    let failed = |phase: &Phase| matches!(phase, Phase::Exited { code } if *code != 0);
    // A one-shot that failed stays so, and is not what was wanted either.
    let failed =
        play.fake.state().containers.values().any(|one| one.spec.restart == RestartPolicy::No && failed(&one.phase));
    ensure!((view.status.converged || failed) && view.backing_off.is_empty(), "{}", play.describe());
    play.quiet(0).await?;

    // What nobody tells of is found all the same.
    {
        let mut state = play.fake.state();
        let lost = state.containers.iter().find(|(_, one)| is_ours(one)).map(|(id, _)| id.clone());
        lost.map(|id| state.containers.remove(&id));
        state.files.clear();
    }
    tokio::time::sleep(Duration::from_secs(400)).await;
    play.check(true)?;
    play.quiet(0).await
}
