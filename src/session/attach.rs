//! Attached to a session: its output from some place on, and what is written to it, over connections that may break.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use steadfast_keeper::frame::{self, Kind, Output, Stream};
use steadfast_keeper::message::{Attach, ProblemKind, Replayed, Size, State, Writer};
use tokio::sync::mpsc::Receiver;

use super::keeper::ROOT;
use super::talk::PING;
use super::{Keeper, Link, SessionError};
use crate::backend::Engine;

/// How much input may be under way without a word that it was written, in bytes. Less than a keeper holds before it stops
/// listening: what it says is never waited for by who waits to be heard.
const UNDER_WAY: usize = 256 * 1024;
/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a connection that is lost is looked for.
const LONGEST_OUTAGE: Duration = Duration::from_secs(120);
/// A writer that comes back finds its own former connection still there for so long.
const FORMER: Duration = Duration::from_secs(5);

/// How to attach.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// Of what was printed before, at most so many bytes.
    pub replay: u64,
    /// Nothing older than this, in milliseconds since 1970.
    pub since: u64,
    /// Go on with what is printed from now on, until the end.
    pub follow: bool,
    /// Be the one who writes.
    pub write: Option<WriteOptions>,
}

/// How to be the one who writes.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// In the place of another writer.
    pub takeover: bool,
    /// Our terminal.
    pub size: Option<Size>,
}

/// What is to be told to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for its standard input.
    Bytes(Vec<u8>),
    /// Our terminal has another size.
    Resize(Size),
}

