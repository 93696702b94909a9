//! What is sensitive in a session that a state file declares: its command has it, and nobody else.

use serde_json::Value;

use crate::declared::{declare, is_settled, pid, said, steps};
use crate::world::World;

#[test]
fn secrets_of_a_session_reach_its_command_and_nothing_else() {
    const CANARIES: [&str; 4] = ["canary-env", "canary-word", "canary-dir", "canary-token"];
    let mut world = World::new();
    world.sandbox.set("IN_ENV", CANARIES[0]).set("IN_COMMAND", CANARIES[1]).set("IN_CWD", format!("/{}", CANARIES[2]));
    let state = |cwd: &str, rest: &str| {
        declare(
            &world,
            "",
            &format!(
                "sessions: {{pi: {{command: [sh, -c, \"echo $VALUE $API_TOKEN $1; {rest}\", sh, \"${{env:IN_COMMAND}}\"], env: {{VALUE: \
                 \"${{env:IN_ENV}}\", API_TOKEN: canary-token}}{cwd}, restart: no}}}}"
            ),
        );
    };
    let quiet = |expected: &[i32]| {
        let verbs = ["plan", "apply", "status", "why coder", "doctor", "plan", "history", "session list"];
        for verb in verbs {
            for flags in ["-vv", "-vv --log-format json -o json"] {
                let outcome = world.run(format!("{verb} {flags}"));
                assert!(expected.contains(&outcome.code), "{verb}: {}", outcome.shown());
                outcome.keeps_quiet_about(&CANARIES);
            }
        }
        assert_eq!(world.sandbox.files_with(&CANARIES), Vec::<std::path::PathBuf>::new());
    };
    state("", "exec sleep 1000");
    quiet(&[0]);
    assert_eq!(said(&world, "pi"), "canary-env canary-token canary-word\n");
    let held = world.run(["exec", "coder", "--", "cat", "/run/steadfast/sessions/pi/state"]).expect(0);
    let held: Value = serde_json::from_str(&held.stdout).expect("JSON");
    let declared = held["declared"].to_string();
    assert!(declared.contains("VALUE") && CANARIES.iter().all(|canary| !declared.contains(canary)), "{declared}");
    // Another value is another session.
    let before = pid(&world, "pi");
    is_settled(&world);
    world.sandbox.set("IN_ENV", "canary-env-2");
    assert_eq!(steps(&world.applied()), ["startSession coder/pi"]);
    assert_ne!(pid(&world, "pi"), before);
}

#[test]
fn secrets_stay_out_of_what_is_said_of_a_failure() {
    const CANARIES: [&str; 3] = ["canary-env", "canary-word", "canary-dir"];
    let mut world = World::new();
    world.sandbox.set("IN_ENV", CANARIES[0]).set("IN_COMMAND", CANARIES[1]).set("IN_CWD", format!("/{}", CANARIES[2]));
    let failing = [
        "command: [sh, -c, \"echo $VALUE; exit 1\"], env: {VALUE: \"${env:IN_ENV}\"}, restart: no",
        "command: [sleep, \"1\"], cwd: \"${env:IN_CWD}\"",
        "command: [\"${env:IN_COMMAND}\"]",
        "command: [\"/bin/${env:IN_COMMAND}\"]",
    ];
    for (number, fields) in failing.into_iter().enumerate() {
        declare(&world, "", &format!("sessions: {{pi-{number}: {{{fields}}}}}"));
        for verb in ["apply -o json", "apply -vv", "status", "why coder", "why coder -o json", "history -o json"] {
            let outcome = world.run(verb);
            assert!(!verb.starts_with("apply") || outcome.code != 0, "{}", outcome.shown());
            outcome.keeps_quiet_about(&CANARIES);
        }
        assert_eq!(world.sandbox.files_with(&CANARIES), Vec::<std::path::PathBuf>::new(), "{fields}");
    }
}
