//! `init`, `validate`, `schema`, `completions`, help and flags: verbs about files, not about the machine.

use crate::support::command::Sandbox;

const GOOD: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nagents:\n  hello:\n    version: \"1.36\"\n    \
                    image: docker.io/library/busybox\n    source: registry\n";

#[test]
fn every_verb_has_help_on_standard_output() {
    let sandbox = Sandbox::new();
    let verbs = [
        "init",
        "validate",
        "plan",
        "apply",
        "status",
        "history",
        "why",
        "down",
        "logs",
        "exec",
        "cache",
        "cache sync",
        "cache list",
        "cache verify",
        "cache gc",
        "service",
        "service install",
        "service uninstall",
        "service status",
        "doctor",
        "schema",
        "completions",
    ];
    for verb in verbs {
        let help = sandbox.run(format!("{verb} --help")).expect(0);
        assert!(help.stdout.contains("Usage: steadfast "), "{}", help.stdout);
        assert!(help.stdout.contains("Exit codes:"), "{verb}: {}", help.stdout);
        assert_eq!(help.stderr, "");
    }
    let help = sandbox.run("--help").expect(0).stdout;
    for verb in verbs.iter().filter(|verb| !verb.contains(' ')) {
        assert!(help.contains(&format!("\n  {verb}")), "{verb}: {help}");
    }
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "64 ", "65 ", "130 ", "143 "] {
        assert!(help.contains(code), "{code}: {help}");
    }
    assert!(sandbox.run("--version").expect(0).stdout.starts_with("steadfast "));
}

#[test]
fn bad_flags_are_a_usage_error_and_touch_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", GOOD);
    for args in [
        "",
        "aply",
        "apply --bogus",
        "apply --timeout soon",
        "apply --timeout 366d",
        "apply --settle 500000000000y",
        "down --lock-timeout 500000000000y",
        "cache sync --stall-timeout 2y",
        "apply --parallel 0",
        "apply --only Not_A_Label",
        "plan -o xml",
        "exec",
        "exec hello",
        "cache sync --arch sparc",
        "completions tcsh",
        "apply -o markdown",
        "status -o markdown",
        "down -o markdown",
        "cache list -o markdown",
        "doctor -o markdown",
        "validate -o markdown",
        "exec hello -o json -- true",
        "-o json exec hello -- true",
        "schema -o json",
        "completions bash -o yaml",
        "cache sync -f none.yaml --manifest-url gopher://x/vm/manifest.json --bogus",
    ] {
        let outcome = sandbox.run(args);
        assert_eq!(outcome.code, 64, "`{args}`: {} {}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.stdout, "", "`{args}`");
    }
    insta::assert_snapshot!("a_misspelt_verb", sandbox.run("aply").shown());
    insta::assert_snapshot!("markdown_is_for_plans", sandbox.run("apply -o markdown").shown());
    assert!(!sandbox.root().exists(), "nothing was written");
}

#[test]
fn help_lists_the_formats_and_exit_codes_that_there_are() {
    let sandbox = Sandbox::new();
    for (verb, formats) in [
        ("plan", Some("text, json, yaml, markdown")),
        ("status", Some("text, json, yaml")),
        ("", Some("text, json, yaml")),
        ("logs", Some("text, json")),
        ("exec", None),
        ("schema", None),
    ] {
        let said = sandbox.run(format!("{verb} -h")).expect(0).stdout;
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let told =
            words.split_once("--output <FORMAT>").map(|(_, told)| told.split_once("[possible values: ").unwrap().1);
        assert_eq!(told.map(|told| told.split(']').next().unwrap()), formats, "{verb}: {said}");
        assert!(said.contains("125 `exec` itself failed"), "{said}");
    }
    assert_eq!(sandbox.run("-o markdown doctor").code, 64);
}

