//! Commands while `run` keeps the state file: a lock that is held and a socket that is served stand in for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use steadfast::control::StateFiles;
use steadfast::reconcile::lock::{self, Claim, Lock, RUN};

use crate::control::{Served, Small, until};
use crate::sockets::{Fake, Manner, on, state};
use crate::support::command::{Outcome, Sandbox};

/// A sandbox whose state file `run` keeps, as far as others can see.
struct Kept {
    sandbox: Sandbox,
    fake: Fake,
    lock: Option<Lock>,
}

impl Kept {
    fn start() -> Self {
        let (sandbox, fake) = on(Manner::Podman);
        let mut kept = Self { sandbox, fake, lock: None };
        kept.hold();
        kept
    }

    fn dir(&self) -> PathBuf {
        self.sandbox.root().join("state/demo")
    }

    fn file(&self) -> PathBuf {
        self.sandbox.path("steadfast.yaml")
    }

    fn hold(&mut self) {
        self.hold_for(&[self.file()]);
    }

    /// As if `run` kept these files.
    fn hold_for(&mut self, files: &[PathBuf]) {
        self.lock = None;
        let (path, files) = (self.dir().join("lock"), StateFiles::new(files).unwrap());
        let claim = Claim { command: RUN, files: Some(&files) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        self.lock = Some(runtime.block_on(lock::take(&path, claim, Duration::ZERO, |_| {})).unwrap());
    }

    fn serve(&self, small: Small) -> Served {
        Served::start(&self.dir(), small)
    }

    /// A status as `run` would publish it.
    fn view(&self) -> Value {
        json!({
            "name": "demo", "converged": true, "observedAt": "2026-04-24T00:00:00Z", "manifest": null, "vm": null,
            "podman": {"reachable": true, "version": "5.9.9-from-run"},
            "agents": {"hello": {
                "desired": {"state": "running", "version": "1"}, "sync": "Synced", "health": "Healthy", "ready": true,
                "container": {"id": "0123456789abcdef", "name": "demo-hello", "state": "running"},
                "image": null, "artifact": null, "conditions": [],
            }},
            "orphans": [],
            "run": {
                "pid": 42, "since": "2026-04-23T00:00:00Z", "version": "0.1.0", "file": self.file(), "wokenBy": "startup",
                "lastPassAt": "2026-04-24T00:00:00Z", "passes": 1, "stateFileError": null, "watching": "events",
                "notRecorded": null, "backingOff": [],
            },
        })
    }

    /// Without what differs each time.
    fn shown(&self, outcome: &Outcome) -> String {
        let holder: Value = serde_json::from_str(&std::fs::read_to_string(self.dir().join("lock")).unwrap()).unwrap();
        let shown = outcome.shown().replace(&self.file().display().to_string(), "<file>");
        let pid = holder["pid"].to_string();
        shown
            .replace(&format!("pid {pid}"), "pid <pid>")
            .replace(&format!("kill {pid}"), "kill <pid>")
            .replace(holder["since"].as_str().unwrap(), "<since>")
    }
}

fn outcome(file: &Path) -> Value {
    json!({
        "name": "demo", "converged": true, "durationMs": 1234,
        "actions": [{"kind": "createContainer", "agent": "hello", "target": "demo-hello", "reason": "it is not there",
            "result": "done", "durationMs": 900}],
        "problems": [], "troubles": [], "notes": ["a note"], "left": [], "ended": "proved",
        "file": file, "stateFileError": null, "exitCode": 0,
    })
}

fn step() -> Value {
    json!({"event": "step", "kind": "createContainer", "agent": "hello", "target": "demo-hello",
        "action": "create container `demo-hello`", "reason": "it is not there", "result": "done", "durationMs": 900})
}

#[test]
fn who_cannot_ask_run_leaves_it_alone_at_once() {
    let kept = Kept::start();
    let refused = kept.sandbox.run("down --lock-timeout 24h").expect(5);
    insta::assert_snapshot!("down_while_run_keeps_it", kept.shown(&refused));
    // Nobody serves the socket.
    for apply in ["apply --lock-timeout 24h", "apply --wait", "apply --no-wait"] {
        let refused = kept.sandbox.run(apply).expect(5);
        insta::assert_snapshot!("apply_without_a_socket", kept.shown(&refused));
    }
    // Those who only observe do not mind.
    kept.sandbox.run("plan").expect(1).says("does not exist");
    kept.sandbox.run("status").expect(3);
}

#[test]
fn another_state_file_of_the_same_name_is_distinguished() {
    let kept = Kept::start();
    let served = kept.serve(Small { outcome: Some(outcome(&kept.file())), ..Small::new(kept.view()) });
    kept.sandbox.write("other.yaml", state(&kept.fake.path()));
    let refused = kept.sandbox.run("apply -f other.yaml").expect(5);
    insta::assert_snapshot!("apply_of_another_file", kept.shown(&refused));
    kept.sandbox.run("apply -f other.yaml --wait").expect(5).says("reconciles another state file of this name");
    kept.sandbox.feed("apply -f - --wait", state(&kept.fake.path())).expect(5).says("reconciles another state file");
    assert_eq!(served.small.asked.load(Ordering::SeqCst), 0, "nothing was asked");
    // What `run` sees is not what this file wants.
    let status = kept.sandbox.run("status -f other.yaml -o json").expect(3).json();
    assert_eq!(status.get("run"), None);
    // By another path, it is the same file.
    std::os::unix::fs::symlink(kept.file(), kept.sandbox.path("link.yaml")).unwrap();
    kept.sandbox.run("apply -f link.yaml --wait").expect(0);
}

/// What `status` exits with 65 or 3 for is not well.
#[test]
fn doctor_goes_by_what_run_says() {
    let kept = Kept::start();
    kept.sandbox.write(
        "steadfast.yaml",
        format!("{}agents: {{}}\n", state(&kept.fake.path()).split("agents:").next().unwrap()),
    );
    let doctor = |view: Value| {
        let served = kept.serve(Small::new(view));
        let doctor = kept.sandbox.run("doctor");
        drop(served);
        doctor
    };
    let mut view = kept.view();
    view["agents"] = json!({});
    assert!(doctor(view.clone()).expect(0).stdout.contains("everything is well"));
    view["run"]["stateFileError"] = json!({"since": "2026-04-24T00:00:00Z", "message": "there are no agents"});
    let broken = doctor(view.clone()).expect(1).stdout;
    assert!(broken.contains("cannot use the state file: there are no agents"), "{broken}");
    view["run"]["stateFileError"] = Value::Null;
    view["converged"] = json!(false);
    let busy = doctor(view).expect(1).stdout;
    assert!(busy.contains("fix: `steadfast run` is at work on it"), "{busy}");

    std::fs::remove_file(kept.file()).unwrap();
    let gone = kept.sandbox.run("doctor").expect(1).stdout;
    assert!(gone.contains("fix: put it back; `steadfast run` (pid"), "{gone}");
}

#[test]
fn doctor_says_that_run_tries_again_only_where_it_does() {
    let kept = Kept::start();
    let fix = |reason: &str, backing_off: Value| {
        let mut view = kept.view();
        let agent = &mut view["agents"]["hello"];
        (agent["ready"], agent["health"]) = (json!(false), json!("Degraded"));
        agent["conditions"] = json!([{"type": "Ready", "status": "False", "reason": reason, "message": "m",
            "lastTransitionTime": "2026-04-24T00:00:00Z"}]);
        view["converged"] = json!(false);
        view["run"]["backingOff"] = backing_off;
        let served = kept.serve(Small::new(view));
        let said = kept.sandbox.run("doctor").expect(1).stdout;
        drop(served);
        said.lines().find(|line| line.contains("fix: ")).unwrap().to_owned()
    };
    let off = |at: Value| json!([{"agent": "hello", "cause": "c", "failures": 2, "retryAt": at}]);
    let later = fix("BackingOff", off(json!("2026-04-24T00:05:00Z")));
    assert!(later.contains("`steadfast run` tries again at 2026-04-24T00:05:00Z"), "{later}");
    let held = fix("RolledBack", off(Value::Null));
    assert!(held.contains("tries again once the state file changes"), "{held}");
    let failed = fix("Failed", json!([]));
    assert!(failed.contains("why hello") && !failed.contains("steadfast run"), "{failed}");
}

#[test]
fn apply_has_run_do_it() {
    let kept = Kept::start();
    let small = Small { outcome: Some(outcome(&kept.file())), steps: vec![step()], ..Small::new(kept.view()) };
    let served = kept.serve(small);
    for apply in ["apply", "apply --wait"] {
        let done = kept.sandbox.run(apply).expect(0);
        insta::assert_snapshot!("apply_wait", kept.shown(&done));
    }
    let done = kept.sandbox.run("apply -o json").expect(0).json();
    let keys: Vec<_> = done.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["name", "converged", "actions", "durationMs", "problems"], "as of any apply");
    assert_eq!(done["actions"], outcome(&kept.file())["actions"]);
    assert_eq!(served.small.asked.load(Ordering::SeqCst), 3);

