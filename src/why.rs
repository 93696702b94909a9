//! Why an agent is as it is: the chain from its line of the state file to what was seen, to the step that makes or what it
//! waits for, to what stopped it last. A pure function of one observation, its plan and the journal; wording and hints belong in
//! [`crate::cli::render`].

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde::Serialize;

use crate::backend::PullFault;
use crate::model::labels::{NEXT_SUFFIX, PREV_SUFFIX};
use crate::model::wanted::wanted_image;
use crate::model::{AgentName, Desired, FailureKind, FieldChange, ImageSource, Phase, Place};
use crate::observe::ManifestFault;
use crate::plan::{ActionKind, Note, Plan, Step, Waiting, WaitingOn};
use crate::reconcile::journal::read::{Entry, ReportedError};
use crate::snapshot::Snapshot;
use crate::status::AgentStatus;
use crate::time::rfc3339;
use crate::words::Word;

/// The stage of what is inside of a container.
const INSIDE: u8 = 3;
/// How many of the last failures are told.
const MOST_FAILURES: usize = 3;

/// Why an agent is as it is.
#[derive(Debug, Clone)]
pub(crate) struct Why {
    /// Which.
    pub agent: AgentName,
    /// What the state file wants and what was seen of it. `None` when the state file has no such agent any more.
    pub known: Option<Known>,
    /// Containers it still has, although the state file does not have it any more.
    pub orphans: Vec<String>,
    /// Why Podman could not be looked at.
    pub podman_unseen: Option<String>,
    /// Podman's version, when it answers.
    pub podman: Option<String>,
    /// Steps that can be taken now.
    pub steps: Vec<Step>,
    /// Steps that wait.
    pub waiting: Vec<Waiting>,
    /// What would be done if it were not suspended.
    pub suspended: Vec<String>,
    /// What stopped it, oldest first, since it was last fine. At most three.
    pub failures: Vec<Failure>,
    /// The last step that changed something about it.
    pub last_change: Option<Change>,
    /// Until when it is left alone.
    pub backoff: Option<BackingOff>,
    /// Why the manifest that its image is to come from is not trusted.
    pub manifest_refused: Option<String>,
}

/// What the state file wants of an agent, and what was seen.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// Where it stands in the state file.
    pub place: Place,
    /// Wanted beside seen, as `status` shows it.
    pub status: AgentStatus,
    /// The image that is wanted, as far as it can be told.
    pub image: Option<String>,
    /// Why it cannot be told.
    pub image_unknown: Option<String>,
    /// Fields that differ, sensitive values as keyed hashes.
    pub changes: Vec<FieldChange>,
    /// The phase of its container, in words: `exited with code 1`.
    pub phase: Option<Phase>,
}

/// Something that stopped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// When it happened first (RFC 3339).
    pub first: String,
    /// When it happened last.
    pub last: String,
    /// How often.
    pub times: u32,
    /// What had woken us the last time.
    pub trigger: String,
    /// The step, in words; `None` when it was found at the end of a pass.
    pub step: Option<String>,
    /// What was done then, where it is a step that failed.
    #[serde(skip)]
    pub done: Option<ReportedStep>,
    /// What a registry is to blame for, where that is why.
    #[serde(skip)]
    pub pull: Option<PullFault>,
    /// What kind of failure it is; empty where that is not told.
    pub kind: Word<FailureKind>,
    /// The error.
    pub message: String,
}

/// A step that the journal tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedStep {
    /// What kind of step it is.
    pub kind: Word<ActionKind>,
    /// What it was done to.
    pub target: String,
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    /// When (RFC 3339).
    pub time: String,
    /// What had woken us.
    pub trigger: String,
    /// Kind of the step.
    pub kind: Word<ActionKind>,
    /// What it was done to.
    pub target: String,
    /// The step, in words.
    pub action: String,
    /// Why it was done.
    pub reason: String,
}

/// An agent that is left alone for a while, since it keeps failing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BackingOff {
    /// Until when (RFC 3339); `None`: until the desired state changes.
    pub until: Option<String>,
    /// Why.
    pub why: Option<String>,
}

/// What the journal tells of one agent. Shown entry by entry, oldest first, so that the journal is never in memory.
#[derive(Debug)]
pub(crate) struct Past {
    agent: AgentName,
    /// Targets of steps that others take for it too: an image, a tarball.
    shared: BTreeSet<String>,
    failures: Vec<Failure>,
    /// Those that a later step has overtaken. They count on should they come back.
    over: Vec<Failure>,
    last_change: Option<Change>,
    backoff: Option<BackingOff>,
    mentioned: bool,
}

impl Past {
    /// Nothing yet.
    pub(crate) fn of(agent: &AgentName) -> Self {
        Self::sharing(agent, BTreeSet::new())
    }

