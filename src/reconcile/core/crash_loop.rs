//! Containers in a crash loop: when one may be started again.
//!
//! A container that ends by itself soon after it was started counts as a crash, and is started ever more rarely. One that
//! was stopped or killed (by somebody, or for want of memory) comes back at once, unless that happens all the time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::backoff::LASTING;
use crate::model::{AgentName, RestartPolicy};

/// A container that stays up for so long has not crashed.
const STEADY: Duration = Duration::from_secs(10);
/// What ends so soon has hardly been stopped by somebody.
const AT_ONCE: Duration = Duration::from_secs(2);
/// So many kills in [`KILLS_WITHIN`] are put up with.
const KILLS: usize = 30;
const KILLS_WITHIN: Duration = Duration::from_secs(60);
/// So many ends in [`CRASHES_WITHIN`], each followed by Podman's own restart, are too many.
const CRASHES: usize = 5;
const CRASHES_WITHIN: Duration = Duration::from_secs(10);

/// What is known of one agent's ends.
#[derive(Debug, Default)]
struct Record {
    started: Option<Instant>,
    /// The end of what was started then has been judged.
    judged: bool,
    failures: u32,
    /// What it ended with when that last counted.
    code: i32,
    retry_at: Option<Instant>,
    last_delay: Duration,
    kills: VecDeque<Instant>,
    /// Ends that Podman told of, by itself and by a kill.
    ends: VecDeque<Instant>,
    killed_ends: VecDeque<Instant>,
    /// What it ended with last, by itself, since we last started or stopped it.
    last_end: Option<i32>,
    /// It is tried because somebody asked: should it end again, that does not put off our own next try.
    asked: bool,
}

/// What is known of everybody's ends.
#[derive(Debug, Default)]
pub(super) struct CrashLoops {
    records: BTreeMap<AgentName, Record>,
}

/// Whether a container that is down may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Now.
    Start,
    /// Not before.
    Wait { until: Instant },
}

/// An agent that may be started again later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting<'c> {
    pub agent: &'c AgentName,
    pub until: Instant,
    /// In a row.
    pub failures: u32,
    /// The exit code of the last one.
    pub code: i32,
}

/// Killed by KILL or TERM, as the exit code tells.
pub(super) fn is_kill(code: i32) -> bool {
    matches!(code, 137 | 143)
}

fn push(times: &mut VecDeque<Instant>, now: Instant, within: Duration) -> usize {
    times.push_back(now);
    while times.front().is_some_and(|first| now.duration_since(*first) > within) {
        times.pop_front();
    }
    times.len()
}

impl Record {
    fn is_waiting(&self, now: Instant) -> bool {
        self.judged && self.retry_at.is_some_and(|until| until > now)
    }

    /// How long it is to stay up before its failures are forgotten.
    fn steady(&self) -> Duration {
        STEADY.max(2 * self.last_delay)
    }

    fn back_off(&mut self, code: i32, now: Instant) -> Verdict {
        self.code = code;
        if !std::mem::take(&mut self.asked) {
            self.failures = self.failures.saturating_add(1);
        }
        self.last_delay = LASTING.delay(self.failures);
        let until = now + self.last_delay;
        self.retry_at = Some(until);
        Verdict::Wait { until }
    }
}

impl CrashLoops {
    /// We started the agent's container.
    pub(super) fn started(&mut self, agent: &AgentName, now: Instant) {
        let record = self.records.entry(agent.clone()).or_default();
        record.started = Some(now);
        record.judged = false;
        record.retry_at = None;
        record.ends.clear();
        record.last_end = None;
    }

    /// The agent's container is down for good, with this exit code, and wanted up. Where Podman restarts whatever ends by
    /// itself, somebody stopped it.
    pub(super) fn down(&mut self, agent: &AgentName, code: i32, restart: RestartPolicy, now: Instant) -> Verdict {
        let record = self.records.entry(agent.clone()).or_default();
        if record.judged {
            return match record.retry_at {
                Some(until) if until > now => Verdict::Wait { until },
                _ => Verdict::Start,
            };
        }
        record.judged = true;
        // What we did not start ourselves has been up for longer than we have.
        let up = record.started.map_or(Duration::MAX, |started| now.duration_since(started));
        if up >= record.steady() {
            record.failures = 0;
            record.last_delay = Duration::ZERO;
            return Verdict::Start;
        }
        let restarted = matches!(restart, RestartPolicy::Always | RestartPolicy::UnlessStopped);
        // It may also be that Podman could not restart it.
        let at_once = up < AT_ONCE && !is_kill(code);
        if (restarted || is_kill(code)) && !(at_once && record.failures > 0) {
            let most = if at_once { CRASHES } else { KILLS };
            if push(&mut record.kills, now, KILLS_WITHIN) <= most {
                return Verdict::Start;
            }
        }
        record.back_off(code, now)
    }

