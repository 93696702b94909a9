//! Where a service is on this machine, and what its manager is asked and told.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::{CliError, ExitStatus, ScopeArgs, Settings};
use crate::files::{self, Replacement};
use crate::model::Name;
use crate::service::{Manager, Scope, Service};

/// A service of this machine: what it is called, where its file is, and who runs it.
pub(super) struct Place {
    pub(super) manager: Manager,
    pub(super) scope: Scope,
    pub(super) id: String,
    pub(super) path: PathBuf,
}

impl Place {
    pub(super) fn new(settings: &Settings, scope: &ScopeArgs, name: &Name) -> Result<Self, CliError> {
        let manager = if cfg!(target_os = "macos") { Manager::Launchd } else { Manager::Systemd };
        let system = scope.system || !scope.user && rustix::process::geteuid().is_root();
        let scope = if system { Scope::System } else { Scope::User };
        let home = home(settings)?;
        let config = settings.vars.get("XDG_CONFIG_HOME").filter(|path| path.starts_with('/'));
        let config = config.map_or_else(|| home.join(".config"), PathBuf::from);
        let path = Service::path(name, manager, scope, &config, &home);
        Ok(Self { manager, scope, id: Service::id(name, manager), path })
    }

    /// The file as it is; `None` when there is none.
    pub(super) fn there(&self) -> Result<Option<String>, CliError> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(self.cannot("read", &err)),
        }
    }

    pub(super) fn cannot(&self, verb: &str, err: &std::io::Error) -> CliError {
        let failed = CliError::new(ExitStatus::Error, format!("cannot {verb} `{}`: {err}", self.path.display()));
        match (err.kind(), self.scope) {
            (std::io::ErrorKind::PermissionDenied, Scope::System) => {
                failed.hint("a service of the system is root's to install: use `sudo`, or give --user")
            }
            _ => failed,
        }
    }

    /// Everybody may read it.
    pub(super) fn write(&self, text: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
        let replacement = Replacement::begin(&self.path, 0o644)?;
        replacement.file().write_all(text.as_bytes())?;
        replacement.place(true)
    }

    /// Removes what a killed process left of it.
    pub(super) fn sweep(&self) {
        files::sweep(&self.path);
    }

    /// Where launchd keeps it.
    fn domain(&self) -> String {
        match self.scope {
            Scope::User => format!("gui/{}", rustix::process::getuid().as_raw()),
            Scope::System => "system".to_owned(),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.manager {
            Manager::Systemd => {
                let mut command = Command::new("systemctl");
                if self.scope == Scope::User {
                    command.arg("--user");
                }
                command.arg("--no-pager").arg("--no-ask-password");
                command
            }
            Manager::Launchd => Command::new("launchctl"),
        };
        command.args(args).stdin(Stdio::null());
        command
    }

    /// What the service manager answers to a question; `None` when there is none.
    fn ask(&self, args: &[&str]) -> Option<String> {
        let output = self.command(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Tells the service manager to do something.
    pub(super) fn tell(&self, args: &[&str]) -> Result<(), CliError> {
        let output = self.command(args).output().map_err(|err| self.no_manager(&err.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let program = self.program();
        let err = CliError::new(ExitStatus::Error, format!("`{program} {}` failed: {said}", args.join(" ")));
        Err(match (self.manager, self.scope) {
            (Manager::Systemd, Scope::User) => {
                err.hint(format!("`journalctl --user -u {}` shows what it said", self.id))
            }
            (Manager::Systemd, Scope::System) => err.hint(format!("`journalctl -u {}` shows what it said", self.id)),
            (Manager::Launchd, _) => err.hint(format!("`launchctl print {}/{}` shows more", self.domain(), self.id)),
        })
    }

    fn program(&self) -> &'static str {
        match self.manager {
            Manager::Systemd => "systemctl",
            Manager::Launchd => "launchctl",
        }
    }

    /// Fails unless there is a service manager that answers.
    pub(super) fn require_manager(&self) -> Result<(), CliError> {
        let probe: &[&str] = match self.manager {
            Manager::Systemd => &["show", "--property=Version"],
            Manager::Launchd => &["version"],
        };
        match self.command(probe).output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(self.no_manager(String::from_utf8_lossy(&output.stderr).trim())),
            Err(err) => Err(self.no_manager(&err.to_string())),
        }
    }

    fn no_manager(&self, why: &str) -> CliError {
        let name = match self.manager {
            Manager::Systemd => "systemd",
            Manager::Launchd => "launchd",
        };
        let whose = match self.scope {
            Scope::User => "of this user",
            Scope::System => "of this system",
        };
        CliError::new(ExitStatus::Error, format!("no {name} {whose} answers (`{}`: {why})", self.program()))
            .hint("`steadfast service install --print` prints the file for another machine, --no-start only writes it; any other supervisor can keep `steadfast run` too")
    }

    /// Enables and starts it, anew when its file changed.
    pub(super) fn start(&self, changed: bool) -> Result<(), CliError> {
        match self.manager {
            Manager::Systemd => {
                self.tell(&["daemon-reload"])?;
                self.tell(&["enable", &self.id])?;
                self.tell(&[if changed { "restart" } else { "start" }, &self.id])
            }
            Manager::Launchd => {
                let target = format!("{}/{}", self.domain(), self.id);
                let loaded = self.is_loaded();
                if loaded && !changed {
                    return Ok(());
                }
                if loaded {
                    self.tell(&["bootout", &target])?;
                }
                self.tell(&["enable", &target])?;
                self.tell(&["bootstrap", &self.domain(), &self.path.display().to_string()])
            }
        }
    }

    fn is_loaded(&self) -> bool {
        let target = format!("{}/{}", self.domain(), self.id);
        self.command(&["print", &target]).output().is_ok_and(|output| output.status.success())
    }

    /// Stops and disables it.
    pub(super) fn stop(&self) -> Result<(), CliError> {
        match self.manager {
            Manager::Systemd => self.tell(&["disable", "--now", &self.id]),
            Manager::Launchd if self.is_loaded() => self.tell(&["bootout", &format!("{}/{}", self.domain(), self.id)]),
            Manager::Launchd => Ok(()),
        }
    }

    /// Whether it is enabled, and whether it is active, in the service manager's words.
    pub(super) fn state(&self) -> (String, String) {
        let unknown = || "unknown".to_owned();
        let word = |said: Option<String>| said.filter(|said| !said.is_empty()).unwrap_or_else(unknown);
        match self.manager {
            Manager::Systemd => (word(self.ask(&["is-enabled", &self.id])), word(self.ask(&["is-active", &self.id]))),
            Manager::Launchd => {
                let said = self.ask(&["print", &format!("{}/{}", self.domain(), self.id)]).unwrap_or_default();
                let state = said.lines().find_map(|line| line.trim().strip_prefix("state = ")).map(str::to_owned);
                let enabled = if said.is_empty() { "disabled" } else { "enabled" };
                (enabled.to_owned(), state.unwrap_or_else(|| "inactive".to_owned()))
            }
        }
    }
}

pub(super) fn home(settings: &Settings) -> Result<PathBuf, CliError> {
    let home = settings.vars.get("HOME").filter(|home| home.starts_with('/'));
    home.map(PathBuf::from).ok_or_else(|| {
        CliError::new(ExitStatus::Error, "$HOME is not set to an absolute path, and the service's file depends on it")
    })
}
