//! How far it is: bars on a terminal, lines elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::backend::Progress;
use crate::cli::Settings;
use crate::cli::render::said::{self, Level};
use crate::cli::render::units;
use crate::mutex::guard;
use crate::publish::push::PushEvent;
use crate::publish::store::{ObjectKey, Sent};

/// What is sent, as bars on a terminal and as lines elsewhere.
pub(super) struct Bars<'a> {
    settings: &'a Settings,
    screen: Option<MultiProgress>,
    bars: Mutex<BTreeMap<ObjectKey, ProgressBar>>,
}

impl<'a> Bars<'a> {
    pub(super) fn new(settings: &'a Settings) -> Self {
        let screen = (settings.bars && !settings.quiet).then(MultiProgress::new);
        Self { settings, screen, bars: Mutex::default() }
    }

    pub(super) fn tell(&self, event: PushEvent) {
        if self.settings.quiet {
            return;
        }
        let line = |text: String| match &self.screen {
            Some(screen) => screen.suspend(|| said::say(Level::Info, &text, &[], self.settings.color_stderr)),
            None => said::say(Level::Info, &text, &[], self.settings.color_stderr),
        };
        match event {
            PushEvent::Sending(key, progress) => match &self.screen {
                Some(screen) => self.draw(screen, key, progress),
                None => line(format!("sending {key} ({})", units::bytes(progress.get().1))),
            },
            PushEvent::Sent(key, sent) => {
                if let Some(bar) = guard(&self.bars).remove(&key) {
                    bar.finish_and_clear();
                }
                let word = match sent {
                    Sent::Whole => "sent",
                    Sent::Resumed => "sent the rest of",
                    Sent::AlreadyThere => "there already:",
                };
                line(format!("{word} {key}"));
            }
            PushEvent::Again(tried) => {
                line(format!("somebody else published meanwhile; merging again (try {})", tried + 1))
            }
            PushEvent::Waiting => line("waiting until --public-url has it".to_owned()),
        }
    }

    fn draw(&self, screen: &MultiProgress, key: ObjectKey, progress: Arc<Progress>) {
        let bar = screen.add(ProgressBar::new(progress.get().1));
        let style = ProgressStyle::with_template("{msg} [{bar:20}] {bytes}/{total_bytes} {bytes_per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(key.to_string());
        guard(&self.bars).insert(key, bar.clone());
        tokio::spawn(async move {
            while !bar.is_finished() {
                bar.set_position(progress.get().0);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
}
