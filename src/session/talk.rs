//! What is asked of sessions.

use std::time::{Duration, Instant};

use steadfast_keeper::frame::{self, Frame, Kind};
use steadfast_keeper::message::{MAX_SEND, MAX_SPEC, Problem, ProblemKind, Send, Sent, Size, Spec, State, Stop};
use steadfast_keeper::start::{LONGEST_NAME, dir_of};

use super::error::words_of;
use super::keeper::ROOT;
use super::{Keeper, Link, SessionError};
use crate::backend::Engine;

/// The largest input that is sent at once, in bytes.
pub const SEND_LIMIT: u64 = MAX_SEND;
/// A terminal's size until somebody attaches with another.
pub const FIRST_SIZE: Size = Size { cols: 80, rows: 24 };
/// Between two attempts over a connection that broke.
const AGAIN: Duration = Duration::from_millis(300);
/// How long a broken connection is tried again for.
const LONGEST_OUTAGE: Duration = Duration::from_secs(30);
/// What a keeper may take beyond what it was given.
const GRACE: Duration = Duration::from_secs(15);

/// Whether a session may be called so: 1 to 63 of a-z, 0-9 and `-`, not beginning with `-`.
pub fn is_session_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && dir_of(std::path::Path::new("/"), name).is_some()
}

/// How input is sent.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// Tells it from others: what is sent again with the same id is written once. `None` for one of its own.
    pub id: Option<String>,
    /// Close standard input afterwards.
    pub eof: bool,
    /// How long the command may take to read it.
    pub timeout: Duration,
}

impl<E: Engine> Keeper<'_, E> {
    /// Starts a session, as this user (`None`: the container's own). Back once its command runs.
    ///
    /// # Errors
    /// All that speaks against it at once, in [`SessionError::Refused`]; then nothing of it is left.
    pub async fn start(&self, spec: &Spec, user: Option<&str>) -> Result<State, SessionError> {
        let (began, told) = (Instant::now(), frame::message(Kind::Hello, spec));
        if told.len() > MAX_SPEC {
            let most = crate::sizes::about(MAX_SPEC as u64);
            let message =
                format!("the command and its variables are longer than {most}, the most that a session takes");
            return Err(SessionError::refused(Problem::new(ProblemKind::Command, message)));
        }
        loop {
            let answered = self.ask(user, "start", &[], &told).await;
            let broke = match answered {
                Ok(frames) => return self.one_state(&frames)?.ok_or_else(|| self.broken(None)),
                Err(err) if err.is_of_transport() && began.elapsed() < LONGEST_OUTAGE => err,
                Err(err) => return Err(err),
            };
            // The answer may have been lost: it may run.
            tracing::debug!(error = %broke, "the answer to a start was lost");
            tokio::time::sleep(AGAIN).await;
            if let Ok(Some(state)) = self.state(&spec.name).await
                && state.id == spec.id
            {
                return Ok(state);
            }
        }
    }

    /// How all sessions are, ordered by name.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn list(&self) -> Result<Vec<State>, SessionError> {
        let frames = self.ask(Some(ROOT), "list", &[], &[]).await?;
        let mut states = self.states(&frames)?;
        states.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(states)
    }

    /// How one session is; `None` where there is none.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn state(&self, session: &str) -> Result<Option<State>, SessionError> {
        let frames = self.ask(Some(ROOT), "list", &[session], &[]).await?;
        self.one_state(&frames)
    }

    fn states(&self, frames: &[Frame]) -> Result<Vec<State>, SessionError> {
        let garbled =
            |err: serde_json::Error| SessionError::Garbled { agent: self.agent.clone(), why: err.to_string() };
        let (mut states, mut problems) = (Vec::new(), Vec::new());
        for frame in frames {
            match frame.kind {
                Kind::State => states.push(serde_json::from_slice(&frame.payload).map_err(garbled)?),
                Kind::Problem => problems.push(serde_json::from_slice::<Problem>(&frame.payload).map_err(garbled)?),
                _ => {}
            }
        }
        if problems.is_empty() { Ok(states) } else { Err(SessionError::Refused(problems)) }
    }

    fn one_state(&self, frames: &[Frame]) -> Result<Option<State>, SessionError> {
        Ok(self.states(frames)?.into_iter().next())
    }

    /// Sends input whole. A connection that breaks is made again, and nothing is sent twice. Yields how many bytes were written.
    ///
    /// # Errors
    /// A refusal of kind `timeout` tells how much was written all the same.
    pub async fn send(&self, session: &str, bytes: &[u8], options: &SendOptions) -> Result<u64, SessionError> {
        let (began, id) = (Instant::now(), options.id.clone().unwrap_or_else(new_id));
        loop {
            let left = options.timeout.saturating_sub(began.elapsed());
            let sent = match self.connect(session).await {
                Ok(mut link) => self.send_over(&mut link, &id, bytes, options, left).await,
                Err(err) => Err(err),
            };
            match sent {
                Err(err) if err.is_of_transport() && began.elapsed() < options.timeout.max(LONGEST_OUTAGE) => {
                    tracing::debug!(error = %err, "sending again over a new connection");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(err) => return Err(self.in_words(session, err).await),
                sent => return sent,
            }
        }
    }

    /// Sends over this connection, once.
    pub(super) async fn send_over(
        &self,
        link: &mut Link,
        id: &str,
        bytes: &[u8],
        options: &SendOptions,
        timeout: Duration,
    ) -> Result<u64, SessionError> {
        match tokio::time::timeout(timeout + GRACE, say_and_hear(link, id, bytes, options, timeout)).await {
            Ok(sent) => sent,
            Err(_) => Err(self.broken(Some("no answer came in time".to_owned()))),
        }
    }

    /// Ends a session: this signal, KILL after that time. Yields how it ended.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn stop(&self, session: &str, signal: i32, timeout: Duration) -> Result<State, SessionError> {
        let stop = Stop { signal, timeout_ms: millis(timeout) };
        self.until_ended(session, &frame::message(Kind::Stop, &stop)).await
    }

    /// Waits for a session's end.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn wait(&self, session: &str) -> Result<State, SessionError> {
        self.until_ended(session, &frame::bytes(Kind::Wait, &[])).await
    }

    async fn until_ended(&self, session: &str, request: &[u8]) -> Result<State, SessionError> {
        let mut broken_since = None;
        loop {
            match self.hear_the_end(session, request).await {
                Err(err) if err.is_of_transport() => {
                    let since = *broken_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > LONGEST_OUTAGE {
                        return Err(err);
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                Err(err) => return Err(self.in_words(session, err).await),
                ended => return ended,
            }
        }
    }

    async fn hear_the_end(&self, session: &str, request: &[u8]) -> Result<State, SessionError> {
        let mut link = self.connect(session).await?;
        link.writer.say(request).await?;
        let (reader, writer) = (&mut link.reader, &mut link.writer);
        let hear = async {
            loop {
                let frame = reader.must().await?;
                match frame.kind {
                    Kind::Ended => return reader.read(&frame),
                    Kind::Problem => return Err(reader.refusal(&frame)),
                    _ => {}
                }
            }
        };
        tokio::select! {
            ended = hear => ended,
            err = ping(writer) => Err(err),
        }
    }

    /// Removes what is left of a session that has ended.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn remove(&self, state: &State) -> Result<(), SessionError> {
        // Root may be without the power over what others own.
        let user = state.uid.to_string();
        let frames = self.ask(Some(&user), "remove", &[&state.name], &[]).await?;
        self.states(&frames).map(|_| ())
    }

    /// A refusal with the session's whole name, and how it is.
    pub async fn in_words(&self, session: &str, err: SessionError) -> SessionError {
        let SessionError::Refused(problems) = err else { return err };
        let name = format!("{}/{session}", self.agent);
        let mut told = Vec::new();
        for problem in problems {
            let message = match problem.kind {
                ProblemKind::NotFound => format!("session {name} does not exist"),
                ProblemKind::NotRunning => match self.state(session).await {
                    Ok(Some(state)) => format!("session {name} is not running ({})", words_of(&state)),
                    _ => format!("session {name} is not running"),
                },
                _ => problem.message.clone(),
            };
            told.push(Problem { message, ..problem });
        }
        SessionError::Refused(told)
    }
}

