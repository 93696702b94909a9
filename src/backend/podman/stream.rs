//! Cutting byte streams: multiplexed frames into [`Chunk`]s, and bytes into lines. Right wherever a chunk ends.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::backend::Chunk;

/// Takes apart the stream that Podman sends for `exec` and `logs` of a container without a terminal: frames of one byte
/// for the stream (1 standard output, 2 standard error), three zero bytes, four bytes of length (big endian), then the
/// payload.
///
/// Payload is passed on as it comes, so memory does not grow with the frame. A stream that does not begin with a frame,
/// as a container with a terminal has it, is passed on as standard output.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    header: BytesMut,
    /// The frame under way: its stream and the bytes still missing.
    frame: Option<(Origin, usize)>,
    raw: bool,
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    Stdout,
    Stderr,
}

impl Origin {
    fn chunk(self, bytes: Bytes) -> Chunk {
        match self {
            Self::Stdout => Chunk::Stdout(bytes),
            Self::Stderr => Chunk::Stderr(bytes),
        }
    }
}

impl Frames {
    const HEADER: usize = 8;

    /// Takes the next bytes and appends what they complete to `out`.
    pub(crate) fn push(&mut self, mut bytes: Bytes, out: &mut VecDeque<Chunk>) {
        while !bytes.is_empty() {
            if self.raw {
                out.push_back(Chunk::Stdout(bytes));
                return;
            }
            if let Some((origin, missing)) = self.frame {
                let piece = bytes.split_to(missing.min(bytes.len()));
                let left = missing - piece.len();
                self.frame = (left > 0).then_some((origin, left));
                out.push_back(origin.chunk(piece));
                continue;
            }
            let wanted = Self::HEADER - self.header.len();
            let piece = bytes.split_to(wanted.min(bytes.len()));
            self.header.extend_from_slice(&piece);
            if !plausible(&self.header) {
                self.raw = true;
                out.push_back(Chunk::Stdout(self.header.split().freeze()));
                continue;
            }
            if self.header.len() == Self::HEADER {
                // 3 is Podman's own complaint about the stream.
                let origin = if matches!(self.header[0], 2 | 3) { Origin::Stderr } else { Origin::Stdout };
                self.header.advance(4);
                let length = self.header.get_u32() as usize;
                self.header.clear();
                self.frame = (length > 0).then_some((origin, length));
            }
        }
    }

    /// Whether the stream ended between two frames. An unfinished header is handed out as standard output by
    /// [`Frames::finish`], so that nothing is lost.
    pub(crate) fn finish(&mut self) -> Option<Chunk> {
        (!self.header.is_empty()).then(|| Chunk::Stdout(self.header.split().freeze()))
    }
}

fn plausible(header: &[u8]) -> bool {
    header.first().is_none_or(|stream| *stream <= 3) && header.iter().skip(1).take(3).all(|byte| *byte == 0)
}

/// Cuts bytes into lines at `\n` and `\r\n`. Lines are bytes: invalid UTF-8 survives. A line longer than
/// [`Lines::LIMIT`] comes in pieces of that length, so memory stays bounded.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffered: BytesMut,
    /// The line under way has been cut already, so that a line end right after a cut ends no empty line.
    cut: bool,
    /// How much of `buffered` is known to have no line end.
    searched: usize,
}

impl Lines {
    /// The longest piece in bytes (1 MiB).
    pub(crate) const LIMIT: usize = 1 << 20;

