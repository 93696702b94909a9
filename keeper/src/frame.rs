//! The framed protocol: a kind, a length, a payload.
//!
//! Version 1. A frame is one byte that says its kind, four bytes with the length of its payload (big-endian), and the payload.
//! Both sides begin with [`Kind::Hello`]. A kind that is not known is skipped, and so are fields of a message that are not
//! known: a newer steadfast speaks with an older keeper, and the other way round.

use std::io::{self, Read, Write};

/// The version of the protocol that this build speaks.
pub const VERSION: u32 = 1;
/// The largest payload, in bytes. A longer frame is an error: nobody sends one.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// How much data goes into one frame, in bytes.
pub const PIECE: usize = 64 * 1024;
/// Kind and length.
pub const HEAD: usize = 5;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// The kind with this number; `None` where this build knows none.
            pub fn of(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Either side's first frame: [`crate::message::Hello`].
    Hello = 1,
    /// Asks for output, and perhaps to be the writer: [`crate::message::Attach`].
    Attach = 2,
    /// Announces input that is written whole: [`crate::message::Send`]. [`Kind::Data`] follows, then [`Kind::End`].
    Send = 3,
    /// Input: of a send, bytes; of an attached writer, the offset in all it has written (eight bytes, big-endian), then bytes.
    Data = 4,
    /// No more input from this sender or writer; or no more of an answer.
    End = 5,
    /// Ends the command: [`crate::message::Stop`].
    Stop = 6,
    /// The writer's terminal has this size: [`crate::message::Size`].
    Resize = 7,
    /// Asks for [`Kind::State`].
    Status = 8,
    /// Asks for [`Kind::Ended`], once it has.
    Wait = 9,
    /// The client is alive. Nothing is answered.
    Ping = 10,
    /// Asks something of a tree: [`crate::tree::Question`]. Where a list belongs to it, [`Kind::Data`] follows, then [`Kind::End`].
    Ask = 32,
    /// What the command printed: [`Output`].
    Output = 65,
    /// All that was there when the client attached has been replayed: [`crate::message::Replayed`].
    Replayed = 66,
    /// Input was written to the command: [`crate::message::Sent`].
    Sent = 67,
    /// Of an attached writer's input, so many bytes were taken: eight bytes, big-endian.
    Taken = 68,
    /// How the session is: [`crate::message::State`].
    State = 69,
    /// The session has ended, and goes on no more: [`crate::message::State`].
    Ended = 70,
    /// Something has changed about the sessions that are watched: look again. Empty.
    Changed = 72,
    /// A small answer about a tree: [`crate::tree::Told`].
    Told = 96,
    /// A piece of a list about a tree: of [`crate::tree::Entry`] or [`crate::tree::Outcome`].
    Entries = 97,
    /// A refusal: [`crate::message::Problem`].
    Problem = 71,
}

/// A frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its kind.
    pub kind: Kind,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The first bytes of a frame.
pub fn head(kind: Kind, length: usize) -> [u8; HEAD] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [kind as u8, length[0], length[1], length[2], length[3]]
}

