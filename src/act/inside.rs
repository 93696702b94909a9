//! Sessions, started and seen to stay up.

use super::{ActError, Patience};
use crate::backend::{InAgent, Inside, InsideError, LookInside, SessionStart, SessionStarted};
use crate::model::{EndedBy, FailureKind, SessionPhase};

/// Starts a session. One that ends badly before it has settled has failed, whatever its keeper does about it later.
pub(super) async fn start<E: Inside>(
    engine: &E,
    at: &InAgent,
    start: &SessionStart,
    patience: &Patience,
) -> Result<(), ActError> {
    // What runs goes on where its successor could not be started.
    if engine.start_session(at, start).await? == SessionStarted::InTheWay {
        if let Some(id) = &start.replaces {
            patience.slot.without(engine.end_session(at, &start.name, id, patience.grace)).await?;
        }
        if engine.start_session(at, start).await? == SessionStarted::InTheWay {
            return Err(InsideError {
                kind: FailureKind::Conflict,
                message: format!("session {}/{} exists: somebody started it meanwhile", at.agent, start.name),
                is_retryable: true,
            }
            .into());
        }
    }
    patience.slot.without(tokio::time::sleep(patience.settle)).await;
    let look = LookInside { at: at.clone(), sessions: true, sources: Vec::new() };
    let found = engine.look_inside(&look).await;
    let state = found.sessions.present().and_then(|sessions| sessions.get(&start.name));
    let exit = match state.map(|state| &state.phase) {
        Some(SessionPhase::BackingOff { exit, .. } | SessionPhase::Exited { exit, by: EndedBy::Itself }) => *exit,
        // What cannot be told now is the next observation's.
        _ => return Ok(()),
    };
    if exit.is_success() {
        return Ok(());
    }
    let said = engine.last_words(at, &start.name).await;
    let log = start.spec.secrets().redact(said.trim_end());
    Err(ActError::SessionEnded { session: format!("{}/{}", at.agent, start.name), exit, log })
}
