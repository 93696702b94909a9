//! `publish smoke`: tries a tarball before anybody fetches it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{BundleArg, agents, arch, from_publish, layers_hint, progress_printer};
use crate::backend::podman::ThrowawayError;
use crate::cli::render;
use crate::cli::signals::Signals;
use crate::cli::{CliError, ExitStatus, Format, Settings};
use crate::error::Chain;
use crate::publish::bundle::Bundle;
use crate::publish::dist::DistError;
use crate::publish::loaded::LoadedError;
use crate::publish::smoke::{self, SmokeError, SmokeRequest};

#[derive(Debug, Args)]
pub(in crate::cli) struct SmokeArgs {
    #[command(flatten)]
    bundle: BundleArg,
    /// Whose tarball it is
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// For which architecture: arm64 (or aarch64), x64 (or amd64, x86_64)
    #[arg(long, value_name = "ARCH")]
    arch: String,
    /// The tarball, with its sidecar beside it
    #[arg(long, value_name = "FILE")]
    tarball: PathBuf,
    /// How long the bundle's smoke command may run
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::cli::duration)]
    timeout: Duration,
}

pub(super) async fn smoke(settings: &Settings, args: &SmokeArgs) -> Result<ExitStatus, CliError> {
    let arch = arch(&args.arch, "")?;
    let bundle = Bundle::read(&args.bundle.bundle).map_err(|err| from_publish(&err.into()))?;
    let agent = agents(&bundle, std::slice::from_ref(&args.agent))?[0];
    let signals = Signals::listen("stopping; the trial is taken away");
    let said = progress_printer(settings);
    let request = SmokeRequest { agent, arch, tarball: &args.tarball, timeout: args.timeout };
    let tried = match smoke::smoke(&request, &settings.vars, &signals.token, &said).await {
        Err(SmokeError::Interrupted) => return Ok(signals.status().unwrap_or(ExitStatus::Interrupted)),
        tried => tried.map_err(|err| from_smoke(&err))?,
    };
    match settings.output {
        Format::Text | Format::Markdown => {
            render::print(&format!("`{}` for {} is good: {}\n", tried.image, tried.arch, tried.smoke))?;
        }
        Format::Json | Format::Yaml => render::print_data(settings.output, &tried)?,
    }
    Ok(ExitStatus::Done)
}

fn from_smoke(err: &SmokeError) -> CliError {
    let said = CliError::new(ExitStatus::Error, Chain(err).to_string());
    match err {
        SmokeError::Loaded(err) => from_loaded(err),
        SmokeError::Foreign { .. } => said.hint(
            "try it on a machine of that architecture, or let this one emulate it (`qemu-user-static` and binfmt_misc)",
        ),
        SmokeError::Start { .. } => {
            said.hint("`smoke` in the bundle runs like `container.command`: after the image's entrypoint")
        }
        SmokeError::NeverEnded { .. } => said.hint("--timeout gives it longer"),
        SmokeError::NoCheck { .. } => {
            said.hint("give the image a HEALTHCHECK, or the bundle's `smoke` a `command` instead of `healthy`")
        }
        _ => said,
    }
}

/// What is wrong with a tarball, or with trying it.
pub(super) fn from_loaded(err: &LoadedError) -> CliError {
    let said = CliError::new(ExitStatus::Error, Chain(err).to_string());
    match err {
        LoadedError::Dist(DistError::Unreadable { path, err }) => CliError::new(
            ExitStatus::Error,
            format!("cannot read `{}`: {err}", path.display()),
        )
        .hint("a tarball needs its sidecar beside it: `steadfast publish tarball` makes both"),
        LoadedError::Dist(err @ DistError::Mismatch { .. }) => CliError::new(ExitStatus::Unverified, err.to_string())
            .hint("the tarball was changed after its sidecar was written: make both again, or copy both again"),
        LoadedError::Dist(DistError::Sidecar { .. }) => {
            said.hint("`sha256sum FILE >FILE.sha256`, in its directory, writes one")
        }
        LoadedError::Dist(DistError::Layers { path, .. }) => said.hint(layers_hint(path)),
        LoadedError::Dist(_) => said,
        LoadedError::Full { .. } => said.hint("$TMPDIR chooses another place for it, with more room"),
        LoadedError::Throwaway(ThrowawayError::NotLinux(_)) => {
            said.hint("run this on Linux, in CI or in a VM (`podman machine ssh`), where `podman` is installed")
        }
        LoadedError::Throwaway(ThrowawayError::NoPodman) => said.hint(
            "it needs Podman installed on this machine, since images are loaded into one of its own; a remote one does not do",
        ),
        LoadedError::Throwaway(_) => said.hint("$TMPDIR chooses another place for it"),
        LoadedError::Engine(err) => CliError::from_engine(err),
        LoadedError::Other { .. } | LoadedError::Architecture { .. } | LoadedError::NotAnImage { .. } => {
            said.hint("`steadfast publish tarball` makes tarballs that hold their image alone")
        }
    }
}
