//! Who watches hears of each change at once, of each once, and of nothing else.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use steadfast_keeper::frame::{self, Frame, Kind};
use steadfast_keeper::message::{IdleStop, Problem, ProblemKind, Restart, Status};

use crate::harness::{BIN, Base, Client, is_alive, kill, shell, spec};

/// How soon a change is to be heard of.
const SOON: Duration = Duration::from_secs(2);
/// For how long nothing is to be heard.
const QUIET: Duration = Duration::from_millis(700);

fn begin(base: &Base) -> Child {
    let words = ["watch", base.path().to_str().unwrap()];
    Command::new(BIN).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

struct Watcher {
    child: Child,
    to: Option<ChildStdin>,
    told: Receiver<Frame>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watcher {
    fn new(base: &Base) -> Self {
        let mut child = begin(base);
        let (to, mut from) = (child.stdin.take(), child.stdout.take().unwrap());
        let (tell, told) = channel();
        std::thread::spawn(move || {
            while let Ok(Some(frame)) = frame::read(&mut from) {
                let _ = tell.send(frame);
            }
        });
        let watcher = Self { child, to, told };
        assert_eq!(watcher.told.recv_timeout(SOON).unwrap().kind, Kind::Hello);
        watcher
    }

    /// A change is told, and told once.
    fn hears_of(&self, what: &str) {
        let frame = self.told.recv_timeout(SOON).unwrap_or_else(|err| panic!("{what}: {err}"));
        assert_eq!((frame.kind, frame.payload.len()), (Kind::Changed, 0), "{what}");
        self.hears_nothing(what);
    }

    fn hears_nothing(&self, after: &str) {
        let heard = self.told.recv_timeout(QUIET);
        assert!(matches!(heard, Err(RecvTimeoutError::Timeout)), "{after}: {heard:?}");
    }

    fn ends_soon(mut self, what: &str) {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < SOON, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    fn number(&self, field: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_else(|| panic!("{status}"));
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }
}

#[test]
fn each_change_is_told_once() {
    let base = Base::new();
    base.start(&spec("before", &["cat"])).unwrap();
    let watcher = Watcher::new(&base);
    watcher.hears_nothing("it has begun");
    base.start(&shell("new", "sleep 1000")).unwrap();
    watcher.hears_of("a start");
    for name in ["before", "new"] {
        Client::connect(base.path(), name).stop(15, 5000);
        watcher.hears_of("an end");
        assert_eq!(base.state(name).unwrap().status, Status::Exited);
        base.remove(name).unwrap();
        watcher.hears_of("a removal");
    }
    base.start(&spec("wrong", &["/no/such"])).unwrap_err();
    watcher.hears_nothing("what speaks against a start has never begun");
}

#[test]
fn a_keeper_that_is_killed_is_missed_at_once() {
    let base = Base::new();
    base.start(&spec("before", &["cat"])).unwrap();
    let watcher = Watcher::new(&base);
    base.start(&spec("after", &["cat"])).unwrap();
    watcher.hears_of("a start");
    for name in ["before", "after"] {
        let began = Instant::now();
        kill(base.keeper(name));
        watcher.told.recv_timeout(SOON).expect("it is told");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(base.state(name).unwrap().status, Status::Lost);
        watcher.hears_nothing("a death is told once");
    }
    // In the place of what is lost.
    let mut again = spec("before", &["cat"]);
    again.replace_ended = true;
    base.start(&again).unwrap();
    watcher.hears_of("another one of its name");
    kill(base.keeper("before"));
    watcher.hears_of("the death of its keeper");
}

#[test]
fn backoff_and_every_restart_are_told() {
    let base = Base::new();
    let mut failing = shell("one", "read line; exit 3");
    failing.restart = Restart::OnFailure;
    base.start(&failing).unwrap();
    let watcher = Watcher::new(&base);
    Client::connect(base.path(), "one").send("a", b"go\n", false, 5000).unwrap();
    watcher.hears_of("a failure");
    assert_eq!(base.state("one").unwrap().status, Status::BackingOff);
    watcher.hears_of("a restart");
    let state = base.state("one").unwrap();
    assert_eq!((state.status, state.restarts), (Status::Running, 1));
}

#[test]
fn much_at_once_is_told_seldom() {
    let base = Base::new();
    let watcher = Watcher::new(&base);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..20 {
            let base = &base;
            scope.spawn(move || base.start(&shell(&format!("s{number}"), "exit 0")).unwrap());
        }
    });
    for number in 0..20 {
        base.wait_for(&format!("s{number}"), "it ends", |state| state.status == Status::Exited);
    }
    std::thread::sleep(QUIET);
    let (told, most) = (watcher.told.try_iter().count(), began.elapsed().as_millis() / 100);
    assert!((1..=most as usize).contains(&told), "{told} times in {most} tenths of a second");
    watcher.hears_nothing("all is over");
}

#[test]
fn while_nothing_happens_it_sleeps_and_a_session_stays_idle() {
    let base = Base::new();
    let mut idle = shell("idle", "sleep 1000");
    idle.idle_stop = Some(IdleStop { after_ms: 6000 });
    let started = Instant::now();
    base.start(&idle).unwrap();
    base.start(&shell("busy", "while :; do echo line; sleep 0.05; done")).unwrap();
    let mut watcher = Watcher::new(&base);
    // The keepers have said hello by then.
    watcher.hears_nothing("it has begun");
    let woken = watcher.number("voluntary_ctxt_switches");
    let times = |watcher: &Watcher| {
        let stat = watcher.proc("stat");
        stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = times(&watcher);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(watcher.number("voluntary_ctxt_switches"), woken, "it wakes for nothing");
    assert_eq!(times(&watcher), before);
    watcher.to.as_mut().unwrap().write_all(&frame::bytes(Kind::Ping, &[])).unwrap();
    assert!(watcher.number("RssAnon") < 1024, "{}", watcher.proc("status"));
    // Neither who watches nor who begins to is a sign of life.
    drop(Watcher::new(&base));
    let left = Duration::from_millis(5500).saturating_sub(started.elapsed());
    watcher.told.recv_timeout(left).expect_err("it is not idle for long enough");
    watcher.hears_of("the end of what is idle");
    let ended = base.state("idle").unwrap();
    assert!(ended.stopped && ended.idle_stopped);
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
}

#[test]
fn it_ends_with_who_listens() {
    let base = Base::new();
    base.start(&spec("cat", &["cat"])).unwrap();
    let mut watcher = Watcher::new(&base);
    watcher.to = None;
    watcher.ends_soon("its input ended");
    let mut deaf = begin(&base);
    let mut from = deaf.stdout.take().unwrap();
    assert_eq!(frame::read(&mut from).unwrap().unwrap().kind, Kind::Hello);
    drop(from);
    let began = Instant::now();
    while deaf.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < SOON, "nobody reads any more");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The keeper has no part in it.
    assert!(is_alive(base.keeper("cat")));
    Client::connect(base.path(), "cat").stop(15, 5000);
}

#[test]
fn a_session_that_ends_waits_for_nobody_who_watches() {
    let base = Base::new();
    base.start(&spec("cat", &["cat"])).unwrap();
    let watchers: Vec<_> = (0..8).map(|_| Watcher::new(&base)).collect();
    // One that does not even read.
    assert!(Command::new("kill").args(["-STOP", &watchers[0].child.id().to_string()]).status().unwrap().success());
    let keeper = base.keeper("cat");
    let began = Instant::now();
    Client::connect(base.path(), "cat").stop(15, 5000);
    while is_alive(keeper) {
        assert!(began.elapsed() < SOON, "it waits");
        std::thread::sleep(Duration::from_millis(5));
    }
    watchers[1..].iter().for_each(|watcher| watcher.hears_of("an end"));
}

#[test]
fn sessions_that_are_not_there_yet_are_waited_for() {
    let base = Base::new();
    let sessions = base.path().join("sessions");
    std::fs::remove_dir(&sessions).unwrap();
    let watcher = Watcher::new(&base);
    std::fs::write(base.path().join("keeper-0123"), "").unwrap();
    watcher.hears_nothing("a file beside");
    std::fs::create_dir(&sessions).unwrap();
    watcher.hears_of("their directory");
    base.start(&spec("cat", &["cat"])).unwrap();
    watcher.hears_of("the first one");
    Client::connect(base.path(), "cat").stop(15, 5000);
    watcher.hears_of("its end");
    std::fs::remove_dir_all(&sessions).unwrap();
    watcher.told.recv_timeout(SOON).expect("they are gone");
    std::fs::create_dir(&sessions).unwrap();
    while watcher.told.recv_timeout(QUIET).is_ok() {}
    base.start(&spec("cat", &["cat"])).unwrap();
    watcher.hears_of("one in the new directory");
}

#[test]
fn what_is_no_session_is_no_change_and_no_trouble() {
    let base = Base::new();
    let odd = base.session("odd");
    std::fs::create_dir(&odd).unwrap();
    std::os::unix::net::UnixListener::bind(odd.join("sock")).unwrap();
    std::fs::write(base.session("file"), "").unwrap();
    std::os::unix::fs::symlink("/etc", base.session("link")).unwrap();
    let closed = base.session("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    let talks = base.session("talks");
    std::fs::create_dir(&talks).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(talks.join("sock")).unwrap();
    let watcher = Watcher::new(&base);
    let (mut taken, _) = listener.accept().unwrap();
    taken.write_all(&[255; 4096]).unwrap();
    watcher.hears_nothing("nonsense");
    base.start(&spec("cat", &["cat"])).unwrap();
    watcher.hears_of("a start beside it");
    let (mut taken, _) = listener.accept().unwrap();
    let refusal = frame::message(Kind::Problem, &Problem::new(ProblemKind::Protocol, "no"));
    taken.write_all(&refusal).unwrap();
    drop(taken);
    watcher.hears_nothing("a refusal");
    Client::connect(base.path(), "cat").stop(15, 5000);
    watcher.hears_of("an end");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn where_there_is_nothing_to_watch_it_says_so() {
    let base = Base::new();
    let gone = base.path().join("gone");
    let ended = base.run(&["watch", gone.to_str().unwrap()], &[]);
    let frame = frame::read(&mut ended.stdout.as_slice()).unwrap().unwrap();
    let problem: Problem = serde_json::from_slice(&frame.payload).unwrap();
    assert_eq!((frame.kind, ended.status.success()), (Kind::Problem, false));
    assert_eq!(problem.message, "the sessions cannot be watched: No such file or directory (os error 2)");
}
