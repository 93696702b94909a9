//! The `run` that keeps a state file: who it is, and where it can be asked.

use std::path::PathBuf;

use super::Settings;
use super::settings::state_dir;
use crate::control::StateFiles;
use crate::files;
use crate::model::Desired;
use crate::reconcile::lock::{self, Claim, Holder};
use crate::state;

/// A state directory that `run` holds the lock of.
#[derive(Debug)]
pub(super) struct Kept {
    /// The directory, with the control socket in it.
    pub(super) dir: PathBuf,
    /// Who holds it.
    pub(super) holder: Holder,
}

impl Kept {
    /// The directory, if `run` holds its lock, for whichever state file. Where others could write, nothing is believed.
    pub(super) fn at(dir: PathBuf) -> Option<Self> {
        // With `state` and the root, which it lies in.
        if dir.ancestors().take(3).any(|dir| files::check_directory(dir).is_err()) {
            return None;
        }
        let holder = lock::kept_by(&dir.join("lock"))?;
        Some(Self { dir, holder })
    }

    /// Whether it keeps these state files.
    pub(super) fn is_for(&self, files: &StateFiles) -> bool {
        self.holder.works_for(files).unwrap_or(false)
    }
}

/// The most state directories below a root that are looked into.
const MOST_OWNERS: usize = 1000;

/// The `run` that keeps the state file, even when that is invalid or gone by now (`desired` is `None` then), or has
/// another name or root than when `run` read it.
pub(super) fn find(settings: &Settings, desired: Option<&Desired>) -> Option<Kept> {
    if settings.files.has_stdin() {
        return None;
    }
    let told = || {
        let inputs = settings.can_read_again().then(|| settings.inputs().ok()).flatten()?;
        state::identity(&inputs, settings.root.as_deref(), &settings.vars)
    };
    let own = match desired {
        Some(desired) => Some((desired.root.clone(), state_dir(desired))),
        None => told().map(|(name, root)| {
            let dir = root.join("state").join(name.as_str());
            (root, dir)
        }),
    };
    let ours = |dir: PathBuf| Kept::at(dir).filter(|kept| kept.is_for(&settings.files));
    let (root, dir) = own.unzip();
    if let Some(kept) = dir.and_then(ours) {
        return Some(kept);
    }
    let mut roots = vec![state::default_root(settings.root.as_deref(), &settings.vars)];
    if roots[0] != root {
        roots.push(root);
    }
    let owners = roots.into_iter().flatten().filter_map(|root| std::fs::read_dir(root.join("state")).ok());
    owners.flatten().flatten().take(MOST_OWNERS).map(|owner| owner.path()).find_map(ours)
}

/// Who we are to the lock file.
pub(super) fn claim<'a>(settings: &'a Settings, verb: &'a str) -> Claim<'a> {
    Claim { command: verb, files: Some(&settings.files).filter(|files| !files.has_stdin()) }
}
