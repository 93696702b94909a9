//! Whole publications: the order, slices, what is refused.

use serde_json::json;
use steadfast::publish::push::PushError;
use steadfast::publish::store::{ObjectKey, StoreErrorKind};

use crate::dist::{Dist, manifest, store};
use crate::gateway::Gateway;
use crate::proxy::{Fate, Proxy};

#[tokio::test]
async fn tarballs_come_first_and_the_manifest_last() {
    let (gateway, dist) = (Gateway::start(), Dist::of(&[("a", "1"), ("b", "1")]));
    let proxy = Proxy::before(&gateway.url, |_| Fate::Pass);
    let store = store(&proxy.url).await;
    let pushed = dist.push(&store, "full", None).await.unwrap();
    assert_eq!((pushed.uploaded.len(), pushed.skipped.len(), pushed.manifest.changed), (4, 0, true));
    let puts: Vec<_> =
        proxy.seen().into_iter().filter(|request| request.method == "PUT").map(|request| request.target).collect();
    let last_tarball = puts.iter().rposition(|target| target.ends_with(".tar.gz")).unwrap();
    assert_eq!(puts.iter().position(|target| target.ends_with("manifest.json")), Some(puts.len() - 1), "{puts:?}");
    assert!(last_tarball < puts.iter().position(|target| target.ends_with(".sha256")).unwrap(), "{puts:?}");
    let first = proxy.seen().into_iter().find(|request| request.puts("manifest.json")).unwrap();
    assert_eq!((first.header("if-none-match"), first.header("cache-control")), (Some("*"), Some("no-cache")));
    let sidecar = std::fs::read_to_string(gateway.path("vm/images/a-1-x64.tar.gz.sha256")).unwrap();
    assert!(sidecar.ends_with("  a-1-x64.tar.gz\n"));
    // Again: nothing is left to do, and nothing is written.
    let before = gateway_bytes(&gateway);
    let again = dist.push(&store, "full", None).await.unwrap();
    assert_eq!((again.uploaded.len(), again.skipped.len(), again.manifest.changed), (0, 4, false));
    assert_eq!(gateway_bytes(&gateway), before);
}

fn gateway_bytes(gateway: &Gateway) -> Vec<u8> {
    std::fs::read(gateway.path("vm/manifest.json")).unwrap()
}

