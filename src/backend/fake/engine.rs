//! The Podman of the fake world, with the manners of Podman 4.3.
//!
//! Long because it answers every call of one trait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{Call, Fake, FakeContainer, State};
use crate::backend::{
    ByteStream, Chunk, Chunks, ContainerExits, Engine, EngineError, EngineErrorKind, EngineMachine, Events, Exec,
    ExecRequest, ImageFacts, LogLine, LogLines, LogRequest, Look, Progress, Routing, TermSize,
};
use crate::model::{
    CanonicalSpec, ContainerId, ContainerName, ContainerState, Create, Guest, Health, ImageId, ImageRef, Images, Live,
    MakeNetwork, MakeVolume, NetworkSpec, NetworkState, Owner, Ownership, Phase, PortRange, Reach, Route, Sha256Digest,
    SharedState, VolumeSpec, VolumeState, Whose, labels,
};

fn not_found(what: &str) -> EngineError {
    EngineError::new(EngineErrorKind::NotFound, format!("no such object: {what}"))
}

fn refused(why: String) -> EngineError {
    EngineError::new(EngineErrorKind::ApiError, why)
}

fn conflict(why: String) -> EngineError {
    EngineError::new(EngineErrorKind::Conflict, why)
}

fn owner(one: &FakeContainer) -> Option<Option<String>> {
    Some(one.labels.get(labels::NAME).cloned())
}

/// Whose it is. Without an observation, any owner's labels make it ours.
fn owner_of(state: &State, one: &FakeContainer, look: Option<&Look>) -> Owner {
    let label = |name: &str| one.labels.get(name).map(String::as_str);
    match look {
        Some(look) => {
            let (image, wanted) = (state.image_labels.get(&one.image), look.names.contains(&one.name));
            look.owner.owner(label, image, wanted, &look.key)
        }
        None => Owner::Ours {
            agent: label(labels::AGENT).and_then(|agent| agent.parse().ok()),
            version: label(labels::SPEC_VERSION).and_then(|version| version.parse().ok()).unwrap_or(0),
            spec: label(labels::SPEC).and_then(CanonicalSpec::from_label),
        },
    }
}

fn seen(state: &State, id: &ContainerId, one: &FakeContainer, look: Option<&Look>, closely: bool) -> ContainerState {
    let owner = owner_of(state, one, look);
    let spec = match &owner {
        Owner::Ours { spec, .. } => spec.as_ref(),
        Owner::Foreign(_) => None,
    };
    let stale = look.is_some_and(|look| spec.is_some_and(|spec| !spec.readable_with(&look.key)));
    let health = closely || look.is_some_and(|look| look.health.contains(&one.name));
    ContainerState {
        id: id.clone(),
        owner,
        image: one.image.clone(),
        image_name: one.image_name.clone(),
        phase: one.phase.clone(),
        started_at: one.last_start().map(super::wall),
        ended_at: one.last_end().map(|(ended, _)| super::wall(ended)),
        pid: (one.phase == Phase::Running).then_some(7),
        restarts: (closely || one.last_end().is_some()).then(|| one.restarts_by_now()),
        ports: one.spec.ports.iter().cloned().map(PortRange::from).collect(),
        resources: closely.then(|| one.spec.resources.clone()),
        restart: (closely || stale).then(|| one.spec.restart.to_string()),
        health: one.spec.healthcheck.as_ref().filter(|_| health).map(|check| match one.checks {
            (_, true) => Health::Healthy,
            (failures, false) if failures >= check.retries => Health::Unhealthy,
            (_, false) => Health::Starting,
        }),
        checked_at: None,
        last_check: None,
        check: one.spec.healthcheck.clone().filter(|_| closely),
        exits: one.recent_exits(),
        live: (stale || closely).then(|| live(one)),
    }
}

