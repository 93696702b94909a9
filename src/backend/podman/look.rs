//! One observation of Podman: its containers and images, in at most four requests when nothing is special.
//!
//! Ping (once per client), containers by label, images; and, only when a wanted name is not among ours, containers by name,
//! to find the foreign container that has it. What the list cannot tell is inspected, container by container.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};

use super::api::Api;
use super::error::is_of_a_lost_storage;
use super::http::{Answer, Call, query, segment};
use super::lifecycle::{past_an_end, unless_gone};
use super::recent;
use super::stop::{Listing, Stoppable};
use super::wire::{self, ImageLabels, Past};
use crate::backend::{EngineError, Look};
use crate::model::{
    ContainerId, ContainerName, ContainerState, Guest, Health, ImageId, Owner, Phase, RecentExits, labels,
};

/// Inspections under way at once.
const INSPECTIONS: usize = 8;
/// The waits between tries of a list.
const LIST_AGAIN: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(300)];
/// With more names than this in question, all containers are listed and filtered here: a request line has its limits.
const NAMES_IN_A_FILTER: usize = 500;

impl Api {
    /// See [`crate::backend::Engine::look`].
    pub async fn look(&self, look: &Look) -> Result<Guest, EngineError> {
        let server = self.server().await?;
        // Where both fail it is always the same one that is told, so that a reader sees no change where there is none.
        let filters = json!({ "label": [format!("{}={}", labels::NAME, look.owner.name)] });
        let (listed, images) = tokio::join!(self.list(&filters), self.list_images(false));
        let (listed, images) = (listed?, images?);
        let mut image_labels = ImageLabels::of(&images);
        if image_labels.lack_any_of(&listed, &look.owner) {
            image_labels = ImageLabels::of(&self.list_images(true).await?);
        }
        let containers = self.containers(look, &listed, &image_labels).await?;
        let (looked_at, images) = (Some(SystemTime::now()), wire::images(&images));
        let version = server.version.clone();
        Ok(Guest { version, looked_at, containers, images: images.names, image_store: images.store })
    }

    /// `listed` are those with the owner's label.
    async fn containers(
        &self,
        look: &Look,
        listed: &Value,
        images: &ImageLabels,
    ) -> Result<BTreeMap<ContainerName, ContainerState>, EngineError> {
        let mut containers = wire::containers(listed, look, images);
        // An older Podman may not know the filter, or match it by pattern; and the label may be another root's, or a copy's.
        containers.retain(|name, state| matches!(state.owner, Owner::Ours { .. }) || look.names.contains(name));

        let unseen: Vec<_> = look.names.iter().filter(|name| !containers.contains_key(*name)).collect();
        if !unseen.is_empty() {
            let mut foreign = wire::containers(&self.list(&names_filter(&unseen)).await?, look, images);
            foreign.retain(|name, _| look.names.contains(name));
            for (name, state) in foreign {
                containers.entry(name).or_insert(state);
            }
        }
        self.look_closer(look, &mut containers).await?;
        Ok(containers)
    }

    /// Podman 4.3 fails a whole list (500) when one thing in it goes away meanwhile. Asked again, it answers.
    pub(super) async fn send_list(&self, call: &Call) -> Result<Answer, EngineError> {
        for pause in LIST_AGAIN {
            match self.http().send(call).await {
                Err(err) if err.status == Some(500) => tokio::time::sleep(pause).await,
                outcome => return outcome,
            }
        }
        self.http().send(call).await
    }

    /// See [`crate::backend::Engine::has_agents`].
    pub async fn has_agents(&self, image: &ImageId) -> Result<bool, EngineError> {
        let filters = json!({ "label": [labels::NAME], "ancestor": [image.as_str()] });
        Ok(wire::any_made_from(&self.list(&filters).await?, image))
    }

