//! The fields of an agent's `container`, as they are written.
//!
//! Long because it is one table: each field with its description. The forms in which some may be written stand in `forms.rs`.

mod forms;

pub(in crate::state) use forms::*;

use super::super::decode::{List, Table};
use super::super::record::record;
use super::super::scalar::{Choice, Flag, Loose, Size, Time, Whole, Word, Words};
use crate::model::Protocol;
use crate::model::spec::{LogDriver, OnUnhealthy, Propagation, Relabel};

/// An absolute path in a container, or a string with a substitution, for schemas.
const GUEST_PATH: &str = r"^/|\$\{(env|agent):";

record! {
    /// The container of an agent.
    #[schemars(rename = "Container")]
    ContainerDoc {
        /// Its name in Podman. `<name>-<agent>` when the file gives none. Endings `.next` and `.prev` are kept for
        /// containers that are being replaced.
        #[schemars(extend("not" = {"pattern": r"\.(next|prev)$"}, "examples" = ["demo-openclaw"]))]
        optional name "name": Word,
        /// What runs in place of the image's entrypoint: a list, or a line that is split into words as a shell does, and run by
        /// none. An empty list is no entrypoint at all. With it, the image's own command does not count.
        #[schemars(extend("examples" = [["/usr/bin/tini", "--"], "tini -g --"]))]
        optional entrypoint "entrypoint": CommandLine,
        /// Arguments after the entrypoint, instead of the image's own command: a list, or a line that is split into words as a
        /// shell does, and run by none. An empty list is no arguments at all, which needs an entrypoint.
        #[schemars(extend("examples" = [["node", "dist/index.js", "gateway"], "serve --port 8080"]))]
        optional command "command": CommandLine,
        /// Whom it runs as: a name or number of the container, with `:GROUP` behind it or not. The image's user, when the file
        /// names none.
        #[schemars(extend("examples" = ["1000:1000", "node"]))]
        optional user "user": Loose,
        /// Further groups of its process, by name or number; `keep-groups` keeps those of whom Podman runs as.
        #[schemars(extend("examples" = [["video", 44]]))]
        optional group_add "groupAdd": List<Loose>,
        /// Where its process begins. The image's, when the file names none.
        #[schemars(extend("pattern" = GUEST_PATH, "examples" = ["/srv/app"]))]
        optional working_dir "workingDir": Word,
        /// Its own name. Podman takes the id of the container, when the file names none.
        #[schemars(extend("examples" = ["coder"]))]
        optional hostname "hostname": Word,
        /// The domain of its `hostname`, which is then called `HOSTNAME.DOMAINNAME`.
        #[schemars(extend("examples" = ["agents.example"]))]
        optional domainname "domainname": Word,
        /// Its user namespace, as Podman takes it: `keep-id`, `auto`, `nomap`, `host`, with options behind a colon.
        #[schemars(extend("examples" = ["keep-id", "keep-id:uid=1000,gid=1000", "auto"]))]
        optional userns "userns": Word,
        /// Environment variables, as a mapping or as a list of `NAME=value`. They win over those of `envFile`. Values from
        /// `${env:…}`, of variables named like secrets (token, key, secret, password, pass, pwd, pw, credential, auth, private,
        /// jwt, bearer, cookie), and URLs with a password in them, are never shown.
        #[schemars(extend("examples" = [{"HOME": "/home/node", "TOKEN": "${env:OPENCLAW_TOKEN}"}]))]
        optional env "env": Pairs,
        /// Files with `NAME=value` lines: one, or a list of which later ones win. Their values are never shown. Nothing in them
        /// is replaced: outside single quotes, `${` is an error, and `$${` is a literal `${`.
        #[schemars(extend("examples" = ["./openclaw.env", ["./common.env", "./openclaw.env"]]))]
        optional env_file "envFile": OneOrMany<Word>,
        /// Labels, as a mapping or as a list of `NAME=value`. Those that begin with `steadfast.` are ours.
        #[schemars(extend("examples" = [{"team": "research"}]))]
        optional labels "labels": Pairs,
        /// Whether a small init is its first process, which hands on signals and reaps what is left behind. It needs `catatonit`
        /// on Podman's machine.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional init "init": Flag,
        /// The signal it is asked to end with. The image's, else SIGTERM.
        #[schemars(extend("examples" = ["SIGINT"]))]
        optional stop_signal "stopSignal": Loose,
        /// How long it may take to end before it is killed: whole seconds, at most a day.
        #[schemars(extend("default" = "10s", "examples" = ["30s"]))]
        optional stop_timeout "stopTimeout": Time,
        /// What is mounted into it: directories and files of the host, volumes, memory. `./src:/dst:ro` is short for a mapping.
        #[schemars(extend("examples" = [[
            {"source": "/srv/openclaw", "target": "/home/node"},
            {"volume": "data", "target": "/data"},
            {"tmpfs": true, "target": "/tmp", "size": "64MiB"},
            "./config:/etc/openclaw:ro",
        ]]))]
        optional mounts "mounts": List<MountEntry>,
        /// Published ports: `[HOST_IP:]HOST_PORT:CONTAINER_PORT[/PROTOCOL]`, ranges of the same length on both sides, or
        /// `CONTAINER_PORT` alone, for which Podman chooses a port of the host; `status` shows it. One from `${env:…}` is never
        /// shown by plans and errors; in a virtual machine, its settings have it.
        #[schemars(extend("examples" = [["127.0.0.1:18789:18789", "8000-8005:8000-8005"]]))]
        optional ports "ports": List<PortEntry>,
        /// The networks it is on: `none`, `host`, or names of the top-level `networks`, as a list or as a mapping with `aliases`
        /// and `ip`. Agents of one network find each other by their names. When the file says nothing it is on the top-level
        /// network `default`, where there is one, else where Podman puts it.
        #[schemars(extend("examples" = [["backend"], {"backend": {"aliases": ["api"], "ip": "10.90.0.5"}}, "none"]))]
        optional networks "networks": NetworksEntry,
        /// Name servers, instead of those of Podman's machine: one address or a list.
        #[schemars(extend("examples" = ["1.1.1.1", ["10.0.0.2", "10.0.0.3"]]))]
        optional dns "dns": OneOrMany<Word>,
        /// Extra lines of `/etc/hosts`, as `host:address`; the address may be `host-gateway`.
        #[schemars(extend("examples" = [["host.containers.internal:host-gateway"]]))]
        optional add_hosts "addHosts": List<Word>,
        /// What it may take of the machine.
        #[schemars(extend("examples" = [{"cpus": 1.5, "memory": "2GiB", "pids": 512}]))]
        optional resources "resources": ResourcesDoc,
        /// Limits of its process by name (`nofile`, `nproc`, `core`, …): a number, `SOFT:HARD`, or a mapping of both. `-1` is no
        /// limit.
        #[schemars(extend("examples" = [{"nofile": 65536, "nproc": "4096:8192", "core": {"soft": 0, "hard": 0}}]))]
        optional ulimits "ulimits": Table<UlimitEntry>,
        /// Settings of the kernel that belong to its namespaces, as a mapping or as a list of `NAME=value`.
        #[schemars(extend("examples" = [{"net.core.somaxconn": 1024}]))]
        optional sysctls "sysctls": Pairs,
        /// Devices of Podman's machine: `/dev/fuse`, `/dev/ttyUSB0:/dev/modem:rw`, or the name of one that a CDI specification
        /// describes.
        #[schemars(extend("examples" = [["/dev/fuse", "nvidia.com/gpu=0"]]))]
        optional devices "devices": List<Word>,
        /// NVIDIA GPUs, by the CDI specification of `nvidia-ctk`: `all`, or how many, the first ones.
        #[schemars(extend("examples" = ["all", 1]))]
        optional gpus "gpus": Loose,
        /// Capabilities beside those that Podman gives; `ALL` is every one.
        #[schemars(extend("examples" = [["NET_ADMIN"]]))]
        optional cap_add "capAdd": List<Word>,
        /// Capabilities it does not get; `ALL` is every one.
        #[schemars(extend("examples" = [["ALL"]]))]
        optional cap_drop "capDrop": List<Word>,
        /// Options of security, as Podman takes them: `label=disable`, `seccomp=PROFILE`, `apparmor=PROFILE`, `mask=PATHS`,
        /// `unmask=PATHS`, `proc-opts=OPTIONS`.
        #[schemars(extend("examples" = [["label=disable"]]))]
        optional security_opt "securityOpt": List<Word>,
        /// Whether none of its processes may gain more rights than it began with.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional no_new_privileges "noNewPrivileges": Flag,
        /// Whether it has all the rights of whom Podman runs as. Then it is no cage for what runs in it.
        #[schemars(extend("default" = false, "examples" = [false]))]
        optional privileged "privileged": Flag,
        /// Whether its root file system is read-only. What it writes needs a mount; nothing is mounted by itself.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional read_only_root "readOnlyRoot": Flag,
        /// Where its output is kept.
        #[schemars(extend("examples" = [{"driver": "k8s-file", "maxSize": "10MiB"}]))]
        optional logging "logging": LoggingDoc,
        /// When Podman restarts it by itself. `no` is a one-shot, `on-failure` takes an exit with 0 for completion, and
        /// `on-failure:N` restarts it N times at most.
        #[schemars(extend("default" = "unless-stopped", "examples" = ["unless-stopped", "on-failure:5"]))]
        optional restart "restart": RestartWord,
        /// The check that tells whether it is healthy, instead of the image's own. Without any, running is good enough.
        #[schemars(extend("examples" = [{"test": ["CMD", "curl", "-sf", "http://127.0.0.1:18789/healthz"]}]))]
        optional healthcheck "healthcheck": HealthDoc,
    }
}

