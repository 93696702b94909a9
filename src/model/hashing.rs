//! Bytes on their way somewhere, hashed and counted. The one place that does both at once.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::ids::Sha256Digest;

/// How much is copied at a time.
const PIECE: usize = 1024 * 1024;

/// Bytes in words: two digits each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes and counts what is written to, or read from, what it stands before.
#[derive(Debug)]
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    length: u64,
}

impl<T> Hashing<T> {
    /// Begins before this reader or writer.
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), length: 0 }
    }

    /// How many bytes came through.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// What it stood before, what came through hashes to, and how many bytes that was.
    pub(crate) fn finish(self) -> (T, Sha256Digest, u64) {
        (self.inner, self.hasher.into(), self.length)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.count(&into[..read]);
        Ok(read)
    }
}

/// Copies to the end, in large pieces, and yields what the bytes hash to and how many they are. `so_far` is told of each piece.
///
/// # Errors
/// What the reader or the writer says.
pub(crate) fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    mut so_far: impl FnMut(u64),
) -> io::Result<(Sha256Digest, u64)> {
    let (mut piece, mut to) = (vec![0; PIECE], Hashing::new(to));
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => to.write_all(&piece[..read])?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        }
        so_far(to.length);
    }
    let (_, sha256, length) = to.finish();
    Ok((sha256, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a byte at a time.
    struct Narrow(Vec<u8>);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(&bytes[..1]);
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_taken_is_hashed_and_counted_once() {
        let wanted = (Sha256Digest::of(b"abc"), 3);
        let (mut from, mut to, mut told) = (Hashing::new(b"abc".as_slice()), Narrow(Vec::new()), Vec::new());
        assert_eq!(copy(&mut from, &mut to, |length| told.push(length)).unwrap(), wanted);
        let (_, sha256, length) = from.finish();
        assert_eq!(((sha256, length), to.0.as_slice(), told), (wanted, b"abc".as_slice(), vec![3]));
    }
}
