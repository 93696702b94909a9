//! observe → plan → act → observe, until there is nothing left to do.
//!
//! There is no barrier between waves: as soon as a step ends that others may have waited for, the world is looked at and
//! planned for again, and whatever is ready starts. Deciding belongs in [`crate::plan`], doing in [`crate::act`]; what
//! stands here is only when to look, how much to do at once, and when to stop.

mod aftermath;
pub mod backoff;
mod flights;
pub mod holder;
pub mod journal;
pub mod lock;
mod memory;
mod options;
pub mod report;
pub mod run;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use options::{Awaited, Options, Refusal, Reporter, Silent};
pub use report::{Report, Taken, Trouble};

use crate::act::{ActError, Disposition, Patience, Slot, Slots};
use crate::backend::{Engine, Store, Vm, World};
use crate::handles::Scratch;
use crate::model::{AgentName, Desired, Observed, Reach};
use crate::observe::{ManifestFault, Published, accept_published, look_at_published, observe};
use crate::plan::{Action, Plan, Step, WaitingOn, plan, plan_down};
use crate::readiness::{steady_after, unready};
use backoff::Backoff;
use flights::{Flight, Landed, fly};
use journal::Journal;
use memory::{Failed, Memory};
use run::News;

/// What a convergence works with.
pub struct Reconciler<'a, V, E, S> {
    /// The world.
    pub world: &'a World<V, E, S>,
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

impl<V, E, S> std::fmt::Debug for Reconciler<'_, V, E, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("name", &self.desired.name).finish_non_exhaustive()
    }
}

const TRIES: u32 = 3;
const TRANSITION_POLL: Duration = Duration::from_millis(200);
/// Each of these looks asks Lima and tries every way into the machine.
const ANSWER_POLL: Duration = Duration::from_secs(1);
const BLIND_TRIES: u32 = 3;
/// What a container step may take beyond two stops before it is left to the next run.
const LANDING_TIME: Duration = Duration::from_secs(30);
const LAST_LOOK_TIME: Duration = Duration::from_secs(10);
/// How long before the end of all time a successor must be healthy, so that its predecessor can be put back.
const PUT_BACK_TIME: Duration = Duration::from_millis(500);

