//! The virtual machine: made, started, repaired, restarted, recreated only where that is asked for, and never another's.

use std::time::Duration;

use steadfast::model::*;

use crate::scene::*;

const HIDDEN: &str =
    "later observeContainer `demo-a`: it cannot be observed, unknown until VM `agents` runs and answers";

/// An agent that runs in a machine that runs.
fn inside() -> Scene {
    let scene = steady(&["a"]).file(|desired| *desired = in_vm(desired.clone()));
    scene.seeing(|observed| (observed.vm, observed.reach.route) = (Seen::Present(machine()), Some(Route::Forward)))
}

fn vm(how: impl FnOnce(&mut VmState)) -> Scene {
    inside().seeing(|observed| match &mut observed.vm {
        Seen::Present(vm) => how(vm),
        _ => unreachable!(),
    })
}

#[test]
fn each_phase_has_its_answer_and_hides_what_is_in_it() {
    inside().plans(&[]);
    inside().seeing(|observed| observed.vm = Seen::Absent).plans(&[
        "create VM `agents`: there is no such VM",
        "later startVm `agents`: there is no such VM, once VM `agents` is made",
        HIDDEN,
    ]);
    inside().seeing(|observed| observed.vm = unknown()).plans(&[
        "later startVm `agents`: it cannot be observed, unknown until it can be observed: the look failed",
        "later observeContainer `demo-a`: it cannot be observed, unknown until it can be observed: the look failed",
    ]);
    let rows = [
        (VmPhase::Stopped, "start VM `agents`: it is stopped", HIDDEN),
        (VmPhase::Broken("half of it is gone".into()), "start VM `agents`: it is broken: half of it is gone", HIDDEN),
        (
            VmPhase::Starting,
            "later startVm `agents`: it is starting, once Podman in VM `agents` answers: Lima is starting it",
            HIDDEN,
        ),
        (
            VmPhase::Other("Odd".into()),
            "later startVm `agents`: it is `Odd`, unknown until it can be observed: Lima says VM `agents` is `Odd`",
            "later observeContainer `demo-a`: it cannot be observed, unknown until it can be observed: Lima says VM `agents` is `Odd`",
        ),
    ];
    for (phase, first, second) in rows {
        vm(|vm| vm.phase = phase).plans(&[first, second]);
    }
}

#[test]
fn one_that_does_not_answer_is_restarted_after_its_time_and_ever_more_rarely() {
    let silent = |minutes: u64, failed_boots: u32| {
        inside().seeing(|observed| {
            observed.guest = unknown();
            observed.reach =
                Reach { silent_for: Some(Duration::from_secs(60 * minutes)), failed_boots, ..Reach::default() };
        })
    };
    let wait = "later startVm `agents`: it runs, and Podman in it does not answer, once Podman in VM `agents` answers: the look failed";
    let restart = "restart VM `agents`: it runs, and Podman in it does not answer";
    silent(4, 0).plans(&[wait, HIDDEN]);
    silent(5, 0).plans(&[restart, HIDDEN]);
    silent(9, 1).plans(&[wait, HIDDEN]);
    silent(10, 1).plans(&[restart, HIDDEN]);
    // No longer than 32 times that.
    silent(160, 30).plans(&[restart, HIDDEN]);
    // Reached, and Podman in it failed: nothing is gained by a restart.
    inside().seeing(|observed| observed.guest = unknown()).plans(&[
        "later observeContainer `demo-a`: it cannot be observed, unknown until it can be observed: the look failed",
    ]);
}

