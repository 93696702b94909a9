//! `exec`, and how `logs` and `exec` find an agent's container.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io::Write;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::history::unknown_agent;
use super::render::said::{Level, say};
use super::settings::state_dir;
use super::{CliError, ExecArgs, ExitStatus, Settings, ownership};
use crate::backend::podman::{ExecRefusal, PodmanAt};
use crate::backend::{Chunk, Engine, EngineError, EngineErrorKind, Exec, ExecRequest, Look};
use crate::model::{Agent, AgentName, AgentState, ContainerName, ContainerState, Desired, Guest, Phase};
use crate::plan::stays_ended;
use crate::reconcile::lock::{self, LockError};

/// The agents of a state file, and the engine they are in.
pub(super) struct Agents {
    desired: Desired,
    pub(super) engine: PodmanAt,
}

impl Agents {
    pub(super) async fn open(settings: &Settings) -> Result<Self, CliError> {
        let desired = settings.load(None)?.desired;
        ownership::check(settings, &desired)?;
        let engine = settings.reached_engine(&desired).await?;
        Ok(Self { desired, engine })
    }

    /// The container of an agent that serves now; when none does, the one that did last. Found by its labels, whatever it is
    /// called.
    pub(super) async fn look(&self, agent: &AgentName) -> Result<Option<(ContainerName, ContainerState)>, EngineError> {
        let look = Look {
            owner: self.desired.ownership(),
            names: BTreeSet::new(),
            health: BTreeSet::new(),
            key: self.desired.key.clone(),
        };
        let guest = self.engine.look(&look).await?;
        Ok(serving(guest, agent, self.desired.agents.get(agent).map(|agent| &agent.container.name)))
    }

    /// As [`Agents::look`], and an error where there is none.
    pub(super) async fn serving(&self, agent: &AgentName) -> Result<(ContainerName, ContainerState), CliError> {
        if let Some(found) = self.look(agent).await.map_err(|err| CliError::from_engine(&err))? {
            return Ok(found);
        }
        let Some(wanted) = self.desired.agents.get(agent) else {
            let names = self.desired.agents.keys().map(ToString::to_string).collect();
            return Err(unknown_agent(agent, "the state file does not have", &names));
        };
        let why = left_alone(wanted).unwrap_or(match wanted.state {
            AgentState::Stopped => {
                "`steadfast apply` creates it, and leaves it stopped: the state file says `state: stopped`"
            }
            _ => "`steadfast apply` creates it; `steadfast status` shows what stands in the way",
        });
        Err(CliError::new(ExitStatus::Error, format!("agent `{agent}` has no container")).hint(why))
    }

    /// Why the container of an agent does not run, and what would help.
    pub(super) fn why_down(&self, agent: &AgentName, name: &ContainerName, phase: &Phase) -> String {
        let Some(wanted) = self.desired.agents.get(agent) else {
            return "the state file does not have that agent any more; `steadfast apply` removes its container"
                .to_owned();
        };
        if let Some(why) = left_alone(wanted) {
            return why.to_owned();
        }
        let policy = wanted.container.restart;
        match phase {
            _ if wanted.state == AgentState::Stopped => "the state file says `state: stopped`".to_owned(),
            Phase::Exited { code } if stays_ended(policy, *code) => format!(
                "with `restart: {policy}` it stays so; to run it again: `podman rm {name}`, then `steadfast apply`"
            ),
            Phase::Stopping | Phase::Removing => "Podman is at work on it: try again in a moment".to_owned(),
            _ => format!("`steadfast apply` starts it; `steadfast why {agent}` tells what stopped it"),
        }
    }

    /// Where what is remembered of them is kept.
    pub(super) fn state_dir(&self) -> std::path::PathBuf {
        state_dir(&self.desired)
    }

    /// Whether another steadfast is at work on them.
    pub(super) fn are_worked_on(&self) -> bool {
        matches!(lock::check(&state_dir(&self.desired).join("lock")), Err(LockError::Held { .. }))
    }
}

/// Why no verb makes an agent run, where the state file says so.
fn left_alone(agent: &Agent) -> Option<&'static str> {
    match agent.state {
        _ if agent.suspend => Some("it is suspended: nothing is changed while the state file says `suspend: true`"),
        AgentState::Absent => Some("the state file says `state: absent`"),
        AgentState::Running | AgentState::Stopped => None,
    }
}

