//! The manifest, and the whole of `cache sync`.

use std::time::Duration;

use steadfast::backend::cache::{CacheOptions, GcRequest, SyncAgent, SyncRequest, SyncWanted};
use steadfast::backend::{Store, StoreError};
use steadfast::model::{AgentName, Arch, FailureKind, Location, ManifestSource, Version};

use crate::server::{End, Reply, Server};
use crate::world::{KEY, TARBALL, World, at, key, manifest, manifest_of, options, publish, published, sha256, sync};

const MANIFEST: &str = "vm/manifest.json";

fn source(server: &Server, path: &str) -> ManifestSource {
    at(server, path).into()
}

#[tokio::test]
async fn the_first_sync_fetches_and_the_second_skips() {
    let (world, server) = (World::new(), published(TARBALL).await);
    let from = at(&server, MANIFEST);
    let report = world.sync(&from).await.unwrap();
    assert_eq!((report.downloaded, report.skipped), (vec![key(KEY)], false));
    assert_eq!(report.manifest_path, world.path(MANIFEST));
    assert_eq!(world.read(KEY), TARBALL);
    let copy = String::from_utf8(world.read(MANIFEST)).unwrap();
    assert!(copy.starts_with("{\n  \"schemaVersion\": 2,") && copy.ends_with("}\n"), "{copy}");

    for cache in [world.cache.clone(), world.reopened()] {
        let report = sync(&cache, &from).await.unwrap();
        assert!(report.skipped && report.downloaded.is_empty());
    }
    assert_eq!(server.requests(KEY).len(), 1, "the tarball came once");
    assert!(server.requests(MANIFEST)[1..].iter().all(|request| request.header("if-none-match") == Some("\"m1\"")));
    assert_eq!(server.sent(), (manifest(TARBALL).len() + TARBALL.len()) as u64, "nothing else was sent");
}

#[tokio::test]
async fn files_and_paths_work_as_urls_do() {
    let source = tempfile::tempdir().unwrap();
    let path = publish(source.path(), TARBALL);
    for text in [format!("file://{}", path.display()), path.display().to_string()] {
        let world = World::new();
        let from = Location::parse(&text).unwrap();
        assert_eq!(world.sync(&from).await.unwrap().downloaded, [key(KEY)]);
        assert!(world.sync(&from).await.unwrap().skipped);
    }
    let err = World::new().sync(&Location::parse("/nowhere/vm/manifest.json").unwrap()).await.unwrap_err();
    assert_eq!(err.to_string(), "manifest fetch failed: /nowhere/vm/manifest.json (no such file or directory)");
}

#[tokio::test]
async fn an_unchanged_answer_is_only_good_for_the_copy_it_belongs_to() {
    let (world, server) = (World::new(), published(TARBALL).await);
    let from = source(&server, MANIFEST);
    world.sync(&from).await.unwrap();
    let conditional = || server.requests(MANIFEST).last().unwrap().header("if-none-match").is_some();
    for spoiled in ["", "{}", &manifest(b"other bytes")] {
        world.write(MANIFEST, spoiled);
        let got = world.reopened().published(&from).await.unwrap();
        assert!(!conditional(), "{spoiled:?} is not the copy");
        assert_eq!(got.artifact("openclaw", Arch::X64).unwrap().sha256, sha256(TARBALL));
        world.sync(&from).await.unwrap();
    }
    world.published_again(&from).await;
    assert!(conditional(), "the copy is whole again");
    let elsewhere = source(&server, "other/vm/manifest.json");
    let _ = world.cache.published(&elsewhere).await;
    assert!(server.requests("/other/vm/manifest.json")[0].header("if-none-match").is_none());
}

impl World {
    async fn published_again(&self, from: &ManifestSource) {
        self.reopened().published(from).await.unwrap();
    }
}

