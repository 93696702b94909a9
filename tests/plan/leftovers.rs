//! What a replacement that was killed left behind: it is finished or cleared, and what proved itself stays.

use steadfast::model::*;

use crate::scene::*;

/// `demo-a` is a successor that has proved nothing yet, beside its predecessor `demo-a.prev`, which is as wanted before.
fn unproved() -> Scene {
    let before = steady(&["a"]).twin("demo-a", "demo-a.prev", Phase::Exited { code: 143 });
    let scene = before.edited("a", "MODE", "two");
    let successor = scene.made("a");
    scene.with("demo-a", ContainerState { id: "id of the successor".parse().unwrap(), ..successor })
}

#[test]
fn a_successor_proves_itself_before_its_predecessor_goes() {
    unproved().plans(&["start container `demo-a`: an interrupted replacement has not verified it yet"]);
    // One that is to be stopped has nothing to prove.
    unproved()
        .wants("a", |agent| agent.state = AgentState::Stopped)
        .phase("demo-a", Phase::Created)
        .plans(&["remove container `demo-a.prev`: an interrupted replacement left it"]);
}

#[test]
fn an_edit_that_is_taken_back_brings_the_predecessor_back() {
    unproved().edited("a", "MODE", "two").wants("a", |agent| agent.container.env.clear()).plans(&[
        "remove container `demo-a`: what it was to replace is as desired again",
        "later startContainer `demo-a.prev`: it exited with code 143, once container `demo-a` is removed, or releases its name or port",
        "later renameContainer `demo-a`: it is named `demo-a.prev`, once container `demo-a` is removed, or releases its name or port",
    ]);
}

#[test]
fn under_another_name_too_nothing_is_started_beside_what_runs() {
    let called_web = || unproved().wants("a", |agent| agent.container.name = "web".parse().unwrap());
    called_web().plans(&["rename container to `web`: it is named `demo-a`"]);
    let taken_back = called_web().wants("a", |agent| agent.container.env.clear());
    taken_back.plans(&[
        "remove container `demo-a`: what it was to replace is as desired again",
        "later startContainer `demo-a.prev`: it exited with code 143, once container `demo-a` is removed, or releases its name or port",
        "later renameContainer `web`: it is named `demo-a.prev`, once container `demo-a` is removed, or releases its name or port",
    ]);
    // Neither while the name is another one's.
    let plan = lines(&taken_back.foreign("web", Whose::Somebody).plan());
    assert!(!plan.iter().any(|line| line.starts_with("start")), "{plan:#?}");
}

#[test]
fn the_predecessor_stays_the_fallback_when_the_wish_changes_again() {
    unproved().edited("a", "MODE", "three").plans(&[
        "remove container `demo-a`: an interrupted replacement has not verified it yet",
        "later replaceContainer `demo-a`: container.env.MODE changed, once container `demo-a` is removed, or releases its name or port",
    ]);
    // One that is healthy has proved itself.
    let healthy = unproved().container("demo-a", |one| one.health = Some(Health::Healthy)).edited("a", "MODE", "three");
    healthy.plans(&[
        "remove container `demo-a.prev`: an interrupted replacement left it",
        "later replaceContainer `demo-a`: container.env.MODE changed, once container `demo-a.prev` is removed, or releases its name or port",
    ]);
}

#[test]
fn an_unproved_successor_serves_until_the_next_ones_image_is_there() {
    let scene = unproved().wants("a", |agent| agent.version = Version::Exact("9".into()));
    let plan = lines(&scene.plan());
    assert!(!plan.iter().any(|line| line.starts_with("remove")), "{plan:#?}");
    let plan = lines(&scene.phase("demo-a", Phase::Exited { code: 1 }).plan());
    assert!(plan.contains(&"start container `demo-a`: it exited with code 1".to_owned()), "{plan:#?}");
}

#[test]
fn killed_between_its_two_renames_it_is_finished_with_what_is_made_already() {
    // Nobody has the name: the predecessor stands aside, and the successor is made.
    let scene = steady(&["a"]).renamed("demo-a", "demo-a.prev").edited("a", "MODE", "two");
    let next = ContainerState { id: "next".parse().unwrap(), phase: Phase::Created, ..scene.made("a") };
    let scene = scene.with("demo-a.next", next);
    scene.plans(&["replace container `demo-a`: container.env.MODE changed"]);
    // The edit is taken back: the predecessor only wants its name, and the successor is worthless.
    scene.wants("a", |agent| agent.container.env.clear()).plans(&[
        "remove container `demo-a.next`: an interrupted replacement left it",
        "rename container to `demo-a`: it is named `demo-a.prev`",
    ]);
}

#[test]
fn one_that_was_stopped_aside_is_started_before_it_is_renamed() {
    let scene = steady(&["a"]).renamed("demo-a", "demo-a.prev").phase("demo-a.prev", Phase::Exited { code: 143 });
    scene.plans(&[
        "start container `demo-a.prev`: it exited with code 143",
        "rename container to `demo-a`: it is named `demo-a.prev`",
    ]);
}

#[test]
fn a_half_made_successor_is_nobodys_predecessor() {
    // Beside the one that is wanted it is cleared.
    steady(&["a"])
        .twin("demo-a", "demo-a.next", Phase::Created)
        .plans(&["remove container `demo-a.next`: an interrupted replacement left it"]);
    // Of an older wish it goes before another is made.
    steady(&["a"]).twin("demo-a", "demo-a.next", Phase::Created).edited("a", "MODE", "two").plans(&[
        "remove container `demo-a.next`: an interrupted replacement left it",
        "later replaceContainer `demo-a`: container.env.MODE changed, once container `demo-a.next` is removed, or releases its name or port",
    ]);
    // Alone it is all the agent has.
    steady(&["a"])
        .renamed("demo-a", "demo-a.next")
        .phase("demo-a.next", Phase::Created)
        .plans(&["rename container to `demo-a`: it is named `demo-a.next`"]);
}

#[test]
fn a_second_leftover_is_cleared_once_the_right_one_is_there() {
    steady(&["a"])
        .twin("demo-a", "web.next", Phase::Created)
        .twin("demo-a", "demo-a.next", Phase::Created)
        .twin("demo-a", "elsewhere", Phase::Running)
        .plans(&[
            "remove container `demo-a.next`: an interrupted replacement left it",
            "remove container `web.next`: an interrupted replacement left it",
            "remove container `elsewhere`: an interrupted replacement left it",
        ]);
}

#[test]
fn whoever_is_at_work_is_waited_for() {
    let mut plan = unproved().plan();
    let scene = unproved();
    plan.mark_under_way(&steadfast::plan::look_replaced(&scene.observed), &scene.desired, "somebody");
    assert_eq!(lines(&plan), ["later replaceContainer `demo-a`: it is being replaced, under way: somebody does it"]);
}
