//! From a `container:` mapping to the spec of a container.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::decode::{At, Cx, List, Path};
use super::document::{ContainerDoc, HealthDoc, MountDoc, MountEntry, PortDoc, PortEntry, TestEntry};
use super::ports;
use super::resolve::{checked, file_path, refuse};
use super::scalar::Str;
use super::substitute::references;
use super::variables::{self, EnvFiles, text};
use crate::model::labels::{NEXT_SUFFIX, PREV_SUFFIX};
use crate::model::{ContainerName, ContainerSpec, HealthCheck, HealthTest, Mount, NO_CHECK, Port, Protocol};

/// A port, and whether part of it came from the environment.
pub(super) struct Published {
    pub(super) port: Port,
    pub(super) from_env: bool,
}

/// Ports with their index in the file's list.
pub(super) type Ports = Vec<(usize, At<Published>)>;

/// Resolves a container. Fields that are wrong are reported and left at their default, so that what is wrong with the
/// others is reported too. Its ports come with the nodes they were written in.
pub(super) fn resolve(
    cx: &mut Cx<'_>,
    in_vm: bool,
    env_files: &mut EnvFiles,
    usual_name: Option<ContainerName>,
    doc: ContainerDoc,
    path: Path<'_>,
) -> Option<(ContainerSpec, Ports)> {
    // Whole: a field that the file may have and nobody reads does not compile.
    let ContainerDoc { name, command, env, env_file, mounts, ports, restart, add_hosts, healthcheck } = doc;
    let name = match &name {
        Some(name) => checked(cx, name, path.key("name"), check_name),
        None => usual_name,
    };
    let env = variables::of_container(cx, env_files, env, env_file.as_ref(), path);
    let mounts = self::mounts(cx, in_vm, mounts, path);
    let ports = ports.map(|ports| self::ports(cx, ports.value.0, path.key("ports"))).unwrap_or_default();
    let add_hosts = add_hosts.map(|list| list.value.0).unwrap_or_default();
    let hosts_path = path.key("addHosts");
    let add_hosts = add_hosts
        .iter()
        .filter_map(|(index, host)| {
            checked(cx, host, hosts_path.index(*index), check_host)?;
            Some(text(host.value.0.clone(), false))
        })
        .collect();
    let check = healthcheck.and_then(|check| health(cx, check.value, path.key("healthcheck")));
    let (healthcheck, no_healthcheck) = match check {
        Some(Check::Run(check)) => (Some(check), false),
        Some(Check::Off) => (None, true),
        None => (None, false),
    };
    let command = command.map(|list| list.value.0.into_iter().map(|(_, word)| text(word.value.0, false)).collect());
    let spec = ContainerSpec {
        name: name?,
        command,
        env,
        mounts,
        hidden_ports: ports
            .iter()
            .filter(|(_, port)| port.value.from_env)
            .map(|(_, port)| port.value.port.clone())
            .collect(),
        ports: ports.iter().map(|(_, port)| port.value.port.clone()).collect(),
        restart: restart.map(|restart| restart.value.0).unwrap_or_default(),
        add_hosts,
        healthcheck,
        no_healthcheck,
    };
    Some((spec, ports))
}

/// A replacement gives a container a second name for a while, so that name must be free and must be one.
fn check_name(name: &str) -> Result<ContainerName, String> {
    let checked = ContainerName::new(name).map_err(|err| err.to_string())?;
    for suffix in [NEXT_SUFFIX, PREV_SUFFIX] {
        if name.ends_with(suffix) {
            return Err(format!("`{name}` ends in `{suffix}`, which marks a container that is being replaced"));
        }
        if ContainerName::new(format!("{name}{suffix}")).is_err() {
            let message = "a name this long leaves no room for the";
            return Err(format!("{message} `{suffix}` of a replacement: shorten it by {} characters", suffix.len()));
        }
    }
    Ok(checked)
}

