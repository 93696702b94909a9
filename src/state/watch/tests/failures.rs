//! No events, no inotify, nobody there any more.

use super::*;

fn polling() -> WatchOptions {
    WatchOptions { poll: Duration::from_millis(20), ..WatchOptions::default() }
}

/// Senses whose watcher fails as long as it says so.
fn failing(why: impl Fn() -> Option<notify::Error> + Send + 'static) -> ChangeSource {
    let ChangeSource { mut watcher, silent } = ChangeSource::default();
    let watcher = move |handler| match why() {
        Some(err) => Err(err),
        None => watcher(handler),
    };
    ChangeSource { watcher: Box::new(watcher), silent }
}

fn no_more_instances() -> notify::Error {
    notify::Error::io(std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()))
}

/// A watcher that can be made and watches nothing.
#[derive(Debug)]
struct Blind(fn() -> notify::Error);

impl notify::Watcher for Blind {
    fn new<F: notify::EventHandler>(_: F, _: notify::Config) -> notify::Result<Self> {
        Err(notify::Error::generic("made by hand only"))
    }
    fn watch(&mut self, path: &Path, _: notify::RecursiveMode) -> notify::Result<()> {
        Err((self.0)().add_path(path.to_owned()))
    }
    fn unwatch(&mut self, _: &Path) -> notify::Result<()> {
        Ok(())
    }
    fn kind() -> notify::WatcherKind {
        notify::WatcherKind::NullWatcher
    }
}

#[tokio::test]
async fn without_events_the_files_are_polled_and_the_reason_is_reported() {
    let blind = |err: fn() -> notify::Error| ChangeSource {
        watcher: Box::new(move |_| Ok(Box::new(Blind(err)) as Box<dyn notify::Watcher + Send>)),
        ..ChangeSource::default()
    };
    let refused = || notify::Error::io(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
    let cases = [
        (failing(|| Some(no_more_instances())), "polling: inotify limit reached (fs.inotify.max_user_instances)"),
        (
            blind(|| notify::Error::new(notify::ErrorKind::MaxFilesWatch)),
            "polling: inotify limit reached (fs.inotify.max_user_watches)",
        ),
        (blind(refused), "polling: a directory of the state file cannot be watched: permission denied"),
        (failing(|| Some(notify::Error::generic("not here"))), "polling: there are no file events: not here"),
        (
            ChangeSource { silent: |_| Some("NFS"), ..ChangeSource::default() },
            "polling: the state file is on NFS, which does not tell of all changes",
        ),
    ];
    for (senses, mode) in cases {
        let place = Place::new();
        place.write("a.env", "A=1\n");
        place.write("conf/s.yaml", env_file("../a.env"));
        let mut seen = Seen::with(&place.path("conf/s.yaml"), polling(), senses).await;
        assert_eq!(
            (seen.now().as_str(), seen.mode().replace("an env file", "the state file").as_str()),
            ("1 A=1", mode)
        );
        place.write("a.env", "A=2\n");
        seen.becomes("1 A=2").await;
        place.shell("rm conf/s.yaml");
        seen.becomes("bad").await;
        place.write("conf/s.yaml", version("2"));
        seen.becomes("2").await;
        let loads = seen.loads.load(Ordering::SeqCst);
        for _ in 0..3 {
            seen.is_quiet().await;
        }
        assert_eq!(seen.loads.load(Ordering::SeqCst), loads, "polling loads what did not change");
    }
}

#[tokio::test]
async fn events_are_taken_again_once_they_can_be_had() {
    let place = Place::new();
    place.write("conf/s.yaml", version("1"));
    let full = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = full.clone();
    let senses = failing(move || asked.load(Ordering::SeqCst).then(no_more_instances));
    let mut seen = Seen::with(&place.path("conf/s.yaml"), polling(), senses).await;
    assert_eq!(seen.mode(), "polling: inotify limit reached (fs.inotify.max_user_instances)");
    full.store(false, Ordering::SeqCst);
    let back = seen.watching.mode.wait_for(|mode| *mode == WatchMode::Events);
    tokio::time::timeout(PATIENCE, back).await.unwrap().unwrap();
    place.write("conf/s.yaml", version("2"));
    seen.becomes("2").await;
}

/// The limits themselves, in a user namespace of its own so that nobody else meets them.
#[cfg(target_os = "linux")]
#[test]
fn the_limits_of_inotify_are_survived() {
    const INSIDE: &str = "STEADFAST_TEST_LIMITED";
    const NAME: &str = "state::watch::tests::failures::the_limits_of_inotify_are_survived";
    if let Ok(expected) = std::env::var(INSIDE) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let place = Place::new();
            place.write("conf/s.yaml", version("1"));
            let mut seen = Seen::with(&place.path("conf/s.yaml"), polling(), ChangeSource::default()).await;
            assert_eq!(seen.mode(), expected);
            place.write("conf/s.yaml", version("2"));
            seen.becomes("2").await;
        });
        return;
    }
    for (limit, most) in [("max_inotify_instances", 0), ("max_inotify_watches", 1)] {
        let set = format!("echo {most} > /proc/sys/user/{limit}");
        let allowed = std::process::Command::new("unshare").args(["-Ur", "sh", "-c", &set]).output();
        if !allowed.is_ok_and(|done| done.status.success()) {
            skip("the_limits_of_inotify_are_survived", "no user namespace can be made here");
            return;
        }
        let word = if most == 0 { "instances" } else { "watches" };
        let done = std::process::Command::new("unshare")
            .args(["-Ur", "sh", "-c", &format!("{set} && exec \"$0\" --exact {NAME} --nocapture")])
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, format!("polling: inotify limit reached (fs.inotify.max_user_{word})"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("1 passed"), "{limit}: {said}");
    }
}

