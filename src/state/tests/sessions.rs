//! Sessions and workspaces of an agent, through the whole loader.

use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use super::*;
use crate::model::{Dirty, IdleAction, SessionIdle, SessionRestart, SessionSpec, SessionStdin, Text, WorkspaceSpec};

fn session(lines: &str) -> SessionSpec {
    good(&format!("sessions:\n  s: {lines}")).sessions.into_values().next().unwrap()
}

#[test]
fn what_a_session_leaves_out_has_the_documented_default() {
    let SessionSpec { command, cwd, env, stdin, tty, requires, restart, user, log_max, idle } =
        session("{command: [top]}");
    assert_eq!((command, cwd, env.len(), tty, requires.len()), (vec!["top".into()], None, 0, false, 0));
    assert_eq!((stdin, restart), (SessionStdin::Pipe, SessionRestart::OnFailure));
    assert_eq!((user, log_max, idle), (None, 8 << 20, None));
    let agent = good("state: stopped");
    assert!(agent.sessions.is_empty() && agent.workspaces.is_empty());
}

#[test]
fn what_a_session_says_is_what_it_is() {
    let all = "{command: [pi, 8080, \"\"], cwd: /root//repo/./x/, env: {A: \"1\\n2\", B: 2}, stdin: closed, tty: true, \
               requires: [git], restart: false, user: 1000, log: {maxSize: 1GiB}, idle: {after: 1m 1s, do: stop}}";
    let spec = session(all);
    assert_eq!(spec.command, ["pi", "8080", ""].map(Text::from));
    assert_eq!(spec.cwd, Some("/root/repo/x".into()), "so that it is found in its workspace");
    assert_eq!((&spec.env["A"], &spec.env["B"]), (&"1\n2".into(), &"2".into()));
    assert_eq!((spec.stdin, spec.tty, spec.requires), (SessionStdin::Closed, true, vec!["git".to_owned()]));
    assert_eq!((spec.restart, spec.user.as_deref(), spec.log_max), (SessionRestart::No, Some("1000"), 1 << 30));
    assert_eq!(spec.idle, Some(SessionIdle { after: Duration::from_secs(61), action: IdleAction::Stop }));
}

#[test]
fn secrets_of_a_session_are_sensitive() {
    let lines = "sessions:\n  s:\n    command: [\"x${env:V}\", y, \"https://u:pw@h\"]\n    cwd: \"/${env:V}\"\n    \
                 env: {A: \"${env:V}\", B: b, API_KEY: k, DB: \"postgres://u:pw@h\"}";
    let loaded = load_with(agent(lines), &[("HOME", "/h"), ("V", "v")]).unwrap();
    let spec = loaded.desired.agents.values().next().unwrap().sessions.values().next().unwrap();
    let sensitive: Vec<_> =
        spec.env.values().chain(&spec.command).chain(&spec.cwd).map(|text| text.is_sensitive()).collect();
    assert_eq!(sensitive, [true, true, false, true, true, false, true, true]);
    assert!(!format!("{spec:?}").contains("pw"));
}

#[test]
fn a_workspace_has_its_directory_and_its_defaults() {
    let agent = good(
        "workspaces:\n  a: {source: ./d/../repo, target: /root//a/}\n  \
         b: {source: ~/b, target: /b, readOnly: true, dirty: ignore, include: [./x/./y, .env]}",
    );
    let all: Vec<_> = agent.workspaces.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect();
    let a = WorkspaceSpec {
        source: "/srv/demo/d/../repo".into(),
        target: "/root/a".into(),
        read_only: false,
        dirty: Dirty::Include,
        include: Vec::new(),
    };
    let b = WorkspaceSpec {
        source: "/home/u/b".into(),
        target: "/b".into(),
        read_only: true,
        dirty: Dirty::Ignore,
        include: vec!["x/y".into(), ".env".into()],
    };
    assert_eq!(all, [("a", a), ("b", b)]);
}

#[test]
fn in_a_virtual_machine_the_source_of_a_workspace_is_still_here() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.yaml"), "cpus: 2\n").unwrap();
    let text = agent("workspaces: {a: {source: ./repo, target: /a}}")
        .replace("{podman: {}}", "{lima: {instance: a, template: t.yaml, home: /l}}");
    let loaded = load(&Input { dir: dir.path().to_owned(), ..input(text) }, &context(HOME, &key)).unwrap();
    let agent = loaded.desired.agents.values().next().unwrap();
    assert_eq!(agent.workspaces.values().next().unwrap().source, dir.path().join("repo"));
}

