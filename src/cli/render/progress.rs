//! Steps as they happen, on standard error: bars with rate and time left on a terminal, plain lines otherwise, and there one
//! every ten seconds on whatever takes longer.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::meter::{Meter, cut, line, seconds};
use super::said::{self, Level};
use super::{ADD, ASIDE, REMOVE, past, styled, terminal, units};
use crate::act::{ActError, Done};
use crate::backend::Progress;
use crate::model::FailureKind;
use crate::mutex::guard;
use crate::plan::{Action, Step};
use crate::reconcile::run::Event;
use crate::reconcile::{Awaited, Reporter};

/// Draws or prints.
#[derive(Debug)]
pub(crate) struct Printer {
    shared: Arc<Shared>,
    ticker: Mutex<Option<tokio::task::AbortHandle>>,
}

struct Shared {
    quiet: bool,
    color: bool,
    times: bool,
    screen: Option<MultiProgress>,
    going: Mutex<Going>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("quiet", &self.quiet).field("times", &self.times).finish_non_exhaustive()
    }
}

/// What is under way, the oldest first, and the bars that show it.
#[derive(Default)]
struct Going {
    entries: Vec<Entry>,
    bars: Vec<ProgressBar>,
}

/// Something under way.
struct Entry {
    name: String,
    message: String,
    progress: Arc<Progress>,
    meter: Meter,
    began: Instant,
    told: Instant,
}

const TICK: Duration = Duration::from_millis(100);
/// Without a terminal, so often something is said of what takes long.
const EVERY: Duration = Duration::from_secs(10);
/// More bars than this would push everything else off the screen.
const MOST_BARS: usize = 8;
/// More than this under way are told in one line.
const MOST_LINES: usize = 5;
/// What agents' health is waited for under.
const HEALTH: &str = "health";
/// The width of a terminal that does not tell.
const WIDTH: usize = 80;

impl Printer {
    /// `bars` on a terminal; without, each step is one line. `quiet` prints nothing.
    pub(crate) fn new(quiet: bool, color: bool, bars: bool) -> Self {
        let screen = (bars && !quiet).then(MultiProgress::new);
        let shared = Shared { quiet, color, times: false, screen, going: Mutex::default() };
        Self { shared: Arc::new(shared), ticker: Mutex::new(None) }
    }

    /// Each line begins with the time (RFC 3339, UTC), for what runs for months.
    #[must_use]
    pub(crate) fn with_times(self, times: bool) -> Self {
        let Shared { quiet, color, ref screen, .. } = *self.shared;
        let shared = Shared { quiet, color, times, screen: screen.clone(), going: Mutex::default() };
        Self { shared: Arc::new(shared), ticker: Mutex::new(None) }
    }

    /// A line with a mark before it, which programs can do without.
    fn line(&self, mark: &str, text: &str) {
        self.shared.line(mark, text);
    }

    /// A step that another process took, as its journal has it. Other events are for programs.
    pub(crate) fn told(&self, event: &Value) {
        let word = |key: &str| event[key].as_str().unwrap_or_default();
        let name = format!("{} {}", word("kind"), word("target"));
        match word("event") {
            "step" => self.end(&name),
            "stepStarted" => {
                // One that was under way already when we came is told once more.
                self.end(&name);
                let began =
                    Instant::now().checked_sub(Duration::from_millis(event["sinceMs"].as_u64().unwrap_or_default()));
                let message = terminal::line(word("action")).into_owned();
                return self.begin_at(name, message, Progress::new(0), began.unwrap_or_else(Instant::now));
            }
            _ => return,
        }
        let (action, reason) = (word("action"), word("reason"));
        let took = Duration::from_millis(event["durationMs"].as_u64().unwrap_or_default());
        match (word("result"), event["error"]["kind"].as_str().and_then(FailureKind::parse)) {
            ("done", _) => self.done(action, reason, took),
            (_, Some(FailureKind::Interrupted)) => self.stopped(action),
            _ => self.failed(action, took),
        }
    }

    fn done(&self, action: &str, reason: &str, took: Duration) {
        let text = past::sentence(action, reason);
        self.line(&styled("✓", ADD, self.shared.color), &format!("{text} {}", self.took(took)));
    }

