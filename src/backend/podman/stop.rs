//! Stopping: its own signal, a wait that costs next to nothing, and KILL for what is left.
//!
//! Podman's own stop works for as long as it waits, and its service does only three times as many of such things at once as
//! its machine has processors (and one more). A signal is sent at once and leaves the waiting to us. But before 4.7 Podman
//! (its pull request 19889) restarts what obeyed a signal other than KILL, if its policy says so: there, only what has no such
//! policy, or ignores the signal, is signalled, and the rest is stopped by Podman.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::lifecycle::{Lifecycle, comes_back};
use crate::backend::{EngineError, EngineErrorKind};
use crate::model::{ContainerId, ContainerState, Phase};
use crate::mutex::guard;

/// From this Podman on, a signal that ends a container is the last word.
const SIGNALS_ARE_FINAL: (u32, u32) = (4, 7);
/// Podman's default, for a container that tells none.
const TERM: u32 = 15;
const KILL: &str = "KILL";
/// Signals on their way at once.
const SIGNALS: usize = 8;
/// Between two observations of a process of this machine.
const ALIVE_PAUSE: Duration = Duration::from_millis(100);
/// Between two lists, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A list is not taken sooner than this many times its own length after the last one.
const LIST_SPACING: u32 = 4;
/// Nor later than this after it: one that had to wait for locks must not delay the next.
const MOST_SPACING: Duration = Duration::from_secs(1);
/// How long after KILL Podman may take to be done with a container.
const AFTER_KILL: Duration = Duration::from_secs(30);
/// A container that Podman starts again and again may have to be stopped several times.
const TRIES: u32 = 50;
/// After so many of them it is held, see [`hold`].
const TRIES_UNHELD: u32 = 3;
/// How often it is held until it is stopped.
const HOLDS: u32 = 5;

/// How a container is stopped, as an inspection tells it.
#[derive(Debug, Clone)]
pub(super) struct Stoppable {
    /// The container.
    pub state: ContainerState,
    /// The signal that asks it to end, as Podman tells it: a number or a name.
    pub signal: String,
    /// How long Podman itself would wait for that.
    pub timeout: Option<Duration>,
}

/// What those who wait for ends share: one list for all of them, and how much is asked of Podman at once.
#[derive(Debug)]
pub(super) struct Stops {
    waiting: Mutex<BTreeSet<ContainerId>>,
    listed: tokio::sync::Mutex<Option<Listed>>,
    signals: Semaphore,
    stops: Semaphore,
}

/// One list of those that are waited for.
#[derive(Debug)]
struct Listed {
    ended: Instant,
    took: Duration,
    asked: BTreeSet<ContainerId>,
    found: BTreeMap<ContainerId, Listing>,
}

/// What a list tells of a container that is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// Its phase.
    pub phase: Phase,
    /// Its first process, while it has one.
    pub pid: Option<u32>,
}

/// What a wait came to.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    /// It is down, or gone.
    Over,
    /// Podman started it again.
    CameBack,
    /// It still runs.
    Running,
}

impl Stops {
    /// `stops` is how many of Podman's own stops are under way at once.
    pub(super) fn new(stops: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            listed: tokio::sync::Mutex::default(),
            signals: Semaphore::new(SIGNALS),
            stops: Semaphore::new(stops),
        }
    }

    /// What Podman says of a container, from a list that is shared with all others who wait and not older than `age`.
    async fn look(
        &self,
        podman: &impl Lifecycle,
        id: &ContainerId,
        age: Duration,
    ) -> Result<Option<Listing>, EngineError> {
        let mut listed = self.listed.lock().await;
        let fresh = listed.as_ref().filter(|listed| {
            let spacing = (LIST_SPACING * listed.took).min(MOST_SPACING);
            listed.asked.contains(id) && listed.ended.elapsed() <= age.max(spacing)
        });
        if let Some(listed) = fresh {
            return Ok(listed.found.get(id).cloned());
        }
        let asked = guard(&self.waiting).clone();
        let began = Instant::now();
        let found = podman.list(&asked).await?;
        let seen = found.get(id).cloned();
        *listed = Some(Listed { ended: Instant::now(), took: began.elapsed(), asked, found });
        Ok(seen)
    }
}

