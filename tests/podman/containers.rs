//! Creating, looking, starting, stopping, removing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use steadfast::backend::{Engine, EventKind, ExecRequest, LogRequest, Look};
use steadfast::model::{
    ContainerId, Health, HealthCheck, HealthTest, HostKey, ImageRef, Mount, Owner, Ownership, Phase, Port, PortRange,
    Protocol, RestartPolicy, RootClaim, RootId, Text, Volume, Whose, labels,
};

use crate::bench::{Bench, NOW, Output, output, whole, within};
use crate::support::archive::docker_archive;

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn check(line: &str, retries: u32) -> HealthCheck {
    HealthCheck {
        test: HealthTest::Shell(Text::plain(line)),
        interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(5),
        retries,
        ..HealthCheck::new(HealthTest::Shell("".into()))
    }
}

pub async fn every_field_reaches_the_container<E: Engine>(bench: &Bench<E>) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("note"), "from outside\n").unwrap();
    // Elsewhere, something that every Linux has.
    let source = if bench.local { directory.path().display().to_string() } else { "/var/tmp".to_owned() };
    let port =
        Port { host_ip: "127.0.0.1".into(), host_port: free_port(), container_port: 80, protocol: Protocol::Tcp };
    let udp = Port { host_ip: "0.0.0.0".into(), host_port: free_port(), container_port: 53, protocol: Protocol::Udp };
    let mut create = bench.shell("full", "sleep 1000");
    create.spec.env = BTreeMap::from([
        ("PLAIN".to_owned(), Text::plain("two words=and \"more\"")),
        ("EMPTY".to_owned(), Text::plain("")),
    ]);
    create.spec.mounts = vec![
        Mount::bind(Text::plain(source.clone()), "/data", true),
        Mount::bind(Text::plain(source.clone()), "/both", false),
    ];
    create.spec.ports = vec![port.clone(), udp.clone()];
    create.spec.restart = RestartPolicy::OnFailure;
    create.spec.add_hosts = vec![
        Text::plain("host.containers.internal:host-gateway"),
        Text::plain("host.docker.internal:host-gateway"),
        Text::plain("other:10.1.2.3"),
    ];
    create.spec.healthcheck = Some(check("exit 0", 2));
    bench.label(&mut create);
    let id = bench.made(&create).await;
    assert_eq!(bench.state(&id).await.phase, Phase::Created, "it is made, not started");
    bench.engine.start(&id).await.unwrap();

    let listed = bench.state(&id).await;
    let ports = PortRange::merged([port, udp].map(PortRange::from));
    assert_eq!(listed.phase, Phase::Running);
    assert_eq!(listed.image, bench.image_id);
    assert_eq!(listed.image_name, bench.image.as_str());
    assert_eq!(listed.ports, ports);
    assert_eq!(listed.health, Some(Health::Starting));
    assert!(listed.pid.is_some() && listed.started_at.is_some(), "{listed:?}");
    let Owner::Ours { agent, spec, version } = &listed.owner else { panic!("{listed:?}") };
    assert_eq!(agent.as_ref().map(|agent| agent.as_str()), Some("agent"));
    assert!(spec.as_ref().unwrap().changes(*version, &create.spec, &create.image, &bench.key, None).is_empty());

    let closer = bench.engine.inspect(&id).await.unwrap().unwrap();
    assert_eq!((closer.phase.clone(), closer.pid, closer.restarts), (Phase::Running, listed.pid, Some(0)));
    assert_eq!(closer.ports, ports);
    assert_eq!(closer.restart.as_deref(), Some("on-failure"));
    let live = closer.live.unwrap();
    assert_eq!(live.env.get("PLAIN").map(String::as_str), Some("two words=and \"more\""));
    assert_eq!(live.env.get("EMPTY").map(String::as_str), Some(""));
    assert_eq!(live.env.get("BUILT").map(String::as_str), Some("yes"), "the image's own environment stays");
    assert_eq!(live.command.unwrap(), ["sh", "-c", "sleep 1000"]);
    assert_eq!(live.mounts["/data"], format!("{source}:ro"));
    assert_eq!(live.mounts["/both"], source);
    assert_eq!(live.health_test.unwrap(), ["CMD-SHELL", "exit 0"]);

    let line = "cat /data/note; touch /data/x 2>/dev/null && echo written; echo back > /both/y; cat /etc/hosts";
    let request = ExecRequest { command: vec!["sh".into(), "-c".into(), line.into()], ..ExecRequest::default() };
    let (inside, _) = output(bench.engine.exec(&id, &request).await.unwrap()).await.text();
    assert!(!inside.contains("written"), "{inside}");
    if bench.local {
        assert!(inside.starts_with("from outside"), "{inside}");
        assert_eq!(std::fs::read_to_string(directory.path().join("y")).unwrap(), "back\n");
    }
    let address = |host: &str| {
        let line = inside.lines().find(|line| line.split_whitespace().any(|word| word == host));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned()
    };
    assert_eq!(address("other"), "10.1.2.3");
    assert!(!inside.contains("host-gateway"), "{inside}");
    assert!(address("host.docker.internal").parse::<std::net::IpAddr>().is_ok(), "{inside}");
    assert!(address("host.containers.internal").parse::<std::net::IpAddr>().is_ok(), "{inside}");
}

