//! The asking side: connects, sends one request, and reads lines.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::paths::{Address, MAX_PATH, SOCKET};
use super::{Refused, Request};
use crate::files;

/// The most bytes of an answer's line (64 MiB): the status of ten thousand agents has a fifth of it.
const MAX_LINE: u64 = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody serves a control socket there.
    #[error("nobody serves the control socket `{}`", path.display())]
    NotThere {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// No address of a socket is as long as that.
    #[error("the control socket's path `{}` has {bytes} bytes, and {most} is the most", path.display())]
    PathTooLong {
        /// Its path.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
    /// It belongs to somebody who is not trusted.
    #[error("the control socket `{}` is served by another user (uid {uid})", path.display())]
    OtherUser {
        /// Its path.
        path: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// It was asked and says no.
    #[error(transparent)]
    Refused(Refused),
    /// The connection ended before the answer.
    #[error("`steadfast run` closed the control socket before it answered")]
    Closed,
    /// The answer is none.
    #[error("what came through the control socket is not JSON: {why}")]
    Garbled {
        /// Why not.
        why: String,
    },
    /// The connection broke.
    #[error("the connection to the control socket broke")]
    Io(#[source] io::Error),
}

/// A request that was sent, whose answers are read one by one.
#[derive(Debug)]
pub struct Asked {
    read: BufReader<OwnedReadHalf>,
    /// Open as long as answers are wanted.
    _write: OwnedWriteHalf,
    line: Vec<u8>,
}

impl Asked {
    /// Sends a request to the socket in the state directory `dir`. There is no deadline: give it one.
    ///
    /// # Errors
    /// When nobody serves it, or the connection breaks.
    pub async fn new(dir: &Path, request: &Request) -> Result<Self, AskError> {
        let path = dir.join(SOCKET);
        let not_there = |err| AskError::NotThere { path: path.clone(), err };
        // A link would have another answer in its place.
        if std::fs::symlink_metadata(&path).map_err(not_there)?.is_symlink() {
            return Err(not_there(files::Unfit::Link.into()));
        }
        let Some(address) = Address::of(dir).map_err(not_there)? else {
            let bytes = path.as_os_str().len();
            return Err(AskError::PathTooLong { path, bytes, most: MAX_PATH });
        };
        let stream = UnixStream::connect(address.path()).await.map_err(not_there)?;
        let uid = stream.peer_cred().map_err(AskError::Io)?.uid();
        if !may_answer(uid, rustix::process::geteuid().as_raw()) {
            return Err(AskError::OtherUser { path, uid });
        }
        let (read, mut write) = stream.into_split();
        let mut line = serde_json::to_vec(request).map_err(|err| AskError::Garbled { why: err.to_string() })?;
        line.push(b'\n');
        // Who is refused at once may find the door closed and a word behind it.
        if let Err(err) = write.write_all(&line).await
            && err.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(AskError::Io(err));
        }
        Ok(Self { read: BufReader::new(read), _write: write, line: Vec::new() })
    }

    /// The next line. Cancel-safe: a line that is cut short by the caller's giving up goes on with the next call.
    ///
    /// # Errors
    /// [`AskError::Refused`] for an error line, [`AskError::Closed`] when no more lines come.
    pub async fn next(&mut self) -> Result<Value, AskError> {
        let left = MAX_LINE.saturating_sub(self.line.len() as u64);
        match (&mut self.read).take(left).read_until(b'\n', &mut self.line).await {
            Ok(_) if self.line.ends_with(b"\n") => {}
            Ok(_) if self.line.len() as u64 >= MAX_LINE => {
                return Err(AskError::Garbled { why: format!("a line has more than {MAX_LINE} bytes") });
            }
            Ok(_) => return Err(AskError::Closed),
            // Closed with something of ours unread.
            Err(err) if err.kind() == io::ErrorKind::ConnectionReset => return Err(AskError::Closed),
            Err(err) => return Err(AskError::Io(err)),
        }
        answer(&std::mem::take(&mut self.line))
    }
}

/// What a line says.
pub(crate) fn answer(line: &[u8]) -> Result<Value, AskError> {
    let mut value: Value = serde_json::from_slice(line).map_err(|err| AskError::Garbled { why: err.to_string() })?;
    match value.get_mut("error").map(Value::take) {
        // An event or a status has no `error` at its top.
        Some(error) if value.get("event").is_none() => Err(AskError::Refused(
            serde_json::from_value(error.clone())
                .unwrap_or_else(|_| Refused { kind: "unknown".into(), message: error.to_string() }),
        )),
        Some(error) => {
            value["error"] = error;
            Ok(value)
        }
        None => Ok(value),
    }
}

/// Whether an answer of the user `peer` is taken by one of the user `own`: root reads everybody's files anyway.
fn may_answer(peer: u32, own: u32) -> bool {
    peer == own || peer == 0 || own == 0
}

/// The newest status that `run` published.
///
/// # Errors
/// See [`AskError`].
pub async fn status(dir: &Path) -> Result<Value, AskError> {
    Asked::new(dir, &Request::Status).await?.next().await
}
