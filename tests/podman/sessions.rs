//! Guest sessions: the keeper put into containers of every kind, and spoken to.

use std::ops::ControlFlow;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use serde_json::{Value, json};
use steadfast::backend::{Engine, ExecRequest};
use steadfast::model::ContainerId;
use steadfast::session::message::{Exit, ProblemKind, Restart, Size, Spec, State, Status, Stdin, Word};
use steadfast::session::{AttachOptions, Event, Input, Keeper, Left, SendOptions, SessionError, WriteOptions};
use tokio::sync::mpsc;

use crate::bench::{Bench, NOW, output, whole, within};
use crate::support::archive::docker_archive;

/// A session that runs these words.
fn spec(name: &str, words: &[&str]) -> Spec {
    Spec {
        name: name.to_owned(),
        agent: "coder".to_owned(),
        id: crate::support::unique("id"),
        command: words.iter().copied().map(Word::from).collect(),
        cwd: None,
        env: Vec::new(),
        stdin: Stdin::Pipe,
        tty: None,
        requires: Vec::new(),
        restart: Restart::No,
        log_max: 8 << 20,
        idle_stop: None,
        declared: None,
        replace_ended: false,
    }
}

fn shell(name: &str, line: &str) -> Spec {
    spec(name, &["sh", "-c", line])
}

const SEND: SendOptions = SendOptions { id: None, eof: false, timeout: Duration::from_secs(30) };
const LAST: SendOptions = SendOptions { id: None, eof: true, timeout: Duration::from_secs(30) };

async fn started<E: Engine>(keeper: &Keeper<'_, E>, spec: &Spec) -> State {
    within(keeper.start(spec, None)).await.unwrap_or_else(|err| panic!("{err} {err:?}"))
}

/// All that a session printed, until its end or until now.
async fn printed<E: Engine>(keeper: &Keeper<'_, E>, name: &str, follow: bool) -> [Vec<u8>; 2] {
    let options = AttachOptions { replay: u64::MAX, since: 0, follow, write: None };
    let (_nothing, mut input) = mpsc::channel(1);
    let mut printed = [Vec::new(), Vec::new()];
    let attached = keeper.attach(name, &options, &mut input, |event| {
        match event {
            Event::Output { stream, bytes, .. } => printed[stream as usize - 1].extend_from_slice(bytes),
            Event::Live { .. } => {}
            other => panic!("{other:?}"),
        }
        ControlFlow::Continue(())
    });
    within(Box::pin(attached)).await.unwrap_or_else(|err| panic!("{err} {err:?}"));
    printed
}

fn sentences(err: &SessionError) -> Vec<String> {
    err.to_string().lines().map(str::to_owned).collect()
}

pub async fn a_session_takes_every_byte_and_ends<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let keeper = Keeper::new(&bench.engine, id.clone(), "coder");
    assert!(keeper.list().await.unwrap().is_empty());
    let begun = started(&keeper, &shell("cat", "cat; echo over >&2; exit 3")).await;
    assert_eq!((begun.status, begun.uid, begun.attachable), (Status::Running, 0, true));
    assert!(begun.pid.is_some() && begun.pid_start.is_some());
    let state = keeper.state("cat").await.unwrap().expect("it is there");
    assert_eq!((&state.id, state.pid), (&begun.id, begun.pid));
    let listed = keeper.list().await.unwrap();
    assert_eq!(listed.iter().map(|state| state.name.as_str()).collect::<Vec<_>>(), ["cat"]);

    let all: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..1_u32 << 20).map(|at| (at % 251) as u8).collect();
    for bytes in [&all, &Vec::new(), &large] {
        assert_eq!(within(keeper.send("cat", bytes, &SEND)).await.unwrap(), bytes.len() as u64);
    }
    assert_eq!(within(keeper.send("cat", b"last", &LAST)).await.unwrap(), 4);
    let [stdout, stderr] = printed(&keeper, "cat", true).await;
    assert!(stdout == [all, large.clone(), b"last".to_vec()].concat(), "{} bytes", stdout.len());
    assert_eq!(stderr, b"over\n");
    let ended = within(keeper.wait("cat")).await.unwrap();
    assert_eq!((ended.status, ended.exit.and_then(|exit| exit.code)), (Status::Exited, Some(3)));
    let err = keeper.send("cat", b"x", &SEND).await.unwrap_err();
    assert!(err.to_string().starts_with("session coder/cat is not running (exited 3 "), "{err}");
    keeper.remove(&ended).await.unwrap();
    assert!(keeper.state("cat").await.unwrap().is_none());

    // Whatever is asked of what is not there is told so, each time.
    for _ in 0..if bench.api { 3 } else { 1 } {
        let (_nothing, mut input) = mpsc::channel(1);
        let options = AttachOptions { replay: 0, since: 0, follow: true, write: None };
        let attached = keeper.attach("cat", &options, &mut input, |_| ControlFlow::Continue(())).await.unwrap_err();
        let others = [
            keeper.send("cat", b"x", &SEND).await.unwrap_err(),
            keeper.send("cat", &large, &SEND).await.unwrap_err(),
            keeper.wait("cat").await.unwrap_err(),
            keeper.stop("cat", 15, NOW).await.unwrap_err(),
            attached,
        ];
        for err in others {
            assert_eq!(err.to_string(), "session coder/cat does not exist");
        }
    }
    assert_eq!(keeper.remove(&ended).await.unwrap_err().kind(), Some(ProblemKind::NotFound));
}

