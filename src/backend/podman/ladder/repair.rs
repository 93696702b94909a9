//! Brings back Lima's own connection into a machine, over which it leads ports and Podman's socket.
//!
//! Once that is gone, Lima (2.1) asks for it in vain for ever. Any `limactl shell` recreates it. Lima asked for Podman's
//! socket at the boot and for each port when the guest began to listen there, and does so no more: so we ask. Where another
//! leads a port, that fails and harms nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use super::{Place, RouteFinder};
use crate::backend::{command, ssh};
use crate::model::{Protocol, Route};

/// Asking the master connection for something.
const ASK: Duration = Duration::from_secs(20);

/// Best effort: the next observation finds out whether it helped, and if not it is begun again.
pub(super) async fn repair(finder: Arc<RouteFinder>, place: Place) {
    finder.limactl.make_master(&finder.instance).await;
    if let Some(here) = &place.host
        && finder.try_route(Route::Forward, &place).await.is_err()
    {
        // While it boots, Lima removes the file before it asks for it itself, and ssh thinks that it has it already.
        ask(ssh::ask_master_to_drop(&place.ssh_config, &finder.instance, &place.guest, here)).await;
        // What the connection before it left would be in the way: whether to replace it is the option of whoever made this one
        // (`StreamLocalBindUnlink`), and Lima does not.
        if finder.state().place.as_ref() == Some(&place) && is_dead(here).await {
            let _ = tokio::fs::remove_file(here).await;
        }
        ask(ssh::ask_master_for(&place.ssh_config, &finder.instance, &place.guest, here)).await;
    }
    let ports = finder.state().ports.clone();
    for port in ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
        ask(ssh::ask_master(&place.ssh_config, &finder.instance, port)).await;
    }
    // Where nothing is forwarded, there is no better way to look for.
    if place.host.is_some() {
        finder.state().settled_at = None;
    }
}

/// Whether it is a socket on which nobody listens.
async fn is_dead(socket: &Path) -> bool {
    UnixStream::connect(socket).await.is_err_and(|err| err.kind() == std::io::ErrorKind::ConnectionRefused)
}

async fn ask(command: tokio::process::Command) {
    let _ = command::run(command, &[], ASK).await;
}