/// During a replacement an agent has two containers, under the wanted name, `….next` or `….prev`: the one that runs serves.
fn serving(guest: Guest, agent: &AgentName, wanted: Option<&ContainerName>) -> Option<(ContainerName, ContainerState)> {
    let mine = guest.containers.into_iter().filter(|(_, seen)| seen.owner.is_of(agent));
    mine.min_by_key(|(name, seen)| {
        let how_alive = match seen.phase {
            Phase::Running => 0,
            Phase::Paused | Phase::Stopping => 1,
            Phase::Exited { .. } => 2,
            Phase::Created | Phase::Removing | Phase::Other(_) => 3,
        };
        (how_alive, Some(name) != wanted, Reverse(seen.started_at))
    })
}

/// Copies each stream to its own. Yields whether somebody read it to its end.
pub(super) async fn copy(mut output: impl Stream<Item = Result<Chunk, EngineError>> + Unpin) -> Result<bool, CliError> {
    while let Some(chunk) = output.next().await {
        let written = match chunk.map_err(|err| CliError::from_engine(&err))? {
            Chunk::Stdout(bytes) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush())
            }
            Chunk::Stderr(bytes) => std::io::stderr().lock().write_all(&bytes),
        };
        match written {
            Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => return Ok(false),
            Err(err) => return Err(CliError::new(ExitStatus::Error, format!("cannot write the output: {err}"))),
            Ok(()) => {}
        }
    }
    Ok(true)
}

/// The command's own exit code, or 125 when steadfast itself failed.
pub(super) async fn exec(settings: &Settings, args: ExecArgs) -> Result<ExitStatus, CliError> {
    // A broken state file too: 65 may be the command's own.
    let code = run(settings, args).await.map_err(|err| CliError { status: ExitStatus::ExecFailed, ..err })?;
    exit_with(code)
}

/// Ends with the code of somebody else's command.
pub(super) fn exit_with(code: i32) -> ! {
    std::process::exit(code)
}

/// What a shell says of a command that a signal ended.
const SIGNALLED: i32 = 128;
const SIGPIPE: i32 = 13;

/// How a command came to its end.
enum End {
    /// By itself.
    Exited(i32),
    /// We were told to end, by this signal, or nobody reads what it prints.
    Signalled(i32),
}

async fn run(settings: &Settings, args: ExecArgs) -> Result<i32, CliError> {
    let agents = Agents::open(settings).await?;
    let (name, seen) = agents.serving(&args.agent).await?;
    if seen.phase != Phase::Running {
        return Err(CliError::new(
            ExitStatus::ExecFailed,
            format!("agent `{}` does not run: it {}", args.agent, seen.phase),
        )
        .hint(agents.why_down(&args.agent, &name, &seen.phase)));
    }
    let env = args.env.iter().map(|pair| {
        if pair.contains('=') {
            return Ok(pair.clone());
        }
        let value = settings.vars.get(pair).ok_or_else(|| {
            CliError::new(ExitStatus::ExecFailed, format!("-e {pair} passes on a variable that is not set"))
        })?;
        Ok(format!("{pair}={value}"))
    });
    let request = ExecRequest {
        env: env.collect::<Result<_, CliError>>()?,
        command: args.command,
        workdir: args.workdir,
        stdin: args.interactive,
        user: None,
    };
    // From here on, so that none comes between the command's start and our hearing of it.
    let mut signalled = signalled();
    let exec = match agents.engine.exec(&seen.id, &request).await {
        Ok(exec) => exec,
        Err(err) => {
            let refused = Refused::read(&err.message, &request, &name);
            return Err(refused.map_or_else(|| CliError::from_engine(&err), |refused| refused.error));
        }
    };
    let id = exec.id.clone();
    let mut complaint = Complaint::default();
    let ended = tokio::select! {
        biased;
        ended = to_its_end(&agents.engine, exec, &mut complaint) => ended,
        Some(signal) = signalled.recv() => Ok(End::Signalled(signal)),
    };
    drop(signalled);
    let complaint = complaint.text();
    if let Ok(End::Exited(125..=127)) = ended
        && let Some(refused) = Refused::read(&complaint, &request, &name)
    {
        settings.fail(&refused.error);
        return Ok(refused.code);
    }
    // The rest of a complaint is about Podman's own pipes.
    let complaint: String =
        complaint.split_inclusive('\n').filter(|line| !line.starts_with("Error: read unixpacket")).collect();
    let _ = std::io::stderr().lock().write_all(complaint.as_bytes());
    let (code, lost) = match ended {
        Ok(End::Exited(code)) => return Ok(code),
        Ok(End::Signalled(signal)) => (SIGNALLED + signal, None),
        Err(err) => (0, Some(err)),
    };
    if let Err(err) = agents.engine.exec_end(&id).await {
        let message = format!("the command may go on in container `{name}`: {err}");
        let hint = "whoever is on Podman's machine can end it there; `steadfast apply` leaves it alone".to_owned();
        say(Level::Warn, &message, &[hint], settings.color_stderr);
    }
    lost.map_or(Ok(code), Err)
}

