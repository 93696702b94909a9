//! What wakes `run`. Only ever a reason to observe; what to do is read off the world.

use std::fmt;

/// What woke it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// It has just begun.
    Start,
    /// The state file, one of its env files, or its template changed.
    File,
    /// Podman told of something, or could be reached again.
    Podman,
    /// Lima told of something that happened to the virtual machine.
    Vm,
    /// A container's process ended, told by its exit file.
    Exit,
    /// A step ended.
    Step,
    /// The verdict of a health check changed.
    Health,
    /// A session in a container began, ended, or was lost.
    Session,
    /// A session would be idle by now.
    Idle,
    /// The time for another try has come.
    Retry,
    /// The published manifest was fetched.
    Manifest,
    /// So much time has passed without an observation.
    Resync,
    /// Somebody asked (SIGHUP, `apply --wait`).
    Request,
    /// Somebody asked how things are, and the newest observation was some seconds old.
    Status,
}

impl Trigger {
    /// The fixed word for it in the log, the status and the journal.
    pub fn word(self) -> &'static str {
        match self {
            Trigger::Start => "start",
            Trigger::File => "file",
            Trigger::Podman => "podman",
            Trigger::Vm => "vm",
            Trigger::Exit => "exit",
            Trigger::Step => "step",
            Trigger::Health => "health",
            Trigger::Session => "session",
            Trigger::Idle => "idle",
            Trigger::Retry => "retry",
            Trigger::Manifest => "manifest",
            Trigger::Resync => "resync",
            Trigger::Request => "request",
            Trigger::Status => "status",
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
