//! Our own terminal, while a command elsewhere has the use of it: raw, its size, and what is typed.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Mutex;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::backend::TermSize;
use crate::mutex::guard;

/// How it was before it became raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal on standard input is raw while this lives: each key is a byte to be read, Ctrl-C too, and nothing is echoed.
#[derive(Debug)]
pub(super) struct RawTerminal(());

impl RawTerminal {
    /// Makes it raw. What was typed before can be read.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub(super) fn enter() -> io::Result<Self> {
        let modes = tcgetattr(stdin())?;
        let mut raw = modes.clone();
        raw.make_raw();
        guard(&BEFORE).get_or_insert(modes);
        let entered = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(entered)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was before it became raw. For whoever ends the process at once.
pub(super) fn restore() {
    if let Some(modes) = guard(&BEFORE).take() {
        // One that is gone needs nothing. Waiting for what it has not shown yet might be for ever.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes);
    }
}

/// The size of our terminal, on whichever standard stream it is; `None` where there is none, or where it has none.
pub(super) fn size() -> Option<TermSize> {
    let sizes = [stdin(), stdout(), stderr()].into_iter().filter_map(|stream| tcgetwinsize(stream).ok());
    let mut sizes = sizes.map(|size| TermSize { cols: size.ws_col, rows: size.ws_row });
    sizes.find(|size| size.cols > 0 && size.rows > 0)
}

/// The changes of the terminal's size from now on.
pub(super) fn resizes() -> io::Result<Resizes> {
    signal(SignalKind::window_change()).map(Resizes)
}

/// See [`resizes`].
#[derive(Debug)]
pub(super) struct Resizes(Signal);

impl Resizes {
    /// The size after the next change. It may be dropped halfway: no change is lost.
    pub(super) async fn next(&mut self) -> TermSize {
        loop {
            self.0.recv().await;
            if let Some(size) = size() {
                return size;
            }
        }
    }
}

/// Our standard input, as it comes. A thread reads it, and ends when this is dropped, even while nothing comes: so it takes
/// nothing that is typed later, and keeps nobody from ending.
#[derive(Debug)]
pub(super) struct Input {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Its end wakes the thread.
    _woken: PipeWriter,
}

impl Input {
    /// Begins to read.
    pub(super) fn open() -> io::Result<Self> {
        let (wakes, woken) = io::pipe()?;
        let (sender, pieces) = mpsc::channel(1);
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || read(&wakes, &sender))?;
        Ok(Self { pieces, _woken: woken })
    }

    /// The next bytes; `None` at the end of file. It may be dropped halfway: no byte is lost.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.pieces.recv().await
    }
}

fn read(wakes: &PipeReader, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let piece = match piece(wakes, &mut buffer) {
            Ok(0) => return,
            Ok(read) => Ok(Bytes::copy_from_slice(&buffer[..read])),
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(err) => Err(err.into()),
        };
        let over = piece.is_err();
        if pieces.blocking_send(piece).is_err() || over {
            return;
        }
    }
}

/// Waits for bytes, and reads them; none at the end of file, or when nobody wants them any more.
fn piece(wakes: &PipeReader, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let mut awaited = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN), PollFd::new(wakes, PollFlags::IN)];
    poll(&mut awaited, None)?;
    let [_, unwanted] = awaited;
    if !unwanted.revents().is_empty() {
        return Ok(0);
    }
    rustix::io::read(stdin().as_fd(), buffer)
}