/// What is heard of a session.
#[derive(Debug)]
pub enum Event<'a> {
    /// It printed this, then.
    Output {
        /// Which output.
        stream: Stream,
        /// When, in milliseconds since 1970.
        time: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// What was there is replayed.
    Live {
        /// Whether the command runs in a terminal.
        tty: bool,
    },
    /// So many bytes of the log are not there any more: it is bounded.
    Missed(u64),
    /// The connection broke; it is made again.
    Lost(&'a SessionError),
    /// It was made again.
    Back,
}

/// How being attached ended.
#[derive(Debug)]
pub enum Left {
    /// The session ended.
    Ended(Box<State>),
    /// Who listens wanted no more.
    Stopped,
}

/// What is known from one connection to the next.
struct Course {
    /// Where in the log to go on.
    next: Option<u64>,
    writer: Option<(String, WriteOptions)>,
    /// Input that nobody has said was written, from `taken` on.
    pending: VecDeque<u8>,
    taken: u64,
    /// Of `pending`, so much was said over this connection.
    said: usize,
    is_live: bool,
    input_is_over: bool,
}

/// Why a connection is not used any more.
enum Parted {
    Left(Left),
    Broke(SessionError),
}

impl<E: Engine> Keeper<'_, E> {
    /// Attaches, and hands on what is heard until the session ends or `hear` breaks off. A connection that breaks is made
    /// again, and nothing is heard or written twice or left out. The end of `input` is no end of the session's.
    ///
    /// # Errors
    /// A refusal: no such session, somebody else writes or took over; or a connection that does not come back.
    pub async fn attach(
        &self,
        session: &str,
        options: &AttachOptions,
        input: &mut Receiver<Input>,
        mut hear: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Left, SessionError> {
        let writer = options.write.map(|write| (format!("{:032x}", fastrand::u128(..)), write));
        let input_is_over = writer.is_none();
        let pending = VecDeque::new();
        let mut course = Course { next: None, writer, pending, taken: 0, said: 0, is_live: false, input_is_over };
        let mut lost: Option<Instant> = None;
        let mut user = ROOT.to_owned();
        loop {
            let broke = match self.connect_as(&user, session).await {
                Ok(mut link) => {
                    if lost.is_some() && hear(Event::Back).is_break() {
                        return Ok(Left::Stopped);
                    }
                    let since = lost;
                    match self.talk(&mut link, options, &mut course, input, &mut hear, &mut lost).await {
                        Parted::Left(left) => return Ok(left),
                        // Its former connection may not have been noticed as lost.
                        Parted::Broke(err)
                            if err.kind() == Some(ProblemKind::Writer)
                                && since.is_some_and(|since| since.elapsed() < FORMER) =>
                        {
                            lost = since;
                            err
                        }
                        Parted::Broke(err) if err.is_of_transport() => err,
                        // Root may be without the power over what others own.
                        Parted::Broke(err) if err.kind() == Some(ProblemKind::Denied) && user == ROOT => {
                            match self.state(session).await?.map(|state| state.uid.to_string()) {
                                Some(owner) if owner != ROOT => user = owner,
                                _ => return Err(err),
                            }
                            continue;
                        }
                        Parted::Broke(err) => return Err(self.in_words(session, err).await),
                    }
                }
                Err(err) if err.is_of_transport() && (lost.is_some() || course.is_live) => err,
                Err(err) => return Err(self.in_words(session, err).await),
            };
            let since = match lost {
                Some(since) => since,
                None => {
                    if hear(Event::Lost(&broke)).is_break() {
                        return Ok(Left::Stopped);
                    }
                    *lost.insert(Instant::now())
                }
            };
            if since.elapsed() > LONGEST_OUTAGE {
                return Err(broke);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Over one connection.
    async fn talk(
        &self,
        link: &mut Link,
        options: &AttachOptions,
        course: &mut Course,
        input: &mut Receiver<Input>,
        hear: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
        lost: &mut Option<Instant>,
    ) -> Parted {
        let writer = course.writer.as_ref().map(|(id, write)| Writer {
            id: id.clone(),
            takeover: write.takeover,
            size: write.size,
        });
        let (from, since) = (course.next, options.since);
        let attach = Attach { replay: options.replay, from, since, follow: options.follow, writer };
        if let Err(err) = link.writer.say(&frame::message(Kind::Attach, &attach)).await {
            return Parted::Broke(err);
        }
        // Nothing is written before the keeper has said how much it has already.
        let mut may_write = false;
        let mut pinged = Instant::now();
        loop {
            let room = course.pending.len() < UNDER_WAY && may_write && !course.input_is_over;
            let heard = tokio::select! {
                // Cancel-safe: the reader keeps what has come.
                frame = link.reader.must() => frame,
                // Cancel-safe per docs on `recv()`.
                said = input.recv(), if room => {
                    match said {
                        Some(Input::Bytes(bytes)) => course.pending.extend(bytes),
                        Some(Input::Resize(size)) => {
                            if let Some((_, write)) = &mut course.writer {
                                write.size = Some(size);
                            }
                            if let Err(err) = link.writer.say(&frame::message(Kind::Resize, &size)).await {
                                return Parted::Broke(err);
                            }
                        }
                        None => course.input_is_over = true,
                    }
                    if let Err(err) = course.say(link).await {
                        return Parted::Broke(err);
                    }
                    continue;
                }
                () = tokio::time::sleep_until((pinged + PING).into()) => {
                    pinged = Instant::now();
                    if let Err(err) = link.writer.say(&frame::bytes(Kind::Ping, &[])).await {
                        return Parted::Broke(err);
                    }
                    continue;
                }
            };
            let frame = match heard {
                Ok(frame) => frame,
                Err(err) => return Parted::Broke(err),
            };
            let flow = match frame.kind {
                Kind::Output => match Output::of(&frame.payload) {
                    Some(output) => {
                        course.next = Some(output.next);
                        hear(Event::Output { stream: output.stream, time: output.time, bytes: output.bytes })
                    }
                    None => ControlFlow::Continue(()),
                },
                Kind::Replayed => match link.reader.read::<Replayed>(&frame) {
                    Ok(replayed) => {
                        (*lost, may_write) = (None, true);
                        course.next = Some(replayed.at);
                        course.note_taken(replayed.taken);
                        course.said = 0;
                        if let Err(err) = course.say(link).await {
                            return Parted::Broke(err);
                        }
                        let missed = replayed.missed > 0 && hear(Event::Missed(replayed.missed)).is_break();
                        let live = !std::mem::replace(&mut course.is_live, true)
                            && hear(Event::Live { tty: replayed.tty }).is_break();
                        let is_all = missed || live || !options.follow;
                        if is_all { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    }
                    Err(err) => return Parted::Broke(err),
                },
                Kind::Taken => {
                    let taken = frame.payload.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
                    course.note_taken(taken.unwrap_or_default());
                    ControlFlow::Continue(())
                }
                Kind::Ended => match link.reader.read::<State>(&frame) {
                    Ok(state) => return Parted::Left(Left::Ended(Box::new(state))),
                    Err(err) => return Parted::Broke(err),
                },
                Kind::Problem => return Parted::Broke(link.reader.refusal(&frame)),
                _ => ControlFlow::Continue(()),
            };
            if flow.is_break() {
                return Parted::Left(Left::Stopped);
            }
        }
    }
}

impl Course {
    /// The keeper has written so much of all our input.
    fn note_taken(&mut self, taken: u64) {
        let more = usize::try_from(taken.saturating_sub(self.taken)).unwrap_or(usize::MAX).min(self.pending.len());
        self.pending.drain(..more);
        self.said = self.said.saturating_sub(more);
        self.taken = self.taken.max(taken);
    }

    /// Says what was not said over this connection.
    async fn say(&mut self, link: &mut Link) -> Result<(), SessionError> {
        while self.said < self.pending.len() {
            let piece: Vec<u8> = self.pending.iter().skip(self.said).take(frame::PIECE - 8).copied().collect();
            let mut payload = (self.taken + self.said as u64).to_be_bytes().to_vec();
            payload.extend_from_slice(&piece);
            link.writer.say(&frame::bytes(Kind::Data, &payload)).await?;
            self.said += piece.len();
        }
        Ok(())
    }
}
