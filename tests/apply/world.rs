//! What every test starts from: a sandbox, an owner and an image of its own on the real Podman, and clearing up whatever
//! happens.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support;
use crate::support::archive::{Compression, Image, docker_archive};
use crate::support::command::{Outcome, Running, Sandbox, Words};

/// Nothing here takes so long.
const LONGEST: Duration = Duration::from_secs(60);

/// What is replaced by the hundred has little to show. What a rollout waits for has tests of its own.
pub const SOON: &str = "rollout: {settle: 300ms}";

pub struct World {
    pub sandbox: Sandbox,
    /// The state file's name, and what every container and image of the test begins with.
    pub owner: String,
}

impl World {
    /// A sandbox without an image.
    pub fn bare() -> Self {
        let mut sandbox = Sandbox::new();
        sandbox.set("CONTAINER_HOST", format!("unix://{}", support::podman_socket().display()));
        Self { sandbox, owner: support::unique("a") }
    }

    /// With `localhost/OWNER:1` in Podman: the agent of [`docker_archive`].
    pub fn new() -> Self {
        let world = Self::bare();
        world.load(&world.image("1"));
        world
    }

    /// The agent's image at a version, named as agents with `source: local` want it.
    pub fn image(&self, version: &str) -> Image {
        let name = format!("localhost/{}:{version}", self.owner);
        docker_archive().tag(name).file("version", format!("{} {version}", self.owner))
    }

    /// Loads an image into Podman.
    pub fn load(&self, image: &Image) {
        let (status, said) = api("POST", "/v4.0.0/libpod/images/load", &image.build());
        assert_eq!(status, 200, "{said}");
    }

    /// An agent from that image with these fields of `container`, in flow style.
    pub fn agent(&self, name: &str, container: &str) -> String {
        let owner = &self.owner;
        format!(
            "{name}: {{version: \"1\", image: localhost/{owner}, source: local, {SOON}, container: {{{container}}}}}"
        )
    }

    /// An agent from what is published.
    pub fn published(&self, name: &str, version: &str) -> String {
        format!("{name}: {{version: \"{version}\", {SOON}}}")
    }

    /// Writes the state file with these agents.
    pub fn state(&self, agents: &[&str]) {
        let mut text = format!(
            "apiVersion: steadfast/v1\nname: {}\nruntime: {{podman: {{}}}}\nmanifest: {{url: published/vm/manifest.json}}\n",
            self.owner
        );
        text += if agents.is_empty() { "agents: {}\n" } else { "agents:\n" };
        for agent in agents {
            text += &format!("  {agent}\n");
        }
        self.sandbox.write("steadfast.yaml", text);
    }

    pub fn run(&self, args: impl Words) -> Outcome {
        self.sandbox.run(args)
    }

    pub fn spawn(&self, args: impl Words) -> Running {
        self.sandbox.spawn(args)
    }

    /// `apply` that must succeed; its JSON.
    #[track_caller]
    pub fn applied(&self) -> Value {
        self.run("apply -o json").expect(0).json()
    }

    /// The kinds of the actions that a successful `apply` took.
    #[track_caller]
    pub fn apply_kinds(&self) -> Vec<String> {
        kinds(&self.applied())
    }

    /// The name of an agent's container.
    pub fn name(&self, agent: &str) -> String {
        format!("{}-{agent}", self.owner)
    }

    /// Our containers: name → id.
    pub fn ids(&self) -> BTreeMap<String, String> {
        let filters = format!("{{%22label%22:[%22steadfast.name={}%22]}}", self.owner);
        let (status, list) = api("GET", &format!("/v4.0.0/libpod/containers/json?all=true&filters={filters}"), b"");
        assert_eq!(status, 200, "{list}");
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter().map(|one| (text(&one["Names"][0]), text(&one["Id"]))).collect()
    }

    /// Our container of an agent, as `podman inspect` tells it.
    #[track_caller]
    pub fn inspect(&self, agent: &str) -> Value {
        inspect(&self.name(agent)).unwrap_or_else(|| panic!("no container of `{agent}`: {:?}", self.ids()))
    }

    /// Whether an agent's container runs.
    pub fn runs(&self, agent: &str) -> bool {
        inspect(&self.name(agent)).is_some_and(|seen| seen["State"]["Running"] == true)
    }

    /// `podman kill`. Waits until Podman has tidied up after it: what is only `stopped`, a plan waits for.
    pub fn kill(&self, agent: &str) {
        let path = format!("/v4.0.0/libpod/containers/{}/kill?signal=KILL", self.name(agent));
        let (status, said) = api("POST", &path, b"");
        assert_eq!(status, 204, "{said}");
        until("it is dead", || self.inspect(agent)["State"]["Status"] == "exited");
    }

    /// `podman rm --force`.
    pub fn remove(&self, agent: &str) {
        remove(&self.name(agent));
    }

    /// A container of somebody else, running; its id.
    pub fn foreign_container(&self, name: &str) -> String {
        let spec = json!({"name": name, "image": format!("localhost/{}:1", self.owner), "command": ["/agent"]});
        let (status, said) = api("POST", "/v4.0.0/libpod/containers/create", spec.to_string().as_bytes());
        assert_eq!(status, 201, "{said}");
        let (status, said) = api("POST", &format!("/v4.0.0/libpod/containers/{name}/start"), b"");
        assert_eq!(status, 204, "{said}");
        id_of(name)
    }

    /// The tarball of a published agent.
    pub fn tarball(&self, agent: &str, version: &str) -> Image {
        docker_archive()
            .tag(format!("localhost/{}/{agent}:{version}", self.owner))
            .file("version", format!("{} {agent} {version}", self.owner))
            .compress(Compression::Gzip)
    }

