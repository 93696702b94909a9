//! On the real file system: every way in which people, editors and machines change files.
//!
//! Polling is an hour away unless a test is about polling, so what is noticed was an event. No test waits for something
//! not to happen: it asks for a look, and the look must find nothing new.

mod edits;
mod failures;
mod links;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::model::{Arch, HostKey};
use crate::state::{self, Context};

/// Long enough for any machine; nobody waits for it to be over.
const PATIENCE: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(3600);

fn options() -> WatchOptions {
    WatchOptions { poll: NEVER, ..WatchOptions::default() }
}

/// A directory with a state file in it, `s.yaml`, and other places around it.
struct Place {
    _temporary: tempfile::TempDir,
    /// Its real path.
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("conf")).unwrap();
        Self { _temporary: temporary, root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn write(&self, path: &str, text: impl AsRef<str>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.as_ref()).unwrap();
    }

    fn link(&self, path: &str, target: impl AsRef<Path>) {
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
    }

    /// Puts it there in one step, over what was there.
    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn shell(&self, script: &str) {
        let status = std::process::Command::new("sh").args(["-euc", script]).current_dir(&self.root).status();
        assert!(status.unwrap().success(), "{script}");
    }
}

/// A state file whose one agent is at this version.
fn version(version: &str) -> String {
    format!(
        "apiVersion: steadfast/v1\nname: demo\nruntime: {{podman: {{}}}}\nagents:\n  a: {{version: \"{version}\"}}\n"
    )
}

/// A state file whose one agent has an env file.
fn env_file(file: &str) -> String {
    version("1").replace("\"}", &format!("\", container: {{envFile: {file}}}}}"))
}

/// A state file in Lima.
fn lima(template: &str) -> String {
    version("1").replace("{podman: {}}", &format!("{{lima: {{instance: vm, template: {template}}}}}"))
}

/// What is to be known of a revision.
fn told(revision: &Revision) -> String {
    let loaded = |loaded: &Loaded| {
        let agent = loaded.desired.agents.values().next().expect("one agent");
        let env = agent.container.env.iter().map(|(name, value)| format!(" {name}={}", value.expose()));
        let crate::model::Version::Exact(version) = &agent.version else { panic!("an exact version") };
        format!("{version}{}", env.collect::<String>())
    };
    match revision {
        Revision::Good(good) => loaded(good),
        Revision::Bad(_) => "bad".to_owned(),
    }
}

fn read(file: &Path) -> Result<Loaded, StateError> {
    let key = |_: &Path| HostKey::from_bytes([7; 32]);
    let vars = [("HOME".to_owned(), "/home/u".to_owned())].into();
    let context = Context { vars, root: None, manifest_url: None, host_arch: Arch::X64, key: &key };
    state::load(&state::read(file)?, &context)
}

/// A watched file, and what was seen of it.
struct Seen {
    watching: Watching,
    loads: Arc<AtomicUsize>,
}

impl Seen {
    async fn of(file: &Path) -> Self {
        Self::with(file, options(), ChangeSource::default()).await
    }

    async fn with(file: &Path, options: WatchOptions, senses: ChangeSource) -> Self {
        let loads = Arc::new(AtomicUsize::new(0));
        let (counted, path) = (loads.clone(), file.to_owned());
        let load = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            read(&path)
        };
        let watching = watch_with(&[file.to_owned()], options, Box::new(load), senses).await;
        Self { watching, loads }
    }

    fn now(&self) -> String {
        told(&self.watching.revisions.borrow())
    }

    /// Waits for a revision that says this; there may be others before it.
    async fn becomes(&mut self, expected: &str) {
        let wait = self.watching.revisions.wait_for(|revision| told(revision) == expected);
        let waited = tokio::time::timeout(PATIENCE, wait).await.map(|waited| drop(waited.unwrap()));
        assert!(waited.is_ok(), "expected `{expected}`, it says `{}`", self.now());
    }

    /// Looks, and finds nothing new.
    async fn is_quiet(&mut self) {
        self.watching.revisions.mark_unchanged();
        self.watching.reload_and_wait().await;
        assert!(!self.watching.revisions.has_changed().unwrap(), "it was told again: {}", self.now());
    }

    fn mode(&self) -> String {
        self.watching.mode.borrow().to_string()
    }
}
