//! Sessions that a state file declares: begun, kept as declared, and given up.

use std::time::Duration;

use serde_json::{Value, json};

use crate::killed::kill_keeper;
use crate::requests::Proxy;
use crate::sessions::{listed, start};
use crate::support::command::Outcome;
use crate::world::{SOON, World, kinds, nap, processes_with, until};

/// Writes the state file with the agent `coder`: fields of its container, and others of its own.
pub fn declare(world: &World, container: &str, more: &str) {
    let owner = &world.owner;
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    world.state(&[&format!(
        "coder: {{version: \"1\", image: localhost/{owner}, source: local, {SOON}, container: {{{container}}}{more}}}"
    )]);
}

/// How the agent is, as `status` tells it.
#[track_caller]
pub fn coder(world: &World) -> Value {
    world.run("status -o json").json()["agents"]["coder"].clone()
}

/// How one of its sessions is.
#[track_caller]
pub fn session(world: &World, name: &str) -> Value {
    coder(world)["sessions"][name].clone()
}

/// The process of a session that runs.
#[track_caller]
pub fn pid(world: &World, name: &str) -> i64 {
    let session = session(world, name);
    assert_eq!(session["status"], "running", "{name}: {session}");
    session["pid"].as_i64().expect("a process")
}

/// Each step and what it is done to.
#[track_caller]
pub fn steps(report: &Value) -> Vec<String> {
    let actions = report["actions"].as_array().unwrap_or_else(|| panic!("no actions: {report}"));
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    actions.iter().map(|action| format!("{} {}", word(&action["kind"]), word(&action["target"]))).collect()
}

