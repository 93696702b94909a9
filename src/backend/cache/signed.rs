//! The published manifest and its local copy where the state file says who must have signed it.
//!
//! The signature is fetched before the manifest, each once, and the bytes that were verified are the bytes that are parsed. A
//! copy in the cache counts only when the record in `<root>/state/trust` knows it by its digest, as verified with a key that is
//! trusted now: the cache itself is believed nothing. The record is on the disk before a copy is written, and for that moment
//! knows both the new copy and the one it replaces, so that whoever is killed in between finds one of them good.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{debug, warn};

use super::manifest::{Said, place, refused, sha256, unusable};
use super::partial::blocking;
use super::{Cache, StoreError, retry};
use crate::backend::http::{Ask, Failure, Validators};
use crate::error::Chain;
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::model::{Location, Manifest, ManifestError, ManifestSource, Name, Sha256Digest};
use crate::trust::kept::{Accepted, Copied, KeptError, Ledger, LedgerGuard, Record};
use crate::trust::{MAX_SIGNATURE_BYTES, Signed, Trust, TrustError, admit, prove};

/// How often both are fetched anew where they do not belong together: their publisher may be at work.
const MAX_RACES: u32 = 2;

/// A copy that counts, and what is known of it.
struct Verified {
    known: Copied,
    manifest: Manifest,
}

impl Cache {
    /// What was accepted for the state file of this name.
    pub fn ledger(&self, owner: &Name) -> Ledger {
        Ledger::new(self.0.layout.root(), owner)
    }

    /// The copy of the last good manifest that was verified for a state file. Nobody else writes there.
    fn signed_copy(&self, owner: &Name) -> PathBuf {
        self.0.layout.manifest_of(&signed_place(owner))
    }

    /// The copies that were verified for any state file below this root.
    pub(super) fn accepted_copies(&self) -> BTreeSet<PathBuf> {
        Ledger::owners(self.0.layout.root()).iter().map(|owner| self.signed_copy(owner)).collect()
    }

