//! `publish export`: one archive for an air gap.

use std::path::PathBuf;

use clap::Args;

use super::{BundleArg, from_publish, not_written};
use crate::cli::render::{self, units};
use crate::cli::signals::Signals;
use crate::cli::{CliError, ExitStatus, Format, Settings};
use crate::error::Chain;
use crate::publish::bundle::Bundle;
use crate::publish::dist::DistError;
use crate::publish::export::{self, ExportError, ExportRequest};

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    #[command(flatten)]
    bundle: BundleArg,
    /// The directory with the tarballs and their sidecars, below `images/`
    #[arg(long, value_name = "DIR")]
    dist_dir: PathBuf,
    /// The manifest; its signature is taken along where FILE.minisig lies beside it [default: DIR/manifest.json]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Where the archive is written
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) async fn export(settings: &Settings, args: ExportArgs) -> Result<ExitStatus, CliError> {
    let bundle = Bundle::read(&args.bundle.bundle).map_err(|err| from_publish(&err.into()))?;
    let signals = Signals::listen("stopping; what was there is as it was");
    let cancel = signals.token.clone();
    let exported = tokio::task::spawn_blocking(move || {
        let manifest = args.manifest.unwrap_or_else(|| args.dist_dir.join("manifest.json"));
        let request = ExportRequest { bundle: &bundle, dist_dir: &args.dist_dir, manifest: &manifest };
        export::export(&request, &args.out, &cancel)
    });
    let exported = match exported.await.map_err(|err| CliError::new(ExitStatus::Error, err.to_string()))? {
        Err(ExportError::Interrupted) => return Ok(signals.status().unwrap_or(ExitStatus::Interrupted)),
        exported => exported.map_err(|err| from_export(&err))?,
    };
    match settings.output {
        Format::Text | Format::Markdown => render::print(&format!(
            "wrote `{}`: {}, {}, updated at {}{}\n{}\n",
            exported.path.display(),
            units::count(exported.artifacts, "tarball"),
            units::bytes(exported.size_bytes),
            exported.updated_at,
            if exported.has_signature { ", with a signature" } else { ", without a signature" },
            exported.sha256,
        ))?,
        Format::Json | Format::Yaml => render::print_data(settings.output, &exported)?,
    }
    Ok(ExitStatus::Done)
}

fn from_export(err: &ExportError) -> CliError {
    let status = match err {
        ExportError::Mismatch { .. }
        | ExportError::OtherSidecar { .. }
        | ExportError::OtherSignature { .. }
        | ExportError::Dist(DistError::Mismatch { .. }) => ExitStatus::Unverified,
        ExportError::Manifest { .. } => ExitStatus::Invalid,
        _ => ExitStatus::Error,
    };
    let said = CliError::new(status, Chain(err).to_string());
    match err {
        ExportError::Write { path, err } => not_written(path, err),
        ExportError::Missing { .. } => said.hint(
            "an archive holds all that its manifest names: `steadfast publish tarball` makes tarballs, `publish manifest` a manifest of what is there",
        ),
        ExportError::Mismatch { .. } | ExportError::OtherSidecar { .. } => {
            said.hint("the tarball was made anew after the manifest: `steadfast publish manifest` writes it again")
        }
        ExportError::OtherSignature { .. } => said.hint(
            "sign the manifest again: `steadfast publish sign`; or remove the signature, to export the manifest without one",
        ),
        ExportError::OtherBundle { .. } => said.hint("`steadfast publish manifest` makes the manifest of this bundle"),
        _ => said,
    }
}
