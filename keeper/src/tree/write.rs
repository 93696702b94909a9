//! Whether a tree can be written, found out by trying; and what git is told of a tree that belongs to somebody else.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Where git looks for what counts for every user.
const SYSTEM: &str = "/etc/gitconfig";

/// Tries to write each file and to make one in each directory. Yields the first that could be written; nothing is changed by it.
pub(super) fn try_all(target: &Path) -> io::Result<Option<PathBuf>> {
    let mut todo = vec![target.to_owned()];
    while let Some(dir) = todo.pop() {
        let made = dir.join(format!(".steadfast-try-{}", std::process::id()));
        if OpenOptions::new().write(true).create_new(true).open(&made).is_ok() {
            std::fs::remove_file(&made)?;
            return Ok(Some(dir));
        }
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            // Who cannot read it did not make anything in it either.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => continue,
            Err(err) => return Err(err),
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
                if OpenOptions::new().write(true).custom_flags(flags).open(entry.path()).is_ok() {
                    return Ok(Some(entry.path()));
                }
            }
        }
    }
    Ok(None)
}

/// Says in `/etc/gitconfig` that this path alone is safe, or takes that back.
pub(super) fn safe(target: &Path, is: bool) -> io::Result<()> {
    let lines = lines(target);
    let had = match std::fs::read(SYSTEM) {
        Ok(had) => had,
        Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(err) => return Err(err),
    };
    let at = had.windows(lines.len()).position(|window| window == lines);
    match (is, at) {
        (true, Some(_)) | (false, None) => Ok(()),
        (true, None) => {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o644).open(SYSTEM)?;
            let begin: &[u8] = if had.is_empty() || had.ends_with(b"\n") { b"" } else { b"\n" };
            file.write_all(&[begin, &lines].concat())
        }
        (false, Some(at)) => {
            let rest = had.get(at + lines.len()..).unwrap_or_default();
            let kept = [had.get(..at).unwrap_or_default(), rest].concat();
            if kept.is_empty() { std::fs::remove_file(SYSTEM) } else { std::fs::write(SYSTEM, kept) }
        }
    }
}

/// As git reads it back.
fn lines(target: &Path) -> Vec<u8> {
    let mut lines = b"[safe]\n\tdirectory = \"".to_vec();
    for byte in target.as_os_str().as_bytes() {
        match byte {
            b'"' | b'\\' => lines.extend([b'\\', *byte]),
            b'\n' => lines.extend(b"\\n"),
            b'\t' => lines.extend(b"\\t"),
            byte => lines.push(*byte),
        }
    }
    lines.extend(b"\"\n");
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_as_git_wants_it() {
        assert_eq!(lines(Path::new("/a \"b\"\\c")), b"[safe]\n\tdirectory = \"/a \\\"b\\\"\\\\c\"\n");
    }
}
