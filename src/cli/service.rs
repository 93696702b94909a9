//! `service`: `run` as a service of systemd or launchd. What its file says stands in [`crate::service`]; here it is written
//! and the service manager told.

mod place;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::json;

use self::place::{Place, home};
use super::render;
use super::render::said::{Level, say};
use super::{CliError, ExitStatus, InstallArgs, ServiceArgs, ServiceVerb, Settings};
use crate::control::StateFiles;
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
        let made = crate::files::make_directory(&desired.root);
        made.map_err(|err| {
            CliError::new(ExitStatus::Error, format!("cannot make `{}`: {err}", desired.root.display()))
        })?;
        place.write(&text).map_err(|err| place.cannot("write", &err))?;
    } else {
        place.sweep();
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
    let files = settings.files.absolute();
    let set = |name: &str| settings.vars.get(name).filter(|value| !value.is_empty());

    let named = state::variables(&settings.inputs()?);
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
    let there = state::load_all(&settings.inputs()?, &context).ok().map(|loaded| loaded.desired);
    let mut flags = Vec::new();
    if there.as_ref().is_none_or(|there| there.root != desired.root) {
        flags.extend(["--root".to_owned(), desired.root.to_string_lossy().into_owned()]);
    }
    if there.as_ref().is_some_and(|there| there.manifest != desired.manifest) {
        // Its query may be a token.
        needs.push("STEADFAST_MANIFEST_URL".to_owned());
    }
    flags.extend(args.flags.iter().cloned());
    check_flags(&files, &flags)?;

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
        files,
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
fn check_flags(files: &StateFiles, flags: &[String]) -> Result<(), CliError> {
    let named = files.iter().flat_map(|file| ["-f".into(), file.as_os_str().to_owned()]);
    let all =
        ["steadfast".into(), "run".into()].into_iter().chain(named).chain(flags.iter().map(std::ffi::OsString::from));
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
            let inputs = settings.can_read_again().then(|| settings.inputs().ok()).flatten();
            match inputs.and_then(|inputs| state::identity(&inputs, settings.root.as_deref(), &settings.vars)) {
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
    place.sweep();
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
