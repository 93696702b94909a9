//! Volumes and networks: made when an agent needs them, and left alone otherwise.

use std::collections::BTreeMap;

use steadfast::model::spec::{Attachment, MountSource, NetworkMode};
use steadfast::model::*;

use steadfast::plan::{Takedown, plan_down};

use crate::scene::*;

/// `a` is on a network, and mounts a volume.
fn wanting() -> Scene {
    let spec = NetworkSpec {
        key: "net".into(),
        external: false,
        labels: BTreeMap::new(),
        internal: false,
        subnet: Some("10.90.0.0/24".into()),
        ipv6: false,
        dns: true,
    };
    let volume = VolumeSpec {
        key: "data".into(),
        external: false,
        labels: BTreeMap::new(),
        driver: None,
        options: BTreeMap::new(),
    };
    nothing(&["a", "b"])
        .cached("a", "1")
        .image("a", "1")
        .without("b")
        .file(|desired| {
            desired.networks.insert("demo-net".into(), spec);
            desired.volumes.insert("demo-data".into(), volume);
        })
        .seeing(|observed| {
            observed.local = observed.published.clone();
            observed.shared = Seen::Present(SharedState::default());
        })
        .wants("a", |agent| {
            agent.container.mounts = vec![Mount::new(MountSource::Volume("demo-data".into()), "/data", false)];
            agent.container.network.mode =
                NetworkMode::Networks(BTreeMap::from([("demo-net".to_owned(), Attachment::default())]));
        })
}

impl Scene {
    fn shared(self, how: impl FnOnce(&mut SharedState)) -> Self {
        self.seeing(|observed| match &mut observed.shared {
            Seen::Present(shared) => how(shared),
            _ => panic!("volumes and networks are not seen in this scene"),
        })
    }

    /// Both are there, made for `owner`.
    fn both(self, owner: &str) -> Self {
        let labels: BTreeMap<_, _> = [("steadfast.name".to_owned(), owner.to_owned())].into();
        let network = NetworkState {
            labels: labels.clone(),
            dns: true,
            subnets: vec!["10.90.0.0/24".into()],
            ..Default::default()
        };
        let volume = VolumeState { labels, driver: "local".into(), options: BTreeMap::new() };
        self.shared(|shared| {
            shared.networks.insert("demo-net".into(), network);
            shared.volumes.insert("demo-data".into(), volume);
        })
    }
}

const CREATE: &str = "create container `demo-a`: it does not exist";
const NETWORK: &str = "create network `demo-net`: it does not exist";
const VOLUME: &str = "create volume `demo-data`: it does not exist";

#[test]
fn what_an_agent_needs_is_made_before_it() {
    let scene = wanting();
    scene.plans(&[
        NETWORK,
        VOLUME,
        "later createContainer `demo-a`: it does not exist, once network `demo-net` is there",
    ]);
    let scene = scene.both("demo");
    scene.plans(&[CREATE]);
    let labels = BTreeMap::from([("steadfast.name".to_owned(), "demo".to_owned())]);
    let scene = wanting().shared(|shared| {
        let there = NetworkState { labels, dns: true, subnets: vec!["10.90.0.0/24".into()], ..Default::default() };
        shared.networks.insert("demo-net".into(), there);
    });
    scene.plans(&[VOLUME, "later createContainer `demo-a`: it does not exist, once volume `demo-data` is there"]);
}

#[test]
fn what_no_agent_needs_is_not_made() {
    wanting().wants("a", |agent| agent.state = AgentState::Absent).plans(&[]);
    let unused = wanting().wants("a", |agent| {
        agent.container.mounts.clear();
        agent.container.network.mode = NetworkMode::Usual;
    });
    unused.plans(&[CREATE]);
}

#[test]
fn somebody_elses_is_neither_taken_nor_changed() {
    let scene = wanting().both("other");
    let told = scene.plan();
    assert!(told.ready.is_empty(), "{told:?}");
    let blocked: Vec<_> = told.waiting.iter().map(|waiting| (waiting.kind.as_str(), waiting.on.is_blocked())).collect();
    assert_eq!(blocked, [("createNetwork", true), ("createVolume", true), ("createContainer", true)]);
    let why = told.waiting[0].on.to_string();
    assert!(why.contains("somebody else's") && why.contains("external: true"), "{why}");
    let external = scene.file(|desired| {
        desired.networks.get_mut("demo-net").unwrap().external = true;
        desired.volumes.get_mut("demo-data").unwrap().external = true;
    });
    external.plans(&[CREATE]);
    let gone = external.seeing(|observed| observed.shared = Seen::Present(SharedState::default()));
    let why = gone.plan().waiting[0].on.to_string();
    assert!(why.contains("not there") && why.contains("podman network create demo-net"), "{why}");
}

#[test]
fn a_changed_one_is_told_and_not_removed() {
    let scene = wanting().both("demo").file(|desired| desired.networks.get_mut("demo-net").unwrap().internal = true);
    let told = scene.plan();
    assert!(told.ready.is_empty(), "{told:?}");
    let why = told.waiting[0].on.to_string();
    assert!(why.contains("internal: false") && why.contains("podman network rm demo-net"), "{why}");
    let volume = wanting().both("demo").file(|desired| {
        desired.volumes.get_mut("demo-data").unwrap().options = BTreeMap::from([("type".into(), "tmpfs".into())]);
    });
    let why = volume.plan().waiting[0].on.to_string();
    assert!(why.contains("and what is in it with it"), "{why}");
}

#[test]
fn what_cannot_be_seen_is_not_made() {
    let hidden = wanting().seeing(|observed| observed.shared = unknown());
    let told = hidden.plan();
    assert!(told.ready.is_empty(), "{told:?}");
    assert!(told.waiting.iter().all(|waiting| waiting.hides()), "{told:?}");
}

#[test]
fn taken_down_with_volumes_all_of_ours_go_after_what_uses_them() {
    let all = Takedown { vm: false, volumes: true };
    let lines_of = |scene: &Scene, what| lines(&plan_down(&scene.desired, &scene.observed, what));
    let scene = wanting().both("demo").shared(|shared| {
        shared.volumes.insert("demo-old".into(), shared.volumes["demo-data"].clone());
        shared.volumes.insert("somebodys".into(), VolumeState::default());
    });
    assert_eq!(lines_of(&scene, Takedown::default()), Vec::<String>::new(), "they stay unasked");
    let (network, data, old) = ("remove network `demo-net`", "remove volume `demo-data`", "remove volume `demo-old`");
    let down = |what: &str| format!("{what}: the state file is taken down");
    assert_eq!(lines_of(&scene, all), [network, data, old].map(down), "also what left the file, and nobody else's");
    let one = scene.made("a");
    let scene = scene.podman(|guest| drop(guest.containers.insert(container_name("demo-a"), one)));
    let told = plan_down(&scene.desired, &scene.observed, all);
    assert_eq!((told.ready.len(), told.waiting.len()), (1, 3), "the container goes first: {told:?}");
}
