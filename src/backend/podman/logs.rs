//! Log lines with the moment each was written: what is needed to go on with a log where it broke off.

use std::collections::VecDeque;
use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};

use super::api::Api;
use super::http::{Call, DEADLINE};
use super::stream::Lines;
use crate::backend::{Chunk, EngineError, LogLine, LogLines, LogRequest};
use crate::model::ContainerId;

impl Api {
    /// See [`crate::backend::Engine::log_lines`].
    pub async fn log_lines(
        &self,
        id: &ContainerId,
        request: &LogRequest,
        since: Option<u64>,
    ) -> Result<LogLines, EngineError> {
        let tail = request.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
        let query =
            format!("/logs?stdout=true&stderr=true&timestamps=true&follow={}&tail={tail}{since}", request.follow);
        let call = Call::get(format!("read the log of container `{id}`"), self.container_path(id, &query).await?);
        let deadline = (!request.follow).then_some(DEADLINE);
        let response = self.http().open(&call, deadline).await?;
        let http = self.http().clone();
        let bytes = response.bytes_stream().map(move |item| item.map_err(|err| http.broken(&call, &err)));
        Ok(lines(bytes.map(|item| item.map(Chunk::Stdout)), Records::default()))
    }
}

/// Takes lines out of pieces.
pub(super) trait Cut {
    /// Takes the next piece and appends what it completes to `out`.
    fn push(&mut self, piece: Chunk, out: &mut VecDeque<LogLine>);
    /// What is left at the end.
    fn finish(&mut self, out: &mut VecDeque<LogLine>);
}

/// Pieces into lines. Ends after the first error.
pub(super) fn lines<C: Cut + Send + 'static>(
    pieces: impl Stream<Item = Result<Chunk, EngineError>> + Send + 'static,
    cut: C,
) -> LogLines {
    type Pieces = Pin<Box<dyn Stream<Item = Result<Chunk, EngineError>> + Send>>;
    let pieces: Option<Pieces> = Some(Box::pin(pieces));
    Box::pin(stream::unfold((pieces, cut, VecDeque::new()), |(mut pieces, mut cut, mut ready)| async {
        loop {
            if let Some(line) = ready.pop_front() {
                return Some((Ok(line), (pieces, cut, ready)));
            }
            match pieces.as_mut()?.next().await {
                Some(Ok(piece)) => cut.push(piece, &mut ready),
                Some(Err(err)) => return Some((Err(err), (None, cut, ready))),
                None => {
                    pieces = None;
                    cut.finish(&mut ready);
                }
            }
        }
    }))
}

/// The frames of a log (see [`super::stream::Frames`]), each of them a line or the beginning of one. What comes without frames,
/// as from a container with a terminal, is lines of standard output. A frame longer than [`Lines::LIMIT`] comes in pieces of that
/// length, so memory stays bounded: its header may promise 4 GiB.
#[derive(Debug, Default)]
pub(super) struct Records {
    buffered: BytesMut,
    frame: Option<Frame>,
    raw: Option<Stamped>,
}

/// The frame under way.
#[derive(Debug)]
struct Frame {
    is_stderr: bool,
    left: usize,
    /// Its first piece, which has its moment, went out.
    cut: bool,
}

impl Cut for Records {
    fn push(&mut self, piece: Chunk, out: &mut VecDeque<LogLine>) {
        const HEADER: usize = 8;
        let (Chunk::Stdout(bytes) | Chunk::Stderr(bytes)) = piece;
        if let Some(raw) = &mut self.raw {
            return raw.push(Chunk::Stdout(bytes), out);
        }
        self.buffered.extend_from_slice(&bytes);
        loop {
            if let Some(frame) = &mut self.frame {
                let length = frame.left.min(Lines::LIMIT);
                if self.buffered.len() < length {
                    return;
                }
                out.push_back(piece_of(frame.is_stderr, frame.cut, self.buffered.split_to(length).freeze()));
                frame.left -= length;
                frame.cut = true;
                if frame.left == 0 {
                    self.frame = None;
                }
                continue;
            }
            let header: Vec<u8> = self.buffered.iter().take(HEADER).copied().collect();
            let plausible = header.first().is_none_or(|stream| *stream <= 3)
                && header.iter().skip(1).take(3).all(|byte| *byte == 0);
            if !plausible {
                let buffered = self.buffered.split().freeze();
                return self.raw.insert(Stamped::default()).push(Chunk::Stdout(buffered), out);
            }
            let [stream, _, _, _, length @ ..] = header.as_slice() else { return };
            let Ok(length) = <[u8; 4]>::try_from(length) else { return };
            let left = u32::from_be_bytes(length) as usize;
            self.frame = Some(Frame { is_stderr: matches!(*stream, 2 | 3), left, cut: false });
            self.buffered.advance(HEADER);
        }
    }

    fn finish(&mut self, out: &mut VecDeque<LogLine>) {
        if let Some(raw) = &mut self.raw {
            raw.finish(out);
        }
    }
}

/// Lines that begin with a moment, each stream's for itself. A line longer than [`Lines::LIMIT`] comes in pieces of that length.
#[derive(Debug, Default)]
pub(super) struct Stamped([Line; 2]);

/// The line under way.
#[derive(Debug, Default)]
struct Line {
    buffered: BytesMut,
    /// How much of it is known to have no line end.
    searched: usize,
    /// Its first piece, which has its moment, went out.
    cut: bool,
}

