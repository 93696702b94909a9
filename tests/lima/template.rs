//! What `template/agents-vm.yaml` promises.

use crate::instance::{limactl, stdout_of};

#[test]
fn lima_finds_the_template_valid() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("agents-vm.yaml");
    std::fs::write(&file, include_str!("../../template/agents-vm.yaml")).expect("writing the template");
    stdout_of(limactl(&["validate", file.to_str().expect("a path that is text")]));
}
