//! Manifest and signature go together, whoever publishes beside.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use steadfast::model::Manifest;
use steadfast::publish::key;
use steadfast::publish::push::{PushError, Signing};
use steadfast::publish::store::{ObjectKey, Store};
use steadfast::trust::{self, Signed, TrustError};

use crate::dist::{Dist, store};
use crate::gateway::Gateway;

fn signing(expires: Option<Duration>) -> Signing {
    let keys = key::generate(None).unwrap();
    Signing::new(key::read(&keys.secret, || Err("none".into())).unwrap(), expires, None).unwrap()
}

/// As whoever trusts this key reads it.
async fn read(store: &Store, signing: &Signing) -> Result<Signed, TrustError> {
    let manifest = store.get(&ObjectKey::manifest(), 1 << 22).await.unwrap().unwrap().bytes;
    let signature = store.get(&ObjectKey::signature(), 1 << 22).await.unwrap().map(|found| found.bytes);
    let updated_at = Manifest::parse(&manifest).unwrap().updated_at;
    let trusted = [signing.public().clone()];
    trust::verify(&manifest, &updated_at, signature.as_deref(), &trusted, SystemTime::now())
}

#[tokio::test]
async fn each_publication_is_signed_with_a_higher_number() {
    let gateway = Gateway::start();
    let (store, ours) = (store(&gateway.url).await, signing(None));
    let mut last = 0;
    for version in ["1", "2", "3"] {
        let pushed = Dist::of(&[("a", version)]).push(&store, "full", Some(&ours)).await.unwrap();
        let signed = read(&store, &ours).await.unwrap();
        assert!(signed.serial > last && signed.expires.is_none());
        assert_eq!(
            (pushed.manifest.serial, pushed.manifest.signed_by),
            (Some(signed.serial), Some(signed.key.id().to_string()))
        );
        last = signed.serial;
    }
    let same = Dist::of(&[("a", "3")]);
    assert!(!same.push(&store, "full", Some(&ours)).await.unwrap().manifest.changed);
    // Another key is another signature, and a date is a new one each time.
    let theirs = signing(None);
    assert!(same.push(&store, "full", Some(&theirs)).await.unwrap().manifest.changed);
    read(&store, &theirs).await.unwrap();
    let dated = signing(Some(Duration::from_secs(60)));
    for _ in 0..2 {
        assert!(same.push(&store, "full", Some(&dated)).await.unwrap().manifest.changed);
        assert!(read(&store, &dated).await.unwrap().expires.is_some());
    }
    // Without a key, whoever trusts one would be left behind.
    let err = Dist::of(&[("a", "4")]).push(&store, "full", None).await.unwrap_err();
    assert!(matches!(err, PushError::Signed), "{err}");
    assert!(!gateway.path("vm/images/a-4-x64.tar.gz").exists(), "nothing was sent for nothing");
}

#[tokio::test]
async fn a_signature_that_was_left_behind_by_a_kill_is_repaired() {
    let gateway = Gateway::start();
    let (store, ours, dist) = (store(&gateway.url).await, signing(None), Dist::of(&[("a", "1")]));
    dist.push(&store, "full", Some(&ours)).await.unwrap();
    let manifest = std::fs::read(gateway.path("vm/manifest.json")).unwrap();
    Dist::of(&[("a", "2")]).push(&store, "full", Some(&ours)).await.unwrap();
    let about = steadfast::publish::store::About { content_type: "application/json", cache_control: "no-cache" };
    let always = steadfast::publish::store::Condition::Always;
    store.put(&ObjectKey::manifest(), &manifest, about, always).await.unwrap();
    assert!(read(&store, &ours).await.is_err(), "the manifest of the first, the signature of the second");
    assert!(dist.push(&store, "full", Some(&ours)).await.unwrap().manifest.changed);
    read(&store, &ours).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_who_sign_at_once_leave_a_pair() {
    let gateway = Gateway::start();
    let (one, other) = (Arc::new(store(&gateway.url).await), Arc::new(store(&gateway.url).await));
    let ours = Arc::new(signing(None));
    for round in 0..25 {
        let publish = |name: &'static str, store: &Arc<Store>| {
            let (store, ours, version) = (Arc::clone(store), Arc::clone(&ours), round.to_string());
            tokio::spawn(async move {
                Dist::of(&[(name, &version)]).push(&store, &format!("agents:{name}"), Some(&ours)).await.unwrap();
            })
        };
        let (first, second) = (publish("a", &one), publish("b", &other));
        first.await.unwrap();
        second.await.unwrap();
        read(&one, &ours).await.unwrap_or_else(|err| panic!("round {round}: {err}"));
        let manifest = crate::dist::manifest(&one).await;
        for name in ["a", "b"] {
            assert_eq!(manifest["agents"][name]["version"], round.to_string());
        }
    }
}

#[tokio::test]
async fn a_new_key_goes_on_where_the_old_one_ended() {
    let gateway = Gateway::start();
    let store = store(&gateway.url).await;
    let day = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_777_248_000));
    let (old, new) = (signing(None), signing(None));
    let mut last = 0;
    for (version, key) in [("1", &old), ("2", &old), ("3", &new), ("4", &old)] {
        let dist = Dist::of(&[("a", version)]);
        let inputs = dist.inputs("full");
        let signing = Some(key);
        let push = steadfast::publish::push::Push {
            store: &store,
            inputs: &inputs,
            signing,
            written_at: day,
            replace: false,
            public: None,
            cancel: Default::default(),
        };
        let serial = push.run(&|_| {}).await.unwrap().manifest.serial.unwrap();
        assert!(serial > last, "{version}: {serial} after {last}");
        last = serial;
    }
    // A number that is no time, by somebody whom nobody knows.
    let text = std::fs::read_to_string(gateway.path("vm/manifest.json.minisig")).unwrap();
    let text = text.replace(&format!("serial={last}"), &format!("serial={}", u64::MAX));
    let about = steadfast::publish::store::About { content_type: "text/plain", cache_control: "no-cache" };
    let always = steadfast::publish::store::Condition::Always;
    store.put(&ObjectKey::signature(), text.as_bytes(), about, always).await.unwrap();
    let err = Dist::of(&[("a", "5")]).push(&store, "full", Some(&new)).await.unwrap_err();
    assert!(matches!(err, PushError::SerialAhead(u64::MAX)), "{err}");
}
