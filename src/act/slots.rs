//! How many steps work at once. Waiting is not working: a step that waits for an end, for a moment to pass or for health
//! gives its slot to another, and is served before those that have not begun when it comes back.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// So many steps work at once.
#[derive(Debug, Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
    freed: Arc<Notify>,
}

impl Slots {
    /// `count` of them, and at least one.
    pub fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count.max(1))), freed: Arc::default() }
    }

    /// One for a step that begins. `None` when all are in use, or awaited by steps that have begun.
    pub fn take(&self) -> Option<Slot> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        Some(Slot(Some(Arc::new(Held { slots: self.clone(), permit: Mutex::new(Some(permit)) }))))
    }

    /// Comes back once a step has begun to wait since the last time.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// A step's slot. The default is no slot at all: then nobody else waits for it.
#[derive(Debug, Clone, Default)]
pub struct Slot(Option<Arc<Held>>);

#[derive(Debug)]
struct Held {
    slots: Slots,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Slot {
    /// Waits without the slot, and comes back with one.
    pub async fn without<T>(&self, waiting: impl Future<Output = T>) -> T {
        let Some(held) = &self.0 else { return waiting.await };
        let permit = held.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        if permit.is_none() {
            return waiting.await;
        }
        drop(permit);
        held.slots.freed.notify_one();
        let outcome = waiting.await;
        // Nobody closes it; should anybody, a step that has begun is finished all the same.
        let again = held.slots.free.clone().acquire_owned().await.ok();
        *held.permit.lock().unwrap_or_else(PoisonError::into_inner) = again;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_lends_its_slot_and_is_served_first() {
        let slots = Slots::new(1);
        let first = slots.take().unwrap();
        assert!(slots.take().is_none(), "one at a time");
        let (waiting, woken) = (first.clone(), slots.clone());
        let waits = tokio::spawn(async move { waiting.without(tokio::time::sleep(Duration::from_secs(10))).await });
        woken.freed().await;
        let second = slots.take().expect("the slot of one that waits");
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(!waits.is_finished(), "it comes back when there is a slot again");
        drop(second);
        assert!(slots.take().is_none(), "which is its, not a newcomer's");
        waits.await.unwrap();
        drop(first);
        assert!(slots.take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_without_a_slot_just_waits() {
        Slot::default().without(tokio::time::sleep(Duration::from_secs(1))).await;
    }
}
