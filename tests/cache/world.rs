//! What the tests are about: a cache in a directory of its own, and something published.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use steadfast::backend::cache::{Cache, CacheOptions, SyncReport, SyncRequest, SyncWanted};
use steadfast::backend::{Progress, Store, StoreError};
use steadfast::model::{Arch, Artifact, ArtifactKey, Location, ManifestSource, Sha256Digest};

use crate::server::Server;

pub const KEY: &str = "vm/images/openclaw-2026.4.12-x64.tar.gz";
pub const TARBALL: &[u8] = b"openclaw-tarball";

/// Quick to retry.
pub fn options() -> CacheOptions {
    CacheOptions { backoff: Duration::from_millis(5), ..CacheOptions::default() }
}

/// Quick to call a stall one. Only for tests that a loaded machine cannot spoil: to be called stalled costs a retry.
pub fn impatient() -> CacheOptions {
    CacheOptions { stall_timeout: Duration::from_millis(400), ..options() }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub cache: Cache,
}

impl World {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn with(options: CacheOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), options).unwrap();
        Self { dir, cache }
    }

    /// A cache on the same directory that remembers nothing.
    pub fn reopened(&self) -> Cache {
        Cache::open(self.dir.path(), options()).unwrap()
    }

    pub fn path(&self, below_cache: &str) -> PathBuf {
        self.dir.path().join("cache").join(below_cache)
    }

    pub fn write(&self, below_cache: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(below_cache);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, below_cache: &str) -> Vec<u8> {
        std::fs::read(self.path(below_cache)).unwrap()
    }

    pub fn has(&self, below_cache: &str) -> bool {
        self.path(below_cache).exists()
    }

    /// Leaves what a killed download leaves.
    pub fn leave_partial(&self, bytes: &[u8], url: &str, etag: Option<&str>, sha256: Sha256Digest) {
        self.write(&format!("{KEY}.partial"), bytes);
        let sidecar =
            serde_json::json!({"url": url, "place": self::sha256(url.as_bytes()), "etag": etag, "sha256": sha256});
        self.write(&format!("{KEY}.partial.json"), sidecar.to_string());
    }

    pub async fn fetch(&self, artifact: &Artifact, server: &Server) -> Result<bool, StoreError> {
        self.cache.fetch(artifact, &at(server, artifact.key.as_str()), Progress::new(0)).await
    }

    pub async fn sync<F: Clone + Into<ManifestSource>>(&self, manifest: &F) -> Result<SyncReport, StoreError> {
        sync(&self.cache, manifest).await
    }
}

pub async fn sync<F: Clone + Into<ManifestSource>>(cache: &Cache, manifest: &F) -> Result<SyncReport, StoreError> {
    let request = SyncRequest { manifest: manifest.clone().into(), wanted: SyncWanted::All(vec![Arch::X64]) };
    cache.sync(&request, |_, _| {}).await
}

pub fn at(server: &Server, path: &str) -> Location {
    Location::parse(&format!("{}/{path}", server.url)).unwrap()
}

pub fn key(text: &str) -> ArtifactKey {
    ArtifactKey::new(text).unwrap()
}

pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

pub fn artifact(bytes: &[u8]) -> Artifact {
    Artifact { key: key(KEY), sha256: sha256(bytes), size_bytes: bytes.len() as u64, layers: None }
}

/// Bytes that do not repeat, the same each time.
pub fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// The manifest of one agent, as its publisher writes it: other architectures may hold anything.
pub fn manifest(bytes: &[u8]) -> String {
    manifest_of(&[("openclaw", "2026.4.12", bytes)])
}

pub fn manifest_of(agents: &[(&str, &str, &[u8])]) -> String {
    let agents: serde_json::Map<_, _> = agents
        .iter()
        .map(|(agent, version, bytes)| {
            let key = |arch: &str| format!("vm/images/{agent}-{version}-{arch}.tar.gz");
            let entry = serde_json::json!({
                "image": format!("ghcr.io/{agent}/{agent}"),
                "version": version,
                "tarballs": {
                    "arm64": {"key": key("arm64"), "sha256": "unused", "sizeBytes": 1},
                    "x64": {"key": key("x64"), "sha256": sha256(bytes), "sizeBytes": bytes.len()},
                },
            });
            ((*agent).to_owned(), entry)
        })
        .collect();
    serde_json::json!({"schemaVersion": 2, "updatedAt": "2026-04-24T00:00:00.000Z", "agents": agents}).to_string()
}

/// Publishes a manifest and its one tarball in a directory.
pub fn publish(dir: &Path, bytes: &[u8]) -> PathBuf {
    std::fs::create_dir_all(dir.join("vm/images")).unwrap();
    std::fs::write(dir.join("vm/manifest.json"), manifest(bytes)).unwrap();
    std::fs::write(dir.join(KEY), bytes).unwrap();
    dir.join("vm/manifest.json")
}

/// Serves a manifest and its one tarball as a good server does.
pub async fn published(bytes: &[u8]) -> Server {
    let (manifest, bytes) = (manifest(bytes), Arc::new(bytes.to_vec()));
    Server::start(move |request| match request.path.as_str() {
        "/vm/manifest.json" => crate::server::Reply::good(request, manifest.as_bytes(), "\"m1\""),
        _ => crate::server::Reply::good(request, &bytes, "\"t1\""),
    })
    .await
}
