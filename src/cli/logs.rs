//! `logs`: one agent's log, and with `--follow` through restarts, replacements and cut connections.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use super::agent::{Agents, copy};
use super::render::said::{Level, say};
use super::render::{self};
use super::{CliError, ExitStatus, Format, LogsArgs, Settings};
use crate::backend::{Engine, EngineError, EngineErrorKind, LogLine, LogRequest};
use crate::model::{AgentName, ContainerId, ContainerState, Phase};

/// Between two observations of the container that goes on.
const PAUSE: Duration = Duration::from_millis(300);
/// How long Podman may be unreachable while a log is followed.
const UNREACHABLE: Duration = Duration::from_secs(30);

pub(super) async fn logs(settings: &Settings, args: LogsArgs) -> Result<ExitStatus, CliError> {
    let agents = Agents::open(settings).await?;
    let (_, seen) = agents.serving(&args.agent).await?;
    let request = LogRequest { follow: args.follow, tail: args.tail };
    let format = match settings.output {
        Format::Json => Some(args.agent.clone()),
        Format::Text => None,
        Format::Yaml | Format::Markdown => {
            let why = "`logs` comes as text or, with `-o json`, as one JSON object per line";
            return Err(CliError::new(ExitStatus::Usage, why));
        }
    };
    if !args.follow && format.is_none() {
        let log = agents.engine.logs(&seen.id, &request).await.map_err(|err| CliError::from_engine(&err))?;
        copy(log).await?;
        return Ok(ExitStatus::Done);
    }
    let follower = Follower { settings, agents: &agents, agent: &args.agent, format };
    tokio::select! {
        ended = follower.follow(seen.id, request) => ended?,
        () = render::reader_gone() => {}
    }
    Ok(ExitStatus::Done)
}

struct Follower<'a> {
    settings: &'a Settings,
    agents: &'a Agents,
    agent: &'a AgentName,
    /// Whose log it is, where each line is a JSON object.
    format: Option<AgentName>,
}

/// What comes after the end of a stream.
enum Next {
    /// This container's log.
    Read(ContainerId),
    /// Nothing. Why, when that is worth saying.
    Over(Option<String>),
}

impl Follower<'_> {
    async fn follow(&self, mut id: ContainerId, mut request: LogRequest) -> Result<(), CliError> {
        let mut printed = Printed::default();
        loop {
            let opened = SystemTime::now();
            let cut = match self.read(&id, &request, &mut printed).await? {
                Ok(true) => None,
                // Nobody reads any more.
                Ok(false) => return Ok(()),
                Err(err) if err.kind.is_retryable() || err.kind == EngineErrorKind::NotFound => Some(err),
                Err(err) => return Err(CliError::from_engine(&err)),
            };
            if !request.follow {
                return cut.map_or(Ok(()), |err| Err(CliError::from_engine(&err)));
            }
            if let Some(err) = cut.as_ref().filter(|err| err.kind != EngineErrorKind::NotFound) {
                self.note(&format!("the log stream broke off; resuming it: {err}"));
            }
            match self.next().await? {
                Next::Over(why) => {
                    if let Some(why) = why {
                        self.note(&why);
                    }
                    return Ok(());
                }
                Next::Read(next) if next == id => {}
                Next::Read(next) => {
                    // All of it is new.
                    id = next;
                    request.tail = None;
                    printed = Printed::default();
                }
            }
            // What was left out once stays left out.
            if request.tail.take().is_some() {
                printed.begin(opened);
            }
        }
    }

    /// Prints a container's log to its end. Yields whether somebody still reads it.
    async fn read(
        &self,
        id: &ContainerId,
        request: &LogRequest,
        printed: &mut Printed,
    ) -> Result<Result<bool, EngineError>, CliError> {
        let mut lines = match self.agents.engine.log_lines(id, request, printed.since()).await {
            Ok(lines) => lines,
            Err(err) => return Ok(Err(err)),
        };
        let mut again = printed.clone();
        while let Some(line) = lines.next().await {
            let line = match line {
                Ok(line) => line,
                Err(err) => return Ok(Err(err)),
            };
            if !again.is_new(&line) {
                continue;
            }
            printed.note(&line);
            match self.print(&line) {
                Err(err) if err.kind() == io::ErrorKind::BrokenPipe => return Ok(Ok(false)),
                Err(err) => {
                    return Err(CliError::new(ExitStatus::Error, format!("cannot write the output: {err}")));
                }
                Ok(()) => {}
            }
        }
        Ok(Ok(true))
    }

    fn print(&self, line: &LogLine) -> io::Result<()> {
        let Some(agent) = &self.format else {
            if line.is_stderr {
                return io::stderr().lock().write_all(&line.bytes);
            }
            let mut out = io::stdout().lock();
            return out.write_all(&line.bytes).and_then(|()| out.flush());
        };
        let text = String::from_utf8_lossy(&line.bytes);
        let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
        let time = line.time.map(crate::time::rfc3339_exact);
        let stream = if line.is_stderr { "stderr" } else { "stdout" };
        let object = json!({ "agent": agent.as_str(), "stream": stream, "time": time, "text": text });
        let mut out = io::stdout().lock();
        writeln!(out, "{object}").and_then(|()| out.flush())
    }

    /// Finds what goes on: the same container, or its successor. As long as somebody works on the agents, or Podman is busy
    /// with this one's container, that may come yet.
    async fn next(&self) -> Result<Next, CliError> {
        let mut lost: Option<Instant> = None;
        loop {
            tokio::time::sleep(PAUSE).await;
            // Asked before the observation: who finished between the two has left what the observation finds.
            let is_worked_on = self.agents.are_worked_on();
            let seen = match self.agents.look(self.agent).await {
                Ok(seen) => seen,
                Err(err)
                    if err.kind.is_retryable() && lost.get_or_insert_with(Instant::now).elapsed() < UNREACHABLE =>
                {
                    continue;
                }
                Err(err) => return Err(CliError::from_engine(&err)),
            };
            lost = None;
            match seen {
                Some((_, ContainerState { phase: Phase::Running | Phase::Paused, id, .. })) => {
                    return Ok(Next::Read(id));
                }
                Some((_, ContainerState { phase: Phase::Stopping, .. })) => {}
                _ if is_worked_on => {}
                Some((name, ContainerState { phase: Phase::Exited { code }, .. })) => {
                    return Ok(Next::Over(Some(format!("container `{name}` exited with code {code}"))));
                }
                Some(_) => return Ok(Next::Over(None)),
                None => return Ok(Next::Over(Some(format!("agent `{}` has no container any more", self.agent)))),
            }
        }
    }

    fn note(&self, text: &str) {
        if !self.settings.quiet {
            say(Level::Info, &format!("note: {text}"), &[], self.settings.color_stderr);
        }
    }
}

