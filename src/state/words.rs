//! What people probably mean by a field that is not known: other tools' words, and slips of the pen.
//!
//! A field is only suggested where it means the same. What has no counterpart here is said to have none, so that nobody is
//! sent to something else that happens to look alike.

use super::decode::near;

/// Fields of an agent's `container`.
const CONTAINER: [&str; 34] = [
    "name",
    "entrypoint",
    "command",
    "user",
    "groupAdd",
    "workingDir",
    "hostname",
    "domainname",
    "userns",
    "env",
    "envFile",
    "labels",
    "init",
    "stopSignal",
    "stopTimeout",
    "mounts",
    "ports",
    "networks",
    "dns",
    "addHosts",
    "resources",
    "ulimits",
    "sysctls",
    "devices",
    "gpus",
    "capAdd",
    "capDrop",
    "securityOpt",
    "noNewPrivileges",
    "privileged",
    "readOnlyRoot",
    "logging",
    "restart",
    "healthcheck",
];
/// Fields of an agent that `container` does not have.
const AGENT: [&str; 12] = [
    "from",
    "count",
    "version",
    "image",
    "source",
    "artifact",
    "arches",
    "sha256",
    "state",
    "suspend",
    "workspaces",
    "sessions",
];

/// The way out for the unknown field `text` where `known` are the fields; `None` when there is nothing better than to list
/// them.
pub(super) fn help(text: &str, known: &[&str]) -> Option<String> {
    let here = |word: &str| known.contains(&word);
    let of_container = here("restart") && here("mounts");
    let of_agent = here("version") && here("container");
    if (of_container || of_agent)
        && let Some(help) = special(text)
    {
        return Some(help.to_owned());
    }
    let translated = if of_container { in_container(text) } else { None }.or_else(|| elsewhere(text));
    if let Some(word) = translated.filter(|word| here(word)) {
        return Some(format!("did you mean `{word}`?"));
    }
    // The right field in the wrong mapping.
    let word = if AGENT.contains(&text) { text } else { translated.unwrap_or(text) };
    if of_agent && word != "name" && CONTAINER.contains(&word) {
        return Some(format!("`{word}` stands under `container`, a level below"));
    }
    if of_container && AGENT.contains(&word) {
        return Some(format!("`{word}` stands beside `container`, a level above"));
    }
    if LACKING.contains(&text) {
        return Some(format!("`{text}` cannot be set; {}", list(known)));
    }
    near(text, known.iter().copied()).map(|word| format!("did you mean `{word}`?"))
}

fn list(known: &[&str]) -> String {
    let known = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    format!("known here: {known}")
}

/// What takes more than a word to say.
fn special(word: &str) -> Option<&'static str> {
    Some(match word {
        "volumes" | "volume" | "binds" => {
            "write `mounts`, like `mounts: [{source: ./data, target: /data, readOnly: true}, {volume: data, target: /cache}]`; \
             the volumes themselves stand under `volumes` at the top of the file"
        }
        "tmpfs" => "write it under `mounts`, like `mounts: [{tmpfs: true, target: /tmp, size: 64MiB}]`",
        "cpus" | "cpuset" | "memory" | "mem_limit" | "memswap_limit" | "pids_limit" | "shm_size" | "deploy" => {
            "write it under `resources`, like `resources: {cpus: 1.5, memory: 2GiB, pids: 512, shm: 1GiB, cpuset: \"0-1\"}`"
        }
        "network_mode" | "network" => "write `networks: none`, `networks: host`, or `networks: [NAME]`",
        "volumeMounts" => {
            "directories and files of the host stand under `mounts`, like `mounts: [{source: /srv/data, target: /data}]`"
        }
        _ => return None,
    })
}

/// Our word for what Compose files, Kubernetes and `podman run` call differently, where it is another in a container than in what
/// stands in it.
fn in_container(word: &str) -> Option<&'static str> {
    Some(match word {
        "workdir" | "cwd" | "dir" => "workingDir",
        "read_only" | "readOnly" | "readonly" | "readOnlyRootFilesystem" => "readOnlyRoot",
        "stop_grace_period" | "terminationGracePeriodSeconds" => "stopTimeout",
        "userns_mode" => "userns",
        "log" | "log_driver" => "logging",
        _ => return None,
    })
}

