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

#[test]
fn a_compose_reference_is_refused_with_its_place_and_the_right_form() {
    let mut sandbox = Sandbox::new();
    sandbox.set("GATEWAY_TOKEN", "canary-value");
    sandbox.write("agent.env", "DB_USER=app\nDB_URL=postgres://${DB_USER}@db/app\n");
    let text = with_agent(
        "version: \"1\"\nimage: \"ghcr.io/${ORG}/b\"\nsource: registry\ncontainer:\n  \
         command: [run, \"--host=${HOST-all}\"]\n  env:\n    GATEWAY_TOKEN: ${GATEWAY_TOKEN}   # as in Compose\n    \
         MODE: ${MODE:-lan}\n    SHELL_LINE: echo $HOME\n  mounts: [{source: \"${DATA}\", target: \"/${DATA}\"}]\n  \
         ports: [\"${PORT}:80\", {hostPort: \"${PORT}\", containerPort: 81}]\n  addHosts: [\"db:${DB}\"]\n  \
         healthcheck: {test: \"curl ${URL:?needed}\"}\n  envFile: ./agent.env\n",
    );
    let said = said(&sandbox, &text);
    for (place, field, help) in [
        ("s.yaml:7:21", "image", "did you mean `${env:ORG}`?"),
        ("s.yaml:10:30", "container.command[1]", "did you mean `${env:HOST:-…}`?"),
        ("s.yaml:12:24", "container.env.GATEWAY_TOKEN", "did you mean `${env:GATEWAY_TOKEN}`?"),
        ("s.yaml:13:15", "container.env.MODE", "did you mean `${env:MODE:-…}`?"),
        ("s.yaml:15:26", "container.mounts[0].source", "did you mean `${env:DATA}`?"),
        ("s.yaml:15:46", "container.mounts[0].target", "did you mean `${env:DATA}`?"),
        ("s.yaml:16:16", "container.ports[0]", "did you mean `${env:PORT}`?"),
        ("s.yaml:16:41", "container.ports[1].hostPort", "did you mean `${env:PORT}`?"),
        ("s.yaml:17:22", "container.addHosts[0]", "did you mean `${env:DB}`?"),
        ("s.yaml:18:33", "container.healthcheck.test", "did you mean `${env:URL}`?"),
        ("agent.env:2:19", "container.envFile", "did you mean `${env:NAME}`?"),
    ] {
        let at = said.find(&format!("agents.hello.{field}:")).unwrap_or_else(|| panic!("{field}: {said}"));
        let problem = &said[at..said[at..].find("\nerror").map_or(said.len(), |end| at + end)];
        assert!(problem.contains(place) && problem.contains(help), "{place} {help}: {problem}");
    }
    assert!(said.contains("${GATEWAY_TOKEN}"), "the reference itself is shown: {said}");
    assert!(!said.contains("canary") && said.contains(": 11 problems"), "{said}");

    // Those who mean it write a dollar more.
    sandbox.write("agent.env", "DB_URL=postgres://$${DB_USER}@db/app\nRAW='${RAW}'\n");
    let text = with_agent(
        "version: \"1\"\nimage: a/b\nsource: registry\ncontainer:\n  command: [sh, -c, 'echo $${HOME} $HOME $(id)']\n  \
         envFile: ./agent.env\n",
    );
    sandbox.write("s.yaml", &text);
    sandbox.run("validate -f s.yaml").expect(0);
}

#[test]
fn a_comment_behind_a_value_of_an_env_file_is_warned_of_once() {
    let sandbox = Sandbox::new();
    sandbox.write("x.env", "GOOD='canary #1'\nCOLOR=canary #ff0000\n");
    let container = "    container: {envFile: x.env}\n";
    let agent = "    version: \"1\"\n    image: a/b\n    source: registry\n";
    let text = format!(
        "{}{container}  other:\n{agent}{container}",
        with_agent("version: \"1\"\nimage: a/b\nsource: registry\n")
    );
    sandbox.write("s.yaml", &text);
    for verb in ["validate", "plan", "apply"] {
        let outcome = sandbox.run(format!("{verb} -f s.yaml"));
        let said = &outcome.stderr;
        assert_eq!(said.matches("warning").count(), 1, "{verb}: {said}");
        assert!(said.contains("x.env:2:14") && said.contains("a comment, not part of `COLOR`"), "{verb}: {said}");
        assert!(!said.contains("canary"), "{said}");
        assert!(!outcome.stdout.contains("warning"), "{}", outcome.stdout);
    }
    assert!(!sandbox.run("validate -q -f s.yaml").expect(0).stderr.contains("warning"));
    let outcome = sandbox.run("validate -f s.yaml -o json").expect(0);
    let json = outcome.json();
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!((&json["warnings"][0]["line"], &json["warnings"][0]["column"]), (&2.into(), &14.into()), "{json}");
    assert_eq!(json["valid"], true);
}

