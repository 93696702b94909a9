//! How Podman's JSON is read: list, inspect, images and events, leniently.
//!
//! A field that is missing, null or of another type than expected counts as not told; a word that is not known becomes
//! `Other`. So an answer of an older or newer Podman (4.3 to 5.x seen) costs at most a detail, never the whole observation.

mod fields;

use fields::*;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::stop::{Listing, Stoppable};
use crate::backend::{EngineEvent, EventKind, ImageFacts, Look};
use crate::model::ids::clean;
use crate::model::labels::{self, Labels};
use crate::model::{
    AgentName, CanonicalSpec, ContainerId, ContainerName, ContainerState, ImageId, ImageRef, ImageState, Images,
    NetworkState, Owner, Ownership, SharedState, VolumeState, Whose,
};

/// The networks of `GET /libpod/networks/json` (or `podman network ls --format json`), and the volumes of
/// `GET /libpod/volumes/json` (or `podman volume ls --format json`).
pub(super) fn shared(networks: &Value, volumes: &Value) -> SharedState {
    let entries = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let flag = |of: &Value, field: &str| of.get(field).and_then(Value::as_bool).unwrap_or_default();
    let networks = entries(networks).into_iter().filter_map(|entry| {
        let subnets = entry.get("subnets").and_then(Value::as_array).into_iter().flatten();
        let state = NetworkState {
            labels: texts(entry.get("labels")),
            internal: flag(&entry, "internal"),
            ipv6: flag(&entry, "ipv6_enabled"),
            dns: flag(&entry, "dns_enabled"),
            subnets: subnets.filter_map(|subnet| text(subnet, "subnet").map(str::to_owned)).collect(),
        };
        Some((text(&entry, "name")?.to_owned(), state))
    });
    let volumes = entries(volumes).into_iter().filter_map(|entry| {
        let state = VolumeState {
            labels: texts(entry.get("Labels")),
            driver: text(&entry, "Driver").unwrap_or_default().to_owned(),
            options: texts(entry.get("Options")),
        };
        Some((text(&entry, "Name")?.to_owned(), state))
    });
    SharedState { networks: networks.collect(), volumes: volumes.collect() }
}

