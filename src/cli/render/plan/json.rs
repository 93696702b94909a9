//! A plan as JSON.

use serde::Serialize;

use super::is_blocked;
use crate::model::{AgentName, FieldChange, Guest, Name};
use crate::plan::{ActionKind, Plan, Summary};

/// The JSON of a plan.
#[derive(Debug, Serialize)]
pub(super) struct PlanJson<'a> {
    name: &'a Name,
    converged: bool,
    summary: Summary,
    actions: Vec<StepJson>,
    waiting: Vec<StepJson>,
    interrupts: Vec<&'a AgentName>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct StepJson {
    kind: ActionKind,
    agent: Option<AgentName>,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<&'static str>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "transferBytes")]
    transfer_bytes: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    blocked: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<FieldChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The plan as JSON.
pub(crate) fn json<'a>(
    name: &'a Name,
    plan: &'a Plan,
    guest: Option<&Guest>,
    converged: bool,
) -> impl Serialize + use<'a> {
    PlanJson {
        name,
        converged,
        summary: plan.summary(),
        actions: plan
            .steps()
            .map(|step| StepJson {
                kind: step.action.kind(),
                agent: step.agent.clone(),
                target: step.action.target(),
                on: None,
                reason: step.reason.to_string(),
                bytes: step.action.bytes(),
                transfer_bytes: step.action.moved().and_then(|moved| moved.transfer),
                blocked: false,
                changes: step.reason.changes().to_vec(),
                detail: None,
            })
            .collect(),
        waiting: plan
            .waiting
            .iter()
            .map(|waiting| StepJson {
                // In JSON the kinds are a closed list; that nothing is known is said by what it waits on.
                kind: match waiting.kind {
                    ActionKind::ObserveContainer => ActionKind::CreateContainer,
                    known => known,
                },
                agent: waiting.agent.clone(),
                target: waiting.target.clone(),
                on: Some(waiting.on.word()),
                reason: waiting.reason.to_string(),
                bytes: None,
                transfer_bytes: None,
                blocked: is_blocked(waiting),
                changes: waiting.reason.changes().to_vec(),
                detail: Some(waiting.on.to_string()),
            })
            .collect(),
        interrupts: plan.interrupts(guest).into_iter().collect(),
        notes: plan.notes.iter().map(ToString::to_string).collect(),
    }
}
