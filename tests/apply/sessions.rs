//! `session`: long-lived commands in agents, through the binary; every verb, every refusal, and on a terminal.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::command::{Outcome, Running};
use crate::support::terminal::Terminal;
use crate::world::{World, sha256, until};

/// An agent `coder` that runs.
pub fn world() -> World {
    let world = World::new();
    world.state(&[&world.agent("coder", "")]);
    world.applied();
    world
}

/// `session start coder/NAME WORDS -- sh -c LINE`.
#[track_caller]
pub fn start(world: &World, name: &str, words: &[&str], line: &str) -> Outcome {
    let session = format!("coder/{name}");
    let mut command = world.sandbox.command(["session", "start", &session]);
    command.args(words).args(["--", "sh", "-c", line]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    world.run("session list coder -o json").expect(0)
}

/// How a session is, as `session list` tells it.
#[track_caller]
pub fn listed(world: &World, name: &str) -> Value {
    let list = world.run("session list coder -o json").expect(0).json();
    let all = list["sessions"].as_array().expect("a list").clone();
    all.into_iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no session {name}: {list}"))
}

#[track_caller]
pub fn refused(outcome: Outcome, code: i32, stderr: &str) {
    let outcome = outcome.expect(code);
    assert_eq!(outcome.stderr, stderr);
    assert_eq!(outcome.stdout, "");
}

/// Waits until that is printed.
#[track_caller]
pub fn prints(running: &mut Running, words: &str) {
    running.until(words, |running| running.stdout().contains(words));
}

#[test]
fn each_verb_says_what_it_did() {
    let world = world();
    assert_eq!(world.run("session list").expect(0).stdout, "no sessions\n");
    assert_eq!(world.run("session list coder -o json").expect(0).json(), json!({ "sessions": [] }));

    let started = world.run("session start coder/cat --cwd /www -- cat").expect(0);
    let pid = listed(&world, "cat")["pid"].as_i64().expect("a pid");
    assert_eq!((started.stdout, started.stderr), (format!("session coder/cat started, pid {pid}\n"), String::new()));
    let rest =
        ["session", "start", "coder/two", "--stdin", "closed", "-e", "A=one\n two", "-o", "json", "--", "sh", "-c"];
    let mut words: Vec<_> = rest.to_vec();
    words.push("echo \"$A\"; echo err >&2; pwd; exit 3");
    let started = world.sandbox.command("").args(&words).output().expect("it runs");
    let started: Value = serde_json::from_slice(&started.stdout).expect("JSON");
    assert_eq!(
        (&started["agent"], &started["name"], &started["stdin"]),
        (&json!("coder"), &json!("two"), &json!("closed"))
    );
    assert_eq!(world.run("session wait coder/two").expect(3).stderr, "");

    let list = world.run("session list").expect(0).stdout;
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    let pid = pid.to_string();
    assert_eq!(lines[0], ["SESSION", "STATUS", "PID", "STDIN", "KIND", "COMMAND"], "{list}");
    assert_eq!(lines[1], ["coder/cat", "running", &pid, "pipe", "ad", "hoc", "cat"], "{list}");
    assert_eq!(lines[2][..3], ["coder/two", "exited", "3"], "{list}");
    let two = listed(&world, "two");
    assert_eq!(two["exit"], json!({"code": 3, "signal": null, "oomKilled": false}));
    assert_eq!(
        (&two["status"], &two["declared"], &two["attachable"]),
        (&json!("exited"), &json!(false), &json!(false))
    );

    assert_eq!(world.run("session send coder/cat hello").expect(0).stdout, "bytesWritten: 5\n");
    let sent = world.sandbox.feed("session send coder/cat -o json -", b"\0 \xff\n").expect(0).json();
    assert_eq!(sent, json!({ "bytesWritten": 4 }));
    assert_eq!(world.run(["session", "send", "coder/cat", ""]).expect(0).stdout, "bytesWritten: 0\n");
    assert_eq!(world.run("session send coder/cat --eof").expect(0).stdout, "bytesWritten: 0\n");
    world.run("session wait coder/cat").expect(0);

    let logs = world.run("session logs coder/two").expect(0);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("one\n two\n/\n", "err\n"));
    assert_eq!(world.run("session logs coder/two --stderr").expect(0).stdout, "");
    assert_eq!(world.run("session logs coder/two --stdout --tail 1").expect(0).stdout, "/\n");
    assert_eq!(world.run("session logs coder/two -f --stdout --since 1s").expect(0).stderr, "");
    let object: Value =
        serde_json::from_str(&world.run("session logs coder/two -o json --stderr").expect(0).stdout).unwrap();
    assert_eq!(
        (&object["session"], &object["stream"], &object["text"]),
        (&json!("two"), &json!("stderr"), &json!("err"))
    );
    // Of one that has ended, all that it printed, and its exit code.
    let attached = world.run("session attach coder/two").expect(3);
    assert_eq!(
        (attached.stdout.as_str(), attached.stderr.as_str()),
        ("one\n two\n/\n", "err\nnote: what it printed before ends here\n")
    );

    start(&world, "nap", &[], "sleep 1000");
    let stopped = world.run("session stop coder/nap").expect(0).stdout;
    assert!(stopped.starts_with("session coder/nap is stopped: killed by signal 15 "), "{stopped}");
    assert_eq!(world.run("session stop coder/nap -o json").expect(0).json()["exit"]["signal"], 15);
    world.run("session wait coder/nap").expect(128 + 15);
    assert_eq!(
        world.run("session rm coder/nap coder/two").expect(0).stdout,
        "session coder/nap is removed\nsession coder/two is removed\n"
    );
    assert_eq!(world.run("session rm coder/cat -o json").expect(0).json(), json!({ "removed": ["coder/cat"] }));
    assert_eq!(world.run("session list").expect(0).stdout, "no sessions\n");
}

