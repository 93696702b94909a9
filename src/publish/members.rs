//! gzip of many members, compressed side by side: the same bytes in, the same bytes out, however many processors there are.
//!
//! A member starts where the writer says so, and after every [`CHUNK`] bytes. So what stands in the same member in two versions of
//! a tarball is the same bytes in both (RFC 1952: a file of several members is their contents one after another).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use flate2::{Compression, GzBuilder};

pub use crate::model::Member;
use crate::model::Sha256Digest;
use crate::model::hashing::Hashing;
use crate::mutex::guard;

/// The most plain bytes of one member (4 MiB).
pub const CHUNK: usize = 4 * 1024 * 1024;

/// What RFC 1952 calls an unknown operating system: where it was written changes nothing.
const NO_SYSTEM: u8 = 255;

/// What was written in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What all bytes hash to.
    pub sha256: Sha256Digest,
    /// How many there are.
    pub size_bytes: u64,
    /// The members, in their order.
    pub members: Vec<Member>,
}

type Compressed = (Vec<u8>, Sha256Digest);
type Job = (Vec<u8>, SyncSender<io::Result<Compressed>>);

/// Compresses what is written to it, and writes it on.
pub struct Members<W: Write> {
    to: Hashing<W>,
    plain: Vec<u8>,
    members: Vec<Member>,
    /// In the order in which they are to be written.
    waiting: VecDeque<Receiver<io::Result<Compressed>>>,
    jobs: Option<SyncSender<Job>>,
    workers: Vec<JoinHandle<()>>,
}

impl<W: Write> Members<W> {
    /// One that compresses at this level (0 to 9), with a thread for each processor.
    pub fn new(to: W, level: u32) -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let (jobs, inbox) = sync_channel::<Job>(count);
        let inbox = Arc::new(Mutex::new(inbox));
        let workers = (0..count).map(|_| {
            let inbox = Arc::clone(&inbox);
            std::thread::spawn(move || work(&inbox, level))
        });
        Self {
            to: Hashing::new(to),
            plain: Vec::with_capacity(CHUNK),
            members: Vec::new(),
            waiting: VecDeque::new(),
            workers: workers.collect(),
            jobs: Some(jobs),
        }
    }

    /// What is written from here on begins a member of its own.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn begin_member(&mut self) -> io::Result<()> {
        if self.plain.is_empty() { Ok(()) } else { self.hand_over() }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let plain = std::mem::replace(&mut self.plain, Vec::with_capacity(CHUNK));
        // A few more than there are workers are under way, and no more: memory stays constant.
        while self.waiting.len() > self.workers.len() {
            self.write_next()?;
        }
        let (answer, outcome) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send((plain, answer)).map_err(|_| gone())?;
        self.waiting.push_back(outcome);
        Ok(())
    }

    fn write_next(&mut self) -> io::Result<()> {
        let Some(next) = self.waiting.pop_front() else { return Ok(()) };
        let (bytes, sha256) = next.recv().map_err(|_| gone())??;
        self.members.push(Member { sha256, offset: self.to.length(), length: bytes.len() as u64 });
        self.to.write_all(&bytes)?;
        Ok(())
    }

    /// Writes what is left. Yields the writer below, with what went to it.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn finish(mut self) -> io::Result<(W, Written)> {
        // No byte at all is a member, too: an empty file is no gzip.
        if !self.plain.is_empty() || self.members.is_empty() && self.waiting.is_empty() {
            self.hand_over()?;
        }
        while !self.waiting.is_empty() {
            self.write_next()?;
        }
        self.jobs = None;
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| gone())?;
        }
        self.to.flush()?;
        let (to, sha256, size_bytes) = self.to.finish();
        Ok((to, Written { sha256, size_bytes, members: self.members }))
    }
}

impl<W: Write> Write for Members<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.plain.len());
        self.plain.extend_from_slice(&bytes[..taken]);
        if self.plain.len() == CHUNK {
            self.hand_over()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("a thread that compresses has ended")
}

fn work(inbox: &Mutex<Receiver<Job>>, level: u32) {
    loop {
        let job = guard(inbox).recv();
        let Ok((plain, answer)) = job else { return };
        // Whoever waited may have given up.
        let _ = answer.send(compress(&plain, level));
    }
}

fn compress(plain: &[u8], level: u32) -> io::Result<Compressed> {
    let packed = Vec::with_capacity(plain.len() / 2);
    let mut gzip = GzBuilder::new().mtime(0).operating_system(NO_SYSTEM).write(packed, Compression::new(level));
    gzip.write_all(plain)?;
    let packed = gzip.finish()?;
    let sha256 = Sha256Digest::of(&packed);
    Ok((packed, sha256))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::bufread::MultiGzDecoder;

    use super::*;

    fn packed(parts: &[&[u8]]) -> (Vec<u8>, Written) {
        let mut members = Members::new(Vec::new(), 6);
        for part in parts {
            members.begin_member().unwrap();
            for piece in part.chunks(70_001) {
                members.write_all(piece).unwrap();
            }
        }
        members.finish().unwrap()
    }

    fn plain(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn what_was_packed_is_unpacked_and_every_member_alone_too() {
        let mut noise = vec![0; 2 * CHUNK + 12345];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        let parts: [&[u8]; 5] = [b"first", &noise, b"", &[0; 100_000], b"last"];
        let (bytes, written) = packed(&parts);
        assert_eq!(plain(&bytes), parts.concat());
        assert_eq!(written.size_bytes, bytes.len() as u64);
        assert_eq!(written.sha256, Sha256Digest::of(&bytes));
        let mut end = 0;
        let mut pieces = Vec::new();
        for member in &written.members {
            assert_eq!(member.offset, end);
            end += member.length;
            let piece = &bytes[member.offset as usize..end as usize];
            assert_eq!(member.sha256, Sha256Digest::of(piece));
            pieces.push(plain(piece).len());
        }
        assert_eq!(end, written.size_bytes);
        assert_eq!(pieces, [5, CHUNK, CHUNK, 12345, 100_000, 4], "nothing makes no member");
        assert_eq!(packed(&parts).0, bytes, "the same in, the same out");
    }

    #[test]
    fn what_stays_the_same_is_the_same_bytes_wherever_it_stands() {
        let layer: Vec<u8> = (0..3_000_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let (_, one) = packed(&[b"old", &layer, b"config 1"]);
        let (_, two) = packed(&[b"much longer and new", &layer, b"config 2"]);
        let shared = one.members.iter().filter(|member| two.members.iter().any(|other| other.sha256 == member.sha256));
        assert_eq!(shared.count(), layer.len().div_ceil(CHUNK));
    }

    #[test]
    fn nothing_at_all_is_gzip_too() {
        let (bytes, written) = packed(&[]);
        assert_eq!(plain(&bytes), b"");
        assert_eq!(written.members.len(), 1);
    }

    #[test]
    fn a_writer_that_fails_ends_it() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut noise = vec![0; 20 * CHUNK];
        fastrand::Rng::with_seed(1).fill(&mut noise);
        let mut members = Members::new(Full(3 * CHUNK), 1);
        assert_eq!(members.write_all(&noise).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
