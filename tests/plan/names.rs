//! Names and host ports that change hands, and foreign containers that have them.

use steadfast::model::*;

use crate::scene::*;

/// The agent's container is to have this name.
fn called(name: &str) -> impl FnOnce(&mut Agent) {
    let name = container_name(name);
    move |agent| agent.container.name = name
}

#[test]
fn another_container_name_takes_the_old_one_along() {
    steady(&["a"]).wants("a", called("web")).plans(&["rename container to `web`: it is named `demo-a`"]);
    steady(&["a"])
        .wants("a", called("web"))
        .edited("a", "MODE", "two")
        .plans(&["replace container `web`: container.name, container.env.MODE changed"]);
    steady(&["a"]).renamed("demo-a", "moved").plans(&["rename container to `demo-a`: it is named `moved`"]);
}

#[test]
fn a_foreign_container_with_a_wanted_name_is_a_conflict_until_it_is_given_to_us() {
    let rows = [
        (Whose::Somebody, "does not belong to this state file"),
        (Whose::Name("elses".into()), "belongs to another state file, of name `elses`"),
        (
            Whose::Root { id: "b2".repeat(16), path: Some("/elsewhere".into()) },
            "belongs to a state file of the same name below another root, `/elsewhere` (id b2b2b2b2…)",
        ),
        (Whose::Copy, "is a copy of an agent's container (`podman commit`, `podman container clone`)"),
    ];
    for (whose, words) in rows {
        let scene = steady(&["a"]).gone("demo-a").foreign("demo-a", whose);
        scene.plans(&[&format!(
            "later createContainer `demo-a`: it does not exist, container `demo-a` exists and {words}"
        )]);
        scene
            .allowing(|policy| policy.adopt = true)
            .plans(&["replace container `demo-a`: it is adopted from its owner"]);
    }
}

#[test]
fn what_an_agent_has_under_another_name_serves_while_a_foreign_container_has_its_own() {
    let scene = steady(&["a"]).renamed("demo-a", "moved").foreign("demo-a", Whose::Somebody);
    let conflict = "container `demo-a` exists and does not belong to this state file";
    scene.plans(&[&format!("later renameContainer `demo-a`: it is named `moved`, {conflict}")]);
    scene.phase("moved", Phase::Exited { code: 1 }).plans(&[
        "start container `moved`: it exited with code 1",
        &format!("later renameContainer `demo-a`: it is named `moved`, {conflict}"),
    ]);
}

#[test]
fn a_name_that_another_agent_gives_up_is_waited_for() {
    let once = "once container `demo-b` is removed, or releases its name or port";
    let scene = steady(&["a", "b"]).wants("a", called("demo-b"));
    let scene = scene.wants("b", called("web"));
    scene.plans(&[
        "rename container to `web`: it is named `demo-b`",
        &format!("later renameContainer `demo-b`: it is named `demo-a`, {once}"),
    ]);
    // So is that of an orphan; where it stays, somebody has to decide.
    let orphan = steady(&["a", "b"]).wants("a", called("demo-b")).without("b");
    orphan.plans(&[
        "remove container `demo-b`: its agent is not in the state file any more",
        &format!("later renameContainer `demo-b`: it is named `demo-a`, {once}"),
    ]);
    let kept = lines(&orphan.allowing(|policy| policy.prune = false).plan());
    assert_eq!(kept.len(), 2, "{kept:#?}");
    assert!(
        kept[0].starts_with("later renameContainer `demo-b`: it is named `demo-a`, container `demo-b` "),
        "{kept:#?}"
    );
    assert!(kept[1].starts_with("note: container `demo-b` belongs to no agent"), "{kept:#?}");
}

#[test]
fn two_that_change_names_do_so_over_a_third() {
    let scene = steady(&["a", "b"]).wants("a", called("demo-b")).wants("b", called("demo-a"));
    scene.plans(&[
        "rename container to `demo-a.swap`: another agent takes over its name `demo-b`",
        "later renameContainer `demo-b`: it is named `demo-a`, once container `demo-b` is removed, or releases its name or port",
        "later renameContainer `demo-a`: it is named `demo-b`, once container `demo-a` is removed, or releases its name or port",
    ]);
}

/// These agents run with these host ports.
fn with_ports(ports: &[(&str, &[u16])]) -> Scene {
    let agents: Vec<_> = ports.iter().map(|(agent, _)| *agent).collect();
    let mut scene = steady(&agents);
    for (agent, numbers) in ports {
        scene = scene.wants(agent, |agent| agent.container.ports = numbers.iter().copied().map(port).collect());
        let one = scene.made(agent);
        scene = scene.with(&format!("demo-{agent}"), one);
    }
    scene
}

fn publishes(numbers: &'static [u16]) -> impl FnOnce(&mut Agent) {
    move |agent| agent.container.ports = numbers.iter().copied().map(port).collect()
}

#[test]
fn a_port_passes_from_whoever_gives_it_up() {
    with_ports(&[("a", &[8001]), ("b", &[])]).without("a").wants("b", publishes(&[8001])).plans(&[
        "remove container `demo-a`: its agent is not in the state file any more",
        "later replaceContainer `demo-b`: container.ports changed, once container `demo-a` is removed, or releases its name or port",
    ]);
    with_ports(&[("a", &[8001]), ("b", &[])]).wants("a", publishes(&[])).wants("b", publishes(&[8001])).plans(&[
        "replace container `demo-a`: container.ports changed",
        "later replaceContainer `demo-b`: container.ports changed, once container `demo-a` is removed, or releases its name or port",
    ]);
    // One that keeps it is not waited for: that is for Podman to say.
    with_ports(&[("a", &[8001]), ("b", &[])])
        .wants("b", publishes(&[8001]))
        .plans(&["replace container `demo-b`: container.ports changed"]);
}

#[test]
fn two_that_change_ports_do_so_with_one_of_them_stopped() {
    with_ports(&[("a", &[8001]), ("b", &[8002])]).wants("a", publishes(&[8002])).wants("b", publishes(&[8001])).plans(&[
        "stop container `demo-a`: another agent takes over its host port",
        "later replaceContainer `demo-a`: container.ports changed, once container `demo-b` is removed, or releases its name or port",
        "later replaceContainer `demo-b`: container.ports changed, once container `demo-a` is removed, or releases its name or port",
    ]);
}
