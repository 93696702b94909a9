//! Whatever happens, in whatever order: `run` gets there, keeps its hands off what is not ours, and then is quiet.
//!
//! A schedule is a list of events with pauses between them: edits, mishaps to containers, images and the cache, a Podman
//! that fails, hangs or is away, events that are lost or made up, `run` killed and started anew. When it is over, all that
//! was ordered to fail is lifted, and the world must come to what the last good revision says.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use steadfast::backend::fake::{Effect, Fake, FakeContainer, Fault, FaultPoint, State};
use steadfast::model::*;
use steadfast::reconcile::run::{Request, Revision};
use steadfast::reconcile::{Options, Report};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::background::Background;
use crate::properties::{config, run};
use crate::worlds::*;

const AGENTS: [&str; 4] = ["a", "a-b", "c", "d"];

/// One thing that happens. Numbers are agents, by their place in [`AGENTS`].
#[derive(Debug, Clone)]
enum Event {
    Edit(usize, Edit),
    SwapPorts(usize, usize),
    SwapNames(usize, usize),
    /// The file cannot be used.
    BadEdit,
    Outside(usize, Outside, Delivered),
    /// Somebody else takes the name of the agent's container, where it is free.
    Foreign(usize),
    EventsCut,
    /// An event that nothing stands behind.
    MadeUp(usize, &'static str, Option<i32>),
    PodmanGivesUp(bool),
    Untagged(usize),
    FileLost(usize),
    FileRotten(usize),
    IndexLost,
    LocalManifestLost,
    Published(&'static str),
    ManifestGone,
    Fault(&'static str, FaultPoint, bool, usize),
    /// Nothing of Podman answers until the next [`Event::Lifted`].
    PodmanAway(FaultPoint),
    Lifted,
    Slow(&'static str, u64),
    /// `run` goes, and comes back after so many more events.
    Down(How, usize),
    Ask,
}

#[derive(Debug, Clone)]
enum Edit {
    Mode(u8),
    Token(u8),
    Version(&'static str),
    Source(ImageSource),
    Restart(RestartPolicy),
    State(AgentState),
    Suspend(bool),
    Checked(bool),
    Port(bool),
    /// It ends at once with this code, or not any more.
    Crash(Option<u8>),
    /// It is unhealthy so many seconds after each start.
    Sick(Option<u32>),
    Removed,
    Added,
}

#[derive(Debug, Clone)]
enum Outside {
    Killed,
    Died(i32),
    Paused,
    Stopped,
    Removed,
    Renamed(&'static str),
}

/// Whether an event tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivered {
    Not,
    Once,
    Twice,
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// After so many more changes, in the middle of whatever it does.
    Killed(usize),
    Stopped,
}

/// Engine calls.
const CALLS: [&str; 12] =
    ["look", "inspect", "events", "ping", "load", "pull", "tag", "create", "start", "stop", "rename", "remove"];
const STORE_CALLS: [&str; 5] = ["published", "list", "local", "fetch", "open"];

fn any_edit() -> impl Strategy<Value = Edit> {
    let states = vec![AgentState::Running, AgentState::Running, AgentState::Stopped, AgentState::Absent];
    let policies =
        vec![RestartPolicy::No, RestartPolicy::OnFailure, RestartPolicy::UnlessStopped, RestartPolicy::Always];
    prop_oneof![
        4 => (0..4u8).prop_map(Edit::Mode),
        1 => (0..3u8).prop_map(Edit::Token),
        2 => select(vec!["1", "2", "latest"]).prop_map(Edit::Version),
        1 => select(vec![ImageSource::Manifest, ImageSource::Registry]).prop_map(Edit::Source),
        2 => select(policies).prop_map(Edit::Restart),
        3 => select(states).prop_map(Edit::State),
        1 => any::<bool>().prop_map(Edit::Suspend),
        2 => any::<bool>().prop_map(Edit::Checked),
        2 => any::<bool>().prop_map(Edit::Port),
        2 => select(vec![None, None, Some(0), Some(3)]).prop_map(Edit::Crash),
        2 => select(vec![None, Some(3), Some(100_000)]).prop_map(Edit::Sick),
        1 => Just(Edit::Removed),
        2 => Just(Edit::Added),
    ]
}

fn any_outside() -> impl Strategy<Value = Outside> {
    prop_oneof![
        2 => Just(Outside::Killed),
        2 => select(vec![0, 1, 3, 137, 143]).prop_map(Outside::Died),
        1 => Just(Outside::Paused),
        1 => Just(Outside::Stopped),
        2 => Just(Outside::Removed),
        1 => select(vec!["-moved", ".prev", ".next"]).prop_map(Outside::Renamed),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let who = || 0..AGENTS.len();
    let told = select(vec![Delivered::Once, Delivered::Once, Delivered::Twice, Delivered::Not]);
    let points = || select(vec![FaultPoint::Before, FaultPoint::After, FaultPoint::Hang]);
    let calls = select([&CALLS[..], &STORE_CALLS[..], &[""]].concat());
    let slow = select(vec!["look", "start", "stop", "create", "fetch", "load", "published", "inspect"]);
    let made_up = select(vec!["died", "die", "start", "remove", "exec_died", "", "häh"]);
    prop_oneof![
        12 => (who(), any_edit()).prop_map(|(who, edit)| Event::Edit(who, edit)),
        1 => (who(), who()).prop_map(|(one, other)| Event::SwapPorts(one, other)),
        2 => (who(), who()).prop_map(|(one, other)| Event::SwapNames(one, other)),
        1 => Just(Event::BadEdit),
        8 => (who(), any_outside(), told).prop_map(|(who, what, told)| Event::Outside(who, what, told)),
        1 => who().prop_map(Event::Foreign),
        1 => Just(Event::EventsCut),
        1 => (who(), made_up, select(vec![None, Some(1), Some(137)])).prop_map(|(who, word, code)| Event::MadeUp(who, word, code)),
        1 => any::<bool>().prop_map(Event::PodmanGivesUp),
        1 => who().prop_map(Event::Untagged),
        1 => who().prop_map(Event::FileLost),
        1 => who().prop_map(Event::FileRotten),
        1 => Just(Event::IndexLost),
        1 => Just(Event::LocalManifestLost),
        1 => select(vec!["1", "2"]).prop_map(Event::Published),
        1 => Just(Event::ManifestGone),
        4 => (calls, points(), prop::bool::weighted(0.7), select(vec![1, 1, 2, 5, usize::MAX]))
            .prop_map(|(word, point, transient, times)| Event::Fault(word, point, transient, times)),
        1 => points().prop_map(Event::PodmanAway),
        2 => Just(Event::Lifted),
        1 => (slow, select(vec![0, 200, 3000])).prop_map(|(word, millis)| Event::Slow(word, millis)),
        2 => ((0..8usize).prop_map(How::Killed), 0..3usize).prop_map(|(how, back)| Event::Down(how, back)),
        1 => (0..3usize).prop_map(|back| Event::Down(How::Stopped, back)),
        1 => Just(Event::Ask),
    ]
}

/// Events, each after a pause of so many milliseconds.
fn any_schedule() -> impl Strategy<Value = Schedule> {
    let pause =
        prop_oneof![3 => Just(0), 3 => 1..100u64, 4 => 100..5_000u64, 2 => 5_000..60_000u64, 1 => 60_000..600_000u64];
    prop::collection::vec((pause, any_event()), 0..60).prop_map(Schedule)
}

/// A line for each event, so that a schedule that fails can be read.
#[derive(Clone)]
struct Schedule(Vec<(u64, Event)>);

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut at = 0;
        for (pause, event) in &self.0 {
            at += pause;
            write!(f, "\n{:>9.3} s  {event:?}", Duration::from_millis(at).as_secs_f64())?;
        }
        Ok(())
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
}

fn options() -> Options {
    let mut options = Story::new(&[]).options;
    options.policy.allow_empty = true;
    options
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

impl Play {
    async fn begin() -> Self {
        let mut story = Story::new(&AGENTS);
        for (at, name) in AGENTS.into_iter().enumerate() {
            story.agent(name).container.ports = vec![port(8001 + u16::try_from(at).unwrap())];
        }
        {
            let mut state = story.fake.state();
            offer(&mut state, "2");
            offer(&mut state, "1");
            state.answer_within = Some(Duration::from_secs(30));
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
        let (fake, desired) = (story.fake.clone(), story.desired.clone());
        let mut run = Background::start(story);
        run.converged().await;
        {
            let mut state = fake.state();
            state.calls.clear();
            state.effects.clear();
        }
        let (answers, touched, foreign_containers) = (Vec::new(), BTreeSet::new(), Vec::new());
        Self { fake, desired, run: Some(run), back_in: 0, answers, touched, foreign_containers, served: "1" }
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
            let run = Background::with(self.desired.clone(), self.fake.clone(), options(), CancellationToken::new());
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
                self.fake.kill_after(after);
                let _ = tokio::time::timeout(Duration::from_secs(20), self.fake.killed()).await;
                run.task.abort();
                let _ = run.task.await;
            }
        }
    }

    async fn happen(&mut self, event: &Event) {
        match event {
            Event::Edit(who, edit) => self.edit(*who, edit),
            Event::SwapPorts(one, other) => {
                let ports = self.ports();
                for (who, from) in [(*one, *other), (*other, *one)] {
                    if let Some(agent) = self.desired.agents.get_mut(&agent_name(AGENTS[who])) {
                        agent.container.ports = ports[from].clone().into_iter().collect();
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
            }
            Event::Lifted => self.fake.lift(),
            Event::Slow(word, millis) => {
                self.fake.state().latency.insert(word, Duration::from_millis(*millis));
            }
            Event::Down(how, back_in) => {
                self.down(*how).await;
                self.back_in = *back_in;
            }
            Event::Ask => self.ask(),
        }
    }

    fn ask(&mut self) {
        let Some(run) = &self.run else { return };
        let requests = run.requests.clone();
        self.answers.push(tokio::spawn(async move {
            let (reply, answer) = oneshot::channel();
            requests.send(Request::Reconcile { timeout: Duration::from_secs(60), reply }).await.ok()?;
            answer.await.ok()
        }));
    }

    fn edit(&mut self, who: usize, edit: &Edit) {
        self.touched.insert(who);
        let name = agent_name(AGENTS[who]);
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
            (8001..8005).find(|number| !taken.contains(number))
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
                Edit::Restart(restart) => agent.container.restart = *restart,
                Edit::State(state) => agent.state = *state,
                Edit::Suspend(suspend) => agent.suspend = *suspend,
                Edit::Checked(checked) => agent.container.healthcheck = checked.then(health_check),
                Edit::Port(false) => agent.container.ports.clear(),
                Edit::Port(true) if agent.container.ports.is_empty() => {
                    agent.container.ports = free.map(port).into_iter().collect();
                }
                Edit::Port(true) | Edit::Removed | Edit::Added => {}
            }
            if agent.source == ImageSource::Registry && agent.version == Version::Latest {
                agent.version = Version::Exact("1".to_owned());
            }
        }
        self.publish_revision();
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
            Outside::Paused => {
                one.phase = Phase::Paused;
                ("pause", None)
            }
            Outside::Removed => {
                state.containers.retain(|_, one| one.name.as_str() != name);
                self.touched.insert(who);
                ("remove", None)
            }
            Outside::Renamed(suffix) => {
                let other = format!("{name}{suffix}");
                if state.named(&other).is_some() {
                    return;
                }
                state.named_mut(&name).unwrap().name = container_name(&other);
                ("rename", None)
            }
        };
        // `die` tells of itself.
        let times = match (told, what) {
            (Delivered::Not, _) | (Delivered::Once, Outside::Died(_)) => 0,
            (Delivered::Once, _) | (Delivered::Twice, Outside::Died(_)) => 1,
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
            state.latency.clear();
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
            || agent.state == AgentState::Running && (has("CRASH") || sick && agent.container.healthcheck.is_some())
    }

    /// Waits, and asks where something is not tried again by itself.
    async fn settle(&mut self) {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
            let run = self.run.as_ref().unwrap();
            assert!(!run.task.is_finished(), "it ended by itself");
            let view = run.view.borrow().clone();
            let Some(view) = view else { continue };
            let is_doomed = |agent: &AgentName| self.desired.agents.get(agent).is_some_and(Self::is_doomed);
            let waits = view.backing_off.iter().filter(|off| off.retry_at.is_none());
            if waits.filter(|off| !off.agent.as_ref().is_some_and(is_doomed)).count() == 0 {
                return;
            }
            self.ask();
        }
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }

    fn matches(&self, name: &AgentName, agent: &Agent) -> Result<(), String> {
        let state = self.fake.state();
        let there: Vec<_> = state.containers.values().filter(|one| is_of(one, name.as_str())).collect();
        if agent.state == AgentState::Absent {
            return if there.is_empty() { Ok(()) } else { Err(format!("{name} is there")) };
        }
        let [one] = there[..] else { return Err(format!("{name} has {} containers: {there:#?}", there.len())) };
        let version = match &agent.version {
            Version::Exact(version) => version,
            Version::Latest => self.served,
        };
        let right = match (agent.state, &one.phase) {
            (AgentState::Running, Phase::Running) => true,
            (AgentState::Running, Phase::Exited { code }) => match agent.container.restart {
                RestartPolicy::No => true,
                RestartPolicy::OnFailure => *code == 0,
                RestartPolicy::Always | RestartPolicy::UnlessStopped => false,
            },
            (_, phase) => matches!(phase, Phase::Created | Phase::Exited { .. }),
        };
        let named = ContainerSpec { name: agent.container.name.clone(), ..one.spec.clone() };
        let same = named == agent.container && one.image == image_of(name.as_str(), version);
        if right && same && one.name == agent.container.name {
            Ok(())
        } else {
            Err(format!("{name} at {version} is {one:#?}, wanted {agent:#?}"))
        }
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
    fn check(&self, strict: bool) -> Result<(), TestCaseError> {
        for (name, agent) in &self.desired.agents {
            if strict || !Self::is_doomed(agent) && agent.container.ports.is_empty() {
                let fits = self.matches(name, agent);
                prop_assert!(fits.is_ok(), "{}\n{}", fits.unwrap_err(), self.describe());
            }
        }
        let state = self.fake.state();
        for one in state.containers.values().filter(|one| is_ours(one)) {
            let known = self.desired.agents.keys().any(|name| is_of(one, name.as_str()));
            prop_assert!(known, "an orphan is left: {}", one.name);
        }
        Ok(())
    }

    /// An hour in which nothing happens.
    async fn quiet(&self, doomed: usize) -> Result<(), TestCaseError> {
        {
            let mut state = self.fake.state();
            state.calls.clear();
            state.effects.clear();
        }
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let state = self.fake.state();
        let looks = state.count("look");
        prop_assert!(looks <= 20 + 200 * doomed, "{} looks in a quiet hour", looks);
        prop_assert!(state.count("ping") <= 400 && state.count("published") <= 4 && state.count("events") == 0);
        if doomed == 0 {
            let effects: Vec<_> = state.effects.iter().map(brief).collect();
            prop_assert!(effects.is_empty(), "changes in a quiet hour: {effects:?}");
            const QUIET: [&str; 9] =
                ["look", "list", "local", "logs", "ping", "published", "inspect", "run_healthcheck", "exec"];
            let other = state.calls.iter().find(|call| !QUIET.contains(&call.word));
            prop_assert!(other.is_none(), "{other:?} in a quiet hour");
        }
        let started = state.count("start") + state.count("create");
        prop_assert!(started <= 60 * doomed, "{} starts in an hour", started);
        Ok(())
    }
}

fn brief(effect: &Effect) -> String {
    format!("{} {}", effect.call.word, effect.call.target)
}

async fn play(schedule: &[(u64, Event)]) -> Result<(), TestCaseError> {
    let mut play = Play::begin().await;
    let before = play.fake.state().containers.clone();
    let began = tokio::time::Instant::now();
    for (pause, event) in schedule {
        tokio::time::sleep(Duration::from_millis(*pause)).await;
        play.happen(event).await;
        if play.run.is_none() && !matches!(event, Event::Down(..)) {
            play.back_in = play.back_in.saturating_sub(1);
        }
        if play.back_in == 0 {
            play.up();
        }
    }
    let took = began.elapsed();
    play.repair();
    {
        let mut state = play.fake.state();
        for id in std::mem::take(&mut play.foreign_containers) {
            let untouched =
                state.containers.remove(&id).is_some_and(|one| !is_ours(&one) && one.phase == Phase::Running);
            prop_assert!(untouched, "a foreign container was touched");
        }
    }
    play.settle().await;

    {
        let state = play.fake.state();
        for effect in &state.effects {
            prop_assert!(effect.owner.as_ref().is_none_or(|owner| owner.as_deref() == Some("demo")), "{:?}", effect);
            let twice = effect.running.windows(2).find(|two| two[0] == two[1] && two[0].0 == "demo");
            prop_assert!(twice.is_none(), "two containers of one agent run after {:?}", effect);
        }
        for (who, agent) in AGENTS.iter().enumerate() {
            if play.touched.contains(&who) {
                continue;
            }
            let ids = |containers: &std::collections::BTreeMap<ContainerId, FakeContainer>| -> Vec<_> {
                containers.iter().filter(|(_, one)| is_of(one, agent)).map(|(id, _)| id.clone()).collect()
            };
            prop_assert_eq!(ids(&before), ids(&state.containers), "{} was made anew without need", agent);
        }
        for name in ["bystander", "elses.next"] {
            let (then, now) = (before.values().find(|one| one.name.as_str() == name), state.named(name));
            prop_assert_eq!(then.map(|one| format!("{one:?}")), now.map(|(_, one)| format!("{one:?}")));
        }
        let most = 40 * (schedule.len() + 1) + 60 * AGENTS.len() * (took.as_secs() as usize / 3600 + 10);
        let started = state.count("start") + state.count("create");
        prop_assert!(started <= most, "{} starts in all", started);
    }
    for answer in std::mem::take(&mut play.answers) {
        prop_assert!(answer.is_finished(), "somebody was never answered");
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
        }
        play.publish_revision();
        play.settle().await;
    }
    play.check(true)?;
    let view = play.run.as_ref().unwrap().view.borrow().clone().unwrap();
    let failed = |phase: &Phase| matches!(phase, Phase::Exited { code } if *code != 0);
    // A one-shot that failed stays so, and is not what was wanted either.
    let failed =
        play.fake.state().containers.values().any(|one| one.spec.restart == RestartPolicy::No && failed(&one.phase));
    prop_assert!((view.status.converged || failed) && view.backing_off.is_empty(), "{}", play.describe());
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

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..config(110) })]

    #[test]
    fn whatever_happens_it_gets_there_and_then_is_quiet(schedule in any_schedule()) {
        run(play(&schedule.0))?;
    }
}
