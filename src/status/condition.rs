//! The words of a status, and the conditions that they stand in.

use serde::Serialize;

use crate::plan::StepKey;

words! {
    /// Whether an agent is as the state file says.
    pub enum SyncStatus {
        /// Nothing is to be done about it.
        Synced = "Synced",
        /// Something is.
        OutOfSync = "OutOfSync",
        /// It cannot be observed.
        Unknown = "Unknown",
    }
}

words! {
    /// How an agent's container is.
    pub enum HealthStatus {
        /// It runs, and its health check passes where it has one.
        Healthy = "Healthy",
        /// Time alone may make it ready.
        Progressing = "Progressing",
        /// It should run, and does not or not well.
        Degraded = "Degraded",
        /// It ended well by itself, and is to stay so.
        Completed = "Completed",
        /// It ended with an error, and is to stay so.
        Failed = "Failed",
        /// It does not run, and is not to.
        Stopped = "Stopped",
        /// It cannot be observed, or makes no sense to this build.
        Unknown = "Unknown",
    }
}

words! {
    /// What a condition is about.
    pub enum ConditionKind {
        /// It is as wanted, healthy, and was not restarted lately.
        Ready = "Ready",
        /// It is being made so.
        Reconciling = "Reconciling",
        /// A person must help.
        Stalled = "Stalled",
    }
}

words! {
    /// Whether a condition holds.
    pub enum ConditionStatus {
        /// It holds.
        True = "True",
        /// It does not.
        False = "False",
        /// Nobody can tell.
        Unknown = "Unknown",
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

words! {
    /// Why conditions are as they are.
    pub enum ConditionReason {
        /// It is as the state file says.
        Converged = "Converged",
        /// Its container exits again and again.
        CrashLoop = "CrashLoop",
        /// Its container exited with an error, and is to stay so.
        Failed = "Failed",
        /// Its artifact is fetched.
        Downloading = "Downloading",
        /// Its image is loaded or pulled.
        LoadingImage = "LoadingImage",
        /// The virtual machine is brought up.
        VmStarting = "VmStarting",
        /// Podman cannot be reached.
        SocketUnreachable = "SocketUnreachable",
        /// A step failed, and is tried again later.
        BackingOff = "BackingOff",
        /// A difference comes back although its step succeeds.
        NonConvergent = "NonConvergent",
        /// A replacement failed, and its predecessor runs again.
        RolledBack = "RolledBack",
        /// What is wanted failed before, and is not tried again until it is another.
        QuarantinedDigest = "QuarantinedDigest",
        /// A step is to be taken.
        Pending = "Pending",
        /// A person must help.
        Blocked = "Blocked",
        /// It was restarted lately, and is to show that it stays up.
        Restarted = "Restarted",
        /// Its health check has not passed yet.
        Starting = "Starting",
        /// Its health check fails.
        Unhealthy = "Unhealthy",
        /// One of its sessions ended badly.
        Session = "Session",
        /// Its container is being replaced.
        Replacing = "Replacing",
        /// It is suspended.
        Suspended = "Suspended",
        /// Podman says of it what makes no sense to this build.
        Unknown = "Unknown",
    }
}

/// A condition, as Kubernetes has them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why.
    pub reason: ConditionReason,
    /// A sentence.
    pub message: String,
    /// Since when, as far as one observation can tell.
    pub last_transition_time: String,
    /// The step that is to be done, where that is what it says.
    #[serde(skip)]
    pub to_do: Option<StepKey>,
}

/// Says of an agent that was rolled back why it stays so.
pub(crate) fn quarantined(conditions: &mut [Condition], message: &str) {
    for condition in conditions.iter_mut().filter(|condition| condition.kind == ConditionKind::Stalled) {
        condition.reason = ConditionReason::QuarantinedDigest;
        message.clone_into(&mut condition.message);
    }
}

/// Makes of conditions those of an agent that is not ready: it is stalled, or being made so.
pub(crate) fn not_ready(conditions: &mut [Condition], stalled: bool, reason: ConditionReason, message: &str) {
    for condition in conditions {
        condition.status = match condition.kind {
            ConditionKind::Ready => ConditionStatus::False,
            ConditionKind::Reconciling => (!stalled).into(),
            ConditionKind::Stalled => stalled.into(),
        };
        condition.reason = reason;
        condition.to_do = None;
        message.clone_into(&mut condition.message);
    }
}
