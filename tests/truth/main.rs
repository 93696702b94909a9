//! What steadfast says of broken worlds, held against what Podman's own inspection shows while it says it. Built with
//! `--features podman-tests`; see `tests/apply.rs` for the variables it goes by.
//!
//! A seed makes a world of agents that run, crash, fail, are sick or cannot be made; `apply` and sometimes `run` are let
//! loose on it; people interfere; and then every verb is asked, again and again. No claim of "converged", "ready", "nothing to
//! do" or "well" may be denied by what was seen of the containers at that time, what is broken for good must be said by
//! every verb, and no two verbs may contradict each other about a world that stands still.
//!
//! * `STEADFAST_TRUTH_WORLDS`: how many worlds. 24 where nothing is said.
//! * `STEADFAST_TRUTH_SEED`: the first seed. A failure prints the command that makes its world again.

#[path = "../cache/server.rs"]
#[allow(dead_code)] // a server that other tests need more of
mod server;
#[path = "../support/mod.rs"]
mod support;
#[path = "../apply/world.rs"]
#[allow(dead_code)] // made for `apply`, which needs more of it
mod world;

mod claims;
mod scene;
mod watcher;

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Worlds at once. They mostly wait; with twelve Podman itself no longer answers within three seconds on two processors.
const AT_ONCE: usize = 6;
const FIRST_SEED: u64 = 1;
const WORLDS: u64 = 24;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn no_claim_is_denied_by_what_podman_shows() {
    let (first, worlds) = (number("STEADFAST_TRUTH_SEED", FIRST_SEED), number("STEADFAST_TRUTH_WORLDS", WORLDS));
    let next = AtomicU64::new(first);
    let denied = Mutex::new(Vec::new());
    let claims = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + worlds {
                        break;
                    }
                    match std::panic::catch_unwind(AssertUnwindSafe(|| scene::play(seed))) {
                        Ok(told) => {
                            claims.fetch_add(told.claims, Ordering::Relaxed);
                            if !told.denied.is_empty() {
                                denied.lock().unwrap().push((seed, told.denied.join("\n")));
                            }
                        }
                        Err(panic) => {
                            let said = panic.downcast_ref::<String>().map(String::as_str);
                            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                            denied.lock().unwrap().push((seed, said.to_owned()));
                        }
                    }
                }
            });
        }
    });
    let mut denied = denied.into_inner().unwrap();
    denied.sort();
    println!(
        "{worlds} worlds from seed {first}, {} claims, {} worlds in which one was denied",
        claims.load(Ordering::Relaxed),
        denied.len()
    );
    assert!(claims.into_inner() >= 10 * worlds, "who says nothing is denied by nothing");
    for (seed, said) in &denied {
        println!(
            "\n--- seed {seed}; again: STEADFAST_TRUTH_SEED={seed} STEADFAST_TRUTH_WORLDS=1 cargo test --all-features --test truth\n{said}"
        );
    }
    assert!(denied.is_empty(), "{} of {worlds} worlds deny what was said of them", denied.len());
}
