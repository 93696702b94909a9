//! Input for sessions, over connections that `run` keeps open.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use crate::backend::podman::PodmanAt;
use crate::cli::Settings;
use crate::control::{Refused, RefusedKind, SessionInput};
use crate::model::{ContainerId, Runtime};
use crate::reconcile::run::{Revision, View};
use crate::session::{Keeper, Pool, SendOptions, SessionError};

/// What it takes to reach the keepers.
pub(super) struct Sessions {
    settings: Settings,
    revisions: watch::Receiver<Revision>,
    view: watch::Receiver<Option<Arc<View>>>,
    /// The Podman that the state file names, once it was asked for.
    engine: Mutex<Option<(Runtime, Arc<PodmanAt>)>>,
    pool: Pool,
}

impl Sessions {
    pub(super) fn new(
        settings: &Settings,
        revisions: watch::Receiver<Revision>,
        view: watch::Receiver<Option<Arc<View>>>,
    ) -> Self {
        Self { settings: settings.clone(), revisions, view, engine: Mutex::new(None), pool: Pool::default() }
    }

    /// See [`crate::control::Controlled::send`].
    pub(super) async fn send(&self, input: SessionInput) -> Result<Value, Refused> {
        let unavailable = |why: String| Refused::new(RefusedKind::Unavailable, why);
        let bytes = STANDARD
            .decode(&input.data)
            .map_err(|err| Refused::new(RefusedKind::BadRequest, format!("`data` is no base64: {err}")))?;
        let container =
            self.container(&input).ok_or_else(|| unavailable(format!("agent {} is not seen to run", input.agent)))?;
        let engine = self.engine().await.map_err(unavailable)?;
        let keeper = Keeper::new(&*engine, container, input.agent.as_str());
        let timeout = Duration::from_millis(input.timeout_ms);
        let options = SendOptions { id: Some(input.id), eof: input.eof, timeout };
        match self.pool.send(&keeper, &input.session, &bytes, &options).await {
            Ok(sent) => Ok(json!({ "bytesWritten": sent })),
            Err(SessionError::Refused(problems)) => Ok(json!({ "problems": problems })),
            Err(err) => Err(unavailable(err.to_string())),
        }
    }

    /// Of an agent that ran when it was last observed.
    fn container(&self, input: &SessionInput) -> Option<ContainerId> {
        let view = self.view.borrow().clone()?;
        let container = view.status.agents.get(&input.agent)?.container.as_ref()?;
        if container.state == "running" { ContainerId::new(container.id.as_str()).ok() } else { None }
    }

    async fn engine(&self) -> Result<Arc<PodmanAt>, String> {
        let desired = self.revisions.borrow().desired.clone();
        let mut known = self.engine.lock().await;
        if let Some((runtime, engine)) = &*known
            && *runtime == desired.runtime
        {
            return Ok(engine.clone());
        }
        let engine = Arc::new(self.settings.reached_engine(&desired).await.map_err(|err| err.message)?);
        *known = Some((desired.runtime.clone(), engine.clone()));
        Ok(engine)
    }
}