#[tokio::test]
async fn a_manifest_that_cannot_be_had_names_the_place_and_the_status() {
    for (reply, cause, asked) in [
        (Reply::new(404, "<html>"), "404", 1),
        (Reply::new(403, ""), "403", 1),
        (Reply::new(503, ""), "503", 6),
        (Reply::new(302, "").header("Location", "/vm/manifest.json"), "too many redirects", 11),
        (Reply::new(200, "{}").end(End::Stall(1)), "no data for 50ms", 6),
        (Reply::new(200, "{}").end(End::Stall(0)).length(Some(9)), "no data for 50ms", 6),
    ] {
        let stall_timeout = Duration::from_millis(if cause.starts_with("no data") { 50 } else { 30_000 });
        let world = World::with(CacheOptions { stall_timeout, ..options() });
        let server = Server::start(move |_| reply.clone()).await;
        let from = at(&server, MANIFEST);
        let err = world.sync(&from).await.unwrap_err();
        assert_eq!(err.to_string(), format!("manifest fetch failed: {from} ({cause})"));
        assert_eq!(server.requests(MANIFEST).len(), asked, "{cause}");
        assert!(!world.has(""), "nothing was written");
    }
}

#[tokio::test]
async fn a_busy_server_gets_another_chance() {
    let server = Server::start(|request| match (request.path.ends_with("json"), request.nth) {
        (true, 0) => Reply::new(503, ""),
        (true, _) => Reply::new(200, manifest(TARBALL)),
        (false, _) => Reply::new(200, TARBALL),
    })
    .await;
    assert!(!World::new().sync(&at(&server, MANIFEST)).await.unwrap().skipped);
}

#[tokio::test]
async fn a_manifest_that_trickles_in_is_not_waited_for_for_ever() {
    let server = Server::start(|_| Reply::new(200, vec![b' '; 3 * 1024 * 1024]).pace(Duration::from_millis(50))).await;
    let world = World::with(CacheOptions { manifest_timeout: Duration::from_millis(200), ..options() });
    let err = world.sync(&at(&server, MANIFEST)).await.unwrap_err();
    assert!(err.to_string().ends_with("(not complete after 200ms)"), "{err}");
    assert!(err.is_retryable());
    assert_eq!(server.requests(MANIFEST).len(), 1);
}

