//! The kinds of work that are disturbed: what is there before, what is done, and what must be there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::server::{Reply, Request, Server};
use crate::trace::{self, Ended, Fault, Outputs, Point};
use crate::world::{World, api, inspect, remove};

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first `apply` of all: fetched over HTTP, loaded, started.
    Install,
    /// `apply` of an edit.
    Replace,
    /// The same, of an agent with a health check.
    Checked,
    /// `apply` of an edit whose successor is not healthy: the predecessor is to serve on.
    Undo,
    /// `apply` of a newer version: fetched, loaded, replaced, and an old one pruned.
    Upgrade,
    /// `cache sync` over HTTP.
    Fetch,
    /// `cache gc`.
    Prune,
    /// `down`.
    Down,
    /// `run`, which finds an edit.
    Keep,
    /// Verbs that only observe.
    Plan,
    Status,
    Why,
    Doctor,
    History,
    Logs,
    Exec,
    Verify,
    List,
    Validate,
}

impl Kind {
    /// Those that change something, those that take longest first.
    pub const CHANGING: [Self; 9] = [
        Self::Undo,
        Self::Keep,
        Self::Upgrade,
        Self::Down,
        Self::Install,
        Self::Checked,
        Self::Replace,
        Self::Fetch,
        Self::Prune,
    ];
    /// Those that only observe.
    pub const LOOKING: [Self; 10] = [
        Self::Plan,
        Self::Status,
        Self::Why,
        Self::Doctor,
        Self::History,
        Self::Logs,
        Self::Exec,
        Self::Verify,
        Self::List,
        Self::Validate,
    ];

    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Whether it tells on standard output what is wrong.
    pub fn tells(self) -> bool {
        matches!(self, Self::Status | Self::Why | Self::Doctor | Self::Plan)
    }

    fn looks(self) -> bool {
        Self::LOOKING.contains(&self)
    }

    /// The command line.
    fn verb(self) -> &'static str {
        match self {
            Self::Install | Self::Replace | Self::Checked | Self::Undo | Self::Upgrade => {
                "apply --settle 100ms --timeout 40s"
            }
            Self::Fetch => "cache sync --retries 1 --stall-timeout 5s --manifest-url",
            Self::Prune => "cache gc --keep 0",
            Self::Down => "down --timeout 40s",
            Self::Keep => "run --settle 100ms",
            Self::Plan => "plan --detailed-exitcode",
            Self::Status => "status",
            Self::Why => "why a",
            Self::Doctor => "doctor",
            Self::History => "history",
            Self::Logs => "logs a",
            Self::Exec => "exec a -- true",
            Self::Verify => "cache verify --deep",
            Self::List => "cache list",
            Self::Validate => "validate",
        }
    }

    /// What it ends with, undisturbed.
    pub fn usual_code(self) -> i32 {
        match self {
            Self::Undo => 4,
            Self::Keep => 143,
            _ => 0,
        }
    }
}

/// What is there when work is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// Kind, mode and name of what is below the root.
    files: Vec<String>,
    /// Names of containers, and whether they run.
    containers: Vec<String>,
}

/// What an answer of the HTTP server is made into.
pub type Lie = Box<dyn Fn(&Request, Reply) -> Reply + Send + Sync>;

pub struct Stage {
    pub kind: Kind,
    pub world: World,
    pub server: Server,
    /// What the server does with its answers.
    pub lie: Arc<Mutex<Option<Lie>>>,
    usual: Option<After>,
    /// Containers that ran before, by name.
    served: BTreeMap<String, String>,
    round: usize,
    out: tempfile::TempDir,
    // After all that needs it.
    _runtime: tokio::runtime::Runtime,
}

