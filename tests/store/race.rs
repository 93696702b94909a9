//! Two who publish at once, and somebody who reads meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use steadfast::model::{Arch, Manifest};
use steadfast::publish::store::{ObjectKey, Store};

use crate::dist::{Dist, manifest, store};
use crate::gateway::Gateway;
use crate::proxy::{Fate, Proxy};

/// So many rounds, unless `STEADFAST_PUBLISH_ROUNDS` says another number.
const ROUNDS: u32 = 40;

fn rounds() -> u32 {
    std::env::var("STEADFAST_PUBLISH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// Reads until it is told to stop: each manifest names only what is there. Yields how many it read.
async fn read(store: Arc<Store>, stop: Arc<AtomicBool>) -> u32 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(found) = store.get(&ObjectKey::manifest(), 1 << 22).await.unwrap() else { continue };
        let manifest = Manifest::parse(&found.bytes).unwrap();
        for agent in manifest.agents.keys() {
            for arch in Arch::ALL {
                let artifact = manifest.artifact(agent, arch).unwrap();
                let head = store.head(&ObjectKey::from(&artifact.key)).await.unwrap();
                let head = head.unwrap_or_else(|| panic!("{} is named and not there", artifact.key));
                assert_eq!((head.size_bytes, head.sha256), (artifact.size_bytes, Some(artifact.sha256)));
            }
        }
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_slice_of_two_publishers_is_ever_lost() {
    let gateway = Gateway::start();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read(Arc::new(store(&gateway.url).await), Arc::clone(&stop)));
    let first = Arc::new(store(&gateway.url).await);
    let second = Arc::new(store(&gateway.url).await);
    for round in 0..rounds() {
        let publish = |name: &'static str, store: &Arc<Store>| {
            let (store, version) = (Arc::clone(store), round.to_string());
            tokio::spawn(async move {
                let dist = Dist::of(&[(name, &version)]);
                dist.push(&store, &format!("agents:{name}"), None).await.unwrap();
            })
        };
        let (one, other) = (publish("a", &first), publish("b", &second));
        one.await.unwrap();
        other.await.unwrap();
        let manifest = manifest(&first).await;
        for name in ["a", "b"] {
            assert_eq!(manifest["agents"][name]["version"], round.to_string(), "round {round}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let count = reader.await.unwrap();
    assert!(count > rounds() / 4, "{count}");
}

/// Each of these, on the manifest's way there, means that somebody else was here.
#[tokio::test]
async fn conflicts_are_merged_again() {
    for (status, lost) in [(412, false), (409, false), (404, false), (412, true), (500, true)] {
        let (gateway, count) = (Gateway::start(), AtomicU32::new(0));
        Dist::of(&[("b", "1")]).push(&store(&gateway.url).await, "full", None).await.unwrap();
        let proxy = Proxy::before(&gateway.url, move |request| {
            match request.puts("manifest.json") && count.fetch_add(1, Ordering::Relaxed) == 0 {
                // It was written, and the answer says otherwise.
                true if lost => Fate::Instead(status),
                true if status == 404 => Fate::Answer(404, "<Error><Code>NoSuchKey</Code></Error>".to_owned()),
                true => Fate::Answer(status, format!("<Error><Code>X{status}</Code></Error>")),
                false => Fate::Pass,
            }
        });
        let store = store(&proxy.url).await;
        let pushed = Dist::of(&[("a", "1"), ("b", "2")]).push(&store, "agents:a", None).await.unwrap();
        assert!(pushed.manifest.changed);
        let manifest = manifest(&store).await;
        assert_eq!(manifest["agents"]["a"]["version"], "1", "{status}");
        assert_eq!(manifest["agents"]["b"]["version"], "1", "{status}");
    }
}

#[tokio::test]
async fn who_is_never_first_gives_up_and_says_so() {
    let gateway = Gateway::start();
    let proxy = Proxy::before(&gateway.url, |request| match request.puts("manifest.json") {
        true => Fate::Answer(412, String::new()),
        false => Fate::Pass,
    });
    let err = Dist::of(&[("a", "1")]).push(&store(&proxy.url).await, "full", None).await.unwrap_err();
    assert_eq!(err.to_string(), "somebody else published in between, each of 20 times");
    assert!(!gateway.path("vm/manifest.json").exists());
}
