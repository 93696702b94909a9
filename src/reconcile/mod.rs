//! observe → plan → act → observe, until there is nothing left to do.
//!
//! There is no barrier between waves: as soon as a step ends that others may have waited for, the world is looked at and
//! planned for again, and whatever is ready starts. Deciding belongs in [`crate::plan`], doing in [`crate::act`]; what
//! stands here is only when to look, how much to do at once, and when to stop.

pub mod backoff;
pub mod flights;
pub mod journal;
pub mod lock;
pub mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use report::{Report, Taken, Trouble};

use crate::act::{ActError, Disposition, Done, Ending, HealthVerdict, Patience, ended, last_lines, wait_until_healthy};
use crate::backend::{Engine, Progress, Store, World};
use crate::handles::Scratch;
use crate::model::{AgentName, AgentState, ContainerId, ContainerState, Desired, Health, Name, Observed, Owner, Phase};
use crate::observe::{look_at_published, observe};
use crate::plan::{Action, Plan, Policy, Reason, Step, plan, plan_down};
use backoff::Backoff;
use flights::{Flight, Landed, fly};
use journal::Journal;

/// How a convergence is to go about it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Container steps at once. Default 4.
    pub parallel: usize,
    /// Downloads at once. Default 4.
    pub downloads: usize,
    /// The longest it may take. Default 10 min.
    pub timeout: Duration,
    /// Wait for health, and look once more at what was started.
    pub wait: bool,
    /// How patient single steps are.
    pub patience: Patience,
    /// What is allowed.
    pub policy: Policy,
    /// A state file without agents may remove those that are there.
    pub allow_empty: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 4,
            downloads: 4,
            timeout: Duration::from_secs(600),
            wait: true,
            patience: Patience::default(),
            policy: Policy::default(),
            allow_empty: false,
        }
    }
}

/// Hears of each step as it happens. What is drawn on a terminal is drawn from this.
pub trait Reporter: Send + Sync {
    /// A step begins; `progress` follows its bytes, where it moves any.
    fn started(&self, step: &Step, progress: &Arc<Progress>);
    /// A step ended.
    fn finished(&self, step: &Step, outcome: Result<&Done, &ActError>, took: Duration);
    /// Nothing is left to do but to wait for these agents' health checks.
    fn awaiting_health(&self, agents: &[AgentName]);
}

/// A reporter that says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn started(&self, _: &Step, _: &Arc<Progress>) {}
    fn finished(&self, _: &Step, _: Result<&Done, &ActError>, _: Duration) {}
    fn awaiting_health(&self, _: &[AgentName]) {}
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The state file has no agents, and some are there.
    #[error("the state file has no agents, and {} of `{name}` would be removed", containers(*count))]
    Empty {
        /// Whose.
        name: Name,
        /// How many containers.
        count: usize,
    },
}

fn containers(count: usize) -> String {
    if count == 1 { "1 container".to_owned() } else { format!("{count} containers") }
}

/// What a convergence works with.
pub struct Reconciler<'a, E, S> {
    /// The world.
    pub world: &'a World<E, S>,
    /// What is wanted.
    pub desired: &'a Desired,
    /// How to go about it.
    pub options: &'a Options,
    /// Who hears of it.
    pub reporter: &'a dyn Reporter,
    /// Where it is written down.
    pub journal: &'a Journal,
    /// Where handles are kept.
    pub scratch: &'a Scratch,
    /// Cancelled when it is to stop: downloads and loads are dropped, container steps are finished.
    pub cancel: CancellationToken,
}

impl<E, S> std::fmt::Debug for Reconciler<'_, E, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("name", &self.desired.name).finish_non_exhaustive()
    }
}

/// What a convergence remembers between its looks.
#[derive(Default)]
struct Progressed {
    taken: Vec<Taken>,
    failed: BTreeMap<String, Failed>,
    done: BTreeMap<(String, String), u32>,
    started: BTreeMap<AgentName, ContainerId>,
    last_start: Option<Instant>,
    troubles: Vec<Trouble>,
    given_up: BTreeSet<AgentName>,
    settled: BTreeSet<ContainerId>,
    healthy: BTreeSet<ContainerId>,
}

impl Progressed {
    /// A passing failure whose step is not wanted any more is over: its answer was lost, or somebody else did the work.
    fn forget_what_passed(&mut self, observed: &Observed, plan: &Plan) {
        if observed.guest.unknown().is_some() || observed.artifacts.unknown().is_some() {
            return;
        }
        let ready = plan.ready.iter().map(|step| lane(&step.action));
        let waiting = plan.waiting.iter().map(|waiting| lane_of(waiting.kind, &waiting.target));
        let wanted: BTreeSet<_> = ready.chain(waiting).collect();
        self.failed
            .retain(|lane, failed| wanted.contains(lane) || failed.error.disposition() == Disposition::NeedsUser);
    }

