//! `cache gc`: removes what nobody needs.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use super::{open, root};
use crate::backend::cache::{self, Cache, GcRequest};
use crate::backend::podman::{Podman, PodmanAt};
use crate::backend::{Engine, Look, Store};
use crate::cli::ownership::read_claim;
use crate::cli::render::{self, units};
use crate::cli::{CliError, ExitStatus, Settings};
use crate::model::{Desired, HostKey, Name, Ownership};
use crate::trust::kept::is_only_trust;

pub(super) async fn gc(settings: &Settings, dry_run: bool, keep: Option<u32>) -> Result<ExitStatus, CliError> {
    let (desired, cache) = open(settings)?;
    let mut request = GcRequest {
        keep: keep.or(desired.as_ref().map(|desired| desired.cache.keep)).unwrap_or(1),
        dry_run,
        ..GcRequest::default()
    };
    if let Some(manifest) = cache
        .local(desired.as_ref().and_then(|desired| desired.manifest.as_ref()))
        .await
        .map_err(|err| CliError::from_store(&err))?
    {
        request.agents.extend(manifest.agents.keys().cloned());
    }
    if let Some(desired) = &desired {
        request.agents.extend(desired.agents.iter().map(|(name, agent)| agent.artifact_name(name).to_string()));
        let files = cache.list().await.map_err(|err| CliError::from_store(&err))?;
        for (name, agent) in &desired.agents {
            let crate::model::Version::Exact(version) = &agent.version else { continue };
            let of_arch =
                |arch| crate::model::wanted::files_of(agent.artifact_name(name).as_str(), version, arch, &files);
            request.roots.extend(agent.arches.iter().flat_map(|arch| of_arch(*arch)).map(|(key, _)| key.clone()));
        }
    }
    let root = root(settings, desired.as_ref())?;
    let mut owners = owners(&root)?;
    owners.extend(desired.as_ref().map(|desired| desired.name.clone()));
    if !owners.is_empty() {
        let owners = owners.into_iter().map(|name| Ownership { root: read_claim(&root, &name), name }).collect();
        keep_running(settings, desired.as_ref(), owners, &cache, &mut request).await?;
    }
    let report = cache.gc(request).await.map_err(|err| CliError::from_store(&err))?;
    if !dry_run {
        // What is too young to be garbage, and yet has nobody who writes it.
        cache::sweep(&root);
    }
    if settings.output.is_data() {
        let removed: Vec<_> = report
            .removed
            .iter()
            .map(|garbage| json!({"path": garbage.path, "key": garbage.key, "bytes": garbage.bytes}))
            .collect();
        render::print_data(
            settings.output,
            &json!({
                "dryRun": dry_run, "removed": removed, "busy": report.busy, "kept": report.kept, "freedBytes": report.freed(),
            }),
        )?;
        return Ok(ExitStatus::Done);
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for garbage in &report.removed {
        let _ = writeln!(text, "{verb} {} ({})", garbage.path.display(), units::bytes(garbage.bytes));
    }
    let _ = writeln!(
        text,
        "{verb} {}, {}; {} kept",
        units::count(report.removed.len(), "file"),
        units::bytes(report.freed()),
        units::count(report.kept, "artifact"),
    );
    render::print(&text)?;
    Ok(ExitStatus::Done)
}

/// Every state file that was ever applied to this root: they share the cache.
fn owners(root: &Path) -> Result<BTreeSet<Name>, CliError> {
    let directory = root.join("state");
    let refused = |err: std::io::Error| {
        CliError::new(ExitStatus::Error, format!("cannot list `{}`: {err}", directory.display()))
            .hint("each directory in it stands for a state file that may use the cache, so nothing was removed")
    };
    let entries = match std::fs::read_dir(&directory) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(refused)?,
    };
    let mut owners = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(refused)?;
        // Followed, should it be a link; what cannot be looked at counts as somebody's.
        if std::fs::metadata(entry.path()).map_or(true, |found| found.is_dir()) && !is_only_trust(&entry.path()) {
            owners.extend(entry.file_name().to_str().and_then(|name| Name::new(name).ok()));
        }
    }
    Ok(owners)
}

/// Keeps what containers of these owners were made from. Podman must answer for that: what cannot be seen is not taken
/// to be unused.
async fn keep_running(
    settings: &Settings,
    desired: Option<&Desired>,
    owners: Vec<Ownership>,
    cache: &Cache,
    request: &mut GcRequest,
) -> Result<(), CliError> {
    let names: Vec<_> = owners.iter().map(|owner| format!("`{}`", owner.name)).collect();
    let hint = format!("without Podman it is unknown what runs for {}, so nothing was removed", names.join(", "));
    let engine = match desired {
        Some(desired) => settings.reached_engine(desired).await.map_err(|err| err.hint(hint.clone()))?,
        None => Podman::connect(None, |name: &str| settings.vars.get(name).cloned())
            .map(Box::new)
            .map(PodmanAt::Host)
            .map_err(|err| CliError::from_engine(&err).hint(hint.clone()))?,
    };
    // Nothing is compared with the live values here, so any key will do.
    let key = desired.map_or_else(|| HostKey::from_bytes([0; 32]), |desired| desired.key.clone());
    let mut in_use = BTreeSet::new();
    for owner in owners {
        let look = Look { owner, names: BTreeSet::new(), health: BTreeSet::new(), key: key.clone() };
        let guest = engine.look(&look).await.map_err(|err| CliError::from_engine(&err).hint(hint.clone()))?;
        in_use.extend(guest.artifacts_in_use());
    }
    if in_use.is_empty() {
        return Ok(());
    }
    for (key, file) in cache.list().await.map_err(|err| CliError::from_store(&err))? {
        if request.roots.contains(&key) {
            continue;
        }
        let digest = match file.digest {
            Some(digest) => Some(digest),
            None => cache.prove(&key).await.map_err(|err| CliError::from_store(&err))?,
        };
        if digest.is_some_and(|digest| in_use.contains(&digest)) {
            request.roots.insert(key);
        }
    }
    Ok(())
}
