//! What is printed: replayed, followed, bounded, and never in the way of the command.

use std::time::Duration;

use steadfast_keeper::frame::Kind;
use steadfast_keeper::message::{Attach, Status};

use crate::harness::{Base, Client, Seen, follow, logs, printed, shell, spec};

#[test]
fn a_reader_that_comes_back_misses_and_doubles_nothing() {
    let base = Base::new();
    base.start(&shell("count", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; sleep 0.2")).unwrap();
    let mut seen = Seen::default();
    loop {
        let mut client = Client::connect(base.path(), "count");
        client.attach(&Attach { from: Some(seen.next), ..follow() });
        let mut left = 20;
        client.see(&mut seen, |frame, seen| {
            left -= usize::from(frame.kind == Kind::Output);
            left == 0 || seen.ended.is_some()
        });
        if seen.ended.is_some() {
            break;
        }
        client.vanish();
    }
    let expected: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    assert!(seen.stdout == expected.as_bytes(), "{} bytes instead of {}", seen.stdout.len(), expected.len());
    assert_eq!(seen.missed, 0);
}

#[test]
fn much_more_than_the_log_holds_reaches_who_reads_along() {
    let base = Base::new();
    let mut much = shell("much", "read go; head -c 100000000 /dev/zero | tr '\\0' x");
    much.log_max = 1 << 20;
    base.start(&much).unwrap();
    let mut client = Client::connect(base.path(), "much");
    client.attach(&follow());
    Client::connect(base.path(), "much").send("go", b"go\n", false, 5000).unwrap();
    let mut total = 0;
    let mut seen = Seen::default();
    client.see(&mut seen, |_, seen| {
        total = seen.stdout.len();
        seen.ended.is_some()
    });
    assert_eq!((total, seen.missed), (100_000_000, 0));
    let kept: u64 =
        std::fs::read_dir(base.session("much")).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(kept < (1 << 20) + 100_000, "{kept}");
}

#[test]
fn who_never_reads_is_waited_for_a_moment_and_told_what_was_missed() {
    let base = Base::new();
    let mut much = shell("much", "read go; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo end");
    much.log_max = 1 << 20;
    base.start(&much).unwrap();
    let mut lazy = Client::connect(base.path(), "much");
    lazy.attach(&follow());
    Client::connect(base.path(), "much").send("go", b"go\n", false, 5000).unwrap();
    // The command gets to its end though nobody reads.
    base.wait_for("much", "it has printed all", |state| state.status == Status::Exited);
    let mut seen = Seen::default();
    lazy.see(&mut seen, |_, seen| seen.ended.is_some());
    assert!(seen.missed > 10_000_000, "{}", seen.missed);
    assert!(seen.stdout.ends_with(b"\nend\n"));
}

#[test]
fn a_replay_is_bounded_and_ends_with_a_marker() {
    let base = Base::new();
    base.start(&shell("some", "head -c 3000000 /dev/zero | tr '\\0' x; echo; sleep 1000")).unwrap();
    base.wait_for("some", "it has printed", |state| state.idle_ms.unwrap_or(0) > 500);
    let mut client = Client::connect(base.path(), "some");
    client.attach(&Attach { replay: 1 << 20, ..logs() });
    let mut seen = Seen::default();
    client.see(&mut seen, |frame, _| frame.kind == Kind::Replayed);
    assert!(seen.stdout.len() <= 1 << 20 && seen.stdout.len() > 900_000, "{}", seen.stdout.len());
    assert!(seen.stdout.ends_with(b"x\n"));
}

#[test]
fn the_newest_is_told_by_its_time() {
    let base = Base::new();
    base.start(&shell("old", "echo old; sleep 1; echo new; sleep 1000")).unwrap();
    let state = base
        .wait_for("old", "it has printed", |state| state.last_output_at.is_some_and(|at| at > state.started_at + 900));
    let mut client = Client::connect(base.path(), "old");
    client.attach(&Attach { since: state.last_output_at.unwrap() - 300, ..logs() });
    let mut seen = Seen::default();
    client.see(&mut seen, |frame, _| frame.kind == Kind::Replayed);
    assert_eq!(seen.stdout, b"new\n");
}

#[test]
fn the_last_words_come_before_the_end() {
    let base = Base::new();
    for round in 0..20 {
        let name = format!("r{round}");
        base.start(&shell(&name, "read go; printf last; exit 3")).unwrap();
        let mut client = Client::connect(base.path(), &name);
        client.attach(&follow());
        Client::connect(base.path(), &name).send("go", b"go\n", false, 5000).unwrap();
        let mut seen = Seen::default();
        client.see(&mut seen, |_, seen| seen.ended.is_some());
        assert_eq!((seen.stdout.as_slice(), seen.ended.unwrap().exit.unwrap().code), (b"last".as_slice(), Some(3)));
        assert!(client.is_over());
    }
}

#[test]
fn many_sessions_are_listed_though_one_keeper_is_frozen() {
    let base = Base::new();
    for n in 0..20 {
        base.start(&spec(&format!("s{n}"), &["cat"])).unwrap();
    }
    let frozen = base.keeper("s7").to_string();
    let signal =
        |word: &str| assert!(std::process::Command::new("kill").args([word, &frozen]).status().unwrap().success());
    signal("-STOP");
    let listed = base.list();
    signal("-CONT");
    assert_eq!(listed.len(), 20);
    let unknown: Vec<_> = listed.iter().filter(|state| state.status == Status::Unknown).collect();
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0].name, "s7");
    assert!(unknown[0].why.as_deref().unwrap().starts_with("its keeper does not answer"));
    std::thread::sleep(Duration::from_millis(10));
    assert!(printed(&base, "s7").stdout.is_empty());
}
