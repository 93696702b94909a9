//! When the world is observed next, and what asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::jittered;
use crate::backoff::Backoff;
use crate::broken::Broken;
use crate::plan::Lane;
use crate::reconcile::run::Trigger;

/// Podman restarts what died by itself, or tidies up after it, in about this time (4.3: 100 ms). An observation meanwhile waits
/// for the container's lock and slows it down, so there is none for that container's sake.
const TIDYING: Duration = Duration::from_millis(120);
/// When Podman takes longer than [`TIDYING`], it is observed again after so long, and ever longer.
const TRANSITION: Backoff = Backoff { first: Duration::from_millis(40), longest: Duration::from_secs(30) };
/// An observation that an event asks for does not begin sooner than this many times the length of the last one after it, so
/// that a machine where much happens is not busy with being observed.
const SPACING: u32 = 2;
/// Nor later than this after it: one that hung must not delay the next.
const MOST_SPACING: Duration = Duration::from_secs(1);
/// Podman's events are heard, and yet it could not be observed; or it was, and its events are not heard: nothing else would say
/// when to observe it again.
const BLIND: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };
/// An agent in a crash loop is observed again after so long, whether it has recovered, and ever more rarely.
const CRASH_LOOPING: Backoff = Backoff { first: Duration::from_secs(10), longest: Duration::from_secs(60) };

/// When to observe.
#[derive(Debug)]
pub(super) struct Observing {
    /// What asked for the next one.
    asked_by: BTreeSet<Trigger>,
    /// What the one under way was begun for, and those before it that came to nothing.
    begun_for: BTreeSet<Trigger>,
    next: Option<Instant>,
    resync: Option<Duration>,
    resync_at: Option<Instant>,
    /// The one under way: since when, and the lanes in which a step has ended since.
    under_way: Option<(Instant, BTreeSet<Lane>)>,
    /// What is desired has changed since it began.
    outdated: bool,
    /// When the newest one ended, and how long it took.
    pub ended_at: Option<Instant>,
    pub took: Duration,
    pub count: u64,
    /// Containers that Podman was busy with at the newest one, and since when we know.
    moving: BTreeMap<String, Instant>,
    transitions: u32,
    /// Those in a row that did not see Podman although its events are heard, or the other way round.
    blind: u32,
    /// Those in a row that found a crash loop.
    crash_looping: u32,
}

/// What an observation under way is worth once it ends.
#[derive(Debug)]
pub(super) struct Worth {
    /// When it began.
    pub began: Instant,
    /// In these lanes a step has ended since it began: it may be older than what that did.
    pub stale: BTreeSet<Lane>,
    /// It was made for what was desired before.
    pub outdated: bool,
}

impl Observing {
    pub(super) fn new(resync: Option<Duration>, now: Instant) -> Self {
        Self {
            asked_by: BTreeSet::from([Trigger::Start]),
            begun_for: BTreeSet::new(),
            next: Some(now),
            resync,
            resync_at: resync.map(|resync| now + jittered(resync)),
            under_way: None,
            outdated: false,
            ended_at: None,
            took: Duration::ZERO,
            count: 0,
            moving: BTreeMap::new(),
            transitions: 0,
            blind: 0,
            crash_looping: 0,
        }
    }

    /// Asks for an observation at that time.
    pub(super) fn ask(&mut self, trigger: Trigger, at: Instant) {
        self.asked_by.insert(trigger);
        self.next = Some(self.next.map_or(at, |earlier| earlier.min(at)));
    }

    /// Asks for one as soon as the last one is long enough ago.
    pub(super) fn ask_soon(&mut self, trigger: Trigger, now: Instant) {
        let spacing = (SPACING * self.took).min(MOST_SPACING);
        self.ask(trigger, self.ended_at.map_or(now, |ended| ended + spacing));
    }

    /// Names a reason for the next one, whenever that is.
    pub(super) fn note(&mut self, trigger: Trigger) {
        self.asked_by.insert(trigger);
    }

    /// Whether one of these asked for the one that has begun.
    pub(super) fn is_asked_by(&self, triggers: &[Trigger]) -> bool {
        triggers.iter().any(|trigger| self.begun_for.contains(trigger))
    }

