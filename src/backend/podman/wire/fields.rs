//! Single fields of an answer, read leniently.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::model::ids::clean;
use crate::model::labels::{self};
use crate::model::spec::{Cpus, Memory, OnUnhealthy, Resources};
use crate::model::{
    CheckResult, Health, HealthCheck, HealthTest, Live, Phase, Port, PortRange, Protocol, Text, Volume,
};

/// The most characters of a word of Podman's that this build does not know.
pub(super) const WORD: usize = 100;

/// How long Podman gets to tidy up after a process that ended. It takes a fifth of a second on 4.3; where it takes longer
/// than this, whoever was to do it has died.
pub(super) const TIDYING: Duration = Duration::from_secs(5);

/// Podman's words (4.3: created, running, paused, stopping, stopped, exited, initialized, removing). `stopped` is a
/// container whose process ended and which Podman is not done with: it restarts it where the policy says so, and only
/// what it then calls `exited` stays down (4.3 and 5).
pub(super) fn phase(word: &str, exit_code: Option<i64>, ended: Option<SystemTime>) -> Phase {
    let exited = || Phase::Exited { code: exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default() };
    match word.to_ascii_lowercase().as_str() {
        "created" | "configured" | "initialized" => Phase::Created,
        "running" => Phase::Running,
        "paused" => Phase::Paused,
        "stopping" => Phase::Stopping,
        "exited" => exited(),
        "stopped" => {
            // An end in the future is a clock that was set back.
            let since = ended.and_then(|ended| SystemTime::now().duration_since(ended).ok());
            if since.is_some_and(|since| since < TIDYING) { Phase::Stopping } else { exited() }
        }
        "removing" => Phase::Removing,
        _ => Phase::Other(clean(word, WORD)),
    }
}

pub(super) fn pid(of: &Value, phase: &Phase) -> Option<u32> {
    matches!(phase, Phase::Running | Phase::Paused | Phase::Stopping)
        .then(|| int(of, "Pid").and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0))
        .flatten()
}

pub(super) fn health(word: &str) -> Option<Health> {
    match word {
        "" | "none" => None,
        "starting" => Some(Health::Starting),
        "healthy" => Some(Health::Healthy),
        "unhealthy" => Some(Health::Unhealthy),
        other => Some(Health::Other(clean(other, WORD))),
    }
}

/// `Log: [{"Start", "End", "ExitCode", "Output"}]`, the oldest first.
pub(super) fn last_run(health: &Value) -> Option<&Value> {
    health.get("Log")?.as_array()?.iter().max_by_key(|run| time(run.get("Start")))
}

pub(super) fn check_result(run: &Value) -> Option<CheckResult> {
    let code = i32::try_from(int(run, "ExitCode")?).ok()?;
    Some(CheckResult { code, output: text(run, "Output").unwrap_or_default().to_owned() })
}

/// `{"Test": ["CMD-SHELL", line], "Interval", "Timeout", "StartPeriod": nanoseconds, "Retries"}`. What is missing or 0 is
/// what Podman and Docker take instead (30 s, 30 s, 0 s, 3). An image may leave out all but the test: Podman 4.3 gives a
/// check without a timeout no limit at all.
pub(super) fn health_check(config: &Value) -> Option<HealthCheck> {
    let words: Vec<_> = strings(config.get("Test")).map(Text::sensitive).collect();
    let (kind, rest) = words.split_first()?;
    let test = match kind.expose().to_ascii_uppercase().as_str() {
        "NONE" | "" => return None,
        "CMD-SHELL" => HealthTest::Shell(rest.first()?.clone()),
        "CMD" => HealthTest::Command(rest.to_vec()),
        // Podman 4.3 keeps a test of one word as it was given, and hands it to the shell.
        _ => HealthTest::Shell(kind.clone()),
    };
    let nanoseconds = |field: &str| {
        let told = int(config, field).and_then(|told| u64::try_from(told).ok()).filter(|told| *told > 0);
        told.map(Duration::from_nanos)
    };
    Some(HealthCheck {
        test,
        interval: nanoseconds("Interval").unwrap_or(HealthCheck::INTERVAL),
        timeout: nanoseconds("Timeout").unwrap_or(HealthCheck::TIMEOUT),
        retries: int(config, "Retries").and_then(|told| u32::try_from(told).ok()).filter(|told| *told > 0).unwrap_or(3),
        start_period: nanoseconds("StartPeriod").unwrap_or_default(),
        start_interval: None,
        on_failure: OnUnhealthy::default(),
    })
}

/// Libpod's list says the verdict in `Status` (4.3.1: exactly the word, empty without a check). Elsewhere that field is
/// prose (`Up 2 minutes (healthy)`), of which only the verdict in brackets is believed.
pub(super) fn listed_health(entry: &Value, phase: &Phase) -> Option<Health> {
    if let Some(word) = entry.get("Health").and_then(|health| text(health, "Status").or(health.as_str())) {
        return health(word);
    }
    let status = text(entry, "Status")?;
    match health(status) {
        Some(Health::Other(_)) | None => {
            let bracket = status.rsplit_once('(').and_then(|(_, rest)| rest.strip_suffix(')'))?;
            match health(bracket.trim_start_matches("health: ")) {
                Some(Health::Other(_)) | None => None,
                told => told.filter(|_| *phase == Phase::Running),
            }
        }
        told => told.filter(|_| *phase == Phase::Running),
    }
}