    /// When the next step is to be tried again.
    fn next_retry(&self) -> Option<Instant> {
        let now = Instant::now();
        self.failed.values().filter_map(|failed| failed.retry_at).filter(|at| *at > now).min()
    }
}

struct Failed {
    agent: Option<AgentName>,
    error: Arc<ActError>,
    tries: u32,
    retry_at: Option<Instant>,
}

const TRIES: u32 = 3;
const TRANSITION_POLL: Duration = Duration::from_millis(200);
const BLIND_TRIES: u32 = 3;
const LANDING_TIME: Duration = Duration::from_secs(15);

impl<E: Engine, S: Store> Reconciler<'_, E, S> {
    /// Looks once and plans.
    pub async fn plan(&self) -> (Observed, Plan, bool) {
        let published = look_at_published(&self.world.store, self.desired).await;
        let observed = observe(self.world, self.desired, &published).await;
        let plan = plan(self.desired, &observed, &self.options.policy);
        (observed, plan, published.invalid)
    }

    /// Drives the world to what is desired, and proves it.
    ///
    /// # Errors
    /// When it would be too dangerous to begin.
    pub async fn converge(&self) -> Result<Report, Refusal> {
        let published = look_at_published(&self.world.store, self.desired).await;
        self.drive(published.invalid, true, async || {
            let observed = observe(self.world, self.desired, &published).await;
            let plan = plan(self.desired, &observed, &self.options.policy);
            (observed, plan)
        })
        .await
    }

    /// Removes everything the state file owns, and proves it.
    ///
    /// # Errors
    /// None today.
    pub async fn down(&self) -> Result<Report, Refusal> {
        let published = crate::observe::Published { manifest: crate::model::Seen::Absent, invalid: false };
        self.drive(false, false, async || {
            let observed = observe(self.world, self.desired, &published).await;
            let plan = plan_down(&observed);
            (observed, plan)
        })
        .await
    }

    async fn drive(
        &self,
        manifest_invalid: bool,
        guarded: bool,
        look: impl AsyncFn() -> (Observed, Plan),
    ) -> Result<Report, Refusal> {
        let began = Instant::now();
        let deadline = began + self.options.timeout;
        let mut run = Progressed::default();
        let mut flights = FuturesUnordered::new();
        let mut flying: BTreeSet<String> = BTreeSet::new();
        let mut blind = 0;
        let (observed, residual, timed_out) = loop {
            let (observed, plan) = look().await;
            if guarded {
                self.refuse_if_empty(&observed)?;
            }
            self.scratch.record(&observed).await;
            if observed.guest.unknown().is_some() && !run.taken.is_empty() && blind < BLIND_TRIES {
                blind += 1;
                tokio::time::sleep(Backoff::LOOK.delay(blind)).await;
                continue;
            }
            blind = 0;
            run.forget_what_passed(&observed, &plan);
            self.judge_deaths(&mut run, &observed, &plan).await;
            let mut queue: VecDeque<Step> = plan
                .ready
                .iter()
                .filter(|step| !flying.contains(&lane(&step.action)) && self.may_take(&mut run, step))
                .cloned()
                .collect();
            let others_wait = !plan.waiting.is_empty();
            let taken_before = run.taken.len();

            // Start what is ready, and go on until a look may show something new.
            loop {
                self.launch(&mut queue, &mut flights, &mut flying);
                // One that flies long holds up nobody who is to be tried again, or whom Podman is about to move on.
                let wake = run.next_retry().into_iter().chain(self.next_poll(&plan)).fold(deadline, Instant::min);
                let Some(landed) = self.next_landing(&mut flights, wake).await else { break };
                flying.remove(&lane(&landed.step.action));
                let opens = others_wait && opens_ways(&landed);
                self.land(&mut run, landed);
                if opens || flights.is_empty() && queue.is_empty() {
                    break;
                }
            }
            if !flights.is_empty() || !queue.is_empty() {
                if Instant::now() >= deadline {
                    self.bring_down(&mut run, &mut flights).await;
                    break (observed, plan, true);
                }
                if !self.cancel.is_cancelled() {
                    continue;
                }
            }
            if self.cancel.is_cancelled() {
                self.bring_down(&mut run, &mut flights).await;
                break (observed, plan, false);
            }
            if run.taken.len() > taken_before {
                continue;
            }
            if Instant::now() >= deadline {
                break (observed, plan, true);
            }
            match self.what_next(&mut run, &observed, &plan, deadline).await {
                Next::Look => {}
                Next::Stop => break (observed, plan, false),
            }
        };
        let report = self.report(run, observed, residual, manifest_invalid, timed_out, began.elapsed());
        self.journal.pass(&report).await;
        Ok(report)
    }

    fn refuse_if_empty(&self, observed: &Observed) -> Result<(), Refusal> {
        if !self.desired.agents.is_empty() || self.options.allow_empty || !self.options.policy.prune {
            return Ok(());
        }
        let Some(guest) = observed.guest.present() else { return Ok(()) };
        let count = guest.containers.values().filter(|container| matches!(container.owner, Owner::Ours { .. })).count();
        if count == 0 { Ok(()) } else { Err(Refusal::Empty { name: self.desired.name.clone(), count }) }
    }

    /// Whether a step may be taken: not one that failed for good or must wait, not one that keeps coming back, and none
    /// of an agent that was given up.
    fn may_take(&self, run: &mut Progressed, step: &Step) -> bool {
        if step.agent.as_ref().is_some_and(|agent| run.given_up.contains(agent)) && is_container_step(&step.action) {
            return false;
        }
        let lane = lane(&step.action);
        if let Some(failed) = run.failed.get(&lane)
            && failed.retry_at.is_none_or(|at| at > Instant::now())
        {
            return false;
        }
        let diff = (lane, step.reason.to_string());
        if run.done.get(&diff).is_some_and(|times| *times >= 2) {
            let trouble = Trouble::NonConvergent {
                agent: step.agent.clone(),
                action: step.action.to_string(),
                reason: step.reason.to_string(),
            };
            if !run.troubles.contains(&trouble) {
                run.troubles.push(trouble);
            }
            run.given_up.extend(step.agent.clone());
            return false;
        }
        true
    }

    fn launch<'s>(
        &'s self,
        queue: &mut VecDeque<Step>,
        flights: &mut FuturesUnordered<Flight<'s>>,
        flying: &mut BTreeSet<String>,
    ) {
        if self.cancel.is_cancelled() {
            return;
        }
        let is_download = |lane: &String| lane.starts_with("fetchArtifact ");
        let mut held = VecDeque::new();
        while let Some(step) = queue.pop_front() {
            let downloads = flying.iter().filter(|lane| is_download(lane)).count();
            let (busy, limit) = if matches!(step.action, Action::FetchArtifact { .. }) {
                (downloads, self.options.downloads)
            } else {
                (flying.len() - downloads, self.options.parallel)
            };
            let lane = lane(&step.action);
            if flying.contains(&lane) || busy >= limit.max(1) {
                held.push_back(step);
                continue;
            }
            flying.insert(lane);
            flights.push(fly(self.world, step, &self.options.patience, self.reporter, &self.cancel));
        }
        *queue = held;
    }

    async fn next_landing<'s>(&self, flights: &mut FuturesUnordered<Flight<'s>>, deadline: Instant) -> Option<Landed> {
        if flights.is_empty() {
            return None;
        }
        tokio::select! {
            // Dropping `next()` drops no flight: they stay in the set.
            landed = flights.next() => landed,
            () = tokio::time::sleep_until(deadline) => None,
            () = self.cancel.cancelled() => None,
        }
    }

    fn land(&self, run: &mut Progressed, landed: Landed) {
        let Landed { step, outcome, took } = landed;
        let lane = lane(&step.action);
        self.journal.step(&step, outcome.as_ref().map_err(|err| &**err), took);
        match &outcome {
            Ok(done) => {
                run.failed.remove(&lane);
                *run.done.entry((lane, step.reason.to_string())).or_default() += 1;
                if let (Some(agent), Some(id)) = (&step.agent, &done.started) {
                    run.started.insert(agent.clone(), id.clone());
                    if !done.settled {
                        run.last_start = Some(Instant::now());
                    }
                    if done.settled {
                        run.settled.insert(id.clone());
                    }
                }
            }
            Err(error) if matches!(**error, ActError::Interrupted) => {}
            Err(error) => {
                // What is left of it is for a person to look at, the predecessor above all.
                if matches!(**error, ActError::RollBackFailed { .. }) && error.disposition() == Disposition::NeedsUser {
                    run.given_up.extend(step.agent.clone());
                }
                let tries = run.failed.get(&lane).map_or(0, |failed| failed.tries) + 1;
                let again = error.disposition() == Disposition::Retry && tries < TRIES;
                let retry_at = again.then(|| Instant::now() + Backoff::STEP.delay(tries));
                let failed = Failed { agent: step.agent.clone(), error: error.clone(), tries, retry_at };
                run.failed.insert(lane, failed);
            }
        }
        run.taken.push(Taken { step, outcome, took });
    }

    /// A container that this convergence started and that is down again is an error with its last words, not a thing to
    /// start over and over.
    async fn judge_deaths(&self, run: &mut Progressed, observed: &Observed, plan: &Plan) {
        let dead: Vec<_> = plan
            .ready
            .iter()
            .filter_map(|step| match (&step.action, &step.reason, &step.agent) {
                (Action::StartContainer { id, .. }, Reason::NotRunning(Phase::Exited { code }), Some(agent))
                    if run.started.get(agent) == Some(id) =>
                {
                    Some((agent.clone(), id.clone(), Ending::Exited(*code)))
                }
                _ => None,
            })
            .collect();
        for (agent, id, how) in dead {
            self.give_up(run, observed, &agent, &id, how).await;
        }
    }

    async fn give_up(
        &self,
        run: &mut Progressed,
        observed: &Observed,
        agent: &AgentName,
        id: &ContainerId,
        how: Ending,
    ) {
        if !run.given_up.insert(agent.clone()) {
            return;
        }
        let container = container_of(observed, id).map_or_else(|| agent.to_string(), |(name, _)| name);
        let log = last_lines(&self.world.engine, id).await;
        let error = Arc::new(ActError::EndedAtOnce { container, how, log });
        run.troubles.push(Trouble::Failed { agent: Some(agent.clone()), error });
    }

    /// Nothing can be started now. Wait for something, or stop.
    async fn what_next(&self, run: &mut Progressed, observed: &Observed, plan: &Plan, deadline: Instant) -> Next {
        if let Some(at) = run.next_retry().or_else(|| self.next_poll(plan)) {
            return self.pause(at.min(deadline)).await;
        }
        if !self.options.wait {
            return Next::Stop;
        }
        if self.settle(run, observed, deadline).await || self.await_health(run, observed, deadline).await {
            return Next::Look;
        }
        Next::Stop
    }

    /// When to look again at what Podman is about to move on.
    fn next_poll(&self, plan: &Plan) -> Option<Instant> {
        let moves = plan.waiting.iter().any(|waiting| matches!(waiting.on, crate::plan::WaitingOn::Transition { .. }));
        moves.then(|| Instant::now() + TRANSITION_POLL)
    }

    async fn pause(&self, until: Instant) -> Next {
        tokio::select! {
            () = tokio::time::sleep_until(until) => Next::Look,
            () = self.cancel.cancelled() => Next::Look,
        }
    }

    /// Looks once more at what was started. Yields whether there was anything to wait for.
    async fn settle(&self, run: &mut Progressed, observed: &Observed, deadline: Instant) -> bool {
        let Some(last) = run.last_start.take() else { return false };
        self.pause((last + self.options.patience.settle).min(deadline)).await;
        let started = run.started.clone().into_iter();
        let unsettled: Vec<_> =
            started.filter(|(agent, id)| !run.given_up.contains(agent) && !run.settled.contains(id)).collect();
        let looks = join_all(unsettled.iter().map(|(_, id)| self.world.engine.inspect(id))).await;
        for ((agent, id), seen) in unsettled.into_iter().zip(looks) {
            // A look that fails here is taken again by the next pass.
            let (Ok(seen), Some(wanted)) = (seen, self.desired.agents.get(&agent)) else { continue };
            if let Some(how) = ended(seen.as_ref(), wanted.container.restart) {
                self.give_up(run, observed, &agent, &id, how).await;
            }
        }
        true
    }

    /// Waits for the health of every agent that has a check. Yields whether there was anything to wait for.
    async fn await_health(&self, run: &mut Progressed, observed: &Observed, deadline: Instant) -> bool {
        let Some(guest) = observed.guest.present() else { return false };
        let waiting: Vec<_> = self
            .desired
            .agents
            .iter()
            .filter(|(name, agent)| {
                self.is_included(name)
                    && !agent.suspend
                    && agent.state == AgentState::Running
                    && !run.given_up.contains(*name)
            })
            .filter_map(|(name, agent)| {
                let check = agent.container.healthcheck.as_ref()?;
                let container = guest.containers.get(&agent.container.name)?;
                let pending = container.phase == Phase::Running
                    && container.health != Some(Health::Healthy)
                    && !run.healthy.contains(&container.id);
                pending.then(|| (name.clone(), agent.container.name.to_string(), container.id.clone(), check))
            })
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let names: Vec<_> = waiting.iter().map(|(name, ..)| name.clone()).collect();
        self.reporter.awaiting_health(&names);
        let patience = deadline.saturating_duration_since(Instant::now());
        let waits = waiting.into_iter().map(async |(agent, container, id, check)| {
            let outcome = wait_until_healthy(&self.world.engine, &id, check, patience).await;
            let error = match outcome {
                Ok(HealthVerdict::Healthy) => None,
                Ok(HealthVerdict::Ended { code }) => {
                    let log = last_lines(&self.world.engine, &id).await;
                    Some(ActError::EndedAtOnce { container, how: Ending::Exited(code), log })
                }
                Ok(verdict) => {
                    let why = match verdict {
                        HealthVerdict::Unhealthy => "its health check failed as often as its retries allow",
                        HealthVerdict::TimedOut => "it did not become healthy in time",
                        _ => "it went away",
                    };
                    let log = last_lines(&self.world.engine, &id).await;
                    Some(ActError::Unhealthy { container, why: why.to_owned(), log })
                }
                Err(err) => Some(err.into()),
            };
            (agent, id, error)
        });
        let all = join_all(waits);
        let outcomes = tokio::select! {
            outcomes = all => outcomes,
            () = self.cancel.cancelled() => return true,
        };
        for (agent, id, error) in outcomes {
            match error {
                None => {
                    run.healthy.insert(id);
                }
                Some(error) => {
                    run.given_up.insert(agent.clone());
                    run.troubles.push(Trouble::Failed { agent: Some(agent), error: Arc::new(error) });
                }
            }
        }
        true
    }

    fn is_included(&self, agent: &AgentName) -> bool {
        self.options.policy.only.is_empty() || self.options.policy.only.contains(agent)
    }

    /// Lets what is in flight end: transfers are dropped by the token, container steps are given their time.
    async fn bring_down(&self, run: &mut Progressed, flights: &mut FuturesUnordered<Flight<'_>>) {
        self.cancel.cancel();
        let landing = async {
            while let Some(landed) = flights.next().await {
                self.land(run, landed);
            }
        };
        if tokio::time::timeout(LANDING_TIME, landing).await.is_err() {
            tracing::warn!("left steps unfinished; the next run takes them up");
        }
    }

    fn report(
        &self,
        run: Progressed,
        observed: Observed,
        residual: Plan,
        manifest_invalid: bool,
        timed_out: bool,
        took: Duration,
    ) -> Report {
        let mut troubles = run.troubles;
        troubles.extend(
            run.failed.into_values().map(|failed| Trouble::Failed { agent: failed.agent, error: failed.error }),
        );
        troubles.extend(report::blocked(&residual));
        let converged = residual.is_empty() && troubles.is_empty() && !timed_out;
        Report {
            name: self.desired.name.clone(),
            converged,
            taken: run.taken,
            troubles,
            residual,
            observed,
            manifest_invalid,
            timed_out,
            interrupted: self.cancel.is_cancelled() && !timed_out && !converged,
            took,
        }
    }
}

enum Next {
    Look,
    Stop,
}

/// Steps in one lane are never in flight together.
fn lane(action: &Action) -> String {
    lane_of(action.kind(), &action.target())
}

fn lane_of(kind: &str, target: &str) -> String {
    if kind.ends_with("Container") { format!("container {target}") } else { format!("{kind} {target}") }
}

fn is_container_step(action: &Action) -> bool {
    matches!(
        action,
        Action::CreateContainer { .. }
            | Action::StartContainer { .. }
            | Action::StopContainer { .. }
            | Action::ReplaceContainer { .. }
            | Action::RemoveContainer { .. }
    )
}

/// Whether what landed may have opened the way for a step that waits.
fn opens_ways(landed: &Landed) -> bool {
    landed.outcome.is_ok()
        && !matches!(landed.step.action, Action::CreateContainer { .. } | Action::StartContainer { .. })
}

fn container_of<'a>(observed: &'a Observed, id: &ContainerId) -> Option<(String, &'a ContainerState)> {
    let guest = observed.guest.present()?;
    guest.containers.iter().find(|(_, container)| container.id == *id).map(|(name, seen)| (name.to_string(), seen))
}
