//! The bundle: which agents are published, and from what. `bundle.json` or `bundle.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::packing::Packing;
use crate::files::regular;
use crate::model::{AgentName, Arch, ArtifactKey, ImageRef, Version};
use crate::state::{check_repository, check_version, generate_schema};

/// The largest bundle that is read (1 MiB).
const MAX_BYTES: u64 = 1024 * 1024;

/// The agents of a publisher, each with what its tarballs are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// In the order they stand there, which is that of the manifest.
    pub agents: Vec<BundleAgent>,
}

/// One agent to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleAgent {
    /// Its name, by which state files ask for it.
    pub name: AgentName,
    /// Image repository without tag.
    pub image: String,
    /// The version; with `image` it makes the image reference.
    pub version: String,
    /// What the image is built from; `None` when it is pulled.
    pub build: Option<Build>,
    /// How `publish smoke` tries a tarball.
    pub smoke: Option<Smoke>,
}

/// How an image is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The directory that is sent to the builder. Absolute.
    pub context: PathBuf,
    /// The file with the instructions, below the context. `None`: `Containerfile`, else `Dockerfile`.
    pub containerfile: Option<PathBuf>,
    /// Values of `ARG` instructions.
    pub args: BTreeMap<String, String>,
}

/// What has to come of a container for its tarball to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Smoke {
    /// This command, in a container of its own, ends with this code.
    Command {
        /// The command and its arguments.
        command: Vec<String>,
        /// The code, 0 when not given.
        exit_code: i32,
    },
    /// The image's health check passes within this time.
    Healthy(Duration),
}

impl BundleAgent {
    /// The image, as the manifest's entry names it.
    pub fn reference(&self) -> ImageRef {
        ImageRef::join(&self.image, &self.version).expect("checked when the bundle was read")
    }

    /// The key of its tarball.
    pub fn key(&self, arch: Arch, packing: Packing) -> ArtifactKey {
        key(&self.name, &self.version, arch, packing).expect("checked when the bundle was read")
    }
}

fn key(name: &AgentName, version: &str, arch: Arch, packing: Packing) -> Result<ArtifactKey, String> {
    ArtifactKey::new(format!("vm/images/{name}-{version}-{arch}{}", packing.ending())).map_err(|err| err.to_string())
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("cannot read the bundle `{}`: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It is no bundle.
    #[error("the bundle `{}` is not valid: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        why: String,
    },
    /// It has no such agent.
    #[error("the bundle has no agent `{agent}`; it has {}", offered.join(", "))]
    NoAgent {
        /// The agent that was asked for.
        agent: String,
        /// Those it has.
        offered: Vec<String>,
    },
}

/// A bundle as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "steadfast bundle")]
pub(crate) struct BundleDoc {
    /// The agents, in the order of the manifest.
    agents: Vec<AgentDoc>,
}

/// One agent to be published.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AgentDoc {
    /// Its name, by which state files ask for it.
    #[schemars(example = &"openclaw")]
    name: String,
    /// The image's repository, without tag.
    #[schemars(example = &"ghcr.io/openclaw/openclaw")]
    image: String,
    /// The version; with `image` it makes the image reference.
    #[schemars(example = &"2026.4.12")]
    version: String,
    /// A directory with a Containerfile: the image is built for each architecture instead of pulled. Relative to the bundle.
    context: Option<PathBuf>,
    /// The Containerfile, relative to the context [default: Containerfile, else Dockerfile].
    containerfile: Option<PathBuf>,
    /// Values of the Containerfile's ARG instructions.
    build_args: Option<BTreeMap<String, String>>,
    /// How `publish smoke` tries a tarball: a command with its exit code, or the image's own health check.
    smoke: Option<SmokeDoc>,
}

/// How a tarball is tried.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SmokeDoc {
    /// A command that is run in the image.
    command: Option<Vec<String>>,
    /// What it has to end with [default: 0].
    exit_code: Option<i32>,
    /// How long the image's health check may take to pass.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(with = "Option<String>", example = &"60s")]
    healthy: Option<Duration>,
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map(Some).map_err(|err| serde::de::Error::custom(format!("`{text}`: {err}")))
}

/// The schema of a bundle.
pub fn schema() -> serde_json::Value {
    generate_schema::<BundleDoc>()
}