fn live(one: &FakeContainer) -> Live {
    let env = one.spec.env.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
    let command = one.spec.command.as_ref();
    let mounts = one.spec.mounts.iter().filter_map(|mount| {
        let access = if mount.read_only { ":ro" } else { "" };
        Some((mount.target.expose().to_owned(), format!("{}{access}", mount.bind_source()?.expose())))
    });
    Live {
        env: env.collect(),
        command: command.map(|words| words.iter().map(|word| word.expose().to_owned()).collect()),
        mounts: mounts.collect(),
        add_hosts: Some(one.spec.add_hosts.iter().map(|host| host.expose().to_owned()).collect()),
        health_test: None,
        volumes: one.volumes.clone(),
    }
}

impl Fake {
    /// A call about a container, under its name.
    /// A call to Podman, which nobody answers while the machine it runs in is down.
    async fn ask<T>(
        &self,
        word: &'static str,
        target: impl Into<String>,
        work: impl FnOnce(&mut State) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.call(word, target, |state| {
            if state.in_vm && !state.vm.as_ref().is_some_and(super::FakeVm::answers) {
                let why = "nobody answers in the VM".to_owned();
                return Err(EngineError::new(EngineErrorKind::TransportUnavailable, why));
            }
            work(state)
        })
        .await
    }

    async fn on<T>(
        &self,
        word: &'static str,
        id: &ContainerId,
        work: impl FnOnce(&mut State, &str) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let name = self.state().containers.get(id).map_or_else(|| id.to_string(), |one| one.name.to_string());
        self.ask(word, name.clone(), |state| work(state, &name)).await
    }
}

fn find<'a>(state: &'a mut State, id: &ContainerId) -> Result<&'a mut FakeContainer, EngineError> {
    state.containers.get_mut(id).ok_or_else(|| not_found(id.as_str()))
}

impl Routing for Fake {
    fn keep(&self) {
        self.state().is_kept = true;
    }

    fn reach(&self) -> Reach {
        let state = self.state();
        let failed_boots = state.vm.as_ref().map_or(0, |vm| vm.failed_boots);
        let route = state.vm.as_ref().is_some_and(super::FakeVm::answers).then_some(Route::Forward);
        Reach { route, silent_for: super::vm::silent_for(state.vm.as_ref()), failed_boots, ..Reach::default() }
    }
}

impl Engine for Fake {
    async fn look(&self, look: &Look) -> Result<Guest, EngineError> {
        self.ask("look", "", |state| {
            // Ids grow with each that is created.
            let twins = labels::later_twins(
                state
                    .containers
                    .iter()
                    .map(|(id, one)| (one.labels.get(labels::ID).map_or(id.as_str(), String::as_str), id)),
            );
            let containers = state.containers.iter().enumerate().filter_map(|(place, (id, one))| {
                let mut seen = seen(state, id, one, Some(look), false);
                if twins.contains(&place) && matches!(seen.owner, Owner::Ours { .. }) {
                    seen.owner = Owner::Foreign(Whose::Copy);
                }
                let is_ours = matches!(seen.owner, Owner::Ours { .. });
                (is_ours || look.names.contains(&one.name)).then(|| (one.name.clone(), seen))
            });
            let looked_at = Some(super::wall(Instant::now()));
            let Images { names: images, store: image_store } = state.list_images();
            let (version, containers) = ("4.3.1".to_owned(), containers.collect());
            Ok(Guest { version, looked_at, containers, images, image_store })
        })
        .await
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        self.on("inspect", id, |state, _| Ok(state.containers.get(id).map(|one| seen(state, id, one, None, true))))
            .await
    }

    async fn images(&self) -> Result<Images, EngineError> {
        self.ask("images", "", |state| Ok(state.list_images())).await
    }

    async fn named(&self, name: &ContainerName) -> Result<Option<ContainerState>, EngineError> {
        self.ask("inspect", name.as_str(), |state| {
            Ok(state.named(name.as_str()).map(|(id, one)| seen(state, id, one, None, true)))
        })
        .await
    }

    async fn image(&self, reference: &ImageRef) -> Result<Option<ImageId>, EngineError> {
        self.ask("image", reference.as_str(), |state| Ok(state.images.get(reference).cloned())).await
    }

