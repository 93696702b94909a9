//! Reads an artifact as the plain tar that an engine loads (Podman 4.3 cannot load a gzip docker-archive).
//!
//! Decompression runs on a thread of its own, a few pieces ahead of the reader.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::archive::{Filter, Refusal, names_image};
use super::partial::blocking;
use super::paths::{failed, remove_file};
use super::{ByteStream, Cache, Progress, StoreError};
use crate::files::{self, Lock, still_names};
use crate::model::{Artifact, ArtifactKey, ImageRef};

/// How much is decompressed at a time.
const PIECE: usize = 256 * 1024;

/// Pieces that wait for the reader.
const AHEAD: usize = 4;

/// How long to wait for somebody who holds the file alone: a fetch that is just finishing, or a removal.
const PATIENCE: Duration = Duration::from_secs(5);

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The [`StoreError::Damaged`] behind an error of the stream that [`crate::backend::Store::open_image`] yields, however
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

/// A tarball that lies anywhere as a plain tar: decompressed while it is read. `progress` counts compressed bytes.
pub fn plain(file: File, progress: Arc<Progress>) -> ByteStream {
    unpacked(file, progress, |err| err)
}

fn unpacked(
    file: File,
    progress: Arc<Progress>,
    told: impl FnOnce(io::Error) -> io::Error + Send + 'static,
) -> ByteStream {
    let (pieces, inbox) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(err) = decompress(file, &progress, &pieces) {
            // Whoever read has gone when this fails; nobody is left to tell.
            let _ = pieces.blocking_send(Err(told(err)));
        }
    });
    Box::pin(stream::unfold(inbox, |mut inbox| async { inbox.recv().await.map(|piece| (piece, inbox)) }))
}

impl Cache {
    /// Opens an artifact for reading. While the stream lives the file is not removed by any steadfast.
    pub(super) fn unpack(&self, key: &ArtifactKey, progress: Arc<Progress>) -> Result<ByteStream, StoreError> {
        let path = self.0.layout.artifact(key);
        let file = self.0.layout.open(&path)?;
        let gone = || failed("open", &path)(io::Error::from(io::ErrorKind::NotFound));
        let file = file.ok_or_else(gone)?;
        if !files::lock(&file, Lock::Shared, PATIENCE).map_err(failed("lock", &path))? {
            return Err(failed("read", &path)(io::Error::other("another process holds it")));
        }
        if !still_names(&path, &file) {
            return Err(gone());
        }
        progress.set_total(file.metadata().map_err(failed("inspect", &path))?.len());
        let key = key.clone();
        Ok(unpacked(file, progress, move |err| told(err, key)))
    }

    /// See [`crate::backend::Store::open_image`].
    pub(super) async fn only_image(
        &self,
        artifact: &Artifact,
        wanted: &ImageRef,
        progress: Arc<Progress>,
    ) -> Result<ByteStream, StoreError> {
        if let Some(found) = self.0.index.read().names_in(&artifact.sha256)
            && !found.iter().any(|name| names_image(name, wanted))
        {
            return Err(other_image(artifact, wanted, found.clone()));
        }
        let tar = self.open_plain(&self.key_of(artifact), progress).await?;
        let filtered = Filtered {
            tar,
            filter: Some(Filter::new(wanted)),
            ready: VecDeque::new(),
            refuse: Refuse { cache: self.clone(), artifact: artifact.clone(), wanted: wanted.clone() },
        };
        Ok(Box::pin(stream::unfold(filtered, async |mut filtered| Some((filtered.next().await?, filtered)))))
    }

    /// See [`crate::backend::Store::holds_only`].
    pub(super) async fn has_no_other_image(
        &self,
        artifact: &Artifact,
        wanted: &ImageRef,
    ) -> Result<Option<u64>, StoreError> {
        let mut tar = self.open_plain(&self.key_of(artifact), Progress::new(0)).await?;
        let mut filter = Filter::new(wanted);
        let (mut out, mut unpacked) = (Vec::new(), 0);
        while let Some(Ok(bytes)) = tar.next().await {
            unpacked += bytes.len() as u64;
            out.clear();
            if filter.push(bytes, &mut out).is_err() {
                return Ok(None);
            }
        }
        Ok(filter.holds_only().then_some(unpacked))
    }

    /// Removes an artifact file unless somebody writes or reads it. Yields whether it is gone.
    pub(super) fn remove_artifact(&self, key: &ArtifactKey) -> Result<bool, StoreError> {
        let path = self.0.layout.artifact(key);
        let Some(file) = self.0.layout.open(&path)? else { return Ok(true) };
        if !files::lock(&file, Lock::Alone, Duration::ZERO).map_err(failed("lock", &path))? {
            return Ok(false);
        }
        if still_names(&path, &file) {
            remove_file(&path)?;
            let layers = self.0.index.read().layers(key);
            self.0.index.try_update(|index| index.forget(key));
            if let Some(layers) = layers {
                self.forget_list(&layers);
            }
        }
        Ok(true)
    }
}

/// A tarball on its way through the filter. Fused: nothing comes after its end or its first error.
struct Filtered {
    tar: ByteStream,
    /// `None` once the end was reached.
    filter: Option<Filter>,
    ready: VecDeque<Bytes>,
    refuse: Refuse,
}

impl Filtered {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(Ok(bytes));
            }
            let mut filter = self.filter.take()?;
            let mut out = Vec::new();
            let went = match self.tar.next().await {
                Some(Ok(bytes)) => {
                    let went = filter.push(bytes, &mut out);
                    self.filter = Some(filter);
                    went
                }
                Some(Err(err)) => return Some(Err(err)),
                None => filter.finish(&mut out),
            };
            if let Err(refusal) = went {
                self.filter = None;
                return Some(Err(self.refuse.with(refusal).await));
            }
            self.ready.extend(out.into_iter().filter(|bytes| !bytes.is_empty()));
        }
    }
}

/// Words a refusal, and remembers it.
struct Refuse {
    cache: Cache,
    artifact: Artifact,
    wanted: ImageRef,
}

impl Refuse {
    async fn with(&self, refusal: Refusal) -> io::Error {
        let err = match refusal {
            Refusal::Damaged(why) => StoreError::Damaged { key: self.artifact.key.clone(), why },
            Refusal::Other(found) => {
                let (cache, digest, names) = (self.cache.clone(), self.artifact.sha256, found.clone());
                blocking(move |_| cache.0.index.try_update(|index| index.put_names_in(digest, &names))).await;
                other_image(&self.artifact, &self.wanted, found)
            }
        };
        io::Error::new(io::ErrorKind::InvalidData, err)
    }
}

fn other_image(artifact: &Artifact, wanted: &ImageRef, found: Vec<String>) -> StoreError {
    StoreError::OtherImage { key: artifact.key.clone(), wanted: wanted.clone(), found }
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
