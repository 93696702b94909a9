//! What kind of failure it is, in one fixed word: in JSON, in the journal, in a log.

words! {
    /// What kind of failure it is.
    pub enum FailureKind {
        /// The manifest could not be fetched.
        ManifestFetch = "manifestFetch",
        /// There is a manifest, and it is none that this build can use.
        ManifestInvalid = "manifestInvalid",
        /// No manifest offers what is wanted.
        Manifest = "manifest",
        /// The published manifest is not trusted.
        Untrusted = "untrusted",
        /// What was accepted before cannot be read or written.
        TrustRecord = "trustRecord",
        /// An artifact could not be fetched.
        Download = "download",
        /// It has another digest than it should.
        DigestMismatch = "digestMismatch",
        /// It has another size than it should.
        SizeMismatch = "sizeMismatch",
        /// There is no room for it.
        NoSpace = "noSpace",
        /// A tarball is broken although its digest matches.
        Damaged = "damaged",
        /// A tarball holds another image than it should.
        OtherImage = "otherImage",
        /// A path of the cache leads out of it.
        Escapes = "escapes",
        /// The file system refused.
        Io = "io",
        /// There is no limactl.
        LimactlMissing = "limactlMissing",
        /// limactl does not work as root.
        LimactlRoot = "limactlRoot",
        /// limactl is too old.
        LimactlTooOld = "limactlTooOld",
        /// There is no such instance, and what is in its place is none.
        NoInstance = "noInstance",
        /// The virtual machine runs and did not become ready.
        VmNotReady = "vmNotReady",
        /// Lima is busy with the virtual machine.
        VmBusy = "vmBusy",
        /// The virtual machine stands in the way.
        Vm = "vm",
        /// There is no such container or image.
        NotFound = "notFound",
        /// Somebody else holds what it needs: a name, a port.
        Conflict = "conflict",
        /// No answer came in time.
        Timeout = "timeout",
        /// It is not allowed.
        PermissionDenied = "permissionDenied",
        /// Podman cannot be reached.
        TransportUnavailable = "transportUnavailable",
        /// Podman refused.
        ApiError = "apiError",
        /// A command ended with an error.
        CommandFailed = "commandFailed",
        /// It cannot be told, or be observed.
        Unknown = "unknown",
        /// A bind source is not there.
        MountSource = "mountSource",
        /// A network is somebody else's, another than is wanted, or not there.
        Network = "network",
        /// A volume is somebody else's, another than is wanted, or not there.
        Volume = "volume",
        /// An image that nobody brings is not there.
        ImageMissing = "imageMissing",
        /// An image is for another kind of machine.
        Architecture = "architecture",
        /// A container ended as soon as it was started.
        EndedAtOnce = "endedAtOnce",
        /// A container did not become healthy, or is not.
        Unhealthy = "unhealthy",
        /// A replacement failed, and its predecessor runs again.
        RolledBack = "rolledBack",
        /// A replacement failed, and its predecessor did not come back.
        RollBackFailed = "rollBackFailed",
        /// What is wanted failed before, and is not tried again until it is another.
        Quarantined = "quarantined",
        /// A session could not be started, or did not stay up.
        Session = "session",
        /// A workspace could not be prepared.
        Workspace = "workspace",
        /// It was told to stop.
        Interrupted = "interrupted",
        /// A difference comes back although its step succeeds.
        NonConvergent = "nonConvergent",
        /// A container exits again and again.
        CrashLoop = "crashLoop",
        /// A container exited with an error, and is to stay so.
        Failed = "failed",
        /// A container is not ready yet.
        NotReady = "notReady",
    }
}
