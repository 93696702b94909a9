//! The client against sockets that misbehave, and answers as several Podmans give them.

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
    assert_eq!(requests.len(), 1 + 2 * 3 + 1, "one more to find a stranger");
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
async fn refusals_are_sorted_by_status_and_by_podmans_words() {
    use EngineErrorKind::{ApiError, Conflict, NotFound, PermissionDenied, Timeout, TransportUnavailable};
    let cases = [
        (500, r#"{"message":"the container name \"q1\" is already in use by abc"}"#, Conflict),
        (409, r#"{"message":"container name q1 is used"}"#, Conflict),
        (
            500,
            r#"{"message":"cannot listen on the TCP port: listen tcp4 127.0.0.1:80: bind: address already in use"}"#,
            Conflict,
        ),
        (500, r#"{"message":"Bind for 0.0.0.0:80 failed: port is already allocated"}"#, Conflict),
        (404, r#"{"message":"no such container"}"#, NotFound),
        (401, "", PermissionDenied),
        (403, "no", PermissionDenied),
        (408, "", Timeout),
        (503, "", TransportUnavailable),
        (
            500,
            r#"{"message":"runc: exec: \"x\": executable file not found in $PATH: OCI runtime attempted to invoke a command that was not found"}"#,
            ApiError,
        ),
        // Half of its layer was never written to the disk.
        (
            500,
            r#"{"cause":"no such file or directory","message":"mounting storage for container abc: creating overlay mount to /root/overlay/9a45/merged, mount_data=\"lowerdir=/root/overlay/9a45/empty,upperdir=/root/overlay/9a45/diff,workdir=/root/overlay/9a45/work,\": no such file or directory","response":500}"#,
            ApiError,
        ),
        (500, "plain text\nof several lines", ApiError),
        (400, r#"{"cause":"bad"}"#, ApiError),
    ];
    for (status, body, kind) in cases {
        let fake = Fake::answering(move |_| (status, body.to_owned()));
        let err = fake.api().look(&look(&[])).await.unwrap_err();
        assert_eq!(err.kind, kind, "{status} {body}: {err}");
        assert_eq!(err.status, Some(status));
        assert!(!err.message.contains('\n') && err.message.starts_with("failed to list "), "{err}");
        assert!(err.command.as_ref().unwrap().starts_with("GET /v4.0.0/libpod/"), "{err:?}");
        if body.contains(":80") {
            assert!(err.message.contains(":80 is taken"), "{err}");
        }
        if body.contains("overlay mount") {
            assert!(err.message.contains("power cut") && err.message.contains("podman rm"), "{err}");
            assert!(err.body.unwrap().contains("creating overlay mount"), "Podman's own words are kept");
        }
    }
    let long = Fake::answering(|_| (500, "é".repeat(40_000)));
    let err = long.api().look(&look(&[])).await.unwrap_err();
    assert!(err.message.len() < 700 && err.body.unwrap().len() <= 4096);
}

/// Podman (4.3) then fails the whole inspection.
#[tokio::test]
async fn a_process_that_ends_amid_an_inspection_is_no_error() {
    let id = ContainerId::new("abc").unwrap();
    let tries = Arc::new(Mutex::new(0));
    let dying = json!({ "cause": "no such process", "message": "read /proc/9501/cgroup: no such process" }).to_string();
    let fake = Fake::answering(move |_| {
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        let gone = json!({ "message": "no container with name or ID \"abc\" found: no such container" }).to_string();
        if *tries < 4 { (500, dying.clone()) } else { (404, gone) }
    });
    assert_eq!(fake.api().inspect(&id).await.unwrap(), None);
    let always =
        Fake::answering(|_| (500, json!({ "message": "read /proc/9501/cgroup: no such process" }).to_string()));
    assert_eq!(always.api().inspect(&id).await.unwrap_err().kind, EngineErrorKind::ApiError);
    assert!(always.requests().len() < 10, "it does not ask for ever");
}

/// A container taken for gone is made again, or counts as removed.
#[tokio::test]
async fn only_what_the_call_is_about_can_be_gone() {
    let id = ContainerId::new("abc").unwrap();
    let image = ImageRef::new("localhost/containers/a:1").unwrap();
    let refusing = |sentence: &'static str| Fake::answering(move |_| (500, json!({ "message": sentence }).to_string()));
    for (sentence, container_gone, image_gone) in [
        ("container abc does not exist in database: no such container", true, false),
        ("no container with name or ID \"abc\" found: no such container", true, false),
        ("failed to find image x: x: image not known", false, true),
        ("x: no such image", false, true),
        ("unable to find network with name or ID y: network not found: no such network", false, false),
        ("statfs /srv/x: no such file or directory", false, false),
    ] {
        let seen = refusing(sentence);
        assert_eq!(seen.api().inspect(&id).await.is_ok_and(|found| found.is_none()), container_gone, "{sentence}");
        assert_eq!(seen.api().remove(&id, Duration::ZERO).await.is_ok(), container_gone, "{sentence}");
        assert_eq!(seen.api().image(&image).await.is_ok_and(|found| found.is_none()), image_gone, "{sentence}");
        assert_eq!(seen.api().remove_image(&ImageId::from("x")).await.is_ok(), image_gone, "{sentence}");
    }
}

/// A predecessor's data may be all that is left of an agent.
#[tokio::test]
async fn removing_a_container_leaves_its_volumes() {
    let fake = Fake::answering(|_| (204, String::new()));
    fake.api().remove(&ContainerId::new("abc").unwrap(), Duration::ZERO).await.unwrap();
    let requests = fake.requests();
    let delete = requests.iter().find(|request| request.starts_with("DELETE ")).unwrap();
    assert!(delete.contains("/containers/abc?") && delete.contains("v=false"), "{delete}");
}

fn secretive(secret: &str) -> Create {
    let mut spec = ContainerSpec {
        name: ContainerName::new("a").unwrap(),
        command: None,
        env: BTreeMap::new(),
        mounts: vec![],
        ports: vec![],
        restart: RestartPolicy::No,
        add_hosts: vec![],
        healthcheck: None,
        no_healthcheck: false,
        hidden_ports: Default::default(),
    };
    spec.env.insert("TOKEN".into(), Text::sensitive(secret));
    let image = ImageRef::new("localhost/a:1").unwrap();
    Create { name: spec.name.clone(), image, image_id: None, spec, labels: BTreeMap::new(), volumes: Vec::new() }
}

/// Half a secret is one too, so it is hidden before the sentence is joined and cut.
#[tokio::test]
async fn secrets_are_hidden_wherever_podmans_words_are_cut() {
    let secret = "canary one  two\nthree & \"four\" canary";
    for before in [0, 590, 4075] {
        let fake = Fake::answering(move |_| {
            let go = json!({ "message": format!("{}bad {secret}, {secret:?}", "x ".repeat(before / 2)) }).to_string();
            (500, go.replace('&', "\\u0026"))
        });
        let err = fake.api().create(&secretive(secret)).await.unwrap_err();
        let told = format!("{err} {err:?}");
        for half in ["cana", "two", "three", "four"] {
            assert!(!told.contains(half), "{before}: {told}");
        }
        assert!(err.message.len() < 700 && err.body.unwrap().len() <= 4096);
    }
    let fake = Fake::answering(|_| (500, json!({ "message": "x: image not known" }).to_string()));
    let err = fake.api().create(&secretive("image")).await.unwrap_err();
    assert_eq!((err.kind, err.message.contains("image")), (EngineErrorKind::NotFound, false), "{err}");
}

#[tokio::test]
async fn a_command_that_is_refused_keeps_its_environment_to_itself() {
    let id = ContainerId::new("abc").unwrap();
    for refusing in ["/containers/abc/exec", "/exec/e1/start"] {
        let fake = Fake::answering(move |request| match request.contains(refusing) {
            true => (500, json!({ "message": "exec: \"canary-value\": not found" }).to_string()),
            false => (201, json!({ "Id": "e1" }).to_string()),
        });
        let request = ExecRequest {
            command: vec!["canary-value".into()],
            env: vec!["A=canary-value".into()],
            ..ExecRequest::default()
        };
        let Err(err) = fake.api().exec(&id, &request).await else { panic!("{refusing}: it was refused") };
        assert!(err.message.contains("not found") && !format!("{err:?}").contains("canary"), "{err:?}");
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

fn listed(entry: Value) -> crate::model::ContainerState {
    told(&entry).unwrap().1
}

fn told(entry: &Value) -> Option<(ContainerName, crate::model::ContainerState)> {
    wire::listed(entry, &look(&[]), &ImageLabels::default())
}

/// As Podman 4.3.1 answered.
#[test]
fn the_list_of_4_3_1_is_read() {
    let answer: Value = serde_json::from_str(include_str!("../../../tests/fixtures/podman/list-4.3.1.json")).unwrap();
    let seen: Vec<_> = answer.as_array().unwrap().iter().map(|entry| told(entry).unwrap()).collect();
    let by = |name: &str| &seen.iter().find(|(found, _)| found.as_str() == name).unwrap().1;
    let running = by("running");
    assert_eq!(running.phase, Phase::Running);
    assert_eq!(running.health, Some(Health::Healthy), "libpod's list tells the verdict");
    assert_eq!(running.pid, Some(19587));
    assert_eq!(running.started_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_237_770)));
    assert_eq!(running.ports[0].to_string(), "127.0.0.1:18080:80/tcp");
    assert!(matches!(running.owner, Owner::Ours { .. }));
    let created = by("created");
    assert_eq!((created.phase.clone(), created.started_at, created.pid), (Phase::Created, None, None));
    assert_eq!(created.health, None, "`starting` is no verdict before the start");
    assert_eq!(by("exited").phase, Phase::Exited { code: 7 });
    assert_eq!(by("exited").owner, Owner::Foreign(Whose::Name("x".into())));
}

#[test]
fn the_inspection_of_4_3_1_is_read() {
    let answer: Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/podman/inspect-4.3.1.json")).unwrap();
    let (name, state) = wire::inspected(&answer).unwrap();
    assert_eq!(name.as_str(), "running");
    assert_eq!((state.phase, state.health, state.restarts), (Phase::Running, Some(Health::Healthy), Some(0)));
    assert_eq!(state.ports[0].to_string(), "127.0.0.1:18080:80/tcp");
    assert_eq!(state.restart.as_deref(), Some("unless-stopped"));
    let live = state.live.unwrap();
    assert_eq!(live.mounts["/data"], "/srv/data:ro");
    assert_eq!(live.env["A"], "b c");
    assert_eq!(live.command.unwrap(), ["sleep", "1000"]);
    assert_eq!(live.add_hosts.unwrap(), ["foo:1.2.3.4"]);
    assert_eq!(live.health_test.unwrap(), ["CMD", "/busybox", "true"]);
}

/// As Podman 4.9 and 5 say it, and as nobody says it yet.
#[test]
fn other_versions_words_are_read() {
    let phases = [
        ("initialized", Phase::Created),
        ("configured", Phase::Created),
        ("stopped", Phase::Exited { code: 3 }),
        ("exited", Phase::Exited { code: 3 }),
        ("stopping", Phase::Stopping),
        ("removing", Phase::Removing),
        ("paused", Phase::Paused),
        ("Running", Phase::Running),
        ("dead", Phase::Other("dead".into())),
        ("hibernating", Phase::Other("hibernating".into())),
    ];
    for (word, phase) in phases {
        assert_eq!(listed(json!({"Id": "a1", "Names": ["/n"], "State": word, "ExitCode": "3"})).phase, phase);
    }
    let ended = |ago: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        listed(json!({"Id": "a1", "Names": ["n"], "State": "stopped", "ExitCode": 9, "ExitedAt": now - ago})).phase
    };
    assert_eq!(ended(0), Phase::Stopping, "Podman may still restart it");
    assert_eq!(ended(60), Phase::Exited { code: 9 }, "nobody is coming any more");
    let later = listed(json!({
        "Id": "a1", "Names": ["n"], "State": "running", "Status": "Up 2 minutes (healthy)", "Restarts": 4, "Pid": "77",
        "StartedAt": "2026-04-24T12:00:00.5+02:00", "Created": 1, "Labels": null, "Ports": null, "New": {"x": []},
    }));
    assert_eq!((later.restarts, later.pid, later.health), (Some(4), Some(77), Some(Health::Healthy)));
    assert_eq!(humantime::format_rfc3339_millis(later.started_at.unwrap()).to_string(), "2026-04-24T10:00:00.500Z");
    assert_eq!(later.owner, Owner::Foreign(Whose::Somebody));

    let with_health =
        listed(json!({"Id": "a1", "Names": ["n"], "State": "running", "Health": {"Status": "unhealthy"}}));
    assert_eq!(with_health.health, Some(Health::Unhealthy));
    let unheard = listed(json!({"Id": "a1", "Names": ["n"], "State": "running", "Health": {"Status": "queasy"}}));
    assert_eq!(unheard.health, Some(Health::Other("queasy".into())));

    let nameless = told(&json!({"Id": "0123456789abcdef", "Names": null, "State": 5})).unwrap();
    assert_eq!(nameless.0.as_str(), "0123456789ab");
    assert_eq!(nameless.1.phase, Phase::Other(String::new()));
    assert!(told(&json!({"Names": ["n"]})).is_none(), "without an id it is nothing");
    assert!(told(&json!("n")).is_none());

    let ranges = listed(json!({"Id": "a1", "Names": ["n"], "State": "created", "Ports": [
        {"host_ip": "", "host_port": 5000, "container_port": 6000, "range": 2, "protocol": "tcp,udp"},
        {"host_port": 0, "container_port": 1}, {"container_port": "x"}, null,
    ]}));
    assert_eq!(ranges.ports.len(), 2);
    assert_eq!(ranges.ports.iter().filter(|port| port.first.protocol == Protocol::Udp).count(), 1);
    assert!(ranges.ports.iter().all(|port| port.first.host_ip == "0.0.0.0" && port.more == 1));
}

#[test]
fn later_inspections_are_read() {
    let (_, state) = wire::inspected(&json!({
        "Id": "a1", "Name": "/n", "State": {"Status": "exited", "ExitCode": 137, "StartedAt": 1_795_237_770,
        "Health": null}, "RestartCount": "2", "Config": {"Env": null, "Cmd": null},
        "HostConfig": {"PortBindings": {"80/tcp": null, "53/udp": [{"HostPort": 5353}]}},
    }))
    .unwrap();
    assert_eq!((state.phase, state.restarts, state.health), (Phase::Exited { code: 137 }, Some(2), None));
    assert_eq!(state.ports[0].to_string(), "0.0.0.0:5353:53/udp");
    assert!(state.started_at.is_some());
    assert_eq!(state.owner, Owner::Foreign(Whose::Somebody), "no label, no owner");
}

#[test]
fn image_names_are_gathered_and_none_is_no_name() {
    let images = wire::images(&json!([
        {"Id": "sha256:aa", "RepoTags": ["localhost/a:1", "<none>:<none>"], "RepoDigests": ["localhost/a@sha256:ff"]},
        {"Id": "bb", "RepoTags": null, "Names": ["ghcr.io/x/y:2"]},
        {"RepoTags": ["lost:1"]}, null,
    ]));
    let seen: Vec<_> = images.names.iter().map(|(name, id)| format!("{name}={id}")).collect();
    assert_eq!(seen, ["ghcr.io/x/y:2=bb", "localhost/a:1=aa", "localhost/a@sha256:ff=aa"]);
}

/// As 4.3.1 lists an image with one name, one that lost its name, and as an older one that does not count containers.
#[test]
fn a_digest_of_an_image_is_no_second_tag() {
    let images = wire::images(&json!([
        {"Id": "aa", "RepoTags": ["localhost/a:1"], "RepoDigests": ["localhost/a@sha256:ff"], "Names": ["localhost/a:1"],
         "Size": 1_987_655, "Containers": 2},
        {"Id": "bb", "RepoTags": null, "RepoDigests": [], "Size": 7, "Containers": 0, "Dangling": true},
        {"Id": "cc"},
    ]));
    let told = |id: &str| {
        let image = &images.store[&crate::model::ImageId::from(id)];
        (image.tags.iter().map(ToString::to_string).collect::<Vec<_>>(), image.size, image.containers)
    };
    assert_eq!(told("aa"), (vec!["localhost/a:1".to_owned()], 1_987_655, Some(2)));
    assert_eq!(told("bb"), (vec![], 7, Some(0)));
    assert_eq!(told("cc"), (vec![], 0, None));
}

/// Text from elsewhere, near enough to what is expected to get far into the parsers.
fn words() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        select(vec![
            "2026-04-24T10:00:00",
            "2026-",
            ".5",
            ".",
            "Z",
            "+02:00",
            "-99:99",
            "€1:0",
            "(healthy)",
            "(",
            ")",
            "/",
            ":",
            "=",
            "tcp,udp",
            "80",
            "65535",
            "99999999999999999999",
            "1e400",
            "-1",
            "NaN",
            "inf",
            "é",
            "running",
            "exited",
            ": bind: address already in use",
            "port is already allocated",
            "failed",
            "demo",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => words().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    let field = select(vec![
        "Id",
        "Name",
        "Names",
        "State",
        "Status",
        "ExitCode",
        "Labels",
        "StartedAt",
        "Restarts",
        "Pid",
        "Ports",
        "host_port",
        "container_port",
        "range",
        "protocol",
        "host_ip",
        "Health",
        "Config",
        "HostConfig",
        "PortBindings",
        "80/tcp",
        "HostPort",
        "Env",
        "Cmd",
        "Healthcheck",
        "Test",
        "Mounts",
        "Source",
        "Destination",
        "ExtraHosts",
        "steadfast.name",
        "steadfast.spec",
        "steadfast.spec-version",
        "RepoTags",
        "Type",
        "Action",
        "Actor",
        "Attributes",
        "message",
    ]);
    leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::btree_map(field.clone().prop_map(str::to_owned), inner, 0..12)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever stands in an answer, reading it does not panic.
    #[test]
    fn no_answer_breaks_a_reader(mut answer in anything(), word in words()) {
        let _ = wire::images(&answer);
        let _ = wire::event(word.as_bytes(), &owner());
        let _ = wire::event(answer.to_string().as_bytes(), &owner());
        if answer.is_object() {
            for (field, text) in [("Id", "a1"), ("Name", "n"), ("StartedAt", word.as_str())] {
                answer[field] = text.into();
            }
            let _ = told(&answer);
            answer["State"] = json!({ "StartedAt": word, "Status": "running" });
            let _ = wire::inspected(&answer);
        }
        for body in [word, answer.to_string()] {
            let err = super::error::refused("x", "GET /containers/a/json", 500, body.as_bytes(), &Secrets::new([body.as_str()]));
            prop_assert!(err.message.len() < 700);
        }
    }
}

#[test]
fn a_host_port_that_is_taken_is_named_in_few_words() {
    let address = "x".repeat(100_000);
    for sentence in [
        format!("listen tcp {address}:80: bind: address already in use"),
        format!("Bind for {address}:80 failed: port is already allocated"),
    ] {
        let err = super::error::refused("x", "POST /containers/create", 500, sentence.as_bytes(), &Secrets::default());
        assert!(err.message.len() < 700, "{} bytes", err.message.len());
    }
}

#[test]
fn a_time_with_a_broken_offset_is_no_time() {
    for (time, known) in
        [("2026-04-24T10:00:00€1:0", false), ("€1:0", false), ("2026-04-24T10:00:00+02:00", true), ("+9999:", false)]
    {
        let seen = listed(json!({"Id": "a1", "Names": ["n"], "State": "running", "StartedAt": time}));
        assert_eq!(seen.started_at.is_some(), known, "{time}");
    }
}

#[tokio::test]
async fn an_answer_is_bounded_and_reported_with_its_request() {
    // One that says how large it is, and one that only goes on.
    for length in ["Content-Length: 314572800\r\n", ""] {
        let fake = Fake::new(move |head, mut stream| async move {
            let (length, body) = match head.contains("/_ping") {
                true => ("Content-Length: 0\r\n", 0),
                false => (length, 300),
            };
            let head = format!("HTTP/1.1 200 OK\r\nLibpod-Api-Version: 4.3.1\r\nConnection: close\r\n{length}\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let piece = vec![b' '; 1 << 20];
            for _ in 0..body {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
            }
        });
        let err = fake.api().look(&look(&["a"])).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::Unknown, "{err}");
        assert!(err.message.contains("/json?") && err.message.contains("yields more than 32 MiB, the most"), "{err}");
    }
}

/// A container may publish all ports there are, and many may.
#[test]
fn all_ports_of_many_containers_are_a_few_ranges() {
    let began = Instant::now();
    let port =
        |protocol| json!({"host_ip": "", "host_port": 1, "container_port": 1, "range": 65_535, "protocol": protocol});
    let ports = vec![port("tcp,udp,sctp"); 50];
    let listed: Vec<_> = (0..200)
        .map(|n| json!({"Id": format!("{n:064}"), "Names": [format!("n{n}")], "State": "running", "Ports": ports}))
        .collect();
    let seen: Vec<_> = listed.into_iter().map(|entry| self::listed(entry).ports).collect();
    assert!(seen.iter().all(|ports| ports.len() == 3 && ports[0].to_string() == "0.0.0.0:1-65535:1-65535/tcp"));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_container_may_ask_for_any_time_to_stop_and_gets_a_year() {
    for (asked, seconds) in
        [(json!(i64::MAX), 365 * 86_400), (json!(-1), 0), (json!(1e300), 365 * 86_400), (json!(7), 7)]
    {
        let answer = json!({"Id": "a1", "Name": "n", "State": {}, "Config": {"StopTimeout": asked}});
        assert_eq!(wire::stoppable(&answer).unwrap().timeout, Duration::from_secs(seconds));
    }
}
