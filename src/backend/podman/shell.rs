//! Podman's command line, run in a Lima instance through `limactl shell`: for when its API socket does not answer.
//!
//! The same containers, states and errors as through [`super::api`], at a higher price: every call is a process here, an
//! ssh session, and one `podman` or more in the guest. So whatever belongs together goes in one call.
//!
//! **Secrets.** What is in the state file never becomes an argument on this machine: `create` and `exec` send a script
//! through standard input (see `script`). In the guest, values of environment variables reach Podman through its own
//! environment or a pipe. Words of a command or a health check, mount sources and host names are arguments of `podman` in
//! the guest, as with anybody's `podman create`: whoever may list the guest's processes sees them for that moment.

mod create;
mod error;
mod exec;
#[cfg(fuzzing)]
pub mod fuzzing;
mod images;
mod look;
mod run;
mod script;
mod shared;
mod terminal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use self::exec::Session;
use self::run::Call;
use super::answer;
use super::auth::Logins;
use super::error::About;
use super::lifecycle::{self, Lifecycle, Started};
use super::spec;
use super::stop::{self, Listing, Stoppable, Stops};
use crate::backend::limactl::Limactl;
use crate::backend::{ContainerExits, EngineError, EngineErrorKind};
use crate::model::redact::HIDDEN;
use crate::model::{ContainerId, ContainerName, ContainerState, Create, Guest, Phase};

/// How long making or starting a container may take.
const SLOW: Duration = Duration::from_secs(120);
/// Added to the grace of a stop: killing and cleaning up take time as well.
const AFTER_GRACE: Duration = Duration::from_secs(60);

/// Podman's own stops at once, each a process in the guest for as long as it waits.
const STOPS: usize = 4;

/// Podman's command line in a Lima instance.
pub struct Shell {
    limactl: Limactl,
    instance: String,
    sudo: bool,
    logins: Logins,
    /// Podman's version, once it was told. Asked again by whoever follows events: it may have been upgraded since.
    version: Mutex<Option<String>>,
    /// The latest commands, for [`Shell::exec_exit`].
    sessions: Mutex<VecDeque<Arc<Session>>>,
    stops: Stops,
}

impl fmt::Debug for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shell").field("instance", &self.instance).field("sudo", &self.sudo).finish_non_exhaustive()
    }
}

impl Shell {
    /// Podman in `instance`. `sudo` for a rootful Podman: then it is called through `sudo -n`. Nothing is run yet.
    pub fn new(limactl: Limactl, instance: impl Into<String>, sudo: bool) -> Self {
        let (version, sessions) = (Mutex::new(None), Mutex::new(VecDeque::new()));
        Self {
            limactl,
            instance: instance.into(),
            sudo,
            logins: Logins::default(),
            version,
            sessions,
            stops: Stops::new(STOPS),
        }
    }

    /// The same, pulling with these logins.
    #[must_use]
    pub fn with_logins(self, logins: Logins) -> Self {
        Self { logins, ..self }
    }

    /// The instance it reaches Podman in.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// See [`crate::backend::Engine::create`].
    pub async fn create(&self, create: &Create) -> Result<ContainerId, EngineError> {
        let gateway = match spec::needs_gateway(create) {
            true => Some(self.gateway(create).await?),
            false => None,
        };
        let entrypoint = match spec::lacks_arguments(create) {
            true => Some(spec::entrypoint(create, self.inspect_image(create.image.as_str()).await?.as_ref())?),
            false => spec::own_entrypoint(create),
        };
        let what = format!("create container `{}`", create.name);
        let shown = format!("podman create --name {}", create.name);
        let secrets = create.spec.secrets();
        let script = create::script(create, gateway.as_deref(), entrypoint.as_deref())
            .map_err(|why| EngineError::new(EngineErrorKind::CommandFailed, format!("failed to {what}: {why}")))?;
        let call = self.sent(what, About::Creation, shown, script).hiding(secrets).within(SLOW);
        let answer = match self.run(&call).await {
            Err(err) => return Err(self.say_missing_source(err, create)),
            Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
        };
        // Whatever else a newer Podman may print, the id comes last.
        let id = answer.split_whitespace().next_back().unwrap_or_default();
        ContainerId::new(id).map_err(|_| call.unreadable("it names no container"))
    }