/// Our word for what Compose files, Kubernetes and `podman run` call differently.
fn elsewhere(word: &str) -> Option<&'static str> {
    Some(match word {
        "environment" | "environments" | "variables" => "env",
        "extra_hosts" | "extraHosts" | "hostAliases" | "addHost" => "addHosts",
        "cmd" | "args" | "Exec" => "command",
        "src" | "from" | "hostPath" => "source",
        "dst" | "destination" | "mountPath" | "to" => "target",
        "ro" | "read_only" => "readOnly",
        "restart_policy" | "restartPolicy" => "restart",
        "container_name" | "containerName" => "name",
        "published" | "host_port" => "hostPort",
        "host_ip" | "hostIP" => "hostIp",
        "tag" => "version",
        "services" => "agents",
        "env_file" | "envfile" | "environmentFile" | "EnvironmentFile" => "envFile",
        "start_period" | "initialDelaySeconds" => "startPeriod",
        "livenessProbe" | "readinessProbe" | "health_check" => "healthcheck",
        "publish" | "portMappings" => "ports",
        "workdir" | "working_dir" | "workingDir" | "dir" | "directory" => "cwd",
        "require" | "needs" => "requires",
        "action" | "then" => "do",
        "extends" => "from",
        "replicas" | "scale" => "count",
        _ => return None,
    })
}

/// Fields of Compose, Kubernetes, Quadlet and `podman run` for which there is nothing here.
const LACKING: &[&str] = &[
    "annotations",
    "blkio_config",
    "build",
    "cgroup",
    "cgroup_parent",
    "configs",
    "cpu_count",
    "cpu_percent",
    "cpu_shares",
    "credential_spec",
    "depends_on",
    "dependsOn",
    "develop",
    "device_cgroup_rules",
    "dns_opt",
    "dns_search",
    "envFrom",
    "expose",
    "external_links",
    "imagePullPolicy",
    "imagePullSecrets",
    "initContainers",
    "ipc",
    "isolation",
    "lifecycle",
    "links",
    "mac_address",
    "mem_reservation",
    "mem_swappiness",
    "namespace",
    "nodeSelector",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "platform",
    "profiles",
    "provider",
    "pull_policy",
    "runtimeClassName",
    "secrets",
    "securityContext",
    "serviceAccountName",
    "startupProbe",
    "stdin",
    "stdin_open",
    "storage_opt",
    "tolerations",
    "tty",
    "uts",
    "volumes_from",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Vec<&'static str> {
        CONTAINER.to_vec()
    }

    fn agent() -> Vec<&'static str> {
        let mut known = AGENT.to_vec();
        known.push("container");
        known
    }

    #[test]
    fn what_means_the_same_is_suggested() {
        let meant = |word: &str, known: &[&str]| help(word, known).unwrap_or_default();
        for (word, ours) in [
            ("environment", "env"),
            ("restrat", "restart"),
            ("comand", "command"),
            ("port", "ports"),
            ("mount", "mounts"),
            ("env_file", "envFile"),
            ("envfile", "envFile"),
            ("add-hosts", "addHosts"),
            ("healthCheck", "healthcheck"),
            ("container_name", "name"),
            ("cap_add", "capAdd"),
            ("working_dir", "workingDir"),
            ("workdir", "workingDir"),
            ("read_only", "readOnlyRoot"),
            ("stop_grace_period", "stopTimeout"),
            ("group_add", "groupAdd"),
        ] {
            assert_eq!(meant(word, &container()), format!("did you mean `{ours}`?"), "{word}");
        }
        assert_eq!(meant("verison", &agent()), "did you mean `version`?");
        assert_eq!(meant("tag", &agent()), "did you mean `version`?");
        assert_eq!(meant("readonly", &["source", "target", "readOnly"]), "did you mean `readOnly`?");
        let session = ["command", "cwd", "env", "requires", "restart"];
        for (word, ours) in
            [("working_dir", "cwd"), ("environment", "env"), ("require", "requires"), ("cmd", "command")]
        {
            assert_eq!(meant(word, &session), format!("did you mean `{ours}`?"), "{word}");
        }
        assert_eq!(meant("services", &["name", "agents"]), "did you mean `agents`?");
    }

    #[test]
    fn what_has_no_counterpart_sends_nobody_to_something_else() {
        for known in [container(), agent()] {
            for word in LACKING {
                let help = help(word, &known).unwrap_or_default();
                assert!(help.starts_with(&format!("`{word}` cannot be set; known here: ")), "{word}: {help}");
            }
            assert!(help("volumes", &known).unwrap().contains("`mounts: [{source: ./data, target: /data"));
            assert!(help("mem_limit", &known).unwrap().contains("under `resources`"));
        }
        for odd in ["arm", "nameserver", "imageDigest", "sourceRepo"] {
            assert_eq!(help(odd, &agent()), None, "{odd}");
        }
    }

    #[test]
    fn the_right_field_in_the_wrong_mapping_is_sent_to_its_place() {
        assert_eq!(help("ports", &agent()).unwrap(), "`ports` stands under `container`, a level below");
        assert_eq!(help("environment", &agent()).unwrap(), "`env` stands under `container`, a level below");
        for word in ["image", "sessions", "workspaces"] {
            let expected = format!("`{word}` stands beside `container`, a level above");
            assert_eq!(help(word, &container()).unwrap(), expected);
        }
    }
}
