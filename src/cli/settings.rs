//! Flags and environment → [`Settings`], once.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::ownership::read_claim;
use super::render::errors::{CliError, ExitStatus};
use super::{Color, Format, Global, LogFormat};
use crate::backend::cache::{Cache, CacheOptions};
use crate::backend::lima::Lima;
use crate::backend::limactl::Limactl;
use crate::backend::podman::{Ladder, Logins, Podman, PodmanAt};
use crate::backend::{EngineError, Routing, Vm, World};
use crate::control::StateFiles;
use crate::files::{self, Replacement};
use crate::model::{Arch, Desired, HostKey, Name, Runtime, VmPhase, VmSpec};
use crate::overrides;
use crate::state::{self, Config, Context, Input, Loaded};

/// What the state file speaks of on this machine.
pub(super) type HostWorld = World<Option<Lima>, PodmanAt, Cache>;

/// What was typed, and what the environment adds to it.
#[derive(Clone)]
pub struct Settings {
    /// The state files, merged in their order.
    pub files: StateFiles,
    /// Whether the user named them, by flag or environment.
    pub file_named: bool,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// What goes to standard output.
    pub output: Format,
    /// How logs are written.
    pub log_format: LogFormat,
    /// How many `-v`.
    pub verbose: u8,
    /// `-q`.
    pub quiet: bool,
    /// Colours on standard output.
    pub color_stdout: bool,
    /// Colours on standard error.
    pub color_stderr: bool,
    /// Whether bars may be drawn on standard error.
    pub bars: bool,
    /// The process environment.
    pub vars: BTreeMap<String, String>,
}

impl std::fmt::Debug for Settings {
    /// Without the values of the environment: secrets are among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("files", &self.files)
            .field("root", &self.root)
            .field("output", &self.output)
            .field("log_format", &self.log_format)
            .field("verbose", &self.verbose)
            .field("quiet", &self.quiet)
            .finish_non_exhaustive()
    }
}

