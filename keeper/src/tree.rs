//! A source tree in a container: how it is, and the steps that make it as it should be.
//!
//! One run of the program is one conversation about one tree: `tree BASE TARGET`, run as whoever the tree belongs to. Files come
//! in by Podman's archive, below a directory in the tree itself ([`STAGE`]), and are given their names here, each only while what
//! stands there is still what was seen. Nothing is decided here: what is done with which path, the other side says.

use std::ffi::OsString;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::frame::{self, Kind, PIECE};
use crate::message::{Hello, Problem, ProblemKind, Word};

mod look;
mod place;
mod wire;
mod write;

pub use wire::{Entry, EntryKind, Expected, Outcome, Repository, Sheet, Stamp, Step, Task, Told, Top, Wire};

/// What the name of a directory begins with in which files arrive. It stands in the tree, since that may be a file system of its
/// own, and is cleared away.
pub const STAGE: &[u8] = b".steadfast-incoming-";
/// The largest list that is taken in, in bytes.
const LIST_LIMIT: usize = 256 << 20;

/// What is asked of a tree.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// How it is: [`Top`], then every [`Entry`].
    Look {
        /// What killed preparations left is cleared away first.
        clear: bool,
    },
    /// The digests of these files: a list of paths follows.
    Digests,
    /// Does these steps, in this order: a list of [`Step`] follows. Each is answered by an [`Outcome`].
    Place {
        /// The name of the directory in the tree that holds what came.
        stage: String,
    },
    /// These files, as they are: a list of paths follows. Each is answered by its length, and its bytes.
    Read,
    /// Whether anything in it can be written by this user.
    TryWrite,
    /// Tells git, for every user, that this tree is safe though somebody else owns it; or no more.
    Safe {
        /// Whether it is.
        is: bool,
    },
    /// Removes it.
    Remove,
}

/// Speaks about one tree, over standard input and output, until the other side has nothing more to ask.
pub fn main(target: &OsString) -> ExitCode {
    let target = PathBuf::from(target);
    let mut out = BufWriter::with_capacity(PIECE, io::stdout().lock());
    let spoken = converse(&target, &mut io::stdin().lock(), &mut out).and_then(|()| out.flush());
    if spoken.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn converse(target: &Path, input: &mut impl Read, out: &mut impl Write) -> io::Result<()> {
    while let Some(frame) = frame::read(input)? {
        match frame.kind {
            Kind::Hello => out.write_all(&frame::message(Kind::Hello, &Hello { version: frame::VERSION }))?,
            Kind::Ask => {
                let answered = match serde_json::from_slice::<Question>(&frame.payload) {
                    Ok(question) => answer(target, &question, input, out),
                    Err(err) => Err(Fault::Said(format!("no question about a tree: {err}"))),
                };
                match answered {
                    Ok(()) => frame::write(out, Kind::End, &[])?,
                    Err(Fault::Pipe(err)) => return Err(err),
                    Err(Fault::Said(why)) => {
                        out.write_all(&frame::message(Kind::Problem, &Problem::new(ProblemKind::System, why)))?;
                    }
                }
            }
            _ => {}
        }
        out.flush()?;
    }
    Ok(())
}

/// Why a question has no answer.
enum Fault {
    /// In a sentence.
    Said(String),
    /// Nobody hears it.
    Pipe(io::Error),
}

impl From<io::Error> for Fault {
    fn from(err: io::Error) -> Self {
        Self::Pipe(err)
    }
}

fn answer(target: &Path, question: &Question, input: &mut impl Read, out: &mut impl Write) -> Result<(), Fault> {
    let said = |what: &str, err: io::Error| Fault::Said(format!("{} {what}: {err}", target.display()));
    match question {
        Question::Look { clear } => {
            let top = look::top(target, *clear).map_err(|err| said("cannot be looked at", err))?;
            out.write_all(&frame::message(Kind::Told, &Told::Top(top.clone())))?;
            if top.exists {
                let mut sheet = Sheet::new(out);
                look::walk(target, &mut sheet).map_err(|err| said("cannot be looked at", err))?;
                sheet.finish()?;
            }
        }
        Question::Digests => {
            let paths: Vec<Word> = list(input)?;
            let mut sheet = Sheet::new(out);
            for path in paths {
                // What cannot be read is told without a digest.
                let digest = look::digest(&target.join(path.os())).ok();
                sheet.add(&Entry { digest, ..Entry::bare(path.0) })?;
            }
            sheet.finish()?;
        }
        Question::Place { stage } => {
            let steps: Vec<Step> = list(input)?;
            let mut sheet = Sheet::new(out);
            let mut placing = place::Placing::new(target, stage);
            for step in &steps {
                sheet.add(&placing.take(step))?;
            }
            placing.finish();
            sheet.finish()?;
        }
        Question::Read => {
            for path in list::<Word>(input)? {
                read(&target.join(path.os()), out)?;
            }
        }
        Question::TryWrite => {
            let found = write::try_all(target).map_err(|err| said("cannot be looked at", err))?;
            let found = found.map(|path| Word(path.as_os_str().as_bytes().to_vec()));
            out.write_all(&frame::message(Kind::Told, &Told::Writable(found)))?;
        }
        Question::Safe { is } => {
            let done = write::safe(target, *is).map_err(|err| err.to_string()).err();
            out.write_all(&frame::message(Kind::Told, &Told::Safe(done)))?;
        }
        Question::Remove => {
            place::remove_all(target).map_err(|err| said("cannot be removed", err))?;
        }
    }
    Ok(())
}

/// The list that follows a question.
fn list<T: Wire>(input: &mut impl Read) -> Result<Vec<T>, Fault> {
    let (mut items, mut bytes) = (Vec::new(), 0);
    while let Some(frame) = frame::read(input)? {
        match frame.kind {
            Kind::Data => {
                bytes += frame.payload.len();
                if bytes > LIST_LIMIT {
                    return Err(Fault::Said("a list that is too long".to_owned()));
                }
                wire::read_all(&frame.payload, &mut items).ok_or_else(|| Fault::Said("a garbled list".to_owned()))?;
            }
            Kind::End => return Ok(items),
            _ => {}
        }
    }
    Err(Fault::Pipe(io::ErrorKind::UnexpectedEof.into()))
}

/// Sends a file: its length, then so many bytes. One that cannot be read has none.
fn read(path: &Path, out: &mut impl Write) -> io::Result<()> {
    let opened = look::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let Ok((length, file)) = opened else {
        return out.write_all(&frame::message(Kind::Told, &Told::Length(None)));
    };
    out.write_all(&frame::message(Kind::Told, &Told::Length(Some(length))))?;
    let mut left = file.take(length);
    let mut piece = vec![0; PIECE];
    loop {
        match left.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => frame::write(out, Kind::Data, piece.get(..read).unwrap_or_default())?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    // One that shrank meanwhile ends the conversation: what follows would be taken for its bytes.
    if left.limit() > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
