//! The client against sockets that misbehave, and answers as several Podmans give them.

mod reading;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use proptest::collection;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::http::{Call, Http};
use super::wire::ImageLabels;
use super::{Api, Machine, wire};
use crate::backend::{EngineError, EngineErrorKind, EventKind, ExecRequest, Look, PullRefusal};
use crate::model::{
    ContainerId, ContainerName, ContainerSpec, Create, Health, HostKey, ImageId, ImageRef, Name, Owner, Ownership,
    Phase, Protocol, RestartPolicy, RootClaim, RootId, Secrets, Text, Whose,
};

/// A socket that answers as `behave` says. It is given the request's head.
struct Fake {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn new<F, A>(behave: F) -> Self
    where
        F: Fn(String, UnixStream) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, behave) = (requests.clone(), Arc::new(behave));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (seen, behave) = (seen.clone(), behave.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    seen.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                    behave(head, stream).await;
                });
            }
        });
        Self { _directory: directory, socket, requests }
    }

    /// Answers each request with a status and a body, and a ping as Podman 4.3.1 does.
    fn answering(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::new(move |head, mut stream| {
            let (status, body) = match head.contains("/_ping") {
                true => (200, "OK".to_owned()),
                false => answer(head.lines().next().unwrap()),
            };
            async move {
                let head = format!(
                    "HTTP/1.1 {status} X\r\nLibpod-Api-Version: 4.3.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
            }
        })
    }

    fn api(&self) -> Api {
        Api::new(&self.socket, Machine::Elsewhere).unwrap()
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn look(names: &[&str]) -> Look {
    let names: BTreeSet<_> = names.iter().map(|name| ContainerName::new(*name).unwrap()).collect();
    Look { owner: owner(), health: names.clone(), names, key: HostKey::from_bytes([1; 32]) }
}

fn owner() -> Ownership {
    Name::new("demo").unwrap().into()
}

fn ours(name: &str) -> Value {
    json!({"Id": format!("id-{name}"), "Names": [name], "State": "running", "Status": "healthy", "ImageID": "abc",
           "Labels": {"steadfast.name": "demo"}})
}

#[tokio::test]
async fn nothing_to_do_costs_three_requests_and_a_ping_only_once() {
    let fake = Fake::answering(|request| match request.contains("/images/") {
        true => (200, json!([{"Id": "abc"}]).to_string()),
        false => (200, json!([ours("a"), ours("b")]).to_string()),
    });
    let api = fake.api();
    for round in 1..=2 {
        let guest = api.look(&look(&["a", "b"])).await.unwrap();
        assert_eq!(guest.containers.len(), 2);
        assert_eq!(guest.version, "4.3.1");
        assert_eq!(fake.requests().len(), 1 + 2 * round, "{:?}", fake.requests());
    }
    api.look(&look(&["a", "b", "c.d"])).await.unwrap();
    let requests = fake.requests();
    assert_eq!(requests.len(), 1 + 2 * 3 + 1, "one more to find a foreign container");
    assert!(requests.last().unwrap().contains("%5E%28c%5C%5C.d%29%24"), "{requests:?}");
}

/// The list and the images as they are after `podman commit` of an agent and `podman run` of what came of it.
fn committed(named: bool) -> (Value, Value) {
    let own = json!({"steadfast.name": "demo", "steadfast.id": "1"});
    let copied = json!({"steadfast.name": "demo", "steadfast.id": "1", "maintainer": "x"});
    let containers = json!([
        {"Id": "1a", "Names": ["a"], "State": "running", "Status": "healthy", "ImageID": "base", "Labels": own},
        {"Id": "2b", "Names": ["b"], "State": "running", "Status": "healthy", "ImageID": "copy", "Labels": copied},
        {"Id": "3c", "Names": ["c"], "State": "running", "Status": "healthy", "ImageID": "copy",
         "Labels": {"steadfast.name": "demo", "steadfast.id": "2", "maintainer": "x"}},
    ]);
    let mut images = vec![json!({"Id": "base", "Names": ["localhost/base:1"], "Labels": null})];
    if named {
        images.push(json!({"Id": "sha256:copy", "Names": ["localhost/copy:1"], "Labels": copied}));
    }
    (containers, Value::from(images))
}

#[tokio::test]
async fn a_copy_is_known_by_its_image_without_another_request() {
    let fake = Fake::answering(|request| {
        let (containers, images) = committed(true);
        (200, if request.contains("/images/") { images } else { containers }.to_string())
    });
    let seen = fake.api().look(&look(&["a", "b"])).await.unwrap().containers;
    let owner = |name: &str| &seen[&ContainerName::new(name).unwrap()].owner;
    assert!(matches!(owner("a"), Owner::Ours { .. }) && matches!(owner("c"), Owner::Ours { .. }), "{seen:?}");
    assert_eq!(owner("b"), &Owner::Foreign(Whose::Copy), "its name is wanted, so it is told of");
    assert_eq!(fake.requests().len(), 1 + 2, "{:?}", fake.requests());
    let seen = fake.api().look(&look(&["a"])).await.unwrap().containers;
    assert_eq!(seen.keys().map(ContainerName::as_str).collect::<Vec<_>>(), ["a", "c"]);
}

#[tokio::test]
async fn an_image_that_podman_does_not_list_is_asked_for() {
    let fake = Fake::answering(|request| {
        let (containers, images) = committed(request.contains("all=true"));
        (200, if request.contains("/images/") { images } else { containers }.to_string())
    });
    let guest = fake.api().look(&look(&["a"])).await.unwrap();
    assert_eq!(guest.containers.keys().map(ContainerName::as_str).collect::<Vec<_>>(), ["a", "c"]);
    assert!(!guest.images.keys().any(|name| name.as_str().contains("copy")), "names are those of the usual list");
    assert_eq!(fake.requests().len(), 1 + 3, "{:?}", fake.requests());
}

#[tokio::test]
async fn another_roots_container_is_seen_only_under_a_wanted_name_and_reported_whose_it_is() {
    let (here, there) = ("a1".repeat(16), "b2".repeat(16));
    let labelled = move |name: &str, root: &str| {
        let labels = json!({"steadfast.name": "demo", "steadfast.root": root, "steadfast.root-path": "/r", "steadfast.id": name});
        json!({"Id": format!("id-{name}"), "Names": [name], "State": "running", "Status": "healthy", "ImageID": "i", "Labels": labels})
    };
    let list = json!([labelled("a", &here), labelled("b", &there), labelled("c", &there)]).to_string();
    let fake = Fake::answering(move |request| {
        (200, if request.contains("/images/") { "[{\"Id\":\"i\"}]".into() } else { list.clone() })
    });
    let root = RootClaim { id: RootId::parse(&here), place: None, unlabelled: false };
    let look = Look { owner: Ownership { root, ..owner() }, ..look(&["a", "b"]) };
    let seen = fake.api().look(&look).await.unwrap().containers;
    let owners: Vec<_> = seen.iter().map(|(name, seen)| (name.as_str(), seen.owner.whose())).collect();
    assert_eq!(owners, [("a", None), ("b", Some(Whose::Root { id: there, path: Some("/r".into()) }))]);
    assert_eq!(fake.requests().len(), 1 + 2, "the holder of a wanted name was in the list already");
}

#[test]
fn a_clone_is_no_agent_though_it_has_every_label() {
    let entry = |name: &str, created: Value| {
        json!({"Id": name, "Names": [name], "State": "running", "ImageID": "i", "Created": created,
        "Labels": {"steadfast.name": "demo", "steadfast.id": "1"}})
    };
    let owner = |list: Value, name: &str| {
        let seen = wire::containers(&list, &look(&["wanted"]), &ImageLabels::default());
        seen[&ContainerName::new(name).unwrap()].owner.clone()
    };
    let list =
        json!([entry("clone", "2026-11-29T10:12:36.2Z".into()), entry("agent", "2026-11-29T10:12:36.1Z".into())]);
    assert_eq!(owner(list.clone(), "clone"), Owner::Foreign(Whose::Copy));
    assert!(matches!(owner(list, "agent"), Owner::Ours { .. }));
    // The command line tells whole seconds.
    let list = json!([entry("clone", 7.into()), entry("wanted", 7.into())]);
    assert_eq!(owner(list.clone(), "clone"), Owner::Foreign(Whose::Copy));
    assert!(matches!(owner(list, "wanted"), Owner::Ours { .. }));
}

#[test]
fn another_roots_events_are_not_ours() {
    let event = |root: &str| {
        let line = json!({"Type": "container", "Action": "die", "Actor": {"Attributes": {"name": "a", "steadfast.name": "demo", "steadfast.root": root}}});
        line.to_string().into_bytes()
    };
    let here = "a1".repeat(16);
    let root = RootClaim { id: RootId::parse(&here), place: None, unlabelled: false };
    let us = Ownership { root, ..owner() };
    assert!(wire::event(&event(&here), &us).is_some());
    assert!(wire::event(&event(&"b2".repeat(16)), &us).is_none());
}

#[tokio::test]
async fn what_is_not_podman_is_distinguished_from_what_is_not_there() {
    let docker = Fake::new(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK").await;
    });
    let web = Fake::new(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno").await;
    });
    for fake in [docker, web] {
        let err = fake.api().look(&look(&[])).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::Unknown, "{err}");
        assert!(err.message.contains("is not Podman"), "{err}");
    }
    let gone = Fake::answering(|_| (200, String::new()));
    std::fs::remove_file(&gone.socket).unwrap();
    let err = gone.api().look(&look(&[])).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::TransportUnavailable);
    assert!(err.message.contains("is gone; start Podman's service again"), "{err}");

    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let err = Api::new(&stale, Machine::Here).unwrap().look(&look(&[])).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::TransportUnavailable);
    assert!(err.message.contains("nobody listens on the Podman socket"), "{err}");
}

