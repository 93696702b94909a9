//! Single objects: in one piece and in parts, and what is told beside their bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sha2::{Digest, Sha256};
use steadfast::backend::Progress;
use steadfast::publish::store::{About, Condition, IMMUTABLE, Local, Put, Sent, Store, StoreErrorKind};

use crate::dist::{key, open, store};
use crate::gateway::Gateway;
use crate::proxy::{Fate, Proxy};

const ABOUT: About<'static> = About { content_type: "application/gzip", cache_control: IMMUTABLE };
/// Three parts and a bit.
pub const LONG: usize = 3 * 8 * 1024 * 1024 + 12_345;

/// A file of so many bytes, no two pieces of which are alike.
pub fn file(dir: &std::path::Path, length: usize) -> Local {
    let path = dir.join("a.tar.gz");
    let bytes: Vec<u8> =
        (0..length).map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7]).collect();
    std::fs::write(&path, bytes).unwrap();
    Local::hash(path).unwrap()
}

pub async fn send(store: &Store, file: &Local) -> Result<Sent, steadfast::publish::store::StoreError> {
    store.send(&key("vm/images/a.tar.gz"), file, ABOUT, &Progress::new(0)).await
}

#[tokio::test]
async fn a_file_arrives_whole_with_what_is_reported_of_it_and_is_not_sent_again() {
    let (gateway, dir) = (Gateway::start(), tempfile::tempdir().unwrap());
    for (at, length) in [0, 1, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1, LONG].into_iter().enumerate() {
        let store = open(&gateway.url, &format!("p{at}/x")).await;
        let local = file(dir.path(), length);
        assert_eq!(send(&store, &local).await.unwrap(), Sent::Whole, "{length}");
        assert!(store.has(&key("vm/images/a.tar.gz"), &local).await.unwrap());
        let out = dir.path().join("new/out");
        let progress: Arc<Progress> = Progress::new(0);
        let fetched = store.fetch(&key("vm/images/a.tar.gz"), &out, &progress).await.unwrap();
        assert_eq!(fetched, (local.sha256, length as u64));
        assert_eq!(progress.get(), (length as u64, length as u64));
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&local.path).unwrap());
        assert!(gateway.path(&format!("p{at}/x/vm/images/a.tar.gz")).is_file());
        assert_eq!(record(dir.path()), None, "what is done needs no record");
    }
    let client = object_store(&gateway);
    let path = object_store::path::Path::parse("p4/x/vm/images/a.tar.gz").unwrap();
    let found = object_store::ObjectStoreExt::get(&client, &path).await.unwrap();
    let told: Vec<_> = [object_store::Attribute::CacheControl, object_store::Attribute::ContentType]
        .iter()
        .map(|name| found.attributes.get(name).unwrap().as_ref().to_owned())
        .collect();
    assert_eq!(told, [IMMUTABLE, "application/gzip"]);
}

/// The record of what arrived.
fn record(dir: &std::path::Path) -> Option<std::path::PathBuf> {
    let mut entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.extension().is_some_and(|ending| ending == "upload"))
}

/// As a record tells a file.
fn identity(path: &std::path::Path) -> serde_json::Value {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).unwrap();
    serde_json::json!({"inode": found.ino(), "changed": found.ctime(), "nanos": found.ctime_nsec()})
}

/// A file that was written into while it was sent, and is as it should be again: what arrived meanwhile is not believed.
#[tokio::test]
async fn parts_of_a_file_that_was_written_into_are_sent_again() {
    let (gateway, dir) = (Gateway::start(), tempfile::tempdir().unwrap());
    let local = file(dir.path(), LONG);
    let good = std::fs::read(&local.path).unwrap();
    let mut bad = good.clone();
    bad[5] ^= 1;
    std::fs::write(&local.path, bad).unwrap();
    let is_first = AtomicBool::new(true);
    let proxy = Proxy::before(&gateway.url, move |request| {
        match request.target.contains("partNumber=4&") && is_first.swap(false, Ordering::Relaxed) {
            true => Fate::Answer(403, String::new()),
            false => Fate::Pass,
        }
    });
    send(&store(&proxy.url).await, &local).await.unwrap_err();
    std::fs::write(&local.path, &good).unwrap();
    assert_eq!(send(&store(&proxy.url).await, &local).await.unwrap(), Sent::Whole);
    assert!(std::fs::read(gateway.path("vm/images/a.tar.gz")).unwrap() == good);
}

/// Another client of the same store.
fn object_store(gateway: &Gateway) -> object_store::aws::AmazonS3 {
    object_store::aws::AmazonS3Builder::new()
        .with_endpoint(&gateway.url)
        .with_allow_http(true)
        .with_bucket_name(crate::gateway::BUCKET)
        .with_access_key_id("test")
        .with_secret_access_key("secret")
        .build()
        .unwrap()
}

