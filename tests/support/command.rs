//! Whole commands: the binary as a user runs it, in a directory of its own, with nothing of this machine's environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// No command of these suites takes so long. One that does hangs, and that is a failure. Where machines boot,
/// `$STEADFAST_TEST_PATIENCE` says how many seconds it may be.
fn longest() -> Duration {
    let said = std::env::var("STEADFAST_TEST_PATIENCE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(said.unwrap_or(120))
}

/// The program under test: the one cargo has built, unless it had to be copied to where this user may run it.
fn program() -> OsString {
    std::env::var_os("STEADFAST_TEST_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_steadfast").into())
}

/// Who owns nothing.
const NOBODY: u32 = 65_534;

/// A directory with a home, a place to work in and temporary files.
#[derive(Debug)]
pub struct Sandbox {
    dir: tempfile::TempDir,
    vars: BTreeMap<String, OsString>,
    /// Commands run as this user, with a program that he may read.
    user: Option<u32>,
}

/// The arguments of a command: one string that is split at spaces, or a list.
pub trait Words {
    /// One by one.
    fn words(&self) -> Vec<String>;
}

impl Words for &str {
    fn words(&self) -> Vec<String> {
        self.split_whitespace().map(str::to_owned).collect()
    }
}

impl Words for String {
    fn words(&self) -> Vec<String> {
        self.as_str().words()
    }
}

impl<const N: usize> Words for [&str; N] {
    fn words(&self) -> Vec<String> {
        self.iter().map(|word| (*word).to_owned()).collect()
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Self {
        // Short: a unix socket path has 107 bytes.
        let dir = tempfile::Builder::new().prefix("sft-").tempdir().expect("a directory");
        for name in ["home", "work", "tmp"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let vars = [("HOME", "home"), ("TMPDIR", "tmp"), ("XDG_RUNTIME_DIR", "run")]
            .map(|(name, below)| (name.to_owned(), dir.path().join(below).into_os_string()));
        let mut vars = BTreeMap::from(vars);
        vars.insert("PATH".to_owned(), "/usr/bin:/bin".into());
        Self { dir, vars, user: None }
    }

    /// One in which commands are not run as root, even by root.
    pub fn unprivileged() -> Self {
        let sandbox = Self::new();
        if !rustix::process::geteuid().is_root() {
            return sandbox;
        }
        for name in ["", "home", "work", "tmp"] {
            std::os::unix::fs::chown(sandbox.dir.path().join(name), Some(NOBODY), Some(NOBODY)).expect("ours to give");
        }
        let program_here = sandbox.dir.path().join("steadfast");
        std::fs::hard_link(program(), &program_here)
            .or_else(|_| std::fs::copy(program(), &program_here).map(drop))
            .expect("a program that everybody may run");
        Self { user: Some(NOBODY), ..sandbox }
    }

    /// Sets a variable for all commands that follow.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.vars.insert(name.to_owned(), value.into());
        self
    }

    /// The directory commands run in.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Where steadfast keeps its cache and state.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("home/.steadfast")
    }

    /// A path below the working directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work().join(name)
    }

    /// Writes a file below the working directory, and the directories it needs.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// The command with these arguments, not started.
    pub fn command(&self, args: impl Words) -> Command {
        let mut command = match self.user {
            Some(user) => {
                // Where everybody may run it: the directory it was built in may be closed to others.
                let mut command = Command::new(self.dir.path().join("steadfast"));
                command.uid(user).gid(user);
                command
            }
            None => Command::new(program()),
        };
        command.args(args.words()).current_dir(self.work()).env_clear().envs(&self.vars);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: impl Words) -> Outcome {
        self.spawn(args).end()
    }

    /// Runs a line of the shell where commands run.
    pub fn shell(&self, line: &str) -> Outcome {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(self.work()).env_clear().envs(&self.vars);
        if let Some(user) = self.user {
            shell.uid(user).gid(user);
        }
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::start(&mut shell, self.dir.path()).end()
    }

    /// Runs it with something on standard input.
    pub fn feed(&self, args: impl Words, input: impl AsRef<[u8]>) -> Outcome {
        let mut command = self.command(args);
        let mut running = Running::start(command.stdin(Stdio::piped()), self.dir.path());
        let mut stdin = running.child.stdin.take().expect("a pipe");
        // A command that does not read its input closes it.
        let _ = stdin.write_all(input.as_ref());
        drop(stdin);
        running.end()
    }

    /// Starts it.
    pub fn spawn(&self, args: impl Words) -> Running {
        Running::start(&mut self.command(args), self.dir.path())
    }

    /// Runs a shell script in which `$STEADFAST` is the binary, where it may mount what nobody else sees. `None` where
    /// the machine does not allow that.
    pub fn mounting(&self, script: &str) -> Option<Outcome> {
        let ways: [&[&str]; 2] = [&["--mount", "--propagation", "private"], &["--mount", "--map-root-user"]];
        let works = |way: &&&[&str]| {
            let mut probe = Command::new("unshare");
            probe.args(**way).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]).stderr(Stdio::null());
            probe.status().is_ok_and(|status| status.success())
        };
        let Some(way) = ways.iter().find(works) else {
            skip("no mount namespace may be made here");
            return None;
        };
        let mut command = Command::new("unshare");
        command.args(*way).args(["sh", "-ec", script]).current_dir(self.work()).env_clear().envs(&self.vars);
        command.env("STEADFAST", env!("CARGO_BIN_EXE_steadfast")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Some(Running::start(&mut command, self.dir.path()).end())
    }

    /// The files below the root that contain one of these words.
    pub fn files_with(&self, words: &[&str]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.root()];
        while let Some(path) = todo.pop() {
            if path.is_dir() && !path.is_symlink() {
                todo.extend(std::fs::read_dir(&path).expect("readable").map(|entry| entry.expect("an entry").path()));
            } else if let Ok(bytes) = std::fs::read(&path)
                && contains_any(&bytes, words)
            {
                found.push(path);
            }
        }
        found
    }
}

