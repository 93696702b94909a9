//! `run` at work on a world: started, asked, and looked over the shoulder.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::command::{Outcome, Running};
use crate::world::{World, api, inspect, until};

/// A `run` on a world's state file. Killed when dropped.
pub struct Keeper<'w> {
    pub world: &'w World,
    pub run: Running,
}

impl<'w> Keeper<'w> {
    /// Starts it, and waits until everything is as the state file says.
    #[track_caller]
    pub fn start(world: &'w World, args: &str) -> Self {
        let mut keeper = Self::spawn(world, args);
        keeper.run.until("it has converged", |run| run.stderr().contains("converged: "));
        keeper.converged();
        keeper
    }

    /// Starts it.
    pub fn spawn(world: &'w World, args: &str) -> Self {
        Self { world, run: world.spawn(format!("run {args}")) }
    }

    /// `status -o json`, from the socket.
    #[track_caller]
    pub fn status(&self) -> Value {
        let status = self.status_outcome().json();
        assert_eq!(status["run"]["pid"], self.run.pid(), "it is run's own view: {status}\n{}", self.run.stderr());
        status
    }

    pub fn status_outcome(&self) -> Outcome {
        self.world.run("status -o json")
    }

    /// Waits for something in its status.
    #[track_caller]
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        until(&format!("{what}, by its status"), || {
            assert!(!self.run.has_ended(), "it ended before {what}\n{}", self.run.stderr());
            last = self.status_outcome().json();
            // Before it serves its socket, `status` observes by itself.
            last["run"]["pid"] == self.run.pid() && is_so(&last)
        });
        last
    }

    /// Waits until everything is as the state file says, by its own status.
    #[track_caller]
    pub fn converged(&mut self) -> Value {
        self.until("it has converged", |status| status["converged"] == true)
    }

    /// Has it observe now; all that is to be done is done after that. What was killed over and over may be called a crash loop.
    #[track_caller]
    pub fn looked(&self) -> Value {
        let outcome = self.world.run("apply -o json");
        assert!(matches!(outcome.code, 0 | 3), "{}", outcome.shown());
        outcome.json()
    }

    /// Waits until it has looked so often again, whatever woke it.
    #[track_caller]
    pub fn passes(&mut self, more: u64) {
        let passes = |status: &Value| status["run"]["passes"].as_u64().unwrap();
        let now = passes(&self.status());
        self.until("some passes", |status| passes(status) >= now + more);
    }

    /// What it has said, line by line, each without its time.
    pub fn said(&self) -> Vec<String> {
        let untimed = |line: &str| match line.split_once(' ') {
            Some((time, rest)) if time.ends_with('Z') => rest.to_owned(),
            _ => line.to_owned(),
        };
        self.run.stderr().lines().map(untimed).collect()
    }

    /// How many of its lines have these words.
    pub fn times_said(&self, words: &str) -> usize {
        self.said().iter().filter(|line| line.contains(words)).count()
    }

    /// Waits until it says these words.
    #[track_caller]
    pub fn says(&mut self, words: &str) {
        self.run.until(words, |run| run.stderr().contains(words));
    }

    /// Stops it as a service manager does.
    #[track_caller]
    pub fn stop(self) -> Outcome {
        self.run.signal(Signal::TERM);
        self.run.end().expect(143)
    }
}

/// How often a container was started, by Podman's own log of events.
pub fn starts(id: &str) -> usize {
    let filters = format!("{{%22container%22:[%22{id}%22],%22event%22:[%22start%22]}}");
    let (status, events) = api("GET", &format!("/v4.0.0/libpod/events?stream=false&filters={filters}"), b"");
    assert_eq!(status, 200, "{events}");
    // One object a line; a single one was read already.
    match events {
        Value::String(lines) => lines.lines().filter(|line| !line.trim().is_empty()).count(),
        Value::Null => 0,
        _ => 1,
    }
}

/// `podman kill`. Waits until the container is dead, or has been started again already.
#[track_caller]
pub fn kill(world: &World, agent: &str) {
    let before = world.inspect(agent)["State"]["StartedAt"].clone();
    podman("POST", &format!("/containers/{}/kill?signal=KILL", world.name(agent)));
    until("it is dead", || {
        let state = world.inspect(agent)["State"].clone();
        state["Running"] == false || state["StartedAt"] != before
    });
}

/// Kills a container's own process, as a crash or the kernel would: Podman is not asked.
#[track_caller]
pub fn kill_process_of(world: &World, agent: &str) {
    let pid = world.inspect(agent)["State"]["Pid"].as_i64().unwrap();
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid of a container that runs");
    kill_process(pid, Signal::KILL).expect("ours to kill");
}

/// How an agent's container is, as Podman says it: `running`, `paused`, `exited`…
pub fn phase(world: &World, agent: &str) -> String {
    let seen = inspect(&world.name(agent));
    seen.map_or("gone".to_owned(), |seen| seen["State"]["Status"].as_str().unwrap_or_default().to_owned())
}

/// The id of an agent's container.
#[track_caller]
pub fn id(world: &World, agent: &str) -> String {
    world.inspect(agent)["Id"].as_str().unwrap().to_owned()
}

/// A request to Podman that must do.
#[track_caller]
pub fn podman(method: &str, path: &str) {
    let (status, said) = api(method, &format!("/v4.0.0/libpod{path}"), b"");
    assert!((200..300).contains(&status), "{method} {path}: {status} {said}");
}

/// Our containers that are to be there: their names.
pub fn names(ids: &BTreeMap<String, String>) -> Vec<String> {
    ids.keys().cloned().collect()
}
