//! Sessions while whoever speaks to them, keeps them or runs them is killed.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::proxy::Service;
use crate::sessions::{listed, prints, refused, start, world};
use crate::support::terminal::Terminal;
use crate::world::{World, until};

const LOST: &str = "lost: its keeper was killed, or the container was started anew";

#[test]
fn a_sender_that_is_killed_midway_sent_all_or_nothing() {
    let world = world();
    for (name, millis) in [("early", 0), ("later", 150), ("late", 1000)] {
        start(&world, name, &[], "sleep 2; busybox wc -c");
        world.sandbox.write("input", vec![b'x'; 8 << 20]);
        let mut command = world.sandbox.command(format!("session send coder/{name} -"));
        let input = std::fs::File::open(world.sandbox.path("input")).expect("it is there");
        let mut sender = command.stdin(input).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(millis));
        sender.kill().expect("it runs");
        sender.wait().expect("waitable");
        world.run(["session", "send", &format!("coder/{name}"), "ab", "--eof"]).expect(0);
        let counted = world.run(format!("session logs -f coder/{name}")).expect(0).stdout;
        let counted: usize = counted.trim().parse().expect("a number");
        assert!([2, 2 + (8 << 20)].contains(&counted), "{name}: {counted}");
    }
}

#[test]
fn who_was_attached_and_is_killed_blocks_nobody() {
    let world = world();
    start(&world, "sh", &["--tty"], "exec sh");
    let mut first = Terminal::start(&world.sandbox.command("session attach coder/sh"), 80, 24);
    until("it is raw", || first.is_raw());
    first.types("echo li''stens\n");
    first.shows("listens");
    first.signal(Signal::KILL);
    assert_eq!(first.ends(), 1009);
    let began = Instant::now();
    let mut second = Terminal::start(&world.sandbox.command("session attach coder/sh"), 80, 24);
    while second.has_ended() {
        assert!(began.elapsed() < Duration::from_secs(10), "{}", second.shown());
        second = Terminal::start(&world.sandbox.command("session attach coder/sh"), 80, 24);
    }
    until("it is raw", || second.is_raw());
    second.shows("listens");
    second.types("echo st''ill; exit 4\n");
    second.shows("still");
    assert_eq!(second.ends(), 4);
}

/// Kills the keeper of a session from within.
pub fn kill_keeper(world: &World, name: &str) {
    let line = format!(
        "for dir in /proc/[0-9]*; do case \"$(busybox tr '\\0' ' ' <$dir/cmdline)\" in *' keep /run/steadfast/sessions/{name} ') \
         kill -9 ${{dir#/proc/}} && echo killed;; esac; done 2>/dev/null"
    );
    let killed = world.run(["exec", "coder", "--", "sh", "-c", &line]).expect(0);
    assert_eq!(killed.stdout, "killed\n");
}

/// A session that is lost says so, keeps its log, and gives its name back.
fn is_lost(world: &World, name: &str, printed: &str) {
    let state = listed(world, name);
    assert_eq!((state["status"].as_str(), state["pid"].is_null()), (Some("lost"), true), "{state}");
    let table = world.run("session list coder").expect(0).stdout;
    assert!(table.lines().any(|line| line.starts_with(&format!("coder/{name}")) && line.contains(" lost ")), "{table}");
    refused(
        world.run(format!("session send coder/{name} x")),
        1,
        &format!(
            "error: session coder/{name} is not running ({LOST})\nhint: `steadfast session logs coder/{name}` shows what it printed\n"
        ),
    );
    refused(
        world.run(format!("session wait coder/{name}")),
        125,
        &format!("error: how session coder/{name} ended is unknown: it is {LOST}\n"),
    );
    let stopped = world.run(format!("session stop coder/{name}")).expect(0).stdout;
    assert_eq!(stopped, format!("session coder/{name} is not running ({LOST})\n"));
    let logs = world.run(format!("session logs coder/{name}")).expect(0).stdout;
    assert!(logs.starts_with(printed), "{logs}");
    world.run(format!("session start coder/{name} -- cat")).expect(1).says(&format!("session coder/{name} exists"));
    world.run(format!("session rm coder/{name}")).expect(0);
    world.run(format!("session start coder/{name} -- cat")).expect(0);
    world.run(["session", "send", &format!("coder/{name}"), "new\n", "--eof"]).expect(0);
    assert_eq!(world.run(format!("session logs -f coder/{name}")).expect(0).stdout, "new\n");
    world.run(format!("session rm coder/{name}")).expect(0);
}

