//! An agent with a source beside it.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::command::Outcome;
use crate::world::{World, api, download};

pub struct Bench {
    pub world: World,
}

impl Bench {
    /// An agent `a` whose user is the image's, and the directory `src` with an empty repository.
    pub fn new(user: &str) -> Self {
        let bench = Self::without_source(user);
        bench.sh("mkdir src && git -C src init -q -b main");
        bench
    }

    pub fn without_source(user: &str) -> Self {
        let mut world = World::bare();
        for (name, value) in [
            ("GIT_AUTHOR_NAME", "A"),
            ("GIT_AUTHOR_EMAIL", "a@example.com"),
            ("GIT_COMMITTER_NAME", "A"),
            ("GIT_COMMITTER_EMAIL", "a@example.com"),
        ] {
            world.sandbox.set(name, value);
        }
        let image = world.image("1").config("User", user.into()).file("home/agent/.keep", "");
        world.load(&image);
        world.state(&[&world.agent("a", "command: [sh, -c, \"trap 'exit 0' TERM; while true; do sleep 0.1; done\"]")]);
        world.applied();
        Self { world }
    }

    /// Runs a line of the shell that must succeed; what it prints.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        self.world.sandbox.shell(&format!("set -e; {line}")).expect(0).stdout
    }

    /// Runs a line of the shell in the agent, as its user.
    #[track_caller]
    pub fn guest(&self, line: &str) -> String {
        self.world.run(["exec", "a", "--", "sh", "-c", &format!("set -e; {line}")]).expect(0).stdout
    }

    pub fn prepare(&self, more: &str) -> Outcome {
        self.world.run(format!("workspace prepare a src /work/repo -o json {more}"))
    }

    /// A preparation that must succeed.
    #[track_caller]
    pub fn prepared(&self, more: &str) -> Value {
        self.prepare(more).expect(0).json()
    }

    /// The tree of the agent, as it is, in a new directory of this name.
    pub fn taken(&self, name: &str) -> PathBuf {
        let path = format!("/v4.0.0/libpod/containers/{}/archive?path=/work/repo", self.world.name("a"));
        let tar = download(&path);
        let to = self.world.sandbox.path(name);
        std::fs::create_dir(&to).expect("a directory");
        let file = self.world.sandbox.write(&format!("{name}.tar"), tar);
        self.sh(&format!("tar -C {name} --strip-components=1 --no-same-owner -xf {}", file.display()));
        to
    }

    /// Puts a directory of this machine in the place of one in the agent, owned by root.
    pub fn bring(&self, from: &str, parent: &str) {
        // Not a byte after its end: Podman would close the connection on it.
        self.sh(&format!("tar -b1 -C {from} -cf {from}.tar --owner=0 --group=0 ."));
        let tar = std::fs::read(self.world.sandbox.path(&format!("{from}.tar"))).expect("a file");
        let path = format!("/v4.0.0/libpod/containers/{}/archive?path={parent}", self.world.name("a"));
        let (status, said) = api("PUT", &path, &tar);
        assert_eq!(status, 200, "{said}");
    }

    /// Commits what the agent has, as it would with a git of its own: the repository is taken out, and brought back.
    pub fn commit_there(&self, name: &str, message: &str) {
        self.taken(name);
        self.sh(&format!("cd {name} && git add -A && git commit -qm '{message}'"));
        self.bring(&format!("{name}/.git"), "/work/repo/.git");
    }
}

/// The names in a list of objects.
pub fn names(list: &Value, field: &str) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|one| one[field].as_str().unwrap_or_default().to_owned()).collect()
}

/// A command that must end with this code and show these words.
#[track_caller]
pub fn shows(outcome: Outcome, code: i32, words: &str) {
    let outcome = outcome.expect(code);
    assert!(outcome.stdout.contains(words), "`{words}` is missing:\n{}", outcome.shown());
}
