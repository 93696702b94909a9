//! Whether an answer is what was asked for and what the manifest promised, and what came where it is not.

use sha2::{Digest, Sha256};

use super::StoreError;
use super::retry::Stop;
use crate::backend::http::{Answer, Ask, Failure, Status};
use crate::model::{Artifact, Sha256Digest};

/// Bytes beyond the promised ones are hashed, so that it can be said what came instead; of a body that goes on for longer
/// than this beyond them, and beyond twice their number, the end is not waited for (16 MiB).
const MAX_SURPLUS: u64 = 16 * 1024 * 1024;

/// The bytes are not the promised ones; `length` of them came.
pub(super) fn mismatch(artifact: &Artifact, got: Sha256Digest, length: u64) -> StoreError {
    let (what, expected) = (artifact.key.to_string(), artifact.size_bytes);
    if got == artifact.sha256 {
        return StoreError::SizeMismatch { what, expected, got: Some(length) };
    }
    let lengths = (length != expected).then_some((length, expected));
    StoreError::DigestMismatch { what, expected: artifact.sha256, got, lengths }
}

/// Hashes what is left of an answer of the wrong length, so that it can be said what came. Nothing of it is kept.
pub(super) async fn hash_on(
    mut hasher: Sha256,
    mut length: u64,
    artifact: &Artifact,
    mut answer: Answer,
) -> Result<StoreError, Failure> {
    let expected = artifact.size_bytes;
    let limit = expected.saturating_add(expected.max(MAX_SURPLUS));
    let too_long = |got| StoreError::SizeMismatch { what: artifact.key.to_string(), expected, got };
    if let Some(told) = answer.length.filter(|told| *told > limit) {
        return Ok(too_long(Some(told)));
    }
    while let Some(piece) = answer.body.chunk().await? {
        length += piece.len() as u64;
        if length > limit {
            return Ok(too_long(None));
        }
        hasher.update(&piece);
    }
    Ok(mismatch(artifact, Sha256Digest::from(hasher), length))
}

/// What an answer's head says.
pub(super) enum Judged {
    /// It fits what was asked and what the manifest promised.
    Fits,
    /// It is the whole, and of another length than the manifest promised.
    WrongLength,
}

pub(super) fn judge(artifact: &Artifact, ask: &Ask, answer: &Answer) -> Result<Judged, Stop> {
    let expected = artifact.size_bytes;
    match answer.status {
        Status::Whole => match answer.length {
            Some(got) if got != expected => Ok(Judged::WrongLength),
            _ => Ok(Judged::Fits),
        },
        Status::NotModified => Err(Stop::Again(Failure::permanent("304"))),
        Status::Part { .. } if !ask.is_part() => Err(Stop::Again(Failure::permanent("206"))),
        Status::PastTheEnd { .. } if !ask.is_part() => Err(Stop::Again(Failure::permanent("416"))),
        // Asked for from the start, the whole is hashed.
        Status::Part { total: Some(got), .. } if got != expected => Err(Stop::FromTheStart),
        Status::Part { start, last, .. } => {
            let end = ask.upto.unwrap_or(expected);
            let wanted = end.saturating_sub(ask.from);
            // Of a range that is not the rest, the end must be told.
            let ends = last == Some(end.saturating_sub(1)) || ask.upto.is_none();
            let fits = start == Some(ask.from) && ends && answer.length.is_none_or(|length| length == wanted);
            if fits { Ok(Judged::Fits) } else { Err(Stop::FromTheStart) }
        }
        Status::PastTheEnd { .. } => Err(Stop::FromTheStart),
    }
}