impl Bundle {
    /// Reads a bundle. Paths in it are relative to the directory it lies in.
    ///
    /// # Errors
    /// When there is none, or what stands there is none; with its place.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let unreadable = |why: String| BundleError::Unreadable { path: path.to_owned(), why };
        let read = regular::read(path, MAX_BYTES).map_err(|err| unreadable(std::io::Error::from(err).to_string()))?;
        let bytes = read.ok_or_else(|| unreadable(format!("it is larger than {}", crate::sizes::limit(MAX_BYTES))))?;
        let text = String::from_utf8(bytes).map_err(|err| unreadable(err.to_string()))?;
        let dir = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
        Self::parse(&text, &dir.unwrap_or_default()).map_err(|why| BundleError::Invalid { path: path.to_owned(), why })
    }

    /// Parses a bundle that lies in `dir`.
    ///
    /// # Errors
    /// What is wrong, with its place.
    pub fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        // JSON is YAML.
        let document: BundleDoc = serde_yaml::from_str(text).map_err(|err| err.to_string())?;
        if document.agents.is_empty() {
            return Err("`agents` is empty: there is nothing to publish".to_owned());
        }
        let mut names = BTreeSet::new();
        let mut agents = Vec::new();
        for (at, agent) in document.agents.into_iter().enumerate() {
            let place = format!("agents[{at}] (`{}`)", crate::model::ids::clean(&agent.name, 100));
            let agent = agent.checked(dir).map_err(|why| format!("{place}: {why}"))?;
            if !names.insert(agent.name.clone()) {
                return Err(format!("{place}: there is another agent of this name"));
            }
            agents.push(agent);
        }
        Ok(Self { agents })
    }

    /// The agent of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn agent(&self, name: &str) -> Result<&BundleAgent, BundleError> {
        self.agents.iter().find(|agent| agent.name.as_str() == name).ok_or_else(|| BundleError::NoAgent {
            agent: crate::model::ids::clean(name, 100),
            offered: self.agents.iter().map(|agent| format!("`{}`", agent.name)).collect(),
        })
    }
}

impl AgentDoc {
    fn checked(self, dir: &Path) -> Result<BundleAgent, String> {
        let name = AgentName::new(self.name).map_err(|err| format!("name: {err}"))?;
        let image = check_repository(&self.image).map_err(|why| format!("image: {why}"))?;
        if self.version.starts_with("sha256:") {
            return Err("version: a digest is no version of a tarball; write a tag".to_owned());
        }
        let version = match check_version(&self.version).map_err(|why| format!("version: {why}"))? {
            Version::Latest => return Err("version: `latest` says nothing of a tarball; write the version".to_owned()),
            Version::Exact(version) => version,
        };
        ImageRef::join(&image, &version).map_err(|err| err.to_string())?;
        for arch in Arch::ALL {
            key(&name, &version, arch, Packing::Zstd).map_err(|why| format!("version: {why}"))?;
        }
        let build = match (self.context, self.containerfile, self.build_args) {
            (Some(context), containerfile, args) => {
                Some(Build { context: dir.join(context), containerfile, args: args.unwrap_or_default() })
            }
            (None, None, None) => None,
            (None, Some(_), _) => return Err("containerfile: goes with `context`, the directory it lies in".to_owned()),
            (None, None, Some(_)) => return Err("buildArgs: goes with `context`".to_owned()),
        };
        let smoke = self.smoke.map(SmokeDoc::checked).transpose().map_err(|why| format!("smoke: {why}"))?;
        Ok(BundleAgent { name, image, version, build, smoke })
    }
}

impl SmokeDoc {
    fn checked(self) -> Result<Smoke, String> {
        match (self.command, self.exit_code, self.healthy) {
            (Some(command), exit_code, None) if !command.is_empty() => {
                Ok(Smoke::Command { command, exit_code: exit_code.unwrap_or(0) })
            }
            (Some(_), _, None) => Err("command: is empty".to_owned()),
            (None, None, Some(patience)) => Ok(Smoke::Healthy(patience)),
            (Some(_), _, Some(_)) => Err("it has `command` and `healthy`: one of them decides".to_owned()),
            (None, Some(_), _) => Err("exitCode: goes with `command`".to_owned()),
            (None, None, None) => Err("it needs `command` or `healthy`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
