//! Ending a command that was started in a container. Podman (to 5.x) has no call for it, and an image may have neither a shell
//! nor a `kill`; so it is done from Podman's machine, where the command is a process like any other.
//!
//! Podman gives each command a monitor (conmon) of its own, whose words name it. The monitor's child is the command, and the
//! first of a session: whoever belongs to that session, or descends from one who does, is told to end, and killed if it
//! does not. Only a process that left both, as a daemon does, goes on.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::api::Api;
use crate::backend::{EngineError, EngineErrorKind};

/// How long it may take in all.
pub(super) const LONGEST: Duration = Duration::from_secs(20);
/// The variable by which the monitor of a command is found that was started through the command line. Podman passes on to a
/// monitor what begins with `LC_`, and nothing of it to the command.
pub(super) const MARK: &str = "LC_STEADFAST_EXEC";
/// Exit codes of the script.
const NOT_FOUND: i32 = 3;
const NOT_ENDED: i32 = 4;

/// What there is to end is found by `$1`, which nothing else has in its words or its environment. POSIX, and nothing that a small guest lacks.
pub(super) const SCRIPT: &str = r#"
mark=$1 monitor=
for found in $(grep -lsF -e "$mark" /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null); do
  dir=${found%/*}
  read -r name <"$dir/comm" || continue
  if [ "$name" = conmon ]; then monitor=${dir#/proc/}; fi
done 2>/dev/null
[ -n "$monitor" ] || exit 3
known=$monitor
look() {
  alive=$(cat /proc/[0-9]*/stat 2>/dev/null | awk -v known="$known" -v monitor="$monitor" '
    { pid = $1; sub(/^.*\) /, ""); if ($1 != "Z" && $1 != "X") { parent[pid] = $2; session[pid] = $4 } }
    END {
      count = split(known, list, " ")
      for (at = 1; at <= count; at++) ours[list[at]] = 1
      do {
        more = 0
        for (pid in parent) if (!(pid in ours) && ((parent[pid] in ours) || (session[pid] in ours))) more = ours[pid] = 1
      } while (more)
      for (pid in parent) if (pid in ours && pid != monitor) printf "%s ", pid
    }')
  known="$known $alive"
}
for signal in TERM KILL; do
  tries=0
  while [ "$tries" -lt 20 ]; do
    look
    [ -n "$alive" ] || exit 0
    if [ "$tries" = 0 ] || [ "$signal" = KILL ]; then kill -s "$signal" $alive 2>/dev/null; fi
    sleep 0.1
    tries=$((tries + 1))
  done
done
exit 4
"#;

/// What the script's exit code means. `Ok(false)` when there is no monitor, as after the command's end.
pub(super) fn outcome(code: Option<i32>, said: &str) -> Result<bool, EngineError> {
    let why = match code {
        Some(0) => return Ok(true),
        Some(NOT_FOUND) => return Ok(false),
        Some(NOT_ENDED) => "it is still there after KILL".to_owned(),
        _ => format!("its processes could not be listed ({})", said.trim()),
    };
    Err(EngineError::new(EngineErrorKind::Unknown, format!("failed to end a command: {why}")))
}

/// Nobody found the monitor of a command that Podman says is running.
pub(super) fn hidden() -> EngineError {
    let why = "failed to end a command: its processes are not seen from here";
    EngineError::new(EngineErrorKind::Unknown, why)
}

impl Api {
    /// See [`crate::backend::Engine::exec_end`].
    pub async fn exec_end(&self, exec: &str) -> Result<(), EngineError> {
        if !self.is_here() {
            let why = "failed to end a command: its processes are in another machine, of which only Podman's socket is reached";
            return Err(EngineError::new(EngineErrorKind::Unknown, why));
        }
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh", exec]).stdin(Stdio::null()).kill_on_drop(true);
        // A signal that ends us is for us alone.
        command.process_group(0);
        let ended = match tokio::time::timeout(LONGEST, command.output()).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(err)) => return outcome(None, &format!("`sh` cannot be run: {err}")).map(|_| ()),
            Err(_) => return outcome(None, "it took too long").map(|_| ()),
        };
        if outcome(ended.status.code(), &String::from_utf8_lossy(&ended.stderr))? || !self.exec_runs(exec).await? {
            return Ok(());
        }
        Err(hidden())
    }
}
