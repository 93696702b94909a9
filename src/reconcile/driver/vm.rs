//! What Lima tells of the virtual machine: followed for ever, and only ever a reason to observe.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Vm, VmEvents};
use crate::backoff::Backoff;

/// Following again: what is told is only a hint, and a machine that is not there tells nothing.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
/// One that lasted as long was worth it.
const HOLDS: Duration = Duration::from_secs(60);

/// What is told of one machine.
pub(super) struct VmWatch<'a, V> {
    vm: &'a V,
    wanted: bool,
    events: Option<(VmEvents, Instant)>,
    again: Instant,
    failures: u32,
}

impl<'a, V: Vm> VmWatch<'a, V> {
    /// Nothing is ever told where no machine is `wanted`.
    pub(super) fn new(vm: &'a V, wanted: bool) -> Self {
        Self { vm, wanted, events: None, again: Instant::now(), failures: 0 }
    }

    /// Follows it anew: of an instance that was not there when it began, Lima (2.1) tells nothing.
    pub(super) fn renew(&mut self) {
        self.events = None;
        self.again = Instant::now();
    }

    /// Waits for the next thing worth an observation. Dropping the wait loses nothing but time.
    pub(super) async fn next(&mut self) {
        use futures_util::StreamExt;

        if !self.wanted {
            return std::future::pending().await;
        }
        loop {
            if let Some((events, since)) = &mut self.events {
                if events.next().await.is_some() {
                    return;
                }
                self.failures = if since.elapsed() < HOLDS { self.failures.saturating_add(1) } else { 1 };
                self.events = None;
                self.again = Instant::now() + AGAIN.delay(self.failures);
            }
            tokio::time::sleep_until(self.again).await;
            match self.vm.events().await {
                Ok(Some(events)) => self.events = Some((events, Instant::now())),
                // A Lima that cannot be followed.
                Ok(None) => self.wanted = false,
                Err(err) => {
                    tracing::debug!(error = %err, "cannot follow what happens to the VM");
                    self.failures = self.failures.saturating_add(1);
                    self.again = Instant::now() + AGAIN.delay(self.failures);
                }
            }
            if !self.wanted {
                return std::future::pending().await;
            }
        }
    }
}
