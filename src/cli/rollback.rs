//! `rollback`: an agent goes back to an earlier version that is still kept here, until the state file says something else of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::args::{ApplyArgs, FileArg, PolicyArgs, RollbackArgs};
use super::history::unknown_agent;
use super::kept::Kept;
use super::render::said::{Level, say};
use super::settings::state_dir;
use super::status::snapshot;
use super::{CliError, ExitStatus, Settings, ownership, reconcile};
use crate::backend::cache::CacheOptions;
use crate::model::wanted::{effective_manifest, wanted_image};
use crate::model::{
    Agent, AgentName, Arch, Desired, ImageRef, ImageSource, Observed, Remembered, Sha256Digest, Version,
};
use crate::overrides;
use crate::reconcile::journal::Journal;
use crate::rollouts;
use crate::time::rfc3339;

/// The versions of an agent that are kept here, and what their tarballs hash to.
type KeptVersions = BTreeMap<String, BTreeMap<Arch, Sha256Digest>>;

/// Goes back to an earlier version, and converges.
pub(super) async fn rollback(settings: &Settings, args: RollbackArgs) -> Result<ExitStatus, CliError> {
    let desired = settings.load(None)?.desired;
    ownership::check(settings, &desired)?;
    let name = &args.agent;
    let Some(agent) = desired.agents.get(name) else {
        let names = desired.agents.keys().map(ToString::to_string).collect();
        return Err(unknown_agent(name, "the state file does not have", &names));
    };
    let world = settings.world(&desired, CacheOptions { retries: 0, ..CacheOptions::default() })?;
    let observed = snapshot(&world, &desired).await.observed;
    let says = agent.rolled_back.as_ref().map_or(&agent.version, |back| &back.says);
    let back = match &args.to {
        // That is no rollback, and ends one.
        Some(to) if *to == says.to_string() => None,
        Some(to) => Some(asked_for(name, to, &kept(&desired, name, agent, &observed))?),
        None => {
            let known = rollouts::read(&state_dir(&desired).join(rollouts::FILE)).remove(name).unwrap_or_default();
            Some(last_good(name, agent, &known, &kept(&desired, name, agent, &observed), &observed)?)
        }
    };
    let version = back.as_ref().map_or_else(|| says.to_string(), |(version, _)| version.clone());
    let from = current(name, agent, &observed).unwrap_or_else(|| agent.version.to_string());
    overrides::keep(&desired, name, agent, back, rfc3339(SystemTime::now())).map_err(|err| {
        let dir = state_dir(&desired);
        CliError::new(ExitStatus::Error, format!("failed to record the rollback in `{}`: {err}", dir.display()))
    })?;
    let told = format!("agent `{name}`: from version {from} to {version}");
    if !settings.quiet {
        say(Level::Info, &told, &[], settings.color_stderr);
    }
    let is_kept = Kept::at(state_dir(&desired)).is_some();
    if !is_kept {
        let journal = Journal::new(&state_dir(&desired).join("journal.jsonl"), "rollback");
        journal.note("rollback", serde_json::json!({ "agent": name, "from": from, "to": version }));
    }
    reconcile::apply(settings, apply_args(args, is_kept)).await
}

/// What brings it about: `run`, where it keeps the state file, or an `apply` of this agent.
fn apply_args(args: RollbackArgs, is_kept: bool) -> ApplyArgs {
    let RollbackArgs { file: FileArg { file }, agent, to: _, timeout, lock_timeout } = args;
    let only = if is_kept { Vec::new() } else { vec![agent] };
    ApplyArgs {
        file: FileArg { file },
        timeout,
        allow_empty: false,
        lock_timeout,
        settle: crate::act::Patience::default().settle,
        no_wait: false,
        wait: false,
        retry_quarantined: false,
        parallel: 4,
        parallel_downloads: 4,
        policy: PolicyArgs { no_prune: false, adopt: false, take_over: false, only },
    }
}

