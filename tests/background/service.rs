//! Podman itself restarted, killed, gone, failing or hanging: nothing wrong is done meanwhile, it is told once, and what
//! happened in the gap is repaired.

use rustix::process::Signal;

use crate::keeper::{Keeper, id, kill, starts};
use crate::proxy::{Manner, Proxy, Service};
use crate::world::{World, until};

fn two_agents(world: &World) {
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
}

/// Ended and started anew, with a container killed and one removed in the gap.
#[test]
fn what_happened_while_the_service_was_restarted_is_repaired() {
    let mut world = World::new();
    let Some(mut service) = Service::start(&mut world) else { return };
    two_agents(&world);
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    let a = id(&world, "a");
    for (round, signal) in [Signal::TERM, Signal::KILL].into_iter().enumerate() {
        service.end(signal);
        keeper.until("it is told", |status| status["podman"]["reachable"] == false);
        let status = keeper.status_outcome();
        assert_eq!(status.code, 1, "{}", status.stderr);
        kill(&world, "a");
        service.again();
        until("it runs again", || world.runs("a"));
        keeper.converged();
        assert_eq!((world.ids(), starts(&a)), (ids.clone(), round + 2), "{}", keeper.run.stderr());
        assert_eq!(keeper.times_said("Podman cannot be reached: "), round + 1, "{}", keeper.run.stderr());
        assert_eq!(keeper.times_said("Podman can be reached again"), round + 1, "{}", keeper.run.stderr());
    }
    // Events of the new service are heard.
    world.remove("b");
    until("it is there again", || world.runs("b"));
    keeper.converged();
    assert_eq!(starts(&a), 3);
}

/// Restarted so fast that hardly anybody notices.
#[test]
fn a_service_that_is_back_at_once_costs_nothing() {
    let mut world = World::new();
    let Some(mut service) = Service::start(&mut world) else { return };
    two_agents(&world);
    let mut keeper = Keeper::start(&world, "");
    let ids = world.ids();
    for _ in 0..3 {
        service.end(Signal::TERM);
        service.again();
        kill(&world, "b");
        until("it runs again", || world.runs("b"));
    }
    keeper.looked();
    keeper.converged();
    assert_eq!(world.ids(), ids);
    assert_eq!([starts(&id(&world, "a")), starts(&id(&world, "b"))], [1, 4], "{}", keeper.run.stderr());
}

/// Answering with errors, with halves and slowly.
#[test]
fn errors_and_half_answers_lead_to_no_wrong_step() {
    let mut world = World::new();
    let proxy = Proxy::start(&mut world);
    two_agents(&world);
    let mut keeper = Keeper::start(&world, "--resync 1s");
    let ids = world.ids();
    for (round, manner) in [Manner::Failing, Manner::Half].into_iter().enumerate() {
        proxy.set(manner);
        keeper.until("it is told", |status| status["podman"]["reachable"] == false);
        kill(&world, "a");
        keeper.passes(2);
        assert!(!world.runs("a"), "{manner:?}");
        proxy.set(Manner::Faithful);
        until("it runs again", || world.runs("a"));
        keeper.converged();
        assert_eq!(world.ids(), ids, "{manner:?}");
        assert_eq!([starts(&id(&world, "a")), starts(&id(&world, "b"))], [round + 2, 1], "{}", keeper.run.stderr());
        assert_eq!(keeper.times_said("Podman cannot be reached: "), round + 1, "{}", keeper.run.stderr());
        assert_eq!(keeper.times_said("Podman can be reached again"), round + 1, "{}", keeper.run.stderr());
    }
    // A slow one is no broken one.
    proxy.set(Manner::Slow);
    kill(&world, "b");
    until("it runs again", || world.runs("b"));
    keeper.converged();
    assert_eq!((world.ids(), starts(&id(&world, "b"))), (ids, 2), "{}", keeper.run.stderr());
    assert_eq!(keeper.times_said("Podman cannot be reached: "), 2, "{}", keeper.run.stderr());
}

/// Stopped in its tracks, with connections open: nothing answers, and nothing says so either.
#[test]
fn a_service_that_hangs_is_waited_for() {
    let mut world = World::new();
    let Some(service) = Service::start(&mut world) else { return };
    two_agents(&world);
    let mut keeper = Keeper::start(&world, "--resync 1s");
    let ids = world.ids();
    // Between two observations: Podmans of one storage share locks, and one that hangs amid an answer would stop all of them.
    keeper.passes(1);
    service.hang();
    kill(&world, "a");
    keeper.until("it is told", |status| status["podman"]["reachable"] == false);
    // `status` was told so before its own observation has failed.
    keeper.says("Podman cannot be reached: ");
    // It still answers, obeys and keeps quiet.
    keeper.until("it has tried again", |status| status["run"]["wokenBy"].is_string());
    assert!(!world.runs("a"));
    service.go_on();
    until("it runs again", || world.runs("a"));
    keeper.converged();
    keeper.passes(2);
    assert_eq!(world.ids(), ids);
    assert_eq!([starts(&id(&world, "a")), starts(&id(&world, "b"))], [2, 1], "{}", keeper.run.stderr());
    assert_eq!(keeper.times_said("Podman cannot be reached: "), 1, "{}", keeper.run.stderr());
    assert_eq!(keeper.times_said("Podman can be reached again"), 1, "{}", keeper.run.stderr());
}

/// Hanging when it is told to stop: it ends in time all the same.
#[test]
fn a_service_that_hangs_does_not_keep_run_from_stopping() {
    let mut world = World::new();
    let proxy = Proxy::start(&mut world);
    two_agents(&world);
    let keeper = Keeper::start(&world, "");
    proxy.set(Manner::Silent);
    kill(&world, "a");
    let began = std::time::Instant::now();
    keeper.stop();
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(world.runs("b"));
}

/// Not there at all when it starts: it says so, and begins once it is.
#[test]
fn a_service_that_comes_later_is_waited_for() {
    let mut world = World::new();
    let Some(mut service) = Service::start(&mut world) else { return };
    two_agents(&world);
    service.end(Signal::TERM);
    let mut keeper = Keeper::spawn(&world, "");
    keeper.says("Podman cannot be reached: ");
    assert!(world.ids().is_empty());
    service.again();
    keeper.converged();
    assert_eq!(world.ids().len(), 2);
    assert!(world.runs("a") && world.runs("b"));
    assert_eq!(keeper.times_said("Podman cannot be reached: "), 1, "{}", keeper.run.stderr());
}
