//! Agents that end by themselves: those that are to stay so, and those that do it all the time.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::keeper::{Keeper, id, kill, phase, starts};
use crate::world::{World, until};

fn ending(world: &World, name: &str, code: i32, more: &str) -> String {
    world.agent(name, &format!("command: [sh, -c, \"exit {code}\"]{more}"))
}

#[test]
fn what_is_to_stay_ended_stays_ended() {
    let world = World::new();
    let agents = [
        ending(&world, "done", 0, ", restart: \"no\""),
        ending(&world, "failed", 3, ", restart: \"no\""),
        ending(&world, "once", 0, ", restart: on-failure"),
        world.agent("other", ""),
    ];
    world.state(&agents.each_ref().map(String::as_str));
    let mut keeper = Keeper::spawn(&world, "--resync 1s");
    keeper.until("all have ended", |status| {
        let health = |agent: &str| status["agents"][agent]["health"].clone();
        [health("done"), health("failed"), health("once"), health("other")]
            == ["Completed", "Failed", "Completed", "Healthy"]
    });
    let ids = world.ids();
    // Neither time nor what happens to others wakes them.
    kill(&world, "other");
    until("the other runs again", || world.runs("other"));
    keeper.passes(3);
    for agent in ["done", "failed", "once"] {
        assert_eq!((phase(&world, agent).as_str(), starts(&id(&world, agent))), ("exited", 1), "{agent}");
    }
    assert_eq!(world.ids(), ids);
    assert_eq!(starts(&id(&world, "other")), 2);
}

#[test]
fn a_slow_crash_loop_is_given_a_rest_too() {
    let world = World::new();
    world.state(&[&world.agent("x", "command: [sh, -c, \"echo up; sleep 3; echo crash; exit 3\"]")]);
    let mut keeper = Keeper::spawn(&world, "");
    let name = world.name("x");
    keeper.says(&format!("✓ stopped container `{name}`: it was in a crash loop"));
    let x = id(&world, "x");
    assert!(starts(&x) <= 5, "{} starts", starts(&x));
    let status = keeper.until("it backs off", |status| {
        let agent = &status["agents"]["x"];
        let waits = status["run"]["backingOff"].as_array().unwrap().iter().any(|off| off["agent"] == "x");
        waits && agent["conditions"][0]["reason"] == "CrashLoop" && agent["lastLog"].is_string()
    });
    assert!(status["agents"]["x"]["lastLog"].as_str().unwrap().contains("crash"), "{status}");
    let why = world.run("why x -o json").expect(0).json();
    assert_eq!(why["observed"]["reason"], "CrashLoop", "{why}");
    // Whenever it is asked, it says the same.
    for _ in 0..2 {
        world.run("apply").expect(3).says("crash loop");
    }
}

/// Podman restarts it in a hot loop, and nobody else gets anything done.
#[test]
fn what_ends_all_the_time_is_given_a_rest_and_costs_the_others_nothing() {
    let world = World::new();
    let crashing = ending(&world, "x", 3, "");
    let broken = world.agent("y", "command: [/nope]");
    world.state(&[&world.agent("a", ""), &crashing, &broken]);
    let mut keeper = Keeper::spawn(&world, "");
    let name = world.name("x");
    keeper.says(&format!("container `{name}` is in a crash loop (exit code 3)"));
    let status = keeper.until("it backs off", |status| {
        let conditions = status["agents"]["x"]["conditions"].as_array().unwrap();
        let waits = status["run"]["backingOff"].as_array().unwrap().iter().any(|off| off["agent"] == "x");
        waits && conditions.iter().all(|condition| condition["reason"] == "CrashLoop")
    });
    let backing_off = |status: &Value, agent: &str| {
        let all = status["run"]["backingOff"].as_array().unwrap();
        all.iter().find(|off| off["agent"] == agent).cloned().unwrap_or_default()
    };
    let off = backing_off(&status, "x");
    assert!(off["cause"].as_str().unwrap().contains("crash loop") && off["retryAt"].is_string(), "{off}");
    keeper.says(&format!("✓ stopped container `{name}`: it was in a crash loop"));
    let stopped = Instant::now();
    assert!(!world.runs("x"));
    let x = id(&world, "x");
    let before = starts(&x);
    // Meanwhile the others are looked after as ever.
    let a = id(&world, "a");
    for round in 2..=4 {
        kill(&world, "a");
        until("it runs again", || world.runs("a"));
        // Ready it is only once it has stayed up, and by then the other one is tried again.
        keeper.until("nothing is left to do", |status| status["agents"]["a"]["sync"] == "Synced");
        assert_eq!(starts(&a), round, "{}", keeper.run.stderr());
        let tried = starts(&x);
        // The shortest rest is 7.5 s; on a slow machine the last rounds come after it.
        if round == 2 || stopped.elapsed() < Duration::from_secs(5) {
            assert_eq!(tried, before, "{}", keeper.run.stderr());
        }
    }
    assert_eq!(keeper.status()["converged"], false);
    // One that cannot be started at all is tried ever more rarely too.
    keeper.until("it backs off from the one that cannot be started, between tries", |status| {
        backing_off(status, "y")["cause"].as_str().is_some_and(|cause| cause.contains("/nope"))
    });
    assert!(starts(&id(&world, "y")) <= 1);

    // Mended, they come up at once.
    world.state(&[&world.agent("a", ""), &world.agent("x", ""), &world.agent("y", "")]);
    keeper.converged();
    assert!(world.runs("x") && world.runs("y"));
    assert_eq!(id(&world, "a"), a);
    for agent in ["x", "y"] {
        keeper.says(&format!("agent `{agent}`: recovered"));
    }
    assert_eq!(world.leftovers(), Vec::<String>::new());
}
