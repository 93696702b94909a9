//! What cannot run: the sentence with the last log lines, the exit code, and that nothing that ran is lost.

use std::net::TcpListener;

use serde_json::json;

use crate::world::{World, api, http, kinds, port, until};

const EXITS: &str = "command: [sh, -c, \"echo one line; echo the reason >&2; exit 3\"]";

#[test]
fn a_container_that_exits_at_once_is_an_error_with_its_last_words() {
    let world = World::new();
    world.state(&[&world.agent("bad", &format!("{EXITS}, restart: on-failure")), &world.agent("good", "")]);
    let outcome = world.run("apply").expect(3).says("error: agent `bad`: container").says("the reason");
    assert!(outcome.stderr.contains("steadfast logs"), "{}", outcome.stderr);
    assert!(world.runs("good"), "the other agent is not held up");

    // The same as a one-shot: it ended by itself, and stays so.
    let world = World::new();
    world.state(&[&world.agent("job", &format!("{EXITS}, restart: \"no\""))]);
    world.run("apply").expect(3).says("ended at once with exit code 3").says("the reason");
    // And so says every verb, however often it is asked.
    for _ in 0..2 {
        let again = world.run("apply -o json").expect(3).says("the reason").json();
        assert_eq!((&again["converged"], &again["problems"][0]["kind"]), (&json!(false), &json!("failed")), "{again}");
        assert_eq!(kinds(&again), Vec::<String>::new(), "there is nothing to do about it");
        let status = world.run("status -o json").expect(3).json();
        assert_eq!(status["agents"]["job"]["health"], "Failed", "{status}");
        assert!(status["agents"]["job"]["lastLog"].as_str().unwrap().contains("the reason"), "{status}");
        let plan = world.run("plan --detailed-exitcode").expect(0);
        assert!(plan.stdout.starts_with("No changes, but") && plan.stdout.contains("Failed"), "{}", plan.stdout);
        assert_eq!(world.run("plan -o json").expect(0).json()["converged"], false);
        assert!(world.run("doctor").expect(1).stdout.contains("job: Synced, Failed"));
        assert_eq!(world.run("why job -o json").expect(0).json()["ready"], false);
    }
}

/// A container that ends after this time, and that Podman restarts, is in a crash loop from its second end on, at every moment
/// of it and from every verb.
fn is_a_crash_loop(period: &str) {
    let world = World::new();
    let line = format!("echo begins; sleep {period}; echo the reason; exit 3");
    world.state(&[&world.agent("loop", &format!("command: [sh, -c, \"{line}\"]"))]);
    world.run("apply");
    until("it has ended twice", || world.inspect("loop")["RestartCount"].as_u64().is_some_and(|count| count > 1));
    for _ in 0..6 {
        let apply = world.run("apply -o json").expect(3).says("the reason");
        assert_eq!(apply.json()["problems"][0]["kind"], "crashLoop", "{}", apply.stdout);
        let before = world.inspect("loop")["RestartCount"].as_u64().unwrap();
        let status = world.run("status -o json").expect(3).json();
        let agent = &status["agents"]["loop"];
        assert_eq!((&status["converged"], &agent["ready"]), (&json!(false), &json!(false)), "{period}: {status}");
        assert_eq!((&agent["sync"], &agent["health"]), (&json!("Synced"), &json!("Degraded")), "{period}: {status}");
        assert_eq!(agent["conditions"][0]["reason"], "CrashLoop", "{period}: {status}");
        assert!(agent["lastLog"].as_str().unwrap().contains("the reason"), "{period}: {status}");
        let restarts = agent["container"]["restarts"].as_u64().unwrap();
        let after = world.inspect("loop")["RestartCount"].as_u64().unwrap();
        assert!((before..=after).contains(&restarts), "{before} <= {restarts} <= {after}");
        world.run("plan --detailed-exitcode").expect(0);
        assert!(world.run("why loop").expect(0).stdout.contains("CrashLoop"));
        assert!(world.run("doctor").expect(1).stdout.contains("CrashLoop"));
    }
}

