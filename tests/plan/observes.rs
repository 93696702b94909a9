//! What an observation says where one call of the outside world fails: that one branch is not seen, and the others are.

use steadfast::backend::fake::{Fake, FakeVm, Fault};
use steadfast::model::*;
use steadfast::observe::{look_at_published, observe};

use crate::scene::*;

fn fake() -> Fake {
    let fake = Fake::new();
    let mut state = fake.state();
    state.published = Some(manifest(&[("a", "1")]));
    state.local = state.published.clone();
    drop(state);
    fake
}

/// The branches that were not seen.
async fn unseen(fake: &Fake, desired: &Desired) -> Vec<&'static str> {
    let world = fake.world();
    let published = look_at_published(&world.store, desired).await;
    let seen = observe(&world, desired, &published).await;
    let branches = [
        ("published", seen.published.unknown().is_some()),
        ("local", seen.local.unknown().is_some()),
        ("artifacts", seen.artifacts.unknown().is_some()),
        ("vm", seen.vm.unknown().is_some()),
        ("podman", seen.guest.unknown().is_some()),
    ];
    branches.into_iter().filter(|(_, unknown)| *unknown).map(|(branch, _)| branch).collect()
}

#[tokio::test(start_paused = true)]
async fn one_failed_call_blinds_one_branch() {
    for (word, blind) in [
        ("", &[][..]),
        ("published", &["published"]),
        ("local", &["local"]),
        ("list", &["artifacts"]),
        ("look", &["podman"]),
    ] {
        let fake = fake();
        if !word.is_empty() {
            fake.order(Fault::lasting(word));
        }
        assert_eq!(unseen(&fake, &desired(&["a"])).await, blind, "{word}");
    }
    // Nobody who needs no manifest is told that there is none.
    let fake = fake();
    fake.state().published = None;
    assert_eq!(unseen(&fake, &desired(&[])).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_not_seen_or_not_ours_hides_podman() {
    let (fake, desired) = (fake(), in_vm(desired(&["a"])));
    fake.state().in_vm = true;
    fake.order(Fault::lasting("vm_look"));
    assert_eq!(unseen(&fake, &desired).await, ["vm", "podman"]);
    fake.lift();
    // That there is none is seen, and that nothing is in it.
    assert_eq!(unseen(&fake, &desired).await, [""; 0]);
    let theirs = FakeVm {
        phase: VmPhase::Running,
        owner: Some("elses".into()),
        root: None,
        template: None,
        cpus: 2,
        forwards: Default::default(),
        silent_since: None,
        stays_silent: false,
        failed_boots: 0,
    };
    fake.state().vm = Some(theirs);
    assert_eq!(unseen(&fake, &desired).await, ["podman"]);
    assert_eq!(fake.state().calls.iter().filter(|call| call.word == "look").count(), 0, "it is not reached into");
}

#[tokio::test(start_paused = true)]
async fn a_port_that_somebody_leads_in_already_is_seen() {
    let (fake, mut desired) = (fake(), in_vm(desired(&["a"])));
    desired.agents.get_mut("a").unwrap().container.ports = vec![port(8001), port(8002)];
    fake.state().in_vm = true;
    let make = desired.vm_make().unwrap();
    let world = fake.world();
    steadfast::backend::Vm::create(&world.vm, &VmMake { forwards: Default::default(), ..make.clone() }).await.unwrap();
    let without = VmMake { forwards: Default::default(), ..make };
    steadfast::backend::Vm::start(&world.vm, Boot::Start, &without).await.unwrap();
    fake.state().busy_ports.insert(8002);
    let seen = observe(&world, &desired, &look_at_published(&world.store, &desired).await).await;
    assert_eq!(seen.vm.present().unwrap().forwards, [Forward::of(&port(8002))].into());
}
