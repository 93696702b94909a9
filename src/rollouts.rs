//! What is remembered of agents: which version failed in the place of what runs, and which have proved themselves. A small file
//! beside the journal, so that neither another `run` nor the next `apply` tries again what is known to fail.
//!
//! A file that is missing or makes no sense is no error: nothing is remembered then, and what fails is found out once more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::files::{self, regular, regular::NotOpened};
use crate::model::{AgentName, Quarantined, Remembered, Rollouts};
use crate::mutex::guard;

/// Its name in the directory of a state file's state.
pub const FILE: &str = "rollouts.json";
/// The version of its layout.
const VERSION: u32 = 1;
/// Nothing that is remembered takes more.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<T> {
    schema_version: u32,
    agents: T,
}

/// Where it is remembered.
#[derive(Debug, Default)]
pub struct RolloutRecord {
    path: Option<PathBuf>,
    known: Mutex<Rollouts>,
}

impl RolloutRecord {
    /// What this file remembers, and will.
    pub fn at(path: &Path) -> Self {
        Self { path: Some(path.to_owned()), known: Mutex::new(read(path)) }
    }

    /// What is remembered.
    pub fn known(&self) -> Rollouts {
        guard(&self.known).clone()
    }

    /// Remembers this, and nothing else. Where it cannot be written, it is remembered for as long as this process lives.
    pub fn keep(&self, rollouts: &Rollouts) {
        rollouts.clone_into(&mut guard(&self.known));
        let Some(path) = &self.path else { return };
        let document = Document { schema_version: VERSION, agents: rollouts };
        let Ok(mut text) = serde_json::to_string_pretty(&document) else { return };
        text.push('\n');
        if let Err(err) = files::replace(path, true, |mut file: &File| file.write_all(text.as_bytes())) {
            tracing::warn!(path = %path.display(), error = %err, "cannot write what failed; another process will try it again");
        }
    }
}

/// What failed, by agent.
pub fn quarantined(rollouts: &Rollouts) -> BTreeMap<AgentName, Quarantined> {
    let failed = |(agent, one): (&AgentName, &Remembered)| Some((agent.clone(), one.quarantined.clone()?));
    rollouts.iter().filter_map(failed).collect()
}

/// What a file remembers.
pub fn read(path: &Path) -> Rollouts {
    let text = match regular::read(path, MOST_BYTES) {
        Ok(text) => text.unwrap_or_default(),
        Err(NotOpened::Io(err)) if err.kind() == std::io::ErrorKind::NotFound => return Rollouts::new(),
        Err(err) => {
            let err = std::io::Error::from(err);
            tracing::warn!(path = %path.display(), error = %err, "cannot read which versions failed; going on without");
            return Rollouts::new();
        }
    };
    match serde_json::from_slice::<Document<Rollouts>>(&text) {
        Ok(Document { schema_version: VERSION, agents }) => agents,
        Ok(Document { schema_version, .. }) => {
            tracing::warn!(path = %path.display(), schema_version, "a newer steadfast wrote which versions failed; going on without");
            Rollouts::new()
        }
        Err(err) => {
            tracing::warn!(path = %path.display(), error = %err, "which versions failed cannot be understood; going on without");
            Rollouts::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Good, ImageId};

    fn some() -> Rollouts {
        let good = Good { version: "1".to_owned(), image: ImageId::from("ab"), artifact: None };
        let one = Remembered { good: vec![good], ..Remembered::default() };
        BTreeMap::from([("a".parse().unwrap(), one)])
    }

    #[test]
    fn what_is_remembered_is_there_for_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let record = RolloutRecord::at(&path);
        assert!(record.known().is_empty());
        record.keep(&some());
        assert_eq!((record.known(), RolloutRecord::at(&path).known()), (some(), some()));
    }

    #[test]
    fn what_makes_no_sense_is_no_error_and_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for text in ["", "{", "[]", "{\"schemaVersion\": 2, \"agents\": {}}", "{\"schemaVersion\": 1, \"agents\": 7}"] {
            std::fs::write(&path, text).unwrap();
            let record = RolloutRecord::at(&path);
            assert!(record.known().is_empty(), "{text}");
            record.keep(&some());
            assert_eq!(read(&path), some(), "{text}");
        }
    }
}
