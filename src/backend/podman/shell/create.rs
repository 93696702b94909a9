//! A [`Create`] as the words of `podman create`: the same container as [`super::super::spec`] asks for.

mod settings;

use super::script::{self, Variables};
use crate::backend::podman::spec;
use crate::model::spec::{MountSource, Relabel};
use crate::model::{ContainerSpec, Create, HealthCheck, HealthTest, Mount, Port, Text, Volume};

/// The script that makes it. `gateway` stands in for `host-gateway`; `entrypoint` is the image's, where it has to be given.
pub(super) fn script(create: &Create, gateway: Option<&str>, entrypoint: Option<&[String]>) -> Result<String, String> {
    let variables = Variables::new(create.spec.env.iter().map(|(name, value)| (name.as_str(), value.expose())))?;
    script::podman("", "create", &variables, words(create, gateway, entrypoint))
}

/// All but the variables.
pub(super) fn words(create: &Create, gateway: Option<&str>, entrypoint: Option<&[String]>) -> Vec<String> {
    let Create { name, image: _, image_id: _, spec, labels, volumes } = create;
    let ContainerSpec {
        // Not during a replacement: then it is another.
        name: _,
        // With that of the image, where it has to be given: `entrypoint`.
        entrypoint: _,
        command,
        // In `script`: values never become arguments.
        env: _,
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
    let mut words = Words::default();
    // The command line's own habits that the API does not have: pulling, and the proxies of Podman's environment.
    words.add(["--pull=never", "--http-proxy=false"]);
    words.pair("--name", name.as_str());
    for (name, value) in own_labels.iter().map(|(name, value)| (name, value.expose())) {
        words.pair("--label", format!("{name}={value}"));
    }
    for (name, value) in labels {
        words.pair("--label", format!("{name}={value}"));
    }
    for mount in mounts {
        words.pair("--mount", mount_words(mount));
    }
    for volume in volumes {
        words.pair("--mount", volume_words(volume));
    }
    for port in ports {
        words.pair("--publish", port_words(port));
    }
    words.pair("--restart", restart.to_string());
    for line in add_hosts.iter().filter_map(|line| spec::host_line(line.expose(), gateway)) {
        words.pair("--add-host", line);
    }
    if let Some(entrypoint) = entrypoint {
        words.pair("--entrypoint", serde_json::json!(entrypoint).to_string());
    }
    if *no_healthcheck {
        words.add(["--no-healthcheck"]);
    }
    if let Some(check) = healthcheck {
        health_words(check, &mut words);
    }
    settings::of_process(process, &mut words);
    settings::of_network(network, &mut words);
    settings::of_resources(resources, &mut words);
    settings::of_security(security, &mut words);
    settings::of_logging(*logging, &mut words);
    words.add(["--", create.image_word()]);
    words.add(command.iter().flatten().map(Text::expose));
    words.0
}

#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn add<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.0.extend(words.into_iter().map(str::to_owned));
    }

    fn pair(&mut self, flag: &str, value: impl AsRef<str>) {
        self.0.extend([flag.to_owned(), value.as_ref().to_owned()]);
    }
}

/// Podman reads it as a line of CSV.
fn mount_words(mount: &Mount) -> String {
    let Mount { source, target, read_only, selinux, propagation, idmap } = mount;
    let fields = match source {
        MountSource::Bind(source) => vec!["type=bind".to_owned(), format!("source={}", source.expose())],
        MountSource::Volume(name) => vec!["type=volume".to_owned(), format!("source={name}")],
        MountSource::Tmpfs { size, mode } => {
            let mut fields = vec!["type=tmpfs".to_owned()];
            fields.extend(size.map(|size| format!("tmpfs-size={size}")));
            fields.extend(mode.map(|mode| format!("tmpfs-mode={mode:o}")));
            fields
        }
    };
    let is_volume = matches!(source, MountSource::Volume(_));
    let access = match (is_volume || matches!(source, MountSource::Tmpfs { .. }), read_only) {
        // Of what is no bind mount, Podman 4.3 takes `ro=false` for `ro`.
        (true, true) => "ro",
        (true, false) => "rw",
        (false, true) => "ro=true",
        (false, false) => "ro=false",
    };
    let options = [
        Some(format!("destination={}", target.expose())),
        Some(access.to_owned()),
        selinux
            .map(|relabel| if is_volume { relabel.as_str().to_owned() } else { format!("relabel={}", word(relabel)) }),
        propagation.map(|propagation| format!("bind-propagation={}", propagation.as_str())),
        idmap.then(|| "idmap".to_owned()),
    ];
    fields.into_iter().chain(options.into_iter().flatten()).map(|field| csv(&field)).collect::<Vec<_>>().join(",")
}

/// What `--mount` calls it.
fn word(relabel: Relabel) -> &'static str {
    match relabel {
        Relabel::Shared => "shared",
        Relabel::Private => "private",
    }
}

/// Of a volume, Podman 4.3 takes `ro=false` for `ro`.
fn volume_words(volume: &Volume) -> String {
    let access = if volume.read_only { "ro" } else { "rw" };
    let fields = [
        "type=volume".to_owned(),
        format!("source={}", volume.name),
        format!("destination={}", volume.target),
        access.to_owned(),
    ];
    fields.map(|field| csv(&field)).join(",")
}

fn csv(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// Podman understands no address as every address, IPv6 included where the network has it.
fn port_words(Port { host_ip, host_port, container_port, protocol }: &Port) -> String {
    // Without a number, Podman chooses.
    let host_port = if *host_port == 0 { String::new() } else { host_port.to_string() };
    let rest = match (host_ip.as_str(), host_port.as_str()) {
        ("" | "0.0.0.0", "") => format!("{container_port}/{protocol}"),
        _ => format!("{host_port}:{container_port}/{protocol}"),
    };
    match host_ip.as_str() {
        "" | "0.0.0.0" => rest,
        address if address.contains(':') => format!("[{address}]:{rest}"),
        address => format!("{address}:{rest}"),
    }
}

fn health_words(check: &HealthCheck, words: &mut Words) {
    // What is done at its start and once it failed is ours.
    let HealthCheck { test, interval, timeout, retries, start_period, start_interval: _, on_failure: _ } = check;
    let nanos = |duration: &std::time::Duration| format!("{}ns", duration.as_nanos().min(i64::MAX as u128));
    words.pair("--health-cmd", health_test(test));
    words.pair("--health-interval", nanos(interval));
    words.pair("--health-timeout", nanos(timeout));
    words.pair("--health-retries", retries.to_string());
    words.pair("--health-start-period", nanos(start_period));
}

/// In the form that Podman keeps as it is: a JSON array, to which it adds `CMD` by itself unless the first word is
/// `CMD-SHELL`. An array of one word would go to a shell (4.3.1).
fn health_test(test: &HealthTest) -> String {
    match test {
        HealthTest::Shell(line) => serde_json::json!(["CMD-SHELL", line.expose()]).to_string(),
        HealthTest::Command(words) => match words.as_slice() {
            [word] if !word.expose().contains(char::is_whitespace) => format!("CMD {}", word.expose()),
            [word] => serde_json::json!(["CMD-SHELL", script::quote(word.expose())]).to_string(),
            words => serde_json::json!(words.iter().map(Text::expose).collect::<Vec<_>>()).to_string(),
        },
    }
}
