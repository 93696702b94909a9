//! The outside world behind three traits: a [`Vm`] in which containers may run, an [`Engine`] that runs them, and a [`Store`]
//! that holds artifacts.
//!
//! Nothing here decides anything. Each method asks for a state and accepts that it is already so.

pub mod cache;
pub(crate) mod command;
mod engine;
#[doc(hidden)]
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub(crate) mod http;
mod inside;
pub(crate) mod lima;
pub mod limactl;
pub mod podman;
mod process;
mod pty;
mod ssh;
mod store;
mod vm;
mod written;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::Stream;

pub use engine::{
    Chunk, Chunks, ContainerExits, Engine, EngineError, EngineErrorKind, EngineEvent, EngineMachine, EventKind, Events,
    Exec, ExecRequest, ImageFacts, LogLine, LogLines, LogRequest, Look, PullFault, PullRefusal, Routing, TermSize,
    WayOut,
};
pub use inside::{
    InAgent, Inside, InsideError, LookInside, SessionChanges, SessionStart, SessionStarted, WorkspaceOutcome,
};
pub use store::{Store, StoreError};
pub use vm::{Vm, VmError, VmEvents};
pub(crate) use written::written;

/// Everything a pass observes and acts on.
#[derive(Debug)]
pub struct World<V, E, S> {
    /// The virtual machine that the engine runs in; `Option::None` where it runs on this host.
    pub vm: V,
    /// Runs containers.
    pub engine: E,
    /// Holds artifacts.
    pub store: S,
}

/// A stream of bytes that may break off with an error.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// How far a transfer has come. Written by the one who moves the bytes, read by whoever draws a bar.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    kept: AtomicU64,
    received: AtomicU64,
    reused: AtomicU64,
}

/// Where the bytes of a transfer came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Bytes that were received, each time they were.
    pub received: u64,
    /// Bytes that were here already, in another artifact.
    pub reused: u64,
}

impl Progress {
    /// A transfer of `total` bytes (0: not known) that has not begun.
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total: AtomicU64::new(total), ..Self::default() })
    }

    /// Says that `bytes` have been moved in all.
    pub fn set(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }

    /// Says that `bytes` were there before, and that the rest is to come.
    pub fn resume(&self, bytes: u64) {
        self.kept.store(bytes, Ordering::Relaxed);
        self.set(bytes);
    }

    /// Bytes that were there before it began: they say nothing about how fast it goes.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// Says that `bytes` more are there, which were here already in another artifact.
    pub fn reuse(&self, bytes: u64) {
        self.reused.fetch_add(bytes, Ordering::Relaxed);
        self.kept.fetch_add(bytes, Ordering::Relaxed);
        self.add(bytes);
    }

    /// Says that nothing of what was here already is used.
    pub fn reuse_nothing(&self) {
        self.reused.store(0, Ordering::Relaxed);
    }

    /// Says that `bytes` more were received. How far it has come is said by others.
    pub fn receive(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Where the bytes came from so far.
    pub fn transferred(&self) -> Transferred {
        Transferred { received: self.received.load(Ordering::Relaxed), reused: self.reused.load(Ordering::Relaxed) }
    }

    /// Says that `bytes` more have been moved.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says how many bytes there are.
    pub fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Bytes moved so far, and bytes in all (0: not known).
    pub fn get(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}
