//! The sessions of agents that declare some, watched for as long as their containers run. What is told is only ever a reason to
//! observe, and what is missed costs time and nothing else.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::backend::{InAgent, Inside, SessionChanges};
use crate::backoff::Backoff;
use crate::model::ContainerId;

/// Watching again: there may be no room for watches, or nobody may answer.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(5), longest: Duration::from_secs(300) };
/// Whoever changes all the time is told of no more often than this.
const SPACING: Duration = Duration::from_secs(1);

/// One container.
struct Watched {
    at: InAgent,
    changes: Option<SessionChanges>,
    failures: u32,
    cancel: CancellationToken,
}

type Watching<'a> = Pin<Box<dyn Future<Output = Option<Watched>> + Send + 'a>>;

/// All that are watched.
pub(super) struct SessionWatches<'a, E> {
    engine: &'a E,
    watches: BTreeMap<ContainerId, CancellationToken>,
    futures: FuturesUnordered<Watching<'a>>,
}

impl<'a, E: Inside> SessionWatches<'a, E> {
    pub(super) fn new(engine: &'a E) -> Self {
        Self { engine, watches: BTreeMap::new(), futures: FuturesUnordered::new() }
    }

    /// These are to be watched, and no others.
    pub(super) fn keep(&mut self, wanted: Vec<InAgent>) {
        self.watches.retain(|container, cancel| {
            let kept = wanted.iter().any(|at| at.container == *container);
            if !kept {
                cancel.cancel();
            }
            kept
        });
        for at in wanted {
            if !self.watches.contains_key(&at.container) {
                let cancel = CancellationToken::new();
                self.watches.insert(at.container.clone(), cancel.clone());
                self.follow(Watched { at, changes: None, failures: 0, cancel }, Duration::ZERO);
            }
        }
    }

    fn follow(&mut self, watched: Watched, pause: Duration) {
        let (engine, cancel) = (self.engine, watched.cancel.clone());
        self.futures.push(Box::pin(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => None,
                watched = changed(engine, watched, pause) => Some(watched),
            }
        }));
    }

    /// Waits until something changed. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) {
        loop {
            match self.futures.next().await {
                Some(Some(watched)) => {
                    self.follow(watched, SPACING);
                    return;
                }
                Some(None) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Ends when something changed, or may have while nobody watched.
async fn changed<E: Inside>(engine: &E, mut watched: Watched, pause: Duration) -> Watched {
    tokio::time::sleep(pause).await;
    loop {
        if let Some(changes) = &mut watched.changes {
            if changes.next().await.is_some() {
                watched.failures = 0;
                return watched;
            }
            watched.changes = None;
        }
        if watched.failures > 0 {
            tokio::time::sleep(AGAIN.delay(watched.failures)).await;
        }
        watched.failures = watched.failures.saturating_add(1);
        match engine.watch_sessions(&watched.at).await {
            Ok(changes) => {
                watched.changes = Some(changes);
                // What went before it began is told by an observation alone.
                return watched;
            }
            Err(err) => {
                tracing::debug!(agent = %watched.at.agent, error = %err, "cannot watch the sessions of an agent")
            }
        }
    }
}
