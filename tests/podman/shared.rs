//! Volumes and networks: made, seen as they were made, and removed; and what they are for.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast::backend::{Engine, EngineErrorKind, ExecRequest};
use steadfast::model::spec::{Attachment, MountSource, NetworkMode};
use steadfast::model::{ContainerId, MakeNetwork, MakeVolume, Mount, NetworkSpec, VolumeSpec};

use crate::bench::{Bench, NOW, output};

fn labels(key: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("team".to_owned(), "a=b c".to_owned()), ("steadfast.key".to_owned(), key.to_owned())])
}

fn network<E: Engine>(bench: &Bench<E>, key: &str, subnet: Option<&str>) -> MakeNetwork {
    let subnet = subnet.map(str::to_owned);
    let (key, labels) = (key.to_owned(), labels(key));
    let name = format!("{}-{key}", bench.owner);
    let spec =
        NetworkSpec { key, external: false, labels: BTreeMap::new(), internal: false, subnet, ipv6: false, dns: true };
    MakeNetwork { name, spec, labels }
}

fn volume<E: Engine>(bench: &Bench<E>, key: &str) -> MakeVolume {
    let (key, labels) = (key.to_owned(), labels(key));
    let name = format!("{}-{key}", bench.owner);
    let options = BTreeMap::new();
    MakeVolume {
        name,
        spec: VolumeSpec { key, external: false, labels: BTreeMap::new(), driver: None, options },
        labels,
    }
}

async fn inside<E: Engine>(bench: &Bench<E>, id: &ContainerId, line: &str) -> String {
    let request = ExecRequest { command: vec!["sh".into(), "-c".into(), line.into()], ..ExecRequest::default() };
    let (out, err) = output(bench.engine.exec(id, &request).await.unwrap()).await.text();
    format!("{out}{err}")
}

pub async fn networks_are_made_seen_and_removed<E: Engine>(bench: &Bench<E>) {
    let plain = network(bench, "plain", None);
    let mut strict = network(bench, "strict", Some("10.211.37.0/24"));
    strict.spec.internal = true;
    strict.spec.dns = false;
    for make in [&plain, &strict] {
        bench.engine.create_network(make).await.unwrap_or_else(|err| panic!("{err} {:?}", err.body));
        bench.engine.create_network(make).await.expect("one that is there is fine");
    }
    let seen = bench.engine.shared().await.unwrap().networks;
    for make in [&plain, &strict] {
        let state = &seen[&make.name];
        assert_eq!(state.changes(&make.spec), [], "{state:?}");
        assert_eq!(state.labels, make.labels);
    }
    assert_eq!(seen[&strict.name].subnets, ["10.211.37.0/24"]);
    let changes =
        seen[&strict.name].changes(&NetworkSpec { subnet: Some("10.9.0.0/16".to_owned()), ..plain.spec.clone() });
    let fields: Vec<_> = changes.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(fields, ["internal", "subnet", "dns"]);
    let mut clash = network(bench, "clash", Some("10.211.37.0/24"));
    clash.spec.subnet = strict.spec.subnet.clone();
    let err = bench.engine.create_network(&clash).await.unwrap_err();
    assert!(err.message.contains("10.211.37.0/24"), "the subnet is named: {err}");
    for make in [&plain, &strict] {
        bench.engine.remove_network(&make.name).await.unwrap();
        bench.engine.remove_network(&make.name).await.expect("one that is gone is fine");
    }
    let left = bench.engine.shared().await.unwrap().networks;
    assert!(!left.contains_key(&plain.name) && !left.contains_key(&strict.name));
}

