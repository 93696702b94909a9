//! What only shows when both transports reach the same Podman: they see and make the same, and leave nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use steadfast::backend::podman::Shell;
use steadfast::backend::{Engine, ExecRequest, LogRequest, TermSize};
use steadfast::model::{
    ContainerId, Create, HealthCheck, HealthTest, HostKey, ImageRef, Mount, Phase, Port, Protocol, RestartPolicy, Text,
};

use crate::bench::{self, Bench, NOW, within};
use crate::limactl::StandIn;
use crate::settings::settings;
use crate::support::archive::{Compression, docker_archive};
use crate::through_api;

/// One of everything, with what is hard to quote.
fn full<E: Engine>(bench: &Bench<E>, suffix: &str, source: &str) -> Create {
    let mut create = bench.command(suffix, &["sh", "-c", "sleep 1000 # it's \"$HOME\"", "-x", "a b\nc\\"]);
    let long = "x".repeat(40_000);
    create.spec.env = BTreeMap::from(
        [
            ("HOME", "/home/node"),
            ("PATH", "/bin:/else where"),
            ("EMPTY", ""),
            ("QUOTES", "it's \"so\" `id` $(id) $HOME \\"),
            ("QUOTED", "\"yes\""),
            ("LINES", "one\n two\r\n'three'\n"),
            ("LONG", long.as_str()),
            ("SPACES", "  a  b  "),
            ("with.dot-dash", "x=y#z"),
        ]
        .map(|(name, value)| (name.to_owned(), Text::sensitive(value))),
    );
    create.spec.mounts = [("/data", true), ("/both", false)]
        .map(|(target, read_only)| Mount::bind(Text::plain(source), target, read_only))
        .into();
    let port = |host_ip: &str, host_port, protocol| Port {
        host_ip: host_ip.into(),
        host_port,
        container_port: host_port - 18_000,
        protocol,
    };
    create.spec.ports = vec![
        port("127.0.0.1", 18_401, Protocol::Tcp),
        port("0.0.0.0", 18_402, Protocol::Udp),
        port("::1", 18_403, Protocol::Tcp),
    ];
    create.spec.restart = RestartPolicy::OnFailure;
    create.spec.add_hosts =
        ["host.containers.internal:host-gateway", "docker:host-gateway", "six:fd00::1", "a:10.1.2.3"]
            .map(Text::plain)
            .into();
    create.spec.healthcheck = Some(HealthCheck {
        test: HealthTest::Command(["test", "-e", "/a b", "it's \"so\""].map(Text::plain).into()),
        interval: Duration::from_millis(3_600_500),
        timeout: Duration::from_secs(5),
        retries: 2,
        start_period: Duration::from_secs(1),
        ..HealthCheck::new(HealthTest::Shell("".into()))
    });
    bench.label(&mut create);
    create
}

async fn inspected<E: Engine>(bench: &Bench<E>, id: &str) -> Value {
    let answer = bench.aside(reqwest::Method::GET, &format!("/containers/{id}/json")).await;
    serde_json::from_slice(&answer.bytes().await.unwrap()).expect("JSON")
}

