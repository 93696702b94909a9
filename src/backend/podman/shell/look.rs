//! One observation in one call; a second one only when a container has to be inspected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::Shell;
use crate::backend::podman::answer;
use crate::backend::podman::error::{About, is_of_a_lost_storage};
use crate::backend::podman::lifecycle::past_an_end;
use crate::backend::podman::look::{replace, to_inspect};
use crate::backend::podman::recent;
use crate::backend::podman::stop::{Listing, Stoppable};
use crate::backend::podman::wire::{self, ImageLabels, Past};
use crate::backend::{EngineError, EngineErrorKind, Look};
use crate::model::{ContainerId, ContainerName, ContainerState, Guest, ImageId, Owner, RecentExits, labels};
use crate::mutex::guard;

pub(super) use crate::backend::podman::wire::inspected;

/// Everything, and sorted out here: another call would cost more than the longer list.
const LOOK: &str = "podman ps --all --format json && podman images --format json";
/// The same, with the version before it. Each prints one JSON value.
const FIRST_LOOK: &str = "podman version --format '{{json .Server.APIVersion}}' && podman ps --all --format json && \
                          podman images --format json";
/// The waits between tries of a list that Podman failed.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(300)];
/// Podman's own exit code for its failures.
const PODMAN_FAILED: i32 = 125;
/// Containers inspected by one command: its length has limits.
const INSPECTED_AT_ONCE: usize = 500;

impl Shell {
    /// See [`crate::backend::Engine::look`].
    pub async fn look(&self, look: &Look) -> Result<Guest, EngineError> {
        let known = guard(&self.version).clone();
        let script = if known.is_some() { LOOK } else { FIRST_LOOK };
        let call = self.script("list containers and images", About::Other, "podman ps", script, &[]);
        let answer = self.run_again(&call).await?;
        let mut values = answer::values(&answer).map_err(|why| call.unreadable(&why))?;
        let version = match known {
            Some(version) => version,
            None => {
                let told = values.next().and_then(|value| value.as_str().map(str::to_owned));
                let told = told.ok_or_else(|| call.unreadable("it tells no version"))?;
                *guard(&self.version) = Some(told.clone());
                told
            }
        };
        let (Some(listed), Some(images)) = (values.next(), values.next()) else {
            return Err(call.unreadable("expected two lists"));
        };
        if [&listed, &images].iter().any(|value| !matches!(value, Value::Array(_) | Value::Null)) {
            return Err(call.unreadable("expected two lists"));
        }
        let mut image_labels = ImageLabels::of(&images);
        if image_labels.lack_any_of(&listed, &look.owner) {
            image_labels = ImageLabels::of(&self.all_images().await?);
        }
        let mut containers = wire::containers(&listed, look, &image_labels);
        containers.retain(|name, state| matches!(state.owner, Owner::Ours { .. }) || look.names.contains(name));
        self.look_closer(look, &mut containers).await?;
        let images = wire::images(&images);
        let looked_at = Some(SystemTime::now());
        Ok(Guest { version, looked_at, containers, images: images.names, image_store: images.store })
    }

    /// See [`crate::backend::Engine::has_agents`].
    pub async fn has_agents(&self, image: &ImageId) -> Result<bool, EngineError> {
        let (label, ancestor) = (format!("label={}", labels::NAME), format!("ancestor={image}"));
        let words = ["ps", "--all", "--format", "json", "--filter", &label, "--filter", &ancestor];
        let call = self.podman("list containers", About::Other, words);
        let answer = self.run_again(&call).await?;
        Ok(wire::any_made_from(&call.json(&answer)?, image))
    }

    /// Those without a name too that others were made upon.
    async fn all_images(&self) -> Result<Value, EngineError> {
        let call = self.podman("list images", About::Other, ["images", "--all", "--format", "json"]);
        let answer = self.run_again(&call).await?;
        call.json(&answer)
    }

    /// Podman 4.3 fails a whole list when one thing in it goes away meanwhile. Asked again, it answers.
    pub(super) async fn run_again(&self, call: &super::run::Call) -> Result<Vec<u8>, EngineError> {
        for pause in LOOK_AGAIN {
            match self.run(call).await {
                Err(err) if err.exit_code == Some(PODMAN_FAILED) => tokio::time::sleep(pause).await,
                outcome => return outcome,
            }
        }
        self.run(call).await
    }

