//! When to ask again, and how an attempt ended that did not bring everything.

use std::time::Duration;

use super::{CacheOptions, StoreError};
use crate::backend::http::Failure;
use crate::backoff::Backoff;

/// The longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A server that asks for more patience than this is not waited for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);

/// How long is waited between two attempts.
pub(super) fn backoff(options: &CacheOptions) -> Backoff {
    Backoff { first: options.backoff, longest: MAX_BACKOFF }
}

/// When to try again.
#[derive(Debug)]
pub(super) struct Retry {
    left: u32,
    done: u32,
    limit: u32,
    backoff: Backoff,
}

impl Retry {
    pub(super) fn new(options: &CacheOptions) -> Self {
        Self { left: options.retries, done: 0, limit: options.retries, backoff: backoff(options) }
    }

    /// How often was tried again.
    pub(super) fn count(&self) -> u32 {
        self.done
    }

    /// Starts counting anew.
    pub(super) fn reset(&mut self) {
        (self.left, self.done) = (self.limit, 0);
    }

    /// How long to wait before trying again; `None` to give up.
    pub(super) fn wait(&mut self, failure: &Failure) -> Option<Duration> {
        if !failure.retryable || failure.retry_after.is_some_and(|wish| wish > MAX_RETRY_AFTER) {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        self.done += 1;
        Some(self.backoff.delay(self.done).max(failure.retry_after.unwrap_or_default()))
    }
}

/// How an attempt ended that did not bring everything.
pub(super) enum Stop {
    /// For good.
    For(StoreError),
    /// Try again, perhaps.
    Again(Failure),
    /// The server does not resume as it should: ask for everything, from the first byte.
    FromTheStart,
}

impl From<StoreError> for Stop {
    fn from(err: StoreError) -> Self {
        Stop::For(err)
    }
}
