//! Signatures that are right, and every way in which one may not be.

use std::time::Duration;

use minisign::KeyPair;

use super::*;

const AT: &str = "2026-04-27T00:00:00.000Z";
const BYTES: &[u8] = b"{\"schemaVersion\": 2}\n";

pub(crate) fn pair() -> (TrustedKey, SecretKey) {
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
    (TrustedKey::parse(&pk.to_base64()).unwrap(), sk)
}

fn now() -> SystemTime {
    humantime::parse_rfc3339("2026-05-01T00:00:00Z").unwrap()
}

fn checked(signature: &str, trusted: &[TrustedKey]) -> Result<Signed, TrustError> {
    verify(BYTES, AT, Some(signature.as_bytes()), trusted, now())
}

#[test]
fn what_is_signed_is_trusted_until_it_expires() {
    let ((key, secret), (other, _)) = (pair(), pair());
    let expires = now() + Duration::from_secs(60);
    let signature = sign(BYTES, AT, 7, Some(expires), &secret).unwrap();
    let signed = checked(&signature, &[other, key.clone()]).unwrap();
    assert_eq!((signed.key.id(), signed.serial, signed.expires), (key.id(), 7, Some(expires)));
    let late = verify(BYTES, AT, Some(signature.as_bytes()), &[key], expires);
    assert_eq!(late, Err(TrustError::Expired { at: "2026-05-01T00:01:00Z".to_owned() }));
    // The same without a key, by what it says of itself.
    let claims = |at: &str, now| check_claims(signature.as_bytes(), at, now);
    assert_eq!(claims(AT, now()), Ok(()));
    assert_eq!(claims(AT, expires), late.map(drop));
    assert!(matches!(claims("2026-04-28T00:00:00.000Z", now()), Err(TrustError::Comment(_))));
    assert!(matches!(check_claims(b"minisign", AT, now()), Err(TrustError::Malformed(_))));
}

#[test]
fn nothing_else_is() {
    let ((key, secret), (other, _)) = (pair(), pair());
    let signature = sign(BYTES, AT, 7, None, &secret).unwrap();
    let trusted = [key.clone()];
    assert_eq!(verify(BYTES, AT, None, &trusted, now()), Err(TrustError::Unsigned));
    assert_eq!(
        checked(&signature, std::slice::from_ref(&other)),
        Err(TrustError::UnknownKey { found: key.id(), trusted: vec![other.id()] })
    );
    let changed = verify(b"{\"schemaVersion\": 3}\n", AT, Some(signature.as_bytes()), &trusted, now());
    assert_eq!(changed, Err(TrustError::OtherBytes(key.id())));
    for cut in 0..signature.len() - 1 {
        assert!(checked(&signature[..cut], &trusted).is_err(), "{cut}");
    }
    // The trusted comment is signed, too.
    for (from, to) in
        [("serial=7", "serial=8"), ("file=manifest.json", "file=manifest.jsom"), (AT, "2027-04-27T00:00:00.000Z")]
    {
        assert!(matches!(checked(&signature.replace(from, to), &trusted), Err(TrustError::OtherBytes(_))), "{from}");
    }
    // An old genuine manifest under a new date.
    let err = verify(BYTES, "2026-05-27T00:00:00.000Z", Some(signature.as_bytes()), &trusted, now()).unwrap_err();
    assert!(matches!(&err, TrustError::Comment(why) if why.contains("updated at 2026-04-27")), "{err}");
    let long = format!("{signature}{}", "x".repeat(MAX_SIGNATURE_BYTES));
    assert!(matches!(checked(&long, &trusted), Err(TrustError::Malformed(_))));
    assert!(matches!(verify(BYTES, AT, Some(&[0xff]), &trusted, now()), Err(TrustError::Malformed(_))));
}

#[test]
fn a_comment_says_what_it_is_about_and_once() {
    let read = |comment: &str| About::read(comment, AT);
    let whole = format!("file=manifest.json serial=7 updatedAt={AT}");
    assert_eq!(read(&format!("more {whole} other=x")).unwrap(), About { serial: 7, expires: None });
    for (comment, words) in [
        ("timestamp:1 file:x".to_owned(), "does not say `file`"),
        (whole.replace("serial=7", ""), "does not say `serial`"),
        (whole.replace(AT, "x"), "it is of one updated at x"),
        (whole.replace("=7", "=-7"), "its serial is `-7`"),
        (whole.replace("manifest.json", "other.json"), "it is of `other.json`"),
        (format!("{whole} serial=8"), "says `serial` twice"),
        (format!("{whole} expires=soon"), "it expires at `soon`"),
    ] {
        let err = read(&comment).unwrap_err();
        assert!(err.contains(words), "{comment}: {err}");
    }
}

#[test]
fn a_serial_only_rises_and_has_one_manifest() {
    let (key, secret) = pair();
    let signed = |bytes: &[u8], serial| {
        let signature = sign(bytes, AT, serial, None, &secret).unwrap();
        verify(bytes, AT, Some(signature.as_bytes()), std::slice::from_ref(&key), now()).unwrap()
    };
    let floor = admit(&signed(BYTES, 7), None).unwrap();
    assert_eq!(admit(&signed(BYTES, 7), Some(&floor)).unwrap(), floor, "the same again");
    assert_eq!(admit(&signed(b"other", 7), Some(&floor)), Err(TrustError::SameSerial(7)));
    assert_eq!(admit(&signed(BYTES, 6), Some(&floor)), Err(TrustError::Older { serial: 6, floor: 7 }));
    assert_eq!(admit(&signed(b"other", 8), Some(&floor)).unwrap().serial, 8);
}

#[test]
fn a_key_is_one_or_is_refused_in_words() {
    let (key, _) = pair();
    assert_eq!(TrustedKey::parse(&format!(" {key}\n")).unwrap(), key);
    assert_eq!(key.id().to_string().len(), 16);
    for wrong in ["", "RW", "untrusted comment: minisign public key", &key.to_string()[1..], &"A".repeat(56)] {
        let err = TrustedKey::parse(wrong).unwrap_err();
        assert!(err.contains("is not a minisign public key"), "{err}");
    }
}
