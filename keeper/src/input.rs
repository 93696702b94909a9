//! Input on its way to a command: one sender after the other, each message whole.
//!
//! What is acknowledged was written to the command's pipe, which is the command's: it is there even when the keeper dies.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;

/// How many answers are remembered for who sends once more.
const REMEMBERED: usize = 4096;
/// How many writers that left are remembered for when they come back.
const WRITERS: usize = 32;
/// How much input may wait in memory, in bytes; more waits in files.
const IN_MEMORY: usize = 512 * 1024;
/// How much is written at once, in bytes.
const PIECE: usize = 64 * 1024;
/// What a terminal takes for the end of input.
const END_OF_TRANSMISSION: [u8; 1] = [4];

/// Who sent something, by the keeper's number for its connection.
pub type ClientId = u64;

/// Bytes that wait, in memory or in a file that has no name any more.
#[derive(Debug)]
pub enum Store {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file, so many bytes.
    File(File, u64),
}

impl Store {
    /// How many bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    fn in_memory(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(..) => 0,
        }
    }
}

/// One message, or a piece of what an attached writer typed.
#[derive(Debug)]
struct Item {
    /// Of a message.
    id: Option<String>,
    store: Store,
    written: u64,
    eof: bool,
    client: Option<ClientId>,
    deadline: Option<Instant>,
    /// Of a writer: its id, and where its input ends with this piece.
    writer: Option<(String, u64)>,
}

/// What became of input.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A message was written whole.
    Sent {
        /// Whose.
        client: Option<ClientId>,
        /// Its id.
        id: String,
        /// Its length.
        bytes: u64,
    },
    /// A writer's input was written up to there.
    Taken {
        /// Whose.
        client: Option<ClientId>,
        /// Up to where.
        offset: u64,
    },
    /// The command did not read in time.
    TimedOut {
        /// Whose.
        client: ClientId,
        /// The message's length.
        bytes: u64,
        /// So much was written, and the rest follows. Of 0 nothing follows.
        written: u64,
    },
    /// The command has closed its end, or is gone.
    Broken {
        /// Whose.
        client: ClientId,
        /// So much was written.
        written: u64,
    },
}

/// The queue.
#[derive(Debug)]
pub struct Input {
    dir: PathBuf,
    queue: VecDeque<Item>,
    in_memory: usize,
    spools: u64,
    sent: VecDeque<(String, u64)>,
    writers: VecDeque<(String, u64)>,
}

