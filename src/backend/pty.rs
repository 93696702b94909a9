//! A pseudo-terminal, for a child that wants one.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;

use super::TermSize;

/// Both ends of one. It is raw: nothing is echoed, and no byte means anything.
#[derive(Debug)]
pub(super) struct Pty {
    /// What the child prints.
    pub reader: Reader,
    /// What the child reads. End of file is a key: shutting it down does nothing.
    pub writer: pipe::Sender,
    /// Its size.
    pub sizes: Sizes,
    /// For the child. To be dropped once it has it.
    pub theirs: OwnedFd,
}

impl Pty {
    /// Makes one.
    pub(super) fn open(size: TermSize) -> io::Result<Self> {
        let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::io::fcntl_setfd(&ours, FdFlags::CLOEXEC)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        let path = rustix::pty::ptsname(&ours, Vec::new())?;
        let theirs = rustix::fs::open(&*path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let mut modes = tcgetattr(&theirs)?;
        modes.make_raw();
        tcsetattr(&theirs, OptionalActions::Now, &modes)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        // No pipes, but read and written the same way.
        let reader = Reader(pipe::Receiver::from_owned_fd_unchecked(ours.try_clone()?)?);
        let writer = pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?;
        let sizes = Sizes(ours);
        sizes.set(size)?;
        Ok(Self { reader, writer, sizes, theirs })
    }
}

/// Reads what comes out of it, until nobody has the child's end open any more.
#[derive(Debug)]
pub(super) struct Reader(pipe::Receiver);

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, into) {
            // So Linux says it.
            Poll::Ready(Err(err)) if err.raw_os_error() == Some(Errno::IO.raw_os_error()) => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

/// Gives it another size.
#[derive(Debug)]
pub(super) struct Sizes(OwnedFd);

impl Sizes {
    /// Only a child whose controlling terminal it is hears of that by itself.
    pub(super) fn set(&self, size: TermSize) -> io::Result<()> {
        let size = Winsize { ws_col: size.cols, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&self.0, size)?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_child_has_a_raw_terminal_of_this_size() {
        let Pty { mut reader, mut writer, sizes, theirs } = Pty::open(TermSize { cols: 101, rows: 33 }).unwrap();
        let mut command = Command::new("sh");
        // The script's own bytes come back only from `cat`, each once.
        command.args(["-c", "stty size; read -r go; stty size; exec cat"]);
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs);
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut said = Vec::new();
        async fn until(reader: &mut Reader, said: &mut Vec<u8>, wanted: &str) {
            while !said.ends_with(wanted.as_bytes()) {
                assert_ne!(reader.read_buf(said).await.unwrap(), 0, "{}", String::from_utf8_lossy(said));
            }
        }
        until(&mut reader, &mut said, "33 101\n").await;
        sizes.set(TermSize { cols: 7, rows: 9 }).unwrap();
        writer.write_all(b"go\n").await.unwrap();
        until(&mut reader, &mut said, "9 7\n").await;
        let all: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let (sent, mut back) = (all.clone(), Vec::new());
        let send = tokio::spawn(async move { writer.write_all(&sent).await.unwrap() });
        while back.len() < all.len() {
            assert_ne!(reader.read_buf(&mut back).await.unwrap(), 0);
        }
        send.await.unwrap();
        assert!(back == all, "every byte, control characters too");
        child.kill().await.unwrap();
        assert_eq!(reader.read_buf(&mut back).await.unwrap(), 0, "the end");
    }
}
