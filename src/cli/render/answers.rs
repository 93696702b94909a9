//! Whatever Podman answers: an observation of it can be planned from and shown, in every format.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use proptest::collection;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::{plan as render_plan, status as render_status, why as render_why};
use crate::backend::World;
use crate::backend::fake::Fake;
use crate::backend::podman::Podman;
use crate::handles::Scratch;
use crate::model::{AgentName, Arch, CanonicalSpec, Desired, HostKey, ImageRef, labels};
use crate::plan::Policy;
use crate::readiness::unready;
use crate::snapshot::Snapshot;
use crate::state::{Context, Input, load};
use crate::why::{Past, why};

/// What a Podman answers for now.
#[derive(Debug, Clone, Default)]
struct Answers {
    containers: Value,
    images: Value,
    inspection: Value,
    events: Value,
}

/// A Podman that answers so. Its threads end with the process.
struct Answering {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    answers: Arc<Mutex<Answers>>,
}

impl Answering {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("podman.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answers = Arc::new(Mutex::new(Answers::default()));
        let shared = answers.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { _dir: dir, socket, answers }
    }
}

fn serve(mut stream: UnixStream, answers: &Mutex<Answers>) {
    let (mut buffered, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        buffered.extend_from_slice(&buffer[..read]);
        if !buffered.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8_lossy(&buffered).into_owned();
        buffered.clear();
        let answers = answers.lock().unwrap().clone();
        let path = head.split([' ', '?']).nth(1).unwrap_or_default();
        let body = match path {
            _ if path.ends_with("/containers/json") => answers.containers,
            _ if path.ends_with("/images/json") => answers.images,
            _ if path.ends_with("/events") => answers.events,
            _ => answers.inspection,
        };
        let body = body.to_string();
        let head = format!("HTTP/1.1 200 OK\r\nLibpod-API-Version: 4.3.1\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).is_err() {
            return;
        }
    }
}

fn desired() -> Desired {
    let text = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nagents:\n  a: {version: \"1\", image: r.example/a, \
                source: local, container: {ports: [\"8080:80\"], healthcheck: {test: [CMD, \"true\"]}}}\n  \
                b: {version: \"1\", image: r.example/a, source: local, container: {restart: on-failure}}\n";
    let input = Input { name: "s.yaml".into(), text: text.into(), dir: "/".into() };
    let key = |_: &Path| HostKey::from_bytes([7; 32]);
    let vars = [("HOME".to_owned(), "/h".to_owned())].into();
    let context = Context { vars, root: None, manifest_url: None, host_arch: Arch::X64, key: &key };
    load(&input, &context).unwrap_or_else(|err| panic!("{}", err.render(false))).desired
}

/// What Podman answers when all is well but for `a`, which ended a moment ago and was restarted.
fn well(desired: &Desired) -> Answers {
    let reference = ImageRef::new("r.example/a:1").unwrap();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let container = |digit: &str, agent: &str| {
        let wanted = &desired.agents[&AgentName::new(agent).unwrap()].container;
        let spec = CanonicalSpec::new(wanted, &reference, None, &desired.key);
        json!({
            "Id": digit.repeat(64), "Names": [wanted.name.to_string()], "ImageID": "f".repeat(64), "Image": "r.example/a:1",
            "State": "running", "Status": "healthy", "Pid": 7, "StartedAt": now - 1, "ExitedAt": now - 2, "ExitCode": 3,
            "Ports": [{"host_ip": "", "host_port": 8080, "container_port": 80, "range": 1, "protocol": "tcp"}],
            "Labels": {labels::NAME: "demo", labels::AGENT: agent, labels::SPEC: spec.to_label(), labels::SPEC_VERSION: "1"},
        })
    };
    let image =
        json!({"Id": "f".repeat(64), "RepoTags": ["r.example/a:1"], "Size": 7, "Containers": 2, "Labels": null});
    let event = |action: &str, ago: u64| {
        json!({"Type": "container", "Action": action, "timeNano": (now - ago) * 1_000_000_000,
               "Actor": {"ID": "a".repeat(64), "Attributes": {"containerExitCode": "3"}}})
    };
    let run =
        json!({"Start": "2026-11-21T05:09:30.4Z", "End": "2026-11-21T05:09:30.5Z", "ExitCode": 1, "Output": "no"});
    Answers {
        containers: json!([container("a", "a"), container("b", "b")]),
        images: json!([image]),
        inspection: json!({
            "Id": "a".repeat(64), "Name": "demo-a", "RestartCount": 3, "Image": "f".repeat(64), "ImageName": "r.example/a:1",
            "State": {"Status": "running", "Pid": 7, "ExitCode": 3, "StartedAt": now - 1, "FinishedAt": now - 2,
                      "Health": {"Status": "unhealthy", "FailingStreak": 3, "Log": [run]}},
            "Config": {"Env": ["A=b"], "Cmd": ["x"], "Labels": {labels::NAME: "demo"}, "StopSignal": 15, "StopTimeout": 10,
                       "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000, "Timeout": 1, "Retries": 3}},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "RestartPolicy": {"Name": "always"}},
            "Mounts": [{"Type": "volume", "Name": "v", "Source": "/s", "Destination": "/d", "RW": true}],
        }),
        events: event("died", 2),
    }
}

/// Values that something may stumble over.
fn odd() -> impl Strategy<Value = Value> {
    let moments = [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999999Z",
        "9999-12-31T23:59:59-14:00",
        "10000-01-01T00:00:00Z",
        "292277026596-12-04T15:30:07Z",
        "253402300800",
        "9223372036854775807",
        "1e300",
        "",
    ];
    prop_oneof![
        2 => select(moments.to_vec()).prop_map(Value::from),
        3 => select(vec![i64::MIN, -62_135_596_800, -1, 0, 1, 65_535, 65_536, 253_402_300_799, 253_402_300_800,
            9_000_000_000_000_000_000, i64::MAX]).prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        2 => any::<String>().prop_map(Value::from),
        1 => select(vec![json!(null), json!(true), json!([]), json!({}), json!([null]), json!("é".repeat(3000))]),
        1 => collection::vec(any::<i16>(), 0..4).prop_map(Value::from),
    ]
}

/// Every place in a value that can be replaced.
fn places(of: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match of {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, &format!("{at}/{index}"), found));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            let name = name.replace('~', "~0").replace('/', "~1");
            places(field, &format!("{at}/{name}"), found);
        }),
        _ => {}
    }
}

