//! Podman in a Lima virtual machine, by the best way that answers.
//!
//! ```text
//! 1 forward    the socket that Lima forwards            4 shell   limactl shell INSTANCE podman …
//! 2 reconnect  the same, once more                      3 ssh     an ssh of our own to the same socket
//! ```
//!
//! Lima makes its forward once, over its master connection, and never again: after a sleep, a reboot of the guest or the loss of
//! that connection nothing is behind it. So a way that fails is left for the next one. For who keeps the machine
//! ([`crate::backend::Routing::keep`]), Lima's connection is brought back beside it, with what it led, and then the best way is tried again.
//! Restarting the machine is the plan's to decide.

mod engine;
mod repair;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::address::Machine;
use super::ssh::SshForward;
use super::{Api, Logins, Podman, Shell};
use crate::backend::limactl::Limactl;
use crate::backend::{Engine, EngineError, EngineErrorKind, WayOut};
use crate::model::vm::Process;
use crate::model::{Forward, InstanceName, Route, Transport, VmMount};
use crate::mutex::guard;

/// How long a route may take to answer. Podman's service in the guest is started by the first request after a while of silence,
/// which takes 2 s where the guest is emulated.
const ANSWER: Duration = Duration::from_secs(10);
/// Before the same socket is tried once more.
const RECONNECT: Duration = Duration::from_millis(100);
/// How long a lower route serves before the better ones are tried again.
const UPGRADE: Duration = Duration::from_secs(60);

/// The ladder to one instance.
#[derive(Debug)]
pub struct Ladder(Arc<RouteFinder>);

/// Who finds the route.
#[derive(Debug)]
struct RouteFinder {
    limactl: Limactl,
    instance: InstanceName,
    transport: Transport,
    logins: Logins,
    state: Mutex<State>,
}

/// A search under way. It runs in a task of its own: whoever waits for it may be a future that is kept and not polled for a
/// while, and must not hold up the others.
type RouteSearch = Shared<BoxFuture<'static, Result<Arc<Link>, EngineError>>>;

#[derive(Debug, Default)]
struct State {
    place: Option<Place>,
    link: Option<Arc<Link>>,
    search: Option<RouteSearch>,
    /// A socket that answered before the instance was looked at.
    ahead: Option<(PathBuf, Podman)>,
    /// The host ports that lead into it.
    ports: BTreeSet<Forward>,
    /// Whoever asks keeps the machine.
    is_kept: bool,
    /// Brings back Lima's own connection.
    repair: Option<JoinHandle<()>>,
    counts: [u32; 4],
    silent_since: Option<Instant>,
    /// Boots since the last answer, beside the one that runs.
    failed_boots: u32,
    booted: bool,
    /// When it was last settled which way is used; `None` when something has changed since.
    settled_at: Option<Instant>,
    /// Why the last search found no route.
    why: Option<EngineError>,
}

impl State {
    /// Whether what Lima forwards is gone around.
    fn is_low(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.route.is_low())
    }

    fn use_route(&mut self, link: Link) -> Arc<Link> {
        let link = Arc::new(link);
        self.silent_since = None;
        self.booted = false;
        self.failed_boots = 0;
        self.why = None;
        self.settled_at = Some(Instant::now());
        self.link = Some(link.clone());
        link
    }
}

/// What an observation of the instance told about the ways into it.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    /// The two ends of Podman's socket.
    guest: String,
    host: Option<PathBuf>,
    dir: PathBuf,
    ssh_config: PathBuf,
    /// Another host agent is another boot.
    host_agent: Option<Process>,
    ssh_port: Option<u16>,
    mounts: Vec<VmMount>,
}

/// A way that answered.
#[derive(Debug)]
struct Link {
    podman: Podman,
    route: Route,
    /// Kept while it serves.
    _ssh: Option<SshForward>,
}