pub async fn another_roots_are_foreign<E: Engine>(bench: &Bench<E>) {
    let (here, there) = ("a1".repeat(16), "b2".repeat(16));
    let mut ids = BTreeMap::new();
    for (suffix, root) in [("here", &here), ("there", &there), ("elsewhere", &there)] {
        let mut create = bench.shell(suffix, "true");
        create.labels.insert(labels::ROOT.to_owned(), root.clone());
        create.labels.insert(labels::ROOT_PATH.to_owned(), "/r".to_owned());
        ids.insert(suffix, bench.made(&create).await);
    }
    let root = RootClaim { id: RootId::parse(&here), place: None, unlabelled: false };
    let look = bench.looking_for(&[&bench.name("there")]);
    let look = Look { owner: Ownership { root, ..look.owner }, ..look };
    let guest = bench.engine.look(&look).await.unwrap();
    let seen: BTreeMap<_, _> = guest.containers.iter().map(|(name, seen)| (name.clone(), seen.owner.whose())).collect();
    let theirs = Whose::Root { id: there, path: Some("/r".to_owned()) };
    assert_eq!(seen, [(bench.name("here"), None), (bench.name("there"), Some(theirs))].into());
    for id in ids.values() {
        bench.engine.remove(id, NOW).await.unwrap();
    }
}

pub async fn a_copy_is_distinguished_from_what_it_was_made_of<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.shell("agent", "true");
    create.labels.insert(labels::ID.to_owned(), "one".to_owned());
    let agent = bench.made(&create).await;
    let image = bench.commit(&agent, "copy").await;
    // Whatever runs from it has its labels, but for those it is given itself.
    let mut copy = bench.shell("copy", "true");
    copy.image = image;
    copy.labels.clear();
    let copy_id = bench.made(&copy).await;
    let mut anew = bench.shell("anew", "true");
    anew.image = copy.image.clone();
    anew.labels.insert(labels::ID.to_owned(), "two".to_owned());
    bench.made(&anew).await;

    let guest = bench.guest().await;
    assert_eq!(guest.containers.keys().collect::<Vec<_>>(), [&bench.name("agent"), &bench.name("anew")]);
    let guest = bench.engine.look(&bench.looking_for(&[&bench.name("copy")])).await.unwrap();
    assert_eq!(guest.containers[&bench.name("copy")].owner, Owner::Foreign(Whose::Copy));
    for state in guest.containers.values() {
        bench.engine.remove(&state.id, NOW).await.unwrap();
    }
    assert!(bench.engine.inspect(&copy_id).await.unwrap().is_none());
    let id = bench.engine.image(&copy.image).await.unwrap().expect("the copy's image");
    bench.engine.remove_image(&id).await.unwrap();
}