pub async fn what_speaks_against_a_session_is_said_at_once<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let keeper = Keeper::new(&bench.engine, id.clone(), "coder");
    started(&keeper, &spec("pi", &["cat"])).await;
    let refused = |spec: Spec| {
        let keeper = &keeper;
        async move { sentences(&within(keeper.start(&spec, None)).await.expect_err("it speaks against it")) }
    };
    let wrong = Spec {
        cwd: Some("/root/repo".into()),
        requires: ["git", "sh", "pi"].map(Word::from).into(),
        ..spec("pi", &["pi", "--mode", "rpc"])
    };
    let said = refused(wrong).await;
    assert_eq!(
        said,
        ["cwd /root/repo does not exist in coder", "not on the PATH in coder: git, pi", "session coder/pi exists"]
    );
    let file = Spec { cwd: Some("/agent".into()), ..spec("new", &["/nope"]) };
    assert_eq!(
        refused(file).await,
        ["cwd /agent is not a directory in coder", "command /nope does not exist in coder"]
    );
    assert_eq!(refused(spec("new", &["/www"])).await, ["command /www cannot be run in coder: it is a directory"]);
    let text = refused(spec("new", &["/www/index.html"])).await;
    assert_eq!(text, ["command /www/index.html cannot be run in coder: Permission denied (os error 13)"]);
    assert_eq!(refused(spec("new", &[""])).await, ["the command is empty"]);
    let empty = Spec { cwd: Some("".into()), requires: vec!["".into()], ..spec("new", &["cat"]) };
    assert_eq!(refused(empty).await, ["cwd `` does not exist in coder", "not on the PATH in coder: ``"]);
    // Nothing of them is left.
    let names: Vec<_> = keeper.list().await.unwrap().into_iter().map(|state| state.name).collect();
    assert_eq!(names, ["pi"]);
    let look = ExecRequest {
        command: ["ls", "-A", "/run/steadfast/sessions"].map(str::to_owned).into(),
        ..ExecRequest::default()
    };
    assert_eq!(output(bench.engine.exec(&id, &look).await.unwrap()).await.text().0, "pi\n");
}

