//! Putting what is published beside what somebody else reads: whole, or not at all.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::files::Replacement;

/// Who publishes lets others read it.
const MODE: u32 = 0o644;

/// What is to take the place of a file, in a directory that is made where there is none.
///
/// # Errors
/// What the file system says.
pub(super) fn begin(path: &Path) -> io::Result<Replacement<'_>> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    Replacement::begin(path, MODE)
}

/// Puts these bytes in the place of a file, synced, in a directory that is made where there is none. A reader sees the old or
/// the new.
///
/// # Errors
/// What the file system says.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let replacement = begin(path)?;
    let mut file = replacement.file();
    file.write_all(bytes)?;
    replacement.place(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_may_read_takes_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/deep/manifest.json");
        for text in ["first", "second and longer", ""] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        }
    }
}
