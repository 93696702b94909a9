//! Two ways to the Podman in the machine: they are the same Podman.

use std::collections::{BTreeMap, BTreeSet};

use steadfast::backend::limactl::Limactl;
use steadfast::backend::podman::{Api, Machine, Podman, Shell};
use steadfast::backend::{Engine, Look};
use steadfast::model::{HostKey, Name, Owner, Ownership, RootClaim, RootId};

use crate::bench::Place;
use crate::instance::setting;
use crate::world::{INSTANCE, World};

/// Through the socket that Lima forwards.
pub fn forwarded() -> Place<Podman> {
    let socket = World::get().path("sock/podman.sock");
    let api = Api::new(&socket, Machine::Elsewhere).expect("a client for the forwarded socket");
    Place { engine: Podman::Api(api), api: true, local: false, socket, keep: Box::new(World::busy()) }
}

/// Through `limactl shell`.
pub fn shell() -> Place<Podman> {
    let socket = World::get().path("sock/podman.sock");
    let limactl = Limactl::new(setting("STEADFAST_TEST_LIMACTL"), setting("STEADFAST_TEST_LIMA_HOME"));
    Place {
        engine: Podman::Shell(Shell::new(limactl, INSTANCE, true)),
        api: false,
        local: false,
        socket,
        keep: Box::new(World::busy()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_show_the_same_world() {
    let world = World::get();
    let _busy = World::busy();
    let id = std::fs::read_to_string(world.sandbox.root().join("state/id")).expect("the root's id");
    let root = RootClaim { id: RootId::parse(id.trim()), ..RootClaim::default() };
    let look = Look {
        owner: Ownership { name: Name::new("story").unwrap(), root },
        names: BTreeSet::new(),
        health: BTreeSet::new(),
        key: HostKey::from_bytes([7; 32]),
    };
    let (api, shell) = (forwarded().engine, shell().engine);
    let (mut one, mut other) = (api.look(&look).await.unwrap(), shell.look(&look).await.unwrap());
    (one.looked_at, other.looked_at) = (None, None);
    assert_eq!(one, other);
    assert_eq!(one.containers.len(), 1, "{:?}", one.containers.keys().collect::<Vec<_>>());
    let whose: Vec<_> = one.containers.values().map(|seen| &seen.owner).collect();
    assert!(matches!(whose.as_slice(), [Owner::Ours { .. }]), "{whose:?}");
    let timed: BTreeMap<_, _> = one.containers.iter().map(|(name, seen)| (name, seen.started_at)).collect();
    assert!(timed.values().all(Option::is_some), "{timed:?}");
}
