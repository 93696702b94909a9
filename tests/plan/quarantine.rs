//! What failed in the place of what runs is not tried again until something else is wanted; what it was to replace serves on.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast::model::*;
use steadfast::plan::Action;

use crate::scene::*;

const LATER: &str = "later replaceContainer `demo-a`: container.env.MODE changed, `r.example/a:1` is quarantined, since it \
                     failed at 2026-01-01T00:00:00Z: it ended";

/// An edit that was tried, and failed.
fn failed() -> Scene {
    let scene = steady(&["a"]).edited("a", "MODE", "two");
    let step = scene.plan().ready.remove(0);
    let Action::ReplaceContainer { create, rollout, .. } = &step.action else { panic!("{step:?}") };
    let (since, message) = ("2026-01-01T00:00:00Z".to_owned(), "it ended".to_owned());
    let failed = Quarantined::new(create, *rollout, since, FailureKind::EndedAtOnce, message).unwrap();
    scene.allowing(|policy| policy.quarantined = BTreeMap::from([("a".parse().unwrap(), failed)]))
}

#[test]
fn what_failed_is_left_alone_and_what_was_there_serves() {
    failed().plans(&[LATER]);
    failed()
        .phase("demo-a", Phase::Exited { code: 137 })
        .plans(&["start container `demo-a`: it exited with code 137", LATER]);
    // A successor that somebody left is of no use.
    let scene = failed();
    let next = scene.made("a");
    scene
        .with("demo-a.next", ContainerState { id: "id of the next".parse().unwrap(), phase: Phase::Created, ..next })
        .plans(&["remove container `demo-a.next`: an interrupted replacement left it", LATER]);
}

#[test]
fn whatever_else_is_wanted_is_tried() {
    let replace = |field: &str| format!("replace container `demo-a`: {field} changed");
    failed().edited("a", "MODE", "three").plans(&[&replace("container.env.MODE")]);
    failed()
        .wants("a", |agent| agent.rollout.settle = Duration::from_secs(30))
        .plans(&[&replace("container.env.MODE")]);
    failed().wants("a", |agent| agent.container.env.clear()).plans(&[]);
    // Where nothing is there, nothing is lost by trying.
    failed().gone("demo-a").plans(&["create container `demo-a`: it does not exist"]);
}

#[test]
fn one_that_stands_in_the_place_of_what_served_makes_room_for_it() {
    let scene = failed();
    let bad = scene.made("a");
    scene
        .renamed("demo-a", "demo-a.prev")
        .phase("demo-a.prev", Phase::Exited { code: 143 })
        .with("demo-a", ContainerState { id: "id of the successor".parse().unwrap(), ..bad })
        .plans(&[
            "remove container `demo-a`: what it was to replace is as desired again",
            "later startContainer `demo-a.prev`: it exited with code 143, once container `demo-a` is removed, or releases its name or port",
            "later renameContainer `demo-a`: it is named `demo-a.prev`, once container `demo-a` is removed, or releases its name or port",
            "later replaceContainer `demo-a`: an interrupted replacement has not verified it yet, `r.example/a:1` is quarantined, since \
             it failed at 2026-01-01T00:00:00Z: it ended",
        ]);
    // Between its two renames, or after both of them were undone.
    failed().renamed("demo-a", "demo-a.prev").phase("demo-a.prev", Phase::Exited { code: 143 }).plans(&[
        "start container `demo-a.prev`: it exited with code 143",
        "rename container to `demo-a`: it is named `demo-a.prev`",
        "later replaceContainer `demo-a`: an interrupted replacement has not verified it yet, `r.example/a:1` is quarantined, since it \
         failed at 2026-01-01T00:00:00Z: it ended",
    ]);
}
