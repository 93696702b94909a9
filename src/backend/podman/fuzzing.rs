//! What the fuzz targets reach of how Podman's answers are read. The order of things is that of `look` and `logs`.

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::Value;

use super::error::refused as refused_with;
use super::logs::{Cut, Records, Stamped};
use super::look::{replace, to_inspect};
pub use super::shell::fuzzing as shell;
use super::stream::{Frames, Lines};
use super::wire::{self, ImageLabels};
use super::{answer, image, recent};
use crate::backend::{Chunk, EngineError, EngineEvent, LogLine, Look};
use crate::model::{Guest, ImageId, Ownership, Secrets};

/// The chunks of a multiplexed stream that comes in these pieces.
pub fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Chunk> {
    let (mut frames, mut out) = (Frames::default(), VecDeque::new());
    pieces.into_iter().for_each(|piece| frames.push(Bytes::copy_from_slice(piece), &mut out));
    out.extend(frames.finish());
    out.into()
}

/// The lines of bytes that come in these pieces.
pub fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Bytes> {
    let (mut lines, mut out) = (Lines::default(), VecDeque::new());
    pieces.into_iter().for_each(|piece| lines.push(piece, &mut out));
    out.extend(lines.finish());
    out.into()
}

/// The lines of a log from Podman's API.
pub fn log<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<LogLine> {
    cut(Records::default(), pieces)
}

/// The lines of a log from Podman's command line.
pub fn stamped_log<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<LogLine> {
    cut(Stamped::default(), pieces)
}

fn cut<'a>(mut how: impl Cut, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<LogLine> {
    let mut out = VecDeque::new();
    pieces.into_iter().for_each(|piece| how.push(Chunk::Stdout(Bytes::copy_from_slice(piece)), &mut out));
    how.finish(&mut out);
    out.into()
}

/// What Podman answers to the requests of one observation.
#[derive(Debug)]
pub struct Answers<'a> {
    /// The list of containers.
    pub containers: &'a Value,
    /// The list of images.
    pub images: &'a Value,
    /// The inspection of whichever container is inspected.
    pub inspection: &'a Value,
    /// The latest events, a line each.
    pub events: &'a [u8],
}

/// What an observation finds in these answers.
pub fn guest(answers: &Answers<'_>, look: &Look) -> Guest {
    let now = SystemTime::now();
    let labels = ImageLabels::of(answers.images);
    let _ = labels.lack_any_of(answers.containers, &look.owner);
    let mut containers = wire::containers(answers.containers, look, &labels);
    let ended = recent::ended_lately(&containers, now);
    let past: Vec<_> = answers.events.split(|byte| *byte == b'\n').filter_map(wire::past).collect();
    for (name, _) in to_inspect(look, &containers, now) {
        if let Some((_, mut closer)) = wire::inspected(answers.inspection) {
            if ended.contains(&closer.id) {
                closer.exits = recent::recent_exits(&closer, Some(&past));
            }
            replace(&mut containers, name, closer);
        }
    }
    let images = wire::images(answers.images);
    Guest {
        version: "4.3.1".to_owned(),
        looked_at: Some(now),
        containers,
        images: images.names,
        image_store: images.store,
    }
}

/// The JSON of an answer.
///
/// # Errors
/// Why it is none, or too much.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    answer::parse(bytes)
}

/// Reads an answer as everything that one is read as beside an observation. Yields what becomes part of a sentence.
pub fn read_otherwise(told: &Value, bytes: &[u8]) -> Vec<String> {
    let entries = told.as_array().into_iter().flatten();
    let _ = entries.filter_map(wire::listing).count();
    let _ = (wire::stoppable(told), wire::image_facts(told), shell::loaded(bytes));
    let _ = answer::values(bytes).map(Iterator::count);
    let refused = image::refuse_if_used(&ImageId::from("f"), told).err();
    refused.into_iter().map(|err| err.to_string()).collect()
}

/// A line of Podman's events.
pub fn event(line: &[u8], owner: &Ownership) -> Option<EngineEvent> {
    wire::event(line, owner)
}

/// A request that Podman refuses.
pub fn refused(what: &str, command: &str, status: u16, body: &[u8]) -> EngineError {
    refused_with(what, command, status, body, &Secrets::default())
}
