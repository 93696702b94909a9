//! What a container is allowed, and what of its machine it gets.

use std::collections::BTreeSet;

/// What a container is allowed, and what of its machine it gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// The user namespace, in Podman's words: `keep-id`, `auto`, `nomap`, `host`, with options behind a colon.
    pub userns: Option<String>,
    /// Capabilities it gets beside Podman's own choice: upper case, without `CAP_`; `ALL` is every one.
    pub cap_add: BTreeSet<String>,
    /// Capabilities it does not get.
    pub cap_drop: BTreeSet<String>,
    /// `label=…`, `seccomp=…`, `apparmor=…`, `mask=…`, `unmask=…`, `proc-opts=…`, as Podman takes them.
    pub options: Vec<String>,
    /// Whether no process of it may gain more rights than it began with.
    pub no_new_privileges: bool,
    /// Whether it has all the rights of whom Podman runs as.
    pub privileged: bool,
    /// Whether its root file system is read-only.
    pub read_only_root: bool,
    /// Devices: `/dev/fuse`, `/dev/sda:/dev/xvda:r`, or the name of one that a CDI specification describes.
    pub devices: Vec<String>,
}
