//! The last log lines of agents that do not run as they should, read beside the loop: a Podman that is slow to tell them holds
//! nothing up.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::act::last_lines;
use crate::backend::Engine;
use crate::model::{AgentName, ContainerId, ContainerSpec};

/// What was read so recently is not read again.
const FRESH: Duration = Duration::from_secs(2);

/// What was read of one agent.
#[derive(Debug)]
struct Read {
    id: ContainerId,
    /// When it was last asked for.
    asked: Instant,
    lines: Option<String>,
}

type Reading<'a> = Pin<Box<dyn Future<Output = (AgentName, ContainerId, String)> + Send + 'a>>;

/// The logs that are shown.
pub(super) struct Logs<'a, E> {
    engine: &'a E,
    read: BTreeMap<AgentName, Read>,
    reading: FuturesUnordered<Reading<'a>>,
}

impl<'a, E: Engine> Logs<'a, E> {
    pub fn new(engine: &'a E) -> Self {
        Self { engine, read: BTreeMap::new(), reading: FuturesUnordered::new() }
    }

    /// These are to be shown, and no others.
    pub fn keep(&mut self, wanted: Vec<(&AgentName, &ContainerId, &ContainerSpec)>) {
        self.read.retain(|agent, read| wanted.iter().any(|(name, id, _)| (*name, *id) == (agent, &read.id)));
        let now = Instant::now();
        for (agent, id, spec) in wanted {
            if self.read.get(agent).is_some_and(|read| now.duration_since(read.asked) < FRESH) {
                continue;
            }
            let lines = self.read.remove(agent).and_then(|read| read.lines);
            self.read.insert(agent.clone(), Read { id: id.clone(), asked: now, lines });
            let (engine, agent, id, spec) = (self.engine, agent.clone(), id.clone(), spec.clone());
            self.reading.push(Box::pin(async move {
                let lines = last_lines(engine, &id, &spec).await;
                (agent, id, lines)
            }));
        }
    }

    /// What was read of this agent's container.
    pub fn of(&self, agent: &AgentName) -> Option<&str> {
        self.read.get(agent)?.lines.as_deref()
    }

    /// Whether some are still being read.
    pub fn is_reading(&self) -> bool {
        !self.reading.is_empty()
    }

    /// Waits until some were read. Dropping the wait loses nothing.
    pub async fn next(&mut self) {
        let Some((agent, id, lines)) = self.reading.next().await else { return std::future::pending().await };
        if let Some(read) = self.read.get_mut(&agent).filter(|read| read.id == id) {
            read.lines = Some(lines);
        }
    }
}
