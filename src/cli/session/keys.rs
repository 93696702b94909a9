//! The keys that leave a session running, as Podman and Docker write them: `ctrl-p,ctrl-q`.

/// Bytes that come one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Reads them. Nothing is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let key = |word: &str| {
            let control = word.strip_prefix("ctrl-").map(|rest| (true, rest)).unwrap_or((false, word));
            match (control, control.1.as_bytes()) {
                ((true, _), [byte]) => match byte.to_ascii_lowercase() {
                    letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
                    b'@' => Some(0),
                    sign @ b'['..=b'_' => Some(sign - b'[' + 27),
                    _ => None,
                },
                ((false, _), [byte]) => Some(*byte),
                _ => None,
            }
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| {
            "keys are single letters or `ctrl-` and a letter or one of @[\\]^_, with commas between".to_owned()
        })
    }
}

/// What is typed, until the keys come.
#[derive(Debug)]
pub(super) struct Watched {
    keys: Vec<u8>,
    /// How many of them have come.
    seen: usize,
}

impl Watched {
    pub(super) fn new(keys: &DetachKeys) -> Self {
        Self { keys: keys.0.clone(), seen: 0 }
    }

    /// What of this is for the session, and whether the keys came. The first of them is held back until the next byte.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(bytes.len());
        if self.keys.is_empty() {
            through.extend_from_slice(bytes);
            return (through, false);
        }
        for byte in bytes {
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (through, true);
                }
                continue;
            }
            through.extend(self.keys.iter().take(std::mem::take(&mut self.seen)));
            if self.keys.first() == Some(byte) {
                self.seen = 1;
                if self.keys.len() == 1 {
                    return (through, true);
                }
            } else {
                through.push(*byte);
            }
        }
        (through, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_leave_and_nothing_else_is_lost() {
        let keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.0, [16, 17]);
        let mut watched = Watched::new(&keys);
        assert_eq!(watched.take(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(watched.take(b"c\x10\x10"), (b"\x10c\x10".to_vec(), false));
        assert_eq!(watched.take(b"\x11rest"), (Vec::new(), true));
        let mut never = Watched::new(&DetachKeys::parse("").unwrap());
        assert_eq!(never.take(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
        assert_eq!(DetachKeys::parse("ctrl-],x").unwrap().0, [29, b'x']);
        for wrong in ["ctrl-", "ctrl-pp", "ctrl-1", "ab", ","] {
            assert!(DetachKeys::parse(wrong).is_err(), "{wrong}");
        }
    }
}
