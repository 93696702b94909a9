//! The guest's side of a workspace: a conversation with the keeper about one tree.

use std::collections::BTreeMap;
use std::time::Duration;

use steadfast_keeper::frame::{self, Frame, Kind};
use steadfast_keeper::message::Word;
use steadfast_keeper::tree::{Entry, Outcome, Question, Sheet, Step, Told, Top, Wire};

use super::hex;
use crate::backend::Engine;
use crate::session::{Keeper, Link, SessionError};

/// How long it may be silent: large files are read there.
const SILENCE: Duration = Duration::from_secs(10 * 60);
/// How often a look is tried again when a connection breaks, and the first pause before.
const TRIES: u32 = 4;
const AGAIN: Duration = Duration::from_millis(200);

/// One conversation.
pub(super) struct Tree {
    link: Link,
    agent: String,
}

impl Tree {
    /// Begins it, as this user (`None`: the container's own).
    pub(super) async fn open<E: Engine>(
        keeper: &Keeper<'_, E>,
        agent: &str,
        user: Option<&str>,
        target: &str,
    ) -> Result<Self, SessionError> {
        Ok(Self { link: keeper.tree(user, target).await?, agent: agent.to_owned() })
    }

    /// Begins it and looks. Nothing is changed by that, so it is tried again over a new connection when one breaks. `clear`: what
    /// killed preparations left is cleared away first.
    pub(super) async fn looked<E: Engine>(
        keeper: &Keeper<'_, E>,
        agent: &str,
        user: Option<&str>,
        target: &str,
        clear: bool,
    ) -> Result<(Self, Top, Vec<Entry>), SessionError> {
        let mut tries = 0;
        loop {
            let once = async {
                let mut tree = Self::open(keeper, agent, user, target).await?;
                let (top, entries) = tree.look(clear).await?;
                Ok((tree, top, entries))
            };
            match once.await {
                Err(err) if tries < TRIES && SessionError::is_of_transport(&err) => {
                    tracing::debug!(agent, error = %err, "looking at a workspace again over a new connection");
                    tokio::time::sleep(AGAIN * 2u32.pow(tries)).await;
                    tries += 1;
                }
                looked => return looked,
            }
        }
    }

    async fn ask<T: Wire>(&mut self, question: &Question, list: Option<&[T]>) -> Result<(), SessionError> {
        let mut bytes = frame::message(Kind::Ask, question);
        if let Some(list) = list {
            let mut sheet = Sheet::asking(&mut bytes);
            // A vector takes every byte.
            let added = list.iter().try_for_each(|item| sheet.add(item)).and_then(|()| sheet.finish());
            added.map_err(|err| self.garbled(err))?;
            bytes.extend(frame::bytes(Kind::End, &[]));
        }
        self.link.writer.say(&bytes).await
    }

    fn garbled(&self, why: impl ToString) -> SessionError {
        SessionError::Garbled { agent: self.agent.clone(), why: why.to_string() }
    }

    /// The next frame of an answer; `None` at its end.
    async fn next(&mut self) -> Result<Option<Frame>, SessionError> {
        let frame = match tokio::time::timeout(SILENCE, self.link.reader.must()).await {
            Ok(frame) => frame?,
            Err(_) => {
                let why = Some(format!("no answer within {}", humantime::format_duration(SILENCE)));
                return Err(SessionError::Broken { agent: self.agent.clone(), why });
            }
        };
        match frame.kind {
            Kind::End => Ok(None),
            Kind::Problem => Err(self.link.reader.refusal(&frame)),
            _ => Ok(Some(frame)),
        }
    }

    async fn items<T: Wire>(&mut self, mut told: impl FnMut(Told)) -> Result<Vec<T>, SessionError> {
        let mut items = Vec::new();
        while let Some(frame) = self.next().await? {
            match frame.kind {
                Kind::Told => told(self.link.reader.read(&frame)?),
                Kind::Entries => {
                    let mut rest = frame.payload.as_slice();
                    while !rest.is_empty() {
                        items.push(T::read(&mut rest).ok_or_else(|| self.garbled("a garbled list"))?);
                    }
                }
                _ => {}
            }
        }
        Ok(items)
    }

    /// How the tree is.
    async fn look(&mut self, clear: bool) -> Result<(Top, Vec<Entry>), SessionError> {
        self.ask::<Word>(&Question::Look { clear }, None).await?;
        let mut top = None;
        let entries = self.items(|told| {
            if let Told::Top(told) = told {
                top = Some(told);
            }
        });
        let entries = entries.await?;
        Ok((top.ok_or_else(|| self.garbled("it did not say how the tree is"))?, entries))
    }

    /// The digests of these files, in hex. Of what cannot be read there is none.
    pub(super) async fn digests(&mut self, paths: &[Word]) -> Result<BTreeMap<Word, String>, SessionError> {
        if paths.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.ask(&Question::Digests, Some(paths)).await?;
        let entries: Vec<Entry> = self.items(|_| {}).await?;
        Ok(entries.into_iter().filter_map(|entry| Some((Word(entry.path), hex(&entry.digest?)))).collect())
    }

    /// Takes these steps.
    pub(super) async fn place(&mut self, stage: &str, steps: &[Step]) -> Result<Vec<Outcome>, SessionError> {
        self.ask(&Question::Place { stage: stage.to_owned() }, Some(steps)).await?;
        self.items(|_| {}).await
    }

    /// Something that this user can write; `None` where there is nothing.
    pub(super) async fn writable(&mut self) -> Result<Option<Word>, SessionError> {
        self.ask::<Word>(&Question::TryWrite, None).await?;
        let mut found = None;
        let told = |told| {
            if let Told::Writable(told) = told {
                found = Some(told);
            }
        };
        self.items::<Entry>(told).await?;
        found.ok_or_else(|| self.garbled("it did not say what can be written"))
    }

    /// Tells git that the tree is safe, or no more. Yields why it could not be told.
    pub(super) async fn safe(&mut self, is: bool) -> Result<Option<String>, SessionError> {
        self.ask::<Word>(&Question::Safe { is }, None).await?;
        let mut why = None;
        let told = |told| {
            if let Told::Safe(told) = told {
                why = told;
            }
        };
        self.items::<Entry>(told).await?;
        Ok(why)
    }

    /// Removes the tree.
    pub(super) async fn remove(&mut self) -> Result<(), SessionError> {
        self.ask::<Word>(&Question::Remove, None).await?;
        self.items::<Entry>(|_| {}).await.map(drop)
    }

    /// Reads these files: each piece is handed on with the number of its file, and an empty one where a file begins.
    pub(super) async fn read<F>(&mut self, paths: &[Word], mut piece: F) -> Result<(), SessionError>
    where
        F: FnMut(usize, &[u8]) -> std::io::Result<()>,
    {
        self.ask(&Question::Read, Some(paths)).await?;
        let mut number = 0;
        while let Some(frame) = self.next().await? {
            let handed = match frame.kind {
                Kind::Told => {
                    number += 1;
                    piece(number - 1, &[])
                }
                Kind::Data if number > 0 => piece(number - 1, &frame.payload),
                _ => Ok(()),
            };
            handed.map_err(|err| self.garbled(err))?;
        }
        Ok(())
    }
}
