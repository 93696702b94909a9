//! Opening what must be a regular file. A FIFO would be waited for until somebody writes it, and a device may do something
//! by being opened, so what is there is looked at before and once more behind the open file.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Why there is nothing to read.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// It is something else, as words: `a FIFO`.
    Is(&'static str),
    /// The file system refused.
    Io(io::Error),
}

impl From<NotOpened> for io::Error {
    fn from(err: NotOpened) -> Self {
        match err {
            NotOpened::Is(what) => io::Error::other(format!("it is {what}, not a file")),
            NotOpened::Io(err) => err,
        }
    }
}

impl From<io::Error> for NotOpened {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

/// Opens a regular file, through links too. Never waits for anybody.
pub(crate) fn open(path: &Path) -> Result<File, NotOpened> {
    must_be_file(std::fs::metadata(path)?.file_type())?;
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    must_be_file(file.metadata()?.file_type())?;
    Ok(file)
}

/// All of a regular file, opened as [`open`] does; `None` when it has more than `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, NotOpened> {
    Ok(bounded(open(path)?, most)?)
}

/// All that is left to read; `None` when it is more than `most` bytes, of which no more than one further is read.
pub(crate) fn bounded(from: impl Read, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

fn must_be_file(found: FileType) -> Result<(), NotOpened> {
    if found.is_file() { Ok(()) } else { Err(NotOpened::Is(kind(found))) }
}

/// What it is that is no file.
fn kind(found: FileType) -> &'static str {
    match found {
        _ if found.is_dir() => "a directory",
        _ if found.is_fifo() => "a FIFO",
        _ if found.is_socket() => "a socket",
        _ if found.is_char_device() || found.is_block_device() => "a device",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_more_is_read_than_may_be() {
        let read = |most: u64| bounded(io::Cursor::new(b"abc").chain(io::repeat(0)), most).unwrap();
        assert_eq!(read(u64::from(u8::MAX)), None);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(
            (super::read(file.path(), 3).unwrap(), super::read(file.path(), 2).unwrap()),
            (Some(b"abc".to_vec()), None)
        );
    }

    #[test]
    fn whatever_is_no_file_is_refused_at_once_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), 0o600.into()).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        symlink("fifo", path("link")).unwrap();
        symlink("/dev/null", path("null")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        symlink("file", path("link-to-file")).unwrap();
        let what = |name: &str| match open(&path(name)) {
            Ok(_) => "a file",
            Err(NotOpened::Is(what)) => what,
            Err(NotOpened::Io(err)) => panic!("{name}: {err}"),
        };
        let seen = ["", "fifo", "link", "socket", "null", "file", "link-to-file"].map(what);
        assert_eq!(seen, ["a directory", "a FIFO", "a FIFO", "a socket", "a device", "a file", "a file"]);
        assert!(matches!(open(&path("none")), Err(NotOpened::Io(err)) if err.kind() == io::ErrorKind::NotFound));
    }
}