    /// Takes the next bytes and appends each line they complete, without its end, to `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Bytes>) {
        self.buffered.extend_from_slice(bytes);
        loop {
            // One byte more than the limit is awaited, since a `\r` at the limit may belong to the line end.
            let window = self.buffered.len().min(Self::LIMIT + 2);
            match self.buffered[self.searched..window].iter().position(|byte| *byte == b'\n') {
                Some(offset) => {
                    let mut line = self.buffered.split_to(self.searched + offset + 1);
                    line.truncate(line.len() - 1);
                    if line.last() == Some(&b'\r') {
                        line.truncate(line.len() - 1);
                    }
                    if line.len() > Self::LIMIT {
                        let rest = line.split_off(Self::LIMIT);
                        out.push_back(line.freeze());
                        out.push_back(rest.freeze());
                    } else if !(self.cut && line.is_empty()) {
                        out.push_back(line.freeze());
                    }
                    self.cut = false;
                    self.searched = 0;
                }
                None if self.buffered.len() >= Self::LIMIT + 2 => {
                    out.push_back(self.buffered.split_to(Self::LIMIT).freeze());
                    self.cut = true;
                    self.searched = 0;
                }
                None => {
                    self.searched = window;
                    return;
                }
            }
        }
    }

    /// The last line, when the bytes did not end with a line end.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn finish(&mut self) -> Option<Bytes> {
        self.searched = 0;
        (!self.buffered.is_empty()).then(|| self.buffered.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// Decodes with the bytes cut at `cuts`, joining neighbours of one stream.
    fn decode(bytes: &[u8], cuts: &[usize]) -> Vec<(bool, Vec<u8>)> {
        let mut frames = Frames::default();
        let mut out = VecDeque::new();
        for piece in pieces(bytes, cuts) {
            frames.push(Bytes::copy_from_slice(piece), &mut out);
        }
        out.extend(frames.finish());
        let mut joined: Vec<(bool, Vec<u8>)> = Vec::new();
        for chunk in out {
            let (stderr, bytes) = match chunk {
                Chunk::Stdout(bytes) => (false, bytes),
                Chunk::Stderr(bytes) => (true, bytes),
            };
            match joined.last_mut() {
                Some((last, all)) if *last == stderr => all.extend_from_slice(&bytes),
                _ => joined.push((stderr, bytes.to_vec())),
            }
        }
        joined
    }

    fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    fn split(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut out = VecDeque::new();
        for piece in pieces(bytes, cuts) {
            lines.push(piece, &mut out);
        }
        out.extend(lines.finish());
        out.into_iter().map(|line| line.to_vec()).collect()
    }

    proptest! {
        /// However the bytes are cut, the same frames come out.
        #[test]
        fn frames_do_not_depend_on_chunks(
            payloads in prop::collection::vec((1u8..=2, prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|(stream, payload)| frame(*stream, payload)).collect();
            let mut wanted: Vec<(bool, Vec<u8>)> = Vec::new();
            for (stream, payload) in payloads.iter().filter(|(_, payload)| !payload.is_empty()) {
                match wanted.last_mut() {
                    Some((stderr, all)) if *stderr == (*stream == 2) => all.extend_from_slice(payload),
                    _ => wanted.push((*stream == 2, payload.clone())),
                }
            }
            prop_assert_eq!(decode(&bytes, &cuts), wanted);
        }

        /// However the bytes are cut, the same lines come out; joined again they are the bytes.
        #[test]
        fn lines_do_not_depend_on_chunks(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(0xff), any::<u8>()], 0..80),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let whole = split(&bytes, &[]);
            prop_assert_eq!(split(&bytes, &cuts), whole.clone());
            let ended = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
            let count = if ended.last().is_some_and(Vec::is_empty) { ended.len() - 1 } else { ended.len() };
            prop_assert_eq!(whole.len(), count);
        }
    }

    #[test]
    fn both_line_ends_count_and_other_bytes_survive() {
        assert_eq!(
            split(b"a\r\nb\n\n\xff\xfe\rc\r\r\nlast", &[]),
            [b"a".to_vec(), b"b".to_vec(), b"".to_vec(), b"\xff\xfe\rc\r".to_vec(), b"last".to_vec()]
        );
        assert_eq!(split(b"a\r\n", &[2]), [b"a".to_vec()], "a chunk may end between \\r and \\n");
    }

    #[test]
    fn a_long_line_comes_in_pieces_wherever_it_is_cut() {
        for length in [Lines::LIMIT - 1, Lines::LIMIT, Lines::LIMIT + 1, 3 * Lines::LIMIT] {
            let mut bytes = vec![b'x'; length];
            bytes.extend(b"\r\nnext\n");
            let whole = split(&bytes, &[]);
            assert_eq!(whole.concat(), [vec![b'x'; length], b"next".to_vec()].concat());
            assert!(whole.iter().all(|line| line.len() <= Lines::LIMIT));
            assert_eq!(whole.len(), length.div_ceil(Lines::LIMIT) + 1);
            for cut in [1, Lines::LIMIT, Lines::LIMIT + 1, Lines::LIMIT + 2, length, length + 1] {
                assert!(split(&bytes, &[cut]) == whole, "length {length}, cut {cut}");
            }
        }
    }

    #[test]
    fn a_terminal_is_not_framed() {
        assert_eq!(decode(b"hello\r\n", &[3]), [(false, b"hello\r\n".to_vec())]);
        assert_eq!(decode(&[1, 0, 0], &[]), [(false, vec![1, 0, 0])], "an unfinished header is not lost");
    }
}
