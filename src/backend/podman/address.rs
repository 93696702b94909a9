//! Where Podman's socket is. Finds the path; whether anybody answers there is for the first request to say.

use std::io;
use std::path::{Path, PathBuf};

use crate::backend::{EngineError, EngineErrorKind, WayOut};

/// Which machine's paths and pids Podman speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// This one: a bind source can be looked for before it is mounted, a pid can be looked up.
    Here,
    /// Another one, such as a virtual machine whose socket is forwarded.
    Elsewhere,
}

impl Machine {
    /// The machine behind a socket found on this host: outside Linux, Podman always runs in a virtual machine.
    pub(super) fn of_local_socket() -> Self {
        if cfg!(target_os = "linux") { Self::Here } else { Self::Elsewhere }
    }
}

/// Finds the socket. See [`super::Podman::connect`] for the order.
pub(super) fn find(given: Option<&Path>, vars: impl Fn(&str) -> Option<String>) -> Result<PathBuf, EngineError> {
    if let Some(path) = given {
        return existing(path, "the state file");
    }
    for variable in ["CONTAINER_HOST", "DOCKER_HOST"] {
        if let Some(address) = vars(variable).filter(|address| !address.is_empty()) {
            return existing(&parse(variable, &address)?, &format!("`${variable}`"));
        }
    }
    let tried = usual(rustix::process::getuid().as_raw(), vars("XDG_RUNTIME_DIR").as_deref());
    let looked: Vec<_> = tried.iter().map(|path| (path, path.try_exists())).collect();
    if let Some((found, _)) = looked.iter().find(|(_, looked)| matches!(looked, Ok(true))) {
        return Ok((*found).clone());
    }
    let list = looked.iter().map(|(path, looked)| match looked {
        Err(err) => format!("`{}`: {}", path.display(), why_unseen(err)),
        Ok(_) => format!("`{}`", path.display()),
    });
    let list = list.collect::<Vec<_>>().join(", ");
    Err(unavailable(format!("no Podman socket found (tried {list}); {}", how_to_start(tried.first()))))
}

/// Finds the socket, or where it will be: the first of the places to look at. See [`super::Podman::expect`].
pub(super) fn expected(given: Option<&Path>, vars: impl Fn(&str) -> Option<String>) -> Result<PathBuf, EngineError> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    for variable in ["CONTAINER_HOST", "DOCKER_HOST"] {
        if let Some(address) = vars(variable).filter(|address| !address.is_empty()) {
            return parse(variable, &address);
        }
    }
    find(None, &vars).or_else(|err| {
        let places = usual(rustix::process::getuid().as_raw(), vars("XDG_RUNTIME_DIR").as_deref());
        places.into_iter().next().ok_or(err)
    })
}

/// The usual places, likeliest first, each once.
fn usual(uid: u32, runtime_dir: Option<&str>) -> Vec<PathBuf> {
    let rootful = PathBuf::from("/run/podman/podman.sock");
    let mut places = Vec::new();
    if let Some(directory) = runtime_dir.filter(|directory| directory.starts_with('/')) {
        places.push(Path::new(directory).join("podman/podman.sock"));
    }
    places.push(PathBuf::from(format!("/run/user/{uid}/podman/podman.sock")));
    if uid == 0 {
        places.insert(0, rootful);
    } else {
        places.push(rootful);
    }
    places.dedup();
    places
}

fn parse(variable: &str, address: &str) -> Result<PathBuf, EngineError> {
    let path = address.strip_prefix("unix://").or_else(|| address.strip_prefix("unix:")).unwrap_or(address);
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    // The address itself may hold a user name and password: only its scheme is shown.
    let scheme = address.split_once("://").map_or("a relative path", |(scheme, _)| scheme);
    Err(unavailable(format!(
        "`${variable}` is not a unix socket ({scheme}); expected `unix:///path/to/podman.sock`, for which a remote socket can \
         be forwarded with `ssh -L /path/to/podman.sock:/run/podman/podman.sock HOST`"
    )))
}

fn existing(path: &Path, source: &str) -> Result<PathBuf, EngineError> {
    judged(path, source, path.try_exists())
}

/// What a search for the socket means. That it may not be looked for does not mean that it is not there.
fn judged(path: &Path, source: &str, looked: io::Result<bool>) -> Result<PathBuf, EngineError> {
    match looked {
        Ok(true) => Ok(path.to_owned()),
        Ok(false) => Err(missing(path, source)),
        Err(err) if err.kind() == io::ErrorKind::NotADirectory => Err(missing(path, source)),
        Err(err) => {
            let kind = match err.kind() {
                io::ErrorKind::PermissionDenied => EngineErrorKind::PermissionDenied,
                _ => EngineErrorKind::TransportUnavailable,
            };
            let why = why_unseen(&err);
            let sentence = format!("cannot look for the Podman socket `{}`, named by {source}: {why}", path.display());
            Err(EngineError::new(kind, sentence))
        }
    }
}