    // What it cannot do otherwise than the file says.
    let refused = kept.sandbox.run("apply --only hello --no-prune").expect(64);
    insta::assert_snapshot!("apply_wait_with_flags", kept.shown(&refused));
    for flag in ["--adopt", "--allow-empty"] {
        for wait in ["--wait", "--no-wait"] {
            kept.sandbox.run(format!("apply {wait} {flag}")).expect(64).says(flag);
        }
    }
    assert_eq!(served.small.asked.load(Ordering::SeqCst), 3, "nothing was asked");
}

#[test]
fn apply_no_wait_hands_it_over() {
    let kept = Kept::start();
    let mut begun = outcome(&kept.file());
    begun["converged"] = json!(false);
    begun["actions"] = json!([]);
    begun["ended"] = json!("timedOut");
    begun["exitCode"] = json!(3);
    begun["left"] = json!(["create container `demo-hello`"]);
    let served = kept.serve(Small { outcome: Some(begun.clone()), ..Small::new(kept.view()) });
    let done = kept.sandbox.run("apply --no-wait").expect(0);
    insta::assert_snapshot!("apply_no_wait", kept.shown(&done));
    let done = kept.sandbox.run("apply --no-wait -o json").expect(0).json();
    assert_eq!((&done["converged"], &done["actions"]), (&json!(false), &json!([])));
    assert_eq!(served.small.asked.load(Ordering::SeqCst), 2);
    drop(served);
    // It was done already, or cannot be begun.
    let _served = kept.serve(Small { outcome: Some(outcome(&kept.file())), ..Small::new(kept.view()) });
    let done = kept.sandbox.run("apply --no-wait").expect(0);
    assert!(done.stdout.contains("converged"), "{}", done.stdout);
    drop(_served);
    begun["stateFileError"] = json!("steadfast.yaml:1:1: the file is empty");
    begun["exitCode"] = json!(65);
    let _served = kept.serve(Small { outcome: Some(begun), ..Small::new(kept.view()) });
    kept.sandbox.run("apply --no-wait").expect(65).says("the file is empty");
}

