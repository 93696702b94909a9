//! `run`: everything around the loop in [`crate::reconcile::run`]: the lock, the watched file, the control socket, the
//! service manager, the signals.

mod presence;
mod serve;
mod service_manager;
mod sessions;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use super::ownership;
use super::reconcile::{is_alone, record_of, scratch, take_lock};
use super::render::progress::Printer;
use super::render::said::{Level, say};
use super::settings::{fresh_key, keep_key, read_key, state_dir};
use super::signals::Signals;
use super::{CliError, ExitStatus, RunArgs, Settings};
use crate::act::Patience;
use crate::backend::World;
use crate::backend::cache::CacheOptions;
use crate::control::server::Bound;
use crate::error::Chain;
use crate::model::{Desired, HostKey, RootClaim};
use crate::overrides;
use crate::plan::Policy;
use crate::reconcile::Options;
use crate::reconcile::journal::Journal;
use crate::reconcile::lock::{self, Lock, LockError};
use crate::reconcile::run::{Ended, Request, Revision, Runner, View};
use crate::state::watch as files;
use presence::Presence;
use serve::Served;
use service_manager::ServiceManager;
use sessions::Sessions;

/// A download is tried so often before the loop's own backoff takes over.
const RETRIES: u32 = 2;
/// What a SIGHUP asks for may take so long.
const REQUEST_TIME: Duration = Duration::from_secs(600);

/// Keeps the machine as the state file says, until stopped.
pub(super) async fn run(settings: &Settings, args: RunArgs) -> Result<ExitStatus, CliError> {
    if !settings.can_read_again() {
        return Err(CliError::new(ExitStatus::Usage, "`run` watches the state file, and a pipe cannot be watched")
            .hint("name a file with `-f FILE`"));
    }
    let loaded = settings.load(None)?;
    super::file::warn(settings, &loaded, |warning| !warning.planned);
    let first = loaded.desired;
    settings.expected_engine(&first)?;
    let lock = lock(settings, &first, args.lock_timeout).await?;
    if !args.take_over {
        ownership::check(settings, &first)?;
    }
    let claim = keep_name(settings, &first);
    let key = key(settings, &first);
    let manager = ServiceManager::new();
    // systemd's journal has times of its own.
    let times = !settings.vars.contains_key("JOURNAL_STREAM");
    let printer = Printer::new(settings.quiet, settings.color_stderr, settings.bars).with_times(times);
    let journal = Arc::new(Journal::new(&state_dir(&first).join("journal.jsonl"), "start"));
    let signals = Signals::listen("stopping: agents keep running; steps in flight on containers are finished");
    let watching = watch_file(settings, &args, key.clone()).await?;
    let (mut translator, revisions) = Translator::new(settings, &args, Desired { key, claim, ..first }, &watching);
    let (requests, asked) = mpsc::channel(16);
    let (shown, view) = watch::channel(None);

    let sessions = Sessions::new(settings, revisions.clone(), view.clone());
    let served =
        Arc::new(Served::new(settings, &journal, &watching, requests, translator.flush.clone(), view, sessions));
    let serving = match Bound::new(&state_dir(&revisions.borrow().desired)) {
        Ok(bound) => Some(bound.serve(served.clone())),
        Err(err) => {
            let hint = "`status` observes by itself, `apply --wait` cannot connect".to_owned();
            say(
                Level::Warn,
                &format!("going on without a control socket: {}", Chain(&err)),
                &[hint],
                settings.color_stderr,
            );
            None
        }
    };
    let mut presence = Presence {
        settings,
        revisions: revisions.clone(),
        dir: state_dir(&revisions.borrow().desired),
        lock,
        serving,
        served: served.clone(),
        journal: &journal,
    };
    journal.note("runStarted", serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }));
    let beats = manager.clone();
    let heartbeat = move || beats.alive();
    let publisher = tokio::spawn(served.clone().publish(manager.clone()));
    let background = Background {
        settings,
        args: &args,
        options: &options(&args),
        printer: &printer,
        journal: &journal,
        view: &shown,
        signals: &signals,
        heartbeat: manager.watchdog().map(|every| (every, &heartbeat as &(dyn Fn() + Send + Sync))),
    };
    let keeping = background.keep(revisions, asked);
    tokio::pin!(keeping);
    let ended = tokio::select! {
        ended = &mut keeping => ended,
        () = translator.follow() => {
            signals.token.cancel();
            let ended = keeping.await;
            ended.and(Err(CliError::new(ExitStatus::Error, "the state file is not watched any more")
                .hint("agents keep running; start `run` again")))
        }
        lost = presence.keep() => {
            signals.token.cancel();
            let ended = keeping.await;
            ended.and(Err(lost))
        }
        () = follow_hangups(&served, &manager) => Ok(()),
    };
    manager.stopping();
    journal.note("runStopped", serde_json::json!({}));
    presence.end().await;
    publisher.abort();
    ended?;
    Ok(signals.status().unwrap_or(ExitStatus::Done))
}

