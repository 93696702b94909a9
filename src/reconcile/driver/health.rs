//! Health checks on their interval, for as long as a container runs.
//!
//! Where systemd runs Podman's own timers, Podman's record shows a younger check than the interval, and we only read it.
//! Elsewhere nobody runs them but us.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::act::wait_until_healthy;
use crate::backend::Engine;
use crate::model::{ContainerId, Health, HealthCheck};
use crate::reconcile::core::Checked;

struct Watch {
    started_at: Option<SystemTime>,
    check: Option<HealthCheck>,
    cancel: CancellationToken,
}

type Watching<'a> = Pin<Box<dyn Future<Output = Option<ContainerId>> + Send + 'a>>;

/// The checks under way. Each ends when the verdict is another than the one that was known.
pub(super) struct Checks<'a, E> {
    engine: &'a E,
    watches: BTreeMap<ContainerId, Watch>,
    futures: FuturesUnordered<Watching<'a>>,
}

/// While Podman does not answer.
const PAUSE: Duration = Duration::from_secs(2);
/// The first verdict may take as long as it takes.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl<'a, E: Engine> Checks<'a, E> {
    pub(super) fn new(engine: &'a E) -> Self {
        Self { engine, watches: BTreeMap::new(), futures: FuturesUnordered::new() }
    }

    /// These are to be checked, and no others.
    pub(super) fn keep(&mut self, checked: &[Checked]) {
        self.watches.retain(|id, watch| {
            let same = |one: &Checked| {
                let same_check = one.check.is_none() || one.check == watch.check;
                one.id == *id && one.started_at == watch.started_at && same_check
            };
            let kept = checked.iter().any(same);
            if !kept {
                watch.cancel.cancel();
            }
            kept
        });
        for one in checked {
            if self.watches.contains_key(&one.id) {
                continue;
            }
            let cancel = CancellationToken::new();
            let watch = Watch { started_at: one.started_at, check: one.check.clone(), cancel: cancel.clone() };
            self.watches.insert(one.id.clone(), watch);
            let (engine, id, check) = (self.engine, one.id.clone(), one.check.clone());
            let known = one.health.clone();
            self.futures.push(Box::pin(async move {
                tokio::select! {
                    // First, so that one that was replaced never speaks for its successor.
                    biased;
                    () = cancel.cancelled() => None,
                    () = other_verdict(engine, &id, check, known) => Some(id),
                }
            }));
        }
    }

    /// Waits until a verdict is another. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) {
        loop {
            match self.futures.next().await {
                Some(Some(id)) => {
                    self.watches.remove(&id);
                    return;
                }
                Some(None) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Ends when the verdict is another than `known`, or none is available any more.
async fn other_verdict<E: Engine>(engine: &E, id: &ContainerId, check: Option<HealthCheck>, known: Option<Health>) {
    let Some(check) = check_of(engine, id, check).await else {
        // It has none after all, or is gone: the next observation tells.
        return tokio::time::sleep(PAUSE).await;
    };
    let check = &check;
    if !matches!(known, Some(Health::Healthy | Health::Unhealthy)) {
        if let Err(err) = wait_until_healthy(engine, id, check, FOR_EVER).await {
            tracing::debug!(error = %err, "could not wait for health");
            tokio::time::sleep(PAUSE).await;
        }
        return;
    }
    loop {
        tokio::time::sleep(check.interval.max(Duration::from_millis(100))).await;
        match engine.inspect(id).await {
            Ok(Some(seen)) if seen.health != known => return,
            Ok(Some(seen)) if is_due(seen.checked_at, check.interval) => {}
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(_) => continue,
        }
        if let Err(err) = engine.run_healthcheck(id).await {
            tracing::debug!(error = %err, "could not run a health check");
            continue;
        }
        match engine.inspect(id).await {
            Ok(Some(seen)) if seen.health == known => {}
            Ok(_) => return,
            Err(_) => {}
        }
    }
}

/// The check that is known, else the one that its image brings.
async fn check_of<E: Engine>(engine: &E, id: &ContainerId, known: Option<HealthCheck>) -> Option<HealthCheck> {
    if known.is_some() {
        return known;
    }
    loop {
        match engine.inspect(id).await {
            Ok(seen) => return seen?.check,
            Err(err) => tracing::debug!(error = %err, "could not inspect a container for its health check"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether nobody has checked within the last interval. A check in the future is a clock that was set back.
fn is_due(checked_at: Option<SystemTime>, interval: Duration) -> bool {
    let ago = checked_at.and_then(|checked| SystemTime::now().duration_since(checked).ok());
    ago.is_none_or(|ago| ago >= interval)
}