impl Settings {
    pub(super) fn new(global: &Global, files: &[PathBuf]) -> Self {
        let vars: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let set = |name: &str| vars.get(name).filter(|value| !value.is_empty());
        let files = StateFiles::new(files);
        if let Some(files) = &files {
            super::render::said::name_files_globally(files);
        }
        let named = files.or_else(|| set("STEADFAST_FILE").map(|file| Path::new(file).into()));
        let colours = |terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && set("NO_COLOR").is_none() && vars.get("TERM").is_none_or(|term| term != "dumb"),
        };
        let stderr_is_terminal = std::io::stderr().is_terminal();
        Self {
            file_named: named.is_some(),
            files: named.unwrap_or_else(|| Path::new("steadfast.yaml").into()),
            root: global.root.clone(),
            output: global.output,
            log_format: global.log_format,
            verbose: global.verbose,
            quiet: global.quiet,
            color_stdout: colours(std::io::stdout().is_terminal()),
            color_stderr: colours(stderr_is_terminal) && global.log_format == LogFormat::Text,
            bars: stderr_is_terminal
                && !global.quiet
                && global.log_format == LogFormat::Text
                && vars.get("TERM").is_none_or(|term| term != "dumb"),
            vars,
        }
    }

    /// Words an error on standard error; yields its exit code.
    pub(super) fn fail(&self, err: &CliError) -> ExitCode {
        super::render::errors::print(err, self.color_stderr);
        err.status.into()
    }

    /// This machine's architecture. `$STEADFAST_HOST_ARCH` overrides it, for running images under emulation.
    pub fn host_arch(&self) -> Result<Arch, CliError> {
        let word = self.vars.get("STEADFAST_HOST_ARCH").map_or(std::env::consts::ARCH, String::as_str);
        Arch::from_machine(word).map_err(|err| CliError::new(ExitStatus::Error, err.to_string()))
    }

    /// Reads the state files.
    pub fn inputs(&self) -> Result<Vec<Input>, CliError> {
        self.read().map_err(|err| CliError::state(&err.into(), self.color_stderr))
    }

    fn read(&self) -> Result<Vec<Input>, state::ReadError> {
        if self.files.iter().filter(|file| *file == Path::new("-")).count() > 1 {
            let why = "standard input can be read once, and is named twice".to_owned();
            return Err(state::ReadError::Io { file: "-".to_owned(), why });
        }
        self.files.iter().map(state::read).collect()
    }

    /// Reads, checks and resolves the state file, for a verb that works below its root, and refuses one that others could change.
    pub fn load(&self, manifest_url: Option<String>) -> Result<Loaded, CliError> {
        let loaded = self.resolve(manifest_url)?;
        check_root(&loaded.desired.root, Some(&loaded.desired.name))?;
        Ok(loaded)
    }

    /// Reads, checks and resolves the state file. The host key is read where there is one; otherwise one is made up and
    /// not kept, so that nothing is written.
    pub fn resolve(&self, manifest_url: Option<String>) -> Result<Loaded, CliError> {
        let key = |root: &Path| super::settings::read_key(root).unwrap_or_else(fresh_key);
        self.load_with(manifest_url, self.host_arch()?, &key).map_err(|err| CliError::state(&err, self.color_stderr))
    }

    /// Reads, checks and resolves the state file for this machine and with this host key.
    pub fn load_with(
        &self,
        manifest_url: Option<String>,
        host_arch: Arch,
        key: &dyn Fn(&Path) -> HostKey,
    ) -> Result<Loaded, state::StateError> {
        let inputs = self.read()?;
        let (vars, root) = (self.vars.clone(), self.root.clone());
        let mut loaded = state::load_all(&inputs, &Context { vars, root, manifest_url, host_arch, key })?;
        loaded.desired.claim = read_claim(&loaded.desired.root, &loaded.desired.name);
        overrides::apply(&mut loaded.desired);
        // Who watches the files hears of a rollback as of an edit.
        loaded.env_files.push(overrides::path(&loaded.desired));
        Ok(loaded)
    }

    /// Reads, checks and resolves the state files, and tells what they come to.
    pub fn expand(&self) -> Result<(Loaded, Config), CliError> {
        let key = |root: &Path| super::settings::read_key(root).unwrap_or_else(fresh_key);
        let (vars, root, host_arch) = (self.vars.clone(), self.root.clone(), self.host_arch()?);
        let context = Context { vars, root, manifest_url: None, host_arch, key: &key };
        let expanded = self.read().map_err(state::StateError::from).and_then(|inputs| state::expand(&inputs, &context));
        expanded.map_err(|err| CliError::state(&err, self.color_stderr))
    }

    /// Whether reading the state files again yields what they say then: a pipe has said all it had to say.
    pub fn can_read_again(&self) -> bool {
        let is_file = |path: &Path| std::fs::metadata(path).map_or(true, |file| file.is_file());
        self.files.iter().all(|file| file != Path::new("-") && (!state::is_handed_over(file) || is_file(file)))
    }

    /// `--root`, else `$STEADFAST_ROOT`, else `~/.steadfast`; for when there is no state file.
    pub fn root_without_file(&self) -> Result<PathBuf, CliError> {
        let set = |name: &str| self.vars.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = self
            .root
            .clone()
            .or_else(|| set("STEADFAST_ROOT"))
            .or_else(|| set("HOME").map(|home| home.join(".steadfast")))
            .ok_or_else(|| {
                CliError::new(ExitStatus::Error, "no directory to work in: $HOME is not set").hint("give --root")
            })?;
        std::path::absolute(&root)
            .map_err(|err| CliError::new(ExitStatus::Error, format!("`{}` is not a path: {err}", root.display())))
    }

    /// The cache below `root`.
    pub fn cache(&self, root: &Path, options: CacheOptions) -> Result<Cache, CliError> {
        Cache::open(root, options).map_err(|err| CliError::from_store(&err))
    }

    /// The world a state file speaks of.
    pub fn world(&self, desired: &Desired, options: CacheOptions) -> Result<HostWorld, CliError> {
        let store = self.cache(&desired.root, options)?;
        Ok(World { vm: self.vm(desired), engine: self.engine(desired)?, store })
    }

    /// The virtual machine a state file speaks of, if it does.
    pub fn vm(&self, desired: &Desired) -> Option<Lima> {
        let spec = desired.vm()?;
        Some(Lima::new(self.limactl(spec), spec.instance.clone()))
    }

    fn limactl(&self, spec: &VmSpec) -> Limactl {
        Limactl::new("limactl", &spec.home)
    }

    /// The engine a state file speaks of.
    pub fn engine(&self, desired: &Desired) -> Result<PodmanAt, CliError> {
        self.engine_by(desired, |socket| Podman::connect(socket, |name: &str| self.vars.get(name).cloned()))
    }

    /// The engine a state file speaks of, for whoever asks it and plans nothing: a virtual machine that does not run, or is
    /// somebody else's, is an error.
    pub async fn reached_engine(&self, desired: &Desired) -> Result<PodmanAt, CliError> {
        let engine = self.engine(desired)?;
        let Some(vm) = self.vm(desired) else { return Ok(engine) };
        let name = vm.instance();
        let is_down = |phase: &str| {
            CliError::new(ExitStatus::Error, format!("VM `{name}` {phase}"))
                .hint("`steadfast apply` brings it up, and what runs in it")
        };
        match vm.look().await.map_err(|err| CliError::from_vm(&err))? {
            Some(seen) => {
                if let Some(whose) = seen.foreign_to(&desired.ownership()) {
                    return Err(CliError::foreign(name, &whose));
                }
                if seen.phase != VmPhase::Running {
                    return Err(is_down(&seen.phase.to_string()));
                }
                engine.locate(Some(&seen));
            }
            None => return Err(is_down("does not exist")),
        }
        Ok(engine)
    }

    /// The engine a state file speaks of, whether it is there yet or not.
    pub fn expected_engine(&self, desired: &Desired) -> Result<PodmanAt, CliError> {
        self.engine_by(desired, |socket| Podman::expect(socket, |name: &str| self.vars.get(name).cloned()))
    }

    /// The Podman of this machine, for whoever has no state file: through its socket.
    ///
    /// # Errors
    /// When there is none.
    pub fn local_podman(&self) -> Result<crate::backend::podman::Api, CliError> {
        match Podman::connect(None, |name: &str| self.vars.get(name).cloned()) {
            Ok(Podman::Api(api)) => Ok(api),
            Ok(Podman::Shell(_)) => unreachable!("it was connected to by a socket"),
            Err(err) => Err(CliError::from_engine(&err)),
        }
    }

    fn engine_by(
        &self,
        desired: &Desired,
        here: impl FnOnce(Option<&Path>) -> Result<Podman, EngineError>,
    ) -> Result<PodmanAt, CliError> {
        match &desired.runtime {
            Runtime::Podman { socket } => {
                here(socket.as_deref()).map(Box::new).map(PodmanAt::Host).map_err(|err| CliError::from_engine(&err))
            }
            Runtime::Lima(spec) => {
                let logins = Logins::of(|name| self.vars.get(name).cloned());
                let ladder = Ladder::with_logins(self.limactl(spec), spec.instance.clone(), spec.transport, logins);
                Ok(PodmanAt::Guest(ladder))
            }
        }
    }
}