    /// Podman says that the agent's container ended, and may restart it itself. Yields whether it does so all the time,
    /// and so is to be stopped until it may be started again.
    pub(super) fn ended(&mut self, agent: &AgentName, code: i32, now: Instant) -> bool {
        let record = self.records.entry(agent.clone()).or_default();
        if record.is_waiting(now) {
            // It was to rest, and Podman was faster.
            return true;
        }
        if !is_kill(code) {
            record.last_end = Some(code);
        }
        let (most, within) = if is_kill(code) { (KILLS, KILLS_WITHIN) } else { (CRASHES, CRASHES_WITHIN) };
        let times = if is_kill(code) { &mut record.killed_ends } else { &mut record.ends };
        push(times, now, within) >= most
    }

    /// What the agent's container ended with last, by itself, since we last started or stopped it. Where it is known to be in
    /// a crash loop, one such end is enough to stop it.
    pub(super) fn last_end(&self, agent: &AgentName) -> Option<i32> {
        self.records.get(agent)?.last_end
    }

    /// The agent's container is stopped now because of its crash loop.
    pub(super) fn stopped(&mut self, agent: &AgentName, code: i32, now: Instant) -> Verdict {
        let record = self.records.entry(agent.clone()).or_default();
        record.ends.clear();
        record.killed_ends.clear();
        record.last_end = None;
        match record.retry_at {
            Some(until) if record.is_waiting(now) => Verdict::Wait { until },
            _ => {
                record.judged = true;
                // One that was up for long enough since has begun anew.
                if record.started.is_some_and(|started| now.duration_since(started) >= record.steady()) {
                    record.failures = 0;
                }
                record.back_off(code, now)
            }
        }
    }

    /// The agent's container is down now, as [`Self::stopped`] wanted it: its rest begins.
    pub(super) fn backoff_begins(&mut self, agent: &AgentName, now: Instant) {
        if let Some(record) = self.records.get_mut(agent).filter(|record| record.retry_at.is_some()) {
            record.retry_at = Some(now + record.last_delay);
        }
    }

    /// The agent may be started now, since somebody asks for it. That it was in a crash loop is not forgotten: it has to show
    /// that it stays up.
    pub(super) fn try_now(&mut self, agent: &AgentName) {
        if let Some(record) = self.records.get_mut(agent).filter(|record| record.failures > 0) {
            record.retry_at = None;
            record.asked = true;
        }
    }

    /// What is wanted changed: what went before says nothing about it.
    pub(super) fn forgive(&mut self, agent: &AgentName) {
        self.records.remove(agent);
    }

