//! What Podman answers: an observation of it can be planned from and shown, in every format; what it refuses is said in short
//! words.
//!
//! An input is the list of containers, the list of images, an inspection, events, and an answer to something else, with a zero
//! byte between them. `@NOW` is the current time in seconds, since much depends on what was lately.

#![no_main]

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::Value;
use steadfast::error::Chain;
use steadfast::fuzzing::podman::{Answers, event, guest, parse, read_otherwise, refused, shell};
use steadfast::fuzzing::{look, render};
use steadfast::model::{Desired, Seen};
use steadfast::plan::Policy;
use steadfast::readiness::unready;
use steadfast::snapshot::Snapshot;
use steadfast_fuzz::{bounded, check_message, check_page, desired, expand, mutate_json, nothing};

/// Words that are a sentence on each page.
const SENTENCES: [&str; 5] = ["message", "why", "error", "hint", "reason"];

fn check(bytes: &[u8]) {
    let mut parts = bytes.splitn(5, |byte| *byte == 0).map(told_now);
    let mut part = || parts.next().unwrap_or_default();
    let (containers, images, inspection, events, other) = (part(), part(), part(), part(), part());
    check_look(&json(&containers), &json(&images), &json(&inspection), &events);
    check_other(&other);
}

fn json(bytes: &[u8]) -> Value {
    match parse(bytes) {
        Ok(answer) => answer,
        Err(why) => {
            check_message(&why);
            Value::Null
        }
    }
}

/// With the time in the place of `@NOW`.
fn told_now(part: &[u8]) -> Vec<u8> {
    const MARK: &[u8] = b"@NOW";
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().to_string();
    let (mut out, mut rest) = (Vec::new(), part);
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(now.as_bytes());
        rest = &rest[at + MARK.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn check_look(containers: &Value, images: &Value, inspection: &Value, events: &[u8]) {
    static DESIRED: OnceLock<Desired> = OnceLock::new();
    let desired = DESIRED.get_or_init(desired);
    let (policy, steady) = (Policy::default(), Duration::from_secs(10));
    let mut observed = nothing();
    observed.guest = Seen::Present(guest(&Answers { containers, images, inspection, events }, &look(desired)));
    let snapshot = Snapshot::of(desired, observed, &policy, None);
    let _ = unready(desired, &snapshot.observed, &snapshot.plan, &policy, steady);
    let said = render::snapshot(desired, &snapshot);
    said.pages.iter().chain(&said.data).for_each(|page| check_page(page));
    said.data.iter().for_each(|data| check_sentences(&json(data.as_bytes())));
    for line in events.split(|byte| *byte == b'\n').take(100) {
        let _ = event(line, &desired.ownership());
    }
}

fn check_sentences(of: &Value) {
    match of {
        Value::Array(items) => items.iter().for_each(check_sentences),
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if SENTENCES.contains(&name.as_str()) => {
                        assert!(text.len() < steadfast_fuzz::MESSAGE, "{name} of {} bytes", text.len());
                    }
                    field => check_sentences(field),
                }
            }
        }
        _ => {}
    }
}

fn check_other(other: &[u8]) {
    read_otherwise(&json(other), other).iter().for_each(|text| assert!(text.len() < steadfast_fuzz::MESSAGE));
    // No more of a refusal is read.
    let other = &other[..other.len().min(64 << 10)];
    for status in [404, 409, 500] {
        let err = refused("create container `demo-a`", "POST /libpod/containers/create", status, other);
        check_engine_error(&err);
    }
    for code in [None, Some(1), Some(125), Some(255)] {
        check_engine_error(&shell::refused(code, other));
    }
}

fn check_engine_error(err: &steadfast::backend::EngineError) {
    assert!(err.message.len() < steadfast_fuzz::MESSAGE, "a message of {} bytes", err.message.len());
    assert!(Chain(err).to_string().len() < steadfast_fuzz::MESSAGE);
    let kept = [&err.body, &err.stderr];
    assert!(kept.iter().all(|kept| kept.as_ref().is_none_or(|kept| kept.len() <= steadfast_fuzz::MESSAGE)));
    check_message(&render::refused(err));
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_json(data, size, max_size, seed, 0)
});

fuzz_target!(|data: &[u8]| {
    let bytes = expand(data);
    bounded(|| check(&bytes));
});