/// The version an agent is to run at now.
fn current(name: &AgentName, agent: &Agent, observed: &Observed) -> Option<String> {
    let image = wanted_image(name, agent, observed).ok()?;
    image.version().map(str::to_owned)
}

fn asked_for(
    name: &AgentName,
    to: &str,
    kept: &KeptVersions,
) -> Result<(String, BTreeMap<Arch, Sha256Digest>), CliError> {
    kept.get_key_value(to).map(|(version, pins)| (version.clone(), pins.clone())).ok_or_else(|| {
        CliError::new(ExitStatus::Error, format!("version {to} of agent `{name}` is not kept here: {}", list(kept)))
            .hint(format!("to fetch it, write `version: \"{to}\"` into the state file"))
    })
}

/// The newest version before the one it is to run at that was known to be good, and that is kept.
fn last_good(
    name: &AgentName,
    agent: &Agent,
    known: &Remembered,
    kept: &KeptVersions,
    observed: &Observed,
) -> Result<(String, BTreeMap<Arch, Sha256Digest>), CliError> {
    let now = current(name, agent, observed);
    let at = known.good.iter().position(|good| Some(&good.version) == now.as_ref());
    let earlier = known.good.iter().take(at.unwrap_or(known.good.len())).rev();
    let found = earlier.filter_map(|good| kept.get_key_value(&good.version)).next();
    found.map(|(version, pins)| (version.clone(), pins.clone())).ok_or_else(|| {
        let now = now.as_deref().unwrap_or("the one in the state file");
        let message = format!(
            "no version of agent `{name}` before {now} is known to have been good and still kept here: {}",
            list(kept)
        );
        CliError::new(ExitStatus::Error, message)
            .hint("`--to VERSION` takes any that is kept; `cache.keep` says how many older ones are")
    })
}

fn list(kept: &KeptVersions) -> String {
    match kept.keys().map(String::as_str).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "there is none".to_owned(),
        some => format!("there are {some}"),
    }
}

/// The versions that are kept here: tarballs in the cache, or images in Podman.
fn kept(desired: &Desired, name: &AgentName, agent: &Agent, observed: &Observed) -> KeptVersions {
    if agent.source == ImageSource::Manifest {
        return in_cache(desired, name, agent, observed);
    }
    let Some(image) = &agent.image else { return KeptVersions::new() };
    let images = observed.guest.present().into_iter().flat_map(|guest| guest.images.keys());
    let versions = images.filter_map(|reference| {
        let version = reference.version()?;
        let same = ImageRef::join(image, version).is_ok_and(|wanted| wanted.qualified() == *reference);
        same.then(|| (version.to_owned(), BTreeMap::new()))
    });
    versions.collect()
}

fn in_cache(desired: &Desired, name: &AgentName, agent: &Agent, observed: &Observed) -> KeptVersions {
    // Names and versions may both have dashes: a file is that of the longest name that fits.
    let mut names: BTreeSet<&str> = desired.agents.keys().map(AgentName::as_str).collect();
    names.extend(
        effective_manifest(observed).into_iter().flat_map(|manifest| manifest.agents.keys().map(String::as_str)),
    );
    let longer = |stem: &str| {
        let fits = |other: &&&str| other.len() > name.as_str().len() && stem.starts_with(&format!("{other}-"));
        names.iter().find(fits).is_some()
    };
    let run_arch = agent.run_arch(desired.host_arch);
    let mut kept = KeptVersions::new();
    for (key, file) in observed.artifacts.present().into_iter().flatten() {
        let Some((stem, arch)) = key.version_and_arch().filter(|(stem, _)| !longer(stem)) else { continue };
        let version = stem.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        if let (Some(version), Some(digest)) = (version.filter(|version| !version.is_empty()), file.digest) {
            kept.entry(version.to_owned()).or_default().insert(arch, digest);
        }
    }
    kept.retain(|version, pins| pins.contains_key(&run_arch) && Version::Exact(version.clone()) != Version::Latest);
    kept
}
