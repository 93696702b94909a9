//! `session logs`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::args::{LogsArgs, SessionRef};
use super::{failed, keeper};
use crate::cli::agent::Agents;
use crate::cli::render::said::{Level, say};
use crate::cli::{CliError, ExitStatus, Format, Settings, render};
use crate::session::frame::Stream;
use crate::session::{AttachOptions, Event};

/// Reads a moment, or how long ago it was: in milliseconds since 1970.
pub(super) fn since(text: &str) -> Result<u64, String> {
    let moment = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH),
        Err(_) => crate::time::parse_typed(text)
            .ok_or_else(|| "neither a duration (`10m`) nor a moment (`2026-04-24T12:00:00Z`)".to_owned())?,
    };
    Ok(moment.duration_since(UNIX_EPOCH).map_or(0, millis))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) async fn logs(settings: &Settings, args: LogsArgs) -> Result<ExitStatus, CliError> {
    let as_json = match settings.output {
        Format::Json => true,
        Format::Text => false,
        Format::Yaml | Format::Markdown => {
            let why = "`session logs` comes as text or, with `-o json`, as one JSON object per line";
            return Err(CliError::new(ExitStatus::Usage, why));
        }
    };
    let agents = Agents::open(settings).await?;
    let keeper = keeper(&agents, &args.session.agent).await?;
    let options = AttachOptions { replay: u64::MAX, since: args.since.unwrap_or(0), follow: args.follow, write: None };
    let only = match (args.stdout, args.stderr) {
        (true, _) => Some(Stream::Stdout),
        (_, true) => Some(Stream::Stderr),
        _ => None,
    };
    let mut printer = Printer {
        session: args.session.clone(),
        as_json,
        tail: args.tail.map(|lines| Tail { lines, held: VecDeque::new(), has_open_line: false }),
        lines: [Vec::new(), Vec::new()],
        failed: None,
    };
    let (_nothing, mut input) = tokio::sync::mpsc::channel(1);
    let heard = keeper.attach(&args.session.name, &options, &mut input, |event| {
        let printed = match event {
            Event::Output { stream, time, bytes } if only.is_none_or(|only| only == stream) => {
                printer.take(stream, time, bytes)
            }
            Event::Output { .. } => Ok(()),
            Event::Live { .. } => printer.release(),
            Event::Missed(bytes) if args.follow => {
                let missed = crate::sizes::about(bytes);
                say(
                    Level::Warn,
                    &format!("{missed} of output came faster than they were read, and are gone"),
                    &[],
                    settings.color_stderr,
                );
                Ok(())
            }
            Event::Lost(err) => {
                say(Level::Info, &format!("note: the log broke off; resuming it: {err}"), &[], settings.color_stderr);
                Ok(())
            }
            Event::Missed(_) | Event::Back => Ok(()),
        };
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(err) => {
                printer.failed = Some(err);
                ControlFlow::Break(())
            }
        }
    });
    tokio::select! {
        left = heard => { left.map_err(|err| failed(&err, &args.session))?; }
        () = render::reader_gone() => return Ok(ExitStatus::Done),
    }
    let finished = printer.finish();
    match printer.failed.map_or(finished, Err) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(ExitStatus::Done),
        Err(err) => Err(CliError::new(ExitStatus::Error, format!("cannot write the output: {err}"))),
        Ok(()) => Ok(ExitStatus::Done),
    }
}

/// Writes it as it came, or as one object per line.
struct Printer {
    session: SessionRef,
    as_json: bool,
    tail: Option<Tail>,
    /// What of each stream's last line has come.
    lines: [Vec<u8>; 2],
    failed: Option<io::Error>,
}

/// The last lines of what is replayed. No more than the log holds.
struct Tail {
    lines: usize,
    held: VecDeque<(Stream, u64, Vec<u8>)>,
    has_open_line: bool,
}

impl Tail {
    fn push(&mut self, stream: Stream, time: u64, bytes: &[u8]) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match self.held.back_mut().filter(|(last, ..)| self.has_open_line && *last == stream) {
                Some((.., open)) => open.extend_from_slice(line),
                None => self.held.push_back((stream, time, line.to_vec())),
            }
            self.has_open_line = !line.ends_with(b"\n");
            while self.held.len() > self.lines {
                self.held.pop_front();
            }
        }
    }
}

/// The longest line that is one object.
const LONGEST_LINE: usize = 1 << 20;

impl Printer {
    fn take(&mut self, stream: Stream, time: u64, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tail {
            Some(tail) => {
                tail.push(stream, time, bytes);
                Ok(())
            }
            None => self.print(stream, time, bytes),
        }
    }

    /// The replay is over: what was held back is printed, and nothing is from now on.
    fn release(&mut self) -> io::Result<()> {
        let Some(tail) = self.tail.take() else { return Ok(()) };
        tail.held.into_iter().try_for_each(|(stream, time, line)| self.print(stream, time, &line))
    }

    fn print(&mut self, stream: Stream, time: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.as_json {
            return match stream {
                Stream::Stdout => {
                    let mut out = io::stdout().lock();
                    out.write_all(bytes).and_then(|()| out.flush())
                }
                Stream::Stderr => io::stderr().lock().write_all(bytes),
            };
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = &mut self.lines[stream as usize - 1];
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || line.len() > LONGEST_LINE {
                let line = std::mem::take(line);
                self.print_object(stream, time, &line)?;
            }
        }
        Ok(())
    }

    fn print_object(&self, stream: Stream, time: u64, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
        let time = crate::time::rfc3339_millis(UNIX_EPOCH + Duration::from_millis(time));
        let word = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let (agent, name) = (self.session.agent.as_str(), &self.session.name);
        let object = json!({ "agent": agent, "session": name, "stream": word, "time": time, "text": text });
        let mut out = io::stdout().lock();
        writeln!(out, "{object}").and_then(|()| out.flush())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.release()?;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(&mut self.lines[stream as usize - 1]);
            if !line.is_empty() {
                self.print_object(
                    stream,
                    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
                    &line,
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_of_whole_lines_however_they_come() {
        let mut tail = Tail { lines: 2, held: VecDeque::new(), has_open_line: false };
        for piece in ["one\ntw", "o\nthr", "ee\nfou", "r"] {
            tail.push(Stream::Stdout, 1, piece.as_bytes());
        }
        let held: Vec<_> = tail.held.iter().map(|(.., line)| String::from_utf8_lossy(line).into_owned()).collect();
        assert_eq!(held, ["three\n", "four"]);
    }

    #[test]
    fn a_moment_is_told_either_way() {
        assert_eq!(since("1970-01-01T00:00:02Z").unwrap(), 2000);
        let ago = since("10m").unwrap();
        assert!(ago > 0 && ago < millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap()));
        assert!(since("soon").is_err());
    }
}
