//! A limactl that is missing, too old, hangs, talks nonsense or refuses; and instances that are not what they should be.
//!
//! The stand-in is for these alone: what a machine does is tested with a real one (`tests/lima`).

use std::os::unix::fs::PermissionsExt;

use crate::support::command::Sandbox;

const STATE: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {lima: {instance: agents, template: vm.yaml}}\n\
                     agents: {a: {version: \"1\", image: localhost/a, source: local}}\n";

/// A limactl that does what this script says, after the usual: `$verb` is the verb, `$line` what `list` prints.
fn with(script: &str) -> Sandbox {
    let mut sandbox = Sandbox::unprivileged();
    sandbox.write("vm.yaml", "images: []\n");
    sandbox.write("steadfast.yaml", STATE);
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && verb=version\nfor word in \"$@\"; do case $word in --*) ;; *) verb=${{verb:-$word}} ;; esac; done\n\
         {script}\ncase $verb in version) echo 'limactl version 2.1.4' ;; list) printf '%s\\n' \"$line\" ;; esac\n"
    );
    let path = sandbox.write("bin/limactl", text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bin = sandbox.path("bin");
    sandbox.set("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    sandbox
}

/// The same, with an instance in Lima's home of which `list` says this.
fn with_instance(fields: &str) -> Sandbox {
    let sandbox = with(&format!("line='{{\"name\":\"agents\",{fields}}}'"));
    let lima = sandbox.work().join("../home/.lima/agents");
    std::fs::create_dir_all(&lima).unwrap();
    std::fs::write(lima.join("lima.yaml"), "").unwrap();
    sandbox
}

#[test]
fn one_that_is_missing_is_named_with_the_way_to_get_it() {
    let sandbox = with("");
    std::fs::remove_file(sandbox.path("bin/limactl")).unwrap();
    let outcome = sandbox.run("plan").expect(1);
    outcome.clone().says("there is no `limactl` in PATH");
    sandbox.run("doctor").expect(1).shown();
    let checks = sandbox.run("doctor -o json").expect(1).json();
    assert_eq!(checks["firstFailure"], "limactl", "{checks}");
    sandbox.run("vm start").expect(1).says("there is no `limactl` in PATH").says("brew install lima");
}

#[test]
fn one_that_is_too_old_is_reported_what_is_needed() {
    let sandbox = with("[ $verb = version ] && { echo 'limactl version 1.2.1'; exit 0; }");
    sandbox.run("plan").expect(1).says("Lima 1.2.1 is too old: 2.0.0 or later is needed");
    sandbox.run("vm start").expect(1).says("is too old");
}

#[test]
fn one_that_hangs_is_given_up_after_its_time() {
    let sandbox = with_instance("");
    sandbox.write("bin/limactl", "#!/bin/sh\nexec sleep 1000\n");
    sandbox.run("status").expect(1);
    sandbox.run("plan").expect(1).says("`limactl list` did not end within 15s");
}

#[test]
fn nonsense_is_neither_an_instance_nor_none() {
    for nonsense in ["garbage", "{\"name\":\"agents\"", "[]", "{\"name\":\"other\",\"status\":\"Running\"}", ""] {
        let sandbox = with_instance("");
        sandbox.write("bin/limactl", format!("#!/bin/sh\nprintf '%s\\n' '{nonsense}'\n"));
        let plan = sandbox.run("plan -o json").expect(1).json();
        assert_eq!(
            plan["actions"].as_array().map(Vec::len),
            Some(0),
            "`{nonsense}`: nothing is made or deleted\n{plan}"
        );
        let on: Vec<_> = plan["waiting"].as_array().unwrap().iter().map(|wait| wait["on"].as_str().unwrap()).collect();
        assert!(on.contains(&"sight"), "`{nonsense}`: {plan}");
    }
}

#[test]
fn a_word_that_is_not_known_is_waited_out() {
    let sandbox = with_instance("\"status\":\"Hibernating\",\"param\":{\"steadfastName\":\"demo\"}");
    let plan = sandbox.run("plan -o json").expect(1).json();
    assert_eq!(plan["actions"].as_array().map(Vec::len), Some(0), "{plan}");
    sandbox.run("plan").expect(1).says("Lima says VM `agents` is `Hibernating`");
    assert_eq!(sandbox.run("status -o json").expect(1).json()["vm"]["status"], "Hibernating");
}

#[test]
fn an_instance_of_somebody_else_is_named_and_left_alone() {
    for (param, whose) in [
        ("", "was not made by this state file"),
        (",\"param\":{\"steadfastName\":\"other\"}", "belongs to state file `other`"),
    ] {
        let sandbox = with_instance(&format!("\"status\":\"Stopped\"{param}"));
        for verb in ["plan", "apply --timeout 10s"] {
            sandbox.run(verb).expect(1).says(whose);
        }
        for verb in ["vm start", "vm stop", "vm restart", "vm delete", "vm shell", "logs a"] {
            sandbox.run(verb).expect(1).says(whose).says("--adopt");
        }
        sandbox.run("exec a -- true").expect(125).says(whose);
        for verb in ["down", "down --vm"] {
            sandbox.run(verb).expect(1).says(whose);
        }
        let status = sandbox.run("status").expect(1).stdout;
        assert!(status.contains(&format!("VM `agents` is stopped: it {whose}")), "{status}");
    }
}

#[test]
fn a_directory_that_is_no_instance_is_named() {
    let sandbox = with("");
    let dir = sandbox.work().join("../home/.lima/agents");
    std::fs::create_dir_all(dir).unwrap();
    sandbox.run("plan").expect(1).says("is not an instance of Lima's: it has no lima.yaml");
    sandbox.run("vm delete").expect(1).says("move it away");
}

#[test]
fn a_template_that_lima_refuses_is_reported_in_its_words() {
    let refuses = "[ $verb = create ] && { cat >\"$HOME/given\"; echo 'time=\"t\" level=fatal msg=\"failed to validate: field `images` must be set\"' >&2; exit 1; }";
    let sandbox = with(refuses);
    let outcome = sandbox.run("apply --timeout 5s");
    outcome.expect(1).says("`limactl create --name=agents` failed: failed to validate: field `images` must be set");
    let given = std::fs::read_to_string(sandbox.work().join("../home/given")).unwrap();
    assert!(given.contains("steadfastName: demo") && given.contains("steadfastTemplate: "), "{given}");
}

#[test]
fn a_state_file_without_a_machine_has_nothing_for_these_verbs() {
    let sandbox = with("");
    sandbox.write(
        "steadfast.yaml",
        STATE.replace("{lima: {instance: agents, template: vm.yaml}}", "{podman: {socket: /nowhere.sock}}"),
    );
    sandbox.run("vm status").expect(1).says("it has no virtual machine");
    sandbox.run("down --vm").expect(1);
}

/// Lima says so itself, in other words for each verb.
#[test]
fn root_is_sent_to_the_machines_user() {
    if !rustix::process::geteuid().is_root() {
        return crate::support::command::skip("only root can be root");
    }
    let sandbox = Sandbox::new();
    sandbox.write("vm.yaml", "images: []\n");
    sandbox.write("steadfast.yaml", STATE);
    sandbox.run("plan").expect(1).says("Lima does not run as root");
    sandbox.run("vm start").expect(1).says("run steadfast as the user whose virtual machine it is");
}