/// What the loop works with, whichever Podman the file names.
struct Background<'a> {
    settings: &'a Settings,
    args: &'a RunArgs,
    options: &'a Options,
    printer: &'a Printer,
    journal: &'a Journal,
    view: &'a watch::Sender<Option<Arc<View>>>,
    signals: &'a Signals,
    heartbeat: Option<(Duration, &'a (dyn Fn() + Send + Sync))>,
}

impl Background<'_> {
    /// Runs the loop, and anew where the state file names another Podman.
    async fn keep(
        &self,
        revisions: watch::Receiver<Revision>,
        mut requests: mpsc::Receiver<Request>,
    ) -> Result<(), CliError> {
        loop {
            let desired = revisions.borrow().desired.clone();
            let cache = CacheOptions { parallel: self.options.downloads, retries: RETRIES, ..CacheOptions::default() };
            let engine = self.settings.expected_engine(&desired)?;
            let vm = self.settings.vm(&desired);
            let world = World { vm, engine, store: self.settings.cache(&desired.root, cache)? };
            let scratch = scratch(&desired, &world);
            let mut options = self.options.clone();
            options.patience.local = desired.vm().is_none();
            options.rollouts = record_of(&desired);
            let cancel = self.signals.token.child_token();
            let runner = Runner {
                world: &world,
                options: &options,
                resync: self.args.resync,
                revisions: revisions.clone(),
                requests: &mut requests,
                reporter: self.printer,
                journal: self.journal,
                scratch: &scratch,
                view: self.view,
                is_alone: &is_alone,
                wall: &SystemTime::now,
                heartbeat: self.heartbeat,
                cancel: &cancel,
            };
            match runner.run().await {
                Ended::Stopped => return Ok(()),
                Ended::OtherRuntime => tracing::info!("the state file names another Podman"),
            }
        }
    }
}

fn options(args: &RunArgs) -> Options {
    Options {
        parallel: args.parallel.into(),
        downloads: args.parallel_downloads.into(),
        patience: Patience { settle: args.settle, ..Patience::default() },
        policy: Policy { prune: !args.no_prune, allow_empty: args.allow_empty, adopt: args.adopt, ..Policy::default() },
        ..Options::default()
    }
}

/// The lock. Where nothing can be written it goes on all the same, and says what that means.
async fn lock(settings: &Settings, desired: &Desired, patience: Duration) -> Result<Option<Lock>, CliError> {
    let err = match take_lock(settings, desired, lock::RUN, patience).await {
        Ok(lock) => return Ok(Some(lock)),
        Err(err @ LockError::Held { .. }) => return Err(CliError::from_lock(&err, &settings.files)),
        // A place that cannot be written to is no reason to do nothing; one that somebody has tampered with is.
        Err(LockError::Io { path, err }) if crate::files::unfit(&err).is_some() => {
            return Err(CliError::from_lock(&LockError::Io { path, err }, &settings.files));
        }
        Err(err @ LockError::Io { .. }) => err,
    };
    let taken = lock::take_read_only(&state_dir(desired).join("lock"))
        .map_err(|err| CliError::from_lock(&err, &settings.files))?;
    let meaning = match taken {
        Some(_) => "nobody can read who holds the lock",
        None => "nothing keeps another steadfast from doing the same",
    };
    say(Level::Warn, &format!("{}: going on, but {meaning}", Chain(&err)), &[], settings.color_stderr);
    Ok(taken)
}

/// That the name is this file's. Where that cannot be kept, containers are told apart by their name alone.
fn keep_name(settings: &Settings, desired: &Desired) -> RootClaim {
    ownership::keep(settings, desired).unwrap_or_else(|err| {
        tracing::warn!(error = %err, "cannot record which state file owns the name");
        if desired.claim.id.is_some() { desired.claim.clone() } else { RootClaim::default() }
    })
}

