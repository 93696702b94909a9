//! Watches containers by Podman's own inspection while verbs are asked about them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::world::inspect;

/// Between two inspections of all containers.
const PAUSE: Duration = Duration::from_millis(150);

/// How a container was at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub id: String,
    /// It carries our label: one of somebody else under an agent's name is none of the agent's.
    pub ours: bool,
    pub status: String,
    pub started: Option<SystemTime>,
    pub finished: Option<SystemTime>,
    pub restarts: u64,
    pub code: i64,
    /// `starting`, `healthy`, `unhealthy`, or empty without a check.
    pub health: String,
}

/// All containers at one moment; `None` for one that is not there.
#[derive(Debug, Clone)]
pub struct Sample {
    pub at: Instant,
    pub wall: SystemTime,
    pub of: BTreeMap<String, Option<Seen>>,
}

/// Takes samples until it is dropped.
pub struct Watcher {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub fn start(names: Vec<String>) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, stopped) = (samples.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let sample = take(&names);
                theirs.lock().unwrap().push(sample);
                std::thread::sleep(PAUSE);
            }
        });
        Self { samples, stop, thread: Some(thread) }
    }

    /// The samples from a little before `from` until one that was taken after `to`.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Sample> {
        loop {
            let samples = self.samples.lock().unwrap();
            if samples.last().is_some_and(|last| last.at > to) {
                let before = samples.iter().rposition(|sample| sample.at < from).unwrap_or(0);
                let after = samples.iter().position(|sample| sample.at > to).unwrap_or(samples.len() - 1);
                return samples[before..=after].to_vec();
            }
            drop(samples);
            std::thread::sleep(PAUSE / 4);
        }
    }

    /// When a container was seen to have ended by itself and to have been restarted, within the time before `until`: each
    /// step of its restart count.
    pub fn restarts_before(&self, name: &str, until: Instant, within: Duration) -> u64 {
        let samples = self.samples.lock().unwrap();
        let mut counted = 0;
        let mut last: Option<(String, u64)> = None;
        for sample in samples.iter().filter(|sample| sample.at <= until) {
            let Some(Some(seen)) = sample.of.get(name) else { continue };
            let now = (seen.id.clone(), seen.restarts);
            if let Some((id, restarts)) = &last
                && *id == now.0
                && until.duration_since(sample.at) < within
            {
                // A start by hand begins anew.
                counted = if now.1 < *restarts { 0 } else { counted + now.1 - restarts };
            }
            last = Some(now);
        }
        counted
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn take(names: &[String]) -> Sample {
    let (at, wall) = (Instant::now(), SystemTime::now());
    let of = names.iter().map(|name| (name.clone(), look(name))).collect();
    Sample { at, wall, of }
}

fn look(name: &str) -> Option<Seen> {
    let answer = inspect(name)?;
    let state = &answer["State"];
    let text = |field: &str| state[field].as_str().unwrap_or_default().to_owned();
    let time = |field: &str| humantime::parse_rfc3339_weak(&without_offset(&text(field))).ok();
    let real = |time: Option<SystemTime>| {
        time.filter(|time| time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() > 1))
    };
    Some(Seen {
        id: answer["Id"].as_str().unwrap_or_default().to_owned(),
        ours: answer["Config"]["Labels"]["steadfast.name"].is_string(),
        status: text("Status"),
        started: real(time("StartedAt")),
        finished: real(time("FinishedAt")),
        restarts: answer["RestartCount"].as_u64().unwrap_or(0),
        code: state["ExitCode"].as_i64().unwrap_or(0),
        health: state["Health"]["Status"].as_str().unwrap_or_default().to_owned(),
    })
}

/// These tests run where Podman's clock is at UTC: `2026-11-29T10:00:00.1+00:00` becomes `2026-11-29T10:00:00.1Z`.
fn without_offset(text: &str) -> String {
    match text.rsplit_once('+') {
        Some((time, _)) => format!("{time}Z"),
        None => text.to_owned(),
    }
}