/// A path of the virtual machine: there is no home directory and no state file there for it to be relative to.
fn guest_path(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') {
        true => Ok(PathBuf::from(text)),
        false => {
            Err(format!("`{text}` is not an absolute path: with `runtime.lima`, a mount's source is in the machine"))
        }
    }
}

fn mounts(cx: &mut Cx<'_>, in_vm: bool, list: Option<At<List<MountEntry>>>, path: Path<'_>) -> Vec<Mount> {
    let Some(list) = list else { return Vec::new() };
    let mut targets = BTreeSet::new();
    let list_path = path.key("mounts");
    let mut mounts = Vec::new();
    for (index, At { value: MountEntry(MountDoc { source, target, read_only }), .. }) in &list.value.0 {
        let path = list_path.index(*index);
        let source = source.as_ref().and_then(|source| {
            let resolved = match in_vm {
                true => checked(cx, source, path.key("source"), guest_path)?,
                false => file_path(cx, source, path.key("source"))?,
            };
            Some(text(Str { value: resolved.to_string_lossy().into_owned(), from_env: source.value.0.from_env }, false))
        });
        let Some(target) = target else { continue };
        let from_env = target.value.0.from_env;
        let clean = checked(cx, target, path.key("target"), check_target);
        if let Some(clean) = &clean
            && !targets.insert(clean.clone())
        {
            refuse(
                cx,
                target,
                path.key("target"),
                "is mounted twice in this container",
                "another mount has this target",
            );
        }
        if let (Some(source), Some(target)) = (source, clean) {
            let target = text(Str { value: target, from_env }, false);
            mounts.push(Mount { source, target, read_only: read_only.as_ref().is_some_and(|flag| flag.value.0) });
        }
    }
    mounts
}