#[test]
fn init_writes_a_valid_file_and_never_overwrites() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!("init", sandbox.run("init").shown());
    assert_eq!(sandbox.run("validate -o json").expect(0).json()["name"], "work", "after its directory");
    assert_eq!(sandbox.run("validate").expect(0).stderr, "", "nothing to warn of");
    // What its first line names is written by the command beside it.
    let text = std::fs::read_to_string(sandbox.path("steadfast.yaml")).unwrap();
    assert!(text.starts_with("# yaml-language-server: $schema=./steadfast.schema.json\n"), "{text}");
    assert!(text.contains("`steadfast schema > steadfast.schema.json`"), "{text}");
    std::fs::create_dir(sandbox.path("My Agents")).unwrap();
    sandbox.run(["init", "-f", "My Agents/x.yaml"]).expect(0).says("named `my-agents`");
    assert_eq!(sandbox.run(["validate", "-o", "json", "-f", "My Agents/x.yaml"]).expect(0).json()["name"], "my-agents");
    sandbox.write("steadfast.yaml", "mine");
    insta::assert_snapshot!("init_again", sandbox.run("init").shown());
    assert_eq!(std::fs::read(sandbox.path("steadfast.yaml")).unwrap(), b"mine");

    sandbox.run("init -q -f other.yaml").expect(0);
    sandbox.run("validate -f other.yaml").expect(0);
    let printed = sandbox.run("init -f -").expect(0).stdout;
    assert_eq!(printed.as_bytes(), std::fs::read(sandbox.path("other.yaml")).unwrap());
    sandbox.run("init -f none/x.yaml").expect(1).says("failed to write `none/x.yaml`: No such file or directory");
    std::os::unix::fs::symlink("nowhere", sandbox.path("link.yaml")).unwrap();
    sandbox.run("init -f link.yaml").expect(1);
    assert!(!sandbox.path("nowhere").exists(), "not through a dangling link either");
}

#[test]
fn validate_tells_people_and_programs() {
    let sandbox = Sandbox::new();
    sandbox.write("good.yaml", GOOD);
    insta::assert_snapshot!("validate_good", sandbox.run("validate -f good.yaml").shown());
    insta::assert_snapshot!("validate_good_json", sandbox.run("validate -f good.yaml -o json").shown());
    sandbox.write("bad.yaml", GOOD.replace("source:", "sauce:").replace("name: demo", "name: Demo"));
    insta::assert_snapshot!("validate_bad", sandbox.run("validate -f bad.yaml").shown());
    insta::assert_snapshot!("validate_bad_json", sandbox.run("validate -f bad.yaml -o json").shown());
    // What comes through a pipe comes once.
    let text = std::fs::read(sandbox.path("bad.yaml")).unwrap();
    let piped = sandbox.feed("validate -f - -o json", text).expect(65).json();
    let mut wanted = sandbox.run("validate -f bad.yaml -o json").expect(65).json();
    for problem in wanted["problems"].as_array_mut().unwrap() {
        problem["file"] = "-".into();
    }
    assert_eq!(piped, wanted);
    assert!(!sandbox.root().exists(), "validate touches nothing");
}

#[test]
fn the_state_file_is_found_by_flag_then_environment_then_here() {
    let mut sandbox = Sandbox::new();
    insta::assert_snapshot!("no_state_file", sandbox.run("validate").shown());
    sandbox.write("steadfast.yaml", GOOD.replace("demo", "here"));
    sandbox.write("env.yaml", GOOD.replace("demo", "env"));
    sandbox.write("flag.yaml", GOOD.replace("demo", "flag"));
    let name = |sandbox: &Sandbox, args: &str| sandbox.run(format!("{args} -o json")).expect(0).json()["name"].clone();
    assert_eq!(name(&sandbox, "validate"), "here");
    sandbox.set("STEADFAST_FILE", "env.yaml");
    assert_eq!(name(&sandbox, "validate"), "env");
    assert_eq!(name(&sandbox, "validate -f flag.yaml"), "flag");
    assert_eq!(name(&sandbox, "-f flag.yaml validate"), "flag", "before the verb too");
    let piped = sandbox.feed("validate -f - -o json", GOOD.replace("demo", "piped")).expect(0);
    assert_eq!(piped.json()["name"], "piped");
}

