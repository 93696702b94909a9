//! How Podman's answers are read, of every version that was seen.

use super::*;

fn listed(entry: Value) -> crate::model::ContainerState {
    told(&entry).unwrap().1
}

fn told(entry: &Value) -> Option<(ContainerName, crate::model::ContainerState)> {
    wire::listed(entry, &look(&[]), &ImageLabels::default())
}

/// As Podman 4.3.1 answered.
#[test]
fn the_list_of_4_3_1_is_read() {
    let answer: Value =
        serde_json::from_str(include_str!("../../../../tests/fixtures/podman/list-4.3.1.json")).unwrap();
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
        serde_json::from_str(include_str!("../../../../tests/fixtures/podman/inspect-4.3.1.json")).unwrap();
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
            let err = crate::backend::podman::error::refused("x", "GET /containers/a/json", 500, body.as_bytes(), &Secrets::new([body.as_str()]));
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
        let err = crate::backend::podman::error::refused(
            "x",
            "POST /containers/create",
            500,
            sentence.as_bytes(),
            &Secrets::default(),
        );
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
    for (asked, seconds) in [
        (json!(i64::MAX), Some(365 * 86_400)),
        (json!(-1), None),
        (json!(1e300), Some(365 * 86_400)),
        (json!(0), Some(0)),
    ] {
        let answer = json!({"Id": "a1", "Name": "n", "State": {}, "Config": {"StopTimeout": asked}});
        assert_eq!(wire::stoppable(&answer).unwrap().timeout, seconds.map(Duration::from_secs));
    }
}
