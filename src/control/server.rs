//! The serving side: accepts, reads one request, and writes lines for as long as the client reads them.
//!
//! Each client has a task of its own that looks at two channels; the run loop writes into these and never waits for
//! anybody here.

mod client;
mod seats;

use client::Client;
use seats::{Seat, Seats};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::paths::{Address, MAX_PATH, SOCKET};
use super::{Controlled, MAX_CLIENTS, Refused, RefusedKind};

/// How long clients have to hear that it is over.
const FAREWELL_TIME: Duration = Duration::from_millis(500);
/// How long nobody is accepted after the system could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether a client that sends nothing more still reads.
const HALF_CLOSED_LOOK: Duration = Duration::from_secs(1);

/// Why there is no control socket. `run` goes on without.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No address of a socket is as long as that.
    #[error("the control socket's path `{}` has {bytes} bytes, and {most} is the most", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
    /// Something is in its place that is no socket.
    #[error("`{}` is in the place of the control socket and is not a socket", path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("failed to make the control socket `{}`", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
}

/// A socket that is bound and not yet served: clients may come and wait.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    file: SocketFile,
}

/// A socket that is served. Dropping it drops all clients and removes the file; [`Serving::stop`] tells them before.
#[derive(Debug)]
pub struct Serving {
    cancel: CancellationToken,
    tasks: TaskTracker,
    seats: Arc<Seats>,
    file: SocketFile,
}

/// The socket's file, removed with this value if it is still the one.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn id(path: &Path) -> io::Result<(u64, u64)> {
        std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
    }

    fn is_in_place(&self) -> bool {
        Self::id(&self.path).is_ok_and(|id| id == self.id)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(err) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), error = %err, "cannot remove the control socket");
        }
    }
}

impl Bound {
    /// Makes the socket in the state directory `dir`, which only its owner may enter. The caller holds the state's lock, so
    /// that a socket found there is one that nobody listens on, and is replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn new(dir: &Path) -> Result<Self, ServeError> {
        let path = dir.join(SOCKET);
        let io = |err| ServeError::Io { path: path.clone(), err };
        let Some(address) = Address::of(dir).map_err(io)? else {
            let bytes = path.as_os_str().len();
            return Err(ServeError::PathTooLong { path, bytes, most: MAX_PATH });
        };
        match std::fs::symlink_metadata(&path) {
            Ok(there) if there.file_type().is_socket() => std::fs::remove_file(&path).map_err(io)?,
            Ok(_) => return Err(ServeError::InTheWay { path }),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(io(err)),
        }
        let listener = UnixListener::bind(address.path()).map_err(io)?;
        let id = SocketFile::id(&path).map_err(io)?;
        let file = SocketFile { path: path.clone(), id };
        // Who comes before this is refused by name, see `may_ask`.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        Ok(Self { listener, file })
    }

    /// Serves it in tasks of the current runtime.
    pub fn serve<C: Controlled>(self, controlled: Arc<C>) -> Serving {
        let Self { listener, file } = self;
        let (cancel, tasks, seats) = (CancellationToken::new(), TaskTracker::new(), Arc::new(Seats::default()));
        tasks.spawn(accept(listener, controlled, cancel.clone(), tasks.clone(), seats.clone()));
        Serving { cancel, tasks, seats, file }
    }
}

impl Serving {
    /// Makes the socket anew where its file was removed or replaced by another socket meanwhile; who is connected stays so.
    /// Yields whether that was so.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn put_back<C: Controlled>(&mut self, controlled: Arc<C>) -> Result<bool, ServeError> {
        if self.file.is_in_place() {
            return Ok(false);
        }
        let Bound { listener, file } = Bound::new(self.file.path.parent().unwrap_or(Path::new("/")))?;
        // The old listener goes on: as long as it does, no other file gets the number that tells ours.
        let (cancel, tasks, seats) = (self.cancel.clone(), self.tasks.clone(), self.seats.clone());
        self.tasks.spawn(accept(listener, controlled, cancel, tasks, seats));
        self.file = file;
        Ok(true)
    }

    /// Tells all clients that it is over and removes the socket. Takes half a second at most.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(FAREWELL_TIME, self.tasks.wait()).await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn accept<C: Controlled>(
    listener: UnixListener,
    controlled: Arc<C>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    seats: Arc<Seats>,
) {
    loop {
        let stream = tokio::select! {
            // Cancel-safe: a connection that is not yet accepted stays in the queue.
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(err) => {
                    tracing::debug!(error = %err, "cannot accept on the control socket");
                    tokio::select! {
                        () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                        () = cancel.cancelled() => return,
                    }
                }
            },
            () = cancel.cancelled() => return,
        };
        let Some(seat) = seats.take() else {
            let busy =
                Refused::new(RefusedKind::Busy, format!("{MAX_CLIENTS} clients are connected, the most there may be"));
            // A new connection takes a line without waiting.
            let _ = stream.try_write(&line(&refusal(&busy)));
            continue;
        };
        let (controlled, cancel) = (Arc::clone(&controlled), cancel.clone());
        tasks.spawn(async move {
            let (read, write) = stream.into_split();
            let mut client = Client { read: BufReader::new(read), write, half_closed: false, cancel, seat };
            match client.serve(&*controlled).await {
                Ok(()) => {}
                Err(Over::Refused(refused)) => {
                    tracing::debug!(kind = refused.kind.as_str(), "refused a request on the control socket");
                    let last = line(&refusal(&refused));
                    let _ = tokio::time::timeout(FAREWELL_TIME, client.write.write_all(&last)).await;
                }
                Err(Over::Gone) => tracing::debug!("a client of the control socket left"),
            }
        });
    }
}

fn refusal(refused: &Refused) -> Value {
    json!({ "error": refused })
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Whether a process of the user `peer` may ask one of the user `own`.
fn may_ask(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

/// Why a client is not served any longer.
enum Over {
    /// It hears why.
    Refused(Refused),
    /// There is nobody to tell.
    Gone,
}

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Over::Gone
    }
}

/// Waits until it is all over, or the client is to make room, and says which.
async fn told_to_leave(cancel: &CancellationToken, seat: &Seat) -> Refused {
    tokio::select! {
        () = cancel.cancelled() => Refused::stopping(),
        () = seat.leave.cancelled() => Refused::new(
            RefusedKind::Busy,
            format!("{MAX_CLIENTS} clients are connected, the most there may be, and this one made room for another"),
        ),
    }
}

#[cfg(test)]
mod tests;
