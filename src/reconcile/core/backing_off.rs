//! What failed and is left alone for now, as it is shown.

use std::time::SystemTime;

use super::Now;
use super::backoff::{Cause, Failed};
use crate::act::in_one_line;
use crate::model::{AgentName, FailureKind};
use crate::reconcile::Problem;
use crate::status::ConditionReason;

/// Something that failed and is left alone for now.
#[derive(Debug, Clone, PartialEq)]
pub struct BackingOff {
    /// Which agent.
    pub agent: Option<AgentName>,
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// The failure in a sentence.
    pub cause: String,
    /// How often in a row.
    pub failures: u32,
    /// When it is tried again; `None`: not before what is wanted changes.
    pub retry_at: Option<SystemTime>,
    /// It is a step that failed, rather than one that did not help.
    pub is_a_step: bool,
    /// What it is that failed, where that is a step.
    pub(super) step: Option<Cause>,
}

impl BackingOff {
    /// Of a failure that stands.
    pub(super) fn of(cause: &Cause, failed: &Failed, now: Now) -> Self {
        Self {
            agent: cause.agent.clone(),
            kind: failed.failure.kind(),
            cause: failed.failure.to_string(),
            failures: failed.failures,
            retry_at: failed.retry_at.map(|at| now.wall_at(at)),
            is_a_step: failed.failure.error().is_some(),
            step: Some(cause.clone()),
        }
    }

    /// The reason of the conditions of its agent.
    pub(super) fn reason(&self) -> ConditionReason {
        match self.kind {
            FailureKind::RolledBack => ConditionReason::RolledBack,
            FailureKind::CrashLoop => ConditionReason::CrashLoop,
            FailureKind::NonConvergent => ConditionReason::NonConvergent,
            _ => ConditionReason::BackingOff,
        }
    }

    /// It as something that keeps an agent from what is wanted.
    pub(super) fn as_problem(&self) -> Problem {
        let (cause, message) = (self.cause.clone(), self.to_string());
        Problem::Recurring { agent: self.agent.clone(), kind: self.kind, cause, message }
    }
}

impl std::fmt::Display for BackingOff {
    /// Without the times: it is the same until it fails again. A log stays at the end.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cause, log) = self.cause.split_at(in_one_line(&self.cause).len());
        f.write_str(cause)?;
        match (self.retry_at, self.failures) {
            (None, _) => f.write_str("; not retried until the desired state changes")?,
            (Some(_), 1) => f.write_str("; retried later")?,
            (Some(_), failures) => write!(f, "; retried later, after {failures} failures")?,
        }
        f.write_str(log)
    }
}