    /// Those that may be started again later.
    pub(super) fn waiting(&self, now: Instant) -> impl Iterator<Item = Waiting<'_>> {
        self.records.iter().filter_map(move |(agent, record)| {
            let until = record.retry_at.filter(|until| record.judged && *until > now)?;
            Some(Waiting { agent, until, failures: record.failures, code: record.code })
        })
    }

    /// When the next one may be started of those that could not be yet at `then`.
    pub(super) fn next(&self, then: Instant) -> Option<Instant> {
        self.waiting(then).map(|waiting| waiting.until).min()
    }

    /// Whether the agent was in a crash loop, and has not been up for long enough since to believe that this is over.
    pub(super) fn is_on_probation(&self, agent: &AgentName, now: Instant) -> bool {
        self.records.get(agent).is_some_and(|record| {
            let is_steady = |started: Instant| now.duration_since(started) >= record.steady();
            record.failures > 0 && !record.started.is_some_and(is_steady)
        })
    }

    /// For how long an agent that was in a crash loop is still to stay up before it counts as ready.
    pub(super) fn must_stay_up_for(&self, agent: &AgentName, steady: Duration, now: Instant) -> Option<Duration> {
        let record = self.records.get(agent).filter(|record| record.failures > 0 && !record.is_waiting(now))?;
        let up = now.duration_since(record.started?);
        steady.checked_sub(up).filter(|left| !left.is_zero())
    }

    /// Forgets agents that are gone.
    pub(super) fn keep(&mut self, is_there: impl Fn(&AgentName) -> bool) {
        self.records.retain(|agent, _| is_there(agent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RestartPolicy::{OnFailure, UnlessStopped};

    fn name() -> AgentName {
        AgentName::new("a").unwrap()
    }

    fn waits(verdict: Verdict, now: Instant) -> u64 {
        match verdict {
            Verdict::Start => 0,
            Verdict::Wait { until } => (until - now).as_secs(),
        }
    }

    #[test]
    fn a_crash_loop_backs_off_and_a_long_life_makes_up_for_it() {
        let (mut crashes, a, mut now) = (CrashLoops::default(), name(), Instant::now());
        assert_eq!(crashes.down(&a, 1, OnFailure, now), Verdict::Start, "it may have been up for months");
        let mut delays = Vec::new();
        for _ in 0..8 {
            crashes.started(&a, now);
            now += Duration::from_secs(1);
            let verdict = crashes.down(&a, 1, OnFailure, now);
            delays.push(waits(verdict, now));
            assert_eq!(crashes.down(&a, 1, OnFailure, now), verdict, "judged once");
            assert_eq!(crashes.waiting(now).count(), 1);
            now += Duration::from_secs(400);
            assert_eq!(crashes.down(&a, 1, OnFailure, now), Verdict::Start, "its time has come");
        }
        assert!((7..=12).contains(&delays[0]) && (225..=375).contains(&delays[7]), "{delays:?}");
        crashes.started(&a, now);
        now += Duration::from_secs(3600);
        assert_eq!(crashes.down(&a, 1, OnFailure, now), Verdict::Start);
        crashes.started(&a, now);
        now += Duration::from_secs(1);
        assert!(waits(crashes.down(&a, 1, OnFailure, now), now) <= 12, "counted from the beginning");
    }

    #[test]
    fn what_was_killed_comes_back_at_once_unless_it_is_killed_all_the_time() {
        let (mut crashes, a, mut now) = (CrashLoops::default(), name(), Instant::now());
        for round in 0..60 {
            crashes.started(&a, now);
            now += Duration::from_secs(3);
            assert_eq!(crashes.down(&a, 137, OnFailure, now), Verdict::Start, "round {round}");
        }
        let mut backed_off = false;
        for _ in 0..60 {
            crashes.started(&a, now);
            now += Duration::from_millis(200);
            backed_off |= crashes.down(&a, 137, OnFailure, now) != Verdict::Start;
        }
        assert!(backed_off);
    }

    #[test]
    fn what_somebody_stopped_is_no_crash() {
        let (mut crashes, a, mut now) = (CrashLoops::default(), name(), Instant::now());
        for _ in 0..20 {
            crashes.started(&a, now);
            now += Duration::from_secs(4);
            assert_eq!(crashes.down(&a, 0, UnlessStopped, now), Verdict::Start, "else Podman had restarted it");
        }
    }

    #[test]
    fn a_slow_crash_loop_is_stopped_for_ever_longer_and_a_kill_is_none() {
        let (mut crashes, a, mut now) = (CrashLoops::default(), name(), Instant::now());
        assert!(!crashes.ended(&a, 137, now));
        assert_eq!(crashes.last_end(&a), None, "killed");
        let mut delays = Vec::new();
        for _ in 0..4 {
            assert!(!crashes.ended(&a, 3, now));
            assert_eq!(crashes.last_end(&a), Some(3));
            let verdict = crashes.stopped(&a, 3, now);
            delays.push(waits(verdict, now));
            assert_eq!(crashes.last_end(&a), None, "judged once");
            now += Duration::from_secs(400);
            crashes.started(&a, now);
            now += Duration::from_secs(12);
        }
        assert!(delays[0] <= 12 && (30..=50).contains(&delays[2]) && (60..=100).contains(&delays[3]), "{delays:?}");
        for _ in 0..5 {
            let verdict = crashes.stopped(&a, 3, now);
            crashes.try_now(&a);
            assert_eq!(crashes.waiting(now).count(), 0, "somebody asked");
            crashes.started(&a, now);
            assert!(crashes.must_stay_up_for(&a, STEADY, now).is_some(), "it has to show that it stays up");
            assert!(waits(verdict, now) <= 200, "asking puts nothing off");
        }
        now += Duration::from_secs(3600);
        assert!(!crashes.ended(&a, 3, now));
        assert!(waits(crashes.stopped(&a, 3, now), now) <= 12, "counted from the beginning after a long life");
    }

    #[test]
    fn what_podman_restarts_all_the_time_is_noticed() {
        let (mut crashes, a, mut now) = (CrashLoops::default(), name(), Instant::now());
        let mut noticed = 0;
        for _ in 0..CRASHES {
            now += Duration::from_millis(150);
            noticed += usize::from(crashes.ended(&a, 1, now));
        }
        assert_eq!(noticed, 1);
        assert!((7..=12).contains(&waits(crashes.stopped(&a, 1, now), now)));
        let verdict = crashes.down(&a, 1, OnFailure, now);
        assert!(matches!(verdict, Verdict::Wait { .. }));
        now += Duration::from_millis(100);
        assert!(crashes.ended(&a, 1, now), "Podman had restarted it once more before it was stopped");
        assert_eq!(crashes.stopped(&a, 1, now), verdict, "which is no failure of its own");
        now += Duration::from_secs(11);
        crashes.backoff_begins(&a, now);
        let rest = waits(crashes.down(&a, 1, OnFailure, now), now);
        assert!((7..=12).contains(&rest), "it rests from when it is down, however long that took: {rest}");
        crashes.started(&a, now);
        let slowly = (0..20).any(|round| crashes.ended(&a, 1, now + Duration::from_secs(4 * round)));
        assert!(!slowly, "whether that is a crash loop, an observation tells");
    }
}
