//! `run` itself stopped, killed, frozen and told to observe again.

use std::time::Duration;

use rustix::process::Signal;

use crate::keeper::{Keeper, id, kill, names, starts};
use crate::world::{World, inspect, until};

/// Slow to end, so that a step takes its time.
fn slow(world: &World, name: &str, value: u8, seconds: &str) -> String {
    let line = format!("trap 'sleep {seconds}; exit 0' TERM; while true; do sleep 0.1; done");
    world.agent(name, &format!("env: {{X: \"{value}\"}}, command: [sh, -c, \"{line}\"]"))
}

/// What an agent's container has in its environment; nothing while it is replaced.
fn value(world: &World, agent: &str) -> String {
    let env = inspect(&world.name(agent)).map(|seen| seen["Config"]["Env"].to_string()).unwrap_or_default();
    env.split("\"X=").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned()
}

/// Killed at a moment that moves through a replacement, a creation and a removal.
#[test]
fn kill_dash_nine_at_any_moment_and_the_next_run_finishes_it() {
    let world = World::new();
    let agent = |name: &str, value: u32| world.agent(name, &format!("env: {{X: \"{value}\"}}"));
    // One is replaced, one stays, one goes and one comes.
    let state = |round: u32| {
        let passing = if round.is_multiple_of(2) { "even" } else { "odd" };
        world.state(&[&agent("a", round), &agent("b", 0), &agent(passing, round)]);
        [world.name("a"), world.name("b"), world.name(passing)]
    };
    state(0);
    let mut keeper = Keeper::start(&world, "--settle 100ms");
    let b = id(&world, "b");
    keeper.world.state(&[&agent("a", 1), &agent("b", 0), &agent("odd", 1)]);
    let began = std::time::Instant::now();
    until("all is done", || {
        names(&world.ids()) == [world.name("a"), world.name("b"), world.name("odd")] && value(&world, "a") == "1"
    });
    keeper.converged();
    let whole = began.elapsed();
    keeper.run.signal(Signal::KILL);
    keeper.run.end();
    const MOMENTS: u32 = 10;
    let mut halfway = 0;
    for moment in 0..MOMENTS {
        let round = moment + 2;
        let wanted = state(round);
        let keeper = Keeper::spawn(&world, "--settle 100ms");
        std::thread::sleep(whole * (moment + 1) / MOMENTS);
        keeper.run.signal(Signal::KILL);
        assert_eq!(keeper.run.end().code, 1009, "it was killed, and did not end");
        halfway += usize::from(names(&world.ids()) != wanted);
        let mut keeper = Keeper::start(&world, "--settle 100ms");
        assert_eq!(names(&world.ids()), wanted, "moment {moment}: {}", keeper.run.stderr());
        assert_eq!(value(&world, "a"), round.to_string(), "moment {moment}");
        assert!(wanted.iter().all(|name| inspect(name).unwrap()["State"]["Running"] == true));
        assert_eq!(keeper.looked()["actions"], serde_json::json!([]), "moment {moment}");
        keeper.run.signal(Signal::KILL);
        until("it is dead", || keeper.run.has_ended());
    }
    assert!(halfway > 0, "no kill came in the middle, so nothing was proved");
    assert_eq!((id(&world, "b"), starts(&b)), (b.clone(), 1), "what need not be touched was not");
}

#[test]
fn sigterm_finishes_what_is_under_way_and_leaves_agents_running() {
    let world = World::new();
    world.state(&[&slow(&world, "a", 1, "1"), &world.agent("b", "")]);
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    world.state(&[&slow(&world, "a", 2, "1"), &world.agent("b", "")]);
    keeper.run.until("a step is under way", |_| !world.leftovers().is_empty());
    let began = std::time::Instant::now();
    let outcome = keeper.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(outcome.stderr.contains("stopping: agents keep running"), "{}", outcome.stderr);
    assert!(world.runs("b") && world.ids()[&world.name("b")] == ids[&world.name("b")]);
    assert_eq!((world.leftovers(), value(&world, "a").as_str()), (Vec::new(), "2"), "the step was finished");
    assert!(!world.state_dir().join("control.sock").exists());
    // Nobody keeps the lock.
    assert_eq!(world.apply_kinds(), Vec::<String>::new());

    // Idle, it ends at once; Ctrl-C has a code of its own.
    let keeper = Keeper::start(&world, "");
    keeper.run.signal(Signal::INT);
    keeper.run.end().expect(130);
    assert!(world.runs("a") && world.runs("b"));
}

