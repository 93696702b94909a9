//! Where a container's output is kept.

/// Where a container's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Logging {
    /// `None`: Podman's own choice.
    pub driver: Option<LogDriver>,
    /// The most bytes that are kept; `None`: [`Logging::MAX_SIZE`].
    pub max_size: Option<u64>,
}

impl Logging {
    /// How much is kept of a container's output where nobody says otherwise.
    pub const MAX_SIZE: u64 = 10 << 20;

    /// The most bytes that are kept; `None` where the driver keeps none, or does not count them.
    pub fn bound(&self) -> Option<u64> {
        match self.driver {
            None | Some(LogDriver::K8sFile) => Some(self.max_size.unwrap_or(Self::MAX_SIZE)),
            Some(LogDriver::Journald | LogDriver::None) => None,
        }
    }
}

/// What keeps a container's output, in Podman's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDriver {
    /// A file beside the container.
    K8sFile,
    /// The machine's journal.
    Journald,
    /// Nothing: `logs` has nothing to show.
    None,
}

impl LogDriver {
    /// The word of Podman and the state file.
    pub fn as_str(self) -> &'static str {
        match self {
            LogDriver::K8sFile => "k8s-file",
            LogDriver::Journald => "journald",
            LogDriver::None => "none",
        }
    }
}
