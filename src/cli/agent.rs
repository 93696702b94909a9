//! `logs` and `exec`: one agent's container.

use std::collections::BTreeSet;
use std::io::Write;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CliError, ExecArgs, ExitStatus, LogsArgs, Settings, ownership};
use crate::backend::podman::PodmanAt;
use crate::backend::{Chunk, Chunks, Engine, ExecRequest, LogRequest, Look};
use crate::model::{AgentName, ContainerId, ContainerState, Phase};

/// Finds the container of an agent by its labels, whatever it is called.
async fn find(settings: &Settings, agent: &AgentName) -> Result<(PodmanAt, ContainerId, ContainerState), CliError> {
    let desired = settings.load(None)?.desired;
    ownership::check(settings, &desired)?;
    let engine = settings.reached_engine(&desired).await?;
    let look =
        Look { owner: desired.ownership(), names: BTreeSet::new(), health: BTreeSet::new(), key: desired.key.clone() };
    let guest = engine.look(&look).await.map_err(|err| CliError::from_engine(&err))?;
    let wanted = desired.agents.get(agent).map(|agent| agent.container.name.clone());
    let mut mine: Vec<_> = guest.containers.into_iter().filter(|(_, seen)| seen.owner.is_of(agent)).collect();
    // During a replacement there are two: the one under the wanted name first, else one that runs.
    mine.sort_by_key(|(name, seen)| (Some(name) != wanted.as_ref(), seen.phase != Phase::Running));
    match mine.into_iter().next() {
        Some((_, seen)) => Ok((engine, seen.id.clone(), seen)),
        None if wanted.is_some() => Err(CliError::new(ExitStatus::Error, format!("agent `{agent}` has no container"))
            .hint("`steadfast apply` creates it; `steadfast status` shows what stands in the way")),
        None => {
            let names: Vec<_> = desired.agents.keys().map(|name| format!("`{name}`")).collect();
            Err(CliError::new(ExitStatus::Error, format!("the state file has no agent `{agent}`"))
                .hint(format!("it has {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })))
        }
    }
}

pub(super) async fn logs(settings: &Settings, args: LogsArgs) -> Result<ExitStatus, CliError> {
    let (engine, id, _) = find(settings, &args.agent).await?;
    let request = LogRequest { follow: args.follow, tail: args.tail };
    let log = engine.logs(&id, &request).await.map_err(|err| CliError::from_engine(&err))?;
    copy(log).await?;
    Ok(ExitStatus::Done)
}

/// Copies each stream to its own. A reader that went away ends it quietly.
async fn copy(mut output: Chunks) -> Result<(), CliError> {
    while let Some(chunk) = output.next().await {
        let written = match chunk.map_err(|err| CliError::from_engine(&err))? {
            Chunk::Stdout(bytes) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush())
            }
            Chunk::Stderr(bytes) => std::io::stderr().lock().write_all(&bytes),
        };
        match written {
            Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(err) => return Err(CliError::new(ExitStatus::Error, format!("cannot write the output: {err}"))),
            Ok(()) => {}
        }
    }
    Ok(())
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

async fn run(settings: &Settings, args: ExecArgs) -> Result<i32, CliError> {
    let (engine, id, seen) = find(settings, &args.agent).await?;
    if seen.phase != Phase::Running {
        return Err(CliError::new(
            ExitStatus::ExecFailed,
            format!("agent `{}` does not run: it {}", args.agent, seen.phase),
        )
        .hint("`steadfast apply` starts it"));
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
    };
    let mut exec = engine.exec(&id, &request).await.map_err(|err| CliError::from_engine(&err))?;
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
    copy(exec.output).await?;
    engine.exec_exit(&exec.id).await.map_err(|err| CliError::from_engine(&err))
}