pub async fn a_look_finds_ours_and_the_foreign_one_with_a_wanted_name<E: Engine>(bench: &Bench<E>) {
    let ours = bench.made(&bench.shell("ours", "true")).await;
    let mut foreign = bench.shell("foreign", "true");
    foreign.labels = BTreeMap::from([("steadfast.name".to_owned(), "somebody-else".to_owned())]);
    let foreign_id = bench.made(&foreign).await;
    let mut bystander = bench.shell("foreign-2", "true");
    bystander.labels.clear();
    let bystander_id = bench.made(&bystander).await;

    let names = [&bench.name("ours"), &bench.name("foreign"), &bench.name("none")];
    let guest = bench.engine.look(&bench.looking_for(&names)).await.unwrap();
    let seen: Vec<_> = guest.containers.iter().map(|(name, state)| (name.clone(), state.id.clone())).collect();
    assert_eq!(seen, [(bench.name("foreign"), foreign_id.clone()), (bench.name("ours"), ours)]);
    assert_eq!(guest.containers[&bench.name("foreign")].owner, Owner::Foreign(Whose::Name("somebody-else".into())));
    assert!(matches!(guest.containers[&bench.name("ours")].owner, Owner::Ours { .. }));
    assert_eq!(guest.images.get(&bench.image), Some(&bench.image_id));
    assert!(guest.version.split('.').count() >= 3, "{}", guest.version);

    for id in [foreign_id, bystander_id] {
        bench.engine.remove(&id, NOW).await.unwrap();
    }
}

pub async fn the_life_of_a_container<E: Engine>(bench: &Bench<E>) {
    let create = bench.shell("life", "trap 'exit 3' TERM; while true; do sleep 0.1; done");
    let id = bench.made(&create).await;
    bench.engine.start(&id).await.unwrap();
    bench.until(&id, |state| state.phase == Phase::Running).await;
    let renamed = bench.name("life.prev");
    bench.engine.rename(&id, &renamed).await.unwrap();
    assert!(bench.guest().await.containers.contains_key(&renamed));
    assert!(!bench.guest().await.containers.contains_key(&create.name), "the old name is free");

    bench.engine.stop(&id, Duration::from_secs(10)).await.unwrap();
    assert_eq!(bench.state(&id).await.phase, Phase::Exited { code: 3 }, "it had its grace");
    bench.engine.start(&id).await.unwrap();
    assert_eq!(bench.state(&id).await.phase, Phase::Running);
    bench.engine.remove(&id, NOW).await.unwrap();
    assert!(bench.guest().await.containers.is_empty());
    assert_eq!(bench.engine.inspect(&id).await.unwrap(), None);
}

pub async fn anonymous_volumes_outlive_their_container<E: Engine>(bench: &Bench<E>) {
    let create = bench.shell("volume", "sleep 1000");
    let body = serde_json::json!({
        "name": create.name.as_str(),
        "image": create.image.as_str(),
        "command": create.spec.command.iter().flatten().map(Text::expose).collect::<Vec<_>>(),
        "labels": create.labels,
        "volumes": [{ "Name": "", "Dest": "/vol" }],
    });
    let read = async |answer: reqwest::Response| {
        serde_json::from_slice::<serde_json::Value>(&answer.bytes().await.unwrap()).expect("JSON")
    };
    let made = read(bench.aside_with(reqwest::Method::POST, "/containers/create", body.to_string()).await).await;
    let id = ContainerId::new(made["Id"].as_str().expect("an id")).unwrap();
    bench.engine.start(&id).await.unwrap();
    let inspected = read(bench.aside(reqwest::Method::GET, &format!("/containers/{id}/json")).await).await;
    let volume = inspected["Mounts"][0]["Name"].as_str().expect("a volume").to_owned();
    bench.engine.remove(&id, NOW).await.unwrap();
    let left = bench.aside(reqwest::Method::GET, &format!("/volumes/{volume}/json")).await.status();
    bench.aside(reqwest::Method::DELETE, &format!("/volumes/{volume}")).await;
    assert!(left.is_success(), "{left}");
}

