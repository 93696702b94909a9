//! Pulling from a real registry on loopback.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use steadfast::backend::{Engine, EngineErrorKind, Progress};
use steadfast::model::ImageRef;

use crate::bench::{Bench, within};
use crate::support::registry;

/// The registry, when this test started it.
struct Registry {
    /// One test at a time: the one that started it also ends it.
    _turn: std::fs::File,
    address: String,
    child: Option<(Child, tempfile::TempDir)>,
}

impl Registry {
    async fn reachable() -> Self {
        let address = std::env::var("STEADFAST_TEST_REGISTRY").unwrap_or_else(|_| "127.0.0.1:5097".to_owned());
        let turn = crate::support::turn(&address);
        if TcpStream::connect(&address).is_ok() {
            return Self { _turn: turn, address, child: None };
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
             http: {{addr: \"{address}\"}}\n"
        );
        std::fs::write(directory.path().join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(directory.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts; install Debian's `docker-registry`, or set STEADFAST_TEST_REGISTRY");
        let registry = Self { _turn: turn, address, child: Some((child, directory)) };
        within(async {
            while TcpStream::connect(&registry.address).is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The registry is on this machine's loopback.
pub async fn pulled_by_tag_and_by_digest<E: Engine>(bench: &Bench<E>) {
    if !bench.local {
        return;
    }
    let registry = Registry::reachable().await;
    let repository = format!("{}/{}", registry.address, bench.owner);
    let path = format!("/images/{}/push?destination={repository}:1&tlsVerify=false", bench.image);
    let pushed = bench.aside(reqwest::Method::POST, &path).await;
    assert!(pushed.status().is_success(), "{}", pushed.text().await.unwrap());
    bench.engine.remove_image(&bench.image_id).await.unwrap();

    let by_tag = ImageRef::new(format!("{repository}:1")).unwrap();
    assert_eq!(bench.engine.image(&by_tag).await.unwrap(), None);
    let progress = Progress::new(0);
    let id = within(bench.engine.pull(&by_tag, progress.clone())).await.unwrap();
    assert_eq!(id, bench.image_id, "the config, and so the id, is the same");
    let (done, total) = progress.get();
    assert!(done <= total, "{done} of {total}; of a layer this small, Podman 4.3 tells neither");
    let guest = bench.guest().await;
    assert_eq!(guest.images.get(&by_tag), Some(&id));
    let digest = guest.images.keys().find(|name| name.as_str().starts_with(&format!("{repository}@sha256:")));
    let digest = digest.expect("a name by digest").clone();
    assert_eq!(within(bench.engine.pull(&by_tag, Progress::new(0))).await.unwrap(), id, "again is fine");

    bench.engine.remove_image(&id).await.unwrap();
    assert_eq!(within(bench.engine.pull(&digest, Progress::new(0))).await.unwrap(), id);
    assert_eq!(bench.engine.image(&digest).await.unwrap(), Some(id));
}

pub async fn pulled_with_the_login_of_whoever_asks<E: Engine>(bench: &Bench<E>) {
    if !bench.local {
        return;
    }
    let mut registry = registry::Registry::open();
    let repository = format!("{}/{}/private", registry.address, bench.owner);
    let path = format!("/images/{}/push?destination={repository}:1&tlsVerify=false", bench.image);
    let pushed = bench.aside(reqwest::Method::POST, &path).await;
    assert!(pushed.status().is_success(), "{}", pushed.text().await.unwrap());
    bench.engine.remove_image(&bench.image_id).await.unwrap();
    registry.wants_login();
    let image = ImageRef::new(format!("{repository}:1")).unwrap();
    assert_eq!(within(bench.engine.pull(&image, Progress::new(0))).await.unwrap(), bench.image_id);
    // The same words, whatever the login is worth.
    let missing = ImageRef::new(format!("{repository}:2")).unwrap();
    let err = within(bench.engine.pull(&missing, Progress::new(0))).await.unwrap_err();
    assert!(err.message.contains("manifest unknown"), "{err}");
    let told = format!("{err:?}");
    assert!(!told.contains(registry::PASSWORD) && !told.contains("c29tZWJvZHk6"), "{told}");
}

pub async fn a_missing_tag_is_an_error_with_the_registrys_words<E: Engine>(bench: &Bench<E>) {
    let nowhere = ImageRef::new(format!("127.0.0.1:9/{}:1", bench.owner)).unwrap();
    let err = within(bench.engine.pull(&nowhere, Arc::new(Progress::default()))).await.unwrap_err();
    assert!(err.message.contains("connection refused"), "{err}");
    assert_ne!(err.kind, EngineErrorKind::Unknown, "{err}");

    if !bench.local {
        return;
    }
    let registry = Registry::reachable().await;
    let missing = ImageRef::new(format!("{}/{}-none:1", registry.address, bench.owner)).unwrap();
    let err = within(bench.engine.pull(&missing, Arc::new(Progress::default()))).await.unwrap_err();
    assert!(err.message.starts_with(&format!("failed to pull image `{missing}`: ")), "{err}");
    assert!(err.message.contains("manifest unknown"), "{err}");
}
