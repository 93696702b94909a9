//! Helpers that the integration tests share: image archives made on the spot, and where the real Podman is.
#![allow(dead_code)] // each test binary uses its own part

pub mod archive;
pub mod command;
pub mod registry;
pub mod terminal;

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A name no other test of this run or of one beside it uses. Fit for containers, owners and image tags.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("sf-{what}-{}-{count}", std::process::id())
}

/// Waits for a thing that there is one of, such as a fixed port. Held by one test at a time, also of several processes, until it is
/// dropped.
pub fn turn(what: &str) -> File {
    let path = std::env::temp_dir().join(format!("sft-turn-{what}"));
    let file = File::options().create(true).truncate(false).write(true).open(path).expect("a file");
    file.lock().expect("a lock");
    file
}

/// The socket of the Podman that tests may fill with containers.
pub fn podman_socket() -> PathBuf {
    match std::env::var_os("STEADFAST_TEST_PODMAN_SOCKET") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => panic!(
            "STEADFAST_TEST_PODMAN_SOCKET is not set: these tests need a real Podman to play with. Start one with \
             `podman system service --time=0 unix:///tmp/test-podman.sock` and set the variable to that path"
        ),
    }
}

/// The statically linked busybox that test images are made of.
pub fn busybox() -> PathBuf {
    let candidates = ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"];
    candidates.iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| {
        panic!("no busybox found (tried {candidates:?}); install one that is statically linked, such as Debian's `busybox-static`")
    })
}

/// What comes from one end of a proxy goes to its other, until either is shut; then both are.
pub fn pass_on(mut from: UnixStream, mut to: UnixStream, pause: Duration) {
    let mut piece = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        std::thread::sleep(pause);
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