#[test]
fn a_crash_loop_of_two_fifths_of_a_second_is_reported_by_every_verb() {
    is_a_crash_loop("0.4");
}

#[test]
fn a_crash_loop_of_two_and_a_half_seconds_is_reported_by_every_verb() {
    is_a_crash_loop("2.5");
}

#[test]
fn a_crash_loop_of_twelve_seconds_is_reported_by_every_verb() {
    is_a_crash_loop("12");
}

#[test]
fn what_was_restarted_once_is_waited_for_and_then_ready() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let pid = i32::try_from(world.inspect("a")["State"]["Pid"].as_i64().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    until("Podman restarted it", || world.inspect("a")["RestartCount"] == 1 && world.runs("a"));
    let status = world.run("status -o json").expect(3).json();
    let agent = &status["agents"]["a"];
    assert_eq!(
        (&agent["health"], &agent["conditions"][0]["reason"]),
        (&json!("Progressing"), &json!("Restarted")),
        "{status}"
    );
    assert_eq!(agent["container"]["restarts"], 1);
    let hasty = world.run("apply --no-wait").expect(0);
    assert!(hasty.stdout.contains("not ready yet: a") && !hasty.stdout.contains("converged"), "{}", hasty.stdout);
    world.run("apply --timeout 2s").expect(3).says("was started again");
    let outcome = world.run("apply -o json").expect(0);
    assert!(outcome.stderr.contains("waiting until it has stayed up for 10s: a"), "{}", outcome.stderr);
    assert_eq!(outcome.json()["converged"], true);
    assert_eq!(kinds(&outcome.json()), Vec::<String>::new());
    world.run("status").expect(0);
}

#[test]
fn the_check_that_an_image_brings_counts_and_is_run() {
    let world = World::new();
    for (version, test) in [("well", "true"), ("sick", "echo the disk is gone; exit 4")] {
        // Without a timeout or retries: what is missing is filled in.
        let check = json!({"Test": ["CMD-SHELL", test], "Interval": 500_000_000});
        world.load(&world.image(version).config("Healthcheck", check));
    }
    let agent = |version: &str| world.agent("a", "").replace("\"1\"", &format!("\"{version}\""));
    world.state(&[&agent("well")]);
    world.applied();
    let status = world.run("status -o json").expect(0).json();
    let told = &status["agents"]["a"];
    assert_eq!((&told["health"], &told["healthCheck"]), (&json!("Healthy"), &json!("image")), "{status}");
    let id = world.ids()[&world.name("a")].clone();
    // A successor that fails its image's check is rolled back.
    world.state(&[&agent("sick")]);
    world.run("apply").expect(4).says("the disk is gone").says("steadfast history a");
    assert!(world.run("history a").expect(0).stdout.contains("the disk is gone"), "its last words are kept");
    assert_eq!(world.ids()[&world.name("a")], id);
    // Without a predecessor it stands, and every verb says what its check printed.
    world.run("down").expect(0);
    world.run("apply").expect(3).says("the disk is gone");
    let status = world.run("status -o json").expect(3).json();
    assert_eq!(status["agents"]["a"]["health"], "Degraded", "{status}");
    assert!(world.run("why a").expect(0).stdout.contains("the disk is gone"));
    assert!(world.run("status").expect(3).stdout.contains("the disk is gone"));
}

#[test]
fn nobody_calls_healthy_what_nobody_checks() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let status = world.run("status -o json").expect(0).json();
    let told = &status["agents"]["a"];
    assert_eq!((&told["health"], &told["healthCheck"]), (&json!("Healthy"), &json!("none")), "{status}");
    let text = world.run("status").expect(0).stdout;
    assert!(text.contains("running") && !text.contains("Healthy"), "{text}");
}

