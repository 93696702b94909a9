//! Failures to order, and calls under way.

use super::Fake;
use crate::backend::{EngineError, EngineErrorKind, StoreError};

/// When in a call a failure strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    /// Nothing has been done.
    Before,
    /// All has been done, and the answer is lost.
    After,
    /// Nothing is done, and no answer ever comes.
    Hang,
}

/// A failure to order.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which call; empty for any that changes something.
    pub word: &'static str,
    /// About what; empty for anything.
    pub target: String,
    /// When in the call.
    pub point: FaultPoint,
    /// Whether it is of the kind that goes away by itself.
    pub transient: bool,
    /// How many calls succeed before it strikes.
    pub skip: usize,
    /// How often it strikes.
    pub times: usize,
}

impl Fault {
    /// A failure that goes away after this many times.
    pub fn transient(word: &'static str, point: FaultPoint, times: usize) -> Self {
        Self { word, target: String::new(), point, transient: true, skip: 0, times }
    }

    /// A failure that stays.
    pub fn lasting(word: &'static str) -> Self {
        Self { word, target: String::new(), point: FaultPoint::Before, transient: false, skip: 0, times: usize::MAX }
    }

    /// Only about this.
    #[must_use]
    pub fn on(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }
}

pub(super) trait Broken: Sized {
    fn broken(call: &str, transient: bool) -> Self;
}

impl Broken for EngineError {
    fn broken(call: &str, transient: bool) -> Self {
        let kind = if transient { EngineErrorKind::TransportUnavailable } else { EngineErrorKind::ApiError };
        Self::new(kind, format!("ordered failure of {call}"))
    }
}

impl Broken for StoreError {
    fn broken(call: &str, transient: bool) -> Self {
        Self::Download { at: call.to_owned(), cause: "ordered failure".to_owned(), retryable: transient }
    }
}

/// Counts a call as under way until it is dropped.
pub(super) struct UnderWay<'a>(pub(super) &'a Fake, pub(super) &'static str);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0.state().under_way.get_mut(self.1) {
            *count -= 1;
        }
    }
}
