//! Reading the files, and telling whether they changed.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::notifier::{Notifier, WatchMode, Watched};
use super::{Load, Revision};
use crate::files::regular::{self, NotOpened};
use crate::state::{Loaded, MAX_BYTES, ReadError, StateError};

/// How often one observation reads files that change while they are read.
const TRIES: usize = 4;

/// The files a revision is made of, by absolute path.
pub(super) type Files = BTreeMap<PathBuf, Watched>;

/// What stood in the files.
type Prints = BTreeMap<PathBuf, Print>;

/// What stood in a file, as far as it must be told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Print {
    Bytes([u8; 32]),
    NotAFile(&'static str),
    Unreadable(ErrorKind),
}

/// The files, and what they said last.
pub(super) struct Reading {
    /// The state files: as the user named them, and absolute.
    named: Vec<(PathBuf, PathBuf)>,
    load: Load,
    notifier: Notifier,
    files: Files,
    /// What stood in the files when they were last loaded; `None` when they changed meanwhile.
    prints: Option<Prints>,
    good: Option<Arc<Loaded>>,
    /// What stood in the files when they were good.
    good_prints: Option<Prints>,
    /// The present error, in full.
    error: Option<String>,
}

/// One look at the files.
pub(super) struct Look {
    /// What they say, when that is new.
    pub(super) revision: Option<Revision>,
    pub(super) mode: WatchMode,
}

struct Outcome {
    loaded: Result<Loaded, StateError>,
    /// What stood in the files then; `None` when they changed meanwhile.
    prints: Option<Prints>,
    mode: WatchMode,
}

impl Reading {
    /// Reads for the first time.
    pub(super) fn open(named: Vec<PathBuf>, load: Load, mut notifier: Notifier) -> (Self, Revision, WatchMode) {
        let absolute = |named: PathBuf| (std::path::absolute(&named).unwrap_or_else(|_| named.clone()), named);
        let named: Vec<_> = named.into_iter().map(absolute).map(|(file, named)| (named, file)).collect();
        let files: Files = named.iter().map(|(_, file)| (file.clone(), Watched::StateFile)).collect();
        let mode = notifier.aim(&files);
        let (good, good_prints, error) = (None, None, None);
        let mut reading = Self { named, load, notifier, files, prints: None, good, good_prints, error };
        let prints = prints(&reading.files);
        let outcome = reading.read(prints, mode);
        let mode = outcome.mode.clone();
        let revision = reading.adopt(outcome);
        (reading, revision, mode)
    }

    /// Reads whether anything changed. The watches are set first, so that whatever changes after the observation is an event.
    pub(super) fn look(&mut self) -> Look {
        let mode = self.notifier.aim(&self.files);
        let prints = prints(&self.files);
        // While it is bad, the reason may lie in what is not known.
        if self.error.is_none() && self.prints.as_ref() == Some(&prints) {
            return Look { revision: None, mode };
        }
        let outcome = self.read(prints, mode);
        let mode = outcome.mode.clone();
        let is_new = self.is_new(&outcome);
        let revision = self.adopt(outcome);
        Look { revision: is_new.then_some(revision), mode }
    }

    /// Loads, until the files are the same before and after.
    fn read(&mut self, mut before: Prints, mut mode: WatchMode) -> Outcome {
        let mut tries = 0;
        loop {
            let loaded = self.load(&before);
            let files = self.files_of(&loaded);
            if files != self.files {
                self.files = files;
                mode = self.notifier.aim(&self.files);
            }
            let after = prints(&self.files);
            tries += 1;
            if after == before {
                return Outcome { loaded, prints: Some(after), mode };
            }
            if tries == TRIES {
                self.notifier.look_again();
                return Outcome { loaded, prints: None, mode };
            }
            before = after;
        }
    }

    fn load(&mut self, prints: &Prints) -> Result<Loaded, StateError> {
        // Whatever it is loaded with: reading a FIFO could wait for ever.
        for (named, file) in &self.named {
            if let Some(Print::NotAFile(what)) = prints.get(file) {
                return Err(ReadError::NotAFile { file: named.display().to_string(), what }.into());
            }
        }
        (self.load)()
    }

    /// The files that make up a revision. A bad one may not name them all, so those of the last good one stay.
    fn files_of(&self, loaded: &Result<Loaded, StateError>) -> Files {
        let mut files = Files::new();
        let (named, good): (&[PathBuf], _) = match loaded {
            Ok(loaded) => (&[], Some(loaded)),
            Err(StateError::Invalid(invalid)) => (&invalid.env_files.0, self.good.as_deref()),
            Err(StateError::Unreadable(_)) => (&[], self.good.as_deref()),
        };
        if let Some(good) = good {
            if let Some(vm) = good.desired.vm() {
                files.insert(vm.template.path.clone(), Watched::Template);
            }
            files.extend(good.env_files.iter().map(|file| (file.clone(), Watched::EnvFile)));
        }
        files.extend(named.iter().map(|file| (file.clone(), Watched::EnvFile)));
        files.extend(self.named.iter().map(|(_, file)| (file.clone(), Watched::StateFile)));
        files
    }

    fn is_new(&self, outcome: &Outcome) -> bool {
        match &outcome.loaded {
            Ok(_) => self.error.is_some() || outcome.prints.is_none() || outcome.prints != self.good_prints,
            Err(err) => self.error.as_deref() != Some(&err.render(false)),
        }
    }

    fn adopt(&mut self, Outcome { loaded, prints, .. }: Outcome) -> Revision {
        self.prints = prints;
        match loaded {
            Ok(loaded) => {
                let loaded = Arc::new(loaded);
                self.good = Some(loaded.clone());
                self.good_prints = self.prints.clone();
                self.error = None;
                Revision::Good(loaded)
            }
            Err(error) => {
                self.error = Some(error.render(false));
                Revision::Bad(Arc::new(error))
            }
        }
    }
}

fn prints(files: &Files) -> Prints {
    files.keys().map(|file| (file.clone(), print(file))).collect()
}

fn print(path: &Path) -> Print {
    let print = || {
        let file = match regular::open(path) {
            Ok(file) => file,
            Err(NotOpened::Is(what)) => return Ok(Print::NotAFile(what)),
            Err(NotOpened::Io(err)) => return Err(err),
        };
        // What is longer is not read by the loader either.
        let mut file = file.take(MAX_BYTES as u64 + 1);
        let mut hasher = Sha256::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Print::Bytes(hasher.finalize().into())),
                Ok(read) => hasher.update(&buffer[..read]),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    };
    print().unwrap_or_else(|err: io::Error| Print::Unreadable(err.kind()))
}
