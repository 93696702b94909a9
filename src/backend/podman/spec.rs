//! A [`Create`] as the body of libpod's `POST /containers/create`.
//!
//! Libpod's own body rather than Docker's: it refuses a bind source that does not exist where Docker's makes an empty
//! directory of root's (Podman 4.3), and rootless it sets up the network as `podman run` does.

use serde_json::{Map, Value, json};

use crate::backend::{EngineError, EngineErrorKind};
use crate::model::spec::{HOST_GATEWAY, split_host};
use crate::model::{ContainerSpec, Create, HealthCheck, Mount, NO_CHECK, Port, Text, Volume};

/// Seconds between the stop signal and KILL when somebody else stops the container.
pub(super) const STOP_TIMEOUT: u64 = 10;

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
        command,
        env,
        mounts,
        ports,
        hidden_ports: _,
        restart,
        add_hosts,
        healthcheck,
        no_healthcheck,
    } = spec;
    let env: Map<String, Value> = env.iter().map(|(name, value)| (name.clone(), json!(value.expose()))).collect();
    let mut body = json!({
        "name": name.as_str(),
        "image": create.image_word(),
        "labels": labels,
        "env": env,
        "mounts": mounts.iter().map(mount).collect::<Vec<_>>(),
        "volumes": volumes.iter().map(volume).collect::<Vec<_>>(),
        "portmappings": ports.iter().map(port).collect::<Vec<_>>(),
        "restart_policy": restart.as_str(),
        "hostadd": add_hosts.iter().filter_map(|line| host_line(line.expose(), gateway)).collect::<Vec<_>>(),
        "stop_timeout": STOP_TIMEOUT,
    });
    if let Some(command) = command {
        body["command"] = command.iter().map(|word| json!(word.expose())).collect();
    }
    if let Some(entrypoint) = entrypoint {
        body["entrypoint"] = json!(entrypoint);
    }
    if *no_healthcheck {
        body["healthconfig"] = json!({"Test": [NO_CHECK]});
    }
    if let Some(check) = healthcheck {
        body["healthconfig"] = health_config(check);
    }
    body
}

/// Whether the container is to run the image's entrypoint without any argument: `command: []`.
///
/// An empty command means the image's own to Podman (4.3 to 5), unless the entrypoint is given as well. So that of the image
/// is asked for and given.
pub(super) fn lacks_arguments(create: &Create) -> bool {
    create.spec.command.as_ref().is_some_and(Vec::is_empty)
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

fn mount(Mount { source, target, read_only }: &Mount) -> Value {
    let access = if *read_only { "ro" } else { "rw" };
    json!({
        "type": "bind",
        "source": source.expose(),
        "destination": target.expose(),
        "options": ["rbind", access],
    })
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
fn health_config(HealthCheck { test, interval, timeout, retries, start_period }: &HealthCheck) -> Value {
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
    use crate::model::{ContainerName, ImageRef, RestartPolicy};

    fn create(command: Option<Vec<Text>>) -> Create {
        let spec = ContainerSpec {
            name: ContainerName::new("demo-a").unwrap(),
            command,
            env: Default::default(),
            mounts: Vec::new(),
            ports: Vec::new(),
            restart: RestartPolicy::No,
            add_hosts: Vec::new(),
            healthcheck: None,
            no_healthcheck: false,
            hidden_ports: Default::default(),
        };
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