    /// Nothing yet, of an agent that waits for what [`awaited`] yields: what becomes of it concerns this agent, whoever fetches it.
    pub(crate) fn sharing(agent: &AgentName, shared: BTreeSet<String>) -> Self {
        let (failures, over) = (Vec::new(), Vec::new());
        Self { agent: agent.clone(), shared, failures, over, last_change: None, backoff: None, mentioned: false }
    }

    /// Whether the journal has heard of the agent.
    pub(crate) fn is_mentioned(&self) -> bool {
        self.mentioned
    }

    /// What stopped the agent the last time, since it was last fine.
    pub(crate) fn newest_failure(&self) -> Option<&Failure> {
        self.failures.last()
    }

    /// Takes in the next entry.
    pub(crate) fn add(&mut self, entry: &Entry) {
        let ours = entry.concerns(self.agent.as_str());
        self.mentioned |= ours;
        match entry.event() {
            "step" if entry.failed() && (ours || self.shared.contains(entry.text("target"))) => {
                let told = entry.error().unwrap_or_else(|| entry.problem());
                self.fail(entry, true, told);
            }
            "step" if ours => {
                self.backoff = None;
                self.last_change = Some(Change {
                    time: time(entry),
                    trigger: entry.text("trigger").to_owned(),
                    kind: entry.kind(),
                    target: entry.text("target").to_owned(),
                    action: words(entry),
                    reason: entry.text("reason").to_owned(),
                });
                self.get_over(entry);
            }
            "pass" => {
                if entry.fields.get("converged").and_then(serde_json::Value::as_bool) == Some(true) {
                    self.forget();
                }
                let agent = self.agent.to_string();
                for told in entry.problems().filter(|told| told.agent == Some(&agent)) {
                    self.fail(entry, false, told);
                }
            }
            // `run` says each problem once, and when it is over.
            "trouble" if ours => self.fail(entry, false, entry.problem()),
            "recovered" if ours => self.forget(),
            "converged" => self.forget(),
            "backingOff" if ours => {
                let until = entry.text("until");
                let why = [entry.text("why"), entry.text("message")].into_iter().find(|why| !why.is_empty());
                if !until.is_empty() {
                    self.backoff = Some(BackingOff { until: Some(until.to_owned()), why: why.map(str::to_owned) });
                }
            }
            _ => {}
        }
    }

    /// All is well with it.
    fn forget(&mut self) {
        self.failures.clear();
        self.over.clear();
        self.backoff = None;
    }

    /// A step was done: what failed at this point of its way to be ready, or before it, did not fail last.
    fn get_over(&mut self, done: &Entry) {
        let Some(reached) = ReportedStep::of(done).stage() else { return };
        let target = done.text("target");
        let is_over = |failure: &Failure| match failure.done.as_ref() {
            // Of sessions and workspaces each goes its own way.
            Some(failed) if failed.stage() == Some(INSIDE) => reached == INSIDE && failed.target == target,
            failed => failed.and_then(ReportedStep::stage).is_none_or(|stage| stage <= reached),
        };
        let (over, failures) = std::mem::take(&mut self.failures).into_iter().partition(is_over);
        self.failures = failures;
        self.over = over;
    }

    /// Takes in a failure. The end of a pass tells again what its steps said, and `run` adds what it will do about it: that is the
    /// same failure still.
    fn fail(&mut self, entry: &Entry, by_step: bool, told: ReportedError<'_>) {
        let now = time(entry);
        let is_it = |failure: &Failure| failure.message == told.cause;
        let before = self.over.iter().position(is_it).map(|at| self.over.remove(at));
        let known = self.failures.iter().position(is_it).map(|at| self.failures.remove(at)).or(before);
        let failure = match known {
            Some(mut failure) => {
                // One that fails again without having been told by a step is the same pass, or another pass.
                failure.times += u32::from(by_step || failure.step.is_none());
                failure.last = now;
                entry.text("trigger").clone_into(&mut failure.trigger);
                failure
            }
            None => Failure {
                first: now.clone(),
                last: now,
                times: 1,
                trigger: entry.text("trigger").to_owned(),
                step: by_step.then(|| words(entry)),
                done: by_step.then(|| ReportedStep::of(entry)),
                pull: told.pull,
                kind: told.kind,
                message: told.cause.to_owned(),
            },
        };
        self.failures.push(failure);
        if self.failures.len() > MOST_FAILURES {
            self.failures.remove(0);
        }
    }
}

impl ReportedStep {
    fn of(entry: &Entry) -> Self {
        Self { kind: entry.kind(), target: entry.text("target").to_owned() }
    }

