//! `service`, with a `systemctl` that writes down what it is told: no machine that builds this has a systemd to play with.
#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::command::Sandbox;

const STATE: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nagents:\n  hello: {version: \"1\", image: a/b, source: local}\n";
const UNIT: &str = "steadfast-demo.service";

/// A sandbox whose `systemctl` notes its arguments, and fails at what is named in a file `fails`.
fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", STATE);
    let script = format!(
        "#!/bin/sh\necho \"$*\" >>'{0}/told'\ncase \"$*\" in *is-enabled*) echo enabled;; *is-active*) echo active;; esac\n\
         if [ -f '{0}/fails' ] && case \"$*\" in *\"$(cat '{0}/fails')\"*) true;; *) false;; esac; then echo 'it failed' >&2; exit 1; fi\n",
        sandbox.work().display()
    );
    let path = sandbox.write("bin/systemctl", script);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bin = sandbox.path("bin").display().to_string();
    sandbox.set("PATH", format!("{bin}:/usr/bin:/bin"));
    sandbox
}

fn unit(sandbox: &Sandbox) -> PathBuf {
    sandbox.work().parent().unwrap().join("home/.config/systemd/user").join(UNIT)
}

/// What `systemctl` was told since the last time, without what goes with everything.
fn told(sandbox: &Sandbox) -> Vec<String> {
    let text = std::fs::read_to_string(sandbox.path("told")).unwrap_or_default();
    let _ = std::fs::remove_file(sandbox.path("told"));
    text.lines().map(|line| line.replace("--user --no-pager --no-ask-password ", "")).collect()
}

#[test]
fn what_a_kill_left_of_the_unit_is_taken_or_removed() {
    let sandbox = sandbox();
    let dir = unit(&sandbox).parent().unwrap().to_owned();
    std::fs::create_dir_all(&dir).unwrap();
    let names = || std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let units: [&[&str]; 3] = [&[UNIT], &[UNIT], &[]];
    for (verb, left) in ["install --no-start", "install --no-start", "uninstall"].into_iter().zip(units) {
        std::fs::write(dir.join(format!(".steadfast-tmp-{UNIT}~")), "[Uni").unwrap();
        sandbox.run(format!("service {verb} --user")).expect(0);
        assert_eq!(names(), left, "{verb}");
    }
}

#[test]
fn it_is_installed_once_seen_and_uninstalled() {
    let sandbox = sandbox();
    let outcome = sandbox.run("service install --user").expect(0);
    let written = std::fs::read_to_string(unit(&sandbox)).unwrap();
    let state = sandbox.path("steadfast.yaml");
    assert!(
        written.contains(&format!("\nExecStart={} run -f {}\n", env!("CARGO_BIN_EXE_steadfast"), state.display())),
        "{written}"
    );
    assert!(
        outcome.stdout.contains(&unit(&sandbox).display().to_string()) && outcome.stdout.contains(&written),
        "{}",
        outcome.stdout
    );
    assert!(outcome.stderr.contains("loginctl enable-linger"), "{}", outcome.stderr);
    let enable = format!("enable {UNIT}");
    assert_eq!(told(&sandbox), ["show --property=Version", "daemon-reload", &enable, &format!("restart {UNIT}")]);
    // Once more changes nothing, and sees that it runs.
    let outcome = sandbox.run("service install --user").expect(0);
    assert!(outcome.stdout.contains("is as it should be"), "{}", outcome.stdout);
    assert_eq!(told(&sandbox)[3], format!("start {UNIT}"));

    let status = sandbox.run("service status --user -o json").expect(0).json();
    assert_eq!((&status["installed"], &status["ours"]), (&true.into(), &true.into()), "{status}");
    assert_eq!((&status["enabled"], &status["active"]), (&"enabled".into(), &"active".into()), "{status}");
    told(&sandbox);
    // Also when the state file is gone.
    std::fs::remove_file(state).unwrap();
    sandbox.run("service uninstall --user").expect(65).says("give --name");
    let outcome = sandbox.run("service uninstall --user --name demo").expect(0);
    assert!(
        outcome.stdout.contains("agents of `demo` go on running; `steadfast down` removes them"),
        "{}",
        outcome.stdout
    );
    assert_eq!(told(&sandbox), ["show --property=Version", &format!("disable --now {UNIT}"), "daemon-reload"]);
    assert!(!unit(&sandbox).exists());
    assert!(sandbox.run("service uninstall --user --name demo").expect(0).stdout.contains("is not installed"));
}

#[test]
fn what_is_not_ours_or_differs_is_not_written_over() {
    let sandbox = sandbox();
    let path = unit(&sandbox);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "[Unit]\n").unwrap();
    sandbox.run("service install --user").expect(1).says("was not written by steadfast").says("--force");
    sandbox.run("service uninstall --user").expect(1).says("was not written by steadfast");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "[Unit]\n");
    sandbox.run("service install --user --force").expect(0);
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "# mine\n").unwrap();
    sandbox.run("service install --user").expect(1).says("differs from what would be written");
}