#[test]
fn what_must_fail_is_planned_and_shown_as_blocked() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    world.state(&[
        &world.agent("a", &format!("ports: [\"127.0.0.1:{port}:80\"]")),
        &world.agent("b", "mounts: [{source: /nonexistent/here, target: /data}]"),
    ]);
    let plan = world.run("plan -o json").expect(1).says("is taken").says("does not exist").json();
    assert_eq!(kinds(&plan), Vec::<String>::new(), "{plan}");
    let status = world.run("status -o json").expect(3).json();
    for (agent, why) in [("a", "is taken"), ("b", "does not exist")] {
        let condition = &status["agents"][agent]["conditions"][0];
        assert_eq!(condition["reason"], "Blocked", "{status}");
        assert!(condition["message"].as_str().unwrap().contains(why), "{status}");
    }
    assert!(world.run("doctor").expect(1).stdout.contains("is taken"));
    assert!(world.run("why a").expect(0).stdout.contains("is taken"));
    world.run("apply").expect(1).says("is taken").says("does not exist");
    drop(taken);
    assert_eq!(kinds(&world.run("plan -o json").expect(1).json()), ["createContainer"], "the port is free again");
}

#[test]
fn a_crash_loop_under_unless_stopped_is_not_taken_for_running() {
    let world = World::new();
    world.state(&[&world.agent("loop", "command: [sh, -c, \"echo again; sleep 0.1; exit 1\"]")]);
    let outcome = world.run("apply").expect(3).says("again");
    assert!(outcome.stderr.contains("crash loop") || outcome.stderr.contains("ended at once"), "{}", outcome.stderr);
    assert!(outcome.took.as_secs() < 30, "{:?}", outcome.took);
}

#[test]
fn what_stays_unhealthy_is_not_converged() {
    let world = World::new();
    let check = "healthcheck: {test: [CMD, \"false\"], interval: 500ms, timeout: 2s, retries: 2}";
    world.state(&[&world.agent("sick", check), &world.agent("good", "")]);
    let outcome = world.run("apply -o json").expect(3);
    let report = outcome.json();
    assert_eq!(report["converged"], false);
    assert_eq!(
        (&report["problems"][0]["agent"], &report["problems"][0]["kind"]),
        (&json!("sick"), &json!("unhealthy"))
    );
    outcome.says("is not healthy: its health check failed as often as its retries allow").says("agent listens");
    let status = world.run("status -o json").expect(3).json();
    assert_eq!(status["agents"]["sick"]["health"], "Degraded", "{status}");
    assert!(world.runs("good"));
    // The time may be up before the check is.
    world.run("down").expect(0);
    world.state(&[&world.agent("sick", "healthcheck: {test: [CMD, \"false\"], interval: 1h}")]);
    world.run("apply --timeout 2s").expect(3).says("it did not become healthy in time");
}

#[test]
fn a_successor_that_fails_is_rolled_back_and_the_old_one_runs_again() {
    let world = World::new();
    let port = port();
    let agent = |more: &str| world.agent("a", &format!("ports: [\"127.0.0.1:{port}:8080\"]{more}"));
    world.state(&[&agent("")]);
    world.applied();
    let id = world.inspect("a")["Id"].clone();
    let failing = [
        format!(", {EXITS}"),
        ", command: [/no/such/program]".to_owned(),
        ", healthcheck: {test: [CMD, \"false\"], interval: 500ms, retries: 1}".to_owned(),
    ];
    for more in failing {
        world.state(&[&agent(&more)]);
        let outcome = world.run("apply -o json").expect(4);
        let report = outcome.json();
        assert_eq!(kinds(&report), ["replaceContainer"], "{more}");
        assert_eq!(report["actions"][0]["error"]["kind"], "rolledBack", "{more}: {report}");
        outcome.says("was rolled back: its successor failed");
        assert_eq!(world.inspect("a")["Id"], id, "{more}");
        until("the old one answers", || http(port, "/").is_some());
        assert_eq!(world.leftovers(), Vec::<String>::new(), "{more}");
    }
    world.state(&[&agent("")]);
    assert_eq!(world.apply_kinds(), Vec::<String>::new(), "the old file fits what runs");
}

