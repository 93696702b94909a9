//! Starts, ends, restarts, and what is left when somebody is killed.

use std::time::Duration;

use steadfast_keeper::frame::Kind;
use steadfast_keeper::message::{IdleStop, ProblemKind, Restart, Status, Stdin, Word};

use crate::harness::{Base, Client, Seen, is_alive, kill, logs, printed, shell, spec};

#[test]
fn a_command_runs_ends_and_is_told_of() {
    let base = Base::new();
    let begun = base.start(&shell("one", "echo out; echo err >&2; read line; exit 7")).unwrap();
    assert_eq!((begun.status, begun.attachable, begun.stdin), (Status::Running, true, Stdin::Pipe));
    assert!(is_alive(begun.pid.unwrap()));
    Client::connect(base.path(), "one").send("a", b"go\n", false, 5000).unwrap();
    let ended = Client::connect(base.path(), "one").wait();
    assert_eq!((ended.status, ended.exit.unwrap().code), (Status::Exited, Some(7)));
    let seen = printed(&base, "one");
    assert_eq!((seen.stdout.as_slice(), seen.stderr.as_slice()), (b"out\n".as_slice(), b"err\n".as_slice()));
    let listed = base.wait_for("one", "it has ended", |state| state.status == Status::Exited);
    assert_eq!((listed.exit.unwrap().code, listed.pid, listed.attachable), (Some(7), None, false));
    // Once its keeper is gone, files answer.
    let refused = Client::connect(base.path(), "one").send("b", b"x", false, 100).unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NotRunning);
    assert_eq!(base.start(&shell("one", "true")).unwrap_err()[0].message, "session coder/one exists");
    base.remove("one").unwrap();
    assert!(base.list().is_empty());
    assert_eq!(base.remove("one").unwrap_err().kind, ProblemKind::NotFound);
}

#[test]
fn all_that_speaks_against_a_start_is_said_at_once_and_nothing_is_left() {
    let base = Base::new();
    let mut wrong = spec("pi", &["no-such-pi"]);
    wrong.cwd = Some(Word::from("/no/such/place"));
    wrong.requires = ["sh", "no-such-git"].map(Word::from).to_vec();
    let said: Vec<_> = base.start(&wrong).unwrap_err().into_iter().map(|problem| problem.message).collect();
    assert_eq!(
        said,
        ["cwd /no/such/place does not exist in coder", "not on the PATH in coder: no-such-git, no-such-pi"]
    );
    wrong = spec("pi", &["/etc/hostname"]);
    wrong.cwd = Some(Word::from("/etc/passwd"));
    let said = base.start(&wrong).unwrap_err();
    assert_eq!(said[0].message, "cwd /etc/passwd is not a directory in coder");
    let script = base.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    assert!(std::process::Command::new("chmod").arg("+x").arg(&script).status().unwrap().success());
    // Found only by trying.
    let said = base.start(&spec("pi", &[script.to_str().unwrap()])).unwrap_err();
    assert_eq!(said[0].kind, ProblemKind::Command, "{said:?}");
    for name in ["", "a/b", "..", "Up", &"x".repeat(64)] {
        assert_eq!(base.start(&shell(name, "true")).unwrap_err()[0].kind, ProblemKind::Protocol, "{name}");
    }
    assert_eq!(std::fs::read_dir(base.path().join("sessions")).unwrap().count(), 0);
}

#[test]
fn of_many_starts_at_once_one_wins() {
    let base = Base::new();
    let won: usize = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| usize::from(base.start(&shell("one", "echo begun; sleep 100")).is_ok())))
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
    assert_eq!(std::fs::read_dir(base.path().join("sessions")).unwrap().count(), 1);
    assert_eq!(printed(&base, "one").stdout, b"begun\n");
}

#[test]
fn the_death_of_a_keeper_ends_its_command_and_frees_the_name() {
    let base = Base::new();
    let begun = base.start(&shell("one", "echo before; sleep 1000")).unwrap();
    base.wait_for("one", "it has printed", |state| state.last_output_at.is_some());
    kill(base.keeper("one"));
    let lost = base.wait_for("one", "it is lost", |state| state.status == Status::Lost);
    assert_eq!((lost.exit, lost.pid), (None, None));
    let began = std::time::Instant::now();
    while is_alive(begun.pid.unwrap()) {
        assert!(began.elapsed() < Duration::from_secs(10), "the command goes on without its keeper");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(printed(&base, "one").stdout, b"before\n");
    let mut again = shell("one", "echo anew; sleep 1000");
    assert_eq!(base.start(&again).unwrap_err()[0].kind, ProblemKind::Exists);
    again.replace_ended = true;
    assert_ne!(base.start(&again).unwrap().id, begun.id);
    base.wait_for("one", "it has printed", |state| state.last_output_at.is_some());
    assert_eq!(printed(&base, "one").stdout, b"anew\n");
    assert_eq!(base.remove("one").unwrap_err().kind, ProblemKind::Exists);
}

#[test]
fn many_look_at_one_that_has_ended_and_it_is_removed_meanwhile() {
    let base = Base::new();
    let mut one = shell("one", "echo said; exit 3");
    base.start(&one).unwrap();
    base.wait_for("one", "it ends", |state| state.status == Status::Exited);
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(base.path(), "one")).collect();
    let began = std::time::Instant::now();
    for client in &mut clients[..2] {
        assert_eq!(client.wait().exit.and_then(|exit| exit.code), Some(3));
    }
    assert_eq!(base.state("one").map(|state| state.status), Some(Status::Exited));
    one.replace_ended = true;
    base.start(&one).unwrap();
    base.wait_for("one", "it ends again", |state| state.status == Status::Exited);
    assert_eq!(base.remove("one"), Ok(()));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let mut seen = Seen::default();
    clients[2].attach(&logs());
    clients[2].see(&mut seen, |frame, _| frame.kind == Kind::Ended);
    assert_eq!(seen.stdout, b"said\n");
}