impl<V: Vm, E: Engine, S: Store> Reconciler<'_, V, E, S> {
    /// Looks once and plans.
    pub async fn plan(&self) -> (Observed, Plan, Option<ManifestFault>) {
        let published = look_at_published(&self.world.store, self.desired).await;
        let observed = observe(self.world, self.desired, &published).await;
        let plan = plan(self.desired, &observed, &self.options.policy);
        (observed, plan, published.fault)
    }

    /// Drives the world to what is desired, and proves it.
    ///
    /// # Errors
    /// When it would be too dangerous to begin.
    pub async fn converge(&self) -> Result<Report, Refusal> {
        let began = Instant::now();
        // Its server may take longer than there is time.
        let published = tokio::select! {
            published = accept_published(&self.world.store, self.desired) => published,
            () = self.cancel.cancelled() => Published::unseen("it was stopped before the manifest's server had answered"),
            () = tokio::time::sleep_until(began + self.options.timeout) => {
                Published::unseen("the time was up before the manifest's server had answered")
            }
        };
        self.drive(began, published.fault.as_ref(), true, async || {
            let observed = observe(self.world, self.desired, &published).await;
            let plan = plan(self.desired, &observed, &self.options.policy);
            (observed, plan)
        })
        .await
    }

    /// Removes everything the state file owns, and proves it. With `vm`, the virtual machine is part of that.
    ///
    /// # Errors
    /// None today.
    pub async fn down(&self, vm: bool) -> Result<Report, Refusal> {
        let published = Published::absent();
        self.drive(Instant::now(), None, false, async || {
            let observed = observe(self.world, self.desired, &published).await;
            let plan = plan_down(self.desired, &observed, vm);
            (observed, plan)
        })
        .await
    }

    async fn drive(
        &self,
        began: Instant,
        manifest_fault: Option<&ManifestFault>,
        guarded: bool,
        look: impl AsyncFn() -> (Observed, Plan),
    ) -> Result<Report, Refusal> {
        let deadline = began + self.options.timeout;
        let mut run = Memory::default();
        let mut flights = FuturesUnordered::new();
        let mut flying: BTreeSet<String> = BTreeSet::new();
        let slots = Slots::new(self.options.parallel);
        let mut blind = 0;
        let mut residual = Plan::default();
        let mut has_looked = false;
        let end = loop {
            let looked = self.look_beside(&look, &mut run, &mut flights, &mut flying, deadline).await;
            let Some((observed, plan)) = looked else {
                match self.over(deadline) {
                    Some(end) => break end,
                    None => continue,
                }
            };
            if let Some(refused) = &plan.refused {
                return Err(Refusal::Empty { name: self.desired.name.clone(), count: refused.count });
            }
            self.world.engine.keep();
            residual = plan.clone();
            has_looked = true;
            tracing::debug!(ready = plan.ready.len(), waiting = plan.waiting.len(), "observed and planned");
            self.scratch.record(&observed).await;
            if let Some(news) = reached_otherwise(&mut run.reach, &observed) {
                news.write(self.journal);
            }
            let hiccup = observed.guest.unknown().is_some() && self.desired.vm().is_none();
            if hiccup && !run.taken.is_empty() && blind < BLIND_TRIES {
                blind += 1;
                tokio::time::sleep(Backoff::LOOK.delay(blind)).await;
                continue;
            }
            blind = 0;
            run.forget_what_passed(&observed, &plan);
            run.find_what_was_started(&observed);
            if guarded {
                run.unready = unready(self.desired, &observed, &plan, &self.options.policy, self.steady());
            }
            self.judge_deaths(&mut run, &observed, &plan).await;
            let mut queue: VecDeque<Step> = plan
                .ready
                .iter()
                .filter(|step| !flying.contains(&lane(step)) && self.may_take(&mut run, step))
                .cloned()
                .collect();
            let others_wait = !plan.waiting.is_empty();
            let taken_before = run.taken.len();

            // Start what is ready, and go on until a look may show something new.
            loop {
                self.launch(&mut queue, &mut flights, &mut flying, &slots, deadline);
                // One that flies long holds up nobody who is to be tried again, or whom Podman is about to move on.
                let wake = run.next_retry().into_iter().chain(self.next_poll(&plan)).fold(deadline, Instant::min);
                let landed = tokio::select! {
                    biased;
                    landed = self.next_landing(&mut flights, wake) => landed,
                    () = slots.freed(), if !queue.is_empty() => continue,
                };
                let Some(landed) = landed else { break };
                flying.remove(&lane(&landed.step));
                let opens = others_wait && opens_ways(&landed);
                self.land(&mut run, landed);
                if opens || flights.is_empty() && queue.is_empty() {
                    break;
                }
            }
            if let Some(end) = self.over(deadline) {
                break end;
            }
            if !flights.is_empty() || !queue.is_empty() || run.taken.len() > taken_before {
                continue;
            }
            match self.what_next(&mut run, &observed, &plan, deadline).await {
                Next::Look => {}
                Next::Stop => break End::Proved,
            }
        };
        if end != End::Proved {
            let before = run.taken.len();
            self.bring_down(&mut run, &mut flights).await;
            // What is left is told from what is there now.
            let is_outdated = run.taken.len() > before || !has_looked && end == End::TimedOut;
            if is_outdated && let Ok((_, plan)) = tokio::time::timeout(LAST_LOOK_TIME, look()).await {
                residual = plan;
            }
        }
        if end == End::Proved {
            self.world.engine.finish().await;
        }
        // What was not waited for, or not for long enough, is not called ready.
        let mut not_waited_for = Vec::new();
        for unready in std::mem::take(&mut run.unready) {
            if run.troubles.iter().any(|trouble| trouble.agent() == Some(&unready.agent)) {
                continue;
            }
            if unready.health.is_progressing() && end != End::TimedOut {
                not_waited_for.push(unready.agent);
            } else {
                let trouble = Trouble::of_unready(&self.world.engine, self.desired, unready).await;
                run.troubles.push(trouble);
            }
        }
        let report = self.report(run, residual, not_waited_for, manifest_fault, end, began.elapsed());
        self.journal.pass(&report).await;
        Ok(report)
    }

    /// Looks while what is in flight flies on. `None` when something landed meanwhile, since then the look may be older
    /// than what it shows, and when it is all over.
    async fn look_beside<'s>(
        &'s self,
        look: &impl AsyncFn() -> (Observed, Plan),
        run: &mut Memory,
        flights: &mut FuturesUnordered<Flight<'s>>,
        flying: &mut BTreeSet<String>,
        deadline: Instant,
    ) -> Option<(Observed, Plan)> {
        let looking = look();
        tokio::pin!(looking);
        let mut fresh = true;
        loop {
            tokio::select! {
                biased;
                looked = &mut looking => return fresh.then_some(looked),
                Some(landed) = flights.next(), if !flights.is_empty() => {
                    flying.remove(&lane(&landed.step));
                    self.land(run, landed);
                    fresh = false;
                }
                () = self.cancel.cancelled() => return None,
                () = tokio::time::sleep_until(deadline) => return None,
            }
        }
    }

    /// How it ends, if the user or the clock says that it does.
    fn over(&self, deadline: Instant) -> Option<End> {
        if self.cancel.is_cancelled() {
            Some(End::Interrupted)
        } else {
            (Instant::now() >= deadline).then_some(End::TimedOut)
        }
    }

    /// Whether a step may be taken: not one that failed for good or must wait, not one that keeps coming back, and none
    /// of an agent that was given up.
    fn may_take(&self, run: &mut Memory, step: &Step) -> bool {
        if step.agent.as_ref().is_some_and(|agent| run.given_up.contains(agent)) && is_container_step(&step.action) {
            return false;
        }
        let key = key(&step.action);
        if let Some(failed) = run.failed.get(&key)
            && failed.retry_at.is_none_or(|at| at > Instant::now())
        {
            return false;
        }
        let diff = (key, step.reason.to_string());
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
        slots: &Slots,
        deadline: Instant,
    ) {
        if self.cancel.is_cancelled() {
            return;
        }
        let is_download = |lane: &String| lane.starts_with("fetchArtifact ");
        let mut held = VecDeque::new();
        while let Some(step) = queue.pop_front() {
            let lane = lane(&step);
            let slot = match step.action {
                _ if flying.contains(&lane) => None,
                Action::FetchArtifact { .. } => {
                    let downloads = flying.iter().filter(|lane| is_download(lane)).count();
                    (downloads < self.options.downloads.max(1)).then(Slot::default)
                }
                _ => slots.take(),
            };
            let Some(slot) = slot else {
                held.push_back(step);
                continue;
            };
            flying.insert(lane);
            let patience = Patience {
                deadline: deadline.checked_sub(PUT_BACK_TIME),
                cancel: self.cancel.clone(),
                undo: true,
                slot,
                ..self.options.patience.clone()
            };
            flights.push(fly(self.world, step, patience, self.reporter, &self.cancel));
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

    fn land(&self, run: &mut Memory, landed: Landed) {
        let Landed { step, outcome, took } = landed;
        let key = key(&step.action);
        tracing::info!(
            kind = step.action.kind(),
            target = %step.action.target(),
            agent = step.agent.as_ref().map(|agent| agent.as_str()),
            reason = %step.reason,
            error = outcome.as_ref().err().map(|err| err.kind()),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "took a step"
        );
        self.journal.step(&step, outcome.as_ref().map_err(|err| &**err), took);
        match &outcome {
            Ok(done) => {
                run.failed.remove(&key);
                *run.done.entry((key, step.reason.to_string())).or_default() += 1;
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
                if let (Disposition::Retry, Some(agent)) = (error.disposition(), &step.agent) {
                    run.unsure.insert(agent.clone(), step.action.clone());
                }
                let tries = run.failed.get(&key).map_or(0, |failed| failed.tries) + 1;
                let again = error.disposition() == Disposition::Retry && tries < TRIES;
                let retry_at = again.then(|| Instant::now() + Backoff::STEP.delay(tries));
                let failed = Failed { agent: step.agent.clone(), error: error.clone(), tries, retry_at };
                run.failed.insert(key, failed);
            }
        }
        run.taken.push(Taken { step, outcome, took });
    }

    /// Nothing can be started now. Wait for something, or stop.
    async fn what_next(&self, run: &mut Memory, observed: &Observed, plan: &Plan, deadline: Instant) -> Next {
        if let Some(at) = run.next_retry().or_else(|| self.next_poll(plan)) {
            return self.pause(at.min(deadline)).await;
        }
        if !self.options.wait {
            return Next::Stop;
        }
        let waited = self.settle(run, observed, deadline).await
            || self.await_health(run, observed, plan, deadline).await
            || self.await_steadiness(run, observed, deadline).await;
        if waited { Next::Look } else { Next::Stop }
    }

    /// How long what ended must stay up before it counts as ready.
    fn steady(&self) -> Duration {
        steady_after(self.options.patience.settle)
    }

    /// When to look again at what Podman, or the virtual machine, is about to move on.
    fn next_poll(&self, plan: &Plan) -> Option<Instant> {
        let polls = plan.waiting.iter().filter_map(|waiting| match waiting.on {
            WaitingOn::Transition { .. } => Some(TRANSITION_POLL),
            WaitingOn::Answer { .. } => Some(ANSWER_POLL),
            _ => None,
        });
        polls.min().map(|poll| Instant::now() + poll)
    }

    async fn pause(&self, until: Instant) -> Next {
        tokio::select! {
            () = tokio::time::sleep_until(until) => Next::Look,
            () = self.cancel.cancelled() => Next::Look,
        }
    }

    /// Lets what is in flight end: transfers are dropped by the token, container steps are given their time.
    async fn bring_down(&self, run: &mut Memory, flights: &mut FuturesUnordered<Flight<'_>>) {
        self.cancel.cancel();
        let landing = async {
            while let Some(landed) = flights.next().await {
                self.land(run, landed);
            }
        };
        if tokio::time::timeout(LANDING_TIME + 2 * self.options.patience.grace, landing).await.is_err() {
            tracing::warn!("left steps unfinished; the next run takes them up");
        }
    }

    fn report(
        &self,
        run: Memory,
        residual: Plan,
        not_waited_for: Vec<AgentName>,
        manifest_fault: Option<&ManifestFault>,
        end: End,
        took: Duration,
    ) -> Report {
        let mut troubles = run.troubles;
        troubles.extend(
            run.failed.into_values().map(|failed| Trouble::Failed { agent: failed.agent, error: failed.error }),
        );
        // A failure may be what its step waits for by now.
        for blocked in report::blocked(&residual) {
            if !troubles.contains(&blocked) {
                troubles.push(blocked);
            }
        }
        // An empty plan is no proof while health or a last look is still awaited.
        let is_ready = troubles.is_empty() && not_waited_for.is_empty();
        let converged = residual.is_empty() && is_ready && end == End::Proved;
        troubles.splice(0..0, report::refused(manifest_fault));
        Report {
            name: self.desired.name.clone(),
            converged,
            taken: run.taken,
            troubles,
            not_waited_for,
            residual,
            manifest_fault: manifest_fault.cloned(),
            timed_out: end == End::TimedOut,
            interrupted: end == End::Interrupted,
            took,
        }
    }
}

/// How a convergence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is left that it could do or wait for.
    Proved,
    TimedOut,
    Interrupted,
}