/// What an attached one hears, in words.
fn hears(tell: mpsc::UnboundedSender<String>) -> impl FnMut(Event<'_>) -> ControlFlow<()> {
    move |event| {
        let said = match event {
            Event::Output { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
            Event::Live { tty } => format!("[live {tty}]"),
            other => format!("[{other:?}]"),
        };
        let _ = tell.send(said);
        ControlFlow::Continue(())
    }
}

struct Heard(mpsc::UnboundedReceiver<String>, String);

impl Heard {
    fn new() -> (mpsc::UnboundedSender<String>, Self) {
        let (tell, told) = mpsc::unbounded_channel();
        (tell, Self(told, String::new()))
    }

    async fn until(&mut self, words: &str) {
        while !self.1.contains(words) {
            let next = tokio::time::timeout(Duration::from_secs(30), self.0.recv()).await;
            match next {
                Ok(Some(said)) => self.1 += &said,
                other => panic!("`{words}` was never heard: {other:?}\n{}", self.1),
            }
        }
    }
}

fn writing(takeover: bool) -> AttachOptions {
    let write = Some(WriteOptions { takeover, size: None });
    AttachOptions { replay: 1 << 20, since: 0, follow: true, write }
}

pub async fn one_writes_to_a_session_and_others_look<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let keeper = &Keeper::new(&bench.engine, id, "coder");
    started(keeper, &shell("cat", "echo before; cat; exit 7")).await;
    let [(tell, mut first), (tell_second, mut second)] = [(); 2].map(|()| Heard::new());
    let (keys, mut input) = mpsc::channel(16);
    let (second_keys, mut second_input) = mpsc::channel(16);
    let attached = async {
        let writes = writing(false);
        let attached = keeper.attach("cat", &writes, &mut input, hears(tell)).await;
        attached.expect_err("somebody takes over")
    };
    let script = async {
        first.until("before\n[live false]").await;
        keys.send(Input::Bytes(b"one\n".into())).await.unwrap();
        first.until("one\n").await;
        let (_nothing, mut nothing) = mpsc::channel(1);
        let refused = keeper.attach("cat", &writing(false), &mut nothing, |_| ControlFlow::Continue(())).await;
        let refused = refused.expect_err("one writes already");
        assert_eq!(refused.kind(), Some(ProblemKind::Writer));
        assert_eq!(refused.to_string(), "somebody else is attached to session coder/cat and writes");
        assert_eq!(printed(keeper, "cat", false).await[0], b"before\none\n");
        let writes = writing(true);
        let taking = keeper.attach("cat", &writes, &mut second_input, hears(tell_second));
        let typing = async {
            second.until("before\none\n[live false]").await;
            second_keys.send(Input::Bytes(b"two\n".into())).await.unwrap();
            second.until("two\n").await;
            keeper.send("cat", b"sent\n", &LAST).await.unwrap();
        };
        let (left, ()) = tokio::join!(Box::pin(taking), Box::pin(typing));
        let Ok(Left::Ended(state)) = left else { panic!("{left:?}") };
        assert_eq!(state.exit.and_then(|exit| exit.code), Some(7));
        second.until("sent\n").await;
    };
    let (taken, ()) = within(async { tokio::join!(Box::pin(attached), Box::pin(script)) }).await;
    assert_eq!(taken.to_string(), "somebody else took over session coder/cat");
}

pub async fn a_session_on_a_terminal_has_its_writers_size<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let keeper = &Keeper::new(&bench.engine, id, "coder");
    let line = "trap 'busybox stty size' WINCH; trap 'exit 42' INT; busybox tty; busybox stty size; while true; do sleep 0.1; done";
    let tty = Spec { tty: Some(Size { cols: 91, rows: 31 }), ..shell("tty", line) };
    started(keeper, &tty).await;
    let (tell, mut told) = Heard::new();
    let (keys, mut input) = mpsc::channel(16);
    let size = Some(Size { cols: 70, rows: 20 });
    let options = AttachOptions { write: Some(WriteOptions { takeover: false, size }), ..writing(false) };
    let attached = keeper.attach("tty", &options, &mut input, hears(tell));
    let script = async {
        told.until("/dev/pts/").await;
        told.until("31 91\r\n").await;
        told.until("[live true]").await;
        told.until("20 70\r\n").await;
        keys.send(Input::Resize(Size { cols: 200, rows: 60 })).await.unwrap();
        told.until("60 200\r\n").await;
        keys.send(Input::Bytes(vec![3])).await.unwrap();
    };
    let (left, ()) = within(async { tokio::join!(Box::pin(attached), Box::pin(script)) }).await;
    let Ok(Left::Ended(state)) = left else { panic!("{left:?}") };
    assert_eq!(state.exit.and_then(|exit| exit.code), Some(42));
}

pub async fn a_session_is_stopped_and_its_end_is_known<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let keeper = &Keeper::new(&bench.engine, id, "coder");
    let ends = [
        ("heeds", "sleep 1000", Exit { signal: Some(15), ..Exit::default() }),
        (
            "tidies",
            "trap 'echo tidy; exit 5' TERM; echo go; sleep 1000 & wait",
            Exit { code: Some(5), ..Exit::default() },
        ),
        ("deaf", "trap '' TERM; echo go; while true; do sleep 1; done", Exit { signal: Some(9), ..Exit::default() }),
    ];
    for (name, line, exit) in ends {
        started(keeper, &shell(name, line)).await;
        while line.contains("echo go") && printed(keeper, name, false).await[0].is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let waits =
            within(async { tokio::join!(keeper.wait(name), keeper.stop(name, 15, Duration::from_millis(500))) });
        let (waited, stopped) = waits.await;
        assert_eq!((waited.unwrap().exit, stopped.unwrap().exit), (Some(exit), Some(exit)), "{name}");
    }
    let [stdout, _] = printed(keeper, "tidies", true).await;
    assert_eq!(stdout, b"go\ntidy\n");
    started(keeper, &Spec { stdin: Stdin::Closed, ..shell("closed", "cat; sleep 1000") }).await;
    let err = keeper.send("closed", b"x", &SEND).await.unwrap_err();
    assert_eq!(
        (err.kind(), err.to_string()),
        (Some(ProblemKind::NoStdin), "session coder/closed has no stdin pipe".into())
    );
    let runs = keeper.remove(&keeper.state("closed").await.unwrap().unwrap()).await.unwrap_err();
    assert_eq!(runs.to_string(), "session closed runs");
}

