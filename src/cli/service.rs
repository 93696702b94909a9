//! `service`: `run` as a service of systemd or launchd. What its file says stands in [`crate::service`]; here it is written
//! and the service manager told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::render;
use super::render::said::{Level, say};
use super::{CliError, ExitStatus, InstallArgs, ScopeArgs, ServiceArgs, ServiceVerb, Settings};
use crate::model::{Desired, Name, Runtime};
use crate::service::{Manager, Scope, Service};
use crate::state::{self, Context};

pub(super) fn service(settings: &Settings, verb: ServiceVerb) -> Result<ExitStatus, CliError> {
    match verb {
        ServiceVerb::Install(args) => install(settings, &args),
        ServiceVerb::Uninstall(args) => uninstall(settings, &args),
        ServiceVerb::Status(args) => status(settings, &args),
    }
}

/// A service of this machine: what it is called, where its file is, and who runs it.
struct Place {
    manager: Manager,
    scope: Scope,
    id: String,
    path: PathBuf,
}

impl Place {
    fn new(settings: &Settings, scope: &ScopeArgs, name: &Name) -> Result<Self, CliError> {
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
    fn there(&self) -> Result<Option<String>, CliError> {
        match std::fs::read(&self.path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(self.cannot("read", &err)),
        }
    }

    fn cannot(&self, verb: &str, err: &std::io::Error) -> CliError {
        let failed = CliError::new(ExitStatus::Error, format!("cannot {verb} `{}`: {err}", self.path.display()));
        match (err.kind(), self.scope) {
            (std::io::ErrorKind::PermissionDenied, Scope::System) => {
                failed.hint("a service of the system is root's to install: use `sudo`, or give --user")
            }
            _ => failed,
        }
    }

    /// Temp file in the same directory, then rename.
    fn write(&self, text: &str) -> std::io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|err| err.error)?;
        Ok(())
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
    fn tell(&self, args: &[&str]) -> Result<(), CliError> {
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
    fn require_manager(&self) -> Result<(), CliError> {
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
    fn start(&self, changed: bool) -> Result<(), CliError> {
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
    fn stop(&self) -> Result<(), CliError> {
        match self.manager {
            Manager::Systemd => self.tell(&["disable", "--now", &self.id]),
            Manager::Launchd if self.is_loaded() => self.tell(&["bootout", &format!("{}/{}", self.domain(), self.id)]),
            Manager::Launchd => Ok(()),
        }
    }

    /// Whether it is enabled, and whether it is active, in the service manager's words.
    fn state(&self) -> (String, String) {
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

fn home(settings: &Settings) -> Result<PathBuf, CliError> {
    let home = settings.vars.get("HOME").filter(|home| home.starts_with('/'));
    home.map(PathBuf::from).ok_or_else(|| {
        CliError::new(ExitStatus::Error, "$HOME is not set to an absolute path, and the service's file depends on it")
    })
}

fn install(settings: &Settings, args: &InstallArgs) -> Result<ExitStatus, CliError> {
    if !settings.can_read_again() {
        return Err(CliError::new(
            ExitStatus::Usage,
            "a service reads its state file again and again, and a pipe can be read once",
        )
        .hint("name a file with -f"));
    }
    let desired = settings.load(None)?.desired;
    let place = Place::new(settings, &args.scope, &desired.name)?;
    let service = describe(settings, args, &desired, place.scope)?;
    let text = service.render(place.manager).map_err(|err| {
        CliError::new(ExitStatus::Error, err.to_string()).hint("move or rename it, or write the service's file by hand")
    })?;
    if args.print {
        if !settings.quiet {
            let said = format!("this would be `{}`", place.path.display());
            say(Level::Info, &said, &[], settings.color_stderr);
        }
        if settings.output.is_data() {
            render::print_data(settings.output, &json!({"service": place.id, "path": place.path, "content": text}))?;
        } else {
            render::print(&text)?;
        }
        return Ok(ExitStatus::Done);
    }
    let there = place.there()?;
    let changed = there.as_ref() != Some(&text);
    if let Some(there) = &there
        && changed
        && !args.force
    {
        let what =
            if Service::is_ours(there) { "differs from what would be written" } else { "was not written by steadfast" };
        return Err(CliError::new(ExitStatus::Error, format!("`{}` {what}", place.path.display()))
            .hint("--print shows what would be written, --force writes over it"));
    }
    if !args.no_start {
        place.require_manager()?;
    }
    if changed {
        // It is the one place the unit may write to, and must be there before.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&desired.root);
        made.map_err(|err| {
            CliError::new(ExitStatus::Error, format!("cannot make `{}`: {err}", desired.root.display()))
        })?;
        place.write(&text).map_err(|err| place.cannot("write", &err))?;
    }
    let lacks = if has_drop_in(&place) { &[][..] } else { &service.needs[..] };
    let starts = !args.no_start && lacks.is_empty();
    let said = |more: &str| {
        if changed {
            format!("wrote `{}`{more}", place.path.display())
        } else {
            format!("`{}` is as it should be", place.path.display())
        }
    };
    if !settings.output.is_data() {
        render::print(&if changed { format!("{}\n\n{text}\n", said(":")) } else { said("") + "\n" })?;
    }
    if starts {
        place.start(changed)?;
    }
    if settings.output.is_data() {
        let answer = json!({"service": place.id, "path": place.path, "content": text, "changed": changed, "started": starts, "needs": service.needs});
        render::print_data(settings.output, &answer)?;
    } else if starts {
        render::print(&format!("`{}` is enabled and started\n", place.id))?;
    }
    if !settings.quiet {
        advise(settings, &place, lacks, args.no_start);
    }
    Ok(ExitStatus::Done)
}

/// What is left to do by hand.
fn advise(settings: &Settings, place: &Place, lacks: &[String], no_start: bool) {
    let systemctl = if place.scope == Scope::User { "systemctl --user" } else { "systemctl" };
    let mut hints = Vec::new();
    if !lacks.is_empty() {
        let names = lacks.join(", ");
        if place.manager == Manager::Systemd {
            hints.push(format!(
                "`{systemctl} edit {}` makes a drop-in: `[Service]`, `EnvironmentFile=/path/to/a/file`, and in that file (mode 0600) {names}",
                place.id
            ));
            hints.push("run `steadfast service install` once more after that, which starts it".to_owned());
        } else {
            hints.push(format!("keep {names} in an env file that the state file names with `envFile`"));
        }
        let why = format!("not started: the state file needs variables that the service is not given: {names}");
        say(Level::Warn, &why, &hints, settings.color_stderr);
    } else if no_start && place.manager == Manager::Systemd {
        let hint = format!("`{systemctl} daemon-reload && {systemctl} enable --now {}` starts it", place.id);
        say(Level::Info, "not started", &[hint], settings.color_stderr);
    }
    if place.scope == Scope::User && place.manager == Manager::Systemd {
        let said = "a user's services run while the user is logged in";
        say(Level::Info, said, &["`loginctl enable-linger` lets them run always".to_owned()], settings.color_stderr);
    }
}

/// Whether somebody added something to the unit.
fn has_drop_in(place: &Place) -> bool {
    let mut dir = place.path.clone().into_os_string();
    dir.push(".d");
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Variables that every service has.
const GIVEN: [&str; 6] = ["HOME", "USER", "LOGNAME", "SHELL", "PATH", "XDG_RUNTIME_DIR"];
/// Variables that say where Podman is.
const PODMAN: [&str; 2] = ["CONTAINER_HOST", "DOCKER_HOST"];

/// What is to be run, so that it finds there what it finds here.
fn describe(settings: &Settings, args: &InstallArgs, desired: &Desired, scope: Scope) -> Result<Service, CliError> {
    let cannot = |what: &str, err: std::io::Error| CliError::new(ExitStatus::Error, format!("{what}: {err}"));
    let program = std::env::current_exe().map_err(|err| cannot("cannot tell where this command is", err))?;
    let file = std::path::absolute(&settings.file).map_err(|err| cannot("cannot tell where the state file is", err))?;
    let set = |name: &str| settings.vars.get(name).filter(|value| !value.is_empty());

    let named = state::variables(&settings.input()?);
    let is_given = |name: &str| GIVEN.contains(&name) && (name != "XDG_RUNTIME_DIR" || scope == Scope::User);
    let lacking = named.iter().filter(|(name, has_default)| !is_given(name) && (!**has_default || set(name).is_some()));
    let mut needs: Vec<String> = lacking.map(|(name, _)| name.clone()).collect();

    // What the file means to somebody who has only what the service has.
    let vars = settings.vars.iter().filter(|(name, _)| named.contains_key(*name) || is_given(name));
    let vars: BTreeMap<_, _> = vars.map(|(name, value)| (name.clone(), value.clone())).collect();
    let context = Context {
        vars,
        root: None,
        manifest_url: None,
        host_arch: settings.host_arch()?,
        key: &|_| desired.key.clone(),
    };
    let there = state::load(&settings.input()?, &context).ok().map(|loaded| loaded.desired);
    let mut flags = Vec::new();
    if there.as_ref().is_none_or(|there| there.root != desired.root) {
        flags.extend(["--root".to_owned(), desired.root.to_string_lossy().into_owned()]);
    }
    if there.as_ref().is_some_and(|there| there.manifest != desired.manifest) {
        // Its query may be a token.
        needs.push("STEADFAST_MANIFEST_URL".to_owned());
    }
    flags.extend(args.flags.iter().cloned());
    check_flags(&file, &flags)?;

    let mut environment = BTreeMap::new();
    let socket = match &desired.runtime {
        Runtime::Podman { socket: Some(socket) } => Some(socket.clone()),
        Runtime::Podman { socket: None } => PODMAN.iter().find_map(|name| {
            let value = set(name)?;
            environment.insert((*name).to_owned(), value.clone());
            Some(PathBuf::from(value.trim_start_matches("unix:").trim_start_matches("//")))
        }),
        Runtime::Lima(_) if scope == Scope::System => {
            return Err(CliError::new(
                ExitStatus::Usage,
                "Lima does not run as root, and a service of the system does",
            )
            .hint(
                "`--user` makes a service of yours; `loginctl enable-linger` has it run while you are not logged in",
            ));
        }
        Runtime::Lima(_) => {
            // A service manager knows neither where limactl is nor where its instances are.
            for name in ["LIMA_HOME", "PATH"] {
                if let Some(value) = set(name) {
                    environment.insert(name.to_owned(), value.clone());
                }
            }
            None
        }
    };
    if let (Runtime::Podman { .. }, Some((name, value))) = (&desired.runtime, environment.first_key_value())
        && !(value.starts_with("unix:") || value.starts_with('/'))
    {
        return Err(CliError::new(ExitStatus::Error, format!("`${name}` is not a unix socket"))
            .hint("name Podman's socket in the state file: `runtime.podman.socket`"));
    }
    let by_systemd = |socket: &PathBuf| socket.ends_with("podman/podman.sock") && socket.starts_with("/run");
    Ok(Service {
        name: desired.name.clone(),
        scope,
        program,
        file,
        flags,
        root: desired.root.clone(),
        home: home(settings)?,
        environment,
        needs,
        vm: desired.vm().is_some(),
        podman_socket: matches!(desired.runtime, Runtime::Podman { .. }) && socket.as_ref().is_none_or(by_systemd),
    })
}

/// Checks the flags as `run` itself would.
fn check_flags(file: &Path, flags: &[String]) -> Result<(), CliError> {
    let words = ["steadfast".into(), "run".into(), "-f".into(), file.as_os_str().to_owned()];
    let all = words.into_iter().chain(flags.iter().map(std::ffi::OsString::from));
    match super::command().try_get_matches_from(all) {
        Ok(_) => Ok(()),
        Err(err) => {
            let said = err.to_string();
            let first = said.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Err(CliError::new(ExitStatus::Usage, format!("`run` does not take these flags: {first}"))
                .hint("`steadfast run --help` lists them"))
        }
    }
}

/// The name from `--name`, else from the state file.
fn name_of(settings: &Settings, args: &ServiceArgs) -> Result<Name, CliError> {
    match &args.name {
        Some(name) => Ok(name.clone()),
        None => {
            let cannot = match settings.load(None) {
                Ok(loaded) => return Ok(loaded.desired.name),
                Err(err) => err,
            };
            // A broken one still tells its name.
            let input = settings.can_read_again().then(|| settings.input().ok()).flatten();
            match input.and_then(|input| state::identity(&input, settings.root.as_deref(), &settings.vars)) {
                Some((name, _)) => Ok(name),
                None => {
                    Err(cannot
                        .hint("give --name when the state file is gone: the service's name is all that is needed"))
                }
            }
        }
    }
}

fn uninstall(settings: &Settings, args: &ServiceArgs) -> Result<ExitStatus, CliError> {
    let name = name_of(settings, args)?;
    let place = Place::new(settings, &args.scope, &name)?;
    let Some(there) = place.there()? else {
        let text = format!("`{}` is not installed: there is no `{}`\n", place.id, place.path.display());
        return answer(settings, &text, &json!({"service": place.id, "path": place.path, "removed": false}));
    };
    if !Service::is_ours(&there) && !args.force {
        return Err(CliError::new(
            ExitStatus::Error,
            format!("`{}` was not written by steadfast", place.path.display()),
        )
        .hint("--force removes it all the same"));
    }
    place.require_manager()?;
    place.stop()?;
    std::fs::remove_file(&place.path).map_err(|err| place.cannot("remove", &err))?;
    if place.manager == Manager::Systemd {
        place.tell(&["daemon-reload"])?;
    }
    let mut text = format!("`{}` is stopped and disabled; removed `{}`\n", place.id, place.path.display());
    if has_drop_in(&place) {
        let _ = writeln!(text, "what was added to it in `{}.d` is left there", place.path.display());
    }
    let _ = writeln!(text, "agents of `{name}` go on running; `steadfast down` removes them");
    answer(settings, &text, &json!({"service": place.id, "path": place.path, "removed": true}))
}

fn status(settings: &Settings, args: &ServiceArgs) -> Result<ExitStatus, CliError> {
    let name = name_of(settings, args)?;
    let place = Place::new(settings, &args.scope, &name)?;
    let there = place.there()?;
    let ours = there.as_deref().map(Service::is_ours);
    let (enabled, active) = place.state();
    let installed = match ours {
        None => "no",
        Some(true) => "yes",
        Some(false) => "yes, but not by steadfast",
    };
    let path = place.path.display();
    let text = format!(
        "{}\n  installed  {installed}\n  enabled    {enabled}\n  active     {active}\n  path       {path}\n",
        place.id
    );
    let data = json!({"service": place.id, "path": place.path, "installed": there.is_some(), "ours": ours, "enabled": enabled, "active": active});
    answer(settings, &text, &data)
}

fn answer(settings: &Settings, text: &str, data: &serde_json::Value) -> Result<ExitStatus, CliError> {
    if settings.output.is_data() {
        render::print_data(settings.output, data)?;
    } else {
        render::print(text)?;
    }
    Ok(ExitStatus::Done)
}
