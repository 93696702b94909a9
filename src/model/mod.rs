//! Plain types: what is wanted, what was seen, and the words both are said in.
//!
//! Nothing here does I/O, reads a clock or knows a backend; all of it can be built in a test by hand.

pub(crate) mod canonical;
pub(crate) mod desired;
pub(crate) mod failure;
pub(crate) mod hashing;
pub(crate) mod ids;
pub(crate) mod inside;
pub mod labels;
pub(crate) mod layers;
pub(crate) mod manifest;
pub(crate) mod observed;
pub(crate) mod ports;
pub(crate) mod redact;
pub(crate) mod rollout;
pub(crate) mod session;
pub(crate) mod shared;
pub mod spec;
pub(crate) mod text;
pub(crate) mod vm;
pub(crate) mod wanted;

pub use canonical::{CanonicalSession, CanonicalSpec, FieldChange, HostKey, SPEC_VERSION};
pub use desired::{
    Agent, AgentState, CachePolicy, Desired, ImageSource, Location, ManifestSource, NO_MANIFEST, Place, RolledBackTo,
    Runtime, TemplateChange, Transport, Version, Wanted,
};
pub use failure::FailureKind;
pub use ids::{
    AgentName, Arch, ArtifactKey, ContainerId, ContainerName, IdError, ImageId, ImageRef, InstanceName, Name,
    SessionName, Sha256Digest, WorkspaceName,
};
pub use inside::{EndedBy, Inside, SessionExit, SessionOrigin, SessionPhase, SessionState, WorkspaceState};
pub use labels::{Ownership, RootClaim, RootId};
pub use layers::{LayerIndex, Layers, LayersError, Member};
pub use manifest::{Artifact, Manifest, ManifestAgent, ManifestError};
pub use observed::{
    CachedArtifact, CachedFile, CheckResult, ContainerState, Guest, Health, ImageState, Images, Live, LoadedImage,
    NetworkState, Observed, Owner, Phase, RecentExits, Seen, SharedState, VolumeState, Whose,
};
pub use ports::PortRange;
pub use redact::Secrets;
pub use rollout::{Good, Quarantined, Remembered, Rollout, RolloutStrategy, Rollouts};
pub use session::{Dirty, IdleAction, SessionIdle, SessionRestart, SessionSpec, SessionStdin, WorkspaceSpec};
pub use shared::{MakeNetwork, MakeVolume, NetworkSpec, VolumeSpec};
pub use spec::{
    ContainerSpec, Create, HealthCheck, HealthTest, Mount, NO_CHECK, Port, Protocol, RestartPolicy, Volume,
};
pub use text::Text;
pub use vm::{Boot, Forward, Reach, Route, Socket, Template, VmMake, VmMount, VmPhase, VmSpec, VmState};
