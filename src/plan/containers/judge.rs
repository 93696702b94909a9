//! Whether a container is what is wanted, but for its name and whether it runs.

use crate::model::redact::HIDDEN;
use crate::model::{
    Agent, CanonicalSpec, ContainerState, Desired, FieldChange, ImageRef, Owner, Port, PortRange, SPEC_VERSION,
};
use crate::plan::Reason;
use crate::plan::images::ImageFor;

/// What a comparison says.
pub(super) enum Judgement {
    /// It is as wanted.
    Same,
    /// It is not.
    Differs(Reason),
    /// It cannot be told.
    Unsure(String),
}

/// Whether a container is what is wanted, but for whether it runs.
pub(super) fn judge(desired: &Desired, agent: &Agent, container: &ContainerState, image: &ImageFor) -> Judgement {
    let Owner::Ours { spec, version, .. } = &container.owner else { return Judgement::Differs(Reason::Adopted) };
    let Some(spec) = spec else {
        return if *version > SPEC_VERSION {
            Judgement::Unsure(format!(
                "a newer steadfast made it (spec version {version}, this build knows {SPEC_VERSION})"
            ))
        } else {
            Judgement::Differs(Reason::SpecUnreadable)
        };
    };
    // What cannot be told now is taken to be as it was: not knowing is no reason to replace.
    let reference = match &image.reference {
        Ok(reference) => reference.clone(),
        Err(_) => match spec.image().and_then(|image| ImageRef::new(image).ok()) {
            Some(reference) => reference,
            None => return Judgement::Same,
        },
    };
    let mut changes = spec.changes(*version, &agent.container, &reference, &desired.key, container.live.as_ref());
    if !changes.iter().any(|change| change.field == "image") {
        changes.extend(image_change(container, spec, image));
    }
    ports_change(agent, container, &mut changes);
    if changes.is_empty() { Judgement::Same } else { Judgement::Differs(Reason::Changed(changes)) }
}

/// The same reference may come to mean another image: a tarball published anew, a tag built or pulled anew.
fn image_change(container: &ContainerState, spec: &CanonicalSpec, image: &ImageFor) -> Option<FieldChange> {
    let change =
        |from: String, to: String| FieldChange { field: "image.id".to_owned(), from: Some(from), to: Some(to) };
    match &image.image {
        Ok(wanted) if *wanted != container.image => {
            Some(change(container.image.short().to_owned(), wanted.short().to_owned()))
        }
        Ok(_) => None,
        Err(on) if on.is_blocked() => None,
        Err(_) => match (spec.artifact, image.artifact) {
            (Some(from), Some(to)) if from != to => Some(FieldChange {
                field: "artifact.sha256".to_owned(),
                from: Some(from.to_string()[..12].to_owned()),
                to: Some(to.to_string()[..12].to_owned()),
            }),
            _ => None,
        },
    }
}

/// Published ports can be told from an observation, so a container that has others is seen whatever its label says. Where it has
/// none that says nothing: on a host network Podman drops them without a word.
fn ports_change(agent: &Agent, container: &ContainerState, changes: &mut Vec<FieldChange>) {
    if container.ports.is_empty() || changes.iter().any(|change| change.field == "container.ports") {
        return;
    }
    // One that is hidden now was to be hidden before.
    let hidden = !agent.container.hidden_ports.is_empty();
    let shown = |ports: &[PortRange]| {
        if hidden {
            return Some(HIDDEN.to_owned());
        }
        (!ports.is_empty())
            .then(|| format!("[{}]", ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
    };
    let from = PortRange::merged(container.ports.iter().cloned());
    let to =
        PortRange::merged(agent.container.ports.iter().map(|port| PortRange::from(chosen(port, &container.ports))));
    if from != to {
        changes.push(FieldChange { field: "container.ports".to_owned(), from: shown(&from), to: shown(&to) });
    }
}

/// A wanted port with the host port that Podman chose for it, where it was to choose.
fn chosen(wanted: &Port, there: &[PortRange]) -> Port {
    let chosen = there.iter().filter(|_| wanted.host_port == 0).find_map(|range| range.host_port_of(wanted));
    Port { host_port: chosen.unwrap_or(wanted.host_port), ..wanted.clone() }
}
