//! What a keeper and its clients say to each other, and the log that a keeper left: frames are the same wherever they are cut,
//! messages are read or refused, and of a log whose bytes are anybody's whole records come out and nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast_fuzz::{bounded, expand, pieces};
use steadfast_keeper::frame::{Frame, Frames, Output, read};
use steadfast_keeper::log::{LEAST, Log};
use steadfast_keeper::message::{Attach, Problem, Send, Spec, State, Stop};

fn check(bytes: &[u8]) {
    let whole = frames([bytes]);
    assert!(frames(pieces(bytes)) == whole, "frames depend on where the bytes are cut");
    let (mut from, mut one_by_one) = (bytes, Vec::new());
    while let Ok(Some(frame)) = read(&mut from) {
        one_by_one.push(frame);
    }
    assert!(one_by_one == whole, "frames depend on how they are read");
    for frame in &whole {
        check_message(&frame.payload);
    }
    check_message(bytes);
    check_log(bytes);
}

fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Frame> {
    let (mut frames, mut seen) = (Frames::default(), Vec::new());
    for piece in pieces {
        frames.push(piece);
        loop {
            match frames.next() {
                Ok(Some(frame)) => seen.push(frame),
                Ok(None) => break,
                Err(_) => return seen,
            }
        }
    }
    seen
}

fn check_message(payload: &[u8]) {
    if let Ok(spec) = serde_json::from_slice::<Spec>(payload) {
        let again: Spec = serde_json::from_slice(&serde_json::to_vec(&spec).unwrap()).unwrap();
        assert_eq!((again.command, again.env), (spec.command, spec.env), "words of any bytes are written and read");
    }
    let _ = serde_json::from_slice::<State>(payload);
    let _ = serde_json::from_slice::<Attach>(payload);
    let _ = serde_json::from_slice::<Send>(payload);
    let _ = serde_json::from_slice::<Stop>(payload);
    let _ = serde_json::from_slice::<Problem>(payload);
    if let Some(output) = Output::of(payload) {
        assert!(output.bytes.len() < payload.len());
    }
}

fn check_log(bytes: &[u8]) {
    let dir = std::env::temp_dir().join(format!("keeper-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    std::fs::write(dir.join("log.0"), first).unwrap();
    std::fs::write(dir.join(format!("log.{}", first.len())), second).unwrap();
    if let Ok(mut log) = Log::open(&dir, LEAST) {
        let (before, mut buffer) = (all(&log, &mut buffer_of()), buffer_of());
        assert!(before.len() <= bytes.len(), "more comes out than went in");
        let _ = log.tail(10);
        log.append(steadfast_keeper::frame::Stream::Stdout, 1, b"after");
        let after = all(&log, &mut buffer);
        assert!(after.ends_with(b"after"), "what is written next is read");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

fn buffer_of() -> Vec<u8> {
    Vec::new()
}

/// All that can be read. A segment that is no log ends it.
fn all(log: &Log, buffer: &mut Vec<u8>) -> Vec<u8> {
    let (mut at, mut seen) = (0, Vec::new());
    while let Ok(records) = log.read(at, buffer) {
        let Some(last) = records.last() else { break };
        assert!(last.next > at, "it goes on");
        at = last.next;
        for record in records {
            seen.extend_from_slice(&buffer[record.bytes]);
        }
    }
    seen
}

fuzz_target!(|data: &[u8]| bounded(|| check(&expand(data))));