/// A frame as bytes.
pub fn bytes(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.extend_from_slice(&head(kind, payload.len()));
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame with a message in it.
pub fn message(kind: Kind, message: &impl serde::Serialize) -> Vec<u8> {
    bytes(kind, &serde_json::to_vec(message).unwrap_or_default())
}

/// Writes a frame.
///
/// # Errors
/// Those of the writer.
pub fn write(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    to.write_all(&bytes(kind, payload))
}

/// Reads the next frame of a known kind. `None` at the end, when it is between two frames.
///
/// # Errors
/// Those of the reader; `UnexpectedEof` within a frame; `InvalidData` for one that is too long.
pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut frames = Frames::default();
    let mut piece = [0; HEAD];
    loop {
        // Never more than the frame needs: the rest is for whoever reads next.
        let wanted = frames.missing();
        if wanted > piece.len() {
            let mut body = vec![0; wanted];
            from.read_exact(&mut body)?;
            frames.push(&body);
        } else {
            let wanted = wanted.clamp(1, HEAD);
            let piece = &mut piece[..wanted];
            match from.read(piece) {
                Ok(0) if frames.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => frames.push(&piece[..length]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        if let Some(frame) = frames.next()? {
            return Ok(Some(frame));
        }
    }
}

/// Bytes as they come, taken apart into frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Of `buffer`, what has been taken already.
    taken: usize,
}

impl Frames {
    /// Takes in what came. Bounded by who asks for frames between two pieces.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }

    /// How many bytes the frame that has begun still wants; of none, those of its head.
    fn missing(&self) -> usize {
        let rest = self.rest();
        match length(rest) {
            Some(length) => (HEAD + length.min(MAX_PAYLOAD)).saturating_sub(rest.len()),
            None => HEAD - rest.len(),
        }
    }

    /// The next whole frame of a known kind.
    ///
    /// # Errors
    /// `InvalidData` for a frame that is longer than [`MAX_PAYLOAD`].
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let rest = self.rest();
            let Some(length) = length(rest) else { return Ok(None) };
            if length > MAX_PAYLOAD {
                let why = format!("a frame of {length} bytes, and {MAX_PAYLOAD} is the most");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let Some(payload) = rest.get(HEAD..HEAD + length) else { return Ok(None) };
            let frame =
                rest.first().and_then(|kind| Kind::of(*kind)).map(|kind| Frame { kind, payload: payload.to_vec() });
            self.taken += HEAD + length;
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }
}

fn length(head: &[u8]) -> Option<usize> {
    let [_, a, b, c, d] = *head.first_chunk::<HEAD>()?;
    Some(u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Which of a command's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// Standard output, and all that a terminal shows.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

impl Stream {
    /// The stream with this number.
    pub fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// A piece of what a command printed, as it stands in the log and in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output<'a> {
    /// Where in the log the next piece begins: to attach again from there on.
    pub next: u64,
    /// When it was read from the command, in milliseconds since 1970.
    pub time: u64,
    /// Which output.
    pub stream: Stream,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// What comes before the bytes of an [`Output`].
pub const OUTPUT_HEAD: usize = 17;

impl<'a> Output<'a> {
    /// The first bytes of the payload.
    pub fn head(&self) -> [u8; OUTPUT_HEAD] {
        let mut head = [0; OUTPUT_HEAD];
        head[..8].copy_from_slice(&self.next.to_be_bytes());
        head[8..16].copy_from_slice(&self.time.to_be_bytes());
        head[16] = self.stream as u8;
        head
    }

    /// Reads a payload; `None` for one that is none.
    pub fn of(payload: &'a [u8]) -> Option<Self> {
        let (next, rest) = payload.split_first_chunk::<8>()?;
        let (time, rest) = rest.split_first_chunk::<8>()?;
        let (stream, bytes) = rest.split_first()?;
        let stream = Stream::of(*stream)?;
        Some(Self { next: u64::from_be_bytes(*next), time: u64::from_be_bytes(*time), stream, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut stream = bytes(Kind::Hello, b"{}");
        stream.extend_from_slice(&[200, 0, 0, 0, 3, 1, 2, 3]);
        stream.extend_from_slice(&bytes(Kind::Data, &[7; 1000]));
        let expected = [(Kind::Hello, b"{}".to_vec()), (Kind::Data, vec![7; 1000])];
        for cut in [1, 2, 5, 6, 999, stream.len()] {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                frames.push(piece);
                while let Some(frame) = frames.next().unwrap() {
                    seen.push((frame.kind, frame.payload));
                }
            }
            assert_eq!(seen, expected, "{cut}");
            assert!(frames.is_empty());
        }
        let mut from = stream.as_slice();
        assert_eq!(read(&mut from).unwrap().unwrap().kind, Kind::Hello);
        assert_eq!(read(&mut from).unwrap().unwrap().payload.len(), 1000);
        assert_eq!(read(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_costs_no_memory() {
        let mut from = [4, 255, 255, 255, 255].as_slice();
        assert_eq!(read(&mut from).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut from = [4, 0, 0, 1].as_slice();
        assert_eq!(read(&mut from).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn output_is_read_back() {
        let output = Output { next: 77, time: 1 << 40, stream: Stream::Stderr, bytes: b"x\xff" };
        let mut payload = output.head().to_vec();
        payload.extend_from_slice(output.bytes);
        assert_eq!(Output::of(&payload), Some(output));
        assert_eq!(Output::of(&payload[..16]), None);
    }
}
