//! `publish …`: the publisher's side. Needs no state file.

mod export;
mod keys;
mod registry;
mod smoke;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde_json::json;

use super::render::said::{self, Level};
use super::render::{self, units};
use super::signals::Signals;
use super::{CliError, ExitStatus, Format, Settings};
use crate::backend::http::{Ask, Client, Status};
use crate::model::ids::clean;
use crate::model::labels::{self, SIGNATURE};
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::model::{Arch, Location, Manifest, Sha256Digest};
use crate::publish::archive::ArchiveError;
use crate::publish::bundle::{Bundle, BundleAgent, BundleError};
use crate::publish::dist::{self, DistError};
use crate::publish::manifest::{self, PublishError, Slice};
use crate::publish::packing::Packing;
use crate::publish::place;
use crate::publish::tarball::{self, TarballError, To};

/// The template that machines are made from, as it lies in the repository.
const TEMPLATE: &str = include_str!("../../template/agents-vm.yaml");
/// Where it lies below the directory that it is published from.
const TEMPLATE_AT: &str = "resources/vm/agents-vm.yaml";

#[derive(Debug, Subcommand)]
pub(super) enum PublishVerb {
    /// Pull or build images, and write each as a reproducible tarball with its digest beside it
    Tarball(PublishTarballArgs),
    /// Try a tarball in a Podman of its own, which goes with the trial
    Smoke(smoke::SmokeArgs),
    /// Write the manifest of what lies in a dist directory, whole or by a slice that is merged into a published one
    Manifest(PublishManifestArgs),
    /// Upload tarballs and manifest in the safe order: the manifest last, and only while nobody else has published
    Push(store::PublishPushArgs),
    /// Upload one file
    Upload(store::PublishUploadArgs),
    /// Download one object
    Download(store::PublishDownloadArgs),
    /// Make a pair of minisign keys for signing manifests
    Keygen(PublishKeygenArgs),
    /// Sign a manifest: writes FILE.minisig
    Sign(PublishSignArgs),
    /// Write one archive for an air gap: a manifest and all that it names; `steadfast cache import` takes it in
    Export(export::ExportArgs),
    /// Write the Lima template, with its digest beside it
    Template(PublishTemplateArgs),
}

