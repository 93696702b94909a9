//! What Podman will not check before it acts, checked here, so that nothing is half done.
//!
//! Podman 4.3 creates a missing bind source as a directory owned by root, finds a busy host port only at the start,
//! leaving a container that was `created` and never ran, and an image's architecture when its first program will not run.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::{ActError, Patience};
use crate::backend::{Engine, EngineError, EngineMachine, ImageFacts};
use crate::model::{ContainerState, Create, Phase, Port, PortRange, Protocol};

/// Checks bind sources, the image's architecture, and host ports when the container is to start.
pub(super) async fn before_create<E: Engine>(
    engine: &E,
    create: &Create,
    start: bool,
    patience: &Patience,
) -> Result<(), ActError> {
    on_this_machine(create, start, &[], patience)?;
    image(engine, create, None).await.map(|_| ())
}

/// Checks bind sources, the image's architecture, and the host ports that the predecessor does not hold itself, while that
/// one still runs. Yields what the image says of itself.
pub(super) async fn before_replace<E: Engine>(
    engine: &E,
    create: &Create,
    start: bool,
    (own_ports, old): (&[PortRange], Option<&ContainerState>),
    patience: &Patience,
) -> Result<ImageFacts, ActError> {
    on_this_machine(create, start, own_ports, patience)?;
    image(engine, create, old).await
}

/// Checks what can be told without the engine: bind sources, and host ports but those `own_ports`.
pub(super) fn on_this_machine(
    create: &Create,
    start: bool,
    own_ports: &[PortRange],
    patience: &Patience,
) -> Result<(), ActError> {
    if !patience.local {
        return Ok(());
    }
    mount_sources(create)?;
    if start { ports_are_free(create, own_ports) } else { Ok(()) }
}

/// Checks that the image is for a machine like the engine's. One that is not there is the creation's to report.
async fn image<E: Engine>(engine: &E, create: &Create, old: Option<&ContainerState>) -> Result<ImageFacts, ActError> {
    let facts = engine.image_facts(create.image_word()).await?.unwrap_or_default();
    if is_usual(&facts) || runs_already(engine, &facts, old).await? {
        return Ok(facts);
    }
    let machine = engine.machine().await?;
    if runs(&machine, &facts) {
        return Ok(facts);
    }
    Err(ActError::Architecture {
        container: create.spec.name.to_string(),
        image: create.image.clone(),
        built_for: platform(&facts.os, &facts.arch),
        machine: platform(&machine.os, &machine.arch),
    })
}

/// Whether what runs is of this architecture too: then it can run, whatever the engine says of its machine.
async fn runs_already<E: Engine>(
    engine: &E,
    facts: &ImageFacts,
    old: Option<&ContainerState>,
) -> Result<bool, EngineError> {
    let Some(old) = old.filter(|old| matches!(old.phase, Phase::Running | Phase::Paused)) else { return Ok(false) };
    let old = engine.image_facts(old.image.as_str()).await?;
    Ok(old.is_some_and(|old| (&old.os, &old.arch) == (&facts.os, &facts.arch)))
}

/// Whether an image is for machines like this one, or does not say. An engine is on this machine, or in a virtual one of its kind.
fn is_usual(facts: &ImageFacts) -> bool {
    matches!(facts.os.as_str(), "" | "linux")
        && (facts.arch.is_empty() || facts.arch == go_arch(std::env::consts::ARCH))
}

/// Go's word for an architecture of Rust's.
pub(crate) fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Whether an engine's machine runs what an image holds. What cannot be told is left to the engine to judge.
fn runs(machine: &EngineMachine, image: &ImageFacts) -> bool {
    let unknown = |word: &str| word.is_empty();
    if unknown(&machine.os) || unknown(&machine.arch) {
        return true;
    }
    let same_os = unknown(&image.os) || image.os == machine.os;
    let native = match machine.arch.as_str() {
        "amd64" => image.arch == "386",
        "arm64" => image.arch == "arm",
        _ => false,
    };
    let emulated = machine.emulates.as_ref().is_none_or(|emulated| emulated.contains(&image.arch));
    same_os && (unknown(&image.arch) || image.arch == machine.arch || native || emulated)
}

fn platform(os: &str, arch: &str) -> String {
    [os, arch].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("/")
}

/// Checks that every bind source exists. What we may not look at, Podman may: it judges then.
fn mount_sources(create: &Create) -> Result<(), ActError> {
    for mount in &create.spec.mounts {
        let Some(source) = mount.bind_source() else { continue };
        if is_missing(&std::fs::metadata(source.expose()).map(drop)) {
            let path = source.shown().to_owned();
            return Err(ActError::MountSource { path, container: create.spec.name.to_string() });
        }
    }
    Ok(())
}

/// Whether an observation says that nothing is there, and not only that it was not allowed.
fn is_missing(looked: &io::Result<()>) -> bool {
    looked.as_ref().is_err_and(|err| matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

/// Checks that every host port but those `own_ports` can be taken. A port that cannot be tried (no such address, not allowed) is left to
/// Podman to judge.
pub(super) fn ports_are_free(create: &Create, own_ports: &[PortRange]) -> Result<(), ActError> {
    let holds = |port: &Port| own_ports.iter().any(|own| own.holds(port.host_port, port.protocol));
    for port in create.spec.ports.iter().filter(|port| port.host_port != 0 && !holds(port)) {
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
    tried.is_err_and(|err| err.kind() == ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn machine(arch: &str, emulates: Option<&[&str]>) -> EngineMachine {
        let emulates = emulates.map(|words| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>());
        EngineMachine { os: "linux".into(), arch: arch.into(), emulates }
    }

    fn image(os: &str, arch: &str) -> ImageFacts {
        ImageFacts { os: os.into(), arch: arch.into(), ..ImageFacts::default() }
    }

    #[test]
    fn a_machine_runs_its_own_architecture_and_what_it_emulates() {
        let plain = machine("amd64", Some(&[]));
        assert!(runs(&plain, &image("linux", "amd64")));
        assert!(runs(&plain, &image("linux", "386")), "by itself");
        assert!(runs(&plain, &image("", "")), "one that does not say may be right");
        assert!(!runs(&plain, &image("linux", "arm64")));
        assert!(!runs(&plain, &image("windows", "amd64")));
        assert!(runs(&machine("amd64", Some(&["arm64"])), &image("linux", "arm64")), "emulated");
        assert!(runs(&machine("amd64", None), &image("linux", "arm64")), "what it emulates is not known");
        assert!(!runs(&machine("arm64", Some(&[])), &image("linux", "amd64")));
        assert!(runs(&EngineMachine::default(), &image("linux", "arm64")), "nothing is known of it");
    }

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
