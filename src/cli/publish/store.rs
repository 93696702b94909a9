//! `publish push|upload|download`: an object store, or a directory.

mod bars;

use bars::Bars;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;

use super::registry::{self, RegistryArgs};
use super::{BundleArg, from_publish, keys};
use crate::backend::Progress;
use crate::cli::render::{self, units};
use crate::cli::signals::Signals;
use crate::cli::{CliError, ExitStatus, Format, Settings};
use crate::model::Location;
use crate::publish::bundle::Bundle;
use crate::publish::dist;
use crate::publish::manifest::{self, Inputs, Slice};
use crate::publish::push::{Push, PushError, PushEvent, Pushed, Signing};
use crate::publish::store::{
    About, Condition, Destination, IMMUTABLE, Local, NO_CACHE, ObjectKey, Sent, Store, StoreError, StoreErrorKind,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct StoreArg {
    /// Where to: s3://BUCKET[/PREFIX], or file:///DIR [default: s3://$R2_BUCKET]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The store's own URL, where it is not Amazon's [default: R2's of $R2_ACCOUNT_ID, $AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PublishPushArgs {
    #[command(flatten)]
    bundle: BundleArg,
    /// The directory with the tarballs and their sidecars, below `images/`
    #[arg(long, value_name = "DIR")]
    dist_dir: PathBuf,
    #[command(flatten)]
    store: StoreArg,
    /// Which part of the manifest is rebuilt: full, or agents:NAME
    #[arg(long, value_name = "SLICE", default_value = "full")]
    slice: String,
    /// Sign the manifest with this secret key; `-` reads standard input [default: what $STEADFAST_SIGNING_KEY holds, if set]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How long the signature is good [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = crate::cli::duration)]
    expires: Option<Duration>,
    /// The signature's number: whoever trusts the key takes none with a lower one any more [default: above the last one]
    #[arg(long, value_name = "N")]
    serial: Option<u64>,
    /// Read the manifest back where the public reads it: its URL, or that which `vm/manifest.json` is added to
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// How long the public may read an older one, for caches on the way
    #[arg(long, value_name = "DURATION", value_parser = crate::cli::duration, default_value = "2m", requires = "public_url")]
    public_timeout: Duration,
    /// Replace tarballs that the published manifest names: until the new one is there, whoever fetches them fails
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PublishUploadArgs {
    /// The file
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// The object's name, below what the destination says
    #[arg(long, value_name = "KEY")]
    key: String,
    #[command(flatten)]
    store: StoreArg,
    /// Its media type
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream")]
    content_type: String,
    /// How long caches may keep it [default: for ever; the manifest and its signature not at all]
    #[arg(long, value_name = "DIRECTIVES")]
    cache_control: Option<String>,
    /// Put its sha256 beside it, as KEY.sha256
    #[arg(long)]
    sidecar_sha: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PublishDownloadArgs {
    /// The object's name, below what the destination says
    #[arg(long, value_name = "KEY")]
    key: String,
    /// Where it is written
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    store: StoreArg,
}

impl StoreArg {
    async fn open(&self, vars: &BTreeMap<String, String>) -> Result<Store, CliError> {
        let bucket = || {
            let name = vars.get("R2_BUCKET").filter(|name| !name.is_empty())?;
            Some(format!("s3://{}", name.strip_prefix("s3://").unwrap_or(name)))
        };
        let to = self.to.clone().or_else(bucket).ok_or_else(|| {
            CliError::new(ExitStatus::Usage, "no destination is named")
                .hint("--to takes s3://BUCKET, s3://BUCKET/PREFIX or file:///DIR")
        })?;
        let to: Destination = to.parse().map_err(|why| CliError::new(ExitStatus::Usage, format!("--to {why}")))?;
        Store::open(to, self.endpoint.as_deref(), vars).await.map_err(|err| from_store(&err))
    }
}

pub(super) async fn push(settings: &Settings, args: PublishPushArgs) -> Result<ExitStatus, CliError> {
    if args.expires.is_some_and(|expires| expires.is_zero()) {
        return Err(CliError::new(ExitStatus::Usage, "--expires 0s: the signature would be over at once"));
    }
    if args.registry.registry.is_none() && args.registry.is_told() {
        return Err(CliError::new(ExitStatus::Usage, "--agent, --arch and --tls-verify are of --registry")
            .hint("to a store, --slice agents:NAME publishes one agent, for all architectures"));
    }
    if let Some(to) = &args.registry.registry {
        return registry::push(settings, &args.registry, to, &args.bundle, &args.dist_dir).await;
    }
    let slice: Slice = args.slice.parse().map_err(|err| from_publish(&err))?;
    let public = args.public_url.as_deref().map(|url| public(url).map(|at| (at, args.public_timeout))).transpose()?;
    let epoch = settings.vars.get("SOURCE_DATE_EPOCH");
    let written_at = epoch.map(|epoch| manifest::written_at(Some(epoch), SystemTime::now()));
    let written_at = written_at.transpose().map_err(|err| from_publish(&err))?;
    let signing = match args.key.is_some() || settings.vars.contains_key(keys::KEY) {
        true => {
            let key = keys::secret(args.key.as_deref())?;
            Some(Signing::new(key, args.expires, args.serial).map_err(|why| CliError::new(ExitStatus::Error, why))?)
        }
        false if args.expires.is_some() || args.serial.is_some() => {
            return Err(CliError::new(
                ExitStatus::Usage,
                "--expires and --serial are of a signature, and no key is named",
            )
            .hint(format!("--key names the secret key's file, or ${} holds it", keys::KEY)));
        }
        false => None,
    };
    let bundle = Bundle::read(&args.bundle.bundle).map_err(|err| from_publish(&err.into()))?;
    let store = args.store.open(&settings.vars).await?;
    let signals = Signals::listen("stopping; a manifest that is being put in its place is put to the end");
    let bars = Bars::new(settings);
    let work = async {
        let dist_dir = args.dist_dir;
        let inputs = tokio::task::spawn_blocking(move || Inputs::read(Arc::new(bundle), &dist_dir, &slice)).await;
        let inputs = inputs.map_err(|err| CliError::new(ExitStatus::Error, err.to_string()))?;
        let inputs = inputs.map_err(|err| from_publish(&err))?;
        let cancel = signals.token.clone();
        let (store, signing, replace) = (&store, signing.as_ref(), args.replace);
        let push = Push { store, inputs: &inputs, signing, written_at, replace, public, cancel };
        match push.run(&|event| bars.tell(event)).await {
            Err(PushError::Interrupted) => Ok(None),
            pushed => pushed.map(Some).map_err(|err| from_push(&err)),
        }
    };
    let Some(pushed) = work.await? else { return Ok(signals.status().unwrap_or(ExitStatus::Interrupted)) };
    match settings.output {
        Format::Text | Format::Markdown => render::print(&told(&pushed, &store))?,
        Format::Json | Format::Yaml => render::print_data(settings.output, &pushed)?,
    }
    Ok(ExitStatus::Done)
}

fn told(Pushed { uploaded, skipped, manifest }: &Pushed, store: &Store) -> String {
    let at = format!("{}{}", store.to(), manifest.key);
    let signed = match (&manifest.signed_by, manifest.serial) {
        (Some(key), Some(serial)) => {
            let until = manifest.expires.as_ref().map(|at| format!(", good until {at}")).unwrap_or_default();
            format!(", signed with key {key}, serial {serial}{until}")
        }
        _ => String::new(),
    };
    let verb = match (manifest.changed, uploaded.is_empty()) {
        (true, _) => "published",
        (false, true) => "nothing to publish:",
        (false, false) => "the manifest is as it was:",
    };
    format!(
        "{verb} `{at}`, updated at {}{signed}; {} sent, {} there already\n",
        manifest.updated_at,
        units::count(uploaded.len(), "tarball"),
        skipped.len()
    )
}

/// The manifest's place, from its own URL or from what its key is added to.
fn public(url: &str) -> Result<Location, CliError> {
    let full = match url.ends_with(".json") {
        true => url.to_owned(),
        false => format!("{}/{}", url.trim_end_matches('/'), ObjectKey::manifest()),
    };
    Location::parse(&full).map_err(|why| CliError::new(ExitStatus::Usage, format!("--public-url `{url}`: {why}")))
}

pub(super) async fn upload(settings: &Settings, args: PublishUploadArgs) -> Result<ExitStatus, CliError> {
    let key = key(&args.key)?;
    let kept = if [ObjectKey::manifest(), ObjectKey::signature()].contains(&key) { NO_CACHE } else { IMMUTABLE };
    let cache_control = args.cache_control.as_deref().unwrap_or(kept);
    for (flag, value) in [("--content-type", &*args.content_type), ("--cache-control", cache_control)] {
        if value.is_empty() || !value.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            let why = format!("{flag} is sent as a header: expected ASCII on one line");
            return Err(CliError::new(ExitStatus::Usage, why));
        }
    }
    let file = args.file.clone();
    let local = tokio::task::spawn_blocking(move || Local::hash(file)).await;
    let local = local
        .map_err(io::Error::other)
        .flatten()
        .map_err(|err| CliError::new(ExitStatus::Error, format!("cannot read `{}`: {err}", args.file.display())))?;
    let store = args.store.open(&settings.vars).await?;
    let signals = Signals::listen("stopping; parts that were noted as arrived are not sent again");
    let bars = Bars::new(settings);
    let about = About { content_type: &args.content_type, cache_control };
    let work = async {
        let sent = if store.has(&key, &local).await? && store.is_told_as(&key, about).await? {
            Sent::AlreadyThere
        } else {
            let progress = Progress::new(local.size_bytes);
            bars.tell(PushEvent::Sending(key.clone(), Arc::clone(&progress)));
            store.send(&key, &local, about, &progress).await?
        };
        bars.tell(PushEvent::Sent(key.clone(), sent));
        if args.sidecar_sha {
            let text = dist::sidecar(&local.sha256, &local.path);
            let about = About { content_type: "text/plain; charset=utf-8", ..about };
            store
                .put(&key.with(crate::model::labels::DIGEST_SIDECAR), text.as_bytes(), about, Condition::Always)
                .await?;
        }
        Ok::<_, StoreError>(sent)
    };
    let sent = tokio::select! {
        sent = work => sent.map_err(|err| from_store(&err))?,
        () = signals.token.cancelled() => return Ok(signals.status().unwrap_or(ExitStatus::Interrupted)),
    };
    match settings.output {
        Format::Text | Format::Markdown => {
            let verb = if sent == Sent::AlreadyThere { "there already:" } else { "uploaded" };
            let size = units::bytes(local.size_bytes);
            render::print(&format!("{verb} `{}{key}` ({size}, sha256 {})\n", store.to(), local.sha256))?;
        }
        Format::Json | Format::Yaml => render::print_data(
            settings.output,
            &json!({"key": key, "sha256": local.sha256.to_string(), "sizeBytes": local.size_bytes, "sent": sent}),
        )?,
    }
    Ok(ExitStatus::Done)
}

pub(super) async fn download(settings: &Settings, args: PublishDownloadArgs) -> Result<ExitStatus, CliError> {
    let key = key(&args.key)?;
    let store = args.store.open(&settings.vars).await?;
    let signals = Signals::listen("stopping; what was there is as it was");
    let progress = Progress::new(0);
    let (sha256, size_bytes) = tokio::select! {
        fetched = store.fetch(&key, &args.out, &progress) => fetched.map_err(|err| from_store(&err))?,
        () = signals.token.cancelled() => return Ok(signals.status().unwrap_or(ExitStatus::Interrupted)),
    };
    match settings.output {
        Format::Text | Format::Markdown => {
            let size = units::bytes(size_bytes);
            render::print(&format!("wrote `{}` ({size}, sha256 {sha256})\n", args.out.display()))?;
        }
        Format::Json | Format::Yaml => render::print_data(
            settings.output,
            &json!({"key": key, "path": args.out, "sha256": sha256.to_string(), "sizeBytes": size_bytes}),
        )?,
    }
    Ok(ExitStatus::Done)
}

fn key(text: &str) -> Result<ObjectKey, CliError> {
    ObjectKey::new(text).map_err(|why| CliError::new(ExitStatus::Usage, format!("--key: {why}")))
}

fn from_push(err: &PushError) -> CliError {
    let said = |status| CliError::new(status, crate::error::Chain(err).to_string());
    match err {
        PushError::Publish(err) => from_publish(err),
        PushError::Store(err) => from_store(err),
        PushError::Replaces { .. } => said(ExitStatus::Error).hint(
            "what is published under a version stays: give the image a new version; or --replace, and whoever fetches the old \
             one meanwhile fails",
        ),
        PushError::Signed => said(ExitStatus::Error).hint(format!(
            "whoever trusts its key would refuse the new one: --key names the secret key's file, or ${} holds it",
            keys::KEY
        )),
        PushError::IgnoresConditions(_) => {
            said(ExitStatus::Error).hint("nothing was changed; publish to a store that knows conditional writes")
        }
        PushError::Contended(_) => said(ExitStatus::Error).hint("the tarballs are there; publish again"),
        PushError::TarballLost(_) => said(ExitStatus::Error).hint(
            "whoever publishes last wins the tarball, and the manifest may name the other: give one of them a new version",
        ),
        PushError::SerialAhead(_) => said(ExitStatus::Error)
            .hint("--serial names a higher one; whoever has accepted it takes no lower one any more"),
        PushError::Lost => said(ExitStatus::Error).hint("look at what is published; if yours is the newer one, publish again"),
        PushError::SignatureLost | PushError::Interrupted => said(ExitStatus::Error),
        PushError::NotPublic { .. } => said(ExitStatus::Error)
            .hint("a cache on the way may hold it: --public-timeout waits longer; or --public-url is not where it is read"),
        PushError::Key(_) | PushError::Signing(_) => said(ExitStatus::Error),
    }
}

fn from_store(err: &StoreError) -> CliError {
    let status = match err.kind {
        StoreErrorKind::Changed => ExitStatus::Unverified,
        _ => ExitStatus::Error,
    };
    let said = CliError::new(status, err.to_string());
    match err.kind {
        StoreErrorKind::NoCredentials => said.hint(
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY with R2_ACCOUNT_ID, or \
             AWS_PROFILE name them",
        ),
        StoreErrorKind::Denied => said.hint("the keys are wrong, or may not read and write objects of this bucket"),
        StoreErrorKind::NoBucket => said.hint("a bucket is made beforehand, in the store's own console; --to names it"),
        StoreErrorKind::Clock => said.hint("set this machine's clock: `timedatectl set-ntp true`, where systemd does it"),
        StoreErrorKind::NoConditions => said.hint(
            "without them, two who publish at once overwrite each other's work; Amazon S3, R2, MinIO and others know them",
        ),
        StoreErrorKind::Region => said.hint("AWS_REGION names the region of the bucket"),
        StoreErrorKind::Unreachable => said.hint(
            "run it again: parts that arrived are not sent again; --endpoint names the store's own URL, where it is not Amazon's",
        ),
        StoreErrorKind::Changed => said.hint("nothing was published of it; make it again, or copy it again"),
        StoreErrorKind::NotFound
        | StoreErrorKind::Conflict
        | StoreErrorKind::Io
        | StoreErrorKind::NoUpload
        | StoreErrorKind::Other => said,
    }
}