#[test]
fn targets_do_not_meet_nor_lie_where_nothing_can_be_written() {
    let wrong = |mounts: &str, workspaces: &str| {
        bad(agent(&format!("container: {{mounts: [{mounts}]}}\nworkspaces: {{{workspaces}}}")))
    };
    let at = |name: &str, target: &str| format!("{name}: {{source: ., target: {target}}}");
    let told = wrong("", &format!("{}, {}", at("in", "/a/b/c"), at("out", "/a/b")));
    assert!(told.contains("workspaces.in.target: `/a/b/c` lies in the target of workspace `out`"), "{told}");
    let told = wrong("", &format!("{}, {}", at("one", "/a"), at("two", "/a/./")));
    assert!(told.contains("workspaces.two.target: `/a/./` is the target of workspace `one` already"), "{told}");
    let read_only = "{source: /s, target: /ro, readOnly: true}";
    for target in ["/ro", "/ro/a"] {
        let told = wrong(read_only, &at("a", target));
        let expected = format!("`{target}` is in the mount `/ro`, which is `readOnly`; choose another target");
        assert!(told.contains(&expected), "{told}");
    }
    let writable = "{source: /t, target: /ro/rw}, {source: /h, target: /home}";
    let fine = [at("a", "/ro/rw"), at("b", "/rope"), at("c", "/home/c"), at("d", "/home/cd")].join(", ");
    good(&format!("container: {{mounts: [{read_only}, {writable}]}}\nworkspaces: {{{fine}}}"));
    // What came from the environment is not told.
    let text = agent(
        "container: {mounts: [{source: /s, target: \"/${env:V}\", readOnly: true}]}\nworkspaces: {a: {source: ., target: \"/${env:V}/a\"}}",
    );
    let told = load_with(text, &[("HOME", "/h"), ("V", "canary")]).unwrap_err().to_string();
    assert!(told.contains("`/${env:V}/a` is in the mount `(sensitive)`, which is `readOnly`"), "{told}");
}

#[test]
fn what_a_keeper_would_not_take_is_refused() {
    let line =
        |length: usize| format!("{{command: [a, {}], env: {{A: {}}}}}", "x".repeat(length), "y".repeat(32 << 10));
    let fits = (64 << 10) - (32 << 10) - "aA".len();
    assert_eq!(session(&line(fits)).command[1].expose().len(), fits);
    let told = bad(agent(&format!("sessions:\n  s: {}", line(fits + 1))));
    let expected = "8:7: agents.a.sessions.s: the command and the variables of a session have at most 64 KiB together; put what is \
                    large into a file that a mount or a workspace brings";
    assert_eq!(told, expected);
}

#[test]
fn what_is_wrong_with_one_hides_nothing_of_the_others() {
    let told = bad(agent(
        "container: {name: \"-\"}\nsessions: {a: {command: [], cwd: x}, b: {user: \"\"}}\nworkspaces: {a: {target: x, dirty: x}}",
    ));
    for path in ["container.name", "sessions.a.command", "sessions.a.cwd", "sessions.b:", "sessions.b.user"] {
        assert!(told.contains(&format!("agents.a.{path}")), "{path}: {told}");
    }
    assert!(
        told.contains("the field `source` is missing") && told.contains("a.target") && told.contains("a.dirty"),
        "{told}"
    );
}

#[test]
fn ten_thousand_of_each_fit() {
    let start = Instant::now();
    let mut lines = "sessions:\n".to_owned();
    (0..10_000).for_each(|n| lines += &format!("  s{n}: {{command: [a, \"{n}\"], cwd: /w/{n}/x, env: {{N: {n}}}}}\n"));
    lines += "workspaces:\n";
    (0..10_000).for_each(|n| lines += &format!("  w{n}: {{source: ./{n}, target: /w/{n}}}\n"));
    let loaded = good(&lines);
    assert_eq!((loaded.sessions.len(), loaded.workspaces.len()), (10_000, 10_000));
    // All in one, and deep: what is compared grows with the file and not with its square.
    let deep = "/d".repeat(2000);
    let mut lines = format!("workspaces:\n  top: {{source: ., target: {deep}}}\n");
    (0..2000).for_each(|n| lines += &format!("  w{n}: {{source: ., target: {deep}/{n}}}\n"));
    assert!(bad(agent(&lines)).contains("and 1900 more problems"));
    assert!(start.elapsed() < Duration::from_secs(300), "took {:?}", start.elapsed());
}

#[test]
fn no_word_is_quoted_whole() {
    let huge = "a9é.".repeat(1 << 14);
    for line in [
        "sessions: {\"{}\": {command: [a]}}",
        "sessions: {a: {command: [a], cwd: {}}}",
        "sessions: {a: {command: [a], user: \" {}\"}}",
        "sessions: {a: {command: [a], requires: [\" {}\"]}}",
        "sessions: {a: {command: [a], log: {maxSize: {}}}}",
        "sessions: {a: {command: [a], idle: {after: {}, do: {}}}}",
        "sessions: {a: {command: [{}]}}",
        "workspaces: {\"{}\": {source: ., target: /a}}",
        "workspaces: {a: {source: \"~{}\", target: \"/{}\", include: [\"/{}\"]}}",
        "workspaces: {a: {source: ., target: \"{}\", dirty: \"{}\"}}",
    ] {
        let err = load_with(agent(&line.replace("{}", &huge)), HOME).unwrap_err();
        assert!(err.problems().iter().all(|problem| problem.to_string().len() < 4000), "{line}");
        assert!(err.render(false).len() < 4000 * err.problems().len(), "{line}");
    }
}

#[test]
fn a_session_in_a_workspace_is_found_there() {
    let agent = good(
        "workspaces: {w: {source: ., target: /root/repo/}}\nsessions: {s: {command: [a], cwd: //root/repo/./sub/}}",
    );
    let cwd = agent.sessions.values().next().unwrap().cwd.clone().unwrap();
    assert!(agent.workspaces.values().all(|workspace| workspace.holds(cwd.expose())));
    assert!(FilePath::new(cwd.expose()).is_absolute());
}
