//! `exec`: a command in an agent, with our standard streams or our terminal.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::agent::{Agents, copy, exit_with, variables};
use super::render::said::{Level, say};
use super::terminal::{self, Input, RawTerminal, Resizes};
use super::{CliError, ExecArgs, ExitStatus, Settings};
use crate::backend::podman::{ExecRefusal, PodmanAt};
use crate::backend::{Chunk, Engine, EngineError, EngineErrorKind, Exec, ExecRequest, TermSize};
use crate::model::{ContainerName, Phase};

/// The command's own exit code, or 125 when steadfast itself failed.
pub(super) async fn exec(settings: &Settings, args: ExecArgs) -> Result<ExitStatus, CliError> {
    // A broken state file too: 65 may be the command's own.
    let code = run(settings, args).await.map_err(|err| CliError { status: ExitStatus::ExecFailed, ..err })?;
    exit_with(code)
}

/// What a shell says of a command that a signal ended.
pub(super) const SIGNALLED: i32 = 128;
const SIGPIPE: i32 = 13;
/// What a program finds out from it which terminal it is on.
const TERM: &str = "TERM";
/// How often a terminal's size is offered to a command that is only about to begin, and how long after each other.
const RESIZES: u32 = 20;
const RESIZE_STEP: Duration = Duration::from_millis(100);

/// How a command came to its end.
enum End {
    /// By itself.
    Exited(i32),
    /// We were told to end, by this signal, or nobody reads what it prints.
    Signalled(i32),
}

async fn run(settings: &Settings, args: ExecArgs) -> Result<i32, CliError> {
    let is_typed = args.interactive && args.tty;
    if is_typed && !std::io::stdin().is_terminal() {
        let why = "standard input is no terminal, and `-t` with `-i` passes on what is typed on one";
        let hint = "leave `-t` out: `-i` alone passes standard input on";
        return Err(CliError::new(ExitStatus::ExecFailed, why).hint(hint));
    }
    let agents = Agents::open(settings).await?;
    let (name, seen) = agents.serving(&args.agent).await?;
    if seen.phase != Phase::Running {
        return Err(CliError::new(
            ExitStatus::ExecFailed,
            format!("agent `{}` does not run: it {}", args.agent, seen.phase),
        )
        .hint(agents.why_down(&args.agent, &name, &seen.phase)));
    }
    let own_term = || Some(format!("{TERM}={}", settings.vars.get(TERM).filter(|term| !term.is_empty())?));
    let has_term = args.env.iter().any(|pair| pair.split('=').next() == Some(TERM));
    let own_term = if args.tty && !has_term { own_term() } else { None };
    let env = variables(settings, &args.env, ExitStatus::ExecFailed)?;
    let env = own_term.into_iter().chain(env).collect();
    // Before its size is looked at, so that no change is missed.
    let resizes = args.tty.then(terminal::resizes).transpose().map_err(|err| no_terminal(&err))?;
    let request = ExecRequest {
        env,
        command: args.command,
        workdir: args.workdir,
        stdin: args.interactive,
        tty: args.tty.then(|| terminal::size().unwrap_or_default()),
        user: args.user,
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
    let mut complaint = Complaint { at_first: args.tty, ..Complaint::default() };
    // Until here Ctrl-C was for us.
    let raw = is_typed.then(RawTerminal::enter).transpose();
    let ended = match &raw {
        Ok(_) => tokio::select! {
            biased;
            ended = to_its_end(&agents.engine, exec, args.tty, &mut complaint) => ended,
            Some(signal) = signalled.recv() => Ok(End::Signalled(signal)),
            never = follow_size(&agents.engine, &id, request.tty.zip(resizes)) => match never {},
        },
        Err(err) => Err(no_terminal(err)),
    };
    drop((raw, signalled));
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

fn no_terminal(err: &std::io::Error) -> CliError {
    CliError::new(ExitStatus::ExecFailed, format!("the terminal cannot be used: {err}"))
        .hint("leave `-t` out: `-i` alone passes standard input on")
}

/// Gives the command's terminal the size of ours: now, since Podman may begin with another, and whenever ours changes.
async fn follow_size(engine: &PodmanAt, exec: &str, from: Option<(TermSize, Resizes)>) -> Infallible {
    let Some((mut size, mut resizes)) = from else { return std::future::pending().await };
    loop {
        let give = async {
            for _ in 0..RESIZES {
                if engine.exec_resize(exec, size).await.is_ok() {
                    break;
                }
                tokio::time::sleep(RESIZE_STEP).await;
            }
            // What cannot be told goes on with the size it has.
            std::future::pending::<Infallible>().await
        };
        size = tokio::select! {
            newer = resizes.next() => newer,
            never = give => match never {},
        };
    }
}

/// Listens from now on, and yields the first signal that asks us to end. A second one ends us at once.
pub(super) fn signalled() -> tokio::sync::mpsc::Receiver<i32> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
        let Ok(mut stream) = signal(kind) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                // Full, or closed by who took the first.
                if sender.try_send(kind.as_raw_value()).is_err() {
                    terminal::restore();
                    std::process::exit(SIGNALLED + kind.as_raw_value());
                }
            }
        });
    }
    receiver
}

/// Passes everything on, until the command ends.
async fn to_its_end(engine: &PodmanAt, mut exec: Exec, tty: bool, complaint: &mut Complaint) -> Result<End, CliError> {
    let mut _input = None;
    if let Some(mut stdin) = exec.stdin.take() {
        let mut ours = Input::open()
            .map_err(|err| CliError::new(ExitStatus::ExecFailed, format!("standard input cannot be read: {err}")))?;
        // It may wait for a key for ever; the command's end, not this, ends us.
        _input = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(Ok(bytes)) = ours.next().await {
                if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
                    break;
                }
            }
            // On a terminal the end of file is a key.
            if !tty {
                let _ = stdin.shutdown().await;
            }
        })));
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
struct Complaint {
    words: Vec<u8>,
    /// Nothing has come yet, and what comes first may be one: on a terminal all is one stream.
    at_first: bool,
}

impl Complaint {
    const BEGINNINGS: [&str; 4] = ["Error: runc:", "Error: crun:", "Error: OCI runtime", "Error: read unixpacket"];

    /// Keeps what begins like Podman's words, and passes the rest on.
    fn keep(&mut self, chunk: Result<Chunk, EngineError>) -> Option<Result<Chunk, EngineError>> {
        let at_first = std::mem::take(&mut self.at_first);
        let begins = |bytes: &[u8]| Self::BEGINNINGS.iter().any(|words| bytes.starts_with(words.as_bytes()));
        match chunk {
            Ok(Chunk::Stderr(bytes)) if begins(&bytes) => self.words.extend_from_slice(&bytes),
            Ok(Chunk::Stdout(bytes)) if at_first && begins(&bytes) => self.words.extend_from_slice(&bytes),
            chunk => return Some(chunk),
        }
        None
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.words).into_owned()
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
        let older = "Error: crun: chdir `/nonexist`: No such file or directory: OCI runtime attempted to invoke a command that was \
                     not found\n";
        assert!(told(older, &request).unwrap().1.contains("does not exist"));
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