/// The host key; one of this process alone where none can be kept.
fn key(settings: &Settings, desired: &Desired) -> HostKey {
    keep_key(&desired.root).unwrap_or_else(|err| {
        read_key(&desired.root).unwrap_or_else(|| {
            let message = format!(
                "cannot keep the host key below `{}`: {err}; sensitive values are hashed with one of this process alone",
                desired.root.display()
            );
            say(Level::Warn, &message, &[], settings.color_stderr);
            fresh_key()
        })
    })
}

async fn watch_file(settings: &Settings, args: &RunArgs, key: HostKey) -> Result<files::Watching, CliError> {
    let options = files::WatchOptions { debounce: args.debounce, ..files::WatchOptions::default() };
    let (loader, host_arch) = (settings.clone(), settings.host_arch()?);
    let load = move || loader.load_with(None, host_arch, &|_| key.clone());
    let named: Vec<_> = settings.files.iter().map(Path::to_owned).collect();
    Ok(files::watch(&named, options, load).await)
}

/// A SIGHUP reads the files again and observes everything.
async fn follow_hangups(served: &Served, manager: &ServiceManager) {
    let Ok(mut hangups) = Signals::hangup() else { return std::future::pending().await };
    while hangups.recv().await.is_some() {
        manager.reloading();
        // Read again is reloaded: what it leads to may take long, and another SIGHUP must not wait for it.
        let _ = served.ask(REQUEST_TIME, false).await;
        manager.ready();
    }
}

/// Turns what the file says into what is gone by: what may not change while it runs is refused like a bad edit.
struct Translator {
    settings: Settings,
    watching: files::Watching,
    revisions: watch::Sender<Revision>,
    allow_empty: bool,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    flush: mpsc::Sender<oneshot::Sender<()>>,
}

impl Translator {
    fn new(
        settings: &Settings,
        args: &RunArgs,
        first: Desired,
        watching: &files::Watching,
    ) -> (Self, watch::Receiver<Revision>) {
        let (revisions, receiver) = watch::channel(Revision { desired: Arc::new(first), error: None });
        let (flush, flushes) = mpsc::channel(16);
        let mut translator = Self {
            settings: settings.clone(),
            watching: watching.clone(),
            revisions,
            allow_empty: args.allow_empty,
            flushes,
            flush,
        };
        translator.translate();
        (translator, receiver)
    }

    async fn follow(&mut self) {
        loop {
            tokio::select! {
                changed = self.watching.revisions.changed() => match changed {
                    Ok(()) => self.translate(),
                    Err(_) => return,
                },
                Some(done) = self.flushes.recv() => {
                    if self.watching.revisions.has_changed().unwrap_or(false) {
                        self.translate();
                    }
                    let _ = done.send(());
                }
            }
        }
    }

    fn translate(&mut self) {
        let revision = self.watching.revisions.borrow_and_update().clone();
        let before = self.revisions.borrow().clone();
        let now = match &revision {
            files::Revision::Good(loaded) => match self.refusal(&before.desired, &loaded.desired) {
                None => {
                    let desired = Desired { claim: before.desired.claim.clone(), ..loaded.desired.clone() };
                    keep_name(&self.settings, &desired);
                    overrides::sweep(&desired);
                    Revision { desired: Arc::new(desired), error: None }
                }
                Some(error) => Revision { desired: before.desired.clone(), error: Some(error) },
            },
            files::Revision::Bad(error) => {
                // It is told in the journal and by the socket too, where colours are garbage.
                Revision { desired: before.desired.clone(), error: Some(CliError::state(error, false).message) }
            }
        };
        self.revisions.send_replace(now);
    }

    /// Why a valid file is not gone by.
    fn refusal(&self, before: &Desired, now: &Desired) -> Option<String> {
        let changed = |what: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
            format!(
                "the {what} changed from `{from}` to `{to}`, which takes another `steadfast run`: stop this one first"
            )
        };
        if now.name != before.name {
            return Some(changed("name", &before.name, &now.name));
        }
        if now.root != before.root {
            return Some(changed("root", &before.root.display(), &now.root.display()));
        }
        if now.runtime != before.runtime
            && let Err(err) = self.settings.expected_engine(now)
        {
            return Some(err.message);
        }
        (now.agents.is_empty() && !before.agents.is_empty() && !self.allow_empty).then(|| {
            "the state file has no agents, and all that are there would be removed: --allow-empty lets it".to_owned()
        })
    }
}
