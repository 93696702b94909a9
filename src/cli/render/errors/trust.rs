//! What may help where a manifest is not trusted: one hint for each cause.

use crate::observe::Distrust;
use crate::trust::TrustError;

/// What may help, where anything is known to.
pub(super) fn hint(cause: &Distrust) -> Option<String> {
    match cause {
        Distrust::Judged(err) => Some(judged(err).to_owned()),
        Distrust::Lost => Some(
            "put the file back if there is a copy of it; else `steadfast trust reset` forgets what was accepted: then the next \
             manifest that is signed with a trusted key counts, however old it is"
                .to_owned(),
        ),
        Distrust::Untold { way_out } => way_out.clone(),
    }
}

/// What may help against a manifest that was judged. That an older one may be let in is told where it is older, and nowhere
/// else: it helps against nothing else, and takes away the last good one.
pub(super) fn judged(err: &TrustError) -> &'static str {
    match err {
        TrustError::Unsigned => {
            "the publisher must sign it (`steadfast publish sign`, or push it anew with a key); nothing of it is used"
        }
        TrustError::Expired { .. } => {
            "the publisher must sign it again (`steadfast publish sign`, or push it anew); nothing of it is used"
        }
        TrustError::UnknownKey { .. } => {
            "nothing of it is used; if you trust that key, add it to `manifest.publicKeys`: it is the last line of its .pub file"
        }
        TrustError::OtherBytes(_) | TrustError::Comment(_) | TrustError::Malformed(_) => {
            "the publisher must publish manifest and signature together, as they were signed; nothing of it is used"
        }
        TrustError::Older { .. } | TrustError::SameSerial(_) => {
            "nothing of it is used; `steadfast trust show` tells what was accepted, and only `steadfast trust reset` lets an older \
             one in, which also drops the last good one"
        }
        TrustError::Stale { .. } => {
            "is the URL right, and the network up? once it can be had, the publisher may have to sign it again (`steadfast publish \
             sign`, or push it anew)"
        }
        TrustError::Unproved(_) => {
            "is the URL right, and the network up? what is in the cache counts only once a manifest that is signed with one of \
             `manifest.publicKeys` was had"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_one_is_said_to_need_a_reset_and_only_what_was_had_to_be_unused() {
        let key = crate::publish::key::generate(None).unwrap().key.id();
        let (at, why) = ("2026-04-27T00:00:00Z".to_owned(), "no answer".to_owned());
        for (err, is_older, word) in [
            (TrustError::Unsigned, false, "publish sign"),
            (TrustError::Expired { at: at.clone() }, false, "sign it again"),
            (TrustError::UnknownKey { found: key, trusted: vec![] }, false, "manifest.publicKeys"),
            (TrustError::OtherBytes(key), false, "together"),
            (TrustError::Comment(why.clone()), false, "together"),
            (TrustError::Malformed(why.clone()), false, "together"),
            (TrustError::Older { serial: 1, floor: 2 }, true, "drops the last good one"),
            (TrustError::SameSerial(1), true, "trust show"),
            (TrustError::Stale { at, why: why.clone() }, false, "network"),
            (TrustError::Unproved(why), false, "network"),
        ] {
            let hint = hint(&Distrust::Judged(err.clone())).unwrap();
            assert!(hint.contains(word), "{err:?}: {hint}");
            assert_eq!(hint.contains("trust reset"), is_older, "{err:?}: {hint}");
            assert_eq!(hint.contains("nothing of it is used"), err.is_of_published(), "{err:?}: {hint}");
        }
    }
}
