//! Watches an archive on its way to Podman.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backend::{EngineError, EngineErrorKind};

/// How long Podman may work on an archive it has received whole.
const LOAD_WORK: Duration = Duration::from_secs(15 * 60);
/// How long Podman may take no byte of an archive that is being loaded.
const LOAD_STALL: Duration = Duration::from_secs(60);
/// What became of an archive that is being sent: seen by the body as it is read, asked by the one who waits.
#[derive(Debug)]
pub(super) struct Upload {
    /// Completes "failed to …".
    what: String,
    began: Instant,
    /// Milliseconds from `began` to the last byte taken.
    last: AtomicU64,
    finished: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Upload {
    pub(super) fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            began: Instant::now(),
            last: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    pub(super) fn saw(&self, item: &std::io::Result<bytes::Bytes>) {
        self.touch();
        if let Err(err) = item
            && let Ok(mut failure) = self.failure.lock()
        {
            failure.get_or_insert_with(|| err.to_string());
        }
    }

    pub(super) fn finished(&self) {
        self.touch();
        self.finished.store(true, Ordering::Release);
    }

    /// Says that the engine took something.
    pub(super) fn moved(&self) {
        self.touch();
    }

    fn touch(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Release);
    }

    /// What the archive itself broke off with: not the engine's fault, and not helped by trying again.
    pub(super) fn failure(&self, kind: EngineErrorKind) -> Option<EngineError> {
        let broken = self.failure.lock().ok()?.clone()?;
        Some(EngineError::new(kind, format!("failed to {}: its archive could not be read ({broken})", self.what)))
    }

    /// Comes back once nothing has moved for too long.
    pub(super) async fn stall(&self) -> EngineError {
        loop {
            let (limit, what) = match self.finished.load(Ordering::Acquire) {
                true => (LOAD_WORK, "Podman received the archive and has not answered"),
                false => (LOAD_STALL, "nothing of the archive moved"),
            };
            let idle = self.began.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Acquire)));
            if idle >= limit {
                let limit = humantime::format_duration(limit);
                return EngineError::new(
                    EngineErrorKind::Timeout,
                    format!("failed to {}: {what} for {limit}", self.what),
                );
            }
            tokio::time::sleep((limit - idle).min(Duration::from_secs(1))).await;
        }
    }
}
