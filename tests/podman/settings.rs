//! The settings of a container: that each is made as it is wanted, and holds inside.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast::backend::{Chunk, Engine, ExecRequest, LogRequest};
use steadfast::model::spec::{
    Cpus, LogDriver, Logging, Memory, MountSource, NetworkMode, Networking, Process, Resources, Security, Signal,
    Ulimit,
};
use steadfast::model::{Create, Mount, Phase, RestartPolicy};

use crate::bench::{Bench, NOW, output, within};

/// Every setting that a container can have on any machine.
pub fn settings<E: Engine>(bench: &Bench<E>, suffix: &str) -> Create {
    let mut create = bench.command(suffix, &["-c", "trap 'echo asked; exit 0' INT; sleep 1000 & wait"]);
    let spec = &mut create.spec;
    spec.entrypoint = Some(vec!["sh".into()]);
    spec.labels = BTreeMap::from([("team".to_owned(), "a=b, \"c\"".into()), ("empty".to_owned(), "".into())]);
    let tmpfs = MountSource::Tmpfs { size: Some(4 << 20), mode: Some(0o700) };
    let volume = MountSource::Volume(format!("{}-data", bench.owner));
    spec.mounts = vec![
        Mount::new(tmpfs, "/scratch", false),
        Mount::new(MountSource::Tmpfs { size: None, mode: None }, "/tmp", false),
        Mount::new(volume.clone(), "/data", false),
        Mount::new(volume, "/seen", true),
    ];
    spec.restart = RestartPolicy::OnFailureAtMost(3);
    let all = |soft, hard| Ulimit { soft, hard };
    spec.process = Process {
        user: Some("1000:1001".to_owned()),
        groups: vec!["44".to_owned()],
        working_dir: Some("/data".to_owned()),
        init: true,
        stop_signal: Signal::parse("SIGINT"),
        stop_timeout: Some(Duration::from_secs(7)),
        // With any of them, Podman asks for its own of `nproc` and `nofile`, which not every machine grants (4.3).
        ulimits: [("nofile", all(100, 200)), ("core", all(0, 0)), ("nproc", all(900, 1000))]
            .map(|(name, limit)| (name.to_owned(), limit))
            .into(),
        sysctls: BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())]),
    };
    let dns = vec!["10.9.9.9".parse().unwrap(), "fd00::9".parse().unwrap()];
    spec.network = Networking { hostname: Some("coder.agents.example".to_owned()), dns, mode: NetworkMode::Usual };
    spec.resources = Resources {
        cpus: Some(Cpus(500)),
        cpuset: Some("0".to_owned()),
        memory: Memory { limit: Some(64 << 20), swap: Some(96 << 20) },
        pids: Some(77),
        shm: Some(1 << 20),
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    spec.security = Security {
        userns: None,
        cap_add: words(&["SYS_NICE"]),
        cap_drop: ["CHOWN", "KILL"].map(str::to_owned).into(),
        options: vec!["mask=/proc/cmdline".to_owned(), "label=disable".to_owned()],
        no_new_privileges: true,
        privileged: false,
        read_only_root: true,
        devices: vec!["/dev/null:/dev/other:r".to_owned()],
    };
    spec.logging = Logging { driver: Some(LogDriver::K8sFile), max_size: Some(1 << 20) };
    bench.label(&mut create);
    create
}

/// What a shell line prints in a container.
async fn inside<E: Engine>(bench: &Bench<E>, id: &steadfast::model::ContainerId, line: &str) -> String {
    let request = ExecRequest { command: vec!["sh".into(), "-c".into(), line.into()], ..ExecRequest::default() };
    let (out, err) = output(bench.engine.exec(id, &request).await.unwrap()).await.text();
    format!("{out}{err}")
}