/// Among those that are waited for, for as long as it lives.
struct Waiting<'a>(&'a Stops, &'a ContainerId);

impl<'a> Waiting<'a> {
    fn new(stops: &'a Stops, id: &'a ContainerId) -> Self {
        guard(&stops.waiting).insert(id.clone());
        Self(stops, id)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        guard(&self.0.waiting).remove(self.1);
    }
}

/// See [`crate::backend::Engine::stop`]. How long a container may take its own `StopTimeout` says; `grace` holds where it has none,
/// and none at all always does.
pub(super) async fn stop(podman: &impl Lifecycle, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
    let mut came_back = false;
    for tried in 0..TRIES {
        let Some(seen) = podman.stoppable(id).await? else {
            let why = format!("failed to stop container `{id}`: no such container");
            return Err(EngineError::new(EngineErrorKind::NotFound, why));
        };
        let grace = if grace.is_zero() { grace } else { seen.timeout.unwrap_or(grace) };
        match &seen.state.phase {
            // 4.3.1 kills a frozen container's process but cannot clean up after it: it has to be unfrozen.
            Phase::Paused => {
                podman.unpause(id).await?;
                continue;
            }
            // What comes back is for Podman to stop: that calls its restarts off.
            Phase::Running if !came_back && is_signalled(podman, &seen, grace).await? => {
                if signal(podman, &seen, grace).await? == Waited::Over {
                    return Ok(());
                }
                came_back = true;
                continue;
            }
            Phase::Running => {
                let _place = podman.stops().stops.acquire().await;
                by_podman(podman, id, grace).await?;
            }
            Phase::Created | Phase::Exited { .. } => return Ok(()),
            _ => by_podman(podman, id, grace).await?,
        }
        if tried >= TRIES_UNHELD {
            hold(podman, id).await?;
        }
        // One that dies in the same moment may be restarted by Podman all the same: before 4.6 that is not called off
        // by a stop that finds nothing to kill, or not soon enough (its issues 17069 and 18259).
        if !comes_back(podman, id, Instant::now()).await? {
            return Ok(());
        }
        came_back = true;
    }
    let why = format!("failed to stop container `{id}`: Podman started it again each of {TRIES} times");
    Err(EngineError::new(EngineErrorKind::Timeout, why))
}

/// One stop by Podman. Where Podman restarts the container meanwhile, it says that it cannot tidy up what runs, and what was
/// restarted may have ended by the time it is looked at.
async fn by_podman(podman: &impl Lifecycle, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
    match podman.stop_once(id, grace).await {
        Err(err) if is_refusal(&err) && podman.inspect(id).await?.is_some_and(|now| ends_or_runs(&now.phase)) => {
            tracing::debug!(container = %id, error = %err, "a container that was to be stopped was restarted");
            Ok(())
        }
        outcome => outcome,
    }
}

fn ends_or_runs(phase: &Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Stopping | Phase::Exited { .. })
}