/// Listens from now on, and yields the first signal that asks us to end. A second one ends us at once.
fn signalled() -> tokio::sync::mpsc::Receiver<i32> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
        let Ok(mut stream) = signal(kind) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                // Full, or closed by who took the first.
                if sender.try_send(kind.as_raw_value()).is_err() {
                    std::process::exit(SIGNALLED + kind.as_raw_value());
                }
            }
        });
    }
    receiver
}

/// Passes everything on, until the command ends.
async fn to_its_end(engine: &PodmanAt, mut exec: Exec, complaint: &mut Complaint) -> Result<End, CliError> {
    if let Some(mut stdin) = exec.stdin.take() {
        // It may wait for a key for ever; the command's end, not this, ends us.
        tokio::spawn(async move {
            let mut ours = tokio::io::stdin();
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(read) = ours.read(&mut buffer).await {
                if read == 0 || stdin.write_all(&buffer[..read]).await.is_err() || stdin.flush().await.is_err() {
                    break;
                }
            }
            let _ = stdin.shutdown().await;
        });
    }
    let output = exec.output.filter_map(|chunk| std::future::ready(complaint.keep(chunk)));
    if !copy(Box::pin(output)).await? {
        return Ok(End::Signalled(SIGPIPE));
    }
    loop {
        match engine.exec_exit(&exec.id).await {
            // One that closed its output goes on, and so do we.
            Err(err) if err.kind == EngineErrorKind::Timeout => {}
            ended => return ended.map(End::Exited).map_err(|err| CliError::from_engine(&err)),
        }
    }
}

/// What Podman itself says, in the command's place, when it could not start it.
#[derive(Debug, Default)]
struct Complaint(Vec<u8>);

impl Complaint {
    const BEGINNINGS: [&str; 4] = ["Error: runc:", "Error: crun:", "Error: OCI runtime", "Error: read unixpacket"];

    /// Keeps what begins like Podman's words, and passes the rest on.
    fn keep(&mut self, chunk: Result<Chunk, EngineError>) -> Option<Result<Chunk, EngineError>> {
        match chunk {
            Ok(Chunk::Stderr(bytes)) if Self::BEGINNINGS.iter().any(|words| bytes.starts_with(words.as_bytes())) => {
                self.0.extend_from_slice(&bytes);
                None
            }
            chunk => Some(chunk),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// A command that was not started.
struct Refused {
    code: i32,
    error: CliError,
}

impl Refused {
    /// What Podman's words mean, where that is known.
    fn read(words: &str, request: &ExecRequest, container: &ContainerName) -> Option<Self> {
        let refused = |code, message| Some(Self { code, error: CliError::new(ExitStatus::ExecFailed, message) });
        match (ExecRefusal::of_words(words)?, &request.workdir) {
            (ExecRefusal::NoProgram, _) => {
                let program = request.command.first()?;
                refused(127, format!("command `{program}` was not found in container `{container}`"))
            }
            (why, Some(directory)) => {
                let is = if why == ExecRefusal::NotADirectory { "is not a directory" } else { "does not exist" };
                let what = format!("directory `{directory}` (-w) {is} in container `{container}`");
                refused(125, format!("{what}; the command was not run"))
            }
            (_, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podmans_words_are_reported_as_what_they_mean() {
        let request =
            ExecRequest { command: vec!["serve".into()], workdir: Some("/nonexist".into()), ..ExecRequest::default() };
        let name = ContainerName::new("demo-a").unwrap();
        let told = |words: &str, request: &ExecRequest| {
            Refused::read(words, request, &name).map(|refused| (refused.code, refused.error.message))
        };
        let runc = "Error: runc: exec failed: unable to start container process: ";
        let end = ": OCI runtime attempted to invoke a command that was not found\n";
        let missing =
            format!("{runc}chdir to cwd (\"/nonexist\") set in config.json failed: no such file or directory{end}");
        let (code, message) = told(&missing, &request).unwrap();
        assert_eq!(code, 125);
        assert_eq!(message, "directory `/nonexist` (-w) does not exist in container `demo-a`; the command was not run");
        let crun = "Error: crun: chdir to `/nonexist`: Not a directory: OCI runtime error\n";
        assert!(told(crun, &request).unwrap().1.contains("is not a directory"));
        let request = ExecRequest { workdir: None, ..request };
        for words in [
            format!("{runc}exec: \"serve\": executable file not found in $PATH{end}"),
            format!("Error: crun: executable file `serve` not found in $PATH: No such file or directory{end}"),
        ] {
            assert_eq!(
                told(&words, &request),
                Some((127, "command `serve` was not found in container `demo-a`".into()))
            );
        }
        assert_eq!(told("Error: cannot read config\n", &request), None);
    }
}