impl Stage {
    /// A stage on which the work has been done once, undisturbed.
    pub fn new(kind: Kind) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let world = World::new();
        let lie: Arc<Mutex<Option<Lie>>> = Arc::default();
        let (dir, lies) = (world.sandbox.path("published"), Arc::clone(&lie));
        let server = runtime.block_on(Server::start(move |request| {
            let reply = match std::fs::read(dir.join(request.path.trim_start_matches('/'))) {
                Ok(bytes) => Reply::good(request, &bytes, &format!("\"{}\"", crate::world::sha256(&bytes))),
                Err(_) => Reply::new(404, "no such file"),
            };
            match lies.lock().unwrap().as_ref() {
                Some(lie) => lie(request, reply),
                None => reply,
            }
        }));
        let out = tempfile::tempdir().expect("a directory");
        let mut stage =
            Self { kind, world, server, lie, usual: None, served: BTreeMap::new(), round: 0, out, _runtime: runtime };
        stage.set_up();
        // An old version is only pruned when there are some.
        let warm = if kind == Kind::Upgrade { 4 } else { 1 };
        for _ in 0..warm {
            stage.prepare();
            stage.finish().unwrap_or_else(|wrong| panic!("undisturbed: {wrong}"));
            stage.usual = Some(stage.after());
        }
        stage
    }

    pub fn manifest_url(&self) -> String {
        format!("{}/vm/manifest.json", self.server.url)
    }

    /// Writes the state file, with the manifest over HTTP.
    fn state(&self, agents: &[&str]) {
        self.world.state(agents);
        let path = self.world.sandbox.path("steadfast.yaml");
        let text = std::fs::read_to_string(&path).expect("it was written");
        std::fs::write(path, text.replace("published/vm/manifest.json", &format!("\"{}\"", self.manifest_url())))
            .expect("written");
    }

    fn agent(&self, value: &str, more: &str) -> String {
        self.world.agent("a", &format!("env: {{X: \"{value}\"}}{more}"))
    }

    fn healthy(&self, value: &str) -> String {
        self.agent(value, ", healthcheck: {test: [CMD, \"true\"], interval: 1s, retries: 3}")
    }

    fn sick(&self, value: &str) -> String {
        self.agent(value, ", healthcheck: {test: [CMD, \"false\"], interval: 1s, retries: 1}")
    }

    fn set_up(&mut self) {
        match self.kind {
            Kind::Install => drop(self.world.publish(&[("a", "1.0")])),
            Kind::Fetch | Kind::Prune | Kind::Verify | Kind::List => {
                // Something serves meanwhile.
                self.state(&[&self.agent("0", "")]);
                self.world.applied();
                let versions = if self.kind == Kind::Fetch { 1 } else { 3 };
                std::fs::rename(self.world.sandbox.path("steadfast.yaml"), self.world.sandbox.path("away.yaml"))
                    .expect("renamed");
                let url = self.manifest_url();
                for version in 1..=versions {
                    self.world.publish(&[("b", &format!("{version}.0"))]);
                    self.world.run(format!("cache sync --manifest-url {url}")).expect(0);
                }
                if self.kind == Kind::Prune {
                    // A manifest that needs none of them.
                    self.world.publish(&[]);
                    self.world.run(format!("cache sync --manifest-url {url}")).expect(0);
                    self.copy("cache", "kept-cache");
                }
            }
            Kind::Upgrade => {}
            kind if kind.looks() => {
                self.state(&[&self.agent("0", "")]);
                self.world.applied();
            }
            Kind::Undo | Kind::Checked => {
                self.state(&[&self.healthy("0")]);
                self.world.applied();
            }
            _ => {
                self.state(&[&self.agent("0", "")]);
                self.world.applied();
            }
        }
    }

    /// Copies what is below the root, with its times.
    fn copy(&self, from: &str, to: &str) {
        let root = self.world.sandbox.root();
        let _ = std::fs::remove_dir_all(root.join(to));
        let copied = Command::new("cp").arg("-a").arg(root.join(from)).arg(root.join(to)).status().expect("cp");
        assert!(copied.success());
    }

    /// Brings the world to where the work begins.
    pub fn prepare(&mut self) {
        self.round += 1;
        let value = self.round.to_string();
        match self.kind {
            Kind::Install => {
                self.world.ids().keys().for_each(|name| remove(name));
                let id = self.world.tarball("a", "1.0").id();
                let _ = api("DELETE", &format!("/v4.0.0/libpod/images/{id}?force=true"), b"");
                let _ = std::fs::remove_dir_all(self.world.sandbox.root());
                self.state(&[&self.world.published("a", "1.0")]);
            }
            Kind::Replace | Kind::Keep => self.state(&[&self.agent(&value, "")]),
            Kind::Checked => self.state(&[&self.healthy(&value)]),
            Kind::Undo => self.state(&[&self.sick(&value)]),
            Kind::Upgrade => {
                let version = format!("{}.0", self.round);
                self.world.publish(&[("a", &version)]);
                self.state(&[&self.world.published("a", "latest")]);
            }
            Kind::Fetch => std::fs::remove_dir_all(self.world.sandbox.root().join("cache")).unwrap_or_default(),
            Kind::Prune => self.copy("kept-cache", "cache"),
            Kind::Down => {
                let b = self.world.agent("b", "");
                self.state(&[&self.agent("0", ""), &b]);
                self.world.applied();
            }
            _ => {}
        }
        self.served = self.running();
    }

    fn verb(&self) -> String {
        match self.kind {
            Kind::Fetch => format!("{} {}", self.kind.verb(), self.manifest_url()),
            kind => kind.verb().to_owned(),
        }
    }

    fn run_with(&self, options: Option<&[String]>, outputs: Outputs) -> Ended {
        let until = (self.kind == Kind::Keep).then_some("converged: ");
        trace::run(&self.world.sandbox.command(self.verb()), self.out.path(), options, outputs, until)
    }

    /// Does the work.
    pub fn work(&self) -> Ended {
        self.work_into(Outputs::default())
    }

    /// Does the work, with these outputs.
    pub fn work_into(&self, outputs: Outputs) -> Ended {
        self.run_with(None, outputs)
    }

    /// Does the work with a fault.
    pub fn disturbed(&self, fault: &Fault) -> Ended {
        self.run_with(
            Some(&trace::options(&Fault { point: self.here(&fault.point), ..fault.clone() })),
            Outputs::default(),
        )
    }

    /// Does the work once and records the points at which it may be disturbed.
    pub fn record(&mut self) -> Vec<Point> {
        let mut points = BTreeSet::new();
        // No two runs are the same: threads take turns as it comes.
        for _ in 0..2 {
            self.prepare();
            let ended = self.run_with(Some(&["-e".to_owned(), format!("trace={}", trace::TRACED)]), Outputs::default());
            assert_eq!(ended.code, self.kind.usual_code(), "recorded: {}\n{}", ended.stdout, ended.stderr);
            let (round, any) = (format!("-{}.0-", self.round), "-ROUND.0-");
            points.extend(
                trace::points(&ended.log)
                    .into_iter()
                    .map(|point| Point { path: point.path.map(|path| path.replace(&round, any)), ..point }),
            );
            self.finish().unwrap_or_else(|wrong| panic!("undisturbed: {wrong}"));
        }
        points.into_iter().collect()
    }

    /// The point in this round.
    fn here(&self, point: &Point) -> Point {
        let path = point.path.as_ref().map(|path| path.replace("-ROUND.0-", &format!("-{}.0-", self.round)));
        Point { path, ..point.clone() }
    }

    /// Containers that run: name → id.
    fn running(&self) -> BTreeMap<String, String> {
        let runs = |name: &String| inspect(name).is_some_and(|seen| seen["State"]["Running"] == true);
        self.world.ids().into_iter().filter(|(name, _)| runs(name)).collect()
    }

    /// What must be so at any time, whatever has just gone wrong. Yields whether what served serves right now.
    pub fn serving(&self) -> Result<bool, String> {
        let now = self.running();
        let agent = self.world.name("a");
        let of_agent = now.keys().filter(|name| name.starts_with(&agent)).count();
        if of_agent > 1 {
            return Err(format!("two of the same agent run: {now:?}"));
        }
        let untouched = self.kind.looks() || matches!(self.kind, Kind::Fetch | Kind::Prune);
        if untouched && now != self.served {
            return Err(format!("{now:?} runs, and {:?} did", self.served));
        }
        Ok(of_agent == 1 || self.served.is_empty())
    }

    /// Whether a run that says it is done tells the truth.
    pub fn is_true(&self) -> Result<(), String> {
        let expected = |args: &str, code: i32| {
            let outcome = self.world.run(args);
            (outcome.code == code).then_some(()).ok_or_else(|| format!("`{args}`: {}", outcome.shown()))
        };
        match self.kind {
            Kind::Install | Kind::Replace | Kind::Checked | Kind::Upgrade | Kind::Keep => {
                expected("plan --detailed-exitcode", 0)?;
                let running = self.running();
                match running.keys().eq([&self.world.name("a")]) {
                    true => Ok(()),
                    false => Err(format!("{running:?} runs")),
                }
            }
            Kind::Fetch => expected("cache verify --deep", 0),
            Kind::Prune => {
                let left = self.world.run("cache gc --keep 0 -o json").expect(0).json();
                match left["kept"] == 0 && left["removed"].as_array().is_some_and(Vec::is_empty) {
                    true => Ok(()),
                    false => Err(format!("left: {left}")),
                }
            }
            Kind::Down => match self.world.ids() {
                ids if ids.is_empty() => Ok(()),
                ids => Err(format!("left: {ids:?}")),
            },
            // It failed, or it would not be true.
            Kind::Undo => Err("a successor that is never healthy was taken".to_owned()),
            _ => Ok(()),
        }
    }

    /// Does the work undisturbed, and compares what is there then.
    pub fn finish(&mut self) -> Result<(), String> {
        let ended = self.work();
        if ended.code != self.kind.usual_code() {
            return Err(format!("the next run ended with {}\n{}\n{}", ended.code, ended.stdout, ended.stderr));
        }
        if self.kind == Kind::Undo {
            let now = self.running();
            if now != self.served {
                return Err(format!("after the undoing {now:?} runs, and {:?} did", self.served));
            }
            self.state(&[&self.healthy("0")]);
            let back = self.world.run("apply");
            if back.code != 0 {
                return Err(format!("the edit was taken back: {}", back.shown()));
            }
            let plan = self.world.run("plan --detailed-exitcode");
            if plan.code != 0 {
                return Err(format!("the edit was taken back: {}", plan.shown()));
            }
        } else {
            self.is_true()?;
        }
        let after = self.after();
        match &self.usual {
            Some(usual)
                if *usual != after && self.kind != Kind::Upgrade
                    || self.round > 4 && self.usual.as_ref() != Some(&after) =>
            {
                let lacks = |a: &After, b: &After| -> Vec<String> {
                    let all = |after: &After| after.files.iter().chain(&after.containers).cloned().collect::<Vec<_>>();
                    let mut left = all(a);
                    for one in all(b) {
                        if let Some(at) = left.iter().position(|other| *other == one) {
                            left.remove(at);
                        }
                    }
                    left
                };
                Err(format!("there is more than usual: {:?}; less: {:?}", lacks(&after, usual), lacks(usual, &after)))
            }
            _ => Ok(()),
        }
    }

    /// What is there. Which round it is makes no difference.
    fn after(&self) -> After {
        let root = self.world.sandbox.root();
        let mut files = Vec::new();
        list(&root, &root, &mut files);
        let owner = self.world.owner.as_str();
        for file in &mut files {
            *file = file.replace(owner, "OWNER");
            if self.kind == Kind::Upgrade {
                *file = without_numbers(file);
            }
        }
        files.sort();
        let runs = |name: &str| inspect(name).is_some_and(|seen| seen["State"]["Running"] == true);
        let containers =
            self.world.ids().into_keys().map(|name| format!("{} runs: {}", name.replace(owner, "OWNER"), runs(&name)));
        After { files, containers: containers.collect() }
    }
}

fn without_numbers(text: &str) -> String {
    let Some((name, version)) = text.split_once("a-") else { return text.to_owned() };
    format!("{name}a-{}", version.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn list(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let there = std::fs::symlink_metadata(&path).expect("it is there");
        let kind = if there.is_dir() { "d" } else { "f" };
        let name = path.strip_prefix(root).expect("below").display();
        // What this harness keeps there is not part of it.
        if name.to_string().starts_with("kept-cache") {
            continue;
        }
        // Written once a version has run for long enough: it says how long the round took.
        if path.file_name().is_some_and(|name| name == "rollouts.json") {
            continue;
        }
        found.push(format!("{kind} {:04o} {} {name}", there.permissions().mode() & 0o7777, there.uid()));
        if there.is_dir() {
            list(root, &path, found);
        }
    }
}
