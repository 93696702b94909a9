//! `exec -t`: a command in an agent on a terminal, as whoever sits before it sees it.

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use crate::support;
use crate::support::terminal::Terminal;
use crate::world::{World, nap, processes_with, until};

fn world() -> World {
    let world = World::new();
    world.state(&[&world.agent("a", "")]);
    world.applied();
    world
}

/// `exec -it a -- …` on a terminal of 101 columns and 33 rows.
fn exec(world: &World, words: &[&str]) -> Terminal {
    Terminal::start(world.sandbox.command("exec -it a --").args(words), 101, 33)
}

/// An interactive shell that has said that it listens.
fn shell(world: &World) -> Terminal {
    let mut terminal = exec(world, &["sh"]);
    // What is typed is echoed too: so the answer differs from the question.
    terminal.types("echo li''stens\n");
    terminal.shows("listens");
    terminal
}

#[test]
fn a_command_has_our_terminal_with_its_size() {
    let world = world();
    let before = Terminal::start(&std::process::Command::new("true"), 80, 24).modes();
    let line = "busybox tty; read -r go; busybox stty size; trap 'busybox stty size' WINCH; trap 'exit 42' INT; echo tr''aps; \
                while true; do sleep 0.1; done";
    let mut terminal = exec(&world, &["sh", "-c", line]);
    terminal.shows("/dev/pts/");
    until("it is raw", || terminal.is_raw());
    terminal.types("go\r");
    terminal.shows("33 101\r\n");
    terminal.shows("traps");
    for (cols, rows) in [(70, 20), (200, 60)] {
        terminal.resize(cols, rows);
        terminal.shows(&format!("{rows} {cols}\r\n"));
    }
    terminal.types("\u{3}");
    assert_eq!(terminal.ends(), 42);
    assert_eq!(terminal.modes(), before);
}

