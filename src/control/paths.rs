//! Where the socket lies, however long that path is.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The socket's name in the state directory.
pub const SOCKET: &str = "control.sock";

/// The most bytes of a unix socket's path: `sun_path` less its NUL (107 on Linux, 103 elsewhere).
pub const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A path that fits into a socket address.
#[derive(Debug)]
pub(super) struct Address {
    path: PathBuf,
    /// What the path goes through; it must stay open while the address is used.
    _dir: Option<File>,
}

impl Address {
    /// The address of the socket in `dir`. `Ok(None)` when its path is too long for one.
    ///
    /// # Errors
    /// When a long path's directory cannot be opened.
    pub(super) fn of(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(SOCKET);
        if path.as_os_str().as_bytes().len() <= MAX_PATH {
            return Ok(Some(Self { path, _dir: None }));
        }
        if !cfg!(target_os = "linux") {
            return Ok(None);
        }
        through(dir)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Linux: `/proc/self/fd/N` is the directory itself, whatever its path.
fn through(dir: &Path) -> io::Result<Option<Address>> {
    use std::os::fd::AsRawFd;

    let dir = File::open(dir)?;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(SOCKET);
    // Where there is no /proc, there is no way.
    Ok(path.parent().is_some_and(Path::is_dir).then_some(Address { path, _dir: Some(dir) }))
}
