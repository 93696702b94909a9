//! Properties over generated pairs of (desired, observed), and of plans carried out in an ideal world.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use steadfast::model::*;
use steadfast::plan::{Action, Plan, Policy, Reason, Step, Takedown, WaitingOn, plan_down};

use crate::ideal::Ideal;
use crate::pairs::{any_pair, as_observed, scene};
use crate::scene::*;

/// The containers that an action touches.
fn touched(action: &Action) -> Vec<&ContainerId> {
    match action {
        Action::StartContainer { id, previous, .. } => [id].into_iter().chain(previous).collect(),
        Action::ReplaceContainer { old, successor, .. } => [old].into_iter().chain(successor).collect(),
        Action::StopContainer { id, .. } | Action::RenameContainer { id, .. } | Action::RemoveContainer { id, .. } => {
            vec![id]
        }
        _ => Vec::new(),
    }
}

/// What an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Manifest,
    Fetch,
    Prune,
    Image,
    Vm,
    Container,
}

fn about(action: &Action) -> About {
    match action {
        Action::SyncManifest { .. } => About::Manifest,
        Action::FetchArtifact { .. } => About::Fetch,
        Action::PruneArtifact { .. } | Action::PruneImage { .. } => About::Prune,
        Action::LoadImage { .. } | Action::PullImage { .. } => About::Image,
        Action::CreateContainer { .. }
        | Action::StartContainer { .. }
        | Action::StopContainer { .. }
        | Action::ReplaceContainer { .. }
        | Action::RenameContainer { .. }
        | Action::RemoveContainer { .. } => About::Container,
        _ => About::Vm,
    }
}