    /// Whether one is to begin now. Then it has begun.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        if self.under_way.is_some() || self.next.is_none_or(|at| at > now) {
            return false;
        }
        self.next = None;
        self.begun_for.append(&mut self.asked_by);
        self.outdated = false;
        self.under_way = Some((now, BTreeSet::new()));
        true
    }

    /// A step ended meanwhile.
    pub(super) fn step_ended(&mut self, lane: &Lane) {
        if let Some((_, stale)) = &mut self.under_way {
            stale.insert(lane.clone());
        }
    }

    /// What is desired is another from now on.
    pub(super) fn desired_changed(&mut self) {
        self.outdated = self.under_way.is_some();
    }

    /// The one under way ended.
    pub(super) fn end(&mut self, now: Instant) -> Worth {
        let (began, stale) = self.under_way.take().unwrap_or((now, BTreeSet::new()));
        self.took = now.duration_since(began);
        self.ended_at = Some(now);
        let worth = Worth { began, stale, outdated: self.outdated };
        if worth.outdated || !worth.stale.is_empty() {
            self.ask(Trigger::Step, now);
        } else {
            self.count += 1;
        }
        self.resync_at = self.resync.filter(|_| !Broken::ResyncForgotten.is_in()).map(|resync| now + jittered(resync));
        worth
    }

    /// What asked for the one that ended. What asked since it began asked for the next.
    pub(super) fn take_triggers(&mut self) -> BTreeSet<Trigger> {
        std::mem::take(&mut self.begun_for)
    }

    /// When something is to be done.
    pub(super) fn next(&self) -> impl Iterator<Item = Instant> {
        let next = self.next.filter(|_| self.under_way.is_none());
        next.into_iter().chain(self.resync_at)
    }

    /// Time has passed: asks for an observation where one is due.
    pub(super) fn on_timer(&mut self, now: Instant) {
        if self.resync_at.is_some_and(|at| at <= now) {
            self.resync_at = None;
            self.ask(Trigger::Resync, now);
        }
    }

    /// Whether this container was being moved on by Podman at the newest observation.
    pub(super) fn is_moving(&self, container: &str) -> bool {
        self.moving.contains_key(container)
    }

    /// These containers are moved on by Podman.
    pub(super) fn keep_moving(&mut self, moving: impl Iterator<Item = String>, now: Instant) {
        let before = std::mem::take(&mut self.moving);
        self.moving = moving.map(|name| (name.clone(), before.get(&name).copied().unwrap_or(now))).collect();
        let (late, due): (Vec<_>, Vec<_>) =
            self.moving.values().map(|since| *since + TIDYING).partition(|at| *at <= now);
        if late.is_empty() {
            self.transitions = 0;
        } else {
            self.transitions = self.transitions.saturating_add(1);
            self.ask(Trigger::Podman, now + TRANSITION.delay(self.transitions));
        }
        if let Some(first) = due.into_iter().min() {
            self.ask(Trigger::Podman, first);
        }
    }

    /// Whether an agent is in a crash loop. Yields the earliest time worth observing whether that is over: in a crash loop it is
    /// put off again and again, so it is observed ever more rarely. Podman tells of each end.
    pub(super) fn crash_looping(&mut self, any: bool) -> Duration {
        self.crash_looping = if any { self.crash_looping.saturating_add(1) } else { 0 };
        CRASH_LOOPING.delay(self.crash_looping.max(1))
    }

    /// How many in a row did not see what they should.
    pub(super) fn blind_in_a_row(&self) -> u32 {
        self.blind
    }

    /// The one under way, if any, is of no use any more.
    pub(super) fn abandon(&mut self) {
        self.under_way = None;
    }

    /// Whether Podman is seen and heard alike.
    pub(super) fn is_blind(&mut self, blind: bool, now: Instant) {
        self.blind = if blind { self.blind.saturating_add(1) } else { 0 };
        if blind {
            self.ask(Trigger::Retry, now + BLIND.delay(self.blind));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_meanwhile_asks_for_the_next() {
        let now = Instant::now();
        let mut observing = Observing::new(None, now);
        assert!(observing.begin(now));
        observing.ask(Trigger::Request, now);
        assert!(observing.is_asked_by(&[Trigger::Start]) && !observing.is_asked_by(&[Trigger::Request]));
        observing.end(now);
        assert_eq!(observing.take_triggers(), BTreeSet::from([Trigger::Start]));
        assert!(observing.begin(now) && observing.is_asked_by(&[Trigger::Request]));
        // It came to nothing: what it was for is what the next one is for.
        observing.end(now);
        observing.ask(Trigger::Step, now);
        assert!(observing.begin(now) && observing.is_asked_by(&[Trigger::Request]));
        observing.end(now);
        assert_eq!(observing.take_triggers(), BTreeSet::from([Trigger::Request, Trigger::Step]));
    }
}
