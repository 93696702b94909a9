//! Podman's events: subscribed to for ever, whatever happens to Podman. They only say "observe again".

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::backend::{Engine, EngineError, EngineErrorKind, EventKind, Events};
use crate::backoff::Backoff;
use crate::error::Chain;
use crate::model::Ownership;
use crate::reconcile::core::EngineNotice;

/// Subscribing again: soon, since whatever happens meanwhile is not seen.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_millis(800) };
/// A subscription that breaks sooner than this has told nothing: Podman 4.3 without a log of events (`events_logger =
/// "none"`) answers 200 and closes. As each is a reason to observe, they are tried ever more rarely.
const HOLDS: Duration = Duration::from_secs(1);
const BREAKS: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(30) };
/// Subscribing may take so long before it counts as failed.
const OPENING: Duration = Duration::from_secs(10);
/// After so much silence Podman is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);
/// Its answer may take so long.
const ANSWER: Duration = Duration::from_secs(3);
/// The clock of the wall and ours may drift apart so much over [`SILENCE`] before the machine must have slept.
const SLEPT: Duration = Duration::from_secs(5);

/// The clock on the wall, which may be set and goes on while the machine sleeps.
pub type Wall = dyn Fn() -> SystemTime + Send + Sync;

type Opening<'a> = Pin<Box<dyn Future<Output = Result<Events, EngineError>> + Send + 'a>>;
type Asking<'a> = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send + 'a>>;

enum Line<'a> {
    Closed { until: Instant },
    Opening(Opening<'a>),
    Open { events: Events, last_event: Instant, wall: SystemTime },
    Asking { events: Events, asking: Asking<'a> },
}

/// A subscription that is kept up.
pub(super) struct Listener<'a, E> {
    engine: &'a E,
    owner: Ownership,
    wall: &'a Wall,
    line: Line<'a>,
    failures: u32,
    /// When the subscription began, and how many in a row broke at once.
    opened: Option<Instant>,
    broken: u32,
    /// Its loss has been told.
    told: bool,
}

impl<'a, E: Engine> Listener<'a, E> {
    pub(super) fn new(engine: &'a E, owner: Ownership, wall: &'a Wall) -> Self {
        let line = Line::Closed { until: Instant::now() };
        Self { engine, owner, wall, line, failures: 0, opened: None, broken: 0, told: false }
    }

    /// Waits for the next thing worth an observation. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) -> EngineNotice {
        loop {
            match &mut self.line {
                Line::Closed { until } => {
                    tokio::time::sleep_until(*until).await;
                    let (engine, owner) = (self.engine, self.owner.clone());
                    let opening = async move { within(OPENING, engine.events(&owner)).await };
                    self.line = Line::Opening(Box::pin(opening));
                }
                Line::Opening(opening) => match opening.await {
                    Ok(events) => {
                        self.line = open(events, (self.wall)());
                        self.failures = 0;
                        self.opened = Some(Instant::now());
                        self.told = false;
                        return EngineNotice::Connected;
                    }
                    Err(err) => {
                        if let Some(lost) = self.lost(&err) {
                            return lost;
                        }
                    }
                },
                Line::Open { events, last_event, wall } => {
                    let event = tokio::select! {
                        biased;
                        event = events.next() => event,
                        () = tokio::time::sleep_until(*last_event + SILENCE) => {
                            let slept = drift(last_event.elapsed(), *wall, (self.wall)()) > SLEPT;
                            self.ask();
                            if slept {
                                return EngineNotice::Slept;
                            }
                            continue;
                        }
                    };
                    match event {
                        Some(Ok(event)) => {
                            let now = (self.wall)();
                            let slept = drift(last_event.elapsed(), *wall, now) > SLEPT;
                            *last_event = Instant::now();
                            *wall = now;
                            // What is heard after a sleep may be the first of much that was not.
                            if slept {
                                return EngineNotice::Slept;
                            }
                            if event.kind != EventKind::Quiet {
                                return EngineNotice::Event(event);
                            }
                        }
                        Some(Err(err)) => {
                            if let Some(lost) = self.lost(&err) {
                                return lost;
                            }
                        }
                        None => {
                            let err = EngineError::new(
                                EngineErrorKind::TransportUnavailable,
                                "Podman closed the stream of events",
                            );
                            if let Some(lost) = self.lost(&err) {
                                return lost;
                            }
                        }
                    }
                }
                Line::Asking { asking, .. } => match asking.await {
                    Ok(()) => {
                        let now = Line::Closed { until: Instant::now() };
                        if let Line::Asking { events, .. } = std::mem::replace(&mut self.line, now) {
                            self.line = open(events, (self.wall)());
                        }
                    }
                    Err(err) => match self.lost(&err) {
                        Some(EngineNotice::Lost { why }) if err.kind == EngineErrorKind::Timeout => {
                            return EngineNotice::Silent { why };
                        }
                        Some(lost) => return lost,
                        None => {}
                    },
                },
            }
        }
    }

    fn ask(&mut self) {
        let now = Line::Closed { until: Instant::now() };
        if let Line::Open { events, .. } = std::mem::replace(&mut self.line, now) {
            let engine = self.engine;
            let asking = Box::pin(async move { within(ANSWER, engine.ping()).await });
            self.line = Line::Asking { events, asking };
        }
    }

    /// Tells a loss once; the tries after it are nobody's business.
    fn lost(&mut self, err: &EngineError) -> Option<EngineNotice> {
        self.failures = self.failures.saturating_add(1);
        if let Some(opened) = self.opened.take() {
            self.broken = if opened.elapsed() < HOLDS { self.broken.saturating_add(1) } else { 0 };
        }
        let pause = RECONNECT.delay(self.failures);
        let pause = if self.broken > 0 { pause.max(BREAKS.delay(self.broken)) } else { pause };
        self.line = Line::Closed { until: Instant::now() + pause };
        tracing::debug!(error = %Chain(err), failures = self.failures, "cannot follow Podman's events");
        let first = !self.told;
        self.told = true;
        first.then(|| EngineNotice::Lost { why: Chain(err).to_string() })
    }
}

fn open<'a>(events: Events, wall: SystemTime) -> Line<'a> {
    Line::Open { events, last_event: Instant::now(), wall }
}

async fn within<T>(deadline: Duration, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(EngineError::new(
            EngineErrorKind::Timeout,
            format!("Podman does not answer within {} s", deadline.as_secs()),
        )),
    }
}

/// How far the clock of the wall is from where it should be after so much of ours.
fn drift(elapsed: Duration, wall: SystemTime, now: SystemTime) -> Duration {
    match now.duration_since(wall) {
        Ok(passed) => passed.abs_diff(elapsed),
        Err(back) => back.duration().saturating_add(elapsed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_and_a_machine_that_slept_are_noticed_and_nothing_else() {
        let (elapsed, day) = (SILENCE, Duration::from_secs(86_400));
        let wall = SystemTime::UNIX_EPOCH + 2 * day;
        let slept = |now| drift(elapsed, wall, now) > SLEPT;
        assert!(!slept(wall + elapsed));
        assert!(!slept(wall + elapsed + Duration::from_secs(2)), "a clock that is adjusted a little");
        assert!(slept(wall + elapsed + day), "set forward, or slept");
        assert!(slept(wall - day), "set back");
    }
}
