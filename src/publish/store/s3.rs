//! An S3-compatible store, through the `object_store` crate.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path as ObjectPath;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, Error, GetOptions, GetRange, GetResult, ObjectMeta,
    ObjectStore, PutMode, PutOptions, RetryConfig, UpdateVersion,
};
use tokio::sync::mpsc;

use super::credentials::Account;
use super::{About, Condition, Head, Object, ObjectKey, PART, PARTS, Put, StoreError, StoreErrorKind};
use crate::backend::Progress;
use crate::model::Sha256Digest;
use crate::model::hashing::Hashing;
use crate::publish::place;

/// The metadata that says what an object hashes to.
const SHA256: &str = "sha256";
/// A part of 8 MiB may take so long: 28 kB a second.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Whoever is asked for little answers soon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A machine that lends keys answers at once.
const ROLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A bucket.
#[derive(Debug)]
pub(super) struct S3 {
    pub(super) store: AmazonS3,
    bucket: String,
    prefix: String,
    /// Where the bucket is, to tell one from another.
    pub(super) at: String,
}

impl S3 {
    pub(super) async fn open(
        bucket: &str,
        prefix: &str,
        endpoint: Option<&str>,
        vars: &BTreeMap<String, String>,
    ) -> Result<Self, StoreError> {
        let account = Account::find(endpoint, vars)?;
        // An error only means that somebody was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let known = vars.iter().filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty());
        let known = known.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)));
        let mut builder = known
            .filter(|(key, _)| !is_ours(key))
            .fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value));
        let has_role_only = account.keys.is_none();
        if let Some(keys) = account.keys {
            builder = builder.with_access_key_id(keys.id).with_secret_access_key(keys.secret);
            builder = match keys.token {
                Some(token) => builder.with_token(token),
                None => builder,
            };
        }
        if let Some(region) = account.region {
            builder = builder.with_region(region);
        }
        let at = account.endpoint.clone().unwrap_or_else(|| "https://s3.amazonaws.com".to_owned());
        if let Some(endpoint) = account.endpoint {
            let is_url = url::Url::parse(&endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            if !is_url {
                let endpoint = crate::model::ids::clean(&endpoint, 200);
                let why = format!("the endpoint is `{endpoint}`: expected an URL that begins with https:// or http://");
                return Err(StoreError::new(StoreErrorKind::Other, "cannot use the store", why));
            }
            builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
        }
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(5), base: 2. };
        let store = builder
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(RetryConfig { backoff, max_retries: 5, retry_timeout: Duration::from_secs(60) })
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(at.starts_with("http://"))
                    .with_http1_only()
                    .with_connect_timeout(Duration::from_secs(10))
                    .with_timeout(TIMEOUT),
            )
            .build()
            .map_err(|err| StoreError::from_server("cannot use the store".to_owned(), &err, &at))?;
        if has_role_only {
            has_role(&store).await?;
        }
        Ok(Self { store, bucket: bucket.to_owned(), prefix: prefix.to_owned(), at: format!("{at}/{bucket}") })
    }

    pub(super) fn path(&self, key: &ObjectKey) -> Result<ObjectPath, StoreError> {
        let path = format!("{}{key}", self.prefix);
        ObjectPath::parse(&path)
            .map_err(|err| StoreError::new(StoreErrorKind::Other, format!("`{path}` cannot be a key"), err.to_string()))
    }

    /// What was to be done with an object, and with which.
    pub(super) fn cannot(&self, what: &str, path: &ObjectPath) -> String {
        format!("cannot {what} `s3://{}/{path}`", self.bucket)
    }

    pub(super) fn failed(&self, what: &str, path: &ObjectPath, err: &Error) -> StoreError {
        StoreError::from_server(self.cannot(what, path), err, &self.at)
    }

    async fn get_opts(&self, key: &ObjectKey, options: GetOptions) -> Result<Option<GetResult>, StoreError> {
        let path = self.path(key)?;
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.store.get_opts(&path, options)).await;
        let late = |_| {
            let why = format!("{} does not answer within {} s", self.at, ANSWER_TIMEOUT.as_secs());
            StoreError::new(StoreErrorKind::Unreachable, self.cannot("read", &path), why)
        };
        match asked.map_err(late)? {
            Ok(found) => Ok(Some(found)),
            Err(err) => match self.failed("read", &path, &err) {
                err if err.kind == StoreErrorKind::NotFound => Ok(None),
                err => Err(err),
            },
        }
    }

    /// As [`S3::get_opts`] without the bytes. What is refused is asked for once more with them: only then an answer says why.
    async fn look(&self, key: &ObjectKey) -> Result<Option<GetResult>, StoreError> {
        let head = GetOptions { head: true, ..GetOptions::default() };
        match self.get_opts(key, head).await {
            Err(err) if err.kind != StoreErrorKind::Unreachable => {
                let first = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
                self.get_opts(key, first).await?;
                Err(err)
            }
            found => found,
        }
    }

    pub(super) async fn head(&self, key: &ObjectKey) -> Result<Option<Head>, StoreError> {
        let found = self.look(key).await?;
        Ok(found.map(|found| {
            let sha256 = found.attributes.get(&Attribute::Metadata(SHA256.into()));
            let sha256 = sha256.and_then(|value| Sha256Digest::parse(value.as_ref()).ok());
            Head { size_bytes: found.meta.size, sha256 }
        }))
    }

    pub(super) async fn get(&self, key: &ObjectKey, limit: usize) -> Result<Option<Object>, StoreError> {
        let Some(found) = self.get_opts(key, GetOptions::default()).await? else { return Ok(None) };
        let (path, etag) = (self.path(key)?, etag(&found.meta, key)?);
        let mut bytes = Vec::new();
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|err| self.failed("read", &path, &err))?;
            if bytes.len() + piece.len() > limit {
                let what = self.cannot("read", &path);
                return Err(StoreError::new(StoreErrorKind::Other, what, format!("it is larger than {limit} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(Object { bytes, etag }))
    }

    pub(super) async fn put(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        about: About<'_>,
        when: Condition<'_>,
    ) -> Result<Put, StoreError> {
        let path = self.path(key)?;
        let mode = match when {
            Condition::Always => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(etag) => {
                PutMode::Update(UpdateVersion { e_tag: Some(etag.to_owned()), version: None })
            }
        };
        let sha256 = Sha256Digest::of(&bytes);
        let options = PutOptions { mode, attributes: attributes(about, &sha256), ..PutOptions::default() };
        match self.store.put_opts(&path, bytes.into(), options).await {
            Ok(put) => Ok(Put::Done(put.e_tag.unwrap_or_default())),
            Err(err) => match self.failed("write", &path, &err) {
                said if when != Condition::Always && said.is_refusal() => Ok(Put::Refused),
                said => Err(said),
            },
        }
    }

    pub(super) async fn fetch(
        &self,
        key: &ObjectKey,
        out: &Path,
        progress: &Progress,
    ) -> Result<(Sha256Digest, u64), StoreError> {
        let Some(found) = self.look(key).await? else {
            // Without its bytes, nobody says whether it is the object that is missing, or the bucket.
            self.get_opts(key, GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() }).await?;
            let what = self.cannot("read", &self.path(key)?);
            return Err(StoreError::new(StoreErrorKind::NotFound, what, "there is no such object"));
        };
        let (size, etag) = (found.meta.size, etag(&found.meta, key)?);
        progress.set_total(size);
        // Part by part, each of which may be asked for again.
        let parts = (0..size.div_ceil(PART)).map(|at| (at * PART)..((at + 1) * PART).min(size));
        let pieces = stream::iter(parts).map(|part| self.part(key, part, &etag)).buffered(PARTS);
        write_pieces(out, pieces, progress).await
    }

    async fn part(&self, key: &ObjectKey, part: Range<u64>, etag: &str) -> Result<Bytes, StoreError> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(part)),
            if_match: Some(etag.to_owned()),
            ..GetOptions::default()
        };
        let path = self.path(key)?;
        match self.store.get_opts(&path, options).await {
            Ok(found) => found.bytes().await.map_err(|err| self.failed("read", &path, &err)),
            Err(Error::Precondition { .. } | Error::NotFound { .. }) => {
                let why = "it was replaced meanwhile";
                Err(StoreError::new(StoreErrorKind::Changed, self.cannot("read", &path), why))
            }
            Err(err) => Err(self.failed("read", &path, &err)),
        }
    }

    /// Whether what is told of an object beside its bytes is this.
    pub(super) async fn is_told_as(&self, key: &ObjectKey, about: About<'_>) -> Result<bool, StoreError> {
        let Some(found) = self.look(key).await? else { return Ok(false) };
        let is =
            |name: &Attribute, wanted: &str| found.attributes.get(name).is_some_and(|value| value.as_ref() == wanted);
        Ok(is(&Attribute::ContentType, about.content_type) && is(&Attribute::CacheControl, about.cache_control))
    }
}

