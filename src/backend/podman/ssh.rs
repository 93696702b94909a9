//! An ssh of our own that forwards Podman's socket out of a virtual machine, for when Lima's forward is gone.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin};

use crate::backend::{EngineError, EngineErrorKind, WayOut, process, ssh};
use crate::model::InstanceName;

/// How long a connection may take, to the first line from the guest.
const CONNECT: Duration = Duration::from_secs(8);
/// What is told of ssh's complaints.
const WORDS: u64 = 4096;

/// A forward that lasts as long as this value.
#[derive(Debug)]
pub(super) struct SshForward {
    socket: PathBuf,
    _child: Child,
    /// Its end is the end of the command in the guest, and so of ssh: also when we are killed, nothing stays behind.
    _stdin: Option<ChildStdin>,
}

impl SshForward {
    /// Connects to the instance by the configuration Lima wrote for it, and forwards `guest` to a socket below `dir`.
    pub(super) async fn open(
        config: &Path,
        instance: &InstanceName,
        guest: &str,
        dir: &Path,
    ) -> Result<Self, EngineError> {
        let socket = socket_below(dir).map_err(|err| unavailable(instance, &err.to_string()))?;
        let mut command = ssh::forwarding(config, instance, guest, &socket);
        command.stdin(Stdio::piped());
        let mut child = command.spawn().map_err(|err| unavailable(instance, &err.to_string()))?;
        let stdin = child.stdin.take();
        let is_ready = async {
            let mut line = String::new();
            if let Some(stdout) = child.stdout.take() {
                let _ = BufReader::new(stdout).read_line(&mut line).await;
            }
            line.trim() == "ready"
        };
        if tokio::time::timeout(CONNECT, is_ready).await != Ok(true) {
            let _ = child.start_kill();
            let mut words = String::new();
            if let Some(stderr) = child.stderr.take() {
                let _ =
                    tokio::time::timeout(Duration::from_secs(1), stderr.take(WORDS).read_to_string(&mut words)).await;
            }
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            let why = if words.is_empty() { "no answer".to_owned() } else { words };
            let err = unavailable(instance, &why);
            // It got in, and may not forward.
            let refused = why.contains("forward");
            return Err(EngineError { kind: if refused { EngineErrorKind::CommandFailed } else { err.kind }, ..err });
        }
        Ok(Self { socket, _child: child, _stdin: stdin })
    }

    /// The socket it listens on.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for SshForward {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn unavailable(instance: &InstanceName, why: &str) -> EngineError {
    EngineError {
        command: Some(format!("ssh lima-{instance}")),
        way_out: WayOut::InLayers,
        ..EngineError::new(
            EngineErrorKind::TransportUnavailable,
            format!("failed to reach Podman in VM `{instance}` by ssh: {why}"),
        )
    }
}

const PREFIX: &str = "sf-";

/// A name that no other process of ours uses. What dead ones left is cleared.
fn socket_below(dir: &Path) -> std::io::Result<PathBuf> {
    let dir = dir.join("sock");
    std::fs::create_dir_all(&dir)?;
    for left in std::fs::read_dir(&dir)?.flatten() {
        let name = left.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| process::of(pid).is_none()) {
            let _ = std::fs::remove_file(left.path());
        }
    }
    // A forward that is still used is not taken away by its successor, nor takes that away at its end.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) % 1000;
    Ok(dir.join(format!("{PREFIX}{}-{count}.sock", std::process::id())))
}
