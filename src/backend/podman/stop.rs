//! Stopping: its own signal, a wait that costs next to nothing, and KILL for what is left.
//!
//! Podman's own stop works for as long as it waits, and its service does only three times as many of such things at once as
//! its machine has processors (and one more). A signal is sent at once and leaves the waiting to us. But before 4.7 Podman
//! (its pull request 19889) restarts what obeyed a signal other than KILL, if its policy says so: there, only what has no such
//! policy, or ignores the signal, is signalled, and the rest is stopped by Podman.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::lifecycle::{Lifecycle, comes_back};
use crate::backend::{EngineError, EngineErrorKind};
use crate::model::{ContainerId, ContainerState, Phase};

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
    pub timeout: Duration,
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
        let asked = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
        stops.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Self(stops, id)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(self.1);
    }
}

/// See [`crate::backend::Engine::stop`]. A container that is to have more time by its own `StopTimeout` gets it.
pub(super) async fn stop(podman: &impl Lifecycle, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
    let mut came_back = false;
    for tried in 0..TRIES {
        let Some(seen) = podman.stoppable(id).await? else {
            let why = format!("failed to stop container `{id}`: no such container");
            return Err(EngineError::new(EngineErrorKind::NotFound, why));
        };
        let grace = if grace.is_zero() { grace } else { grace.max(seen.timeout) };
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
mod tests {
    use super::*;

    /// A Podman whose container ends as soon as it is started, so that no stop finds it running.
    struct Restless {
        stops: Stops,
        now: Mutex<Now>,
        /// It tidies up the last run between an init and a stop, once.
        tidies_late: std::sync::atomic::AtomicBool,
        /// It restarts the container between a stop and its tidying up, so that it refuses the latter, once.
        refuses: std::sync::atomic::AtomicBool,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Now {
        Running,
        Between,
        Ready,
        Down,
    }

    impl Restless {
        fn new(tidies_late: bool, refuses: bool) -> Self {
            Self {
                stops: Stops::new(1),
                now: Mutex::new(Now::Running),
                tidies_late: tidies_late.into(),
                refuses: refuses.into(),
            }
        }

        fn seen(&self) -> ContainerState {
            let status = match *self.now.lock().unwrap() {
                Now::Running => "running",
                Now::Between => "stopping",
                Now::Ready => "initialized",
                Now::Down => "exited",
            };
            let answer = serde_json::json!({
                "Id": "c".repeat(64), "Name": "a", "State": {"Status": status},
                "HostConfig": {"RestartPolicy": {"Name": "always"}},
            });
            crate::backend::podman::wire::inspected(&answer).unwrap().1
        }

        fn refused(&self) -> EngineError {
            EngineError::new(EngineErrorKind::Conflict, format!("{:?}", self.now.lock().unwrap()))
        }
    }

    impl Lifecycle for Restless {
        async fn inspect(&self, _: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
            let seen = self.seen();
            let mut now = self.now.lock().unwrap();
            if *now == Now::Between {
                *now = Now::Running;
            }
            Ok(Some(seen))
        }

        async fn stoppable(&self, _: &ContainerId) -> Result<Option<Stoppable>, EngineError> {
            Ok(Some(Stoppable { state: self.seen(), signal: "15".into(), timeout: Duration::ZERO }))
        }

        async fn stop_once(&self, _: &ContainerId, _: Duration) -> Result<(), EngineError> {
            let late = self.tidies_late.load(std::sync::atomic::Ordering::Relaxed);
            let mut now = self.now.lock().unwrap();
            match *now {
                Now::Ready if late => self.tidies_late.store(false, std::sync::atomic::Ordering::Relaxed),
                Now::Ready => *now = Now::Down,
                Now::Running => *now = Now::Between,
                Now::Between | Now::Down => {}
            }
            if self.refuses.swap(false, std::sync::atomic::Ordering::Relaxed) {
                return Err(EngineError::new(
                    EngineErrorKind::CommandFailed,
                    "running or paused, refusing to clean up",
                ));
            }
            Ok(())
        }

        async fn init(&self, _: &ContainerId) -> Result<(), EngineError> {
            *self.now.lock().unwrap() = Now::Ready;
            Ok(())
        }

        async fn version(&self) -> Result<String, EngineError> {
            Ok("4.3.1".into())
        }

        fn stops(&self) -> &Stops {
            &self.stops
        }

        async fn start_once(&self, _: &ContainerId) -> Result<super::super::lifecycle::Started, EngineError> {
            Err(self.refused())
        }

        async fn list(&self, _: &BTreeSet<ContainerId>) -> Result<BTreeMap<ContainerId, Listing>, EngineError> {
            Ok(BTreeMap::new())
        }

        async fn signal(&self, _: &ContainerId, _: &str) -> Result<(), EngineError> {
            Err(self.refused())
        }

        async fn process(&self, _: u32) -> Option<String> {
            None
        }

        async fn unpause(&self, _: &ContainerId) -> Result<(), EngineError> {
            Err(self.refused())
        }

        async fn remove_by_force(&self, _: &ContainerId) -> Result<(), EngineError> {
            Err(self.refused())
        }

        fn surely_alive(&self, _: &ContainerState) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn what_is_down_at_each_stop_is_held_between_two_restarts() {
        let id = ContainerId::new("c".repeat(64)).unwrap();
        for (tidies_late, refuses) in [(false, false), (true, false), (false, true), (true, true)] {
            let podman = Restless::new(tidies_late, refuses);
            stop(&podman, &id, Duration::from_secs(1)).await.unwrap();
            assert_eq!(*podman.now.lock().unwrap(), Now::Down, "{tidies_late} {refuses}");
        }
    }

    #[test]
    fn a_signal_is_final_from_4_7_on() {
        for (version, is) in [("4.3.1", false), ("4.6.2", false), ("4.7.0", true), ("4.10.0", true), ("5.0.3", true)] {
            assert_eq!(is_final(version), is, "{version}");
        }
        assert!(!is_final("who knows"));
    }

    #[test]
    fn a_first_process_honours_what_it_catches_or_holds_back() {
        let status = |pids: &str, blocked: u64, ignored: u64, caught: u64| {
            format!(
                "Name:\tsleep\nNSpid:\t{pids}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
            )
        };
        let term = 1 << 14;
        for (shown, honoured) in [
            (status("812\t1", 0, 0, 0), Some(false)),
            (status("812\t1", 0, 0, term), Some(true)),
            (status("812\t1", term, 0, 0), Some(true)),
            (status("812\t1", term, term, term), Some(false)),
            (status("812\t1", 0, 0, term << 1), Some(false)),
            (status("812", 0, 0, 0), Some(true)),
            (status("812\t7", 0, 0, 0), Some(true)),
            ("Name:\tsleep\n".to_owned(), None),
        ] {
            assert_eq!(honours(&shown, 15), honoured, "{shown}");
        }
        assert_eq!(honours(&status("1", 0, 0, 0), 0), None);
        assert_eq!(honours(&status("1", 0, 0, 0), 65), None);
    }

    #[test]
    fn a_signal_has_a_number_however_it_is_reported() {
        for (told, wanted) in
            [("15", 15), ("SIGTERM", 15), ("TERM", 15), ("SIGQUIT", 3), ("usr1", 10), ("", 15), ("0", 15), ("37", 37)]
        {
            assert_eq!(number(told), Some(wanted), "{told}");
        }
        assert_eq!(number("SIGRTMIN+3"), None);
    }
}
