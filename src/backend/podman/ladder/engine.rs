//! What is asked of the engine, handed on to the way in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{ANSWER, Ladder, Link, Place};
use crate::backend::podman::hand_on::hand_on;
use crate::backend::podman::{Podman, ending};
use crate::backend::{
    ByteStream, Chunks, ContainerExits, Engine, EngineError, EngineErrorKind, EngineMachine, Events, Exec, ExecRequest,
    ImageFacts, LogLines, LogRequest, Look, Progress, Routing, TermSize, lima,
};
use crate::model::{
    ContainerId, ContainerName, ContainerState, Create, Guest, ImageId, ImageRef, Images, MakeNetwork, MakeVolume,
    Ownership, Reach, Route, SharedState, VmMount, VmPhase, VmState,
};

/// How long a command that is about to end waits for the repair of Lima's connection.
const FINISH: Duration = Duration::from_secs(20);
/// The only kind of mount through which a guest reads faster than it is sent bytes: it shares memory with the host.
/// reverse-sshfs encrypts them just the same, and asks for each piece (measured: `benches/lima.sh`).
const VIRTIOFS: &str = "virtiofs";
/// Where our template has Podman's socket forwarded to, below the instance's directory.
const SOCKET_HERE: &str = "sock/podman.sock";
/// Where Podman's rootful socket is in a guest whose template does not say so.
const USUAL_SOCKET: &str = "/run/podman/podman.sock";

/// Hands a call on to the way in use.
macro_rules! through {
    ($self:ident, $call:ident($($arg:expr),*)) => {{
        let link = $self.link().await?;
        let outcome = link.podman.$call($($arg),*).await;
        $self.0.mind(&link, &outcome);
        outcome
    }};
}

impl Routing for Ladder {
    fn locate(&self, vm: Option<&VmState>) {
        let place = vm.filter(|vm| vm.phase == VmPhase::Running).map(|vm| Place {
            guest: vm.socket.as_ref().map_or_else(|| USUAL_SOCKET.to_owned(), |socket| socket.guest.clone()),
            host: vm.socket.as_ref().map(|socket| socket.host.clone()),
            dir: vm.dir.clone(),
            ssh_config: vm.ssh_config.clone(),
            host_agent: vm.host_agent,
            ssh_port: vm.ssh_port,
            mounts: vm.mounts.clone(),
        });
        let mut state = self.0.state();
        let ahead = state.ahead.take();
        state.ports = vm.map(|vm| vm.forwards.clone()).unwrap_or_default();
        if state.place != place {
            if place.is_some() {
                state.failed_boots += u32::from(state.booted);
                state.booted = true;
            }
            state.place = place;
            state.link = None;
            state.search = None;
            state.silent_since = None;
        }
        // What was found ahead has answered: it is the best way, when it is this machine's.
        if let (None, Some((socket, podman)), Some(place)) = (&state.link, ahead, state.place.clone())
            && place.host.as_ref() == Some(&socket)
        {
            state.counts[Route::Forward as usize] += 1;
            state.use_route(Link { podman, route: Route::Forward, _ssh: None });
        }
    }

    /// Through the best way alone; a lower one is for [`Engine::look`], which also tries to leave it. Where no observation has said yet
    /// whose the machine is, its files do.
    async fn look_ahead(&self, look: &Look, dir: &Path) -> Option<Guest> {
        let link = {
            let mut state = self.0.state();
            state.ahead = None;
            state.link.clone()
        };
        if let Some(link) = link {
            return if link.route.is_low() { None } else { link.podman.look(look).await.ok() };
        }
        let socket = dir.join(SOCKET_HERE);
        let is_ours = || {
            lima::whose(dir).is_some_and(|(name, root)| {
                name == look.owner.name.as_str() && root.is_none_or(|root| look.owner.root.owns(&root))
            })
        };
        if !self.0.allows(Route::Forward) || !socket.exists() || !is_ours() {
            return None;
        }
        let podman = self.0.api(&socket).ok()?;
        let guest = tokio::time::timeout(ANSWER, podman.look(look)).await.ok()?.ok()?;
        self.0.state().ahead = Some((socket, podman));
        Some(guest)
    }

    fn keep(&self) {
        let mut state = self.0.state();
        state.is_kept = true;
        self.0.repair(&mut state);
    }

    async fn finish(&self) {
        let repair = self.0.state().repair.take();
        if let Some(repair) = repair {
            let _ = tokio::time::timeout(FINISH, repair).await;
        }
    }

    fn reach(&self) -> Reach {
        let state = self.0.state();
        Reach {
            route: state.link.as_ref().map(|link| link.route),
            counts: state.counts,
            silent_for: state.silent_since.map(|since| since.elapsed()),
            failed_boots: state.failed_boots,
        }
    }

