//! Why nothing was published.

use std::io;
use std::path::Path;

use crate::model::{ArtifactKey, Sha256Digest};
use crate::publish::dist::DistError;
use crate::publish::manifest::PublishError;
use crate::publish::store::{ObjectKey, StoreError};

/// Why it was not published, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The dist directory or the manifest cannot be used.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The store says no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No object may be called that.
    #[error("{0}")]
    Key(String),
    /// A tarball would take the place of another one that the published manifest names.
    #[error("`{key}` is published with sha256 {there}, and would become {new}")]
    Replaces {
        /// Its key.
        key: ArtifactKey,
        /// What is published.
        there: Sha256Digest,
        /// What would be.
        new: Sha256Digest,
    },
    /// The manifest that is there is signed, and the new one would not be.
    #[error("the published manifest is signed, and no key is named to sign the new one with")]
    Signed,
    /// It cannot be signed.
    #[error("cannot sign the manifest: {0}")]
    Signing(String),
    /// The store writes whatever the condition says.
    #[error("the store ignores `{0}`: two who publish at once would overwrite each other's work")]
    IgnoresConditions(&'static str),
    /// Others were faster each time.
    #[error("somebody else published in between, each of {0} times")]
    Contended(u32),
    /// What was written is gone.
    #[error(
        "the manifest was written, and then replaced by one that does not name what was published: somebody published the same \
         agents right after, or the store ignores `If-Match`"
    )]
    Lost,
    /// A tarball that was there is not any more, or has other bytes: somebody else publishes the same version.
    #[error("`{0}` was sent, and other bytes are there now: somebody else publishes the same version")]
    TarballLost(ObjectKey),
    /// The signature that was written is not the one that is there.
    #[error("the manifest was written, and its signature is another one: publish again")]
    SignatureLost,
    /// The number of the published signature is no time, and whose it is cannot be told.
    #[error("the published signature is of another key and has serial {0}, which is far in the future")]
    SerialAhead(u64),
    /// Somebody wants it to stop.
    #[error("interrupted")]
    Interrupted,
    /// The public does not read it.
    #[error("it is published, and {at} {why}")]
    NotPublic {
        /// Where.
        at: String,
        /// What is wrong there.
        why: String,
    },
}

impl PushError {
    pub(super) fn unreadable(path: &Path, err: &io::Error) -> Self {
        let err = io::Error::new(err.kind(), err.to_string());
        Self::Publish(PublishError::Dist(DistError::Unreadable { path: path.to_owned(), err }))
    }
}
