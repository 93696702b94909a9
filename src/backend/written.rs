//! Bytes that a thread writes, as a stream of somebody else's.

use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use super::ByteStream;

/// Pieces on their way to whoever reads the stream.
pub(crate) struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map(|()| bytes.len()).map_err(gone)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `write` writes, in pieces of this many bytes, as fast as it is read. Its error ends the stream.
pub(crate) fn written(
    piece: usize,
    write: impl FnOnce(BufWriter<Pieces>) -> io::Result<()> + Send + 'static,
) -> ByteStream {
    let (pieces, inbox) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        if let Err(err) = write(BufWriter::with_capacity(piece, Pieces(pieces.clone()))) {
            // Whoever read may have gone.
            let _ = pieces.blocking_send(Err(err));
        }
    });
    Box::pin(stream::unfold(inbox, |mut inbox| async { inbox.recv().await.map(|piece| (piece, inbox)) }))
}
