//! Volumes that go from a container to the one that takes its place.
//!
//! Where an image declares a volume, Podman makes one without a name for every container that mounts nothing there.
//! What a container keeps in it is data: the successor gets the same volume. No volume is ever removed here.

use std::collections::BTreeSet;

use crate::backend::{Engine, EngineError};
use crate::model::{ContainerId, Create, Mount, Volume};

/// What becomes of a predecessor's volumes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Inheritance {
    /// Those that its successor gets.
    pub given: Vec<Volume>,
    /// Those that are kept and in no container any more.
    pub left: Vec<Volume>,
}

/// Divides the volumes of a predecessor. `declared` is where the successor's image declares volumes, as Compose asks too:
/// what it declares no more may hold something else there now. A mount of the state file takes the place of any volume.
pub(super) fn divide(old: &[Volume], declared: &BTreeSet<String>, mounts: &[Mount]) -> Inheritance {
    let is_declared = |target: &str| declared.iter().any(|path| plain(path) == plain(target));
    let is_mounted = |target: &str| mounts.iter().any(|mount| plain(mount.target.expose()) == plain(target));
    let anonymous = old.iter().filter(|volume| volume.is_anonymous()).cloned();
    let (given, left) = anonymous.partition(|volume| is_declared(&volume.target) && !is_mounted(&volume.target));
    Inheritance { given, left }
}

/// Gives `create` the volumes of `old`, and says which ones it leaves behind.
pub(super) fn inherit(create: &Create, old: &[Volume], declared: &BTreeSet<String>) -> Create {
    let Inheritance { given, left } = divide(old, declared, &create.spec.mounts);
    for volume in left {
        let Volume { name, target, .. } = volume;
        tracing::warn!(
            container = %create.spec.name,
            volume = name,
            target,
            "a volume is no longer mounted, and is kept: the new image declares none there, or the state file mounts something else"
        );
    }
    Create { volumes: given, ..create.clone() }
}

/// The volumes of a container; none where it is gone.
pub(super) async fn of<E: Engine>(engine: &E, id: &ContainerId) -> Result<Vec<Volume>, EngineError> {
    let live = engine.inspect(id).await?.and_then(|seen| seen.live);
    Ok(live.map(|live| live.volumes).unwrap_or_default())
}

/// The same path, however it is written.
fn plain(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.fold(String::new(), |path, part| path + "/" + part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Text;

    fn volume(digit: &str, target: &str) -> Volume {
        Volume { name: digit.repeat(64), target: target.into(), read_only: false }
    }

    #[test]
    fn a_successor_gets_what_its_image_declares_and_the_file_does_not_mount() {
        let mounts = [Mount::bind(Text::plain("/srv"), Text::plain("/bound/"), false)];
        let named = Volume { name: "somebodys".into(), target: "/named".into(), read_only: false };
        let old = [volume("a", "/data"), volume("b", "/bound"), volume("c", "/gone"), named];
        let declared = ["/data/", "/bound", "/named", "/new"].map(str::to_owned).into();
        let divided = divide(&old, &declared, &mounts);
        assert_eq!(divided.given, [volume("a", "/data")]);
        assert_eq!(divided.left, [volume("b", "/bound"), volume("c", "/gone")], "a named volume is its maker's");
    }

    #[test]
    fn a_path_is_the_same_however_it_is_written() {
        for path in ["/a/b", "/a/b/", "//a//b", "/a/./b/."] {
            assert_eq!(plain(path), "/a/b");
        }
        assert_eq!(plain("/"), "");
    }
}
