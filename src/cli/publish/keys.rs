//! `publish keygen|sign`: keys and signatures in minisign's format.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use super::{PublishKeygenArgs, PublishSignArgs, not_written};
use crate::cli::render;
use crate::cli::{CliError, ExitStatus, Format, Settings};
use crate::files::regular;
use crate::model::Manifest;
use crate::model::labels::{SIGNATURE, beside};
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::publish::{key, place};
use crate::trust;

/// Holds the secret key, for where there is no file.
pub(super) const KEY: &str = "STEADFAST_SIGNING_KEY";
/// Holds its password.
const PASSWORD: &str = "STEADFAST_SIGNING_PASSWORD";
/// Far more than a secret key has.
const MAX_KEY_BYTES: u64 = 64 * 1024;

pub(super) fn keygen(settings: &Settings, args: &PublishKeygenArgs) -> Result<ExitStatus, CliError> {
    let public = beside(&args.out, ".pub");
    for path in [&args.out, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(CliError::new(ExitStatus::Error, format!("`{}` is there already", path.display())).hint(
                "a key is not written over: what was signed with it could not be signed again; choose another name",
            ));
        }
    }
    let password = match args.no_password {
        true => None,
        false => Some(new_password()?),
    };
    let made = key::generate(password).map_err(|why| failed(format!("cannot make keys: {why}")))?;
    write_secret(&args.out, &made.secret).map_err(|err| not_written(&args.out, &err))?;
    place::write(&public, made.public.as_bytes()).map_err(|err| {
        // Nobody has it yet, and it would be in the way of the next try.
        let _ = std::fs::remove_file(&args.out);
        not_written(&public, &err)
    })?;
    match settings.output {
        Format::Text | Format::Markdown => render::print(&format!(
            "wrote `{}` (secret) and `{}`; whoever trusts it writes into the state file:\n\nmanifest:\n  publicKeys: [{}]\n",
            args.out.display(),
            public.display(),
            made.key
        ))?,
        Format::Json | Format::Yaml => render::print_data(
            settings.output,
            &json!({
                "secretKey": args.out, "publicKey": public, "key": made.key.to_string(), "id": made.key.id().to_string(),
            }),
        )?,
    }
    Ok(ExitStatus::Done)
}

pub(super) fn sign(settings: &Settings, args: &PublishSignArgs) -> Result<ExitStatus, CliError> {
    if args.expires.is_some_and(|after| after.is_zero()) {
        return Err(CliError::new(ExitStatus::Usage, "--expires 0s: the signature would be over at once")
            .hint("without --expires it is good for ever"));
    }
    let bytes = read(&args.file, MAX_MANIFEST_BYTES as u64)?;
    let manifest = Manifest::parse(&bytes)
        .map_err(|err| CliError::new(ExitStatus::Invalid, format!("cannot sign `{}`: {err}", args.file.display())))?;
    let cannot = |why: String| format!("cannot sign `{}`: {why}", args.file.display());
    let own = trust::serial_of(&manifest.updated_at).map_err(|why| CliError::new(ExitStatus::Invalid, cannot(why)))?;
    let serial = args.serial.unwrap_or(own);
    let secret = secret(args.key.as_deref())?;
    let expires = args.expires.map(|after| SystemTime::now() + after);
    let signature =
        trust::sign(&bytes, &manifest.updated_at, serial, expires, &secret).map_err(|why| failed(cannot(why)))?;
    let path = beside(&args.file, SIGNATURE);
    place::write(&path, signature.as_bytes()).map_err(|err| not_written(&path, &err))?;
    let until = expires.map(crate::time::rfc3339);
    match settings.output {
        Format::Text | Format::Markdown => {
            let until = until.as_ref().map(|at| format!(", good until {at}")).unwrap_or_default();
            render::print(&format!("wrote `{}`: serial {serial}{until}\n", path.display()))?;
        }
        Format::Json | Format::Yaml => {
            render::print_data(settings.output, &json!({"path": path, "serial": serial, "expires": until}))?;
        }
    }
    Ok(ExitStatus::Done)
}