#[test]
fn what_is_no_readable_file_is_said_plainly() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("dir.yaml")).unwrap();
    insta::assert_snapshot!("a_directory_as_state_file", sandbox.run("plan -f dir.yaml").shown());
    insta::assert_snapshot!("a_missing_state_file", sandbox.run("apply -f none.yaml").shown());
    insta::assert_snapshot!("a_missing_state_file_json", sandbox.run("validate -f none.yaml -o json").shown());
    sandbox.run("plan -f /dev/zero").expect(65).says("`/dev/zero` is a device, not a file");
    sandbox.write("latin1.yaml", b"name: caf\xe9\n");
    sandbox.run("plan -f latin1.yaml").expect(65).says("latin1.yaml:1:10: the file is not UTF-8 text");
    let huge = std::fs::File::create(sandbox.path("huge.yaml")).unwrap();
    huge.set_len(17 * 1024 * 1024).unwrap();
    sandbox.run("plan -f huge.yaml").expect(65).says("`huge.yaml` is larger than 16 MiB");
    sandbox.feed("plan -f -", vec![b'#'; 17 * 1024 * 1024]).expect(65).says("larger than 16 MiB");
    sandbox.feed("validate -f -", "").expect(65);
}

/// With `--log-format json` standard error has JSON objects and nothing else.
#[test]
fn errors_and_hints_are_json_where_logs_are() {
    let sandbox = Sandbox::new();
    let said = |args: &str| -> Vec<serde_json::Value> {
        let outcome = sandbox.run(format!("{args} --log-format json --color always"));
        outcome.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    };
    let written = said("init");
    assert_eq!((written.len(), &written[0]["level"]), (1, &"INFO".into()), "{written:?}");
    let again = said("init");
    assert_eq!((again.len(), &again[0]["level"]), (1, &"ERROR".into()), "{again:?}");
    assert!(again[0]["message"].as_str().unwrap().starts_with("failed to write `steadfast.yaml`"), "{again:?}");
    assert!(again[0]["hints"][0].as_str().unwrap().contains("never overwrites"), "{again:?}");
    sandbox.write("bad.yaml", GOOD.replace("source:", "sauce:"));
    let bad = said("plan -f bad.yaml");
    assert!(bad[0]["message"].as_str().unwrap().starts_with("bad.yaml:8:5: agents.hello.sauce: "), "{bad:?}");
}

#[test]
fn the_printed_schemas_are_the_files_in_the_repository() {
    let sandbox = Sandbox::new();
    for (args, file) in [
        ("schema", "steadfast.schema.json"),
        ("schema --manifest", "manifest.schema.json"),
        ("schema --bundle", "bundle.schema.json"),
    ] {
        let printed = sandbox.run(args).expect(0).stdout;
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schema").join(file);
        let kept = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        assert!(printed == kept, "{} is stale: `steadfast {args}` prints another", path.display());
    }
}

#[test]
fn completions_are_scripts_their_shells_accept() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.run(format!("completions {shell}")).expect(0).stdout;
        assert!(script.contains("--lock-timeout") || script.contains("lock-timeout"), "{shell}");
        sandbox.write("script", &script);
        // A shell that is not installed cannot be asked.
        match std::process::Command::new(shell).arg("-n").arg(sandbox.path("script")).output() {
            Ok(checked) => assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr)),
            Err(err) => assert_eq!(err.kind(), std::io::ErrorKind::NotFound),
        }
    }
}

#[test]
fn colours_only_where_they_are_asked_for() {
    let mut sandbox = Sandbox::new();
    sandbox.write("bad.yaml", GOOD.replace("source:", "sauce:"));
    let has_colour = |sandbox: &Sandbox, args: &str| sandbox.run(args).expect(65).stderr.contains('\u{1b}');
    assert!(!has_colour(&sandbox, "validate -f bad.yaml"), "not on a pipe");
    assert!(has_colour(&sandbox, "validate -f bad.yaml --color always"));
    assert!(has_colour(&sandbox, "--color=always validate -f bad.yaml"));
    sandbox.set("NO_COLOR", "1");
    assert!(!has_colour(&sandbox, "validate -f bad.yaml"));
    assert!(has_colour(&sandbox, "validate -f bad.yaml --color always"), "a flag is stronger than the environment");
    sandbox.set("CLICOLOR_FORCE", "1");
    assert!(!has_colour(&sandbox, "validate -f bad.yaml --color never"));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("schema");
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked") && !said.contains("error:"), "{said}");
}