    /// Publishes these agents at these versions in `published/`.
    pub fn publish(&self, agents: &[(&str, &str)]) -> Value {
        self.publish_bytes(
            agents.iter().map(|(agent, version)| (*agent, *version, self.tarball(agent, version).build())).collect(),
        )
    }

    /// Publishes these bytes; yields the manifest.
    pub fn publish_bytes(&self, agents: Vec<(&str, &str, Vec<u8>)>) -> Value {
        let mut entries = serde_json::Map::new();
        for (agent, version, bytes) in agents {
            let tarball = |arch: &str| {
                let key = format!("vm/images/{agent}-{version}-{arch}.tar.gz");
                self.sandbox.write(&format!("published/{key}"), &bytes);
                json!({"key": key, "sha256": sha256(&bytes), "sizeBytes": bytes.len()})
            };
            let tarballs = json!({"arm64": tarball("arm64"), "x64": tarball("x64")});
            let image = format!("localhost/{}/{agent}", self.owner);
            entries.insert(agent.to_owned(), json!({"image": image, "version": version, "tarballs": tarballs}));
        }
        let manifest = json!({"schemaVersion": 2, "updatedAt": "2026-04-24T00:00:00.000Z", "agents": entries});
        self.sandbox.write("published/vm/manifest.json", manifest.to_string());
        manifest
    }

    /// Where its state is kept.
    pub fn state_dir(&self) -> PathBuf {
        self.sandbox.root().join("state").join(&self.owner)
    }

    /// What replacements left behind.
    pub fn leftovers(&self) -> Vec<String> {
        self.ids().into_keys().filter(|name| name.ends_with(".next") || name.ends_with(".prev")).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // With what follows it, since one owner's name may be the beginning of another's.
        let (container, images) = (format!("{}-", self.owner), [":", "/"].map(|end| format!("/{}{end}", self.owner)));
        let (_, all) = api("GET", "/v4.0.0/libpod/containers/json?all=true", b"");
        for one in all.as_array().into_iter().flatten() {
            let name = text(&one["Names"][0]);
            if name.starts_with(&container) {
                remove(&name);
            }
        }
        for (kind, name) in [("networks", "name"), ("volumes", "Name")] {
            let (_, all) = api("GET", &format!("/v4.0.0/libpod/{kind}/json"), b"");
            let names = all.as_array().into_iter().flatten().map(|one| text(&one[name]));
            for name in names.filter(|name| name.starts_with(&container)) {
                let _ = api("DELETE", &format!("/v4.0.0/libpod/{kind}/{name}"), b"");
            }
        }
        let (_, all) = api("GET", "/v4.0.0/libpod/images/json", b"");
        for one in all.as_array().into_iter().flatten() {
            let names = one["Names"].as_array().cloned().unwrap_or_default();
            if names.iter().any(|name| images.iter().any(|image| text(name).contains(image))) {
                let _ = api("DELETE", &format!("/v4.0.0/libpod/images/{}?force=true", text(&one["Id"])), b"");
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The kinds of the actions in a plan or a report.
#[track_caller]
pub fn kinds(report: &Value) -> Vec<String> {
    let actions = report["actions"].as_array().unwrap_or_else(|| panic!("no actions: {report}"));
    actions.iter().map(|action| text(&action["kind"])).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn inspect(name: &str) -> Option<Value> {
    let (status, seen) = api("GET", &format!("/v4.0.0/libpod/containers/{name}/json"), b"");
    (status == 200).then_some(seen)
}

pub fn id_of(name: &str) -> String {
    text(&inspect(name).expect("a container")["Id"])
}

pub fn remove(name: &str) {
    let _ = api("DELETE", &format!("/v4.0.0/libpod/containers/{name}?force=true&timeout=0"), b"");
}

/// One request to Podman itself, beside steadfast. HTTP/1.0, so that nothing comes in chunks.
pub fn api(method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = UnixStream::connect(support::podman_socket()).expect("Podman's socket");
    let kind = if path.ends_with("/load") { "application/x-tar" } else { "application/json" };
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: d\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

/// What Podman sends for a path, as bytes.
pub fn download(path: &str) -> Vec<u8> {
    let mut stream = UnixStream::connect(support::podman_socket()).expect("Podman's socket");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: d\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer[..head]));
    answer.split_off(head + 4)
}

/// A list of Podman's. It fails to list images while another test removes one of them, and is asked again.
pub fn listed(path: &str) -> Vec<Value> {
    let mut found = Vec::new();
    until("Podman's list", || match api("GET", path, b"") {
        (200, Value::Array(all)) => {
            found = all;
            true
        }
        _ => false,
    });
    found
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONGEST;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many processes of this machine have this word among theirs.
pub fn processes_with(word: &str) -> usize {
    pids_with(word).len()
}

/// Processes of this machine with this word among theirs.
pub fn pids_with(word: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let has_it = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|one| one == word.as_bytes())
    };
    processes.filter(has_it).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A number that no other sleep has.
pub fn nap(number: u32) -> String {
    format!("{}{number}", 4_000_000 + std::process::id())
}

/// A host port that is free now, outside the range the kernel hands out by itself.
pub fn port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    const EACH: u16 = 500;
    // Processes beside this one, as nextest's, look elsewhere.
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().and_then(|slot| slot.parse().ok());
    let pid = u16::try_from(std::process::id() % 10_000).expect("small");
    let slot: u16 = slot.unwrap_or(pid / EACH);
    loop {
        let step = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = 20_000 + (slot % 20) * EACH + (pid % EACH + step) % EACH;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What the agent on this port says of a path; nothing while it does not answer.
pub fn http(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Every file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        match std::fs::read_dir(&path) {
            Ok(entries) => todo.extend(entries.map(|entry| entry.expect("an entry").path())),
            Err(_) => found.push(path),
        }
    }
    found
}
