//! Properties over generated worlds.
//!
//! A world is not drawn from thin air: an earlier wish is brought about in it, perhaps only halfway, and then things
//! happen to it. So it is one that steadfast may really wake up in.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use steadfast::backend::ImageFacts;
use steadfast::backend::fake::{Fake, FakeContainer, Fault, FaultPoint};
use steadfast::model::*;

use crate::worlds::*;

const AGENTS: [&str; 3] = ["a", "a-b", "c"];

#[derive(Debug, Clone)]
struct Wish {
    version: &'static str,
    source: ImageSource,
    state: AgentState,
    restart: RestartPolicy,
    mode: u8,
    renamed: bool,
    checked: bool,
    port: bool,
}

fn any_wish() -> impl Strategy<Value = Option<Wish>> {
    let wish = (
        select(vec!["exact", "latest"]),
        select(vec![ImageSource::Manifest, ImageSource::Manifest, ImageSource::Registry, ImageSource::Local]),
        select(vec![AgentState::Running, AgentState::Running, AgentState::Stopped, AgentState::Absent]),
        select(vec![RestartPolicy::No, RestartPolicy::OnFailure, RestartPolicy::UnlessStopped]),
        0..2u8,
        prop::bool::weighted(0.2),
        any::<bool>(),
        any::<bool>(),
    );
    let wish = wish.prop_map(|(version, source, state, restart, mode, renamed, checked, port)| Wish {
        version,
        source,
        state,
        restart,
        mode,
        renamed,
        checked,
        port,
    });
    prop::option::weighted(0.85, wish)
}

/// What is wanted of each agent, which version is on offer, and how the ports are dealt.
#[derive(Debug, Clone)]
struct Wishes {
    agents: Vec<Option<Wish>>,
    offered: &'static str,
    ports: Vec<u16>,
    /// How far container names are moved on from agent to agent.
    turn: usize,
}

fn any_wishes() -> impl Strategy<Value = Wishes> {
    let agents = prop::collection::vec(any_wish(), AGENTS.len());
    let ports = Just(vec![8001, 8002, 8003]).prop_shuffle();
    let turn = select(vec![0, 0, 0, 1, 2]);
    (agents, select(vec!["1", "2"]), ports, turn).prop_map(|(agents, offered, ports, turn)| Wishes {
        agents,
        offered,
        ports,
        turn,
    })
}