impl Ladder {
    /// The ladder to this instance. Nothing is tried yet, and nothing can be before [`crate::backend::Routing::locate`].
    pub fn new(limactl: Limactl, instance: InstanceName, transport: Transport) -> Self {
        let logins = Logins::default();
        Self(Arc::new(RouteFinder { limactl, instance, transport, logins, state: Mutex::default() }))
    }

    /// As [`Ladder::new`], pulling with these logins.
    pub fn with_logins(limactl: Limactl, instance: InstanceName, transport: Transport, logins: Logins) -> Self {
        Self(Arc::new(RouteFinder { limactl, instance, transport, logins, state: Mutex::default() }))
    }

    /// The path of the socket in use here, when the way in use has one.
    pub fn socket(&self) -> Option<PathBuf> {
        self.0.state().link.as_ref()?.podman.socket().map(Path::to_owned)
    }

    /// The way in use, else the best that answers. All who ask meanwhile wait for one search.
    async fn link(&self) -> Result<Arc<Link>, EngineError> {
        let search = {
            let mut state = self.0.state();
            if let Some(link) = &state.link {
                return Ok(link.clone());
            }
            state.search.get_or_insert_with(|| begin(self.0.clone())).clone()
        };
        search.await
    }
}

fn begin(finder: Arc<RouteFinder>) -> RouteSearch {
    let searching = tokio::spawn(async move {
        let outcome = finder.find_route().await;
        finder.state().search = None;
        outcome
    });
    let ended = searching.map(|ended| {
        let broke = |_| {
            EngineError::new(EngineErrorKind::Unknown, "the search for a route to Podman in the VM was interrupted")
        };
        ended.unwrap_or_else(|err| Err(broke(err)))
    });
    ended.boxed().shared()
}

/// A failure of the way to Podman in the machine.
fn in_layers(kind: EngineErrorKind, why: String) -> EngineError {
    EngineError { way_out: WayOut::InLayers, ..EngineError::new(kind, why) }
}