/// How many commands that watch run in a container.
async fn watchers<E: Engine>(bench: &Bench<E>, id: &ContainerId) -> usize {
    let line = "for dir in /proc/[0-9]*; do busybox tr '\\0' ' ' <$dir/cmdline; echo; done";
    let request = ExecRequest { command: ["sh", "-c", line].map(str::to_owned).into(), ..ExecRequest::default() };
    let (seen, _) = output(bench.engine.exec(id, &request).await.unwrap()).await.text();
    seen.lines().filter(|line| line.starts_with("/run/steadfast/keeper-") && line.contains(" watch ")).count()
}

pub async fn who_watches_hears_of_every_change<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let keeper = &Keeper::new(&bench.engine, id.clone(), "coder");
    let state = started(keeper, &spec("one", &["cat"])).await;
    let mut watch = within(keeper.watch()).await.unwrap();
    let run = async |line: String| {
        let command = ["sh", "-c", line.as_str()].map(str::to_owned).into();
        let request = ExecRequest { command, ..ExecRequest::default() };
        output(bench.engine.exec(&id, &request).await.unwrap()).await.text()
    };
    let quiet = Duration::from_millis(500);
    // Dropped halfway, again and again.
    tokio::time::timeout(quiet, watch.next()).await.expect_err("nothing happens");
    run(format!("kill -9 {}", state.pid.unwrap())).await;
    within(watch.next()).await.unwrap();
    let ended = keeper.state("one").await.unwrap().unwrap();
    assert_eq!((ended.status, ended.exit.and_then(|exit| exit.signal)), (Status::Exited, Some(9)));
    tokio::time::timeout(quiet, watch.next()).await.expect_err("it is told once");

    let state = started(keeper, &spec("two", &["cat"])).await;
    within(watch.next()).await.unwrap();
    let began = std::time::Instant::now();
    run(format!("read _ _ _ keeper _ </proc/{}/stat; kill -9 $keeper", state.pid.unwrap())).await;
    within(watch.next()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(keeper.state("two").await.unwrap().unwrap().status, Status::Lost);
    keeper.remove(&ended).await.unwrap();
    within(watch.next()).await.unwrap();

    // Nothing is left behind.
    assert_eq!(watchers(bench, &id).await, 1);
    drop(watch);
    let began = std::time::Instant::now();
    while watchers(bench, &id).await > 0 {
        assert!(began.elapsed() < Duration::from_secs(75), "it goes on for nobody");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut watch = within(keeper.watch()).await.unwrap();
    bench.engine.stop(&id, NOW).await.unwrap();
    let err = within(watch.next()).await.expect_err("the container has ended");
    assert!(err.is_of_transport(), "{err:?}");
    let err = within(keeper.watch()).await.expect_err("the container has ended");
    assert_eq!(err.to_string(), "agent coder is not running");
}

pub async fn the_last_that_a_session_printed_is_told<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let keeper = &Keeper::new(&bench.engine, id, "coder");
    let line = "echo out; sleep 0.2; echo err >&2; sleep 0.2; printf 'b\\377d\\n'; read line; busybox yes x | busybox head -c 50000; exit 1";
    started(keeper, &shell("one", line)).await;
    let said = "out\nerr\nb\u{fffd}d\n";
    let mut heard = String::new();
    let began = std::time::Instant::now();
    while heard != said {
        assert!(began.elapsed() < Duration::from_secs(30) && said.starts_with(&heard), "{heard:?}");
        heard = keeper.last_words("one", 1000).await.unwrap();
    }
    assert_eq!(keeper.last_words("one", 10).await.unwrap(), "err\nb\u{fffd}d\n");
    keeper.send("one", b"go\n", &SEND).await.unwrap();
    within(keeper.wait("one")).await.unwrap();
    // However large the pieces are in which it came.
    for bytes in [0, 6, 4096] {
        assert_eq!(keeper.last_words("one", bytes).await.unwrap(), "x\n".repeat(bytes / 2));
    }
    assert!(keeper.last_words("one", 60_000).await.unwrap().starts_with(said));
    let err = keeper.last_words("two", 10).await.unwrap_err();
    assert_eq!(err.to_string(), "session coder/two does not exist");
}

