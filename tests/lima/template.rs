//! What `template/agents-vm.yaml` promises.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::instance::{Instance, limactl, setting, stdout_of};

fn bootable() -> String {
    std::fs::read_to_string(setting("STEADFAST_TEST_LIMA_TEMPLATE")).expect("the test's template")
}

#[track_caller]
fn eventually(mut so: impl FnMut() -> bool, what: &str) {
    let asked = Instant::now();
    while !so() {
        assert!(asked.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn lima_finds_the_template_valid() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("agents-vm.yaml");
    std::fs::write(&file, include_str!("../../template/agents-vm.yaml")).expect("writing the template");
    stdout_of(limactl(&["validate", file.to_str().expect("a path that is text")]));
}

#[test]
fn podman_answers_the_lima_user_and_nobody_else() {
    let vm = Instance::create("t1", &bootable());
    stdout_of(vm.start());

    let socket = vm.path("sock/podman.sock");
    let ping = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--unix-socket"])
        .args([&*socket.to_string_lossy(), "http://podman/_ping"])
        .output();
    assert_eq!(stdout_of(ping.expect("curl")), "OK");

    // The same command, so that only the user makes the difference.
    let inside = ["curl", "-sS", "--max-time", "20", "--unix-socket", "/run/podman/podman.sock", "http://podman/_ping"];
    assert_eq!(stdout_of(vm.shell(&inside)), "OK");
    let denied = vm.shell(&[&["sudo", "-u", "nobody"], &inside[..]].concat());
    assert_eq!(denied.status.code(), Some(7), "curl's code for no connection: {denied:?}");
    assert_eq!(stdout_of(vm.shell(&["sudo", "-u", "nobody", "whoami"])).trim(), "nobody");

    let backend = vm.shell(&["sudo", "podman", "info", "--format", "{{.Host.NetworkBackend}}"]);
    assert_eq!(stdout_of(backend).trim(), "netavark");

    // Lima would forward both of its own accord. It looks for new listeners every few seconds.
    for address in ["127.0.0.1:8099", "0.0.0.0:8098"] {
        let listen = format!("--listen={address}");
        stdout_of(vm.shell(&["sudo", "systemd-run", "--quiet", "systemd-socket-activate", &listen, "/bin/cat"]));
        eventually(|| vm.log().contains(&format!("Not forwarding TCP {address}")), "Lima has noticed the listener");
    }
    assert!(!vm.log().contains("\"Forwarding TCP"), "{}", vm.log());

    // Everything holds again after the next start, over what the first one has left.
    stdout_of(limactl(&["stop", vm.name]));
    assert!(!vm.path("provisioned").exists(), "a stopped VM should not look provisioned");
    stdout_of(vm.start());
    assert_eq!(stdout_of(vm.shell(&inside)), "OK");
}

#[test]
fn a_start_whose_provisioning_failed_is_not_a_success() {
    let template = bootable().replace("    [ \"$answer\" = OK ]\n", "    echo no luck today; false\n");
    assert!(template.contains("no luck today"), "the line to break is not in the template");
    let vm = Instance::create("t2", &template);
    let asked = Instant::now();
    let start = vm.start();
    assert!(!start.status.success(), "the start counted as a success");
    // Not when Lima gives up waiting, after ten minutes, but at once.
    assert!(asked.elapsed() < Duration::from_secs(300), "it took {:?}", asked.elapsed());
    let told = String::from_utf8_lossy(&start.stderr);
    assert!(told.contains("/run/steadfast/provisioned"), "{told}");

    // The reason is on the host, and the VM is there to be looked at.
    let reason = std::fs::read_to_string(vm.path("provision.log")).expect("the log of provisioning");
    assert!(reason.contains("no luck today"), "{reason}");
    stdout_of(vm.shell(&["true"]));
}
