//! `session send`: bytes exactly as given.

use std::os::unix::ffi::OsStringExt;

use serde_json::json;
use tokio::io::AsyncReadExt;

use super::args::SendArgs;
use super::{failed, keeper};
use crate::cli::agent::Agents;
use crate::cli::{CliError, ExitStatus, Settings, render};
use crate::session::{SEND_LIMIT, SendOptions};

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
    let agents = Agents::open(settings).await?;
    let keeper = keeper(&agents, &args.session.agent).await?;
    let options = SendOptions { eof: args.eof, timeout: args.timeout };
    let sent = keeper.send(&args.session.name, &bytes, &options).await.map_err(|err| failed(&err, &args.session))?;
    if settings.output.is_data() {
        render::print_data(settings.output, &json!({ "bytesWritten": sent }))?;
    } else {
        render::print(&format!("bytesWritten: {sent}\n"))?;
    }
    Ok(ExitStatus::Done)
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
