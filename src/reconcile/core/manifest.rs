//! The published manifest, and when it is asked for again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::jittered;
use crate::backoff::Backoff;
use crate::model::{Agent, Desired, ImageSource, Seen, Version};
use crate::observe::{Distrust, ManifestFault, Published};
use crate::plan::{Plan, WaitingOn};
use crate::reconcile::run::Event;

/// A manifest that could not be fetched, or does not offer what is wanted, is asked for again.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(5), longest: Duration::from_secs(300) };

/// The published manifest.
#[derive(Debug)]
pub(super) struct ManifestState {
    published: Arc<Published>,
    /// It has been asked for, and has not come yet.
    is_fetching: bool,
    failures: u32,
    /// When it is asked for again.
    at: Option<Instant>,
    /// It does not offer what is wanted.
    lacks: bool,
    /// Until then nothing is observed without it.
    awaited_until: Option<Instant>,
}

fn not_yet() -> Arc<Published> {
    Arc::new(Published::unseen("the published manifest is still being fetched"))
}

impl ManifestState {
    /// One that is awaited until then, or none at all.
    pub(super) fn new(awaited_until: Option<Instant>) -> Self {
        let published = if awaited_until.is_some() { not_yet() } else { Arc::new(Published::absent()) };
        Self { published, is_fetching: false, failures: 0, at: None, lacks: false, awaited_until }
    }

    pub(super) fn published(&self) -> &Arc<Published> {
        &self.published
    }

    pub(super) fn is_fetching(&self) -> bool {
        self.is_fetching
    }

    /// Whether nothing is to be observed before it is there.
    pub(super) fn is_awaited(&self, now: Instant) -> bool {
        self.is_fetching && self.awaited_until.is_some_and(|until| now < until)
    }

    /// Nobody waits for it any longer.
    pub(super) fn give_up(&mut self, why: &str) {
        if self.is_fetching {
            self.published = Arc::new(Published::unseen(why));
            self.awaited_until = None;
        }
    }

    /// It is asked for now.
    pub(super) fn fetch(&mut self) {
        self.is_fetching = true;
        self.at = None;
    }

    /// It is not asked for again.
    pub(super) fn ask_no_more(&mut self) {
        self.at = None;
    }

    /// What another place publishes says nothing about this one.
    pub(super) fn moved(&mut self) {
        self.published = not_yet();
    }

    /// When something is to be done for it.
    pub(super) fn next(&self) -> impl Iterator<Item = Instant> {
        self.at.into_iter().chain(self.awaited_until.filter(|_| self.is_fetching))
    }

    /// Whether it is to be asked for now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// It came, or could not be fetched. Yields whether it is another, and what is to be told.
    pub(super) fn arrived(&mut self, published: Published, desired: &Desired, now: Instant) -> (bool, Option<Event>) {
        self.is_fetching = false;
        self.awaited_until = None;
        let is_same = self.published.manifest == published.manifest;
        self.at = if published.manifest.unknown().is_some() || self.lacks && is_same {
            self.failures = self.failures.saturating_add(1);
            Some(now + AGAIN.delay(self.failures))
        } else {
            self.failures = 0;
            let latest = |agent: &Agent| agent.version == Version::Latest && agent.source == ImageSource::Manifest;
            desired.agents.values().any(latest).then(|| now + jittered(desired.manifest_refresh))
        };
        let event = trust_event(&self.published, &published);
        self.published = Arc::new(published);
        (!is_same, event)
    }

    /// What it does not offer yet may be published any moment: it is asked for again, ever more rarely.
    pub(super) fn await_offer(&mut self, desired: &Desired, plan: &Plan, now: Instant) {
        let lacks = plan.waiting.iter().any(|waiting| matches!(waiting.on, WaitingOn::Manifest { .. }));
        self.lacks = lacks && desired.manifest.is_some();
        if !self.lacks || self.is_fetching {
            return;
        }
        let at = now + AGAIN.delay(self.failures.max(1));
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// That a manifest is refused is told once for each reason, and once more when one is trusted again.
fn trust_event(before: &Published, now: &Published) -> Option<Event> {
    let refusal = |published: &Published| match &published.fault {
        Some(ManifestFault::Untrusted { why, cause }) => {
            let was_fetched = matches!(cause, Distrust::Judged(err) if err.is_of_published());
            Some((why.clone(), was_fetched))
        }
        _ => None,
    };
    match (refusal(before), refusal(now)) {
        (before, Some((why, was_fetched))) if before.as_ref().map(|(why, _)| why) != Some(&why) => {
            Some(Event::ManifestRefused { why, was_fetched })
        }
        (Some(_), None) if matches!(now.manifest, Seen::Present(_)) => Some(Event::ManifestTrusted),
        _ => None,
    }
}
