//! One client: its requests, and the answers and events that it is sent.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

use super::{HALF_CLOSED_LOOK, Over, Seat, line, may_ask, told_to_leave};
use crate::control::{
    Controlled, DEFAULT_TIMEOUT, MAX_REQUEST, MAX_TIMEOUT, REQUEST_TIME, Refused, RefusedKind, Request, WRITE_TIME,
};

pub(super) struct Client {
    pub(super) read: BufReader<OwnedReadHalf>,
    pub(super) write: OwnedWriteHalf,
    /// It sends nothing more, and may read all the same (`nc -N`).
    pub(super) half_closed: bool,
    pub(super) cancel: CancellationToken,
    pub(super) seat: Seat,
}

impl Client {
    pub(super) async fn serve(&mut self, controlled: &impl Controlled) -> Result<(), Over> {
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
            Request::Reconcile { timeout_ms, retry_quarantined } => {
                let timeout = timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis).min(MAX_TIMEOUT);
                self.reconcile(controlled, timeout, retry_quarantined).await
            }
            Request::Send(input) => {
                let sent = tokio::select! {
                    sent = controlled.send(input) => sent,
                    // What the session's keeper has whole by then is written all the same.
                    over = self.over() => return Err(over),
                };
                self.say(&sent.map_err(Over::Refused)?).await
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

    async fn reconcile(
        &mut self,
        controlled: &impl Controlled,
        timeout: Duration,
        retry_quarantined: bool,
    ) -> Result<(), Over> {
        self.seat.work();
        // Before it is asked for, so that nothing of it is missed.
        let mut events = controlled.events();
        let working = controlled.reconcile(timeout, retry_quarantined);
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