#[test]
fn apply_wait_ends_as_the_work_did() {
    let kept = Kept::start();
    let mut failed = outcome(&kept.file());
    failed["converged"] = json!(false);
    failed["actions"][0]["result"] = json!("failed");
    failed["problems"] = json!([{"agent": "hello", "kind": "notFound", "message": "no such image", "hint": "load it"}]);
    failed["left"] = json!(["create container `demo-hello`"]);
    failed["exitCode"] = json!(3);
    let step = json!({"event": "step", "kind": "createContainer", "target": "demo-hello",
        "action": "create container `demo-hello`", "reason": "it is not there", "result": "failed",
        "durationMs": 1, "error": {"kind": "notFound", "message": "no such image"}});
    let served = kept.serve(Small { outcome: Some(failed.clone()), steps: vec![step], ..Small::new(kept.view()) });
    let ended = kept.sandbox.run("apply --wait").expect(3);
    insta::assert_snapshot!("apply_wait_not_converged", kept.shown(&ended));
    let json = kept.sandbox.run("apply --wait -o json").expect(3).json();
    assert_eq!(json["problems"], json!([{"agent": "hello", "kind": "notFound", "message": "no such image"}]));
    drop(served);

    // It changed to something unusable after it was looked at here.
    let mut invalid = outcome(&kept.file());
    invalid["stateFileError"] = json!("steadfast.yaml:1:1: the file is empty");
    invalid["exitCode"] = json!(65);
    let _served = kept.serve(Small { outcome: Some(invalid), ..Small::new(kept.view()) });
    kept.sandbox.run("apply --wait").expect(65).says("steadfast.yaml:1:1: the file is empty");
    // Or it cannot be used here at all: `run` has an environment of its own.
    let text = state(&kept.fake.path()).replace("a/b", "\"${env:IMAGE}\"");
    kept.sandbox.write("steadfast.yaml", text);
    for apply in ["apply", "apply --wait"] {
        kept.sandbox.run(apply).expect(65).says("its last good state was reconciled");
    }
}