/// Takes a container between two of Podman's restarts out of its hands. One that ends as soon as it is started is down
/// whenever its turn comes to be stopped, above all on a busy machine; then a stop changes nothing (4.3.1), and the restart
/// that is due comes. Once made ready for a start it has none due, and a stop is the last word.
async fn hold(podman: &impl Lifecycle, id: &ContainerId) -> Result<(), EngineError> {
    for _ in 0..HOLDS {
        // Podman may tidy up the last run after it was made ready. Then a stop changes nothing either, and it is as if new.
        if !podman.inspect(id).await?.is_some_and(|now| matches!(now.phase, Phase::Stopping | Phase::Created)) {
            break;
        }
        let paused = async {
            podman.init(id).await?;
            podman.stop_once(id, Duration::ZERO).await
        };
        match paused.await {
            Err(err) if is_refusal(&err) => {
                tracing::debug!(container = %id, error = %err, "a container was not paused between two restarts");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Whether Podman found the container to be in another state than one in which it does what it was asked for.
fn is_refusal(err: &EngineError) -> bool {
    !err.kind.is_retryable() && !matches!(err.kind, EngineErrorKind::PermissionDenied | EngineErrorKind::NotFound)
}

/// Whether a signal of ours ends it for good, so that Podman need not wait for it.
async fn is_signalled(podman: &impl Lifecycle, seen: &Stoppable, grace: Duration) -> Result<bool, EngineError> {
    let restarts = seen.state.restart.as_deref().is_some_and(|policy| policy != "no");
    if grace.is_zero() || !restarts || is_final(&podman.version().await?) {
        return Ok(true);
    }
    let (Some(pid), Some(number)) = (seen.state.pid, number(&seen.signal)) else { return Ok(false) };
    Ok(podman.process(pid).await.is_some_and(|status| honours(&status, number) == Some(false)))
}

/// Its own signal, KILL after the grace, and until Podman is done with it.
async fn signal(podman: &impl Lifecycle, seen: &Stoppable, grace: Duration) -> Result<Waited, EngineError> {
    let id = &seen.state.id;
    let _waiting = Waiting::new(podman.stops(), id);
    if !grace.is_zero() {
        send(podman, id, &seen.signal).await?;
        match wait(podman, &seen.state, Instant::now() + grace).await? {
            Waited::Running => {}
            over => return Ok(over),
        }
    }
    send(podman, id, KILL).await?;
    // As a rule Podman has seen it end when it answers. A list would wait for all others that are being killed.
    if podman.inspect(id).await?.is_none_or(|now| matches!(now.phase, Phase::Exited { .. })) {
        return Ok(Waited::Over);
    }
    match wait(podman, &seen.state, Instant::now() + AFTER_KILL).await? {
        Waited::Running => {
            let why = format!("failed to stop container `{id}`: it is still there {AFTER_KILL:?} after KILL");
            Err(EngineError::new(EngineErrorKind::Timeout, why))
        }
        waited => Ok(waited),
    }
}

/// One that ended in the same moment cannot be signalled, which is as well: what became of it is seen afterwards.
async fn send(podman: &impl Lifecycle, id: &ContainerId, signal: &str) -> Result<(), EngineError> {
    let _place = podman.stops().signals.acquire().await;
    match podman.signal(id, signal).await {
        Err(err) if err.kind.is_retryable() || err.kind == EngineErrorKind::PermissionDenied => Err(err),
        Err(err) => {
            tracing::debug!(container = %id, signal, error = %err, "a container was not signalled");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// While its process lives for certain, Podman is not asked.
async fn wait(podman: &impl Lifecycle, state: &ContainerState, until: Instant) -> Result<Waited, EngineError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let next = if podman.surely_alive(state) {
            ALIVE_PAUSE.min(pause)
        } else {
            match podman.stops().look(podman, &state.id, pause).await {
                Ok(None) => return Ok(Waited::Over),
                Ok(Some(listing)) => match listing.phase {
                    Phase::Running if listing.pid.is_some() && state.pid.is_some() && listing.pid != state.pid => {
                        return Ok(Waited::CameBack);
                    }
                    Phase::Running | Phase::Paused | Phase::Stopping | Phase::Removing => {}
                    Phase::Created | Phase::Exited { .. } | Phase::Other(_) => return Ok(Waited::Over),
                },
                Err(err) if err.kind.is_retryable() && Instant::now() < until => {}
                Err(err) => return Err(err),
            }
            pause
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Waited::Running);
        }
        tokio::time::sleep(next.min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_final(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= SIGNALS_ARE_FINAL
}

/// Whether a process does something about a signal, by its `/proc/PID/status`. The first process of a PID namespace does not
/// even get one that it neither catches nor holds back. `None` where that cannot be told.
fn honours(status: &str, signal: u32) -> Option<bool> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let bit = 1_u64.checked_shl(signal.checked_sub(1)?)?;
    let has = |name: &str| u64::from_str_radix(field(name)?, 16).ok().map(|mask| mask & bit != 0);
    if has("SigIgn")? {
        return Some(false);
    }
    let is_first = field("NSpid")?.split_whitespace().next_back() == Some("1");
    Some(has("SigCgt")? || has("SigBlk")? || !is_first)
}

/// The number of a signal that Podman tells by number or by name.
fn number(signal: &str) -> Option<u32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    if signal.is_empty() {
        return Some(TERM);
    }
    if let Ok(number) = signal.parse() {
        return Some(if number == 0 { TERM } else { number });
    }
    let name = signal.strip_prefix("SIG").unwrap_or(signal);
    let found = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
    u32::try_from(found + 1).ok()
}

#[cfg(test)]
mod tests;