#[test]
fn a_session_whose_keeper_is_killed_is_lost_and_so_is_its_command() {
    let world = world();
    let nap = crate::world::nap(60);
    start(&world, "a", &[], &format!("echo begun; exec sleep {nap}"));
    let mut attached = world.spawn("session attach coder/a");
    let waits = world.spawn("session wait coder/a");
    prints(&mut attached, "begun\n");
    assert_eq!(crate::world::processes_with(&nap), 1);
    kill_keeper(&world, "a");
    until("its command is gone", || crate::world::processes_with(&nap) == 0);
    let unknown = format!("error: how session coder/a ended is unknown: it is {LOST}\n");
    let seen = attached.end().expect(1);
    assert_eq!(seen.stdout, "begun\n");
    assert!(seen.stderr.ends_with(&unknown), "{seen:?}");
    assert!(waits.end().expect(125).stderr.ends_with(&unknown));
    is_lost(&world, "a", "begun\n");
}

#[test]
fn a_container_that_is_killed_takes_its_sessions_along() {
    let world = world();
    start(&world, "a", &[], "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done");
    let mut attached = world.spawn("session attach --read-only coder/a");
    let waits = world.spawn("session wait coder/a");
    prints(&mut attached, "3\n");
    world.kill("coder");
    let down = "error: agent coder is not running\nhint: `steadfast why coder` tells what stopped it; `steadfast apply` starts it, \
                and the sessions that it declares\n";
    let seen = attached.end().expect(1);
    assert!(seen.stdout.starts_with("0\n1\n2\n3\n") && seen.stderr.ends_with(down), "{seen:?}");
    let waited = waits.end().expect(125).stderr;
    assert!(waited.ends_with(down), "{waited}");
    // Without waiting until it has stayed up for a while.
    world.run("apply --no-wait").expect(0);
    until("it runs again", || world.runs("coder"));
    is_lost(&world, "a", "0\n1\n2\n3\n");
}

/// Nothing is lost or doubled while Podman's service is killed, and the line is found again.
#[test]
fn who_is_attached_survives_podmans_service() {
    let mut world = world();
    let Some(mut service) = Service::start(&mut world) else { return };
    start(
        &world,
        "count",
        &[],
        "read -r go; i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.01; done; cat >&2",
    );
    let mut command = world.sandbox.command("session attach coder/count");
    let mut attached = Terminal::start(command.stderr(std::process::Stdio::null()), 80, 24);
    attached.shows("note: what it printed before ends here");
    attached.types("go\n");
    let mut reader = world.spawn("session attach --read-only coder/count");
    let mut logs = world.spawn("session logs -f coder/count");
    prints(&mut reader, "50\n");
    prints(&mut logs, "50\n");
    service.end(Signal::KILL);
    attached.shows("attaching again");
    // Typed while nobody listens.
    attached.types("meanwhile\n");
    std::thread::sleep(Duration::from_millis(300));
    service.again();
    attached.shows("note: attached again");
    attached.types("\u{4}");
    attached.shows("399");
    let wanted: String = (0..400).map(|at| format!("{at}\n")).collect();
    world.run("session send coder/count --eof").expect(0);
    let seen = reader.end().expect(0);
    assert!(seen.stdout == wanted, "{}", seen.stdout);
    assert_eq!(logs.end().expect(0).stdout, wanted);
    assert_eq!(attached.ends(), 0);
    let errs = world.run("session logs coder/count --stderr").expect(0).stderr;
    assert_eq!(errs, "meanwhile\n");
    let shown = attached.last();
    let numbers: Vec<u32> = shown.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert_eq!(numbers, (0..400).collect::<Vec<_>>());
}