pub async fn a_volume_goes_from_one_container_to_the_next<E: Engine>(bench: &Bench<E>) {
    let read = async |answer: reqwest::Response| {
        serde_json::from_slice::<serde_json::Value>(&answer.bytes().await.unwrap()).expect("JSON")
    };
    let first = bench.shell("first", "echo precious >/vol/memo; sleep 1000");
    let body = serde_json::json!({
        "name": first.name.as_str(),
        "image": first.image.as_str(),
        "command": first.spec.command.iter().flatten().map(Text::expose).collect::<Vec<_>>(),
        "labels": first.labels,
        "volumes": [{ "Name": "", "Dest": "/vol" }],
    });
    let made = read(bench.aside_with(reqwest::Method::POST, "/containers/create", body.to_string()).await).await;
    let id = ContainerId::new(made["Id"].as_str().expect("an id")).unwrap();
    bench.engine.start(&id).await.unwrap();
    let volumes = async |id: &ContainerId| bench.engine.inspect(id).await.unwrap().unwrap().live.unwrap().volumes;
    let had = volumes(&id).await;
    let [volume] = &had[..] else { panic!("{had:?}") };
    assert!(volume.is_anonymous() && volume.target == "/vol" && !volume.read_only, "{volume:?}");
    bench.engine.stop(&id, NOW).await.unwrap();

    let mut next = bench.shell("next", "cat /vol/memo; sleep 1000");
    next.volumes.clone_from(&had);
    let next = bench.started(&next).await;
    assert_eq!(volumes(&next).await, had);
    let log = async |id: &ContainerId| {
        let request = LogRequest { follow: false, tail: None };
        within(Output::of(bench.engine.logs(id, &request).await.unwrap())).await.text().0
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while log(&next).await != "precious\n" {
        assert!(std::time::Instant::now() < deadline, "{:?}", log(&next).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Neither of them takes it along.
    for id in [&id, &next] {
        bench.engine.remove(id, NOW).await.unwrap();
    }
    let left = bench.aside(reqwest::Method::GET, &format!("/volumes/{}/json", volume.name)).await.status();
    assert!(left.is_success(), "{left}");

    let mut reader = bench.shell("reader", "touch /vol/new && sleep 1000; echo refused");
    reader.volumes = vec![Volume { read_only: true, ..volume.clone() }];
    let reader = bench.started(&reader).await;
    bench.until(&reader, |state| matches!(state.phase, Phase::Exited { .. })).await;
    assert_eq!((log(&reader).await.as_str(), volumes(&reader).await[0].read_only), ("refused\n", true));
    bench.engine.remove(&reader, NOW).await.unwrap();
    bench.aside(reqwest::Method::DELETE, &format!("/volumes/{}", volume.name)).await;
}

pub async fn a_container_is_found_by_its_name<E: Engine>(bench: &Bench<E>) {
    let create = bench.shell("named", "sleep 1000");
    assert_eq!(bench.engine.named(&create.name).await.unwrap(), None);
    let id = bench.made(&create).await;
    let found = bench.engine.named(&create.name).await.unwrap().expect("a container");
    assert_eq!((&found.id, &found.phase), (&id, &Phase::Created));
    bench.engine.rename(&id, &bench.name("other")).await.unwrap();
    assert_eq!(bench.engine.named(&create.name).await.unwrap(), None);
}

pub async fn asking_twice_is_fine<E: Engine>(bench: &Bench<E>) {
    let id = bench.made(&bench.shell("twice", "sleep 1000")).await;
    bench.engine.stop(&id, NOW).await.unwrap();
    for _ in 0..2 {
        bench.engine.start(&id).await.unwrap();
    }
    let pid = bench.state(&id).await.pid;
    bench.engine.start(&id).await.unwrap();
    assert_eq!(bench.state(&id).await.pid, pid, "a running container is left alone");
    bench.engine.unpause(&id).await.unwrap();
    for _ in 0..2 {
        bench.engine.stop(&id, NOW).await.unwrap();
    }
    for _ in 0..2 {
        bench.engine.remove(&id, NOW).await.unwrap();
    }
}

pub async fn exit_codes_are_seen<E: Engine>(bench: &Bench<E>) {
    for code in [0, 7] {
        let id = bench.started(&bench.shell(&format!("exit{code}"), &format!("exit {code}"))).await;
        let state = bench.until(&id, |state| matches!(state.phase, Phase::Exited { .. })).await;
        assert_eq!(state.phase, Phase::Exited { code });
        assert_eq!(state.pid, None);
        assert_eq!(bench.engine.inspect(&id).await.unwrap().unwrap().phase, Phase::Exited { code });
    }
}

pub async fn a_frozen_container_is_unfrozen_stopped_and_removed<E: Engine>(bench: &Bench<E>) {
    let id = bench.started(&bench.shell("frozen", "sleep 1000")).await;
    let freeze = async || {
        let answer = bench.aside(reqwest::Method::POST, &format!("/containers/{id}/pause")).await;
        assert!(answer.status().is_success(), "{answer:?}");
        assert_eq!(bench.state(&id).await.phase, Phase::Paused);
    };
    freeze().await;
    bench.engine.unpause(&id).await.unwrap();
    assert_eq!(bench.state(&id).await.phase, Phase::Running);
    freeze().await;
    bench.engine.stop(&id, NOW).await.unwrap();
    assert!(matches!(bench.state(&id).await.phase, Phase::Exited { .. }));
    bench.engine.start(&id).await.unwrap();
    freeze().await;
    bench.engine.remove(&id, NOW).await.unwrap();
    assert!(bench.guest().await.containers.is_empty());
}

/// Podman on this machine only: the process is killed behind its back.
pub async fn a_start_right_after_an_exit_is_not_swallowed<E: Engine>(bench: &Bench<E>) {
    if !bench.local {
        return;
    }
    let id = bench.started(&bench.shell("died", "sleep 1000")).await;
    for _ in 0..5 {
        let before = bench.until(&id, |state| state.phase == Phase::Running).await.pid.unwrap();
        let killed = std::process::Command::new("kill").args(["-9", &before.to_string()]).status().unwrap();
        assert!(killed.success());
        bench.engine.start(&id).await.unwrap();
        let now = bench.engine.inspect(&id).await.unwrap().unwrap();
        assert_eq!(now.phase, Phase::Running);
        assert_ne!(now.pid, Some(before), "the start was swallowed");
    }
}

pub async fn what_podman_restarts_all_the_time_stays_stopped<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.shell("again", "exit 1");
    create.spec.restart = RestartPolicy::Always;
    bench.label(&mut create);
    let id = bench.started(&create).await;
    for round in 0..6 {
        let first = bench.state(&id).await.started_at;
        bench.until(&id, |state| state.started_at != first).await;
        bench.engine.stop(&id, Duration::from_secs(5)).await.unwrap();
        let stopped = bench.engine.inspect(&id).await.unwrap().unwrap();
        // Podman takes a tenth of a second for a restart.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = bench.engine.inspect(&id).await.unwrap().unwrap();
            assert_eq!((&now.phase, now.started_at), (&stopped.phase, stopped.started_at), "round {round}");
            // Caught between two restarts it may be as new: made ready for a start that does not come.
            let is_down = matches!(now.phase, Phase::Exited { .. } | Phase::Created);
            assert!(is_down, "round {round}: {now:?}");
        }
        bench.engine.start(&id).await.unwrap();
    }
}

/// Podman's service waits for few at once (seven, with two processors).
pub async fn many_that_ignore_their_signal_stop_in_one_grace<E: Engine>(bench: &Bench<E>) {
    if !bench.local {
        return;
    }
    let grace = Duration::from_secs(8);
    let mut ids = Vec::new();
    for number in 0..16 {
        let mut create = bench.shell(&format!("deaf{number}"), "trap '' TERM; while true; do sleep 1000; done");
        create.spec.restart = RestartPolicy::Always;
        bench.label(&mut create);
        ids.push(bench.started(&create).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let stops = ids.iter().map(|id| bench.engine.stop(id, grace));
    for outcome in futures_util::future::join_all(stops).await {
        outcome.unwrap();
    }
    let took = began.elapsed();
    // Three graces by the API, four by the command line, were Podman the one who waits.
    assert!(took >= grace && took < Duration::from_secs(if bench.api { 22 } else { 30 }), "{took:?}");
    for state in bench.guest().await.containers.values() {
        assert_eq!(state.phase, Phase::Exited { code: 137 });
    }
}

/// Before 4.7 Podman restarts what a signal of ours ended.
pub async fn what_honours_its_signal_is_not_started_again<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.shell("polite", "trap 'exit 3' TERM; while true; do sleep 0.1; done");
    create.spec.restart = RestartPolicy::Always;
    bench.label(&mut create);
    let id = bench.started(&create).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    bench.engine.stop(&id, Duration::from_secs(20)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stopped = bench.engine.inspect(&id).await.unwrap().unwrap();
    assert_eq!((stopped.phase, stopped.restarts), (Phase::Exited { code: 3 }, Some(0)));
}

pub async fn a_container_is_asked_to_end_by_its_own_signal<E: Engine>(bench: &Bench<E>) {
    for policy in ["no", "always"] {
        let line = "trap 'exit 5' USR1; trap 'exit 6' TERM; while true; do sleep 0.1; done";
        let create = bench.shell(&format!("usr1-{policy}"), line);
        let body = serde_json::json!({
            "name": create.name.as_str(),
            "image": create.image.as_str(),
            "command": create.spec.command.iter().flatten().map(Text::expose).collect::<Vec<_>>(),
            "labels": create.labels,
            "stop_signal": 10,
            "restart_policy": policy,
        });
        let answer = bench.aside_with(reqwest::Method::POST, "/containers/create", body.to_string()).await;
        assert!(answer.status().is_success(), "{answer:?}");
        let id = bench.guest().await.containers[&create.name].id.clone();
        bench.engine.start(&id).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        bench.engine.stop(&id, Duration::from_secs(20)).await.unwrap();
        assert_eq!(bench.state(&id).await.phase, Phase::Exited { code: 5 }, "{policy}");
    }
}

pub async fn health_checks_run_on_demand<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.shell("health", "sleep 1000");
    create.spec.healthcheck = Some(check("test -e /tmp/well", 2));
    let id = bench.started(&create).await;
    let mut look = bench.looking_for(&[&create.name]);
    look.health = BTreeSet::from([create.name.clone()]);
    let verdict = async || bench.engine.look(&look).await.unwrap().containers[&create.name].health.clone();
    assert_eq!(verdict().await, Some(Health::Starting));
    for _ in 0..2 {
        bench.engine.run_healthcheck(&id).await.unwrap();
    }
    assert_eq!(verdict().await, Some(Health::Unhealthy));
    let touch = ExecRequest { command: vec!["touch".into(), "/tmp/well".into()], ..ExecRequest::default() };
    output(bench.engine.exec(&id, &touch).await.unwrap()).await;
    bench.engine.run_healthcheck(&id).await.unwrap();
    assert_eq!(verdict().await, Some(Health::Healthy));
    assert_eq!(bench.engine.inspect(&id).await.unwrap().unwrap().health, Some(Health::Healthy));
}

pub async fn a_lost_key_brings_live_values<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.shell("key", "true");
    create.spec.env.insert("TOKEN".into(), Text::sensitive("canary-value"));
    bench.label(&mut create);
    let id = bench.made(&create).await;
    assert_eq!(bench.state(&id).await.live, None, "with our key, the label is enough");
    let mut look = bench.looking_for(&[]);
    look.key = HostKey::from_bytes([9; 32]);
    let guest = bench.engine.look(&look).await.unwrap();
    let state = &guest.containers[&create.name];
    let live = state.live.as_ref().expect("live values");
    assert_eq!(live.env["TOKEN"], "canary-value");
    let Owner::Ours { spec: Some(spec), version, .. } = &state.owner else { panic!("{state:?}") };
    assert!(spec.changes(*version, &create.spec, &create.image, &look.key, Some(live)).is_empty());
}

pub async fn events_are_the_owners<E: Engine>(bench: &Bench<E>) {
    let mut events = bench.engine.events(&bench.owner.clone().into()).await.unwrap();
    let mut foreign = bench.shell("foreign", "true");
    foreign.labels.clear();
    let foreign_id = bench.made(&foreign).await;
    bench.engine.remove(&foreign_id, NOW).await.unwrap();
    let ours = bench.name("ours");
    let id = bench.started(&bench.shell("ours", "exit 5")).await;
    let mut seen = Vec::new();
    within(async {
        while !seen.contains(&EventKind::Died) {
            let event = events.next().await.expect("the stream goes on").unwrap();
            let Some(container) = event.container else { continue };
            assert_eq!(container, ours.as_str(), "somebody else's event");
            seen.push(event.kind);
        }
    })
    .await;
    assert!(seen.contains(&EventKind::Other("create".to_owned())) && seen.contains(&EventKind::Started), "{seen:?}");
    bench.engine.remove(&id, NOW).await.unwrap();
    within(async {
        while !seen.contains(&EventKind::Other("remove".to_owned())) {
            seen.push(events.next().await.expect("the stream goes on").unwrap().kind);
        }
    })
    .await;
}

pub async fn ports_lead_to_the_agent<E: Engine>(bench: &Bench<E>) {
    let port = free_port();
    let mut create = bench.command("agent", &["/agent"]);
    create.spec.ports =
        vec![Port { host_ip: "127.0.0.1".into(), host_port: port, container_port: 8080, protocol: Protocol::Tcp }];
    create.spec.command = None;
    bench.started(&create).await;
    if !bench.local {
        return;
    }
    let answer = within(async {
        loop {
            let tried = std::process::Command::new("busybox")
                .args(["wget", "-qO-", &format!("http://127.0.0.1:{port}/")])
                .output()
                .unwrap();
            if tried.status.success() {
                return String::from_utf8(tried.stdout).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(answer, "hello from the agent\n");
}

/// An image of the bench's with this configuration, loaded.
async fn image<E: Engine>(bench: &Bench<E>, tag: &str, fields: &[(&str, serde_json::Value)]) -> ImageRef {
    let reference = format!("localhost/{}-{tag}:1", bench.owner);
    let image = docker_archive().tag(&reference).file("owner", reference.clone());
    let image = fields.iter().fold(image, |image, (field, value)| image.config(field, value.clone()));
    bench.engine.load(whole(image.build())).await.expect("the test's image loads");
    ImageRef::new(reference).expect("a reference")
}

async fn inspected<E: Engine>(bench: &Bench<E>, id: &ContainerId) -> serde_json::Value {
    let answer = bench.aside(reqwest::Method::GET, &format!("/containers/{id}/json")).await;
    serde_json::from_slice(&answer.bytes().await.unwrap()).expect("JSON")
}

async fn gone<E: Engine>(bench: &Bench<E>, id: &ContainerId, image: &ImageRef) {
    bench.engine.remove(id, NOW).await.unwrap();
    let image = bench.engine.image(image).await.unwrap().expect("the image is there");
    bench.engine.remove_image(&image).await.unwrap();
}

pub async fn an_images_health_check_is_switched_off<E: Engine>(bench: &Bench<E>) {
    let check = serde_json::json!({"Test": ["CMD", "false"], "Interval": 1_000_000_000_u64, "Retries": 1});
    let image = image(bench, "checked", &[("Healthcheck", check)]).await;
    let mut create = bench.shell("off", "sleep 1000");
    create.image = image.clone();
    create.spec.no_healthcheck = true;
    bench.label(&mut create);
    let id = bench.started(&create).await;
    let seen = inspected(bench, &id).await;
    assert_eq!(seen["Config"]["Healthcheck"]["Test"], serde_json::json!(["NONE"]), "{seen}");
    let closer = bench.engine.inspect(&id).await.unwrap().unwrap();
    assert_eq!((closer.phase, closer.health), (Phase::Running, None), "nobody waits for a verdict");
    bench.engine.remove(&id, NOW).await.unwrap();

    create.spec.no_healthcheck = false;
    bench.label(&mut create);
    let id = bench.made(&create).await;
    let seen = inspected(bench, &id).await;
    assert_eq!(
        seen["Config"]["Healthcheck"]["Test"],
        serde_json::json!(["CMD", "false"]),
        "otherwise it is kept: {seen}"
    );
    gone(bench, &id, &image).await;
}

pub async fn an_empty_command_is_no_arguments<E: Engine>(bench: &Bench<E>) {
    let image = image(bench, "talks", &[("Entrypoint", serde_json::json!(["echo", "arguments:"]))]).await;
    let mut create = bench.shell("talks", "unused");
    create.image = image.clone();
    for (command, said) in [(None, "arguments: /agent\n"), (Some(Vec::new()), "arguments:\n")] {
        create.spec.command = command;
        bench.label(&mut create);
        let id = bench.started(&create).await;
        bench.until(&id, |state| matches!(state.phase, Phase::Exited { code: 0 })).await;
        let logs = bench.engine.logs(&id, &LogRequest::default()).await.unwrap();
        assert_eq!(within(Output::of(logs)).await.text().0, said);
        bench.engine.remove(&id, NOW).await.unwrap();
    }
    let mut nothing = bench.shell("nothing", "unused");
    nothing.spec.command = Some(Vec::new());
    bench.label(&mut nothing);
    let err = bench.engine.create(&nothing).await.unwrap_err();
    assert!(err.message.contains("has no entrypoint, so the empty `command: []` leaves nothing to run"), "{err}");
    assert!(!bench.guest().await.containers.contains_key(&nothing.name), "nothing was made");
    let image = bench.engine.image(&image).await.unwrap().expect("the image is there");
    bench.engine.remove_image(&image).await.unwrap();
}
