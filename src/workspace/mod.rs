//! Workspaces: source trees of this machine that are brought into an agent, and the commits that come back.
//!
//! ```text
//!  source ──names, kinds, modes──▶ wanted ─┐
//!  record ──what was put───────────────────┼─▶ decide (pure) ──▶ files by Podman's archive ──▶ steps by the keeper ──▶ record
//!  guest  ──names, kinds, stamps──▶ seen ──┘                     (into a directory aside)      (each if still as seen)
//! ```
//!
//! What the guest changed is never lost, by two rules. A path is written only while what stands there is known to be ours: by
//! the record, or because it is what is wanted already. And the keeper takes each step only while exactly that still stands
//! there. A record that is lost makes all that differs the guest's own, which is kept.
//!
//! A checkout comes with a repository of its own that is made here from its commits ([`repository`]), so that the guest needs
//! no git. [`pull`] brings back what was committed in it; nothing of that repository but objects is believed.

mod archive;
mod compare;
mod decide;
mod error;
mod gather;
mod git;
mod guest;
mod prepare;
mod pull;
mod record;
mod report;
mod repository;
mod source;
mod state;
mod summary;

use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub use decide::Change;
pub use error::WorkspaceError;
pub use prepare::prepare;
pub use pull::{Pulled, pull};
pub use record::Records;
pub use report::{Kept, Prepared, RepositoryOutcome};
pub use source::{Dirty, LeftOut};
pub use state::{GuestState, HostState, State, remove, status};
pub use summary::{Summary, fingerprint};

use crate::backend::Engine;
use crate::model::ContainerId;
use crate::model::hashing::hex;
use crate::model::session::workspace_target;
use crate::session::Keeper;

/// Who may write to a tree that its agent may not.
const ROOT: &str = "0";

/// A workspace that is wanted.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The name of the branch that its commits come back as. `None`: the name that it has, or one made from its target.
    pub name: Option<String>,
    /// The directory of this machine.
    pub source: PathBuf,
    /// Where it goes in the container: absolute.
    pub target: String,
    /// Whether the agent's user may not write to it.
    pub read_only: bool,
    /// What becomes of what is not committed.
    pub dirty: Dirty,
    /// Ignored files and directories of the source that go in all the same.
    pub include: Vec<PathBuf>,
}

/// Where it is brought.
#[derive(Debug)]
pub struct Place<'a, E> {
    /// What runs the container.
    pub engine: &'a E,
    /// The agent's container, which runs.
    pub container: ContainerId,
    /// The agent.
    pub agent: &'a str,
    /// Where what was put is remembered.
    pub records: &'a Records,
    /// How long another steadfast that is at work on it is waited for.
    pub patience: Duration,
}

impl<E: Engine> Place<'_, E> {
    fn keeper(&self) -> Keeper<'_, E> {
        Keeper::new(self.engine, self.container.clone(), self.agent)
    }
}

/// The target as it is remembered: absolute, without a slash at its end.
fn target_of(target: &str) -> Result<String, WorkspaceError> {
    workspace_target(target).map_err(|why| WorkspaceError::target(target, why))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
