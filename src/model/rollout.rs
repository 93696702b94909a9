//! How a container is replaced: in which order, and what its successor has to show before its predecessor goes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::canonical::{CanonicalSpec, HostKey, SPEC_VERSION};
use super::desired::Agent;
use super::failure::FailureKind;
use super::ids::{AgentName, ImageId, ImageRef, Sha256Digest};
use super::spec::{Create, HealthCheck};
use crate::words::Word;

/// How an agent's container is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Which of the two runs when.
    pub strategy: RolloutStrategy,
    /// How long a successor may take to become healthy; `None`: [`Rollout::HEALTH_TIMEOUT`], or as long as its check takes to say no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_timeout: Option<Duration>,
    /// How long it must stay up, and healthy, before its predecessor goes. Default 10 s.
    pub settle: Duration,
    /// Whether its predecessor comes back where it fails. Default yes.
    pub rollback: bool,
}

/// Which of a container and its successor runs when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RolloutStrategy {
    /// The predecessor stops before its successor starts: the two never run at once.
    #[default]
    Replace,
    /// The successor has proved itself before its predecessor stops: one of the two runs at every moment.
    Overlap,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { strategy: RolloutStrategy::default(), health_timeout: None, settle: Self::SETTLE, rollback: true }
    }
}

impl Rollout {
    /// How long a successor may take to become healthy, where the state file does not say.
    pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);
    /// How long it must stay up, where the state file does not say.
    pub const SETTLE: Duration = Duration::from_secs(10);

    /// How long a successor with this check may take to become healthy. One whose own check takes longer to say no is heard out.
    pub fn time_for(&self, check: &HealthCheck) -> Duration {
        let HealthCheck { interval, timeout, retries, start_period, .. } = check;
        let verdict = interval.saturating_add(*timeout).saturating_mul(*retries).saturating_add(*start_period);
        self.health_timeout.unwrap_or_else(|| Self::HEALTH_TIMEOUT.max(verdict))
    }
}

/// What is remembered of agents: what they must not become again, and what they were.
pub type Rollouts = BTreeMap<AgentName, Remembered>;

/// What is remembered of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// What failed in the place of what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Quarantined>,
    /// The versions that have proved themselves, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub good: Vec<Good>,
}

impl Remembered {
    /// So many versions are remembered.
    const MOST_GOOD: usize = 10;

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.quarantined.is_none() && self.good.is_empty()
    }

    /// A version has proved itself. Yields whether that is news.
    pub fn proved(&mut self, good: Good) -> bool {
        if self.good.contains(&good) {
            return false;
        }
        self.good.retain(|one| one.version != good.version);
        self.good.push(good);
        self.good.drain(..self.good.len().saturating_sub(Self::MOST_GOOD));
        true
    }
}

/// A version that an agent ran at, and was well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Good {
    /// Its tag, or its digest.
    pub version: String,
    /// The image.
    pub image: ImageId,
    /// The tarball that the image came from, if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Sha256Digest>,
}

/// What an agent was to become, and failed: it is not tried again until something else is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// What its container was made to be.
    spec: CanonicalSpec,
    /// The version of that.
    spec_version: u32,
    /// The image it was made from, where that is known.
    image: Option<ImageId>,
    /// What it had to show.
    rollout: Rollout,
    /// When it failed (RFC 3339).
    pub since: String,
    /// What kind of failure it was.
    pub kind: Word<FailureKind>,
    /// That in a sentence, without its log: the journal has that.
    pub message: String,
}

impl Quarantined {
    /// Of what was made from `create`, and failed so.
    pub fn new(create: &Create, rollout: Rollout, since: String, kind: FailureKind, message: String) -> Option<Self> {
        let spec = CanonicalSpec::from_label(create.spec_label())?;
        let (image, kind) = (create.image_id.clone(), Word::Known(kind));
        Some(Self { spec, spec_version: SPEC_VERSION, image, rollout, since, kind, message })
    }

    /// The name of the image that failed.
    pub fn image_name(&self) -> Option<&str> {
        self.spec.image()
    }

    /// Whether the state file still says of the agent what failed.
    pub fn is_said(&self, agent: &Agent, image: &ImageRef, key: &HostKey) -> bool {
        self.rollout == agent.rollout
            && self.spec.changes(self.spec_version, &agent.container, image, key, None).is_empty()
    }

    /// Whether this image is the one that failed. What cannot be told is taken for it.
    pub fn is_of(&self, image: Option<&ImageId>, artifact: Option<Sha256Digest>) -> bool {
        match (&self.image, image, self.spec.artifact, artifact) {
            (Some(failed), Some(image), _, _) => failed == image,
            (_, _, Some(failed), Some(artifact)) => failed == artifact,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HealthTest;

    #[test]
    fn a_slow_check_is_heard_out_unless_the_file_says_otherwise() {
        let seconds = Duration::from_secs;
        let check = |start_period| HealthCheck {
            test: HealthTest::Command(Vec::new()),
            interval: seconds(5),
            timeout: seconds(1),
            retries: 3,
            start_period,
            start_interval: None,
            on_failure: Default::default(),
        };
        let rollout = Rollout::default();
        assert_eq!(rollout.time_for(&check(seconds(0))), seconds(60));
        assert_eq!(rollout.time_for(&check(seconds(300))), seconds(318));
        let told = Rollout { health_timeout: Some(seconds(7)), ..rollout };
        assert_eq!(told.time_for(&check(seconds(300))), seconds(7));
    }
}