    /// How far on its way to be ready an agent is with it: fetched, loaded, in a container, inside of that. `None` for what is none of these, such
    /// as clearing away what a replacement left.
    fn stage(&self) -> Option<u8> {
        let is_leftover = || [NEXT_SUFFIX, PREV_SUFFIX].iter().any(|end| self.target.ends_with(end));
        match self.kind.known() {
            Some(ActionKind::FetchArtifact) => Some(0),
            Some(ActionKind::LoadImage | ActionKind::PullImage) => Some(1),
            Some(ActionKind::RemoveContainer) if is_leftover() => None,
            Some(ActionKind::PruneArtifact | ActionKind::PruneImage) => None,
            Some(ActionKind::PrepareWorkspace | ActionKind::StartSession | ActionKind::StopSession) => Some(INSIDE),
            _ => Some(2),
        }
    }
}

/// What an agent waits for that another one's step may bring.
pub(crate) fn awaited(agent: &AgentName, plan: &Plan) -> BTreeSet<String> {
    let waits = plan.waiting.iter().filter(|waiting| waiting.agent.as_ref() == Some(agent));
    let awaited = waits.filter_map(|waiting| match &waiting.on {
        WaitingOn::Image { reference } => Some(reference.to_string()),
        WaitingOn::Artifact { key } => Some(key.to_string()),
        _ => None,
    });
    awaited.collect()
}

/// Whether what a failure tells of may still stand in the way: what is not to be fetched, loaded or pulled any more does not.
pub(crate) fn still_stands(failure: &Failure, plan: &Plan) -> bool {
    let Some(done) = failure.done.as_ref().filter(|done| done.stage().is_some_and(|stage| stage < 2)) else {
        return true;
    };
    let ready = plan.steps().map(|step| step.action.target());
    ready.chain(plan.waiting.iter().map(|waiting| waiting.target.clone())).any(|target| target == done.target)
}

fn words(entry: &Entry) -> String {
    match entry.text("action") {
        "" => format!("{} `{}`", entry.text("kind"), entry.text("target")),
        action => action.to_owned(),
    }
}

fn time(entry: &Entry) -> String {
    rfc3339(entry.time)
}

/// Why the agent is as it is. `plan` is the plan made from this observation; `now` is when it was taken. What a running `run`
/// knows of its backoff, the caller puts into [`Why::backoff`].
pub(crate) fn why(agent: &AgentName, desired: &Desired, snapshot: &Snapshot, past: Past, now: SystemTime) -> Why {
    let Snapshot { observed, plan, status, .. } = snapshot;
    let steps: Vec<_> = plan.steps().filter(|step| step.agent.as_ref() == Some(agent)).cloned().collect();
    let waiting: Vec<_> =
        plan.waiting.iter().filter(|waiting| waiting.agent.as_ref() == Some(agent)).cloned().collect();
    let known = desired.agents.get(agent).map(|wanted| {
        let changes = steps.iter().map(|step| &step.reason).chain(waiting.iter().map(|waiting| &waiting.reason));
        let (image, image_unknown) = match wanted_image(agent, wanted, observed) {
            Ok(image) => (Some(image.to_string()), None),
            Err(cause) => (None, Some(WaitingOn::Manifest { cause }.to_string())),
        };
        let ours = observed.guest.present().and_then(|guest| crate::status::serving(guest, agent, wanted));
        Known {
            place: wanted.place.clone(),
            status: status.agents.get(agent).cloned().unwrap_or_else(|| unreachable!("every agent has a status")),
            image,
            image_unknown,
            changes: changes.flat_map(|reason| reason.changes()).cloned().collect(),
            phase: ours.map(|(_, seen)| seen.phase.clone()),
        }
    });
    let orphans = match observed.guest.present() {
        Some(guest) if known.is_none() => {
            let ours = guest.containers.iter().filter(|(_, seen)| seen.owner.is_of(agent));
            ours.map(|(name, _)| name.to_string()).collect()
        }
        _ => Vec::new(),
    };
    let suspended = plan.notes.iter().filter_map(|note| match note {
        Note::Suspended { agent: whose, pending } if whose == agent => Some(pending.clone()),
        _ => None,
    });
    let ready = known.as_ref().is_some_and(|known| known.status.ready);
    let is_published = desired.agents.get(agent).is_some_and(|wanted| wanted.source == ImageSource::Manifest);
    let manifest_refused = match &snapshot.manifest_fault {
        Some(ManifestFault::Untrusted { why, .. }) if is_published => Some(why.clone()),
        _ => None,
    };
    Why {
        agent: agent.clone(),
        orphans,
        podman_unseen: observed.guest.unknown().map(str::to_owned),
        podman: observed.guest.present().map(|guest| guest.version.clone()),
        steps,
        waiting,
        suspended: suspended.flatten().collect(),
        // What is fine was not stopped by anything.
        failures: past.failures.into_iter().filter(|failure| !ready && still_stands(failure, plan)).collect(),
        last_change: past.last_change,
        backoff: past.backoff.filter(|backoff| {
            let until = backoff.until.as_ref().and_then(|until| crate::time::parse(until).ok());
            !ready && until.is_some_and(|until| until > now)
        }),
        manifest_refused,
        known,
    }
}
