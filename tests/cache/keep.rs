//! What lies in the cache: proof, quarantine, verify, gc.

use std::os::unix::fs::symlink;
use std::path::Path;

use futures_util::StreamExt;
use steadfast::backend::cache::{GcRequest, Verdict};
use steadfast::backend::{Progress, Store, StoreError};
use steadfast::model::{ImageId, Location, ManifestSource};

use crate::server::Server;
use crate::world::{KEY, TARBALL, World, artifact, at, key, noise, publish, published, sha256};

const MANIFEST: &str = "vm/manifest.json";

async fn synced() -> (World, Server) {
    let (world, server) = (World::new(), published(TARBALL).await);
    world.sync(&at(&server, MANIFEST)).await.unwrap();
    (world, server)
}

#[tokio::test]
async fn the_index_proves_and_its_loss_costs_a_hash_and_no_byte() {
    let (world, server) = synced().await;
    let listed = || async { world.reopened().list().await.unwrap()[&key(KEY)].clone() };
    assert_eq!(listed().await.digest, Some(sha256(TARBALL)));
    for spoil in [None, Some("garbage"), Some("{}"), Some("\0")] {
        match spoil {
            None => std::fs::remove_file(world.path("index.json")).unwrap(),
            Some(text) => world.write("index.json", text),
        }
        assert_eq!(listed().await.digest, None);
        assert_eq!(world.reopened().prove(&key(KEY)).await.unwrap(), Some(sha256(TARBALL)));
        assert_eq!(listed().await.digest, Some(sha256(TARBALL)));
    }
    assert_eq!(server.requests(KEY).len(), 1);
    assert_eq!(world.cache.prove(&key("vm/none")).await.unwrap(), None);
}

#[tokio::test]
async fn a_file_in_the_wrong_place_is_moved_aside_and_fetched() {
    let (world, server) = synced().await;
    // Same length, and the time set back: only ctime tells.
    let times = std::fs::metadata(world.path(KEY)).unwrap().modified().unwrap();
    world.write(KEY, b"openclaw-TARBALL");
    std::fs::File::options().write(true).open(world.path(KEY)).unwrap().set_modified(times).unwrap();
    assert_eq!(world.cache.list().await.unwrap()[&key(KEY)].digest, None, "the index does not believe it");
    assert!(world.fetch(&artifact(TARBALL), &server).await.unwrap());
    assert_eq!(world.read(KEY), TARBALL);
    let kept: Vec<_> =
        std::fs::read_dir(world.path("quarantine")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read(&kept[0]).unwrap(), b"openclaw-TARBALL");
    for n in 0..8 {
        world.write(KEY, format!("corrupt {n}"));
        assert!(world.fetch(&artifact(TARBALL), &server).await.unwrap());
    }
    assert_eq!(std::fs::read_dir(world.path("quarantine")).unwrap().count(), 4, "only the last few are kept");
}

#[tokio::test]
async fn a_right_file_from_elsewhere_is_taken_as_it_is() {
    let world = World::new();
    world.write(KEY, TARBALL);
    let nowhere = Location::File("/nowhere".into());
    assert!(!world.cache.fetch(&artifact(TARBALL), &nowhere, Progress::new(0)).await.unwrap());
}

#[tokio::test]
async fn nothing_is_written_or_read_through_a_link() {
    let (outside, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let manifest = publish(source.path(), TARBALL);
    std::fs::write(outside.path().join("openclaw-2026.4.12-x64.tar.gz"), TARBALL).unwrap();
    for (link, to) in [("vm", outside.path().to_owned()), ("vm/images", outside.path().to_owned())] {
        let world = World::new();
        let path = world.path(link);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        let err = world.sync(&Location::File(manifest.clone())).await.unwrap_err();
        assert!(matches!(err, StoreError::Escapes { .. }), "{link}: {err}");
        assert!(matches!(world.cache.prove(&key(KEY)).await, Err(StoreError::Escapes { .. })), "{link}");
        assert!(world.cache.open_plain(&key(KEY), Progress::new(0)).await.is_err(), "{link}");
        assert!(matches!(world.cache.remove(&key(KEY)).await, Err(StoreError::Escapes { .. })), "{link}");
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "nothing came, nothing went");
    // The cache directory itself may be a link: that is its owner's choice.
    let world = World::new();
    symlink(outside.path(), world.path(""))
        .unwrap_or_else(|_| symlink(outside.path(), world.dir.path().join("cache")).unwrap());
    assert!(!world.sync(&Location::File(manifest)).await.unwrap().skipped);
}

/// What may lie where a file belongs.
const WRONG: [&str; 5] = ["directory", "link", "dangling link", "pipe", "stranger's file"];

/// Puts it there. `false` where this user cannot.
fn plant(wrong: &str, path: &Path, victim: &Path) -> bool {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    match wrong {
        "directory" => std::fs::create_dir_all(path.join("with/something")).unwrap(),
        "link" => symlink(victim, path).unwrap(),
        "dangling link" => symlink("/nowhere/at/all", path).unwrap(),
        "pipe" => assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()),
        _ => {
            std::fs::write(path, TARBALL).unwrap();
            return std::os::unix::fs::chown(path, Some(4711), None).is_ok();
        }
    }
    true
}

