//! One process under strace: which system calls it makes, and what happens to one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::command::skip;

/// Nothing that is disturbed takes so long: what does, hangs.
const LONGEST: Duration = Duration::from_secs(150);

/// The calls that change something, and those by which somebody else is asked for something.
pub const TRACED: &str = "openat,read,pread64,write,pwrite64,writev,fsync,fdatasync,flock,rename,renameat,renameat2,unlink,unlinkat,\
    mkdir,mkdirat,rmdir,ftruncate,fchmod,fchmodat,linkat,symlink,getdents64,statx,newfstatat,fstatfs,statfs,lseek,readlink,\
    getcwd,socket,connect,bind,listen,accept4,sendto,sendmsg,recvfrom,recvmsg,shutdown,socketpair,pipe2,eventfd2,epoll_create1,\
    epoll_ctl,inotify_init1,inotify_add_watch,clone3,sigaltstack,getrandom,exit_group";

/// Whether strace is here and may trace; a reason for skipping, where it is not.
pub fn is_possible() -> bool {
    let mut probe = Command::new("strace");
    probe.args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=exit_group", "true"]);
    let works = probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !works && cfg!(target_os = "macos") {
        skip("there is no strace on macOS");
    } else if !works {
        skip("strace is not installed, or nothing may be traced here");
    }
    works
}

/// A system call that an undisturbed run made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub call: String,
    /// Only calls on this path count.
    pub path: Option<String>,
    /// The how manieth of its thread it is.
    pub nth: usize,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} #{}", self.call, self.nth)?;
        self.path.as_ref().map_or(Ok(()), |path| write!(f, " on {path}"))
    }
}

/// What happens at a point: the words after the call's name in `inject=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub point: Point,
    /// `signal=KILL`, `error=ENOSPC`.
    pub what: String,
    /// `when=` that.
    pub when: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} (when={})", self.what, self.point, self.when)
    }
}

impl Fault {
    pub fn kill(point: Point) -> Self {
        let when = point.nth.to_string();
        Self { point, what: "signal=KILL".to_owned(), when }
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; 1000 and the signal's number when a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// The most memory it was seen to have, in KiB.
    pub peak: u64,
    pub hangs: bool,
    /// What strace wrote.
    pub log: String,
}

impl Ended {
    pub fn is_killed(&self) -> bool {
        self.code == 1009 && !self.hangs
    }

    /// The calls that were made to fail.
    pub fn injected(&self) -> Vec<&str> {
        self.log.lines().filter(|line| line.contains("(INJECTED)")).collect()
    }
}

/// After so long, what ends only when it is told to is told to.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where an output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sink {
    /// To a file, to be read later.
    #[default]
    Kept,
    /// To a disk without room.
    Full,
    /// To a pipe that nobody reads.
    Unread,
    /// It is not open.
    Closed,
}

/// Where both go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outputs {
    pub out: Sink,
    pub err: Sink,
}

fn open(sink: Sink, kept: &Path) -> Stdio {
    match sink {
        Sink::Kept => File::create(kept).expect("a file").into(),
        Sink::Full => File::options().write(true).open("/dev/full").expect("there is one").into(),
        Sink::Unread => std::io::pipe().expect("a pipe").1.into(),
        // Closed by a shell.
        Sink::Closed => Stdio::null(),
    }
}

