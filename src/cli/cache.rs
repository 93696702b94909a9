//! `cache sync|import|list|verify|gc`: the artifact cache alone. Works with a state file and without one.

mod bars;
mod gc;
pub(super) mod import;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use self::bars::Bars;
use super::render::{self, units};
use super::settings::check_root;
use super::signals::Signals;
use super::{CacheVerb, CliError, ExitStatus, Format, Settings, SyncArgs};
use crate::backend::cache::{self, Cache, CacheOptions, SyncAgent, SyncRequest, SyncWanted, Verdict};
use crate::backend::{Store, Transferred};
use crate::model::{AgentState, Arch, ArtifactKey, Desired, ImageSource, Location, ManifestSource};
use crate::status::SignedStatus;

pub(super) async fn cache(settings: &Settings, verb: CacheVerb) -> Result<ExitStatus, CliError> {
    match verb {
        CacheVerb::Sync(args) => sync(settings, args).await,
        CacheVerb::Import(args) => import::import(settings, args).await,
        CacheVerb::List(_) => list(settings).await,
        CacheVerb::Verify { deep, .. } => verify(settings, deep).await,
        CacheVerb::Gc { dry_run, keep, .. } => gc::gc(settings, dry_run, keep).await,
    }
}

/// The state file, when the user named one or there is one where it is looked for.
fn desired(settings: &Settings, manifest_url: Option<String>) -> Result<Option<Desired>, CliError> {
    // One that may not be looked at is there for all we know: reading it says why it cannot be used.
    if !settings.file_named && matches!(settings.files.first().try_exists(), Ok(false)) {
        return Ok(None);
    }
    Ok(Some(settings.load(manifest_url)?.desired))
}

fn root(settings: &Settings, desired: Option<&Desired>) -> Result<PathBuf, CliError> {
    let Some(desired) = desired else {
        let root = settings.root_without_file()?;
        return check_root(&root, None).map(|()| root);
    };
    Ok(desired.root.clone())
}

/// What `cache sync -o json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Synced<'a> {
    downloaded: &'a [ArtifactKey],
    manifest_path: &'a Path,
    skipped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<SignedStatus>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    parts: Option<Parts>,
}

/// Where the bytes came from, when some of them were in the cache.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Parts {
    received_bytes: u64,
    reused_bytes: u64,
}

impl From<Transferred> for Parts {
    fn from(Transferred { received, reused }: Transferred) -> Self {
        Self { received_bytes: received, reused_bytes: reused }
    }
}

/// What `--arch` names.
enum Asked {
    Host,
    All,
    Only(Arch),
}

fn asked_arch(word: &str) -> Result<Asked, CliError> {
    match word {
        "host" => Ok(Asked::Host),
        "all" => Ok(Asked::All),
        word => Arch::from_machine(word).map(Asked::Only).map_err(|err| {
            CliError::new(ExitStatus::Usage, err.to_string())
                .hint("`--arch` takes host, arm64 (or aarch64), x64 (or amd64, x86_64), all")
        }),
    }
}

/// The architectures that `--arch` names, where it was given.
fn asked_arches(settings: &Settings, word: Option<&str>) -> Result<Option<Vec<Arch>>, CliError> {
    let asked = word.map(asked_arch).transpose()?;
    let host = settings.host_arch()?;
    Ok(asked.map(|asked| match asked {
        Asked::Host => vec![host],
        Asked::All => Arch::ALL.to_vec(),
        Asked::Only(arch) => vec![arch],
    }))
}

/// What is wanted of a manifest: what the agents of the state file want; without one, all of it for these architectures.
fn wanted(settings: &Settings, arches: Option<Vec<Arch>>, desired: Option<&Desired>) -> Result<SyncWanted, CliError> {
    let Some(desired) = desired else {
        let host = settings.host_arch()?;
        return Ok(SyncWanted::All(arches.unwrap_or_else(|| vec![host])));
    };
    let agents = desired.agents.iter();
    let agents = agents
        .filter(|(_, agent)| agent.source == ImageSource::Manifest && agent.state != AgentState::Absent)
        .map(|(name, agent)| SyncAgent {
            agent: agent.artifact_name(name).clone(),
            version: agent.version.clone(),
            arches: arches.clone().unwrap_or_else(|| agent.arches.clone()),
            pins: agent.pins.clone(),
        });
    Ok(SyncWanted::Agents(agents.collect()))
}

async fn sync(settings: &Settings, args: SyncArgs) -> Result<ExitStatus, CliError> {
    // An architecture nobody publishes for ends it before anything is fetched.
    let arches = asked_arches(settings, args.arch.as_deref())?;
    let desired = desired(settings, args.manifest_url.clone())?;
    let manifest = manifest(settings, &args, desired.as_ref())?;
    let wanted = wanted(settings, arches, desired.as_ref())?;
    let options = CacheOptions { retries: args.retries, stall_timeout: args.stall_timeout, ..CacheOptions::default() };
    let root = root(settings, desired.as_ref())?;
    cache::sweep(&root);
    let cache = settings.cache(&root, options)?;
    let signals = Signals::listen("stopping; what has arrived is kept, and resumed next time");
    let bars = Bars::new(settings.bars);
    let request = SyncRequest { manifest, wanted };
    let report = tokio::select! {
        report = cache.sync(&request, |artifact, progress| bars.add(artifact.key.file_name(), progress)) => report,
        () = signals.token.cancelled() => {
            bars.clear();
            return Ok(signals.status().unwrap_or(ExitStatus::Interrupted));
        }
    };
    bars.clear();
    let report = report.map_err(|err| CliError::from_store(&err))?;
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(
            settings.output,
            &Synced {
                downloaded: &report.downloaded,
                manifest_path: &report.manifest_path,
                skipped: report.skipped,
                parts: Some(report.in_all()).filter(|all| all.reused > 0).map(Parts::from),
                signed: report.signed.as_deref().map(SignedStatus::from),
            },
        )?,
        Format::Text | Format::Markdown => {
            let mut text = String::new();
            for key in &report.downloaded {
                let from = report.transferred.get(key).filter(|from| from.reused > 0);
                let parts = from.map(|Transferred { received, reused }| {
                    format!(" ({} received, {} reused)", units::bytes(*received), units::bytes(*reused))
                });
                let _ = writeln!(text, "fetched {key}{}", parts.unwrap_or_default());
            }
            if let Some(signed) = &report.signed {
                let _ = writeln!(text, "the manifest is signed with key {}, serial {}", signed.key.id(), signed.serial);
            }
            if report.skipped {
                text.push_str("nothing to fetch: everything wanted is in the cache\n");
            }
            render::print(&text)?;
        }
    }
    Ok(ExitStatus::Done)
}

