//! A world from a seed: its agents, what happens to them, and the verbs that are asked about it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::claims::{Asked, Wanted, contradictions, truth};
use crate::support::command::Running;
use crate::watcher::Watcher;
use crate::world::{World, api, port};

/// What became of a world.
#[derive(Debug, Default)]
pub struct Tally {
    pub claims: u64,
    pub denied: Vec<String>,
}

/// A small generator: the same numbers for the same seed on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll(from.len() as u64)).expect("small")]
    }
}

/// How an agent behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Steady,
    Crashing {
        every: f64,
        code: u8,
    },
    OneShot {
        code: u8,
    },
    UntilDone {
        fails: bool,
    },
    Checked {
        by_image: bool,
        passes: bool,
    },
    /// Its check fails until it has run for a while.
    SlowToStart,
    PortTaken,
    NameTaken,
    NoMountSource,
    NoImage,
    HalfMade,
}

/// What people and machines do to a container that is there.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mischief {
    None,
    Stop,
    Kill,
    Pause,
    Remove,
    Rename,
    /// Its first process is killed: Podman restarts it.
    KillFromInside,
    /// The tag of its image is removed.
    Untag,
}

struct Agent {
    name: String,
    kind: Kind,
    mischief: Mischief,
}

impl Agent {
    fn wanted(&self) -> Wanted {
        match self.kind {
            Kind::OneShot { .. } => Wanted::OneShot,
            Kind::UntilDone { .. } => Wanted::UntilDone,
            _ => Wanted::Up,
        }
    }
}

fn some_kind(dice: &mut Dice) -> Kind {
    match dice.roll(16) {
        0..=2 => Kind::Steady,
        3..=6 => {
            let every = dice.pick(&[0.1, 0.4, 0.7, 1.5, 2.5, 4.0, 6.0, 9.0, 12.0, 15.0]);
            Kind::Crashing { every, code: dice.pick(&[0, 1, 3, 137]) }
        }
        7 => Kind::OneShot { code: 0 },
        8 => Kind::OneShot { code: dice.pick(&[1, 3, 126]) },
        9 => Kind::UntilDone { fails: dice.roll(2) == 0 },
        10 => Kind::Checked { by_image: dice.roll(2) == 0, passes: true },
        11 => Kind::Checked { by_image: dice.roll(2) == 0, passes: false },
        12 => Kind::SlowToStart,
        13 => Kind::PortTaken,
        14 => dice.pick(&[Kind::NameTaken, Kind::NoMountSource]),
        _ => dice.pick(&[Kind::NoImage, Kind::HalfMade]),
    }
}

fn some_mischief(dice: &mut Dice) -> Mischief {
    use Mischief as M;
    match dice.roll(3) {
        0 => dice.pick(&[M::Stop, M::Kill, M::Pause, M::Remove, M::Rename, M::KillFromInside, M::Untag]),
        _ => M::None,
    }
}

const UP: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

/// Its `container` in flow style, and the version of the image it wants.
fn described(agent: &Agent, taken: u16) -> (String, &'static str) {
    let run = |line: &str| format!("command: [sh, -c, {}]", json!(line));
    let check = |test: &str| format!("healthcheck: {{test: [CMD, {test}], interval: 1s, timeout: 2s, retries: 2}}");
    match agent.kind {
        Kind::Steady | Kind::NameTaken => (run(UP), "1"),
        Kind::Crashing { every, code } => {
            let line =
                if code == 137 { format!("sleep {every}; kill -9 $$") } else { format!("sleep {every}; exit {code}") };
            (run(&format!("echo begins; {line}")), "1")
        }
        Kind::OneShot { code } => (format!("{}, restart: \"no\"", run(&format!("echo once; exit {code}"))), "1"),
        Kind::UntilDone { fails } => {
            let code = u8::from(fails);
            (format!("{}, restart: on-failure", run(&format!("sleep 0.5; exit {code}"))), "1")
        }
        Kind::Checked { by_image: true, passes } => (run(UP), if passes { "well" } else { "sick" }),
        Kind::Checked { by_image: false, passes } => {
            (format!("{}, {}", run(UP), check(if passes { "\"true\"" } else { "\"false\"" })), "1")
        }
        Kind::SlowToStart => {
            let line = format!("(sleep 3; touch /tmp/ready) & {UP}");
            let test = "[CMD, ls, /tmp/ready]";
            (format!("{}, healthcheck: {{test: {test}, interval: 1s, retries: 3, startPeriod: 10s}}", run(&line)), "1")
        }
        Kind::PortTaken => (format!("{}, ports: [\"127.0.0.1:{taken}:80\"]", run(UP)), "1"),
        Kind::NoMountSource => (format!("{}, mounts: [{{source: /nonexistent/here, target: /data}}]", run(UP)), "1"),
        Kind::NoImage => (run(UP), "missing"),
        Kind::HalfMade => (run(UP), "1"),
    }
}

