//! Pairs of (desired, observed) from thin air: also those that no past of ours leads to.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use steadfast::model::*;

use crate::scene::*;

const AGENTS: [&str; 3] = ["a", "a-b", "c"];
const NAMES: [&str; 12] = [
    "demo-a",
    "demo-a-b",
    "demo-c",
    "demo-a.next",
    "demo-a.prev",
    "demo-a.swap",
    "demo-a-b.prev",
    "demo-c.next",
    "web-a",
    "web-c",
    "moved",
    "demo-gone",
];

/// What is wanted of an agent.
#[derive(Debug, Clone)]
struct Wish {
    version: &'static str,
    source: ImageSource,
    state: AgentState,
    restart: RestartPolicy,
    mode: u8,
    name: usize,
    checked: bool,
    port: Option<u16>,
    suspend: bool,
    at_work: u8,
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let what = (
        select(vec!["1", "1", "2", "latest", "7"]),
        select(vec![ImageSource::Manifest, ImageSource::Manifest, ImageSource::Registry, ImageSource::Local]),
        select(vec![AgentState::Running, AgentState::Running, AgentState::Stopped, AgentState::Absent]),
        select(vec![RestartPolicy::No, RestartPolicy::OnFailure, RestartPolicy::UnlessStopped]),
    );
    let how = (0..2u8, 0..4usize, any::<bool>(), prop::option::of(8001..8004u16), prop::bool::weighted(0.1), 0..4u8);
    (what, how).prop_map(|((version, source, state, restart), (mode, name, checked, port, suspend, at_work))| Wish {
        version,
        source,
        state,
        restart,
        mode,
        name,
        checked,
        port,
        suspend,
        at_work,
    })
}

fn wanted(name: &str, wish: &Wish) -> Agent {
    let mut one = agent(name);
    one.version = match (wish.version, wish.source) {
        ("latest", _) => Version::Latest,
        (version, _) => Version::Exact(version.to_owned()),
    };
    (one.source, one.state, one.suspend) = (wish.source, wish.state, wish.suspend);
    one.container.restart = wish.restart;
    one.container.env.insert("MODE".into(), Text::plain(wish.mode.to_string()));
    one.container.healthcheck = wish.checked.then(health_check);
    one.container.ports = wish.port.into_iter().map(port).collect();
    if wish.at_work > 1 {
        at_work(&mut one);
    }
    one
}

/// A container, as a wish for some agent would have made it or as somebody else did.
#[derive(Debug, Clone)]
struct Found {
    name: usize,
    /// Of which agent; beyond them: of one that is gone, of none, somebody else's, a newer build's.
    of: usize,
    wish: Wish,
    phase: Phase,
    health: Option<Health>,
}

fn any_found() -> impl Strategy<Value = Found> {
    let phases = vec![
        Phase::Running,
        Phase::Running,
        Phase::Created,
        Phase::Exited { code: 0 },
        Phase::Exited { code: 143 },
        Phase::Paused,
        Phase::Stopping,
        Phase::Removing,
        Phase::Other("odd".into()),
    ];
    let healths = vec![None, Some(Health::Healthy), Some(Health::Starting), Some(Health::Unhealthy)];
    (0..NAMES.len(), select(vec![0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6]), any_wish(), select(phases), select(healths))
        .prop_map(|(name, of, wish, phase, health)| Found { name, of, wish, phase, health })
}

/// What is known of something: that it is there, and which; that it is not; or nothing.
type Known = usize;

#[derive(Debug, Clone)]
pub struct Pair {
    wishes: Vec<Option<Wish>>,
    turn: usize,
    containers: Vec<Found>,
    published: Known,
    local: Known,
    cached: Vec<usize>,
    images: Vec<usize>,
    /// Of which images the name means somebody else's.
    taken: Vec<usize>,
    vm: usize,
    policy: (bool, bool, bool, bool),
}