    async fn list(&self, filters: &Value) -> Result<Value, EngineError> {
        let path = format!("/containers/json?all=true&filters={}", query(&filters.to_string()));
        let call = Call::get("list containers", self.libpod(&path).await?);
        let answer = self.send_list(&call).await?.json(&call)?;
        match answer {
            Value::Array(_) | Value::Null => Ok(answer),
            _ => Err(call.unreadable("expected a list")),
        }
    }

    /// Inspects what the list does not tell: a health verdict (Podman 4.3 and later do tell it) and what a failing check
    /// printed, how often one that ended lately was restarted, and the live values of a container whose label was hashed
    /// with another key.
    async fn look_closer(
        &self,
        look: &Look,
        containers: &mut BTreeMap<ContainerName, ContainerState>,
    ) -> Result<(), EngineError> {
        let now = SystemTime::now();
        let wanted = to_inspect(look, containers, now);
        // First: each end that the inspection counts is in the events then, or the next observation finds it.
        let ended = recent::ended_lately(containers, now);
        let (inspected, past) = tokio::join!(self.inspect_listed(wanted), self.past_of(&ended));
        for (name, seen) in inspected? {
            match seen {
                Some(mut closer) => {
                    if ended.contains(&closer.id) {
                        closer.exits = recent::recent_exits(&closer, past.as_deref());
                    }
                    replace(containers, name, closer);
                }
                // Removed between the list and the inspection.
                None => {
                    containers.remove(&name);
                }
            }
        }
        Ok(())
    }

