//! What a command printed: records in segments, bounded, each record with its stream and its time.
//!
//! A place in the log is a number of bytes since the session began, and never comes twice. A segment `log.<place>` holds the
//! records from its place on. When all of them together are larger than the limit, the oldest goes.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::frame::Stream;

/// What comes before the bytes of a record: stream, time, length.
pub const RECORD_HEAD: usize = 13;
/// The largest record, in bytes.
pub const MAX_RECORD: usize = 64 * 1024;
/// The smallest limit that makes sense, in bytes.
pub const LEAST: u64 = 64 * 1024;
/// In how many segments the limit is divided.
const SEGMENTS: u64 = 8;

/// A log that is written.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    max: u64,
    segments: VecDeque<Segment>,
    /// Where the next record goes.
    end: u64,
    /// Bytes that could not be written.
    lost: u64,
}

#[derive(Debug)]
struct Segment {
    from: u64,
    path: PathBuf,
    file: File,
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where the next one begins.
    pub next: u64,
    /// When it was printed, in milliseconds since 1970.
    pub time: u64,
    /// Which output.
    pub stream: Stream,
    /// Where its bytes stand in what [`Log::read`] filled.
    pub bytes: std::ops::Range<usize>,
}

impl Log {
    /// Opens the log in a directory, whatever of one is there; a record that was not finished is not there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(dir: &Path, max: u64) -> io::Result<Self> {
        let mut log = Self { dir: dir.to_owned(), max: max.max(LEAST), segments: VecDeque::new(), end: 0, lost: 0 };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let from =
                name.to_str().and_then(|name| name.strip_prefix("log.")).and_then(|from| from.parse::<u64>().ok());
            if let Some(from) = from {
                found.push((from, entry.path()));
            }
        }
        found.sort_unstable();
        for (from, path) in found {
            // Who only reads it may be nobody who may write it.
            let file = OpenOptions::new().read(true).write(true).open(&path).or_else(|_| File::open(&path))?;
            // What the segments before it do not lead to is kept: a gap is told to who reads over it.
            log.end = from;
            log.segments.push_back(Segment { from, path, file });
            log.end = log.whole_end(from)?;
        }
        Ok(log)
    }

    /// Where the whole records of the last segment end.
    fn whole_end(&self, from: u64) -> io::Result<u64> {
        let Some(segment) = self.segments.back() else { return Ok(from) };
        let length = segment.file.metadata()?.len();
        let mut at = 0;
        let mut head = [0; RECORD_HEAD];
        while at + RECORD_HEAD as u64 <= length {
            segment.file.read_exact_at(&mut head, at)?;
            let Some((_, _, size)) = parse_head(&head) else { break };
            let next = at + (RECORD_HEAD + size) as u64;
            if next > length {
                break;
            }
            at = next;
        }
        Ok(from.saturating_add(at))
    }

    /// Where the next record goes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where the oldest record begins.
    pub fn begin(&self) -> u64 {
        self.segments.front().map_or(self.end, |segment| segment.from)
    }

    /// How many bytes could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How large it may be.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Appends a record. What cannot be written even after the oldest segment was given up is counted as lost.
    pub fn append(&mut self, stream: Stream, time: u64, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_RECORD) {
            let mut record = Vec::with_capacity(RECORD_HEAD + piece.len());
            record.push(stream as u8);
            record.extend_from_slice(&time.to_be_bytes());
            record.extend_from_slice(&u32::try_from(piece.len()).unwrap_or(u32::MAX).to_be_bytes());
            record.extend_from_slice(piece);
            while self.write(&record).is_err() {
                // A full disk: room is made, as far as there is something of ours.
                if self.segments.len() < 2 {
                    self.lost += piece.len() as u64;
                    break;
                }
                self.drop_oldest();
            }
        }
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|segment| self.end - segment.from >= self.max / SEGMENTS);
        if full {
            let path = self.dir.join(format!("log.{}", self.end));
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            self.segments.push_back(Segment { from: self.end, path, file });
        }
        let Some(segment) = self.segments.back() else { return Err(io::ErrorKind::NotFound.into()) };
        segment.file.write_all_at(record, self.end - segment.from)?;
        self.end += record.len() as u64;
        while self.end - self.begin() > self.max && self.segments.len() > 1 {
            self.drop_oldest();
        }
        Ok(())
    }

    fn drop_oldest(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            let _ = std::fs::remove_file(&segment.path);
        }
    }

    /// The first place from which on there are at most `bytes` of records.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn tail(&self, bytes: u64) -> io::Result<u64> {
        let wanted = self.end.saturating_sub(bytes).max(self.begin());
        let Some(segment) = self.segments.iter().rev().find(|segment| segment.from <= wanted) else {
            return Ok(self.begin());
        };
        let mut at = segment.from;
        let mut buffer = Vec::new();
        while at < wanted {
            let records = self.read(at, &mut buffer)?;
            let Some(last) = records.last() else { return Ok(at) };
            if last.next < wanted {
                at = last.next;
                continue;
            }
            return Ok(records.iter().map(|record| record.next).find(|next| *next >= wanted).unwrap_or(last.next));
        }
        Ok(at)
    }

    /// Reads whole records from a place on, up to about 64 KiB. The place is one that was told here; of one that is gone,
    /// those from the oldest on. `buffer` gets their bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(&self, from: u64, buffer: &mut Vec<u8>) -> io::Result<Vec<Record>> {
        buffer.clear();
        let mut from = from.max(self.begin());
        let mut index = self.segments.iter().rposition(|segment| segment.from <= from).unwrap_or(0);
        while from < self.end {
            let Some(segment) = self.segments.get(index) else { break };
            let until = self.segments.get(index + 1).map_or(self.end, |next| next.from);
            let wanted =
                usize::try_from(until.saturating_sub(from)).unwrap_or(usize::MAX).min(RECORD_HEAD + MAX_RECORD);
            buffer.resize(wanted, 0);
            let length = segment.file.read_at(buffer, from - segment.from)?;
            buffer.truncate(length);
            let records = records(buffer, from);
            if !records.is_empty() {
                return Ok(records);
            }
            // The end of a segment that is torn, or was written by somebody else, is left for the next one.
            (from, index) = (until, index + 1);
        }
        buffer.clear();
        Ok(Vec::new())
    }
}