    /// What was accepted before. `None` only when nothing ever was.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn accepted(&self, owner: &Name) -> Result<Option<Record>, StoreError> {
        let ledger = self.ledger(owner);
        let record = ledger.read()?;
        if record.is_some() || self.bytes_of(&self.signed_copy(owner))?.is_none() {
            return Ok(record);
        }
        // The record is older than the copy: where that is, the record was. Both may have come since.
        let record = ledger.read()?;
        record.map(Some).ok_or_else(|| KeptError::Gone { path: ledger.path().to_owned() }.into())
    }

    /// Forgets what was accepted for a state file, and with it the copy that counted because of it. Yields whether there was
    /// anything to forget.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget_accepted(&self, owner: &Name) -> Result<bool, StoreError> {
        let ledger = self.ledger(owner);
        let guard = ledger.hold()?;
        // In this order: a copy without its record would be one that somebody took away.
        let copy = self.signed_copy(owner);
        self.0.layout.guard(&copy)?;
        let had_copy = super::quarantine::found(&copy)?.is_some();
        super::quarantine::remove_all(&copy)?;
        Ok(guard.forget()? || had_copy)
    }

    /// Fetches the manifest and verifies it.
    pub(super) async fn fetch_signed(&self, at: &Location, trust: &Trust) -> Result<Manifest, StoreError> {
        let mut races = self.0.options.retries.min(MAX_RACES);
        let fetched = loop {
            match self.fetch_once(at, trust).await {
                Err(StoreError::Untrusted { err, .. }) if races > 0 && err.may_be_between() => {
                    races -= 1;
                    debug!(err = %err, at = %at, "manifest and signature do not belong together; fetching both again");
                    tokio::time::sleep(retry::backoff(&self.0.options).delay(1)).await;
                }
                fetched => break fetched,
            }
        };
        match fetched {
            Err(StoreError::ManifestFetch { at: shown, cause, retryable }) => {
                let (cache, at, trust) = (self.clone(), at.clone(), trust.clone());
                Err(blocking(move |_| cache.judge_unreachable(&at, &trust, shown, cause, retryable)).await)
            }
            fetched => fetched,
        }
    }

    async fn fetch_once(&self, at: &Location, trust: &Trust) -> Result<Manifest, StoreError> {
        let (cache, here, by) = (self.clone(), place(at), trust.clone());
        let (record, known) = blocking(move |_| cache.look(&here, &by)).await?;
        let signature = self.fetch_signature(at).await?;
        let signed_alike = signature.as_deref().map(sha256);
        let known = known.filter(|verified| Some(verified.known.accepted.signature) == signed_alike);
        let unless = known.as_ref().map(|verified| validators(&verified.known)).filter(|unless| !unless.is_empty());
        let ask = Ask { unless, ..Ask::default() };
        let now = SystemTime::now();
        let manifest = match self.ask_patiently(at, &ask, MAX_MANIFEST_BYTES).await {
            Err(failure) => return Err(refused(at, &failure)),
            Ok(Said::TooLong) => return Err(unusable(at)(ManifestError::TooLarge)),
            // The very bytes that this very signature was verified over.
            Ok(Said::Same) => match known {
                Some(Verified { known, manifest }) if !validators(&known).is_empty() => {
                    known.accepted.signed().check_expiry(now).map_err(untrusted(at))?;
                    self.remember_origin(&manifest, signed_place(&trust.owner), validators(&known));
                    manifest
                }
                _ => return Err(refused(at, &Failure::permanent("304"))),
            },
            Ok(Said::Bytes(bytes, validators)) => {
                let manifest = verified(&at.to_string(), &bytes, signature.as_deref(), trust, now)?;
                self.remember_origin(&manifest, signed_place(&trust.owner), validators);
                manifest
            }
        };
        let floor = record.map(|record| record.accepted.floor());
        admit(signed_of(&manifest, at)?, floor.as_ref()).map_err(untrusted(at))?;
        Ok(manifest)
    }

    /// Takes in a manifest that did not come from where it is published, by its literal bytes and the signature beside them.
    /// It is judged as one that was fetched.
    pub(super) fn admit(
        &self,
        at: &str,
        bytes: &[u8],
        signature: Option<&[u8]>,
        of: Option<&ManifestSource>,
    ) -> Result<Manifest, StoreError> {
        let Some(trust) = of.and_then(|of| of.trust.as_ref()) else {
            return Manifest::parse(bytes).map_err(|err| StoreError::Manifest { at: at.to_owned(), err });
        };
        let manifest = verified(at, bytes, signature, trust, SystemTime::now())?;
        let floor = self.accepted(&trust.owner)?.map(|record| record.accepted.floor());
        let refused = |err| StoreError::Untrusted { at: at.to_owned(), err };
        let signed = manifest.signed.as_deref().ok_or_else(|| refused(TrustError::Unsigned))?;
        admit(signed, floor.as_ref()).map_err(refused)?;
        Ok(manifest)
    }

    /// `None` when there is none.
    async fn fetch_signature(&self, at: &Location) -> Result<Option<Vec<u8>>, StoreError> {
        let beside = at.signature();
        match self.ask_patiently(&beside, &Ask::default(), MAX_SIGNATURE_BYTES).await {
            Ok(Said::Bytes(bytes, _)) => Ok(Some(bytes)),
            Ok(Said::TooLong) => Err(untrusted(at)(TrustError::too_long())),
            Ok(Said::Same) => Err(refused(&beside, &Failure::permanent("304"))),
            Err(failure) if failure.absent => Ok(None),
            // Nobody is there at all: that is no matter of the signature.
            Err(failure) if failure.unreachable => Err(refused(at, &failure)),
            Err(failure) => Err(refused(&beside, &failure)),
        }
    }

    /// What it means that the published manifest is unavailable: the last good one goes on, unless it was never verified with a
    /// key that is trusted now, or is over itself.
    fn judge_unreachable(
        &self,
        at: &Location,
        trust: &Trust,
        shown: String,
        cause: String,
        retryable: bool,
    ) -> StoreError {
        let why = format!("{shown} ({cause})");
        let failed = || StoreError::ManifestFetch { at: shown.clone(), cause: cause.clone(), retryable };
        let (record, verified) = match self.look(&place(at), trust) {
            Ok(looked) => looked,
            Err(err) => return err,
        };
        match verified {
            Some(Verified { known, .. }) => match known.accepted.signed().check_expiry(SystemTime::now()) {
                Err(TrustError::Expired { at: over }) => untrusted(at)(TrustError::Stale { at: over, why }),
                _ => failed(),
            },
            None if self.read_manifest(Some(&place(at))).is_some()
                || record.is_some_and(|it| !it.copies.is_empty()) =>
            {
                untrusted(at)(TrustError::Unproved(why))
            }
            None => failed(),
        }
    }

    /// What was accepted, and the copy that counts. Both may be replaced between two observations, one after the other: then it looks
    /// again.
    fn look(&self, here: &Sha256Digest, trust: &Trust) -> Result<(Option<Record>, Option<Verified>), StoreError> {
        let mut record = self.accepted(&trust.owner)?;
        loop {
            let verified = record.as_ref().and_then(|record| self.verified_copy(here, trust, record));
            let now = match verified {
                Some(_) => return Ok((record, verified)),
                None => self.accepted(&trust.owner)?,
            };
            if now == record {
                return Ok((record, None));
            }
            record = now;
        }
    }

    /// The newest copy that is what was verified with a key that is trusted now, of a manifest that was published here.
    fn verified_copy(&self, here: &Sha256Digest, trust: &Trust, record: &Record) -> Option<Verified> {
        let there: Vec<_> = [self.signed_copy(&trust.owner), self.0.layout.manifest()]
            .iter()
            .filter_map(|path| self.bytes_of(path).ok().flatten())
            .map(|bytes| (sha256(&bytes), bytes))
            .collect();
        let trusted = record.copies.iter().filter(|it| it.place == *here && trust.keys.contains(&it.accepted.key));
        trusted.into_iter().find_map(|known| {
            let (_, bytes) = there.iter().find(|(digest, _)| *digest == known.copy)?;
            let mut manifest = Manifest::parse_copy(bytes).ok()?;
            manifest.signed = Some(Arc::new(known.accepted.signed()));
            manifest.is_pending = known.pending;
            Some(Verified { known: known.clone(), manifest })
        })
    }

    /// The last good manifest. One that is over goes on: it was good when it was accepted, and that it is over is said by
    /// whoever fetches.
    pub(super) fn read_signed(&self, at: &Location, trust: &Trust) -> Option<Manifest> {
        match self.look(&place(at), trust) {
            Ok((_, verified)) => verified.map(|verified| verified.manifest),
            Err(err) => {
                warn!(err = %Chain(&err), "the manifest in the cache is not trusted; going on without it");
                None
            }
        }
    }

    /// From now on nothing older is accepted, and this one goes on where no manifest is available: what acted upon it must not be
    /// taken back to an older one.
    pub(super) fn accept_signed(&self, manifest: &Manifest, at: &Location, trust: &Trust) -> Result<(), StoreError> {
        let ledger = self.ledger(&trust.owner);
        let guard = ledger.hold()?;
        let known = self.known_to_count(at, trust)?;
        if known.as_ref().is_none_or(|known| known.copy != manifest.copy_sha256()) {
            return self.keep_copy(&guard, manifest, at, trust, known, true);
        }
        keep(&guard, manifest, at, |accepted, mut copies| {
            // The same bytes may have been signed anew, for longer or with another key.
            for copied in copies.iter_mut().filter(|copied| copied.accepted.sha256 == accepted.sha256) {
                copied.accepted = accepted.clone();
            }
            copies
        })
    }

    /// Writes the local manifest, which was verified. See the top of this file for the order.
    pub(super) fn write_signed(&self, manifest: &Manifest, at: &Location, trust: &Trust) -> Result<(), StoreError> {
        let ledger = self.ledger(&trust.owner);
        let guard = ledger.hold()?;
        let known = self.known_to_count(at, trust)?;
        self.keep_copy(&guard, manifest, at, trust, known, false)
    }

    /// The copy that counts now.
    fn known_to_count(&self, at: &Location, trust: &Trust) -> Result<Option<Copied>, StoreError> {
        let record = self.accepted(&trust.owner)?;
        Ok(record.and_then(|record| self.verified_copy(&place(at), trust, &record)).map(|verified| verified.known))
    }

    /// Puts a copy in the place of the one that counts now: the state file's own, and unless it is pending the cached manifest.
    fn keep_copy(
        &self,
        guard: &LedgerGuard<'_>,
        manifest: &Manifest,
        at: &Location,
        trust: &Trust,
        replaced: Option<Copied>,
        pending: bool,
    ) -> Result<(), StoreError> {
        let (here, copy) = (place(at), manifest.copy_sha256());
        let told = match (self.origin_of(manifest), &replaced) {
            (Some(origin), _) => Validators { etag: origin.etag, last_modified: origin.last_modified },
            (None, Some(known)) if known.copy == copy => validators(known),
            (None, _) => Validators::default(),
        };
        let newest = |accepted: &Accepted| Copied {
            accepted: accepted.clone(),
            copy,
            place: here,
            pending,
            etag: told.etag.clone(),
            last_modified: told.last_modified.clone(),
        };
        let replaced = replaced.filter(|known| known.copy != copy);
        keep(guard, manifest, at, |accepted, _| std::iter::once(newest(accepted)).chain(replaced.clone()).collect())?;
        let own = signed_place(&trust.owner);
        if pending {
            // The other one may still lie in the cached manifest's place, for whoever is killed now.
            return self.write_copy_of(manifest, &own);
        }
        self.write_manifest(manifest, Some(&own))?;
        keep(guard, manifest, at, |accepted, _| vec![newest(accepted)])
    }
}

