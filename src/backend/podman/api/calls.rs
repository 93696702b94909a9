//! The single calls of the API that starts, stops and removals are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};

use super::Api;
use super::{AFTER_GRACE, ALREADY_SO, SIGNAL, START};
use crate::backend::EngineError;
use crate::backend::podman::address::Machine;
use crate::backend::podman::http::{Call, query};
use crate::backend::podman::lifecycle::{Lifecycle, Started};
use crate::backend::podman::stop::{Listing, Stoppable, Stops};
use crate::model::{ContainerId, ContainerState};

impl Lifecycle for Api {
    async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        Api::inspect(self, id).await
    }

    async fn start_once(&self, id: &ContainerId) -> Result<Started, EngineError> {
        let path = self.container_path(id, "/start").await?;
        let call = Call::post(format!("start container `{id}`"), path).within(START);
        let status = self.http.send(&call).await?.status;
        Ok(if status == ALREADY_SO { Started::AlreadySo } else { Started::Now })
    }

    async fn stoppable(&self, id: &ContainerId) -> Result<Option<Stoppable>, EngineError> {
        Api::stoppable(self, id).await
    }

    async fn list(&self, ids: &BTreeSet<ContainerId>) -> Result<BTreeMap<ContainerId, Listing>, EngineError> {
        self.listings(ids).await
    }

    async fn signal(&self, id: &ContainerId, signal: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{id}/kill?signal={}", query(signal));
        let call = Call::post(format!("signal container `{id}`"), path).within(SIGNAL);
        let options = || Some(KillContainerOptionsBuilder::new().signal(signal).build());
        self.typed(&call, |docker: Docker| async move { docker.kill_container(id.as_str(), options()).await }).await
    }

    async fn process(&self, pid: u32) -> Option<String> {
        let file = format!("/proc/{pid}/status");
        if self.machine == Machine::Here { std::fs::read_to_string(file).ok() } else { None }
    }

    async fn version(&self) -> Result<String, EngineError> {
        Ok(self.server().await?.version.clone())
    }

    fn stops(&self) -> &Stops {
        &self.stops
    }

    async fn stop_once(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let call = Call::post(format!("stop container `{id}`"), format!("/containers/{id}/stop?t={seconds}"))
            .within(grace.saturating_add(AFTER_GRACE));
        let options = || Some(StopContainerOptionsBuilder::new().t(seconds).build());
        self.typed(&call, |docker: Docker| async move { docker.stop_container(id.as_str(), options()).await }).await
    }

    async fn init(&self, id: &ContainerId) -> Result<(), EngineError> {
        let path = self.container_path(id, "/init").await?;
        let call = Call::post(format!("make container `{id}` ready for a start"), path).within(START);
        self.http.send(&call).await.map(|_| ())
    }

    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        Api::unpause(self, id).await
    }

    async fn remove_by_force(&self, id: &ContainerId) -> Result<(), EngineError> {
        let path = format!("/containers/{id}?force=true&v=false");
        let call = Call::delete(format!("remove container `{id}`"), path).within(AFTER_GRACE);
        let options = || Some(RemoveContainerOptionsBuilder::new().force(true).v(false).build());
        self.typed(&call, |docker: Docker| async move { docker.remove_container(id.as_str(), options()).await }).await
    }

    /// Its pid is there, no zombie, and in this container's control group. On another machine, or without control groups,
    /// there is no telling.
    fn surely_alive(&self, state: &ContainerState) -> bool {
        let (Machine::Here, Some(pid)) = (self.machine, state.pid) else { return false };
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let dead = read("stat").rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
        !dead && read("cgroup").contains(state.id.as_str())
    }
}
