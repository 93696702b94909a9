//! The only file that knows limactl's arguments and its output (Lima 2.0 and later; seen: 2.1.4).
//!
//! Arguments are a list, never a shell's line. What came of a call is read from the state it leaves, not from the wording of
//! its messages: these only go into errors, for people.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::command::{self, Output, RunError};
use super::process;
use super::vm::VmError;
use crate::model::vm::{PARAM_NAME, PARAM_TEMPLATE};
use crate::model::{Forward, InstanceName, Protocol, Socket, VmMount, VmPhase, VmState};

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
/// The newest events of a host agent are within so many bytes.
const EVENTS_TAIL: u64 = 64 << 10;
/// What is told of a log.
const BOOT_LINES: usize = 20;
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
        command.args(["--json", instance.as_str()]);
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

    /// The end of the log of what a guest did when it booted; empty when it cannot be had. Our own template has Lima copy it to
    /// the instance's directory.
    pub async fn boot_log(&self, instance: &InstanceName) -> String {
        if let Ok(log) = std::fs::read(self.boot_log_file(instance)) {
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
    pub async fn start(&self, instance: &InstanceName) -> Result<(), VmError> {
        self.version().await?;
        let mut command = self.command("start");
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

/// Why the host agent calls a machine that runs degraded: a probe, or a step of its provisioning, failed. `None` when it does
/// not. `list` does not tell; the host agent's own events do, each with the whole of its status.
pub(super) fn degraded(dir: &Path) -> Option<String> {
    let mut file = std::fs::File::open(dir.join("ha.stdout.log")).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(EVENTS_TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(EVENTS_TAIL).read_to_end(&mut tail).ok()?;
    degraded_by(&String::from_utf8_lossy(&tail))
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

/// One line of `limactl list --json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it says of it.
    pub state: VmState,
    /// `config.portForwards`, as it stands there.
    pub port_forwards: Vec<Value>,
}

/// One JSON object per line; no instances means no lines. Unknown fields are left alone, unknown states kept, and a field
/// that is missing costs itself alone.
fn parse_list(stdout: &[u8]) -> Result<Vec<Listed>, String> {
    let text = std::str::from_utf8(stdout).map_err(|err| err.to_string())?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).map_err(|err| err.to_string()).map(|value| listed(&value))).collect()
}

fn listed(value: &Value) -> Listed {
    let text = |of: &Value, field: &str| of.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |field: &str| value.get(field).and_then(Value::as_u64).unwrap_or(0);
    let config = value.get("config").unwrap_or(&Value::Null);
    let param = |name: &str| {
        let params = value.get("param").or_else(|| config.get("param"))?;
        params.get(name)?.as_str().map(str::to_owned)
    };
    let process = |field: &str| u32::try_from(number(field)).ok().filter(|pid| *pid > 0).and_then(process::of);
    let dir = PathBuf::from(text(value, "dir"));
    let port_forwards = config.get("portForwards").and_then(Value::as_array).cloned().unwrap_or_default();
    let ssh_config = match text(value, "sshConfigFile") {
        empty if empty.is_empty() => dir.join("ssh.config"),
        named => named.into(),
    };
    let state = VmState {
        phase: phase(&text(value, "status"), value),
        owner: param(PARAM_NAME),
        template: param(PARAM_TEMPLATE),
        vm_type: text(value, "vmType"),
        lima_version: text(value, "limaVersion").trim_start_matches('v').to_owned(),
        cpus: u32::try_from(number("cpus")).unwrap_or(0),
        memory: number("memory"),
        disk: number("disk"),
        ssh_port: u16::try_from(number("sshLocalPort")).ok().filter(|port| *port > 0),
        ssh_config,
        host_agent: process("hostAgentPID"),
        driver: process("driverPID"),
        socket: port_forwards.iter().find_map(podman_socket),
        mounts: mounts(config),
        forwards: port_forwards.iter().flat_map(plain_forwards).collect(),
        dir,
    };
    Listed { name: text(value, "name"), state, port_forwards }
}

fn phase(word: &str, value: &Value) -> VmPhase {
    let errors = value.get("errors").and_then(Value::as_array).into_iter().flatten();
    let errors: Vec<_> = errors.filter_map(Value::as_str).filter(|error| !error.is_empty()).collect();
    match word {
        "Running" => VmPhase::Running,
        "Stopped" => VmPhase::Stopped,
        "Broken" => VmPhase::Broken(errors.join("; ")),
        "" => VmPhase::Other("unknown".to_owned()),
        other => VmPhase::Other(other.to_owned()),
    }
}

/// The rule that brings Podman's socket here. By the end of its path: a template may have others.
fn podman_socket(rule: &Value) -> Option<Socket> {
    let guest = rule.get("guestSocket")?.as_str()?;
    let host = rule.get("hostSocket")?.as_str().filter(|path| !path.is_empty())?;
    guest.ends_with("podman.sock").then(|| Socket { guest: guest.to_owned(), host: host.into() })
}

/// The ports that a rule leads into the guest under the same number.
fn plain_forwards(rule: &Value) -> BTreeSet<Forward> {
    let flag = |field: &str| rule.get(field).and_then(Value::as_bool).unwrap_or(false);
    let range = |field: &str| {
        let ends = rule.get(field)?.as_array()?;
        let port = |at: usize| ends.get(at).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        Some((port(0)?, port(1)?)).filter(|(first, _)| *first > 0)
    };
    let has_socket = |field: &str| rule.get(field).and_then(Value::as_str).is_some_and(|path| !path.is_empty());
    let is_plain = !flag("ignore") && !flag("reverse") && !has_socket("guestSocket") && !has_socket("hostSocket");
    let (Some((first, last)), Some(host_ip)) = (range("guestPortRange"), rule.get("hostIP").and_then(Value::as_str))
    else {
        return BTreeSet::new();
    };
    if !is_plain || range("hostPortRange") != Some((first, last)) {
        return BTreeSet::new();
    }
    let protocols: &[Protocol] = match rule.get("proto").and_then(Value::as_str) {
        Some("udp") => &[Protocol::Udp],
        Some("tcp") => &[Protocol::Tcp],
        _ => &[Protocol::Tcp, Protocol::Udp],
    };
    let forward =
        |port| protocols.iter().map(move |protocol| Forward { host_ip: host_ip.to_owned(), port, protocol: *protocol });
    (first..=last).flat_map(forward).collect()
}

/// Whether a rule is one of ours, for one port of an agent: nobody else writes [`rule`]'s second line and one protocol.
pub(super) fn is_agents_rule(rule: &Value) -> bool {
    rule.get("guestIPMustBeZero") == Some(&Value::Bool(false))
        && rule.get("guestIP").and_then(Value::as_str) == Some("0.0.0.0")
        && rule.get("guestPort").and_then(Value::as_u64).is_some_and(|port| port > 0)
        && plain_forwards(rule).len() == 1
}

/// The ports of agents among the rules of an instance.
pub(super) fn agents_forwards(rules: &[Value]) -> BTreeSet<Forward> {
    rules.iter().filter(|rule| is_agents_rule(rule)).flat_map(plain_forwards).collect()
}

/// The rule for one port, on whichever address Podman publishes it in the guest: without the second line, Lima 2.1 takes
/// `0.0.0.0` for those alone that are published on every address.
pub(super) fn rule(forward: &Forward) -> Value {
    json!({
        "guestIP": "0.0.0.0",
        "guestIPMustBeZero": false,
        "guestPort": forward.port,
        "hostIP": forward.host_ip,
        "hostPort": forward.port,
        "proto": forward.protocol.to_string(),
    })
}

fn mounts(config: &Value) -> Vec<VmMount> {
    let kind = config.get("mountType").and_then(Value::as_str).unwrap_or_default();
    let all = config.get("mounts").and_then(Value::as_array).into_iter().flatten();
    let mount = |mount: &Value| {
        let host = mount.get("location")?.as_str()?;
        let guest = mount.get("mountPoint").and_then(Value::as_str).filter(|path| !path.is_empty()).unwrap_or(host);
        Some(VmMount { host: host.into(), guest: guest.into(), kind: kind.to_owned() })
    };
    all.filter_map(mount).collect()
}

/// Whether a process is one of those that Lima runs for an instance, its host agent or the machine itself: both are given
/// files in its directory.
pub(super) fn is_limas(command_line: &str, dir: &Path) -> bool {
    command_line.contains(&format!("{}/", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lima").join(name);
        std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
    }

    fn only(name: &str) -> Listed {
        let mut listed = parse_list(&fixture(name)).unwrap();
        assert_eq!(listed.len(), 1, "{name}");
        listed.remove(0)
    }

    #[test]
    fn what_lima_says_of_an_instance_is_read() {
        let running = only("running.jsonl");
        let state = &running.state;
        assert_eq!(state.phase, VmPhase::Running);
        assert_eq!((state.cpus, state.memory, state.disk), (2, 2 << 30, 4 << 30));
        assert_eq!((state.vm_type.as_str(), state.lima_version.as_str()), ("qemu", "2.1.4"));
        assert!(state.ssh_port.is_some());
        assert!(state.ssh_config.ends_with(format!("{}/ssh.config", running.name)));
        let socket = state.socket.as_ref().unwrap();
        assert_eq!(socket.guest, "/run/podman/podman.sock");
        assert_eq!(socket.host, state.dir.join("sock/podman.sock"));
        assert_eq!((&state.owner, &state.template), (&None, &None), "nobody of ours made it");
        assert!(state.forwards.is_empty() && state.mounts.is_empty());
        for name in ["stopped.jsonl", "new.jsonl"] {
            let stopped = only(name).state;
            assert_eq!((stopped.phase, stopped.host_agent, stopped.driver), (VmPhase::Stopped, None, None), "{name}");
        }
        for name in ["broken-host-agent-killed.jsonl", "broken-host-agent-silent.jsonl"] {
            assert_eq!(only(name).state.phase, VmPhase::Broken(String::new()), "{name}");
        }
    }

    #[test]
    fn words_and_fields_that_are_not_known_cost_nothing() {
        let line =
            br#"{"name":"a","status":"Hibernating","dir":"/l/a","new":{"deep":[1]},"config":{"portForwards":[7]}}"#;
        let [listed] = &parse_list(line).unwrap()[..] else { panic!() };
        assert_eq!(listed.state.phase, VmPhase::Other("Hibernating".into()));
        assert_eq!(listed.state.ssh_config, Path::new("/l/a/ssh.config"));
        assert_eq!((listed.state.cpus, listed.state.socket.clone()), (0, None));
        assert!(parse_list(b"\n \n").unwrap().is_empty(), "no instances, no lines");
        assert!(parse_list(b"level=warning msg=\"x\"\n").is_err());
        assert!(parse_list(b"{\"name\":\"a\"").is_err(), "cut off");
    }

    #[test]
    fn a_machine_is_degraded_by_its_newest_event() {
        let good = r#"{"time":"t","status":{"running":true,"sshLocalPort":1}}"#;
        let bad =
            r#"{"time":"t","status":{"running":true,"degraded":true,"errors":["probe 1","copy"],"sshLocalPort":1}}"#;
        assert_eq!(degraded_by(&format!("{good}\n{bad}\n")), Some("probe 1; copy".to_owned()));
        assert_eq!(degraded_by(&format!("{bad}\n{good}\n")), None);
        assert_eq!(
            degraded_by(&format!("{bad}\n{{\"time\":")),
            Some("probe 1; copy".to_owned()),
            "a line half written"
        );
        assert_eq!(degraded_by(""), None);
    }

    #[test]
    fn versions_are_compared_by_number() {
        for (version, older) in
            [("1.2.3", true), ("2.0.0", false), ("2.10.0", false), ("1.99.99", true), ("2.0.0-rc.1", false)]
        {
            assert_eq!(is_older(version, OLDEST), older, "{version}");
        }
        assert!(!is_older("<unknown>", OLDEST), "one that was built without a version");
        assert!(is_older("2.0.3", "2.1.0"));
    }

    #[test]
    fn an_error_is_what_lima_said_last() {
        let log = "time=\"t\" level=info msg=\"Starting\"\ntime=\"t\" level=error msg=\"first\"\n\
                   time=\"t\" level=fatal msg=\"did not receive \\\"running\\\"\"\n";
        assert_eq!(last_words(log), "did not receive \"running\"");
        assert_eq!(last_words("level=fatal msg=short\n"), "short");
        assert_eq!(last_words("panic: boom\n\n"), "panic: boom");
        assert_eq!(last_words(""), "");
        let log = "level=warning msg=\"instance broken: \\\"no driver\\\"\"\nlevel=warning msg=\"No instance found\"\n";
        assert_eq!(warnings(log), "instance broken: \"no driver\"");
    }

    #[test]
    fn rules_come_back_as_the_forwards_they_were_made_for() {
        let forward = |host_ip: &str, port, protocol| Forward { host_ip: host_ip.into(), port, protocol };
        let tcp = forward("127.0.0.1", 8080, Protocol::Tcp);
        // As Lima fills a rule in.
        let filled = json!({"guestIPMustBeZero": false, "guestIP": "0.0.0.0", "guestPort": 8080, "guestPortRange": [8080, 8080],
            "hostIP": "127.0.0.1", "hostPort": 8080, "hostPortRange": [8080, 8080], "proto": "tcp"});
        assert_eq!(plain_forwards(&filled), BTreeSet::from([tcp]));
        assert!(is_agents_rule(&filled));
        // A template's own rule for one port, as Lima fills it in, is nobody's to drop.
        let own = json!({"guestIPMustBeZero": false, "guestIP": "127.0.0.1", "guestPort": 9090, "guestPortRange": [9090, 9090],
            "hostIP": "127.0.0.1", "hostPort": 9090, "hostPortRange": [9090, 9090], "proto": "any"});
        assert!(!is_agents_rule(&own) && plain_forwards(&own).len() == 2);
        assert_eq!(agents_forwards(&[own, filled]).len(), 1);
        let ignore = json!({"guestIP": "0.0.0.0", "guestPortRange": [1, 65535], "hostPortRange": [1, 65535], "hostIP": "127.0.0.1", "ignore": true});
        assert!(plain_forwards(&ignore).is_empty() && !is_agents_rule(&ignore));
        let socket = json!({"guestSocket": "/run/podman/podman.sock", "hostSocket": "/l/a/sock/podman.sock", "guestPortRange": [1, 65535]});
        assert!(plain_forwards(&socket).is_empty() && !is_agents_rule(&socket));
        assert_eq!(podman_socket(&socket).unwrap().host, Path::new("/l/a/sock/podman.sock"));
    }

    #[test]
    fn a_process_is_limas_by_what_it_runs() {
        let dir = Path::new("/l/agents");
        assert!(is_limas("/usr/bin/limactl hostagent --pidfile /l/agents/ha.pid agents", dir));
        assert!(is_limas("/usr/bin/qemu-system-x86_64 -m 2048 -drive file=/l/agents/disk", dir));
        // Of the same name in another home, and of a name that begins like this one.
        assert!(!is_limas("/usr/bin/limactl hostagent --pidfile /m/agents/ha.pid agents", dir));
        assert!(!is_limas("/usr/bin/qemu-system-x86_64 -drive file=/l/agents2/disk", dir));
        assert!(!is_limas("/usr/sbin/sshd -D", dir));
    }
}
