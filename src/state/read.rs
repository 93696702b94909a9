//! The state file's bytes, from a path or standard input, within bounds.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::MAX_BYTES;
use super::problem::ReadError;
use crate::files::regular::{self, NotOpened};
use crate::model::Place;

/// A state file that was read.
#[derive(Debug, Clone)]
pub struct Input {
    /// The file as the user named it; `-` for standard input.
    pub name: String,
    /// Its text, without byte order mark.
    pub text: String,
    /// Absolute path of the directory that relative paths in it are relative to.
    pub dir: PathBuf,
}

/// Reads a state file; `-` is standard input, whose paths are relative to the current directory.
///
/// # Errors
/// When it is not there, not a file, larger than 16 MiB, or not UTF-8.
pub fn read(path: &Path) -> Result<Input, ReadError> {
    let file = path.display().to_string();
    let io = |err: std::io::Error| match err.kind() {
        std::io::ErrorKind::NotFound => ReadError::NotFound { file: file.clone() },
        _ => ReadError::Io { file: file.clone(), why: err.to_string() },
    };
    if path == Path::new("-") {
        let dir = std::env::current_dir().map_err(io)?;
        return input(file.clone(), bounded(std::io::stdin().lock(), &file)?, dir);
    }
    let opened = match is_handed_over(path) {
        true => File::open(path).map_err(NotOpened::Io),
        false => regular::open(path),
    };
    let opened = opened.map_err(|err| match err {
        NotOpened::Is(what) => ReadError::NotAFile { file: file.clone(), what },
        NotOpened::Io(err) => io(err),
    })?;
    let bytes = bounded(opened, &file)?;
    let absolute = std::path::absolute(path).map_err(io)?;
    input(file.clone(), bytes, absolute.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Whether a path names something that this process was given open: standard input, or a process substitution
/// (`-f <(…)`). That may be a pipe, which is waited for, and can be read once.
pub fn is_handed_over(path: &Path) -> bool {
    let of_this_process = |dir: &str| path.strip_prefix(dir).is_ok_and(|name| name.components().count() == 1);
    path == Path::new("-")
        || path == Path::new("/dev/stdin")
        || ["/dev/fd", "/proc/self/fd"].into_iter().any(of_this_process)
}

fn bounded(from: impl Read, file: &str) -> Result<Vec<u8>, ReadError> {
    regular::bounded(from, MAX_BYTES as u64)
        .map_err(|err| ReadError::Io { file: file.to_owned(), why: err.to_string() })?
        .ok_or_else(|| ReadError::TooLarge { file: file.to_owned() })
}

fn input(name: String, bytes: Vec<u8>, dir: PathBuf) -> Result<Input, ReadError> {
    let mut text = String::from_utf8(bytes).map_err(|err| {
        let before = &err.as_bytes()[..err.utf8_error().valid_up_to()];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() as u64 + 1;
        ReadError::NotUtf8 { place: Place { file: name.clone(), line, column } }
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(Input { name, text, dir })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_said_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name: &str| read(&dir.path().join(name)).unwrap_err().to_string();
        assert!(error("none.yaml").contains("none.yaml`: name one with `-f FILE`"));
        assert!(error("").ends_with("is a directory, not a file"));
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), 0o600.into()).unwrap();
        assert!(error("fifo").ends_with("fifo` is a FIFO, not a file"));
        std::fs::write(dir.path().join("latin1.yaml"), b"a: 1\nb: caf\xe9\n").unwrap();
        assert!(error("latin1.yaml").ends_with("latin1.yaml:2:7: the file is not UTF-8 text"));
        std::fs::write(dir.path().join("huge.yaml"), vec![b'#'; MAX_BYTES + 1]).unwrap();
        assert!(error("huge.yaml").contains("larger than 16 MiB"));
    }

    #[test]
    fn what_was_handed_over_may_be_a_pipe() {
        use std::io::Write;
        use std::os::fd::AsRawFd;

        let (reader, mut writer) = std::io::pipe().unwrap();
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        writer.write_all(b"name: a\n").unwrap();
        drop(writer);
        assert_eq!(read(&path).unwrap().text, "name: a\n");
        assert!(["-", "/dev/stdin", "/proc/self/fd/0"].iter().all(|path| is_handed_over(Path::new(path))));
        assert!(!["/dev/null", "/dev/fd", "stdin"].iter().any(|path| is_handed_over(Path::new(path))));
    }

    #[test]
    fn a_file_knows_its_directory_and_loses_its_byte_order_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "\u{feff}name: a\n").unwrap();
        let input = read(&path).unwrap();
        assert_eq!((input.text.as_str(), input.dir.as_path()), ("name: a\n", dir.path()));
    }
}