pub async fn agents_of_one_network_find_each_other<E: Engine>(bench: &Bench<E>) {
    let make = network(bench, "net", None);
    bench.engine.create_network(&make).await.unwrap();
    let on = |aliases: &[&str]| {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        NetworkMode::Networks(BTreeMap::from([(make.name.clone(), Attachment { aliases, ip: None })]))
    };
    let mut db = bench.shell("db", "busybox httpd -f -p 8080 -h / || sleep 1000");
    db.spec.network.mode = on(&["db", "store"]);
    bench.label(&mut db);
    let mut web = bench.shell("web", "sleep 1000");
    web.spec.network.mode = on(&["web"]);
    bench.label(&mut web);
    let (db, web) = (bench.started(&db).await, bench.started(&web).await);
    for name in ["db", "store"] {
        let found = inside(bench, &web, &format!("busybox nslookup {name} 2>&1 || nslookup {name} 2>&1")).await;
        assert!(found.contains(&format!("Name:\t{name}")) || found.contains("Address"), "{name}: {found}");
        assert!(!found.contains("NXDOMAIN") && !found.contains("can't resolve"), "{name}: {found}");
    }
    // A network that is in use stays.
    let err = bench.engine.remove_network(&make.name).await.unwrap_err();
    assert_ne!(err.kind, EngineErrorKind::NotFound, "{err}");
    for id in [db, web] {
        bench.engine.remove(&id, NOW).await.unwrap();
    }
    bench.engine.remove_network(&make.name).await.unwrap();
}

pub async fn an_address_on_a_network_is_kept<E: Engine>(bench: &Bench<E>) {
    let make = network(bench, "fixed", Some("10.212.38.0/24"));
    bench.engine.create_network(&make).await.unwrap();
    let mut agent = bench.shell("fixed", "sleep 1000");
    let attachment = Attachment { aliases: vec!["fixed".to_owned()], ip: Some("10.212.38.77".parse().unwrap()) };
    agent.spec.network.mode = NetworkMode::Networks(BTreeMap::from([(make.name.clone(), attachment)]));
    bench.label(&mut agent);
    let id = bench.started(&agent).await;
    let addresses = inside(bench, &id, "ip -4 addr show 2>/dev/null || busybox ip -4 addr show").await;
    assert!(addresses.contains("10.212.38.77/24"), "{addresses}");
    bench.engine.remove(&id, NOW).await.unwrap();
    bench.engine.remove_network(&make.name).await.unwrap();
}

pub async fn no_network_and_the_hosts<E: Engine>(bench: &Bench<E>) {
    for (suffix, mode, expected) in [("none", NetworkMode::None, false), ("host", NetworkMode::Host, true)] {
        let mut agent = bench.shell(suffix, "sleep 1000");
        agent.spec.network.mode = mode;
        bench.label(&mut agent);
        let id = bench.started(&agent).await;
        let namespace = inside(bench, &id, "readlink /proc/self/ns/net").await;
        let links = inside(bench, &id, "ls /sys/class/net").await;
        if bench.local {
            let here = std::fs::read_link("/proc/self/ns/net").unwrap();
            assert_eq!(here.to_string_lossy() == namespace.trim(), expected, "{suffix}: {namespace}");
        }
        assert!(expected || links.trim() == "lo", "{suffix}: {links}");
        bench.engine.remove(&id, NOW).await.unwrap();
    }
}

pub async fn volumes_are_made_seen_and_outlive_containers<E: Engine>(bench: &Bench<E>) {
    let make = volume(bench, "data");
    bench.engine.create_volume(&make).await.unwrap_or_else(|err| panic!("{err} {:?}", err.body));
    bench.engine.create_volume(&make).await.expect("one that is there is fine");
    let seen = bench.engine.shared().await.unwrap().volumes;
    let state = &seen[&make.name];
    assert_eq!((state.driver.as_str(), &state.labels), ("local", &make.labels));
    assert_eq!(state.changes(&make.spec), []);
    for (round, expected) in [("one", "one\n"), ("two", "one\ntwo\n")] {
        let mut agent = bench.shell("writer", "sleep 1000");
        agent.spec.mounts = vec![Mount::new(MountSource::Volume(make.name.clone()), "/data", false)];
        bench.label(&mut agent);
        let id = bench.started(&agent).await;
        assert_eq!(inside(bench, &id, &format!("echo {round} >>/data/notes; cat /data/notes")).await, expected);
        let err = bench.engine.remove_volume(&make.name).await.unwrap_err();
        assert_ne!(err.kind, EngineErrorKind::NotFound, "one that is in use stays: {err}");
        bench.engine.remove(&id, Duration::ZERO).await.unwrap();
    }
    bench.engine.remove_volume(&make.name).await.unwrap();
    bench.engine.remove_volume(&make.name).await.expect("one that is gone is fine");
    assert!(!bench.engine.shared().await.unwrap().volumes.contains_key(&make.name));
}