/// Nothing is touched that does not carry our label, unless it is given to us.
fn leaves_others_alone(scene: &Scene, plan: &Plan) -> Result<(), TestCaseError> {
    let guest = scene.observed.guest.present();
    let by_id: BTreeMap<_, _> =
        guest.into_iter().flat_map(|guest| guest.containers.values()).map(|one| (&one.id, &one.owner)).collect();
    for step in plan.steps() {
        for id in touched(&step.action) {
            let given = scene.policy.adopt && step.reason == Reason::Adopted;
            prop_assert!(given || matches!(by_id[id], Owner::Ours { .. }), "{} touches {id}", step.action);
        }
        match (&step.action, guest) {
            (Action::PruneImage { image, .. }, Some(guest)) => {
                prop_assert!(scene.observed.loaded.contains_key(image), "{} was there before us", step.action);
                prop_assert_eq!(guest.image_store[image].containers, Some(0));
            }
            (Action::LoadImage { supersedes: Some(image), .. }, _) => {
                let ours = scene.observed.loaded.contains_key(image) || *image != ImageId::from("theirs");
                prop_assert!(ours || scene.policy.adopt, "{} takes a name", step.action);
            }
            (action, _) if about(action) == About::Vm => {
                let theirs = scene.observed.vm.present().is_some_and(|vm| vm.owner.as_deref() != Some("demo"));
                prop_assert!(!theirs || scene.policy.adopt, "{action} of somebody else's machine");
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is unknown is neither made nor deleted.
fn respects_the_unknown(scene: &Scene, plan: &Plan) -> Result<(), TestCaseError> {
    let Observed { published, local, artifacts, vm, guest, .. } = &scene.observed;
    let is_hidden = guest.present().is_none();
    for step in plan.steps() {
        let is = |forbidden: &[About]| forbidden.contains(&about(&step.action));
        prop_assert!(!is_hidden || !is(&[About::Container, About::Image]), "{} out of sight", step.action);
        prop_assert!(!is_hidden || !matches!(step.action, Action::PruneImage { .. }), "{} out of sight", step.action);
        prop_assert!(artifacts.unknown().is_none() || !is(&[About::Fetch, About::Prune, About::Manifest]));
        prop_assert!(published.unknown().is_none() || !is(&[About::Manifest, About::Prune]));
        prop_assert!(local.unknown().is_none() || !is(&[About::Manifest, About::Prune]));
        prop_assert!(vm.unknown().is_none() || !is(&[About::Vm]), "{} unseen", step.action);
    }
    let wants = scene
        .desired
        .agents
        .iter()
        .any(|(name, agent)| scene.policy.includes(name) && !agent.suspend && agent.state != AgentState::Absent);
    prop_assert!(!is_hidden || !wants || !plan.is_empty(), "what is hidden is not called done");
    Ok(())
}

/// No two ready steps are about one container, but that one is started before it is renamed; no two make the same; and
/// no step of one agent touches what another one's does.
fn is_independent(plan: &Plan) -> Result<(), TestCaseError> {
    let mut by_container: BTreeMap<&ContainerId, Vec<&Step>> = BTreeMap::new();
    let mut targets = BTreeSet::new();
    let mut machine_steps = 0;
    for step in plan.steps() {
        for id in touched(&step.action) {
            by_container.entry(id).or_default().push(step);
        }
        let what = step.action.to_string();
        prop_assert!(targets.insert(what.clone()), "{what} twice");
        machine_steps += usize::from(about(&step.action) == About::Vm);
    }
    prop_assert!(machine_steps <= 1, "{:?}", lines(plan));
    for (id, steps) in by_container {
        let actions: Vec<_> = steps.iter().map(|step| &step.action).collect();
        let is_fine = matches!(&actions[..], [_] | [Action::StartContainer { .. }, Action::RenameContainer { .. }]);
        prop_assert!(is_fine, "{id}: {actions:?}");
        prop_assert!(steps.iter().all(|step| step.agent == steps[0].agent), "{id} of two agents");
    }
    // Names that come to be are not taken twice.
    let mut names = BTreeSet::new();
    for step in plan.steps() {
        if let Action::CreateContainer { create, .. } | Action::ReplaceContainer { create, .. } = &step.action {
            prop_assert!(names.insert(create.name.clone()), "{} twice", create.name);
        }
        if let Action::RenameContainer { name, .. } = &step.action {
            prop_assert!(names.insert(name.clone()), "{name} twice");
        }
    }
    Ok(())
}

/// The same worlds each time; $PROPTEST_RNG_SEED draws others, and $PROPTEST_CASES more.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = std::env::var_os("PROPTEST_CASES").map_or(cases, |_| default.cases);
    let config = ProptestConfig { cases, failure_persistence: None, ..default };
    match config.rng_seed {
        RngSeed::Random => ProptestConfig { rng_seed: RngSeed::Fixed(1), ..config },
        RngSeed::Fixed(_) => config,
    }
}

proptest! {
    #![proptest_config(config(800))]

    #[test]
    fn nothing_is_touched_that_is_not_ours_or_unknown_and_steps_are_independent(pair in any_pair()) {
        let scene = as_observed(&scene(&pair));
        let plan = scene.plan();
        leaves_others_alone(&scene, &plan)?;
        respects_the_unknown(&scene, &plan)?;
        is_independent(&plan)?;
        for vm in [false, true] {
            let down = plan_down(&scene.desired, &scene.observed, Takedown { vm, volumes: true });
            let scene = Scene { policy: Policy::default(), ..scene.clone() };
            leaves_others_alone(&scene, &down)?;
            is_independent(&down)?;
        }
    }

    /// What is hidden changes nothing about the rest: all that is planned in a world half of which is out of sight is
    /// planned in the whole one too, or waits there.
    #[test]
    fn hiding_a_layer_adds_no_step(pair in any_pair(), layer in 0..3usize) {
        let scene = as_observed(&scene(&pair));
        let hidden = scene.clone().seeing(|observed| match layer {
            0 => observed.guest = unknown(),
            1 => observed.artifacts = unknown(),
            _ => (observed.published, observed.local) = (unknown(), unknown()),
        });
        let removes = |plan: &Plan| {
            let removes = |action: &Action| matches!(action, Action::RemoveContainer { .. }) || about(action) == About::Prune;
            let steps = plan.steps().filter(|step| removes(&step.action));
            steps.map(|step| step.action.to_string()).collect::<BTreeSet<_>>()
        };
        let (all, left) = (removes(&scene.plan()), removes(&hidden.plan()));
        // Not knowing what is wanted keeps what there is: nothing more is removed.
        prop_assert!(left.is_subset(&all), "{:?} beside {:?}", left, all);
    }

    /// The order of lists says nothing.
    #[test]
    fn the_order_of_lists_does_not_matter(pair in any_pair()) {
        let lists = |turn: bool| {
            let mut scene = as_observed(&scene(&pair));
            for (at, agent) in scene.desired.agents.values_mut().enumerate() {
                let (spec, first) = (&mut agent.container, 9001 + 2 * u16::try_from(at).unwrap());
                spec.ports.extend([port(first), port(first + 1)]);
                spec.add_hosts = vec![Text::plain("x:1.1.1.1"), Text::plain("y:1.1.1.1")];
                let mount = |at: &str| Mount::bind(Text::plain(at), at, true);
                spec.mounts = vec![mount("/x"), mount("/y")];
                if turn {
                    spec.ports.reverse();
                    spec.add_hosts.reverse();
                    spec.mounts.reverse();
                }
            }
            if let (true, Seen::Present(guest)) = (turn, &mut scene.observed.guest) {
                guest.containers.values_mut().for_each(|one| one.ports.reverse());
            }
            lines(&scene.plan())
        };
        prop_assert_eq!(lists(false), lists(true));
    }

    /// Carried out in an ideal world, plan after plan, nothing is left but what a person must see to; and it makes no
    /// difference in which order the ready steps are taken.
    #[test]
    fn an_ideal_world_comes_to_rest(pair in any_pair()) {
        let mut scene = scene(&pair);
        scene.policy.allow_empty = true;
        let mut ideal = Ideal::new(as_observed(&scene).observed);
        ideal.inside = scene.observed.guest.present().cloned();
        let mut past = Vec::new();
        for _ in 0..14 {
            ideal.look_inside(&scene.desired);
            scene.observed = ideal.seen.clone();
            let plan = scene.plan();
            past.push(lines(&plan));
            if plan.ready.is_empty() && !plan.waiting.iter().any(|waiting| matters(&waiting.on)) {
                break;
            }
            let mut backwards = ideal.clone();
            ideal.take(&plan.ready);
            backwards.take(plan.ready.iter().rev());
            prop_assert_eq!(outcome(&ideal), outcome(&backwards), "{:#?}", past);
            ideal.pass_time();
        }
        scene.observed = ideal.seen.clone();
        let left = scene.plan();
        prop_assert!(left.ready.is_empty(), "{:#?}", past);
        for waiting in &left.waiting {
            let helpless = waiting.on.is_blocked() || left.waiting.iter().any(|other| other.on.is_blocked());
            prop_assert!(helpless, "{:?} for ever: {:#?}", waiting.on, past);
        }
    }
}

/// Whether a wait ends by itself.
fn matters(on: &WaitingOn) -> bool {
    matches!(on, WaitingOn::Transition { .. } | WaitingOn::Answer { .. })
}

/// What a world is, but for ids that are made up on the way.
fn outcome(ideal: &Ideal) -> BTreeMap<String, String> {
    let guest = ideal.seen.guest.present().into_iter().flat_map(|guest| &guest.containers);
    let containers = guest.map(|(name, one)| {
        (name.to_string(), format!("{:?} {:?} {:?} {:?}", one.owner, one.image, one.phase, one.ports))
    });
    containers.collect()
}