/// Writes what comes, in the place of what lies there.
pub(super) async fn write_pieces(
    out: &Path,
    pieces: impl stream::Stream<Item = Result<Bytes, StoreError>>,
    progress: &Progress,
) -> Result<(Sha256Digest, u64), StoreError> {
    let (to_disk, mut inbox) = mpsc::channel::<Bytes>(1);
    let path = out.to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut write = || {
            let replacement = place::begin(&path)?;
            let mut file = Hashing::new(replacement.file());
            let mut is_whole = false;
            while let Some(piece) = inbox.blocking_recv() {
                // The empty one says that all others came.
                is_whole = piece.is_empty();
                file.write_all(&piece)?;
            }
            let (_, sha256, length) = file.finish();
            if is_whole {
                replacement.place(true)?;
            }
            Ok((sha256, length))
        };
        write().map_err(|err: std::io::Error| StoreError::io("write", &path, &err))
    });
    let sent = async {
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.try_next().await? {
            progress.add(piece.len() as u64);
            if !piece.is_empty() && to_disk.send(piece).await.is_err() {
                // The writer says why.
                return Ok(());
            }
        }
        let _ = to_disk.send(Bytes::new()).await;
        Ok(())
    };
    let sent = sent.await;
    drop(to_disk);
    let written = writing.await.unwrap_or_else(|err| {
        Err(StoreError::new(StoreErrorKind::Io, format!("cannot write `{}`", out.display()), err.to_string()))
    });
    sent.and(written)
}

