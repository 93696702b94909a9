//! What people probably mean by a field that is not known: other tools' words, and slips of the pen.
//!
//! A field is only suggested where it means the same. What has no counterpart here is said to have none, so that nobody is
//! sent to something else that happens to look alike.

use super::decode::near;

/// Fields of an agent's `container`.
const CONTAINER: [&str; 9] =
    ["command", "env", "envFile", "mounts", "ports", "restart", "addHosts", "healthcheck", "name"];
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
    if here("test") && text == "disable" {
        return Some("write `test: NONE` for no health check at all".to_owned());
    }
    let translated = elsewhere(text);
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
        "entrypoint" | "entryPoint" => {
            "the entrypoint is always the image's and cannot be set; `command` is what follows it"
        }
        "volumes" | "volume" | "binds" => {
            "directories and files of the host stand under `mounts`, like \
             `mounts: [{source: ./data, target: /data, readOnly: true}]`; there are no named volumes"
        }
        "volumeMounts" => {
            "directories and files of the host stand under `mounts`, like `mounts: [{source: /srv/data, target: /data}]`"
        }
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
    "cap_add",
    "cap_drop",
    "cgroup",
    "cgroup_parent",
    "configs",
    "cpu_count",
    "cpu_percent",
    "cpu_shares",
    "cpus",
    "cpuset",
    "credential_spec",
    "depends_on",
    "dependsOn",
    "deploy",
    "develop",
    "device_cgroup_rules",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "envFrom",
    "expose",
    "external_links",
    "gpus",
    "group_add",
    "hostname",
    "imagePullPolicy",
    "imagePullSecrets",
    "init",
    "initContainers",
    "ipc",
    "isolation",
    "labels",
    "lifecycle",
    "links",
    "logging",
    "mac_address",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memory",
    "memswap_limit",
    "namespace",
    "network",
    "network_mode",
    "networks",
    "nodeSelector",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "platform",
    "privileged",
    "profiles",
    "provider",
    "pull_policy",
    "read_only",
    "resources",
    "runtimeClassName",
    "secrets",
    "securityContext",
    "security_opt",
    "serviceAccountName",
    "shm_size",
    "startupProbe",
    "stdin",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "stopSignal",
    "stopTimeout",
    "storage_opt",
    "sysctls",
    "terminationGracePeriodSeconds",
    "tmpfs",
    "tolerations",
    "tty",
    "ulimits",
    "user",
    "userns",
    "userns_mode",
    "uts",
    "volumes_from",
    "workdir",
    "working_dir",
    "workingDir",
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
            let entrypoint = help("entrypoint", &known).unwrap();
            assert!(entrypoint.contains("cannot be set") && !entrypoint.contains("did you mean"), "{entrypoint}");
            assert!(help("volumes", &known).unwrap().contains("`mounts: [{source: ./data, target: /data"));
        }
        assert_eq!(help("disable", &["test", "interval"]).unwrap(), "write `test: NONE` for no health check at all");
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