/// Announces input, sends it, and hears what came of it.
async fn say_and_hear(
    link: &mut Link,
    id: &str,
    bytes: &[u8],
    options: &SendOptions,
    timeout: Duration,
) -> Result<u64, SessionError> {
    let (id, eof) = (id.to_owned(), options.eof);
    let send = Send { id, bytes: bytes.len() as u64, eof, timeout_ms: millis(timeout) };
    let (reader, writer) = (&mut link.reader, &mut link.writer);
    let say = async {
        writer.say(&frame::message(Kind::Send, &send)).await?;
        for piece in bytes.chunks(frame::PIECE) {
            writer.say(&frame::bytes(Kind::Data, piece)).await?;
        }
        writer.say(&frame::bytes(Kind::End, &[])).await
    };
    let hear = async {
        loop {
            let frame = reader.must().await?;
            match frame.kind {
                Kind::Sent => return Ok(reader.read::<Sent>(&frame)?.bytes),
                Kind::Problem => return Err(reader.refusal(&frame)),
                _ => {}
            }
        }
    };
    tokio::pin!(say, hear);
    // An answer may come before all was said: a refusal, or that it is known already.
    tokio::select! {
        biased;
        answer = &mut hear => answer,
        said = &mut say => match said {
            Ok(()) => hear.await,
            // Why nobody listens may stand in what was said before.
            Err(broken) => match hear.await {
                Err(SessionError::Broken { .. }) => Err(broken),
                answer => answer,
            },
        },
    }
}

/// Never the same twice.
pub(super) fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Says that we are alive, for ever.
pub(super) async fn ping(writer: &mut super::LinkWriter) -> SessionError {
    loop {
        tokio::time::sleep(PING).await;
        if let Err(err) = writer.say(&frame::bytes(Kind::Ping, &[])).await {
            return err;
        }
    }
}

/// A third of the silence that a keeper bears.
pub(super) const PING: Duration = Duration::from_secs(20);