fn why_unseen(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::PermissionDenied => {
            "no permission to enter its directory; run as its owner, or use a rootless socket".to_owned()
        }
        _ => err.to_string(),
    }
}

fn missing(path: &Path, source: &str) -> EngineError {
    unavailable(format!(
        "no Podman socket at `{}`, named by {source}; {}",
        path.display(),
        how_to_start(Some(&path.to_owned()))
    ))
}

fn how_to_start(at: Option<&PathBuf>) -> String {
    let path = at.map_or_else(|| "/run/podman/podman.sock".to_owned(), |path| path.display().to_string());
    format!(
        "start one with `systemctl --user start podman.socket`, or `podman system service --time=0 unix://{path}` \
         where there is no systemd"
    )
}

fn unavailable(message: String) -> EngineError {
    EngineError { way_out: WayOut::InSentence, ..EngineError::new(EngineErrorKind::TransportUnavailable, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_vars(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_given_socket_comes_before_the_environment() {
        let here = tempfile::NamedTempFile::new().unwrap();
        let vars = |_: &str| Some("unix:///elsewhere.sock".to_owned());
        assert_eq!(find(Some(here.path()), vars).unwrap(), here.path());
    }

    #[test]
    fn container_host_comes_before_docker_host_and_may_be_a_plain_path() {
        let here = tempfile::NamedTempFile::new().unwrap();
        let path = here.path().display().to_string();
        for address in [format!("unix://{path}"), format!("unix:{path}"), path.clone()] {
            let vars = |name: &str| match name {
                "CONTAINER_HOST" => Some(address.clone()),
                _ => Some("tcp://127.0.0.1:1".to_owned()),
            };
            assert_eq!(find(None, vars).unwrap(), here.path());
        }
        let vars = |name: &str| (name == "DOCKER_HOST").then(|| format!("unix://{path}"));
        assert_eq!(find(None, vars).unwrap(), here.path());
    }

    #[test]
    fn ssh_and_tcp_are_refused_without_showing_their_password() {
        for (address, scheme) in
            [("ssh://me:canary@h/run/p.sock", "ssh"), ("tcp://h:2375", "tcp"), ("p.sock", "relative")]
        {
            let vars = |name: &str| (name == "CONTAINER_HOST").then(|| address.to_owned());
            let error = find(None, vars).unwrap_err();
            assert!(error.message.contains("`$CONTAINER_HOST` is not a unix socket"), "{error}");
            assert!(error.message.contains(scheme) && !error.message.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_missing_socket_says_where_and_how_to_start_one() {
        let error = find(Some(Path::new("/nowhere/p.sock")), no_vars).unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::TransportUnavailable);
        assert!(error.message.contains("no Podman socket at `/nowhere/p.sock`"), "{error}");
        assert!(error.message.contains("podman system service --time=0 unix:///nowhere/p.sock"), "{error}");
    }

    #[test]
    fn a_socket_that_may_not_be_looked_for_is_not_missing() {
        let judged = |looked| judged(Path::new("/locked/p.sock"), "the state file", looked).unwrap_err();
        let denied = judged(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(denied.kind, EngineErrorKind::PermissionDenied);
        assert_eq!(
            denied.message,
            "cannot look for the Podman socket `/locked/p.sock`, named by the state file: no permission to enter its \
             directory; run as its owner, or use a rootless socket"
        );
        assert!(judged(Err(io::ErrorKind::NotADirectory.into())).message.contains("no Podman socket at"));
        assert!(judged(Err(io::ErrorKind::QuotaExceeded.into())).message.contains("cannot look for"));
    }

    #[test]
    fn rootless_comes_first_except_for_root() {
        let shown = |uid, dir| usual(uid, dir).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            shown(1000, Some("/run/user/1000")),
            ["/run/user/1000/podman/podman.sock", "/run/podman/podman.sock"]
        );
        assert_eq!(shown(0, None), ["/run/podman/podman.sock", "/run/user/0/podman/podman.sock"]);
        assert_eq!(
            shown(7, Some("/x")),
            ["/x/podman/podman.sock", "/run/user/7/podman/podman.sock", "/run/podman/podman.sock"]
        );
    }
}
