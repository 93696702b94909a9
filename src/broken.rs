//! Faults that are put into the core, and into what acts for it, on purpose, to see that the simulation (`tests/simulate`) finds them. Without the feature
//! `fake` there are none.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "fake"), allow(dead_code))]
pub enum Broken {
    /// What failed and may pass any moment is not tried again.
    RetryDropped,
    /// Steps of one lane are in flight together.
    LaneForgotten,
    /// Differences are told apart by their sentence.
    DifferenceByWords,
    /// A step that only waits holds its slot.
    WaitingHoldsSlot,
    /// Whoever waits for an outcome is forgotten.
    AnswerDropped,
    /// It observes again at once.
    HotLoop,
    /// What Podman does not tell of is taken for not there.
    UnknownIsAbsent,
    /// An edit is looked at once nothing is in flight any more.
    EditWaits,
    /// Whatever fails for one agent holds back all.
    OneHoldsAll,
    /// Nothing is observed but for a reason.
    ResyncForgotten,
    /// What an observation shows is taken for newer than a step that ended meanwhile.
    StaleIsFresh,
    /// A crash loop is started again and again.
    CrashLoopStarted,
    /// A difference that comes back is fought over.
    DriftFought,
    /// Sources of workspaces are not looked at.
    SourcesForgotten,
    /// A session is taken for another than the one that runs.
    SessionMistaken,
    /// What failed is not remembered.
    QuarantineForgotten,
    /// A successor has nothing to show before its predecessor goes.
    GateOpen,
    /// A predecessor loses its name before it has stopped.
    NameLost,
}

impl Broken {
    /// All there are.
    #[cfg(feature = "fake")]
    pub const ALL: [Self; 18] = [
        Self::RetryDropped,
        Self::LaneForgotten,
        Self::DifferenceByWords,
        Self::WaitingHoldsSlot,
        Self::AnswerDropped,
        Self::HotLoop,
        Self::UnknownIsAbsent,
        Self::EditWaits,
        Self::OneHoldsAll,
        Self::ResyncForgotten,
        Self::StaleIsFresh,
        Self::CrashLoopStarted,
        Self::DriftFought,
        Self::SourcesForgotten,
        Self::SessionMistaken,
        Self::QuarantineForgotten,
        Self::GateOpen,
        Self::NameLost,
    ];

    /// Whether it is put in.
    #[cfg(feature = "fake")]
    pub(crate) fn is_in(self) -> bool {
        BROKEN.get() == Some(self)
    }

    /// Whether it is put in: never.
    #[cfg(not(feature = "fake"))]
    pub(crate) const fn is_in(self) -> bool {
        false
    }
}

#[cfg(feature = "fake")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Broken>> = const { std::cell::Cell::new(None) };
}

/// Puts a fault into every core that works in this thread, or takes it out again.
#[cfg(feature = "fake")]
pub fn put_in(fault: Option<Broken>) {
    BROKEN.set(fault);
}
