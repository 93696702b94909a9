//! `run` as a service of the system: what its unit or property list says, and where that is kept. Pure; writing it and
//! talking to the service manager belong in [`crate::cli`].

mod launchd;
mod systemd;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::control::StateFiles;
use crate::model::Name;

/// Who runs services here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    /// systemd 247 (Debian 11) or newer.
    Systemd,
    /// launchd, on macOS.
    Launchd,
}

/// Whose service it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The user's: it runs as the user, with the user's Podman.
    User,
    /// The system's: it runs as root, with the system's Podman.
    System,
}

/// The first words of every file of ours. What begins otherwise is foreign.
const MARK: &str = "Written by `steadfast service install`; `steadfast service uninstall` removes it.";

/// How long `run` is given to stop, in seconds. It takes at most ten.
const STOP_SECONDS: u32 = 20;

/// `run`, as a service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Name of the state file.
    pub name: Name,
    /// Whose it is.
    pub scope: Scope,
    /// Absolute path of the steadfast command.
    pub program: PathBuf,
    /// Absolute paths of the state files.
    pub files: StateFiles,
    /// Further flags of `run`.
    pub flags: Vec<String>,
    /// Absolute path of the root: the only place it writes to.
    pub root: PathBuf,
    /// Home directory of the user it runs as.
    pub home: PathBuf,
    /// Variables that are no secrets and without which it would not find what it finds now.
    pub environment: BTreeMap<String, String>,
    /// Variables that the service must be given, by name alone: their values may be secrets.
    pub needs: Vec<String>,
    /// Podman's socket is one that systemd opens.
    pub podman_socket: bool,
    /// It starts a virtual machine, which outlives it.
    pub vm: bool,
}

/// A path or a flag that cannot stand in a service file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{what}` cannot stand in a service file: {why}")]
pub(crate) struct Unfit {
    /// What, fit for showing.
    pub what: String,
    /// Why.
    pub why: &'static str,
}

impl Service {
    /// What the service manager calls it: `steadfast-demo.service`, `io.steadfast.demo`.
    pub(crate) fn id(name: &Name, manager: Manager) -> String {
        match manager {
            Manager::Systemd => format!("steadfast-{name}.service"),
            Manager::Launchd => format!("io.steadfast.{name}"),
        }
    }

    /// Where its file is kept. `config` is the user's configuration directory, `home` the home directory.
    pub(crate) fn path(name: &Name, manager: Manager, scope: Scope, config: &Path, home: &Path) -> PathBuf {
        let id = Self::id(name, manager);
        match (manager, scope) {
            (Manager::Systemd, Scope::User) => config.join("systemd/user").join(id),
            (Manager::Systemd, Scope::System) => Path::new("/etc/systemd/system").join(id),
            (Manager::Launchd, Scope::User) => home.join("Library/LaunchAgents").join(format!("{id}.plist")),
            (Manager::Launchd, Scope::System) => Path::new("/Library/LaunchDaemons").join(format!("{id}.plist")),
        }
    }

    /// What its file says.
    ///
    /// # Errors
    /// When a path is not UTF-8 or has control characters, neither of which these formats can hold; with systemd also when
    /// the program's path has quotes or backslashes.
    pub(crate) fn render(&self, manager: Manager) -> Result<String, Unfit> {
        match manager {
            Manager::Systemd => systemd::render(self),
            Manager::Launchd => launchd::render(self),
        }
    }

    /// Whether a file was written by us.
    pub(crate) fn is_ours(text: &str) -> bool {
        text.lines().take(4).any(|line| line.contains(MARK))
    }

    /// What it finds in its environment. A service of the system is given no home directory by itself.
    fn environment(&self) -> Result<BTreeMap<String, String>, Unfit> {
        let mut all = BTreeMap::new();
        if self.scope == Scope::System {
            all.insert("HOME".to_owned(), fit(&self.home)?);
        }
        for (name, value) in &self.environment {
            all.insert(name.clone(), fit(Path::new(value))?);
        }
        Ok(all)
    }

    /// The command line.
    fn command(&self) -> Result<Vec<String>, Unfit> {
        let mut words = vec![fit(&self.program)?, "run".to_owned()];
        for file in self.files.iter() {
            words.extend(["-f".to_owned(), fit(file)?]);
        }
        for flag in &self.flags {
            words.push(fit(Path::new(flag))?);
        }
        Ok(words)
    }
}

/// The path as text.
fn fit(path: &Path) -> Result<String, Unfit> {
    let unfit = |why| Unfit { what: path.to_string_lossy().replace(char::is_control, "\u{fffd}"), why };
    let text = path.to_str().ok_or_else(|| unfit("it is not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(unfit("it has a control character"));
    }
    Ok(text.to_owned())
}
