//! Commands in containers, and logs.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use steadfast::backend::{Chunk, Chunks, Engine, EngineErrorKind, ExecRequest, LogRequest, TermSize};
use steadfast::model::{ContainerId, Phase};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::bench::{Bench, Output, output, within};

fn shell(line: &str) -> ExecRequest {
    ExecRequest { command: vec!["sh".into(), "-c".into(), line.into()], ..ExecRequest::default() }
}

pub async fn a_commands_streams_and_code_are_kept_apart<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let exec = bench.engine.exec(&id, &shell("printf 'o\\377ut\\n'; echo err >&2; exit 42")).await.unwrap();
    let (session, seen) = (exec.id.clone(), output(exec).await);
    assert_eq!(seen, Output { stdout: b"o\xffut\n".to_vec(), stderr: b"err\n".to_vec() });
    assert_eq!(bench.engine.exec_exit(&session).await.unwrap(), 42);
}

pub async fn standard_input_is_half_closed<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let request = ExecRequest { stdin: true, ..shell("cat; echo after the end") };
    let mut exec = bench.engine.exec(&id, &request).await.unwrap();
    let mut stdin = exec.stdin.take().expect("standard input");
    stdin.write_all(b"line\n").await.unwrap();
    stdin.write_all(&[b'x'; 200_000]).await.unwrap();
    stdin.shutdown().await.unwrap();
    let session = exec.id.clone();
    let seen = output(exec).await;
    assert_eq!(seen.stdout.len(), "line\n".len() + 200_000 + "after the end\n".len());
    assert!(seen.stdout.ends_with(b"xafter the end\n"));
    assert_eq!(bench.engine.exec_exit(&session).await.unwrap(), 0);
}

pub async fn a_commands_environment_and_directory<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let mut request = shell("pwd; echo \"$A\"; echo \"$BUILT\"");
    request.env = vec!["A=b c=d".into()];
    request.workdir = Some("/www".into());
    let (stdout, _) = output(bench.engine.exec(&id, &request).await.unwrap()).await.text();
    assert_eq!(stdout, "/www\nb c=d\nyes\n");
}

pub async fn a_command_that_is_not_there<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let request = ExecRequest { command: vec!["no-such-program".into()], ..ExecRequest::default() };
    // Podman 4.3 starts the session and says so on standard error; newer ones refuse the start.
    match bench.engine.exec(&id, &request).await {
        Err(err) => assert!(err.message.contains("no-such-program"), "{err}"),
        Ok(exec) => {
            let session = exec.id.clone();
            let (_, stderr) = output(exec).await.text();
            assert!(stderr.contains("no-such-program"), "{stderr}");
            assert!([126, 127].contains(&bench.engine.exec_exit(&session).await.unwrap()));
        }
    }
}

pub async fn much_output_arrives_whole<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let exec = bench.engine.exec(&id, &shell("head -c 5000000 /dev/zero; head -c 70000 /dev/zero >&2")).await.unwrap();
    let seen = output(exec).await;
    assert_eq!((seen.stdout.len(), seen.stderr.len()), (5_000_000, 70_000));
}

/// A command on a terminal, and what it has printed.
struct Terminal {
    session: String,
    keys: Pin<Box<dyn AsyncWrite + Send>>,
    output: Chunks,
    shown: Vec<u8>,
}

impl Terminal {
    async fn start<E: Engine>(bench: &Bench<E>, id: &ContainerId, request: ExecRequest) -> Self {
        let request = ExecRequest { stdin: true, tty: Some(TermSize { cols: 101, rows: 33 }), ..request };
        let exec = bench.engine.exec(id, &request).await.unwrap_or_else(|err| panic!("{err} {err:?}"));
        Self { session: exec.id, keys: exec.stdin.expect("keys"), output: exec.output, shown: Vec::new() }
    }

    async fn types(&mut self, keys: impl AsRef<[u8]>) {
        self.keys.write_all(keys.as_ref()).await.expect("typed");
        self.keys.flush().await.expect("typed");
    }

    /// Waits for words, and forgets what was shown until then.
    async fn shows(&mut self, words: &str) {
        let find = |shown: &[u8]| shown.windows(words.len()).position(|window| window == words.as_bytes());
        while find(&self.shown).is_none() {
            let next = tokio::time::timeout(Duration::from_secs(30), self.output.next()).await;
            match next {
                Ok(Some(Ok(Chunk::Stdout(bytes)))) => self.shown.extend(bytes),
                other => panic!("`{words}` never came: {other:?}\n{}", String::from_utf8_lossy(&self.shown)),
            }
        }
        let at = find(&self.shown).expect("found");
        self.shown.drain(..at + words.len());
    }

