//! Stopped in the middle, politely or not: the next run goes on from there, and nothing is left lying about.

use std::time::Duration;

use rustix::process::Signal;

use crate::server::{Reply, Server};
use crate::world::{World, http, id_of, inspect, port, until};

/// Served so slowly that it can be stopped on the way.
async fn slow_publisher(world: &World, pace: Duration) -> Server {
    let dir = world.sandbox.path("published");
    let server = Server::start(move |request| {
        let bytes = std::fs::read(dir.join(request.path.trim_start_matches('/'))).unwrap_or_default();
        let reply = Reply::good(request, &bytes, &format!("\"{}\"", bytes.len()));
        if request.path.ends_with("manifest.json") { reply } else { reply.pace(pace) }
    })
    .await;
    let state = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    let state =
        state.replace("{url: published/vm/manifest.json}", &format!("{{url: \"{}/vm/manifest.json\"}}", server.url));
    world.sandbox.write("steadfast.yaml", state);
    server
}

fn tarball_bytes(world: &World) -> u64 {
    let images = world.sandbox.path("published/vm/images");
    let mut sizes = std::fs::read_dir(images).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    sizes.next().unwrap()
}

/// Killed at a moment that moves through the whole of a replacement, again and again.
#[test]
fn kill_dash_nine_at_any_moment_of_a_replacement() {
    let world = World::new();
    let port = port();
    let agent =
        |value: usize| world.agent("a", &format!("env: {{X: \"{value}\"}}, ports: [\"127.0.0.1:{port}:8080\"]"));
    world.state(&[&agent(0)]);
    world.applied();
    world.state(&[&agent(1)]);
    let whole = world.run("apply").expect(0).took;
    let mut seen_leftovers = 0;
    const MOMENTS: u32 = 14;
    for moment in 0..MOMENTS {
        let value = 2 + moment as usize;
        world.state(&[&agent(value)]);
        let running = world.spawn("apply");
        std::thread::sleep(whole * (moment + 1) / (MOMENTS + 1));
        running.signal(Signal::KILL);
        running.end();
        seen_leftovers += usize::from(!world.leftovers().is_empty());
        // What is left is shown, and the next run clears it up.
        world.run("plan").expect(0);
        let outcome = world.run("apply");
        assert_eq!(outcome.code, 0, "moment {moment}: {}", outcome.stderr);
        assert_eq!(world.leftovers(), Vec::<String>::new(), "moment {moment}");
        assert_eq!(world.ids().into_keys().collect::<Vec<_>>(), [world.name("a")], "moment {moment}");
        let env = world.inspect("a")["Config"]["Env"].to_string();
        assert!(env.contains(&format!("\"X={value}\"")), "moment {moment}: {env}");
        until("it answers", || http(port, "/").is_some());
        assert_eq!(world.apply_kinds(), Vec::<String>::new(), "moment {moment}");
    }
    assert!(seen_leftovers > 0, "no kill came in the middle, so nothing was proved");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_dash_nine_at_any_moment_of_a_first_apply() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    let server = slow_publisher(&world, Duration::from_millis(3)).await;
    let size = tarball_bytes(&world);
    let mut kills = 0;
    loop {
        let mut running = world.spawn("apply");
        std::thread::sleep(Duration::from_millis(120 + 60 * kills));
        let ended = running.has_ended();
        running.signal(Signal::KILL);
        running.end();
        if ended || kills >= 20 {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 3, "{kills} kills: it was over too soon to prove anything");
    world.applied();
    assert!(world.runs("a"));
    assert_eq!(world.leftovers(), Vec::<String>::new());
    assert_eq!(world.ids().len(), 1);
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    let again = server.requests(".tar.gz").iter().skip(1).all(|request| request.from().is_some() || request.nth < 2);
    assert!(again, "resumed, not begun again");
    // Of each kill, at most what was on its way: a MiB.
    assert!(server.sent() < size + (kills + 1) * (1 << 20), "{} bytes were sent for {size}", server.sent());
    assert!(crate::world::files_below(&world.sandbox.root().join("cache")).iter().all(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        !name.contains(".partial") || name.ends_with(".lock")
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_during_a_download_says_what_is_left_and_goes_on_next_time() {
    let world = World::bare();
    world.publish(&[("a", "1.0")]);
    world.state(&[&world.published("a", "1.0")]);
    let server = slow_publisher(&world, Duration::from_millis(10)).await;
    let size = tarball_bytes(&world);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut running = world.spawn("apply");
        let before = server.sent();
        running.until("a part of it", |_| server.sent() > before + size / 8);
        running.signal(signal);
        let outcome = running.end().expect(code);
        assert!(
            outcome.stderr.contains("stopped; left to do: fetch") || outcome.stderr.contains("left to do:"),
            "{}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains("the next run continues from here"), "{}", outcome.stderr);
        assert!(outcome.took < Duration::from_secs(30), "{:?}", outcome.took);
    }
    world.applied();
    assert!(world.runs("a"));
    assert!(server.requests(".tar.gz").last().unwrap().from().is_some(), "resumed");
}

#[test]
fn ctrl_c_during_container_work_finishes_the_step_and_no_more() {
    let world = World::new();
    let agent = |name: &str, value: u8| {
        let line = "trap 'sleep 1; exit 0' TERM; while true; do sleep 0.1; done";
        world.agent(name, &format!("env: {{X: \"{value}\"}}, command: [sh, -c, \"{line}\"]"))
    };
    let state = |value: u8| world.state(&[&agent("a", value), &agent("b", value)]);
    state(1);
    world.applied();
    state(2);
    let mut running = world.spawn("apply --parallel 1");
    running.until("a step is under way", |_| !world.leftovers().is_empty());
    running.signal(Signal::INT);
    let outcome = running.end().expect(130);
    assert!(outcome.stderr.contains("stopping: steps in flight on containers are finished"), "{}", outcome.stderr);
    assert_eq!(world.leftovers(), Vec::<String>::new(), "the step was finished");
    assert!(world.runs("a") && world.runs("b"));
    let values = ["a", "b"].map(|name| world.inspect(name)["Config"]["Env"].to_string().contains("\"X=2\""));
    // While one waits for its predecessor's end, the other may have begun: then that is finished too.
    let done = values.iter().filter(|done| **done).count();
    assert!(done >= 1, "what was begun is finished");
    assert_eq!(done < 2, outcome.stderr.contains("left to do: "), "{}", outcome.stderr);
    assert_eq!(world.apply_kinds(), vec!["replaceContainer"; 2 - done], "and nothing else was begun");
}

#[test]
fn a_second_ctrl_c_stops_at_once_and_is_repaired_too() {
    let world = World::new();
    let agent = |value: u8| {
        let line = "trap '' TERM; while true; do sleep 0.1; done";
        world.agent("a", &format!("env: {{X: \"{value}\"}}, command: [sh, -c, \"{line}\"]"))
    };
    world.state(&[&agent(1)]);
    world.applied();
    world.state(&[&agent(2)]);
    let mut running = world.spawn("apply");
    running.until("a step is under way", |_| !world.leftovers().is_empty());
    running.signal(Signal::INT);
    running.until("it was heard", |running| running.stderr().contains("a second signal stops at once"));
    running.signal(Signal::INT);
    let outcome = running.end().expect(130);
    assert!(outcome.took < Duration::from_secs(9), "{:?}", outcome.took);
    world.run("apply").expect(0);
    assert_eq!((world.leftovers(), world.runs("a")), (Vec::new(), true));
}

/// Neither the end of the time nor one Ctrl-C leaves a successor that has not proved itself in the place of one that has.
#[test]
fn what_served_serves_on_when_its_successor_is_not_waited_for() {
    let world = World::new();
    let agent = |test: &str| world.agent("a", &format!("healthcheck: {{test: [CMD, {test}], interval: 30s}}"));
    world.state(&[&agent("\"true\"")]);
    world.applied();
    let (name, serves) = (world.name("a"), id_of(&world.name("a")));
    world.state(&[&agent("\"false\"")]);

    world.run("apply --timeout 12s").expect(4).says("it did not become healthy in time");
    assert_eq!((id_of(&name), world.runs("a"), world.leftovers()), (serves.clone(), true, Vec::new()));

    let mut running = world.spawn("apply");
    running.until("the successor is watched", |_| {
        inspect(&name).is_some_and(|seen| seen["Id"] != serves.as_str() && seen["State"]["Running"] == true)
    });
    running.signal(Signal::INT);
    let outcome = running.end().expect(130).says("left to do: replace container");
    assert!(outcome.took < Duration::from_secs(30), "{:?}", outcome.took);
    assert_eq!((id_of(&name), world.runs("a"), world.leftovers()), (serves, true, Vec::new()));
}

#[test]
fn ctrl_c_while_waiting_for_health_leaves_what_runs() {
    let world = World::new();
    world.state(&[&world.agent("a", "healthcheck: {test: [CMD, \"false\"], interval: 1s, retries: 1000}")]);
    let mut running = world.spawn("apply");
    running.until("it waits", |running| running.stderr().contains("waiting for health: a"));
    running.signal(Signal::INT);
    let outcome = running.end().expect(130);
    assert!(outcome.took < Duration::from_secs(30), "{:?}", outcome.took);
    assert!(world.runs("a"));
}