impl Cut for Stamped {
    fn push(&mut self, piece: Chunk, out: &mut VecDeque<LogLine>) {
        let (is_stderr, bytes) = match piece {
            Chunk::Stdout(bytes) => (false, bytes),
            Chunk::Stderr(bytes) => (true, bytes),
        };
        let Line { buffered, searched, cut } = &mut self.0[usize::from(is_stderr)];
        buffered.extend_from_slice(&bytes);
        loop {
            let window = buffered.len().min(Lines::LIMIT);
            let end = buffered[*searched..window].iter().position(|byte| *byte == b'\n');
            let length = match end {
                Some(end) => *searched + end + 1,
                None if window == Lines::LIMIT => window,
                None => {
                    *searched = window;
                    return;
                }
            };
            out.push_back(piece_of(is_stderr, *cut, buffered.split_to(length).freeze()));
            (*searched, *cut) = (0, end.is_none());
        }
    }

    fn finish(&mut self, out: &mut VecDeque<LogLine>) {
        for (is_stderr, Line { buffered, cut, .. }) in [false, true].into_iter().zip(&mut self.0) {
            if !buffered.is_empty() {
                out.push_back(piece_of(is_stderr, *cut, buffered.split().freeze()));
            }
        }
    }
}

/// A line, or a piece of one: where it was cut before, it begins with no moment, whatever it looks like.
fn piece_of(is_stderr: bool, cut: bool, bytes: Bytes) -> LogLine {
    if cut { LogLine { is_stderr, time: None, bytes } } else { stamped(is_stderr, bytes) }
}

/// `2026-04-24T00:00:00.123Z text`
fn stamped(is_stderr: bool, mut bytes: Bytes) -> LogLine {
    let space = bytes.iter().position(|byte| *byte == b' ');
    let told = space.and_then(|space| std::str::from_utf8(bytes.get(..space)?).ok());
    let time = told.and_then(crate::time::parse_with_offset);
    if let (Some(_), Some(space)) = (time, space) {
        bytes.advance(space + 1);
    }
    LogLine { is_stderr, time, bytes }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend((text.len() as u32).to_be_bytes());
        bytes.extend(text.bytes());
        bytes
    }

    fn cut(mut how: impl Cut, bytes: &[u8], size: usize) -> Vec<(bool, Option<u64>, String)> {
        let mut out = VecDeque::new();
        for piece in bytes.chunks(size) {
            how.push(Chunk::Stdout(Bytes::copy_from_slice(piece)), &mut out);
        }
        how.finish(&mut out);
        let seconds = |line: &LogLine| line.time.map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs());
        out.iter()
            .map(|line| (line.is_stderr, seconds(line), String::from_utf8_lossy(&line.bytes).into_owned()))
            .collect()
    }

    #[test]
    fn each_frame_is_a_line_wherever_the_bytes_are_cut() {
        let mut bytes = frame(1, "1970-01-01T00:00:07Z one\n");
        bytes.extend(frame(2, "1970-01-01T01:00:08.5+01:00 two\n"));
        bytes.extend(frame(1, "1970-01-01T00:00:09Z pa"));
        bytes.extend(frame(1, "1970-01-01T00:00:10Z rt\n"));
        let wanted =
            [(false, Some(7), "one\n"), (true, Some(8), "two\n"), (false, Some(9), "pa"), (false, Some(10), "rt\n")];
        let wanted = wanted.map(|(stream, time, text)| (stream, time, text.to_owned()));
        for size in [1, 3, 8, 11, 1000] {
            assert_eq!(cut(Records::default(), &bytes, size), wanted, "{size}");
        }
    }

    #[test]
    fn a_terminals_log_has_no_frames() {
        let bytes = b"1970-01-01T00:00:07Z one\r\nno moment\n1970-01-01T00:00:08Z rest";
        let wanted = [(Some(7), "one\r\n"), (None, "no moment\n"), (Some(8), "rest")];
        let wanted = wanted.map(|(time, text)| (false, time, text.to_owned()));
        for size in [1, 5, 1000] {
            assert_eq!(cut(Records::default(), bytes, size), wanted, "{size}");
            assert_eq!(cut(Stamped::default(), bytes, size), wanted, "{size}");
        }
        assert_eq!(stamped(false, Bytes::new()).time, None);
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_is_never_held_as_a_whole() {
        const STAMP: &str = "1970-01-01T00:00:07Z ";
        let text = STAMP.repeat(5 * Lines::LIMIT / (2 * STAMP.len()));
        let (framed, plain) = (frame(1, &format!("{text}\n")), format!("{text}\n").into_bytes());
        for size in [8 << 10, 1 << 20, 1 << 30] {
            for lines in [cut(Records::default(), &framed, size), cut(Stamped::default(), &plain, size)] {
                let all: String = lines.iter().map(|(_, _, text)| text.as_str()).collect();
                assert_eq!(format!("{STAMP}{all}"), format!("{text}\n"), "pieces of {size}");
                assert!(lines.iter().all(|(_, _, text)| text.len() <= Lines::LIMIT));
                let times: Vec<_> = lines.iter().map(|(_, time, _)| *time).collect();
                assert_eq!(times, [Some(7), None, None], "only a line's beginning is a moment");
            }
        }
        let mut promised = Records::default();
        let mut out = VecDeque::new();
        let header = Bytes::from_static(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        promised.push(Chunk::Stdout(header), &mut out);
        for _ in 0..64 {
            promised.push(Chunk::Stdout(Bytes::from(vec![b'x'; 1 << 16])), &mut out);
        }
        assert!(out.len() == 4 && promised.buffered.is_empty(), "four MiB of four GiB are passed on");
    }
}
