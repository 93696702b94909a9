//! What happens in the fake world: faults that are due, events, ends and restarts.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::CHANGES;
use super::{Call, Effect, FakeContainer, Fault, FaultPoint, State};
use crate::model::labels::{self};
use crate::model::{ContainerId, Create, ImageId, ImageState, Images, Phase, Port, Volume};

impl State {
    pub(super) fn fault_due(&mut self, word: &str, target: &str) -> Option<(FaultPoint, bool)> {
        let meant = |fault: &&mut Fault| {
            (fault.word == word || fault.word.is_empty() && CHANGES.contains(&word))
                && (fault.target.is_empty() || fault.target == target)
                && fault.times > 0
        };
        let fault = self.faults.iter_mut().find(meant)?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times = fault.times.saturating_sub(1);
        Some((fault.point, fault.transient))
    }

    /// Notes a change that has just been made.
    pub(super) fn changed(&mut self, word: &'static str, target: &str, owner: Option<Option<String>>) {
        let label = |one: &FakeContainer, name: &str| one.labels.get(name).cloned().unwrap_or_default();
        let agents =
            self.containers.values().map(|one| (label(one, labels::NAME), label(one, labels::AGENT))).collect();
        let up = self.containers.values().filter(|one| matches!(one.phase, Phase::Running | Phase::Paused));
        let mut running: Vec<_> = up.map(|one| (label(one, labels::NAME), label(one, labels::AGENT))).collect();
        running.sort();
        let call = Call { word, target: target.to_owned(), at: Instant::now() };
        let restart = self.named(target).map(|(_, one)| one.spec.restart);
        self.effects.push(Effect { call, owner, agents, running, restart });
        self.tell(word, target, None);
        if let Some(left) = &mut self.kill_after {
            *left = left.saturating_sub(1);
            self.dead = *left == 0;
        }
    }

    /// Tells those who follow events of something, in Podman's word.
    pub fn tell(&mut self, action: &str, container: &str, exit_code: Option<i32>) {
        let kind = crate::backend::podman::event_kind(action);
        let event = crate::backend::EngineEvent { kind, container: Some(container.to_owned()), exit_code };
        self.subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    /// Everybody who follows events is cut off, as when Podman's service ends.
    pub fn cut_events(&mut self) {
        self.subscribers.clear();
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The container of this name.
    pub fn named(&self, name: &str) -> Option<(&ContainerId, &FakeContainer)> {
        self.containers.iter().find(|(_, one)| one.name.as_str() == name)
    }

    /// The container of this name, to be changed.
    pub fn named_mut(&mut self, name: &str) -> Option<&mut FakeContainer> {
        self.containers.values_mut().find(|one| one.name.as_str() == name)
    }

    /// Adds a container as somebody else would.
    pub fn put(&mut self, container: FakeContainer) -> ContainerId {
        let id = self.new_id();
        self.containers.insert(id.clone(), container);
        id
    }

    /// The volumes of a container that is made now: those it is given, and one for each place where its image declares
    /// one and nothing is mounted.
    pub(super) fn volumes_of(&mut self, image: &ImageId, create: &Create) -> Vec<Volume> {
        let declared = self.image_facts.get(image).map(|facts| facts.volumes.clone()).unwrap_or_default();
        let mut volumes = create.volumes.clone();
        for target in declared {
            let bound = create.spec.mounts.iter().any(|mount| mount.target.expose() == target);
            if !bound && !volumes.iter().any(|volume| volume.target == target) {
                let name = format!("{:064x}", 0x0001_da7a_0000_u64 + self.serial());
                volumes.push(Volume { name, target, read_only: false });
            }
        }
        volumes
    }

    pub(super) fn new_id(&mut self) -> ContainerId {
        let text = format!("{:064x}", 0xc0de_0000 + self.serial());
        ContainerId::new(text).unwrap_or_else(|_| unreachable!("64 digits are an id"))
    }

    /// The container's process ends by itself. Podman restarts it as its policy says.
    pub fn die(&mut self, name: &str, code: i32) {
        let gives_up = self.podman_gives_up;
        if let Some(one) = self.named_mut(name) {
            one.end(code, gives_up);
            self.tell("died", name, Some(code));
        }
    }

    /// Somebody kills the container by request, so that Podman does not restart it.
    pub fn kill(&mut self, name: &str) {
        if let Some(one) = self.named_mut(name) {
            one.phase = Phase::Exited { code: 137 };
            one.ends.push((Instant::now(), 137));
            self.tell("died", name, Some(137));
        }
    }

    pub(super) fn list_images(&self) -> Images {
        let state = |image: &ImageId| ImageState {
            size: 1000,
            tags: self.images.iter().filter(|(_, id)| *id == image).map(|(name, _)| name.clone()).collect(),
            containers: u64::try_from(self.containers.values().filter(|one| one.image == *image).count()).ok(),
        };
        let all: BTreeSet<_> = self.image_store.iter().chain(self.images.values()).collect();
        let store = all.into_iter().map(|image| (image.clone(), state(image))).collect();
        Images { names: self.images.clone(), store }
    }

    /// How many calls with this word were made.
    pub fn count(&self, word: &str) -> usize {
        self.calls.iter().filter(|call| call.word == word).count()
    }

    pub(super) fn port_is_taken(&self, but: &ContainerId, port: &Port) -> bool {
        self.busy_ports.contains(&port.host_port)
            || port.host_port != 0
                && self.containers.iter().any(|(id, one)| {
                    id != but
                        && matches!(one.phase, Phase::Running | Phase::Paused | Phase::Stopping)
                        && one
                            .spec
                            .ports
                            .iter()
                            .any(|other| (other.host_port, other.protocol) == (port.host_port, port.protocol))
                })
    }
}