record! {
    /// A mount: exactly one of `source`, `volume` and `tmpfs`.
    #[schemars(rename = "Mount", extend("oneOf" = [
        {"required": ["source"]}, {"required": ["volume"]}, {"required": ["tmpfs"]}
    ]))]
    MountDoc {
        /// A path on the machine Podman runs on. It must exist.
        #[schemars(extend("examples" = ["/srv/openclaw", "./data"]))]
        optional source "source": Word,
        /// One of the top-level `volumes`.
        #[schemars(extend("examples" = ["data"]))]
        optional volume "volume": Word,
        /// Memory, gone with the container's process: `true`.
        #[schemars(extend("examples" = [true]))]
        optional tmpfs "tmpfs": Flag,
        /// An absolute path in the container. From `${env:…}`, neither it nor the source is ever shown.
        #[schemars(extend("examples" = ["/home/node"]))]
        required target "target": Word,
        /// Whether the container may only read it.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional read_only "readOnly": Flag,
        /// How much a `tmpfs` may take, in units of 1024. Half of the machine's memory without it.
        #[schemars(extend("examples" = ["64MiB"]))]
        optional size "size": Size,
        /// The permissions of a `tmpfs`, in octal digits.
        #[schemars(extend("pattern" = "^0?[0-7]{3,4}$", "default" = "1777", "examples" = ["0700"]))]
        optional mode "mode": Loose,
        /// The SELinux label it gets: `z`, which containers share, or `Z`, the container's own.
        #[schemars(extend("examples" = ["Z"]))]
        optional selinux "selinux": Choice<Relabel>,
        /// How mounts below a bind mount travel between host and container.
        #[schemars(extend("default" = "rprivate", "examples" = ["rslave"]))]
        optional propagation "propagation": Choice<Propagation>,
        /// Whether its owners are mapped as the container's user namespace maps them. It needs Linux 5.12 and `crun`.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional idmap "idmap": Flag,
    }
}

