//! `session send`: bytes exactly as given.

use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::args::{SendArgs, SessionRef};
use super::{failed, keeper};
use crate::cli::agent::Agents;
use crate::cli::{CliError, ExitStatus, Settings, kept, render};
use crate::control::client::Asked;
use crate::control::{MAX_SEND, Request, SessionInput};
use crate::model::Desired;
use crate::session::{SEND_LIMIT, SendOptions, SessionError};

/// What `run` may take beyond what the session is given.
const GRACE: Duration = Duration::from_secs(5);

pub(super) async fn send(settings: &Settings, args: SendArgs) -> Result<ExitStatus, CliError> {
    let bytes = match args.data {
        Some(data) if data == "-" => read_stdin().await?,
        Some(data) => data.into_vec(),
        None if args.eof => Vec::new(),
        None => {
            let why =
                "nothing is given to send: the bytes come after the session, `-` reads standard input, `--eof` ends it";
            return Err(CliError::new(ExitStatus::Usage, why));
        }
    };
    if bytes.len() as u64 > SEND_LIMIT {
        return Err(too_much());
    }
    let id = format!("{:032x}", fastrand::u128(..));
    let options = SendOptions { id: Some(id.clone()), eof: args.eof, timeout: args.timeout };
    let desired = settings.load(None)?.desired;
    let by_run = by_run(settings, &desired, &args.session, &bytes, &id, &options).await;
    let sent = match by_run {
        Some(sent) => sent,
        None => {
            let agents = Agents::of(settings, desired).await?;
            keeper(&agents, &args.session.agent).await?.send(&args.session.name, &bytes, &options).await
        }
    };
    let sent = sent.map_err(|err| failed(&err, &args.session))?;
    if settings.output.is_data() {
        render::print_data(settings.output, &json!({ "bytesWritten": sent }))?;
    } else {
        render::print(&format!("bytesWritten: {sent}\n"))?;
    }
    Ok(ExitStatus::Done)
}

/// Through the `run` that keeps the state file: it has a connection to the keeper, or keeps the one that it makes. `None` where
/// there is none, or where it cannot; with the same id nothing is written twice.
async fn by_run(
    settings: &Settings,
    desired: &Desired,
    session: &SessionRef,
    bytes: &[u8],
    id: &str,
    options: &SendOptions,
) -> Option<Result<u64, SessionError>> {
    if bytes.len() > MAX_SEND {
        return None;
    }
    let kept = kept::find(settings, Some(desired))?;
    let input = SessionInput {
        agent: session.agent.clone(),
        session: session.name.clone(),
        id: id.to_owned(),
        data: STANDARD.encode(bytes),
        eof: options.eof,
        timeout_ms: u64::try_from(options.timeout.as_millis()).unwrap_or(u64::MAX),
    };
    let asked = async { Asked::new(&kept.dir, &Request::Send(input)).await?.next().await };
    match tokio::time::timeout(options.timeout + GRACE, asked).await {
        Ok(Ok(answer)) => {
            if let Some(sent) = answer.get("bytesWritten").and_then(Value::as_u64) {
                return Some(Ok(sent));
            }
            let problems = serde_json::from_value(answer.get("problems")?.clone()).ok()?;
            Some(Err(SessionError::Refused(problems)))
        }
        Ok(Err(err)) => {
            tracing::debug!(error = %err, "sending without `run`");
            None
        }
        Err(_) => None,
    }
}

async fn read_stdin() -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = tokio::io::stdin().take(SEND_LIMIT + 1).read_to_end(&mut bytes).await;
    match read {
        Err(err) => Err(CliError::new(ExitStatus::Error, format!("cannot read standard input: {err}"))),
        Ok(_) if bytes.len() as u64 > SEND_LIMIT => Err(too_much()),
        Ok(_) => Ok(bytes),
    }
}

fn too_much() -> CliError {
    let most = crate::sizes::about(SEND_LIMIT);
    CliError::new(ExitStatus::Error, format!("more than {most} are to be sent, the most that is sent whole"))
        .hint("send it in pieces: they arrive in order")
}