#[tokio::test]
async fn whatever_lies_where_a_file_belongs_is_moved_aside() {
    let (source, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = ManifestSource::from(Location::File(publish(source.path(), TARBALL)));
    let victim = elsewhere.path().join("victim");
    let place = sha256(source.path().join("vm/manifest.json").as_os_str().as_encoded_bytes());
    for file in [
        KEY,
        &format!("{KEY}.partial"),
        &format!("{KEY}.partial.json"),
        "index.json",
        "index.lock",
        "vm/manifest.json",
        "vm/.steadfast-tmp-manifest.json~",
        &format!("manifests/{place}.json"),
    ] {
        for wrong in WRONG {
            let world = World::new();
            std::fs::write(&victim, "precious").unwrap();
            if !plant(wrong, &world.path(file), &victim) {
                continue;
            }
            let _ = (world.cache.list().await.unwrap(), world.cache.local(Some(&from)).await.unwrap());
            assert!(!world.has("quarantine"), "who only looks moves nothing: {wrong} at {file}");
            let report = world.sync(&from).await.unwrap_or_else(|err| panic!("{wrong} at {file}: {err:?}"));
            assert!(!report.skipped);
            let aside = std::fs::read_dir(world.path("quarantine")).unwrap().count();
            assert_eq!(aside, 1, "{wrong} at {file}");
            assert_eq!(world.read(KEY), TARBALL);
            assert!(world.cache.local(Some(&from)).await.unwrap().is_some());
            assert!(world.reopened().list().await.unwrap()[&key(KEY)].digest.is_some(), "the index is written");
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious", "{wrong} at {file}");
            assert!(world.sync(&from).await.unwrap().skipped);
        }
    }
}

#[tokio::test]
async fn whatever_lies_where_a_directory_belongs_is_moved_aside() {
    let source = tempfile::tempdir().unwrap();
    let from = Location::File(publish(source.path(), TARBALL));
    for directory in ["vm", "vm/images", "manifests", "quarantine"] {
        let world = World::new();
        world.write(directory, b"a file");
        if directory == "quarantine" {
            world.write(KEY, b"not the artifact");
        }
        world.cache.list().await.unwrap();
        assert!(!world.sync(&from).await.unwrap().skipped, "{directory}");
        assert_eq!(world.read(KEY), TARBALL, "{directory}");
        let aside = std::fs::read_dir(world.path("quarantine")).unwrap().count();
        assert_eq!(aside, 1, "{directory}");
        assert!(world.sync(&from).await.unwrap().skipped);
    }
}

#[tokio::test]
async fn directories_in_quarantine_stay_until_gc() {
    let (world, _server) = synced().await;
    for at in 0..6 {
        std::fs::create_dir_all(world.path(&format!("quarantine/dir.{at}/with/something"))).unwrap();
        world.write(KEY, format!("wrong {at}"));
        let source = tempfile::tempdir().unwrap();
        world.sync(&Location::File(publish(source.path(), TARBALL))).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(world.path("quarantine")).unwrap().count(), 6 + 4);
    world.cache.gc(GcRequest::default()).await.unwrap();
    assert_eq!(std::fs::read_dir(world.path("quarantine")).unwrap().count(), 0);
    assert!(world.has(KEY));
}

#[tokio::test]
async fn images_are_remembered_by_digest() {
    let (world, _server) = synced().await;
    world.cache.remember_image(sha256(TARBALL), &ImageId::from("sha256:abc"), None).await.unwrap();
    assert_eq!(world.reopened().list().await.unwrap()[&key(KEY)].image, Some(ImageId::from("abc")));
}

/// Two state files below one root whose publishers have other bytes under one key: both have room, and neither takes it from
/// the other.
#[tokio::test]
async fn bytes_of_two_publishers_under_one_key_lie_beside_each_other() {
    let world = World::new();
    let (ours, theirs) = (noise(1000), noise(2000));
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let at = |place: usize| Location::File(places[place].path().join(KEY));
    for (place, bytes) in [(0, &ours), (1, &theirs)] {
        publish(places[place].path(), bytes);
    }
    let fetch = async |place: usize, bytes: &[u8]| {
        world.reopened().fetch(&artifact(bytes), &at(place), Progress::new(0)).await.unwrap()
    };
    let listed = async || world.reopened().list().await.unwrap();
    // Alone, whoever publishes the key anew has its place.
    std::fs::create_dir_all(world.dir.path().join("state/one")).unwrap();
    assert!(fetch(0, &ours).await && fetch(1, &theirs).await);
    assert_eq!((listed().await.len(), world.read(KEY)), (1, theirs.clone()));

    std::fs::create_dir_all(world.dir.path().join("state/two")).unwrap();
    assert!(fetch(0, &ours).await);
    for _ in 0..3 {
        assert!(!fetch(0, &ours).await && !fetch(1, &theirs).await, "nobody's bytes were taken away");
    }
    let beside = artifact(&ours).key_beside();
    assert_eq!(world.read(KEY), theirs, "what lay under the key stays there");
    assert_eq!(world.read(beside.as_str()), ours);
    let files = listed().await;
    assert_eq!(artifact(&ours).find_in(&files).unwrap().0, &beside);
    assert_eq!(artifact(&theirs).find_in(&files).unwrap().0, &key(KEY));
    assert_eq!(world.cache.file(&artifact(&ours)), Some(world.path(beside.as_str())));
    // Anew from the same place: it takes its own place, not the other's.
    let anew = noise(3000);
    std::fs::write(places[1].path().join(KEY), &anew).unwrap();
    assert!(fetch(1, &anew).await);
    assert_eq!((world.read(KEY), world.read(beside.as_str())), (anew, ours));
}

#[tokio::test]
async fn verify_reads_only_what_it_must_and_finds_what_changed() {
    let (world, server) = synced().await;
    world.write("vm/images/older-1-x64.tar.gz", b"older");
    let verdicts = |deep| {
        let cache = world.reopened();
        async move { cache.verify(deep).await.unwrap().files.into_iter().map(|file| file.verdict).collect::<Vec<_>>() }
    };
    assert_eq!(verdicts(false).await, [Verdict::Unlisted, Verdict::Good]);
    world.write(KEY, b"openclaw-TARBALL");
    let bad = Verdict::Bad { expected: sha256(TARBALL) };
    assert_eq!(verdicts(true).await, [Verdict::Unlisted, bad.clone()]);
    assert_eq!(verdicts(false).await, [Verdict::Unlisted, bad]);
    assert!(world.fetch(&artifact(TARBALL), &server).await.unwrap());
    assert_eq!(world.reopened().verify(true).await.unwrap().bad().count(), 0);
}

#[tokio::test]
async fn an_artifact_that_is_read_is_not_removed() {
    let world = World::new();
    let bytes = noise(4 * 1024 * 1024);
    world.write(KEY, &bytes);
    let mut stream = world.cache.open_plain(&key(KEY), Progress::new(0)).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    world.reopened().remove(&key(KEY)).await.unwrap();
    assert!(world.has(KEY), "it is being read");
    let mut read = first.len();
    while let Some(piece) = stream.next().await {
        read += piece.unwrap().len();
    }
    assert_eq!(read, bytes.len());
    drop(stream);
    // The reading thread ends a moment after the stream.
    for _ in 0..200 {
        world.cache.remove(&key(KEY)).await.unwrap();
        if !world.has(KEY) {
            return world.cache.remove(&key(KEY)).await.unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it was never removed");
}

#[tokio::test]
async fn gc_removes_what_nobody_needs_and_nothing_else() {
    let (world, _server) = synced().await;
    let (old, wanted) = ("vm/images/openclaw-1.0-x64.tar.gz", "vm/images/openclaw-2.0-x64.tar.gz");
    for name in [old, wanted, "vm/images/notes.txt"] {
        world.write(name, name);
    }
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 60 * 60);
    for partial in ["dead-1-x64", "dead-2-x64", "root-1-x64", "young-1-x64"] {
        let name = format!("vm/images/{partial}.tar.gz.partial");
        world.write(&name, b"half");
        if !partial.starts_with("young") {
            std::fs::File::options().write(true).open(world.path(&name)).unwrap().set_modified(long_ago).unwrap();
        }
    }
    world.write("vm/images/dead-1-x64.tar.gz.partial.json", b"{}");
    world.write("vm/images/orphan-1-x64.tar.gz.partial.json", b"{}");
    world.write("quarantine/x.1", b"bad");
    let held = std::fs::File::open(world.path("vm/images/dead-2-x64.tar.gz.partial")).unwrap();
    held.lock().unwrap();
    let request = |dry_run| GcRequest {
        roots: [key(wanted), key("vm/images/root-1-x64.tar.gz")].into(),
        dry_run,
        ..GcRequest::default()
    };
    let all = || {
        let mut names: Vec<_> =
            std::fs::read_dir(world.path("vm/images")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = all();
    let planned = world.cache.gc(request(true)).await.unwrap();
    assert_eq!(all(), before, "a dry run changes nothing");
    let done = world.cache.gc(request(false)).await.unwrap();
    assert_eq!(planned, done, "what was shown is what was done");
    let mut gone: Vec<_> =
        done.removed.iter().map(|garbage| garbage.path.file_name().unwrap().to_str().unwrap()).collect();
    gone.sort();
    assert_eq!(
        gone,
        ["dead-1-x64.tar.gz.partial", "openclaw-1.0-x64.tar.gz", "orphan-1-x64.tar.gz.partial.json", "x.1"]
    );
    assert_eq!(done.busy, [key("vm/images/dead-2-x64.tar.gz")]);
    assert_eq!(
        all(),
        [
            "dead-2-x64.tar.gz.partial",
            "notes.txt",
            "openclaw-2.0-x64.tar.gz",
            "openclaw-2026.4.12-x64.tar.gz",
            "root-1-x64.tar.gz.partial",
            "young-1-x64.tar.gz.partial"
        ]
    );
    assert!(done.freed() > 0);
    drop(held);
    assert!(world.cache.gc(request(false)).await.unwrap().busy.is_empty());
}
