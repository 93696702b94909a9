//! The only file that knows limactl's arguments and its output (Lima 2.0 and later; seen: 2.1.4).
//!
//! Arguments are a list, never a shell's line. What came of a call is read from the state it leaves, not from the wording of
//! its messages: these only go into errors, for people.

mod list;

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::command::{self, Output, RunError};
use super::vm::VmError;
use crate::files::regular;
use crate::model::{InstanceName, VmPhase};
use list::parse_list;

pub use list::Listed;
pub(super) use list::{agents_forwards, is_agents_rule, is_limas, rule};

/// The oldest Lima that will do: `limactl list --json` tells `param`, and templates may say `minimumLimaVersion`.
pub const OLDEST: &str = "2.0.0";

/// `limactl list`: it asks each host agent, and waits 3 s for one that hangs.
const LIST: Duration = Duration::from_secs(15);
/// Calls that only read or write files.
const SHORT: Duration = Duration::from_secs(60);
/// Making an instance may fetch its image.
const CREATE: Duration = Duration::from_secs(60 * 60);
/// Starting one may install packages in it.
const START: Duration = Duration::from_secs(30 * 60);
/// `limactl stop` waits for the guest for 3 min 10 s.
const STOP: Duration = Duration::from_secs(200);
/// The newest events of a host agent, and the last lines of a log, are within so many bytes.
const TAIL: u64 = 64 << 10;
/// The largest of the small files of an instance. `limactl list --json` tells of none whose line is longer than 64 KiB.
const MAX_SMALL: u64 = 256 << 10;
/// Lima: which of its forwarders leads ports into an instance, for as long as that runs.
const SSH_PORT_FORWARDER: &str = "LIMA_SSH_PORT_FORWARDER";
/// What is told of a log.
const BOOT_LINES: usize = 20;
/// How long a new connection into an instance may take.
const CONNECT: Duration = Duration::from_secs(20);
/// A command in the guest whose answer is only for an error message.
const ASK: Duration = Duration::from_secs(15);

/// How limactl is called: which program, and which `LIMA_HOME`.
#[derive(Debug, Clone)]
pub struct Limactl {
    program: PathBuf,
    home: PathBuf,
    version: OnceCell<String>,
}

