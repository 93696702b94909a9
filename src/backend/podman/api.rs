//! Podman's API: the life of containers and the events about them. Images stand in [`super::image`], looking in
//! [`super::look`], commands and logs in [`super::exec`].
//!
//! Libpod paths go through [`Http`], what Docker's do as well through bollard ([`super::typed`]).

mod calls;

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{InspectNetworkOptions, RenameContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde_json::Value;

use super::address::Machine;
use super::auth::Logins;
use super::http::{Call, Http, query, segment};
use super::lifecycle;
use super::spec;
use super::stop::{self, Stops};
use super::stream::Lines;
use super::wire;
use crate::backend::{ContainerExits, EngineError, EngineErrorKind, EngineEvent, EngineMachine, Events};
use crate::model::{ContainerId, ContainerName, Create, Guest, Ownership, Phase};
use crate::mutex::guard;

/// How long making a container may take. It may have to wait for other work on the same storage.
const CREATE: Duration = Duration::from_secs(60);
/// How long a start may take: networks, mounts and the runtime.
const START: Duration = Duration::from_secs(60);
/// How long a health check may take; its own timeout is Podman's business, which 4.3 does not mind.
const HEALTHCHECK: Duration = Duration::from_secs(120);
/// Added to the grace of a stop: killing and cleaning up take time as well.
const AFTER_GRACE: Duration = Duration::from_secs(30);
/// How many stops are asked at once of a Podman whose machine is not known.
const STOPS_ELSEWHERE: usize = 4;
/// Podman answers a KILL when the container has ended.
const SIGNAL: Duration = Duration::from_secs(30);
/// Podman 5 holds the headers of `/events` back until the first event; 4.3 sends them at once.
const EVENT_HEADERS: Duration = Duration::from_millis(500);

/// What one `/_ping` told.
#[derive(Debug)]
pub(super) struct Server {
    /// Podman's version, e.g. `4.3.1`.
    pub version: String,
    /// Before every libpod path, e.g. `/v4.0.0/libpod`.
    prefix: String,
}

/// Podman's API over one unix socket.
#[derive(Debug)]
pub struct Api {
    http: Http,
    machine: Machine,
    logins: Logins,
    server: Mutex<Option<Arc<Server>>>,
    runs: OnceLock<EngineMachine>,
    stops: Stops,
}

impl Api {
    /// A client for the API on `socket`. Nothing is sent yet.
    ///
    /// # Errors
    /// `unknown`, when no client can be set up at all.
    pub fn new(socket: &Path, machine: Machine) -> Result<Self, EngineError> {
        // Podman's service waits for three times as many ends at once as its machine has processors.
        let stops = match (machine, std::thread::available_parallelism()) {
            (Machine::Here, Ok(processors)) => 3 * processors.get(),
            _ => STOPS_ELSEWHERE,
        };
        let (logins, server) = (Logins::default(), Mutex::new(None));
        let (runs, stops) = (OnceLock::new(), Stops::new(stops));
        Ok(Self { http: Http::new(socket)?, machine, logins, server, runs, stops })
    }

    /// The same, pulling with these logins.
    #[must_use]
    pub fn with_logins(self, logins: Logins) -> Self {
        Self { logins, ..self }
    }

    pub(super) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// The socket it talks to.
    pub fn socket(&self) -> &Path {
        self.http.socket()
    }

    /// What its machine can run, once it was asked.
    pub(super) fn known_machine(&self) -> Option<EngineMachine> {
        self.runs.get().cloned()
    }

    pub(super) fn remember_machine(&self, machine: EngineMachine) -> EngineMachine {
        self.runs.get_or_init(|| machine).clone()
    }

    /// Whether Podman runs on this machine.
    pub(super) fn is_here(&self) -> bool {
        self.machine == Machine::Here
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    /// Who answers. Asked once, and again by whoever follows events: it may have been upgraded since.
    pub(super) async fn server(&self) -> Result<Arc<Server>, EngineError> {
        let known = guard(&self.server).clone();
        match known {
            Some(server) => Ok(server),
            None => self.meet().await,
        }
    }

    async fn meet(&self) -> Result<Arc<Server>, EngineError> {
        let call = Call::get("reach Podman", "/_ping");
        let answer = self.http.send(&call).await.map_err(|err| self.not_podman(err))?;
        let version = answer.headers.get("Libpod-API-Version").and_then(|value| value.to_str().ok());
        let Some(version) = version else {
            return Err(self.not_podman(call.unreadable("no Libpod-API-Version")));
        };
        // Podman 4 and 5 take any path version from 4.0.0 on. Of a later one only its own is sure.
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok()).unwrap_or(4);
        let prefix = if major <= 5 { "/v4.0.0/libpod".to_owned() } else { format!("/v{major}.0.0/libpod") };
        let server = Arc::new(Server { version: version.to_owned(), prefix });
        *guard(&self.server) = Some(server.clone());
        Ok(server)
    }

    /// An HTTP server that does not answer a ping as Podman does is something else; a broken connection stays one.
    fn not_podman(&self, mut err: EngineError) -> EngineError {
        if err.status.is_some() || err.kind == EngineErrorKind::Unknown {
            err.kind = EngineErrorKind::Unknown;
            err.message = format!(
                "failed to reach Podman: what answers on `{}` is not Podman (no Libpod-API-Version in its ping); check the \
                 socket's path",
                self.socket().display()
            );
        }
        err
    }

    /// A libpod path with its version.
    pub(super) async fn libpod(&self, path: &str) -> Result<String, EngineError> {
        Ok(format!("{}{path}", self.server().await?.prefix))
    }

    pub(super) async fn container_path(&self, id: &ContainerId, rest: &str) -> Result<String, EngineError> {
        self.libpod(&format!("/containers/{}{rest}", segment(id.as_str()))).await
    }

    /// See [`crate::backend::Engine::create`].
    pub async fn create(&self, create: &Create) -> Result<ContainerId, EngineError> {
        self.check_sources(create)?;
        let gateway = match spec::needs_gateway(create) {
            true => Some(self.gateway(create).await?),
            false => None,
        };
        let entrypoint = match spec::lacks_arguments(create) {
            true => Some(spec::entrypoint(create, self.inspect_image(create.image.as_str()).await?.as_ref())?),
            false => spec::own_entrypoint(create),
        };
        let what = format!("create container `{}`", create.name);
        let secrets = create.spec.secrets();
        let call = Call::post(what, self.libpod("/containers/create").await?)
            .json(&spec::body(create, gateway.as_deref(), entrypoint.as_deref()))
            .hiding(secrets.clone())
            .within(CREATE);
        let answer = self.http.send(&call).await?.json(&call)?;
        let id = answer.get("Id").or_else(|| answer.get("ID")).and_then(Value::as_str).unwrap_or_default();
        let warnings = answer.get("Warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for warning in warnings.map(|warning| secrets.redact(warning)) {
            tracing::debug!(container = %create.name, warning, "Podman warned about a container");
        }
        ContainerId::new(id).map_err(|_| call.unreadable("it names no container"))
    }

    /// A bind source must exist: of the libpod versions seen some refuse it with a bare `statfs`, others might make it.
    fn check_sources(&self, create: &Create) -> Result<(), EngineError> {
        if self.machine == Machine::Elsewhere {
            return Ok(());
        }
        for mount in &create.spec.mounts {
            let Some(bound) = mount.bind_source() else { continue };
            let source = Path::new(bound.expose());
            if let Err(err) = source.symlink_metadata()
                && err.kind() == std::io::ErrorKind::NotFound
            {
                let (shown, target) = (bound.shown(), mount.target.shown());
                return Err(EngineError::new(
                    EngineErrorKind::NotFound,
                    format!(
                        "failed to create container `{}`: `{shown}`, to be mounted at `{target}`, does not exist on this machine; \
                         create it, or correct the mount's source",
                        create.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The address under which containers on the default network reach Podman's machine. Docker's path, since it calls that
    /// network `bridge` whatever its real name is.
    async fn gateway(&self, create: &Create) -> Result<String, EngineError> {
        let call = Call::get(format!("find the host's address for container `{}`", create.name), "/networks/bridge");
        let ask = |docker: Docker| async move { docker.inspect_network("bridge", None::<InspectNetworkOptions>).await };
        let configs = self.typed(&call, ask).await?.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let mut gateways: Vec<_> = configs.into_iter().filter_map(|config| config.gateway).collect();
        gateways.retain(|address| !address.is_empty());
        gateways.sort_by_key(|address| address.contains(':'));
        gateways.into_iter().next().ok_or_else(|| {
            call.unreadable("the default network has no gateway; name an address instead of `host-gateway`")
        })
    }

    /// See [`crate::backend::Engine::start`].
    pub async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        lifecycle::start(self, id).await
    }

    /// See [`crate::backend::Engine::unpause`].
    pub async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        let call = Call::post(format!("unpause container `{id}`"), format!("/containers/{id}/unpause"));
        match self.typed(&call, |docker: Docker| async move { docker.unpause_container(id.as_str()).await }).await {
            Err(err) if err.message.contains("is not paused") => Ok(()),
            done => done,
        }
    }

    /// See [`crate::backend::Engine::stop`].
    pub async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        stop::stop(self, id, grace).await
    }

    /// See [`crate::backend::Engine::rename`].
    pub async fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<(), EngineError> {
        let what = format!("rename container `{id}` to `{name}`");
        let call = Call::post(what, format!("/containers/{id}/rename?name={name}"));
        let options = || RenameContainerOptionsBuilder::new().name(name.as_str()).build();
        self.typed(&call, |docker: Docker| async move { docker.rename_container(id.as_str(), options()).await }).await
    }

    /// See [`crate::backend::Engine::remove`]. Anonymous volumes stay with their data, as with `podman rm`; `podman volume
    /// prune` removes the volumes that no container uses.
    pub async fn remove(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        lifecycle::remove(self, id, grace).await
    }

    /// See [`crate::backend::Engine::run_healthcheck`]. `conflict` when it has none or does not run.
    pub async fn run_healthcheck(&self, id: &ContainerId) -> Result<(), EngineError> {
        let path = self.container_path(id, "/healthcheck").await?;
        let call = Call::get(format!("run the health check of container `{id}`"), path).within(HEALTHCHECK);
        self.http.send(&call.of_one()).await.map(|_| ())
    }

    /// See [`crate::backend::Engine::events`].
    pub async fn events(&self, owner: &Ownership) -> Result<Events, EngineError> {
        // Only types are filtered by Podman. Its label filters mean "any of" and need a value (4.3.1), and a filter it
        // does not know yields silence instead of an error.
        let filters = query(r#"{"type":["container","image"]}"#);
        self.meet().await?;
        let path = self.libpod(&format!("/events?stream=true&filters={filters}")).await?;
        let call = Call::get("follow Podman's events", path);
        let subscription = Subscription::open(self.http.clone(), call, owner.clone());
        let mut subscription = Box::pin(subscription);
        // A refused connection is an error of this call; headers that are merely late are not.
        let source = match tokio::time::timeout(EVENT_HEADERS, &mut subscription).await {
            Ok(opened) => Source::Open(Box::new(opened?)),
            Err(_) => Source::Opening(subscription),
        };
        Ok(Box::pin(stream::unfold(source, Source::next)))
    }
}

impl Api {
    /// See [`crate::backend::Engine::ping`].
    pub async fn ping(&self) -> Result<(), EngineError> {
        self.meet().await.map(|_| ())
    }

    /// See [`crate::backend::Engine::container_exits`].
    pub fn container_exits(&self, guest: &Guest) -> Option<ContainerExits> {
        let running = guest.containers.values().filter(|container| container.phase == Phase::Running);
        match self.machine {
            Machine::Here => running.filter_map(|container| container.pid).find_map(super::exits::follow),
            Machine::Elsewhere => None,
        }
    }
}

/// The status of a start that changed nothing.
const ALREADY_SO: u16 = 304;

/// An open stream of events.
struct Subscription {
    http: Http,
    call: Call,
    owner: Ownership,
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    lines: Lines,
    ready: VecDeque<Bytes>,
}

/// A stream of events whose answer may not have begun.
enum Source {
    Opening(Pin<Box<dyn Future<Output = Result<Subscription, EngineError>> + Send>>),
    Open(Box<Subscription>),
    Over,
}

impl Source {
    async fn next(self) -> Option<(Result<EngineEvent, EngineError>, Self)> {
        let mut subscription = match self {
            Self::Open(subscription) => subscription,
            Self::Opening(opening) => match opening.await {
                Ok(subscription) => Box::new(subscription),
                Err(err) => return Some((Err(err), Self::Over)),
            },
            Self::Over => return None,
        };
        match subscription.next().await? {
            Ok(event) => Some((Ok(event), Self::Open(subscription))),
            Err(err) => Some((Err(err), Self::Over)),
        }
    }
}

impl Subscription {
    async fn open(http: Http, call: Call, owner: Ownership) -> Result<Self, EngineError> {
        let response = http.open(&call, None).await?;
        let body = Box::pin(response.bytes_stream());
        Ok(Self { http, call, owner, body, lines: Lines::default(), ready: VecDeque::new() })
    }

    async fn next(&mut self) -> Option<Result<EngineEvent, EngineError>> {
        loop {
            while let Some(line) = self.ready.pop_front() {
                if let Some(event) = wire::event(&line, &self.owner) {
                    return Some(Ok(event));
                }
            }
            match self.body.next().await? {
                Ok(bytes) => self.lines.push(&bytes, &mut self.ready),
                Err(err) => return Some(Err(self.http.broken(&self.call, &err))),
            }
        }
    }
}
