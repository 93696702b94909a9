//! Volumes and networks, through Podman's API.

use serde_json::{Map, Value, json};

use super::api::Api;
use super::http::{Call, segment};
use super::lifecycle::unless_gone;
use super::wire;
use crate::backend::{EngineError, EngineErrorKind};
use crate::model::{MakeNetwork, MakeVolume, SharedState};

impl Api {
    /// See [`crate::backend::Engine::shared`].
    pub async fn shared(&self) -> Result<SharedState, EngineError> {
        let networks = Call::get("list networks", self.libpod("/networks/json").await?);
        let volumes = Call::get("list volumes", self.libpod("/volumes/json").await?);
        let (listed, found) = tokio::join!(self.send_list(&networks), self.send_list(&volumes));
        Ok(wire::shared(&listed?.json(&networks)?, &found?.json(&volumes)?))
    }

    /// See [`crate::backend::Engine::create_network`].
    pub async fn create_network(&self, make: &MakeNetwork) -> Result<(), EngineError> {
        let what = format!("create network `{}`", make.name);
        let call = Call::post(what, self.libpod("/networks/create").await?).json(&network(make));
        unless_there(self.http().send(&call).await.map(drop))
    }

    /// See [`crate::backend::Engine::create_volume`].
    pub async fn create_volume(&self, make: &MakeVolume) -> Result<(), EngineError> {
        let MakeVolume { name, spec, labels } = make;
        let mut body = json!({ "Name": name, "Labels": labels, "Options": spec.options });
        if let Some(driver) = &spec.driver {
            body["Driver"] = json!(driver);
        }
        let call = Call::post(format!("create volume `{name}`"), self.libpod("/volumes/create").await?).json(&body);
        unless_there(self.http().send(&call).await.map(drop))
    }

    /// See [`crate::backend::Engine::remove_network`].
    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        let path = self.libpod(&format!("/networks/{}", segment(name))).await?;
        unless_gone(self.http().send(&Call::delete(format!("remove network `{name}`"), path)).await).map(drop)
    }

    /// See [`crate::backend::Engine::remove_volume`].
    pub async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let path = self.libpod(&format!("/volumes/{}", segment(name))).await?;
        unless_gone(self.http().send(&Call::delete(format!("remove volume `{name}`"), path)).await).map(drop)
    }
}

/// A network as libpod takes it.
fn network(make: &MakeNetwork) -> Value {
    let MakeNetwork { name, spec, labels } = make;
    let mut body = Map::from_iter([
        ("name".to_owned(), json!(name)),
        ("driver".to_owned(), json!("bridge")),
        ("internal".to_owned(), json!(spec.internal)),
        ("dns_enabled".to_owned(), json!(spec.dns)),
        ("ipv6_enabled".to_owned(), json!(spec.ipv6)),
        ("labels".to_owned(), json!(labels)),
    ]);
    if let Some(subnet) = &spec.subnet {
        body.insert("subnets".to_owned(), json!([{ "subnet": subnet }]));
    }
    Value::Object(body)
}

/// One that is there already is what was asked for, as far as its name says.
pub(super) fn unless_there(made: Result<(), EngineError>) -> Result<(), EngineError> {
    match made {
        // 4.3 answers 500 for a volume, with these words.
        Err(err) if err.kind == EngineErrorKind::Conflict || err.message.contains("already exists") => Ok(()),
        outcome => outcome,
    }
}
