//! One machine for all tests, made by `steadfast apply` when the first needs it, and what is asked of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Output;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::instance::{limactl, setting};
use crate::support::archive::{Compression, docker_archive};
use crate::support::command::{Outcome, Running, Sandbox, Words};

/// The instance.
pub const INSTANCE: &str = "story";
/// A value that must appear nowhere but in the container.
pub const CANARY: &str = "canary-4711";

/// Written by who takes the machine down, read by all others.
static MACHINE: RwLock<()> = RwLock::const_new(());

pub struct World {
    pub sandbox: Sandbox,
    pub port: u16,
    /// What the first `apply` printed.
    pub first: Value,
}

impl World {
    /// The machine, with an agent that runs in it.
    pub fn get() -> &'static World {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(World::make)
    }

    /// While this is held, nobody takes the machine down.
    pub fn busy() -> RwLockReadGuard<'static, ()> {
        MACHINE
            .try_read()
            .expect("the story begins after all that need the machine: tests begin in the order of their names")
    }

    /// Waits until nobody else needs the machine any more.
    pub fn alone() -> RwLockWriteGuard<'static, ()> {
        MACHINE.blocking_write()
    }

    fn make() -> Self {
        // Below what is removed with everything else: a static is never dropped. Lima leaves alone what begins with `_`.
        let dir = setting("STEADFAST_TEST_LIMA_HOME").join("_world");
        std::fs::create_dir_all(&dir).expect("a directory");
        let _ = tempfile::env::override_temp_dir(&dir);
        let mut world = Self { sandbox: sandbox(), port: free_port(), first: Value::Null };
        world.publish("1");
        world.state("1", &[], "");
        world.first = world.run("apply -o json").expect(0).json();
        world
    }

    /// Publishes the agent at a version.
    pub fn publish(&self, version: &str) {
        let image = docker_archive()
            .tag(format!("localhost/hello:{version}"))
            .file("www/hello", format!("hello {version}\n"))
            .compress(Compression::Gzip)
            .build();
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
        let key = format!("vm/images/hello-{version}-{arch}.tar.gz");
        self.sandbox.write(&format!("published/{key}"), &image);
        let sha256: String = Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
        let tarballs = json!({ arch: { "key": key, "sha256": sha256, "sizeBytes": image.len() } });
        let agent = json!({ "image": "localhost/hello", "version": version, "tarballs": tarballs });
        let manifest = json!({ "schemaVersion": 2, "updatedAt": "2026-04-24T00:00:00Z", "agents": { "hello": agent } });
        self.sandbox.write("published/vm/manifest.json", manifest.to_string());
    }

    /// Writes the state file: the agent at a version, on further ports, with further fields of the machine.
    pub fn state(&self, version: &str, more_ports: &[u16], lima: &str) {
        let template = setting("STEADFAST_TEST_LIMA_TEMPLATE");
        let ports = [&[self.port], more_ports].concat();
        let ports = ports.iter().map(|port| format!("\"127.0.0.1:{port}:8080\"")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "apiVersion: steadfast/v1\nname: story\nmanifest: {{url: published/vm/manifest.json}}\n\
             runtime: {{lima: {{instance: {INSTANCE}, template: {}{lima}}}}}\n\
             agents:\n  hello:\n    version: \"{version}\"\n    container:\n      env: {{TOKEN: {CANARY}}}\n      \
             ports: [{ports}]\n",
            template.display()
        );
        self.sandbox.write("steadfast.yaml", text);
    }

    pub fn run(&self, args: impl Words) -> Outcome {
        self.sandbox.run(args)
    }

    pub fn spawn(&self, args: impl Words) -> Running {
        self.sandbox.spawn(args)
    }

    pub fn status(&self) -> Value {
        self.run("status -o json").json()
    }

    /// Kinds of the actions that a successful `apply` takes.
    #[track_caller]
    pub fn apply_kinds(&self) -> Vec<String> {
        let report = self.run("apply -o json").expect(0).json();
        let actions = report["actions"].as_array().expect("actions").iter();
        actions.map(|action| action["kind"].as_str().expect("a kind").to_owned()).collect()
    }

    /// What the agent answers on this host's port.
    pub fn answer(&self) -> Option<String> {
        answer_on(self.port)
    }

    #[track_caller]
    pub fn answers(&self, words: &str) {
        until(&format!("the agent answers `{words}`"), || self.answer().is_some_and(|said| said.contains(words)));
    }

    /// Runs a command in the guest, as the Lima user.
    pub fn guest(&self, command: &[&str]) -> Output {
        limactl(&[&["shell", "--workdir", "/", INSTANCE], command].concat())
    }

    /// A file in the instance's directory.
    pub fn path(&self, file: &str) -> PathBuf {
        setting("STEADFAST_TEST_LIMA_HOME").join(INSTANCE).join(file)
    }

    /// A pid that stands in a file of the instance.
    pub fn pid(&self, file: &str) -> rustix::process::Pid {
        let text = std::fs::read_to_string(self.path(file)).expect("a pid file");
        rustix::process::Pid::from_raw(text.trim().parse().expect("a pid")).expect("a pid")
    }

    /// How often something of a kind was done to the machine so far.
    pub fn times(&self, kind: &str) -> usize {
        let history = self.run("history -n 100000 -o json").expect(0).json();
        history.as_array().expect("a list").iter().filter(|entry| entry["kind"] == kind).count()
    }
}

/// A sandbox with the Lima of the tests.
pub fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new();
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["PATH", "LIMA_HOME", "USER"].contains(&name.as_str()) || name.starts_with("QEMU_SYSTEM_") {
            sandbox.set(&name, value);
        }
    }
    sandbox
}

/// One request to a port of this host.
pub fn answer_on(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1").then_some(text)
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    assert!(comes(is_so), "never came: {what}");
    began.elapsed()
}

/// Whether something comes to be so. A machine that is emulated may take minutes to boot.
pub fn comes(mut is_so: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if began.elapsed() > Duration::from_secs(400) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