    async fn has_agents(&self, image: &ImageId) -> Result<bool, EngineError> {
        self.ask("has_agents", image.as_str(), |state| {
            Ok(state.containers.values().any(|one| one.image == *image && one.labels.contains_key(labels::NAME)))
        })
        .await
    }

    async fn room(&self) -> Result<Option<u64>, EngineError> {
        self.ask("room", "", |_| Ok(None)).await
    }

    async fn image_facts(&self, image: &str) -> Result<Option<ImageFacts>, EngineError> {
        self.ask("image_facts", image, |state| {
            let by_id = ImageId::from(image);
            let by_id = Some(&by_id).filter(|id| state.image_store.contains(*id));
            let by_name = ImageRef::new(image).ok();
            let image = by_name.as_ref().and_then(|name| state.images.get(name)).or(by_id);
            Ok(image.map(|image| state.image_facts.get(image).cloned().unwrap_or_default()))
        })
        .await
    }

    async fn machine(&self) -> Result<EngineMachine, EngineError> {
        self.ask("machine", "", |state| Ok(state.machine.clone())).await
    }

    async fn load(&self, mut tar: ByteStream) -> Result<Vec<String>, EngineError> {
        let mut text = Vec::new();
        while let Some(bytes) = tar.next().await {
            text.extend_from_slice(&bytes.map_err(|err| refused(format!("cannot read the archive: {err}")))?);
        }
        let digest = Sha256Digest::parse(&String::from_utf8_lossy(&text)).map_err(|err| refused(err.to_string()))?;
        self.ask("load", digest.to_string(), |state| {
            let (image, _) =
                state.tarballs.get(&digest).cloned().ok_or_else(|| refused("not an archive".to_owned()))?;
            state.image_store.insert(image.clone());
            state.changed("load", "", None);
            // What the store hands out has no name.
            Ok(vec![format!("sha256:{image}")])
        })
        .await
    }

    async fn pull(&self, reference: &ImageRef, _: Arc<Progress>) -> Result<ImageId, EngineError> {
        self.ask("pull", reference.as_str(), |state| {
            let image = state.registry.get(reference).cloned().ok_or_else(|| not_found(reference.as_str()))?;
            state.image_store.insert(image.clone());
            state.images.insert(reference.clone(), image.clone());
            state.changed("pull", reference.as_str(), None);
            Ok(image)
        })
        .await
    }

    async fn tag(&self, image: &ImageId, reference: &ImageRef) -> Result<(), EngineError> {
        self.ask("tag", reference.as_str(), |state| {
            if !state.image_store.contains(image) {
                return Err(not_found(image.as_str()));
            }
            state.images.insert(reference.clone(), image.clone());
            state.changed("tag", reference.as_str(), None);
            Ok(())
        })
        .await
    }

    async fn remove_image(&self, image: &ImageId) -> Result<(), EngineError> {
        self.ask("remove_image", image.as_str(), |state| {
            if state.containers.values().any(|one| one.image == *image) {
                return Err(conflict(format!("image {image} is in use")));
            }
            if state.image_store.remove(image) {
                state.images.retain(|_, id| id != image);
                state.changed("remove_image", image.as_str(), None);
            }
            Ok(())
        })
        .await
    }

