//! A [`Create`] as the body of libpod's `POST /containers/create`.
//!
//! Libpod's own body rather than Docker's: it refuses a bind source that does not exist where Docker's makes an empty
//! directory of root's (Podman 4.3), and rootless it sets up the network as `podman run` does.

use serde_json::{Map, Value, json};

use super::secrets::Secrets;
use crate::model::{Create, HealthCheck, HealthTest, Mount, Port, Text};

/// Seconds between the stop signal and KILL when somebody else stops the container.
pub(super) const STOP_TIMEOUT: u64 = 10;

/// What an address in `add_hosts` says to mean the machine Podman runs on.
pub(super) const HOST_GATEWAY: &str = "host-gateway";
/// The name Podman gives that machine by itself, in every container (4.1 and later).
const BUILT_IN_HOST: &str = "host.containers.internal";

/// Whether an address has to be put in the place of `host-gateway`.
pub(super) fn needs_gateway(create: &Create) -> bool {
    create
        .spec
        .add_hosts
        .iter()
        .filter_map(|line| split_host(line.expose()))
        .any(|(host, address)| address == HOST_GATEWAY && host != BUILT_IN_HOST)
}

/// Every value in it that must not be shown.
pub(super) fn secrets(create: &Create) -> Secrets {
    let spec = &create.spec;
    let test = spec.healthcheck.iter().flat_map(|check| match &check.test {
        HealthTest::Command(words) => words.as_slice(),
        HealthTest::Shell(line) => std::slice::from_ref(line),
    });
    let texts = spec
        .env
        .values()
        .chain(spec.command.iter().flatten())
        .chain(spec.mounts.iter().map(|mount| &mount.source))
        .chain(&spec.add_hosts)
        .chain(test);
    // Podman complains about an address without the host before it.
    let addresses =
        spec.add_hosts.iter().filter(|line| line.is_sensitive()).filter_map(|line| split_host(line.expose()));
    let addresses = addresses.map(|(_, address)| address).filter(|address| *address != HOST_GATEWAY);
    Secrets::new(texts.filter(|text| text.is_sensitive()).map(Text::expose).chain(addresses))
}

/// The body. `gateway` stands in for `host-gateway`.
pub(super) fn body(create: &Create, gateway: Option<&str>) -> Value {
    let spec = &create.spec;
    let env: Map<String, Value> = spec.env.iter().map(|(name, value)| (name.clone(), json!(value.expose()))).collect();
    let mut body = json!({
        "name": create.name.as_str(),
        "image": create.image_word(),
        "labels": create.labels,
        "env": env,
        "mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "portmappings": spec.ports.iter().map(port).collect::<Vec<_>>(),
        "restart_policy": spec.restart.as_str(),
        "hostadd": spec.add_hosts.iter().filter_map(|line| host_line(line.expose(), gateway)).collect::<Vec<_>>(),
        "stop_timeout": STOP_TIMEOUT,
    });
    if let Some(command) = &spec.command {
        body["command"] = command.iter().map(|word| json!(word.expose())).collect();
    }
    if let Some(check) = &spec.healthcheck {
        body["healthconfig"] = healthcheck(check);
    }
    body
}

fn mount(mount: &Mount) -> Value {
    let access = if mount.read_only { "ro" } else { "rw" };
    json!({
        "type": "bind",
        "source": mount.source.expose(),
        "destination": mount.target,
        "options": ["rbind", access],
    })
}

fn port(port: &Port) -> Value {
    json!({
        // Podman understands an empty address as every address, IPv6 included where the network has it.
        "host_ip": if port.host_ip == "0.0.0.0" { "" } else { &port.host_ip },
        "host_port": port.host_port,
        "container_port": port.container_port,
        "protocol": port.protocol.to_string(),
    })
}

/// Durations in nanoseconds, under the names of Docker's image format.
fn healthcheck(check: &HealthCheck) -> Value {
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "Test": check.test.words().iter().map(Text::expose).collect::<Vec<_>>(),
        "Interval": nanos(check.interval),
        "Timeout": nanos(check.timeout),
        "Retries": check.retries,
        "StartPeriod": nanos(check.start_period),
    })
}

/// `host:address`; an IPv6 address has colons of its own, a host has none.
fn split_host(line: &str) -> Option<(&str, &str)> {
    line.split_once(':')
}

/// The line for Podman; `None` where Podman writes it by itself. 4.3 would put the word `host-gateway` into `/etc/hosts`.
pub(super) fn host_line(line: &str, gateway: Option<&str>) -> Option<String> {
    match (split_host(line), gateway) {
        (Some((BUILT_IN_HOST, HOST_GATEWAY)), _) => None,
        (Some((host, HOST_GATEWAY)), Some(gateway)) => Some(format!("{host}:{gateway}")),
        _ => Some(line.to_owned()),
    }
}
