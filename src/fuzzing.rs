//! What the fuzz targets in `fuzz/` reach of the inside: what reads words from elsewhere, and what is said of them.
//!
//! Compiled only with `--cfg fuzzing`, which `cargo fuzz` sets; no build that anybody runs has it. What must hold belongs in the
//! targets, how things are read and said in the files themselves.

use serde_json::Value;

pub use crate::backend::Look;
pub use crate::backend::cache::fuzzing as cache;
pub use crate::backend::podman::fuzzing as podman;
pub use crate::cli::render::fuzzing as render;
use crate::control::client::{self, AskError};
use crate::model::Desired;

/// Whether a terminal would obey the character instead of showing it.
pub fn acts(c: char) -> bool {
    crate::visible::acts(c)
}

/// What Podman is looked at for.
pub fn look(desired: &Desired) -> Look {
    crate::observe::what_to_look_for(desired)
}

/// A line of the control socket, as a client reads it.
///
/// # Errors
/// See [`AskError`].
pub fn answer(line: &[u8]) -> Result<Value, AskError> {
    client::answer(line)
}
