//! What is said of a tree. Lists are bytes, not JSON: they have a line for each of many thousand files.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::frame::{self, Kind, PIECE};
use crate::message::Word;

/// How a tree is, above its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Top {
    /// Whether it is there.
    pub exists: bool,
    /// Who looks: the user that this program runs as.
    pub uid: u32,
    /// And the group.
    pub gid: u32,
    /// Whom the tree's directory belongs to, when it is there.
    pub owner: u32,
    /// The deepest directory on the way to it that is there, without links; the tree itself, when that is.
    pub base: Word,
    /// The names from there on.
    pub missing: Vec<Word>,
    /// The git repository in it.
    pub repository: Repository,
}

/// What is known of a git repository without git.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Repository {
    /// Whether `.git` is there, whatever it is.
    pub exists: bool,
    /// Its `HEAD`, without the line end; empty where that cannot be read.
    pub head: Word,
    /// Its references with what they point to.
    pub refs: Vec<(Word, Word)>,
    /// Its files that hold objects, below `.git`, with their lengths.
    pub objects: Vec<(Word, u64)>,
}

/// Small answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// To [`super::Question::Look`].
    Top(Top),
    /// Of a file that is sent; `None` for one that cannot be read.
    Length(Option<u64>),
    /// Something in the tree that can be written; `None` where nothing can.
    Writable(Option<Word>),
    /// Why git was not told; `None` when it was.
    Safe(Option<String>),
}

/// What kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum EntryKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Dir = 2,
    /// A symbolic link.
    Link = 3,
    /// A pipe, a socket, a device.
    Other = 4,
}

impl EntryKind {
    fn of(number: u8) -> Option<Self> {
        [Self::File, Self::Dir, Self::Link, Self::Other].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// By what it is told whether a file was written since. Moments in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, i64, i64, u64)", into = "(u64, i64, i64, u64)")]
pub struct Stamp {
    /// Its length in bytes.
    pub size: u64,
    /// When its content was changed.
    pub mtime: i64,
    /// When anything of it was changed.
    pub ctime: i64,
    /// Its number in the file system.
    pub ino: u64,
}

impl From<(u64, i64, i64, u64)> for Stamp {
    fn from((size, mtime, ctime, ino): (u64, i64, i64, u64)) -> Self {
        Self { size, mtime, ctime, ino }
    }
}

impl From<Stamp> for (u64, i64, i64, u64) {
    fn from(stamp: Stamp) -> Self {
        (stamp.size, stamp.mtime, stamp.ctime, stamp.ino)
    }
}

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the tree.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Who may do what, without the kind: nine bits.
    pub mode: u32,
    /// When it was written.
    pub stamp: Stamp,
    /// Where a link leads to.
    pub link: Vec<u8>,
    /// The sha256 of a file, where that was asked for.
    pub digest: Option<[u8; 32]>,
}

impl Entry {
    /// One of which nothing is known.
    pub fn bare(path: Vec<u8>) -> Self {
        Self { path, kind: EntryKind::Other, mode: 0, stamp: Stamp::default(), link: Vec::new(), digest: None }
    }
}

/// What must stand at a path for a step to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever.
    Anything,
    /// Nothing.
    Absent,
    /// Exactly what was seen. Of a directory only that it is one.
    Seen(EntryKind, Stamp),
}

/// What is done at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// What came under this number gets the name.
    File(u64),
    /// A link to there.
    Link(Vec<u8>),
    /// A directory of this mode.
    Dir(u32),
    /// Goes away; a directory only when it is empty.
    Remove,
    /// Gets this other name in the tree. Nothing is done where there is nothing.
    Rename(Vec<u8>),
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where, below the tree.
    pub path: Vec<u8>,
    /// As long as this stands there.
    pub expected: Expected,
    /// What is done.
    pub task: Task,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; this stands there now.
    Placed(Entry),
    /// Done; nothing stands there now.
    Gone(Vec<u8>),
    /// Not done, because of this: what stands there is as it was.
    Kept(Vec<u8>, String),
}

/// What goes into lists.
pub trait Wire: Sized {
    /// Appends it.
    fn write(&self, to: &mut Vec<u8>);
    /// Takes the next; `None` for what is none.
    fn read(from: &mut &[u8]) -> Option<Self>;
}

fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(bytes);
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*first)
}

fn take_bytes(from: &mut &[u8]) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(take(from)?) as usize;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes.to_vec())
}

impl Wire for Word {
    fn write(&self, to: &mut Vec<u8>) {
        put(to, &self.0);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        take_bytes(from).map(Self)
    }
}

