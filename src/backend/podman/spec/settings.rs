//! The settings of a container as fields of libpod's body.

use serde_json::{Map, Value, json};

use crate::model::spec::{Attachment, Cpus, Memory, NetworkMode, Networking, Process, Resources, Security};

pub(super) fn of_process(process: &Process, body: &mut Value) {
    let Process { user, groups, working_dir, init, stop_signal, stop_timeout, ulimits, sysctls } = process;
    // Between the stop signal and KILL when somebody else stops the container, in seconds.
    body["stop_timeout"] = json!(stop_timeout.unwrap_or(Process::STOP_TIMEOUT).as_secs());
    if let Some(user) = user {
        body["user"] = json!(user);
    }
    if !groups.is_empty() {
        body["groups"] = json!(groups);
    }
    if let Some(directory) = working_dir {
        body["work_dir"] = json!(directory);
        // As `podman create --workdir` does.
        body["create_working_dir"] = json!(true);
    }
    if *init {
        body["init"] = json!(true);
    }
    if let Some(signal) = stop_signal {
        body["stop_signal"] = json!(signal.number());
    }
    if !ulimits.is_empty() {
        // Podman puts `RLIMIT_` before the type (4.3).
        let limit = |(name, limit): (&String, &crate::model::spec::Ulimit)| json!({ "type": name, "soft": limit.soft, "hard": limit.hard });
        body["r_limits"] = ulimits.iter().map(limit).collect();
    }
    if !sysctls.is_empty() {
        body["sysctl"] = json!(sysctls);
    }
}

pub(super) fn of_network(network: &Networking, body: &mut Value) {
    let Networking { hostname, dns, mode } = network;
    if let Some(hostname) = hostname {
        body["hostname"] = json!(hostname);
    }
    if !dns.is_empty() {
        body["dns_server"] = json!(dns);
    }
    match mode {
        NetworkMode::Usual => {}
        NetworkMode::None => body["netns"] = json!({ "nsmode": "none" }),
        NetworkMode::Host => body["netns"] = json!({ "nsmode": "host" }),
        NetworkMode::Networks(networks) => {
            body["netns"] = json!({ "nsmode": "bridge" });
            let attached = |(name, Attachment { aliases, ip }): (&String, &Attachment)| {
                let mut options = Map::new();
                if !aliases.is_empty() {
                    options.insert("aliases".to_owned(), json!(aliases));
                }
                if let Some(ip) = ip {
                    options.insert("static_ips".to_owned(), json!([ip]));
                }
                (name.clone(), Value::Object(options))
            };
            body["Networks"] = Value::Object(networks.iter().map(attached).collect());
        }
    }
}

pub(super) fn of_resources(resources: &Resources, body: &mut Value) {
    if let Some(shm) = resources.shm {
        body["shm_size"] = json!(shm);
    }
    let limits = limits(resources);
    if !limits.is_empty() {
        body["resource_limits"] = Value::Object(limits);
    }
}

/// What may also be changed while the container runs: the runtime specification's `LinuxResources`.
fn limits(resources: &Resources) -> Map<String, Value> {
    let Resources { cpus, cpuset, memory: memory_limits @ Memory { limit, swap: _ }, pids, shm: _ } = resources;
    let mut limits = Map::new();
    let mut cpu = Map::new();
    if let Some(cpus) = cpus {
        cpu.insert("period".to_owned(), json!(Cpus::PERIOD_US));
        cpu.insert("quota".to_owned(), json!(cpus.quota_us()));
    }
    if let Some(cpuset) = cpuset {
        cpu.insert("cpus".to_owned(), json!(cpuset));
    }
    if !cpu.is_empty() {
        limits.insert("cpu".to_owned(), Value::Object(cpu));
    }
    let mut memory = Map::new();
    if let Some(limit) = limit {
        memory.insert("limit".to_owned(), json!(limit));
    }
    match memory_limits.swap_or_twice() {
        Some(u64::MAX) => drop(memory.insert("swap".to_owned(), json!(-1))),
        Some(swap) => drop(memory.insert("swap".to_owned(), json!(swap))),
        None => {}
    }
    if !memory.is_empty() {
        limits.insert("memory".to_owned(), Value::Object(memory));
    }
    if let Some(pids) = pids {
        let pids = if *pids == i64::MAX { -1 } else { *pids };
        limits.insert("pids".to_owned(), json!({ "limit": pids }));
    }
    limits
}

pub(super) fn of_security(security: &Security, body: &mut Value) {
    let Security { userns, cap_add, cap_drop, options, no_new_privileges, privileged, read_only_root, devices } =
        security;
    if let Some(userns) = userns {
        let (mode, value) = userns.split_once(':').unwrap_or((userns, ""));
        body["userns"] = json!({ "nsmode": mode, "value": value });
        if mode == "auto" {
            body["idmappings"] = json!({ "AutoUserNs": true });
        }
    }
    let capability = |name: &String| if name == "ALL" { name.clone() } else { format!("CAP_{name}") };
    if !cap_add.is_empty() {
        body["cap_add"] = cap_add.iter().map(capability).collect();
    }
    if !cap_drop.is_empty() {
        body["cap_drop"] = cap_drop.iter().map(capability).collect();
    }
    if *no_new_privileges {
        body["no_new_privileges"] = json!(true);
    }
    if *privileged {
        body["privileged"] = json!(true);
    }
    if *read_only_root {
        body["read_only_filesystem"] = json!(true);
    }
    if !devices.is_empty() {
        body["devices"] = devices.iter().map(|device| json!({ "path": device })).collect();
    }
    security_options(options, body);
}

/// What the command line makes of `--security-opt` (Podman 4.3 to 5).
fn security_options(options: &[String], body: &mut Value) {
    let (mut labels, mut masked, mut unmasked, mut proc) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for option in options {
        match option.split_once('=') {
            Some(("label", value)) => labels.push(value),
            Some(("seccomp", value)) => body["seccomp_profile_path"] = json!(value),
            Some(("apparmor", value)) => body["apparmor_profile"] = json!(value),
            Some(("mask", value)) => masked.extend(value.split(':')),
            Some(("unmask", value)) if value.eq_ignore_ascii_case("all") => unmasked.push("ALL"),
            Some(("unmask", value)) => unmasked.extend(value.split(':')),
            Some(("proc-opts", value)) => proc.extend(value.split(',')),
            // Checked where it was read.
            _ => {}
        }
    }
    let mut annotations = Map::new();
    let mut annotate =
        |name: &str, value: String| annotations.insert(format!("io.podman.annotations.{name}"), json!(value));
    if !labels.is_empty() {
        annotate("label", labels.join(",label="));
    }
    for option in options {
        if let Some((name @ ("seccomp" | "apparmor"), value)) = option.split_once('=') {
            annotate(name, value.to_owned());
        }
    }
    if !annotations.is_empty() {
        // What an inspection shows of them.
        body["annotations"] = Value::Object(annotations);
    }
    for (field, values) in [("selinux_opts", labels), ("mask", masked), ("unmask", unmasked), ("procfs_opts", proc)] {
        if !values.is_empty() {
            body[field] = json!(values);
        }
    }
}