/// The whole records that bytes begin with.
fn records(bytes: &[u8], from: u64) -> Vec<Record> {
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<RECORD_HEAD>()) {
        let Some((stream, time, size)) = parse_head(head) else { break };
        let range = at + RECORD_HEAD..at + RECORD_HEAD + size;
        if range.end > bytes.len() {
            break;
        }
        at = range.end;
        records.push(Record { next: from + at as u64, time, stream, bytes: range });
    }
    records
}

fn parse_head(head: &[u8; RECORD_HEAD]) -> Option<(Stream, u64, usize)> {
    let (stream, rest) = head.split_first()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let size = u32::from_be_bytes(*rest.first_chunk::<4>()?) as usize;
    (size <= MAX_RECORD).then_some((Stream::of(*stream)?, u64::from_be_bytes(*time), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(log: &Log, from: u64) -> Vec<u8> {
        let (mut at, mut bytes, mut buffer) = (from, Vec::new(), Vec::new());
        loop {
            let records = log.read(at, &mut buffer).unwrap();
            let Some(last) = records.last() else { return bytes };
            at = last.next;
            for record in records {
                bytes.extend_from_slice(&buffer[record.bytes]);
            }
        }
    }

    #[test]
    fn it_is_bounded_and_its_end_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), 256 << 10).unwrap();
        let line = |n: u32| format!("line {n}\n").into_bytes();
        for n in 0..100_000 {
            log.append(Stream::Stdout, 1, &line(n));
        }
        let held: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(held <= 256 << 10, "{held}");
        let seen = all(&log, 0);
        assert!(seen.ends_with(&line(99_999)) && seen.len() > 50_000, "{}", seen.len());
        assert_eq!(log.lost(), 0);
        let tail = all(&log, log.tail(1000).unwrap());
        assert!(tail.len() <= 1000 && tail.len() > 300 && seen.ends_with(&tail));
        assert_eq!(all(&Log::open(dir.path(), 256 << 10).unwrap(), 0), seen);
    }

    #[test]
    fn a_record_that_was_not_finished_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), LEAST).unwrap();
        log.append(Stream::Stdout, 1, b"whole");
        log.append(Stream::Stderr, 2, b"torn");
        let path = dir.path().join("log.0");
        let length = std::fs::metadata(&path).unwrap().len();
        for cut in 1..(RECORD_HEAD + 4) as u64 {
            File::options().write(true).open(&path).unwrap().set_len(length - cut).unwrap();
            assert_eq!(all(&Log::open(dir.path(), LEAST).unwrap(), 0), b"whole");
        }
        std::fs::write(&path, [9; 100]).unwrap();
        assert_eq!(Log::open(dir.path(), LEAST).unwrap().end(), 0);
    }

    #[test]
    fn a_segment_that_is_no_log_hides_nothing_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("log.0"), [9; 100]).unwrap();
        std::fs::write(dir.path().join("log.100"), [9; 10]).unwrap();
        let mut log = Log::open(dir.path(), LEAST).unwrap();
        log.append(Stream::Stdout, 1, b"after");
        assert_eq!(all(&log, 0), b"after");
    }

    #[test]
    fn a_huge_piece_is_several_records() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), 1 << 20).unwrap();
        let piece: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        log.append(Stream::Stdout, 1, &piece);
        assert_eq!(all(&log, 0), piece);
    }
}