impl Limactl {
    /// `program` is looked for in `PATH` unless it has a slash; `home` is Lima's home directory.
    pub fn new(program: impl Into<PathBuf>, home: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), home: home.into(), version: OnceCell::new() }
    }

    /// Lima's home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The directory of an instance.
    pub fn dir(&self, instance: &InstanceName) -> PathBuf {
        self.home.join(instance.as_str())
    }

    /// `limactl --tty=false VERB`: on a terminal some verbs would ask a question and wait for a person. Standard input is
    /// null, the child ends with its handle.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("LIMA_HOME", &self.home)
            .args(["--tty=false", verb])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for us, who end what we began in the right order.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// `limactl shell`, to which a command and its arguments are to be added; its exit code is theirs, 255 when ssh failed
    /// (so says ssh(1)). Lima quotes the words for the guest's shell. Without `--workdir`, it tries to enter our own
    /// directory in the guest.
    pub fn shell(&self, instance: &str) -> Command {
        let mut command = self.command("shell");
        command.args(["--workdir", "/", instance]);
        command
    }

    /// Opens a connection into it and closes it again, which makes the master connection that Lima shares where there is
    /// none. Best effort: what needs the master tells whether it is there.
    pub async fn make_master(&self, instance: &InstanceName) {
        let mut command = self.shell(instance.as_str());
        command.arg("true");
        let _ = command::run(command, &[], CONNECT).await;
    }

    /// `limactl shell INSTANCE` with this process's terminal: standard streams are ours. Lima asks for a terminal in the
    /// guest when there is one here.
    pub fn terminal(&self, instance: &str, words: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("LIMA_HOME", &self.home).args(["shell", "--workdir", "/", instance]).args(words);
        command
    }

    // ------------------------------------------------------------------------------------------------------- looking

    /// Its version, asked for once.
    ///
    /// # Errors
    /// [`VmError::TooOld`] below [`OLDEST`], and when it cannot be run at all.
    pub async fn version(&self) -> Result<&str, VmError> {
        let version = self.version.get_or_try_init(|| async {
            let mut command = Command::new(&self.program);
            command.arg("--version");
            let output = self.run("limactl --version", command, &[], SHORT).await?;
            // `limactl version 2.1.4`; one that was built without a version says `<unknown>`.
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let version = text.rsplit(' ').next().unwrap_or_default().trim_start_matches('v').to_owned();
            match is_older(&version, OLDEST) {
                true => Err(VmError::TooOld { found: version, needed: OLDEST }),
                false => Ok(version),
            }
        });
        version.await.map(String::as_str)
    }

    /// `limactl list --json INSTANCE`. `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn look(&self, instance: &InstanceName) -> Result<Option<Listed>, VmError> {
        // Lima 2.1 exits with 1 both when there is no such instance and when something is wrong with one: what is on the disk
        // tells these apart.
        let dir = self.dir(instance);
        let is_there = |path: &Path| {
            path.try_exists().map_err(|err| VmError::Unseen { path: path.to_owned(), err: Arc::new(err) })
        };
        if !is_there(&dir)? {
            self.version().await?;
            return Ok(None);
        }
        if !is_there(&dir.join("lima.yaml"))? {
            return Err(VmError::NoInstance { dir });
        }
        let mut command = self.command("list");
        // Go's collector takes a seventh of the 60 ms, and what it collects would be gone with the process.
        command.args(["--json", instance.as_str()]).env("GOGC", "400");
        let output = self.run("limactl list", command, &[], LIST).await?;
        let found = parse_list(&output.stdout)
            .map_err(|why| VmError::Unreadable { command: "limactl list --json".to_owned(), why })?
            .into_iter()
            .find(|listed| listed.name == instance.as_str());
        match found {
            Some(mut listed) => {
                if let VmPhase::Broken(why) = &mut listed.state.phase
                    && why.is_empty()
                {
                    *why = warnings(&output.stderr);
                }
                Ok(Some(listed))
            }
            None if !is_there(&dir)? => Ok(None),
            None => Err(failed(&format!("limactl list --json {instance}"), &output)),
        }
    }

    /// `limactl watch --json INSTANCE` (Lima 2.1 and later): a line for each thing that happens.
    pub async fn watch(&self, instance: &InstanceName) -> Result<Option<Command>, VmError> {
        if is_older(self.version().await?, "2.1.0") {
            return Ok(None);
        }
        let mut command = self.command("watch");
        command.args(["--json", instance.as_str()]).stderr(Stdio::null());
        Ok(Some(command))
    }

    /// `limactl validate FILE`.
    pub async fn validate(&self, file: &Path) -> Result<(), VmError> {
        let mut command = self.command("validate");
        command.arg(file);
        self.done(format!("limactl validate {}", file.display()), command, &[], SHORT).await
    }

    /// The end of the log of what a guest did when it booted; empty when it is unavailable. Our own template has Lima copy it to
    /// the instance's directory.
    pub async fn boot_log(&self, instance: &InstanceName) -> String {
        if let Some(log) = tail(&self.boot_log_file(instance)) {
            return last_lines(&log);
        }
        let mut command = self.shell(instance.as_str());
        let lines = BOOT_LINES.to_string();
        command.args(["sudo", "-n", "tail", "-n", &lines, "/var/log/cloud-init-output.log"]);
        match self.run("limactl shell", command, &[], ASK).await {
            Ok(output) => last_lines(&output.stdout),
            Err(_) => String::new(),
        }
    }

    /// Where our own template has Lima copy the log of its provisioning to.
    pub fn boot_log_file(&self, instance: &InstanceName) -> PathBuf {
        self.dir(instance).join("provision.log")
    }

    // -------------------------------------------------------------------------------------------------------- acting

    /// `limactl create --name=INSTANCE -`, with the template on standard input.
    pub async fn create(&self, instance: &InstanceName, template: &str) -> Result<(), VmError> {
        self.version().await?;
        let mut command = self.command("create");
        command.arg(format!("--name={instance}")).arg("-");
        self.done(format!("limactl create --name={instance}"), command, template.as_bytes(), CREATE).await
    }

    /// `limactl edit --set EXPRESSION INSTANCE`; of a stopped one only.
    pub async fn edit(&self, instance: &InstanceName, expression: &str) -> Result<(), VmError> {
        let mut command = self.command("edit");
        command.args(["--set", expression, instance.as_str()]);
        self.done(format!("limactl edit {instance}"), command, &[], SHORT).await
    }

    /// `limactl start INSTANCE`: until it has booted and its probes have passed. The caller has seen that it exists: of a
    /// name that does not, Lima would make a machine from its default template.
    ///
    /// `udp` says that ports of that kind lead into it. Lima's own forwarder can do that, and never recovers once its connection
    /// to the guest was lost, as by a sleep (2.1.4: it keeps the port and resets whoever connects). The one through ssh does.
    pub async fn start(&self, instance: &InstanceName, udp: bool) -> Result<(), VmError> {
        self.version().await?;
        let mut command = self.command("start");
        if !udp && std::env::var_os(SSH_PORT_FORWARDER).is_none() {
            command.env(SSH_PORT_FORWARDER, "true");
        }
        command.arg(format!("--timeout={}s", START.as_secs())).arg(instance.as_str());
        self.done(format!("limactl start {instance}"), command, &[], START + SHORT).await
    }

    /// `limactl stop [--force] INSTANCE`, within `limit`. By force its processes are killed and their files cleared.
    pub async fn stop(&self, instance: &InstanceName, force: bool, limit: Option<Duration>) -> Result<(), VmError> {
        let mut command = self.command("stop");
        if force {
            command.arg("--force");
        }
        command.arg(instance.as_str());
        let shown = format!("limactl stop {}{instance}", if force { "--force " } else { "" });
        self.done(shown, command, &[], limit.unwrap_or(STOP)).await
    }

    /// `limactl delete --force INSTANCE`.
    pub async fn delete(&self, instance: &InstanceName) -> Result<(), VmError> {
        let mut command = self.command("delete");
        command.args(["--force", instance.as_str()]);
        self.done(format!("limactl delete --force {instance}"), command, &[], SHORT).await
    }

    // -------------------------------------------------------------------------------------------------------- running

    async fn done(&self, shown: String, command: Command, input: &[u8], limit: Duration) -> Result<(), VmError> {
        tracing::info!(command = shown, "calling limactl");
        let output = self.run(&shown, command, input, limit).await?;
        match output.code {
            Some(0) => Ok(()),
            _ => Err(failed(&shown, &output)),
        }
    }

    async fn run(&self, shown: &str, command: Command, input: &[u8], limit: Duration) -> Result<Output, VmError> {
        // Lima says so itself, but only after a while and not by a code of its own.
        if rustix::process::geteuid().is_root() {
            return Err(VmError::Root);
        }
        command::run(command, input, limit).await.map_err(|err| match err {
            RunError::Io(err) if err.kind() == std::io::ErrorKind::NotFound => {
                VmError::Missing { program: self.program.display().to_string() }
            }
            RunError::Io(err) => VmError::Failed { command: shown.to_owned(), why: err.to_string() },
            RunError::TimedOut => VmError::TimedOut { command: shown.to_owned(), limit },
            RunError::TooMuch => {
                VmError::Unreadable { command: shown.to_owned(), why: "it printed too much".to_owned() }
            }
        })
    }
}