impl Input {
    /// An empty queue, whose files go into this directory.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            queue: VecDeque::new(),
            in_memory: 0,
            spools: 0,
            sent: VecDeque::new(),
            writers: VecDeque::new(),
        }
    }

    /// A place for a message of this length.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn store(&mut self, length: u64) -> io::Result<Store> {
        if length <= PIECE as u64 && self.in_memory < IN_MEMORY {
            return Ok(Store::Memory(Vec::new()));
        }
        self.spools += 1;
        let path = self.dir.join(format!("spool.{}", self.spools));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Store::File(file, 0))
    }

    /// Adds to what is not yet in the queue.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn fill(store: &mut Store, bytes: &[u8]) -> io::Result<()> {
        match store {
            Store::Memory(memory) => memory.extend_from_slice(bytes),
            Store::File(file, length) => {
                file.write_all_at(bytes, *length)?;
                *length += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// What came of a message with this id, or that it is under way still: then its answer goes to this client.
    pub fn known(&mut self, id: &str, client: ClientId, deadline: Instant) -> Known {
        if let Some((_, bytes)) = self.sent.iter().rev().find(|(sent, _)| sent == id) {
            return Known::Sent(*bytes);
        }
        match self.queue.iter_mut().find(|item| item.id.as_deref() == Some(id)) {
            Some(item) => {
                (item.client, item.deadline) = (Some(client), Some(deadline));
                Known::UnderWay
            }
            None => Known::New,
        }
    }

    /// Queues a message that is there whole.
    pub fn send(&mut self, id: String, store: Store, eof: bool, client: ClientId, deadline: Instant) {
        self.in_memory += store.in_memory();
        let (client, deadline) = (Some(client), Some(deadline));
        self.queue.push_back(Item { id: Some(id), store, written: 0, eof, client, deadline, writer: None });
    }

    /// How much of this writer's input was taken or is queued.
    pub fn writer_at(&self, writer: &str) -> u64 {
        let queued = self.queue.iter().rev().filter_map(|item| item.writer.as_ref());
        let known = queued.chain(self.writers.iter().rev());
        known.filter(|(id, _)| id == writer).map(|(_, offset)| *offset).next().unwrap_or(0)
    }

    /// Queues what a writer typed at `offset` of all its input; what was had already is left out. `false` for a gap.
    pub fn write(&mut self, writer: &str, client: ClientId, offset: u64, bytes: &[u8], eof: bool) -> bool {
        let at = self.writer_at(writer);
        if offset > at {
            return false;
        }
        let known = usize::try_from(at - offset).unwrap_or(usize::MAX);
        let bytes = bytes.get(known..).unwrap_or_default().to_vec();
        if bytes.is_empty() && !eof {
            return true;
        }
        let end = at + bytes.len() as u64;
        self.in_memory += bytes.len();
        let (store, writer) = (Store::Memory(bytes), Some((writer.to_owned(), end)));
        self.queue.push_back(Item { id: None, store, written: 0, eof, client: Some(client), deadline: None, writer });
        true
    }

    /// How many bytes wait for the command.
    pub fn waiting(&self) -> u64 {
        self.queue.iter().map(|item| item.store.length() - item.written).sum()
    }

    /// Whether there is anything to write, an end of input among it.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether so much waits that writers are not read for now.
    pub fn is_full(&self) -> bool {
        self.in_memory >= IN_MEMORY
    }

    /// The next moment at which a message is late.
    pub fn deadline(&self) -> Option<Instant> {
        self.queue.iter().filter_map(|item| item.deadline).min()
    }

    /// Writes what the command takes now. Yields whether its input ends here. In a terminal the end is a character.
    ///
    /// # Errors
    /// `EPIPE` when the command has closed its end: what waits is then for [`Input::fail`].
    pub fn pump(&mut self, to: impl AsFd, tty: bool, outcomes: &mut Vec<Outcome>) -> Result<bool, Errno> {
        let mut buffer = Vec::new();
        while let Some(item) = self.queue.front_mut() {
            while item.written < item.store.length() {
                let piece = match &item.store {
                    Store::Memory(bytes) => bytes.get(item.written as usize..).unwrap_or_default(),
                    Store::File(file, length) => {
                        let wanted = usize::try_from(length - item.written).unwrap_or(PIECE).min(PIECE);
                        buffer.resize(wanted, 0);
                        // What cannot be read back was lost with the disk: the message breaks off, and is told.
                        file.read_exact_at(&mut buffer, item.written).map_err(|_| Errno::IO)?;
                        buffer.as_slice()
                    }
                };
                match rustix::io::write(&to, piece) {
                    Ok(written) => item.written += written as u64,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Ok(false),
                    Err(err) => return Err(err),
                }
            }
            if item.eof && tty {
                match rustix::io::write(&to, &END_OF_TRANSMISSION) {
                    Ok(_) => {}
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                    Err(err) => return Err(err),
                }
            }
            let Some(item) = self.queue.pop_front() else { break };
            self.in_memory -= item.store.in_memory();
            let bytes = item.store.length();
            if let Some(id) = item.id {
                remember(&mut self.sent, REMEMBERED, id.clone(), bytes);
                outcomes.push(Outcome::Sent { client: item.client, id, bytes });
            }
            if let Some((writer, offset)) = item.writer {
                self.writers.retain(|(known, _)| *known != writer);
                remember(&mut self.writers, WRITERS, writer, offset);
                outcomes.push(Outcome::Taken { client: item.client, offset });
            }
            if item.eof && !tty {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Answers messages that are late. One of which nothing was written is taken back.
    pub fn expire(&mut self, now: Instant, outcomes: &mut Vec<Outcome>) {
        let in_memory = &mut self.in_memory;
        self.queue.retain_mut(|item| {
            if item.deadline.is_none_or(|deadline| deadline > now) {
                return true;
            }
            item.deadline = None;
            if let Some(client) = item.client.take() {
                outcomes.push(Outcome::TimedOut { client, bytes: item.store.length(), written: item.written });
            }
            let stays = item.written > 0;
            if !stays {
                *in_memory -= item.store.in_memory();
            }
            stays
        });
    }

    /// Gives up all that waits: the command cannot have it any more.
    pub fn fail(&mut self, outcomes: &mut Vec<Outcome>) {
        for item in self.queue.drain(..) {
            if let (Some(client), Some(_)) = (item.client, item.id) {
                outcomes.push(Outcome::Broken { client, written: item.written });
            }
        }
        self.in_memory = 0;
    }
}

/// What is known of a message's id.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    New,
    /// It waits for the command.
    UnderWay,
    /// It was written, so many bytes.
    Sent(u64),
}

fn remember(list: &mut VecDeque<(String, u64)>, most: usize, id: String, value: u64) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back((id, value));
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn send(input: &mut Input, id: &str, bytes: &[u8]) {
        let mut store = input.store(bytes.len() as u64).unwrap();
        Input::fill(&mut store, bytes).unwrap();
        input.send(id.to_owned(), store, false, 1, Instant::now() + Duration::from_secs(60));
    }

    #[test]
    fn a_message_is_whole_once_and_large_ones_wait_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut input = Input::new(dir.path());
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let large = vec![b'x'; 1 << 20];
        send(&mut input, "large", &large);
        send(&mut input, "small", b"y");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        assert_eq!(input.in_memory, 1);
        let (mut seen, mut outcomes) = (Vec::new(), Vec::new());
        let mut reader = std::fs::File::from(reader);
        while !input.is_empty() {
            assert!(!input.pump(&writer, false, &mut outcomes).unwrap());
            let mut piece = [0; 65536];
            while let Ok(length) = reader.read(&mut piece) {
                seen.extend_from_slice(&piece[..length]);
            }
        }
        assert_eq!(seen.len(), large.len() + 1);
        assert!(seen.ends_with(b"xy"));
        assert_eq!(outcomes.len(), 2);
        assert_eq!(input.known("large", 2, Instant::now()), Known::Sent(1 << 20));
        assert_eq!(input.known("other", 2, Instant::now()), Known::New);
        assert_eq!(input.in_memory, 0);
    }

    #[test]
    fn late_messages_are_taken_back_unless_they_have_begun() {
        let dir = tempfile::tempdir().unwrap();
        let mut input = Input::new(dir.path());
        let (_reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        send(&mut input, "large", &vec![b'x'; 1 << 20]);
        send(&mut input, "small", b"y");
        let mut outcomes = Vec::new();
        input.pump(&writer, false, &mut outcomes).unwrap();
        input.expire(Instant::now() + Duration::from_secs(120), &mut outcomes);
        assert_eq!(
            outcomes,
            [
                Outcome::TimedOut { client: 1, bytes: 1 << 20, written: 65536 },
                Outcome::TimedOut { client: 1, bytes: 1, written: 0 }
            ]
        );
        assert_eq!(input.queue.len(), 1);
        assert_eq!(input.known("large", 2, Instant::now()), Known::UnderWay);
        assert_eq!(input.known("small", 2, Instant::now()), Known::New);
    }

    #[test]
    fn a_writer_that_comes_back_is_not_doubled() {
        let dir = tempfile::tempdir().unwrap();
        let mut input = Input::new(dir.path());
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        assert!(input.write("w", 1, 0, b"abc", false));
        assert!(input.write("w", 1, 3, b"def", false));
        let mut outcomes = Vec::new();
        input.pump(&writer, false, &mut outcomes).unwrap();
        assert_eq!(outcomes.last(), Some(&Outcome::Taken { client: Some(1), offset: 6 }));
        assert_eq!(input.writer_at("w"), 6);
        assert!(input.write("w", 2, 3, b"defgh", false));
        assert!(!input.write("w", 2, 9, b"gap", false));
        input.pump(&writer, false, &mut outcomes).unwrap();
        let mut seen = [0; 64];
        let length = std::fs::File::from(reader).read(&mut seen).unwrap();
        assert_eq!(&seen[..length], b"abcdefgh");
    }
}