/// Runs a command to its end, under strace where `options` say how. What ends only when it is told to is sent a SIGTERM once
/// `until` stands on its standard error.
pub fn run(plain: &Command, dir: &Path, options: Option<&[String]>, outputs: Outputs, until: Option<&str>) -> Ended {
    let files = ["log", "out", "err"].map(|name| dir.join(name));
    let [log, out, err] = &files;
    let _ = std::fs::remove_file(log);
    let closed =
        [(outputs.out, ">&-"), (outputs.err, "2>&-")].map(|(sink, how)| if sink == Sink::Closed { how } else { "" });
    let mut command = match options {
        None if outputs.out == Sink::Closed || outputs.err == Sink::Closed => {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec \"$0\" \"$@\" {}", closed.join(" "))]).arg(plain.get_program());
            command
        }
        None => Command::new(plain.get_program()),
        Some(options) => {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-y", "-s", "32", "-e", "signal=none", "-o"]).arg(log);
            command.args(options).arg("--").arg(plain.get_program());
            command
        }
    };
    command.args(plain.get_args()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(plain.get_current_dir().expect("a directory")).process_group(0).stdin(Stdio::null());
    [out, err].into_iter().for_each(|kept| drop(std::fs::remove_file(kept)));
    command.stdout(open(outputs.out, out)).stderr(open(outputs.err, err));
    let mut child = command.spawn().expect("it starts");
    let began = Instant::now();
    let (mut peak, mut hangs, mut told) = (0, false, false);
    let read = |path: &PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waitable") {
            break status;
        }
        let its = if options.is_some() { traced_by(child.id()) } else { Some(child.id()) };
        peak = peak.max(its.and_then(high_water).unwrap_or_default());
        if let Some(word) = until.filter(|_| !told)
            && (read(err).contains(word) || began.elapsed() > PATIENCE)
        {
            its.into_iter().for_each(|its| signal(its, Signal::TERM));
            told = true;
        }
        if began.elapsed() > LONGEST && !hangs {
            hangs = true;
            // What is traced first: without its tracer its calls would only fail.
            its.into_iter().chain([child.id()]).for_each(|pid| signal(pid, Signal::KILL));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let code = status.code().unwrap_or_else(|| 1000 + status.signal().unwrap_or(0));
    Ended { code, stdout: read(out), stderr: read(err), peak, hangs, log: read(log) }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    // One that has ended meanwhile needs no signal.
    let _ = kill_process(pid, signal);
}

fn traced_by(strace: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// `VmHWM`, once it is the program itself.
fn high_water(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().next().filter(|name| name.ends_with("steadfast"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The options that make a fault.
pub fn options(fault: &Fault) -> Vec<String> {
    let Fault { point: Point { call, path, .. }, what, when } = fault;
    let mut options = vec!["-e".to_owned(), format!("trace={call}")];
    // Faster. But a signal cannot be sent from where a filter stops a call.
    options.extend((!what.starts_with("signal")).then(|| "--seccomp-bpf".to_owned()));
    options.extend(["-e".to_owned(), format!("inject={call}:{what}:when={when}")]);
    options.extend(path.iter().flat_map(|path| ["-P".to_owned(), path.clone()]));
    options
}

/// The points of an undisturbed run, without those before the program itself begins.
pub fn points(log: &str) -> BTreeSet<Point> {
    let mut begun = false;
    let mut before: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut points = BTreeSet::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        if !call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        // Rust's start makes a stack for signals; what came before was the loader.
        begun |= call == "sigaltstack";
        let target = target(call, arguments);
        let mut count = |what: String| {
            let count = before.entry((thread.to_owned(), what)).or_default();
            *count += 1;
            *count
        };
        let all = count(call.to_owned());
        let path = target.filter(|target| target.starts_with('/'));
        let on_path = path.as_ref().map(|path| count(format!("{call} {path}")));
        if !begun || call == "sigaltstack" {
            continue;
        }
        points.insert(match (path, on_path) {
            (Some(path), Some(nth)) => Point { call: call.to_owned(), path: Some(path), nth },
            _ => Point { call: call.to_owned(), path: None, nth: all },
        });
    }
    points
}

/// What a call is about: a path, or what a descriptor stands for.
fn target(call: &str, arguments: &str) -> Option<String> {
    let by_name = [
        "openat",
        "rename",
        "renameat",
        "renameat2",
        "unlink",
        "unlinkat",
        "mkdir",
        "mkdirat",
        "rmdir",
        "linkat",
        "statx",
        "newfstatat",
        "statfs",
        "readlink",
        "symlink",
    ];
    let named = || arguments.split('"').nth(1).filter(|name| name.starts_with('/')).map(str::to_owned);
    let described = || {
        let (number, rest) = arguments.split_once('<')?;
        number
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| rest.split_once('>').map(|(what, _)| what.to_owned()))?
    };
    if by_name.contains(&call) { named().or_else(described) } else { described() }
}