/// What of an inspected container tells how it was made.
fn made_of(container: &Value, name: &str) -> BTreeMap<String, Value> {
    let mut parts = BTreeMap::new();
    for group in ["Config", "HostConfig"] {
        for (field, value) in container[group].as_object().expect("fields") {
            parts.insert(format!("{group}.{field}"), value.clone());
        }
    }
    for field in ["Mounts", "Path", "Args", "ImageName", "Image", "ProcessLabel", "MountLabel", "EffectiveCaps"] {
        parts.insert(field.to_owned(), container[field].clone());
    }
    // `Mounts` tells the same as `Binds`, whose options come in any order. The command line writes down what a missing
    // `sdNotifyMode` means, and leaves out an annotation for the lack of a terminal.
    for own in [
        "Config.Hostname",
        "Config.CreateCommand",
        "Config.Annotations",
        "HostConfig.LogConfig",
        "HostConfig.Binds",
        "Config.sdNotifyMode",
    ] {
        parts.remove(own);
    }
    let short = container["Id"].as_str().expect("an id")[..12].to_owned();
    let mut env: Vec<_> = parts["Config.Env"].as_array().expect("variables").clone();
    env.retain(|line| *line != format!("HOSTNAME={short}"));
    env.sort_by_key(Value::to_string);
    parts.insert("Config.Env".to_owned(), env.into());
    if let Some(mounts) = parts.get_mut("Mounts").and_then(Value::as_array_mut) {
        mounts.sort_by_key(Value::to_string);
    }
    let label = parts["Config.Labels"]["steadfast.spec"].to_string().replace(name, "NAME");
    parts.get_mut("Config.Labels").expect("labels")["steadfast.spec"] = label.into();
    parts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_transports_make_the_same_container() {
    let stand_in = StandIn::new();
    let shell = stand_in.shell();
    bench::run(through_api(), async |bench| {
        let outside = tempfile::Builder::new().prefix("a,b:c \"d\"").tempdir().unwrap();
        let source = outside.path().display().to_string();
        let (one, two) = (full(bench, "api", &source), full(bench, "shell", &source));
        let through_api = bench.made(&one).await;
        let through_shell = shell.create(&two).await.unwrap_or_else(|err| panic!("{err} {err:?}"));
        let through_api = made_of(&inspected(bench, through_api.as_str()).await, one.name.as_str());
        let through_shell = made_of(&inspected(bench, through_shell.as_str()).await, two.name.as_str());
        for (field, value) in &through_api {
            assert_eq!(through_shell.get(field), Some(value), "{field}");
        }
        let more = through_shell.iter().filter(|(field, _)| !through_api.contains_key(*field)).collect::<Vec<_>>();
        assert!(more.is_empty(), "{more:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_transports_make_the_same_settings() {
    let stand_in = StandIn::new();
    let shell = stand_in.shell();
    bench::run(through_api(), async |bench| {
        let (one, two) = (settings(bench, "api"), settings(bench, "shell"));
        let through_api = inspected(bench, bench.made(&one).await.as_str()).await;
        let through_shell = shell.create(&two).await.unwrap_or_else(|err| panic!("{err} {err:?}"));
        let through_shell = inspected(bench, through_shell.as_str()).await;
        let log = |made: &Value| {
            let config = &made["HostConfig"]["LogConfig"];
            (config["Type"].clone(), config["Size"].clone())
        };
        assert_eq!(log(&through_api), log(&through_shell));
        assert_eq!(log(&through_api), ("k8s-file".into(), "1.049MB".into()));
        assert_eq!(through_api["Config"]["Hostname"], through_shell["Config"]["Hostname"]);
        let (one, two) = (made_of(&through_api, one.name.as_str()), made_of(&through_shell, two.name.as_str()));
        let differing: Vec<_> = one.iter().filter(|(field, value)| two.get(*field) != Some(value)).collect();
        assert!(
            differing.is_empty(),
            "{differing:?} {:?}",
            differing.iter().map(|(field, _)| two.get(*field)).collect::<Vec<_>>()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_transports_see_the_same() {
    let stand_in = StandIn::new();
    let shell = stand_in.shell();
    bench::run(through_api(), async |bench| {
        let outside = tempfile::tempdir().unwrap();
        let source = outside.path().display().to_string();
        bench.made(&full(bench, "created", &source)).await;
        let mut healthy = bench.shell("healthy", "sleep 1000");
        healthy.spec.healthcheck = full(bench, "x", &source)
            .spec
            .healthcheck
            .map(|check| HealthCheck { test: HealthTest::Shell(Text::plain("true")), ..check });
        bench.label(&mut healthy);
        let healthy = bench.started(&healthy).await;
        bench.engine.run_healthcheck(&healthy).await.unwrap();
        bench.started(&bench.shell("running", "sleep 1000")).await;
        let exited = bench.started(&bench.shell("exited", "exit 7")).await;
        bench.until(&exited, |state| matches!(state.phase, Phase::Exited { .. })).await;
        let paused = bench.started(&bench.shell("paused", "sleep 1000")).await;
        assert!(bench.aside(reqwest::Method::POST, &format!("/containers/{paused}/pause")).await.status().is_success());
        let mut foreign = bench.shell("foreign", "true");
        foreign.labels.clear();
        let foreign = bench.made(&foreign).await;

        let names: BTreeSet<_> = ["created", "healthy", "running", "exited", "paused", "foreign", "none"]
            .map(|suffix| bench.name(suffix))
            .into();
        for key in [bench.key.clone(), HostKey::from_bytes([9; 32])] {
            let mut look = bench.looking_for(&[]);
            (look.names, look.health, look.key) = (names.clone(), names.clone(), key);
            // Other tests make and remove images meanwhile.
            let mine = |mut guest: steadfast::model::Guest| {
                guest.looked_at = None;
                guest.images.retain(|_, id| *id == bench.image_id);
                guest.image_store.retain(|id, _| *id == bench.image_id);
                guest
            };
            let through_api = mine(bench.engine.look(&look).await.unwrap());
            let through_shell = mine(shell.look(&look).await.unwrap());
            assert_eq!(through_api.containers.len(), 6);
            let image = &through_api.image_store[&bench.image_id];
            assert_eq!(
                (&image.tags, image.containers),
                (&BTreeSet::from([bench.image.clone()]), Some(6)),
                "a foreign one counts"
            );
            assert!(image.size > 100_000, "{image:?}");
            assert_eq!(through_shell, through_api);
            assert_eq!(mine(shell.look(&look).await.unwrap()), through_api, "and so the second time");
        }
        for id in [&healthy, &exited, &paused, &foreign] {
            assert_eq!(shell.inspect(id).await.unwrap(), bench.engine.inspect(id).await.unwrap());
        }
        bench.engine.remove(&foreign, NOW).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_followed_ends_in_the_guest_too() {
    let stand_in = StandIn::new();
    let shell = stand_in.shell();
    bench::run(through_api(), async |bench| {
        let id = bench.started(&bench.shell("talks", "while true; do echo a line; sleep 0.2; done")).await;
        let request = LogRequest { follow: true, tail: None };
        let mut log = shell.logs(&id, &request).await.unwrap();
        let mut events = shell.events(&bench.owner.clone().into()).await.unwrap();
        bench.engine.rename(&id, &bench.name("renamed")).await.unwrap();
        within(log.next()).await.expect("a line").unwrap();
        within(events.next()).await.expect("an event").unwrap();
        assert!(stand_in.processes().len() >= 4, "{:?}", stand_in.processes());
        drop((log, events));
        let began = Instant::now();
        while !stand_in.processes().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(10), "left behind: {:?}", stand_in.processes());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_no_arguments() {
    let stand_in = StandIn::new();
    let shell = stand_in.shell();
    bench::run(through_api(), async |bench| {
        let id = bench.started(&bench.shell("x", "sleep 1000")).await;
        for tty in [None, Some(TermSize::default())] {
            keeps_its_secrets(&shell, &id, tty).await;
        }
    })
    .await;
}

async fn keeps_its_secrets(shell: &Shell, id: &ContainerId, tty: Option<TermSize>) {
    let request = ExecRequest {
        command: vec!["sh".into(), "-c".into(), "echo \"$A\" \"$HOME\"; sleep 3".into()],
        env: vec!["A=canary-one\ncanary-two".into(), "HOME=canary-three".into()],
        tty,
        ..ExecRequest::default()
    };
    let mut exec = shell.exec(id, &request).await.unwrap();
    let said = within(exec.output.next()).await.expect("a line").unwrap();
    let said = format!("{said:?}");
    // Nothing of the script that brought them is echoed.
    assert!(said.contains("canary-one") && said.matches("canary").count() == 3 && !said.contains("podman"), "{said}");
    let everywhere = std::fs::read_dir("/proc").unwrap().flatten();
    let words = everywhere.map(|process| std::fs::read(process.path().join("cmdline")).unwrap_or_default());
    let words: Vec<_> = words.map(|words| String::from_utf8_lossy(&words).into_owned()).collect();
    let telling: Vec<_> =
        words.iter().filter(|words| words.contains("canary-") && !words.contains("sf-canary")).collect();
    assert!(telling.is_empty(), "{telling:?}");
    assert!(words.iter().any(|words| words.contains("podman\0exec")), "the command was seen at all");
}

/// Where a guest sees the cache, it reads a tarball by itself, compressed or not, and takes no half of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_guest_sees_is_loaded_from_there() {
    let stand_in = StandIn::new();
    let shell = stand_in.shell();
    bench::run(through_api(), async |bench| {
        let directory = tempfile::tempdir().unwrap();
        for (at, compression) in [Compression::None, Compression::Gzip].into_iter().enumerate() {
            let name = format!("localhost/{}-seen:{at}", bench.owner);
            let image = docker_archive().tag(&*name).file("seen", name.clone()).compress(compression);
            let path = directory.path().join(format!("it's {at}.tar"));
            std::fs::write(&path, image.build()).unwrap();
            assert_eq!(shell.load_seen(&path).await.unwrap(), std::slice::from_ref(&name));
            let reference = ImageRef::new(name).unwrap();
            let id = bench.engine.image(&reference).await.unwrap().expect("it is there");
            assert_eq!(id.as_str(), image.id());
            bench.engine.remove_image(&id).await.unwrap();

            let mut half = image.build();
            half.truncate(half.len() / 2);
            std::fs::write(&path, half).unwrap();
            shell.load_seen(&path).await.expect_err("half an archive");
            assert_eq!(bench.engine.image(&reference).await.unwrap(), None);
        }
        shell.load_seen(&directory.path().join("nowhere.tar")).await.expect_err("no archive");
    })
    .await;
}
