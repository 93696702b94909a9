//! Bundles and dist directories, and what is published of them.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use steadfast::model::{Arch, Sha256Digest};
use steadfast::publish::bundle::Bundle;
use steadfast::publish::dist;
use steadfast::publish::manifest::{Inputs, Slice};
use steadfast::publish::packing::Packing;
use steadfast::publish::push::{Push, PushError, Pushed, Signing};
use steadfast::publish::store::{Destination, ObjectKey, Store};

use crate::gateway::{BUCKET, vars};

/// A bundle of these agents and versions, and a directory with their tarballs.
pub struct Dist {
    pub dir: tempfile::TempDir,
    pub bundle: Bundle,
}

impl Dist {
    pub fn of(agents: &[(&str, &str)]) -> Self {
        Self::with(agents, |name, version, arch| {
            [&[0x1f, 0x8b][..], format!("{name} {version} {arch}").as_bytes()].concat()
        })
    }

    pub fn with(agents: &[(&str, &str)], bytes: impl Fn(&str, &str, Arch) -> Vec<u8>) -> Self {
        let list: Vec<_> = agents
            .iter()
            .map(|(name, version)| json!({"name": name, "image": format!("r.example/{name}"), "version": version}))
            .collect();
        let text = json!({ "agents": list }).to_string();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bundle.json"), &text).unwrap();
        let made = Self { bundle: Bundle::parse(&text, dir.path()).unwrap(), dir };
        for agent in &made.bundle.agents {
            for arch in Arch::ALL {
                let path = dist::tarball_path(made.dir.path(), agent, arch, Packing::Gzip);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let bytes = bytes(agent.name.as_str(), &agent.version, arch);
                let sha256 = Sha256Digest::from_bytes(Sha256::digest(&bytes).into());
                std::fs::write(&path, bytes).unwrap();
                std::fs::write(dist::sidecar_path(&path), dist::sidecar(&sha256, &path)).unwrap();
            }
        }
        made
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn inputs(&self, slice: &str) -> Inputs {
        let slice: Slice = slice.parse().unwrap();
        Inputs::read(Arc::new(self.bundle.clone()), self.path(), &slice).unwrap()
    }

    pub async fn push(&self, store: &Store, slice: &str, signing: Option<&Signing>) -> Result<Pushed, PushError> {
        let inputs = self.inputs(slice);
        let push = Push {
            store,
            inputs: &inputs,
            signing,
            written_at: None,
            replace: false,
            public: None,
            cancel: Default::default(),
        };
        push.run(&|_| {}).await
    }
}

/// The bucket, by way of this URL.
pub async fn store(url: &str) -> Store {
    open(url, "").await
}

pub async fn open(url: &str, prefix: &str) -> Store {
    let to: Destination = format!("s3://{BUCKET}/{prefix}").parse().unwrap();
    Store::open(to, None, &vars(url)).await.unwrap()
}

/// The manifest that is published.
pub async fn manifest(store: &Store) -> Value {
    let found = store.get(&ObjectKey::manifest(), 1 << 22).await.unwrap().unwrap();
    serde_json::from_slice(&found.bytes).unwrap()
}

pub fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}