/// What has been printed of a log: by stream the moment of the last line, and how many lines of that moment.
#[derive(Debug, Clone, Default)]
struct Printed([Option<(SystemTime, usize)>; 2]);

impl Printed {
    /// From when on the log is to be read again, in seconds since 1970. A second early, since moments may be told in whole ones.
    fn since(&self) -> Option<u64> {
        let last = self.0.iter().flatten().map(|(time, _)| *time).min()?;
        Some(last.duration_since(UNIX_EPOCH).ok()?.as_secs().saturating_sub(1))
    }

    /// A stream of which nothing was printed is new from here on. By whole seconds, as moments may be told.
    fn begin(&mut self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = UNIX_EPOCH + Duration::from_secs(since.as_secs());
        for stream in &mut self.0 {
            stream.get_or_insert((second, 0));
        }
    }

    fn note(&mut self, line: &LogLine) {
        let Some(time) = line.time else { return };
        match &mut self.0[usize::from(line.is_stderr)] {
            Some((last, count)) if *last == time => *count += 1,
            last => *last = Some((time, 1)),
        }
    }

    /// Whether a line that is read again has not been printed yet. Counts down: asked once for each.
    fn is_new(&mut self, line: &LogLine) -> bool {
        let (Some(time), Some((last, count))) = (line.time, &mut self.0[usize::from(line.is_stderr)]) else {
            return true;
        };
        if time == *last && *count > 0 {
            *count -= 1;
            return false;
        }
        time >= *last
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Wherever a log breaks off, and however often, each line comes once.
        #[test]
        fn a_log_that_is_taken_up_again_has_each_line_once(
            written in prop::collection::vec((any::<bool>(), 0u64..2), 0..40),
            cuts in prop::collection::vec(0usize..40, 0..6),
        ) {
            let mut now = 100;
            let log: Vec<_> = written.iter().enumerate().map(|(number, (is_stderr, pause))| {
                now += pause;
                let time = Some(UNIX_EPOCH + Duration::from_secs(now));
                LogLine { is_stderr: *is_stderr, time, bytes: Bytes::from(number.to_string()) }
            }).collect();
            let mut printed = Printed::default();
            let mut seen = Vec::new();
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let since = printed.since();
                let again = |line: &&LogLine| since.is_none_or(|since| line.time >= Some(UNIX_EPOCH + Duration::from_secs(since)));
                let mut skipping = printed.clone();
                for line in log.iter().filter(again).take(cut) {
                    if skipping.is_new(line) {
                        printed.note(line);
                        seen.push(line.clone());
                    }
                }
            }
            prop_assert_eq!(seen, log);
        }
    }
}