#[test]
fn each_refusal_is_a_sentence_with_a_way_out() {
    let world = world();
    start(&world, "pi", &[], "read -r line; exit 1");
    let all = "session start coder/pi --cwd /root/repo --require git --require cat --require pi -- pi --mode rpc";
    refused(
        world.run(all),
        1,
        "error: cwd /root/repo does not exist in coder\nnot on the PATH in coder: git, pi\nsession coder/pi exists\nhint: nothing was \
         started; `steadfast exec` looks into the agent\n",
    );
    refused(
        world.run("session start coder/new --cwd /agent -- cat"),
        1,
        "error: cwd /agent is not a directory in coder\nhint: nothing was started; `steadfast exec` looks into the agent\n",
    );
    refused(
        world.run("session start coder/pi -- cat"),
        1,
        "error: session coder/pi exists\nhint: `steadfast session attach coder/pi` shows it; `steadfast session rm coder/pi` removes one \
         that has ended, with `--force` one that runs\n",
    );
    refused(
        world.run("session rm coder/pi"),
        1,
        "error: session coder/pi is running\nhint: `steadfast session stop coder/pi` ends it, or `--force` kills it\n",
    );
    world.run(["session", "send", "coder/pi", "go\n"]).expect(0);
    world.run("session wait coder/pi").expect(1);
    let ended = world.run("session send coder/pi x").expect(1).stderr;
    assert!(ended.starts_with("error: session coder/pi is not running (exited 1 "), "{ended}");
    assert!(ended.ends_with("s ago)\nhint: `steadfast session logs coder/pi` shows what it printed\n"), "{ended}");
    start(&world, "closed", &["--stdin", "closed"], "sleep 1000");
    for verb in ["send coder/closed x", "attach coder/closed"] {
        refused(
            world.run(format!("session {verb}")),
            1,
            "error: session coder/closed has no stdin pipe\nhint: `steadfast session attach --read-only coder/closed` shows what it \
             prints\n",
        );
    }
    for (verb, code) in [
        ("send coder/no x", 1),
        ("attach coder/no", 1),
        ("logs coder/no", 1),
        ("wait coder/no", 125),
        ("stop coder/no", 1),
        ("rm coder/no", 1),
    ] {
        refused(
            world.run(format!("session {verb}")),
            code,
            "error: session coder/no does not exist\nhint: `steadfast session list coder` shows those that there are\n",
        );
    }
    refused(
        world.run("session send coder/pi"),
        64,
        "error: nothing is given to send: the bytes come after the session, `-` reads standard input, `--eof` ends it\n",
    );
    for verb in ["start nobody/x -- cat", "send nobody/x y", "list nobody"] {
        refused(
            world.run(format!("session {verb}")),
            64,
            "error: the state file does not have an agent `nobody`\nhint: there is `coder`\n",
        );
    }
    let long = format!("coder/{}", "a".repeat(64));
    for name in ["coder/a/b", "coder/", "coder/A", "coder/-a", "coder/\u{fc}", &long] {
        world
            .run(["session", "start", name, "--", "cat"])
            .expect(64)
            .says("after the `/` stands a session: 1 to 63 of a-z, 0-9 and `-`, not beginning with `-`");
    }
    world.run("session send pi x").expect(64).says("a session is named AGENT/NAME, such as `coder/pi`");
    // Nothing of what was refused is left.
    let list = world.run("session list -o json").expect(0).json();
    let names: Vec<_> = list["sessions"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["closed", "pi"]);

    world.kill("coder");
    for verb in [
        "start coder/x -- cat",
        "list coder",
        "send coder/pi x",
        "attach coder/pi",
        "logs coder/pi",
        "stop coder/pi",
        "rm coder/pi",
    ] {
        refused(
            world.run(format!("session {verb}")),
            1,
            "error: agent coder is not running\nhint: `steadfast apply` starts it; `steadfast why coder` tells what stopped it\n",
        );
    }
    assert_eq!(world.run("session list").expect(0).stdout, "no sessions\n");
}

