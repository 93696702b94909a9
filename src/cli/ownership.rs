//! Whether a name is this state file's, and which containers of that name are this root's.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::render::errors::root_hint;
use super::settings::{keep_word, state_dir};
use super::{CliError, ExitStatus, Settings};
use crate::control::StateFiles;
use crate::control::files::told_text;
use crate::files;
use crate::model::{AgentState, Desired, Name, RootClaim, RootId};
use crate::reconcile::holder::{self, NameOwner, NameRecord, Recorded};
use crate::state;

fn id_path(root: &Path) -> PathBuf {
    root.join("state").join("id")
}

fn read_id(root: &Path) -> Option<RootId> {
    RootId::parse(String::from_utf8(files::read(&id_path(root)).ok()?).ok()?.trim())
}

/// The root's id, made and kept where there is none that can be read.
fn keep_id(root: &Path) -> std::io::Result<RootId> {
    let fresh = || {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|err| std::io::Error::other(format!("cannot get random bytes from the system: {err}")))?;
        Ok(RootId::from_bytes(bytes))
    };
    keep_word(&id_path(root), || read_id(root), fresh, RootId::to_string)
}

/// Which containers of a name are this root's, as far as that can be told without writing anything.
pub(super) fn read_claim(root: &Path, name: &Name) -> RootClaim {
    let dir = root.join("state").join(name.as_str());
    RootClaim { id: read_id(root), place: place(root), unlabelled: Recorded::read(&dir).unlabelled(&dir) }
}