/// The messages of the problems of an `apply` that could not do all.
#[track_caller]
pub fn problems(outcome: &Outcome) -> Vec<String> {
    let report = outcome.json();
    assert_eq!(report["converged"], false, "{report}");
    let problems = report["problems"].as_array().expect("problems").clone();
    problems.iter().map(|problem| problem["message"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Nothing is left to do.
#[track_caller]
pub fn is_settled(world: &World) {
    let again = world.applied();
    assert_eq!((kinds(&again), &again["converged"]), (Vec::new(), &json!(true)), "{again}");
}

/// What a session has printed.
#[track_caller]
pub fn said(world: &World, name: &str) -> String {
    world.run(format!("session logs coder/{name}")).expect(0).stdout
}

/// A session that sleeps; the number tells its process.
fn sleeps(name: &str, nap: &str) -> String {
    format!("{name}: {{command: [sh, -c, \"echo begun; exec sleep {nap}\"]}}")
}

#[test]
fn a_workspace_comes_first_then_its_session_and_then_nothing() {
    let world = World::new();
    world.sandbox.write("repo/file", "text\n");
    let owner = world.owner.clone();
    declare(
        &world,
        "",
        "workspaces: {repo: {source: ./repo, target: /root/repo}}, sessions: {pi: {command: [sh, -c, \"cat file; pwd; echo $MODE; \
         cat\"], cwd: /root/repo, env: {MODE: rpc}, requires: [sh, cat]}, other: {command: [sleep, \"1000\"], stdin: closed}}",
    );
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(steps(&plan), [format!("createContainer {owner}-coder")]);
    let waits = plan["waiting"].as_array().expect("a list").iter();
    let waits: Vec<_> = waits.map(|wait| [&wait["kind"], &wait["target"], &wait["on"]].map(Value::as_str)).collect();
    let (prepare, start, on) = (Some("prepareWorkspace"), Some("startSession"), Some("agent"));
    let wanted = [[prepare, Some("coder/repo"), on], [start, Some("coder/other"), on], [start, Some("coder/pi"), on]];
    assert_eq!(waits, wanted, "{plan}");

    let report = world.applied();
    assert_eq!(report["converged"], true, "{report}");
    let steps = steps(&report);
    let at = |step: &str| steps.iter().position(|one| one == step).unwrap_or_else(|| panic!("no {step}: {steps:?}"));
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert_eq!(at(&format!("createContainer {owner}-coder")), 0);
    assert!(at("prepareWorkspace coder/repo") < at("startSession coder/pi"));
    assert!(at("startSession coder/other") > 0);
    is_settled(&world);
    assert_eq!(kinds(&world.run("plan -o json --detailed-exitcode").expect(0).json()), Vec::<String>::new());

    let agent = coder(&world);
    assert_eq!((&agent["ready"], &agent["sync"]), (&json!(true), &json!("Synced")), "{agent}");
    let pi = &agent["sessions"]["pi"];
    assert_eq!((&pi["status"], &pi["declared"], &pi["restarts"]), (&json!("running"), &json!(true), &json!(0)), "{pi}");
    assert!(pi["pid"].is_i64() && pi["startedAt"].is_string() && pi["idleMs"].is_u64() && pi["exit"].is_null(), "{pi}");
    let repo = &agent["workspaces"]["repo"];
    assert_eq!(
        (&repo["status"], &repo["target"], &repo["kept"], &repo["commit"]),
        (&json!("prepared"), &json!("/root/repo"), &json!(0), &Value::Null),
        "{repo}"
    );
    assert!(repo["preparedAt"].is_string() && repo["source"].as_str().unwrap().ends_with("/work/repo"), "{repo}");
    assert_eq!(said(&world, "pi"), "text\n/root/repo\nrpc\n");
    world.run(["session", "send", "coder/pi", "hello\n", "--eof"]).expect(0);
    world.run("session wait coder/pi").expect(0);
    assert!(said(&world, "pi").ends_with("\nhello\n"));
    // It ended well, and stays so.
    is_settled(&world);
    assert_eq!(session(&world, "pi")["status"], "exited");
}

#[test]
fn a_changed_session_is_restarted_alone_and_only_by_what_can_be_started() {
    let world = World::new();
    let naps = [1, 2, 3].map(|number| nap(70 + number));
    let state = |first: &str| declare(&world, "", &format!("sessions: {{{first}, {}}}", sleeps("b", &naps[1])));
    state(&sleeps("a", &naps[0]));
    world.applied();
    let (container, b) = (world.ids(), pid(&world, "b"));
    state(&sleeps("a", &naps[2]));
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(steps(&plan), ["startSession coder/a"]);
    let changes = plan["actions"][0]["changes"].to_string();
    assert!(changes.contains("sessions.a.command"), "{plan}");
    assert_eq!(steps(&world.applied()), ["startSession coder/a"]);
    assert_eq!((pid(&world, "b"), world.ids()), (b, container.clone()), "the other one and the container go on");
    let running = naps.each_ref().map(|nap| processes_with(nap));
    assert_eq!(running, [0, 1, 1], "its predecessor has ended");
    is_settled(&world);

    let a = pid(&world, "a");
    let wrong = [
        ("a: {command: [nosuch]}", "not on the PATH in coder: nosuch"),
        ("a: {command: [sleep, \"1\"], cwd: /no/where}", "cwd /no/where does not exist in coder"),
        (
            "a: {command: [/no/pi], cwd: /no/where, requires: [git, sh, pi]}",
            "cwd /no/where does not exist in coder; not on the PATH in coder: git, pi; command /no/pi does not exist in coder",
        ),
    ];
    for (first, message) in wrong {
        state(first);
        let outcome = world.run("apply -o json");
        assert_ne!(outcome.code, 0, "{}", outcome.shown());
        let told = problems(&outcome);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0], format!("session `coder/a` cannot be started: {message}"));
        assert_eq!((pid(&world, "a"), pid(&world, "b")), (a, b), "what runs goes on");
        assert_eq!(coder(&world)["ready"], false);
    }
    state(&sleeps("a", &naps[2]));
    is_settled(&world);
    assert_eq!(pid(&world, "a"), a);
}

#[test]
fn each_field_that_is_changed_restarts_its_session_and_what_says_the_same_does_not() {
    let world = World::new();
    let state = |more: &str| declare(&world, "", &format!("sessions: {{a: {{command: [sleep, \"1000\"]{more}}}}}"));
    state("");
    world.applied();
    // What is looked at before a start alone, and what its keeper has no part in, makes it no other session.
    let same = [
        "stdin: pipe",
        "tty: false",
        "restart: on-failure",
        "env: {}",
        "requires: [sh]",
        "log: {maxSize: 8MiB}",
        "idle: {after: 1h, do: notify}",
    ];
    for field in same {
        state(&format!(", {field}"));
        is_settled(&world);
    }
    let changed = [
        "stdin: closed",
        "tty: true",
        "restart: always",
        "env: {A: b}",
        "log: {maxSize: 64KiB}",
        "cwd: /bin",
        "user: \"1234\"",
        "idle: {after: 1h, do: stop}",
        "idle: {after: 2h, do: stop}",
    ];
    for field in changed {
        state(&format!(", {field}"));
        assert_eq!(steps(&world.applied()), ["startSession coder/a"], "{field}");
        is_settled(&world);
    }
}

#[test]
fn what_is_declared_no_more_is_stopped_and_nobody_looks_again() {
    let mut world = World::new();
    let socket = world.sandbox.path("proxy.sock");
    let counted = Proxy::start(&socket);
    world.sandbox.set("CONTAINER_HOST", format!("unix://{}", socket.display()));
    let naps = [1, 2].map(|number| nap(80 + number));
    let both = format!("sessions: {{{}, {}}}", sleeps("a", &naps[0]), sleeps("b", &naps[1]));
    declare(&world, "", &both);
    world.applied();
    start(&world, "mine", &[], "exec sleep 1000");
    let mine = pid(&world, "mine");
    is_settled(&world);

    declare(&world, "", &format!("sessions: {{{}}}", sleeps("a", &naps[0])));
    assert_eq!(steps(&world.applied()), ["stopSession coder/b"]);
    let left = || world.run("exec coder -- ls /run/steadfast/sessions").expect(0).stdout;
    assert_eq!((left(), processes_with(&naps[1])), ("a\nmine\n".to_owned(), 0));
    is_settled(&world);

    declare(&world, "", "");
    assert_eq!(kinds(&world.run("apply -o json --no-prune").expect(0).json()), Vec::<String>::new(), "it is kept");
    assert_eq!(processes_with(&naps[0]), 1);
    assert_eq!(steps(&world.applied()), ["stopSession coder/a"]);
    assert_eq!((left(), processes_with(&naps[0])), ("mine\n".to_owned(), 0));
    assert_eq!(world.run("session list -o json").expect(0).json()["sessions"][0]["pid"], mine);
    // From now on it costs what an agent without sessions costs.
    for verb in ["apply", "plan", "status"] {
        counted.take();
        world.run(verb).expect(0);
        let asked = counted.take();
        assert!(!asked.is_empty() && !asked.iter().any(|line| line.contains("/exec")), "{verb}: {asked:#?}");
    }
}

#[test]
fn one_by_hand_of_a_declared_name_is_not_fought() {
    let world = World::new();
    declare(&world, "", "");
    world.applied();
    start(&world, "pi", &[], "exec sleep 1000");
    let by_hand = listed(&world, "pi")["pid"].as_i64().expect("it runs");
    declare(&world, "", "sessions: {pi: {command: [sleep, \"1000\"]}, other: {command: [sleep, \"1000\"]}}");
    let outcome = world.run("apply -o json").expect(1);
    assert_eq!(steps(&outcome.json()), ["startSession coder/other"]);
    assert!(outcome.stderr.contains("`steadfast session rm --force coder/pi`"), "{}", outcome.shown());
    let told = "session `coder/pi` was started by hand and runs";
    assert!(problems(&outcome).iter().any(|problem| problem == told), "{}", outcome.shown());
    let plan = world.run("plan -o json").json();
    let wait = &plan["waiting"][0];
    assert_eq!((&wait["on"], &wait["blocked"]), (&json!("session"), &json!(true)), "{plan}");
    assert_eq!(pid(&world, "pi"), by_hand);
    let agent = coder(&world);
    assert_eq!((&agent["ready"], &agent["sessions"]["pi"]["declared"]), (&json!(false), &json!(false)), "{agent}");

    world.run("session rm --force coder/pi").expect(0);
    assert_eq!(steps(&world.applied()), ["startSession coder/pi"]);
    start(&world, "mine", &[], "exec sleep 1000");
    let list = world.run("session list").expect(0).stdout;
    for (name, kind) in [("coder/mine", " ad hoc "), ("coder/other", " declared "), ("coder/pi", " declared ")] {
        assert!(list.lines().any(|line| line.starts_with(name) && line.contains(kind)), "{name}{kind}\n{list}");
    }
    is_settled(&world);
}

#[test]
fn a_replaced_container_is_prepared_again_and_its_sessions_wait_until_it_is_healthy() {
    let world = World::new();
    world.sandbox.write("repo/file", "text\n");
    let state = |value: u8| {
        declare(
            &world,
            &format!(
                "env: {{X: \"{value}\"}}, command: [sh, -c, \"sleep 2; busybox date +%s > /tmp/well; exec /agent\"], healthcheck: {{test: \
                 [CMD, cat, /tmp/well], interval: 1s, retries: 100}}"
            ),
            "workspaces: {repo: {source: ./repo, target: /root/repo}}, sessions: {pi: {command: [sh, -c, \"echo $(cat /tmp/well) \
             $(busybox date +%s) $(cat file); exec sleep 1000\"], cwd: /root/repo}}",
        );
    };
    for (value, first) in [(1, "createContainer"), (2, "replaceContainer")] {
        state(value);
        let report = world.applied();
        assert_eq!(
            (kinds(&report).as_slice(), &report["converged"]),
            (&[first, "prepareWorkspace", "startSession"].map(str::to_owned)[..], &json!(true))
        );
        let said = said(&world, "pi");
        let [well, began, "text"] = said.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{said}") };
        let [well, began] = [well, began].map(|at| at.parse::<u64>().expect("a time"));
        assert!(well <= began, "it began before its agent was well: {said}");
        is_settled(&world);
    }
}

#[test]
fn what_died_with_its_container_or_its_keeper_comes_back_once() {
    let world = World::new();
    let naps = [1, 2].map(|number| nap(90 + number));
    declare(&world, "", &format!("sessions: {{{}, {}}}", sleeps("a", &naps[0]), sleeps("b", &naps[1])));
    world.applied();
    let container = world.ids();
    let (status, said) =
        crate::world::api("POST", &format!("/v4.0.0/libpod/containers/{}/restart?t=5", world.name("coder")), b"");
    assert_eq!(status, 204, "{said}");
    let lost = session(&world, "a");
    assert_eq!(lost["status"], "lost", "{lost}");
    assert!(lost["message"].as_str().unwrap().contains("lost"), "{lost}");
    let mut report = world.applied();
    report["actions"].as_array_mut().unwrap().sort_by_key(|action| action["target"].to_string());
    assert_eq!(steps(&report), ["startSession coder/a", "startSession coder/b"]);
    assert_eq!((naps.each_ref().map(|nap| processes_with(nap)), world.ids()), ([1, 1], container));
    is_settled(&world);

    let b = pid(&world, "b");
    kill_keeper(&world, "a");
    until("its command is gone", || processes_with(&naps[0]) == 0);
    assert_eq!(steps(&world.applied()), ["startSession coder/a"]);
    assert_eq!((processes_with(&naps[0]), pid(&world, "b")), (1, b));
    is_settled(&world);
}

#[test]
fn how_a_session_ended_decides_whether_it_is_started_again() {
    let world = World::new();
    declare(
        &world,
        "",
        "sessions: {no: {command: [sh, -c, \"read x; exit 1\"], restart: no}, failure: {command: [sh, -c, \"read x; exit 0\"]}, stopped: \
         {command: [sleep, \"1000\"]}, once: {command: [sleep, \"1000\"], restart: no}, always: {command: [sleep, \"1000\"], restart: always}, \
         idle: {command: [sleep, \"1000\"], restart: always, idle: {after: 2s, do: stop}}}",
    );
    world.applied();
    for name in ["no", "failure"] {
        world.run(["session", "send", &format!("coder/{name}"), "go\n"]).expect(0);
        let _ = world.run(format!("session wait coder/{name}"));
    }
    for name in ["stopped", "once", "always"] {
        world.run(format!("session stop coder/{name}")).expect(0);
    }
    until("it is stopped since it is idle", || session(&world, "idle")["status"] == "exited");
    let outcome = world.run("apply -o json");
    let mut taken = steps(&outcome.json());
    taken.sort();
    assert_eq!(taken, ["startSession coder/always", "startSession coder/stopped"], "{}", outcome.shown());
    let agent = coder(&world);
    let of = |name: &str| &agent["sessions"][name];
    assert_eq!((&of("no")["exit"]["code"], &of("failure")["exit"]["code"]), (&json!(1), &json!(0)), "{agent}");
    assert_eq!(of("idle")["message"], "was stopped since it was idle", "{agent}");
    assert_eq!(agent["ready"], false, "one of its sessions failed: {agent}");
    assert_eq!(outcome.code, 3, "{}", outcome.shown());
    assert!(problems(&outcome).iter().any(|told| told.contains("coder/no")), "{}", outcome.shown());
}

#[test]
fn a_session_that_fails_at_once_is_told_with_what_it_said() {
    let world = World::new();
    declare(&world, "", "sessions: {a: {command: [sh, -c, \"echo because; exit 7\"], restart: no}}");
    let outcome = world.run("apply -o json");
    assert_ne!(outcome.code, 0);
    let told = problems(&outcome);
    assert!(
        told.iter().any(|told| told.contains("coder/a") && told.contains("because") && told.contains('7')),
        "{told:?}"
    );
    declare(&world, "", "sessions: {a: {command: [sh, -c, \"echo because; exit 0\"]}}");
    assert_eq!(steps(&world.applied()), ["startSession coder/a"]);
    is_settled(&world);
}

#[test]
fn another_user_than_the_image_s_keeps_its_sessions() {
    let world = World::bare();
    world.load(&world.image("1").config("User", json!("1234:56")));
    world.sandbox.write("repo/file", "text\n");
    declare(
        &world,
        "",
        "workspaces: {repo: {source: ./repo, target: /tmp/repo}, fixed: {source: ./repo, target: /tmp/fixed, readOnly: true}}, sessions: \
         {mine: {command: [sh, -c, \"busybox id -u; echo more >> file; cat file; exec sleep 1000\"], cwd: /tmp/repo}, root: {command: [sh, -c, \
         \"busybox id -u; exec sleep 1000\"], user: \"0\"}, fixed: {command: [sh, -c, \"echo more >> file; cat file; exec sleep 1000\"], cwd: \
         /tmp/fixed}}",
    );
    world.applied();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((said(&world, "mine").as_str(), said(&world, "root").as_str()), ("1234\ntext\nmore\n", "0\n"));
    assert_eq!(said(&world, "fixed"), "text\n");
    is_settled(&world);
    declare(&world, "", "");
    assert_eq!(kinds(&world.applied()), ["stopSession"; 3]);
    is_settled(&world);
    assert_eq!(world.run("session list").expect(0).stdout, "no sessions\n");
}

#[test]
fn an_agent_that_is_stopped_suspended_or_gone_takes_its_sessions_along() {
    let world = World::new();
    world.sandbox.write("repo/file", "text\n");
    let naps = [1, 2].map(|number| nap(140 + number));
    let state = |more: &str, session: &str| {
        let workspace = "workspaces: {repo: {source: ./repo, target: /root/repo}}";
        declare(&world, "", &format!("{more}{workspace}, sessions: {{{session}}}"));
    };
    let [first, second] = naps.each_ref().map(|nap| sleeps("pi", nap));
    state("", &first);
    world.applied();
    let runs = || naps.each_ref().map(|nap| processes_with(nap));
    assert_eq!(runs(), [1, 0]);

    state("suspend: true, ", &second);
    is_settled(&world);
    assert_eq!((runs(), session(&world, "pi")["status"].clone()), ([1, 0], json!("running")));
    state("state: stopped, ", &second);
    assert_eq!(kinds(&world.applied()), ["stopContainer"]);
    is_settled(&world);
    assert_eq!((runs(), session(&world, "pi")["status"].clone()), ([0, 0], json!("absent")));
    state("", &second);
    assert_eq!(kinds(&world.applied()), ["startContainer", "startSession"]);
    assert_eq!(runs(), [0, 1]);
    is_settled(&world);

    world.run("down").expect(0);
    assert_eq!(runs(), [0, 0]);
    assert_eq!(kinds(&world.applied()), ["createContainer", "prepareWorkspace", "startSession"]);
    assert_eq!(runs(), [0, 1]);
    is_settled(&world);
    // Gone for good, nothing is remembered of it.
    world.state(&[&world.agent("other", "")]);
    let mut taken = kinds(&world.applied());
    taken.sort();
    assert_eq!((taken, runs()), (vec!["createContainer".to_owned(), "removeContainer".to_owned()], [0, 0]));
    for memory in ["sessions", "workspaces"] {
        let left = crate::world::files_below(&world.state_dir().join(memory));
        let left: Vec<_> = left
            .iter()
            .filter(|path| path.is_file() && path.extension().is_none_or(|ending| ending != "lock"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn looking_leaves_nothing_in_an_agent() {
    let world = World::new();
    declare(&world, "", "");
    world.applied();
    declare(&world, "", &format!("sessions: {{{}}}", sleeps("a", &nap(79))));
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(steps(&plan), ["startSession coder/a"]);
    assert_eq!(session(&world, "a")["status"], "absent");
    world.run("exec coder -- ls /run/steadfast").expect(1);
    world.applied();
    assert_eq!(session(&world, "a")["status"], "running");
    world.run("exec coder -- ls /run/steadfast").expect(0);
}