    /// Inspects what the list does not tell. See [`crate::backend::podman::look`].
    async fn look_closer(
        &self,
        look: &Look,
        containers: &mut BTreeMap<ContainerName, ContainerState>,
    ) -> Result<(), EngineError> {
        let now = SystemTime::now();
        let wanted = to_inspect(look, containers, now);
        let ended = recent::ended_lately(containers, now);
        let past = self.past_of(&ended).await;
        for some in wanted.chunks(INSPECTED_AT_ONCE) {
            let ids: Vec<_> = some.iter().map(|(_, id)| id.as_str()).collect();
            let seen = match self.inspect_all(&ids).await {
                // What the list tells is all that can be told.
                Err(err) if is_of_a_lost_storage(&err) => continue,
                seen => seen?,
            };
            let mut seen: BTreeMap<_, _> = seen.into_iter().map(|state| (state.id.clone(), state)).collect();
            for (name, id) in some {
                match seen.remove(id) {
                    Some(mut closer) => {
                        if ended.contains(id) {
                            closer.exits = recent::recent_exits(&closer, past.as_deref());
                        }
                        replace(containers, name.clone(), closer);
                    }
                    // Removed between the list and the inspection.
                    None => drop(containers.remove(name)),
                }
            }
        }
        Ok(())
    }

    /// The starts and ends within the last [`RecentExits::WITHIN`]. See [`crate::backend::podman::look`].
    async fn past_of(&self, ended: &[ContainerId]) -> Option<Vec<Past>> {
        if ended.is_empty() {
            return Some(Vec::new());
        }
        let since = RecentExits::WITHIN.as_secs();
        let script = format!(
            "podman events --stream=false --since {since}s --filter type=container --filter event=died --filter event=start \
             --format json"
        );
        let call = self.script("read Podman's latest events", About::Other, "podman events", &script, &[]);
        match self.run(&call).await {
            Ok(answer) => Some(answer.split(|byte| *byte == b'\n').filter_map(wire::past).collect()),
            Err(err) => {
                tracing::debug!(error = %err, "cannot read Podman's latest events");
                None
            }
        }
    }

    /// Those of them that are there.
    async fn inspect_all(&self, ids: &[&str]) -> Result<Vec<ContainerState>, EngineError> {
        self.inspected_as(ids, |value| inspected(value).map(|(_, state)| state)).await
    }

    /// What an inspection tells of how a container is stopped.
    pub(super) async fn stoppable(&self, id: &ContainerId) -> Result<Option<Stoppable>, EngineError> {
        Ok(self.inspected_as(&[id.as_str()], wire::stoppable).await?.pop())
    }

    /// What a list tells of these containers.
    pub(super) async fn listings(
        &self,
        ids: &BTreeSet<ContainerId>,
    ) -> Result<BTreeMap<ContainerId, Listing>, EngineError> {
        let call = self.podman("list containers", About::Other, ["ps", "--all", "--format", "json"]);
        let answer = call.json(&self.run_again(&call).await?)?;
        let found = answer.as_array().into_iter().flatten().filter_map(wire::listing);
        Ok(found.filter(|(id, _)| ids.contains(id)).collect())
    }

    /// Podman's version, asked for once.
    pub(super) async fn server_version(&self) -> Result<String, EngineError> {
        let known = guard(&self.version).clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let call = self.podman("reach Podman", About::Other, ["version", "--format", "{{json .Server.APIVersion}}"]);
        let told: String =
            serde_json::from_slice(&self.run(&call).await?).map_err(|_| call.unreadable("it tells no version"))?;
        *guard(&self.version) = Some(told.clone());
        Ok(told)
    }

    async fn inspected_as<T>(&self, ids: &[&str], read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, EngineError> {
        let (what, shown) = match ids {
            [id] => (format!("inspect container `{id}`"), format!("podman container inspect {id}")),
            _ => ("inspect containers".to_owned(), "podman container inspect".to_owned()),
        };
        let call = self.script(what, About::Container, &shown, "podman container inspect \"$@\"", ids);
        let stdout = past_an_end(async || {
            let ended = self.end_of(&call).await?;
            // Of several, it prints those it found and complains about the others.
            let stdout = ended.stdout.clone();
            match self.success(&call, ended) {
                Err(err) if err.kind != EngineErrorKind::NotFound => Err(err),
                _ => Ok(stdout),
            }
        })
        .await?;
        let Value::Array(found) = call.json(&stdout)? else { return Err(call.unreadable("expected a list")) };
        found.iter().map(read).collect::<Option<_>>().ok_or_else(|| call.unreadable("it names no container"))
    }

    /// See [`crate::backend::Engine::inspect`]. Any owner's label makes it [`Owner::Ours`], since no owner is given.
    pub async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        Ok(self.inspect_all(&[id.as_str()]).await?.pop())
    }

    /// See [`crate::backend::Engine::named`].
    pub async fn named(&self, name: &ContainerName) -> Result<Option<ContainerState>, EngineError> {
        Ok(self.inspect_all(&[name.as_str()]).await?.pop())
    }
}