pub async fn an_archive_is_put_into_a_container<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let mut archive = tar::Builder::new(Vec::new());
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
    for (path, kind, mode, content) in [
        ("new dir/", tar::EntryType::Directory, 0o1777, &[][..]),
        ("new dir/a file", tar::EntryType::Regular, 0o751, b"text\n".as_slice()),
        ("new dir/large", tar::EntryType::Regular, 0o600, &large),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content).unwrap();
    }
    let archive = archive.into_inner().unwrap();
    within(bench.engine.put(&id, "/www", whole(archive.clone()))).await.unwrap_or_else(|err| panic!("{err} {err:?}"));
    let line = "cd /www; busybox stat -c '%a %u %g %s %n' 'new dir' 'new dir'/*; cat 'new dir/a file'; busybox md5sum 'new dir/large'";
    let request = ExecRequest { command: ["sh", "-c", line].map(str::to_owned).into(), ..ExecRequest::default() };
    let (seen, _) = output(bench.engine.exec(&id, &request).await.unwrap()).await.text();
    let lines: Vec<_> = seen.lines().collect();
    assert!(lines[0].starts_with("1777 0 0 ") && lines[0].ends_with("new dir"), "{seen}");
    assert_eq!(lines[1..4], ["751 0 0 5 new dir/a file", "600 0 0 3000000 new dir/large", "text"], "{seen}");
    bench.engine.put(&id, "/", whole(archive[..700_000].to_vec())).await.expect_err("half an archive");
    let gone = ContainerId::new("0123456789ab".repeat(5)).unwrap();
    bench.engine.put(&gone, "/", whole(archive)).await.expect_err("there is no such container");
}

/// A container that no state file can ask for; it goes with the bench.
async fn unusual<E: Engine>(bench: &Bench<E>, suffix: &str, image: &str, more: Value) -> ContainerId {
    let mut create = bench.shell(suffix, "sleep 1000");
    create.image = steadfast::model::ImageRef::new(image).unwrap();
    bench.label(&mut create);
    let mut spec = json!({"name": create.name.as_str(), "image": image, "labels": create.labels});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = bench.aside_with(reqwest::Method::POST, "/containers/create", spec.to_string()).await;
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let made: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let id = ContainerId::new(made["Id"].as_str().unwrap()).unwrap();
    bench.engine.start(&id).await.unwrap_or_else(|err| panic!("{err} {err:?}"));
    id
}

/// One session from start to end in this container.
async fn works<E: Engine>(bench: &Bench<E>, id: &ContainerId, cat: &[&str], uid: u32) {
    let keeper = Keeper::new(&bench.engine, id.clone(), "coder");
    assert_eq!(started(&keeper, &spec("cat", cat)).await.uid, uid);
    // As another process of ours finds it.
    let keeper = Keeper::new(&bench.engine, id.clone(), "coder");
    assert_eq!(keeper.list().await.unwrap().len(), 1);
    within(keeper.send("cat", &[b'x'; 100_000], &LAST)).await.unwrap();
    assert_eq!(printed(&keeper, "cat", true).await[0].len(), 100_000);
    let ended = within(keeper.wait("cat")).await.unwrap();
    assert_eq!(ended.exit.and_then(|exit| exit.code), Some(0), "{ended:?}");
    keeper.remove(&ended).await.unwrap_or_else(|err| panic!("{err} {err:?}"));
    assert!(keeper.list().await.unwrap().is_empty());
}

pub async fn sessions_want_no_shell_and_no_directory<E: Engine>(bench: &Bench<E>) {
    let name = format!("localhost/{}:bare", bench.owner);
    let image = docker_archive().tag(&*name).bare().file("mark", bench.owner.as_str());
    bench.engine.load(whole(image.build())).await.unwrap();
    let kinds = [
        ("powerless", json!({"user": "1234:56", "cap_drop": ["ALL"], "no_new_privileges": true}), 1234),
        ("bare", json!({}), 0),
        ("root-powerless", json!({"cap_drop": ["ALL"]}), 0),
    ];
    // The other way each question costs far more.
    for (suffix, more, uid) in kinds.into_iter().take(if bench.api { 3 } else { 1 }) {
        let id = unusual(bench, suffix, &name, more).await;
        works(bench, &id, &["/busybox", "cat"], uid).await;
        bench.engine.remove(&id, NOW).await.unwrap();
    }
    bench.engine.remove_image(&image.id().into()).await.unwrap();
}