pub(super) fn protocol(word: &str) -> Option<Protocol> {
    match word.to_ascii_lowercase().as_str() {
        "" | "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

pub(super) fn host_ip(text: Option<&str>) -> String {
    text.filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0").to_owned()
}

/// `[{"host_ip", "host_port", "container_port", "range", "protocol"}]`; an entry may stand for `range` ports in a row and
/// for several protocols (`tcp,udp`).
pub(super) fn listed_ports(ports: Option<&Value>) -> Vec<PortRange> {
    let mut found = Vec::new();
    for entry in ports.and_then(Value::as_array).into_iter().flatten() {
        let port = |field: &str| int(entry, field).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let (Some(host), Some(container)) = (port("host_port"), port("container_port")) else { continue };
        let range = int(entry, "range").and_then(|range| u16::try_from(range).ok()).unwrap_or(1).max(1);
        for protocol in text(entry, "protocol").unwrap_or("tcp").split(',').filter_map(protocol) {
            let host_ip = host_ip(text(entry, "host_ip"));
            let first = Port { host_ip, host_port: host, container_port: container, protocol };
            found.push(PortRange::new(first, range));
        }
    }
    PortRange::merged(found)
}

/// `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`
pub(super) fn inspected_ports(bindings: Option<&Value>) -> Vec<PortRange> {
    let mut found = Vec::new();
    for (inside, outside) in bindings.and_then(Value::as_object).into_iter().flatten() {
        let (number, word) = inside.split_once('/').unwrap_or((inside, "tcp"));
        let (Ok(container_port), Some(protocol)) = (number.parse(), protocol(word)) else { continue };
        for binding in outside.as_array().into_iter().flatten() {
            let Some(host_port) = int(binding, "HostPort").and_then(|port| u16::try_from(port).ok()) else { continue };
            let host_ip = host_ip(text(binding, "HostIp"));
            found.push(PortRange::from(Port { host_ip, host_port, container_port, protocol }));
        }
    }
    PortRange::merged(found)
}

/// Of a `HostConfig`, the limits. What is 0 or missing is not limited; `PidsLimit` is Podman's own choice where nobody gave one.
pub(super) fn resources(host: &Value) -> Resources {
    let positive = |field: &str| int(host, field).filter(|value| *value > 0);
    let bytes = |field: &str| positive(field).and_then(|bytes| u64::try_from(bytes).ok());
    let nanos = positive("NanoCpus").map(|nanos| nanos / 1_000_000);
    let quota = || Some(positive("CpuQuota")?.checked_mul(1000)? / positive("CpuPeriod")?);
    let thousandths = nanos.or_else(quota).and_then(|cpus| u32::try_from(cpus).ok());
    let unlimited = |field: &str| int(host, field) == Some(-1);
    Resources {
        cpus: thousandths.map(Cpus),
        cpuset: text(host, "CpusetCpus").filter(|set| !set.is_empty()).map(str::to_owned),
        memory: Memory {
            limit: bytes("Memory"),
            swap: if unlimited("MemorySwap") { Some(u64::MAX) } else { bytes("MemorySwap") },
        },
        pids: if unlimited("PidsLimit") { Some(i64::MAX) } else { positive("PidsLimit") },
        shm: bytes("ShmSize"),
    }
}

pub(super) fn live(answer: &Value, config: &Value, host: &Value) -> Live {
    let env = strings(config.get("Env"))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mounts = answer
        .get("Mounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|mount| text(mount, "Type").is_none_or(|word| word == "bind"))
        .filter_map(|mount| {
            let (source, target) = (text(mount, "Source")?, text(mount, "Destination")?);
            let access = if mount.get("RW") == Some(&Value::Bool(false)) { ":ro" } else { "" };
            Some((target.to_owned(), format!("{source}{access}")))
        })
        .collect();
    let list = |value: Option<&Value>| {
        value.filter(|value| value.is_array()).map(|value| strings(Some(value)).map(str::to_owned).collect::<Vec<_>>())
    };
    // `host-gateway` was replaced at creation, so the live lines can only be compared where the label has none.
    let replaced = config
        .get("Labels")
        .and_then(|labels| text(labels, labels::SPEC))
        .is_some_and(|label| label.contains(":host-gateway"));
    let volumes = answer
        .get("Mounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|mount| text(mount, "Type") == Some("volume"))
        .filter_map(|mount| {
            Some(Volume {
                name: text(mount, "Name").filter(|name| !name.is_empty())?.to_owned(),
                target: text(mount, "Destination")?.to_owned(),
                read_only: mount.get("RW") == Some(&Value::Bool(false)),
            })
        })
        .collect();
    Live {
        env,
        volumes,
        command: list(config.get("Cmd")),
        mounts,
        add_hosts: list(host.get("ExtraHosts")).filter(|_| !replaced),
        health_test: config.get("Healthcheck").and_then(|check| list(check.get("Test"))),
    }
}

pub(super) fn text<'a>(of: &'a Value, field: &str) -> Option<&'a str> {
    of.get(field)?.as_str()
}

/// A number, or a string of one.
pub(super) fn int(of: &Value, field: &str) -> Option<i64> {
    match of.get(field)? {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub(super) fn strings(of: Option<&Value>) -> impl Iterator<Item = &str> {
    of.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A moment: seconds since 1970 as a number or a string of one, or RFC 3339 with any offset. The zero of Go's clock
/// (year 1) and anything else before 1970 mean "never".
pub(super) fn time(value: Option<&Value>) -> Option<SystemTime> {
    let since = match value? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => match text.trim().parse::<f64>() {
            Ok(seconds) => seconds,
            Err(_) => return crate::time::parse_with_offset(text.trim()),
        },
        _ => return None,
    };
    let since = Duration::try_from_secs_f64(since).ok().filter(|since| !since.is_zero())?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}
