//! What the fuzz targets have in common: limits on memory, input that is larger than what is written, pieces, mutations, and
//! what must hold of text that somebody reads.
//!
//! A target panics where something is wrong. Time is limited by libFuzzer (`-timeout=2`), memory by [`bounded`].

mod json;
mod memory;
mod tape;

use std::path::Path;

use steadfast::model::{Arch, Desired, HostKey, Observed, Seen};
use steadfast::state::{Context, Input, Loaded, StateError, load_all};

pub use json::mutate_json;
pub use memory::bounded;
pub use tape::mutate_tar;

/// The most bytes of a message.
pub const MESSAGE: usize = 4096;
/// The most bytes that an input stands for.
const EXPANDED: usize = 128 * 1024;

/// An input as it is meant. A byte `0xff`, which stands in no text, repeats the bytes after it: the next byte says how often (a
/// power of two), the one after that how many they are. So the few bytes that are mutated reach words of a hundred kilobytes, ten
/// thousand items and deep nesting.
pub fn expand(mut data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    while let Some((first, rest)) = data.split_first() {
        match rest {
            [power, length, rest @ ..] if *first == 0xff => {
                let (unit, rest) = rest.split_at(usize::from(*length).min(rest.len()));
                for _ in 0..1_u32 << (power % 20) {
                    if out.len() + unit.len() > EXPANDED || unit.is_empty() {
                        break;
                    }
                    out.extend_from_slice(unit);
                }
                data = rest;
            }
            _ => {
                out.push(*first);
                data = rest;
            }
        }
    }
    out
}

/// The bytes in pieces, cut at places that depend on nothing but them.
pub fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut state = data
        .iter()
        .take(4096)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // Of short ones each byte alone, now and then.
    let most = if data.len() < 4096 && state.is_multiple_of(3) { 1 } else { (data.len() / 16).max(97) };
    let (mut pieces, mut rest) = (Vec::new(), data);
    while !rest.is_empty() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let size = (state >> 33) as usize % most + 1;
        let (piece, after) = rest.split_at(size.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// A sentence: short, and with no character that a terminal obeys.
#[track_caller]
pub fn check_message(text: &str) {
    assert!(text.len() < MESSAGE, "a message of {} bytes: {}…", text.len(), text.chars().take(300).collect::<String>());
    check_page(text);
}

/// A page: no character that a terminal obeys but line breaks and tabs.
#[track_caller]
pub fn check_page(text: &str) {
    let acts = text.find(|c| steadfast::fuzzing::acts(c) && !matches!(c, '\n' | '\t'));
    assert!(acts.is_none(), "a character that acts, at {acts:?}: {:?}", text.chars().take(2000).collect::<String>());
}

/// The value of the variable `API_TOKEN`, which no input has.
pub const SECRET: &str = "hunter2-7c1b3f0e";

/// Loads a state file that lies in `dir`.
///
/// # Errors
/// When it is not valid.
pub fn load_state(text: &str, dir: &Path) -> Result<Loaded, StateError> {
    load_layers(&[text], dir)
}

/// Loads state files that are merged, as [`load_state`].
///
/// # Errors
/// When they are not valid.
pub fn load_layers(texts: &[&str], dir: &Path) -> Result<Loaded, StateError> {
    let input = |text: &&str| Input { name: "s.yaml".into(), text: (*text).into(), dir: dir.into() };
    let inputs: Vec<_> = texts.iter().map(input).collect();
    let key = |_: &Path| HostKey::from_bytes([7; 32]);
    let vars = [("HOME", "/h"), ("USER", "u"), ("API_TOKEN", SECRET)];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    load_all(&inputs, &Context { vars, root: None, manifest_url: None, host_arch: Arch::X64, key: &key })
}

/// What the two agents of this file are to be: `a` with a port and a health check, `b` from the manifest.
pub fn desired() -> Desired {
    let text = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nmanifest: {url: \"https://m.example/m.json\"}\nagents:\n  \
                a: {version: \"1\", image: r.example/a, source: local, container: {ports: [\"8080:80\"], healthcheck: {test: [CMD, \"true\"]}}}\n  \
                b: {version: \"1\", image: r.example/a, container: {restart: on-failure}}\n  \
                c: {version: latest}\n";
    load_state(text, Path::new("/")).unwrap_or_else(|err| panic!("{}", err.render(false))).desired
}

/// A world in which there is nothing.
pub fn nothing() -> Observed {
    Observed { guest: Seen::Present(Default::default()), ..Observed::nothing() }
}
