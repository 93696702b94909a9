//! A [`Create`] as the body of libpod's `POST /containers/create`.
//!
//! Libpod's own body rather than Docker's: it refuses a bind source that does not exist where Docker's makes an empty
//! directory of root's (Podman 4.3), and rootless it sets up the network as `podman run` does.

mod settings;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::backend::{EngineError, EngineErrorKind};
use crate::model::spec::{HOST_GATEWAY, split_host};
use crate::model::spec::{Logging, MountSource, Propagation, Relabel};
use crate::model::{ContainerSpec, Create, HealthCheck, Mount, NO_CHECK, Port, RestartPolicy, Text, Volume};

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

/// The body. `gateway` stands in for `host-gateway`; `entrypoint` is the image's, where it has to be given.
pub(super) fn body(create: &Create, gateway: Option<&str>, entrypoint: Option<&[String]>) -> Value {
    let Create { name, image: _, image_id: _, spec, labels, volumes } = create;
    let ContainerSpec {
        // Not during a replacement: then it is another.
        name: _,
        // With that of the image, where it has to be given: `entrypoint`.
        entrypoint: _,
        command,
        env,
        labels: own_labels,
        mounts,
        ports,
        hidden_ports: _,
        restart,
        add_hosts,
        healthcheck,
        no_healthcheck,
        process,
        network,
        resources,
        security,
        logging,
    } = spec;
    let own_labels = own_labels.iter().map(|(name, value)| (name.as_str(), value.expose()));
    let labels: BTreeMap<_, _> =
        own_labels.chain(labels.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect();
    let env: Map<String, Value> = env.iter().map(|(name, value)| (name.clone(), json!(value.expose()))).collect();
    let mut body = json!({
        "name": name.as_str(),
        "image": create.image_word(),
        "labels": labels,
        "env": env,
        "mounts": mounts.iter().filter_map(mount).collect::<Vec<_>>(),
        "volumes": volumes.iter().map(volume).chain(mounts.iter().filter_map(named_volume)).collect::<Vec<_>>(),
        "portmappings": ports.iter().map(port).collect::<Vec<_>>(),
        "restart_policy": restart.as_str(),
        "hostadd": add_hosts.iter().filter_map(|line| host_line(line.expose(), gateway)).collect::<Vec<_>>(),
        "log_configuration": log_configuration(*logging),
    });
    if let Some(command) = command {
        body["command"] = command.iter().map(|word| json!(word.expose())).collect();
    }
    if let Some(entrypoint) = entrypoint {
        body["entrypoint"] = json!(entrypoint);
    }
    if let RestartPolicy::OnFailureAtMost(tries) = restart {
        body["restart_tries"] = json!(tries);
    }
    settings::of_process(process, &mut body);
    settings::of_network(network, &mut body);
    settings::of_resources(resources, &mut body);
    settings::of_security(security, &mut body);
    if *no_healthcheck {
        body["healthconfig"] = json!({"Test": [NO_CHECK]});
    }
    if let Some(check) = healthcheck {
        body["healthconfig"] = health_config(check);
    }
    body
}

/// The entrypoint of the state file, as Podman is given it.
pub(super) fn own_entrypoint(create: &Create) -> Option<Vec<String>> {
    let words = create.spec.entrypoint.as_ref()?;
    Some(words.iter().map(|word| word.expose().to_owned()).collect())
}

/// Whether the container is to run the image's entrypoint without any argument: `command: []`.
///
/// An empty command means the image's own to Podman (4.3 to 5), unless the entrypoint is given as well. So that of the image
/// is asked for and given.
pub(super) fn lacks_arguments(create: &Create) -> bool {
    create.spec.entrypoint.is_none() && create.spec.command.as_ref().is_some_and(Vec::is_empty)
}

/// The entrypoint of an inspected image. An image without one would run nothing at all.
pub(super) fn entrypoint(create: &Create, image: Option<&Value>) -> Result<Vec<String>, EngineError> {
    let what = format!("failed to create container `{}`", create.name);
    let Some(image) = image else {
        return Err(EngineError::new(
            EngineErrorKind::NotFound,
            format!("{what}: there is no image `{}`", create.image),
        ));
    };
    let words = image.pointer("/Config/Entrypoint").and_then(Value::as_array).into_iter().flatten();
    let words: Vec<_> = words.filter_map(Value::as_str).map(str::to_owned).collect();
    if words.iter().all(String::is_empty) {
        let why = format!(
            "image `{}` has no entrypoint, so the empty `command: []` leaves nothing to run; name a program in `command`, \
             or leave the field out for the image's own command",
            create.image
        );
        return Err(EngineError::new(EngineErrorKind::ApiError, format!("{what}: {why}")));
    }
    Ok(words)
}

/// A mount of what is no volume.
fn mount(mount: &Mount) -> Option<Value> {
    let (kind, source, first) = match &mount.source {
        MountSource::Bind(source) => ("bind", source.expose(), vec!["rbind".to_owned()]),
        MountSource::Tmpfs { size, mode } => {
            let size = size.map(|size| format!("size={size}"));
            ("tmpfs", "tmpfs", size.into_iter().chain(mode.map(|mode| format!("mode={mode:o}"))).collect())
        }
        MountSource::Volume(_) => return None,
    };
    let options: Vec<_> = first.into_iter().chain(mount_options(mount)).collect();
    Some(json!({ "type": kind, "source": source, "destination": mount.target.expose(), "options": options }))
}

fn named_volume(mount: &Mount) -> Option<Value> {
    let MountSource::Volume(name) = &mount.source else { return None };
    let options: Vec<_> = mount_options(mount).collect();
    Some(json!({ "Name": name, "Dest": mount.target.expose(), "Options": options }))
}

/// The options that a mount may have whatever it mounts.
fn mount_options(mount: &Mount) -> impl Iterator<Item = String> {
    let Mount { source: _, target: _, read_only, selinux, propagation, idmap } = mount;
    let access = if *read_only { "ro" } else { "rw" };
    [Some(access), selinux.map(Relabel::as_str), propagation.map(Propagation::as_str), idmap.then_some("idmap")]
        .into_iter()
        .flatten()
        .map(str::to_owned)
}

fn log_configuration(logging: Logging) -> Value {
    let mut config = Map::new();
    if let Some(driver) = logging.driver {
        config.insert("driver".to_owned(), json!(driver.as_str()));
    }
    if let Some(size) = logging.bound() {
        config.insert("size".to_owned(), json!(size));
    }
    Value::Object(config)
}

/// By its name: so it is the container's as any other volume is, and goes with none that is removed.
fn volume(volume: &Volume) -> Value {
    let access = if volume.read_only { "ro" } else { "rw" };
    json!({ "Name": volume.name, "Dest": volume.target, "Options": [access] })
}

fn port(Port { host_ip, host_port, container_port, protocol }: &Port) -> Value {
    json!({
        // Podman understands an empty address as every address, IPv6 included where the network has it.
        "host_ip": if host_ip == "0.0.0.0" { "" } else { host_ip },
        "host_port": host_port,
        "container_port": container_port,
        "protocol": protocol.to_string(),
    })
}

/// Durations in nanoseconds, under the names of Docker's image format.
fn health_config(check: &HealthCheck) -> Value {
    // What is done at its start and once it failed is ours.
    let HealthCheck { test, interval, timeout, retries, start_period, start_interval: _, on_failure: _ } = check;
    let nanos = |duration: &std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "Test": test.words().iter().map(Text::expose).collect::<Vec<_>>(),
        "Interval": nanos(interval),
        "Timeout": nanos(timeout),
        "Retries": retries,
        "StartPeriod": nanos(start_period),
    })
}