fn manifest(settings: &Settings, args: &SyncArgs, desired: Option<&Desired>) -> Result<ManifestSource, CliError> {
    if let Some(manifest) = desired.and_then(|desired| desired.manifest.clone()) {
        return Ok(manifest);
    }
    let text = args
        .manifest_url
        .clone()
        .or_else(|| settings.vars.get("STEADFAST_MANIFEST_URL").filter(|url| !url.is_empty()).cloned())
        .ok_or_else(|| {
            CliError::new(ExitStatus::Usage, "no manifest is named")
                .hint("give --manifest-url URL, set $STEADFAST_MANIFEST_URL, or `manifest.url` in a state file")
        })?;
    // A relative path is relative to the working directory, as on any command line.
    let parsed = Location::parse(&text).or_else(|why| match std::path::absolute(&text) {
        Ok(path) if !text.contains("://") => Ok(Location::File(path)),
        _ => Err(why),
    });
    let parsed = parsed.map_err(|why| CliError::new(ExitStatus::Usage, format!("--manifest-url: {why}")));
    parsed.map(ManifestSource::from)
}

async fn list(settings: &Settings) -> Result<ExitStatus, CliError> {
    let cache = open(settings)?.1;
    let files = cache.list().await.map_err(|err| CliError::from_store(&err))?;
    if settings.output.is_data() {
        let files: Vec<_> = files
            .iter()
            .map(|(key, file)| {
                json!({
                    "key": key,
                    "bytes": file.size,
                    "sha256": file.digest,
                    "imageId": file.image,
                    "modified": crate::time::rfc3339(file.modified),
                })
            })
            .collect();
        render::print_data(settings.output, &json!({"manifestPath": cache.manifest_path(), "artifacts": files}))?;
        return Ok(ExitStatus::Done);
    }
    let mut text = String::new();
    for (key, file) in &files {
        let digest = file.digest.map_or_else(|| "not proved yet".to_owned(), |digest| format!("sha256 {digest}"));
        let _ = writeln!(text, "{:>10}  {key}  {digest}", units::bytes(file.size));
    }
    if files.is_empty() {
        text.push_str("the cache is empty\n");
    }
    render::print(&text)?;
    Ok(ExitStatus::Done)
}

async fn verify(settings: &Settings, deep: bool) -> Result<ExitStatus, CliError> {
    let (desired, cache) = open(settings)?;
    cache::sweep(&root(settings, desired.as_ref())?);
    let report = cache.verify(deep).await.map_err(|err| CliError::from_store(&err))?;
    let bad: Vec<_> = report.bad().collect();
    if settings.output.is_data() {
        let files: Vec<_> = report
            .files
            .iter()
            .map(|file| {
                let (verdict, expected) = match &file.verdict {
                    Verdict::Good => ("good", None),
                    Verdict::Bad { expected } => ("bad", Some(*expected)),
                    Verdict::Unlisted => ("unlisted", None),
                };
                json!({"key": file.key, "bytes": file.size, "sha256": file.digest, "verdict": verdict, "expected": expected})
            })
            .collect();
        render::print_data(
            settings.output,
            &json!({"ok": bad.is_empty(), "hasManifest": report.has_manifest, "artifacts": files}),
        )?;
    } else {
        let mut text = String::new();
        for file in &report.files {
            let verdict = match &file.verdict {
                Verdict::Good => "good".to_owned(),
                Verdict::Bad { expected } => format!("BAD: expected sha256 {expected}, got {}", file.digest),
                Verdict::Unlisted => "not in the manifest".to_owned(),
            };
            let _ = writeln!(text, "{}  {verdict}", file.key);
        }
        let _ = writeln!(text, "{} checked, {} bad", units::count(report.files.len(), "artifact"), bad.len());
        render::print(&text)?;
    }
    if let Some(file) = bad.first() {
        let more = if bad.len() > 1 { format!(" and {} more", bad.len() - 1) } else { String::new() };
        return Err(CliError::new(
            ExitStatus::Unverified,
            format!("`{}`{more} has other bytes than the manifest promises", file.key),
        )
        .hint("`steadfast cache sync` or `apply` moves it aside and fetches it again"));
    }
    Ok(ExitStatus::Done)
}

fn open(settings: &Settings) -> Result<(Option<Desired>, Cache), CliError> {
    let desired = desired(settings, None)?;
    let cache = settings.cache(&root(settings, desired.as_ref())?, CacheOptions::default())?;
    Ok((desired, cache))
}
