//! One client's connection: what it says, what it is told, and what of the log it has read.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::frame::{self, Frames, Kind, OUTPUT_HEAD, Output};
use crate::input::{ClientId, Store};
use crate::log::Log;
use crate::message::{Attach, Problem, Replayed, Send};

/// How much may wait for a client, in bytes, before the log is read further for it.
const WAITING: usize = 128 * 1024;

/// A message on its way in.
pub(super) struct Arriving {
    pub(super) send: Send,
    pub(super) store: Store,
    /// When it is late. Counted from its announcement.
    pub(super) deadline: Instant,
    /// Its answer is known: what comes of it is dropped.
    pub(super) is_known: bool,
}

/// What it reads of the log.
struct Reading {
    at: u64,
    since: u64,
    follow: bool,
    /// Until the replay ends there: where live output begins.
    replay: Option<u64>,
    missed: u64,
    taken: u64,
    tty: bool,
    /// So slow that nobody waits for it any more.
    is_slow: bool,
}

/// A client.
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) stream: UnixStream,
    pub(super) frames: Frames,
    out: VecDeque<u8>,
    /// It has said hello.
    pub(super) is_met: bool,
    /// It has asked for something.
    pub(super) has_asked: bool,
    /// Of the user that may speak.
    pub(super) may_speak: bool,
    pub(super) arriving: Option<Arriving>,
    reading: Option<Reading>,
    /// As a writer.
    pub(super) writer: Option<String>,
    /// It wants to hear of the end.
    pub(super) waits: bool,
    has_heard_the_end: bool,
    /// It is dropped once it has been told all.
    closing: bool,
    gone: bool,
    /// When it last took a byte.
    pub(super) moved: Instant,
    /// When it last said anything.
    pub(super) heard: Instant,
}

impl Client {
    pub(super) fn new(id: ClientId, stream: UnixStream, may_speak: bool) -> Self {
        Self {
            id,
            stream,
            frames: Frames::default(),
            out: VecDeque::new(),
            is_met: false,
            has_asked: false,
            may_speak,
            arriving: None,
            reading: None,
            writer: None,
            waits: false,
            has_heard_the_end: false,
            closing: false,
            gone: false,
            moved: Instant::now(),
            heard: Instant::now(),
        }
    }

    /// Reads what has come. `None` once it is gone.
    pub(super) fn read<'a>(&mut self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => break,
                Ok(length) => {
                    self.heard = Instant::now();
                    return buffer.get(..length);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Some(&[]),
                Err(_) => break,
            }
        }
        self.gone = true;
        None
    }

    /// Tells it something.
    pub(super) fn tell(&mut self, kind: Kind, message: &impl serde::Serialize) {
        self.out.extend(frame::message(kind, message));
    }

    pub(super) fn tell_taken(&mut self, offset: u64) {
        self.out.extend(frame::bytes(Kind::Taken, &offset.to_be_bytes()));
    }

    /// Refuses what it asked for; what it sends is not heard any more.
    pub(super) fn refuse(&mut self, problem: &Problem) {
        self.tell(Kind::Problem, problem);
        (self.closing, self.reading, self.writer, self.arriving) = (true, None, None, None);
    }

    /// Tells it that it is over, once, after all that was printed.
    pub(super) fn tell_the_end(&mut self, state: &crate::message::State, log: &Log) {
        let asked = self.waits || self.reading.is_some();
        let has_read = self.reading.as_ref().is_none_or(|reading| reading.replay.is_none() && reading.at >= log.end());
        if asked && has_read && !self.has_heard_the_end {
            self.has_heard_the_end = true;
            self.tell(Kind::Ended, state);
        }
    }

    /// Begins to read the log.
    pub(super) fn attach(&mut self, attach: &Attach, log: &Log, taken: u64, tty: bool) -> io::Result<()> {
        let at = match attach.from {
            Some(from) => from.min(log.end()),
            None => log.tail(attach.replay)?,
        };
        let missed = log.begin().saturating_sub(at);
        self.moved = Instant::now();
        self.reading = Some(Reading {
            at,
            since: attach.since,
            follow: attach.follow,
            replay: Some(log.end()),
            missed,
            taken,
            tty,
            is_slow: false,
        });
        Ok(())
    }

    /// How much of the log it has still to read, when it follows it and is waited for.
    pub(super) fn behind(&self, end: u64) -> Option<u64> {
        let reading = self.reading.as_ref().filter(|reading| reading.follow && !reading.is_slow && !self.gone)?;
        Some(end - reading.at.min(end))
    }

    /// Nobody waits for it any more.
    pub(super) fn give_up_on(&mut self) {
        if let Some(reading) = &mut self.reading {
            reading.is_slow = true;
        }
    }

    /// Takes from the log what it can be told now.
    ///
    /// # Errors
    /// Those of the log.
    pub(super) fn fill(&mut self, log: &Log, buffer: &mut Vec<u8>) -> io::Result<()> {
        while let Some(reading) = &mut self.reading {
            if self.out.len() >= WAITING {
                break;
            }
            if log.begin() > reading.at && reading.replay.is_none() {
                // What was dropped meanwhile.
                let missed = log.begin() - reading.at;
                reading.at = log.begin();
                let gap = Replayed { at: reading.at, missed, taken: reading.taken, tty: reading.tty };
                self.out.extend(frame::message(Kind::Replayed, &gap));
                continue;
            }
            let until = reading.replay.unwrap_or(u64::MAX);
            let records = if reading.at < until { log.read(reading.at, buffer)? } else { Vec::new() };
            if records.is_empty() {
                reading.is_slow = false;
                if reading.replay.take().is_none() {
                    break;
                }
                let replayed =
                    Replayed { at: reading.at, missed: reading.missed, taken: reading.taken, tty: reading.tty };
                self.out.extend(frame::message(Kind::Replayed, &replayed));
                if !reading.follow {
                    self.reading = None;
                }
                continue;
            }
            for record in records {
                if record.next > until {
                    break;
                }
                reading.at = record.next;
                if record.time < reading.since {
                    continue;
                }
                let bytes = buffer.get(record.bytes).unwrap_or_default();
                let output = Output { next: record.next, time: record.time, stream: record.stream, bytes };
                self.out.extend(frame::head(Kind::Output, OUTPUT_HEAD + bytes.len()));
                self.out.extend(output.head());
                self.out.extend(bytes);
            }
        }
        Ok(())
    }

    /// Writes what it takes now.
    pub(super) fn flush(&mut self) {
        while !self.out.is_empty() {
            let (first, _) = self.out.as_slices();
            match self.stream.write(first) {
                Ok(0) => return self.gone = true,
                Ok(length) => {
                    self.out.drain(..length);
                    self.moved = Instant::now();
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.gone = true,
            }
        }
        if self.out.capacity() > 2 * WAITING {
            self.out.shrink_to(WAITING);
        }
        if self.closing {
            self.gone = true;
        }
    }

    /// Whether there is something to tell it.
    pub(super) fn has_more(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether it is heard. One that writes waits while too much waits for the command.
    pub(super) fn wants_more(&self, input_is_full: bool) -> bool {
        !(self.closing || input_is_full && self.writer.is_some())
    }

    /// Whether it has heard all that it asked for. One that has asked for nothing yet is about to.
    pub(super) fn has_all(&self) -> bool {
        let asked_for_nothing_more = self.reading.is_none() && !self.waits && self.has_asked;
        self.gone || (self.out.is_empty() && (self.has_heard_the_end || asked_for_nothing_more))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }
}