#[tokio::test]
async fn a_slice_keeps_all_else_and_needs_no_manifest_to_begin_with() {
    let gateway = Gateway::start();
    let store = store(&gateway.url).await;
    Dist::of(&[("a", "1"), ("b", "1")]).push(&store, "agents:a", None).await.unwrap();
    let newer = Dist::of(&[("a", "2"), ("b", "7")]);
    newer.push(&store, "agents:b", None).await.unwrap();
    let versions = |manifest: &serde_json::Value| {
        manifest["agents"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, agent)| (name.clone(), agent["version"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(versions(&manifest(&store).await), [("a".into(), json!("1")), ("b".into(), json!("7"))]);
    newer.push(&store, "full", None).await.unwrap();
    assert_eq!(versions(&manifest(&store).await), [("a".into(), json!("2")), ("b".into(), json!("7"))]);
}

#[tokio::test]
async fn what_is_published_under_a_version_stays() {
    let (gateway, dist) = (Gateway::start(), Dist::of(&[("a", "1")]));
    let store = store(&gateway.url).await;
    dist.push(&store, "full", None).await.unwrap();
    let before = gateway_bytes(&gateway);
    let other = Dist::with(&[("a", "1")], |_, _, _| vec![0x1f, 0x8b, 7]);
    let err = other.push(&store, "full", None).await.unwrap_err();
    assert!(matches!(err, PushError::Replaces { .. }), "{err}");
    assert_eq!(gateway_bytes(&gateway), before);
    let tarball = std::fs::read(gateway.path("vm/images/a-1-x64.tar.gz")).unwrap();
    assert_eq!(tarball, std::fs::read(dist.path().join("images/a-1-x64.tar.gz")).unwrap());
}

#[tokio::test]
async fn a_baseline_that_is_none_is_refused_before_anything_is_sent() {
    let (gateway, dist) = (Gateway::start(), Dist::of(&[("a", "1")]));
    std::fs::create_dir_all(gateway.path("vm")).unwrap();
    let store = store(&gateway.url).await;
    let about = steadfast::publish::store::About { content_type: "text/html", cache_control: "no-cache" };
    let always = steadfast::publish::store::Condition::Always;
    store.put(&ObjectKey::manifest(), b"<html>", about, always).await.unwrap();
    let err = dist.push(&store, "agents:a", None).await.unwrap_err().to_string();
    assert!(err.starts_with("the baseline `s3://agents/vm/manifest.json` is not a manifest: "), "{err}");
    assert!(!gateway.path("vm/images").exists());
    // A whole one takes its place: nothing of it is kept.
    dist.push(&store, "full", None).await.unwrap();
}

#[tokio::test]
async fn a_store_without_conditions_is_named_before_the_manifest_is_touched() {
    let gateway = Gateway::start();
    Dist::of(&[("a", "1")]).push(&store(&gateway.url).await, "full", None).await.unwrap();
    let before = gateway_bytes(&gateway);
    let newer = Dist::of(&[("a", "2")]);
    let conditional = |request: &crate::proxy::Request| {
        request.method == "PUT" && (request.header("if-match").is_some() || request.header("if-none-match").is_some())
    };
    // It says so.
    let body = "<Error><Code>NotImplemented</Code><Message>A header you provided implies more</Message></Error>";
    let proxy = Proxy::before(&gateway.url, move |request| match conditional(request) {
        true => Fate::Answer(501, body.to_owned()),
        false => Fate::Pass,
    });
    match newer.push(&store(&proxy.url).await, "full", None).await.unwrap_err() {
        PushError::Store(err) => {
            assert_eq!(err.kind, StoreErrorKind::NoConditions);
            assert!(err.to_string().contains("it does not know conditional writes (NotImplemented: A header"), "{err}");
        }
        other => panic!("{other}"),
    }
    // It says nothing, and writes all the same.
    for ignored in ["if-none-match", "if-match"] {
        let proxy = Proxy::before(&gateway.url, move |request| {
            match request.header(ignored).is_some() && request.method == "PUT" {
                true => Fate::Answer(200, String::new()),
                false => Fate::Pass,
            }
        });
        match newer.push(&store(&proxy.url).await, "full", None).await.unwrap_err() {
            PushError::IgnoresConditions(name) => assert!(name.eq_ignore_ascii_case(ignored)),
            other => panic!("{other}"),
        }
    }
    assert_eq!(gateway_bytes(&gateway), before);
}

/// While the second sends, the first publishes the same version with other bytes.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_publish_the_same_version_one_is_reported() {
    for until in [".tar.gz", ".sha256"] {
        let gateway = Gateway::start();
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let url = gateway.url.clone();
        let proxy = Proxy::before(&gateway.url, move |request| {
            if request.method == "PUT"
                && request.target.ends_with(until)
                && is_first.swap(false, std::sync::atomic::Ordering::Relaxed)
            {
                let first = Dist::with(&[("a", "1")], |_, _, _| vec![0x1f, 0x8b, 1]);
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async { first.push(&store(&url).await, "full", None).await.unwrap() });
            }
            Fate::Pass
        });
        let second = Dist::with(&[("a", "1")], |_, _, _| vec![0x1f, 0x8b, 2]);
        let err = second.push(&store(&proxy.url).await, "full", None).await.unwrap_err();
        assert!(matches!(err, PushError::Replaces { .. } | PushError::TarballLost(_)), "{err}");
        // A tarball that is on its way already cannot be called back: then it is only told.
        if until == ".tar.gz" {
            continue;
        }
        let manifest = manifest(&store(&gateway.url).await).await;
        let named = manifest["agents"]["a"]["tarballs"]["x64"]["sha256"].as_str().unwrap().to_owned();
        let there =
            store(&gateway.url).await.head(&crate::dist::key("vm/images/a-1-x64.tar.gz")).await.unwrap().unwrap();
        assert_eq!(there.sha256.unwrap().to_string(), named, "{until}");
    }
}

#[tokio::test]
async fn the_store_that_is_named_is_the_one_that_is_used() {
    let gateway = Gateway::start();
    let mut vars = gateway.vars();
    vars.insert("AWS_ENDPOINT_URL".into(), "http://127.0.0.1:9".into());
    vars.insert("AWS_ENDPOINT_URL_S3".into(), "http://127.0.0.1:9".into());
    let to: steadfast::publish::store::Destination = "s3://agents".parse().unwrap();
    let url = Some(gateway.url.as_str());
    let named = steadfast::publish::store::Store::open(to, url, &vars).await.unwrap();
    Dist::of(&[("a", "1")]).push(&named, "full", None).await.unwrap();
}
