//! `init`, `validate`, `schema`, `completions`: verbs about files, not about the machine.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::render::{self, said::Level};
use super::{CliError, ExitStatus, Format, Settings};
use crate::state::{self, StateError};

/// Writes a starter state file. Never over another file.
pub(super) fn init(settings: &Settings) -> Result<ExitStatus, CliError> {
    let path = &settings.file;
    if path.as_os_str() == "-" {
        render::print(state::STARTER)?;
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
    file.write_all(state::STARTER.as_bytes())
        .map_err(|err| CliError::new(ExitStatus::Error, format!("failed to write `{}`: {err}", path.display())))?;
    if !settings.quiet {
        let wrote = format!("wrote `{}`; edit it, then run `steadfast plan -f {0}`", path.display());
        render::said::say(Level::Info, &wrote, &[], settings.color_stderr);
    }
    Ok(ExitStatus::Done)
}

/// Parses and checks the state file.
pub(super) fn validate(settings: &Settings) -> Result<ExitStatus, CliError> {
    let loaded = match settings.load(None) {
        Ok(loaded) => loaded,
        Err(CliError { status, state: Some(err), .. }) if settings.output.is_data() => {
            let problems = problems(&settings.file, &err);
            render::print_data(settings.output, &json!({"valid": false, "problems": problems}))?;
            return Ok(status);
        }
        Err(err) => return Err(err),
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
            }),
        )?,
        Format::Text | Format::Markdown => {
            let agents = render::units::count(desired.agents.len(), "agent");
            render::print(&format!("`{}` is valid: `{}`, {agents}.\n", settings.file.display(), desired.name))?;
        }
    }
    Ok(ExitStatus::Done)
}

/// File, line, column, path, message and help of each problem. One of the whole file has line and column 0.
fn problems(file: &Path, err: &StateError) -> Vec<Value> {
    let problem = |file: &str, line: u64, column: u64, path: &str, message: &str, help: Option<&str>| json!({"file": file, "line": line, "column": column, "path": path, "message": message, "help": help});
    if err.problems().is_empty() {
        return vec![problem(&file.display().to_string(), 0, 0, "", &err.to_string(), None)];
    }
    let each = err.problems().iter().map(|found| {
        let place = &found.place;
        problem(&place.file, place.line, place.column, &found.path, &found.message, found.help.as_deref())
    });
    each.collect()
}

/// Prints a JSON schema.
pub(super) fn schema(_: &Settings, manifest: bool) -> Result<ExitStatus, CliError> {
    let schema = if manifest { state::manifest_schema() } else { state::schema() };
    render::print(&state::pretty(&schema))?;
    Ok(ExitStatus::Done)
}

/// Prints a completion script.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<ExitStatus, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "steadfast", &mut script);
    render::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Done)
}
