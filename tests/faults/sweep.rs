//! How many faults, drawn by what, and what came of them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::Instant;

use crate::stage::{Kind, Stage};

/// Stages at once: they wait for Podman half of the time.
const AT_ONCE: usize = 2;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// What faults are drawn by.
pub fn seed() -> u64 {
    number("STEADFAST_FAULTS_SEED").unwrap_or(1)
}

/// How many faults, `sample` where nothing is said.
pub fn points(sample: usize) -> usize {
    number("STEADFAST_FAULTS_POINTS").and_then(|points| usize::try_from(points).ok()).unwrap_or(sample)
}

fn is_wanted(kind: Kind) -> bool {
    std::env::var("STEADFAST_FAULTS_ONLY").map_or(true, |only| only.is_empty() || only == kind.name())
}

/// What came of the faults of one stage.
#[derive(Debug, Default)]
pub struct Tally {
    /// Faults that happened, and how often each kind did.
    pub done: usize,
    pub kinds: BTreeMap<String, usize>,
    /// Runs in which the point was not reached.
    pub missed: usize,
    /// What must not be.
    pub wrong: Vec<String>,
    /// Anything else worth telling.
    pub notes: BTreeMap<&'static str, usize>,
    /// The most memory seen, in KiB.
    pub peak: u64,
}

impl Tally {
    /// Counts a fault that happened.
    pub fn count(&mut self, kind: impl Into<String>) {
        self.done += 1;
        *self.kinds.entry(kind.into()).or_default() += 1;
    }

    pub fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }
}

/// Plays these stages, each with its share of the faults, and fails with all that was wrong.
pub fn sweep(
    what: &str,
    kinds: &[(Kind, usize)],
    total: usize,
    play: impl Fn(&mut Stage, usize, &mut fastrand::Rng, &mut Tally) + Sync,
) {
    let wanted: Vec<_> = kinds.iter().filter(|(kind, _)| is_wanted(*kind)).copied().collect();
    let weights: usize = wanted.iter().map(|(_, weight)| weight).sum();
    let todo = Mutex::new(wanted.iter().rev().copied().collect::<Vec<_>>());
    let tallies = Mutex::new(Vec::new());
    let began = Instant::now();
    println!("{what}: seed {}, {total} faults", seed());
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                loop {
                    let Some((kind, weight)) = todo.lock().unwrap().pop() else { break };
                    let share = (total * weight).div_ceil(weights).max(1);
                    let mut tally = Tally::default();
                    // Another stage's draws do not depend on this one's.
                    let mut rng = fastrand::Rng::with_seed(seed().wrapping_mul(1_000_003).wrapping_add(kind as u64));
                    let began = Instant::now();
                    let played = std::panic::catch_unwind(AssertUnwindSafe(|| {
                        let mut stage = Stage::new(kind);
                        play(&mut stage, share, &mut rng, &mut tally);
                    }));
                    if let Err(panic) = played {
                        let said = panic.downcast_ref::<String>().cloned();
                        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
                        tally.wrong.push(format!("the stage itself: {}", said.unwrap_or_default()));
                    }
                    println!(
                        "{what}: {}: {} done, {} not reached, {} wrong, peak {} KiB, {} s, notes {:?}, kinds {:?}",
                        kind.name(),
                        tally.done,
                        tally.missed,
                        tally.wrong.len(),
                        tally.peak,
                        began.elapsed().as_secs(),
                        tally.notes,
                        tally.kinds
                    );
                    tallies.lock().unwrap().push((kind, tally));
                }
            });
        }
    });
    let (mut done, mut wrong) = (0, Vec::new());
    for (kind, tally) in tallies.into_inner().unwrap() {
        done += tally.done;
        let again = format!("STEADFAST_FAULTS_SEED={} STEADFAST_FAULTS_ONLY={}", seed(), kind.name());
        wrong.extend(tally.wrong.into_iter().map(|wrong| format!("{} ({again}): {wrong}", kind.name())));
    }
    println!("{what}: {done} faults in {} s", began.elapsed().as_secs());
    assert!(wrong.is_empty(), "{what}: {} wrong\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(done >= total * 3 / 4, "{what}: only {done} of {total} faults happened");
}