/// The very bytes that were verified are parsed.
fn verified(
    at: &str,
    bytes: &[u8],
    signature: Option<&[u8]>,
    trust: &Trust,
    now: SystemTime,
) -> Result<Manifest, StoreError> {
    let refused = |err| StoreError::Untrusted { at: at.to_owned(), err };
    let proven = prove(bytes, signature, &trust.keys).map_err(refused)?;
    let mut manifest = Manifest::parse(bytes).map_err(|err| StoreError::Manifest { at: at.to_owned(), err })?;
    manifest.signed = Some(Arc::new(proven.about(&manifest.updated_at, now).map_err(refused)?));
    Ok(manifest)
}

/// Keeps that a manifest was accepted, and which copies count from now on, unless something newer was accepted meanwhile.
fn keep(
    guard: &LedgerGuard<'_>,
    manifest: &Manifest,
    at: &Location,
    copies: impl FnOnce(&Accepted, Vec<Copied>) -> Vec<Copied>,
) -> Result<(), StoreError> {
    let signed = signed_of(manifest, at)?;
    let accepted = Accepted::new(signed, &manifest.updated_at);
    guard.update(|before| {
        admit(signed, before.map(|before| before.accepted.floor()).as_ref()).map_err(untrusted(at))?;
        let copies = copies(&accepted, before.map(|before| before.copies.clone()).unwrap_or_default());
        Ok(Record { accepted, copies })
    })
}

/// A name for the place of a state file's own copy, as [`place`] is for those of published manifests.
fn signed_place(owner: &Name) -> Sha256Digest {
    sha256(format!("verified manifest of {owner}").as_bytes())
}

fn validators(known: &Copied) -> Validators {
    Validators { etag: known.etag.clone(), last_modified: known.last_modified.clone() }
}

fn signed_of<'m>(manifest: &'m Manifest, at: &Location) -> Result<&'m Signed, StoreError> {
    manifest.signed.as_deref().ok_or_else(|| untrusted(at)(TrustError::Unsigned))
}

fn untrusted(at: &Location) -> impl Fn(TrustError) -> StoreError {
    let at = at.to_string();
    move |err| StoreError::Untrusted { at: at.clone(), err }
}
