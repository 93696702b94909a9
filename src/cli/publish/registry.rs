//! `publish push --registry`: the tarballs of a dist directory as images in an OCI registry.

use std::path::Path;

use clap::Args;

use super::smoke::from_loaded;
use super::{BundleArg, agents, arches, from_publish, progress_printer};
use crate::backend::EngineErrorKind;
use crate::backend::podman::is_of_plain_http;
use crate::cli::render;
use crate::cli::signals::Signals;
use crate::cli::{CliError, ExitStatus, Format, Settings};
use crate::publish::bundle::Bundle;
use crate::publish::registry::{self, RegistryError, RegistryRequest};

#[derive(Debug, Args)]
pub(in crate::cli) struct RegistryArgs {
    /// Push the same images to an OCI registry instead: host, and path below it, like ghcr.io/openclaw. Agents are pushed as
    /// REGISTRY/<name>:<version>
    #[arg(long, value_name = "REGISTRY", conflicts_with_all = ["to", "endpoint", "slice", "key", "expires", "serial", "public_url", "replace"])]
    pub(super) registry: Option<String>,
    /// To a registry: only this agent; may be repeated
    #[arg(long, value_name = "NAME")]
    agent: Vec<String>,
    /// To a registry: for which architecture: arm64 (or aarch64), x64 (or amd64, x86_64), all
    #[arg(long, value_name = "ARCH", default_value = "all")]
    arch: String,
    /// Whether the registry must speak TLS, with a certificate that is trusted
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    tls_verify: bool,
}

impl RegistryArgs {
    /// Whether anything is said that is of a registry alone.
    pub(super) fn is_told(&self) -> bool {
        !self.agent.is_empty() || self.arch != "all" || !self.tls_verify
    }
}

/// Pushes what a bundle names of a dist directory.
pub(super) async fn push(
    settings: &Settings,
    args: &RegistryArgs,
    registry: &str,
    bundle: &BundleArg,
    dist_dir: &Path,
) -> Result<ExitStatus, CliError> {
    let arches = arches(&args.arch)?;
    let bundle = Bundle::read(&bundle.bundle).map_err(|err| from_publish(&err.into()))?;
    let agents = agents(&bundle, &args.agent)?;
    let request = RegistryRequest { registry, tls_verify: args.tls_verify, agents: &agents, arches: &arches, dist_dir };
    let signals = Signals::listen("stopping; what is pushed stays");
    let said = progress_printer(settings);
    let pushed = match registry::push(&request, &settings.vars, &signals.token, &said).await {
        Err(RegistryError::Interrupted) => return Ok(signals.status().unwrap_or(ExitStatus::Interrupted)),
        pushed => pushed.map_err(|err| from_registry(&err))?,
    };
    match settings.output {
        Format::Text | Format::Markdown => {
            let lines = pushed.iter().map(|pushed| format!("{}@{}\n", pushed.reference, pushed.digest));
            render::print(&lines.collect::<String>())?;
        }
        Format::Json | Format::Yaml => render::print_data(settings.output, &pushed)?,
    }
    Ok(ExitStatus::Done)
}

fn from_registry(err: &RegistryError) -> CliError {
    let said = |status| CliError::new(status, crate::error::Chain(err).to_string());
    match err {
        RegistryError::Registry { .. } => {
            said(ExitStatus::Usage).hint("--registry names a host and a path below it, like `ghcr.io/openclaw`")
        }
        RegistryError::Publish(err) => from_publish(err),
        RegistryError::Loaded(err) => from_loaded(err),
        RegistryError::Push(err) if err.kind == EngineErrorKind::PermissionDenied => said(ExitStatus::Error)
            .hint("`podman login` (or `docker login`) to that registry as a user who may push, then try again"),
        RegistryError::Push(err) if is_of_plain_http(err) => {
            said(ExitStatus::Error).hint("--tls-verify=false pushes to a registry that speaks plain HTTP")
        }
        RegistryError::Push(_) => {
            said(ExitStatus::Error).hint("what was pushed stays; pushing again begins where it is needed")
        }
        RegistryError::Interrupted => said(ExitStatus::Error),
    }
}
