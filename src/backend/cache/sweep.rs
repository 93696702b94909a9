//! What killed processes left, and nobody would come back for.

use std::path::Path;

use tracing::debug;

use super::partial::try_hold;
use super::paths::{Layout, remove_file};
use super::quarantine::found;
use crate::backend::StoreError;
use crate::error::Chain;
use crate::files;
use crate::trust::kept;

/// Removes temporary files, downloads without a byte, and the sidecars of downloads that have landed from the cache below
/// `root`. What is being written stays. Nothing is in anybody's way: what fails here is said by whoever needs the
/// cache.
pub fn sweep(root: &Path) {
    if let Err(err) = Layout::new(root).map_err(super::failed("find", root)).and_then(|layout| layout.sweep()) {
        debug!(err = %Chain(&err), "cannot sweep the cache; leftovers stay");
    }
}

impl Layout {
    fn sweep(&self) -> Result<(), StoreError> {
        for file in [self.index(), self.manifest(), self.manifests().join("x"), self.lists().join("x")] {
            self.guard(&file)?;
            files::sweep_directory(file.parent().unwrap_or(&file));
        }
        kept::sweep(self.root());
        for (path, metadata) in self.walk()? {
            let Some(key) = self.key_of_partial(&path) else { continue };
            let (partial, sidecar) = (self.partial(&key), self.sidecar(&key));
            if path == sidecar && found(&partial)?.is_none() {
                remove_file(&sidecar)?;
            }
            if path == partial
                && metadata.len() == 0
                && let Some(_lock) = try_hold(self, &partial)?
            {
                remove_file(&sidecar)?;
                remove_file(&partial)?;
            }
        }
        Ok(())
    }
}
