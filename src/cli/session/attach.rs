//! `session attach`.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::args::AttachArgs;
use super::end::exit_code;
use super::keys::Watched;
use super::{failed, keeper};
use crate::backend::TermSize;
use crate::cli::agent::{Agents, exit_with};
use crate::cli::exec::{SIGNALLED, signalled};
use crate::cli::render::said::{Level, say};
use crate::cli::terminal::{self, RawTerminal};
use crate::cli::{CliError, ExitStatus, Settings, render};
use crate::session::frame::Stream;
use crate::session::message::Size;
use crate::session::{AttachOptions, Event, Input, Left, WriteOptions};

/// How much of what was printed before is shown again, in bytes.
const REPLAY: u64 = 1 << 20;

/// How it came to its end.
enum End {
    Left(Left),
    /// The keys were typed.
    Detached,
    /// Nobody reads what we print.
    Unread,
    Signalled(i32),
}

/// Ends with the session's own exit code, or with 0 when it is left running.
pub(super) async fn attach(settings: &Settings, args: AttachArgs) -> Result<ExitStatus, CliError> {
    let agents = Agents::open(settings).await?;
    let keeper = keeper(&agents, &args.session.agent).await?;
    let is_typed = io::stdin().is_terminal() && !args.read_only;
    let write = (!args.read_only)
        .then(|| WriteOptions { takeover: args.takeover, size: terminal::size().filter(|_| is_typed).map(as_size) });
    let options = AttachOptions { replay: REPLAY, since: 0, follow: true, write };
    let (sender, mut input) = mpsc::channel(16);
    let detached = CancellationToken::new();
    // Reads nothing where nothing is written.
    let typing = match args.read_only {
        true => None,
        false => Some(type_on(sender, Watched::new(&args.detach_keys), is_typed, detached.clone())?),
    };
    let mut signals = signalled();
    let (mut raw, mut unwritten) = (None, None);
    // Whether what was printed last ends with its line, or is not before the same eyes as what we say.
    let (is_shown, begins_line) = (io::stdout().is_terminal() && io::stderr().is_terminal(), Cell::new(true));
    let note = |level: Level, text: &str, raw: bool| {
        if !settings.quiet {
            if is_shown && !begins_line.replace(true) {
                let _ = io::stderr().lock().write_all(b"\r\n");
            }
            // In a raw terminal a line does not begin by itself.
            let text = if raw { format!("{text}\r") } else { text.to_owned() };
            say(level, &text, &[], settings.color_stderr);
        }
    };
    let heard = keeper.attach(&args.session.name, &options, &mut input, |event| {
        let is_raw = matches!(raw, Some(Ok(_)));
        if let Event::Output { bytes, .. } = &event {
            begins_line.set(bytes.last().map_or(begins_line.get(), |last| *last == b'\n'));
        }
        let written = match event {
            Event::Output { stream: Stream::Stdout, bytes, .. } => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Event::Output { bytes, .. } => io::stderr().lock().write_all(bytes),
            Event::Live { tty } => {
                if tty && is_typed {
                    raw = Some(RawTerminal::enter());
                } else if !tty {
                    let leaving = if is_typed { "; ctrl-c leaves it running" } else { "" };
                    note(Level::Info, &format!("note: what it printed before ends here{leaving}"), false);
                }
                Ok(())
            }
            Event::Missed(bytes) => {
                let missed = crate::sizes::about(bytes);
                note(Level::Warn, &format!("{missed} of output are not kept any more"), is_raw);
                Ok(())
            }
            Event::Lost(err) => {
                note(Level::Warn, &format!("{err}; attaching again"), is_raw);
                Ok(())
            }
            Event::Back => {
                note(Level::Info, "note: attached again", is_raw);
                Ok(())
            }
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(err) => {
                unwritten = Some(err);
                ControlFlow::Break(())
            }
        }
    });
    let end = tokio::select! {
        biased;
        left = heard => left.map(End::Left),
        () = detached.cancelled() => Ok(End::Detached),
        Some(signal) = signals.recv() => Ok(End::Signalled(signal)),
        () = render::reader_gone() => Ok(End::Unread),
    };
    drop((raw, typing, signals));
    let goes_on = format!("left session {} running", args.session);
    match (end.map_err(|err| failed(&err, &args.session))?, unwritten) {
        (End::Left(Left::Ended(state)), _) => exit_with(exit_code(&state, &args.session)?),
        (End::Unread, _) => Ok(ExitStatus::Done),
        (End::Left(Left::Stopped), Some(err)) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(ExitStatus::Error, format!("cannot write the output: {err}")))
        }
        (End::Left(Left::Stopped), _) => Ok(ExitStatus::Done),
        (End::Detached, _) => {
            note(Level::Info, &goes_on, false);
            Ok(ExitStatus::Done)
        }
        (End::Signalled(signal), _) => {
            note(Level::Info, &goes_on, false);
            exit_with(SIGNALLED + signal)
        }
    }
}

fn as_size(size: TermSize) -> Size {
    Size { cols: size.cols, rows: size.rows }
}

/// Hands on what is typed, and the terminal's size when it changes.
fn type_on(
    to: mpsc::Sender<Input>,
    mut watched: Watched,
    is_typed: bool,
    detached: CancellationToken,
) -> Result<AbortOnDropHandle<()>, CliError> {
    let cannot = |err: io::Error| CliError::new(ExitStatus::Error, format!("cannot read standard input: {err}"));
    let mut keys = terminal::Input::open().map_err(cannot)?;
    let mut resizes = terminal::resizes().map_err(cannot)?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let said = tokio::select! {
                typed = keys.next() => match typed {
                    Some(Ok(bytes)) if is_typed => {
                        let (through, leaves) = watched.take(&bytes);
                        if leaves {
                            return detached.cancel();
                        }
                        Input::Bytes(through)
                    }
                    Some(Ok(bytes)) => Input::Bytes(bytes.to_vec()),
                    Some(Err(_)) | None => return,
                },
                size = resizes.next(), if is_typed => Input::Resize(as_size(size)),
            };
            if to.send(said).await.is_err() {
                return;
            }
        }
    })))
}
