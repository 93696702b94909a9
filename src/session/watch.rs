//! Watching the sessions of one agent: told at once that something has changed about any of them.

use std::time::Instant;

use steadfast_keeper::frame::{self, Kind};

use super::keeper::ROOT;
use super::talk::PING;
use super::{Keeper, Link, SessionError};
use crate::backend::Engine;

/// A command in an agent's container that tells of changes, for as long as this is kept.
pub struct Watch {
    link: Link,
    pinged: Instant,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl<E: Engine> Keeper<'_, E> {
    /// Begins to watch all sessions. Nothing is missed from its return on: who looks then ([`Self::list`]), and again after each
    /// [`Watch::next`], knows how they are.
    ///
    /// # Errors
    /// See [`SessionError`]; also where the agent's machine has no room for watches.
    pub async fn watch(&self) -> Result<Watch, SessionError> {
        let mut link = self.meet(Some(ROOT), "watch", &[]).await?;
        match link.reader.refused() {
            Some(refusal) => Err(refusal),
            None => Ok(Watch { link, pinged: Instant::now() }),
        }
    }
}

impl Watch {
    /// Waits until something has changed about any session: it began, was removed, ended, backs off, was started again, or lost
    /// its keeper. Changes at about the same time are told once, at most ten times a second.
    ///
    /// Cancel-safe: a change that was told is not lost with it. It also tells the other side that we are there, which bears a
    /// minute without.
    ///
    /// # Errors
    /// The watch is over, and another one has to be begun: the connection broke, the container ended, or there is no more room
    /// for watches.
    pub async fn next(&mut self) -> Result<(), SessionError> {
        let Link { reader, writer, .. } = &mut self.link;
        loop {
            let frame = tokio::select! {
                // Cancel-safe: the reader keeps what has come.
                frame = reader.must() => frame?,
                () = tokio::time::sleep_until((self.pinged + PING).into()) => {
                    // Dropped halfway, its rest is never said: the other side only counts that something came.
                    self.pinged = Instant::now();
                    writer.say(&frame::bytes(Kind::Ping, &[])).await?;
                    continue;
                }
            };
            match frame.kind {
                Kind::Changed => return Ok(()),
                Kind::Problem => return Err(reader.refusal(&frame)),
                _ => {}
            }
        }
    }
}
