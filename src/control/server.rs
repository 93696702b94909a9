//! The serving side: accepts, reads one request, and writes lines for as long as the client reads them.
//!
//! Each client has a task of its own that looks at two channels; the run loop writes into these and never waits for
//! anybody here.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::paths::{Address, MAX_PATH, SOCKET};
use super::{
    Controlled, DEFAULT_TIMEOUT, MAX_CLIENTS, MAX_REQUEST, MAX_TIMEOUT, REQUEST_TIME, Refused, RefusedKind, Request,
    WRITE_TIME,
};

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

/// Who is served. Where all seats are taken, who has waited longest and asks for no work makes room for who comes: 32 that
/// only listen keep nobody from having something done.
#[derive(Debug, Default)]
struct Seats {
    taken: Mutex<BTreeMap<u64, Taken>>,
    count: AtomicU64,
}

#[derive(Debug)]
struct Taken {
    /// Cancelled when its client is to make room.
    leave: CancellationToken,
    /// Something is done for its client.
    works: bool,
}

/// The seat of a client, given up with this value.
#[derive(Debug)]
struct Seat {
    seats: Arc<Seats>,
    number: u64,
    leave: CancellationToken,
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat, unless something is done for everybody who has one.
    fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.len() >= MAX_CLIENTS {
            let oldest = taken.iter().find(|(_, seat)| !seat.works).map(|(number, _)| *number)?;
            if let Some(seat) = taken.remove(&oldest) {
                seat.leave.cancel();
            }
        }
        let (number, leave) = (self.count.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        taken.insert(number, Taken { leave: leave.clone(), works: false });
        Some(Seat { seats: Arc::clone(self), number, leave })
    }
}

impl Seat {
    /// Keeps the seat until the work is done.
    fn work(&self) {
        if let Some(seat) = self.seats.taken().get_mut(&self.number) {
            seat.works = true;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().remove(&self.number);
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

struct Client {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// It sends nothing more, and may read all the same (`nc -N`).
    half_closed: bool,
    cancel: CancellationToken,
    seat: Seat,
}

impl Client {
    async fn serve(&mut self, controlled: &impl Controlled) -> Result<(), Over> {
        let peer = self.stream().peer_cred()?.uid();
        if !may_ask(peer, rustix::process::geteuid().as_raw()) {
            return Err(Over::Refused(Refused::new(
                RefusedKind::Forbidden,
                "the control socket is for its owner and for root",
            )));
        }
        let Some(request) = self.request().await? else { return Ok(()) };
        match request {
            Request::Status => self.status(controlled, false).await,
            Request::Watch => self.status(controlled, true).await,
            Request::Events => self.events(controlled).await,
            Request::Reconcile { timeout_ms } => {
                let timeout = timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis).min(MAX_TIMEOUT);
                self.reconcile(controlled, timeout).await
            }
        }
    }

    /// The request line; `None` from a client that asked nothing and left.
    async fn request(&mut self) -> Result<Option<Request>, Over> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.read).take(MAX_REQUEST as u64 + 1);
        tokio::select! {
            read = tokio::time::timeout(REQUEST_TIME, bounded.read_until(b'\n', &mut line)) => match read {
                Ok(read) => read?,
                Err(_) => {
                    let seconds = REQUEST_TIME.as_secs();
                    let message = format!("no request came within {seconds} s");
                    return Err(Over::Refused(Refused::new(RefusedKind::TooSlow, message)));
                }
            },
            refused = told_to_leave(&self.cancel, &self.seat) => return Err(Over::Refused(refused)),
        };
        if line.len() > MAX_REQUEST {
            let message = format!("the request is larger than {MAX_REQUEST} bytes");
            return Err(Over::Refused(Refused::new(RefusedKind::TooLarge, message)));
        }
        if line.is_empty() {
            return Ok(None);
        }
        Request::parse(&line).map(Some).map_err(Over::Refused)
    }

