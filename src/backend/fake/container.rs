//! A container of the fake world: what its program does, and how Podman restarts it.

use std::time::Duration;

use tokio::time::Instant;

use super::{FakeContainer, PODMAN_RESTARTS_IN};
use crate::model::{Phase, RecentExits};

impl FakeContainer {
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.spec.env.get(name).map(crate::model::Text::expose)
    }

    /// What it ends with, at once.
    pub(super) fn crash(&self) -> Option<i32> {
        self.breaks.or_else(|| self.variable("CRASH")?.parse().ok())
    }

    pub(super) fn begin(&mut self, gives_up: bool) {
        self.phase = Phase::Running;
        self.checks = (0, false);
        self.started = Some(Instant::now());
        if let Some(code) = self.crash() {
            self.end(code, gives_up);
        }
    }

    pub(super) fn end(&mut self, code: i32, gives_up: bool) {
        use crate::model::RestartPolicy as Restart;
        let again = match self.spec.restart {
            Restart::No => false,
            Restart::OnFailure => code != 0,
            Restart::OnFailureAtMost(tries) => code != 0 && self.restarts < tries,
            Restart::Always | Restart::UnlessStopped => true,
        };
        self.ends.push((Instant::now(), code));
        if again && !gives_up {
            self.restarts += 1;
            self.phase = Phase::Running;
            self.started = Some(Instant::now());
        } else {
            self.phase = Phase::Exited { code };
        }
    }

    /// A container with `CRASH` that Podman restarts ends again each time, at once.
    pub(super) fn is_in_a_crash_loop(&self) -> Option<i32> {
        let code = self.crash()?;
        (self.phase == Phase::Running && self.restarts > 0).then_some(code)
    }

    pub(super) fn last_start(&self) -> Option<Instant> {
        if self.is_in_a_crash_loop().is_some() { Some(Instant::now()) } else { self.started }
    }

    pub(super) fn last_end(&self) -> Option<(Instant, i32)> {
        match self.is_in_a_crash_loop() {
            Some(code) => Some((Instant::now(), code)),
            None => self.ends.last().copied(),
        }
    }

    pub(super) fn restarts_by_now(&self) -> u32 {
        let since = self.ends.last().map_or(Duration::ZERO, |(ended, _)| ended.elapsed());
        let more = self.is_in_a_crash_loop().map_or(0, |_| since.as_millis() / PODMAN_RESTARTS_IN.as_millis());
        self.restarts.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
    }

    pub(super) fn recent_exits(&self) -> Option<RecentExits> {
        let (_, code) = self.last_end()?;
        let lately = self.ends.iter().filter(|(ended, _)| ended.elapsed() < RecentExits::WITHIN).count();
        let lately =
            if self.is_in_a_crash_loop().is_some() { u32::MAX } else { u32::try_from(lately).unwrap_or(u32::MAX) };
        let last_life = match self.ends.as_slice() {
            [.., (before, _), (last, _)] => last.duration_since(*before).min(RecentExits::WITHIN),
            _ => RecentExits::WITHIN,
        };
        let last_life = if self.is_in_a_crash_loop().is_some() { Duration::ZERO } else { last_life };
        Some(RecentExits { count: lately.min(self.restarts_by_now()), code: Some(code), last_life })
    }

    pub(super) fn is_well(&self) -> bool {
        let sick: u64 = self.variable("SICK").and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        self.started.is_some_and(|started| started.elapsed() >= Duration::from_secs(sick))
    }
}
