//! The safe order of a replacement, one step at a time on a fake world: what is done after which failure.

use std::sync::Arc;

use steadfast::act::{ActError, Patience, act};
use steadfast::backend::Progress;
use steadfast::backend::fake::{Fake, FakeContainer, Fault};
use steadfast::model::*;
use steadfast::plan::Action;

use crate::scene::*;

/// How the predecessor is found: as it runs, or aside and stopped.
fn before(name: &str, phase: Phase) -> Fake {
    let (scene, fake) = (steady(&["a"]), Fake::new());
    let wanted = &scene.desired.agents["a"];
    let spec = CanonicalSpec::new(&wanted.container, &reference_of("a", "1"), None, &scene.desired.key);
    let mut state = fake.state();
    state.image_store.insert(image_of("a", "1"));
    state.images.insert(reference_of("a", "1"), image_of("a", "1"));
    let one = FakeContainer {
        name: container_name(name),
        labels: steadfast::plan::labels(&scene.desired, &agent_name("a"), &spec),
        spec: wanted.container.clone(),
        image: image_of("a", "1"),
        image_name: "r.example/a:1".into(),
        phase,
        restarts: 0,
        checks: (0, true),
        started: None,
        ends: Vec::new(),
        volumes: Vec::new(),
        is_half_made: false,
        breaks: None,
    };
    state.containers.insert("id of a".parse().unwrap(), one);
    drop(state);
    fake
}

/// What an edit of this variable is answered with, where the predecessor is found like that.
fn replacement(variable: &str, value: &str, name: &str, phase: &Phase) -> Action {
    let scene = steady(&["a"]).wants("a", |agent| agent.container.healthcheck = Some(health_check()));
    let scene = scene.renamed("demo-a", "moved").renamed("moved", name).phase(name, phase.clone());
    let step = scene.edited("a", variable, value).plan().ready.remove(0);
    assert!(matches!(step.action, Action::ReplaceContainer { .. }), "{step:?}");
    step.action
}

/// Takes the step. Yields how it ended, each change that was made, and who is there in the end.
async fn take(fake: &Fake, action: &Action, patience: &Patience) -> String {
    let outcome = act(&fake.world(), action, Arc::new(Progress::default()), patience).await;
    let ended = match &outcome {
        Ok(done) => String::from(if done.settled { "settled" } else { "done" }),
        Err(ActError::RolledBack { untried, cause, .. }) => {
            format!("rolled back{} after {}", if *untried { ", untried," } else { "" }, cause.kind())
        }
        Err(err) => err.kind().to_string(),
    };
    let state = fake.state();
    let done: Vec<_> =
        state.effects.iter().map(|effect| format!("{} {}", effect.call.word, effect.call.target)).collect();
    let mut left: Vec<_> = state
        .containers
        .iter()
        .map(|(id, one)| {
            let which = if id.as_str() == "id of a" { "old" } else { "new" };
            format!("{which} {} {}", one.name, one.phase)
        })
        .collect();
    left.sort();
    format!("{ended}: {} -> {}", done.join(", "), left.join(", "))
}

fn patience() -> Patience {
    Patience { local: false, ..Patience::default() }
}

/// A failure that strikes once and does not go away by itself.
fn once(word: &'static str, target: &str) -> Fault {
    Fault { times: 1, ..Fault::lasting(word).on(target) }
}