fn etag(meta: &ObjectMeta, key: &ObjectKey) -> Result<String, StoreError> {
    meta.e_tag.clone().ok_or_else(|| {
        StoreError::new(StoreErrorKind::NoConditions, format!("cannot read `{key}`"), "the store sends no ETag")
    })
}

pub(super) fn attributes(about: About<'_>, sha256: &Sha256Digest) -> Attributes {
    Attributes::from_iter([
        (Attribute::ContentType, about.content_type.to_owned()),
        (Attribute::CacheControl, about.cache_control.to_owned()),
        (Attribute::Metadata(SHA256.into()), sha256.to_string()),
    ])
}

/// Whether this is told apart from the rest of the environment: who asks, and where.
fn is_ours(key: &AmazonS3ConfigKey) -> bool {
    use AmazonS3ConfigKey as Key;
    matches!(
        key,
        Key::AccessKeyId
            | Key::SecretAccessKey
            | Key::Token
            | Key::Region
            | Key::DefaultRegion
            | Key::Bucket
            | Key::Endpoint
            | Key::S3Endpoint
            | Key::ConditionalPut
    )
}

/// Whether this machine has a role that lends keys.
async fn has_role(store: &AmazonS3) -> Result<(), StoreError> {
    let none = |why: String| StoreError::new(StoreErrorKind::NoCredentials, "no credentials for the store", why);
    let looked = "there are none in the environment, in a profile, or from a role of this machine";
    match tokio::time::timeout(ROLE_TIMEOUT, store.credentials().get_credential()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(err)) => {
            tracing::debug!(error = %crate::error::Chain(&err), "no keys from a role");
            Err(none(looked.to_owned()))
        }
        Err(_) => Err(none(looked.to_owned())),
    }
}
