//! Bad state files: each ends with 65, names its place, and touches nothing.

use std::fmt::Write;

use crate::support::command::Sandbox;

/// A state file whose one agent has these lines.
fn with_agent(lines: &str) -> String {
    let mut text = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nagents:\n  hello:\n".to_owned();
    for line in lines.lines() {
        let _ = writeln!(text, "    {line}");
    }
    text
}

/// What every verb that needs the file says of it.
fn said(sandbox: &Sandbox, text: &str) -> String {
    sandbox.write("s.yaml", text);
    let validated = sandbox.run("validate -f s.yaml").expect(65);
    assert_eq!(validated.stdout, "");
    // What `exec` ends with is the command's code, and 125 when there was no command.
    for (verb, code) in
        [("plan", 65), ("apply", 65), ("status", 65), ("down", 65), ("logs hello", 65), ("exec hello -- true", 125)]
    {
        // Before the verb, where every verb takes it.
        let outcome = sandbox.run(format!("-f s.yaml {verb}")).expect(code);
        assert_eq!(outcome.stderr, validated.stderr, "`{verb}` says the same");
    }
    assert!(!sandbox.root().exists(), "nothing was written");
    validated.stderr
}

/// One kind of broken file each: where it is, and the words a user would look for. The full messages stand beside
/// `tests/states/invalid`.
#[test]
fn each_kind_of_broken_file() {
    let sandbox = Sandbox::new();
    let good = "version: \"1\"\nimage: a/b\nsource: registry\n";
    let head = "apiVersion: steadfast/v1\nname: demo\n";
    let agent = |more: &str| with_agent(&format!("{good}{more}"));
    let second = |more: &str| {
        let lines = format!("version: \"1\"\n    image: a/b\n    source: registry\n    container: {{{more}}}\n");
        format!("{}  other:\n    {lines}", agent("container:\n  ports: [\"127.0.0.1:8080:80\"]\n"))
    };
    let cases = [
        ("{".to_owned(), "1:1", "`{` is never closed"),
        (with_agent("version: \"1\nimage: a/b"), "", "broken YAML"),
        (format!("{head}runtime:\n\tpodman: {{}}\n"), "4:1", "a tab is used for indentation"),
        (format!("{head} runtime: {{podman: {{}}}}\n"), "3:9", "mapping values are not allowed"),
        ("- apiVersion: steadfast/v1\n".to_owned(), "1:1", "expected a mapping, found a list"),
        ("steadfast\n".to_owned(), "1:1", "expected a mapping, found a string"),
        ("# only a comment\n".to_owned(), "1:1", "the file is empty"),
        (format!("{}---\nname: other\n", agent("")), "9:1", "more than one document"),
        (agent("version: \"2\"\n"), "9:5", "the key `version` is here twice"),
        (format!("{}  hello:\n    version: \"2\"\n", agent("")), "9:3", "the key `hello` is here twice"),
        (agent("container: {restrat: always}\n"), "9:17", "did you mean `restart`?"),
        (
            with_agent("version: 1.10\nimage: a/b\nsource: registry\n"),
            "6:14",
            "YAML reads the version `1.10` as a number",
        ),
        (agent("container:\n  ports: [\"127.0.0.1:70000:80\"]\n"), "10:15", "`70000` is out of range"),
        (agent("container:\n  ports: [\"0:80\"]\n"), "10:15", "`0` is out of range"),
        (second("ports: [\"8080:80\"]"), "15:25", "the host port 8080/tcp is taken by agent `hello`"),
        (second("name: demo-hello"), "15:23", "the container name `demo-hello` is taken by agent `hello`"),
        (
            agent("container:\n  env: {T: \"${env:UNSET_TOKEN}\"}\n"),
            "10:16",
            "the environment variable `UNSET_TOKEN` is not set",
        ),
        (agent("container: {envFile: ./none.env}\n"), "9:26", "there is no env file `"),
        (agent("").replace("{podman: {}}", "{podman: {}, lima: {instance: a}}"), "3:", "both `lima` and `podman`"),
        (agent("").replace("runtime: {podman: {}}\n", ""), "1:1", "`runtime` is missing"),
        (agent("").replace("steadfast/v1", "steadfast/v2"), "1:13", "`steadfast/v2` is not a version this build reads"),
        (agent("").replace("podman: {}", "podman: {socket: \"tcp://host:2375\"}"), "3:28", "is not a unix socket"),
        (agent("").replace("  hello:", "  Hello World:"), "5:3", "`Hello World` is not an agent name"),
        (with_agent("version: \"1\"\nsha256: {x64: abc}\n"), "7:19", "`abc` is not a sha256"),
        (agent("").replace("a/b", "a/b:2"), "7:12", "`a/b:2` has a tag"),
        (agent("container: {healthcheck: {test: [CMD, \"true\"], interval: 30}}\n"), "9:62", "write `30s` for seconds"),
    ];
    for (text, place, words) in cases {
        let said = said(&sandbox, &text);
        assert!(said.contains(words), "`{words}` is missing\n{text}\n{said}");
        assert!(said.contains(&format!("s.yaml:{place}")), "{place}\n{text}\n{said}");
    }
}

