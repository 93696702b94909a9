//! How many steps work at once. Waiting is not working: a step that waits for an end, for a moment to pass or for health
//! gives its slot to another, and is served before those that have not begun when it comes back.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::mutex::guard;

/// So many steps work at once.
#[derive(Debug, Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
}

impl Slots {
    /// `count` of them, and at least one.
    pub fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count.max(1))) }
    }

    /// One for a step. `tell` hears when the step begins to wait (`false`), and when it is to work again (`true`).
    pub fn take(&self, tell: impl Fn(bool) + Send + Sync + 'static) -> Slot {
        Slot(Some(Arc::new(SlotGuard { free: self.free.clone(), permit: Mutex::default(), tell: Box::new(tell) })))
    }
}

/// A step's slot. The default is no slot at all: then nobody else waits for it.
#[derive(Debug, Clone, Default)]
pub struct Slot(Option<Arc<SlotGuard>>);

struct SlotGuard {
    free: Arc<Semaphore>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    tell: Box<dyn Fn(bool) + Send + Sync>,
}

impl fmt::Debug for SlotGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("permit", &self.permit).finish_non_exhaustive()
    }
}

impl SlotGuard {
    fn put(&self, permit: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
        std::mem::replace(&mut *guard(&self.permit), permit)
    }

    async fn acquire(&self) {
        // Nobody closes it; should anybody, a step that has begun is finished all the same.
        let permit = self.free.clone().acquire_owned().await.ok();
        self.put(permit);
    }
}

impl Slot {
    /// Waits until there is room to work. It is given back with the last of the slot.
    pub async fn begin(&self) {
        if let Some(guard) = &self.0 {
            guard.acquire().await;
        }
    }

    /// Waits without the slot, and comes back with one.
    pub async fn without<T>(&self, waiting: impl Future<Output = T>) -> T {
        let Some(guard) = &self.0 else { return waiting.await };
        let Some(permit) = guard.put(None) else { return waiting.await };
        drop(permit);
        (guard.tell)(false);
        let outcome = waiting.await;
        (guard.tell)(true);
        guard.acquire().await;
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
        let told = Arc::new(Mutex::new(Vec::new()));
        let first = slots.take({
            let told = told.clone();
            move |works| told.lock().unwrap().push(works)
        });
        first.begin().await;
        let second = slots.take(|_| {});
        let moment = Duration::from_millis(1);
        assert!(tokio::time::timeout(moment, second.begin()).await.is_err(), "one at a time");
        let waiting = first.clone();
        let waits = tokio::spawn(async move { waiting.without(tokio::time::sleep(Duration::from_secs(10))).await });
        tokio::time::timeout(moment, second.begin()).await.expect("the slot of one that waits");
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(!waits.is_finished(), "it comes back when there is a slot again");
        let third = slots.take(|_| {});
        drop(second);
        assert!(tokio::time::timeout(moment, third.begin()).await.is_err(), "which is its, not a newcomer's");
        waits.await.unwrap();
        assert_eq!(*told.lock().unwrap(), [false, true]);
        drop(first);
        tokio::time::timeout(moment, third.begin()).await.expect("the last of the slot is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_without_a_slot_just_waits() {
        Slot::default().without(tokio::time::sleep(Duration::from_secs(1))).await;
    }
}
