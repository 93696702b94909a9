//! Steps as they happen, on standard error: bars with rate and time left on a terminal, plain lines otherwise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::said::{self, Level};
use super::{ADD, ASIDE, REMOVE, styled, terminal, units};
use crate::act::{ActError, Done};
use crate::backend::Progress;
use crate::model::AgentName;
use crate::plan::{Action, Step};
use crate::reconcile::Reporter;
use crate::reconcile::run::News;

/// Draws or prints.
#[derive(Debug)]
pub struct Printer {
    quiet: bool,
    color: bool,
    times: bool,
    bars: Option<MultiProgress>,
    drawn: Mutex<BTreeMap<String, Drawn>>,
}

#[derive(Debug)]
struct Drawn {
    bar: ProgressBar,
    ticker: tokio::task::AbortHandle,
}

const TICK: Duration = Duration::from_millis(100);

impl Printer {
    /// `bars` on a terminal; without, each step is one line. `quiet` prints nothing.
    pub fn new(quiet: bool, color: bool, bars: bool) -> Self {
        let bars = (bars && !quiet).then(MultiProgress::new);
        Self { quiet, color, times: false, bars, drawn: Mutex::new(BTreeMap::new()) }
    }

    /// Each line begins with the time (RFC 3339, UTC), for what runs for months.
    #[must_use]
    pub fn with_times(self, times: bool) -> Self {
        Self { times, ..self }
    }

    /// A line with a mark before it, which programs can do without.
    fn line(&self, mark: &str, text: &str) {
        if self.quiet {
            return;
        }
        let marked = match (said::is_json(), self.times) {
            (true, _) => text.to_owned(),
            (false, false) => format!("{mark} {text}"),
            (false, true) => {
                let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
                format!("{} {mark} {text}", styled(&now, ASIDE, self.color))
            }
        };
        let say = || said::say(Level::Info, &marked, &[], self.color);
        match &self.bars {
            // Printed above the bars, which are drawn again below it.
            Some(bars) => bars.suspend(say),
            None => say(),
        }
    }

    /// A step that another process took, as its journal has it. Other events are for programs.
    pub fn told(&self, event: &Value) {
        if event["event"] != "step" {
            return;
        }
        let word = |key: &str| event[key].as_str().unwrap_or_default();
        let (action, reason) = (word("action"), word("reason"));
        let took = Duration::from_millis(event["durationMs"].as_u64().unwrap_or_default());
        let took = styled(&format!("({})", units::short(took)), ASIDE, self.color);
        match (word("result"), event["error"]["kind"].as_str()) {
            ("done", _) => self.line(&styled("✓", ADD, self.color), &format!("{action}: {reason} {took}")),
            (_, Some("interrupted")) => self.line(&styled("-", REMOVE, self.color), &format!("{action}: stopped")),
            _ => self.line(&styled("✗", REMOVE, self.color), &format!("{action}: failed {took}")),
        }
    }

    fn draw(&self, step: &Step, progress: &Arc<Progress>) {
        let Some(bars) = &self.bars else { return };
        let bar = bars.add(ProgressBar::new_spinner());
        bar.set_style(spinner());
        bar.set_message(terminal::line(&step.action.to_string()).into_owned());
        bar.enable_steady_tick(TICK);
        let (follower, progress) = (bar.clone(), progress.clone());
        let ticker = tokio::spawn(async move {
            let mut has_total = false;
            loop {
                let (done, total) = progress.get();
                if total > 0 && !has_total {
                    follower.set_style(bytes_bar());
                    has_total = true;
                }
                if total > 0 {
                    follower.set_length(total);
                    follower.set_position(done);
                }
                tokio::time::sleep(TICK).await;
            }
        });
        let drawn = Drawn { bar, ticker: ticker.abort_handle() };
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner).insert(name(step), drawn);
    }

    fn erase(&self, step: &Step) {
        if let Some(drawn) = self.drawn.lock().unwrap_or_else(PoisonError::into_inner).remove(&name(step)) {
            drawn.ticker.abort();
            drawn.bar.finish_and_clear();
        }
    }
}

fn name(step: &Step) -> String {
    format!("{} {}", step.action.kind(), step.action.target())
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn bytes_bar() -> ProgressStyle {
    let template = "{spinner} {msg} [{bar:20}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl Reporter for Printer {
    fn started(&self, step: &Step, progress: &Arc<Progress>) {
        if self.bars.is_some() {
            return self.draw(step, progress);
        }
        let long = matches!(
            step.action,
            Action::FetchArtifact { .. }
                | Action::LoadImage { tag: None, .. }
                | Action::PullImage { .. }
                | Action::CreateVm { .. }
                | Action::StartVm { .. }
                | Action::RecreateVm { .. }
                | Action::StopVm { .. }
                | Action::DeleteVm { .. }
        );
        if long {
            let bytes = step.action.bytes().map(|bytes| format!(" ({})", units::bytes(bytes))).unwrap_or_default();
            self.line("…", &format!("{}{bytes}: {}", step.action, step.reason));
        }
    }

    fn finished(&self, step: &Step, outcome: Result<&Done, &ActError>, took: Duration) {
        self.erase(step);
        let took = styled(&format!("({})", units::short(took)), ASIDE, self.color);
        match outcome {
            Ok(_) => self.line(&styled("✓", ADD, self.color), &format!("{}: {} {took}", step.action, step.reason)),
            Err(ActError::Interrupted) => {
                self.line(&styled("-", REMOVE, self.color), &format!("{}: stopped", step.action));
            }
            // The error itself is said once, at the end, where it is not lost between other lines.
            Err(_) => self.line(&styled("✗", REMOVE, self.color), &format!("{}: failed {took}", step.action)),
        }
    }

    fn news(&self, news: &News) {
        let mark = if news.is_bad() { styled("!", REMOVE, self.color) } else { styled("✓", ADD, self.color) };
        self.line(&mark, &news.to_string());
    }

    fn awaiting_health(&self, agents: &[AgentName]) {
        let names: Vec<_> = agents.iter().map(AgentName::as_str).collect();
        self.line("…", &format!("waiting for health: {}", names.join(", ")));
    }
}
