//! What is sent: whole, once, in order, and never for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use steadfast_keeper::message::{ProblemKind, Status, Stdin};

use crate::harness::{Base, Client, Seen, printed, shell, spec, writer};

#[test]
fn a_hundred_senders_with_ten_thousand_messages_lose_double_and_tear_nothing() {
    let base = Base::new();
    base.start(&spec("cat", &["cat"])).unwrap();
    let (senders, messages) = (100, 100);
    let again = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for sender in 0..senders {
            let (base, again) = (&base, &again);
            scope.spawn(move || {
                let mut client = Client::connect(base.path(), "cat");
                for message in 0..messages {
                    let (id, line) =
                        (format!("{sender}-{message}"), format!("<{sender} {message} {}>\n", "x".repeat(message * 7)));
                    assert_eq!(client.send(&id, line.as_bytes(), false, 60_000).unwrap(), line.len() as u64);
                    // Some answers are lost on the way, and the message is sent again by another connection.
                    if message % 10 == 3 {
                        client = Client::connect(base.path(), "cat");
                        assert_eq!(client.send(&id, line.as_bytes(), false, 60_000).unwrap(), line.len() as u64);
                        again.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Client::connect(base.path(), "cat").send("end", b"", true, 5000).unwrap();
    base.wait_for("cat", "it has ended", |state| state.status == Status::Exited);
    let seen = printed(&base, "cat");
    let text = String::from_utf8(seen.stdout).unwrap();
    let mut next = vec![0; senders];
    for line in text.lines() {
        let inner =
            line.strip_prefix('<').and_then(|line| line.strip_suffix('>')).unwrap_or_else(|| panic!("torn: {line}"));
        let mut words = inner.split(' ');
        let sender: usize = words.next().unwrap().parse().unwrap();
        let message: usize = words.next().unwrap().parse().unwrap();
        assert_eq!(message, next[sender], "of sender {sender}");
        assert_eq!(words.next().unwrap().len(), message * 7);
        next[sender] += 1;
    }
    assert!(next.iter().all(|next| *next == messages), "{next:?}");
    assert_eq!(again.load(Ordering::Relaxed), senders * 10);
}

#[test]
fn sixty_four_mebibytes_arrive_whole() {
    let base = Base::new();
    base.start(&spec("sum", &["sha256sum"])).unwrap();
    let bytes: Vec<u8> = (0..(64_u32 << 20)).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sent = Client::connect(base.path(), "sum").send("all", &bytes, true, 60_000).unwrap();
    assert_eq!(sent, 64 << 20);
    base.wait_for("sum", "it has ended", |state| state.status == Status::Exited);
    let file = base.path().join("bytes");
    std::fs::write(&file, &bytes).unwrap();
    let expected = std::process::Command::new("sha256sum").stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
    assert_eq!(printed(&base, "sum").stdout, expected.stdout);
    let more = Client::connect(base.path(), "sum").send("more", &[0], false, 100).unwrap_err();
    assert_eq!(more.kind, ProblemKind::NotRunning);
}

#[test]
fn too_much_is_refused_and_nothing_touches_nothing() {
    let base = Base::new();
    base.start(&spec("cat", &["cat"])).unwrap();
    let mut client = Client::connect(base.path(), "cat");
    assert_eq!(client.send("a", b"", false, 100).unwrap(), 0);
    let send = steadfast_keeper::message::Send { id: "b".into(), bytes: (64 << 20) + 1, eof: false, timeout_ms: 100 };
    client.say(&steadfast_keeper::frame::message(steadfast_keeper::frame::Kind::Send, &send));
    assert_eq!(client.hear_problem().kind, ProblemKind::Protocol);
    assert!(printed(&base, "cat").stdout.is_empty());
}

#[test]
fn who_does_not_read_costs_time_not_for_ever() {
    let base = Base::new();
    base.start(&shell("deaf", "sleep 1000")).unwrap();
    let mut client = Client::connect(base.path(), "deaf");
    // A pipe holds 64 KiB.
    client.send("fits", &vec![b'x'; 65536], false, 1000).unwrap();
    let began = Instant::now();
    let late = Client::connect(base.path(), "deaf").send("late", b"y", false, 400).unwrap_err();
    assert_eq!((late.kind, late.written), (ProblemKind::Timeout, Some(0)));
    assert!(began.elapsed() < Duration::from_secs(10));
    let part = Client::connect(base.path(), "deaf").send("late", b"y", false, 10).unwrap_err();
    assert_eq!(part.written, Some(0), "{}", part.message);
    // It ends, and whoever waits hears of it.
    let waiting = std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| Client::connect(base.path(), "deaf").send("long", b"z", false, 60_000).unwrap_err());
        std::thread::sleep(Duration::from_millis(200));
        Client::connect(base.path(), "deaf").stop(9, 0);
        waiting.join().unwrap()
    });
    assert_eq!(waiting.kind, ProblemKind::NotRunning);
}

#[test]
fn a_message_that_was_begun_is_finished_when_the_command_reads_again() {
    let base = Base::new();
    base.start(&shell("slow", "sleep 2; wc -c")).unwrap();
    let late = Client::connect(base.path(), "slow").send("large", &vec![b'x'; 200_000], false, 300).unwrap_err();
    assert!(late.written.unwrap() > 0 && late.written.unwrap() < 200_000, "{late:?}");
    // Sent again, it is not doubled.
    assert_eq!(
        Client::connect(base.path(), "slow").send("large", &vec![b'x'; 200_000], false, 30_000).unwrap(),
        200_000
    );
    Client::connect(base.path(), "slow").send("end", b"", true, 5000).unwrap();
    base.wait_for("slow", "it has ended", |state| state.status == Status::Exited);
    assert_eq!(printed(&base, "slow").stdout, b"200000\n");
}

#[test]
fn a_sender_that_vanishes_midway_has_sent_nothing() {
    let base = Base::new();
    base.start(&spec("cat", &["cat"])).unwrap();
    let mut client = Client::connect(base.path(), "cat");
    let send = steadfast_keeper::message::Send { id: "a".into(), bytes: 1000, eof: false, timeout_ms: 60_000 };
    client.say(&steadfast_keeper::frame::message(steadfast_keeper::frame::Kind::Send, &send));
    client.say(&steadfast_keeper::frame::bytes(steadfast_keeper::frame::Kind::Data, &[b'x'; 999]));
    client.vanish();
    Client::connect(base.path(), "cat").send("b", b"after\n", true, 5000).unwrap();
    base.wait_for("cat", "it has ended", |state| state.status == Status::Exited);
    assert_eq!(printed(&base, "cat").stdout, b"after\n");
}

#[test]
fn closed_input_is_said() {
    let base = Base::new();
    let mut closed = shell("closed", "sleep 1000");
    closed.stdin = Stdin::Closed;
    base.start(&closed).unwrap();
    let refused = Client::connect(base.path(), "closed").send("a", b"x", false, 100).unwrap_err();
    assert_eq!(
        (refused.kind, refused.message.as_str()),
        (ProblemKind::NoStdin, "session coder/closed has no stdin pipe")
    );
    base.start(&shell("shut", "exec <&-; sleep 1000")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let refused = Client::connect(base.path(), "shut").send("a", b"x", false, 2000).unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NoStdin);
}

#[test]
fn one_writes_many_read_and_another_may_take_over() {
    let base = Base::new();
    base.start(&spec("cat", &["cat"])).unwrap();
    let (mut first, mut second, mut seen) =
        (Client::connect(base.path(), "cat"), Client::connect(base.path(), "cat"), Seen::default());
    first.attach(&writer("one"));
    first.write(0, b"from the first\n");
    first.see(&mut seen, |_, seen| seen.stdout.ends_with(b"first\n"));
    second.attach(&writer("two"));
    let refused = second.hear_problem();
    assert_eq!(refused.message, "somebody else is attached to session coder/cat and writes");
    let mut second = Client::connect(base.path(), "cat");
    let mut takeover = writer("two");
    takeover.writer.as_mut().unwrap().takeover = true;
    second.attach(&takeover);
    assert_eq!(first.hear_problem().kind, ProblemKind::Writer);
    second.write(0, b"from the second\n");
    second.see(&mut seen, |_, seen| seen.stdout.ends_with(b"second\n"));
    // A holder that died blocks nobody.
    second.vanish();
    let mut third = Client::connect(base.path(), "cat");
    third.attach(&writer("two"));
    // What it wrote before is known, and not written twice.
    third.write(5, b"the second\nfrom the third\n");
    let mut seen = Seen::default();
    third.see(&mut seen, |_, seen| seen.stdout.ends_with(b"third\n"));
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "from the first\nfrom the second\nfrom the third\n");
}