#[derive(Debug, Args)]
struct BundleArg {
    /// The bundle: which agents are published, and from what (JSON or YAML; `steadfast schema --bundle`)
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct PublishTarballArgs {
    #[command(flatten)]
    bundle: BundleArg,
    /// Only this agent; may be repeated
    #[arg(long, value_name = "NAME")]
    agent: Vec<String>,
    /// For which architecture: arm64 (or aarch64), x64 (or amd64, x86_64), all
    #[arg(long, value_name = "ARCH", default_value = "all")]
    arch: String,
    /// How it is packed: gzip, of which others fetch only what has changed, or zstd
    #[arg(long, value_name = "COMPRESSION", default_value = "gzip")]
    compression: Packing,
    /// The dist directory: tarballs lie below `images/` in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct PublishManifestArgs {
    #[command(flatten)]
    bundle: BundleArg,
    /// The directory with the tarballs and their sidecars, below `images/`
    #[arg(long, value_name = "DIR")]
    dist_dir: PathBuf,
    /// Which part is rebuilt: full, or agents:NAME
    #[arg(long, value_name = "SLICE", default_value = "full")]
    slice: String,
    /// The manifest that a slice is merged into
    #[arg(long, value_name = "FILE|URL")]
    merge_from: Option<String>,
    /// Where it is written
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct PublishKeygenArgs {
    /// Where the secret key is written; the public one lies beside it, as FILE.pub
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Do not encrypt the secret key. Otherwise its password is $STEADFAST_SIGNING_PASSWORD, or asked for
    #[arg(long)]
    no_password: bool,
}

#[derive(Debug, Args)]
pub(super) struct PublishSignArgs {
    /// The manifest
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// The secret key; `-` reads standard input [default: what $STEADFAST_SIGNING_KEY holds]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Its number: whoever trusts the key takes none with a lower one any more [default: its `updatedAt` in milliseconds since 1970]
    #[arg(long, value_name = "N")]
    serial: Option<u64>,
    /// How long it is good [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    expires: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct PublishTemplateArgs {
    /// The directory that `resources/vm/agents-vm.yaml` is written below
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) async fn publish(settings: &Settings, verb: PublishVerb) -> Result<ExitStatus, CliError> {
    match verb {
        PublishVerb::Tarball(args) => tarball(settings, args).await,
        PublishVerb::Smoke(args) => smoke::smoke(settings, &args).await,
        PublishVerb::Manifest(args) => manifest(settings, args).await,
        PublishVerb::Push(args) => store::push(settings, args).await,
        PublishVerb::Upload(args) => store::upload(settings, args).await,
        PublishVerb::Download(args) => store::download(settings, args).await,
        PublishVerb::Keygen(args) => keys::keygen(settings, &args),
        PublishVerb::Sign(args) => keys::sign(settings, &args),
        PublishVerb::Export(args) => export::export(settings, args).await,
        PublishVerb::Template(args) => template(settings, args),
    }
}

/// What `--arch` names.
fn arches(word: &str) -> Result<Vec<Arch>, CliError> {
    match word {
        "all" => Ok(Arch::ALL.to_vec()),
        word => arch(word, ", all").map(|arch| vec![arch]),
    }
}

/// The one architecture of this name. `more` is what else it could be.
fn arch(word: &str, more: &str) -> Result<Arch, CliError> {
    Arch::from_machine(word).map_err(|_| {
        CliError::new(ExitStatus::Usage, format!("unsupported architecture: {}", clean(word, 100)))
            .hint(format!("`--arch` takes arm64 (or aarch64), x64 (or amd64, x86_64){more}"))
    })
}

/// Says what goes on, unless nobody wants to hear it.
fn progress_printer(settings: &Settings) -> impl Fn(&str) + Send + Sync {
    let (quiet, color) = (settings.quiet, settings.color_stderr);
    move |text| {
        if !quiet {
            said::say(Level::Info, text, &[], color);
        }
    }
}

/// The agents of these names; all of them without any.
fn agents<'a>(bundle: &'a Bundle, names: &[String]) -> Result<Vec<&'a BundleAgent>, CliError> {
    let found = match names {
        [] => Ok(bundle.agents.iter().collect()),
        names => names.iter().map(|name| bundle.agent(name)).collect(),
    };
    found.map_err(|err: BundleError| CliError { status: ExitStatus::Usage, ..from_publish(&err.into()) })
}

async fn tarball(settings: &Settings, args: PublishTarballArgs) -> Result<ExitStatus, CliError> {
    let arches = arches(&args.arch)?;
    let bundle = Bundle::read(&args.bundle.bundle).map_err(|err| from_publish(&err.into()))?;
    let agents = agents(&bundle, &args.agent)?;
    let podman = settings.local_podman()?;
    let signals = Signals::listen("stopping; what is finished stays, and Podman is left as it was");
    let said = progress_printer(settings);
    let mut made = Vec::new();
    for agent in agents {
        for arch in &arches {
            let to = To { out: &args.out, packing: args.compression };
            let one = match tarball::tarball(&podman, agent, *arch, &to, &signals.token, &said).await {
                Err(TarballError::Interrupted) => return Ok(signals.status().unwrap_or(ExitStatus::Interrupted)),
                one => one.map_err(|err| from_tarball(&err))?,
            };
            if settings.output == Format::Text {
                let size = units::bytes(one.size_bytes);
                render::print(&format!("{}  {} ({size})\n", one.sha256, one.path.display()))?;
            }
            made.push(one);
        }
    }
    if settings.output.is_data() {
        render::print_data(settings.output, &made)?;
    }
    Ok(ExitStatus::Done)
}