/// Counts as skipped, with its reason, where tests are counted.
fn skip(test: &str, reason: &str) {
    println!("skipped: {reason}");
    if let Some(list) = std::env::var_os("STEADFAST_TEST_SKIPS") {
        use std::io::Write;
        let mut list = std::fs::OpenOptions::new().append(true).create(true).open(list).unwrap();
        writeln!(list, "{test}: {reason}").unwrap();
    }
}

#[tokio::test]
async fn what_is_bad_for_unknown_reasons_is_tried_again() {
    let place = Place::new();
    place.write("conf/s.yaml", version("1"));
    let (file, unseen) = (place.path("conf/s.yaml"), place.path("unseen"));
    let path = file.clone();
    let load = move || match unseen.exists() {
        true => read(&path),
        false => Err(crate::state::ReadError::NotFound { file: "unseen".into() }.into()),
    };
    let watching = watch_with(std::slice::from_ref(&file), polling(), Box::new(load), ChangeSource::default()).await;
    let mut seen = Seen { watching, loads: Arc::default() };
    assert_eq!((seen.now().as_str(), seen.mode().as_str()), ("bad", "events"));
    place.write("unseen", "");
    seen.becomes("1").await;
}

/// A file that changes after it was loaded and before it was watched is loaded again.
#[tokio::test]
async fn an_edit_between_loading_and_watching_is_not_lost() {
    let place = Place::new();
    place.write("a.env", "A=1\n");
    place.write("conf/s.yaml", env_file("../a.env"));
    let (file, env) = (place.path("conf/s.yaml"), place.path("a.env"));
    let edits = Mutex::new(vec!["A=3\n", "A=2\n"]);
    let path = file.clone();
    let load = move || {
        let loaded = read(&path);
        if let Some(edit) = edits.lock().unwrap().pop() {
            std::fs::write(&env, edit).unwrap();
        }
        loaded
    };
    let watching = watch_with(std::slice::from_ref(&file), options(), Box::new(load), ChangeSource::default()).await;
    assert_eq!(told(&watching.revisions.borrow()), "1 A=3");
}

#[tokio::test]
async fn it_ends_with_those_who_listen() {
    struct Alive(Arc<()>);
    let place = Place::new();
    place.write("conf/s.yaml", version("1"));
    let token = Arc::new(());
    let (alive, path) = (Alive(token.clone()), place.path("conf/s.yaml"));
    let load = move || {
        let _ = &alive.0;
        read(&path)
    };
    let watching = watch_with(&[place.path("conf/s.yaml")], options(), Box::new(load), ChangeSource::default()).await;
    let copy = watching.clone();
    drop(watching);
    place.write("conf/s.yaml", version("2"));
    let mut revisions = copy.revisions.clone();
    drop(copy);
    revisions.wait_for(|revision| told(revision) == "2").await.unwrap();
    drop(revisions);
    let ended = async {
        while Arc::strong_count(&token) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the task ends");
}
