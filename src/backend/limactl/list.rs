//! What `limactl list --json` says, leniently, and the rules for ports in what it lists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::backend::process;
use crate::model::vm::{PARAM_NAME, PARAM_ROOT, PARAM_TEMPLATE};
use crate::model::{Forward, Protocol, Socket, VmMount, VmPhase, VmState};

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
pub(super) fn parse_list(stdout: &[u8]) -> Result<Vec<Listed>, String> {
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
        root: param(PARAM_ROOT),
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
pub(in crate::backend) fn is_agents_rule(rule: &Value) -> bool {
    rule.get("guestIPMustBeZero") == Some(&Value::Bool(false))
        && rule.get("guestIP").and_then(Value::as_str) == Some("0.0.0.0")
        && rule.get("guestPort").and_then(Value::as_u64).is_some_and(|port| port > 0)
        && plain_forwards(rule).len() == 1
}

/// The ports of agents among the rules of an instance.
pub(in crate::backend) fn agents_forwards(rules: &[Value]) -> BTreeSet<Forward> {
    rules.iter().filter(|rule| is_agents_rule(rule)).flat_map(plain_forwards).collect()
}

/// The rule for one port, on whichever address Podman publishes it in the guest: without the second line, Lima 2.1 takes
/// `0.0.0.0` for those alone that are published on every address.
pub(in crate::backend) fn rule(forward: &Forward) -> Value {
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
pub(in crate::backend) fn is_limas(command_line: &str, dir: &Path) -> bool {
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
