//! How far a step is, in a line that fits: plain values in, text out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::units;
use crate::backend::Progress;

/// Over so long the rate is taken.
const WINDOW: Duration = Duration::from_secs(10);
/// A message is not cut shorter than this for the sake of figures.
const LEAST_MESSAGE: usize = 24;
/// Cells of a bar.
const CELLS: usize = 20;

/// Follows one step.
#[derive(Debug)]
pub(super) struct Meter {
    began: Instant,
    kept: u64,
    samples: VecDeque<(Instant, u64)>,
    now: Reading,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Reading {
    /// Since it began.
    pub elapsed: Duration,
    /// Bytes that are there, those from before included.
    pub done: u64,
    /// Bytes in all; 0 where that is not known.
    pub total: u64,
    /// Bytes a second, of those that came since it began.
    pub rate: f64,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, kept: 0, samples: VecDeque::from([(now, 0)]), now: Reading::default() }
    }

    /// Reads the progress.
    pub(super) fn read(&mut self, progress: &Progress, now: Instant) -> Reading {
        let ((done, total), kept) = (progress.get(), progress.kept());
        if kept != self.kept {
            // What was there before did not come now.
            self.kept = kept;
            self.samples = VecDeque::from([(now, kept)]);
        }
        // Begun anew.
        if self.samples.front().is_some_and(|(_, before)| done < *before) {
            self.samples = VecDeque::from([(now, done)]);
        }
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        let rate = match self.samples.front() {
            Some((at, before)) if now > *at => {
                done.saturating_sub(*before) as f64 / now.duration_since(*at).as_secs_f64()
            }
            _ => 0.0,
        };
        self.samples.push_back((now, done));
        self.now = Reading { elapsed: now.duration_since(self.began), done, total, rate };
        self.now
    }
}

impl Reading {
    fn left(&self) -> Option<Duration> {
        let missing = self.total.checked_sub(self.done)? as f64;
        Duration::try_from_secs_f64(missing / self.rate).ok()
    }

    /// Figures for a line without a terminal: `41.4 MiB of 58.3 MiB, 3.5 MiB/s, 5s left`.
    pub(super) fn figures(&self) -> Option<String> {
        (self.total > 0).then(|| {
            let left = self.left().map(|left| format!(", {} left", seconds(left))).unwrap_or_default();
            let (done, total, rate) =
                (units::bytes(self.done), units::bytes(self.total), units::bytes(self.rate as u64));
            format!("{done} of {total}, {rate}/s{left}")
        })
    }

    /// The richest figures first.
    fn choices(&self) -> Vec<String> {
        let elapsed = seconds(self.elapsed);
        if self.total == 0 {
            return vec![elapsed];
        }
        let share = (self.done as f64 / self.total as f64).min(1.0);
        let filled = (share * CELLS as f64) as usize;
        let head = if filled < CELLS { ">" } else { "" };
        let bar = format!("[{}{head}{}]", "=".repeat(filled), " ".repeat(CELLS.saturating_sub(filled + head.len())));
        let percent = format!("{}%", (share * 100.0) as u64);
        let left = self.left().map(|left| format!(" {} left", seconds(left))).unwrap_or_default();
        let bytes = format!(
            "{}/{} {}/s{left}",
            units::bytes(self.done),
            units::bytes(self.total),
            units::bytes(self.rate as u64)
        );
        vec![format!("{bar} {bytes}"), bytes, format!("{percent}{left}"), percent]
    }
}

/// A message with figures behind it, in at most `width` columns.
pub(super) fn line(message: &str, reading: &Reading, width: usize) -> String {
    let length = message.chars().count();
    let wanted = length.min(LEAST_MESSAGE);
    let choices = reading.choices();
    let fits = |figures: &&String| figures.chars().count() + 1 + wanted <= width;
    match choices.iter().find(fits) {
        Some(figures) => format!("{} {figures}", cut(message, width - figures.chars().count() - 1)),
        None => cut(message, width),
    }
}

/// At most so many columns.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { kept } else { kept + "…" }
}

/// `5s`, `3m 5s`.
pub(super) fn seconds(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let messages = ["x", "load image `localhost/hello-agent:1.0.0`", &"fetch artifact `vm/images/".repeat(9)];
        for width in 20..=120 {
            for message in messages {
                for total in [0, 58 * MIB, 400 << 30] {
                    for done in [0, total / 3, total] {
                        for rate in [0.0, 3.5e6, 9e9] {
                            let elapsed = Duration::from_secs(7265);
                            let line = line(message, &Reading { elapsed, done, total, rate }, width);
                            assert!(line.chars().count() <= width, "{width}: {line}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_there_is_room_for_is_shown() {
        let reading =
            Reading { elapsed: Duration::from_secs(9), done: 29 * MIB, total: 58 * MIB, rate: 3.5 * MIB as f64 };
        let message = "fetch artifact `vm/images/hello-1.0.0-x64.tar.gz`";
        let shown = [40, 60, 80, 120].map(|width| line(message, &reading, width));
        assert_eq!(
            shown,
            [
                "fetch artifact `vm/images/h… 50% 8s left",
                "fetch artifact `vm/images/hello-1.0.0-x64.tar.g… 50% 8s left",
                "fetch artifact `vm/images/hello-1.0.0-x6… 29.00 MiB/58.00 MiB 3.50 MiB/s 8s left",
                "fetch artifact `vm/images/hello-1.0.0-x64.tar.gz` [==========>         ] 29.00 MiB/58.00 MiB 3.50 MiB/s 8s left",
            ]
        );
    }

    #[test]
    fn what_was_there_before_does_not_count() {
        let began = Instant::now();
        let (progress, mut meter) = (Progress::new(100 * MIB), Meter::new(began));
        meter.read(&progress, began);
        progress.resume(80 * MIB);
        meter.read(&progress, began + Duration::from_millis(100));
        progress.add(2 * MIB);
        let reading = meter.read(&progress, began + Duration::from_millis(2100));
        assert_eq!((reading.done, reading.rate as u64), (82 * MIB, MIB));
        assert_eq!(reading.figures().unwrap(), "82.00 MiB of 100.00 MiB, 1.00 MiB/s, 18s left");
        // Stalled since.
        let reading = meter.read(&progress, began + Duration::from_secs(60));
        let reading_later = meter.read(&progress, began + Duration::from_secs(71));
        assert!(reading.rate < MIB as f64 / 10.0 && reading_later.rate == 0.0, "{reading:?} {reading_later:?}");
        assert_eq!(reading_later.figures().unwrap(), "82.00 MiB of 100.00 MiB, 0 B/s");
    }
}