/// Tells the test runner that this test cannot run here; see `tests/run.sh`.
pub fn skip(why: &str) {
    // A process that runs one test alone may do so in its main thread.
    let thread = std::thread::current().name().filter(|name| *name != "main").map(str::to_owned);
    let name = thread.or_else(|| std::env::var("NEXTEST_TEST_NAME").ok()).unwrap_or_else(|| "a test".to_owned());
    match std::env::var_os("STEADFAST_TEST_SKIPS").map(|path| std::fs::File::options().append(true).open(path)) {
        Some(Ok(mut file)) => writeln!(file, "{name}: {why}").expect("the list of skips"),
        _ => eprintln!("skipped: {name}: {why}"),
    }
}

/// Whether one of the words stands in the bytes.
pub fn contains_any(bytes: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| bytes.windows(word.len()).any(|window| window == word.as_bytes()))
}

/// A command that was started. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    dir: PathBuf,
    began: Instant,
    stdout: Reader,
    stderr: Reader,
}

#[derive(Debug)]
struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                into.lock().expect("not poisoned").extend_from_slice(&buffer[..read]);
            }
        });
        Self { bytes, thread: Some(thread) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("not poisoned")).into_owned()
    }

    fn end(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a reader");
        }
        self.so_far()
    }
}

impl Running {
    fn start(command: &mut Command, dir: &Path) -> Self {
        // A group of its own, so that a signal to the test's own group does not reach it twice.
        let mut child = command.process_group(0).spawn().expect("steadfast starts");
        let stdout = Reader::start(child.stdout.take().expect("a pipe"));
        let stderr = Reader::start(child.stderr.take().expect("a pipe"));
        Self { child, dir: dir.to_owned(), began: Instant::now(), stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waitable").is_some()
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + longest();
        while !is_so(self) {
            let late = Instant::now() > deadline;
            assert!(!late && !self.has_ended(), "never came: {what}\n{}\n{}", self.stdout(), self.stderr());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        // One that has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        let deadline = self.began + longest();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waitable") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("it hangs\n{}\n{}", self.stdout.so_far(), self.stderr.so_far());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = self.began.elapsed();
        let code = status.code().unwrap_or_else(|| 1000 + status.signal().unwrap_or(0));
        let (stdout, stderr) = (self.stdout.end(), self.stderr.end());
        Outcome { code, stdout, stderr, took, dir: self.dir.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit code; 1000 and the signal's number when a signal ended it.
    pub code: i32,
    /// Its data.
    pub stdout: String,
    /// Its errors and its progress.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
    dir: PathBuf,
}

impl Outcome {
    /// Fails unless it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "the exit code\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless standard error has these words.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "`{words}` is missing\n--- stderr\n{}", self.stderr);
        self
    }

    /// Fails when one of these words stands anywhere in its output.
    #[track_caller]
    pub fn keeps_quiet_about(self, words: &[&str]) -> Self {
        for word in words {
            let all = format!("{}\n{}", self.stdout, self.stderr);
            assert!(!all.contains(word), "`{word}` was said\n{all}");
        }
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|err| panic!("{err}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr))
    }

    /// All of it for a snapshot: exit code, standard output and standard error, without the sandbox's own path.
    pub fn shown(&self) -> String {
        let all = format!("exit code {}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr);
        all.replace(&self.dir.display().to_string(), "<dir>")
    }
}