    fn sees(&self, file: &Path) -> Option<PathBuf> {
        let state = self.0.state();
        let seen = |mount: &VmMount| Some(mount.guest.join(file.strip_prefix(&mount.host).ok()?));
        state.place.as_ref()?.mounts.iter().filter(|mount| mount.kind == VIRTIOFS).find_map(seen)
    }

    /// By the guest's own Podman, whichever way is in use: the bytes are there already.
    async fn load_seen(&self, file: &Path) -> Result<Vec<String>, EngineError> {
        let shell = self.0.state().place.as_ref().map(|place| self.0.shell(place));
        match shell {
            Some(shell) => shell.load_seen(file).await,
            None => Err(EngineError::new(EngineErrorKind::TransportUnavailable, "the VM has not been observed yet")),
        }
    }
}

impl Engine for Ladder {
    hand_on!(through);

    /// A way that breaks during an observation is left, and the next one observes.
    async fn look(&self, look: &Look) -> Result<Guest, EngineError> {
        self.0.upgrade().await;
        let first = through!(self, look(look));
        match first {
            Err(err) if err.kind.is_retryable() && self.0.state().why.is_none() => through!(self, look(look)),
            outcome => outcome,
        }
    }

    /// By the guest's own files, whichever way is in use: what it emulates, Podman does not tell.
    async fn machine(&self) -> Result<EngineMachine, EngineError> {
        let shell = self.0.state().place.as_ref().map(|place| self.0.shell(place));
        match shell {
            Some(shell) => shell.machine().await,
            None => Err(EngineError::new(EngineErrorKind::TransportUnavailable, "the VM has not been observed yet")),
        }
    }

    /// From within the machine, whichever way is in use: its processes are there.
    async fn exec_end(&self, exec: &str) -> Result<(), EngineError> {
        let (link, shell) = {
            let state = self.0.state();
            (state.link.clone(), state.place.as_ref().map(|place| self.0.shell(place)))
        };
        let Some((Podman::Api(api), shell)) = link.as_ref().map(|link| &link.podman).zip(shell) else {
            return through!(self, exec_end(exec));
        };
        if shell.end_marked(exec).await? || !api.exec_runs(exec).await? { Ok(()) } else { Err(ending::hidden()) }
    }

    /// Exit files are in the guest, where nobody here can watch them.
    fn container_exits(&self, _: &Guest) -> Option<ContainerExits> {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::backend::limactl::Limactl;
    use crate::model::{HostKey, InstanceName, Name, Transport};

    /// Lima's home with an instance whose files say that it is this owner's, and a socket that takes connections.
    fn home(owner: &str) -> (tempfile::TempDir, PathBuf, UnixListener) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("agents");
        std::fs::create_dir_all(dir.join("sock")).unwrap();
        std::fs::write(dir.join("lima.yaml"), format!("param:\n  steadfastName: {owner}\n")).unwrap();
        let listener = UnixListener::bind(dir.join(SOCKET_HERE)).unwrap();
        (home, dir, listener)
    }

    #[tokio::test]
    async fn only_a_machine_of_ours_is_looked_into_ahead() {
        let look = Look {
            owner: Name::new("demo").unwrap().into(),
            names: Default::default(),
            health: Default::default(),
            key: HostKey::from_bytes([1; 32]),
        };
        for (owner, adopter, asked) in [
            ("demo", None, true),
            ("other", None, false),
            ("other", Some("demo"), true),
            ("demo", Some("other"), false),
        ] {
            let (home, dir, listener) = home(owner);
            if let Some(adopter) = adopter {
                std::fs::write(dir.join("steadfast.json"), format!("{{\"name\":\"{adopter}\"}}")).unwrap();
            }
            let limactl = Limactl::new("limactl", home.path());
            let ladder = Ladder::new(limactl, InstanceName::new("agents").unwrap(), Transport::Auto);
            let was_asked = tokio::select! {
                accepted = listener.accept() => accepted.is_ok(),
                found = ladder.look_ahead(&look, &dir) => { assert!(found.is_none()); false }
            };
            assert_eq!(was_asked, asked, "made by {owner}, taken over by {adopter:?}");
        }
    }

    #[test]
    fn the_socket_is_looked_for_ahead_where_our_template_puts_it() {
        let template = include_str!("../../../../template/agents-vm.yaml");
        assert!(
            template.contains(&format!("guestSocket: {USUAL_SOCKET}\n  hostSocket: \"{{{{.Dir}}}}/{SOCKET_HERE}\""))
        );
    }
}