#[test]
fn keys_are_the_commands() {
    let world = world();
    // Ctrl-D is the end of a file.
    let mut terminal = exec(&world, &["sh", "-c", "cat; echo the e''nd"]);
    until("it is raw", || terminal.is_raw());
    // A character comes in two halves.
    for half in ["gr\u{fc}n".as_bytes().split_at(3).0, "gr\u{fc}n".as_bytes().split_at(3).1, b"\n"] {
        terminal.types(half);
        std::thread::sleep(Duration::from_millis(50));
    }
    terminal.until("typed, and said by cat", |shown| shown.matches("gr\u{fc}n").count() == 2);
    terminal.types("\u{4}");
    terminal.shows("the end");
    assert_eq!(terminal.ends(), 0);

    let mut terminal = shell(&world);
    // Ctrl-C ends what is in front, and neither the shell nor us.
    terminal.types("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("\u{3}");
    terminal.types("echo co''de $?\n");
    terminal.shows("code 130");
    // Ctrl-Z puts it aside.
    terminal.types("sleep 1000\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("\u{1a}");
    terminal.shows("Stopped");
    terminal.types("fg; echo ba''ck\n");
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("\u{3}");
    terminal.types("exit 7\n");
    assert_eq!(terminal.ends(), 7);
}

#[test]
fn every_key_is_passed_on_at_once() {
    let world = world();
    let line = "busybox stty raw -echo; echo go; busybox dd bs=1 count=4 2>/dev/null | busybox od -An -tx1; \
                busybox dd bs=1 count=5 2>/dev/null | busybox od -An -tx1";
    let mut terminal = exec(&world, &["sh", "-c", line]);
    terminal.shows("go");
    // Ctrl-P is the first half of what Podman leaves a command with, Ctrl-Q the second.
    for key in [3, 0x1a, 0x11, 0x10] {
        terminal.types([key]);
        std::thread::sleep(Duration::from_millis(50));
    }
    terminal.shows("03 1a 11 10");
    for key in [0x10, 0x11, 4, 0, 0xff] {
        terminal.types([key]);
        std::thread::sleep(Duration::from_millis(50));
    }
    terminal.shows("10 11 04 00 ff");
    assert_eq!(terminal.ends(), 0);
}

#[test]
fn programs_that_fill_the_screen_do() {
    let world = world();
    let mut terminal = exec(&world, &["busybox", "vi", "/tmp/text"]);
    terminal.shows("\u{1b}[");
    // Podman (4.3) may begin a command before its terminal has a size; so it is another one that is looked at.
    std::thread::sleep(Duration::from_millis(500));
    terminal.resize(90, 44);
    terminal.shows("\u{1b}[43;1H~");
    terminal.types("iwritten\u{1b}");
    // At once, it would be Alt and a colon.
    std::thread::sleep(Duration::from_millis(500));
    terminal.types(":wq\r");
    assert_eq!(terminal.ends(), 0);
    assert_eq!(world.run("exec a -- cat /tmp/text").expect(0).stdout, "written\n");
    let mut terminal = exec(&world, &["busybox", "top"]);
    terminal.shows("PID");
    terminal.shows("Load average");
    terminal.types("q");
    assert_eq!(terminal.ends(), 0);
    assert!(!terminal.is_raw());
}

#[test]
fn whatever_ends_us_ends_the_command_and_leaves_the_terminal_as_it_was() {
    let world = world();
    for (number, (signal, code)) in
        (0..).zip([(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)])
    {
        let (nap, deaf) = (nap(20 + 2 * number), nap(21 + 2 * number));
        let mut terminal = Terminal::start(&world.sandbox.command("exec -it a -- sh"), 80, 24);
        terminal.until("a prompt", |shown| shown.contains("# "));
        assert!(terminal.is_raw());
        // In the background, deaf, and in front: each has a group of its own.
        terminal.types(format!("(trap '' TERM INT HUP; sleep {deaf}; sleep {deaf}) &\nsleep {nap} &\nsleep {nap}\n"));
        until("all of it runs", || processes_with(&nap) == 2 && processes_with(&deaf) == 1);
        terminal.signal(signal);
        assert_eq!(terminal.ends(), code);
        assert!(!terminal.is_raw(), "{signal:?}");
        assert_eq!((processes_with(&nap), processes_with(&deaf)), (0, 0), "{signal:?}");
    }
    // The window is closed.
    let nap = nap(30);
    let mut terminal = Terminal::start(&world.sandbox.command("exec -it a -- sh"), 80, 24);
    terminal.until("a prompt", |shown| shown.contains("# "));
    terminal.types(format!("sleep {nap}\n"));
    until("it runs", || processes_with(&nap) == 1);
    terminal.close();
    assert_eq!(terminal.ends(), 129);
    assert_eq!(processes_with(&nap), 0);
    assert!(world.runs("a"));
}

#[test]
fn a_lost_connection_is_reported_on_a_terminal_as_it_was() {
    let mut world = world();
    let way = Way::new(&world);
    world.sandbox.set("CONTAINER_HOST", format!("unix://{}", way.socket.display()));
    let nap = nap(40);
    let mut terminal = shell(&world);
    terminal.types(format!("sleep {nap}\n"));
    until("it runs", || processes_with(&nap) == 1);
    way.cut();
    assert_eq!(terminal.ends(), 125);
    assert!(!terminal.is_raw());
    assert_eq!(processes_with(&nap), 0, "it is ended from this machine, without Podman");
    let said = terminal.last();
    assert!(said.contains("error: "), "{said}");
    assert!(said.contains("Podman"), "{said}");
}

/// A way to Podman that can be lost.
struct Way {
    socket: std::path::PathBuf,
    open: Arc<Mutex<Vec<UnixStream>>>,
}

impl Way {
    fn new(world: &World) -> Self {
        let socket = world.sandbox.path("way.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let open = Arc::new(Mutex::new(Vec::new()));
        let ends = open.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let podman = UnixStream::connect(support::podman_socket()).expect("Podman");
                let copies = [&client, &podman].map(|end| end.try_clone().expect("a copy"));
                ends.lock().expect("not poisoned").extend(copies);
                let (from, to) = (client.try_clone().expect("a copy"), podman.try_clone().expect("a copy"));
                std::thread::spawn(move || support::pass_on(from, to, Duration::ZERO));
                std::thread::spawn(move || support::pass_on(podman, client, Duration::ZERO));
            }
        });
        Self { socket, open }
    }

    fn cut(&self) {
        std::fs::remove_file(&self.socket).expect("nobody else has");
        for end in self.open.lock().expect("not poisoned").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_terminal_without_us_before_it() {
    let world = world();
    // A terminal of its own, of which all comes out on one stream; we have none.
    let line = "busybox tty; busybox stty size; echo to err >&2; exit 3";
    let outcome = world.run(["exec", "-t", "a", "--", "sh", "-c", line]).expect(3);
    assert!(outcome.stdout.starts_with("/dev/pts/"), "{outcome:?}");
    assert!(outcome.stdout.contains("to err\r\n") && outcome.stderr.is_empty(), "{outcome:?}");
    // Ours is left as it is, and Ctrl-C ends us and the command.
    let nap = nap(50);
    let line = format!("echo beg''un; sleep {nap}");
    let mut terminal = Terminal::start(
        world.sandbox.command(["exec", "-t", "a", "--", "sh", "-c", &line]).env("TERM", "vt52"),
        80,
        24,
    );
    terminal.shows("begun");
    assert!(!terminal.is_raw());
    terminal.types("\u{3}");
    assert_eq!(terminal.ends(), 130);
    assert_eq!(processes_with(&nap), 0);
    // Keys of no terminal.
    let refused = world.sandbox.feed("exec -it a -- cat", "x").expect(125);
    assert_eq!(
        refused.stderr,
        "error: standard input is no terminal, and `-t` with `-i` passes on what is typed on one\nhint: leave `-t` out: `-i` alone \
         passes standard input on\n"
    );
}

#[test]
fn the_kind_of_terminal_and_the_user_are_passed_on() {
    let world = world();
    let kind = |args: &[&str]| {
        let mut command = world.sandbox.command("exec -t a");
        command.args(args).args(["--", "sh", "-c", "echo $TERM"]).env("TERM", "vt52");
        String::from_utf8(command.output().expect("it runs").stdout).expect("text")
    };
    assert_eq!(kind(&[]), "vt52\r\n");
    assert_eq!(kind(&["-e", "TERM=dumb"]), "dumb\r\n");
    assert_eq!(kind(&["-e", "TERM"]), "vt52\r\n");
    let who = |args: &str| world.run(format!("exec {args} a -- busybox id -u")).expect(0).stdout;
    assert_eq!(who(""), "0\n");
    assert_eq!(who("-u 1234"), "1234\n");
    assert_eq!(who("-t --user 1234:5"), "1234\r\n");
    let missing = world.run("exec -u nobody-there a -- true");
    assert!((125..=127).contains(&missing.code) && missing.stderr.contains("nobody-there"), "{missing:?}");
}

#[test]
fn a_missing_command_is_reported_as_one_on_a_terminal_too() {
    let world = world();
    let mut terminal = exec(&world, &["nonesuch"]);
    assert_eq!(terminal.ends(), 127);
    assert!(!terminal.is_raw());
    let said = terminal.last();
    let container = world.name("a");
    assert_eq!(said, format!("error: command `nonesuch` was not found in container `{container}`\r\n"));
}

#[test]
fn the_first_signal_ends_cleanly_and_the_second_at_once() {
    let world = world();
    let mut terminal = shell(&world);
    terminal.signal(Signal::TERM);
    terminal.signal(Signal::TERM);
    assert!([143, 1015].contains(&terminal.ends()));
    assert!(!terminal.is_raw());
}