/// A mapping of texts; what else is in it counts as not told.
fn texts(of: Option<&Value>) -> BTreeMap<String, String> {
    let entries = of.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// What a list of images tells of their labels.
#[derive(Debug, Default)]
pub(super) struct ImageLabels(BTreeMap<ImageId, Labels>);

impl ImageLabels {
    /// From `GET /libpod/images/json`, or `podman images --format json`.
    pub(super) fn of(answer: &Value) -> Self {
        let labelled = answer.as_array().into_iter().flatten().filter_map(|image| {
            let labels = image.get("Labels").and_then(Value::as_object).into_iter().flatten();
            let ours = labels.filter(|(name, _)| name.starts_with(labels::PREFIX));
            let ours = ours.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
            Some((ImageId::from(text(image, "Id")?), ours.collect()))
        });
        Self(labelled.collect())
    }

    /// Whether it does not tell of an image that a container with the owner's labels was made from. Podman leaves those out
    /// of the usual list that have no name and other images upon them (4.3).
    pub(super) fn lack_any_of(&self, containers: &Value, owner: &Ownership) -> bool {
        containers.as_array().into_iter().flatten().any(|entry| {
            owner.may_own(|name| entry.get("Labels").and_then(|labels| text(labels, name)))
                && text(entry, "ImageID").is_some_and(|image| !self.0.contains_key(&ImageId::from(image)))
        })
    }
}

/// The containers of `GET /libpod/containers/json`, or of `podman ps --format json`, each with its owner.
pub(super) fn containers(answer: &Value, look: &Look, images: &ImageLabels) -> BTreeMap<ContainerName, ContainerState> {
    let entries = || answer.as_array().into_iter().flatten();
    // In a list of seconds the one that has the name of an agent is the first.
    let twins = labels::later_twins(entries().map(|entry| {
        let id = entry.get("Labels").and_then(|labels| text(labels, labels::ID)).or(text(entry, "Id"));
        let is_named = listed_name(entry).is_some_and(|name| look.names.contains(&name));
        (id.unwrap_or_default(), (time(entry.get("Created")), !is_named))
    }));
    let seen = entries().enumerate().filter_map(|(place, entry)| {
        let (name, mut state) = listed(entry, look, images)?;
        if twins.contains(&place) && matches!(state.owner, Owner::Ours { .. }) {
            state.owner = Owner::Foreign(Whose::Copy);
        }
        Some((name, state))
    });
    seen.collect()
}

/// What is free of the disk that `GET /libpod/info`, or `podman info --format json`, tells of (Podman 4.0 and later do).
pub(super) fn room(answer: &Value) -> Option<u64> {
    let told = |field: &str| answer.get("store")?.get(field)?.as_u64();
    Some(told("graphRootAllocated")?.saturating_sub(told("graphRootUsed")?))
}

/// Whether a listed container is made from this very image: the filter lets those of images made upon it through, too.
pub(super) fn any_made_from(answer: &Value, image: &ImageId) -> bool {
    answer.as_array().into_iter().flatten().any(|entry| text(entry, "ImageID") == Some(image.as_str()))
}

fn listed_name(entry: &Value) -> Option<ContainerName> {
    let names = entry.get("Names").and_then(Value::as_array)?;
    names.iter().find_map(|name| container_name(name.as_str()?))
}

/// One entry of `GET /libpod/containers/json`. `None` when it has no id.
pub(super) fn listed(entry: &Value, look: &Look, images: &ImageLabels) -> Option<(ContainerName, ContainerState)> {
    let id = ContainerId::new(text(entry, "Id")?).ok()?;
    let name = listed_name(entry).or_else(|| container_name(id.as_str().get(..12)?))?;
    let image = ImageId::from(text(entry, "ImageID").unwrap_or_default());
    let label = |name: &str| entry.get("Labels").and_then(|labels| text(labels, name));
    let ended = time(entry.get("ExitedAt"));
    let phase = phase(text(entry, "State").unwrap_or_default(), int(entry, "ExitCode"), ended);
    let state = ContainerState {
        owner: look.owner.owner(label, images.0.get(&image), look.names.contains(&name), &look.key),
        image,
        image_name: text(entry, "Image").unwrap_or_default().to_owned(),
        pid: pid(entry, &phase),
        started_at: time(entry.get("StartedAt")),
        ended_at: ended,
        // What has never ended was never restarted; of all else Podman 4.3's list does not tell.
        restarts: int(entry, "Restarts")
            .and_then(|count| u32::try_from(count).ok())
            .or_else(|| (ended.is_none() && entry.get("ExitedAt").is_some_and(|told| !told.is_null())).then_some(0)),
        ports: listed_ports(entry.get("Ports")),
        restart: None,
        resources: None,
        health: listed_health(entry, &phase),
        checked_at: None,
        last_check: None,
        check: None,
        exits: None,
        live: None,
        id,
        phase,
    };
    Some((name, state))
}

/// `GET /libpod/containers/<id>/json`. Any owner's labels make it [`Owner::Ours`]: whose it is, the list tells.
pub(super) fn inspected(answer: &Value) -> Option<(ContainerName, ContainerState)> {
    let empty = Value::Null;
    let part = |name: &str| answer.get(name).unwrap_or(&empty);
    let (state, config, host) = (part("State"), part("Config"), part("HostConfig"));
    let id = ContainerId::new(text(answer, "Id")?).ok()?;
    let name = container_name(text(answer, "Name")?)?;
    let ended = time(state.get("FinishedAt"));
    let phase = phase(text(state, "Status").unwrap_or_default(), int(state, "ExitCode"), ended);
    let last_run = ["Health", "Healthcheck"].iter().find_map(|field| last_run(state.get(*field)?));
    let container = ContainerState {
        owner: labelled(config.get("Labels")),
        image: ImageId::from(text(answer, "Image").unwrap_or_default()),
        image_name: text(answer, "ImageName").or_else(|| text(config, "Image")).unwrap_or_default().to_owned(),
        pid: pid(state, &phase),
        started_at: time(state.get("StartedAt")),
        ended_at: ended,
        restarts: int(answer, "RestartCount").and_then(|count| u32::try_from(count).ok()),
        ports: inspected_ports(host.get("PortBindings")),
        restart: host
            .get("RestartPolicy")
            .and_then(|policy| text(policy, "Name"))
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        resources: Some(resources(host)),
        // Podman 4.3 tells a check that does not exist as one with an empty status; Podman 3 wrote `Healthcheck`.
        health: ["Health", "Healthcheck"].iter().find_map(|field| health(text(state.get(*field)?, "Status")?)),
        checked_at: last_run.and_then(|run| time(run.get("Start"))),
        last_check: last_run.and_then(check_result),
        check: config.get("Healthcheck").and_then(health_check),
        exits: None,
        live: Some(live(answer, config, host)),
        id,
        phase,
    };
    Some((name, container))
}

/// `GET /libpod/images/<name>/json`, or `podman image inspect`.
pub(super) fn image_facts(answer: &Value) -> ImageFacts {
    let word = |field: &str| text(answer, field).unwrap_or_default().to_ascii_lowercase();
    let declared = answer.get("Config").and_then(|config| config.get("Volumes")).and_then(Value::as_object);
    ImageFacts {
        os: word("Os"),
        arch: word("Architecture"),
        volumes: declared.into_iter().flat_map(|volumes| volumes.keys().cloned()).collect(),
    }
}

/// Nobody waits longer for a container to stop, and what is added to the clock must not overflow it.
const LONGEST_STOP: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What an inspection tells of how a container is stopped: `StopSignal` is a number before Podman 5, and a name since.
pub(super) fn stoppable(answer: &Value) -> Option<Stoppable> {
    let (_, state) = inspected(answer)?;
    let config = answer.get("Config").unwrap_or(&Value::Null);
    let number = || int(config, "StopSignal").map(|number| number.to_string());
    let signal = text(config, "StopSignal").map(str::to_owned).or_else(number).unwrap_or_default();
    let signal = if matches!(signal.as_str(), "" | "0") { "TERM".to_owned() } else { signal };
    let seconds = int(config, "StopTimeout").and_then(|seconds| u64::try_from(seconds).ok());
    Some(Stoppable { state, signal, timeout: seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_STOP)) })
}

