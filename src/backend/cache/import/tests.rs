use std::io::Write;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::*;
use crate::backend::cache::CacheOptions;
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::model::{Arch, Sha256Digest};

const KEY: &str = "vm/images/app-1-x64.tar.gz";

fn manifest(bytes: &[u8]) -> Value {
    let sha256 = Sha256Digest::of(bytes).to_string();
    let tarballs = json!({"x64": {"key": KEY, "sha256": sha256, "sizeBytes": bytes.len()}});
    json!({"schemaVersion": 2, "updatedAt": "2026-04-24T00:00:00.000Z",
        "agents": {"app": {"image": "localhost/app", "version": "1", "tarballs": tarballs}}})
}

type Parts<'a> = Vec<(&'a str, EntryType, Vec<u8>)>;

fn pack(parts: &Parts<'_>) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (name, kind, bytes) in parts {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        // As they are given, which the crate's own ways of setting them refuse.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        archive.append(&header, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn good(bytes: &[u8]) -> Parts<'static> {
    vec![
        (MANIFEST, EntryType::Regular, manifest(bytes).to_string().into_bytes()),
        (KEY, EntryType::Regular, bytes.to_vec()),
        ("vm/images/app-1-x64.tar.gz.sha256", EntryType::Regular, b"x".to_vec()),
    ]
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    async fn import(&self, archive: &[u8]) -> Result<ImportReport, ImportError> {
        let path = self.dir.path().join("a.tar");
        File::create(&path).unwrap().write_all(archive).unwrap();
        let cache = Cache::open(&self.dir.path().join("root"), CacheOptions::default()).unwrap();
        let request = ImportRequest { archive: path, wanted: SyncWanted::All(vec![Arch::X64]), manifest: None };
        cache.import(&request, |_, _| {}).await
    }

    async fn fault(&self, archive: &[u8]) -> String {
        let fault = match self.import(archive).await {
            Err(ImportError::Archive { fault, .. }) => fault.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(!self.has("vm/manifest.json"), "{fault}");
        fault
    }

    fn has(&self, name: &str) -> bool {
        self.dir.path().join("root/cache").join(name).exists()
    }
}

#[tokio::test]
async fn what_is_wanted_is_placed_and_then_the_manifest() {
    let scene = Scene::new();
    let bytes = vec![7; 3 * PIECE + 5];
    let report = scene.import(&pack(&good(&bytes))).await.unwrap();
    assert_eq!((report.imported.len(), report.present.len(), report.others), (1, 0, 0));
    assert_eq!(std::fs::read(scene.dir.path().join("root/cache").join(KEY)).unwrap(), bytes);
    assert!(scene.has("vm/manifest.json"));
    let again = scene.import(&pack(&good(&bytes))).await.unwrap();
    assert_eq!((again.imported.len(), again.present.len()), (0, 1));
    // What is in the cache need not be in the archive.
    let without = scene.import(&pack(&good(&bytes)[..1].to_vec())).await.unwrap();
    assert_eq!((without.imported.len(), without.present.len()), (0, 1));
}

#[tokio::test]
async fn the_directories_that_tar_adds_are_in_nobodys_way() {
    let scene = Scene::new();
    let mut parts: Parts<'_> = ["vm/", "vm/images/"].map(|dir| (dir, EntryType::Directory, Vec::new())).into();
    parts.extend(good(b"bytes"));
    assert_eq!(scene.import(&pack(&parts)).await.unwrap().imported.len(), 1);
}

#[tokio::test]
async fn a_long_name_stands_in_an_entry_of_its_own() {
    let scene = Scene::new();
    let key = format!("vm/images/app-{}-x64.tar.gz", "1".repeat(150));
    let text = manifest(b"bytes").to_string().replace(KEY, &key);
    let mut archive = Builder::new(Vec::new());
    for (name, bytes) in [(MANIFEST, text.as_bytes()), (&key, b"bytes")] {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    scene.import(&archive.into_inner().unwrap()).await.unwrap();
    assert!(scene.has(&key));
}

#[tokio::test]
async fn anything_else_refuses_the_whole() {
    let scene = Scene::new();
    let with = |name: &'static str, kind, bytes: &[u8]| {
        let mut parts = good(b"bytes");
        parts.push((name, kind, bytes.to_vec()));
        pack(&parts)
    };
    for (name, kind, words) in [
        ("../../etc/passwd", EntryType::Regular, "`../../etc/passwd` is in it, which its manifest does not name"),
        ("/etc/passwd", EntryType::Regular, "`/etc/passwd` is in it, which its manifest does not name"),
        ("vm/images/../x", EntryType::Regular, "`vm/images/../x` is in it"),
        ("vm/images/other.tar.gz", EntryType::Regular, "which its manifest does not name"),
        ("vm/index.json", EntryType::Regular, "which its manifest does not name"),
        ("vm/images/app-1-x64.tar.gz.sha256.sha256", EntryType::Regular, "which its manifest does not name"),
        (KEY, EntryType::Regular, "is in it twice"),
        (MANIFEST, EntryType::Regular, "is in it twice"),
        (KEY, EntryType::Symlink, "is no file"),
        (KEY, EntryType::Link, "is no file"),
        ("vm/other/", EntryType::Directory, "is no file"),
        ("vm/imag", EntryType::Directory, "is no file"),
        ("vm/../vm/", EntryType::Directory, "is no file"),
        ("/", EntryType::Directory, "is no file"),
        ("vm/zero", EntryType::Char, "is no file"),
        ("vm/disk", EntryType::Block, "is no file"),
        ("vm/fifo", EntryType::Fifo, "is no file"),
        ("pax", EntryType::XHeader, "is no file"),
        ("pax", EntryType::XGlobalHeader, "is no file"),
        ("sparse", EntryType::GNUSparse, "is no file"),
    ] {
        let said = scene.fault(&with(name, kind, b"")).await;
        assert!(said.contains(words), "{name} {kind:?}: {said}");
    }
    for long in [vec![b'x'; 5000], b"a\0".to_vec()] {
        let said = scene.fault(&with("././@LongLink", EntryType::GNULongName, &long)).await;
        assert!(said.contains("is too large") || said.contains("ends in the middle"), "{said}");
    }
    assert_eq!(scene.fault(b"").await, "it is empty");
    assert_eq!(scene.fault(&[&b"\x1f\x8b\x08"[..], &[0; 600]].concat()).await, "it is compressed, with gzip");
    assert!(scene.fault(&[b'x'; 4096]).await.contains("not a tar archive"));
    let rubbish = scene.fault(&[0x1b; 4096]).await;
    assert!(rubbish.contains("not a tar archive") && !rubbish.chars().any(char::is_control), "{rubbish:?}");
    assert!(scene.fault(&pack(&good(b"bytes")[1..].to_vec())).await.contains("has no `vm/manifest.json`"));
    assert!(scene.fault(&pack(&good(b"bytes")[..1].to_vec())).await.contains("lacks `vm/images/app-1-x64.tar.gz`"));
    let large = vec![(MANIFEST, EntryType::Regular, vec![b' '; MAX_MANIFEST_BYTES + 1])];
    assert!(scene.fault(&pack(&large)).await.contains("is too large"));
    assert!(!scene.has("vm/images"), "nothing was placed");
}

#[tokio::test]
async fn wherever_it_is_cut_nothing_half_comes_in() {
    let whole = pack(&good(&vec![7; 5000]));
    for end in (0..whole.len()).step_by(97) {
        let scene = Scene::new();
        match scene.import(&whole[..end]).await {
            // All is there but the end mark, and perhaps what is not wanted.
            Ok(_) => assert!(scene.has(KEY) && scene.has("vm/manifest.json"), "{end}"),
            Err(_) => assert!(!scene.has("vm/manifest.json") && !scene.has(KEY), "{end}"),
        }
    }
}

#[tokio::test]
async fn other_bytes_than_the_manifest_says_are_not_placed_and_its_length_is_looked_at_first() {
    let scene = Scene::new();
    let mut parts = good(b"bytes");
    parts[1].2 = b"bytez".to_vec();
    let err = scene.import(&pack(&parts)).await.unwrap_err();
    assert!(matches!(err, ImportError::Store(StoreError::DigestMismatch { .. })), "{err}");
    parts[1].2 = b"byte".to_vec();
    let err = scene.import(&pack(&parts)).await.unwrap_err();
    assert!(matches!(err, ImportError::Store(StoreError::SizeMismatch { .. })), "{err}");
    assert!(!scene.has("vm/manifest.json") && !scene.has(KEY));
    let left = std::fs::read_dir(scene.dir.path().join("root/cache/vm/images")).unwrap().count();
    assert_eq!(left, 0, "no partial is kept of what is wrong");
}

#[tokio::test]
async fn what_an_earlier_run_left_is_taken_up_and_is_not_believed() {
    let bytes: Vec<u8> = (0..3 * PIECE + 5).map(|at| (at % 251) as u8).collect();
    let sha256 = Sha256Digest::of(&bytes);
    for left in [bytes[..PIECE + 3].to_vec(), vec![0; PIECE], bytes.clone()] {
        let scene = Scene::new();
        let images = scene.dir.path().join("root/cache/vm/images");
        std::fs::create_dir_all(&images).unwrap();
        std::fs::write(images.join("app-1-x64.tar.gz.partial"), &left).unwrap();
        let label = json!({"url": "x", "sha256": sha256.to_string()}).to_string();
        std::fs::write(images.join("app-1-x64.tar.gz.partial.json"), label).unwrap();
        scene.import(&pack(&good(&bytes))).await.unwrap();
        assert_eq!(std::fs::read(images.join("app-1-x64.tar.gz")).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(&images).unwrap().count(), 1);
    }
}
