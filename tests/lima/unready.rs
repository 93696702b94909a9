//! A machine that does not become ready.

use std::time::{Duration, Instant};

use crate::instance::setting;
use crate::world::sandbox;

/// Lima itself would leave it running, and call it so.
#[test]
fn a_machine_whose_provisioning_failed_does_not_stay_up() {
    let template = std::fs::read_to_string(setting("STEADFAST_TEST_LIMA_TEMPLATE")).expect("the test's template");
    let template = template.replace("    [ \"$answer\" = OK ]\n", "    echo no luck today; false\n");
    assert!(template.contains("no luck today"), "the line to break is not in the template");
    let sandbox = sandbox();
    sandbox.write("vm.yaml", template);
    let state = "apiVersion: steadfast/v1\nname: luckless\nruntime: {lima: {instance: luckless, template: vm.yaml}}\n\
                 agents: {a: {version: \"1\", image: localhost/a, source: local}}\n";
    sandbox.write("steadfast.yaml", state);
    let asked = Instant::now();
    let outcome = sandbox.run("apply").expect(1).says("did not become ready").says("no luck today");
    // Not when Lima gives up waiting, after ten minutes, but at once; and once.
    assert!(asked.elapsed() < Duration::from_secs(400), "it took {:?}\n{}", asked.elapsed(), outcome.stderr);
    assert_eq!(outcome.stderr.matches("✗ start VM `luckless`").count(), 1, "it failed, once: {}", outcome.stderr);
    assert_eq!(sandbox.run("status -o json").json()["vm"]["status"], "Stopped");
    sandbox.run("vm delete").expect(0);
    assert!(!setting("STEADFAST_TEST_LIMA_HOME").join("luckless").exists());
}