/// What an entry of a list tells of a container that is to end.
pub(super) fn listing(entry: &Value) -> Option<(ContainerId, Listing)> {
    let id = ContainerId::new(text(entry, "Id")?).ok()?;
    let phase = phase(text(entry, "State").unwrap_or_default(), int(entry, "ExitCode"), time(entry.get("ExitedAt")));
    let pid = pid(entry, &phase);
    Some((id, Listing { phase, pid }))
}

/// `GET /libpod/images/json`, or `podman images --format json`. Digests are looked up by, and are no tags: Podman derives
/// one from every name.
pub(super) fn images(answer: &Value) -> Images {
    let mut images = Images::default();
    for image in answer.as_array().into_iter().flatten() {
        let Some(id) = text(image, "Id").map(ImageId::from) else { continue };
        let names = ["RepoTags", "RepoDigests", "Names"].into_iter().flat_map(|field| strings(image.get(field)));
        let names: Vec<_> =
            names.filter(|name| !name.contains("<none>")).filter_map(|name| ImageRef::new(name).ok()).collect();
        let state = ImageState {
            size: int(image, "Size").and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            tags: names.iter().filter(|name| !name.is_digest()).cloned().collect(),
            containers: int(image, "Containers").and_then(|count| u64::try_from(count).ok()),
        };
        images.names.extend(names.into_iter().map(|name| (name, id.clone())));
        images.store.insert(id, state);
    }
    images
}