#[test]
fn a_second_signal_stops_at_once_and_the_next_run_goes_on() {
    let world = World::new();
    world.state(&[&slow(&world, "a", 1, "60")]);
    let mut keeper = Keeper::start(&world, "");
    world.state(&[&slow(&world, "a", 2, "60")]);
    keeper.run.until("a step is under way", |_| !world.leftovers().is_empty());
    keeper.run.signal(Signal::TERM);
    keeper.says("stopping: agents keep running");
    let began = std::time::Instant::now();
    keeper.run.signal(Signal::TERM);
    keeper.run.end().expect(143);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut keeper = Keeper::start(&world, "");
    keeper.converged();
    assert_eq!((names(&world.ids()), value(&world, "a").as_str()), (vec![world.name("a")], "2"));
}

/// Longer than the ten seconds it has.
#[test]
fn sigterm_does_not_wait_for_ever_for_what_is_under_way() {
    let world = World::new();
    let line = "trap '' TERM; while true; do sleep 0.1; done";
    let agent = |value: u8| world.agent("a", &format!("env: {{X: \"{value}\"}}, command: [sh, -c, \"{line}\"]"));
    world.state(&[&agent(1)]);
    let mut keeper = Keeper::start(&world, "");
    world.state(&[&agent(2)]);
    keeper.run.until("a step is under way", |_| !world.leftovers().is_empty());
    let began = std::time::Instant::now();
    keeper.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let mut keeper = Keeper::start(&world, "");
    keeper.converged();
    assert_eq!((names(&world.ids()), value(&world, "a").as_str()), (vec![world.name("a")], "2"));
}

#[test]
fn sighup_reads_again_and_looks() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    // So late that the file is read only because it was told to.
    let mut keeper = Keeper::start(&world, "--debounce 1h");
    let a = id(&world, "a");
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    keeper.run.signal(Signal::HUP);
    until("the new one runs", || world.runs("b"));
    keeper.converged();
    assert_eq!((id(&world, "a"), starts(&a)), (a.clone(), 1));
    let before = keeper.status()["run"]["passes"].as_u64();
    keeper.run.signal(Signal::HUP);
    keeper.until("it has looked", |status| status["run"]["passes"].as_u64() > before);
    assert!(!keeper.run.has_ended(), "a hang-up does not end it");
}

/// Frozen for a while, as on a machine that sleeps: what happened meanwhile is caught up with.
#[test]
fn after_being_frozen_it_catches_up() {
    let world = World::new();
    let agent = |value: u8| world.agent("a", &format!("env: {{X: \"{value}\"}}"));
    world.state(&[&agent(1), &world.agent("b", ""), &world.agent("c", "")]);
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    keeper.run.signal(Signal::STOP);
    kill(&world, "b");
    world.remove("c");
    world.state(&[&agent(2), &world.agent("b", ""), &world.agent("c", "")]);
    // `status` does not wait for it: it observes by itself.
    let status = world.run("status -o json").expect(3).json();
    assert_eq!((&status["run"], &status["converged"]), (&serde_json::Value::Null, &false.into()), "{status}");
    keeper.run.signal(Signal::CONT);
    until("all is well", || world.runs("b") && world.runs("c") && value(&world, "a") == "2" && world.runs("a"));
    keeper.looked();
    keeper.converged();
    assert_eq!(id(&world, "b"), ids[&world.name("b")]);
    assert_eq!(["a", "b", "c"].map(|agent| starts(&id(&world, agent))), [1, 2, 1], "{}", keeper.run.stderr());
    assert_eq!((world.ids().len(), world.leftovers()), (3, Vec::new()));
}
