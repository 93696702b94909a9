//! Sessions and workspaces that a state file declares, while `run` keeps it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::declared::{declare, pid, session};
use crate::keeper::Keeper;
use crate::killed::kill_keeper;
use crate::requests::Proxy;
use crate::sessions::{listed, start};
use crate::world::{World, nap, pids_with, processes_with, until};

/// So soon `run` has noticed what happened to a session.
const SOON: Duration = Duration::from_secs(5);

/// Waits until something is so, which must be soon.
#[track_caller]
fn soon(what: &str, is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    until(what, is_so);
    assert!(began.elapsed() < SOON, "{what}: only after {:?}", began.elapsed());
}

/// Its keeper is killed, and its command with it; soon there is another one, and nobody has asked for it.
#[track_caller]
fn comes_back(world: &World, name: &str, nap: &str) {
    let before = pids_with(nap);
    assert_eq!(before.len(), 1, "{before:?}");
    kill_keeper(world, name);
    soon("it is started again", || {
        let now = pids_with(nap);
        now.len() == 1 && now != before
    });
}

fn sleeps(name: &str, nap: &str) -> String {
    format!("{name}: {{command: [sh, -c, \"echo begun; exec sleep {nap}\"]}}")
}

/// What the journal has of an event.
fn journal(world: &World, event: &str) -> Vec<Value> {
    let all = world.run("history -o json").expect(0).json();
    all.as_array().expect("a list").iter().filter(|entry| entry["event"] == event).cloned().collect()
}

/// How often a session was started.
fn starts(world: &World, session: &str) -> usize {
    let steps = journal(world, "step");
    steps.iter().filter(|step| step["kind"] == "startSession" && step["target"] == session).count()
}