#[test]
fn who_no_longer_waits_leaves_run_alone() {
    let kept = Kept::start();
    let mut served = kept.serve(Small::new(kept.view()));
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let waiting = kept.sandbox.spawn("apply --wait");
        until("it is asked", || served.small.working.load(Ordering::SeqCst) == 1);
        waiting.signal(signal);
        waiting.end().expect(code).says("no longer waiting");
        until("nobody waits", || served.small.working.load(Ordering::SeqCst) == 0);
    }
    // A run that stops, or that is killed.
    let waiting = kept.sandbox.spawn("apply --wait");
    until("it is asked", || served.small.working.load(Ordering::SeqCst) == 1);
    served.stop();
    let stopped = waiting.end().expect(1);
    insta::assert_snapshot!("apply_wait_while_run_stops", kept.shown(&stopped));
}

#[test]
fn apply_wait_does_it_itself_where_nobody_runs() {
    let mut kept = Kept::start();
    drop(kept.lock.take());
    let none = state(&kept.fake.path()).replace("\n  hello: {version: \"1\", image: a/b, source: local}", " {}");
    kept.sandbox.write("steadfast.yaml", none);
    let done = kept.sandbox.run("apply --wait --no-prune").expect(0);
    assert!(done.stdout.contains("nothing to do"), "{}", done.stdout);
    assert!(std::fs::read_to_string(kept.dir().join("lock")).unwrap().contains("\"file\""), "it says for which file");
}

#[test]
fn status_is_what_run_sees() {
    let kept = Kept::start();
    let served = kept.serve(Small::new(kept.view()));
    let status = kept.sandbox.run("status").expect(0);
    insta::assert_snapshot!("status_of_run", kept.shown(&status));
    assert_eq!(kept.sandbox.run("status -o json").expect(0).json(), kept.view());

    // All that may be worth knowing of it.
    let mut view = kept.view();
    view["podman"] = json!({"reachable": false, "version": null, "error": "no socket"});
    view["run"]["watching"] = json!("polling: the inotify limit is reached");
    view["run"]["notRecorded"] = json!("the journal: no space left on device");
    let waits = json!({"agent": "hello", "cause": "no such image", "failures": 3, "retryAt": "2026-04-24T00:05:00Z"});
    view["run"]["backingOff"] = json!([waits]);
    served.small.status.send_replace(view.into());
    let status = kept.sandbox.run("status").expect(1);
    insta::assert_snapshot!("status_of_run_with_warnings", kept.shown(&status));
    drop(served);

    // Without an answer we observe ourselves.
    let own = kept.sandbox.run("status -o json").expect(3).json();
    assert_eq!((own.get("run"), &own["podman"]["version"]), (None, &json!("4.3.1")));
    let _mute = std::os::unix::net::UnixListener::bind(kept.dir().join("control.sock")).unwrap();
    let own = kept.sandbox.run("status -o json").expect(3).json();
    assert_eq!(own["podman"]["version"], "4.3.1");
}