    /// All that comes until the end, and the exit code.
    async fn ends<E: Engine>(mut self, bench: &Bench<E>) -> (Vec<u8>, i32) {
        let rest = within(Output::of(self.output)).await;
        assert_eq!(rest.stderr, b"");
        self.shown.extend(rest.stdout);
        (self.shown, bench.engine.exec_exit(&self.session).await.expect("an exit code"))
    }
}

pub async fn a_terminal_has_its_size_and_follows_it<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let line = "busybox tty; read -r go; busybox stty size; trap 'busybox stty size' WINCH; trap 'exit 42' INT; echo tr''aps; \
                while true; do sleep 0.1; done";
    let mut terminal = Terminal::start(bench, &id, shell(line)).await;
    terminal.shows("/dev/pts/").await;
    terminal.types("go\r").await;
    terminal.shows("33 101\r\n").await;
    terminal.shows("traps").await;
    for (cols, rows) in [(70, 20), (300, 90)] {
        bench.engine.exec_resize(&terminal.session, TermSize { cols, rows }).await.expect("another size");
        terminal.shows(&format!("{rows} {cols}\r\n")).await;
    }
    let session = terminal.session.clone();
    terminal.types([3]).await;
    assert_eq!(terminal.ends(bench).await.1, 42);
    bench.engine.exec_resize(&session, TermSize::default()).await.expect_err("it has ended");
    bench.engine.exec_resize("nobody", TermSize::default()).await.expect_err("there is none");
}

pub async fn keys_are_the_commands<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let line = "trap 'echo interr''upted' INT; echo beg''un; sleep 1000; echo on; cat; echo the e''nd";
    let mut terminal = Terminal::start(bench, &id, shell(line)).await;
    terminal.shows("begun").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    terminal.types([3]).await;
    terminal.shows("interrupted").await;
    terminal.shows("on\r\n").await;
    // In two halves, and each line comes twice: echoed, and said by cat.
    terminal.types(&"gr\u{fc}n\n".as_bytes()[..3]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    terminal.types(&"gr\u{fc}n\n".as_bytes()[3..]).await;
    terminal.shows("gr\u{fc}n\r\n").await;
    terminal.shows("gr\u{fc}n\r\n").await;
    terminal.types([4]).await;
    let (rest, code) = terminal.ends(bench).await;
    assert_eq!((String::from_utf8_lossy(&rest).as_ref(), code), ("the end\r\n", 0));
}

pub async fn every_byte_goes_both_ways_on_a_terminal<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let all: Vec<u8> = (0..60_000_u32).map(|at| (at % 256) as u8).collect();
    // One way after the other: conmon (2.1.6) reads nothing while it waits for room to write to the terminal.
    let line = format!(
        "busybox stty raw -echo; echo go; head -c 1; echo one; head -c {} >/tmp/all; cat /tmp/all; echo over",
        all.len()
    );
    let mut terminal = Terminal::start(bench, &id, shell(&line)).await;
    terminal.shows("go\n").await;
    // By itself: Podman would keep it back, did it take it for the first of its own keys.
    terminal.types([0x10]).await;
    terminal.shows("\u{10}one\n").await;
    let (sent, mut keys) = (all.clone(), terminal.keys);
    let send = tokio::spawn(async move {
        // Half of it at once, so that no end of a buffer is like another.
        keys.write_all(&sent[..30_001]).await.expect("typed");
        keys.write_all(&sent[30_001..]).await.expect("typed");
        keys
    });
    let terminal = Terminal { keys: Box::pin(tokio::io::sink()), ..terminal };
    let (rest, code) = terminal.ends(bench).await;
    drop(send.await.expect("sent"));
    assert_eq!((rest.len(), code), (all.len() + "over\n".len(), 0));
    assert!(rest[..all.len()] == all, "the same bytes");
}

pub async fn a_terminals_end_is_the_commands<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    for (line, said, code) in [
        ("echo out; echo err >&2; exit 7", "out\r\nerr\r\n", 7),
        ("exit 255", "", 255),
        ("true", "", 0),
        ("kill -9 $$", "", 137),
    ] {
        let ended = Terminal::start(bench, &id, shell(line)).await.ends(bench).await;
        assert_eq!((String::from_utf8_lossy(&ended.0).as_ref(), ended.1), (said, code), "{line}");
    }
    let long = Terminal::start(bench, &id, shell("head -c 3000000 /dev/zero; exit 3")).await.ends(bench).await;
    assert_eq!((long.0.len(), long.1), (3_000_000, 3));
    // Nothing is sent, and nothing that could be.
    let request = ExecRequest { tty: Some(TermSize::default()), ..shell("echo alone; exit 4") };
    let exec = bench.engine.exec(&id, &request).await.unwrap();
    assert!(exec.stdin.is_none());
    let session = exec.id.clone();
    assert_eq!(output(exec).await.text().0, "alone\r\n");
    assert_eq!(bench.engine.exec_exit(&session).await.unwrap(), 4);
}