fn check_target(target: &str) -> Result<String, String> {
    if !target.starts_with('/') {
        return Err(format!("`{target}` is not an absolute path in the container"));
    }
    if target.split('/').any(|part| part == ".." || part == ".") {
        return Err(format!("`{target}` has `.` or `..` in it: write the path itself"));
    }
    if target.contains(':') {
        return Err(format!("`{target}` has a colon, which Podman takes for the start of options"));
    }
    let parts: Vec<_> = target.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(format!("`{target}` would hide the whole image: name a directory in it"));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn check_host(line: &str) -> Result<(), String> {
    let wrong = || format!("`{line}` is not `host:address`, like \"db.internal:10.0.0.5\"");
    let (host, address) = line.split_once(':').ok_or_else(wrong)?;
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    if address == "host-gateway" || ports::ip(address).is_ok() {
        return Ok(());
    }
    Err(format!("`{line}` is not `host:address`: the address must be an IP address or `host-gateway`"))
}

fn ports(cx: &mut Cx<'_>, entries: Vec<(usize, At<PortEntry>)>, path: Path<'_>) -> Ports {
    let mut resolved = Vec::new();
    for (index, At { node, value }) in entries {
        let path = path.index(index);
        let (port, from_env) = match value {
            PortEntry::Short(word) => {
                let from_env = word.0.from_env;
                (checked(cx, &At { node, value: word }, path, ports::parse), from_env)
            }
            PortEntry::Long(PortDoc { host_ip, host_port, container_port, protocol }) => {
                let ports = [&host_port, &container_port].into_iter().flatten().map(|port| port.node);
                let nodes = ports.chain(host_ip.as_ref().map(|ip| ip.node));
                let from_env = nodes.into_iter().any(|node| !references(cx.tree.text(node)).is_empty());
                let host_ip = match &host_ip {
                    Some(ip) => checked(cx, ip, path.key("hostIp"), ports::ip),
                    None => Some("0.0.0.0".to_owned()),
                };
                let number = |port: u32| u16::try_from(port).ok();
                let port = match (host_ip, host_port, container_port) {
                    (Some(host_ip), Some(host), Some(container)) => {
                        number(host.value.0).zip(number(container.value.0)).map(|(host_port, container_port)| Port {
                            host_ip,
                            host_port,
                            container_port,
                            protocol: protocol.map_or(Protocol::Tcp, |protocol| protocol.value.0),
                        })
                    }
                    _ => None,
                };
                (port, from_env)
            }
        };
        resolved.extend(port.map(|port| (index, At { node, value: Published { port, from_env } })));
    }
    resolved
}

/// What a `healthcheck` says.
enum Check {
    Run(HealthCheck),
    /// None at all, whatever the image brings.
    Off,
}

fn health(cx: &mut Cx<'_>, doc: HealthDoc, path: Path<'_>) -> Option<Check> {
    let HealthDoc { test, interval, timeout, retries, start_period } = doc;
    for (key, time) in [("interval", &interval), ("timeout", &timeout)] {
        if let Some(time) = time
            && time.value.0 < Duration::from_millis(1)
        {
            cx.wrong(time.node, path.key(key), format!("a health check's {key} must be at least 1ms"));
        }
    }
    let Some(test) = self::test(cx, test?, path.key("test"))? else { return Some(Check::Off) };
    Some(Check::Run(HealthCheck {
        test,
        interval: interval.map_or(HealthCheck::INTERVAL, |time| time.value.0),
        timeout: timeout.map_or(HealthCheck::TIMEOUT, |time| time.value.0),
        retries: retries.map_or(3, |retries| retries.value.0),
        start_period: start_period.map_or(Duration::ZERO, |time| time.value.0),
    }))
}

/// What a health check runs; `Some(None)` is `NONE`: nothing.
fn test(cx: &mut Cx<'_>, At { node, value }: At<TestEntry>, path: Path<'_>) -> Option<Option<HealthTest>> {
    let off = |word: &str| word.trim().eq_ignore_ascii_case(NO_CHECK);
    let words = match value {
        TestEntry::Line(line) if off(&line.0.value) => return Some(None),
        TestEntry::Line(line) if line.0.value.trim().is_empty() => {
            cx.wrong(node, path, "the health check runs nothing");
            return None;
        }
        TestEntry::Line(line) => return Some(Some(HealthTest::Shell(text(line.0, false)))),
        TestEntry::Words(list) => list.0,
    };
    let mut words = words.into_iter().map(|(_, word)| word.value.0);
    let first = words.next().map(|word| word.value).unwrap_or_default();
    let mut rest: Vec<_> = words.map(|word| text(word, false)).collect();
    match (first.as_str(), rest.len()) {
        (word, 0) if off(word) => Some(None),
        (word, _) if off(word) => {
            let help = "write `test: NONE` for no health check at all, or put CMD before the program";
            cx.wrong_help(node, path, "NONE takes nothing after it", help);
            None
        }
        ("CMD", 0) | ("CMD-SHELL", 0) => {
            cx.wrong(node, path, format!("{first} runs nothing: a command must follow it"));
            None
        }
        ("CMD", _) => Some(Some(HealthTest::Command(rest))),
        ("CMD-SHELL", 1) => rest.pop().map(HealthTest::Shell).map(Some),
        ("CMD-SHELL", _) => {
            cx.wrong_help(node, path, "CMD-SHELL takes one line", "quote the whole line, or use CMD");
            None
        }
        _ => {
            let message = "a health check's list starts with CMD or CMD-SHELL, or is [NONE]";
            cx.wrong_help(node, path, message, "put CMD before the program to run it as it is");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn a_container_name_leaves_room_for_a_replacement() {
        for (name, fine) in [("a.nexts", true), ("a.next", false), ("a.prev", false), ("next", true), ("-a", false)] {
            assert_eq!(check_name(name).is_ok(), fine, "{name}");
        }
        assert!(check_name(&"a".repeat(195)).is_ok());
        assert!(check_name(&"a".repeat(196)).unwrap_err().contains("no room"));
    }
}
