//! A connection to a keeper: frames over a command's standard input and output.

use std::pin::Pin;

use futures_util::StreamExt;
use steadfast_keeper::frame::{self, Frame, Frames, Kind};
use steadfast_keeper::message::{Hello, Problem};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::SessionError;
use crate::backend::{Chunk, Chunks, Exec};

/// How much is kept of what the other side complains of, in bytes.
const COMPLAINT: usize = 4096;

/// Both ways.
pub struct Link {
    /// The command's, for its exit code.
    pub(super) id: String,
    /// What is heard.
    pub reader: LinkReader,
    /// What is said.
    pub writer: LinkWriter,
}

/// What a keeper says.
pub struct LinkReader {
    output: Chunks,
    frames: Frames,
    complaint: Vec<u8>,
    agent: String,
    /// A refusal in the place of the first frame.
    early: Option<Frame>,
}

/// What is said to a keeper.
pub struct LinkWriter {
    stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    agent: String,
}

impl Link {
    pub(super) fn new(exec: Exec, agent: &str) -> Self {
        let agent = agent.to_owned();
        let (frames, complaint) = (Frames::default(), Vec::new());
        Self {
            id: exec.id,
            reader: LinkReader { output: exec.output, frames, complaint, agent: agent.clone(), early: None },
            writer: LinkWriter { stdin: exec.stdin, agent },
        }
    }

    /// Says hello and hears it. `false` for who ended without a word.
    pub(super) async fn meet(&mut self) -> Result<bool, SessionError> {
        // A program that is not there takes nothing.
        let _ = self.writer.say(&frame::message(Kind::Hello, &Hello { version: frame::VERSION })).await;
        match self.reader.next().await? {
            Some(frame) if frame.kind == Kind::Hello => Ok(true),
            Some(frame) => {
                self.reader.early = Some(frame);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

impl LinkReader {
    /// The next frame; `None` at the end. May be dropped halfway: what has come is kept.
    ///
    /// # Errors
    /// `Engine` for a connection that broke, `Garbled` for what is no frame.
    pub async fn next(&mut self) -> Result<Option<Frame>, SessionError> {
        if let Some(frame) = self.early.take() {
            return Ok(Some(frame));
        }
        loop {
            let garbled =
                |why: std::io::Error| SessionError::Garbled { agent: self.agent.clone(), why: why.to_string() };
            if let Some(frame) = self.frames.next().map_err(garbled)? {
                return Ok(Some(frame));
            }
            match self.output.next().await {
                Some(Ok(Chunk::Stdout(bytes))) => self.frames.push(&bytes),
                Some(Ok(Chunk::Stderr(bytes))) => {
                    let room = COMPLAINT - self.complaint.len().min(COMPLAINT);
                    self.complaint.extend(bytes.iter().take(room));
                }
                Some(Err(err)) => return Err(err.into()),
                None => return Ok(None),
            }
        }
    }

    /// The next frame, which must come.
    pub(crate) async fn must(&mut self) -> Result<Frame, SessionError> {
        match self.next().await? {
            Some(frame) => Ok(frame),
            None => {
                let why = Some(self.complaint()).filter(|why| !why.is_empty());
                Err(SessionError::Broken { agent: self.agent.clone(), why })
            }
        }
    }

    /// The refusal that came in the place of a hello.
    pub(super) fn refused(&mut self) -> Option<SessionError> {
        let frame = self.early.take_if(|frame| frame.kind == Kind::Problem)?;
        Some(self.refusal(&frame))
    }

    /// What was written to standard error.
    pub(super) fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.complaint).trim().to_owned()
    }

    /// Reads a message.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self, frame: &Frame) -> Result<T, SessionError> {
        serde_json::from_slice(&frame.payload)
            .map_err(|err| SessionError::Garbled { agent: self.agent.clone(), why: err.to_string() })
    }

    /// A refusal as an error.
    pub fn refusal(&self, frame: &Frame) -> SessionError {
        match self.read::<Problem>(frame) {
            Ok(problem) => SessionError::refused(problem),
            Err(err) => err,
        }
    }
}

impl LinkWriter {
    /// Says this.
    ///
    /// # Errors
    /// `Broken` when nobody hears it.
    pub async fn say(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        let Some(stdin) = &mut self.stdin else { return Err(self.broken("it takes no input")) };
        let said = async {
            stdin.write_all(bytes).await?;
            stdin.flush().await
        };
        said.await.map_err(|err| SessionError::Broken { agent: self.agent.clone(), why: Some(err.to_string()) })
    }

    fn broken(&self, why: &str) -> SessionError {
        SessionError::Broken { agent: self.agent.clone(), why: Some(why.to_owned()) }
    }
}
