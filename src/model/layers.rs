//! The list of a tarball's gzip members (`….layers.json`): which bytes of it are which. Untrusted input.
//!
//! The tarball is the members one after another and nothing else, so whoever has some of them in another tarball copies those and
//! fetches the rest. The list proves nothing: the whole is proved by its own sha256.

use serde::{Deserialize, Serialize};

use super::ids::{ArtifactKey, Sha256Digest, clean};

/// The largest list that is read, in bytes (16 MiB): of a tarball of 500 GiB.
pub(crate) const MAX_LAYERS_BYTES: usize = 16 * 1024 * 1024;

/// The most members of a list: as many as fit into its bytes, and no more.
pub(crate) const MAX_MEMBERS: usize = 128 * 1024;

/// Where a tarball's members are listed, as its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// Where the list lies beside the manifest.
    pub key: ArtifactKey,
    /// What the bytes of the list must hash to.
    pub sha256: Sha256Digest,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What its compressed bytes hash to.
    pub sha256: Sha256Digest,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

impl Member {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// What tells it from all others, wherever it stands.
    pub fn id(&self) -> (Sha256Digest, u64) {
        (self.sha256, self.length)
    }
}

/// Why a list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayersError {
    /// Longer than [`MAX_LAYERS_BYTES`].
    #[error("it is larger than {}", crate::sizes::limit(MAX_LAYERS_BYTES))]
    TooLarge,
    /// Not JSON, or not the JSON of a list.
    #[error("{0}")]
    Invalid(String),
    /// More members than [`MAX_MEMBERS`].
    #[error("it has more than {MAX_MEMBERS} members")]
    TooMany,
    /// A member has no byte.
    #[error("the member at {at} is empty")]
    Empty {
        /// Its offset.
        at: u64,
    },
    /// A member does not begin where the one before it ends.
    #[error("a member begins at {found} instead of {expected}")]
    Apart {
        /// Where it begins.
        found: u64,
        /// Where the one before it ends.
        expected: u64,
    },
    /// They are not as many bytes as the tarball has.
    #[error("they do not make up its {expected} bytes, but {found}")]
    Sum {
        /// How many they are.
        found: u64,
        /// How many the tarball has.
        expected: u64,
    },
}

/// The members of one tarball, in their order: each begins where the one before it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerIndex(Vec<Member>);

impl LayerIndex {
    /// Reads the list of a tarball of so many bytes.
    ///
    /// # Errors
    /// When it is no list, or its members do not make up the tarball.
    pub fn parse(bytes: &[u8], size_bytes: u64) -> Result<Self, LayersError> {
        if bytes.len() > MAX_LAYERS_BYTES {
            return Err(LayersError::TooLarge);
        }
        let members: Vec<Member> =
            serde_json::from_slice(bytes).map_err(|err| LayersError::Invalid(clean(&err.to_string(), 300)))?;
        if members.len() > MAX_MEMBERS {
            return Err(LayersError::TooMany);
        }
        let mut end = 0u64;
        for member in &members {
            if member.length == 0 {
                return Err(LayersError::Empty { at: member.offset });
            }
            if member.offset != end {
                return Err(LayersError::Apart { found: member.offset, expected: end });
            }
            let sum = LayersError::Sum { found: member.end(), expected: size_bytes };
            end = end.checked_add(member.length).filter(|end| *end <= size_bytes).ok_or(sum)?;
        }
        match end == size_bytes {
            true => Ok(Self(members)),
            false => Err(LayersError::Sum { found: end, expected: size_bytes }),
        }
    }

    /// The members in their order.
    pub fn members(&self) -> &[Member] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(members: &[(u8, u64, u64)]) -> Vec<u8> {
        let member = |(digest, offset, length): &(u8, u64, u64)| Member {
            sha256: Sha256Digest::from_bytes([*digest; 32]),
            offset: *offset,
            length: *length,
        };
        serde_json::to_vec(&members.iter().map(member).collect::<Vec<_>>()).unwrap()
    }

    fn said(bytes: &[u8], size: u64) -> String {
        LayerIndex::parse(bytes, size).unwrap_err().to_string()
    }

    #[test]
    fn members_are_whole_and_in_their_order() {
        let good = listed(&[(1, 0, 5), (2, 5, 7)]);
        assert_eq!(LayerIndex::parse(&good, 12).unwrap().members().len(), 2);
        assert_eq!(said(&good, 13), "they do not make up its 13 bytes, but 12");
        assert_eq!(said(&listed(&[(1, 0, 5), (2, 4, 8)]), 12), "a member begins at 4 instead of 5");
        assert_eq!(said(&listed(&[(1, 0, 5), (2, 6, 6)]), 12), "a member begins at 6 instead of 5");
        assert_eq!(said(&listed(&[(1, 1, 11)]), 12), "a member begins at 1 instead of 0");
        assert_eq!(said(&listed(&[(1, 0, 12), (2, 12, 0)]), 12), "the member at 12 is empty");
        assert_eq!(said(b"[]", 12), "they do not make up its 12 bytes, but 0");
    }

    #[test]
    fn what_is_no_list_is_said_plainly_and_what_is_too_much_is_not_read() {
        let zeros = "0".repeat(64);
        let negative = format!(r#"[{{"sha256":"{zeros}","offset":0,"length":-1}}]"#);
        assert!(said(negative.as_bytes(), 1).starts_with("invalid value: integer `-1`"));
        assert!(said(b"{}", 1).starts_with("invalid type: map"));
        assert!(said(br#"[{"sha256":"00","offset":0,"length":1}]"#, 1).contains("is not a sha256"));
        // What ends beyond what can be counted ends nowhere.
        let beyond = listed(&[(1, 0, u64::MAX), (2, u64::MAX, 2)]);
        assert!(LayerIndex::parse(&beyond, 1).is_err() && LayerIndex::parse(&beyond, u64::MAX).is_err());
        let many: Vec<_> = (0..=MAX_MEMBERS as u64).map(|at| (1, at, 1)).collect();
        assert_eq!(said(&listed(&many), many.len() as u64), "it has more than 131072 members");
        assert_eq!(said(&vec![b' '; MAX_LAYERS_BYTES + 1], 0), "it is larger than 16 MiB");
    }

    #[test]
    fn fields_of_later_versions_are_ignored() {
        let zeros = "0".repeat(64);
        let more = format!(r#" [{{"sha256":"{zeros}","offset":0,"length":1,"plain":{{"length":9}}}}]"#);
        assert_eq!(LayerIndex::parse(more.as_bytes(), 1).unwrap().members().len(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), size in any::<u64>()) {
            let _ = LayerIndex::parse(&bytes, size);
        }

        /// Whatever is read holds together, whatever stood there.
        #[test]
        fn what_is_read_is_whole(
            members in prop::collection::vec((0..3u8, prop_oneof![0..9u64, any::<u64>()], prop_oneof![0..9u64, any::<u64>()]), 0..5),
            size in prop_oneof![0..20u64, any::<u64>()],
        ) {
            if let Ok(index) = LayerIndex::parse(&listed(&members), size) {
                let mut end = 0;
                for member in index.members() {
                    prop_assert!(member.offset == end && member.length > 0);
                    end += member.length;
                }
                prop_assert_eq!(end, size);
            }
        }
    }
}
