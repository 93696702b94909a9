//! A machine's life: made, worked with, hit in every way, repaired, and taken down.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::instance::{limactl, setting, stdout_of};
use crate::support::command::{Running, contains_any};
use crate::world::{CANARY, World, answer_on, comes, free_port, until};

/// One after another over one machine: each boot takes a minute or more where it is emulated.
#[test]
fn a_machine_is_made_kept_and_repaired() {
    let world = World::get();
    let _alone = World::alone();
    made_from_nothing(world);
    the_template_keeps_its_promises(world);
    secrets_stay_in_the_container(world);
    sessions_and_workspaces_are_kept_in_it(world);
    a_new_port_needs_no_restart(world);
    a_full_disk_costs_nothing_but_the_step(world);
    looking_goes_around_what_is_lost_and_acting_repairs_it(world);
    let mut run = world.spawn("run --resync 1h");
    kept(world, &mut run);
    a_lost_master_is_routed_around(world, &mut run);
    run = run_that_is_killed_loses_nothing(world, run);
    a_reboot_of_the_guest_is_waited_out(world, &mut run);
    a_power_cut_is_repaired_and_settings_change_with_it(world, &mut run);
    run.signal(Signal::TERM);
    run.end().expect(143);
    world.run("down").expect(0);
    assert_eq!(world.status()["vm"]["status"], "Running", "`down` leaves the machine");
    without_its_host_agent_it_is_shut_down_in_order(world);
    it_is_taken_down_when_asked(world);
}

fn kinds(of: &Value) -> Vec<&str> {
    of["actions"].as_array().expect("actions").iter().filter_map(|action| action["kind"].as_str()).collect()
}

