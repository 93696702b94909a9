//! A base directory, and a client that speaks the protocol.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output as Ended, Stdio};
use std::time::{Duration, Instant};

use steadfast_keeper::frame::{self, Frame, Kind, Output, Stream};
use steadfast_keeper::message::{
    Attach, Hello, Problem, Restart, Send, Spec, State, Status, Stdin, Stop, Word, Writer,
};

pub const BIN: &str = env!("CARGO_BIN_EXE_steadfast-keeper");
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where sessions live, with the keepers ended at the end.
pub struct Base {
    dir: tempfile::TempDir,
}

impl Drop for Base {
    fn drop(&mut self) {
        for state in self.list() {
            if matches!(state.status, Status::Running | Status::BackingOff) {
                Client::connect(self.path(), &state.name).stop(9, 0);
            }
        }
    }
}

impl Base {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sessions")).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn session(&self, name: &str) -> PathBuf {
        self.path().join("sessions").join(name)
    }

    pub fn run(&self, words: &[&str], input: &[u8]) -> Ended {
        let mut child = Command::new(BIN)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    pub fn start(&self, spec: &Spec) -> Result<State, Vec<Problem>> {
        let base = self.path().to_str().unwrap();
        let ended = self.run(&["start", base], &frame::message(Kind::Hello, spec));
        let (mut from, mut problems) = (ended.stdout.as_slice(), Vec::new());
        while let Some(frame) = frame::read(&mut from).unwrap() {
            match frame.kind {
                Kind::State => return Ok(serde_json::from_slice(&frame.payload).unwrap()),
                Kind::Problem => problems.push(serde_json::from_slice(&frame.payload).unwrap()),
                _ => {}
            }
        }
        assert!(!problems.is_empty());
        Err(problems)
    }

    pub fn list(&self) -> Vec<State> {
        let ended = self.run(&["list", self.path().to_str().unwrap()], &[]);
        let (mut from, mut states) = (ended.stdout.as_slice(), Vec::new());
        while let Some(frame) = frame::read(&mut from).unwrap() {
            if frame.kind == Kind::State {
                states.push(serde_json::from_slice(&frame.payload).unwrap());
            }
        }
        states
    }

    pub fn state(&self, name: &str) -> Option<State> {
        self.list().into_iter().find(|state| state.name == name)
    }

    pub fn remove(&self, name: &str) -> Result<(), Problem> {
        let ended = self.run(&["remove", self.path().to_str().unwrap(), name], &[]);
        let frame = frame::read(&mut ended.stdout.as_slice()).unwrap().unwrap();
        if frame.kind == Kind::Problem { Err(serde_json::from_slice(&frame.payload).unwrap()) } else { Ok(()) }
    }

    pub fn wait_for(&self, name: &str, what: &str, is_so: impl Fn(&State) -> bool) -> State {
        let began = Instant::now();
        loop {
            let state = self.state(name);
            if let Some(state) = state.clone().filter(|state| is_so(state)) {
                return state;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {state:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The keeper's process, as the kernel knows it.
    pub fn keeper(&self, name: &str) -> i32 {
        let dir = self.session(name);
        let is_it = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.get(1) == Some(&b"keep".as_slice()) && words.get(2) == Some(&dir.to_str().unwrap().as_bytes())
        };
        processes().into_iter().find(is_it).expect("it has a keeper")
    }
}

pub fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub fn is_alive(pid: i32) -> bool {
    steadfast_keeper::proc::stat(pid).is_some_and(|stat| stat.state != 'Z')
}

pub fn kill(pid: i32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// A session that runs this in a shell.
pub fn shell(name: &str, script: &str) -> Spec {
    spec(name, &["sh", "-c", script])
}

pub fn spec(name: &str, command: &[&str]) -> Spec {
    Spec {
        name: name.into(),
        agent: "coder".into(),
        id: format!("{name}0{:?}", Instant::now()),
        command: command.iter().map(|word| Word::from(*word)).collect(),
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

/// A client behind `connect`.
pub struct Client {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that came until the end of a replay, or the end.
#[derive(Default)]
pub struct Seen {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub next: u64,
    pub missed: u64,
    pub ended: Option<State>,
}

impl Client {
    pub fn connect(base: &Path, name: &str) -> Self {
        let mut child = Command::new(BIN)
            .args(["connect", base.to_str().unwrap(), name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut client = Self { child, to, from };
        client.say(&frame::message(Kind::Hello, &Hello { version: frame::VERSION }));
        assert_eq!(client.hear().unwrap().kind, Kind::Hello);
        client
    }

    pub fn say(&mut self, bytes: &[u8]) {
        // Who has refused us does not listen.
        let _ = self.to.write_all(bytes).and_then(|()| self.to.flush());
    }

    pub fn hear(&mut self) -> Option<Frame> {
        frame::read(&mut self.from).unwrap()
    }

    pub fn hear_problem(&mut self) -> Problem {
        loop {
            let frame = self.hear().expect("a problem");
            if frame.kind == Kind::Problem {
                return serde_json::from_slice(&frame.payload).unwrap();
            }
        }
    }

    pub fn send(&mut self, id: &str, bytes: &[u8], eof: bool, timeout_ms: u64) -> Result<u64, Problem> {
        let send = Send { id: id.into(), bytes: bytes.len() as u64, eof, timeout_ms };
        self.say(&frame::message(Kind::Send, &send));
        for piece in bytes.chunks(frame::PIECE) {
            self.say(&frame::bytes(Kind::Data, piece));
        }
        self.say(&frame::bytes(Kind::End, &[]));
        loop {
            let frame = self.hear().expect("an answer");
            match frame.kind {
                Kind::Sent => {
                    let sent: steadfast_keeper::message::Sent = serde_json::from_slice(&frame.payload).unwrap();
                    assert_eq!(sent.id, id);
                    return Ok(sent.bytes);
                }
                Kind::Problem => return Err(serde_json::from_slice(&frame.payload).unwrap()),
                _ => {}
            }
        }
    }

    pub fn attach(&mut self, attach: &Attach) {
        self.say(&frame::message(Kind::Attach, attach));
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut payload = offset.to_be_bytes().to_vec();
        payload.extend_from_slice(bytes);
        self.say(&frame::bytes(Kind::Data, &payload));
    }

    /// Takes in what comes until this is so.
    pub fn see(&mut self, seen: &mut Seen, mut until: impl FnMut(&Frame, &Seen) -> bool) {
        loop {
            let frame = self.hear().expect("more");
            match frame.kind {
                Kind::Output => {
                    let output = Output::of(&frame.payload).unwrap();
                    seen.next = output.next;
                    match output.stream {
                        Stream::Stdout => seen.stdout.extend_from_slice(output.bytes),
                        Stream::Stderr => seen.stderr.extend_from_slice(output.bytes),
                    }
                }
                Kind::Replayed => {
                    let replayed: steadfast_keeper::message::Replayed = serde_json::from_slice(&frame.payload).unwrap();
                    seen.missed += replayed.missed;
                }
                Kind::Ended => seen.ended = Some(serde_json::from_slice(&frame.payload).unwrap()),
                Kind::Problem => panic!("{}", String::from_utf8_lossy(&frame.payload)),
                _ => {}
            }
            if until(&frame, seen) {
                return;
            }
        }
    }

    pub fn stop(&mut self, signal: i32, timeout_ms: u64) -> State {
        self.say(&frame::message(Kind::Stop, &Stop { signal, timeout_ms }));
        self.wait_end()
    }

    pub fn wait(&mut self) -> State {
        self.say(&frame::bytes(Kind::Wait, &[]));
        self.wait_end()
    }

    fn wait_end(&mut self) -> State {
        loop {
            let frame = self.hear().expect("an end");
            if frame.kind == Kind::Ended {
                return serde_json::from_slice(&frame.payload).unwrap();
            }
        }
    }

    /// Nothing more comes.
    pub fn is_over(&mut self) -> bool {
        let mut rest = Vec::new();
        self.from.read_to_end(&mut rest).unwrap();
        rest.is_empty()
    }

    pub fn vanish(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn logs() -> Attach {
    Attach { replay: u64::MAX, from: None, since: 0, follow: false, writer: None }
}

pub fn follow() -> Attach {
    Attach { follow: true, ..logs() }
}

pub fn writer(id: &str) -> Attach {
    Attach { writer: Some(Writer { id: id.into(), takeover: false, size: None }), ..follow() }
}

/// All that a session has printed.
pub fn printed(base: &Base, name: &str) -> Seen {
    let mut seen = Seen::default();
    let mut client = Client::connect(base.path(), name);
    client.attach(&logs());
    client.see(&mut seen, |frame, _| frame.kind == Kind::Replayed);
    seen
}
