//! The keeper's program in a container: put there when it is missing, and run.

use std::io::Read;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use sha2::{Digest, Sha256};
use steadfast_keeper::frame::{Frame, Kind};

use super::SessionError;
use super::link::Link;
use crate::backend::podman::{ExecRefusal, is_of_a_container_down};
use crate::backend::{Engine, EngineErrorKind, ExecRequest};
use crate::model::ContainerId;
use crate::model::hashing::hex;
use crate::mutex::guard;

/// The program for each architecture, in Go's words; empty where it was not built.
static PROGRAMS: [(&str, &[u8]); 2] = [
    ("amd64", include_bytes!(concat!(env!("OUT_DIR"), "/keeper-x86_64.zst"))),
    ("arm64", include_bytes!(concat!(env!("OUT_DIR"), "/keeper-aarch64.zst"))),
];
/// Where it may stand in a container, the best first. `/run` is there in each of Podman's; a container with a read-only root has a
/// `tmpfs` there, and one without has `/dev/shm`.
const PLACES: [&str; 3] = ["/run/steadfast", "/tmp/.steadfast", "/dev/shm/.steadfast"];
/// How long a question and its answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// A program that is not there is an end with one of these: of the runtime, and of a shell.
const NOT_RUN: [i32; 3] = [125, 126, 127];

/// The keeper in one agent's container.
#[derive(Debug)]
pub struct Keeper<'a, E> {
    pub(super) engine: &'a E,
    pub(super) container: ContainerId,
    /// For sentences.
    pub(super) agent: String,
    /// Where it was found.
    place: Mutex<Option<&'static str>>,
    /// Whether it is put there where it is missing.
    puts: bool,
}

/// What is wanted of it.
struct Wanted<'w> {
    user: Option<&'w str>,
    verb: &'w str,
    words: &'w [&'w str],
    /// What it is told before it answers; `None` for who speaks with it.
    input: Option<&'w [u8]>,
}

/// What was had.
enum Got {
    Answer(Vec<Frame>),
    Link(Box<Link>),
}

/// What came of running it at one place.
enum Ran<T> {
    Got(T),
    /// It is not there, or cannot be run there; in Podman's words.
    Missing(String),
}

impl<'a, E: Engine> Keeper<'a, E> {
    /// Of the agent that runs in this container. Nothing is asked yet.
    pub fn new(engine: &'a E, container: ContainerId, agent: &str) -> Self {
        Self { engine, container, agent: agent.to_owned(), place: Mutex::new(None), puts: true }
    }

    /// The same for who only looks: where its program is not there, it is not put there, and [`SessionError::NoPlace`] says so.
    #[must_use]
    pub fn only_if_there(self) -> Self {
        Self { puts: false, ..self }
    }

    /// Runs a verb of it, with this input, and yields all that it answers.
    pub(super) async fn ask(
        &self,
        user: Option<&str>,
        verb: &str,
        words: &[&str],
        input: &[u8],
    ) -> Result<Vec<Frame>, SessionError> {
        match self.run(&Wanted { user, verb, words, input: Some(input) }).await? {
            Got::Answer(frames) => Ok(frames),
            Got::Link(_) => Err(self.broken(None)),
        }
    }

    /// Connects to the keeper of a session.
    pub(super) async fn connect(&self, session: &str) -> Result<Link, SessionError> {
        self.connect_as(ROOT, session).await
    }

    /// The same as a user by number.
    pub(super) async fn connect_as(&self, user: &str, session: &str) -> Result<Link, SessionError> {
        self.meet(Some(user), "connect", &[session]).await
    }

    /// Begins to speak about the source tree there, as this user (`None`: the container's own).
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn tree(&self, user: Option<&str>, target: &str) -> Result<Link, SessionError> {
        self.meet(user, "tree", &[target]).await
    }

    pub(super) async fn meet(&self, user: Option<&str>, verb: &str, words: &[&str]) -> Result<Link, SessionError> {
        match self.run(&Wanted { user, verb, words, input: None }).await? {
            Got::Link(link) => Ok(*link),
            Got::Answer(_) => Err(self.broken(None)),
        }
    }

    async fn run(&self, wanted: &Wanted<'_>) -> Result<Got, SessionError> {
        match tokio::time::timeout(ANSWER, self.run_somewhere(wanted)).await {
            Ok(got) => got,
            Err(_) => Err(self.broken(Some(format!("no answer within {}", humantime::format_duration(ANSWER))))),
        }
    }

    /// Tries the place where it was last, then each; where it is missing it is put.
    async fn run_somewhere(&self, wanted: &Wanted<'_>) -> Result<Got, SessionError> {
        let known = *guard(&self.place);
        if let Some(place) = known
            && let Ran::Got(got) = self.run_at(place, wanted).await?
        {
            return Ok(got);
        }
        let mut tried = Vec::new();
        for place in PLACES {
            if let Ran::Got(got) = self.run_at(place, wanted).await? {
                return Ok(self.found(place, got));
            }
            if !self.puts {
                tried.push(format!("{place}: it is not there"));
                continue;
            }
            let missing = match self.put(place).await {
                Ok(()) => match self.run_at(place, wanted).await? {
                    Ran::Got(got) => return Ok(self.found(place, got)),
                    Ran::Missing(why) => why,
                },
                Err(SessionError::Engine(err)) if !err.kind.is_retryable() && err.kind != EngineErrorKind::Conflict => {
                    // The words of Podman, without ours before them.
                    let (_, why) = err.message.split_once("`: ").unwrap_or(("", &err.message));
                    why.to_owned()
                }
                Err(err) => return Err(err),
            };
            tried.push(format!("{place}: {}", missing.trim()));
        }
        Err(SessionError::NoPlace { agent: self.agent.clone(), tried })
    }

