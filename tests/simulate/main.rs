//! Deterministic simulation: what may happen is drawn from a seed, and played under a virtual clock.
//!
//! `scripts/simulate.sh` plays many; a seed that fails prints the command that plays it again, with its trace.

mod play;
#[path = "../support/background.rs"]
#[allow(dead_code, reason = "the stories of tests/converge use the rest")]
mod runs;
mod schedule;
#[path = "../support/wishes.rs"]
mod wishes;
#[path = "../converge/worlds.rs"]
#[allow(dead_code, reason = "the stories of tests/converge use the rest")]
mod worlds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schedule::Schedule;
use steadfast::broken::{self, Broken};

/// A seed that does not hold, and why.
type Found = Option<(u64, String)>;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

/// Plays a schedule in this thread. The same schedule leads to the same, whenever and wherever.
fn played(schedule: &Schedule, fault: Option<Broken>) -> Result<(), String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            // Whoever observes all the time lets no time pass at all.
            let day = Duration::from_secs(7 * 86_400);
            tokio::time::timeout(day, play::play(schedule, fault))
                .await
                .unwrap_or_else(|_| Err("it has no end".to_owned()))
        })
    }));
    broken::put_in(None);
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    })
}

/// Plays so many seeds from `first` on, and stops at the first that does not hold.
fn search(first: u64, count: u64, fault: Option<Broken>) -> Found {
    let (next, found) = (AtomicU64::new(first), Mutex::new(None::<(u64, String)>));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = found.lock().unwrap().as_ref().is_some_and(|(first, _)| *first < seed);
                    if seed >= first + count || is_over {
                        return;
                    }
                    if let Err(why) = played(&Schedule::of(seed), fault) {
                        let mut found = found.lock().unwrap();
                        if found.as_ref().is_none_or(|(first, _)| *first > seed) {
                            *found = Some((seed, why));
                        }
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// The shortest schedule that still does not hold.
fn shrunk(mut schedule: Schedule, mut why: String) -> (Schedule, String) {
    loop {
        let shorter = schedule.shorter().find_map(|shorter| Some((played(&shorter, None).err()?, shorter)));
        let Some((other, shorter)) = shorter else { return (schedule, why) };
        (schedule, why) = (shorter, other);
    }
}

#[test]
fn whatever_happens_it_gets_there_and_then_is_quiet() {
    std::panic::set_hook(Box::new(|_| {}));
    let (first, count) = match number("STEADFAST_SIMULATE_SEED") {
        Some(seed) => (seed, 1),
        None => (number("STEADFAST_SIMULATE_FROM").unwrap_or(0), number("STEADFAST_SIMULATE_SEEDS").unwrap_or(200)),
    };
    let found = search(first, count, None);
    let _ = std::panic::take_hook();
    let Some((seed, why)) = found else { return };
    std::panic::set_hook(Box::new(|_| {}));
    let (schedule, why) = shrunk(Schedule::of(seed), why);
    let _ = std::panic::take_hook();
    panic!("seed {seed} (again by `scripts/simulate.sh --seed {seed}`): {schedule:?}\n\n{why}");
}

/// A fault that no seed finds is one that would land.
#[test]
fn each_fault_that_is_put_in_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let most = number("STEADFAST_SIMULATE_SEEDS").unwrap_or(10_000).max(1_000);
    let only = std::env::var("STEADFAST_SIMULATE_FAULT").ok();
    let mut missed = Vec::new();
    for fault in Broken::ALL {
        if only.as_ref().is_some_and(|only| *only != format!("{fault:?}")) {
            continue;
        }
        match search(0, most, Some(fault)) {
            Some((seed, why)) => println!("{fault:?}: seed {seed}: {}", why.lines().next().unwrap_or_default()),
            None => missed.push(fault),
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found within {most} seeds: {missed:?}");
}