#[test]
fn an_agent_that_can_write_to_the_state_file_is_warned_of_once() {
    let sandbox = Sandbox::new();
    let lines = "version: \"1\"\nimage: a/b\nsource: registry\ncontainer: {mounts: [{source: ., target: /w}]}\n";
    sandbox.write("s.yaml", with_agent(lines));
    for verb in ["validate", "plan", "apply"] {
        let said = sandbox.run(format!("{verb} -f s.yaml")).stderr;
        assert_eq!(said.matches("warning").count(), 1, "{verb}: {said}");
        for words in
            ["s.yaml:9:35", "the state file", "in this mount, to which the agent can write", "`readOnly: true`"]
        {
            assert!(said.contains(words), "{verb}: `{words}` is missing: {said}");
        }
    }
    let json = sandbox.run("validate -f s.yaml -o json").expect(0).json();
    assert_eq!(json["warnings"][0]["path"], "agents.hello.container.mounts[0].source", "{json}");
    sandbox.write("s.yaml", with_agent(&lines.replace("/w}", "/w, readOnly: true}")));
    assert_eq!(sandbox.run("validate -f s.yaml").expect(0).stderr, "", "what is advised is right");
}

#[test]
fn an_image_without_a_manifest_is_reported_where_it_can_come_from() {
    let mut sandbox = Sandbox::new();
    let lines = "version: \"1.4.0\"\nimage: ghcr.io/acme/worker\n";
    sandbox.write("s.yaml", with_agent(lines));
    let said = sandbox.run("validate -f s.yaml").expect(0).stderr;
    for words in [
        "s.yaml:5:3",
        "no manifest is configured",
        "`source: registry` to pull `ghcr.io/acme/worker:1.4.0`",
        "`source: local`",
    ] {
        assert!(said.contains(words), "`{words}` is missing: {said}");
    }
    let at = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words}: {said}"));
    assert!(at("source: registry") < at("manifest.url") && at("source: local") < at("manifest.url"), "{said}");
    for source in ["registry", "local"] {
        sandbox.write("s.yaml", with_agent(&format!("{lines}source: {source}\n")));
        assert_eq!(sandbox.run("validate -f s.yaml").expect(0).stderr, "", "what is advised is right");
    }
    sandbox.write("s.yaml", with_agent(&format!("{lines}state: absent\n")));
    assert_eq!(sandbox.run("validate -f s.yaml").expect(0).stderr, "");
    sandbox.write("s.yaml", with_agent(lines));
    sandbox.set("STEADFAST_MANIFEST_URL", "https://cdn.example.com/vm/manifest.json");
    assert_eq!(sandbox.run("validate -f s.yaml").expect(0).stderr, "");
}

#[test]
fn what_other_tools_have_is_not_taken_for_what_looks_like_it() {
    let sandbox = Sandbox::new();
    let digest = format!("sha256:{}", "0".repeat(64));
    let text = with_agent(&format!(
        "version: \"1\"\nimage: \"ghcr.io/acme/app:1.4@{digest}\"\nsource: registry\nports: [\"80:80\"]\ncontainer:\n  \
         volumes: [\"./data:/data:ro\"]\n  mem_limit: 1g\n  cgroup_parent: x\n  \
         mounts: [\"./data:/data:ro\", \"gateway-data:/var/lib\"]\n"
    ));
    let said = said(&sandbox, &text);
    for words in [
        &format!("write `image: ghcr.io/acme/app` and `version: \"{digest}\"`"),
        "write `mounts`, like `mounts: [{source: ./data, target: /data",
        "write it under `resources`, like `resources: {cpus: 1.5",
        "`cgroup_parent` cannot be set",
        "`ports` stands under `container`",
        "there is no volume `gateway-data` among the top-level `volumes`",
        "write `volumes: {gateway-data: {}}` at the top of the file, or `./gateway-data:/var/lib` for the directory beside it",
    ] {
        assert!(said.contains(words), "`{words}` is missing: {said}");
    }
    assert!(!said.contains("did you mean"), "{said}");
    let advised = format!("version: \"{digest}\"\nimage: ghcr.io/acme/app\nsource: registry\n");
    sandbox.write("s.yaml", with_agent(&advised));
    sandbox.run("validate -f s.yaml").expect(0);
}

