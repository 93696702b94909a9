//! One line for a chain of errors.

use std::error::Error;
use std::fmt::{self, Write};

use crate::brief::{MESSAGE, brief};

/// Shows an error and its sources, joined by `: `, for logs and reports. Less than 4 kB, whatever they quote.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut source = self.0.source();
        while let Some(err) = source {
            let _ = write!(text, ": {err}");
            source = err.source();
        }
        f.write_str(&brief(&text, MESSAGE))
    }
}
