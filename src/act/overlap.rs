//! A replacement in which both run for a while: the successor proves itself as `….next`, then gets the name, and only then its
//! predecessor is stopped. One of the two serves at every moment.

use super::replace::{self, Predecessor, Startable};
use super::{ActError, Done, Patience, remove, sure};
use crate::backend::Engine;
use crate::error::Chain;
use crate::model::{ContainerName, Create, Rollout};

/// Puts a successor in its predecessor's place once it has proved itself beside it.
#[expect(clippy::too_many_arguments, reason = "two containers, their names, and how to go about it")]
pub(super) async fn overlap<E: Engine>(
    engine: &E,
    mut new: Startable,
    create: &Create,
    old: &Predecessor<'_>,
    aside: Option<&ContainerName>,
    next: &ContainerName,
    rollout: &Rollout,
    patience: &Patience,
) -> Result<Done, ActError> {
    let outcome = match patience.outdated.is_cancelled() {
        false => replace::start_and_watch(engine, &mut new, next, &create.spec, rollout, patience).await,
        true => Err(ActError::Interrupted),
    };
    // Its predecessor runs on, whatever becomes of it.
    let fails = async |err: ActError, untried: bool| {
        let container = old.home.to_string();
        let is_interrupted = matches!(err, ActError::Interrupted);
        match remove(engine, &new.id, patience).await {
            Ok(()) if is_interrupted => err,
            Ok(()) => ActError::RolledBack { container, untried, cause: Box::new(err) },
            Err(why) => ActError::RollBackFailed { container, why: Chain(&why).to_string(), cause: Box::new(err) },
        }
    };
    match outcome {
        Ok(()) if patience.outdated.is_cancelled() => return Err(ActError::Interrupted),
        Ok(()) => {}
        Err(ActError::Interrupted) if !patience.undo => return Err(ActError::Interrupted),
        Err(err) => return Err(fails(err, false).await),
    }
    let swapped = async {
        if let Some(aside) = aside {
            sure::rename(engine, old.id, aside, &patience.slot).await?;
        }
        sure::rename(engine, &new.id, &create.name, &patience.slot).await
    };
    if let Err(err) = swapped.await {
        // It has its name still, or gets it back.
        if let Err(err) = sure::rename(engine, old.id, &old.home, &patience.slot).await {
            tracing::debug!(error = %err, "a predecessor was not given its name back");
        }
        return Err(fails(err.naming(&new.id, &create.name).naming(old.id, &old.home).into(), true).await);
    }
    remove(engine, old.id, patience).await.map_err(|err| err.naming(old.id, &old.home))?;
    Ok(Done { started: Some(new.id), settled: true, ..Done::default() })
}