#[test]
fn a_host_port_that_is_taken_is_named_before_anything_is_made() {
    let world = World::new();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    world.state(&[&world.agent("a", &format!("ports: [\"127.0.0.1:{port}:8080\"]")), &world.agent("b", "")]);
    let refused = world.run("apply").expect(1);
    refused
        .says(&format!("host port 127.0.0.1:{port}:8080/tcp that container `{}` publishes is taken", world.name("a")));
    assert_eq!(world.ids().into_keys().collect::<Vec<_>>(), [world.name("b")], "nothing half-made is left");
    drop(held);
    assert_eq!(world.apply_kinds(), ["createContainer"]);

    // Held by a container of somebody else.
    let other = World::new();
    other.state(&[&other.agent("a", &format!("ports: [\"127.0.0.1:{port}:8080\"]"))]);
    other.run("apply").expect(1).says("is taken");
    assert!(world.runs("a"));
}

#[test]
fn a_missing_bind_source_is_refused_and_not_made() {
    let world = World::new();
    world.state(&[&world.agent("a", "mounts: [{source: ./none, target: /data}]")]);
    let refused = world.run("apply").expect(1);
    let path = world.sandbox.path("none");
    refused.says(&format!("mount source `{}` of container `{}` does not exist", path.display(), world.name("a")));
    assert!(!path.exists(), "Podman would have made a directory of root's");
    assert_eq!(world.ids().len(), 0);
    // On a replacement, what runs goes on running.
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let id = world.inspect("a")["Id"].clone();
    world.state(&[&world.agent("a", "mounts: [{source: ./none, target: /data}]")]);
    world.run("apply").expect(1);
    assert_eq!((&world.inspect("a")["Id"], world.runs("a")), (&id, true));
    world.sandbox.write("none/file", "there now");
    world.applied();
    let read = world.run("exec a -- cat /data/file").expect(0);
    assert_eq!(read.stdout, "there now");
}

#[test]
fn a_local_image_that_is_not_there_says_how_to_get_it() {
    let world = World::bare();
    world.state(&[&world.agent("a", "")]);
    let image = format!("localhost/{}:1", world.owner);
    world.run("apply").expect(1).says(&format!("image `{image}`")).says("podman load");
    world.load(&world.image("1"));
    assert_eq!(world.apply_kinds(), ["createContainer"]);
    // The tag moves to another image: that is a change.
    let id = world.inspect("a")["Id"].clone();
    let moved = crate::support::archive::docker_archive().tag(&image).file("moved", world.owner.clone());
    world.load(&moved);
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(plan["actions"][0]["changes"][0]["field"], "image.id", "{plan}");
    assert_eq!(world.apply_kinds(), ["replaceContainer"]);
    assert_ne!(world.inspect("a")["Id"], id);
    // The first image has no name any more by which it would be cleared up.
    let _ = api("DELETE", &format!("/v4.0.0/libpod/images/{}?force=true", world.image("1").id()), b"");
}

/// What `status` exits with 3 for, and what `plan` would do, is not well.
#[test]
fn doctor_is_not_well_where_status_is_not() {
    let world = World::new();
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    world.applied();
    assert!(world.run("doctor").expect(0).stdout.contains("everything is well"));
    world.state(&[&world.agent("a", "")]);
    world.run("status").expect(3);
    let doctor = world.run("doctor").expect(1).stdout;
    let name = world.name("b");
    assert!(doctor.contains(&format!("FAIL plan            to do: remove container `{name}`")), "{doctor}");
    assert!(doctor.contains("fix: `steadfast apply` does it"), "{doctor}");

    world.state(&[]);
    world.run("status").expect(3);
    let doctor = world.run("doctor").expect(1).stdout;
    assert!(doctor.contains("FAIL plan") && doctor.contains("--allow-empty"), "{doctor}");
    let plan = world.run("plan").expect(0).stdout;
    assert!(plan.contains("note: ") && plan.contains("`apply` refuses to remove 2 containers"), "{plan}");
    world.run("apply").expect(1).says("--allow-empty");
    world.run("down").expect(0);
    assert!(!world.run("plan").expect(0).stdout.contains("note:"), "there is nothing to refuse");
}

