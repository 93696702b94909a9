//! Reads an artifact as the plain tar that an engine loads (Podman 4.3 cannot load a gzip docker-archive).
//!
//! Decompression runs on a thread of its own, a few pieces ahead of the reader.

use std::error::Error;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use futures_util::stream;
use tokio::sync::mpsc;

use super::paths::{failed, remove_file, still_names};
use super::{ByteStream, Cache, Progress, StoreError};
use crate::model::ArtifactKey;

/// How much is decompressed at a time.
const PIECE: usize = 256 * 1024;

/// Pieces that wait for the reader.
const AHEAD: usize = 4;

/// How long to wait for somebody who holds the file alone: a fetch that is just finishing, or a removal.
const PATIENCE: Duration = Duration::from_secs(5);

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The [`StoreError::Damaged`] behind an error of the stream that [`crate::backend::Store::open`] yields, however
/// deeply it is wrapped. `None` when the stream broke for another reason.
pub fn damage<'a>(err: &'a (dyn Error + 'static)) -> Option<&'a StoreError> {
    let mut next = Some(err);
    while let Some(err) = next {
        let inner = err.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let here = err.downcast_ref::<StoreError>().or_else(|| inner?.downcast_ref());
        if let Some(found @ StoreError::Damaged { .. }) = here {
            return Some(found);
        }
        next = err.source();
    }
    None
}

impl Cache {
    /// Opens an artifact for reading. While the stream lives the file is not removed by any steadfast.
    pub(super) fn unpack(&self, key: &ArtifactKey, progress: Arc<Progress>) -> Result<ByteStream, StoreError> {
        let path = self.0.layout.artifact(key);
        let file = self.0.layout.open(&path)?;
        let gone = || failed("open", &path)(io::Error::from(io::ErrorKind::NotFound));
        let file = file.ok_or_else(gone)?;
        let since = Instant::now();
        loop {
            match file.try_lock_shared() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if since.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(failed("read", &path)(io::Error::other("another process holds it")));
                }
                Err(TryLockError::Error(err)) => return Err(failed("lock", &path)(err)),
            }
        }
        if !still_names(&path, &file) {
            return Err(gone());
        }
        progress.set_total(file.metadata().map_err(failed("look at", &path))?.len());
        let (pieces, inbox) = mpsc::channel(AHEAD);
        let key = key.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(err) = decompress(file, &progress, &pieces) {
                // Whoever read has gone when this fails; nobody is left to tell.
                let _ = pieces.blocking_send(Err(told(err, key)));
            }
        });
        Ok(Box::pin(stream::unfold(inbox, |mut inbox| async { inbox.recv().await.map(|piece| (piece, inbox)) })))
    }

    /// Removes an artifact file unless somebody writes or reads it. Yields whether it is gone.
    pub(super) fn remove_artifact(&self, key: &ArtifactKey) -> Result<bool, StoreError> {
        let path = self.0.layout.artifact(key);
        let Some(file) = self.0.layout.open(&path)? else { return Ok(true) };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(err)) => return Err(failed("lock", &path)(err)),
        }
        if still_names(&path, &file) {
            remove_file(&path)?;
            self.0.index.try_update(|index| index.forget(key));
        }
        Ok(true)
    }
}

fn decompress(file: File, progress: &Progress, pieces: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut packed = BufReader::with_capacity(PIECE, Counted { file, progress });
    let mut plain: Box<dyn Read + '_> = match packed.fill_buf()? {
        start if start.starts_with(&GZIP) => Box::new(MultiGzDecoder::new(packed)),
        start if start.starts_with(&ZSTD) => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        _ => Box::new(packed),
    };
    loop {
        let mut piece = BytesMut::zeroed(PIECE);
        let mut filled = 0;
        while filled < PIECE {
            match plain.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        piece.truncate(filled);
        if filled == 0 || pieces.blocking_send(Ok(piece.freeze())).is_err() {
            return Ok(());
        }
    }
}

/// The file system's errors carry a number; a decompressor's do not.
fn told(err: io::Error, key: ArtifactKey) -> io::Error {
    if err.raw_os_error().is_some() {
        return err;
    }
    let why = match err.kind() {
        io::ErrorKind::UnexpectedEof => "it ends in the middle".to_owned(),
        _ => err.to_string(),
    };
    io::Error::new(io::ErrorKind::InvalidData, StoreError::Damaged { key, why })
}

struct Counted<'a> {
    file: File,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}
