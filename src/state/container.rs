//! From a `container:` mapping to the spec of a container.

mod health;
mod mounts;
mod networks;
mod ports;
mod settings;

use std::collections::BTreeMap;

use super::decode::{At, Cx, Path};
use super::document::{ContainerDoc, Pairs, RestartWord};
use super::resolve::checked;
use super::scalar::Str;
use super::variables::{self, EnvFiles, text};
use crate::model::labels::{self, NEXT_SUFFIX, PREV_SUFFIX};
use crate::model::{ContainerName, ContainerSpec, Port, Text};

/// A port, and whether part of it came from the environment.
pub(super) struct Published {
    pub(super) port: Port,
    pub(super) from_env: bool,
}

/// Ports with their index in the file's list.
pub(super) type Ports = Vec<(usize, At<Published>)>;

/// What a container may refer to.
pub(super) struct Surroundings<'a> {
    /// Containers run in a virtual machine.
    pub(super) in_vm: bool,
    /// The agent it belongs to.
    pub(super) agent: &'a str,
    /// Its name where the file gives none.
    pub(super) usual_name: Option<ContainerName>,
    /// The top-level volumes, by their keys in the file: their names in the engine.
    pub(super) volumes: &'a BTreeMap<String, String>,
    /// The top-level networks, likewise.
    pub(super) networks: &'a BTreeMap<String, String>,
}

/// Resolves a container. Fields that are wrong are reported and left at their default, so that what is wrong with the
/// others is reported too. Its ports come with the nodes they were written in.
pub(super) fn resolve(
    cx: &mut Cx<'_>,
    around: &Surroundings<'_>,
    env_files: &mut EnvFiles,
    doc: ContainerDoc,
    path: Path<'_>,
) -> Option<(ContainerSpec, Ports)> {
    // Whole: a field that the file may have and nobody reads does not compile.
    let ContainerDoc {
        name,
        entrypoint,
        command,
        user,
        group_add,
        working_dir,
        hostname,
        domainname,
        userns,
        env,
        env_file,
        labels,
        init,
        stop_signal,
        stop_timeout,
        mounts,
        ports,
        networks,
        dns,
        add_hosts,
        resources,
        ulimits,
        sysctls,
        devices,
        gpus,
        cap_add,
        cap_drop,
        security_opt,
        no_new_privileges,
        privileged,
        read_only_root,
        logging,
        restart,
        healthcheck,
    } = doc;
    let name = match &name {
        Some(name) => checked(cx, name, path.key("name"), check_name),
        None => around.usual_name.clone(),
    };
    let words = |words: Vec<Str>| words.into_iter().map(|word| text(word, false)).collect();
    let (entrypoint, command) = (entrypoint.map(|line| words(line.value.0)), command.map(|line| words(line.value.0)));
    let env = variables::of_container(cx, env_files, env, env_file, path);
    let labels = self::labels(cx, labels, path.key("labels"));
    let mounts = mounts::resolve(cx, around, mounts, path);
    let ports = ports.map(|ports| ports::resolve(cx, ports.value.0, path.key("ports"))).unwrap_or_default();
    let process = settings::Process { user, group_add, working_dir, init, stop_signal, stop_timeout, ulimits, sysctls };
    let process = process.resolve(cx, path);
    let network = networks::Networking { hostname, domainname, dns, networks };
    let network = network.resolve(cx, around, &ports, path);
    let resources = settings::resources(cx, resources, path.key("resources"));
    let security = settings::Security {
        userns,
        cap_add,
        cap_drop,
        security_opt,
        no_new_privileges,
        privileged,
        read_only_root,
        devices,
        gpus,
    };
    let security = security.resolve(cx, path);
    let logging = settings::logging(cx, logging, path.key("logging"));
    let restart = restart.map(|At { value: RestartWord(policy), .. }| policy).unwrap_or_default();
    let add_hosts = add_hosts.map(|list| list.value.0).unwrap_or_default();
    let hosts_path = path.key("addHosts");
    let add_hosts = add_hosts
        .iter()
        .filter_map(|(index, host)| {
            checked(cx, host, hosts_path.index(*index), networks::check_host)?;
            Some(text(host.value.0.clone(), false))
        })
        .collect();
    let check = healthcheck.and_then(|check| health::resolve(cx, check, path.key("healthcheck")));
    let (healthcheck, no_healthcheck) = match check {
        Some(health::Check::Run(check)) => (Some(check), false),
        Some(health::Check::Off) => (None, true),
        None => (None, false),
    };
    let spec = ContainerSpec {
        name: name?,
        entrypoint,
        command,
        env,
        labels,
        mounts,
        hidden_ports: ports
            .iter()
            .filter(|(_, port)| port.value.from_env)
            .map(|(_, port)| port.value.port.clone())
            .collect(),
        ports: ports.iter().map(|(_, port)| port.value.port.clone()).collect(),
        restart,
        add_hosts,
        healthcheck,
        no_healthcheck,
        process,
        network,
        resources,
        security,
        logging,
    };
    Some((spec, ports))
}

fn labels(cx: &mut Cx<'_>, pairs: Option<At<Pairs>>, path: Path<'_>) -> BTreeMap<String, Text> {
    let mut labels = BTreeMap::new();
    for entry in pairs.map(|pairs| pairs.value.0.0).unwrap_or_default() {
        let wrong = if entry.name.is_empty() {
            Some("a label needs a name")
        } else if entry.name.starts_with(labels::PREFIX) {
            Some("labels that begin with `steadfast.` are ours")
        } else if entry.name.contains(['=', '\n']) {
            Some("a label's name has neither `=` nor a line break")
        } else {
            None
        };
        match wrong {
            Some(wrong) => cx.wrong(entry.key, path.key(&entry.name), wrong),
            None => drop(labels.insert(entry.name, text(entry.at.value.0, false))),
        }
    }
    labels
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
