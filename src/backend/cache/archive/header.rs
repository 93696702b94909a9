//! Blocks and headers of tar: read, checked and written.

use bytes::{Buf, Bytes};

use super::{BLOCK, NAME, State};

pub(super) fn up_to(bytes: &mut Bytes, left: &mut u64) -> Bytes {
    let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= length as u64;
    let piece = bytes.slice(..length);
    bytes.advance(length);
    piece
}

pub(super) fn after(left: u64, state: impl FnOnce(u64) -> State) -> State {
    if left == 0 { State::Header } else { state(left) }
}

pub(super) fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)
}

pub(super) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal text; or, with the highest bit set, binary.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => {
            let value = rest.iter().try_fold(0u64, |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)))?;
            (value < 1 << 62).then_some(value)
        }
        (first, _) if *first >= 0x80 => None,
        _ => {
            let text = std::str::from_utf8(until_zero(field)).ok()?.trim_matches(' ');
            if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
        }
    }
}

pub(super) fn has_right_checksum(header: &[u8]) -> bool {
    number(&header[148..156]) == Some(checksum(header))
}

/// The sum of all bytes, with spaces for the sum itself.
pub(super) fn checksum(header: &[u8]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(&header[..148]) + 8 * u64::from(b' ') + sum(&header[156..])
}

pub(super) fn name_in(header: &[u8]) -> Vec<u8> {
    let name = until_zero(&header[..100]);
    let prefix = match header[257..263] == *b"ustar\0" {
        true if is_star(header) => until_zero(&header[345..476]),
        true => until_zero(&header[345..500]),
        false => &[],
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// Joerg Schilling's star has times where others have the end of a name.
pub(super) fn is_star(header: &[u8]) -> bool {
    header[257..263] == *b"ustar\0" && header[508..] == *b"tar\0"
}

/// Sets what may have been set before. Yields whether it was.
pub(super) fn replaced(place: &mut Option<Vec<u8>>, with: Option<Vec<u8>>) -> bool {
    std::mem::replace(place, with).is_some()
}

/// Sets what has not been set. Yields whether that was so.
pub(super) fn first(place: &mut Option<Bytes>, bytes: Bytes) -> bool {
    let is_first = place.is_none();
    place.get_or_insert(bytes);
    is_first
}

/// Without `.`, `..` and superfluous slashes, as whoever looks for a file in an archive sees it.
pub(in crate::backend::cache) fn clean_path(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// One entry, but for its content: in the form that every reader of tar understands alike, with GNU's records for what is long.
pub(super) fn write_entry(out: &mut Vec<Bytes>, name: &[u8], kind: u8, link: Option<&[u8]>, size: u64) {
    for (what, kind) in [(link.unwrap_or_default(), b'K'), (name, b'L')] {
        if what.len() > NAME {
            write_file(out, b"././@LongLink", kind, &[what, b"\0"].concat());
        }
    }
    out.push(header_of(name, kind, link.unwrap_or_default(), size));
}

pub(super) fn write_file(out: &mut Vec<Bytes>, name: &[u8], kind: u8, content: &[u8]) {
    out.push(header_of(name, kind, &[], content.len() as u64));
    let mut padded = content.to_vec();
    padded.resize(content.len().next_multiple_of(BLOCK), 0);
    out.push(padded.into());
}

/// Names are cut where they are too long: a record has them whole.
pub(super) fn header_of(name: &[u8], kind: u8, link: &[u8], size: u64) -> Bytes {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(NAME)]);
    put(100, if kind == b'5' { b"0000755\0" } else { b"0000644\0" });
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    match size < 1 << 33 {
        true => put(124, format!("{size:011o}\0").as_bytes()),
        // What eleven octal digits cannot say is binary.
        false => {
            put(124, &[0x80]);
            put(128, &size.to_be_bytes());
        }
    }
    put(136, b"00000000000\0");
    put(156, &[kind]);
    put(157, &link[..link.len().min(NAME)]);
    put(257, b"ustar  \0");
    let sum = checksum(&header);
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Bytes::copy_from_slice(&header)
}
