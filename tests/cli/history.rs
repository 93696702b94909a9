//! `history`: what the journal tells, with nothing else at hand.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::support::command::Sandbox;

const STATE: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {socket: /nowhere/p.sock}}\nagents:\n  hello: {version: \"1\", \
                     image: a/b, source: local}\n";
const JOURNAL: &str = "state/demo/journal.jsonl";

fn step(second: u32, agent: &str, result: &str) -> String {
    format!(
        r#"{{"time":"2026-04-24T00:00:{second:02}.000Z","pid":1,"trigger":"apply","event":"step","kind":"createContainer","agent":"{agent}","target":"demo-{agent}","action":"create container `demo-{agent}`","reason":"it does not exist","changes":[],"durationMs":{second},"result":"{result}","error":{{"kind":"conflict","message":"host port 1 is taken"}}}}"#
    )
}

fn written(lines: &[String]) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", STATE);
    let path = sandbox.root().join(JOURNAL);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, lines.iter().fold(String::new(), |text, line| text + line + "\n")).unwrap();
    sandbox
}

#[test]
fn a_machine_without_a_past_says_so() {
    let sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", STATE);
    let outcome = sandbox.run("history").expect(0);
    assert_eq!(outcome.stdout, "there is nothing yet: nothing was done for `demo`.\n");
    assert_eq!(sandbox.run("history -o json").expect(0).json(), serde_json::json!([]));
    assert!(sandbox.run("history hello").expect(0).stdout.contains("agent `hello` of `demo`"));
    assert!(!sandbox.root().exists(), "nothing was written");
}

#[test]
fn it_is_a_table_for_people_and_entries_for_programs() {
    let pass = r#"{"time":"2026-04-24T00:00:03.000Z","pid":1,"trigger":"apply","event":"pass","converged":false,"steps":2,"troubles":[{"agent":"gone","kind":"conflict","message":"host port 1 is taken"}],"durationMs":1500}"#;
    let torn = "{\"time\":\"2026-04-2".to_owned();
    let sandbox = written(&[step(1, "hello", "done"), step(2, "gone", "failed"), torn, pass.to_owned()]);
    insta::assert_snapshot!("history", sandbox.run("history").shown());
    let all = sandbox.run("history -o json").expect(0).json();
    assert_eq!(all.as_array().unwrap().len(), 3);
    assert_eq!((&all[0]["event"], &all[1]["error"]["kind"]), (&"step".into(), &"conflict".into()));
    let yaml: serde_json::Value = serde_yaml::from_str(&sandbox.run("history -o yaml").expect(0).stdout).unwrap();
    assert_eq!(yaml, all);
    // One that is not in the state file any more is still in the journal.
    let gone = sandbox.run("history gone -o json").expect(0).json();
    assert_eq!(gone.as_array().unwrap().len(), 2, "its step, and the pass that names it: {gone}");
    assert_eq!(sandbox.run("history -n 1 -o json").expect(0).json()[0]["event"], "pass");
    assert_eq!(
        sandbox.run("history -o json --since 2026-04-24T00:00:02Z").expect(0).json().as_array().unwrap().len(),
        2
    );
    let recent = sandbox.run("history --since 1h").expect(0);
    assert!(recent.stdout.starts_with("nothing happened to `demo` since 20"), "{}", recent.stdout);
}

#[test]
fn what_nobody_knows_is_refused_with_what_was_meant() {
    let sandbox = written(&[step(1, "gone", "done")]);
    sandbox.run("history helo").expect(64).says("did you mean `hello`?").says("there are `gone`, `hello`");
    sandbox.run("history --since yesterday").expect(64).says("neither a duration like `2h` nor a time");
    sandbox.run("history Not_A_Label").expect(64);
    sandbox.run("history -n 0").expect(64).says("at least 1");
}

/// That is when one wants to know what happened.
#[test]
fn a_broken_state_file_still_has_a_history() {
    let sandbox = written(&[step(1, "hello", "done")]);
    sandbox.write("steadfast.yaml", STATE.replace("source: local", "source: nowhere"));
    assert_eq!(sandbox.run("history -o json").expect(0).json().as_array().unwrap().len(), 1);
    sandbox.run("history helo").expect(64).says("did you mean `hello`?");
    sandbox.write("steadfast.yaml", "agents: {}\n");
    sandbox.run("history").expect(65);
}

#[test]
fn both_files_are_read_and_only_the_last_fifty_are_shown() {
    let sandbox = written(&(0..30).map(|second| step(second, "hello", "done")).collect::<Vec<_>>());
    let path = sandbox.root().join(JOURNAL);
    std::fs::rename(&path, path.with_file_name("journal.1.jsonl")).unwrap();
    let mut newer = String::new();
    for second in 30..59 {
        writeln!(newer, "{}", step(second, "hello", "done")).unwrap();
    }
    std::fs::write(&path, newer).unwrap();
    let all = sandbox.run("history -o json").expect(0).json();
    let took: Vec<_> = all.as_array().unwrap().iter().map(|entry| entry["durationMs"].as_u64().unwrap()).collect();
    assert_eq!(took, (9..59).collect::<Vec<u64>>());
}

#[test]
fn it_can_be_followed() {
    let sandbox = written(&[step(1, "hello", "done")]);
    let mut running = sandbox.spawn("history --follow -o json");
    running.until("the first line", |running| running.stdout().lines().count() == 1);
    let mut file = std::fs::File::options().append(true).open(sandbox.root().join(JOURNAL)).unwrap();
    writeln!(file, "{}", step(2, "other", "done")).unwrap();
    running.until("the second line", |running| running.stdout().lines().count() == 2);
    for line in running.stdout().lines() {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["event"], "step");
    }
    let mut people = sandbox.spawn("history --follow hello");
    people.until("its line", |running| running.stdout().contains("created container `demo-hello`"));
    assert!(!people.stdout().contains("demo-other"), "{}", people.stdout());
}