impl Wire for Stamp {
    fn write(&self, to: &mut Vec<u8>) {
        for number in
            [self.size.to_be_bytes(), self.mtime.to_be_bytes(), self.ctime.to_be_bytes(), self.ino.to_be_bytes()]
        {
            to.extend_from_slice(&number);
        }
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            size: u64::from_be_bytes(take(from)?),
            mtime: i64::from_be_bytes(take(from)?),
            ctime: i64::from_be_bytes(take(from)?),
            ino: u64::from_be_bytes(take(from)?),
        })
    }
}

impl Wire for Entry {
    fn write(&self, to: &mut Vec<u8>) {
        to.push(self.kind as u8 | if self.digest.is_some() { 128 } else { 0 });
        to.extend_from_slice(&self.mode.to_be_bytes());
        self.stamp.write(to);
        put(to, &self.path);
        put(to, &self.link);
        if let Some(digest) = &self.digest {
            to.extend_from_slice(digest);
        }
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let [first] = take(from)?;
        let kind = EntryKind::of(first & 127)?;
        let mode = u32::from_be_bytes(take(from)?);
        let stamp = Stamp::read(from)?;
        let (path, link) = (take_bytes(from)?, take_bytes(from)?);
        let digest = if first & 128 == 0 { None } else { Some(take(from)?) };
        Some(Self { path, kind, mode, stamp, link, digest })
    }
}

impl Wire for Step {
    fn write(&self, to: &mut Vec<u8>) {
        put(to, &self.path);
        match &self.expected {
            Expected::Anything => to.push(0),
            Expected::Absent => to.push(128),
            Expected::Seen(kind, stamp) => {
                to.push(*kind as u8);
                stamp.write(to);
            }
        }
        match &self.task {
            Task::File(number) => {
                to.push(1);
                to.extend_from_slice(&number.to_be_bytes());
            }
            Task::Link(leads) => {
                to.push(2);
                put(to, leads);
            }
            Task::Dir(mode) => {
                to.push(3);
                to.extend_from_slice(&mode.to_be_bytes());
            }
            Task::Remove => to.push(4),
            Task::Rename(name) => {
                to.push(5);
                put(to, name);
            }
        }
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let path = take_bytes(from)?;
        let [first] = take(from)?;
        let expected = match first {
            0 => Expected::Anything,
            128 => Expected::Absent,
            kind => Expected::Seen(EntryKind::of(kind)?, Stamp::read(from)?),
        };
        let [task] = take(from)?;
        let task = match task {
            1 => Task::File(u64::from_be_bytes(take(from)?)),
            2 => Task::Link(take_bytes(from)?),
            3 => Task::Dir(u32::from_be_bytes(take(from)?)),
            4 => Task::Remove,
            5 => Task::Rename(take_bytes(from)?),
            _ => return None,
        };
        Some(Self { path, expected, task })
    }
}

impl Wire for Outcome {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Placed(entry) => {
                to.push(1);
                entry.write(to);
            }
            Self::Gone(path) => {
                to.push(2);
                put(to, path);
            }
            Self::Kept(path, why) => {
                to.push(3);
                put(to, path);
                put(to, why.as_bytes());
            }
        }
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let [what] = take(from)?;
        match what {
            1 => Entry::read(from).map(Self::Placed),
            2 => take_bytes(from).map(Self::Gone),
            3 => Some(Self::Kept(take_bytes(from)?, String::from_utf8_lossy(&take_bytes(from)?).into_owned())),
            _ => None,
        }
    }
}

/// Reads all that is in a piece of a list; `None` when something of it cannot be read.
pub fn read_all<T: Wire>(mut piece: &[u8], into: &mut Vec<T>) -> Option<()> {
    while !piece.is_empty() {
        into.push(T::read(&mut piece)?);
    }
    Some(())
}

/// Sends a list in frames of many.
pub struct Sheet<'a, W> {
    out: &'a mut W,
    kind: Kind,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Sheet<'a, W> {
    /// An answer.
    pub fn new(out: &'a mut W) -> Self {
        Self { out, kind: Kind::Entries, buffer: Vec::with_capacity(PIECE) }
    }

    /// What belongs to a question.
    pub fn asking(out: &'a mut W) -> Self {
        Self { kind: Kind::Data, ..Self::new(out) }
    }

    /// One more.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(&mut self, item: &impl Wire) -> io::Result<()> {
        item.write(&mut self.buffer);
        // Far below the largest frame: an entry has at most two paths.
        if self.buffer.len() < PIECE { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        frame::write(self.out, self.kind, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Sends the rest.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.flush() }
    }
}