/// One verdict: as it is left alone, it keeps nothing from being converged.
#[test]
fn a_suspended_agent_that_is_gone_is_reported_alike_by_every_verb() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    let suspended = world.agent("a", "").replace("container:", "suspend: true, container:");
    world.state(&[&suspended]);
    world.remove("a");
    world.run("status").expect(0);
    assert!(world.run("plan --detailed-exitcode").expect(0).stdout.starts_with("No changes."));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    let why = world.run("why a").expect(0).stdout;
    assert!(why.starts_with("a is suspended and left alone\n") && !why.contains("not ready"), "{why}");
    assert_eq!(world.run("why a -o json").expect(0).json()["ready"], false, "a fact");
    let doctor = world.run("doctor").expect(0).stdout;
    assert!(doctor.contains("a: suspended, and left alone as the state file says; otherwise: create"), "{doctor}");
    assert!(!doctor.contains("OutOfSync") && doctor.contains("everything is well"), "{doctor}");
    world.run("exec a -- true").expect(125).says("hint: it is suspended");
}

#[test]
fn exec_says_why_an_agent_does_not_run_and_what_would_help() {
    let world = World::new();
    let once =
        |name: &str, code: u32| world.agent(name, &format!("command: [sh, -c, \"exit {code}\"], restart: \"no\""));
    let stopped = world.agent("off", "").replace("container:", "state: stopped, container:");
    let absent = world.agent("gone", "").replace("container:", "state: absent, container:");
    world.state(&[&once("done", 0), &once("bad", 3), &stopped, &absent, &world.agent("up", "")]);
    world.run("apply").expect(3);
    let hint = |agent: &str| {
        let said = world.run(format!("exec {agent} -- true")).expect(125).stderr;
        said.lines().filter(|line| line.starts_with("hint: ")).collect::<Vec<_>>().join("\n")
    };
    for (agent, code) in [("done", 0), ("bad", 3)] {
        let said = world.run(format!("exec {agent} -- true")).stderr;
        assert!(said.contains(&format!("it exited with code {code}")), "{said}");
        assert!(hint(agent).contains(&format!("podman rm {}", world.name(agent))), "{}", hint(agent));
    }
    assert_eq!(hint("off"), "hint: the state file says `state: stopped`");
    assert_eq!(hint("gone"), "hint: the state file says `state: absent`");
    // What is advised for a failed one-shot works.
    for verb in ["why bad", "doctor"] {
        let said = world.run(verb).stdout;
        assert!(said.contains(&format!("to run it again: `podman rm {}`", world.name("bad"))), "{verb}: {said}");
    }
    let before = world.ids()[&world.name("bad")].clone();
    world.remove("bad");
    world.run("apply").expect(3);
    assert_ne!(world.ids()[&world.name("bad")], before, "it ran again");
    world.kill("up");
    assert!(hint("up").contains("`steadfast apply` starts it"), "{}", hint("up"));
}

/// An edit that failed, was reverted and applied is not "the last try" of what happens later.
#[test]
fn the_failure_of_an_edit_that_was_reverted_is_over() {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    // A step that fails, and not one that is known to: the program is not there.
    world.state(&[&world.agent("a", "command: [/nowhere]")]);
    assert_ne!(world.run("apply").code, 0);
    world.state(&[&world.agent("a", "")]);
    world.applied();
    world.kill("a");
    for verb in ["status", "why a", "doctor"] {
        let said = world.run(verb).stdout;
        assert!(
            !said.contains("last try") && !said.contains("/nowhere") && !said.contains("stopped by"),
            "{verb}: {said}"
        );
    }
    assert!(world.run("why a").stdout.contains("`steadfast apply` does it now"));
}