impl RouteFinder {
    fn state(&self) -> MutexGuard<'_, State> {
        guard(&self.state)
    }

    /// Tries each route that the state file allows, the best first.
    async fn find_route(self: &Arc<Self>) -> Result<Arc<Link>, EngineError> {
        let Some(place) = self.state().place.clone() else {
            let why = format!("no route to VM `{}` is known", self.instance);
            return Err(in_layers(EngineErrorKind::TransportUnavailable, why));
        };
        let mut why = None;
        for route in Route::ALL.into_iter().filter(|route| self.allows(*route)) {
            self.state().counts[route as usize] += 1;
            match self.try_route(route, &place).await {
                Ok(link) => return self.use_route(link, &place),
                Err(err) => {
                    let no_login = route == Route::Ssh && err.kind == EngineErrorKind::TransportUnavailable;
                    tracing::debug!(route = route.word(), error = %err, "a route to Podman in the VM does not answer");
                    why = Some(err);
                    // `limactl shell` is an ssh too: while a guest boots, waiting for it would only delay the next try.
                    if no_login {
                        break;
                    }
                }
            }
        }
        let err = why
            .unwrap_or_else(|| EngineError::new(EngineErrorKind::Unknown, "no route to Podman in the VM is allowed"));
        let mut state = self.state();
        state.silent_since.get_or_insert_with(Instant::now);
        state.why = Some(err.clone());
        Err(err)
    }

    fn allows(&self, route: Route) -> bool {
        match self.transport {
            Transport::Auto => true,
            Transport::Api => route != Route::Shell,
            Transport::Shell => route == Route::Shell,
        }
    }

    fn api(&self, socket: &Path) -> Result<Podman, EngineError> {
        let api = Api::new(socket, Machine::Elsewhere)?;
        Ok(Podman::Api(api.with_logins(self.logins.clone())))
    }

    fn shell(&self, place: &Place) -> Shell {
        let is_rootful = !place.guest.starts_with("/run/user/");
        Shell::new(self.limactl.clone(), self.instance.as_str(), is_rootful).with_logins(self.logins.clone())
    }

    async fn try_route(&self, route: Route, place: &Place) -> Result<Link, EngineError> {
        let (podman, ssh) = match route {
            Route::Forward => (self.api(forwarded(place)?)?, None),
            Route::Reconnect => {
                let socket = forwarded(place)?;
                tokio::time::sleep(RECONNECT).await;
                (self.api(socket)?, None)
            }
            Route::Ssh => {
                let ssh = SshForward::open(&place.ssh_config, &self.instance, &place.guest, &place.dir).await?;
                (self.api(ssh.socket())?, Some(ssh))
            }
            Route::Shell => (Podman::Shell(self.shell(place)), None),
        };
        match tokio::time::timeout(ANSWER, podman.ping()).await {
            Ok(pinged) => pinged?,
            Err(_) => {
                let why = format!("Podman in VM `{}` does not answer within {} s", self.instance, ANSWER.as_secs());
                return Err(in_layers(EngineErrorKind::Timeout, why));
            }
        }
        Ok(Link { podman, route, _ssh: ssh })
    }

    /// Uses it from now on, unless the machine was started anew since: then it leads nowhere.
    fn use_route(self: &Arc<Self>, link: Link, place: &Place) -> Result<Arc<Link>, EngineError> {
        let mut state = self.state();
        if state.place.as_ref() != Some(place) {
            let why = format!("VM `{}` changed during the search for a route to its Podman", self.instance);
            return Err(in_layers(EngineErrorKind::TransportUnavailable, why));
        }
        let link = state.use_route(link);
        self.repair(&mut state);
        Ok(link)
    }

    /// Begins to bring back Lima's own connection when it was gone around, for who keeps the machine. At once: by the time that
    /// a step is known the guest, which may be slow, has logged it in.
    fn repair(self: &Arc<Self>, state: &mut State) {
        let is_idle = state.repair.as_ref().is_none_or(JoinHandle::is_finished);
        if state.is_kept
            && state.is_low()
            && is_idle
            && self.allows(Route::Forward)
            && let Some(place) = state.place.clone()
        {
            state.repair = Some(tokio::spawn(repair::repair(self.clone(), place)));
        }
    }

    /// After a failure that says that the way is gone, the next call looks for another.
    fn mind<T>(&self, link: &Arc<Link>, outcome: &Result<T, EngineError>) {
        let Err(err) = outcome else { return };
        if !err.kind.is_retryable() {
            return;
        }
        let mut state = self.state();
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            tracing::debug!(route = link.route.word(), error = %err, "the route to Podman in the VM broke");
            state.link = None;
        }
    }

    /// From a lower route, back to the socket that Lima forwards, once that answers again.
    async fn upgrade(self: &Arc<Self>) {
        let place = {
            let mut state = self.state();
            let is_due = state.settled_at.is_none_or(|at| at.elapsed() >= UPGRADE);
            if !(state.is_low() && is_due && self.allows(Route::Forward)) {
                return;
            }
            state.settled_at = Some(Instant::now());
            state.counts[Route::Forward as usize] += 1;
            state.place.clone()
        };
        let Some(place) = place else { return };
        match self.try_route(Route::Forward, &place).await {
            Ok(better) => {
                let _ = self.use_route(better, &place);
            }
            Err(_) => self.repair(&mut self.state()),
        }
    }
}

/// The socket that Lima forwards to, when it is there.
fn forwarded(place: &Place) -> Result<&Path, EngineError> {
    match &place.host {
        // One that may not be looked at is tried: the connection says why it fails.
        Some(socket) if !matches!(socket.try_exists(), Ok(false)) => Ok(socket),
        Some(socket) => Err(EngineError::new(
            EngineErrorKind::TransportUnavailable,
            format!("Lima has not forwarded Podman's socket to `{}`", socket.display()),
        )),
        None => Err(EngineError::new(
            EngineErrorKind::TransportUnavailable,
            "the VM's template forwards no podman.sock to this host",
        )),
    }
}
