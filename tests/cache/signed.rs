//! Manifests that must be signed, and everything that can be tried against them.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use minisign::{KeyPair, SecretKey};
use steadfast::backend::cache::{Cache, GcRequest};
use steadfast::backend::{Store, StoreError};
use steadfast::model::{FailureKind, Location, ManifestSource};
use steadfast::trust::kept::{KeptError, Record};
use steadfast::trust::{MAX_SIGNATURE_BYTES, Trust, TrustError, TrustedKey, sign};

use crate::server::{Reply, Server};
use crate::world::{KEY, TARBALL, World, at, manifest_of, publish, sha256, sync};

const MANIFEST: &str = "vm/manifest.json";
const SIGNATURE: &str = "vm/manifest.json.minisig";
const AT: &str = "2026-04-24T00:00:00.000Z";

/// Somebody who signs.
struct Signer {
    key: TrustedKey,
    secret: SecretKey,
}

impl Signer {
    fn new() -> Self {
        let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
        Self { key: TrustedKey::parse(&pk.to_base64()).unwrap(), secret: sk }
    }

    fn sign(&self, manifest: &str, serial: u64) -> String {
        sign(manifest.as_bytes(), AT, serial, None, &self.secret).unwrap()
    }

    /// A manifest of one agent at a version, signed.
    fn signed(&self, version: &str, serial: u64) -> Goods {
        let manifest = manifest_of(&[("openclaw", version, TARBALL)]);
        Goods { signature: Some(self.sign(&manifest, serial)), manifest, is_there: true }
    }
}

/// What is published.
#[derive(Clone)]
struct Goods {
    manifest: String,
    signature: Option<String>,
    is_there: bool,
}

/// A server whose goods can be exchanged.
struct Shelf {
    server: Server,
    goods: Arc<Mutex<Goods>>,
}

impl Shelf {
    async fn with(goods: Goods) -> Self {
        let goods = Arc::new(Mutex::new(goods));
        let shared = Arc::clone(&goods);
        let server = Server::start(move |request| {
            let goods = shared.lock().unwrap().clone();
            match (request.path.trim_start_matches('/'), goods.signature) {
                _ if !goods.is_there => Reply::new(503, ""),
                (MANIFEST, _) => {
                    let etag = format!("\"{}\"", sha256(goods.manifest.as_bytes()));
                    Reply::good(request, goods.manifest.as_bytes(), &etag)
                }
                (SIGNATURE, Some(signature)) => Reply::new(200, signature),
                (SIGNATURE, None) => Reply::new(404, ""),
                _ => Reply::good(request, TARBALL, "\"t\""),
            }
        })
        .await;
        Self { server, goods }
    }

    fn put(&self, goods: Goods) {
        *self.goods.lock().unwrap() = goods;
    }

    fn change(&self, change: impl FnOnce(&mut Goods)) {
        change(&mut self.goods.lock().unwrap());
    }

    fn source(&self, owner: &str, signers: &[&Signer]) -> ManifestSource {
        source(at(&self.server, MANIFEST), owner, signers)
    }

    /// How often the manifest was sent, and how often it was only said to be the same.
    fn asked(&self) -> (usize, usize) {
        let asked = self.server.requests(MANIFEST);
        let conditional = asked.iter().filter(|request| request.header("if-none-match").is_some()).count();
        (asked.len() - conditional, conditional)
    }
}

fn source(at: Location, owner: &str, signers: &[&Signer]) -> ManifestSource {
    let keys = signers.iter().map(|signer| signer.key.clone()).collect();
    ManifestSource { at, trust: Some(Trust { owner: owner.parse().unwrap(), keys }) }
}

/// No more patience than it takes.
fn impatient(world: &World) -> Cache {
    let options = steadfast::backend::cache::CacheOptions { retries: 0, ..crate::world::options() };
    Cache::open(world.dir.path(), options).unwrap()
}