/// The last words of a call that failed.
fn failed(shown: &str, output: &Output) -> VmError {
    let mut why = last_words(&output.stderr);
    if why.is_empty() {
        why = match output.code {
            Some(code) => format!("exit code {code}"),
            None => "a signal ended it".to_owned(),
        };
    }
    VmError::Failed { command: shown.to_owned(), why }
}

/// The message of a line of Lima's log (logrus).
fn message(line: &str) -> Option<String> {
    let rest = &line[line.find("msg=")? + 4..];
    match rest.strip_prefix('"') {
        Some(_) => serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok(),
        None => Some(rest.to_owned()),
    }
}

/// What Lima's log complained about last: messages of level fatal or error, else its last line.
fn last_words(stderr: &str) -> String {
    let complains = |line: &&str| line.contains("level=fatal") || line.contains("level=error");
    let lines: Vec<_> = stderr.lines().filter(complains).filter_map(message).collect();
    let words = match lines.as_slice() {
        [] => stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned(),
        [.., last] => last.clone(),
    };
    words.trim().to_owned()
}

/// A parameter of the instance in this directory, as Lima keeps it there.
pub(super) fn param(dir: &Path, name: &str) -> Option<String> {
    let kept: Kept = serde_yaml::from_slice(&small(&dir.join("lima.yaml"))?).ok()?;
    Some(kept.param.get(name)?.as_str()?.to_owned())
}

/// What we read of an instance's `lima.yaml`.
#[derive(Deserialize)]
struct Kept {
    param: serde_json::Map<String, Value>,
}

/// A small file of an instance's directory. Whose the instance is may not be known yet, and then the file is anybody's: so
/// nothing that is no file is waited for, and nothing big is read. `None` for these, and where there is none.
pub(super) fn small(path: &Path) -> Option<Vec<u8>> {
    regular::read(path, MAX_SMALL).ok()?
}

/// Why the host agent calls a machine that runs degraded: a probe, or a step of its provisioning, failed. `None` when it does
/// not. `list` does not tell; the host agent's own events do, each with the whole of its status.
pub(super) fn degraded(dir: &Path) -> Option<String> {
    degraded_by(&String::from_utf8_lossy(&tail(&dir.join("ha.stdout.log"))?))
}

/// The end of a log.
fn tail(path: &Path) -> Option<Vec<u8>> {
    let mut file = regular::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    Some(tail)
}

fn degraded_by(events: &str) -> Option<String> {
    let last =
        events.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok()?.get("status").cloned())?;
    if last.get("degraded") != Some(&Value::Bool(true)) {
        return None;
    }
    let errors = last.get("errors").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    Some(errors.collect::<Vec<_>>().join("; "))
}

/// The end of a log, without what would play with a terminal.
fn last_lines(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log).replace(|c: char| c.is_control() && c != '\n' && c != '\t', "");
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(BOOT_LINES)..].join("\n")
}

/// What Lima warned of. Lima 2.1 prints what is wrong with an instance there, and an empty object for each in its JSON.
fn warnings(stderr: &str) -> String {
    let warns = |line: &&str| line.contains("level=warning") && !line.contains("No instance");
    let found: Vec<_> = stderr.lines().filter(warns).filter_map(message).collect();
    if found.is_empty() { "Lima does not say why".to_owned() } else { found.join("; ") }
}

/// Whether a version is older than another. One that cannot be read is taken for the newest, as Lima does.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Option<Vec<u32>> {
        text.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok()).collect()
    };
    match (numbers(version), numbers(than)) {
        (Some(version), Some(than)) => version < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
