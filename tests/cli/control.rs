//! The control socket over a real socket: many clients, slow ones, rude ones, and a server that stops.

use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use steadfast::control::client::{AskError, Asked};
use steadfast::control::server::{Bound, ServeError, Serving};
use steadfast::control::{Controlled, MAX_CLIENTS, MAX_REQUEST, Request, SOCKET};
use tokio::sync::{Notify, broadcast, watch};

/// No answer takes so long.
const LONGEST: Duration = Duration::from_secs(60);

/// A run loop in small: its status and its outcome are what a test says.
pub struct Small {
    pub status: watch::Sender<Arc<Value>>,
    pub events: broadcast::Sender<Arc<Value>>,
    /// What a reconciliation tells and comes to; `None` never ends.
    pub outcome: Option<Value>,
    pub steps: Vec<Value>,
    /// How many reconciliations were asked for, and how many of these are waited for.
    pub asked: AtomicUsize,
    pub working: AtomicUsize,
    pub stop: Notify,
}

impl Small {
    pub fn new(status: Value) -> Self {
        Self {
            status: watch::Sender::new(Arc::new(status)),
            events: broadcast::Sender::new(16),
            outcome: None,
            steps: Vec::new(),
            asked: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            stop: Notify::new(),
        }
    }
}

impl Controlled for Small {
    fn status(&self) -> watch::Receiver<Arc<Value>> {
        self.status.subscribe()
    }

    fn events(&self) -> broadcast::Receiver<Arc<Value>> {
        self.events.subscribe()
    }

    fn reconcile(&self, _: Duration, _: bool) -> impl Future<Output = Option<Value>> + Send {
        struct Working<'a>(&'a AtomicUsize);
        impl Drop for Working<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        async move {
            self.working.fetch_add(1, Ordering::SeqCst);
            self.asked.fetch_add(1, Ordering::SeqCst);
            let _working = Working(&self.working);
            for step in &self.steps {
                let _ = self.events.send(Arc::new(step.clone()));
            }
            match &self.outcome {
                Some(outcome) => Some(outcome.clone()),
                None => {
                    self.stop.notified().await;
                    None
                }
            }
        }
    }
}

/// A server with a runtime of its own, so that clients of any kind can be tried on it.
pub struct Served {
    pub small: Arc<Small>,
    pub dir: PathBuf,
    serving: Option<Serving>,
    runtime: tokio::runtime::Runtime,
}

impl Served {
    pub fn start(dir: &Path, small: Small) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let small = Arc::new(small);
        let _inside = runtime.enter();
        let serving = Bound::new(dir).unwrap().serve(Arc::clone(&small));
        drop(_inside);
        Self { small, dir: dir.to_owned(), serving: Some(serving), runtime }
    }

    pub fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            self.runtime.block_on(serving.stop());
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.join(SOCKET)).unwrap();
        stream.set_read_timeout(Some(LONGEST)).unwrap();
        stream
    }

    /// Sends some bytes; what is read afterwards.
    fn send(&self, bytes: impl AsRef<[u8]>) -> BufReader<UnixStream> {
        let mut stream = self.connect();
        // One that is refused before it has said all may find the door closed.
        let _ = stream.write_all(bytes.as_ref());
        BufReader::new(stream)
    }
}

fn line(from: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|err| panic!("{err}: {line:?}"))
}

/// The kind of the error that comes as the last line.
#[track_caller]
fn refused(mut from: BufReader<UnixStream>) -> String {
    let said = line(&mut from);
    assert!(said["error"]["message"].is_string(), "{said}");
    let mut rest = Vec::new();
    // Closed with something of ours unread is a reset.
    let _ = from.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    said["error"]["kind"].as_str().unwrap().to_owned()
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LONGEST, "never came: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("sft-").tempdir().unwrap()
}

#[test]
fn the_socket_is_private_and_goes_with_its_server() {
    let dir = dir();
    let path = dir.path().join(SOCKET);
    let mut served = Served::start(dir.path(), Small::new(json!({"name": "demo"})));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(line(&mut served.send("{\"op\":\"status\"}\n")), json!({"name": "demo"}));
    served.stop();
    assert!(!path.exists());

    // What a killed one left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut served = Served::start(dir.path(), Small::new(json!(1)));
    assert_eq!(line(&mut served.send("{\"op\":\"status\"}\n")), json!(1));
    // Another's in its place is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    served.stop();
    assert!(path.exists());
}

#[tokio::test]
async fn a_place_that_cannot_be_served_is_named() {
    let dir = dir();
    std::fs::write(dir.path().join(SOCKET), "mine").unwrap();
    assert!(matches!(Bound::new(dir.path()), Err(ServeError::InTheWay { .. })));
    assert_eq!(std::fs::read(dir.path().join(SOCKET)).unwrap(), b"mine");
    let err = Bound::new(&dir.path().join("nowhere")).unwrap_err();
    assert!(matches!(err, ServeError::Io { .. }), "{err}");
}