fn failed(message: String) -> CliError {
    CliError::new(ExitStatus::Error, message)
}

pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, CliError> {
    let cannot = |err: std::io::Error| failed(format!("cannot read `{}`: {err}", path.display()));
    let read = regular::read(path, most).map_err(|err| cannot(err.into()))?;
    read.ok_or_else(|| failed(format!("`{}` is larger than {}", path.display(), crate::sizes::limit(most))))
}

/// Nobody but its owner may read it, from the first byte on.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is none, and would be in the way of the next try.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// The secret key: from a file, from standard input (`-`), or from the environment.
pub(super) fn secret(key: Option<&Path>) -> Result<minisign::SecretKey, CliError> {
    let (from, text) = secret_key(key)?;
    key::read(&text, password).map_err(|why| {
        let said = |why: &str| failed(format!("cannot use the secret key {from}: {why}"));
        // Nothing of it is told, in case it is a key all the same.
        if key.is_none() && !text.trim().is_empty() && Path::new(text.trim()).exists() {
            return said("the variable holds the key itself, not where it lies").hint("--key names its file");
        }
        said(&why).hint(format!(
            "`steadfast publish keygen` makes one; its password is ${PASSWORD}, or asked for on a terminal"
        ))
    })
}

/// Where it comes from, in words, and the text of its file.
fn secret_key(key: Option<&Path>) -> Result<(String, String), CliError> {
    let (from, bytes) = match key {
        Some(path) if path == Path::new("-") => {
            let cannot = |why: String| failed(format!("cannot read the secret key from standard input: {why}"));
            let read =
                regular::bounded(std::io::stdin().lock(), MAX_KEY_BYTES).map_err(|err| cannot(err.to_string()))?;
            let too_large = || cannot(format!("it is larger than {}", crate::sizes::limit(MAX_KEY_BYTES)));
            ("from standard input".to_owned(), read.ok_or_else(too_large)?)
        }
        Some(path) => (format!("in `{}`", path.display()), read(path, MAX_KEY_BYTES)?),
        None => {
            let held = std::env::var(KEY).map(String::into_bytes).map_err(|_| {
                CliError::new(ExitStatus::Usage, "no secret key is named")
                    .hint(format!("--key names its file (`-` reads standard input), or ${KEY} holds it"))
            })?;
            (format!("in ${KEY}"), held)
        }
    };
    // What is no text is no key, and nothing of it is told.
    Ok((from, String::from_utf8(bytes).unwrap_or_else(|_| "?".to_owned())))
}

fn password() -> Result<String, String> {
    match std::env::var(PASSWORD) {
        Ok(password) => Ok(password),
        Err(_) if std::io::stdin().is_terminal() => {
            rpassword::prompt_password("Password of the secret key: ").map_err(|err| err.to_string())
        }
        Err(_) => Err(format!("it is encrypted, ${PASSWORD} is not set, and there is no terminal to ask on")),
    }
}

fn new_password() -> Result<String, CliError> {
    let not_empty = |password: String| match password.is_empty() {
        true => Err(failed("the password is empty, and would protect nothing".to_owned())
            .hint("--no-password leaves the key unencrypted")),
        false => Ok(password),
    };
    if let Ok(password) = std::env::var(PASSWORD) {
        return not_empty(password);
    }
    if !std::io::stdin().is_terminal() {
        return Err(failed("the secret key needs a password, and there is no terminal to ask on".to_owned())
            .hint(format!("${PASSWORD} holds it; --no-password leaves the key unencrypted")));
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).map_err(|err| failed(err.to_string()));
    let password = not_empty(ask("Password for the secret key: ")?)?;
    match ask("The same once more: ")? == password {
        true => Ok(password),
        false => Err(failed("the two passwords differ".to_owned())),
    }
}
