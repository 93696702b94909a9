//! What the control socket of `run` answers, and what the service manager is told of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::service_manager::ServiceManager;
use super::sessions::Sessions;
use crate::cli::Settings;
use crate::cli::render::report;
use crate::control::{BackingOff, Controlled, Refused, Run, RunStatus, SessionInput, StateFileError, StateFiles};
use crate::mutex::guard;
use crate::reconcile::Report;
use crate::reconcile::journal::Journal;
use crate::reconcile::run::{FRESH, Request, View};
use crate::state::watch::Watching;
use crate::time::rfc3339;

/// How long whoever asks how things are waits for a fresh observation.
const LOOK_TIME: Duration = Duration::from_secs(3);

/// The loop, as others see it.
pub(super) struct Served {
    files: StateFiles,
    since: SystemTime,
    journal: Arc<Journal>,
    watching: Watching,
    requests: mpsc::Sender<Request>,
    flush: mpsc::Sender<oneshot::Sender<()>>,
    view: watch::Receiver<Option<Arc<View>>>,
    sessions: Sessions,
    status: watch::Sender<Arc<Value>>,
    /// What is wrong with the state file, and since when.
    error: Mutex<Option<(String, SystemTime)>>,
}

impl Served {
    pub(super) fn new(
        settings: &Settings,
        journal: &Arc<Journal>,
        watching: &Watching,
        requests: mpsc::Sender<Request>,
        flush: mpsc::Sender<oneshot::Sender<()>>,
        view: watch::Receiver<Option<Arc<View>>>,
        sessions: Sessions,
    ) -> Self {
        Self {
            files: settings.files.absolute(),
            since: SystemTime::now(),
            journal: journal.clone(),
            watching: watching.clone(),
            requests,
            flush,
            view,
            sessions,
            status: watch::channel(Arc::new(Value::Null)).0,
            error: Mutex::new(None),
        }
    }

    /// Has the files read again and everything looked at; yields what came of it, `None` when it is stopping.
    pub(super) async fn request(&self, timeout: Duration, retry_quarantined: bool) -> Option<Report> {
        self.ask(timeout, retry_quarantined).await?.await.ok()
    }

    /// Has the files read again, and asks for everything to be looked at; what comes of it may be waited for.
    pub(super) async fn ask(&self, timeout: Duration, retry_quarantined: bool) -> Option<oneshot::Receiver<Report>> {
        self.watching.reload_and_wait().await;
        let (done, flushed) = oneshot::channel();
        self.flush.send(done).await.ok()?;
        flushed.await.ok()?;
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Reconcile { timeout, retry_quarantined, reply }).await.ok()?;
        Some(answer)
    }

    /// Tells each new view to whoever follows, and the service manager in a line.
    pub(super) async fn publish(self: Arc<Self>, manager: ServiceManager) {
        let mut view = self.view.clone();
        let (mut ready, mut said) = (false, String::new());
        loop {
            let newest = view.borrow_and_update().clone();
            if let Some(newest) = newest {
                self.show(&newest);
                let line = line(&newest);
                if line != said {
                    manager.status(&line);
                    said = line;
                }
                if !ready {
                    manager.ready();
                    ready = true;
                }
            }
            if view.changed().await.is_err() {
                return;
            }
        }
    }

    fn show(&self, view: &View) {
        let run = self.run(view);
        if let Ok(status) = serde_json::to_value(RunStatus { status: &view.status, run: &run }) {
            self.status.send_replace(Arc::new(status));
        }
    }

    fn file_error(&self, message: Option<&str>) -> Option<StateFileError> {
        let mut error = guard(&self.error);
        if error.as_ref().map(|(said, _)| said.as_str()) != message {
            *error = message.map(|message| (message.to_owned(), SystemTime::now()));
        }
        error.clone().map(|(message, since)| StateFileError { since: rfc3339(since), message })
    }

    fn run(&self, view: &View) -> Run {
        Run {
            pid: std::process::id(),
            since: rfc3339(self.since),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            file: self.files.first_text(),
            layers: self.files.layer_texts(),
            woken_by: view.woken_by.join(","),
            last_pass_at: Some(rfc3339(view.looked_at)),
            passes: view.passes,
            state_file_error: self.file_error(view.file_error.as_deref()),
            watching: self.watching.mode.borrow().to_string(),
            not_recorded: self.journal.problem().or_else(|| view.not_recorded.clone()),
            backing_off: view
                .backing_off
                .iter()
                .map(|off| BackingOff {
                    agent: off.agent.clone(),
                    cause: off.cause.clone(),
                    failures: off.failures,
                    retry_at: off.retry_at.map(rfc3339),
                })
                .collect(),
        }
    }
}

impl Controlled for Served {
    fn status(&self) -> watch::Receiver<Arc<Value>> {
        self.status.subscribe()
    }

    /// Where Podman does not tell in time, what it told last is shown with its age, and not as what is so now.
    async fn look(&self) {
        let is_fresh = |view: &Option<Arc<View>>, age: Duration| {
            view.as_ref().is_some_and(|view| view.looked_at.elapsed().is_ok_and(|elapsed| elapsed < age))
        };
        if is_fresh(&self.view.borrow(), FRESH) {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let looking = async {
            self.requests.send(Request::Look { reply }).await.ok()?;
            answer.await.ok()
        };
        let looked = tokio::time::timeout(LOOK_TIME, looking).await;
        let Some(newest) = self.view.borrow().clone() else { return };
        let mut view = (*newest).clone();
        // A virtual machine may take that long.
        if looked.is_err() && view.status.vm.is_none() && !is_fresh(&Some(newest), LOOK_TIME) {
            view.status.unsee(&format!("Podman has not answered for {} s", LOOK_TIME.as_secs()));
        }
        self.show(&view);
    }

    fn events(&self) -> broadcast::Receiver<Arc<Value>> {
        self.journal.subscribe()
    }

    async fn send(&self, input: SessionInput) -> Result<Value, Refused> {
        self.sessions.send(input).await
    }

    async fn reconcile(&self, timeout: Duration, retry_quarantined: bool) -> Option<Value> {
        let report = self.request(timeout, retry_quarantined).await?;
        let error = self.view.borrow().as_ref().and_then(|view| view.file_error.clone());
        serde_json::to_value(report::outcome(&report, &self.files, error)).ok()
    }
}

/// For `systemctl status`.
fn line(view: &View) -> String {
    let all = view.status.agents.len();
    let ready = view.status.agents.values().filter(|agent| agent.ready).count();
    let mut line = format!("{ready} of {all} agents ready");
    if !view.status.podman.reachable {
        line.push_str("; Podman cannot be reached");
    }
    if view.file_error.is_some() {
        line.push_str("; the state file cannot be used, the last good state goes on");
    }
    line
}
