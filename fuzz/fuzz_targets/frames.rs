//! Streams of bytes from a container: the same comes out wherever they are cut, and nothing is added, lost or held for long.

#![no_main]

use libfuzzer_sys::fuzz_target;
use steadfast::backend::{Chunk, LogLine};
use steadfast::fuzzing::podman::{frames, lines, log, stamped_log};
use steadfast_fuzz::{bounded, expand, pieces};

fn check(bytes: &[u8]) {
    let cut = pieces(bytes);

    let whole = joined(frames([bytes]));
    assert!(joined(frames(cut.iter().copied())) == whole, "frames depend on where the bytes are cut");
    let length: usize = whole.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(length <= bytes.len(), "more comes out than went in");

    let whole = lines([bytes]);
    assert!(lines(cut.iter().copied()) == whole, "lines depend on where the bytes are cut");
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
    let lines_text: Vec<u8> = whole.iter().flatten().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
    assert!(text == lines_text, "lines are not what went in");

    let whole = log([bytes]);
    assert!(log(cut.iter().copied()) == whole, "a log depends on where the bytes are cut");
    assert!(size(&whole) <= bytes.len(), "more comes out than went in");
    let whole = stamped_log([bytes]);
    assert!(stamped_log(cut.iter().copied()) == whole, "a log depends on where the bytes are cut");
    assert!(size(&whole) <= bytes.len(), "more comes out than went in");
}

fn size(lines: &[LogLine]) -> usize {
    lines.iter().map(|line| line.bytes.len()).sum()
}

/// What comes from each stream, neighbours of one stream joined.
fn joined(chunks: Vec<Chunk>) -> Vec<(bool, Vec<u8>)> {
    let mut joined: Vec<(bool, Vec<u8>)> = Vec::new();
    for chunk in chunks {
        let (is_stderr, bytes) = match chunk {
            Chunk::Stdout(bytes) => (false, bytes),
            Chunk::Stderr(bytes) => (true, bytes),
        };
        match joined.last_mut() {
            Some((last, all)) if *last == is_stderr => all.extend_from_slice(&bytes),
            _ => joined.push((is_stderr, bytes.to_vec())),
        }
    }
    joined
}

fuzz_target!(|data: &[u8]| {
    let bytes = expand(data);
    bounded(|| check(&bytes));
});
