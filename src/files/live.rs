//! The temporary files that this process writes now. A process that ends does not wait for all of its threads, and what they
//! were writing goes with it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::mutex::guard;

/// Their names. Each is locked by us for as long as it stands here, so nobody else's file is called so.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    guard(&LIVE)
}

/// Makes a temporary file ours, by `how`, which does not wait. Once the process ends, that waits for ever: a file that was made
/// and does not stand here yet would be left.
pub(super) fn begin<T>(temporary: &Path, how: impl FnOnce() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    let mut live = live();
    let own = how()?;
    if own.is_some() {
        live.insert(temporary.to_owned());
    }
    Ok(own)
}

/// Takes the name away from a temporary file, by `how`. Once the process ends, that waits for ever.
pub(super) fn end(temporary: &Path, how: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mut live = live();
    how()?;
    live.remove(temporary);
    Ok(())
}

/// Removes what this process was writing and has not put in its place, and lets nothing more be put in its place. For who ends
/// the process now.
pub(crate) fn abandon() {
    let live = live();
    for temporary in live.iter() {
        let _ = std::fs::remove_file(temporary);
    }
    // Nobody puts what is gone in its place, nor begins anew.
    std::mem::forget(live);
}
