//! From the `rollout:` mapping of an agent to how its container is replaced, and what speaks against that.

use std::time::Duration;

use super::decode::{At, Cx, Path};
use super::document::RolloutDoc;
use crate::model::spec::{MountSource, NetworkMode};
use crate::model::{ContainerSpec, Mount, Rollout, RolloutStrategy};

/// Resolves how the container of an agent is replaced. `agent` is the agent's own path.
pub(super) fn resolve(
    cx: &mut Cx<'_>,
    doc: Option<At<RolloutDoc>>,
    container: Option<&ContainerSpec>,
    agent: Path<'_>,
) -> Rollout {
    let Some(At { value: RolloutDoc { strategy, health_timeout, settle, rollback }, .. }) = doc else {
        return Rollout::default();
    };
    let path = agent.key("rollout");
    if let Some(time) = &health_timeout
        && time.value.0 < Duration::from_millis(1)
    {
        cx.wrong(time.node, path.key("healthTimeout"), "the time to become healthy must be at least 1ms");
    }
    if let (Some(at), Some(container)) = (&strategy, container)
        && at.value.0 == RolloutStrategy::Overlap
        && let Some(why) = cannot_overlap(container)
    {
        let help = "write `strategy: replace`, which stops the old container first";
        cx.wrong_help(
            at.node,
            path.key("strategy"),
            format!("both containers run for a while with `overlap`, and {why}"),
            help,
        );
    }
    Rollout {
        strategy: strategy.map(|strategy| strategy.value.0).unwrap_or_default(),
        health_timeout: health_timeout.map(|time| time.value.0),
        settle: settle.map_or(Rollout::SETTLE, |time| time.value.0),
        rollback: rollback.is_none_or(|flag| flag.value.0),
    }
}

/// What two containers of an agent cannot have at the same time.
fn cannot_overlap(container: &ContainerSpec) -> Option<String> {
    // One that Podman chooses is another each time.
    if let Some(port) = container.ports.iter().find(|port| port.host_port != 0) {
        return Some(format!("host port {} can only be published by one of them", container.shown_port(port)));
    }
    match &container.network.mode {
        NetworkMode::Host => {
            return Some("on the network of Podman's machine both would listen on the same ports".to_owned());
        }
        NetworkMode::Networks(networks) => {
            if let Some((name, _)) = networks.iter().find(|(_, attachment)| attachment.ip.is_some()) {
                return Some(format!("only one of them can have the address on network `{name}`"));
            }
        }
        NetworkMode::Usual | NetworkMode::None => {}
    }
    let is_shared = |mount: &&Mount| !mount.read_only && !matches!(mount.source, MountSource::Tmpfs { .. });
    let mount = container.mounts.iter().find(is_shared)?;
    Some(match mount.target.is_sensitive() {
        true => "both would write to one of its mounts, which is not `readOnly`".to_owned(),
        false => format!("both would write to what is mounted at `{}`, which is not `readOnly`", mount.target.expose()),
    })
}