#[tokio::test]
async fn parts_that_arrived_are_not_sent_again() {
    let (gateway, dir) = (Gateway::start(), tempfile::tempdir().unwrap());
    let local = file(dir.path(), LONG);
    let is_first = AtomicBool::new(true);
    let proxy = Proxy::before(&gateway.url, move |request| {
        match request.target.contains("partNumber=4&") && is_first.swap(false, Ordering::Relaxed) {
            true => Fate::Answer(403, "<Error><Code>AccessDenied</Code></Error>".to_owned()),
            false => Fate::Pass,
        }
    });
    let err = send(&store(&proxy.url).await, &local).await.unwrap_err();
    assert_eq!(err.kind, StoreErrorKind::Denied, "{err}");
    assert_eq!(err.to_string(), "cannot write part 4 of `s3://agents/vm/images/a.tar.gz`: AccessDenied");
    assert!(!gateway.path("vm/images/a.tar.gz").exists(), "nothing half is published");
    assert!(record(dir.path()).is_some());
    assert_eq!(send(&store(&proxy.url).await, &local).await.unwrap(), Sent::Resumed);
    assert_eq!(proxy.parts(), 5, "three of four were there");
    assert_eq!(record(dir.path()), None);
    assert!(std::fs::read(gateway.path("vm/images/a.tar.gz")).unwrap() == std::fs::read(&local.path).unwrap());
}

#[tokio::test]
async fn an_upload_that_the_store_forgot_begins_anew() {
    let (gateway, dir) = (Gateway::start(), tempfile::tempdir().unwrap());
    let local = file(dir.path(), LONG);
    let proxy = Proxy::before(&gateway.url, |_| Fate::Pass);
    let to = format!("{}/agents/vm/images/a.tar.gz", proxy.url);
    let of: String = Sha256::digest(&to).iter().map(|byte| format!("{byte:02x}")).collect();
    let line = serde_json::json!({
        "to": to, "sha256": local.sha256, "partBytes": 8 * 1024 * 1024,
        "identity": identity(&local.path),
        "upload": "0123456789abcdef",
    });
    let parts: String = (0..4).map(|part| format!("{{\"part\":{part},\"etag\":\"\\\"x\\\"\"}}\n")).collect();
    std::fs::write(dir.path().join(format!("a.tar.gz.{}.upload", &of[..8])), format!("{line}\n{parts}")).unwrap();
    assert_eq!(send(&store(&proxy.url).await, &local).await.unwrap(), Sent::Whole);
    assert_eq!(proxy.parts(), 4);
}

#[tokio::test]
async fn what_breaks_on_the_way_is_sent_again() {
    let (gateway, dir) = (Gateway::start(), tempfile::tempdir().unwrap());
    let local = file(dir.path(), LONG);
    let count = AtomicU32::new(0);
    let proxy = Proxy::before(&gateway.url, move |request| match request.is_part() {
        true => match count.fetch_add(1, Ordering::Relaxed) {
            0 => Fate::Cut,
            1 => Fate::Answer(500, String::new()),
            2 => Fate::Answer(503, "<Error><Code>SlowDown</Code></Error>".to_owned()),
            3 => Fate::Deaf,
            4 => Fate::Instead(500),
            _ => Fate::Pass,
        },
        // Answers to the rest are late.
        false => Fate::Delay(std::time::Duration::from_millis(50)),
    });
    assert_eq!(send(&store(&proxy.url).await, &local).await.unwrap(), Sent::Whole);
    assert!(proxy.parts() >= 9, "{}", proxy.parts());
    assert!(std::fs::read(gateway.path("vm/images/a.tar.gz")).unwrap() == std::fs::read(&local.path).unwrap());
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_one() {
    let (gateway, dir) = (Gateway::start(), tempfile::tempdir().unwrap());
    let local = file(dir.path(), LONG);
    let proxy =
        Proxy::before(&gateway.url, |request| match request.method == "POST" && request.target.contains("uploadId=") {
            true => Fate::Instead(500),
            false => Fate::Pass,
        });
    assert_eq!(send(&store(&proxy.url).await, &local).await.unwrap(), Sent::Whole);
    assert_eq!(proxy.parts(), 4, "nothing is sent twice");
}

#[tokio::test]
async fn a_file_that_changes_meanwhile_is_not_published() {
    let (gateway, dir) = (Gateway::start(), tempfile::tempdir().unwrap());
    for length in [1000, LONG] {
        let local = file(dir.path(), length);
        let mut bytes = std::fs::read(&local.path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&local.path, bytes).unwrap();
        let err = send(&store(&gateway.url).await, &local).await.unwrap_err();
        assert_eq!(err.kind, StoreErrorKind::Changed, "{err}");
        std::fs::write(&local.path, "short").unwrap();
        let err = send(&store(&gateway.url).await, &local).await.unwrap_err();
        assert!(err.to_string().ends_with("it is shorter than it was"), "{err}");
        assert!(!gateway.path("vm/images/a.tar.gz").exists());
        assert_eq!(record(dir.path()), None);
    }
}

#[tokio::test]
async fn of_32_writers_with_one_etag_one_writes() {
    let gateway = Gateway::start();
    let store = Arc::new(store(&gateway.url).await);
    let at = key("vm/manifest.json");
    let Put::Done(etag) = store.put(&at, b"first", ABOUT, Condition::Absent).await.unwrap() else { panic!() };
    let writers: Vec<_> = (0..32)
        .map(|n| {
            let (store, at, etag) = (Arc::clone(&store), at.clone(), etag.clone());
            tokio::spawn(async move {
                store.put(&at, format!("writer {n}").as_bytes(), ABOUT, Condition::Unchanged(&etag)).await.unwrap()
            })
        })
        .collect();
    let mut done = 0;
    for writer in writers {
        done += u32::from(writer.await.unwrap() != Put::Refused);
    }
    assert_eq!(done, 1, "what follows says nothing about us otherwise");
}
