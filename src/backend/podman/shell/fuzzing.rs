//! What the fuzz targets reach of how the output of Podman's command line is read.

use super::run::Call;
use super::{error, images};
use crate::backend::EngineError;
use crate::backend::podman::error::About;

/// What `podman load` prints.
pub fn loaded(stdout: &[u8]) -> Vec<String> {
    images::loaded(stdout)
}

/// A command that failed.
pub fn refused(code: Option<i32>, stderr: &[u8]) -> EngineError {
    let call = Call::new("do it".into(), About::Container, "podman do it".into(), Vec::new(), "agents");
    error::refused(&call, code, stderr)
}
