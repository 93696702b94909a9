//! `cache import`: takes in an archive that `publish export` wrote.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::bars::Bars;
use super::{asked_arches, desired, root, wanted};
use crate::backend::StoreError;
use crate::backend::cache::import::{ArchiveFault, ImportError, ImportRequest};
use crate::backend::cache::{self, CacheOptions, SyncWanted};
use crate::cli::render::{self, units};
use crate::cli::signals::Signals;
use crate::cli::{CliError, ExitStatus, FileArg, Format, Settings};
use crate::error::Chain;
use crate::model::Arch;

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportArgs {
    #[command(flatten)]
    pub(in crate::cli) file: FileArg,
    /// The archive
    #[arg(value_name = "FILE.tar")]
    archive: PathBuf,
    /// For which architecture: host, arm64 (or aarch64), x64 (or amd64, x86_64), all [default: the state file's, else host]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
}

pub(super) async fn import(settings: &Settings, args: ImportArgs) -> Result<ExitStatus, CliError> {
    let arches = asked_arches(settings, args.arch.as_deref())?;
    let desired = desired(settings, None)?;
    let wanted = wanted(settings, arches, desired.as_ref())?;
    let arches = of_arches(&wanted);
    let root = root(settings, desired.as_ref())?;
    cache::sweep(&root);
    let cache = settings.cache(&root, CacheOptions::default())?;
    let signals = Signals::listen("stopping; what has arrived is kept, and resumed next time");
    let bars = Bars::new(settings.bars);
    let manifest = desired.and_then(|desired| desired.manifest);
    // As it is told, whatever the directory is.
    let archive = std::path::absolute(&args.archive).unwrap_or(args.archive);
    let request = ImportRequest { archive, wanted, manifest };
    let report = tokio::select! {
        report = cache.import(&request, |artifact, progress| bars.add(artifact.key.file_name(), progress)) => report,
        () = signals.token.cancelled() => {
            bars.clear();
            return Ok(signals.status().unwrap_or(ExitStatus::Interrupted));
        }
    };
    bars.clear();
    let report = report.map_err(|err| from_import(&err))?;
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(
            settings.output,
            &json!({
                "imported": report.imported,
                "present": report.present,
                "arches": arches,
                "updatedAt": report.updated_at,
                "manifestPath": report.manifest_path,
                "skipped": report.imported.is_empty(),
            }),
        )?,
        Format::Text | Format::Markdown => {
            let mut text = String::new();
            for key in &report.imported {
                let _ = writeln!(text, "imported {key}");
            }
            let arches = arches.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            let _ = write!(
                text,
                "the manifest of {} is in force, with {} for {arches}",
                crate::model::ids::clean(&report.updated_at, 100),
                units::count(report.imported.len() + report.present.len(), "artifact"),
            );
            if !report.present.is_empty() {
                let _ = write!(text, ", {} of which the cache had already", report.present.len());
            }
            if report.others > 0 {
                let _ = write!(text, "; {} more in the archive that nothing here wants", report.others);
            }
            text.push('\n');
            render::print(&text)?;
        }
    }
    Ok(ExitStatus::Done)
}

/// For which architectures anything is wanted.
fn of_arches(wanted: &SyncWanted) -> Vec<Arch> {
    let arches: BTreeSet<_> = match wanted {
        SyncWanted::All(arches) => arches.iter().copied().collect(),
        SyncWanted::Agents(agents) => agents.iter().flat_map(|agent| agent.arches.iter().copied()).collect(),
    };
    arches.into_iter().collect()
}

fn from_import(err: &ImportError) -> CliError {
    let said = CliError::new(ExitStatus::Error, Chain(err).to_string());
    match err {
        ImportError::Store(err @ (StoreError::DigestMismatch { .. } | StoreError::SizeMismatch { .. })) => CliError {
            hints: vec![
                "it was damaged or changed on its way: copy the archive again; nothing of it is used".to_owned(),
            ],
            ..CliError::from_store(err)
        },
        ImportError::Store(err) => CliError::from_store(err),
        ImportError::Archive { fault: ArchiveFault::Compressed(_), .. } => said.hint(
            "unpack it first: `steadfast publish export` writes plain tar, of tarballs that are compressed already",
        ),
        ImportError::Archive { fault: ArchiveFault::Lacks(_), .. } => said.hint(
            "`steadfast publish export` writes archives with all that their manifest names; the cache is as it was",
        ),
        ImportError::Archive { .. } => said.hint("`steadfast publish export` writes archives; the cache is as it was"),
        ImportError::Unreadable { .. } => said,
    }
}
