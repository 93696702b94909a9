//! The runtime: Lima or Podman, and where its files and sockets are.

use std::path::{Path as FilePath, PathBuf};

use super::{DEFAULT_RESTART_AFTER, LEAST_RESTART_AFTER, checked, expand, file_path};
use crate::model::{InstanceName, Runtime, VmSpec};
use crate::state::decode::{At, Cx, Path, is_null};
use crate::state::document::{LimaDoc, PodmanDoc, RuntimeDoc};
use crate::state::problem::Draft;
use crate::state::template;

pub(super) fn runtime(cx: &mut Cx<'_>, At { node, value }: At<RuntimeDoc>, path: Path<'_>) -> Option<Runtime> {
    match value {
        RuntimeDoc { lima: Some(lima), podman: None } => self::lima(cx, lima.value, path.key("lima")),
        RuntimeDoc { lima: None, podman: Some(podman) } => self::podman(cx, podman.value, path.key("podman")),
        RuntimeDoc { lima: Some(_), podman: Some(podman) } => {
            cx.wrong_help(podman.node, path, "both `lima` and `podman` are here", "keep the one you want");
            None
        }
        RuntimeDoc { lima: None, podman: None } => {
            // One that is there and wrong was reported already.
            let empty = is_null(cx.tree, node) || matches!(cx.tree.view(node), crate::state::tree::View::Map([]));
            if empty {
                let help = "write `podman: {}` for Podman on this host, or `lima:` for a virtual machine";
                cx.wrong_help(node, path, "exactly one of `lima` and `podman` is needed", help);
            }
            None
        }
    }
}

pub(super) fn lima(cx: &mut Cx<'_>, doc: LimaDoc, path: Path<'_>) -> Option<Runtime> {
    let instance =
        doc.instance.as_ref().and_then(|at| checked(cx, at, path.key("instance"), |name| InstanceName::new(name)));
    let template = doc.template.as_ref().and_then(|at| {
        let file = file_path(cx, at, path.key("template"))?;
        match template::read(&file) {
            Ok(template) => Some(template),
            Err(why) => {
                cx.wrong(at.node, path.key("template"), why);
                None
            }
        }
    });
    if let Some(at) = doc.restart_after.as_ref().filter(|at| at.value.0 < LEAST_RESTART_AFTER) {
        cx.wrong(at.node, path.key("restartAfter"), "a machine needs time to boot: at least 30s");
    }
    let home = match &doc.home {
        Some(at) => file_path(cx, at, path.key("home")),
        None => default_lima_home(cx, path),
    };
    if let (Some(at), Some(instance), Some(home)) = (&doc.instance, &instance, &home)
        && let Err(why) = fits_a_socket(home, instance)
    {
        let help = "use a shorter instance name, or a shorter directory as `home` or $LIMA_HOME";
        cx.wrong_help(at.node, path.key("instance"), why, help);
    }
    Some(Runtime::Lima(Box::new(VmSpec {
        instance: instance?,
        home: home?,
        template: template?,
        cpus: doc.cpus.map(|cpus| cpus.value.0),
        memory: doc.memory.map(|memory| memory.value.0),
        disk: doc.disk.map(|disk| disk.value.0),
        transport: doc.transport.map(|word| word.value.0).unwrap_or_default(),
        on_template_change: doc.on_template_change.map(|word| word.value.0).unwrap_or_default(),
        restart_after: doc.restart_after.map_or(DEFAULT_RESTART_AFTER, |time| time.value.0),
    })))
}

pub(super) fn default_lima_home(cx: &mut Cx<'_>, path: Path<'_>) -> Option<PathBuf> {
    let named = cx.vars.get("LIMA_HOME").filter(|home| !home.is_empty()).map(String::as_str);
    match expand(named.unwrap_or("~/.lima"), FilePath::new("/"), cx.vars) {
        Ok(home) => Some(home),
        Err(why) => {
            let draft =
                Draft::at(0..0, path.key("home").to_string(), format!("there is no directory of Lima's: {why}"));
            cx.problems.add(draft.help("write `home:`, or set $LIMA_HOME"));
            None
        }
    }
}

/// Lima 2.1 makes sockets of such names in an instance's directory, and checks them when it makes the instance.
pub(super) const LONGEST_SOCKET: &str = "ssh.sock.1234567890123456";
/// `sun_path` with its end, in unix(4) of macOS and unix(7) of Linux.
pub(super) const SOCKET_PATH: usize = if cfg!(target_os = "macos") { 104 } else { 108 };

/// Whether Lima's sockets fit into the path of a unix socket. Lima resolves links in its home directory first.
pub(super) fn fits_a_socket(home: &FilePath, instance: &InstanceName) -> Result<(), String> {
    let home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    let taken = home.as_os_str().len() + 1 + instance.as_str().len();
    let most = SOCKET_PATH - LONGEST_SOCKET.len() - 2;
    if taken <= most {
        return Ok(());
    }
    Err(format!(
        "`{}/{instance}` has {taken} bytes, and its sockets leave room for {most}: a unix socket's path has at most {}",
        home.display(),
        SOCKET_PATH - 1
    ))
}

pub(super) fn podman(cx: &mut Cx<'_>, doc: PodmanDoc, path: Path<'_>) -> Option<Runtime> {
    let Some(socket) = doc.socket else { return Some(Runtime::Podman { socket: None }) };
    let (vars, dir) = (cx.vars, cx.dir(socket.node));
    if !socket.value.0.value.contains("://") {
        cx.note_path(socket.node);
    }
    let socket = checked(cx, &socket, path.key("socket"), |text| match text.split_once("://") {
        Some(("unix", socket)) if socket.starts_with('/') => Ok(PathBuf::from(socket)),
        Some(("unix", _)) => Err(format!("`{text}` needs an absolute path, like unix:///run/podman/podman.sock")),
        Some(_) => Err(format!("`{text}` is not a unix socket, the only way in: write unix:// and an absolute path")),
        None => expand(text, dir, vars),
    });
    socket.map(|socket| Runtime::Podman { socket: Some(socket) })
}
