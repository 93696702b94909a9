//! What may happen to a `run`, in any order, drawn from a seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use steadfast::backend::fake::FaultPoint;
use steadfast::model::*;

/// The agents there are.
pub const AGENTS: [&str; 3] = ["a", "a-b", "c"];

/// One thing that happens. Numbers are agents, by their place in [`AGENTS`].
#[derive(Debug, Clone)]
pub enum Event {
    Edit(usize, Edit),
    SwapPorts(usize, usize),
    SwapNames(usize, usize),
    /// The file cannot be used.
    BadEdit,
    Outside(usize, Outside, Delivered),
    /// Somebody else takes the name of the agent's container, where it is free.
    Foreign(usize),
    /// The keeper of its session is killed, and whoever watches may hear of it.
    KeeperKilled(usize, bool),
    /// The command of its session ends with this code, and its keeper does not start it again.
    SessionEnds(usize, i32),
    /// Somebody starts a session of this name.
    ByHand(usize, &'static str),
    /// The source of its workspace is another from now on.
    SourceChanged(usize),
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
    /// Steps on this agent's container fail so often, and on nobody else's.
    Ailing(usize, &'static str, usize),
    /// Somebody pauses the agent's container, and again whenever it is unpaused.
    Frozen(usize),
    /// The clock on the wall jumps ahead by so many seconds: the machine slept.
    Slept(u64),
    Slow(&'static str, u64),
    /// `run` goes, and comes back after so many more events.
    Down(How, usize),
    /// `run` is stopped, somebody applies, and `run` comes back after so many more events.
    Applied(usize),
    Ask,
}

#[derive(Debug, Clone)]
pub enum Edit {
    Mode(u8),
    Token(u8),
    Version(&'static str),
    Source(ImageSource),
    Restart(RestartPolicy),
    State(AgentState),
    Suspend(bool),
    Checked(bool),
    Port(bool),
    /// Its containers overlap, and publish no port; or not any more.
    Overlap(bool),
    /// How many seconds a successor is to stay up.
    Settle(u64),
    /// It ends at once with this code, or not any more.
    Crash(Option<u8>),
    /// It is unhealthy so many seconds after each start.
    Sick(Option<u32>),
    Work(Work),
    Removed,
    Added,
}

#[derive(Debug, Clone)]
pub enum Outside {
    Killed,
    Died(i32),
    Paused,
    Stopped,
    Removed,
    Renamed(&'static str),
    /// Its program ends with this code, now and whenever it is started.
    Breaks(i32),
}

/// Whether an event tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    Not,
    Once,
    Twice,
}

#[derive(Debug, Clone, Copy)]
pub enum How {
    /// After so many more changes, in the middle of whatever it does.
    Killed(usize),
    Stopped,
}

/// What happens, each after a pause of so many milliseconds.
#[derive(Clone)]
pub struct Schedule {
    /// Where whatever else is left to chance is drawn from.
    pub seed: u64,
    pub events: Vec<(u64, Event)>,
    /// So many steps work at once.
    pub parallel: usize,
}

impl fmt::Debug for Schedule {
    /// A line for each event, so that a schedule that fails can be read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        write!(f, "{} at once", self.parallel)?;
        for (pause, event) in &self.events {
            at += pause;
            write!(f, "\n{:>9.3} s  {event:?}", Duration::from_millis(at).as_secs_f64())?;
        }
        Ok(())
    }
}

fn of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

/// How to draw one, and how often beside the others.
type Weighted<T> = (u32, fn(&mut Rng) -> T);

/// One of these, as often as its weight says.
fn one_of<T>(rng: &mut Rng, all: &[Weighted<T>]) -> T {
    let all_weights: u32 = all.iter().map(|(weight, _)| weight).sum();
    let mut left = rng.u32(..all_weights);
    for (weight, draw) in all {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return draw(rng),
        }
    }
    unreachable!("the weights add up")
}

fn who(rng: &mut Rng) -> usize {
    rng.usize(..AGENTS.len())
}

fn point(rng: &mut Rng) -> FaultPoint {
    of(rng, &[FaultPoint::Before, FaultPoint::After, FaultPoint::Hang])
}

/// Engine calls.
pub const CALLS: [&str; 16] = [
    "look",
    "inspect",
    "events",
    "ping",
    "load",
    "pull",
    "tag",
    "create",
    "start",
    "stop",
    "rename",
    "remove",
    "sessions",
    "start_session",
    "end_session",
    "prepare_workspace",
];
/// Those that change something.
pub const CHANGES: [&str; 11] = [
    "load",
    "pull",
    "tag",
    "create",
    "start",
    "stop",
    "rename",
    "remove",
    "start_session",
    "end_session",
    "prepare_workspace",
];
const STORE_CALLS: [&str; 5] = ["published", "list", "local", "fetch", "open"];

fn any_edit(rng: &mut Rng) -> Edit {
    use RestartPolicy::{Always, No, OnFailure, UnlessStopped};

    one_of(
        rng,
        &[
            (4, |rng| Edit::Mode(rng.u8(..4))),
            (1, |rng| Edit::Token(rng.u8(..3))),
            (2, |rng| Edit::Version(of(rng, &["1", "2", "latest"]))),
            (1, |rng| Edit::Source(of(rng, &[ImageSource::Manifest, ImageSource::Registry]))),
            (2, |rng| Edit::Restart(of(rng, &[No, OnFailure, UnlessStopped, Always]))),
            (3, |rng| {
                Edit::State(of(
                    rng,
                    &[AgentState::Running, AgentState::Running, AgentState::Stopped, AgentState::Absent],
                ))
            }),
            (1, |rng| Edit::Suspend(rng.bool())),
            (2, |rng| Edit::Checked(rng.bool())),
            (2, |rng| Edit::Port(rng.bool())),
            (2, |rng| Edit::Overlap(rng.bool())),
            (1, |rng| Edit::Settle(of(rng, &[0, 1, 30]))),
            (2, |rng| Edit::Crash(of(rng, &[None, None, Some(0), Some(3)]))),
            (2, |rng| Edit::Sick(of(rng, &[None, Some(3), Some(100_000)]))),
            (3, |rng| Edit::Work(any_work(rng))),
            (1, |_| Edit::Removed),
            (2, |_| Edit::Added),
        ],
    )
}

/// Sessions and workspaces of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// None.
    None,
    /// A session that runs this command.
    Session(u8),
    /// One that works in a workspace.
    InWorkspace(u8),
    /// A workspace alone.
    Workspace,
    /// A session that can never be started.
    Missing,
}

fn any_work(rng: &mut Rng) -> Work {
    one_of(
        rng,
        &[
            (2, |_| Work::None),
            (3, |rng| Work::Session(rng.u8(..3))),
            (5, |rng| Work::InWorkspace(rng.u8(..3))),
            (1, |_| Work::Workspace),
            (1, |_| Work::Missing),
        ],
    )
}

fn any_outside(rng: &mut Rng) -> Outside {
    one_of(
        rng,
        &[
            (2, |_| Outside::Killed),
            (2, |rng| Outside::Died(of(rng, &[0, 1, 3, 137, 143]))),
            (1, |_| Outside::Paused),
            (1, |_| Outside::Stopped),
            (2, |_| Outside::Removed),
            (2, |rng| Outside::Breaks(of(rng, &[0, 3]))),
            (1, |rng| Outside::Renamed(of(rng, &["-moved", ".prev", ".next"]))),
        ],
    )
}

fn any_event(rng: &mut Rng) -> Event {
    one_of(
        rng,
        &[
            (12, |rng| Event::Edit(who(rng), any_edit(rng))),
            (1, |rng| Event::SwapPorts(who(rng), who(rng))),
            (2, |rng| Event::SwapNames(who(rng), who(rng))),
            (1, |_| Event::BadEdit),
            (8, |rng| {
                Event::Outside(
                    who(rng),
                    any_outside(rng),
                    of(rng, &[Delivered::Once, Delivered::Once, Delivered::Twice, Delivered::Not]),
                )
            }),
            (1, |rng| Event::Foreign(who(rng))),
            (2, |rng| Event::KeeperKilled(who(rng), rng.bool())),
            (1, |rng| Event::SessionEnds(who(rng), of(rng, &[0, 1]))),
            (1, |rng| Event::ByHand(who(rng), of(rng, &["pi", "mine"]))),
            (1, |rng| Event::SourceChanged(who(rng))),
            (1, |_| Event::EventsCut),
            (1, |rng| {
                let word = of(rng, &["died", "die", "start", "remove", "exec_died", "", "häh"]);
                Event::MadeUp(who(rng), word, of(rng, &[None, Some(1), Some(137)]))
            }),
            (1, |rng| Event::PodmanGivesUp(rng.bool())),
            (1, |rng| Event::Untagged(who(rng))),
            (1, |rng| Event::FileLost(who(rng))),
            (1, |rng| Event::FileRotten(who(rng))),
            (1, |_| Event::IndexLost),
            (1, |_| Event::LocalManifestLost),
            (1, |rng| Event::Published(of(rng, &["1", "2"]))),
            (1, |_| Event::ManifestGone),
            (4, |rng| {
                let word = of(rng, &[&CALLS[..], &STORE_CALLS[..], &[""]].concat());
                Event::Fault(word, point(rng), rng.u8(..10) < 7, of(rng, &[1, 1, 2, 5, usize::MAX]))
            }),
            (1, |rng| Event::PodmanAway(point(rng))),
            (1, |rng| ailing(rng)),
            (1, |rng| Event::Frozen(who(rng))),
            (1, |rng| Event::Slept(of(rng, &[5, 3600, 10_000_000]))),
            (2, |_| Event::Lifted),
            (1, |rng| {
                const SLOW: [&str; 8] = ["look", "start", "stop", "create", "fetch", "load", "published", "inspect"];
                Event::Slow(of(rng, &SLOW), of(rng, &[0, 200, 3000]))
            }),
            (2, |rng| Event::Down(How::Killed(rng.usize(..8)), rng.usize(..3))),
            (1, |rng| Event::Down(How::Stopped, rng.usize(..3))),
            (1, |rng| Event::Applied(rng.usize(..3))),
            (1, |_| Event::Ask),
        ],
    )
}

fn ailing(rng: &mut Rng) -> Event {
    Event::Ailing(who(rng), of(rng, &["create", "start", "stop"]), of(rng, &[1, 3, usize::MAX]))
}

/// What happens where people edit a lot, and things take their time.
fn any_edit_event(rng: &mut Rng) -> Event {
    one_of(
        rng,
        &[
            (12, |rng| Event::Edit(who(rng), Edit::Mode(rng.u8(..10)))),
            // The same agent again and again.
            (6, |rng| Event::Edit(0, Edit::Mode(rng.u8(..10)))),
            (3, |rng| Event::Edit(who(rng), Edit::Checked(rng.bool()))),
            (2, |rng| Event::Edit(who(rng), Edit::Sick(of(rng, &[None, Some(3), Some(100_000)])))),
            (2, |rng| Event::Edit(who(rng), Edit::Crash(of(rng, &[None, Some(3)])))),
            (3, |rng| Event::Edit(who(rng), Edit::Work(any_work(rng)))),
            (2, |rng| Event::Edit(who(rng), Edit::State(of(rng, &[AgentState::Running, AgentState::Stopped])))),
            (2, |rng| Event::Outside(who(rng), Outside::Breaks(3), Delivered::Once)),
            (2, |rng| ailing(rng)),
            (2, |rng| Event::Frozen(who(rng))),
            (3, |rng| Event::Slow(of(rng, &["stop", "fetch", "look"]), of(rng, &[0, 3_000, 10_000]))),
            (1, |rng| Event::Slept(of(rng, &[5, 3600]))),
            (1, |_| Event::Ask),
        ],
    )
}

/// What happens where versions are tried of which some are bad, and `run` comes and goes meanwhile.
fn any_rollout(rng: &mut Rng) -> Event {
    one_of(
        rng,
        &[
            (6, |rng| Event::Edit(who(rng), Edit::Mode(rng.u8(..10)))),
            (6, |rng| Event::Edit(who(rng), Edit::Crash(of(rng, &[None, Some(0), Some(3)])))),
            (2, |rng| Event::Edit(who(rng), Edit::Sick(of(rng, &[None, Some(3), Some(100_000)])))),
            (2, |rng| Event::Edit(who(rng), Edit::Checked(rng.bool()))),
            (1, |rng| Event::Edit(who(rng), Edit::Overlap(rng.bool()))),
            (1, |rng| Event::Edit(who(rng), Edit::Settle(of(rng, &[0, 1, 30])))),
            (3, |_| Event::Ask),
            (1, |rng| Event::Down(How::Killed(rng.usize(..8)), 0)),
            (1, |_| Event::Down(How::Stopped, 0)),
        ],
    )
}

/// What happens where somebody cannot make up their mind about one agent.
fn any_edit_of_one(rng: &mut Rng) -> Event {
    one_of(
        rng,
        &[
            (12, |rng| Event::Edit(0, Edit::Mode(rng.u8(..10)))),
            // So that one is done when the next edit comes.
            (4, |_| Event::Edit(0, Edit::Settle(0))),
            (1, |rng| Event::Edit(0, Edit::Checked(rng.bool()))),
            (3, |rng| Event::Slow(of(rng, &["stop", "create", "remove", "look"]), of(rng, &[0, 3_000, 10_000]))),
        ],
    )
}

/// Short ones: what was edited a moment ago is still under way.
fn any_short_pause(rng: &mut Rng) -> u64 {
    one_of(rng, &[(1, |_| 0), (4, |rng| rng.u64(100..5_000)), (4, |rng| rng.u64(5_000..20_000))])
}

fn any_pause(rng: &mut Rng) -> u64 {
    one_of(
        rng,
        &[
            (3, |_| 0),
            (3, |rng| rng.u64(1..100)),
            (4, |rng| rng.u64(100..5_000)),
            (2, |rng| rng.u64(5_000..60_000)),
            (1, |rng| rng.u64(60_000..600_000)),
        ],
    )
}

impl Schedule {
    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        // Most faults need few events, and few take less time.
        let most = of(rng, &[4, 8, 12, 20]);
        let (count, theme) = (rng.usize(1..=most), rng.u8(..10));
        let mut one = || match theme {
            0..2 => (any_short_pause(rng), any_edit_of_one(rng)),
            2 => (any_pause(rng), any_rollout(rng)),
            3..5 => (any_short_pause(rng), any_edit_event(rng)),
            _ => (any_pause(rng), any_event(rng)),
        };
        let events = (0..count).map(|_| one()).collect();
        Self { seed, events, parallel: of(rng, &[1, 2, 4]) }
    }

    /// It without one of its events, for each.
    pub fn shorter(&self) -> impl Iterator<Item = Self> + '_ {
        (0..self.events.len()).map(|at| {
            let mut shorter = self.clone();
            let (pause, _) = shorter.events.remove(at);
            if let Some((next, _)) = shorter.events.get_mut(at) {
                *next += pause;
            }
            shorter
        })
    }
}
