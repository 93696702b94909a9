//! A Podman of our own for a while: storage, configuration, socket and everything else in one directory, which goes with it.
//! Nothing of whoever runs steadfast is read that says where things are kept, and nothing of theirs is written.
//!
//! | file | subject |
//! |---|---|
//! | `place` | the directory, whose it is, and taking all of it away again |
//! | `command` | Podman's command line on it |

mod command;
mod place;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Child;

pub use self::command::PushTo;
use self::place::Place;
use super::address::Machine;
use super::api::Api;
use super::auth::Logins;

/// How long the service may take until it answers.
const STARTS: Duration = Duration::from_secs(30);
/// Between two observations for that.
const STEP: Duration = Duration::from_millis(20);
/// A service that nobody has asked anything for so long ends by itself: should we be killed, it does not stay.
const IDLE: &str = "300";
/// What runs containers where Podman's own choice does not.
const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// Why there is no Podman of our own.
#[derive(Debug, thiserror::Error)]
pub enum ThrowawayError {
    /// Containers run on Linux.
    #[error("containers run on Linux alone, and this is {0}")]
    NotLinux(&'static str),
    /// It is not installed here.
    #[error("no `podman` in the PATH")]
    NoPodman,
    /// Its directory.
    #[error("cannot create a private Podman below `{}`", path.display())]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        err: io::Error,
    },
    /// Its service does not come up, whatever it keeps its images in.
    #[error("a private Podman does not start: {0}")]
    Service(String),
}

/// How it keeps images and runs containers.
#[derive(Debug, Clone, Default)]
struct Ways {
    /// The storage driver, with what mounts it where that is not the kernel.
    storage: Option<(&'static str, Option<PathBuf>)>,
    /// What runs containers; Podman's own choice where there is none.
    runtime: Option<&'static str>,
}

/// A Podman of our own. Goes with this value.
#[derive(Debug)]
pub struct Throwaway {
    place: Place,
    ways: Ways,
    service: Option<Child>,
    api: Api,
    logins: Logins,
}

impl Throwaway {
    /// Starts one, with the environment of whoever runs steadfast. Takes away first what killed ones left.
    ///
    /// # Errors
    /// When this machine has no Podman, or it does not start.
    pub async fn start(vars: &BTreeMap<String, String>) -> Result<Self, ThrowawayError> {
        if !cfg!(target_os = "linux") {
            return Err(ThrowawayError::NotLinux(std::env::consts::OS));
        }
        let program = find_program("podman", vars).ok_or(ThrowawayError::NoPodman)?;
        let (given, owned) = (vars.clone(), program.clone());
        let made = tokio::task::spawn_blocking(move || {
            Place::sweep(&owned, &given);
            Place::make(&owned, &given)
        });
        let place = made.await.map_err(|err| ThrowawayError::Service(err.to_string()))?;
        let place = place.map_err(|(path, err)| ThrowawayError::Place { path, err })?;
        let api = Api::new(&place.socket(), Machine::of_local_socket())
            .map_err(|err| ThrowawayError::Service(err.to_string()))?;
        let logins = Logins::of(|name| vars.get(name).cloned());
        let mut started = Self { place, ways: Ways::default(), service: None, api, logins };
        let fuse = find_program("fuse-overlayfs", vars).map(|program| ("overlay", Some(program)));
        let mut first = None;
        for storage in [Some(("overlay", None)), fuse, Some(("vfs", None))].into_iter().flatten() {
            started.ways.storage = Some(storage);
            match started.serve().await {
                Ok(()) => return Ok(started),
                Err(err) => first = first.or(Some(err)),
            }
            let dir = started.place.dir().to_owned();
            started.place.clear().map_err(|err| ThrowawayError::Place { path: dir, err })?;
        }
        Err(first.unwrap_or(ThrowawayError::NoPodman))
    }

    /// Where it keeps all that is in it.
    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    /// Its API. Starts its service again, should it have ended over long work of the command line.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn api(&mut self) -> Result<&Api, ThrowawayError> {
        let is_up = self.service.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !is_up {
            self.serve().await?;
        }
        Ok(&self.api)
    }

    /// Runs containers in the next way there is. `false` when there is no other; containers that were made stay as they are.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn next_runtime(&mut self) -> Result<bool, ThrowawayError> {
        let from = self.ways.runtime.map_or(0, |last| RUNTIMES.iter().position(|name| *name == last).unwrap_or(0) + 1);
        let there = |name: &&&str| find_program(name, self.place.vars()).is_some();
        let Some(next) = RUNTIMES.iter().skip(from).find(there) else { return Ok(false) };
        self.ways.runtime = Some(next);
        self.end_service().await;
        self.serve().await.map(|()| true)
    }

    /// Takes it away, with all that is in it. Dropping it does the same, and blocks meanwhile.
    pub async fn close(mut self) {
        self.end_service().await;
        // Podman is asked to remove what runs, which takes a moment.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    async fn serve(&mut self) -> Result<(), ThrowawayError> {
        let dir = self.place.dir().to_owned();
        let failed = |err| ThrowawayError::Place { path: dir.clone(), err };
        self.place.configure(&self.ways).map_err(failed)?;
        let log = File::create(self.place.log()).map_err(failed)?;
        let address = format!("unix://{}", self.place.socket().display());
        let mut command = self.place.podman();
        command.args(["system", "service", "--time", IDLE, &address]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = tokio::process::Command::from(command).spawn().map_err(failed)?;
        let since = Instant::now();
        loop {
            if self.place.socket().exists() && self.api.ping().await.is_ok() {
                self.service = Some(child);
                return Ok(());
            }
            let ended = !matches!(child.try_wait(), Ok(None));
            if ended || since.elapsed() > STARTS {
                let _ = child.kill().await;
                return Err(ThrowawayError::Service(self.place.last_words(ended)));
            }
            tokio::time::sleep(STEP).await;
        }
    }

    async fn end_service(&mut self) {
        let Some(mut child) = self.service.take() else { return };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(Duration::from_secs(5), child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        let _ = std::fs::remove_file(self.place.socket());
    }
}

/// A program in the PATH, and where system programs are that not every PATH names.
fn find_program(name: &str, vars: &BTreeMap<String, String>) -> Option<PathBuf> {
    let path = vars.get("PATH").map(String::as_str).unwrap_or_default();
    let dirs = std::env::split_paths(path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}