    fn stopped(&self, action: &str) {
        self.line(&styled("-", REMOVE, self.shared.color), &format!("{action}: stopped"));
    }

    /// The error itself is said once, at the end, where it is not lost between other lines.
    fn failed(&self, action: &str, took: Duration) {
        self.line(&styled("✗", REMOVE, self.shared.color), &format!("{action}: failed {}", self.took(took)));
    }

    fn took(&self, took: Duration) -> String {
        styled(&format!("({})", units::short(took)), ASIDE, self.shared.color)
    }

    fn begin(&self, name: String, message: String, progress: Arc<Progress>) {
        self.begin_at(name, message, progress, Instant::now());
    }

    fn begin_at(&self, name: String, message: String, progress: Arc<Progress>, began: Instant) {
        if self.shared.quiet {
            return;
        }
        let now = Instant::now();
        let entry = Entry { name, message, progress, meter: Meter::new(now), began, told: began };
        self.shared.going().entries.push(entry);
        let mut ticker = guard(&self.ticker);
        if ticker.is_none() {
            let shared = self.shared.clone();
            let ticking = tokio::spawn(async move {
                loop {
                    shared.tick(Instant::now());
                    tokio::time::sleep(TICK).await;
                }
            });
            *ticker = Some(ticking.abort_handle());
        }
    }

    fn end(&self, name: &str) {
        self.shared.end(name);
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        if let Some(ticker) = self.ticker.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            ticker.abort();
        }
        for bar in self.shared.going().bars.drain(..) {
            bar.finish_and_clear();
        }
    }
}

impl Shared {
    fn going(&self) -> std::sync::MutexGuard<'_, Going> {
        guard(&self.going)
    }

    fn line(&self, mark: &str, text: &str) {
        if self.quiet {
            return;
        }
        let marked = match (said::is_json(), self.times) {
            (true, _) => text.to_owned(),
            (false, false) => format!("{mark} {text}"),
            (false, true) => {
                let now = crate::time::rfc3339(std::time::SystemTime::now());
                format!("{} {mark} {text}", styled(&now, ASIDE, self.color))
            }
        };
        let say = || said::say(Level::Info, &marked, &[], self.color);
        match &self.screen {
            // Printed above the bars, which are drawn again below it.
            Some(screen) => screen.suspend(say),
            None => say(),
        }
    }

    fn tick(&self, now: Instant) {
        match &self.screen {
            Some(screen) => self.going().draw(screen, now, width()),
            None => {
                let due = self.going().due(now);
                for text in due {
                    self.line("…", &text);
                }
            }
        }
    }

    fn end(&self, name: &str) {
        let mut going = self.going();
        going.entries.retain(|entry| entry.name != name);
        // At once, so that no bar of it stands below what is said next.
        if let Some(screen) = &self.screen {
            going.draw(screen, Instant::now(), width());
        }
    }
}

impl Going {
    fn draw(&mut self, screen: &MultiProgress, now: Instant, width: usize) {
        let lines = self.lines(now, width.saturating_sub(3));
        while self.bars.len() > lines.len() {
            if let Some(bar) = self.bars.pop() {
                bar.finish_and_clear();
                screen.remove(&bar);
            }
        }
        while self.bars.len() < lines.len() {
            let bar = screen.add(ProgressBar::new_spinner());
            bar.set_style(style());
            self.bars.push(bar);
        }
        for (bar, line) in self.bars.iter().zip(lines) {
            bar.set_message(line);
            bar.tick();
        }
    }

    /// A line each, none of them wider than `width`.
    fn lines(&mut self, now: Instant, width: usize) -> Vec<String> {
        let count = self.entries.len();
        let shown = if count > MOST_BARS { MOST_BARS - 1 } else { count };
        let entries = self.entries.iter_mut().take(shown);
        let mut lines: Vec<_> =
            entries.map(|entry| line(&entry.message, &entry.meter.read(&entry.progress, now), width)).collect();
        if count > shown {
            lines.push(cut(&format!("… and {} more", count - shown), width));
        }
        lines
    }

