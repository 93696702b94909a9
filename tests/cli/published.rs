//! Something published for `cache sync`: in a directory, or by a server.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::server::{Reply, Request, Server};
use crate::support::command::Sandbox;

pub const TARBALL: &[u8] = b"openclaw-tarball";
pub const KEY: &str = "vm/images/openclaw-2026.4.12-x64.tar.gz";

/// A sandbox on an x64 machine.
pub fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.set("STEADFAST_HOST_ARCH", "x86_64");
    sandbox
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest entry of an agent, offered for both architectures with the same bytes.
pub fn agent(name: &str, version: &str, bytes: &[u8]) -> Value {
    let tarball = |arch: &str| json!({"key": format!("vm/images/{name}-{version}-{arch}.tar.gz"), "sha256": sha256(bytes), "sizeBytes": bytes.len()});
    json!({"image": format!("ghcr.io/{name}/{name}"), "version": version,
           "tarballs": {"arm64": tarball("arm64"), "x64": tarball("x64")}})
}

pub fn manifest(agents: Value) -> Value {
    json!({"schemaVersion": 2, "updatedAt": "2026-04-24T00:00:00.000Z", "agents": agents})
}

/// The manifest of one good agent.
pub fn good() -> Value {
    manifest(json!({"openclaw": agent("openclaw", "2026.4.12", TARBALL)}))
}

/// Publishes in a directory; yields the manifest's path.
pub fn in_directory(sandbox: &Sandbox, manifest: &Value, files: &[(&str, &[u8])]) -> PathBuf {
    for (key, bytes) in files {
        sandbox.write(&format!("published/{key}"), bytes);
    }
    sandbox.write("published/vm/manifest.json", manifest.to_string())
}

/// Serves a manifest well, and leaves what is asked for beside it to `tarball`.
pub async fn served(manifest: &Value, tarball: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    let manifest = Arc::new(manifest.to_string().into_bytes());
    Server::start(move |request| match request.path.split('?').next() {
        Some("/vm/manifest.json") => Reply::good(request, &manifest, "\"m1\""),
        _ => tarball(request),
    })
    .await
}