#[test]
fn status_shows_what_run_keeps_while_the_file_is_broken_or_gone() {
    let mut kept = Kept::start();
    let mut view = kept.view();
    view["run"]["stateFileError"] =
        json!({"since": "2026-04-24T00:00:00Z", "message": "steadfast.yaml:1:1: it is broken"});
    let mut served = kept.serve(Small::new(view));
    let good = state(&kept.fake.path());
    let broken = [
        ("wrong", good.replace("agents:", "agent:")),
        ("no YAML", "{".to_owned()),
        ("empty", String::new()),
        ("of another name", good.replace("name: demo", "name: other")),
        ("of another root", format!("root: ./elsewhere\n{good}")),
    ];
    for (what, text) in broken {
        kept.sandbox.write("steadfast.yaml", text);
        let status = kept.sandbox.run("status").expect(65);
        assert!(status.stdout.contains("Podman 5.9.9-from-run"), "{what}: {}", status.stdout);
        assert!(status.stdout.contains("    steadfast.yaml:1:1: it is broken"), "{what}: {}", status.stdout);
    }
    std::fs::remove_file(kept.file()).unwrap();
    let status = kept.sandbox.run("status").expect(65);
    insta::assert_snapshot!("status_of_run_without_its_file", kept.shown(&status));
    let json = kept.sandbox.run("status -o json").expect(65).says("error: steadfast.yaml:1:1: it is broken").json();
    assert_eq!(json["run"]["stateFileError"]["message"], "steadfast.yaml:1:1: it is broken");
    // `run` can use what we cannot.
    served.small.status.send_replace(kept.view().into());
    kept.sandbox.write("steadfast.yaml", good.replace("a/b", "\"${env:IMAGE}\""));
    let status = kept.sandbox.run("status").expect(0).says("`IMAGE` is not set").says("it has another environment");
    assert!(status.stdout.contains("converged"), "{}", status.stdout);

    // Nobody there: as ever.
    served.stop();
    drop(kept.lock.take());
    kept.sandbox.run("status").expect(65).says("`IMAGE` is not set");
}

#[test]
fn a_watch_follows_run_and_looks_itself_while_it_is_away() {
    let mut kept = Kept::start();
    let mut served = kept.serve(Small::new(kept.view()));
    let mut watching = kept.sandbox.spawn("status --watch");
    watching.until("run's view", |watching| watching.stdout().contains("5.9.9-from-run"));
    let mut view = kept.view();
    view["converged"] = json!(false);
    served.small.status.send_replace(view.into());
    watching.until("the change", |watching| watching.stdout().contains("not converged"));
    assert_eq!(watching.stdout().matches("5.9.9-from-run").count(), 2, "{}", watching.stdout());

    served.stop();
    drop(kept.lock.take());
    watching.until("its own look", |watching| watching.stdout().contains("Podman 4.3.1"));
    kept.hold();
    let _served = kept.serve(Small::new(kept.view()));
    watching.until("run's view again", |watching| watching.stdout().matches("5.9.9-from-run").count() == 3);
    assert!(!watching.has_ended());
}

#[test]
fn a_watch_ends_with_its_reader() {
    let mut kept = Kept::start();
    // While `run` says nothing new, and while nobody runs and nothing changes.
    for runs in [true, false] {
        let _served = runs.then(|| kept.serve(Small::new(kept.view())));
        if !runs {
            drop(kept.lock.take());
        }
        let mut command = kept.sandbox.command("status --watch");
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut byte = [0; 1];
        std::io::Read::read_exact(&mut stdout, &mut byte).unwrap();
        drop(stdout);
        let child = std::sync::Mutex::new(child);
        until("it ends", || child.lock().unwrap().try_wait().unwrap().is_some());
        assert_eq!(child.into_inner().unwrap().wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_run_of_more_files_keeps_another_state_file() {
    let mut kept = Kept::start();
    let prod = kept.sandbox.write("prod.yaml", "agents: {}\n");
    kept.hold_for(&[kept.file(), prod.clone()]);
    let both = format!("another state file of this name: `{}, {}`", kept.file().display(), prod.display());
    kept.sandbox.run("down").expect(5).says(&both);
    kept.sandbox.run("down -f steadfast.yaml -f prod.yaml").expect(5).says("reconciles this state file");
    kept.sandbox.run("down -f prod.yaml -f steadfast.yaml").expect(5).says(&both);
}