/// Why a manifest is refused.
async fn refusal(cache: &Cache, from: &ManifestSource) -> TrustError {
    match sync(cache, from).await.unwrap_err() {
        StoreError::Untrusted { err, .. } => err,
        other => panic!("{other:?}"),
    }
}

async fn version(cache: &Cache, from: &ManifestSource) -> Option<String> {
    Some(cache.local(Some(from)).await.unwrap()?.agent("openclaw").unwrap().version.clone())
}

fn record(world: &World, owner: &str) -> Record {
    world.cache.accepted(&owner.parse().unwrap()).unwrap().unwrap()
}

#[tokio::test]
async fn what_is_signed_is_kept_with_its_floor() {
    let (world, signer) = (World::new(), Signer::new());
    let shelf = Shelf::with(signer.signed("1", 7)).await;
    let from = shelf.source("demo", &[&signer]);
    let report = world.sync(&from).await.unwrap();
    let signed = report.signed.unwrap();
    assert_eq!((signed.serial, signed.key.id()), (7, signer.key.id()));
    let accepted = record(&world, "demo").accepted;
    assert_eq!((accepted.serial, accepted.updated_at.as_str(), &accepted.key), (7, AT, &signer.key));
    assert_eq!(accepted.sha256, sha256(shelf.goods.lock().unwrap().manifest.as_bytes()), "of the literal bytes");
    let kept = world.dir.path().join("state/trust");
    let names: Vec<_> = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["demo.floor.json"]);
    assert_eq!(std::fs::metadata(kept.join("demo.floor.json")).unwrap().permissions().mode() & 0o777, 0o600);
    for cache in [world.cache.clone(), world.reopened()] {
        assert!(sync(&cache, &from).await.unwrap().skipped);
        assert_eq!(cache.local(Some(&from)).await.unwrap().unwrap().signed.unwrap().serial, 7);
    }
    assert_eq!(shelf.asked(), (1, 2), "unchanged under an unchanged signature");
    assert_eq!(shelf.server.requests(SIGNATURE).len(), 3, "once for each");
    // The same bytes signed anew are fetched and verified anew.
    shelf.change(|goods| goods.signature = Some(signer.sign(&goods.manifest, 8)));
    assert_eq!(world.sync(&from).await.unwrap().signed.unwrap().serial, 8);
    assert_eq!(shelf.asked(), (2, 2));
    assert_eq!(version(&world.reopened(), &from).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_file_is_verified_as_a_url_is() {
    let (world, signer, source_dir) = (World::new(), Signer::new(), tempfile::tempdir().unwrap());
    let path = publish(source_dir.path(), TARBALL);
    let from = source(Location::File(path.clone()), "demo", &[&signer]);
    assert_eq!(refusal(&world.cache, &from).await, TrustError::Unsigned);
    let signature = signer.sign(&std::fs::read_to_string(&path).unwrap(), 1);
    std::fs::write(source_dir.path().join(SIGNATURE), signature).unwrap();
    assert_eq!(world.sync(&from).await.unwrap().signed.unwrap().serial, 1);
}

#[tokio::test]
async fn what_is_not_right_is_refused_and_the_last_good_one_goes_on() {
    let (world, signer, other) = (World::new(), Signer::new(), Signer::new());
    let shelf = Shelf::with(signer.signed("1", 7)).await;
    let from = shelf.source("demo", &[&signer]);
    world.sync(&from).await.unwrap();
    let (copy, before) = (world.read(MANIFEST), record(&world, "demo"));
    let next = signer.signed("2", 8);
    let with = |signature: Option<String>| Goods { signature, ..next.clone() };
    let expired = SystemTime::now() - Duration::from_secs(1);
    let expired = sign(next.manifest.as_bytes(), AT, 8, Some(expired), &signer.secret).unwrap();
    let of_another = sign(next.manifest.as_bytes(), "2027-04-24T00:00:00.000Z", 8, None, &signer.secret).unwrap();
    let redated =
        Goods { manifest: signer.signed("1", 7).manifest.replace("2026-04", "2026-05"), ..signer.signed("1", 9) };
    type Is = fn(&TrustError) -> bool;
    let cases: [(&str, Goods, Is); 11] = [
        ("unsigned", with(None), |err| *err == TrustError::Unsigned),
        ("by another", other.signed("2", 8), |err| matches!(err, TrustError::UnknownKey { .. })),
        ("of other bytes", with(signer.signed("3", 8).signature), |err| matches!(err, TrustError::OtherBytes(_))),
        ("an old one, redated", redated, |err| matches!(err, TrustError::OtherBytes(_))),
        ("of another date", with(Some(of_another)), |err| matches!(err, TrustError::Comment(_))),
        ("expired", with(Some(expired)), |err| matches!(err, TrustError::Expired { .. })),
        ("no signature at all", with(Some("minisign".into())), |err| matches!(err, TrustError::Malformed(_))),
        ("empty", with(Some(String::new())), |err| matches!(err, TrustError::Malformed(_))),
        (
            "too long",
            with(Some("x".repeat(MAX_SIGNATURE_BYTES + 1))),
            |err| matches!(err, TrustError::Malformed(why) if why.contains("16 KiB")),
        ),
        ("older", signer.signed("0", 6), |err| *err == TrustError::Older { serial: 6, floor: 7 }),
        ("of the same serial", signer.signed("2", 7), |err| *err == TrustError::SameSerial(7)),
    ];
    for (name, goods, is) in cases {
        shelf.put(goods);
        for cache in [world.cache.clone(), world.reopened()] {
            let err = refusal(&cache, &from).await;
            assert!(is(&err), "{name}: {err}");
            assert_eq!(version(&cache, &from).await.as_deref(), Some("1"), "{name}");
        }
        assert_eq!((world.read(MANIFEST), record(&world, "demo")), (copy.clone(), before.clone()), "{name}");
    }
    shelf.put(next);
    world.sync(&from).await.unwrap();
    assert_eq!(version(&world.cache, &from).await.as_deref(), Some("2"));
    // What is signed is still checked for what it is.
    let broken = "{}";
    shelf.put(Goods { manifest: broken.into(), signature: Some(signer.sign(broken, 9)), is_there: true });
    assert_eq!(world.sync(&from).await.unwrap_err().kind(), FailureKind::ManifestInvalid);
    shelf.put(Goods { manifest: broken.into(), signature: None, is_there: true });
    assert_eq!(refusal(&world.cache, &from).await, TrustError::Unsigned, "before anything of it is read");
}

#[tokio::test]
async fn the_floor_outlives_the_cache() {
    let (world, signer) = (World::new(), Signer::new());
    let shelf = Shelf::with(signer.signed("2", 8)).await;
    let from = shelf.source("demo", &[&signer]);
    world.sync(&from).await.unwrap();
    shelf.put(signer.signed("1", 7));
    let older = TrustError::Older { serial: 7, floor: 8 };
    world.cache.gc(GcRequest::default()).await.unwrap();
    assert_eq!(refusal(&world.cache, &from).await, older);
    std::fs::remove_file(world.path("index.json")).unwrap();
    assert_eq!(refusal(&world.reopened(), &from).await, older);
    std::fs::remove_dir_all(world.path("")).unwrap();
    assert_eq!(refusal(&world.reopened(), &from).await, older);
    assert_eq!(version(&world.reopened(), &from).await, None);
    // Wherever else it may be published.
    let elsewhere = Shelf::with(signer.signed("1", 7)).await;
    assert_eq!(refusal(&world.cache, &elsewhere.source("demo", &[&signer])).await, older);
    assert!(world.cache.forget_accepted(&"demo".parse().unwrap()).unwrap());
    assert_eq!(world.sync(&from).await.unwrap().signed.unwrap().serial, 7);
}

#[tokio::test]
async fn a_publisher_changes_keys() {
    let (world, old, new) = (World::new(), Signer::new(), Signer::new());
    let shelf = Shelf::with(old.signed("1", 1)).await;
    let both = shelf.source("demo", &[&old, &new]);
    world.sync(&both).await.unwrap();
    shelf.put(new.signed("2", 2));
    assert_eq!(world.sync(&both).await.unwrap().signed.unwrap().key, new.key);
    shelf.put(old.signed("3", 3));
    world.sync(&both).await.unwrap();
    // The old key goes: what it signed does not count any more, fetched or kept.
    let only_new = shelf.source("demo", &[&new]);
    assert!(matches!(refusal(&world.cache, &only_new).await, TrustError::UnknownKey { .. }));
    assert_eq!(version(&world.cache, &only_new).await, None);
    shelf.change(|goods| goods.is_there = false);
    let offline = refusal(&impatient(&world), &only_new).await;
    assert!(matches!(&offline, TrustError::Unproved(why) if why.contains("503")), "{offline}");
    assert_eq!(
        sync(&impatient(&world), &both).await.unwrap_err().kind(),
        FailureKind::ManifestFetch,
        "out of reach, and no more"
    );
    assert_eq!(version(&world.cache, &both).await.as_deref(), Some("3"));
    // The very same bytes, signed with the new one.
    shelf.change(|goods| {
        goods.is_there = true;
        goods.signature = Some(new.sign(&goods.manifest, 3));
    });
    let published = world.cache.published(&only_new).await.unwrap();
    assert_eq!(version(&world.cache, &only_new).await, None, "who only looks changes nothing");
    world.cache.accept(&published, &only_new).await.unwrap();
    assert_eq!(version(&world.cache, &only_new).await.as_deref(), Some("3"));
}

#[tokio::test]
async fn keys_that_come_later_make_nothing_of_the_past_good() {
    let (world, signer) = (World::new(), Signer::new());
    let shelf = Shelf::with(Goods { signature: None, ..signer.signed("1", 1) }).await;
    world.sync(&at(&shelf.server, MANIFEST)).await.unwrap();
    let from = shelf.source("demo", &[&signer]);
    assert_eq!(version(&world.cache, &from).await, None);
    assert_eq!(refusal(&world.cache, &from).await, TrustError::Unsigned);
    assert_eq!(shelf.asked(), (2, 0), "what was never verified is no answer to fall back on");
    shelf.change(|goods| goods.is_there = false);
    assert!(matches!(refusal(&impatient(&world), &from).await, TrustError::Unproved(_)));
    assert!(!world.dir.path().join("state").exists(), "nothing was accepted");
    shelf.put(signer.signed("1", 1));
    world.sync(&from).await.unwrap();
    assert_eq!(version(&world.cache, &from).await.as_deref(), Some("1"));
    // And who asks for none goes on as before.
    assert!(world.sync(&at(&shelf.server, MANIFEST)).await.unwrap().signed.is_none());
}

/// Lets time pass over what was accepted.
fn let_expire(world: &World, owner: &str) {
    let past = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let change = |before: Option<&Record>| {
        let mut record = before.unwrap().clone();
        record.accepted.expires = past;
        record.copies.iter_mut().for_each(|copied| copied.accepted.expires = past);
        Ok::<_, KeptError>(record)
    };
    world.cache.ledger(&owner.parse().unwrap()).hold().unwrap().update(change).unwrap();
}

#[tokio::test]
async fn what_is_unchanged_expires_all_the_same() {
    let (world, signer) = (World::new(), Signer::new());
    let shelf = Shelf::with(signer.signed("1", 1)).await;
    let from = shelf.source("demo", &[&signer]);
    world.sync(&from).await.unwrap();
    let_expire(&world, "demo");
    assert!(matches!(refusal(&world.cache, &from).await, TrustError::Expired { .. }));
    assert_eq!(shelf.asked(), (1, 1), "304");
    shelf.change(|goods| goods.is_there = false);
    let stale = refusal(&impatient(&world), &from).await;
    assert!(matches!(&stale, TrustError::Stale { at, .. } if at == "1970-01-01T00:00:01Z"), "{stale}");
    assert_eq!(version(&world.cache, &from).await.as_deref(), Some("1"), "the last good one goes on");
}

#[tokio::test]
async fn a_record_that_is_lost_is_no_fresh_start() {
    let (world, signer) = (World::new(), Signer::new());
    let shelf = Shelf::with(signer.signed("1", 5)).await;
    let (from, owner) = (shelf.source("demo", &[&signer]), "demo".parse().unwrap());
    let path = world.cache.ledger(&owner).path().to_owned();
    for spoil in ["", "{\"version\": 1", "{}", "gone", "link"] {
        world.sync(&from).await.unwrap();
        match spoil {
            "gone" => std::fs::remove_file(&path).unwrap(),
            "link" => {
                std::fs::rename(&path, path.with_extension("moved")).unwrap();
                std::os::unix::fs::symlink(path.with_extension("moved"), &path).unwrap();
            }
            torn => std::fs::write(&path, torn).unwrap(),
        }
        let asked = shelf.server.requests(MANIFEST).len();
        let err = world.reopened().published(&from).await.unwrap_err();
        assert!(matches!(&err, StoreError::Accepted(err) if err.is_lost()), "{spoil}: {err:?}");
        assert!(err.to_string().contains(&path.display().to_string()), "{err}");
        assert_eq!(shelf.server.requests(MANIFEST).len(), asked, "{spoil}: nothing is asked for");
        assert_eq!(version(&world.cache, &from).await, None, "{spoil}");
        assert!(world.cache.forget_accepted(&owner).unwrap(), "{spoil}");
        assert!(!world.cache.forget_accepted(&owner).unwrap(), "{spoil}");
    }
    world.sync(&from).await.unwrap();
}

#[tokio::test]
async fn two_state_files_do_not_disturb_each_other() {
    let (world, one, two) = (World::new(), Signer::new(), Signer::new());
    let (here, there) = (Shelf::with(one.signed("1", 100)).await, Shelf::with(two.signed("2", 3)).await);
    let plain = Shelf::with(Goods { signature: None, ..two.signed("9", 0) }).await;
    let (a, b) = (here.source("a", &[&one]), there.source("b", &[&two]));
    for from in [&a, &b, &a, &at(&plain.server, MANIFEST).into(), &b] {
        world.sync(from).await.unwrap();
    }
    for (from, wanted) in [(&a, "1"), (&b, "2"), (&at(&plain.server, MANIFEST).into(), "9")] {
        assert_eq!(version(&world.reopened(), from).await.as_deref(), Some(wanted));
    }
    assert_eq!((record(&world, "a").accepted.serial, record(&world, "b").accepted.serial), (100, 3));
    // Neither of which is good for the other.
    assert!(matches!(refusal(&world.cache, &there.source("b", &[&one])).await, TrustError::UnknownKey { .. }));
}

#[tokio::test]
async fn a_publisher_at_work_is_waited_for() {
    let signer = Signer::new();
    let (before, after) = (signer.signed("1", 1), signer.signed("2", 2));
    for settles in [true, false] {
        let (before, after) = (before.clone(), after.clone());
        let server = Server::start(move |request| match request.path.trim_start_matches('/') {
            MANIFEST => Reply::new(200, after.manifest.clone()),
            SIGNATURE if settles && request.nth > 0 => Reply::new(200, after.signature.clone().unwrap()),
            SIGNATURE => Reply::new(200, before.signature.clone().unwrap()),
            _ => Reply::new(200, TARBALL),
        })
        .await;
        let (world, from) = (World::new(), source(at(&server, MANIFEST), "demo", &[&signer]));
        let synced = world.sync(&from).await;
        assert_eq!(server.requests(MANIFEST).len(), if settles { 2 } else { 3 });
        match synced {
            Ok(report) => assert_eq!((settles, report.signed.unwrap().serial), (true, 2)),
            Err(err) => {
                assert!(!settles && err.to_string().contains("is not what was signed with key"), "{err}");
                assert!(!world.dir.path().join("state").exists() && !world.has(KEY), "nothing came of it");
            }
        }
    }
}

#[tokio::test]
async fn who_is_killed_between_floor_and_manifest_is_followed_by_who_goes_on() {
    let (world, signer) = (World::new(), Signer::new());
    let shelf = Shelf::with(signer.signed("1", 1)).await;
    let from = shelf.source("demo", &[&signer]);
    world.sync(&from).await.unwrap();
    // The floor is there, and nothing else yet.
    shelf.put(signer.signed("2", 2));
    let published = world.cache.published(&from).await.unwrap();
    world.cache.accept(&published, &from).await.unwrap();
    assert_eq!(version(&world.reopened(), &from).await.as_deref(), Some("2"), "what was accepted goes on");
    assert!(String::from_utf8(world.read(MANIFEST)).unwrap().contains("\"1\""), "what it names is not there yet");
    // And then the record of the copy, and not the copy: nobody can write there. More than once.
    let (manifests, aside, outside) = (world.path("manifests"), world.path("aside"), tempfile::tempdir().unwrap());
    std::fs::rename(&manifests, &aside).unwrap();
    std::os::unix::fs::symlink(outside.path(), &manifests).unwrap();
    world.cache.commit_manifest(&published, Some(&from)).await.unwrap_err();
    shelf.put(signer.signed("3", 3));
    world.sync(&from).await.unwrap_err();
    assert_eq!(record(&world, "demo").copies.len(), 2);
    std::fs::remove_file(&manifests).unwrap();
    std::fs::rename(&aside, &manifests).unwrap();
    assert_eq!(version(&world.reopened(), &from).await.as_deref(), Some("1"), "the last good one is good");
    shelf.put(signer.signed("1", 1));
    assert_eq!(refusal(&world.reopened(), &from).await, TrustError::Older { serial: 1, floor: 3 });
    shelf.put(signer.signed("3", 3));
    sync(&world.reopened(), &from).await.unwrap();
    assert_eq!(version(&world.reopened(), &from).await.as_deref(), Some("3"));
    assert_eq!(record(&world, "demo").copies.len(), 1, "what was replaced does not count any more");
}

#[tokio::test]
async fn a_copy_that_somebody_changed_does_not_count() {
    let (world, signer) = (World::new(), Signer::new());
    let shelf = Shelf::with(signer.signed("1", 1)).await;
    let from = shelf.source("demo", &[&signer]);
    world.sync(&from).await.unwrap();
    let copies: Vec<_> = std::fs::read_dir(world.path("manifests")).unwrap().map(|it| it.unwrap().path()).collect();
    let good = world.read(MANIFEST);
    let forged = String::from_utf8(good.clone()).unwrap().replace("\"1\"", "\"6\"");
    world.write(MANIFEST, &forged);
    assert_eq!(version(&world.reopened(), &from).await.as_deref(), Some("1"), "its own copy is left");
    for copy in &copies {
        std::fs::write(copy, &forged).unwrap();
    }
    assert_eq!(version(&world.reopened(), &from).await, None);
    shelf.change(|goods| goods.is_there = false);
    assert!(matches!(refusal(&impatient(&world), &from).await, TrustError::Unproved(_)));
    world.write(MANIFEST, &good);
    assert_eq!(version(&world.reopened(), &from).await.as_deref(), Some("1"), "by its bytes, wherever they lie");
}
