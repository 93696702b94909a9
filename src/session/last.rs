//! What a session printed last, for a sentence about it.

use std::ops::ControlFlow;
use std::time::Duration;

use steadfast_keeper::log::{MAX_RECORD, RECORD_HEAD};

use super::{AttachOptions, Event, Keeper, SessionError};
use crate::backend::Engine;

/// How long it may take to hear it.
const PATIENCE: Duration = Duration::from_secs(5);

impl<E: Engine> Keeper<'_, E> {
    /// The last that a session printed, both streams in the order in which they came, of at most so many bytes. What is no text is
    /// replaced.
    ///
    /// # Errors
    /// See [`SessionError`]; also where it does not come within five seconds.
    pub async fn last_words(&self, session: &str, bytes: usize) -> Result<String, SessionError> {
        // A replay is of whole records, each with a head, and each byte may be one.
        let replay = bytes.saturating_add(1).saturating_mul(1 + RECORD_HEAD).saturating_add(MAX_RECORD) as u64;
        let options = AttachOptions { replay, since: 0, follow: false, write: None };
        let (_nothing, mut input) = tokio::sync::mpsc::channel(1);
        let mut printed = Vec::new();
        let attached = self.attach(session, &options, &mut input, |event| {
            if let Event::Output { bytes, .. } = event {
                printed.extend_from_slice(bytes);
            }
            ControlFlow::Continue(())
        });
        match tokio::time::timeout(PATIENCE, attached).await {
            Ok(left) => left.map(|_| ())?,
            Err(_) => {
                let patience = humantime::format_duration(PATIENCE);
                return Err(self.broken(Some(format!("its output did not come within {patience}"))));
            }
        }
        Ok(tail(&printed, bytes))
    }
}

/// The end of it as text, of at most so many bytes.
fn tail(printed: &[u8], bytes: usize) -> String {
    let text = String::from_utf8_lossy(printed);
    let from = text.len().saturating_sub(bytes);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text.get(from..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_whole_characters_and_never_longer() {
        for (bytes, expected) in
            [(0, ""), (2, ""), (3, "\u{20ac}"), (4, "b\u{20ac}"), (5, "ab\u{20ac}"), (9, "ab\u{20ac}")]
        {
            assert_eq!(tail("ab\u{20ac}".as_bytes(), bytes), expected);
        }
        // Three bytes in the place of one.
        assert_eq!(tail(b"\xff\xff\xff!", 4), "\u{fffd}!");
    }
}