fn from_tarball(err: &TarballError) -> CliError {
    let said = CliError::new(ExitStatus::Error, crate::error::Chain(err).to_string());
    match err {
        TarballError::Engine(err) => CliError::from_engine(err),
        TarballError::Archive(ArchiveError::Architecture { .. }) => said.hint(
            "its registry or its build has no such image: `--arch` chooses the ones there are, and `podman manifest inspect` lists them",
        ),
        TarballError::Write { .. } => said.hint("what was there is as it was; `--out` chooses another place"),
        TarballError::Archive(_) | TarballError::Context { .. } | TarballError::Interrupted => said,
    }
}

async fn manifest(settings: &Settings, args: PublishManifestArgs) -> Result<ExitStatus, CliError> {
    // Before anything is read.
    let slice: Slice = args.slice.parse().map_err(|err| from_publish(&err))?;
    if let (Slice::Agent(_), None) = (&slice, &args.merge_from) {
        return Err(from_publish(&PublishError::NoBaseline(slice)));
    }
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let written_at = manifest::written_at(epoch.as_deref(), SystemTime::now()).map_err(|err| from_publish(&err))?;
    let bundle = Bundle::read(&args.bundle.bundle).map_err(|err| from_publish(&err.into()))?;
    let baseline = match &args.merge_from {
        Some(from) => Some((format!("`{from}`"), read_baseline(from).await?)),
        None => None,
    };
    let (dist_dir, asked) = (args.dist_dir.clone(), slice.clone());
    let made = tokio::task::spawn_blocking(move || {
        let baseline = baseline.as_ref().map(|(at, bytes)| (at.as_str(), bytes.as_slice()));
        manifest::manifest(Arc::new(bundle), &dist_dir, &asked, baseline, written_at)
    });
    let bytes = made.await.map_err(|err| CliError::new(ExitStatus::Error, err.to_string()))?;
    let bytes = bytes.map_err(|err| from_publish(&err))?;
    let was_same = keys::read(&args.out, MAX_MANIFEST_BYTES as u64).is_ok_and(|before| before == bytes);
    place::write(&args.out, &bytes).map_err(|err| not_written(&args.out, &err))?;
    let signature = labels::beside(&args.out, SIGNATURE);
    if !was_same && signature.symlink_metadata().is_ok() {
        let stale =
            format!("`{}` is the signature of another manifest than the one that was written", signature.display());
        let hint =
            "`steadfast publish sign` signs it again; until then nobody who checks signatures takes the manifest"
                .to_owned();
        said::say(Level::Warn, &stale, &[hint], settings.color_stderr);
    }
    let read = Manifest::parse(&bytes).map_err(|err| from_publish(&err.into()))?;
    let sha256 = Sha256Digest::of(&bytes);
    match settings.output {
        Format::Text | Format::Markdown => render::print(&format!(
            "wrote `{}`: {}, slice {slice}, updated at {}\n",
            args.out.display(),
            units::count(read.agents.len(), "agent"),
            read.updated_at
        ))?,
        Format::Json | Format::Yaml => render::print_data(
            settings.output,
            &json!({
                "path": args.out, "slice": slice.to_string(), "sha256": sha256.to_string(), "sizeBytes": bytes.len(),
                "updatedAt": read.updated_at, "agents": read.agents.keys().collect::<Vec<_>>(),
            }),
        )?,
    }
    Ok(ExitStatus::Done)
}