/// A manifest with a further field that takes little room, and much once it is indented.
fn nested(zeros: usize) -> String {
    let more = format!("{}[{}]{}", "[".repeat(100), vec!["0"; zeros].join(","), "]".repeat(100));
    manifest(TARBALL).replacen('{', &format!(r#"{{"more":{more},"#), 1)
}

#[tokio::test]
async fn a_large_manifest_is_kept_and_read_again() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let published = publish(dir.path(), TARBALL);
    std::fs::write(&published, nested(30_000)).unwrap();
    let from = ManifestSource::from(Location::File(published));
    world.sync(&from).await.unwrap();
    assert!(world.read(MANIFEST).len() > 5 * 1024 * 1024);
    let local = world.cache.local(Some(&from)).await.unwrap().expect("what we wrote can be read");
    assert_eq!(local, world.cache.published(&from).await.unwrap(), "nothing is left to be written");
    let stamp = || std::fs::metadata(world.path(MANIFEST)).unwrap().modified().unwrap();
    let before = stamp();
    assert!(world.sync(&from).await.unwrap().skipped);
    assert_eq!(stamp(), before);
}

#[tokio::test]
async fn a_key_below_another_is_refused_before_anything_is_written() {
    let (world, server) = (
        World::new(),
        Server::start(|_| {
            let lower = manifest_of(&[("a", "1", b"aaa"), ("b", "1", b"bbb")]);
            Reply::new(200, lower.replace("vm/images/b-1-x64.tar.gz", "vm/images/a-1-x64.tar.gz/b"))
        })
        .await,
    );
    let err = world.sync(&at(&server, MANIFEST)).await.unwrap_err().to_string();
    assert!(err.contains("x64 tarball of `b` is not valid"), "{err}");
    assert!(!world.has(""), "nothing is written");
}

#[tokio::test]
async fn what_is_no_manifest_is_refused_and_changes_nothing() {
    let huge = vec![b' '; 100 * 1024 * 1024];
    for (reply, why) in [
        (Reply::new(200, "<html>"), "manifest is not valid"),
        (Reply::new(200, r#"{"schemaVersion":3}"#), "schemaVersion 3"),
        (Reply::new(200, huge.clone()), "larger than 4 MiB"),
        (Reply::new(200, huge).length(None), "larger than 4 MiB"),
        (Reply::new(200, manifest(TARBALL).replace("vm/images/openclaw-2026.4.12-x64", "vm/../../x")), "`..`"),
        (Reply::new(200, manifest(TARBALL).replace("vm/images/openclaw-2026.4.12-x64", "/etc/x")), "is absolute"),
        (Reply::new(200, manifest(TARBALL).replace(&sha256(TARBALL).to_string(), "beef")), "not a sha256"),
        (Reply::new(200, manifest(TARBALL).replace("vm/images/openclaw-2026.4.12-x64.tar.gz", "vm/images")), "lie in"),
        (Reply::new(200, nested(2_000_000)), "larger than 16 MiB once it is indented"),
    ] {
        let (world, good) = (World::new(), published(TARBALL).await);
        world.sync(&at(&good, MANIFEST)).await.unwrap();
        let before = world.read(MANIFEST);
        let server = Server::start(move |_| reply.clone()).await;
        let err = world.sync(&at(&server, MANIFEST)).await.unwrap_err();
        assert!(matches!(err, StoreError::Manifest { .. }), "{err}");
        assert!(err.to_string().contains(why), "{err}");
        assert!(server.sent() < 20 * 1024 * 1024, "{} bytes were taken", server.sent());
        assert_eq!((world.read(MANIFEST), server.requests(KEY).len()), (before, 0));
    }
}

#[tokio::test]
async fn the_local_manifest_is_written_last() {
    let server = Server::start(|request| match request.path.ends_with("json") {
        true => Reply::new(200, manifest_of(&[("a", "1", b"aaa"), ("b", "1", b"bbb"), ("c", "1", b"ccc")])),
        false if request.path.contains("/a-") => Reply::new(404, ""),
        false if request.path.contains("/b-") => Reply::new(200, "BBB"),
        false => Reply::new(200, "ccc").pace(Duration::from_millis(50)),
    })
    .await;
    let world = World::new();
    let err = world.sync(&at(&server, MANIFEST)).await.unwrap_err();
    assert!(matches!(err, StoreError::DigestMismatch { .. }), "wrong bytes are graver than a 404: {err}");
    assert!(world.has("vm/images/c-1-x64.tar.gz"), "the others are brought in all the same");
    assert!(!world.has(MANIFEST));
    assert!(world.cache.local(None).await.unwrap().is_none());
}

#[tokio::test]
async fn only_the_agents_asked_for_are_fetched() {
    let text = manifest_of(&[("a", "1", b"aaa"), ("b", "1", b"bbb")]);
    let server = Server::start(move |request| match request.path.ends_with("json") {
        true => Reply::new(200, text.clone()),
        false => Reply::new(200, if request.path.contains("/a-") { "aaa" } else { "bbb" }),
    })
    .await;
    let world = World::new();
    let agent = |version: &str, arch| SyncAgent {
        agent: AgentName::new("b").unwrap(),
        version: Version::Exact(version.into()),
        arches: vec![arch],
        pins: [(Arch::X64, sha256(b"bbb"))].into(),
    };
    let ask = |agent| SyncRequest { manifest: at(&server, MANIFEST).into(), wanted: SyncWanted::Agents(vec![agent]) };
    let report = world.cache.sync(&ask(agent("1", Arch::X64)), |_, _| {}).await.unwrap();
    assert_eq!(report.downloaded, [key("vm/images/b-1-x64.tar.gz")]);
    let err = world.cache.sync(&ask(agent("2", Arch::X64)), |_, _| {}).await.unwrap_err().to_string();
    assert!(err.ends_with("the manifest offers `b` at version 1, not 2"), "{err}");
    let err = world.cache.sync(&ask(agent("1", Arch::Arm64)), |_, _| {}).await.unwrap_err().to_string();
    assert!(err.ends_with("`unused` is not a sha256: expected 64 hex digits"), "{err}");
    let pinned = SyncAgent { pins: [(Arch::X64, sha256(b"pinned"))].into(), ..agent("1", Arch::X64) };
    let before = server.requests("gz").len();
    let err = world.cache.sync(&ask(pinned), |_, _| {}).await.unwrap_err();
    let told = format!("tarball of `b` has sha256 {}, the state file pins {}", sha256(b"bbb"), sha256(b"pinned"));
    assert!(err.to_string().ends_with(&told), "{err}");
    assert_eq!((err.kind(), server.requests("gz").len()), (FailureKind::DigestMismatch, before));
    assert!(world.has("vm/images/b-1-x64.tar.gz") && !world.has("quarantine"), "the good file stays where it is");
}

#[tokio::test]
async fn a_local_manifest_that_cannot_be_read_is_as_good_as_none() {
    let (world, server) = (World::new(), published(TARBALL).await);
    let from = at(&server, MANIFEST);
    assert!(world.cache.local(None).await.unwrap().is_none());
    world.sync(&from).await.unwrap();
    assert!(world.cache.local(None).await.unwrap().is_some());
    for garbage in ["", "{", "[]", "{\"schemaVersion\":1}"] {
        world.write(MANIFEST, garbage);
        assert!(world.cache.local(None).await.unwrap().is_none(), "{garbage:?}");
        assert!(world.sync(&from).await.unwrap().skipped, "the artifact is still proved");
        assert!(world.cache.local(None).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn two_places_that_share_a_cache_do_not_overwrite_each_other() {
    let world = World::new();
    let (here, there) = (published(TARBALL).await, published(TARBALL).await);
    let (here, there) = (source(&here, MANIFEST), source(&there, MANIFEST));
    let mut manifest = world.cache.published(&here).await.unwrap();
    world.cache.commit_manifest(&manifest, Some(&here)).await.unwrap();
    assert_eq!(world.cache.local(Some(&there)).await.unwrap(), None, "nothing of there has been here yet");

    let other = world.cache.published(&there).await.unwrap();
    manifest.updated_at = "later".into();
    world.cache.commit_manifest(&other, Some(&there)).await.unwrap();
    let local = |from| world.cache.local(Some(from));
    let first = world.cache.published(&here).await.unwrap();
    assert_eq!(local(&here).await.unwrap(), Some(first), "it is still the last good one of its place");
    assert_eq!(local(&there).await.unwrap(), Some(other));
    std::fs::remove_file(world.path(MANIFEST)).unwrap();
    assert_eq!(local(&here).await.unwrap(), None, "the file that other programs read is made anew");
}

#[tokio::test]
async fn gc_forgets_a_place_that_nobody_has_written_for_long() {
    let world = World::new();
    let (here, there) = (published(TARBALL).await, published(TARBALL).await);
    world.sync(&at(&here, MANIFEST)).await.unwrap();
    world.sync(&at(&there, MANIFEST)).await.unwrap();
    let copies = || {
        let found = std::fs::read_dir(world.path("manifests")).unwrap().flatten();
        found.map(|copy| copy.path()).collect::<Vec<_>>()
    };
    assert_eq!(copies().len(), 2);
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(31 * 24 * 60 * 60);
    std::fs::File::options().write(true).open(&copies()[0]).unwrap().set_modified(long_ago).unwrap();
    let request = |dry_run| GcRequest { dry_run, ..GcRequest::default() };
    let shown = world.cache.gc(request(true)).await.unwrap();
    assert_eq!((shown.removed.len(), copies().len()), (1, 2));
    assert_eq!(world.cache.gc(request(false)).await.unwrap(), shown, "what was shown is what was done");
    assert_eq!(copies().len(), 1);
}
