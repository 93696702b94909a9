//! `trust show|reset`: the keys that the manifest may be signed with, and what was accepted because of them.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;

use super::render;
use super::{CliError, ExitStatus, Settings, TrustVerb};
use crate::backend::cache::{Cache, CacheOptions};
use crate::model::{Desired, Name, Sha256Digest};
use crate::time::rfc3339;
use crate::trust::TrustedKey;
use crate::trust::kept::Accepted;

pub(super) fn trust(settings: &Settings, verb: TrustVerb) -> Result<ExitStatus, CliError> {
    let desired = settings.load(None)?.desired;
    let cache = settings.cache(&desired.root, CacheOptions::default())?;
    match verb {
        TrustVerb::Show(_) => show(settings, &desired, &cache),
        TrustVerb::Reset { yes, .. } => reset(settings, &desired.name, &cache, yes),
    }
}

/// What `trust show -o json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    name: &'a Name,
    manifest: Option<String>,
    keys: Vec<KeyShown<'a>>,
    accepted: Option<AcceptedShown<'a>>,
}

#[derive(Serialize)]
struct KeyShown<'a> {
    id: String,
    key: &'a TrustedKey,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AcceptedShown<'a> {
    serial: u64,
    sha256: Sha256Digest,
    updated_at: &'a str,
    expires: Option<String>,
    expired: bool,
    key: String,
    /// The key is one of those in the state file.
    trusted: bool,
}

fn show(settings: &Settings, desired: &Desired, cache: &Cache) -> Result<ExitStatus, CliError> {
    let keys = desired.manifest.as_ref().and_then(|manifest| manifest.trust.as_ref()).map(|trust| &trust.keys[..]);
    let keys = keys.unwrap_or_default();
    let record = cache.accepted(&desired.name).map_err(|err| CliError::from_store(&err))?;
    let accepted = record.as_ref().map(|record| accepted(&record.accepted, keys));
    if settings.output.is_data() {
        let keys = keys.iter().map(|key| KeyShown { id: key.id().to_string(), key }).collect();
        let manifest = desired.manifest.as_ref().map(ToString::to_string);
        render::print_data(settings.output, &Shown { name: &desired.name, manifest, keys, accepted })?;
        return Ok(ExitStatus::Done);
    }
    let mut text = String::new();
    match keys {
        [] => text.push_str(
            "no keys: the state file has no `manifest.publicKeys`, and nobody checks who made the manifest\n",
        ),
        keys => {
            for key in keys {
                let _ = writeln!(text, "trusts key {}  {key}", key.id());
            }
        }
    }
    match accepted {
        None => text.push_str("no manifest was accepted yet\n"),
        Some(accepted) => {
            let trusted = if accepted.trusted { "" } else { ", which is not in the state file any more" };
            let until = match (&accepted.expires, accepted.expired) {
                (None, _) => "for ever".to_owned(),
                (Some(at), false) => format!("until {at}"),
                (Some(at), true) => format!("until {at}, which is over"),
            };
            let _ = write!(
                text,
                "accepted last: serial {} of {}\n  sha256 {}\n  signed with key {}{trusted}\n  good {until}\n",
                accepted.serial, accepted.updated_at, accepted.sha256, accepted.key
            );
        }
    }
    render::print(&text)?;
    Ok(ExitStatus::Done)
}

fn accepted<'a>(accepted: &'a Accepted, keys: &[TrustedKey]) -> AcceptedShown<'a> {
    AcceptedShown {
        serial: accepted.serial,
        sha256: accepted.sha256,
        updated_at: &accepted.updated_at,
        expires: accepted.expires.map(rfc3339),
        expired: accepted.signed().check_expiry(SystemTime::now()).is_err(),
        key: accepted.key.id().to_string(),
        trusted: keys.contains(&accepted.key),
    }
}

fn reset(settings: &Settings, name: &Name, cache: &Cache, yes: bool) -> Result<ExitStatus, CliError> {
    let forgets = match cache.accepted(name) {
        Ok(None) => {
            return answer(settings, name, false, &format!("`{name}`: no manifest was accepted, nothing to forget"));
        }
        Ok(Some(record)) => {
            let Accepted { serial, updated_at, key, .. } = record.accepted;
            format!(
                "that the manifest with serial {serial} of {updated_at}, signed with key {}, was accepted",
                key.id()
            )
        }
        // What cannot be read is what this verb is for.
        Err(err) => format!("what was accepted, which can no longer be read ({err})"),
    };
    if !yes {
        let what = format!(
            "`{name}` would forget {forgets}: the next one that is signed with a trusted key counts, however old it is"
        );
        return Err(CliError::new(ExitStatus::Usage, what).hint("--yes does it"));
    }
    cache.forget_accepted(name).map_err(|err| CliError::from_store(&err))?;
    answer(settings, name, true, &format!("`{name}`: forgot {forgets}"))
}

fn answer(settings: &Settings, name: &Name, forgot: bool, sentence: &str) -> Result<ExitStatus, CliError> {
    if settings.output.is_data() {
        render::print_data(settings.output, &serde_json::json!({"name": name, "forgot": forgot}))?;
    } else {
        render::print(&format!("{sentence}\n"))?;
    }
    Ok(ExitStatus::Done)
}
