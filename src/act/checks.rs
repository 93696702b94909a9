//! What Podman will not check before it acts, checked here, so that nothing is half done.
//!
//! Podman 4.3 creates a missing bind source as a directory owned by root, and finds a busy host port only at the start,
//! leaving a container that was `created` and never ran.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::{ActError, Patience};
use crate::model::{Create, Port, Protocol};

/// Checks bind sources, and host ports when the container is to start.
pub(super) fn before_create(create: &Create, start: bool, patience: &Patience) -> Result<(), ActError> {
    if !patience.local {
        return Ok(());
    }
    mount_sources(create)?;
    if start { ports_are_free(create, &[]) } else { Ok(()) }
}

/// Checks bind sources, and the host ports that the predecessor does not hold itself, while that one still runs.
pub(super) fn before_replace(create: &Create, start: bool, held: &[Port], patience: &Patience) -> Result<(), ActError> {
    if !patience.local {
        return Ok(());
    }
    mount_sources(create)?;
    if start { ports_are_free(create, held) } else { Ok(()) }
}

/// Checks that every bind source exists. What we may not look at, Podman may: it judges then.
fn mount_sources(create: &Create) -> Result<(), ActError> {
    for mount in &create.spec.mounts {
        if is_missing(&std::fs::metadata(mount.source.expose()).map(drop)) {
            let path = mount.source.shown().to_owned();
            return Err(ActError::MountSource { path, container: create.spec.name.to_string() });
        }
    }
    Ok(())
}

/// Whether a look says that nothing is there, and not only that it was not allowed.
fn is_missing(looked: &io::Result<()>) -> bool {
    looked.as_ref().is_err_and(|err| matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

/// Checks that every host port but those `held` can be taken. A port that cannot be tried (no such address, not allowed) is left to
/// Podman to judge.
pub(super) fn ports_are_free(create: &Create, held: &[Port]) -> Result<(), ActError> {
    let holds =
        |port: &Port| held.iter().any(|held| (held.host_port, held.protocol) == (port.host_port, port.protocol));
    for port in create.spec.ports.iter().filter(|port| !holds(port)) {
        if is_taken(port) {
            return Err(ActError::PortTaken {
                port: create.spec.shown_port(port),
                container: create.spec.name.to_string(),
            });
        }
    }
    Ok(())
}

fn is_taken(port: &Port) -> bool {
    let address: IpAddr = port.host_ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let address = SocketAddr::new(address, port.host_port);
    let tried = match port.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
        Protocol::Sctp => return false,
    };
    tried.is_err_and(|err| err.kind() == std::io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_looked_at_is_not_missing() {
        for (kind, missing) in [
            (io::ErrorKind::NotFound, true),
            (io::ErrorKind::NotADirectory, true),
            (io::ErrorKind::PermissionDenied, false),
            (io::ErrorKind::Other, false),
        ] {
            assert_eq!(is_missing(&Err(kind.into())), missing, "{kind}");
        }
        assert!(!is_missing(&Ok(())));
    }
}