#[test]
fn without_a_service_manager_it_says_so_and_can_still_be_written() {
    let mut sandbox = sandbox();
    sandbox.set("PATH", "/nowhere");
    sandbox.run("service install --user").expect(1).says("no systemd of this user answers").says("--print");
    assert!(!unit(&sandbox).exists(), "nothing was written");
    let printed = sandbox.run("service install --user --print").expect(0).stdout;
    assert!(!unit(&sandbox).exists() && !sandbox.root().exists(), "nothing was written");
    sandbox.run("service install --user --no-start").expect(0).says("systemctl --user daemon-reload");
    assert_eq!(std::fs::read_to_string(unit(&sandbox)).unwrap(), printed);
    assert_eq!(sandbox.run("service status --user -o json").expect(0).json()["active"], "unknown");
}

#[test]
fn flags_of_run_are_passed_on_and_checked() {
    let sandbox = sandbox();
    let printed = sandbox.run("service install --user --print -- --resync 1m --no-prune").expect(0).stdout;
    assert!(printed.contains("/steadfast.yaml --resync 1m --no-prune\n"), "{printed}");
    sandbox.run("service install --user -- --bogus").expect(64).says("`run` does not take these flags").says("--bogus");
    assert!(!unit(&sandbox).exists());
}

#[test]
fn a_start_that_fails_names_the_log() {
    let sandbox = sandbox();
    sandbox.write("fails", "restart");
    let outcome = sandbox.run("service install --user").expect(1);
    outcome.says("`systemctl restart steadfast-demo.service` failed: it failed").says("journalctl --user -u");
}

#[test]
fn a_broken_state_file_or_a_pipe_is_refused() {
    let sandbox = sandbox();
    sandbox.write("steadfast.yaml", "name: demo\n");
    sandbox.run("service install --user").expect(65).says("`apiVersion` is missing");
    sandbox.feed("service install --user -f -", STATE).expect(64).says("a pipe can be read once");
    assert!(!unit(&sandbox).exists() && told(&sandbox).is_empty());
}

/// The unit finds what this shell finds, and holds no value that may be a secret.
#[test]
fn what_the_environment_adds_is_reported_by_name_alone() {
    let mut sandbox = sandbox();
    let state = STATE.replace(
        ", source: local",
        ", source: local, container: {env: {A: \"${env:TOKEN}\", B: \"${env:UNSET:-x}\", C: \"${env:SET:-x}\"}}",
    );
    sandbox.write("steadfast.yaml", format!("# ${{env:IN_A_COMMENT}}\n{state}"));
    sandbox
        .set("TOKEN", "canary-a")
        .set("SET", "canary-b")
        .set("STEADFAST_MANIFEST_URL", "https://h/m.json?sig=canary-c");
    let root = sandbox.path("elsewhere");
    sandbox.set("CONTAINER_HOST", "unix:///run/other.sock").set("STEADFAST_ROOT", &root);
    let outcome = sandbox.run("service install --user").expect(0).says("not started").keeps_quiet_about(&["canary"]);
    let text = std::fs::read_to_string(unit(&sandbox)).unwrap();
    let needs: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# needs: ")).collect();
    assert_eq!(needs, ["SET", "TOKEN", "STEADFAST_MANIFEST_URL"], "{text}");
    assert!(outcome.stderr.contains("SET, TOKEN, STEADFAST_MANIFEST_URL"), "{}", outcome.stderr);
    assert!(text.contains("\nEnvironment=CONTAINER_HOST=unix:///run/other.sock\n"), "{text}");
    assert!(text.contains(&format!(" --root {}\n", sandbox.path("elsewhere").display())), "{text}");
    assert!(!text.contains("canary") && !text.contains("podman.socket"), "{text}");
    assert_eq!(told(&sandbox), ["show --property=Version"]);
    // Given what it lacks, it starts.
    let drop_in = PathBuf::from(format!("{}.d", unit(&sandbox).display()));
    std::fs::create_dir_all(&drop_in).unwrap();
    std::fs::write(drop_in.join("override.conf"), "[Service]\nEnvironmentFile=/x\n").unwrap();
    sandbox.run("service install --user").expect(0);
    assert_eq!(told(&sandbox)[3], format!("start {UNIT}"));
}

#[test]
fn a_service_reads_all_the_files_that_are_merged() {
    let sandbox = sandbox();
    sandbox.write("prod/prod.yaml", "agents: {hello: {version: \"${env:VERSION_OF_HELLO}\"}}\n");
    let mut set = sandbox;
    set.set("VERSION_OF_HELLO", "2");
    let unit = set.run("service install --user --print -f steadfast.yaml -f prod/prod.yaml").expect(0).stdout;
    let (first, second) = (set.path("steadfast.yaml"), set.path("prod/prod.yaml"));
    assert!(unit.contains(&format!(" run -f {} -f {}\n", first.display(), second.display())), "{unit}");
    assert!(unit.contains("VERSION_OF_HELLO"), "{unit}");
}
