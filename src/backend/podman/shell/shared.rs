//! Volumes and networks, through Podman's command line.

use super::Shell;
use crate::backend::EngineError;
use crate::backend::podman::answer;
use crate::backend::podman::error::About;
use crate::backend::podman::lifecycle::unless_gone;
use crate::backend::podman::shared::unless_there;
use crate::backend::podman::wire;
use crate::model::{MakeNetwork, MakeVolume, SharedState};

/// Each prints one JSON value.
const LOOK: &str = "podman network ls --format json && podman volume ls --format json";

impl Shell {
    /// See [`crate::backend::Engine::shared`].
    pub async fn shared(&self) -> Result<SharedState, EngineError> {
        let call = self.script("list networks and volumes", About::Other, "podman network ls", LOOK, &[]);
        let answer = self.run_again(&call).await?;
        let mut values = answer::values(&answer).map_err(|why| call.unreadable(&why))?;
        match (values.next(), values.next()) {
            (Some(networks), Some(volumes)) => Ok(wire::shared(&networks, &volumes)),
            _ => Err(call.unreadable("expected two lists")),
        }
    }

    /// See [`crate::backend::Engine::create_network`].
    pub async fn create_network(&self, make: &MakeNetwork) -> Result<(), EngineError> {
        let MakeNetwork { name, spec, labels } = make;
        let mut words = vec!["network".to_owned(), "create".to_owned()];
        for (label, value) in labels {
            words.extend(["--label".to_owned(), format!("{label}={value}")]);
        }
        words.extend(spec.internal.then(|| "--internal".to_owned()));
        words.extend((!spec.dns).then(|| "--disable-dns".to_owned()));
        words.extend(spec.ipv6.then(|| "--ipv6".to_owned()));
        words.extend(spec.subnet.iter().flat_map(|subnet| ["--subnet".to_owned(), subnet.clone()]));
        words.extend(["--".to_owned(), name.clone()]);
        let call = self.podman(format!("create network `{name}`"), About::Other, words);
        unless_there(self.run(&call).await.map(drop))
    }

    /// See [`crate::backend::Engine::create_volume`].
    pub async fn create_volume(&self, make: &MakeVolume) -> Result<(), EngineError> {
        let MakeVolume { name, spec, labels } = make;
        let mut words = vec!["volume".to_owned(), "create".to_owned()];
        for (label, value) in labels {
            words.extend(["--label".to_owned(), format!("{label}={value}")]);
        }
        words.extend(spec.driver.iter().flat_map(|driver| ["--driver".to_owned(), driver.clone()]));
        for (option, value) in &spec.options {
            words.extend(["--opt".to_owned(), format!("{option}={value}")]);
        }
        words.extend(["--".to_owned(), name.clone()]);
        let call = self.podman(format!("create volume `{name}`"), About::Other, words);
        unless_there(self.run(&call).await.map(drop))
    }

    /// See [`crate::backend::Engine::remove_network`].
    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        let words = ["network", "rm", "--", name];
        unless_gone(self.run(&self.podman(format!("remove network `{name}`"), About::Network, words)).await).map(drop)
    }

    /// See [`crate::backend::Engine::remove_volume`].
    pub async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let words = ["volume", "rm", "--", name];
        unless_gone(self.run(&self.podman(format!("remove volume `{name}`"), About::Volume, words)).await).map(drop)
    }
}