#[test]
fn an_architecture_has_the_names_that_people_know() {
    let sandbox = Sandbox::new();
    let text = |word: &str| {
        with_agent(&format!("version: \"1\"\nimage: a/b\nsource: registry\narches: [{word}]\n"))
            + &format!("cache: {{arches: [{word}]}}\n")
    };
    for word in ["amd64", "x86_64", "x64", "aarch64", "arm64", "host", "all"] {
        sandbox.write("s.yaml", text(word));
        sandbox.run("validate -f s.yaml").expect(0);
    }
    sandbox.write("s.yaml", text("arm"));
    let said = sandbox.run("validate -f s.yaml").expect(65).stderr;
    assert!(said.contains("expected one of `host`, `arm64`, `x64`, `all`, found `arm`"), "{said}");
    assert!(!said.contains("did you mean"), "32 and 64 bits are not the same: {said}");
}

/// What is no file is refused at once by every verb, and its name is told: a FIFO would be waited for.
#[test]
fn a_state_file_that_is_no_file_is_refused_at_once() {
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.path(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    std::os::unix::fs::symlink("fifo", path("link")).unwrap();
    for (name, what) in [("fifo", "a FIFO"), ("link", "a FIFO"), ("socket", "a socket"), ("/dev/null", "a device")] {
        for verb in
            ["validate", "plan", "apply", "status", "down", "why a", "logs a", "exec a -- true", "run", "doctor"]
        {
            let outcome = sandbox.run(format!("-f {name} {verb}"));
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(said.contains(&format!("`{name}` is {what}, not a file")), "`{verb}` on `{name}`: {said}");
            assert!(outcome.code != 0 && outcome.took < std::time::Duration::from_secs(10), "{verb}: {outcome:?}");
        }
    }
    let text = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nagents: {a: {version: \"1\", image: a/b, \
                source: local, container: {envFile: ./fifo}}}\n";
    sandbox.write("steadfast.yaml", text);
    sandbox.run("validate").expect(65).says("fifo` is a FIFO, not a file");
    // What was handed over on purpose is read as ever.
    let text = text.replace("{envFile: ./fifo}", "{}");
    sandbox.feed("-f - validate", &text).expect(0);
    sandbox.feed("-f /dev/stdin validate", &text).expect(0);
}

/// Ports come one by one: a range is told as one, however many ports it has, and so are many lists of all there are.
#[test]
fn all_ports_there_are_end_in_an_error_or_a_plan() {
    let sandbox = Sandbox::new();
    let mut text =
        "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {socket: /nowhere.sock}}\nagents:\n".to_owned();
    for agent in 0..200 {
        let _ = writeln!(
            text,
            "  a{agent}: {{version: \"1\", image: a/b, source: local, container: {{ports: [\"1-65535:1-65535\"]}}}}"
        );
    }
    sandbox.write("s.yaml", text);
    let mut shared =
        "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {socket: /nowhere.sock}}\nagents:\n".to_owned();
    for agent in 0..200 {
        let ports = match agent {
            0 => format!(
                "&all [{}]",
                (1..=65_535).map(|port| format!("\"{port}:{port}\"")).collect::<Vec<_>>().join(", ")
            ),
            _ => "*all".to_owned(),
        };
        let _ = writeln!(
            shared,
            "  a{agent}: {{version: \"1\", image: a/b, source: local, container: {{ports: {ports}}}}}"
        );
    }
    sandbox.write("shared.yaml", shared);
    for verb in ["validate", "plan"] {
        let ranges = sandbox
            .run(format!("-f s.yaml {verb}"))
            .expect(65)
            .says("`1-65535` is a range of 65535 ports: at most 1000 can be published at once");
        let lists = sandbox.run(format!("-f shared.yaml {verb}")).expect(65);
        for outcome in [ranges, lists] {
            // A debug build on a busy machine: far from what it takes, and far below what going through all would.
            assert!(outcome.took < std::time::Duration::from_secs(10), "{verb}: {:?}", outcome.took);
        }
    }
}
