//! Enums whose variants are fixed words to programs. Inside they are values; they become words in `as_str`, `Display` and
//! `Serialize` alone.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that is one of some fixed words.
pub trait FixedWord: Copy {
    /// The word.
    fn word(self) -> &'static str;
    /// What a word stands for.
    fn of_word(word: &str) -> Option<Self>;
}

/// A word of a file or an answer, which another version may have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word<T> {
    /// One that this build knows.
    Known(T),
    /// Any other, as it was said.
    Other(String),
}

impl<T: FixedWord> Word<T> {
    /// The word as it was said.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(known) => known.word(),
            Self::Other(other) => other,
        }
    }

    /// The value, where this build knows it.
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(known) => Some(*known),
            Self::Other(_) => None,
        }
    }
}

impl<T: FixedWord> From<&str> for Word<T> {
    fn from(word: &str) -> Self {
        T::of_word(word).map_or_else(|| Self::Other(word.to_owned()), Self::Known)
    }
}

impl<T: FixedWord> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<T: FixedWord> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: FixedWord> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|word| Self::from(word.as_str()))
    }
}

/// Defines such an enum, each variant with its word.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The fixed word for it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// What a word stands for.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }

        impl crate::words::FixedWord for $name {
            fn word(self) -> &'static str {
                self.as_str()
            }

            fn of_word(word: &str) -> Option<Self> {
                Self::parse(word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::backend::{EngineErrorKind, PullRefusal};
    use crate::control::RefusedKind;
    use crate::model::FailureKind;
    use crate::plan::ActionKind;
    use crate::readiness::CheckedBy;
    use crate::status::{
        ConditionKind, ConditionReason, ConditionStatus, HealthStatus, SessionWord, SyncStatus, WorkspaceWord,
    };

    /// All words that stand in backticks on a page.
    fn documented(page: &str) -> BTreeSet<&str> {
        page.split('`').skip(1).step_by(2).flat_map(str::split_whitespace).collect()
    }

    /// Whether these are all words of the enum, each documented on the page, and each the word of one value.
    fn are<T: FixedWord + Serialize>(all: &[T], words: &str, page: &str) {
        let (said, page): (Vec<_>, _) = (all.iter().map(|one| one.word()).collect(), documented(page));
        assert_eq!(said, words.split_whitespace().collect::<Vec<_>>());
        for (one, word) in all.iter().zip(said) {
            assert!(page.contains(word), "`{word}` is not documented");
            assert_eq!(serde_json::to_value(one).unwrap(), word);
            assert_eq!(T::of_word(word).map(T::word), Some(word));
        }
    }

    #[test]
    fn every_word_that_programs_read_is_the_documented_one() {
        const JSON: &str = include_str!("../docs/json.md");
        are(
            ActionKind::ALL,
            "syncManifest fetchArtifact createVm startVm recreateVm adoptVm stopVm deleteVm forwardPorts loadImage pullImage \
             createNetwork createVolume removeNetwork removeVolume observeContainer createContainer startContainer stopContainer replaceContainer renameContainer removeContainer \
             prepareWorkspace startSession stopSession pruneArtifact pruneImage",
            JSON,
        );
        are(
            FailureKind::ALL,
            "manifestFetch manifestInvalid manifest untrusted trustRecord download digestMismatch sizeMismatch noSpace damaged \
             otherImage escapes io limactlMissing limactlRoot limactlTooOld noInstance vmNotReady vmBusy vm notFound conflict \
             timeout permissionDenied transportUnavailable apiError commandFailed unknown mountSource network volume imageMissing \
             architecture endedAtOnce unhealthy rolledBack rollBackFailed quarantined session workspace interrupted \
             nonConvergent crashLoop failed notReady",
            JSON,
        );
        are(
            EngineErrorKind::ALL,
            "notFound conflict timeout permissionDenied transportUnavailable apiError commandFailed unknown",
            JSON,
        );
        for kind in EngineErrorKind::ALL {
            assert_eq!(FailureKind::from(*kind).as_str(), kind.as_str());
        }
        are(PullRefusal::ALL, "loginWanted noSuchImage unreachable", JSON);
        are(SyncStatus::ALL, "Synced OutOfSync Unknown", JSON);
        are(HealthStatus::ALL, "Healthy Progressing Degraded Completed Failed Stopped Unknown", JSON);
        are(CheckedBy::ALL, "stateFile image none", JSON);
        are(ConditionKind::ALL, "Ready Reconciling Stalled", JSON);
        are(ConditionStatus::ALL, "True False Unknown", JSON);
        are(
            ConditionReason::ALL,
            "Converged CrashLoop Failed Downloading LoadingImage VmStarting SocketUnreachable BackingOff NonConvergent \
             RolledBack QuarantinedDigest Pending Blocked Restarted Starting Unhealthy Session Replacing Suspended Unknown",
            JSON,
        );
        are(SessionWord::ALL, "running backingOff exited lost absent unknown", JSON);
        are(WorkspaceWord::ALL, "prepared outdated absent unknown", JSON);
        are(
            RefusedKind::ALL,
            "badRequest unknownOp tooLarge tooSlow busy forbidden stopping unavailable",
            include_str!("../docs/background.md"),
        );
    }

    #[test]
    fn a_word_of_another_version_is_kept_as_it_was_said() {
        let read = |json: &str| serde_json::from_str::<Word<FailureKind>>(json).unwrap();
        assert_eq!(read("\"conflict\"").known(), Some(FailureKind::Conflict));
        let later = read("\"wornOut\"");
        assert_eq!((later.known(), later.as_str()), (None, "wornOut"));
        assert_eq!(serde_json::to_string(&later).unwrap(), "\"wornOut\"");
    }
}