#[test]
fn what_is_sent_arrives_whole_and_once() {
    let world = world();
    start(&world, "sum", &[], "busybox sha256sum");
    let large: Vec<u8> = (0..64_u32 << 18).flat_map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let sent = world.sandbox.feed("session send coder/sum --eof -", &large).expect(0);
    assert_eq!(sent.stdout, "bytesWritten: 67108864\n");
    assert_eq!(world.run("session logs coder/sum -f").expect(0).stdout, format!("{}  -\n", sha256(&large)));
    let too_much = world.sandbox.feed("session send coder/sum -", [large, b"x".to_vec()].concat());
    refused(
        too_much,
        1,
        "error: more than 64.00 MiB are to be sent, the most that is sent whole\nhint: send it in pieces: they arrive in order\n",
    );

    start(&world, "many", &[], "cat >/tmp/many");
    let messages = |sender: usize| -> Vec<String> {
        // Longer than a pipe takes at once.
        (0..50).map(|at| format!("{sender} {at} {}", "x".repeat(1000 + 100 * at))).collect()
    };
    std::thread::scope(|scope| {
        for sender in 0..20 {
            let text = messages(sender).join("\n") + "\n";
            let world = &world;
            scope.spawn(move || {
                let sent = world.sandbox.feed("session send coder/many -", &text).expect(0);
                assert_eq!(sent.stdout, format!("bytesWritten: {}\n", text.len()));
            });
        }
    });
    world.run("session send coder/many --eof").expect(0);
    world.run("session wait coder/many").expect(0);
    let arrived = world.run("exec coder -- cat /tmp/many").expect(0).stdout;
    let arrived: Vec<_> = arrived.lines().collect();
    assert_eq!(arrived.len(), 20 * 50);
    let mut senders = Vec::new();
    for message in arrived.chunks(50) {
        let sender: usize = message[0].split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        assert_eq!(message, messages(sender), "of {sender}");
        senders.push(sender);
    }
    senders.sort_unstable();
    assert_eq!(senders, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_does_not_read_costs_the_time_that_was_given() {
    let world = world();
    start(&world, "deaf", &[], "sleep 1000");
    let late = world.sandbox.feed("session send coder/deaf --timeout 500ms -", [b'x'; 300_000]).expect(1);
    assert!(late.took < Duration::from_secs(10), "{:?}", late.took);
    assert_eq!(
        late.stderr,
        "error: session coder/deaf did not read in time: 65536 of 300000 bytes were written, and the rest follows when it reads\n"
    );
    let late = world.run("session send coder/deaf --timeout 500ms more").expect(1);
    assert_eq!(late.stderr, "error: session coder/deaf did not read in time: nothing was sent\n");
}

#[test]
fn one_is_attached_and_writes_and_others_look() {
    let world = world();
    start(&world, "cat", &[], "echo before; echo err >&2; cat; exit 7");
    let mut first = Terminal::start(&world.sandbox.command("session attach coder/cat"), 80, 24);
    first.shows("before");
    first.shows("note: what it printed before ends here; ctrl-c leaves it running");
    // A pipe gets whole lines, as from any terminal.
    assert!(!first.is_raw());
    first.types("typed\n");
    first.until("typed, and said by cat", |shown| shown.matches("typed").count() == 2);
    refused(
        world.run("session attach coder/cat").expect(1),
        1,
        "error: somebody else is attached to session coder/cat and writes\nhint: `--takeover` writes in its place; `--read-only` only \
         looks\n",
    );
    let mut reader = world.spawn("session attach --read-only coder/cat");
    prints(&mut reader, "before\ntyped\n");
    let mut second = Terminal::start(&world.sandbox.command("session attach --takeover coder/cat"), 80, 24);
    assert_eq!(first.ends(), 1);
    assert!(first.last().contains("error: somebody else took over session coder/cat"));
    second.shows("before");
    second.types("again\n");
    prints(&mut reader, "again\n");
    second.types("\u{3}");
    assert_eq!(second.ends(), 130);
    assert!(second.last().ends_with("left session coder/cat running\r\n"));
    let mut third = Terminal::start(&world.sandbox.command("session attach coder/cat"), 80, 24);
    third.shows("again");
    world.run(["session", "send", "coder/cat", "sent\n", "--eof"]).expect(0);
    assert_eq!(third.ends(), 7);
    let seen = reader.end().expect(7);
    assert_eq!(seen.stdout, "before\ntyped\nagain\nsent\n");
    assert_eq!(seen.stderr, "err\nnote: what it printed before ends here\n");
}

#[test]
fn a_session_on_a_terminal_is_left_and_found_again() {
    let world = world();
    start(&world, "sh", &["--tty"], "exec sh");
    assert_eq!(listed(&world, "sh")["tty"], true);
    let attach = |cols, rows| Terminal::start(&world.sandbox.command("session attach coder/sh"), cols, rows);
    let mut terminal = attach(101, 33);
    until("it is raw", || terminal.is_raw());
    terminal.types("echo li''stens; busybox stty size\n");
    terminal.shows("listens\r\n33 101\r\n");
    terminal.resize(70, 20);
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("busybox stty size\n");
    terminal.shows("20 70\r\n");
    // Ctrl-C is the command's.
    terminal.types("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("\u{3}");
    terminal.types("echo co''de $?\n");
    terminal.shows("code 130");
    // A character in two halves.
    terminal.types("echo re''ady; cat\n");
    terminal.shows("ready");
    std::thread::sleep(Duration::from_millis(300));
    for half in ["gr\u{fc}n".as_bytes().split_at(3).0, "gr\u{fc}n".as_bytes().split_at(3).1, b"\n"] {
        terminal.types(half);
        std::thread::sleep(Duration::from_millis(50));
    }
    terminal.until("typed, and said by cat", |shown| shown.matches("gr\u{fc}n").count() == 2);
    terminal.types("\u{4}");
    terminal.types("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    // One of the keys alone is not for us.
    terminal.types("\u{10}");
    terminal.types("\u{10}\u{11}");
    assert_eq!(terminal.ends(), 0);
    assert!(!terminal.is_raw());
    let left = terminal.last();
    assert!(left.ends_with("\r\nleft session coder/sh running\r\n"), "{left}");
    assert_eq!(listed(&world, "sh")["status"], "running");

    let mut terminal = attach(90, 44);
    terminal.shows("listens");
    until("it is raw", || terminal.is_raw());
    terminal.types("\u{3}");
    terminal.types("busybox vi /tmp/text\n");
    terminal.shows("\u{1b}[43;1H~");
    terminal.types("iwritten\u{1b}");
    std::thread::sleep(Duration::from_millis(500));
    terminal.types(":wq\r");
    terminal.types("cat /tmp/te''xt; busybox top\n");
    terminal.shows("written\r\n");
    terminal.shows("Load average");
    terminal.types("q");
    terminal.types("exit 7\n");
    assert_eq!(terminal.ends(), 7);
    assert!(!terminal.is_raw());
    world.run("session wait coder/sh").expect(7);
}