#[tokio::test]
async fn a_socket_that_hangs_before_or_within_its_answer_times_out() {
    let silent = Fake::new(|_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let stuck = Fake::new(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[").await;
        std::future::pending::<()>().await;
    });
    for fake in [silent, stuck] {
        let http = Http::new(&fake.socket).unwrap();
        let began = Instant::now();
        let call = Call::get("list containers", "/x").within(Duration::from_millis(200));
        let err = http.send(&call).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::Timeout, "{err}");
        assert_eq!(err.message, "failed to list containers: Podman did not answer within 200ms");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_socket_that_closes_midway_is_a_broken_transport() {
    let within = Fake::new(|_, mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[").await;
    });
    let before = Fake::new(|_, stream| async move { drop(stream) });
    for fake in [within, before] {
        let err = fake.api().look(&look(&[])).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::TransportUnavailable, "{err}");
        assert!(err.message.contains("broke"), "{err}");
    }
}

#[tokio::test]
async fn garbage_is_an_answer_that_cannot_be_read() {
    for body in ["<html>", "{\"a\":", "{}", "12"] {
        let fake = Fake::answering(move |_| (200, body.to_owned()));
        let err = fake.api().look(&look(&[])).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::Unknown, "{body}: {err}");
        assert!(err.message.contains("cannot be read"), "{err}");
    }
}