fn mutate(value: &mut Value, changes: &[(Index, Value)]) {
    for (index, odd) in changes {
        let mut found = Vec::new();
        places(value, "", &mut found);
        if let Some(place) = value.pointer_mut(index.get(found.as_slice()).as_str()) {
            odd.clone_into(place);
        }
    }
}

/// An observation, and all that is said of it.
async fn say_everything(
    world: &World<Option<crate::backend::lima::Lima>, Podman, Fake>,
    desired: &Desired,
    handles: &Path,
) {
    let policy = Policy::default();
    let steady = Duration::from_secs(10);
    let snapshot = Snapshot::take(world, desired, &policy, None).await;
    let Snapshot { observed, plan, status, .. } = &snapshot;
    let _ = unready(desired, observed, plan, &policy, steady);
    Scratch::new(&handles.join("handles.json"), Default::default()).record(observed).await;
    render_plan::text(desired, &snapshot, true);
    render_plan::markdown(desired, &snapshot);
    serde_json::to_string(&render_plan::json(&desired.name, plan, observed.guest.present(), status.converged)).unwrap();
    let told = serde_json::to_value(status).unwrap();
    render_status::text(&told, true).unwrap();
    for agent in desired.agents.keys() {
        let why = why(agent, desired, &snapshot, Past::of(agent), SystemTime::now());
        render_why::text(&why, true);
        serde_json::to_string(&render_why::json(&why)).unwrap();
    }
}

#[test]
fn no_answer_of_podman_breaks_what_is_said_of_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let podman = Answering::new();
    let desired = desired();
    let handles = tempfile::tempdir().unwrap();
    let engine = Podman::expect(Some(&podman.socket), |_| None).unwrap();
    let world = World { vm: None, engine, store: Fake::new() };
    let changes = || collection::vec((any::<Index>(), odd()), 0..3);
    let config = ProptestConfig { cases: 1_000, ..ProptestConfig::default() };
    proptest!(config, |(list in changes(), images in changes(), inspection in changes(), events in changes())| {
        let mut answers = well(&desired);
        mutate(&mut answers.containers, &list);
        mutate(&mut answers.images, &images);
        mutate(&mut answers.inspection, &inspection);
        mutate(&mut answers.events, &events);
        *podman.answers.lock().unwrap() = answers;
        runtime.block_on(say_everything(&world, &desired, handles.path()));
    });
}
