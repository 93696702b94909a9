//! A `run` over the fake world.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use steadfast::act::{ActError, Done};
use steadfast::backend::Progress;
use steadfast::backend::fake::Fake;
use steadfast::handles::Scratch;
use steadfast::model::Desired;
use steadfast::plan::Step;
use steadfast::reconcile::journal::Journal;
use steadfast::reconcile::run::{Ended, Event, Request, Revision, Runner, View};
use steadfast::reconcile::{Awaited, Options, Reporter};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A `run` over a fake world.
pub struct Background {
    pub fake: Fake,
    pub desired: Desired,
    pub revisions: watch::Sender<Revision>,
    pub requests: mpsc::Sender<Request>,
    pub view: watch::Receiver<Option<Arc<View>>>,
    news: Arc<Mutex<Vec<String>>>,
    /// So many seconds its clock on the wall is ahead of the one that never jumps.
    pub ahead: Arc<AtomicU64>,
    pub cancel: CancellationToken,
    pub task: JoinHandle<Ended>,
}

struct Listener(Arc<Mutex<Vec<String>>>);

impl Reporter for Listener {
    fn started(&self, _: &Step, _: &Arc<Progress>) {}
    fn finished(&self, _: &Step, _: Result<&Done, &ActError>, _: Duration) {}
    fn awaiting(&self, _: &Awaited) {}
    fn on_event(&self, news: &Event) {
        self.0.lock().unwrap().push(news.to_string());
    }
}

/// Long enough for anything that is to happen.
pub const LONG: Duration = Duration::from_secs(3600);

impl Background {
    pub fn with(desired: Desired, fake: Fake, options: Options, cancel: CancellationToken) -> Self {
        let (revisions, receiver) = watch::channel(Revision { desired: Arc::new(desired.clone()), error: None });
        let (requests, mut asked) = mpsc::channel(8);
        let (shown, view) = watch::channel(None);
        let news = Arc::<Mutex<Vec<String>>>::default();
        let (world, listener, token) = (fake.world(), Listener(news.clone()), cancel.clone());
        let (began, ahead) = (Instant::now(), Arc::<AtomicU64>::default());
        let jumps = ahead.clone();
        let wall = move || std::time::UNIX_EPOCH + began.elapsed() + Duration::from_secs(jumps.load(Ordering::Relaxed));
        let task = tokio::spawn(async move {
            let (journal, scratch) = (Journal::off(), Scratch::off());
            let runner = Runner {
                world: &world,
                options: &options,
                resync: Duration::from_secs(300),
                revisions: receiver,
                requests: &mut asked,
                reporter: &listener,
                journal: &journal,
                scratch: &scratch,
                view: &shown,
                is_alone: &|_| true,
                wall: &wall,
                heartbeat: None,
                cancel: &token,
            };
            runner.run().await
        });
        Self { fake, desired, revisions, requests, view, news, ahead, cancel, task }
    }

    /// Waits until the newest view is such; yields how long that took.
    pub async fn until(&mut self, is: impl Fn(&View) -> bool) -> Duration {
        let began = Instant::now();
        let fits = |view: &Option<Arc<View>>| view.as_ref().is_some_and(|view| is(view));
        let seen = tokio::time::timeout(LONG, self.view.wait_for(fits)).await.map(|seen| seen.is_ok());
        assert_eq!(seen, Ok(true), "never came; last: {:#?}\n{:#?}", self.view.borrow(), self.told());
        began.elapsed()
    }

    /// Waits until everything is as desired, by an observation that is taken from now on.
    pub async fn converged(&mut self) -> Duration {
        let passes = self.passes();
        self.until(|view| view.status.converged && view.passes > passes).await
    }

    /// How often it has observed.
    pub fn passes(&self) -> u64 {
        self.view.borrow().as_ref().map_or(0, |view| view.passes)
    }

    pub fn spoil(&mut self, error: &str) {
        self.revisions.send_modify(|revision| revision.error = Some(error.to_owned()));
    }

    pub fn told(&self) -> Vec<String> {
        self.news.lock().unwrap().clone()
    }

    pub async fn stop(self) -> Duration {
        let began = Instant::now();
        self.cancel.cancel();
        assert_eq!(self.task.await.unwrap(), Ended::Stopped);
        began.elapsed()
    }
}
