//! A VM of a test's own, gone at its end.

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

pub struct Instance {
    pub name: &'static str,
}

impl Instance {
    /// Made from `template`, not yet started.
    pub fn create(name: &'static str, template: &str) -> Self {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
        std::io::Write::write_all(&mut file, template.as_bytes()).expect("writing the template");
        let instance = Self { name };
        stdout_of(limactl(&["create", "--name", name, file.path().to_str().expect("a path that is text")]));
        instance
    }

    pub fn start(&self) -> Output {
        limactl(&["start", self.name])
    }

    /// Runs a command in the guest, as the Lima user.
    pub fn shell(&self, command: &[&str]) -> Output {
        limactl(&[&["shell", "--workdir", "/", self.name], command].concat())
    }

    /// A file in the instance's directory.
    pub fn path(&self, file: &str) -> PathBuf {
        setting("STEADFAST_TEST_LIMA_HOME").join(self.name).join(file)
    }

    /// What the host agent of the last start said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("ha.stderr.log")).expect("the log of the host agent")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Of much use where the directory is about to go.
            for file in ["ha.stderr.log", "provision.log", "serial.log"] {
                let text = String::from_utf8_lossy(&std::fs::read(self.path(file)).unwrap_or_default()).into_owned();
                let lines: Vec<_> = text.lines().collect();
                eprintln!("--- the end of {file}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
        limactl(&["delete", "--force", self.name]);
    }
}
