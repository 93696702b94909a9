//! `init`, `validate`, `schema`, `completions`: verbs about files, not about the machine.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::render::{self, said::Level};
use super::{CliError, ExitStatus, Format, Settings};
use crate::control::StateFiles;
use crate::state::{self, Loaded, Problem, StateError};

/// Writes a starter state file. Never over another file.
pub(super) fn init(settings: &Settings) -> Result<ExitStatus, CliError> {
    if !settings.files.layers().is_empty() {
        return Err(CliError::new(ExitStatus::Usage, "`init` writes one file").hint("name it with one `-f FILE`"));
    }
    let path = settings.files.first();
    let to_stdout = path.as_os_str() == "-";
    // Absolute, but no link resolved: the directory is called what the user calls it.
    let file = std::path::absolute(if to_stdout { Path::new("steadfast.yaml") } else { path }).unwrap_or_default();
    let name = state::name_after(file.parent().unwrap_or(Path::new("/")));
    let starter = state::starter(&name);
    if to_stdout {
        render::print_raw(&starter)?;
        return Ok(ExitStatus::Done);
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(|err| {
        let failed = CliError::new(ExitStatus::Error, format!("failed to write `{}`: {err}", path.display()));
        if err.kind() == std::io::ErrorKind::AlreadyExists {
            failed.hint("`init` never overwrites; name another file with -f, or remove that one")
        } else {
            failed
        }
    })?;
    file.write_all(starter.as_bytes())
        .map_err(|err| CliError::new(ExitStatus::Error, format!("failed to write `{}`: {err}", path.display())))?;
    if !settings.quiet {
        let shown = path.display();
        let wrote = format!("wrote `{shown}`, named `{name}`; edit it, then run `steadfast plan -f {shown}`");
        render::said::say(Level::Info, &wrote, &[], settings.color_stderr);
    }
    Ok(ExitStatus::Done)
}

/// Parses and checks the state file.
pub(super) fn validate(settings: &Settings) -> Result<ExitStatus, CliError> {
    let loaded = match settings.resolve(None) {
        Ok(loaded) => loaded,
        Err(err) => return refused(settings, err),
    };
    let desired = &loaded.desired;
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(
            settings.output,
            &json!({
                "valid": true,
                "name": desired.name,
                "agents": desired.agents.keys().collect::<Vec<_>>(),
                "problems": [],
                "warnings": loaded.warnings.iter().map(told).collect::<Vec<_>>(),
            }),
        )?,
        Format::Text | Format::Markdown => {
            warn(settings, &loaded, |_| true);
            let agents = render::units::count(desired.agents.len(), "agent");
            render::print(&format!("`{}` is valid: `{}`, {agents}.\n", settings.files, desired.name))?;
        }
    }
    Ok(ExitStatus::Done)
}

/// What is wrong with the state file, for who reads data.
fn refused(settings: &Settings, err: CliError) -> Result<ExitStatus, CliError> {
    match err {
        CliError { status, state: Some(err), .. } if settings.output.is_data() => {
            let problems = problems(&settings.files, &err);
            render::print_data(settings.output, &json!({"valid": false, "problems": problems}))?;
            Ok(status)
        }
        err => Err(err),
    }
}

/// Prints what the state files come to, as a state file.
pub(super) fn config(settings: &Settings) -> Result<ExitStatus, CliError> {
    let (loaded, config) = match settings.expand() {
        Ok(expanded) => expanded,
        Err(err) => return refused(settings, err),
    };
    warn(settings, &loaded, |_| true);
    match settings.output {
        Format::Json => render::print_data(settings.output, &config.json())?,
        Format::Text | Format::Yaml | Format::Markdown => drop(render::print_raw(&config.yaml())?),
    }
    Ok(ExitStatus::Done)
}

/// Says on standard error what is valid in the state file and probably not meant.
pub(super) fn warn(settings: &Settings, loaded: &Loaded, which: impl Fn(&Problem) -> bool) {
    if settings.quiet {
        return;
    }
    for warning in loaded.warnings.iter().filter(|warning| which(warning)) {
        render::errors::print_warning(warning, settings.color_stderr);
    }
}

/// File, line, column, path, message and help of each problem. One of the whole file has line and column 0.
fn problems(files: &StateFiles, err: &StateError) -> Vec<Value> {
    if err.problems().is_empty() {
        let file = files.to_string();
        return vec![
            json!({"file": file, "line": 0, "column": 0, "path": "", "message": err.to_string(), "help": null}),
        ];
    }
    err.problems().iter().map(told).collect()
}

fn told(problem: &Problem) -> Value {
    let Problem { place, path, message, help, .. } = problem;
    json!({"file": place.file, "line": place.line, "column": place.column, "path": path, "message": message, "help": help})
}

/// Prints a JSON schema.
pub(super) fn schema(manifest: bool, bundle: bool) -> Result<ExitStatus, CliError> {
    let schema = match (manifest, bundle) {
        (true, _) => state::manifest_schema(),
        (_, true) => crate::publish::bundle::schema(),
        (false, false) => state::schema(),
    };
    render::print_raw(&state::pretty(&schema))?;
    Ok(ExitStatus::Done)
}

/// Prints a completion script.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<ExitStatus, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "steadfast", &mut script);
    render::print_raw(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Done)
}
