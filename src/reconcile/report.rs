//! What a convergence came to.

use std::sync::Arc;
use std::time::Duration;

use crate::act::{ActError, Done, LastWords};
use crate::backend::{Engine, Inside};
use crate::model::{AgentName, Desired, FailureKind, Name};
use crate::observe::{Distrust, ManifestFault};
use crate::plan::{Plan, Step, Waiting};
use crate::readiness::{AgentHealth, Unready};
use crate::status::in_words;

/// The outcome of a convergence.
#[derive(Debug)]
pub struct Report {
    /// Of which state file.
    pub name: Name,
    /// The last observation left nothing to do, and nothing went wrong.
    pub converged: bool,
    /// Every step that was taken, in the order they ended.
    pub taken: Vec<TakenStep>,
    /// What stands in the way.
    pub problems: Vec<Problem>,
    /// Agents that were not waited for and are not ready yet, and nothing is wrong with them so far.
    pub not_waited_for: Vec<AgentName>,
    /// What is left to do.
    pub residual: Plan,
    /// What is wrong with the published manifest, where it is not only out of reach.
    pub manifest_fault: Option<ManifestFault>,
    /// The time was up.
    pub timed_out: bool,
    /// The user asked to stop.
    pub interrupted: bool,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// The report of a plan that was only made: what stands in its way.
    pub fn of_plan(name: Name, plan: Plan, manifest_fault: Option<ManifestFault>) -> Self {
        Self {
            name,
            converged: plan.is_empty(),
            taken: Vec::new(),
            problems: refused(manifest_fault.as_ref()).into_iter().chain(blocked(&plan)).collect(),
            not_waited_for: Vec::new(),
            residual: plan,
            manifest_fault,
            timed_out: false,
            interrupted: false,
            took: Duration::ZERO,
        }
    }
}

/// The waits of a plan that nothing in it will end.
pub(super) fn blocked(plan: &Plan) -> impl Iterator<Item = Problem> {
    let blocked = plan.waiting.iter().filter(|waiting| waiting.on.is_blocked());
    blocked.map(|waiting| Problem::Blocked { waiting: waiting.clone() })
}

/// A published manifest that is not trusted. The last good one goes on, and all may be as it should; that must be known all the
/// same. It comes first: what agents wait for because of it says the same, with less help.
pub(super) fn refused(fault: Option<&ManifestFault>) -> Option<Problem> {
    match fault? {
        ManifestFault::Untrusted { why, cause } => Some(Problem::Untrusted { why: why.clone(), cause: cause.clone() }),
        ManifestFault::Invalid => None,
    }
}

/// A step that was taken.
#[derive(Debug, Clone)]
pub struct TakenStep {
    /// The step.
    pub step: Step,
    /// How it ended.
    pub outcome: Result<Done, Arc<ActError>>,
    /// How long it took.
    pub took: Duration,
}

/// Something that keeps an agent from what is wanted.
#[derive(Debug, Clone)]
pub enum Problem {
    /// A step failed for good, or what it started did not stay or become healthy.
    Failed {
        /// Which agent.
        agent: Option<AgentName>,
        /// Why.
        error: Arc<ActError>,
    },
    /// The same difference comes back after each successful step.
    NonConvergent {
        /// Which agent.
        agent: Option<AgentName>,
        /// The step that does not help.
        action: String,
        /// The difference that stays.
        reason: String,
    },
    /// Nothing is to be done about it, and it is not ready: it is in a crash loop, unhealthy, failed, or not ready in time.
    Unready {
        /// Which agent.
        agent: AgentName,
        /// The name of its container.
        container: String,
        /// How it is.
        health: AgentHealth,
        /// That in a sentence, with what its check printed.
        message: String,
        /// Its last log lines, where they could be had.
        log: String,
    },
    /// It failed before, and is left alone for now.
    Recurring {
        /// Which agent.
        agent: Option<AgentName>,
        /// What kind of failure it is.
        kind: FailureKind,
        /// What failed.
        cause: String,
        /// What failed, and what becomes of it.
        message: String,
    },
    /// A step waits for something that only somebody else can bring about.
    Blocked {
        /// The step and what it waits for.
        waiting: Waiting,
    },
    /// The published manifest is not trusted.
    Untrusted {
        /// Why.
        why: String,
        /// What kind of reason that is.
        cause: Distrust,
    },
}

