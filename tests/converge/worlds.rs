//! Worlds to begin a story with.

use std::collections::BTreeMap;

use steadfast::act::Patience;
use steadfast::backend::fake::{Fake, FakeContainer, State};
use steadfast::handles::Scratch;
use steadfast::model::*;
use steadfast::plan::{Plan, Takedown};
use steadfast::reconcile::journal::Journal;
use steadfast::reconcile::{Options, Reconciler, Refusal, Report, Silent};
use tokio_util::sync::CancellationToken;

pub use crate::wishes::*;

/// Something wanted, in a world, with the way to go about it.
pub struct Story {
    pub desired: Desired,
    pub fake: Fake,
    pub options: Options,
    pub cancel: CancellationToken,
}

/// Publishes a manifest and all its tarballs.
pub fn publish(state: &mut State, offers: &[(&str, &str)]) {
    state.published = Some(manifest(offers));
    for (agent, version) in offers {
        let name = reference_of(agent, version).to_string();
        state.offered.insert(key_of(agent, version), tarball_of(agent, version));
        state.tarballs.insert(tarball_of(agent, version), (image_of(agent, version), vec![name]));
    }
}

/// A container of somebody else.
pub fn foreign(name: &str) -> FakeContainer {
    FakeContainer {
        name: container_name(name),
        labels: BTreeMap::from([("com.example.owner".to_owned(), "somebody".to_owned())]),
        spec: agent("foreign").container,
        image: ImageId::from("f0f0"),
        image_name: "r.example/foreign:1".into(),
        phase: Phase::Running,
        restarts: 0,
        checks: (0, false),
        started: None,
        ends: Vec::new(),
        volumes: vec![],
        is_half_made: false,
        breaks: None,
    }
}

impl Story {
    /// These agents are wanted at version 1, which is published; nothing is there yet.
    pub fn new(agents: &[&str]) -> Self {
        let fake = Fake::new();
        let offers: Vec<_> = agents.iter().map(|name| (*name, "1")).collect();
        publish(&mut fake.state(), &offers);
        let patience = Patience { local: false, ..Patience::default() };
        let options = Options { patience, ..Options::default() };
        Self { desired: desired(agents), fake, options, cancel: CancellationToken::new() }
    }

    /// These agents run.
    pub async fn running(agents: &[&str]) -> Self {
        Self::new(agents).settled().await
    }

    /// What is wanted has come about.
    pub async fn settled(self) -> Self {
        let report = self.converge().await;
        assert!(report.converged, "{:?}", report.problems);
        self.fake.restart();
        self
    }

    pub fn agent(&mut self, name: &str) -> &mut Agent {
        self.desired.agents.get_mut(name).unwrap()
    }

    pub fn set_env(&mut self, agent: &str, name: &str, value: &str) {
        self.agent(agent).container.env.insert(name.into(), Text::plain(value));
    }

    pub async fn try_converge(&self) -> Result<Report, Refusal> {
        let world = self.fake.world();
        self.reconcile(&world, async |reconciler| reconciler.converge().await).await
    }

    /// Converges in a world of several parts.
    pub async fn converge_in(&self, world: &steadfast::backend::World<Fake, Fake, Fake>) -> Report {
        self.reconcile(world, async |reconciler| reconciler.converge().await).await.unwrap()
    }

    pub async fn converge(&self) -> Report {
        self.try_converge().await.unwrap()
    }

    pub async fn observed_plan(&self) -> (Observed, Plan) {
        let world = self.fake.world();
        let (observed, plan, _) = self.reconcile(&world, async |reconciler| reconciler.plan().await).await;
        (observed, plan)
    }

    async fn reconcile<T>(
        &self,
        world: &steadfast::backend::World<Fake, Fake, Fake>,
        with: impl AsyncFnOnce(&Reconciler<'_, Fake, Fake, Fake>) -> T,
    ) -> T {
        let (journal, scratch) = (Journal::off(), Scratch::off());
        let reconciler = Reconciler {
            world,
            desired: &self.desired,
            options: &self.options,
            reporter: &Silent,
            journal: &journal,
            scratch: &scratch,
            cancel: self.cancel.clone(),
        };
        with(&reconciler).await
    }

    pub async fn down(&self) -> Report {
        let world = self.fake.world();
        self.reconcile(&world, async |reconciler| reconciler.down(Takedown::default()).await).await.unwrap()
    }

    /// The whole plan, a line for each step.
    pub async fn plan(&self) -> Vec<String> {
        lines(&self.observed_plan().await.1)
    }

    pub fn id(&self, container: &str) -> ContainerId {
        self.fake.state().named(container).unwrap_or_else(|| panic!("no container {container}")).0.clone()
    }

    pub fn phase(&self, container: &str) -> Phase {
        self.fake.state().named(container).unwrap_or_else(|| panic!("no container {container}")).1.phase.clone()
    }

    /// Names of all containers.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.fake.state().containers.values().map(|one| one.name.to_string()).collect();
        names.sort();
        names
    }
}

/// What went wrong, a line for each problem.
pub fn problems(report: &Report) -> Vec<String> {
    report.problems.iter().map(ToString::to_string).collect()
}

/// The steps that were taken.
pub fn taken(report: &Report) -> Vec<String> {
    report.taken.iter().map(|taken| taken.step.action.to_string()).collect()
}