impl Words for Relabel {
    const WORDS: &'static [(&'static str, Self)] = &[("z", Self::Shared), ("Z", Self::Private)];
}

impl Words for Propagation {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("private", Self::Private),
        ("rprivate", Self::Rprivate),
        ("shared", Self::Shared),
        ("rshared", Self::Rshared),
        ("slave", Self::Slave),
        ("rslave", Self::Rslave),
    ];
}

record! {
    /// How an agent is on one network.
    #[schemars(rename = "Attachment", extend("type" = ["object", "null"]))]
    AttachmentDoc {
        /// Further names under which others of the network find it, beside the agent's own.
        #[schemars(extend("examples" = [["api"]]))]
        optional aliases "aliases": List<Word>,
        /// Its address there. Podman chooses, when the file names none.
        #[schemars(extend("examples" = ["10.90.0.5"]))]
        optional ip "ip": Word,
    }
}

record! {
    /// What a container may take of the machine. What is left out has no limit of its own.
    #[schemars(rename = "Resources")]
    ResourcesDoc {
        /// Processors, with up to three decimals.
        #[schemars(extend("examples" = [1.5]))]
        optional cpus "cpus": Loose,
        /// The processors it may run on.
        #[schemars(extend("examples" = ["0-2,4"]))]
        optional cpuset "cpuset": Loose,
        /// Memory, in units of 1024: at least 6MiB.
        #[schemars(extend("examples" = ["2GiB"]))]
        optional memory "memory": Size,
        /// Memory and swap together, in units of 1024, or `unlimited`. Twice the memory without it.
        #[schemars(extend("examples" = ["4GiB", "unlimited"]))]
        optional memory_swap "memorySwap": Loose,
        /// Processes and threads, or `unlimited`.
        #[schemars(extend("examples" = [512]))]
        optional pids "pids": Loose,
        /// Size of `/dev/shm`, in units of 1024. A change replaces the container.
        #[schemars(extend("examples" = ["1GiB"]))]
        optional shm "shm": Size,
    }
}