#[test]
fn a_broken_env_file_is_named_with_its_line_and_without_its_secrets() {
    let sandbox = Sandbox::new();
    sandbox.write("x.env", "GOOD=canary-a\nnot a variable canary-b\n");
    let text = with_agent("version: \"1\"\nimage: a/b\nsource: registry\ncontainer: {envFile: x.env}\n");
    let said = said(&sandbox, &text);
    assert!(!said.contains("canary"), "{said}");
    assert!(said.contains("x.env:2:1") && said.contains("s.yaml:9:26"), "both places: {said}");
}

#[test]
fn all_problems_come_in_one_go() {
    let sandbox = Sandbox::new();
    let many = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/states/invalid/many.yaml");
    let outcome = sandbox.run(["validate", "-f", many, "-o", "json"]).expect(65).json();
    let problems = outcome["problems"].as_array().unwrap();
    assert!(problems.len() > 15, "{problems:?}");
    for problem in problems {
        assert!(problem["line"].as_u64().unwrap() > 0 && problem["column"].as_u64().unwrap() > 0, "{problem}");
        assert!(!problem["message"].as_str().unwrap().is_empty(), "{problem}");
    }
    let has = |path: &str| problems.iter().any(|problem| problem["path"] == path);
    for path in ["name", "runtime", "agents.b.container.name", "agents.c.source"] {
        assert!(has(path), "{path}: {problems:?}");
    }
    let helped = problems.iter().find(|problem| problem["path"] == "agents[\"open claw\"].container.restrat");
    let helped = helped.unwrap_or_else(|| panic!("{problems:?}"));
    assert!(helped["help"].as_str().unwrap().contains("`restart`"), "{helped}");
}

/// A few hundred bytes that mean gigabytes, and a few megabytes that nest: an error, at once and in little memory.
#[test]
fn hostile_files_get_an_error_and_no_memory() {
    let sandbox = Sandbox::new();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let one = format!("*a{}", level - 1);
        let _ = writeln!(bomb, "a{level}: &a{level} [{}]", vec![one; 10].join(", "));
    }
    let cases = [
        ("alias bomb", bomb),
        ("alias loop", "a: &a [*a]\n".to_owned()),
        ("nesting", "[".repeat(200_000)),
        ("nesting maps", "a: {".repeat(200_000)),
        ("many nodes", format!("a: [{}]\n", "1,".repeat(7_000_000))),
        ("a long word", format!("name: {}\n", "x".repeat(8_000_000))),
    ];
    for (name, text) in cases {
        sandbox.write("s.yaml", text);
        // Of address space, so generous; without a budget each of these wants far more, or never ends.
        let mut limited = std::process::Command::new("bash");
        limited.args(["-c", "ulimit -v 1500000; exec \"$0\" validate -f s.yaml", env!("CARGO_BIN_EXE_steadfast")]);
        let began = std::time::Instant::now();
        let output = limited.current_dir(sandbox.work()).env_clear().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{name}: {}", said.chars().take(2000).collect::<String>());
        assert!(said.contains("s.yaml"), "{name}: {}", said.chars().take(2000).collect::<String>());
        assert!(said.len() < 20_000, "{name}: {} bytes of error", said.len());
        assert!(began.elapsed().as_secs() < 20, "{name} took {:?}", began.elapsed());
    }
}
