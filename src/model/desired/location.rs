//! Where the manifest and what it names lie.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::model::ids::ArtifactKey;
use crate::model::labels::{SIGNATURE, beside};
use crate::trust::Trust;

/// Where a manifest is published, and who must have signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestSource {
    /// Where.
    pub at: Location,
    /// Who must have signed it. `None`: nobody is asked.
    pub trust: Option<Trust>,
}

impl ManifestSource {
    /// Where an artifact of it lies.
    pub fn artifact(&self, key: &ArtifactKey) -> Location {
        self.at.artifact(key)
    }
}

impl From<Location> for ManifestSource {
    fn from(at: Location) -> Self {
        Self { at, trust: None }
    }
}

impl fmt::Display for ManifestSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)
    }
}

/// Where a manifest or an artifact is published.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// `http` or `https`.
    Http(Url),
    /// A file on this machine.
    File(PathBuf),
}

impl Location {
    /// Reads `https://…`, `http://…`, `file:///…` or an absolute path.
    ///
    /// # Errors
    /// A sentence for anything else.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(url) = Url::parse(text) {
            return match url.scheme() {
                "http" | "https" => Ok(Self::Http(url)),
                "file" => url.to_file_path().map(Self::File).map_err(|()| {
                    "a file URL needs an absolute path and no host, like `file:///srv/vm/manifest.json`".to_owned()
                }),
                other => Err(format!("`{other}:` is not supported: use https, http, file or a path")),
            };
        }
        if text.starts_with('/') {
            return Ok(Self::File(PathBuf::from(text)));
        }
        Err("expected an https, http or file URL, or a path".to_owned())
    }

    /// Where an artifact lies when the manifest is here: this location less `/vm/manifest.json` (or less its last path
    /// segment), plus the key. Query and fragment are dropped.
    pub fn artifact(&self, key: &ArtifactKey) -> Location {
        match self {
            Location::Http(url) => {
                let mut url = url.clone();
                let path = format!("{}/{key}", base(url.path().trim_end_matches('/')));
                url.set_path(&path);
                url.set_query(None);
                url.set_fragment(None);
                Location::Http(url)
            }
            Location::File(path) => {
                let base = base(path.to_str().unwrap_or_default());
                Location::File(PathBuf::from(format!("{base}/{key}")))
            }
        }
    }

    /// Where the signature of what lies here is: beside it. A query stays, for it may be what lets one in.
    pub fn signature(&self) -> Location {
        match self {
            Location::Http(url) => {
                let mut url = url.clone();
                let path = format!("{}{SIGNATURE}", url.path());
                url.set_path(&path);
                url.set_fragment(None);
                Location::Http(url)
            }
            Location::File(path) => Location::File(beside(path, SIGNATURE)),
        }
    }

    /// Where something else of the same publisher lies, when its artifact `own` is here. `None` where that is not so.
    pub fn beside(&self, own: &ArtifactKey, other: &ArtifactKey) -> Option<Location> {
        match self {
            Location::Http(url) => {
                let mut url = url.clone();
                let path = url.path().to_owned();
                // As a URL spells it.
                url.set_path(&format!("/{own}"));
                let base = path.strip_suffix(url.path())?;
                url.set_path(&format!("{base}/{other}"));
                Some(Location::Http(url))
            }
            Location::File(path) => {
                let base = path.to_str()?.strip_suffix(own.as_str())?.strip_suffix('/')?;
                Some(Location::File(PathBuf::from(format!("{base}/{other}"))))
            }
        }
    }
}

pub(super) fn base(path: &str) -> &str {
    let base =
        path.strip_suffix("/vm/manifest.json").unwrap_or_else(|| path.rfind('/').map_or("", |slash| &path[..slash]));
    base.trim_end_matches('/')
}

impl fmt::Display for Location {
    /// The URL without the password, or a user name that stands alone, or the query: each may be a token. A path as it
    /// is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Http(url) => {
                let mut url = url.clone();
                if url.password().is_some() {
                    let _ = url.set_password(Some("***"));
                } else if !url.username().is_empty() {
                    let _ = url.set_username("***");
                }
                if url.query().is_some() {
                    url.set_query(Some("***"));
                }
                write!(f, "{url}")
            }
            Location::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
