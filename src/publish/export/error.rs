//! Why there is no archive for an air gap.

use std::io;
use std::path::PathBuf;

use crate::model::ids::clean;
use crate::model::{ManifestError, Sha256Digest};
use crate::publish::dist::DistError;
use crate::trust::TrustError;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// The manifest, or what lies beside it, cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It is no manifest, or names what cannot be fetched.
    #[error("`{}`: {err}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        err: ManifestError,
    },
    /// The signature is none.
    #[error("`{}` is larger than a signature is", path.display())]
    Signature {
        /// The file.
        path: PathBuf,
    },
    /// The signature says that it is not the manifest's, or over.
    #[error("`{}` does not go with `{}`: {err}", path.display(), manifest.display())]
    OtherSignature {
        /// The signature.
        path: PathBuf,
        /// The manifest.
        manifest: PathBuf,
        /// What it says.
        err: TrustError,
    },
    /// The manifest is not of this bundle.
    #[error("`{}` offers agent `{agent}` as `{}`, the bundle has `{wanted}`", path.display(), clean(found, 200))]
    OtherBundle {
        /// The manifest.
        path: PathBuf,
        /// The agent.
        agent: String,
        /// What the manifest offers.
        found: String,
        /// What the bundle has.
        wanted: String,
    },
    /// The manifest names what is not there.
    #[error("`{}` names `{}`, which is not there", manifest.display(), path.display())]
    Missing {
        /// The manifest.
        manifest: PathBuf,
        /// The file.
        path: PathBuf,
    },
    /// A tarball, or its sidecar.
    #[error(transparent)]
    Dist(#[from] DistError),
    /// What lies there is not what the manifest names.
    #[error("sha256 mismatch for `{}`: the manifest says {said}, its bytes hash to {found}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What the manifest says.
        said: Sha256Digest,
        /// What it hashes to.
        found: Sha256Digest,
    },
    /// A sidecar is of other bytes.
    #[error("`{}` says {said}, the manifest says {wanted}", path.display())]
    OtherSidecar {
        /// The sidecar.
        path: PathBuf,
        /// What the manifest says.
        wanted: Sha256Digest,
        /// What it says.
        said: Sha256Digest,
    },
    /// The archive cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// It was to stop.
    #[error("interrupted")]
    Interrupted,
}