#[test]
fn two_agents_of_one_image_that_cannot_be_pulled_are_both_reported() {
    let world = World::bare();
    let image = format!("127.0.0.1:1/{}", world.owner);
    let agent = |name: &str| format!("{name}: {{version: \"1\", image: \"{image}\", source: registry}}");
    world.state(&[&agent("a"), &agent("b")]);
    let report = world.run("apply -o json").expect(1).json();
    let whose: Vec<_> = report["problems"].as_array().unwrap().iter().map(|problem| &problem["agent"]).collect();
    assert_eq!(whose, ["a", "b"], "{report}");
    world.run("apply").expect(1).says("agents `a`, `b`: failed to pull image");
    let status = world.run("status -o json").expect(3).json();
    for name in ["a", "b"] {
        let failure = &status["agents"][name]["lastFailure"]["message"];
        assert!(failure.as_str().unwrap_or_default().contains("failed to pull image"), "{name}: {status}");
        let why = world.run(format!("why {name}")).stdout;
        assert!(why.contains("stopped by") && why.contains("its registry does not answer"), "{why}");
        assert!(!why.contains("does it now"), "{why}");
    }
    let doctor = world.run("doctor").expect(1).stdout;
    assert!(!doctor.contains("fix: `steadfast apply` does it"), "{doctor}");
}

#[test]
fn a_plan_says_whom_it_interrupts_and_nobody_else() {
    let world = World::new();
    let job = world.agent("job", "command: [sh, -c, \"exit 0\"], restart: \"no\"");
    world.state(&[&world.agent("a", ""), &world.agent("b", ""), &job]);
    world.applied();
    world.state(&[&world.agent("a", "env: {X: y}")]);
    let interrupts = |world: &World| world.run("plan -o json").json()["interrupts"].clone();
    assert_eq!(interrupts(&world), json!(["a", "b"]), "the one-shot has ended");
    // Blocked: nothing is done to it.
    world.state(&[&world.agent("a", "mounts: [{source: /nowhere, target: /x}]")]);
    assert_eq!(interrupts(&world), json!(["b"]));
    let sick = "healthcheck: {test: [CMD-SHELL, \"exit 7\"], interval: 1s, retries: 1, startPeriod: 0s}";
    world.state(&[&world.agent("sick", sick)]);
    world.run("apply --timeout 20s").expect(3);
    if world.inspect("sick")["State"]["Health"]["Status"] == "unhealthy" {
        assert_eq!(interrupts(&world), json!(["sick"]), "it is restarted");
        let status = world.run("status -o json").expect(3).json();
        assert_eq!(status["agents"]["sick"]["conditions"][0]["reason"], "Unhealthy", "{status}");
        assert!(world.run("why sick").stdout.starts_with("sick is not ready: Unhealthy\n"));
    }
}

#[test]
fn history_tells_what_apply_reported() {
    let world = World::new();
    let check = "healthcheck: {test: [CMD-SHELL, \"exit 1\"], interval: 30s, retries: 9, startPeriod: 60s}";
    world.state(&[&world.agent("slow", check)]);
    world.run("apply --no-wait").expect(0);
    let history = world.run("history").expect(0).stdout;
    assert!(history.contains("  applied  ") && !history.contains("stuck"), "{history}");
    let world = World::new();
    world.state(&[&world.agent("a", ""), &world.agent("b", "command: [/nowhere]")]);
    let told = world.run("apply").stdout;
    assert!(told.contains("1 step taken"), "{told}");
    let history = world.run("history").expect(0).stdout;
    assert!(history.contains("end of a pass: 1 step taken"), "{history}");
}
