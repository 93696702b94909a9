use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;
use crate::trust::tests::pair;

fn accepted(serial: u64) -> Accepted {
    let digest = Sha256Digest::from_bytes([7; 32]);
    let expires = Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_000_000_001));
    let updated_at = "2026-04-24T00:00:00.000Z".to_owned();
    Accepted { serial, sha256: digest, updated_at, expires, key: pair().0, signature: digest }
}

fn keep(ledger: &Ledger, accepted: &Accepted) -> Record {
    let copied = Copied {
        accepted: accepted.clone(),
        copy: accepted.sha256,
        pending: false,
        place: accepted.sha256,
        etag: None,
        last_modified: None,
    };
    let record = Record { accepted: accepted.clone(), copies: vec![copied] };
    ledger.hold().unwrap().update::<KeptError>(|_| Ok(record.clone())).unwrap();
    record
}

#[test]
fn what_is_kept_is_read_again_and_private() {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(root.path(), &"demo".parse().unwrap());
    assert_eq!(ledger.read().unwrap(), None);
    assert!(!ledger.hold().unwrap().forget().unwrap());
    let kept = keep(&ledger, &accepted(7));
    assert_eq!(ledger.read().unwrap(), Some(kept));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(ledger.path()), mode(ledger.directory())), (0o600, 0o700));
    assert!(is_only_trust(ledger.directory()));
    assert!(ledger.hold().unwrap().forget().unwrap());
    assert_eq!(ledger.read().unwrap(), None);
}

/// Every torn and every flipped byte: nothing but what was written is taken for it.
#[test]
fn what_is_damaged_is_never_a_fresh_start() {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(root.path(), &"demo".parse().unwrap());
    let kept = keep(&ledger, &accepted(17));
    let whole = std::fs::read(ledger.path()).unwrap();
    for cut in 0..whole.len() - 1 {
        std::fs::write(ledger.path(), &whole[..cut]).unwrap();
        assert!(ledger.read().unwrap_err().is_lost(), "{cut}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(ledger.path(), &bytes).unwrap();
        match ledger.read() {
            Err(err) => assert!(err.is_lost(), "{at}"),
            // A blank may be another blank, and a hex digit of another case.
            Ok(read) => assert_eq!(read.as_ref(), Some(&kept), "{at}"),
        }
    }
    std::fs::remove_file(ledger.path()).unwrap();
    std::os::unix::fs::symlink("elsewhere", ledger.path()).unwrap();
    assert!(ledger.read().unwrap_err().is_lost());
    assert!(ledger.hold().unwrap().forget().unwrap());
    assert_eq!(ledger.read().unwrap(), None);
}

#[test]
fn who_writes_waits_for_who_reads_and_writes() {
    let root = tempfile::tempdir().unwrap();
    let accepted = accepted(0);
    let ledger = Ledger::new(root.path(), &"demo".parse().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let next = |before: Option<&Record>| {
                        let serial = before.map_or(0, |record| record.accepted.serial) + 1;
                        let accepted = Accepted { serial, ..accepted.clone() };
                        Ok::<_, KeptError>(Record { accepted, copies: Vec::new() })
                    };
                    ledger.hold().unwrap().update(next).unwrap();
                }
            });
        }
    });
    assert_eq!(ledger.read().unwrap().unwrap().accepted.serial, 80);
}