/// `sun_path` has 108 bytes on Linux; a state directory may lie deeper.
#[test]
#[cfg(target_os = "linux")]
fn a_long_path_works() {
    let root = dir();
    let dir = root.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&dir).unwrap();
    let mut served = Served::start(&dir, Small::new(json!({"deep": true})));
    let asked = served.runtime.block_on(steadfast::control::client::status(&dir)).unwrap();
    assert_eq!(asked, json!({"deep": true}));
    assert_eq!(std::fs::metadata(dir.join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
    served.stop();
    assert!(!dir.join(SOCKET).exists());
}

#[test]
fn who_asks_before_the_first_look_waits_for_it() {
    let dir = dir();
    let served = Served::start(dir.path(), Small::new(Value::Null));
    let mut early = served.send("{\"op\":\"status\"}\n");
    until("it waits", || served.small.status.receiver_count() > 0);
    served.small.status.send_replace(Arc::new(json!({"looked": 1})));
    assert_eq!(line(&mut early), json!({"looked": 1}));
}

#[test]
fn many_watch_at_once_and_notice_each_change() {
    let dir = dir();
    let served = Served::start(dir.path(), Small::new(json!(0)));
    let mut watching: Vec<_> = (0..MAX_CLIENTS).map(|_| served.send("{\"op\":\"watch\"}\n")).collect();
    for watching in &mut watching {
        assert_eq!(line(watching), json!(0));
    }
    // For one more the first makes room, and is told so.
    assert_eq!(line(&mut served.send("{\"op\":\"status\"}\n")), json!(0));
    assert_eq!(refused(watching.remove(0)), "busy");
    for change in 1..=3 {
        served.small.status.send_replace(Arc::new(json!(change)));
        for watching in &mut watching {
            assert_eq!(line(watching), json!(change));
        }
    }
    // Those who leave make room.
    drop(watching);
    until("there is room again", || {
        served.small.status.receiver_count() == 0 && line(&mut served.send("{\"op\":\"status\"}\n")) == json!(3)
    });
}

#[test]
fn who_only_listens_keeps_nobody_from_having_something_done() {
    let dir = dir();
    let served = Served::start(dir.path(), Small::new(json!(0)));
    for _ in 0..2 {
        let silent: Vec<_> = (0..MAX_CLIENTS / 2).map(|_| served.send("")).collect();
        let mut listening: Vec<_> = (0..MAX_CLIENTS / 2).map(|_| served.send("{\"op\":\"events\"}\n")).collect();
        until("all are served", || served.small.events.receiver_count() >= MAX_CLIENTS / 2);
        let working: Vec<_> = (0..MAX_CLIENTS).map(|_| served.send("{\"op\":\"reconcile\"}\n")).collect();
        until("all are worked for", || served.small.working.load(Ordering::SeqCst) == MAX_CLIENTS);
        for gone in silent.into_iter().chain(listening.drain(..)) {
            assert_eq!(refused(gone), "busy");
        }
        // Who is worked for makes room for nobody.
        assert_eq!(refused(served.send("{\"op\":\"status\"}\n")), "busy");
        drop(working);
        until("they have left", || served.small.working.load(Ordering::SeqCst) == 0);
    }
}

#[test]
fn what_is_no_request_is_refused_in_words() {
    let dir = dir();
    let served = Served::start(dir.path(), Small::new(json!({"name": "demo"})));
    for garbage in ["\n", "hello\n", "{\"op\":\"status\"\n", "\u{0}\u{1}\u{2}\n", "GET / HTTP/1.1\r\n\r\n", "[{}]\n"] {
        assert_eq!(refused(served.send(garbage)), "badRequest", "{garbage:?}");
    }
    assert_eq!(refused(served.send(b"\xff\xfe\n")), "badRequest");
    assert_eq!(refused(served.send("{\"op\":\"reboot\"}\n")), "unknownOp");
    assert_eq!(refused(served.send("{\"op\":\"reconcile\",\"timeoutMs\":-1}\n")), "badRequest");
    let mut largest = b"{\"op\":\"status\"}".to_vec();
    largest.resize(MAX_REQUEST - 1, b' ');
    largest.push(b'\n');
    assert_eq!(line(&mut served.send(&largest)), json!({"name": "demo"}));
    largest.insert(0, b' ');
    assert_eq!(refused(served.send(&largest)), "tooLarge");
    assert_eq!(refused(served.send("x".repeat(4 * 1024 * 1024))), "tooLarge");

    // Half a line, then nothing more: closed altogether, or for sending alone.
    drop(served.send("{\"op\":\"sta"));
    let half = served.send("{\"op\":\"sta");
    half.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(refused(half), "badRequest");
    // Nothing at all is a client that looked in and left.
    drop(served.connect());
    // A whole request without its newline is one all the same, and who closes for sending may go on reading.
    let mut whole = served.send("{\"op\":\"watch\"}");
    whole.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(line(&mut whole), json!({"name": "demo"}));
    served.small.status.send_replace(Arc::new(json!({"name": "more"})));
    assert_eq!(line(&mut whole), json!({"name": "more"}));
    drop(whole);
    until("it is seen that the last one left", || served.small.status.receiver_count() == 0);
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let dir = dir();
    let served = Served::start(dir.path(), Small::new(json!(0)));
    let mut silent: Vec<_> = (0..MAX_CLIENTS).map(|_| BufReader::new(served.connect())).collect();
    for silent in silent.drain(..) {
        assert_eq!(refused(silent), "tooSlow");
    }
    assert_eq!(line(&mut served.send("{\"op\":\"status\"}\n")), json!(0));
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_is_dropped() {
    let dir = dir();
    let served = Served::start(dir.path(), Small::new(json!(0)));
    let slow = served.send("{\"op\":\"events\"}\n");
    let mut quick = served.send("{\"op\":\"events\"}\n");
    until("both listen", || served.small.events.receiver_count() == 2);
    let fill = "x".repeat(64 * 1024);
    for index in 0..200 {
        let _ = served.small.events.send(Arc::new(json!({"event": "step", "index": index, "fill": fill})));
        // The one that reads is told of each.
        assert_eq!(line(&mut quick)["index"], index);
    }
    until("the slow one is dropped", || served.small.events.receiver_count() == 1);
    let mut left = Vec::new();
    let _ = slow.into_inner().read_to_end(&mut left);
    assert!(left.len() < 64 * 1024 * 200, "it missed some");
    assert_eq!(line(&mut served.send("{\"op\":\"status\"}\n")), json!(0));
}

#[test]
fn a_client_that_falls_behind_is_reported_how_much_it_missed() {
    let dir = dir();
    let served = Served::start(dir.path(), Small::new(json!(0)));
    let mut slow = served.send("{\"op\":\"events\"}\n");
    until("it listens", || served.small.events.receiver_count() == 1);
    let fill = "x".repeat(64 * 1024);
    for index in 0..200 {
        let _ = served.small.events.send(Arc::new(json!({"event": "step", "index": index, "fill": fill})));
    }
    let (mut received, mut missed) = (0, 0);
    loop {
        let event = line(&mut slow);
        match event["event"].as_str().unwrap() {
            "lagged" => missed += event["missed"].as_u64().unwrap(),
            _ => received += 1,
        }
        if event["index"] == 199 {
            break;
        }
    }
    assert!(missed > 0, "more than fits was sent");
    assert_eq!(received + missed, 200, "all are accounted for");
}

#[test]
fn a_reconciliation_tells_its_steps_and_then_its_outcome() {
    let dir = dir();
    let steps =
        vec![json!({"event": "step", "kind": "createContainer"}), json!({"event": "step", "error": {"kind": "x"}})];
    let small = Small { outcome: Some(json!({"converged": true})), steps: steps.clone(), ..Small::new(json!(0)) };
    let served = Served::start(dir.path(), small);
    let asked = served.runtime.block_on(async {
        let mut asked = Asked::new(&served.dir, &Request::reconcile(Duration::from_secs(9), false)).await.unwrap();
        [asked.next().await.unwrap(), asked.next().await.unwrap(), asked.next().await.unwrap()]
    });
    assert_eq!(asked, [steps[0].clone(), steps[1].clone(), json!({"outcome": {"converged": true}})]);
}

#[test]
fn who_leaves_is_no_longer_worked_for() {
    let dir = dir();
    let served = Served::start(dir.path(), Small::new(json!(0)));
    let asking = served.send("{\"op\":\"reconcile\"}\n");
    until("it works", || served.small.working.load(Ordering::SeqCst) == 1);
    drop(asking);
    until("it is dropped", || served.small.working.load(Ordering::SeqCst) == 0);
}

#[test]
fn a_server_that_stops_says_so_to_all() {
    let dir = dir();
    let mut served = Served::start(dir.path(), Small::new(json!(0)));
    let mut watching = served.send("{\"op\":\"watch\"}\n");
    line(&mut watching);
    let silent = BufReader::new(served.connect());
    let listening = served.send("{\"op\":\"events\"}\n");
    let asking = served.send("{\"op\":\"reconcile\"}\n");
    until("all are served", || {
        served.small.working.load(Ordering::SeqCst) == 1 && served.small.events.receiver_count() == 2
    });
    // A reconciliation that ends with the loop, and then the server itself.
    served.small.stop.notify_one();
    assert_eq!(refused(asking), "stopping");
    served.stop();
    for client in [watching, silent, listening] {
        assert_eq!(refused(client), "stopping");
    }
    let dir = served.dir.clone();
    let err = served.runtime.block_on(steadfast::control::client::status(&dir)).unwrap_err();
    assert!(matches!(err, AskError::NotThere { .. }), "{err}");
}