#[test]
fn another_template_is_reported_and_recreates_only_where_that_is_asked_for() {
    let other = |scene: Scene| scene.file(|desired| spec(desired).template = template("cpus: 3"));
    let note = lines(&other(inside()).plan());
    assert!(note.len() == 1 && note[0].starts_with("note: VM `agents` was made from another version"), "{note:?}");
    let recreate =
        |scene: Scene| other(scene).file(|desired| spec(desired).on_template_change = TemplateChange::Recreate);
    recreate(inside()).plans(&["recreate VM `agents`: its template changed", HIDDEN]);
    recreate(vm(|vm| vm.phase = VmPhase::Stopped)).plans(&["recreate VM `agents`: its template changed", HIDDEN]);
    // Of one that was taken over nobody knows what it was made from.
    recreate(vm(|vm| vm.template = None)).plans(&[]);
    // While Lima starts it, it is left alone.
    let starting = lines(&recreate(vm(|vm| vm.phase = VmPhase::Starting)).plan());
    assert!(!starting.iter().any(|line| line.starts_with("recreate")), "{starting:?}");
}

#[test]
fn anothers_machine_is_left_alone_until_it_is_given_to_us() {
    let theirs = |owner: Option<&str>| vm(|vm| vm.owner = owner.map(str::to_owned));
    let whose = "VM `agents` exists and belongs to state file `elses`";
    theirs(Some("elses")).plans(&[&format!("later adoptVm `agents`: it is adopted from its owner, {whose}"), HIDDEN]);
    theirs(None).plans(&[
        "later adoptVm `agents`: it is adopted from its owner, VM `agents` exists and was not made by this state file",
        HIDDEN,
    ]);
    theirs(None)
        .allowing(|policy| policy.adopt = true)
        .plans(&["take over VM `agents`: it is adopted from its owner", HIDDEN]);
    theirs(Some("elses"))
        .takes_down(true, &[&format!("later deleteVm `agents`: the state file is taken down, {whose}")]);
}

#[test]
fn settings_take_effect_when_it_is_next_started() {
    let restart = |what: &str| {
        format!(
            "note: takes effect when VM `agents` is next started (`steadfast vm restart`, once no `run` keeps it): {what}"
        )
    };
    inside()
        .file(|desired| (spec(desired).cpus, spec(desired).memory) = (Some(8), Some(8 << 30)))
        .plans(&[&restart("runtime.lima.cpus 2 → 8, runtime.lima.memory 4GiB → 8GiB")]);
    inside()
        .file(|desired| spec(desired).disk = Some(200 << 30))
        .plans(&[&restart("runtime.lima.disk 100GiB → 200GiB")]);
    let smaller = lines(&inside().file(|desired| spec(desired).disk = Some(50 << 30)).plan());
    assert!(smaller.len() == 1 && smaller[0].contains("cannot shrink to 50GiB"), "{smaller:?}");
}

#[test]
fn ports_are_led_in_and_those_of_udp_once_it_is_started() {
    let ports = |agent: &mut Agent| {
        agent.container.ports = vec![port(8001), Port { protocol: Protocol::Udp, ..port(8002) }];
    };
    let scene = steady(&["a"]).wants("a", ports).file(|desired| *desired = in_vm(desired.clone()));
    let one = scene.made("a");
    let scene = scene
        .with("demo-a", one)
        .seeing(|observed| (observed.vm, observed.reach.route) = (Seen::Present(machine()), Some(Route::Forward)));
    scene.plans(&[
        "forward `127.0.0.1:8001/tcp`: the port is not forwarded into the VM yet",
        "note: takes effect when VM `agents` is next started (`steadfast vm restart`, once no `run` keeps it): ports 127.0.0.1:8002/udp",
    ]);
    let all = scene.desired.forwards();
    scene
        .seeing(|observed| match &mut observed.vm {
            Seen::Present(vm) => vm.forwards = all,
            _ => unreachable!(),
        })
        .plans(&[]);
}

#[test]
fn a_machine_goes_with_all_that_is_in_it() {
    inside().takes_down(true, &["delete VM `agents`: the state file is taken down"]);
    inside().takes_down(false, &["remove container `demo-a`: the state file is taken down"]);
    inside().seeing(|observed| observed.vm = Seen::Absent).takes_down(true, &[]);
    inside().seeing(|observed| observed.vm = unknown()).takes_down(
        true,
        &["later deleteVm `agents`: the state file is taken down, unknown until it can be observed: the look failed"],
    );
}