#[derive(Debug, Clone)]
enum Mishap {
    Phase(usize, Phase),
    Removed(usize),
    Untagged(usize),
    FileLost(usize),
    FileRotten(usize),
    IndexLost,
    ManifestLost,
    KeyLost,
    Leftover(usize, &'static str),
    Renamed(usize, &'static str),
    /// What Podman has stored of containers that were never started is gone.
    HalfMade(usize),
    Stranger,
}

fn any_mishap() -> impl Strategy<Value = Mishap> {
    let who = 0..AGENTS.len();
    let phases =
        vec![Phase::Created, Phase::Paused, Phase::Exited { code: 0 }, Phase::Exited { code: 3 }, Phase::Running];
    prop_oneof![
        3 => (who.clone(), select(phases)).prop_map(|(who, phase)| Mishap::Phase(who, phase)),
        1 => who.clone().prop_map(Mishap::Removed),
        1 => who.clone().prop_map(Mishap::Untagged),
        1 => who.clone().prop_map(Mishap::FileLost),
        1 => who.clone().prop_map(Mishap::FileRotten),
        1 => Just(Mishap::IndexLost),
        1 => Just(Mishap::ManifestLost),
        1 => Just(Mishap::KeyLost),
        1 => (who, select(vec![".next", ".prev"])).prop_map(|(who, suffix)| Mishap::Leftover(who, suffix)),
        2 => (0..AGENTS.len(), select(vec!["moved", "demo-c", "web-a", "demo-a.prev", "demo-a-b.next", "demo-c.swap"]))
            .prop_map(|(who, name)| Mishap::Renamed(who, name)),
        1 => (0..AGENTS.len()).prop_map(Mishap::HalfMade),
        1 => Just(Mishap::Stranger),
    ]
}

/// How a world came about.
#[derive(Debug, Clone)]
struct Past {
    first: Wishes,
    then: Wishes,
    killed_after: usize,
    mishaps: Vec<Mishap>,
}

fn any_past() -> impl Strategy<Value = Past> {
    (any_wishes(), any_wishes(), 0..25usize, prop::collection::vec(any_mishap(), 0..4))
        .prop_map(|(first, then, killed_after, mishaps)| Past { first, then, killed_after, mishaps })
}

fn wanted(wishes: &Wishes) -> Desired {
    let mut desired = desired(&[]);
    for (at, wish) in wishes.agents.iter().enumerate() {
        let Some(wish) = wish else { continue };
        let mut one = agent(AGENTS[at]);
        one.version = match (wish.version, wish.source) {
            ("latest", ImageSource::Manifest) => Version::Latest,
            _ => Version::Exact(wishes.offered.to_owned()),
        };
        one.source = wish.source;
        one.state = wish.state;
        one.container.restart = wish.restart;
        one.container.env.insert("MODE".into(), Text::plain(wish.mode.to_string()));
        one.container.env.insert("TOKEN".into(), Text::sensitive(wish.mode.to_string()));
        one.container.name = container_name(&format!("demo-{}", AGENTS[(at + wishes.turn) % AGENTS.len()]));
        if wish.renamed {
            one.container.name = container_name(&format!("web-{}", AGENTS[at]));
        }
        one.container.healthcheck = wish.checked.then(health_check);
        one.container.ports = wish.port.then(|| port(wishes.ports[at])).into_iter().collect();
        desired.agents.insert(agent_name(AGENTS[at]), one);
    }
    desired
}

fn offer(fake: &Fake, version: &str) {
    let offers: Vec<_> = AGENTS.iter().map(|agent| (*agent, version)).collect();
    publish(&mut fake.state(), &offers);
}

fn happen(story: &mut Story, mishap: &Mishap) {
    let mut state = story.fake.state();
    let of = |who: usize| {
        let label = AGENTS[who].to_owned();
        move |one: &FakeContainer| one.labels.get("steadfast.agent") == Some(&label)
    };
    match mishap {
        Mishap::Phase(who, phase) => {
            let ours = of(*who);
            if let Some(one) = state.containers.values_mut().find(|one| ours(one) && !one.name.as_str().contains('.')) {
                // A process cannot run where it was never started, for somebody else may have its ports.
                if *phase != Phase::Running && (*phase != Phase::Paused || one.phase == Phase::Running) {
                    one.phase = phase.clone();
                }
            }
        }
        Mishap::Removed(who) => {
            let ours = of(*who);
            state.containers.retain(|_, one| !ours(one));
        }
        Mishap::Untagged(who) => {
            state.images.retain(|name, _| !name.as_str().starts_with(&format!("r.example/{}:", AGENTS[*who])));
        }
        Mishap::FileLost(who) => {
            state.files.remove(&key_of(AGENTS[*who], "1"));
        }
        Mishap::FileRotten(who) => {
            if let Some(file) = state.files.get_mut(&key_of(AGENTS[*who], "1")) {
                (file.digest, file.proved) = (digest("rot"), false);
            }
        }
        Mishap::IndexLost => {
            state.files.values_mut().for_each(|file| file.proved = false);
            state.remembered.clear();
        }
        Mishap::ManifestLost => state.local = None,
        Mishap::KeyLost => {
            drop(state);
            story.desired.key = HostKey::from_bytes([9; 32]);
        }
        Mishap::Leftover(who, suffix) => {
            let ours = of(*who);
            if let Some(mut left) = state.containers.values().find(|one| ours(one)).cloned() {
                let name = format!("demo-{}{suffix}", AGENTS[*who]);
                if state.named(&name).is_none() {
                    left.name = container_name(&name);
                    left.labels.insert(labels::ID.into(), format!("left {name}"));
                    left.phase = Phase::Exited { code: 0 };
                    state.put(left);
                }
            }
        }
        Mishap::Renamed(who, name) => {
            let agent = agent_name(AGENTS[*who]);
            let ours = |one: &FakeContainer| is_of(one, &agent);
            if state.named(name).is_none()
                && let Some(one) = state.containers.values_mut().find(|one| ours(one))
            {
                one.name = container_name(name);
            }
        }
        Mishap::HalfMade(who) => {
            let agent = agent_name(AGENTS[*who]);
            let ours = |one: &FakeContainer| is_of(one, &agent);
            for one in state.containers.values_mut().filter(|one| ours(one) && one.phase == Phase::Created) {
                one.is_half_made = true;
            }
        }
        Mishap::Stranger => {
            state.put(foreign("somebody.next"));
            let mut other = foreign("elses");
            other.labels.insert("steadfast.name".into(), "elses".into());
            other.labels.insert("steadfast.agent".into(), "a".into());
            state.put(other);
            let mut elsewhere = foreign("elsewhere");
            elsewhere.labels = [
                (labels::NAME.into(), "demo".into()),
                (labels::AGENT.into(), "a".into()),
                (labels::ROOT.into(), "b2".repeat(16)),
                (THEIRS.into(), String::new()),
            ]
            .into();
            state.put(elsewhere);
            commit(&mut state);
        }
    }
}

/// A label that only tests look at: whoever has it is not ours, whatever its other labels say.
const THEIRS: &str = "theirs";

/// Somebody commits an agent to an image and runs a container from that.
fn commit(state: &mut steadfast::backend::fake::State) {
    let agent = state.containers.values().find(|one| is_ours(one) && one.labels.contains_key(labels::ID)).cloned();
    let Some(agent) = agent else { return };
    let image = ImageId::from("c0ffee");
    state.image_store.insert(image.clone());
    state.image_labels.insert(image.clone(), agent.labels.clone());
    let mut copy = steadfast::backend::fake::FakeContainer { name: container_name("committed"), image, ..agent };
    copy.labels.insert(THEIRS.into(), String::new());
    copy.spec.ports.clear();
    state.put(copy);
}

fn is_ours(one: &steadfast::backend::fake::FakeContainer) -> bool {
    one.labels.get(labels::NAME).is_some_and(|name| name == "demo") && !one.labels.contains_key(THEIRS)
}

/// A world with a past, and the last wish.
async fn story(past: &Past, last: &Wishes) -> Story {
    let mut story = Story::new(&AGENTS);
    story.options.policy.allow_empty = true;
    {
        let mut state = story.fake.state();
        for agent in AGENTS {
            for version in ["1", "2"] {
                state.registry.insert(reference_of(agent, version), image_of(agent, version));
                state.images.insert(reference_of(agent, version), image_of(agent, version));
                state.image_store.insert(image_of(agent, version));
                let facts = ImageFacts { volumes: ["/data".to_owned()].into(), ..ImageFacts::default() };
                state.image_facts.insert(image_of(agent, version), facts);
            }
        }
        state.put(foreign("bystander"));
    }
    story.desired = wanted(&past.first);
    offer(&story.fake, past.first.offered);
    let _ = story.converge().await;
    story.desired = wanted(&past.then);
    offer(&story.fake, past.then.offered);
    story.fake.kill_after(past.killed_after);
    tokio::select! { _ = story.converge() => {}, () = story.fake.killed() => {} }
    story.fake.restart();
    past.mishaps.iter().for_each(|mishap| happen(&mut story, mishap));
    let key = story.desired.key.clone();
    story.desired = Desired { key, ..wanted(last) };
    offer(&story.fake, last.offered);
    // Local images are somebody else's business, and he has brought them.
    for (name, agent) in story.desired.agents.iter().filter(|(_, agent)| agent.source == ImageSource::Local) {
        let version = agent.version.to_string();
        let mut state = story.fake.state();
        state.images.insert(reference_of(name.as_str(), &version), image_of(name.as_str(), &version));
        state.image_store.insert(image_of(name.as_str(), &version));
    }
    story.fake.state().effects.clear();
    story
}

/// What a world comes to, ids left out.
fn outcome(fake: &Fake) -> BTreeMap<String, (String, String, String)> {
    let state = fake.state();
    let containers = state.containers.values().map(|one| {
        let running = if one.phase == Phase::Running { "runs" } else { "does not run" };
        // One that was renamed was made under another name.
        let spec = ContainerSpec { name: one.name.clone(), ..one.spec.clone() };
        (one.name.to_string(), (running.to_owned(), one.image.to_string(), format!("{spec:?}")))
    });
    containers.collect()
}

fn is_of(one: &FakeContainer, agent: &AgentName) -> bool {
    is_ours(one) && one.labels.get(labels::AGENT).is_some_and(|label| label == agent.as_str())
}

fn foreign_containers(fake: &Fake) -> Vec<String> {
    let state = fake.state();
    state.containers.values().filter(|one| !is_ours(one)).map(|one| format!("{one:?}")).collect()
}

pub fn run<T>(with: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(with)
}

/// The same worlds each time, so that a change is to blame for what it breaks; $PROPTEST_RNG_SEED draws others, and
/// $PROPTEST_CASES more.
pub fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = std::env::var_os("PROPTEST_CASES").map_or(cases, |_| default.cases);
    let config = ProptestConfig { cases, failure_persistence: None, ..default };
    match config.rng_seed {
        RngSeed::Random => ProptestConfig { rng_seed: RngSeed::Fixed(1), ..config },
        RngSeed::Fixed(_) => config,
    }
}

proptest! {
    #![proptest_config(config(400))]

    /// Whatever world we wake up in, we get there, and a second apply has nothing to do. What is somebody else's stays,
    /// and so does what was right already.
    #[test]
    fn converges_and_stays(past in any_past(), last in any_wishes()) {
        run(async {
            let story = story(&past, &last).await;
            let theirs = foreign_containers(&story.fake);
            let before = story.fake.state().containers.clone();
            let report = story.converge().await;
            prop_assert!(report.converged, "{:?}\ntaken {:?}\nleft {:?}", problems(&report), taken(&report), lines(&report.residual));
            let after = story.fake.state().containers.clone();
            prop_assert_eq!(foreign_containers(&story.fake), theirs);
            for effect in &story.fake.state().effects {
                prop_assert!(effect.owner.as_ref().is_none_or(|owner| owner.as_deref() == Some("demo")), "{:?}", effect);
            }
            for (name, agent) in &story.desired.agents {
                let there = after.values().filter(|one| is_ours(one) && one.labels.get(labels::AGENT).is_some_and(|label| label == name.as_str())).count();
                prop_assert_eq!(there, usize::from(agent.state != AgentState::Absent), "containers of {}", name);
                if agent.state == AgentState::Absent {
                    continue;
                }
                let image = image_of(name.as_str(), last.offered);
                let mine: Vec<_> = before.iter().filter(|(_, one)| is_of(one, name)).collect();
                // Whatever it is called: what is as wanted is not recreated.
                let as_wanted = |one: &FakeContainer| {
                    let named = ContainerSpec { name: agent.container.name.clone(), ..one.spec.clone() };
                    named == agent.container && one.image == image && !one.is_half_made
                };
                let right: Vec<_> = mine.iter().filter(|(_, one)| as_wanted(one)).map(|(id, _)| *id).collect();
                prop_assert!(right.is_empty() || right.iter().any(|id| after.contains_key(*id)), "{} was recreated without need: {:?}", name, taken(&report));
                // What it keeps in a volume it goes on keeping.
                let had: Vec<_> = mine.iter().flat_map(|(_, one)| &one.volumes).collect();
                let has: Vec<_> = after.values().filter(|one| is_of(one, name)).flat_map(|one| &one.volumes).collect();
                prop_assert!(has.len() == 1 && (had.is_empty() || had.contains(&has[0])), "{}: {:?} instead of {:?}", name, has, had);
            }
            story.fake.restart();
            let again = story.converge().await;
            prop_assert!(again.converged && again.taken.is_empty(), "{:?}", taken(&again));
            prop_assert_eq!(story.fake.state().count("look"), 1);
            let ids: Vec<_> = story.fake.state().containers.keys().cloned().collect();
            prop_assert_eq!(ids, after.keys().cloned().collect::<Vec<_>>());
            Ok(())
        })?;
    }

    /// A foreign container that holds a wanted name is left alone, whatever else is to be done.
    #[test]
    fn a_foreign_container_is_never_touched(past in any_past(), last in any_wishes(), who in 0..AGENTS.len(), prune in any::<bool>()) {
        run(async {
            let mut story = story(&past, &last).await;
            story.options.policy.prune = prune;
            let wanted = story.desired.agents.get(AGENTS[who]).map(|agent| agent.container.name.to_string());
            let name = wanted.unwrap_or_else(|| format!("demo-{}", AGENTS[who]));
            if let Some(id) = { story.fake.state().named(&name).map(|(id, _)| id.clone()) } {
                story.fake.state().containers.remove(&id);
            }
            story.fake.state().put(foreign(&name));
            let theirs = foreign_containers(&story.fake);
            let report = story.converge().await;
            prop_assert_eq!(foreign_containers(&story.fake), theirs);
            for effect in &story.fake.state().effects {
                prop_assert!(effect.owner.as_ref().is_none_or(|owner| owner.as_deref() == Some("demo")), "{:?}", effect);
            }
            let wanted = story.desired.agents.values().any(|agent| agent.container.name.as_str() == name && agent.state != AgentState::Absent);
            // An orphan that is kept may keep a wanted port as well.
            if prune || wanted {
                prop_assert_eq!(report.converged, !wanted, "{:?}", problems(&report));
            }
            Ok(())
        })?;
    }

    /// Killed between any two steps, the next run ends where the first would have, and no agent that was there and is
    /// wanted was ever without a container.
    #[test]
    fn a_kill_changes_only_the_time(past in any_past(), last in any_wishes(), kills in prop::collection::vec(1..12usize, 1..3)) {
        run(async {
            let mut story = story(&past, &last).await;
            let world = story.fake.fork();
            let report = story.converge().await;
            prop_assert!(report.converged, "{:?}", problems(&report));
            let wanted = outcome(&story.fake);
            story.fake = world;
            let mut kept: Vec<_> = story.desired.agents.iter().filter(|(_, agent)| agent.state != AgentState::Absent).map(|(name, _)| name.to_string()).collect();
            {
                let state = story.fake.state();
                kept.retain(|name| state.containers.values().any(|one| !one.is_half_made && is_ours(one) && one.labels.get("steadfast.agent") == Some(name)));
            }
            let mut effects = Vec::new();
            for kill in kills {
                story.fake.kill_after(kill);
                tokio::select! { _ = story.converge() => {}, () = story.fake.killed() => {} }
                effects.extend(std::mem::take(&mut story.fake.state().effects));
                story.fake.restart();
            }
            let report = story.converge().await;
            prop_assert!(report.converged, "{:?}", problems(&report));
            prop_assert_eq!(outcome(&story.fake), wanted);
            effects.extend(std::mem::take(&mut story.fake.state().effects));
            for effect in &effects {
                for name in &kept {
                    let is_there = effect.agents.iter().any(|(_, agent)| agent == name);
                    prop_assert!(is_there, "{} is without a container after {:?}", name, effect.call);
                }
            }
            Ok(())
        })?;
    }

    /// Failures that pass by themselves cost time and nothing else.
    #[test]
    fn passing_failures_cost_only_time(past in any_past(), last in any_wishes(), faults in prop::collection::vec((0..12usize, any::<bool>()), 1..3)) {
        run(async {
            let mut story = story(&past, &last).await;
            let world = story.fake.fork();
            prop_assert!(story.converge().await.converged);
            let wanted = outcome(&story.fake);
            story.fake = world;
            for (skip, after) in faults {
                let point = if after { FaultPoint::After } else { FaultPoint::Before };
                story.fake.order(Fault { skip, ..Fault::transient("", point, 1) });
            }
            let report = story.converge().await;
            prop_assert!(report.took.as_secs() < 300, "it took {:?}", report.took);
            let calls = story.fake.state().calls.len();
            prop_assert!(calls < 1000, "{} calls", calls);
            story.fake.restart();
            let again = story.converge().await;
            prop_assert!(again.converged, "{:?} after {:?}", problems(&again), problems(&report));
            prop_assert_eq!(outcome(&story.fake), wanted);
            Ok(())
        })?;
    }

    /// What cannot be seen is not acted on.
    #[test]
    fn unknown_yields_no_action_on_what_it_hides(past in any_past(), last in any_wishes(), hidden in 0..4usize) {
        run(async {
            let story = story(&past, &last).await;
            let forbidden: &[&str] = match hidden {
                0 => { story.fake.order(Fault::lasting("look")); &["Container", "Image"] }
                1 => { story.fake.order(Fault::lasting("list")); &["fetchArtifact", "prune", "syncManifest"] }
                2 => { story.fake.state().published = None; &["syncManifest", "prune"] }
                _ => { story.fake.order(Fault::lasting("local")); &["syncManifest", "prune"] }
            };
            let (observed, plan) = story.observed_plan().await;
            // Where nobody needs the published manifest it is not looked for, and hides nothing.
            prop_assume!(hidden != 2 || observed.published.unknown().is_some());
            for step in &plan.ready {
                let kind = step.action.kind();
                prop_assert!(!forbidden.iter().any(|word| kind.as_str().contains(word)), "{} with {:?} unseen", step.action, forbidden);
            }
            if hidden == 0 {
                prop_assert!(!plan.is_empty());
            }
            Ok(())
        })?;
    }

    /// The order of lists says nothing.
    #[test]
    fn the_order_of_lists_does_not_matter(past in any_past(), last in any_wishes()) {
        run(async {
            let mut story = story(&past, &last).await;
            let lists = |desired: &mut Desired, turn: bool| {
                for (at, agent) in desired.agents.values_mut().enumerate() {
                    let (spec, first) = (&mut agent.container, 9001 + 2 * u16::try_from(at).unwrap());
                    spec.ports = vec![port(first), port(first + 1)];
                    spec.add_hosts = vec![Text::plain("x:1.1.1.1"), Text::plain("y:1.1.1.1")];
                    let mount = |at: &str| Mount::bind(Text::plain(at), at, true);
                    spec.mounts = vec![mount("/x"), mount("/y")];
                    if turn {
                        spec.ports.reverse();
                        spec.add_hosts.reverse();
                        spec.mounts.reverse();
                    }
                }
            };
            lists(&mut story.desired, false);
            let one = story.plan().await;
            lists(&mut story.desired, true);
            prop_assert_eq!(story.plan().await, one);
            prop_assert!(story.converge().await.converged);
            lists(&mut story.desired, false);
            prop_assert_eq!(story.plan().await, Vec::<String>::new());
            Ok(())
        })?;
    }
}
