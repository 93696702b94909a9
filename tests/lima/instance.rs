//! limactl itself, beside steadfast.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// What `tests/run.sh` says in the environment.
pub fn setting(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set; `tests/run.sh lima` sets it")))
}

/// Runs `limactl ARGS…` to its end, whatever that is.
pub fn limactl(args: &[&str]) -> Output {
    Command::new(setting("STEADFAST_TEST_LIMACTL"))
        .env("LIMA_HOME", setting("STEADFAST_TEST_LIMA_HOME"))
        .arg("--tty=false")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("limactl")
}

/// The standard output of a command that should have succeeded.
#[track_caller]
pub fn stdout_of(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