#[tokio::test]
async fn events_come_although_their_headers_are_late_and_lines_are_malformed() {
    let fake = Fake::new(|head, mut stream| async move {
        if head.contains("/_ping") {
            let _ = stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nLibpod-Api-Version: 5.4.0\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                )
                .await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(900)).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
        for line in [
            "not json\n",
            "{\"Type\":\"container\"}\n",
            "{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"Attributes\":{\"name\":\"x\",\"steadfast.name\":\"other\"}}}\n",
            "{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"Attributes\":",
            "{\"name\":\"a\",\"steadfast.name\":\"demo\"}}}\r\n{\"Type\":\"image\",\"Action\":\"pull\"}\n",
        ] {
            let _ = stream.write_all(line.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let events = fake.api().events(&owner()).await.unwrap();
    let seen: Vec<_> = events.map(|event| event.map(|event| (event.kind, event.container)).unwrap()).collect().await;
    assert_eq!(seen, [(EventKind::Died, Some("a".to_owned())), (EventKind::Other("pull".to_owned()), None)]);
}

#[test]
fn a_registry_that_is_to_blame_is_reported_by_podmans_words_and_not_by_the_images_name() {
    let of = |image: &str, why: &str| {
        let what = format!("pull image `{image}`");
        let err = EngineError::new(EngineErrorKind::ApiError, format!("failed to {what}: {why}"));
        super::error::of_pull(err, &what, &ImageRef::new(image).unwrap()).pull.map(|pull| (pull.registry, pull.why))
    };
    let fault = |registry: &str, why| Some((registry.to_owned(), why));
    let (login, missing, silent) = (PullRefusal::LoginWanted, PullRefusal::NoSuchImage, PullRefusal::Unreachable);
    let said = "initializing source: unauthorized: authentication required";
    assert_eq!(of("reg.example:5000/a/b:1", said), fault("reg.example:5000", login));
    let denied = "denied: requested access to the resource is denied";
    assert_eq!(of("docker.io/me/private:1", denied), fault("docker.io", login));
    assert_eq!(of("me/private:1", denied), fault("docker.io", login));
    for unknown in ["reg.example/a:1", "reg.example/unauthorized:1"] {
        assert_eq!(of(unknown, "manifest unknown"), fault("reg.example", missing));
    }
    let lost = "pinging container registry reg.example: dial tcp: lookup reg.example: no such host";
    assert_eq!(of("reg.example/a:1", lost), fault("reg.example", silent));
    assert_eq!(of("reg.example/unauthorized:1", "the disk is odd"), None);
}

#[test]
fn an_event_is_what_it_means_and_commands_and_checks_wake_nobody() {
    for word in ["die", "died"] {
        assert_eq!(wire::event_kind(word), EventKind::Died);
    }
    assert_eq!(wire::event_kind("start"), EventKind::Started);
    for word in ["exec", "exec_died", "health_status", "health_status: healthy", "attach", "mount", "unmount"] {
        assert_eq!(wire::event_kind(word), EventKind::Quiet, "{word}");
    }
    for word in ["kill", "stop", "pause", "remove", "rename", "untag", "diet", "restart", "a word of tomorrow", ""] {
        assert_eq!(wire::event_kind(word), EventKind::Other(word.to_owned()));
    }
}

#[tokio::test]
async fn an_upload_that_podman_cuts_off_is_a_broken_transport() {
    let fake = Fake::new(|head, mut stream| async move {
        if head.contains("/_ping") {
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nLibpod-Api-Version: 4.3.1\r\nContent-Length: 0\r\n\r\n").await;
            return;
        }
        let mut some = [0; 1000];
        let _ = stream.read_exact(&mut some).await;
    });
    let body = stream::repeat_with(|| Ok(Bytes::from(vec![0; 64 << 10]))).take(1000);
    let err = fake.api().load(Box::pin(body)).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::TransportUnavailable, "{err}");
}