/// The line for Podman; `None` where Podman writes it by itself. 4.3 would put the word `host-gateway` into `/etc/hosts`.
pub(super) fn host_line(line: &str, gateway: Option<&str>) -> Option<String> {
    match (split_host(line), gateway) {
        (Some((BUILT_IN_HOST, HOST_GATEWAY)), _) => None,
        (Some((host, HOST_GATEWAY)), Some(gateway)) => Some(format!("{host}:{gateway}")),
        _ => Some(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerName, ImageRef};

    fn create(command: Option<Vec<Text>>) -> Create {
        let name = ContainerName::new("demo-a").unwrap();
        let spec = ContainerSpec { command, restart: RestartPolicy::No, ..ContainerSpec::new(name) };
        let image = ImageRef::new("localhost/talk:1").unwrap();
        Create { name: spec.name.clone(), image, image_id: None, spec, labels: Default::default(), volumes: Vec::new() }
    }

    #[test]
    fn an_empty_command_needs_the_images_entrypoint() {
        assert!(!lacks_arguments(&create(None)) && !lacks_arguments(&create(Some(vec![Text::plain("a")]))));
        let empty = create(Some(Vec::new()));
        assert!(lacks_arguments(&empty));
        let image = json!({"Config": {"Entrypoint": ["echo", "arguments:"], "Cmd": ["of", "the", "image"]}});
        let words = entrypoint(&empty, Some(&image)).unwrap();
        assert_eq!(body(&empty, None, Some(&words))["entrypoint"], json!(["echo", "arguments:"]));
        assert_eq!(body(&create(None), None, None).get("entrypoint"), None);
        for image in [json!({"Config": {"Cmd": ["sh"]}}), json!({"Config": {"Entrypoint": null}}), json!({})] {
            let err = entrypoint(&empty, Some(&image)).unwrap_err();
            assert!(err.message.contains("image `localhost/talk:1` has no entrypoint"), "{err}");
        }
        assert_eq!(entrypoint(&empty, None).unwrap_err().kind, EngineErrorKind::NotFound);
    }
}