fn made_from_nothing(world: &World) {
    let took = kinds(&world.first);
    for kind in ["createVm", "startVm", "fetchArtifact", "loadImage", "createContainer"] {
        assert_eq!(took.iter().filter(|taken| **taken == kind).count(), 1, "{took:?}");
    }
    assert_eq!(world.first["converged"], true);
    world.answers("hello 1");
    assert_eq!(world.apply_kinds(), Vec::<String>::new(), "a second apply has nothing to do");
    let status = world.status();
    let vm = &status["vm"];
    assert_eq!((&vm["instance"], &vm["status"]), (&"story".into(), &"Running".into()));
    assert_eq!((&vm["transport"], &vm["rung"]), (&"api".into(), &"forward".into()), "{vm}");
    assert_eq!(vm["error"], Value::Null);
    let handles = std::fs::read(world.sandbox.root().join("state/story/handles.json")).expect("handles");
    let handles: Value = serde_json::from_slice(&handles).expect("JSON");
    for field in ["hostAgent", "driver"] {
        assert!(handles["vm"][field]["pid"].is_number() && handles["vm"][field]["startedAt"].is_string(), "{handles}");
    }
    assert!(handles["vm"]["sshPort"].is_number() && handles["vm"]["templateDigest"].is_string(), "{handles}");
    let checks = world.run("doctor -o json").expect(0).json();
    let layers: Vec<_> =
        checks["checks"].as_array().unwrap().iter().filter_map(|check| check["layer"].as_str()).collect();
    for layer in ["limactl", "lima home", "accel", "vm", "ssh", "podman socket", "podman"] {
        assert!(layers.contains(&layer), "{layers:?}");
    }
    // Its exit code is the command's, and standard streams are kept apart.
    let shell = world.run(["vm", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).expect(7);
    assert!(shell.stdout == "out\n" && shell.stderr.contains("err\n"), "{shell:?}");
}

fn the_template_keeps_its_promises(world: &World) {
    let inside = ["curl", "-sS", "--max-time", "20", "--unix-socket", "/run/podman/podman.sock", "http://podman/_ping"];
    assert_eq!(stdout_of(world.guest(&inside)), "OK");
    let denied = world.guest(&[&["sudo", "-u", "nobody"], &inside[..]].concat());
    assert_eq!(denied.status.code(), Some(7), "curl's code for no connection: {denied:?}");
    let backend = world.guest(&["sudo", "podman", "info", "--format", "{{.Host.NetworkBackend}}"]);
    assert_eq!(stdout_of(backend).trim(), "netavark");
    // Lima would forward both of its own accord. It looks for new listeners every few seconds.
    let log = || std::fs::read_to_string(world.path("ha.stderr.log")).expect("the host agent's log");
    for address in ["127.0.0.1:8099", "0.0.0.0:8098"] {
        let listen = format!("--listen={address}");
        stdout_of(world.guest(&["sudo", "systemd-run", "--quiet", "systemd-socket-activate", &listen, "/bin/cat"]));
        until("Lima has noticed the listener", || log().contains(&format!("Not forwarding TCP {address}")));
    }
    assert!(
        !log().contains("Forwarding TCP from 127.0.0.1:8099") && !log().contains("Forwarding TCP from 0.0.0.0:8098")
    );
}

fn secrets_stay_in_the_container(world: &World) {
    assert_eq!(world.run(["exec", "hello", "--", "sh", "-c", "echo $TOKEN"]).expect(0).stdout, format!("{CANARY}\n"));
    assert_eq!(world.sandbox.files_with(&[CANARY]), Vec::<std::path::PathBuf>::new());
    for file in std::fs::read_dir(world.path("")).expect("the instance's directory").flatten() {
        let name = file.file_name().into_string().expect("text");
        // The disk is the guest's: what Podman keeps is there.
        if file.path().is_file() && name != "disk" {
            let bytes = std::fs::read(file.path()).unwrap_or_default();
            assert!(!contains_any(&bytes, &[CANARY]), "a secret is in `{name}`");
        }
    }
    for verb in ["plan -o json", "status -o json", "vm status", "history", "doctor"] {
        world.run(verb).keeps_quiet_about(&[CANARY]);
    }
}

/// By whichever way Podman in it is reached.
fn sessions_and_workspaces_are_kept_in_it(world: &World) {
    let inside = "    workspaces: {repo: {source: repo, target: /work/repo}}\n    sessions:\n      echo:\n        \
                  command: [sh, -c, 'while read line; do echo got $line in $PWD; done']\n        cwd: /work/repo\n";
    world.sandbox.write("repo/hello", "from here\n");
    let state = |lima: &str| {
        world.state("1", &[], lima);
        let file = world.sandbox.path("steadfast.yaml");
        let text = std::fs::read_to_string(&file).expect("the state file");
        std::fs::write(file, text + inside).expect("the state file");
    };
    let pid = || {
        let listed = world.run("session list hello -o json").expect(0).json();
        assert_eq!(listed["sessions"][0]["declared"], true, "{listed}");
        listed["sessions"][0]["pid"].as_i64().expect("a pid")
    };
    let says = |words: &str| {
        world.run(["session", "send", "hello/echo", &format!("{words}\n")]).expect(0);
        let said = format!("got {words} in /work/repo");
        until("the session answers", || world.run("session logs hello/echo").stdout.contains(&said));
    };
    state("");
    assert_eq!(world.apply_kinds(), ["prepareWorkspace", "startSession"]);
    assert_eq!(world.run("exec hello -- cat /work/repo/hello").expect(0).stdout, "from here\n");
    let first = pid();
    says("one");
    state(", transport: shell");
    assert_eq!(world.apply_kinds(), Vec::<String>::new(), "the way there makes no difference");
    says("two");
    world.sandbox.write("repo/hello", "from here, again\n");
    assert_eq!(world.apply_kinds(), ["prepareWorkspace"]);
    assert_eq!(world.run("exec hello -- cat /work/repo/hello").expect(0).stdout, "from here, again\n");
    assert_eq!(pid(), first);
    world.state("1", &[], "");
    assert_eq!(world.apply_kinds(), ["stopSession"]);
    world.run("workspace rm hello /work/repo").expect(0);
}

fn a_new_port_needs_no_restart(world: &World) {
    let more = free_port();
    world.state("1", &[more], "");
    let before = world.times("startVm");
    let took = world.apply_kinds();
    assert!(took.contains(&"forwardPorts".to_owned()) && took.contains(&"replaceContainer".to_owned()), "{took:?}");
    until("the new port answers", || answer_on(more).is_some_and(|said| said.contains("hello 1")));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
    assert_eq!(world.times("startVm"), before);
}

fn a_full_disk_costs_nothing_but_the_step(world: &World) {
    world.state("2", &[], "");
    world.publish("2");
    // What is kept for root too.
    let fill = "set -- $(stat -f -c '%f %S' /); fallocate -l $(($1 * $2 - 500000)) /fill; df /";
    stdout_of(world.guest(&["sudo", "sh", "-c", fill]));
    let outcome = world.run("apply --timeout 3m").expect(1);
    assert!(outcome.stderr.contains("no space left"), "{}", outcome.stderr);
    world.answers("hello 1");
    stdout_of(world.guest(&["sudo", "rm", "/fill"]));
    let took = world.apply_kinds();
    assert!(took.contains(&"loadImage".to_owned()) && took.contains(&"replaceContainer".to_owned()), "{took:?}");
    world.answers("hello 2");
}

/// Waits until `run` has everything as the state file says.
#[track_caller]
fn kept(world: &World, run: &mut Running) -> Value {
    let pid = run.pid();
    shown(world, run, "converged", |status| status["run"]["pid"] == pid && status["converged"] == true)
}

/// Waits until `run` knows that something is amiss.
#[track_caller]
fn noticed(world: &World, run: &mut Running) {
    shown(world, run, "noticed", |status| status["converged"] == false);
}

#[track_caller]
fn shown(world: &World, run: &mut Running, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut status = Value::Null;
    let came = comes(|| {
        status = world.status();
        is_so(&status) || run.has_ended()
    });
    assert!(came && !run.has_ended(), "`run` has never {what}\n{status:#}\n{}", run.stderr());
    status
}

/// Asks Lima's own connection, which carries all that Lima forwards; false when it is not there.
fn asks_master(world: &World, what: &str) -> bool {
    let config = world.path("ssh.config");
    let asked = std::process::Command::new("ssh").arg("-F").arg(config).args(["-O", what, "lima-story"]).output();
    asked.expect("ssh").status.success()
}

fn looking_goes_around_what_is_lost_and_acting_repairs_it(world: &World) {
    assert!(asks_master(world, "exit"));
    assert_eq!(world.status()["vm"]["rung"], "ssh");
    assert!(!asks_master(world, "check"), "looking changes nothing");
    world.run("apply").expect(0);
    world.answers("hello 2");
    assert_eq!(world.status()["vm"]["rung"], "forward");
}

fn a_lost_master_is_routed_around(world: &World, run: &mut Running) {
    let starts = world.times("startVm");
    let before = world.status()["run"]["passes"].as_u64().unwrap();
    assert!(asks_master(world, "exit"));
    let took = until("Podman is reached another way", || {
        let status = world.status();
        status["run"]["passes"].as_u64().unwrap() > before
            && status["vm"]["rung"] != Value::Null
            && status["podman"]["reachable"] == true
    });
    println!("answering {took:?} after the master was lost");
    kept(world, run);
    world.answers("hello 2");
    assert_eq!(world.times("startVm"), starts, "the machine was not restarted");
    let told = world.run("history -o json").expect(0).stdout;
    assert!(told.contains("vmReached") && told.contains("\"ssh\""), "{told}");
}

/// Nobody is there to keep it, and it goes on; the next `run` finds all as it was.
fn run_that_is_killed_loses_nothing(world: &World, run: Running) -> Running {
    let id = world.status()["agents"]["hello"]["container"]["id"].clone();
    let dead = format!("sf-{}-", run.pid());
    run.signal(Signal::KILL);
    run.end().expect(1009);
    world.answers("hello 2");
    let mut run = world.spawn("run --resync 1h");
    let status = kept(world, &mut run);
    assert_eq!(status["agents"]["hello"]["container"]["id"], id);
    let sockets = std::fs::read_dir(world.path("sock")).expect("a directory");
    let left: Vec<_> = sockets.map(|entry| entry.expect("an entry").file_name()).collect();
    // By whoever makes the next one.
    let is_cleared = !left.iter().any(|name| name.to_string_lossy().starts_with(&dead));
    assert!(is_cleared || status["vm"]["rung"] != "ssh", "what a dead one left is cleared: {left:?}");
    run
}

fn a_reboot_of_the_guest_is_waited_out(world: &World, run: &mut Running) {
    let starts = world.times("startVm");
    let id = world.status()["agents"]["hello"]["container"]["id"].clone();
    // Whatever is bound into one may be mounted only after the boot.
    let run_bound =
        "podman run --detach --name=bound --restart=always --network=none --volume=/srv:/srv localhost/hello:2 &&
        podman inspect --format={{.State.Status}} bound";
    let said = stdout_of(world.guest(&["sudo", "sh", "-c", run_bound]));
    assert!(said.trim().ends_with("running"), "{said}");
    world.guest(&["sudo", "systemctl", "reboot"]);
    noticed(world, run);
    let status = kept(world, run);
    assert_eq!(status["agents"]["hello"]["container"]["id"], id, "it was started, not made anew");
    world.answers("hello 2");
    assert_eq!(world.times("startVm"), starts, "the machine was not restarted");
    // Podman (4.3) alone would start the container anew as long as systemd ends it, for 90 s.
    let last_words = stdout_of(world.guest(&["sudo", "journalctl", "--boot=-1", "--output=cat", "--no-pager"]));
    assert!(last_words.contains("Stopped steadfast-containers.service"), "the machine went down in order");
    assert!(!last_words.contains("Stopping timed out"), "something had to be killed");
    // Whether anybody keeps it from here or not.
    let started = stdout_of(world.guest(&["sudo", "cat", "/var/lib/steadfast/ran.last"]));
    assert_eq!(started.trim(), id.as_str().expect("an id"), "the guest starts what ran and may be started");
    let state = stdout_of(world.guest(&["sudo", "podman", "inspect", "--format={{.State.Status}}", "bound"]));
    assert_eq!(state.trim(), "exited");
}

/// The guest writes what is new to its disk within this time.
const WRITTEN: Duration = Duration::from_secs(5);

fn a_power_cut_is_repaired_and_settings_change_with_it(world: &World, run: &mut Running) {
    // Fewer would boot half a minute slower where they are emulated.
    world.state("2", &[], ", cpus: 3, memory: 1GiB");
    until("`run` says that this waits for a start", || {
        world.run("plan").stdout.contains("next started") && world.status()["converged"] == true
    });
    let starts = world.times("startVm");
    let id = world.status()["agents"]["hello"]["container"]["id"].clone();
    let podman = |words: &[&str]| stdout_of(world.guest(&[&["sudo", "podman"], words].concat()));
    podman(&["create", "--name=young", "--network=none", "localhost/hello:2"]);
    std::thread::sleep(WRITTEN);
    kill_process(world.pid("qemu.pid"), Signal::KILL).expect("ours to kill");
    noticed(world, run);
    let status = kept(world, run);
    assert_eq!(status["agents"]["hello"]["container"]["id"], id);
    let vm = &status["vm"];
    assert_eq!((&vm["cpus"], &vm["memory"]), (&3.into(), &(1_u64 << 30).into()), "{vm}");
    world.answers("hello 2");
    assert_eq!(podman(&["start", "young"]).trim(), "young", "what was made just before is whole");
    assert_eq!(world.times("startVm"), starts + 1);
    until("Lima's forward serves again", || world.status()["vm"]["rung"] == "forward");
}

fn without_its_host_agent_it_is_shut_down_in_order(world: &World) {
    let pid = world.pid("ha.pid");
    kill_process(pid, Signal::KILL).expect("ours to kill");
    until("it is dead", || rustix::process::test_kill_process(pid).is_err());
    let status = world.status();
    assert_eq!(status["vm"]["status"], "Broken", "{status}");
    let plan = world.run("plan").expect(0).stdout;
    assert!(plan.contains("start VM `story`"), "{plan}");
    // Stale, and by now anybody's: it must not be killed.
    let mut foreign_container = std::process::Command::new("sleep").arg("600").spawn().expect("sleep");
    std::fs::write(world.path("ha.pid"), foreign_container.id().to_string()).expect("the pid file");
    world.run("vm stop").expect(0);
    assert!(foreign_container.try_wait().expect("waitable").is_none(), "a process of somebody else was killed");
    let _ = foreign_container.kill();
    let _ = foreign_container.wait();
    assert_eq!(world.status()["vm"]["status"], "Stopped");
    let plan = world.run("plan").expect(0).stdout;
    assert!(plan.contains("unknown until VM `story` runs"), "{plan}");
    world.run("vm shell -- true").expect(1).says("is stopped");
}

fn it_is_taken_down_when_asked(world: &World) {
    world.run("down --vm").expect(0);
    assert!(!world.path("").exists());
    let left = stdout_of(limactl(&["list", "--quiet"]));
    assert!(!left.contains("story"), "{left}");
    assert!(setting("STEADFAST_TEST_LIMA_HOME").exists());
    assert_eq!(world.run("down --vm -o json").expect(0).json()["actions"].as_array().unwrap().len(), 0);
}