#[test]
fn a_start_that_was_killed_half_way_leaves_a_free_name() {
    let base = Base::new();
    let dir = base.session("one");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("lock"), "").unwrap();
    assert!(base.list().is_empty());
    base.start(&shell("one", "sleep 100")).unwrap();
}

#[test]
fn what_fails_is_started_again_later_and_later() {
    let base = Base::new();
    let mut failing = shell("one", "echo again; exit 3");
    failing.restart = Restart::OnFailure;
    base.start(&failing).unwrap();
    let state = base.wait_for("one", "it was started again twice", |state| state.restarts >= 2);
    assert_eq!(state.exit.unwrap().code, Some(3));
    let waits = base.wait_for("one", "it backs off", |state| state.status == Status::BackingOff);
    assert!(waits.restart_at.unwrap() > waits.ended_at.unwrap() + 1500, "it doubles: {waits:#?}");
    let refused = Client::connect(base.path(), "one").send("a", b"x", false, 100).unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NotRunning);
    let stopped = Client::connect(base.path(), "one").stop(15, 1000);
    assert_eq!((stopped.status, stopped.stopped, stopped.idle_stopped), (Status::Exited, true, false));
    let mut fine = shell("two", "exit 0");
    fine.restart = Restart::OnFailure;
    base.start(&fine).unwrap();
    base.wait_for("two", "it has ended", |state| state.status == Status::Exited);
}

#[test]
fn a_stop_is_heeded_or_enforced_and_takes_all_along() {
    let base = Base::new();
    base.start(&shell("polite", "trap 'echo bye; exit 4' TERM; while :; do sleep 0.05; done")).unwrap();
    base.start(&shell("stubborn", "trap '' TERM HUP; (setsid sleep 1000) & echo $!; while :; do sleep 1; done"))
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let ended = Client::connect(base.path(), "polite").stop(15, 20_000);
    assert_eq!(ended.exit.unwrap().code, Some(4));
    let before = base.keeper("stubborn");
    let ended = Client::connect(base.path(), "stubborn").stop(15, 300);
    assert_eq!(ended.exit.unwrap().signal, Some(9));
    assert!(children_of(before).is_empty(), "nothing is left of it");
    let sleeper: i32 = String::from_utf8(printed(&base, "stubborn").stdout).unwrap().trim().parse().unwrap();
    assert!(!is_alive(sleeper));
}

fn children_of(pid: i32) -> Vec<i32> {
    let is_child =
        |one: &i32| steadfast_keeper::proc::stat(*one).is_some_and(|stat| stat.parent == pid && stat.state != 'Z');
    crate::harness::processes().into_iter().filter(is_child).collect()
}

#[test]
fn what_a_command_leaves_in_the_background_ends_with_it() {
    let base = Base::new();
    base.start(&shell("one", "(trap '' TERM; exec sleep 1000) & echo $!; sleep 0.1; exit 0")).unwrap();
    let ended = base.wait_for("one", "it has ended", |state| state.status == Status::Exited);
    assert_eq!(ended.exit.unwrap().code, Some(0));
    let sleeper: i32 = String::from_utf8(printed(&base, "one").stdout).unwrap().trim().parse().unwrap();
    assert!(!is_alive(sleeper));
}

#[test]
fn an_idle_session_is_stopped_where_that_is_wanted() {
    let base = Base::new();
    let mut idle = shell("one", "echo busy; sleep 1000");
    idle.idle_stop = Some(IdleStop { after_ms: 700 });
    idle.restart = Restart::Always;
    base.start(&idle).unwrap();
    let ended = base.wait_for("one", "it is stopped", |state| state.status == Status::Exited);
    assert!(ended.stopped && ended.idle_stopped);
    assert_eq!(ended.why.as_deref(), Some("it was idle"));
    // What its keeper wrote down says so, too.
    let began = std::time::Instant::now();
    while base.session("one").join("sock").exists() {
        assert!(began.elapsed() < Duration::from_secs(10), "its keeper stays");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(base.state("one").unwrap().idle_stopped);
}

#[test]
fn who_waits_for_input_is_known() {
    let base = Base::new();
    base.start(&spec("cat", &["cat"])).unwrap();
    base.start(&shell("busy", "while :; do :; done")).unwrap();
    base.wait_for("cat", "it waits for input", |state| state.waiting_for_input == Some(true));
    base.wait_for("busy", "it does not", |state| {
        state.idle_ms.unwrap_or(0) > 1200 && state.waiting_for_input == Some(false)
    });
}

#[test]
fn variables_and_words_of_any_bytes_arrive() {
    let base = Base::new();
    let mut odd = spec("one", &["sh", "-c", "printf '%s|' \"$ODD\" \"$@\"", "sh"]);
    let words: [&[u8]; 6] = [b"", b"-n", b"'\"$x`\\", b"two\nlines", b"\xff\xfe", "\u{20ac}".as_bytes()];
    odd.command.extend(words.map(|word| Word(word.to_vec())));
    odd.env = vec![(Word::from("ODD"), Word(b"a\n\xff b".to_vec()))];
    base.start(&odd).unwrap();
    base.wait_for("one", "it has ended", |state| state.status == Status::Exited);
    let mut expected = b"a\n\xff b|".to_vec();
    words.iter().for_each(|word| expected.extend([word, b"|".as_slice()].concat()));
    assert_eq!(printed(&base, "one").stdout, expected);
}
