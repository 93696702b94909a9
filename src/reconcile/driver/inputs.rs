//! What the driver waits for, and what that tells the core. Each may be dropped halfway.

use std::collections::BTreeMap;

use futures_util::StreamExt;

use super::listen::Listener;
use super::{Reply, RunInputs, Work};
use crate::backend::{ContainerExits, Engine};
use crate::model::ContainerId;
use crate::reconcile::core::{EngineNotice, Input, RequestId};
use crate::reconcile::run::Request;

pub(super) async fn arrival<T>(work: &mut Option<Work<'_, T>>) -> T {
    let Some(working) = work else { return std::future::pending().await };
    let done = working.await;
    *work = None;
    done
}

pub(super) async fn from_listener<E: Engine>(listener: &mut Option<Listener<'_, E>>) -> EngineNotice {
    match listener {
        Some(listener) => listener.next().await,
        None => std::future::pending().await,
    }
}

/// What only one that is kept up hears of. `None` when what it heard is nothing to it.
pub(super) async fn from_kept(
    kept: &mut Option<RunInputs<'_>>,
    replies: &mut BTreeMap<RequestId, Reply>,
    next_request: &mut u64,
) -> Option<Input> {
    let Some(kept) = kept else { return std::future::pending().await };
    tokio::select! {
        biased;
        Ok(()) = kept.revisions.changed() => Some(Input::Edited(kept.revisions.borrow_and_update().clone())),
        Some(request) = kept.requests.recv() => {
            let id = RequestId(*next_request);
            *next_request += 1;
            Some(match request {
                Request::Reconcile { timeout, retry_quarantined, reply } => {
                    replies.insert(id, Reply::Outcome(reply));
                    Input::Asked { id, timeout, retry_quarantined }
                }
                Request::Look { reply } => {
                    replies.insert(id, Reply::View(reply));
                    Input::AskedForView { id }
                }
            })
        }
        id = next_exit(&mut kept.exits) => Some(Input::ContainerExited(id)),
        else => std::future::pending().await,
    }
}

async fn next_exit(exits: &mut Option<ContainerExits>) -> ContainerId {
    if let Some(stream) = exits {
        match stream.next().await {
            Some(id) => return id,
            None => *exits = None,
        }
    }
    std::future::pending().await
}