/// Plays the world of this seed.
pub fn play(seed: u64) -> Tally {
    let mut dice = Dice(seed);
    let world = World::new();
    for (version, test) in [("well", "true"), ("sick", "false")] {
        // Without a timeout: an engine that fills in none must not wait for ever.
        let check = json!({"Test": ["CMD", test], "Interval": 1_000_000_000_u64, "Retries": 2});
        world.load(&world.image(version).config("Healthcheck", check));
    }
    let taken = port();
    let _listener = TcpListener::bind(("127.0.0.1", taken)).expect("a port of our own");
    let count = 1 + dice.roll(3);
    let agents: Vec<_> = (0..count)
        .map(|number| {
            let (kind, mischief) = (some_kind(&mut dice), some_mischief(&mut dice));
            Agent { name: format!("a{number}"), kind, mischief }
        })
        .collect();
    write_state(&world, &agents, taken);
    for agent in &agents {
        match agent.kind {
            Kind::NameTaken => {
                world.foreign_container(&world.name(&agent.name));
            }
            Kind::HalfMade => make_half(&world, agent),
            _ => {}
        }
    }
    let watcher = Watcher::start(agents.iter().map(|agent| world.name(&agent.name)).collect());
    let kept = dice.roll(3) == 0;
    let mut story = Story { world: &world, watcher: &watcher, agents: &agents, kept: false, told: Tally::default() };
    let first = story.ask("apply", "apply -o json --timeout 40s");
    story.judge(&[first]);
    // Crash loops become so, and what was restarted once becomes steady again.
    std::thread::sleep(Duration::from_secs(dice.pick(&[0, 1, 3, 8])));
    for agent in &agents {
        interfere(&world, agent);
    }
    let run: Option<Running> = kept.then(|| world.spawn("run"));
    story.kept = kept;
    if run.is_some() {
        std::thread::sleep(Duration::from_secs(dice.pick(&[2, 6])));
    }
    for _ in 0..2 {
        let mut asked = Vec::new();
        for _ in 0..5 {
            let number = usize::try_from(dice.roll(agents.len() as u64)).expect("small");
            let (verb, line) = match dice.roll(5) {
                0 => ("plan", "plan --detailed-exitcode -o json".to_owned()),
                1 | 2 => ("status", "status -o json".to_owned()),
                3 => ("doctor", "doctor -o json".to_owned()),
                _ => ("why", format!("why {} -o json", agents[number].name)),
            };
            asked.push(story.ask(verb, &line));
        }
        story.judge(&asked);
        let wait = if run.is_some() { " --wait" } else { "" };
        let again = story.ask("apply", &format!("apply -o json --timeout 40s{wait}"));
        story.judge(&[again]);
        std::thread::sleep(Duration::from_secs(dice.pick(&[0, 2, 11])));
    }
    drop(run);
    let told = story.told;
    let described: Vec<_> =
        agents.iter().map(|agent| format!("{}: {:?}, {:?}", agent.name, agent.kind, agent.mischief)).collect();
    Tally {
        denied: told
            .denied
            .into_iter()
            .map(|said| format!("{said}\nin the world of {described:?}, kept: {kept}"))
            .collect(),
        ..told
    }
}