    async fn inspect_listed(
        &self,
        wanted: Vec<(ContainerName, ContainerId)>,
    ) -> Result<Vec<(ContainerName, Option<ContainerState>)>, EngineError> {
        let mut answers = stream::iter(wanted)
            .map(|(name, id)| async move {
                let seen = self.inspect(&id).await;
                (name, seen)
            })
            .buffer_unordered(INSPECTIONS);
        let mut inspected = Vec::new();
        while let Some((name, seen)) = answers.next().await {
            match seen {
                Ok(seen) => inspected.push((name, seen)),
                // What the list tells is all that can be told.
                Err(err) if is_of_a_lost_storage(&err) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(inspected)
    }

    /// The starts and ends within the last [`RecentExits::WITHIN`], in order. `None` where Podman cannot tell them: then its
    /// restart count has to do.
    async fn past_of(&self, ended: &[ContainerId]) -> Option<Vec<Past>> {
        if ended.is_empty() {
            return Some(Vec::new());
        }
        let filters = query(r#"{"type":["container"],"event":["died","start"]}"#);
        let since = RecentExits::WITHIN.as_secs();
        let path = self.libpod(&format!("/events?stream=false&since={since}s&filters={filters}")).await.ok()?;
        let call = Call::get("read Podman's latest events", path);
        match self.http().send(&call).await {
            Ok(answer) => Some(answer.body.split(|byte| *byte == b'\n').filter_map(wire::past).collect()),
            Err(err) => {
                tracing::debug!(error = %err, "cannot read Podman's latest events");
                None
            }
        }
    }

    /// See [`crate::backend::Engine::inspect`]. Any owner's label makes it [`Owner::Ours`], since no owner is given.
    pub async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        self.inspect_as(id.as_str()).await
    }

    /// See [`crate::backend::Engine::named`].
    pub async fn named(&self, name: &ContainerName) -> Result<Option<ContainerState>, EngineError> {
        self.inspect_as(name.as_str()).await
    }

    async fn inspect_as(&self, id: &str) -> Result<Option<ContainerState>, EngineError> {
        let path = self.libpod(&format!("/containers/{}/json", segment(id))).await?;
        let call = Call::get(format!("inspect container `{id}`"), path).of_one();
        let sent = past_an_end(|| self.http().send(&call)).await;
        let Some(answer) = unless_gone(sent)? else { return Ok(None) };
        match wire::inspected(&answer.json(&call)?) {
            Some((_, state)) => Ok(Some(state)),
            None => Err(call.unreadable("it names no container")),
        }
    }

    /// What an inspection tells of how a container is stopped.
    pub(super) async fn stoppable(&self, id: &ContainerId) -> Result<Option<Stoppable>, EngineError> {
        let path = self.container_path(id, "/json").await?;
        let call = Call::get(format!("inspect container `{id}`"), path).of_one();
        let sent = past_an_end(|| self.http().send(&call)).await;
        let Some(answer) = unless_gone(sent)? else { return Ok(None) };
        wire::stoppable(&answer.json(&call)?).map(Some).ok_or_else(|| call.unreadable("it names no container"))
    }

    /// What a list tells of these containers.
    pub(super) async fn listings(
        &self,
        ids: &BTreeSet<ContainerId>,
    ) -> Result<BTreeMap<ContainerId, Listing>, EngineError> {
        let filters = json!({ "id": ids.iter().map(ContainerId::as_str).collect::<Vec<_>>() }).to_string();
        let path = format!("/containers/json?all=true&filters={}", query(&filters));
        let call = Call::get("list containers", self.libpod(&path).await?);
        let answer = self.send_list(&call).await?.json(&call)?;
        match &answer {
            Value::Array(entries) => Ok(entries.iter().filter_map(wire::listing).collect()),
            Value::Null => Ok(BTreeMap::new()),
            _ => Err(call.unreadable("expected a list")),
        }
    }
}

/// Puts what an inspection tells in the place of what the list told, but for whose it is.
pub(super) fn replace(
    containers: &mut BTreeMap<ContainerName, ContainerState>,
    name: ContainerName,
    closer: ContainerState,
) {
    if let Some(listed) = containers.get_mut(&name) {
        let owner = listed.owner.clone();
        *listed = ContainerState { owner, ..closer };
    }
}

/// The containers of which a list does not tell enough.
pub(super) fn to_inspect(
    look: &Look,
    containers: &BTreeMap<ContainerName, ContainerState>,
    now: SystemTime,
) -> Vec<(ContainerName, ContainerId)> {
    let lacks_exits =
        |state: &ContainerState| matches!(state.owner, Owner::Ours { .. }) && recent::is_candidate(state, now);
    containers
        .iter()
        .filter(|(name, state)| {
            lacks_health(look, name, state)
                || lacks_check(look, name, state)
                || lacks_exits(state)
                || lacks_restarts(state)
                || lacks_key(look, state)
        })
        .map(|(name, state)| (name.clone(), state.id.clone()))
        .collect()
}

fn lacks_health(look: &Look, name: &ContainerName, state: &ContainerState) -> bool {
    state.phase == Phase::Running && state.health.is_none() && look.health.contains(name)
}

/// What a failing check printed, and how an image's own check is to be run, is told by an inspection alone.
fn lacks_check(look: &Look, name: &ContainerName, state: &ContainerState) -> bool {
    let ours = matches!(state.owner, Owner::Ours { .. });
    ours && state.phase == Phase::Running
        && match state.health {
            Some(Health::Unhealthy) => true,
            Some(Health::Starting) => !look.health.contains(name),
            _ => false,
        }
}

/// Whether one that may be restarted so many times has any left.
fn lacks_restarts(state: &ContainerState) -> bool {
    let has_failed = matches!(state.phase, Phase::Exited { code } if code != 0) && state.restarts.is_none();
    has_failed && matches!(&state.owner, Owner::Ours { spec: Some(spec), .. } if spec.limits_restarts())
}

fn lacks_key(look: &Look, state: &ContainerState) -> bool {
    matches!(&state.owner, Owner::Ours { spec: Some(spec), .. } if !spec.readable_with(&look.key))
}

/// One anchored pattern for all names; Podman matches it against the name without a slash.
fn names_filter(names: &[&ContainerName]) -> Value {
    if names.len() > NAMES_IN_A_FILTER {
        return json!({});
    }
    // A container name has no special character but the dot.
    let names = names.iter().map(|name| name.as_str().replace('.', "\\.")).collect::<Vec<_>>();
    json!({ "name": [format!("^({})$", names.join("|"))] })
}