#[test]
fn what_died_comes_back_and_what_failed_is_told_and_nobody_asks_meanwhile() {
    let mut world = World::new();
    let socket = world.sandbox.path("proxy.sock");
    let counted = Proxy::start(&socket);
    world.sandbox.set("CONTAINER_HOST", format!("unix://{}", socket.display()));
    // A manifest that cannot be had would be asked for again.
    world.publish(&[]);
    let naps = [1, 2].map(|number| nap(110 + number));
    let b = "b: {command: [sh, -c, \"read x; echo because; exit 1\"], restart: no}";
    declare(&world, "", &format!("sessions: {{{}, {b}, {}}}", sleeps("a", &naps[0]), sleeps("c", &naps[1])));
    let mut keeper = Keeper::start(&world, "-vv");
    let c = pid(&world, "c");

    // An observation that was asked for may still be under way.
    std::thread::sleep(Duration::from_secs(2));
    counted.take();
    let before = keeper.run.stderr().len();
    std::thread::sleep(Duration::from_secs(6));
    // Podman tells of the images of other tests too.
    let looks = counted.take().iter().filter(|line| line.contains("/exec HTTP")).count();
    let said = keeper.run.stderr()[before..].to_owned();
    let woken = said.matches("asked_by=\"podman\"").count();
    assert!(looks <= woken + 1, "nothing happens, and it looks {looks} times\n{said}");
    assert_eq!(said.matches("asked_by=").count(), woken, "nothing happens, and it looks\n{said}");

    for round in 2..4 {
        comes_back(&world, "a", &naps[0]);
        keeper.converged();
        assert_eq!((starts(&world, "coder/a"), processes_with(&naps[0])), (round, 1), "{}", keeper.run.stderr());
    }

    let before = keeper.run.stderr().len();
    world.run(["session", "send", "coder/b", "go\n"]).expect(0);
    soon("it is told", || keeper.run.stderr()[before..].contains("session `coder/b` exited with code 1"));
    let agent = keeper.status()["agents"]["coder"].clone();
    assert_eq!((&agent["ready"], &agent["sessions"]["b"]["status"]), (&json!(false), &json!("exited")), "{agent}");
    let told = keeper.until("its last words", |status| status["agents"]["coder"]["lastLog"] == "because");
    assert_eq!(told["agents"]["coder"]["sessions"]["b"]["exit"]["code"], 1, "{told}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(keeper.times_said("session `coder/b` exited with code 1"), 1, "{}", keeper.run.stderr());
    assert_eq!((pid(&world, "c"), starts(&world, "coder/b"), starts(&world, "coder/c")), (c, 1, 1));
}

#[test]
fn a_session_that_is_idle_is_told_once_each_time() {
    let world = World::new();
    declare(&world, "", "sessions: {a: {command: [cat], idle: {after: 2s, do: notify}}, b: {command: [cat]}}");
    let mut keeper = Keeper::start(&world, "");
    let line = "session `coder/a` is idle: nothing was printed or sent for 2s";
    keeper.says(line);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(keeper.times_said("is idle"), 1, "{}", keeper.run.stderr());
    let entries = journal(&world, "sessionIdle");
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!((&entries[0]["session"], &entries[0]["afterMs"]), (&json!("coder/a"), &json!(2000)));
    assert_eq!(
        (session(&world, "a")["idle"].clone(), session(&world, "b")["idle"].clone()),
        (json!(true), Value::Null)
    );
    // It is not idle any more, and then it is again.
    std::thread::sleep(Duration::from_secs(4));
    world.run(["session", "send", "coder/a", "hello\n"]).expect(0);
    keeper.run.until("it is idle again", |run| run.stderr().matches(line).count() == 2);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((keeper.times_said("is idle"), journal(&world, "sessionIdle").len()), (2, 2), "{}", keeper.run.stderr());
    keeper.converged();
}

#[test]
fn an_edit_restarts_exactly_its_session_and_a_new_run_restarts_none() {
    let world = World::new();
    world.sandbox.write("repo/file", "one\n");
    let naps = [1, 2, 3].map(|number| nap(120 + number));
    let state = |a: &str| {
        let more = "workspaces: {repo: {source: ./repo, target: /root/repo}}";
        declare(&world, "", &format!("{more}, sessions: {{{a}, {}}}", sleeps("b", &naps[1])));
    };
    state(&sleeps("a", &naps[0]));
    let mut keeper = Keeper::start(&world, "");
    let (b, container) = (pid(&world, "b"), world.ids());
    state(&sleeps("a", &naps[2]));
    soon("it is restarted", || processes_with(&naps[2]) == 1);
    keeper.converged();
    let alive = naps.each_ref().map(|nap| processes_with(nap));
    assert_eq!((alive, pid(&world, "b"), world.ids()), ([0, 1, 1], b, container.clone()));

    // A change of its source is brought when somebody asks.
    world.sandbox.write("repo/file", "two\n");
    keeper.looked();
    assert_eq!(world.run("exec coder -- cat /root/repo/file").expect(0).stdout, "two\n");

    let a = pid(&world, "a");
    keeper.run.signal(Signal::KILL);
    until("it is gone", || keeper.run.has_ended());
    drop(keeper);
    let mut keeper = Keeper::start(&world, "");
    assert_eq!((pid(&world, "a"), pid(&world, "b"), world.ids()), (a, b, container));
    // The new one watches as the first did.
    comes_back(&world, "b", &naps[1]);
    keeper.converged();
    start(&world, "mine", &[], "exec sleep 1000");
    let mine = listed(&world, "mine")["pid"].as_i64().expect("it runs");

    // Given up one by one; what nobody declares stays.
    declare(&world, "", &format!("sessions: {{{}}}", sleeps("a", &naps[2])));
    soon("it is stopped", || processes_with(&naps[1]) == 0);
    declare(&world, "", "");
    soon("it is stopped", || processes_with(&naps[2]) == 0);
    keeper.converged();
    let list = world.run("session list -o json").expect(0).json();
    assert_eq!((&list["sessions"][0]["pid"], list["sessions"].as_array().map(Vec::len)), (&json!(mine), Some(1)));
    keeper.stop();
    assert_eq!(world.run("session list -o json").expect(0).json()["sessions"][0]["pid"], mine);
}

#[test]
fn a_container_that_is_restarted_or_replaced_gets_its_sessions_again() {
    let world = World::new();
    let nap = nap(130);
    let state = |value: u8| {
        declare(&world, &format!("env: {{X: \"{value}\"}}"), &format!("sessions: {{{}}}", sleeps("a", &nap)));
    };
    state(1);
    let mut keeper = Keeper::start(&world, "");
    crate::keeper::kill(&world, "coder");
    until("it runs again", || world.runs("coder") && processes_with(&nap) == 1);
    keeper.converged();
    assert_eq!((processes_with(&nap), starts(&world, "coder/a")), (1, 2), "{}", keeper.run.stderr());
    state(2);
    until("it is replaced", || journal(&world, "step").iter().any(|step| step["kind"] == "replaceContainer"));
    keeper.converged();
    assert_eq!((processes_with(&nap), starts(&world, "coder/a")), (1, 3), "{}", keeper.run.stderr());
    comes_back(&world, "a", &nap);
}