    async fn create(&self, create: &Create) -> Result<ContainerId, EngineError> {
        self.ask("create", create.name.as_str(), |state| {
            if let Some((id, one)) = state.named(create.name.as_str()) {
                let is_own =
                    [labels::NAME, labels::AGENT].iter().all(|name| one.labels.get(*name) == create.labels.get(*name));
                let why = conflict(format!("the container name `{}` is already in use by {id}", create.name));
                if is_own {
                    let call = Call { word: "create", target: create.name.to_string(), at: Instant::now() };
                    state.blindly_made.push(call);
                }
                return Err(why);
            }
            let image = match &create.image_id {
                Some(image) => state.list_images().store.contains_key(image).then(|| image.clone()),
                None => state.images.get(&create.image).cloned(),
            };
            let image = image.ok_or_else(|| not_found(create.image_word()))?;
            // An image's labels are its containers' too.
            let mut labels = state.image_labels.get(&image).cloned().unwrap_or_default();
            labels.extend(create.labels.clone());
            let volumes = state.volumes_of(&image, create);
            let container = FakeContainer {
                name: create.name.clone(),
                labels,
                spec: create.spec.clone(),
                image,
                image_name: create.image.to_string(),
                phase: Phase::Created,
                restarts: 0,
                checks: (0, false),
                started: None,
                ends: Vec::new(),
                volumes,
                is_half_made: false,
                breaks: None,
            };
            let owner = owner(&container);
            let id = state.put(container);
            state.changed("create", create.name.as_str(), owner);
            Ok(id)
        })
        .await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.on("start", id, |state, name| {
            let one = find(state, id)?.clone();
            match one.phase {
                Phase::Running => return Ok(()),
                Phase::Paused => return Err(refused(format!("container {name} is paused: unpause it"))),
                _ => {}
            }
            if one.is_half_made {
                return Err(refused(format!(
                    "unable to determine if {name}/shm is mounted: no such file or directory"
                )));
            }
            if let Some(port) = one.spec.ports.iter().find(|port| state.port_is_taken(id, port)) {
                return Err(refused(format!("cannot listen on {port}: bind: address already in use")));
            }
            let gives_up = state.podman_gives_up;
            let one = find(state, id)?;
            // A start by hand: what Podman restarted before is not counted any more.
            one.restarts = 0;
            one.begin(gives_up);
            let ended = match one.phase {
                Phase::Exited { code } => Some(code),
                _ => None,
            };
            let owner = owner(one);
            state.changed("start", name, owner);
            if ended.is_some() {
                state.tell("died", name, ended);
            }
            Ok(())
        })
        .await
    }

    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.on("unpause", id, |state, name| {
            let one = find(state, id)?;
            if one.phase == Phase::Paused {
                one.phase = Phase::Running;
                let owner = owner(one);
                state.changed("unpause", name, owner);
                if state.frozen.contains(name) {
                    find(state, id)?.phase = Phase::Paused;
                    state.tell("pause", name, None);
                }
            }
            Ok(())
        })
        .await
    }

    async fn stop(&self, id: &ContainerId, _: Duration) -> Result<(), EngineError> {
        self.on("stop", id, |state, name| {
            let one = find(state, id)?;
            match one.phase {
                Phase::Running | Phase::Stopping | Phase::Paused => {
                    one.phase = Phase::Exited { code: 143 };
                    one.ends.push((Instant::now(), 143));
                    let owner = owner(one);
                    state.changed("stop", name, owner);
                    Ok(())
                }
                _ => Ok(()),
            }
        })
        .await
    }

    async fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<(), EngineError> {
        self.on("rename", id, |state, _| {
            if let Some((holder, _)) = state.named(name.as_str()) {
                return Err(conflict(format!("the container name `{name}` is already in use by {holder}")));
            }
            let one = find(state, id)?;
            one.name = name.clone();
            let owner = owner(one);
            state.changed("rename", name.as_str(), owner);
            Ok(())
        })
        .await
    }

    async fn remove(&self, id: &ContainerId, _: Duration) -> Result<(), EngineError> {
        self.on("remove", id, |state, name| {
            if let Some(one) = state.containers.remove(id) {
                state.inside.sessions.retain(|(container, _), _| container != id);
                state.changed("remove", name, owner(&one));
            }
            Ok(())
        })
        .await
    }

    async fn shared(&self) -> Result<SharedState, EngineError> {
        self.ask("shared", "", |state| Ok(state.shared.clone())).await
    }

    async fn create_network(&self, make: &MakeNetwork) -> Result<(), EngineError> {
        self.ask("create_network", make.name.as_str(), |state| {
            let NetworkSpec { internal, subnet, ipv6, dns, .. } = make.spec.clone();
            let subnets = subnet.into_iter().collect();
            let made = NetworkState { labels: make.labels.clone(), internal, ipv6, dns, subnets };
            state.shared.networks.entry(make.name.clone()).or_insert(made);
            Ok(())
        })
        .await
    }

    async fn create_volume(&self, make: &MakeVolume) -> Result<(), EngineError> {
        self.ask("create_volume", make.name.as_str(), |state| {
            let VolumeSpec { driver, options, .. } = make.spec.clone();
            let driver = driver.unwrap_or_else(|| "local".to_owned());
            let made = VolumeState { labels: make.labels.clone(), driver, options };
            state.shared.volumes.entry(make.name.clone()).or_insert(made);
            Ok(())
        })
        .await
    }

    async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        self.ask("remove_network", name, |state| {
            state.shared.networks.remove(name);
            Ok(())
        })
        .await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.ask("remove_volume", name, |state| {
            state.shared.volumes.remove(name);
            Ok(())
        })
        .await
    }

    async fn run_healthcheck(&self, id: &ContainerId) -> Result<(), EngineError> {
        self.on("run_healthcheck", id, |state, _| {
            let one = find(state, id)?;
            one.checks = if one.is_well() { (0, true) } else { (one.checks.0 + 1, false) };
            Ok(())
        })
        .await
    }

    async fn exec(&self, id: &ContainerId, _: &ExecRequest) -> Result<Exec, EngineError> {
        self.on("exec", id, |state, name| {
            let one = find(state, id)?;
            if one.phase != Phase::Running {
                return Err(refused(format!("can only create exec sessions on running containers: {name}")));
            }
            let code = i32::from(!one.is_well());
            let exec = format!("exec-{}", state.serial());
            state.execs.insert(exec.clone(), code);
            Ok(Exec { id: exec, output: Box::pin(stream::empty()), stdin: None })
        })
        .await
    }

    async fn exec_resize(&self, exec: &str, _: TermSize) -> Result<(), EngineError> {
        self.ask("exec_resize", exec, |state| state.execs.get(exec).map(|_| ()).ok_or_else(|| not_found(exec))).await
    }

    async fn exec_exit(&self, exec: &str) -> Result<i32, EngineError> {
        self.ask("exec_exit", exec, |state| state.execs.get(exec).copied().ok_or_else(|| not_found(exec))).await
    }

    async fn exec_end(&self, exec: &str) -> Result<(), EngineError> {
        self.ask("exec_end", exec, |state| {
            state.execs.insert(exec.to_owned(), 143);
            Ok(())
        })
        .await
    }

    async fn put(&self, id: &ContainerId, _: &str, mut tar: ByteStream) -> Result<(), EngineError> {
        while let Some(item) = tar.next().await {
            item.map_err(|err| EngineError::new(EngineErrorKind::ApiError, err.to_string()))?;
        }
        self.on("put", id, |_, _| Ok(())).await
    }

    async fn logs(&self, id: &ContainerId, _: &LogRequest) -> Result<Chunks, EngineError> {
        self.on("logs", id, |state, _| {
            let line = find(state, id)?.crash().map(|code| format!("ending with {code}\n"));
            let chunks = line.map(|line| Ok(Chunk::Stderr(Bytes::from(line))));
            Ok(Box::pin(stream::iter(chunks)) as Chunks)
        })
        .await
    }

    async fn log_lines(&self, id: &ContainerId, _: &LogRequest, _: Option<u64>) -> Result<LogLines, EngineError> {
        self.on("log_lines", id, |state, _| {
            let line = find(state, id)?.crash().map(|code| format!("ending with {code}\n"));
            let line = line.map(|line| Ok(LogLine { is_stderr: true, time: None, bytes: Bytes::from(line) }));
            Ok(Box::pin(stream::iter(line)) as LogLines)
        })
        .await
    }

    async fn events(&self, _: &Ownership) -> Result<Events, EngineError> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        self.ask("events", "", |state| {
            state.subscribers.push(sender);
            Ok(())
        })
        .await?;
        Ok(Box::pin(stream::unfold(receiver, async |mut receiver| Some((Ok(receiver.recv().await?), receiver)))))
    }

    async fn ping(&self) -> Result<(), EngineError> {
        self.ask("ping", "", |_| Ok(())).await
    }

    fn container_exits(&self, _: &Guest) -> Option<ContainerExits> {
        None
    }
}