/// One line of `GET /libpod/events`, or of `podman events --format json`, which has other names for the same. `None` when it
/// is malformed or not the owner's business.
pub(super) fn event(line: &[u8], owner: &Ownership) -> Option<EngineEvent> {
    let event: Value = serde_json::from_slice(line).ok()?;
    let kind = event_kind(event_word(&event)?);
    let attributes = event.get("Actor").unwrap_or(&event).get("Attributes");
    match text(&event, "Type")? {
        "container" => {
            let attributes = attributes?;
            if !owner.may_own(|name| text(attributes, name)) {
                return None;
            }
            // 4.3: `containerExitCode`; `exitCode` is Docker's.
            let code = ["containerExitCode", "exitCode"].iter().find_map(|name| int(attributes, name));
            let code = code.or_else(|| int(&event, "ContainerExitCode"));
            let exit_code = code.and_then(|code| i32::try_from(code).ok());
            let name = text(attributes, "name").or_else(|| text(&event, "Name"));
            Some(EngineEvent { kind, container: name.map(str::to_owned), exit_code })
        }
        "image" => Some(EngineEvent { kind, container: None, exit_code: None }),
        _ => None,
    }
}

/// What happened, in Podman's word: the API and the command line have other names for the field.
fn event_word(event: &Value) -> Option<&str> {
    ["Action", "status", "Status"].iter().find_map(|name| text(event, name))
}

/// What Podman's word for an event means. An end is `died` to some versions and `die` to others; `exec_died` is one of a command,
/// and `health_status: healthy` one of a check.
pub(crate) fn event_kind(word: &str) -> EventKind {
    const QUIET: [&str; 8] = ["exec", "health_status", "attach", "detach", "mount", "unmount", "export", "save"];
    match word {
        "start" => EventKind::Started,
        "die" | "died" => EventKind::Died,
        word if QUIET.iter().any(|quiet| word.starts_with(quiet)) => EventKind::Quiet,
        word => EventKind::Other(clean(word, WORD)),
    }
}

/// A start or an end that Podman tells of afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Past {
    pub id: ContainerId,
    pub at: SystemTime,
    /// `Some` for an end, with its exit code where that is told.
    pub ended: Option<Option<i32>>,
}

/// One line of `GET /libpod/events?stream=false`, or of `podman events --stream=false --format json`: a start or an end of
/// a container. `None` for all else.
pub(super) fn past(line: &[u8]) -> Option<Past> {
    let event: Value = serde_json::from_slice(line).ok()?;
    let ended = match event_kind(event_word(&event)?) {
        EventKind::Started => None,
        EventKind::Died => {
            let attributes = event.get("Actor").unwrap_or(&event).get("Attributes");
            let told = attributes.and_then(|told| int(told, "containerExitCode").or_else(|| int(told, "exitCode")));
            let code = told.or_else(|| int(&event, "ContainerExitCode"));
            Some(code.and_then(|code| i32::try_from(code).ok()))
        }
        EventKind::Quiet | EventKind::Other(_) => return None,
    };
    let id = event.get("Actor").and_then(|actor| text(actor, "ID")).or_else(|| text(&event, "ID"))?;
    let exact = int(&event, "timeNano").and_then(|nanoseconds| u64::try_from(nanoseconds).ok());
    let exact = exact.and_then(|exact| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(exact)));
    let at = exact.or_else(|| time(event.get("Time"))).or_else(|| time(event.get("time")))?;
    Some(Past { id: ContainerId::new(id).ok()?, at, ended })
}

fn container_name(text: &str) -> Option<ContainerName> {
    ContainerName::new(text.trim_start_matches('/')).ok()
}

fn labelled(found: Option<&Value>) -> Owner {
    let label = |name: &str| found.and_then(|found| text(found, name));
    if label(labels::NAME).is_none() {
        return Owner::Foreign(Whose::Somebody);
    }
    Owner::Ours {
        agent: label(labels::AGENT).and_then(|name| AgentName::new(name).ok()),
        spec: label(labels::SPEC).and_then(CanonicalSpec::from_label),
        version: label(labels::SPEC_VERSION).and_then(|version| version.parse().ok()).unwrap_or(0),
    }
}
