//! Download bars on a terminal.

use std::sync::{Arc, Mutex};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::backend::Progress;
use crate::mutex::guard;

/// A bar for each artifact.
pub(super) struct Bars {
    all: Option<MultiProgress>,
    tickers: Mutex<Vec<tokio::task::AbortHandle>>,
}

impl Bars {
    pub(super) fn new(on: bool) -> Self {
        Self { all: on.then(MultiProgress::new), tickers: Mutex::default() }
    }

    pub(super) fn add(&self, name: &str, progress: &Arc<Progress>) {
        let Some(all) = &self.all else { return };
        let template = "{msg} [{bar:20}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = all.add(ProgressBar::new(progress.get().1).with_style(style).with_message(name.to_owned()));
        let progress = progress.clone();
        let ticker = tokio::spawn(async move {
            loop {
                bar.set_position(progress.get().0);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
        guard(&self.tickers).push(ticker.abort_handle());
    }

    pub(super) fn clear(&self) {
        for ticker in guard(&self.tickers).drain(..) {
            ticker.abort();
        }
        if let Some(all) = &self.all {
            let _ = all.clear();
        }
    }
}
