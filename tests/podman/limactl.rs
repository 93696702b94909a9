//! A stand-in for limactl: an "instance" that is this machine, with the test's Podman for root alone.
//!
//! As with the real one the words are quoted into one line for a shell, what runs there outlives a killed limactl, and sudo
//! keeps nothing of the environment. In the other direction it is stricter: any use that Lima would not understand fails.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use steadfast::backend::limactl::Limactl;
use steadfast::backend::podman::Shell;

use crate::support;

/// The instance's name.
const INSTANCE: &str = "agents";

pub struct StandIn {
    pub directory: tempfile::TempDir,
    /// In the environment of all that runs in the "instance".
    pub mark: String,
}

impl StandIn {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sft-").tempdir().expect("a directory");
        let mark = support::unique("stand-in");
        let bin = directory.path().display();
        write(
            &directory.path().join("limactl"),
            &format!(
                r#"#!/bin/sh
if [ "$1 $2 $3 $4 $5" != "--tty=false shell --workdir / {INSTANCE}" ]; then
  echo 'time="2026-01-01T00:00:00Z" level=fatal msg="unexpected words for limactl"' >&2
  exit 1
fi
shift 5
line=
for word; do line="$line '$(printf %s "$word" | sed "s/'/'\\\\''/g")'"; done
cd / || exit 1
# As limactl asks ssh for a terminal: where its own standard output is one; and as ssh makes none unless standard input is one too. That of
# util-linux's `script` begins as ssh's does: with the size and the modes of ours, which becomes raw; it hangs up when we end, its size
# follows when we are told of one, and the exit code is the command's.
if [ -t 0 ] && [ -t 1 ]; then
  exec env -i PATH="{bin}:$PATH" SHELL=/bin/sh TERM="$TERM" script --quiet --return --command "$line" /dev/null
fi
env -i PATH="{bin}:$PATH" SHELL=/bin/sh setsid sh -c "$line"
"#
            ),
        );
        write(
            &directory.path().join("sudo"),
            &format!(
                "#!/bin/sh\n[ \"$1\" = -n ] || {{ echo 'sudo: a password is required' >&2; exit 1; }}\nshift\nexec env -i STAND_IN={mark} {} \
                 \"$@\"\n",
                environment().iter().map(|line| quote(line)).collect::<Vec<_>>().join(" ")
            ),
        );
        Self { directory, mark }
    }

    /// A transport to it.
    pub fn shell(&self) -> Shell {
        let limactl = Limactl::new(self.directory.path().join("limactl"), self.directory.path());
        Shell::new(limactl, INSTANCE, true)
    }

    /// What runs in the "instance".
    pub fn processes(&self) -> Vec<String> {
        let mark = format!("STAND_IN={}\0", self.mark).into_bytes();
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let marked = processes.filter(|process| {
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            environment.windows(mark.len()).any(|part| part == mark)
        });
        marked
            .map(|process| {
                let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&words).replace('\0', " ")
            })
            .collect()
    }
}

/// Where the command line is the Podman of the tests.
fn environment() -> Vec<String> {
    match std::env::var_os("STEADFAST_TEST_PODMAN_ENV") {
        Some(file) if !file.is_empty() => {
            let lines = std::fs::read_to_string(&file).expect("STEADFAST_TEST_PODMAN_ENV can be read");
            lines.lines().map(str::to_owned).collect()
        }
        _ => std::env::vars().map(|(name, value)| format!("{name}={value}")).collect(),
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
}
