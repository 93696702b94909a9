//! What Podman refuses: its kind, and no secret in it.

use super::*;

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
    let mut spec = ContainerSpec { restart: RestartPolicy::No, ..ContainerSpec::new(ContainerName::new("a").unwrap()) };
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

#[test]
fn a_build_whose_cached_layer_was_removed_is_told_from_one_that_is_wrong() {
    let failed = |why: &str| EngineError::new(EngineErrorKind::ApiError, format!("failed to build image `a:1`: {why}"));
    // Podman 4.3.1, beside somebody who removes images.
    let gone = "checking if cached image exists from a previous build: getting top layer info: layer not known";
    assert!(super::super::is_of_a_layer_gone(&failed(gone)));
    assert!(!super::super::is_of_a_layer_gone(&failed("no such file or directory")));
}