    /// Podman's own words for a bind source that does not exist are `statfs <path>: no such file or directory`.
    fn say_missing_source(&self, mut err: EngineError, create: &Create) -> EngineError {
        if err.kind != EngineErrorKind::NotFound || !err.message.contains("statfs ") {
            return err;
        }
        let told = err.stderr.as_deref().unwrap_or_default();
        // A sensitive source was hidden from these words.
        let bound = create.spec.mounts.iter().filter_map(|mount| Some((mount.bind_source()?, &mount.target)));
        let missing = bound.into_iter().find(|(source, _)| match source.is_sensitive() {
            true => told.contains(HIDDEN),
            false => told.contains(&format!("statfs {}: ", source.expose())),
        });
        if let Some((source, target)) = missing {
            let (shown, target) = (source.shown(), target.shown());
            err.message = format!(
                "failed to create container `{}`: `{shown}`, to be mounted at `{target}`, does not exist in instance `{}`; create \
                 it, or correct the mount's source",
                create.name, self.instance
            );
        }
        err
    }

    /// The address under which containers on the default network reach Podman's machine. Podman does not say which network
    /// that is: it is called `podman` unless `containers.conf` says otherwise.
    async fn gateway(&self, create: &Create) -> Result<String, EngineError> {
        let what = format!("find the host's address for container `{}`", create.name);
        let call = self.podman(what, About::Other, ["network", "ls", "--format", "json"]);
        let networks = call.json(&self.run(&call).await?)?;
        let networks: Vec<_> = networks.as_array().into_iter().flatten().collect();
        let named = networks.iter().find(|network| network.get("name").and_then(Value::as_str) == Some("podman"));
        let default = match (named, networks.as_slice()) {
            (Some(network), _) => Some(*network),
            (None, [only]) => Some(*only),
            (None, _) => None,
        };
        let subnets = default.and_then(|network| network.get("subnets")?.as_array());
        let gateways = subnets.into_iter().flatten().filter_map(|subnet| subnet.get("gateway")?.as_str());
        let mut gateways: Vec<_> = gateways.filter(|address| !address.is_empty()).collect();
        gateways.sort_by_key(|address| address.contains(':'));
        match gateways.first() {
            Some(address) => Ok((*address).to_owned()),
            None => {
                Err(call.unreadable("no default network with a gateway; name an address instead of `host-gateway`"))
            }
        }
    }

    /// See [`crate::backend::Engine::start`].
    pub async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        lifecycle::start(self, id).await
    }

    /// See [`crate::backend::Engine::stop`].
    pub async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        stop::stop(self, id, grace).await
    }

    /// See [`crate::backend::Engine::remove`]. Anonymous volumes stay with their data, as `podman rm` leaves them.
    pub async fn remove(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        lifecycle::remove(self, id, grace).await
    }

    /// See [`crate::backend::Engine::unpause`].
    pub async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        let call = self.podman(format!("unpause container `{id}`"), About::Container, ["unpause", id.as_str()]);
        match self.run(&call).await {
            Err(err) if err.kind == EngineErrorKind::CommandFailed => match self.inspect(id).await? {
                Some(ContainerState { phase: Phase::Paused, .. }) | None => Err(err),
                Some(_) => Ok(()),
            },
            done => done.map(|_| ()),
        }
    }

    /// See [`crate::backend::Engine::rename`].
    pub async fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<(), EngineError> {
        let what = format!("rename container `{id}` to `{name}`");
        let call = self.podman(what, About::Container, ["rename", id.as_str(), name.as_str()]);
        self.run(&call).await.map(|_| ())
    }

    /// See [`crate::backend::Engine::run_healthcheck`]. `conflict` when it has none or does not run.
    pub async fn run_healthcheck(&self, id: &ContainerId) -> Result<(), EngineError> {
        let what = format!("run the health check of container `{id}`");
        let call = self.podman(what, About::Healthcheck, ["healthcheck", "run", id.as_str()]).within(SLOW);
        let ended = self.end_of(&call).await?;
        // 1 is the verdict `unhealthy`, when it is Podman that says it.
        match ended.code {
            Some(1) if ended.says_nothing() => Ok(()),
            _ => self.success(&call, ended).map(|_| ()),
        }
    }

    /// See [`crate::backend::Engine::ping`]. `podman version` opens Podman's storage as every command does, so it fails when
    /// they would; `podman --version` would not, and `podman info` takes eight times as long (4.3.1).
    pub async fn ping(&self) -> Result<(), EngineError> {
        let call = self.podman("reach Podman", About::Other, ["version", "--format", "{{.Server.Version}}"]);
        self.run(&call).await.map(|_| ())
    }

    /// See [`crate::backend::Engine::container_exits`]: there is no faster word than the events.
    pub fn container_exits(&self, _: &Guest) -> Option<ContainerExits> {
        None
    }

    /// A call of `podman` with these arguments, none of which may be a secret.
    fn podman<W: AsRef<str>>(&self, what: impl Into<String>, about: About, args: impl IntoIterator<Item = W>) -> Call {
        let words = args.into_iter().map(|word| word.as_ref().to_owned());
        let words = std::iter::once("podman".to_owned()).chain(words).collect::<Vec<_>>();
        let shown = words.join(" ");
        self.call(what.into(), about, shown, words)
    }

    /// A call of several Podman commands: a script with its arguments, `$1` and so on. None of it may be a secret.
    fn script(&self, what: impl Into<String>, about: About, shown: &str, script: &str, args: &[&str]) -> Call {
        let words = ["sh", "-c", script, "sh"].iter().chain(args).map(|word| (*word).to_owned()).collect();
        self.call(what.into(), about, shown.to_owned(), words)
    }

    /// A script that may hold secrets, sent through standard input.
    fn sent(&self, what: String, about: About, shown: String, script: String) -> Call {
        let words = script::receiver(&script);
        self.call(what, about, shown, words).sending(script)
    }

    fn call(&self, what: String, about: About, shown: String, mut words: Vec<String>) -> Call {
        let mut shown = format!("limactl shell {} {shown}", self.instance);
        if self.sudo {
            words.splice(0..0, ["sudo".to_owned(), "-n".to_owned()]);
            shown = shown.replacen(" podman ", " sudo -n podman ", 1);
        }
        Call::new(what, about, shown, words, &self.instance)
    }
}