enum Next {
    Look,
    Stop,
}

/// Steps in one lane are never in flight together. All that is done about the containers of one agent is one lane: a
/// replacement has three names under way, and nobody else may touch any of them meanwhile.
fn lane(step: &Step) -> String {
    match &step.agent {
        Some(agent) if is_container_step(&step.action) => lane_of(agent),
        _ if is_vm_step(&step.action) => "vm".to_owned(),
        _ => key(&step.action),
    }
}

/// The lane of all that is done about the containers of one agent.
fn lane_of(agent: &AgentName) -> String {
    format!("agent {agent}")
}

/// What a step is remembered by.
fn key(action: &Action) -> String {
    key_of(action.kind(), &action.target())
}

fn key_of(kind: &str, target: &str) -> String {
    if kind.ends_with("Container") { format!("container {target}") } else { format!("{kind} {target}") }
}

fn is_container_step(action: &Action) -> bool {
    matches!(
        action,
        Action::CreateContainer { .. }
            | Action::StartContainer { .. }
            | Action::StopContainer { .. }
            | Action::ReplaceContainer { .. }
            | Action::RenameContainer { .. }
            | Action::RemoveContainer { .. }
    )
}

fn is_vm_step(action: &Action) -> bool {
    matches!(
        action,
        Action::CreateVm { .. }
            | Action::StartVm { .. }
            | Action::RecreateVm { .. }
            | Action::AdoptVm { .. }
            | Action::StopVm { .. }
            | Action::DeleteVm { .. }
            | Action::ForwardPorts { .. }
    )
}

/// What is new about how the virtual machine is reached, since the look `before`. That the best way answers at once is none.
fn reached_otherwise(before: &mut Reach, observed: &Observed) -> Option<News> {
    let (now, then) = (observed.reach.clone(), std::mem::replace(before, observed.reach.clone()));
    let is_first = then == Reach::default();
    let went_well = now.rung.is_some() && now.counts.iter().sum::<u32>() == 1;
    (now.rung != then.rung && !(is_first && went_well)).then_some(News::VmReached { now, before: then.rung })
}

/// Whether what landed may have opened the way for a step that waits.
fn opens_ways(landed: &Landed) -> bool {
    landed.outcome.is_ok()
        && !matches!(landed.step.action, Action::CreateContainer { .. } | Action::StartContainer { .. })
}