    async fn status(&mut self, controlled: &impl Controlled, go_on: bool) -> Result<(), Over> {
        if !go_on {
            tokio::select! {
                () = controlled.look() => {}
                over = self.over() => return Err(over),
            }
        }
        let mut status = controlled.status();
        loop {
            let now = tokio::select! {
                seen = status.wait_for(|status| !status.is_null()) => match seen {
                    Ok(status) => Arc::clone(&status),
                    Err(_) => return Err(Over::Refused(Refused::stopping())),
                },
                over = self.over() => return Err(over),
            };
            // What is published from here on is a change.
            status.mark_unchanged();
            self.say(&now).await?;
            if !go_on {
                return Ok(());
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() {
                    return Err(Over::Refused(Refused::stopping()));
                },
                over = self.over() => return Err(over),
            }
        }
    }

    async fn events(&mut self, controlled: &impl Controlled) -> Result<(), Over> {
        let mut events = controlled.events();
        loop {
            let received = tokio::select! {
                received = events.recv() => received,
                over = self.over() => return Err(over),
            };
            self.on_event(received).await?;
        }
    }

    async fn reconcile(&mut self, controlled: &impl Controlled, timeout: Duration) -> Result<(), Over> {
        self.seat.work();
        // Before it is asked for, so that nothing of it is missed.
        let mut events = controlled.events();
        let working = controlled.reconcile(timeout);
        tokio::pin!(working);
        let mut silent = false;
        let outcome = loop {
            let received = tokio::select! {
                biased;
                received = events.recv(), if !silent => received,
                outcome = &mut working => break outcome,
                over = self.over() => return Err(over),
            };
            // Who says nothing more may still come to an end.
            silent = matches!(received, Err(RecvError::Closed));
            if !silent {
                self.on_event(received).await?;
            }
        };
        // What it told in its last breath.
        loop {
            match events.try_recv() {
                Ok(event) => self.on_event(Ok(event)).await?,
                Err(TryRecvError::Lagged(missed)) => self.on_event(Err(RecvError::Lagged(missed))).await?,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        match outcome {
            Some(outcome) => self.say(&json!({ "outcome": outcome })).await,
            None => Err(Over::Refused(Refused::stopping())),
        }
    }

    /// Passes an event on, or says how many were missed.
    async fn on_event(&mut self, received: Result<Arc<Value>, RecvError>) -> Result<(), Over> {
        match received {
            Ok(event) => self.say(&event).await,
            Err(RecvError::Lagged(missed)) => self.say(&json!({"event": "lagged", "missed": missed})).await,
            Err(RecvError::Closed) => Err(Over::Refused(Refused::stopping())),
        }
    }

    /// Writes a line. A client that does not read it is dropped.
    async fn say(&mut self, value: &Value) -> Result<(), Over> {
        let line = line(value);
        tokio::select! {
            // What fits at once is said even when it is all over.
            biased;
            written = tokio::time::timeout(WRITE_TIME, self.write.write_all(&line)) => match written {
                Ok(written) => Ok(written?),
                Err(_) => Err(Over::Gone),
            },
            // Half a line may be out: nothing more can be said.
            _ = told_to_leave(&self.cancel, &self.seat) => Err(Over::Gone),
        }
    }

    /// Waits until there is no more reason to serve: the client left, or it is all over. Cancel-safe: what the client
    /// still sends is of no interest.
    async fn over(&mut self) -> Over {
        let mut ignored = [0; 1024];
        loop {
            tokio::select! {
                read = self.read.read(&mut ignored), if !self.half_closed => match read {
                    Ok(0) => {
                        if self.is_gone() {
                            return Over::Gone;
                        }
                        self.half_closed = true;
                    }
                    Ok(_) => {}
                    Err(_) => return Over::Gone,
                },
                () = tokio::time::sleep(HALF_CLOSED_LOOK), if self.half_closed => if self.is_gone() {
                    return Over::Gone;
                },
                refused = told_to_leave(&self.cancel, &self.seat) => return Over::Refused(refused),
            }
        }
    }

    fn stream(&self) -> &UnixStream {
        self.write.as_ref()
    }

    /// Whether the other side is closed altogether, and not for sending alone.
    fn is_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};

        let mut fds = [PollFd::new(self.stream(), PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        polled.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

#[cfg(test)]
mod tests {
    use super::may_ask;

    #[test]
    fn only_the_owner_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }
}
