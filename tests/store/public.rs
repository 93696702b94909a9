//! A directory that something serves, and reading it back as everybody does.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use steadfast::model::Location;
use steadfast::publish::push::{Push, PushError, PushEvent};
use steadfast::publish::store::{Destination, ObjectKey, Store};

use crate::dist::{Dist, manifest};

/// Serves the files of a directory; for so many requests the manifest that is there when it starts.
fn serve(dir: PathBuf, old: u32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cached = std::fs::read(dir.join("vm/manifest.json")).unwrap_or_default();
    let left = AtomicU32::new(old);
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
            let is_old = path.ends_with("manifest.json")
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            let found = if is_old { Ok(cached.clone()) } else { std::fs::read(dir.join(path)) };
            let (status, body) = found.map_or((404, Vec::new()), |body| (200, body));
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(&body));
        }
    });
    url
}

async fn directory(dir: &std::path::Path) -> Store {
    let to: Destination = format!("file://{}", dir.display()).parse().unwrap();
    Store::open(to, None, &Default::default()).await.unwrap()
}

async fn push(dist: &Dist, store: &Store, at: &str, patience: u64) -> Result<bool, PushError> {
    let inputs = dist.inputs("full");
    let public = Some((Location::parse(at).unwrap(), Duration::from_secs(patience)));
    let waited = std::sync::atomic::AtomicBool::new(false);
    let push = Push {
        store,
        inputs: &inputs,
        signing: None,
        written_at: None,
        replace: false,
        public,
        cancel: Default::default(),
    };
    push.run(&|event| {
        if matches!(event, PushEvent::Waiting) {
            waited.store(true, Ordering::Relaxed);
        }
    })
    .await?;
    Ok(waited.into_inner())
}

#[tokio::test]
async fn a_cache_on_the_way_is_waited_for_and_named_when_it_takes_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let store = directory(dir.path()).await;
    Dist::of(&[("a", "1")]).push(&store, "full", None).await.unwrap();
    let at = |url: String| format!("{url}/vm/manifest.json");
    let fresh = at(serve(dir.path().to_owned(), 0));
    assert!(!push(&Dist::of(&[("a", "2")]), &store, &fresh, 0).await.unwrap(), "nothing is waited for");
    let late = at(serve(dir.path().to_owned(), 2));
    assert!(push(&Dist::of(&[("a", "3")]), &store, &late, 20).await.unwrap());
    let never = at(serve(dir.path().to_owned(), u32::MAX));
    let err = push(&Dist::of(&[("a", "4")]), &store, &never, 1).await.unwrap_err().to_string();
    assert!(err.starts_with(&format!("it is published, and {never} is still the one updated at ")), "{err}");
    let nowhere = at(serve(dir.path().join("vm"), 0));
    let err = push(&Dist::of(&[("a", "5")]), &store, &nowhere, 0).await.unwrap_err().to_string();
    assert!(err.ends_with("cannot be read: 404"), "{err}");
}

#[tokio::test]
async fn a_tarball_that_the_public_cannot_read_is_named() {
    let (dir, dist) = (tempfile::tempdir().unwrap(), Dist::of(&[("a", "1")]));
    let store = directory(dir.path()).await;
    dist.push(&store, "full", None).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir(elsewhere.path().join("vm")).unwrap();
    std::fs::copy(dir.path().join("vm/manifest.json"), elsewhere.path().join("vm/manifest.json")).unwrap();
    let url = serve(elsewhere.path().to_owned(), 0);
    let err = push(&dist, &store, &format!("{url}/vm/manifest.json"), 0).await.unwrap_err().to_string();
    assert!(err.contains(&format!("{url}/vm/images/a-1-arm64.tar.gz")), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_slice_is_lost_in_a_directory_either() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (Arc::new(directory(dir.path()).await), Arc::new(directory(dir.path()).await));
    for round in 0..100 {
        let publish = |name: &'static str, store: &Arc<Store>| {
            let (store, version) = (Arc::clone(store), round.to_string());
            tokio::spawn(async move {
                Dist::of(&[(name, &version)]).push(&store, &format!("agents:{name}"), None).await.unwrap();
            })
        };
        let (first, second) = (publish("a", &one), publish("b", &other));
        first.await.unwrap();
        second.await.unwrap();
        let manifest = manifest(&one).await;
        for name in ["a", "b"] {
            assert_eq!(manifest["agents"][name]["version"], round.to_string());
        }
    }
    let out = dir.path().join("out");
    let (sha256, _) = one.fetch(&ObjectKey::manifest(), &out, &steadfast::backend::Progress::new(0)).await.unwrap();
    assert_eq!(one.head(&ObjectKey::manifest()).await.unwrap().unwrap().sha256, Some(sha256));
}
