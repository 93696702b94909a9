//! One step under way.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Reporter;
use crate::act::{ActError, Done, Patience, act};
use crate::backend::{Engine, Progress, Store, Vm, World};
use crate::plan::{Action, Step};

/// A step under way.
pub(super) type Flight<'a> = Pin<Box<dyn Future<Output = Landed> + Send + 'a>>;

/// A step that ended.
pub(super) struct Landed {
    pub step: Step,
    pub outcome: Result<Done, Arc<ActError>>,
    pub took: Duration,
}

/// Takes a step. When `cancel` is cancelled, transfers are dropped where they are (what they have stays for the next
/// time); steps on containers are finished, so that none is left half done without need.
pub(super) fn fly<'a, V: Vm, E: Engine, S: Store>(
    world: &'a World<V, E, S>,
    step: Step,
    patience: Patience,
    reporter: &'a dyn Reporter,
    cancel: &'a CancellationToken,
) -> Flight<'a> {
    Box::pin(async move {
        let began = Instant::now();
        let progress = Progress::new(step.action.bytes().unwrap_or(0));
        reporter.started(&step, &progress);
        let transfer = is_transfer(&step.action);
        let work = act(world, &step.action, progress, &patience);
        let outcome = if transfer {
            tokio::select! {
                outcome = work => outcome,
                () = cancel.cancelled() => Err(ActError::Interrupted),
            }
        } else {
            work.await
        };
        let took = began.elapsed();
        reporter.finished(&step, outcome.as_ref(), took);
        Landed { step, outcome: outcome.map_err(Arc::new), took }
    })
}

/// Whether a step can be dropped anywhere and is taken up by the next one of its kind: bytes that were moved stay moved, and
/// a machine goes on booting.
fn is_transfer(action: &Action) -> bool {
    let moves_bytes =
        matches!(action, Action::FetchArtifact { .. } | Action::LoadImage { .. } | Action::PullImage { .. });
    moves_bytes || action.kind().is_vm()
}