    /// What is to be said now of what takes long.
    fn due(&mut self, now: Instant) -> Vec<String> {
        let is_due = |entry: &Entry| now.duration_since(entry.told) >= EVERY;
        let due: Vec<_> = self.entries.iter_mut().filter(|entry| is_due(entry)).collect();
        let count = due.len();
        let mut lines = Vec::new();
        let mut longest: Option<(Duration, String)> = None;
        for entry in due {
            entry.told = now;
            let elapsed = now.duration_since(entry.began);
            let figures = entry.meter.read(&entry.progress, now).figures();
            let figures = figures.map(|figures| format!("{figures}; ")).unwrap_or_default();
            lines.push(format!("{}: {figures}under way for {}", entry.message, seconds(elapsed)));
            if longest.as_ref().is_none_or(|(most, _)| elapsed > *most) {
                longest = Some((elapsed, entry.message.clone()));
            }
        }
        match longest {
            Some((elapsed, message)) if count > MOST_LINES => {
                vec![format!("{count} steps under way, for up to {}: {message}, …", seconds(elapsed))]
            }
            _ => lines,
        }
    }
}

/// How wide the terminal is now: it may be resized at any time.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(WIDTH)
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn name(step: &Step) -> String {
    format!("{} {}", step.action.kind(), step.action.target())
}

impl Reporter for Printer {
    fn started(&self, step: &Step, progress: &Arc<Progress>) {
        self.begin(name(step), terminal::line(&step.action.to_string()).into_owned(), progress.clone());
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
        if long && self.shared.screen.is_none() {
            let bytes = step.action.moved().map(|moved| format!(" ({})", units::moved(moved))).unwrap_or_default();
            self.line("…", &format!("{}{bytes}: {}", step.action, step.reason));
        }
    }

    fn finished(&self, step: &Step, outcome: Result<&Done, &ActError>, took: Duration) {
        self.end(&name(step));
        let action = step.action.to_string();
        match outcome {
            Ok(_) => self.done(&action, &step.reason.to_string(), took),
            Err(ActError::Interrupted) => self.stopped(&action),
            Err(_) => self.failed(&action, took),
        }
    }

    fn on_event(&self, event: &Event) {
        let mark =
            if event.is_bad() { styled("!", REMOVE, self.shared.color) } else { styled("✓", ADD, self.shared.color) };
        self.line(&mark, &event.to_string());
    }

    fn awaiting(&self, agents: &Awaited) {
        self.end(HEALTH);
        if agents.is_empty() {
            return;
        }
        let message = agents.to_string();
        if self.shared.screen.is_none() {
            self.line("…", &message);
        }
        self.begin(HEALTH.to_owned(), message, Progress::new(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn going(count: usize, began: Instant) -> Going {
        let entry = |number| Entry {
            name: format!("{number}"),
            message: format!("stop container `demo-{number}`"),
            progress: Progress::new(0),
            meter: Meter::new(began),
            began,
            told: began,
        };
        Going { entries: (0..count).map(entry).collect(), bars: Vec::new() }
    }

    #[test]
    fn without_a_terminal_there_is_a_line_every_ten_seconds() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut one = going(1, began);
        assert_eq!(one.due(at(9)), [""; 0]);
        assert_eq!(one.due(at(10)), ["stop container `demo-0`: under way for 10s"]);
        assert_eq!(one.due(at(11)), [""; 0]);
        assert_eq!(one.due(at(20)), ["stop container `demo-0`: under way for 20s"]);
        let progress = &one.entries[0].progress;
        progress.set_total(4 << 20);
        progress.set(1 << 20);
        assert!(one.due(at(30))[0].starts_with("stop container `demo-0`: 1.00 MiB of 4.00 MiB, "));
        let mut many = going(100, began);
        assert_eq!(many.due(at(10)), ["100 steps under way, for up to 10s: stop container `demo-0`, …"]);
    }

    #[test]
    fn many_bars_leave_room_for_what_is_said() {
        let now = Instant::now();
        let lines = going(100, now).lines(now, 37);
        assert_eq!(lines.len(), MOST_BARS);
        assert_eq!(lines.last().unwrap(), "… and 93 more");
        assert!(lines.iter().all(|line| line.chars().count() <= 37), "{lines:?}");
        assert_eq!(going(8, now).lines(now, 37).len(), 8);
    }
}
