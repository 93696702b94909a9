//! The settings of a container as words of `podman create`.

use super::Words;
use crate::model::spec::{Attachment, Cpus, Logging, Memory, NetworkMode, Networking, Process, Resources, Security};

pub(super) fn of_process(process: &Process, words: &mut Words) {
    let Process { user, groups, working_dir, init, stop_signal, stop_timeout, ulimits, sysctls } = process;
    words.pair("--stop-timeout", stop_timeout.unwrap_or(Process::STOP_TIMEOUT).as_secs().to_string());
    if let Some(user) = user {
        words.pair("--user", user);
    }
    for group in groups {
        words.pair("--group-add", group);
    }
    if let Some(directory) = working_dir {
        words.pair("--workdir", directory);
    }
    if *init {
        words.add(["--init"]);
    }
    if let Some(signal) = stop_signal {
        words.pair("--stop-signal", signal.number().to_string());
    }
    for (name, limit) in ulimits {
        words.pair("--ulimit", format!("{name}={limit}"));
    }
    for (name, value) in sysctls {
        words.pair("--sysctl", format!("{name}={value}"));
    }
}

pub(super) fn of_network(network: &Networking, words: &mut Words) {
    let Networking { hostname, dns, mode } = network;
    if let Some(hostname) = hostname {
        words.pair("--hostname", hostname);
    }
    for server in dns {
        words.pair("--dns", server.to_string());
    }
    match mode {
        NetworkMode::Usual => {}
        NetworkMode::None => words.pair("--network", "none"),
        NetworkMode::Host => words.pair("--network", "host"),
        NetworkMode::Networks(networks) => {
            for (name, Attachment { aliases, ip }) in networks {
                let options = aliases.iter().map(|alias| format!("alias={alias}"));
                let options: Vec<_> = options.chain(ip.iter().map(|ip| format!("ip={ip}"))).collect();
                let colon = if options.is_empty() { "" } else { ":" };
                words.pair("--network", format!("{name}{colon}{}", options.join(",")));
            }
        }
    }
}

pub(super) fn of_resources(resources: &Resources, words: &mut Words) {
    limits(resources, words);
    if let Some(shm) = resources.shm {
        words.pair("--shm-size", format!("{shm}b"));
    }
}

/// What may also be changed while the container runs.
fn limits(resources: &Resources, words: &mut Words) {
    let Resources { cpus, cpuset, memory: memory @ Memory { limit, swap: _ }, pids, shm: _ } = resources;
    if let Some(cpus) = cpus {
        words.pair("--cpu-period", Cpus::PERIOD_US.to_string());
        words.pair("--cpu-quota", cpus.quota_us().to_string());
    }
    if let Some(cpuset) = cpuset {
        words.pair("--cpuset-cpus", cpuset);
    }
    if let Some(limit) = limit {
        words.pair("--memory", format!("{limit}b"));
    }
    match memory.swap_or_twice() {
        Some(u64::MAX) => words.pair("--memory-swap", "-1"),
        Some(swap) => words.pair("--memory-swap", format!("{swap}b")),
        None => {}
    }
    if let Some(pids) = pids {
        words.pair("--pids-limit", if *pids == i64::MAX { "-1".to_owned() } else { pids.to_string() });
    }
}

pub(super) fn of_security(security: &Security, words: &mut Words) {
    let Security { userns, cap_add, cap_drop, options, no_new_privileges, privileged, read_only_root, devices } =
        security;
    if let Some(userns) = userns {
        words.pair("--userns", userns);
    }
    for name in cap_add {
        words.pair("--cap-add", name);
    }
    for name in cap_drop {
        words.pair("--cap-drop", name);
    }
    for option in options {
        words.pair("--security-opt", option);
    }
    if *no_new_privileges {
        words.add(["--security-opt", "no-new-privileges"]);
    }
    if *privileged {
        words.add(["--privileged"]);
    }
    if *read_only_root {
        // As the API has it: nothing is mounted by itself.
        words.add(["--read-only", "--read-only-tmpfs=false"]);
    }
    for device in devices {
        words.pair("--device", device);
    }
}

pub(super) fn of_logging(logging: Logging, words: &mut Words) {
    if let Some(driver) = logging.driver {
        words.pair("--log-driver", driver.as_str());
    }
    if let Some(size) = logging.bound() {
        words.pair("--log-opt", format!("max-size={size}b"));
    }
}
