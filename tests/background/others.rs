//! Other commands while `run` keeps the state file.

use crate::keeper::{Keeper, id, kill, starts};
use crate::world::{World, until};

#[test]
fn who_comes_second_is_reported_who_is_there() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    let pid = format!("pid {}", keeper.run.pid());
    for verb in ["run --lock-timeout 1h", "down"] {
        let refused = world.run(verb).expect(5).says("steadfast run").says(&pid);
        assert!(refused.took < std::time::Duration::from_secs(3), "nobody waits for it: {:?}", refused.took);
    }
    world.run("apply").expect(0);
    // Those who only observe need no lock.
    world.run("plan --detailed-exitcode").expect(0);
    world.run("logs a --tail 1").expect(0);
    world.run("exec a -- true").expect(0);
    assert_eq!((world.ids(), starts(&id(&world, "a"))), (ids, 1));
    keeper.converged();

    // Once it is gone, the next one has it.
    keeper.stop();
    world.run("apply").expect(0);
    let keeper = Keeper::start(&world, "");
    keeper.stop();
    world.run("down").expect(0);
    assert!(world.ids().is_empty());
}

#[test]
fn apply_has_it_done_and_says_what_came_of_it() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    let mut keeper = Keeper::start(&world, "--debounce 1h");
    assert_eq!(keeper.looked()["actions"], serde_json::json!([]));
    // What was edited before it was asked is in its answer.
    for round in 0..3 {
        world.state(&[&world.agent("a", &format!("env: {{X: \"{round}\"}}")), &world.agent("b", "")]);
        let report = keeper.looked();
        assert_eq!(report["converged"], true, "{report}");
        let env = world.inspect("a")["Config"]["Env"].to_string();
        assert!(world.runs("a") && env.contains(&format!("\"X={round}\"")), "{env}");
        let kinds = crate::world::kinds(&report);
        assert!(kinds.contains(&"replaceContainer".to_owned()), "{report}");
    }
    assert!(world.runs("b"));
    // So is what cannot be done.
    world.state(&[&world.agent("a", "env: {X: \"2\"}"), &world.agent("b", "command: [/nope]")]);
    let refused = world.run("apply");
    assert!(refused.code != 0 && refused.stderr.contains("/nope"), "{refused:?}");
    assert!(world.runs("a"));
    keeper.until("it tells so too", |status| status["converged"] == false);
}

#[test]
fn apply_no_wait_is_handed_over() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    let mut keeper = Keeper::start(&world, "--debounce 1h");
    // Its predecessor takes ten seconds to stop.
    let deaf = |word: &str| world.agent("a", &format!("env: {{WORD: \"{word}\"}}, command: [sleep, \"1000000\"]"));
    world.state(&[&deaf("1")]);
    keeper.looked();
    world.state(&[&deaf("2")]);
    let handed = world.run("apply --no-wait").expect(0);
    assert!(handed.stdout.contains("handed over to `steadfast run`"), "{}", handed.stdout);
    assert!(handed.took < std::time::Duration::from_secs(8), "{:?}", handed.took);
    let status = keeper.status();
    let condition = &status["agents"]["a"]["conditions"][0];
    assert_eq!(condition["reason"], "Replacing", "{condition}");
    // Who comes when it is under way already hears of it too.
    let waited = world.run("apply").expect(0);
    assert!(waited.stderr.contains("under way for 10s"), "{}", waited.stderr);
    keeper.until("it is done", |status| status["converged"] == true);
    assert!(world.inspect("a")["Config"]["Env"].to_string().contains("WORD=2"));
}

#[test]
fn status_watch_follows_it() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    let mut keeper = Keeper::start(&world, "");
    let mut watching = world.spawn("status --watch -o json");
    let last = |said: &str| {
        let said = said.rsplit_once('\n').map_or("", |(whole, _)| whole).to_owned();
        let last =
            serde_json::Deserializer::from_str(&said).into_iter::<serde_json::Value>().map_while(Result::ok).last();
        last.unwrap_or_default()
    };
    watching.until("the first view", |watching| last(&watching.stdout())["converged"] == true);
    assert_eq!(last(&watching.stdout())["run"]["pid"], keeper.run.pid());
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    watching.until("the new one", |watching| last(&watching.stdout())["agents"]["b"]["ready"] == true);
    let path = world.sandbox.path("steadfast.yaml");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, "nonsense").unwrap();
    watching.until("the bad edit", |watching| last(&watching.stdout())["run"]["stateFileError"].is_object());
    std::fs::write(&path, good).unwrap();
    keeper.converged();
    // It goes on by itself when `run` is gone.
    keeper.stop();
    kill(&world, "a");
    watching.until("it looks by itself", |watching| {
        let view = last(&watching.stdout());
        view["run"].is_null() && view["agents"]["a"]["ready"] == false
    });
    until("it is still so", || !world.runs("a"));
}
