//! `run` as a whole command, over a Podman with nothing in it.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::sockets::{Manner, on};
use crate::support::command::{Running, Sandbox};

fn status_has_run(sandbox: &Sandbox) -> bool {
    let outcome = sandbox.run("status --exit-zero -o json");
    outcome.code == 0 && outcome.json().get("run").is_some_and(serde_json::Value::is_object)
}

fn until_found(run: &mut Running, sandbox: &Sandbox) {
    run.until("it is found", |_| status_has_run(sandbox));
}

#[test]
fn run_is_found_again_after_its_files_were_removed() {
    let (sandbox, _fake) = on(Manner::Podman);
    let mut run = sandbox.spawn("run");
    until_found(&mut run, &sandbox);
    let id = std::fs::read(sandbox.root().join("state/id")).unwrap();
    let state = sandbox.root().join("state/demo");
    let lost: [PathBuf; 4] = [sandbox.root(), state.clone(), state.join("lock"), state.join("control.sock")];
    for (round, lost) in lost.iter().enumerate() {
        match lost.is_dir() {
            true => std::fs::remove_dir_all(lost).unwrap(),
            false => std::fs::remove_file(lost).unwrap(),
        }
        run.until("it is said", |run| run.stderr().matches("control socket are restored").count() == round + 1);
        assert!(status_has_run(&sandbox), "{}", lost.display());
        sandbox.run("run --lock-timeout 0s").expect(5).says("`steadfast run` (pid");
        assert_eq!(std::fs::read(sandbox.root().join("state/id")).unwrap(), id);
        assert!(sandbox.root().join("state/demo/file.json").is_file());
        let history = sandbox.run("history").expect(0).stdout;
        assert!(history.contains("lock and control socket were removed, and are restored"), "{history}");
    }
    run.signal(Signal::TERM);
    run.end().expect(143);
    assert!(!state.join("control.sock").exists());
}

/// Each line of the log is an event in the directory that is watched.
#[test]
fn a_log_beside_the_state_file_does_not_feed_on_itself() {
    let (mut sandbox, _fake) = on(Manner::Podman);
    sandbox.set("STEADFAST_LOG", "trace");
    let log = sandbox.path("run.log");
    let mut command = sandbox.command("run");
    let mut run =
        command.stdout(File::create(sandbox.path("out")).unwrap()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let size = std::fs::metadata(&log).unwrap().len();
    let pid = rustix::process::Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = run.try_wait().unwrap() {
            break status;
        }
        if std::time::Instant::now() > deadline {
            run.kill().unwrap();
            panic!("SIGTERM is not obeyed");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(143));
    assert!(size < 1 << 20, "{size} bytes in 4 s");
}
