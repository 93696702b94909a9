//! A failure of the engine.

use serde::Serialize;

use super::EngineErrorKind;
use crate::model::{ContainerId, ContainerName, Secrets};

/// A failure of the engine.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// What kind.
    pub kind: EngineErrorKind,
    /// A sentence: what was tried, on what, and what came back. No cause is repeated elsewhere.
    pub message: String,
    /// The request (`POST /containers/create`) or command line.
    pub command: Option<String>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Exit code of a command.
    pub exit_code: Option<i32>,
    /// The answer's body, cut to 4 KiB.
    pub body: Option<String>,
    /// What the command printed on standard error, cut to 4 KiB.
    pub stderr: Option<String>,
    /// Where the way out stands.
    pub way_out: WayOut,
    /// What the registry is to blame for, where an image could not be pulled.
    pub pull: Option<Box<PullFault>>,
}

/// Where the way out of a failure stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WayOut {
    /// It follows from the kind.
    #[default]
    ByKind,
    /// In the sentence.
    InSentence,
    /// In what `doctor` finds: the way to an engine in a virtual machine has more layers than one.
    InLayers,
}

words! {
    /// Why a registry did not give an image.
    pub enum PullRefusal {
        /// It wants a login, or another one.
        LoginWanted = "loginWanted",
        /// It has no such image.
        NoSuchImage = "noSuchImage",
        /// It does not answer.
        Unreachable = "unreachable",
    }
}

/// What went wrong with a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PullFault {
    /// Which registry.
    pub registry: String,
    /// What.
    pub why: PullRefusal,
}

impl EngineError {
    /// The same error with a container called by its name: people do not know ids.
    #[must_use]
    pub fn naming(mut self, id: &ContainerId, name: &ContainerName) -> Self {
        self.message = self.message.replace(id.as_str(), name.as_str());
        self
    }

    /// The same error without the values that must not be shown. Podman repeats what it was given when it refuses it.
    #[must_use]
    pub fn hiding(mut self, secrets: &Secrets) -> Self {
        self.message = secrets.redact(&self.message);
        self.stderr = self.stderr.map(|text| secrets.redact(&text));
        self.body = self.body.map(|body| secrets.redact_body(&body));
        self
    }

    /// An error with no details beyond its sentence.
    pub fn new(kind: EngineErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            command: None,
            status: None,
            exit_code: None,
            body: None,
            stderr: None,
            way_out: WayOut::ByKind,
            pull: None,
        }
    }
}