/// What runs in the container beside what it was made for.
async fn naps<E: Engine>(bench: &Bench<E>, id: &ContainerId) -> usize {
    let line = "for dir in /proc/[0-9]*; do busybox tr '\\0' ' ' <$dir/cmdline; echo; done 2>/dev/null";
    let (stdout, _) = output(bench.engine.exec(id, &shell(line)).await.unwrap()).await.text();
    stdout.lines().filter(|line| line.starts_with("sleep 77")).count()
}

pub async fn a_command_on_a_terminal_is_ended_with_all_it_began<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let mut terminal =
        Terminal::start(bench, &id, ExecRequest { command: vec!["sh".into()], ..Default::default() }).await;
    terminal.types("(trap '' TERM HUP; sleep 771; sleep 772) &\nsleep 773 &\nsleep 774\n").await;
    let began = Instant::now();
    while naps(bench, &id).await < 3 {
        assert!(began.elapsed() < Duration::from_secs(30), "they never run");
    }
    let session = terminal.session.clone();
    // As when we are ended: the streams first.
    drop(terminal);
    bench.engine.exec_end(&session).await.unwrap();
    assert_eq!(naps(bench, &id).await, 0);
}

pub async fn a_terminal_wants_a_container_that_runs<E: Engine>(bench: &Bench<E>) {
    let made = bench.made(&bench.shell("x", "sleep 1000")).await;
    let request = ExecRequest { tty: Some(TermSize::default()), ..shell("true") };
    let with = bench.engine.exec(&made, &request).await.expect_err("it does not run");
    let without = bench.engine.exec(&made, &shell("true")).await.expect_err("it does not run");
    assert_eq!((with.kind, &with.message), (without.kind, &without.message));
    let gone = ContainerId::new("0123456789ab".repeat(5)).unwrap();
    let err = bench.engine.exec(&gone, &request).await.expect_err("there is none");
    assert_eq!(err.kind, EngineErrorKind::NotFound, "{err}");
}

pub async fn a_command_is_run_by_who_is_named<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    for (user, said) in [(None, "0 0\n"), (Some("1234"), "1234 0\n"), (Some("1234:56"), "1234 56\n")] {
        let request = shell("echo $(busybox id -u) $(busybox id -g)");
        let request = ExecRequest { user: user.map(str::to_owned), ..request };
        assert_eq!(output(bench.engine.exec(&id, &request).await.unwrap()).await.text().0, said);
    }
}

pub async fn logs_keep_streams_and_bytes<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("log", "printf 'o\\377ut\\r\\n'; echo err >&2")).await;
    bench.until(&id, |state| matches!(state.phase, Phase::Exited { .. })).await;
    let seen = within(Output::of(bench.engine.logs(&id, &LogRequest::default()).await.unwrap())).await;
    assert_eq!(seen, Output { stdout: b"o\xffut\r\n".to_vec(), stderr: b"err\n".to_vec() });
}

pub async fn a_tail_is_the_last_lines<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("log", "for i in 1 2 3 4 5; do echo $i; done")).await;
    bench.until(&id, |state| matches!(state.phase, Phase::Exited { .. })).await;
    for (tail, wanted) in [(Some(2), "4\n5\n"), (Some(0), ""), (Some(99), "1\n2\n3\n4\n5\n"), (None, "1\n2\n3\n4\n5\n")]
    {
        let request = LogRequest { follow: false, tail };
        let (stdout, _) = within(Output::of(bench.engine.logs(&id, &request).await.unwrap())).await.text();
        assert_eq!(stdout, wanted, "tail {tail:?}");
    }
}

pub async fn a_followed_log_ends_with_its_container<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("log", "echo first; sleep 1; echo last >&2; exit 1")).await;
    let request = LogRequest { follow: true, tail: None };
    let seen = within(Output::of(bench.engine.logs(&id, &request).await.unwrap())).await;
    assert_eq!(seen.text(), ("first\n".to_owned(), "last\n".to_owned()));
}