struct Story<'w> {
    world: &'w World,
    watcher: &'w Watcher,
    agents: &'w [Agent],
    /// Whether a `run` keeps the world: then what is shown is what it saw last, and it hears of an end a moment later.
    kept: bool,
    told: Tally,
}

/// Within this `run` has seen what happened, on a busy machine too.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// So long before it ends, at the most, `apply` has observed what it says.
const OBSERVED_WITHIN: Duration = Duration::from_millis(500);

impl Story<'_> {
    fn ask(&mut self, verb: &'static str, line: &str) -> Asked {
        let from = Instant::now();
        let outcome = self.world.run(line);
        let to = Instant::now();
        // What `apply` says, it says of its last observation.
        let from = match verb {
            "apply" => to.checked_sub(OBSERVED_WITHIN).map_or(from, |last| last.max(from)),
            _ if self.kept => from.checked_sub(HEARD_WITHIN).unwrap_or(from),
            _ => from,
        };
        let samples = self.watcher.between(from, to);
        let truths: BTreeMap<_, _> = self
            .agents
            .iter()
            .map(|agent| {
                let seen = truth(agent.wanted(), &self.world.name(&agent.name), &samples, self.watcher);
                (agent.name.clone(), seen)
            })
            .collect();
        let asked = Asked { verb, outcome, truths };
        let agents = self.agents.iter().filter(|agent| asked.of(&agent.name).is_some()).count();
        self.told.claims += u64::from(asked.of_all().is_some()) + agents as u64;
        asked
    }

    fn judge(&mut self, asked: &[Asked]) {
        for one in asked {
            self.told.denied.extend(one.denied());
        }
        self.told.denied.extend(contradictions(asked));
    }
}

fn write_state(world: &World, agents: &[Agent], taken: u16) {
    let lines: Vec<_> = agents
        .iter()
        .map(|agent| {
            let (container, version) = described(agent, taken);
            let (name, owner) = (&agent.name, &world.owner);
            format!("{name}: {{version: \"{version}\", image: localhost/{owner}, source: local, rollout: {{settle: 300ms}}, container: {{{container}}}}}")
        })
        .collect();
    world.state(&lines.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A container of ours that was made and never started.
fn make_half(world: &World, agent: &Agent) {
    world.run("apply -o json --no-wait --only ".to_owned() + &agent.name);
    world.remove(&agent.name);
    let labels = json!({"steadfast.name": world.owner, "steadfast.agent": agent.name});
    let image = format!("localhost/{}:1", world.owner);
    let spec = json!({"name": world.name(&agent.name), "image": image, "labels": labels, "command": ["/missing"]});
    let _ = api("POST", "/v4.0.0/libpod/containers/create", spec.to_string().as_bytes());
}

fn interfere(world: &World, agent: &Agent) {
    let name = world.name(&agent.name);
    let container = |what: &str| {
        let _ = api("POST", &format!("/v4.0.0/libpod/containers/{name}/{what}"), b"");
    };
    match agent.mischief {
        Mischief::None => {}
        Mischief::Stop => container("stop?timeout=1"),
        Mischief::Kill => container("kill?signal=KILL"),
        Mischief::Pause => container("pause"),
        Mischief::Remove => world.remove(&agent.name),
        Mischief::Rename => container(&format!("rename?name={name}-elsewhere")),
        Mischief::KillFromInside => {
            let seen = crate::world::inspect(&name);
            let pid = seen.and_then(|seen| seen["State"]["Pid"].as_i64()).and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        Mischief::Untag => {
            let image = format!("localhost/{}", world.owner);
            let _ = api("POST", &format!("/v4.0.0/libpod/images/{image}:1/untag?repo={image}&tag=1"), b"");
        }
    }
}