/// Refuses a root whose directories somebody else could change under our hands, for a state file of this name if there is one.
///
/// # Errors
/// When another user owns one of them, or group or others can write to it.
pub(super) fn check_root(root: &Path, name: Option<&Name>) -> Result<(), CliError> {
    let state = root.join("state");
    let own = name.map(|name| state.join(name.as_str()));
    let mut directories = [root.to_owned(), root.join("cache"), state].into_iter().chain(own);
    directories
        .try_for_each(|dir| files::check_directory(&dir))
        .map_err(|err| CliError::new(ExitStatus::Error, err.to_string()).hint(err.way_out()))
}

/// The directory of a state file's state below its root.
pub(super) fn state_dir(desired: &Desired) -> PathBuf {
    desired.state_dir()
}

fn key_path(root: &Path) -> PathBuf {
    root.join("state").join("key")
}

pub(super) fn read_key(root: &Path) -> Option<HostKey> {
    let text = String::from_utf8(files::read(&key_path(root)).ok()?).ok()?;
    let digest = crate::model::Sha256Digest::parse(text.trim()).ok()?;
    // A key of zeros is what was made up without randomness: everybody could guess it.
    (*digest.as_bytes() != NO_KEY).then(|| HostKey::from_bytes(*digest.as_bytes()))
}