/// What this machine and the root's path hash to. `None` where the machine has no name of its own that can be read.
fn place(root: &Path) -> Option<RootId> {
    // The second is a container's own where the first is that of its image, and empty.
    const MACHINE: [&str; 2] = ["/etc/machine-id", "/proc/sys/kernel/hostname"];
    let read =
        |file: &&str| Some(std::fs::read_to_string(file).ok()?.trim().to_owned()).filter(|text| !text.is_empty());
    let machine = MACHINE.iter().find_map(read)?;
    // The same whether the root is there or not, as long as what it lies in is.
    let path = match (root.canonicalize(), root.parent().map(Path::canonicalize), root.file_name()) {
        (Ok(path), ..) => path,
        (Err(_), Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => root.to_owned(),
    };
    let mut hasher = Sha256::new();
    for part in [b"steadfast place".as_slice(), machine.as_bytes(), path.as_os_str().as_bytes()] {
        hasher.update(part);
        hasher.update([0]);
    }
    Some(RootId::from_bytes(hasher.finalize()[..16].try_into().ok()?))
}

fn ours(settings: &Settings, desired: &Desired) -> NameOwner {
    // A pipe under whatever name is no file that anybody could find again.
    let files = settings.can_read_again().then_some(&settings.files);
    let wanted = desired.agents.iter().filter(|(_, agent)| agent.state != AgentState::Absent);
    NameOwner {
        file: files.map(StateFiles::first_text),
        layers: files.map(StateFiles::layer_texts).unwrap_or_default(),
        meaning: desired.meaning,
        agents: wanted.map(|(name, _)| name.clone()).collect(),
    }
}

/// Refuses to go on when the name belongs to another state file.
///
/// # Errors
/// When it does, or nobody can tell.
pub(super) fn check(settings: &Settings, desired: &Desired) -> Result<(), CliError> {
    let recorded = Recorded::read(&state_dir(desired));
    if let Recorded::Unreadable { why } = &recorded {
        let message = format!("cannot tell which state file the name `{}` belongs to: {why}", desired.name);
        let err = CliError::new(ExitStatus::Error, message);
        // What holds the record is in the way then, not what stands in it.
        return Err(match crate::files::read(&holder::path(&state_dir(desired))) {
            Err(cause) => err.hint(root_hint(&cause)),
            Ok(_) => err.hint("`steadfast apply --take-over` makes it this file's, and writes that record anew"),
        });
    }
    let ours = ours(settings, desired);
    match recorded.other(&ours, |file| is_gone(settings, file, &desired.name)) {
        None => Ok(()),
        Some(other) => Err(refusal(desired, &ours, other)),
    }
}

fn refusal(desired: &Desired, ours: &NameOwner, other: &NameOwner) -> CliError {
    let file = |owner: &NameOwner| match &owner.file {
        Some(file) => format!("`{}`", told_text(file, &owner.layers)),
        None => "what comes through standard input".to_owned(),
    };
    let agents = match other.agents.as_slice() {
        [] => "no agents".to_owned(),
        [one] => format!("agent `{one}`"),
        many => {
            let names: Vec<_> = many.iter().map(|name| format!("`{name}`")).collect();
            format!("agents {}", names.join(", "))
        }
    };
    let message = format!(
        "the name `{}` below `{}` belongs to {} ({agents}), not to {}",
        desired.name,
        desired.root.display(),
        file(other),
        file(ours)
    );
    let err = CliError::new(ExitStatus::Error, message);
    let err = match ours.file.is_some() && ours.file == other.file {
        true => err
            .hint("name the same files with `-f`, in the same order: what one of them adds would be removed otherwise"),
        false => err,
    };
    err.hint("give one of the two another `name` or another `root`, and both can be applied")
        .hint(
            "if this one takes the other's place, give --take-over (to `plan`, `apply`, `run` or `down`): agents that only the \
             other has are removed then",
        )
}

/// Whether nothing is at a path any more that has this name. What cannot be looked at is there.
fn is_gone(settings: &Settings, file: &str, name: &Name) -> bool {
    let path = Path::new(file);
    match std::fs::metadata(path) {
        Err(err) => matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        Ok(there) if !there.is_file() => false,
        Ok(_) => {
            let told = state::read(path).ok().and_then(|input| state::identity(&[input], None, &settings.vars));
            told.is_some_and(|(other, _)| other != *name)
        }
    }
}

/// Keeps that the name is this state file's from now on, and tells which containers of that name are this root's. The lock
/// must be held.
///
/// # Errors
/// When it cannot be written below the root.
pub(super) fn keep(settings: &Settings, desired: &Desired) -> std::io::Result<RootClaim> {
    let dir = state_dir(desired);
    let recorded = Recorded::read(&dir);
    let unlabelled = recorded.unlabelled(&dir);
    let mut ours = ours(settings, desired);
    // Piped from the very file: the name stays that file's.
    if let (None, Recorded::Present(NameRecord { owned_by: Some(owner), .. })) = (&ours.file, &recorded)
        && let Some(file) = &owner.file
        && owner.meaning == ours.meaning
        && !is_gone(settings, file, &desired.name)
    {
        (ours.file, ours.layers) = (Some(file.clone()), owner.layers.clone());
    }
    holder::keep(&dir, &NameRecord { owned_by: Some(ours), unlabelled })?;
    let id = Some(keep_id(&desired.root)?);
    Ok(RootClaim { id, place: place(&desired.root), unlabelled })
}

/// Keeps what is known of the name once more, where its state directory or the root was removed meanwhile. The lock must be
/// held.
///
/// # Errors
/// When something cannot be written.
pub(super) fn put_back(settings: &Settings, desired: &Desired) -> std::io::Result<()> {
    let RootClaim { id, unlabelled, .. } = desired.claim.clone();
    holder::keep(&state_dir(desired), &NameRecord { owned_by: Some(ours(settings, desired)), unlabelled })?;
    let Some(id) = id else { return Ok(()) };
    keep_word(&id_path(&desired.root), || read_id(&desired.root), || Ok(id), RootId::to_string).map(drop)
}

/// Keeps that the name is nobody's, now that nothing of it is left. Best effort: it is this file's otherwise.
pub(super) fn release(desired: &Desired) {
    if let Err(err) = holder::keep(&state_dir(desired), &NameRecord { owned_by: None, unlabelled: false }) {
        tracing::warn!(error = %err, "cannot record that the name is free");
    }
}