pub async fn every_setting_holds_inside<E: Engine>(bench: &Bench<E>) {
    let create = settings(bench, "settings");
    let id = bench.started(&create).await;
    let told = inside(
        bench,
        &id,
        "echo user=$(id -u):$(id -g) groups=$(id -G); pwd; hostname; grep ^nameserver /etc/resolv.conf; ulimit -n; ulimit -Hn; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start; touch /x && echo root is writable; touch /tmp/x && echo tmp; \
         touch /seen/x && echo seen is writable; df -k /scratch /dev/shm; grep -E '^(Cap(Bnd)|NoNewPrivs)' /proc/1/status; \
         ls -l /dev/other; tr '\\0' ' ' </proc/1/cmdline; wc -c </proc/cmdline; echo",
    )
    .await;
    for expected in [
        "user=1000:1001 groups=1001 44\n",
        "\n/data\n",
        "\ncoder.agents.example\n",
        "\nnameserver 10.9.9.9\nnameserver fd00::9\n",
        "\n100\n200\n80\n",
        "\ntmp\n",
        " 4096 ",
        " 1024 ",
        "NoNewPrivs:\t1\n",
        "/dev/other",
    ] {
        assert!(told.contains(expected), "{expected:?}: {told}");
    }
    for not in ["root is writable", "seen is writable"] {
        assert!(!told.contains(not), "{not}: {told}");
    }
    let bounding = told.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    let bounding = u64::from_str_radix(bounding, 16).unwrap();
    // CHOWN is 0, KILL 5, SYS_NICE 23.
    assert_eq!((bounding & 1, bounding & (1 << 5), bounding >> 23 & 1), (0, 0, 1), "{told}");
    assert!(told.contains("init"), "an init is the first process: {told}");
    let seen = bench.engine.inspect(&id).await.unwrap().unwrap();
    assert_eq!(seen.resources.as_ref(), Some(&create.spec.resources), "what an inspection tells");
    assert_eq!(seen.restart.as_deref(), Some("on-failure"));

    // It is asked to end by its own signal, and not for longer than it may take.
    bench.engine.stop(&id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(bench.state(&id).await.phase, Phase::Exited { code: 0 });
    let log = output_of_log(bench, &id).await;
    assert!(log.contains("asked"), "{log}");
}

async fn output_of_log<E: Engine>(bench: &Bench<E>, id: &steadfast::model::ContainerId) -> String {
    use futures_util::StreamExt;
    let mut log = bench.engine.logs(id, &LogRequest::default()).await.unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = within(log.next()).await {
        let (Chunk::Stdout(bytes) | Chunk::Stderr(bytes)) = chunk.unwrap();
        text.extend_from_slice(&bytes);
    }
    String::from_utf8(text).unwrap()
}

pub async fn no_entrypoint_at_all<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.command("bare", &["sh", "-c", "exit 7"]);
    create.spec.entrypoint = Some(Vec::new());
    bench.label(&mut create);
    let id = bench.started(&create).await;
    let ended = bench.until(&id, |state| matches!(state.phase, Phase::Exited { .. })).await;
    assert_eq!(ended.phase, Phase::Exited { code: 7 });
}

pub async fn a_short_time_to_stop_is_kept<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.shell("stubborn", "trap '' TERM; while :; do sleep 0.1; done");
    create.spec.process.stop_timeout = Some(Duration::from_secs(1));
    bench.label(&mut create);
    let id = bench.started(&create).await;
    inside(bench, &id, "sleep 0.5").await;
    let began = std::time::Instant::now();
    bench.engine.stop(&id, Duration::from_secs(60)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "it has one second, not the sixty of whoever asks");
    assert_eq!(bench.state(&id).await.phase, Phase::Exited { code: 137 });
    bench.engine.remove(&id, NOW).await.unwrap();
}

pub async fn a_port_that_podman_chooses_is_seen<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.shell("chosen", "sleep 1000");
    let port = |container_port| steadfast::model::Port {
        host_ip: "127.0.0.1".into(),
        host_port: 0,
        container_port,
        protocol: steadfast::model::Protocol::Tcp,
    };
    create.spec.ports = vec![port(80), port(9000)];
    bench.label(&mut create);
    let id = bench.started(&create).await;
    let ports = bench.state(&id).await.ports;
    let chosen: Vec<_> =
        [80, 9000].iter().map(|at| ports.iter().find_map(|range| range.host_port_of(&port(*at)))).collect();
    assert!(chosen.iter().all(|port| port.is_some_and(|port| port > 0)) && chosen[0] != chosen[1], "{ports:?}");
}