const NO_KEY: [u8; 32] = [0; 32];

fn random_key() -> std::io::Result<HostKey> {
    let mut bytes = NO_KEY;
    getrandom::fill(&mut bytes)
        .map_err(|err| std::io::Error::other(format!("cannot get random bytes from the system: {err}")))?;
    Ok(HostKey::from_bytes(bytes))
}

/// A key for this process alone, which is not kept.
pub(super) fn fresh_key() -> HostKey {
    random_key().unwrap_or_else(|err| {
        // Nothing that is hashed with it could be kept secret, but what is only shown once is masked all the same.
        tracing::error!(error = %err, "sensitive values are hashed with a guessable key");
        HostKey::from_bytes(NO_KEY)
    })
}

/// The host key, made and kept where there is none that can be read. A lost key is no harm: what was hashed with it is
/// compared with the live values instead.
///
/// # Errors
/// When it cannot be written below `root`, or the system has no randomness to make it of.
pub(super) fn keep_key(root: &Path) -> std::io::Result<HostKey> {
    let text = |key: &HostKey| crate::model::Sha256Digest::from_bytes(*key.as_bytes()).to_string();
    keep_word(&key_path(root), || read_key(root), random_key, text)
}

/// What a file keeps, made with `fresh` and kept there where there is none that can be read. Mode 0600.
///
/// # Errors
/// When it cannot be made or written.
pub(super) fn keep_word<T>(
    path: &Path,
    read: impl Fn() -> Option<T>,
    fresh: impl FnOnce() -> std::io::Result<T>,
    text: impl FnOnce(&T) -> String,
) -> std::io::Result<T> {
    if let Some(kept) = read() {
        files::sweep(path);
        return Ok(kept);
    }
    files::make_directory(path.parent().unwrap_or(path))?;
    let replacement = Replacement::begin(path, 0o600)?;
    // Another process was faster: what that one made counts.
    if let Some(kept) = read() {
        return Ok(kept);
    }
    let made = fresh()?;
    writeln!(replacement.file(), "{}", text(&made))?;
    replacement.place(true)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_come_at_once_share_one_key() {
        for _ in 0..20 {
            let root = tempfile::tempdir().unwrap();
            let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| keep_key(root.path()).unwrap())).collect();
                threads.into_iter().map(|thread| *thread.join().unwrap().as_bytes()).collect()
            });
            let kept = read_key(root.path()).unwrap();
            assert!(keys.iter().all(|key| key == kept.as_bytes()), "{keys:?}");
        }
    }

    #[test]
    fn what_a_kill_left_of_a_key_is_taken_or_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = key_path(root.path());
        let left = files::temporary_of(&path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        for _ in 0..2 {
            std::fs::write(&left, "half of a k").unwrap();
            let key = keep_key(root.path()).unwrap();
            assert_eq!(read_key(root.path()).unwrap().as_bytes(), key.as_bytes());
            assert!(!left.exists());
        }
    }

    #[test]
    fn what_is_no_key_is_replaced_and_a_key_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = key_path(root.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        for garbage in ["", "garbage", &"0".repeat(64)] {
            std::fs::write(&path, garbage).unwrap();
            let key = keep_key(root.path()).unwrap();
            assert_ne!(*key.as_bytes(), NO_KEY);
            assert_eq!(keep_key(root.path()).unwrap().as_bytes(), key.as_bytes(), "after `{garbage}`");
        }
    }
}
