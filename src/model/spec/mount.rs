//! What is mounted into a container.

use std::fmt::Write;

use crate::model::text::Text;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: Text,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// The SELinux label it gets; Podman leaves it out where SELinux is off.
    pub selinux: Option<Relabel>,
    /// How mounts below it travel between host and container; of a bind mount alone. Podman's own choice is `rprivate`.
    pub propagation: Option<Propagation>,
    /// Whether its owners are mapped as the container's user namespace maps them (Linux 5.12 and `crun`).
    pub idmap: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// Absolute path on the machine Podman runs on. It must exist: Podman would silently create it, owned by root.
    Bind(Text),
    /// A volume of the engine, by its name there.
    Volume(String),
    /// Memory, gone with the container's process.
    Tmpfs {
        /// The most bytes it takes; half of the machine's memory without it (Linux).
        size: Option<u64>,
        /// Its permissions; Podman's own choice is 1777.
        mode: Option<u32>,
    },
}

/// Which SELinux label a mount gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relabel {
    /// `z`: one that all containers may share.
    Shared,
    /// `Z`: the container's own.
    Private,
}

/// How mounts below a bind mount travel, in the kernel's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Not at all, nor those below it.
    Rprivate,
    /// Both ways.
    Shared,
    /// Both ways, and those below it.
    Rshared,
    /// From the host into the container.
    Slave,
    /// From the host into the container, and those below it.
    Rslave,
}

impl Propagation {
    /// The word of the kernel, Podman and the state file.
    pub fn as_str(self) -> &'static str {
        match self {
            Propagation::Private => "private",
            Propagation::Rprivate => "rprivate",
            Propagation::Shared => "shared",
            Propagation::Rshared => "rshared",
            Propagation::Slave => "slave",
            Propagation::Rslave => "rslave",
        }
    }
}

impl Mount {
    /// A mount of this source without any option.
    pub fn new(source: MountSource, target: impl Into<Text>, read_only: bool) -> Self {
        Self { source, target: target.into(), read_only, selinux: None, propagation: None, idmap: false }
    }

    /// A bind mount.
    pub fn bind(source: impl Into<Text>, target: impl Into<Text>, read_only: bool) -> Self {
        Self::new(MountSource::Bind(source.into()), target, read_only)
    }

    /// The path on Podman's machine that it mounts, if it does.
    pub fn bind_source(&self) -> Option<&Text> {
        match &self.source {
            MountSource::Bind(source) => Some(source),
            MountSource::Volume(_) | MountSource::Tmpfs { .. } => None,
        }
    }

    /// What it mounts, as it may be shown.
    pub fn shown_source(&self) -> String {
        match &self.source {
            MountSource::Bind(source) => source.shown().to_owned(),
            MountSource::Volume(name) => format!("volume {name}"),
            MountSource::Tmpfs { size: Some(size), .. } => format!("tmpfs of {}", crate::sizes::exact(*size)),
            MountSource::Tmpfs { size: None, .. } => "tmpfs".to_owned(),
        }
    }

    /// Source and options as the record of a container keeps them: `/srv/data:ro`, `demo-data:Z`, `tmpfs(size=64MiB)`. A path
    /// begins with `/`, and no volume's name has a bracket.
    pub(crate) fn kept(&self) -> Text {
        let Self { source, target: _, read_only, selinux, propagation, idmap } = self;
        let mut kept = match source {
            MountSource::Bind(source) => source.expose().to_owned(),
            MountSource::Volume(name) => name.clone(),
            MountSource::Tmpfs { size, mode } => {
                let mut options: Vec<_> = size.iter().map(|size| format!("size={size}")).collect();
                options.extend(mode.iter().map(|mode| format!("mode={mode:o}")));
                format!("tmpfs({})", options.join(","))
            }
        };
        for option in [
            read_only.then_some("ro"),
            selinux.map(|relabel| relabel.as_str()),
            propagation.map(Propagation::as_str),
            idmap.then_some("idmap"),
        ]
        .into_iter()
        .flatten()
        {
            let _ = write!(kept, ":{option}");
        }
        match self.bind_source().is_some_and(Text::is_sensitive) {
            true => Text::sensitive(kept),
            false => Text::plain(kept),
        }
    }
}

impl Relabel {
    /// Podman's option.
    pub fn as_str(self) -> &'static str {
        match self {
            Relabel::Shared => "z",
            Relabel::Private => "Z",
        }
    }
}