impl Problem {
    /// What is wrong with an agent that is not ready, with the last lines of its log.
    pub(super) async fn of_unready<E: Engine + Inside>(engine: &E, desired: &Desired, unready: Unready) -> Self {
        let Unready { agent, id, health } = unready;
        let Some(wanted) = desired.agents.get(&agent) else { unreachable!("it is an agent of the state file") };
        let (_, message) = in_words(wanted, &health);
        let log = LastWords::of(desired, &agent, wanted, &id, &health).read(engine).await;
        Problem::Unready { agent, container: wanted.container.name.to_string(), health, message, log }
    }

    /// The agent it concerns, if any.
    pub fn agent(&self) -> Option<&AgentName> {
        match self {
            Problem::Failed { agent, .. } | Problem::NonConvergent { agent, .. } | Problem::Recurring { agent, .. } => {
                agent.as_ref()
            }
            Problem::Unready { agent, .. } => Some(agent),
            Problem::Blocked { waiting } => waiting.agent.as_ref(),
            Problem::Untrusted { .. } => None,
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Problem::Failed { error, .. } => error.kind(),
            Problem::NonConvergent { .. } => FailureKind::NonConvergent,
            Problem::Untrusted { .. } => FailureKind::Untrusted,
            Problem::Recurring { kind, .. } => *kind,
            Problem::Unready { health, .. } => match health {
                AgentHealth::CrashLoop(_) => FailureKind::CrashLoop,
                AgentHealth::Unhealthy(_) => FailureKind::Unhealthy,
                AgentHealth::Failed { .. } => FailureKind::Failed,
                AgentHealth::Session(_) => FailureKind::Session,
                _ => FailureKind::NotReady,
            },
            Problem::Blocked { waiting } => waiting.on.failure(),
        }
    }

    /// The failure alone, without what becomes of it: the same whoever tells of it.
    pub fn cause(&self) -> String {
        match self {
            Problem::Recurring { cause, .. } => cause.clone(),
            _ => self.to_string(),
        }
    }
}

impl Problem {
    /// Whether it is only that nothing can be seen.
    pub fn is_unseen(&self) -> bool {
        use crate::plan::WaitingOn::{Down, Sight};
        matches!(self, Problem::Blocked { waiting } if matches!(waiting.on, Sight { .. } | Down { .. }))
    }
}

impl PartialEq for Problem {
    /// Problems are the same when they say the same.
    fn eq(&self, other: &Self) -> bool {
        self.agent() == other.agent() && self.to_string() == other.to_string()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Failed { error, .. } => write!(f, "{}", crate::error::Chain(&**error)),
            Problem::Recurring { message, .. } => f.write_str(message),
            Problem::Untrusted { why, .. } => f.write_str(why),
            Problem::Unready { container, health, message, log, .. } => {
                match health {
                    AgentHealth::CrashLoop(crash_loop) => {
                        write!(f, "container `{container}` is in a crash loop: it {crash_loop}")?
                    }
                    AgentHealth::Unhealthy(_) | AgentHealth::Starting => {
                        write!(f, "container `{container}` is not healthy: {message}")?
                    }
                    AgentHealth::Session(_) => f.write_str(message)?,
                    _ => write!(f, "container `{container}` is not ready: {message}")?,
                }
                f.write_str(&crate::act::tail(log))
            }
            Problem::NonConvergent { action, reason, .. } => {
                write!(f, "stalled (NonConvergent): {action} succeeded, but still: {reason}")
            }
            Problem::Blocked { waiting } => match &waiting.on {
                crate::plan::WaitingOn::Manifest { cause } => write!(f, "{cause}"),
                crate::plan::WaitingOn::Sight { why } => f.write_str(why),
                crate::plan::WaitingOn::Down { instance, phase } => write!(f, "VM `{instance}` {phase}"),
                crate::plan::WaitingOn::LocalImage { reference } => {
                    write!(f, "image `{reference}` does not exist, and with `source: local` nobody fetches it")
                }
                on => write!(f, "{on}"),
            },
        }
    }
}
