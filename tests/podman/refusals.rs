//! What Podman refuses, and what we make of it.

use std::net::TcpListener;

use steadfast::backend::{Engine, EngineErrorKind, ExecRequest, LogRequest};
use steadfast::model::{ContainerId, ImageId, ImageRef, Mount, Phase, Port, Protocol, Text};

use crate::bench::{Bench, NOW};
use crate::support;

pub async fn a_taken_name_is_a_conflict<E: Engine>(bench: &Bench<E>) {
    let create = bench.shell("name", "true");
    bench.made(&create).await;
    let err = bench.engine.create(&create).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::Conflict, "{err}");
    assert!(err.message.starts_with(&format!("failed to create container `{}`: ", create.name)), "{err}");
    assert!(err.message.contains("already in use"), "{err}");
    match err.status {
        // What newer Podmans say.
        Some(409) => bench.assert_details(&err, 409),
        _ => bench.assert_details(&err, 500),
    }
    let other = bench.made(&bench.shell("other", "true")).await;
    let err = bench.engine.rename(&other, &create.name).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::Conflict, "{err}");
}

pub async fn a_missing_image_is_not_found<E: Engine>(bench: &Bench<E>) {
    let mut create = bench.shell("image", "true");
    create.image = ImageRef::new(format!("localhost/{}-none:1", bench.owner)).unwrap();
    let err = bench.engine.create(&create).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::NotFound, "{err}");
    assert!(err.message.contains(create.image.as_str()), "{err}");
    assert_eq!(bench.engine.image(&create.image).await.unwrap(), None);
}

pub async fn a_taken_port_is_a_conflict_that_names_it<E: Engine>(bench: &Bench<E>) {
    // Elsewhere a container has to hold it.
    let holder = bench.local.then(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = holder.as_ref().map_or(18_499, |holder| holder.local_addr().unwrap().port());
    let mut create = bench.shell("port", "sleep 1000");
    create.spec.ports =
        vec![Port { host_ip: "127.0.0.1".into(), host_port: port, container_port: 80, protocol: Protocol::Tcp }];
    let mut other = bench.shell("holder", "sleep 1000");
    other.spec.ports = create.spec.ports.clone();
    let other = if bench.local { None } else { Some(bench.started(&other).await) };
    let id = bench.made(&create).await;
    let err = bench.engine.start(&id).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::Conflict, "{err}");
    assert!(err.message.contains(&format!("127.0.0.1:{port}")), "{err}");
    assert_eq!(bench.state(&id).await.phase, Phase::Created);
    drop(holder);
    if let Some(other) = other {
        bench.engine.remove(&other, NOW).await.unwrap();
    }
    bench.engine.start(&id).await.unwrap();
}

pub async fn a_missing_program_is_reported_in_podmans_words<E: Engine>(bench: &Bench<E>) {
    let id = bench.made(&bench.command("program", &["no-such-program"])).await;
    let err = bench.engine.start(&id).await.unwrap_err();
    assert_eq!(err.kind, bench.refusal(), "{err}");
    assert!(err.message.contains("no-such-program") && err.message.contains("not found"), "{err}");
    assert_eq!(bench.state(&id).await.phase, Phase::Created, "a failed start leaves it as it was");
}

pub async fn a_missing_mount_source_is_not_made<E: Engine>(bench: &Bench<E>) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("not-there");
    let mut create = bench.shell("mount", "true");
    create.spec.mounts = vec![Mount::bind(Text::plain(source.display().to_string()), "/data", false)];
    let err = bench.engine.create(&create).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::NotFound, "{err}");
    assert!(err.message.contains("not-there"), "{err}");
    // Through an API elsewhere there are only Podman's own words.
    if bench.local || !bench.api {
        assert!(err.message.contains("does not exist"), "{err}");
    }
    assert!(!source.exists());
}

pub async fn what_is_gone_is_not_found<E: Engine>(bench: &Bench<E>) {
    let gone = ContainerId::new("00".repeat(32)).unwrap();
    let engine = &bench.engine;
    let exec = engine.exec(&gone, &ExecRequest { command: vec!["true".into()], ..ExecRequest::default() }).await;
    let failures = [
        ("start", engine.start(&gone).await.unwrap_err()),
        ("stop", engine.stop(&gone, NOW).await.unwrap_err()),
        ("unpause", engine.unpause(&gone).await.unwrap_err()),
        ("rename", engine.rename(&gone, &bench.name("gone")).await.unwrap_err()),
        ("healthcheck", engine.run_healthcheck(&gone).await.unwrap_err()),
        ("exec", exec.unwrap_err()),
        ("exec exit", engine.exec_exit("00").await.unwrap_err()),
        ("logs", engine.logs(&gone, &LogRequest::default()).await.err().unwrap()),
        ("tag", engine.tag(&ImageId::from(gone.as_str()), &bench.image).await.unwrap_err()),
    ];
    for (what, err) in failures {
        assert_eq!(err.kind, EngineErrorKind::NotFound, "{what}: {err} {:?}", err.status);
    }
    engine.remove(&gone, NOW).await.unwrap();
    engine.remove_image(&ImageId::from(gone.as_str())).await.unwrap();
    assert_eq!(engine.inspect(&gone).await.unwrap(), None);
}

pub async fn secrets_stay_out_of_errors<E: Engine>(bench: &Bench<E>) {
    let canary = support::unique("canary");
    let mut create = bench.shell("secret", "true");
    create.spec.env.insert("TOKEN".into(), Text::sensitive(canary.clone()));
    // Podman repeats a line it cannot make sense of.
    create.spec.add_hosts = vec![Text::sensitive(format!("host:{canary}"))];
    create.spec.mounts = vec![Mount::bind(Text::sensitive(format!("/none/{canary}")), "/data", true)];
    let unmounted = bench.engine.create(&create).await.unwrap_err();
    create.spec.mounts.clear();
    let unmade = match bench.engine.create(&create).await {
        Err(err) => Some(err),
        Ok(id) => bench.engine.start(&id).await.err(),
    };
    // The runtime tells a part of a target that it cannot make, by itself.
    create.spec.add_hosts.clear();
    create.spec.mounts = vec![Mount::bind(Text::plain("/var/tmp"), Text::sensitive(format!("/proc/{canary}/x")), true)];
    create.name = bench.name("target");
    let untargeted = match bench.engine.create(&create).await {
        Err(err) => Some(err),
        Ok(id) => bench.engine.start(&id).await.err().map(|err| err.hiding(&create.spec.secrets())),
    };
    assert!(untargeted.is_some(), "nothing can be mounted there");
    for err in std::iter::once(unmounted).chain(unmade).chain(untargeted) {
        assert!(!format!("{err} {err:?}").contains(&canary), "{err:?}");
    }
}