record! {
    /// A limit of a process.
    #[schemars(rename = "Ulimit")]
    UlimitDoc {
        /// The one that holds.
        #[schemars(extend("examples" = [1024]))]
        required soft "soft": Loose,
        /// How far the process itself may raise it.
        #[schemars(extend("examples" = [2048]))]
        required hard "hard": Loose,
    }
}

record! {
    /// Where a container's output is kept.
    #[schemars(rename = "Logging")]
    LoggingDoc {
        /// `k8s-file` is a file beside the container, `journald` the journal of Podman's machine, `none` keeps nothing.
        /// Podman's own choice, when the file names none.
        #[schemars(extend("examples" = ["k8s-file"]))]
        optional driver "driver": Choice<LogDriver>,
        /// How much of it is kept, the newest: of `k8s-file` alone.
        #[schemars(extend("default" = "10MiB", "examples" = ["10MiB"]))]
        optional max_size "maxSize": Size,
    }
}

impl Words for LogDriver {
    const WORDS: &'static [(&'static str, Self)] =
        &[("k8s-file", Self::K8sFile), ("journald", Self::Journald), ("none", Self::None)];
}

record! {
    /// A published port.
    #[schemars(rename = "Port")]
    PortDoc {
        /// The host's address to listen on; all of them when the file names none.
        #[schemars(extend("default" = "0.0.0.0", "examples" = ["127.0.0.1"]))]
        optional host_ip "hostIp": Word,
        /// The port on the host. Podman chooses one, when the file names none; `status` shows it.
        #[schemars(extend("examples" = [18789]))]
        optional host_port "hostPort": Whole<1, 65535>,
        /// The port in the container.
        #[schemars(extend("examples" = [18789]))]
        required container_port "containerPort": Whole<1, 65535>,
        /// The transport protocol.
        #[schemars(extend("default" = "tcp", "examples" = ["tcp"]))]
        optional protocol "protocol": Choice<Protocol>,
    }
}

impl Words for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("udp", Self::Udp), ("sctp", Self::Sctp)];
}

record! {
    /// A health check.
    #[schemars(rename = "HealthCheck", extend("anyOf" = [{"required": ["test"]}, {"required": ["disable"]}]))]
    HealthDoc {
        /// What is run: `[CMD, program, argument…]` as it is, `[CMD-SHELL, line]` or a plain string by the container's
        /// shell. `NONE` (or `[NONE]`, in any case) is no health check at all, not even the image's own.
        #[schemars(extend(
            "examples" = [["CMD", "curl", "-sf", "http://127.0.0.1:18789/healthz"], "test -e /ready", "NONE"]
        ))]
        optional test "test": TestEntry,
        /// Whether there is to be no health check at all, not even the image's own: the same as `test: NONE`.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional disable "disable": Flag,
        /// The time between two runs.
        #[schemars(extend("default" = "30s", "examples" = ["30s"]))]
        optional interval "interval": Time,
        /// The time one run may take.
        #[schemars(extend("default" = "30s", "examples" = ["10s"]))]
        optional timeout "timeout": Time,
        /// How many failures in a row make it unhealthy.
        #[schemars(extend("default" = 3, "examples" = [3]))]
        optional retries "retries": Whole<1, 1000>,
        /// The time after the start in which failures do not count.
        #[schemars(extend("default" = "0s", "examples" = ["5s"]))]
        optional start_period "startPeriod": Time,
        /// The time between two runs until the first that passes, so that what is ready early is found so.
        #[schemars(extend("examples" = ["1s"]))]
        optional start_interval "startInterval": Time,
        /// What is done when it becomes unhealthy: `restart`, or `none`, which only tells of it.
        #[schemars(extend("default" = "restart", "examples" = ["none"]))]
        optional on_failure "onFailure": Choice<OnUnhealthy>,
    }
}

impl Words for OnUnhealthy {
    const WORDS: &'static [(&'static str, Self)] = &[("restart", Self::Restart), ("none", Self::Report)];
}