pub fn any_pair() -> impl Strategy<Value = Pair> {
    let everything: Vec<usize> = (0..AGENTS.len() * 2).collect();
    let some = || subsequence(everything.clone(), 0..=everything.len());
    let few = subsequence(everything.clone(), 0..=2);
    let seen = (prop::collection::vec(any_found(), 0..7), 0..4usize, 0..4usize, some(), some(), few);
    let wishes = (prop::collection::vec(prop::option::weighted(0.85, any_wish()), AGENTS.len()), 0..3usize);
    let vm = select(vec![0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]);
    let policy = (prop::bool::weighted(0.8), any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (wishes, seen, vm, policy).prop_map(
        |((wishes, turn), (containers, published, local, cached, images, taken), vm, policy)| Pair {
            wishes,
            turn,
            containers,
            published,
            local,
            cached,
            images,
            taken,
            vm,
            policy,
        },
    )
}

fn of_manifest(known: Known) -> Seen<Manifest> {
    let all = |version: &str| manifest(&AGENTS.map(|agent| (agent, version)));
    match known {
        0 => Seen::Absent,
        1 => Seen::Present(all("1")),
        2 => Seen::Present(all("2")),
        _ => unknown(),
    }
}

pub fn scene(pair: &Pair) -> Scene {
    let mut scene = nothing(&[]).file(|desired| desired.cache.keep = 0);
    for (at, wish) in pair.wishes.iter().enumerate() {
        let Some(wish) = wish else { continue };
        let mut one = wanted(AGENTS[at], wish);
        let name = match wish.name {
            0 => format!("web-{}", AGENTS[at]),
            _ => format!("demo-{}", AGENTS[(at + pair.turn) % AGENTS.len()]),
        };
        one.container.name = container_name(&name);
        scene.desired.agents.insert(agent_name(AGENTS[at]), one);
    }
    (scene.observed.published, scene.observed.local) = (of_manifest(pair.published), of_manifest(pair.local));
    let place = |at: usize| (AGENTS[at / 2], if at.is_multiple_of(2) { "1" } else { "2" });
    for (agent, version) in pair.cached.iter().map(|at| place(*at)) {
        scene = scene.cached(agent, version);
    }
    for (agent, version) in pair.images.iter().map(|at| place(*at)) {
        scene = scene.image(agent, version);
    }
    for (agent, version) in pair.taken.iter().map(|at| place(*at)) {
        scene = scene.named(reference_of(agent, version), "theirs".into());
    }
    for found in &pair.containers {
        let one = of_found(found, &scene.desired);
        scene.guest_mut().image_store.entry(one.image.clone()).or_default().containers = Some(1);
        scene = scene.with(NAMES[found.name], one);
    }
    (scene.policy.prune, scene.policy.allow_empty) = (pair.policy.0, pair.policy.1);
    scene.policy.adopt = pair.policy.2;
    if pair.policy.3 {
        scene.policy.only.insert(agent_name("a"));
    }
    if pair.vm > 0 {
        scene.desired = in_vm(scene.desired.clone());
        let phases =
            [VmPhase::Running, VmPhase::Running, VmPhase::Stopped, VmPhase::Broken("x".into()), VmPhase::Starting];
        scene.observed.vm = match pair.vm {
            6 => Seen::Absent,
            7 => unknown(),
            vm => Seen::Present(VmState { phase: phases[vm - 1].clone(), ..machine() }),
        };
        match (&mut scene.observed.vm, pair.vm) {
            (Seen::Present(vm), 1) => vm.owner = Some("elses".into()),
            (_, 2) => scene.observed.reach.route = Some(Route::Forward),
            _ => {}
        }
    }
    scene
}

fn of_found(found: &Found, desired: &Desired) -> ContainerState {
    let name = AGENTS[found.of.min(AGENTS.len() - 1)];
    let wish = Wish { version: if found.wish.version == "2" { "2" } else { "1" }, ..found.wish.clone() };
    let made = Scene {
        desired: Desired { agents: [(agent_name(name), wanted(name, &wish))].into(), ..desired.clone() },
        ..nothing(&[])
    };
    let mut one = made.made(name);
    one.id = format!("id of {}", NAMES[found.name]).parse().unwrap();
    (one.phase, one.health) = (found.phase.clone(), found.health.clone().filter(|_| found.wish.checked));
    match (found.of, &mut one.owner) {
        (3, Owner::Ours { agent, .. }) => *agent = Some(agent_name("gone")),
        (4, Owner::Ours { agent, .. }) => *agent = None,
        (5, owner) => *owner = Owner::Foreign(Whose::Somebody),
        (6, Owner::Ours { spec, version, .. }) => (*spec, *version) = (None, 9),
        _ => {}
    }
    one
}

/// The same scene with Podman out of sight, as an observation of that machine would have it.
pub fn as_observed(scene: &Scene) -> Scene {
    let is_open = match (&scene.desired.runtime, &scene.observed.vm) {
        (Runtime::Podman { .. }, _) => true,
        (_, Seen::Present(vm)) => vm.phase == VmPhase::Running && vm.owner.as_deref() == Some("demo"),
        _ => false,
    };
    match (is_open, &scene.observed.vm) {
        (true, _) => scene.clone(),
        (false, Seen::Absent) => scene.clone().seeing(|observed| observed.guest = Seen::Absent),
        (false, _) => scene.clone().seeing(|observed| observed.guest = unknown()),
    }
}