/// The manifest that a slice is merged into: from a file, or from where it is published.
async fn read_baseline(from: &str) -> Result<Vec<u8>, CliError> {
    let at = Location::parse(from).or_else(|why| match from.contains("://") {
        true => Err(CliError::new(ExitStatus::Usage, format!("--merge-from `{from}`: {why}"))),
        false => Ok(Location::File(from.into())),
    })?;
    let failed = |cause: &str| {
        CliError::new(ExitStatus::Error, format!("cannot read the baseline {at}: {cause}"))
            .hint("--merge-from names a manifest.json, or the URL that it is published at; the first one is made with --slice full")
    };
    let client = Client::new(Duration::from_secs(10), Duration::from_secs(30));
    let answer = client.get(&at, &Ask::default()).await.map_err(|failure| failed(&failure.cause))?;
    if answer.status != Status::Whole {
        return Err(failed("the server did not send all of it"));
    }
    let bytes = answer.body.at_most(MAX_MANIFEST_BYTES).await.map_err(|failure| failed(&failure.cause))?;
    bytes.ok_or_else(|| failed("it is larger than 4 MiB"))
}

fn template(settings: &Settings, args: PublishTemplateArgs) -> Result<ExitStatus, CliError> {
    let path = args.out.join(TEMPLATE_AT);
    let sha256 = Sha256Digest::of(TEMPLATE);
    let sidecar = dist::sidecar_path(&path);
    place::write(&path, TEMPLATE.as_bytes()).map_err(|err| not_written(&path, &err))?;
    place::write(&sidecar, dist::sidecar(&sha256, &path).as_bytes()).map_err(|err| not_written(&sidecar, &err))?;
    match settings.output {
        Format::Text | Format::Markdown => render::print(&format!("wrote `{}` ({sha256})\n", path.display()))?,
        Format::Json | Format::Yaml => render::print_data(
            settings.output,
            &json!({"path": path, "sha256": sha256.to_string(), "sizeBytes": TEMPLATE.len()}),
        )?,
    }
    Ok(ExitStatus::Done)
}

/// What helps where the list of a tarball's members is of no use.
fn layers_hint(path: &Path) -> String {
    format!(
        "`steadfast publish tarball` makes tarball and list anew; without `{}` the tarball is fetched whole, and that is all",
        path.display()
    )
}

fn not_written(path: &Path, err: &std::io::Error) -> CliError {
    CliError::new(ExitStatus::Error, format!("cannot write `{}`: {err}", path.display()))
        .hint("what was there is as it was; `--out` chooses another place")
}

fn from_publish(err: &PublishError) -> CliError {
    let status = match err {
        PublishError::Dist(DistError::Mismatch { .. }) => ExitStatus::Unverified,
        PublishError::Unreadable(_) | PublishError::Baseline { .. } => ExitStatus::Invalid,
        _ => ExitStatus::Error,
    };
    let said = CliError::new(status, crate::error::Chain(err).to_string());
    match err {
        PublishError::MissingInputs { path, more, .. } => {
            let others = match more {
                0 => String::new(),
                more => format!(", and those of {}", units::count(*more, "more tarball")),
            };
            // The outermost that is not there: the dist directory, `images` in it, or the file itself.
            let outermost = path.ancestors().take(3).take_while(|path| !path.exists()).last().unwrap_or(path);
            said.hint(format!(
                "`{}` is not there{others}; `steadfast publish tarball` makes tarballs with their sidecars",
                outermost.display()
            ))
        }
        PublishError::NoBaseline(_) => {
            said.hint("name the published manifest with it: all agents but this one are taken from there")
        }
        PublishError::TwoTarballs { .. } => {
            said.hint("remove the one that is not meant, with what lies beside it under its name")
        }
        PublishError::Dist(DistError::Layers { path, .. }) => said.hint(layers_hint(path)),
        PublishError::UnknownSlice(_) => said.hint("slices are `full` and `agents:NAME`"),
        PublishError::Dist(DistError::Mismatch { .. }) => {
            said.hint("the tarball was changed after its sidecar was written: make both again, or copy both again")
        }
        PublishError::Dist(DistError::Sidecar { .. }) => {
            said.hint("`sha256sum FILE >FILE.sha256`, in its directory, writes one")
        }
        _ => said,
    }
}
