//! Mutexes that are never held while anything may panic half-way.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The value, also after a panic elsewhere: nothing here is ever left half changed.
pub(crate) fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