#[tokio::test(start_paused = true)]
async fn whichever_line_fails_somebody_serves() {
    let back = "old demo-a is running";
    let all = "create demo-a.next, stop demo-a, rename demo-a.prev, rename demo-a, start demo-a";
    let undone = "remove demo-a, rename demo-a, start demo-a";
    let rows = [
        ("nothing", None, ("MODE", "two"), format!("settled: {all}, remove demo-a.prev -> new demo-a is running")),
        ("the first look", Some(once("inspect", "demo-a")), ("MODE", "two"), format!("apiError:  -> {back}")),
        ("the creation", Some(once("create", "")), ("MODE", "two"), format!("apiError:  -> {back}")),
        (
            "the step aside",
            Some(once("rename", "demo-a")),
            ("MODE", "two"),
            format!(
                "rolled back, untried, after apiError: create demo-a.next, stop demo-a, remove demo-a.next, start demo-a -> {back}"
            ),
        ),
        (
            "its stop",
            Some(once("stop", "demo-a")),
            ("MODE", "two"),
            format!("rolled back, untried, after apiError: create demo-a.next, remove demo-a.next -> {back}"),
        ),
        (
            "the successor's name",
            Some(once("rename", "demo-a.next")),
            ("MODE", "two"),
            format!(
                "rolled back, untried, after apiError: create demo-a.next, stop demo-a, rename demo-a.prev, remove demo-a.next, rename demo-a, start demo-a -> {back}"
            ),
        ),
        (
            "its start",
            Some(once("start", "demo-a")),
            ("MODE", "two"),
            format!(
                "rolled back after apiError: create demo-a.next, stop demo-a, rename demo-a.prev, rename demo-a, {undone} -> {back}"
            ),
        ),
        ("its life", None, ("CRASH", "7"), format!("rolled back after endedAtOnce: {all}, stop demo-a, {undone} -> {back}")),
        ("its health", None, ("SICK", "600"), format!("rolled back after unhealthy: {all}, stop demo-a, {undone} -> {back}")),
        (
            "the end of its predecessor",
            Some(once("remove", "demo-a.prev")),
            ("MODE", "two"),
            format!("apiError: {all} -> new demo-a is running, old demo-a.prev exited with code 143"),
        ),
        (
            "every start",
            Some(Fault::lasting("start")),
            ("MODE", "two"),
            "rollBackFailed: create demo-a.next, stop demo-a, rename demo-a.prev, rename demo-a, remove demo-a, rename demo-a -> old demo-a exited with code 143".to_owned(),
        ),
    ];
    for (what, fault, (variable, value), wanted) in rows {
        let fake = before("demo-a", Phase::Running);
        fault.into_iter().for_each(|fault| fake.order(fault));
        let action = replacement(variable, value, "demo-a", &Phase::Running);
        assert_eq!(take(&fake, &action, &patience()).await, wanted, "{what} fails");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_stands_aside_serves_again_whichever_line_fails() {
    let found = Phase::Exited { code: 143 };
    for (fault, wanted) in [
        (None, "settled: create demo-a.next, rename demo-a, start demo-a, remove demo-a.prev -> new demo-a is running"),
        (Some(once("create", "")), "rolled back after apiError: rename demo-a, start demo-a -> old demo-a is running"),
        (
            Some(once("start", "demo-a")),
            "rolled back after apiError: create demo-a.next, rename demo-a, remove demo-a, rename demo-a, start demo-a -> old demo-a is running",
        ),
    ] {
        let fake = before("demo-a.prev", found.clone());
        fault.into_iter().for_each(|fault| fake.order(fault));
        let action = replacement("MODE", "two", "demo-a.prev", &found);
        assert_eq!(take(&fake, &action, &patience()).await, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_any_more_goes_no_further() {
    let (fake, patience) = (before("demo-a", Phase::Running), patience());
    patience.outdated.cancel();
    let action = replacement("MODE", "two", "demo-a", &Phase::Running);
    let wanted = "interrupted: create demo-a.next -> new demo-a.next was never started, old demo-a is running";
    assert_eq!(take(&fake, &action, &patience).await, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_health_that_is_broken_off_leaves_or_undoes_it() {
    let served = "create demo-a.next, stop demo-a, rename demo-a.prev, rename demo-a, start demo-a";
    for (undo, wanted) in [
        (false, format!("interrupted: {served} -> new demo-a is running, old demo-a.prev exited with code 143")),
        (
            true,
            format!(
                "interrupted: {served}, stop demo-a, remove demo-a, rename demo-a, start demo-a -> old demo-a is running"
            ),
        ),
    ] {
        let (fake, patience) = (before("demo-a", Phase::Running), Patience { undo, ..patience() });
        patience.cancel.cancel();
        let action = replacement("SICK", "600", "demo-a", &Phase::Running);
        assert_eq!(take(&fake, &action, &patience).await, wanted);
    }
}
