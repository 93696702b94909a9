//! The example workflow's own commands, run as the runner runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::command::Sandbox;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gitops/.github").join(name)
}

/// The commands of a step, as its `run:` has them.
fn commands(step: &str) -> String {
    let text = std::fs::read_to_string(example("workflows/agents.yaml")).unwrap();
    let workflow: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let jobs = workflow["jobs"].as_mapping().unwrap().values().flat_map(|job| job["steps"].as_sequence().unwrap());
    let found = jobs.filter(|found| found["name"].as_str() == Some(step)).collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "{step}");
    found[0]["run"].as_str().unwrap().to_owned()
}

struct Ran {
    code: i32,
    stdout: String,
    summary: String,
}

/// Runs them where `steadfast` is the program under test, or this script. `None` where there is no jq.
fn run(sandbox: &Sandbox, step: &str, steadfast: Option<&str>) -> Option<Ran> {
    Command::new("jq").arg("--version").output().ok()?;
    let bin = sandbox.path("bin");
    let _ = std::fs::remove_dir_all(&bin);
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("steadfast");
    match steadfast {
        None => std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_steadfast"), &program).unwrap(),
        Some(script) => {
            std::fs::write(&program, format!("#!/bin/bash\n{script}\n")).unwrap();
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&program, executable).unwrap();
        }
    }
    let summary = sandbox.path("summary.md");
    let _ = std::fs::remove_file(&summary);
    std::fs::create_dir_all(sandbox.path(".github")).unwrap();
    std::fs::copy(example("annotate.jq"), sandbox.path(".github/annotate.jq")).unwrap();
    // As GitHub's runner calls it.
    let ran = Command::new("bash")
        .args(["--noprofile", "--norc", "-e", "-c", &commands(step)])
        .current_dir(sandbox.work())
        .env_clear()
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
        .env("HOME", sandbox.path("home"))
        .env("GITHUB_STEP_SUMMARY", &summary)
        .output()
        .unwrap();
    Some(Ran {
        code: ran.status.code().unwrap(),
        stdout: String::from_utf8(ran.stdout).unwrap(),
        summary: std::fs::read_to_string(summary).unwrap_or_default(),
    })
}

const GOOD: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {socket: /nowhere.sock}}\nagents:\n  hello:\n    \
                    version: \"1\"\n    image: a/b\n    source: registry\n";

#[test]
fn an_invalid_file_is_annotated_and_takes_the_plans_place() {
    let sandbox = Sandbox::new();
    sandbox.write("comment.md", "the plan of yesterday");
    sandbox.write("steadfast.yaml", GOOD.replace("source:", "sauce:").replace("name: demo", "name: \"100%, a\\nb\""));
    let Some(ran) = run(&sandbox, "Plan", None) else { return };
    assert_eq!(ran.code, 65);
    let annotations: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(annotations.len(), 2, "{}", ran.stdout);
    assert!(annotations[0].starts_with("::error file=steadfast.yaml,line=2,col=7::name: `100%25, a"), "{}", ran.stdout);
    assert!(
        annotations[1].starts_with("::error file=steadfast.yaml,line=8,col=5::agents.hello.sauce: "),
        "{}",
        ran.stdout
    );
    let comment = std::fs::read_to_string(sandbox.path("comment.md")).unwrap();
    assert!(comment.starts_with("### steadfast plan: failed\n\nExit code 65;"), "{comment}");
    assert!(
        comment.contains("\n    steadfast.yaml:8:5: agents.hello.sauce: ") && !comment.contains("yesterday"),
        "{comment}"
    );
    assert_eq!(ran.summary, comment);
}

#[test]
fn a_plan_that_fails_takes_the_last_ones_place() {
    let sandbox = Sandbox::new();
    sandbox.write("comment.md", "the plan of yesterday");
    sandbox.write("steadfast.yaml", GOOD);
    let Some(ran) = run(&sandbox, "Plan", None) else { return };
    assert_eq!(ran.code, 1);
    let comment = std::fs::read_to_string(sandbox.path("comment.md")).unwrap();
    assert!(comment.starts_with("### steadfast plan: failed\n\nExit code 1;"), "{comment}");
    assert!(comment.contains("\n    error: ") && !comment.contains("yesterday"), "{comment}");
}

#[test]
fn a_plan_is_the_comment_and_a_warning_an_annotation() {
    let sandbox = Sandbox::new();
    let script = r#"case $1 in
        validate) echo '{"valid": true, "problems": [], "warnings": [{"file": "x.env", "line": 2, "column": 3, "path": "", "message": "odd", "help": null}]}' ;;
        plan) echo '### the plan'; exit 2 ;;
    esac"#;
    let Some(ran) = run(&sandbox, "Plan", Some(script)) else { return };
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "::warning file=x.env,line=2,col=3::odd\n"));
    assert_eq!(std::fs::read_to_string(sandbox.path("comment.md")).unwrap(), "### the plan\n");
}

#[test]
fn what_was_applied_is_a_table_whatever_is_in_it() {
    let sandbox = Sandbox::new();
    let script = r#"case $1 in
        validate) echo '{"valid": true, "problems": [], "warnings": []}' ;;
        apply) echo '{"actions": [{"kind": "replaceContainer", "target": "demo-a", "agent": "a", "result": "failed", "error": {"message": "a|b\n<b>`x`</b> @me"}}]}'; exit 4 ;;
    esac"#;
    let Some(ran) = run(&sandbox, "Apply", Some(script)) else { return };
    assert_eq!(ran.code, 4, "{}", ran.stdout);
    assert!(ran.stdout.starts_with("::error::rolled back"), "{}", ran.stdout);
    let row = ran.summary.lines().last().unwrap();
    assert!(row.starts_with("| replaceContainer demo-a | a | failed a&#124;b &lt;b&gt;&#96;x&#96;"), "{}", ran.summary);
    assert!(!row.contains("@me") && ran.summary.lines().count() == 4, "{}", ran.summary);
}