    async fn run_at(&self, place: &str, wanted: &Wanted<'_>) -> Result<Ran<Got>, SessionError> {
        let program = format!("{place}/{}", program_name());
        let first = [program.as_str(), wanted.verb, place];
        let command = first.iter().chain(wanted.words).map(|word| (*word).to_owned()).collect();
        let user = wanted.user.map(str::to_owned);
        let request = ExecRequest { command, stdin: true, user, ..ExecRequest::default() };
        let mut link = match self.engine.exec(&self.container, &request).await {
            Ok(exec) => Link::new(exec, &self.agent),
            Err(err) if is_of_a_container_down(&err.message) => {
                return Err(SessionError::AgentDown { agent: self.agent.clone() });
            }
            Err(err) if is_missing(&err.message) => return Ok(Ran::Missing(err.message)),
            Err(err) => return Err(err.into()),
        };
        let Some(input) = wanted.input else {
            return match link.meet().await? {
                true => Ok(Ran::Got(Got::Link(Box::new(link)))),
                false => self.judge(link).await,
            };
        };
        // A program that is not there takes no input; what it is tells its end.
        let _ = link.writer.say(input).await;
        let mut frames = Vec::new();
        while let Some(frame) = link.reader.next().await? {
            if frame.kind == Kind::End {
                return Ok(Ran::Got(Got::Answer(frames)));
            }
            frames.push(frame);
        }
        self.judge(link).await
    }

    fn found<T>(&self, place: &'static str, answer: T) -> T {
        *guard(&self.place) = Some(place);
        answer
    }

    /// Why it ended without a word.
    async fn judge(&self, link: Link) -> Result<Ran<Got>, SessionError> {
        let (complaint, exec) = (link.reader.complaint(), link.id);
        let code = self.engine.exec_exit(&exec).await;
        if is_of_a_container_down(&complaint) {
            return Err(SessionError::AgentDown { agent: self.agent.clone() });
        }
        let was_not_run = code.is_ok_and(|code| NOT_RUN.contains(&code));
        if is_missing(&complaint) || was_not_run {
            return Ok(Ran::Missing(complaint));
        }
        Err(self.broken(Some(complaint).filter(|complaint| !complaint.is_empty())))
    }

    pub(super) fn broken(&self, why: Option<String>) -> SessionError {
        SessionError::Broken { agent: self.agent.clone(), why }
    }

    /// Puts the program there, with a directory that every user may keep sessions in.
    async fn put(&self, place: &str) -> Result<(), SessionError> {
        let arch = self.engine.machine().await?.arch;
        let packed =
            PROGRAMS.iter().find(|(name, packed)| *name == arch && !packed.is_empty()).map(|(_, packed)| *packed);
        let Some(packed) = packed else { return Err(SessionError::NoKeeper { arch }) };
        let archive = archive(place, packed).map_err(|err| SessionError::Garbled {
            agent: self.agent.clone(),
            why: format!("its program cannot be unpacked: {err}"),
        })?;
        tracing::debug!(agent = %self.agent, place, "putting the keeper into a container");
        let tar = Box::pin(stream::once(async move { Ok(Bytes::from(archive)) }));
        Ok(self.engine.put(&self.container, "/", tar).await?)
    }
}

/// Who may speak to every session.
pub(super) const ROOT: &str = "0";

fn is_missing(words: &str) -> bool {
    matches!(ExecRefusal::of_words(words), Some(ExecRefusal::NoProgram))
}

/// Told by what is in it: another build has another one.
fn program_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let mut hash = Sha256::new();
        PROGRAMS.iter().for_each(|(_, packed)| hash.update(packed));
        format!("keeper-{}", hex(&hash.finalize()[..6]))
    })
}

/// What is extracted below `/`.
fn archive(place: &str, packed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut program = Vec::new();
    zstd::Decoder::new(packed)?.read_to_end(&mut program)?;
    let below = place.trim_start_matches('/');
    let mut archive = tar::Builder::new(Vec::new());
    let mut directory = |path: String, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        archive.append_data(&mut header, path, std::io::empty())
    };
    directory(format!("{below}/"), 0o755)?;
    // As `/tmp`: each user's sessions are its own.
    directory(format!("{below}/sessions/"), 0o1777)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    archive.append_data(&mut header, format!("{below}/{}", program_name()), program.as_slice())?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_are_there_and_small() {
        for (arch, packed) in PROGRAMS {
            assert!(!packed.is_empty(), "no keeper for {arch}: `rustup target add` its musl target");
            let archive = archive("/run/steadfast", packed).unwrap();
            assert!(archive.len() < 1 << 20, "{arch}: {} bytes", archive.len());
            let mut archive = tar::Archive::new(archive.as_slice());
            let names: Vec<_> =
                archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
            assert_eq!(
                names,
                [
                    "run/steadfast/".to_owned(),
                    "run/steadfast/sessions/".into(),
                    format!("run/steadfast/{}", program_name())
                ]
            );
        }
    }
}