pub async fn sessions_of_a_root_that_cannot_be_written<E: Engine>(bench: &Bench<E>) {
    let image = bench.image.to_string();
    let tmpfs = |path: &str| json!({"type": "tmpfs", "source": "tmpfs", "destination": path, "options": ["rw", "nosuid", "nodev"]});
    let read_only =
        |mounts: Value| json!({"read_only_filesystem": true, "mounts": mounts, "command": ["sleep", "1000"]});
    // As `--read-only` has it, and a container that may write to `/tmp` alone.
    let kinds = [("tmp", json!([tmpfs("/tmp")])), ("run", json!([tmpfs("/run"), tmpfs("/tmp")]))];
    for (suffix, mounts) in kinds.into_iter().take(if bench.api { 2 } else { 1 }) {
        let id = unusual(bench, suffix, &image, read_only(mounts)).await;
        works(bench, &id, &["cat"], 0).await;
    }
    // What nobody can write to, or run from, is told with each place.
    let id = unusual(bench, "nothing", &image, read_only(json!([]))).await;
    let keeper = Keeper::new(&bench.engine, id.clone(), "coder");
    let err = within(keeper.start(&spec("cat", &["cat"]), None)).await.expect_err("there is no place");
    let SessionError::NoPlace { tried, .. } = &err else { panic!("{err} {err:?}") };
    assert_eq!(tried.len(), 3, "{err}");
    let said = err.to_string();
    assert!(said.starts_with("the keeper of sessions can be put nowhere in coder:\n/run/steadfast: "), "{said}");
    assert_eq!(said.matches("read-only file system").count(), 2, "{said}");
    assert!(said.contains("\n/dev/shm/.steadfast: ") && !said.contains(id.as_str()), "{said}");
}

/// Quotes, dollars, line ends, dashes in front, and bytes that are no text.
fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let tricky = prop::sample::select(
        [
            "'", "\"", "$", "$HOME", "`id`", "$(id)", "\n", "\r\n", "\\", "-", "--", "-n", " ", "\t", "*", "!", "#",
            "~", ";", "&", "|", "\u{20ac}", "",
        ]
        .map(str::as_bytes)
        .map(<[u8]>::to_vec)
        .to_vec(),
    );
    let piece = prop_oneof![4 => tricky, 1 => prop::collection::vec(1..=255_u8, 0..8)];
    prop::collection::vec(prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat()), 0..12)
}

pub async fn words_reach_a_sessions_command_as_they_are<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("x", "sleep 1000")).await;
    let keeper = &Keeper::new(&bench.engine, id, "coder");
    let arrives = async |words: Vec<Vec<u8>>| {
        let line = "for word; do printf '%s\\0' \"$word\"; done; printf '%s' \"$VALUE\"";
        let mut echo = spec("echo", &["sh", "-c", line, "sh"]);
        echo.command.extend(words.iter().cloned().map(Word));
        let value = words.concat();
        echo.env = vec![("VALUE".into(), Word(value.clone()))];
        echo.replace_ended = true;
        started(keeper, &echo).await;
        let [stdout, stderr] = printed(keeper, "echo", true).await;
        let wanted: Vec<u8> = words.iter().flat_map(|word| word.iter().copied().chain([0])).chain(value).collect();
        (stdout, stderr, wanted)
    };
    let cases = if bench.api { 12 } else { 4 };
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
    let tested = tokio::task::block_in_place(|| {
        runner.run(&words(), |words| {
            let (stdout, stderr, wanted) = tokio::runtime::Handle::current().block_on(arrives(words));
            prop_assert_eq!(stderr, b"");
            prop_assert_eq!(stdout, wanted);
            Ok(())
        })
    });
    if let Err(TestError::Fail(why, words)) = tested {
        panic!("{why}: {:?}", words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>());
    }
    // As long as they may be, and longer.
    let (stdout, _, wanted) = arrives(vec![b"it's ".repeat(24_000)]).await;
    assert!(stdout == wanted, "{} of {}", stdout.len(), wanted.len());
    let many = spec("long", &["echo"; 100_000]);
    let err = within(keeper.start(&many, None)).await.expect_err("too long");
    assert_eq!(
        err.to_string(),
        "the command and its variables are longer than 248.00 KiB, the most that a session takes"
    );
}
