//! Who may be served at once, and who makes room.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use crate::control::MAX_CLIENTS;
use crate::mutex::guard;

/// Who is served. Where all seats are taken, who has waited longest and asks for no work makes room for who comes: 32 that
/// only listen keep nobody from having something done.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: Mutex<BTreeMap<u64, Taken>>,
    count: AtomicU64,
}

#[derive(Debug)]
struct Taken {
    /// Cancelled when its client is to make room.
    pub(super) leave: CancellationToken,
    /// Something is done for its client.
    works: bool,
}

/// The seat of a client, given up with this value.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    pub(super) leave: CancellationToken,
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Taken>> {
        guard(&self.taken)
    }

    /// A seat, unless something is done for everybody who has one.
    pub(super) fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.len() >= MAX_CLIENTS {
            let oldest = taken.iter().find(|(_, seat)| !seat.works).map(|(number, _)| *number)?;
            if let Some(seat) = taken.remove(&oldest) {
                seat.leave.cancel();
            }
        }
        let (number, leave) = (self.count.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        taken.insert(number, Taken { leave: leave.clone(), works: false });
        Some(Seat { seats: Arc::clone(self), number, leave })
    }
}

impl Seat {
    /// Keeps the seat until the work is done.
    pub(super) fn work(&self) {
        if let Some(seat) = self.seats.taken().get_mut(&self.number) {
            seat.works = true;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.number);
    }
}