impl Lifecycle for Shell {
    async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        Shell::inspect(self, id).await
    }

    async fn start_once(&self, id: &ContainerId) -> Result<Started, EngineError> {
        // `podman start` does not tell whether there was anything to do.
        const START: &str = "podman container inspect \"$1\" && podman start \"$1\" >/dev/null && \
                             { podman container inspect \"$1\" || true; }";
        let shown = format!("podman start {id}");
        let call = self.script(format!("start container `{id}`"), About::Container, &shown, START, &[id.as_str()]);
        let call = call.within(SLOW);
        let answer = self.run(&call).await?;
        let values = answer::values(&answer).map_err(|why| call.unreadable(&why))?;
        let seen = values.filter_map(|list| look::inspected(list.get(0)?));
        Ok(match seen.collect::<Vec<_>>().as_slice() {
            [(_, before), (_, after)]
                if before.phase == Phase::Running
                    && after.phase == Phase::Running
                    && (before.pid, before.started_at) == (after.pid, after.started_at) =>
            {
                Started::AlreadySo
            }
            _ => Started::Now,
        })
    }

    async fn stoppable(&self, id: &ContainerId) -> Result<Option<Stoppable>, EngineError> {
        Shell::stoppable(self, id).await
    }

    async fn list(&self, ids: &BTreeSet<ContainerId>) -> Result<BTreeMap<ContainerId, Listing>, EngineError> {
        self.listings(ids).await
    }

    async fn signal(&self, id: &ContainerId, signal: &str) -> Result<(), EngineError> {
        let what = format!("signal container `{id}`");
        let call = self.podman(what, About::Container, ["kill", "--signal", signal, id.as_str()]);
        self.run(&call).await.map(|_| ())
    }

    async fn process(&self, pid: u32) -> Option<String> {
        let file = format!("/proc/{pid}/status");
        let call =
            self.call("read of a process".to_owned(), About::Other, format!("cat {file}"), vec!["cat".into(), file]);
        String::from_utf8(self.run(&call).await.ok()?).ok()
    }

    async fn version(&self) -> Result<String, EngineError> {
        self.server_version().await
    }

    fn stops(&self) -> &Stops {
        &self.stops
    }

    async fn stop_once(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let seconds = grace.as_millis().div_ceil(1000).to_string();
        let what = format!("stop container `{id}`");
        let call = self.podman(what, About::Container, ["stop", "-t", &seconds, id.as_str()]);
        self.run(&call.within(grace.saturating_add(AFTER_GRACE))).await.map(|_| ())
    }

    async fn init(&self, id: &ContainerId) -> Result<(), EngineError> {
        let what = format!("make container `{id}` ready for a start");
        let call = self.podman(what, About::Container, ["init", id.as_str()]);
        self.run(&call.within(SLOW)).await.map(|_| ())
    }

    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        Shell::unpause(self, id).await
    }

    async fn remove_by_force(&self, id: &ContainerId) -> Result<(), EngineError> {
        let what = format!("remove container `{id}`");
        let call = self.podman(what, About::Container, ["rm", "--force", "-t", "0", id.as_str()]);
        self.run(&call.within(AFTER_GRACE)).await.map(|_| ())
    }

    /// Its processes are the guest's, and out of sight.
    fn surely_alive(&self, _: &ContainerState) -> bool {
        false
    }
}
