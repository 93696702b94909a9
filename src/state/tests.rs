//! What goes through the whole loader: what comes out of a file, what hostile files cost, what never gets out.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::model::{AgentName, HealthTest, Location, RestartPolicy, Runtime, Version};

mod layers;
mod sessions;

fn input(text: impl Into<String>) -> Input {
    Input { name: "s.yaml".into(), text: text.into(), dir: "/srv/demo".into() }
}

fn context<'a>(vars: &[(&str, &str)], key: &'a dyn Fn(&Path) -> HostKey) -> Context<'a> {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Context { vars, root: None, manifest_url: None, host_arch: Arch::X64, key }
}

fn key(_: &Path) -> HostKey {
    HostKey::from_bytes([7; 32])
}

fn load_with(text: impl Into<String>, vars: &[(&str, &str)]) -> Result<Loaded, StateError> {
    load(&input(text), &context(vars, &key))
}

const HOME: &[(&str, &str)] = &[("HOME", "/home/u")];

/// A file with one agent that has these lines.
fn agent(lines: &str) -> String {
    let mut text =
        "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nagents:\n  a:\n    version: \"1\"\n".to_owned();
    for line in lines.lines() {
        let _ = writeln!(text, "    {line}");
    }
    text
}

fn good(lines: &str) -> crate::model::Agent {
    let loaded = load_with(agent(lines), HOME).unwrap_or_else(|err| panic!("{}", err.render(false)));
    loaded.desired.agents[&AgentName::new("a").unwrap()].clone()
}

/// The problems less their file name.
fn bad(text: impl Into<String>) -> String {
    load_with(text, HOME).unwrap_err().to_string().replace("s.yaml:", "")
}

#[test]
fn what_a_file_leaves_out_has_the_documented_default() {
    let agent = good("container: {healthcheck: {test: up}}");
    assert_eq!(agent.container.name.as_str(), "demo-a");
    assert_eq!(agent.container.restart, RestartPolicy::UnlessStopped);
    assert_eq!((agent.arches, agent.version), (vec![Arch::X64], Version::Exact("1".into())));
    let check = agent.container.healthcheck.unwrap();
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(30), Duration::from_secs(30)));
    assert_eq!((check.retries, check.start_period), (3, Duration::ZERO));
    assert!(matches!(check.test, HealthTest::Shell(line) if line.expose() == "up"));
    assert_eq!(agent.place.to_string(), "s.yaml:5:3");
}

#[test]
fn a_health_check_is_switched_off_by_one_word() {
    for test in ["NONE", "none", "\" None \"", "[NONE]", "[none]", "[\"NONE\"]"] {
        let agent = good(&format!("container: {{healthcheck: {{test: {test}, interval: 1s}}}}"));
        assert_eq!((agent.container.healthcheck, agent.container.no_healthcheck), (None, true), "{test}");
    }
    let on = good("container: {healthcheck: {test: [CMD, none]}}").container;
    assert!(on.healthcheck.is_some() && !on.no_healthcheck, "a program may have that name");
    let told = bad(agent("container: {healthcheck: {test: [NONE, \"true\"]}}"));
    assert!(told.contains("NONE takes nothing after it; write `test: NONE` for no health check at all"), "{told}");
}

#[test]
fn the_manifest_is_asked_for_between_every_second_and_every_year() {
    let with = |manifest: &str| agent("state: running").replacen("runtime", &format!("{manifest}runtime"), 1);
    let every = |manifest: &str| load_with(with(manifest), HOME).unwrap().desired.manifest_refresh.as_millis();
    let hour = 3_600_000;
    assert_eq!([every(""), every("manifest:\n"), every("manifest: {url: ./m.json}\n")], [hour; 3]);
    assert_eq!(every("manifest: {refresh: 1s}\n"), 1000);
    assert_eq!(every("manifest: {refresh: 1m 30s 5ms}\n"), 90_005);
    assert_eq!(every("manifest: {refresh: 365days}\n"), 365 * 24 * hour);
    for (wrong, why) in [
        ("999ms", "3:21: manifest.refresh: the manifest cannot be asked for more often than every 1s"),
        ("0s", "3:21: manifest.refresh: the manifest cannot be asked for more often than every 1s"),
        ("366days", "3:21: manifest.refresh: `366days` is longer than a year"),
        ("60", "3:21: manifest.refresh: the duration `60` has no unit; write `60s` for seconds"),
        ("often", "3:21: manifest.refresh: expected a duration like `30s` or `1m 30s`, found `often`"),
    ] {
        assert_eq!(bad(with(&format!("manifest: {{refresh: {wrong}}}\n"))), why);
    }
}

#[test]
fn flag_file_and_environment_have_their_order() {
    let file = "root: ./data\nmanifest: {url: ./m.json}\n".to_owned() + &agent("");
    let plain = agent("");
    let resolved = |text: &str, root: Option<&str>, url: Option<&str>, vars: &[(&str, &str)]| {
        let context =
            Context { root: root.map(PathBuf::from), manifest_url: url.map(str::to_owned), ..context(vars, &key) };
        let desired = load(&input(text), &context).unwrap().desired;
        (desired.root.display().to_string(), desired.manifest.map(|at| at.to_string()).unwrap_or_default())
    };
    let vars =
        [("HOME", "/home/u"), ("STEADFAST_ROOT", "/env"), ("STEADFAST_MANIFEST_URL", "https://e.example/m.json")];
    let pair = |root: &str, url: &str| (root.to_owned(), url.to_owned());
    assert_eq!(resolved(&file, Some("/flag"), Some("/flag.json"), &vars), pair("/flag", "/flag.json"));
    assert_eq!(resolved(&file, None, None, &vars), pair("/srv/demo/data", "/srv/demo/m.json"));
    assert_eq!(resolved(&plain, None, None, &vars), pair("/env", "https://e.example/m.json"));
    assert_eq!(resolved(&plain, None, None, HOME), pair("/home/u/.steadfast", ""));
    assert_eq!(
        load_with(plain, &[]).unwrap_err().problems()[0].help.as_deref(),
        Some("give one with `--root`, `root:` or $STEADFAST_ROOT")
    );
}

#[test]
fn what_comes_from_outside_is_sensitive() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("e.env"), "FROM_FILE=f\nWINS=file\n").unwrap();
    let text = agent(
        "container:\n  envFile: e.env\n  command: [\"x${env:V}\", y]\n  env: {A: \"${env:V}\", B: b, API_KEY: k, WINS: env}",
    );
    let input = Input { dir: dir.path().to_owned(), ..input(text) };
    let loaded = load(&input, &context(&[("HOME", "/h"), ("V", "v")], &key)).unwrap();
    assert_eq!(loaded.env_files, [dir.path().join("e.env")]);
    let spec = &loaded.desired.agents.values().next().unwrap().container;
    let shown: Vec<_> =
        spec.env.iter().map(|(name, value)| format!("{name}={}/{}", value.expose(), value.is_sensitive())).collect();
    assert_eq!(shown, ["A=v/true", "API_KEY=k/true", "B=b/false", "FROM_FILE=f/true", "WINS=env/false"]);
    let command: Vec<_> =
        spec.command.as_ref().unwrap().iter().map(|word| (word.expose(), word.is_sensitive())).collect();
    assert_eq!(command, [("xv", true), ("y", false)]);
}

#[test]
fn paths_are_resolved_and_not_guessed_at() {
    let agent = good("container:\n  mounts: [{source: ./d/../e, target: /t/}, {source: ~/x, target: /u}]");
    let mounts: Vec<_> = agent
        .container
        .mounts
        .iter()
        .map(|mount| (mount.bind_source().unwrap().expose(), mount.target.expose()))
        .collect();
    assert_eq!(mounts, [("/srv/demo/d/../e", "/t"), ("/home/u/x", "/u")]);
    assert!(
        bad(super::tests::agent("container:\n  mounts: [{source: ~bob/x, target: /t}]"))
            .contains("another user's home")
    );
}

#[test]
fn runtimes_are_distinguished() {
    let with = |runtime: &str| {
        let text = agent("").replace("{podman: {}}", runtime);
        load_with(text, HOME).map(|loaded| loaded.desired.runtime).map_err(|err| err.to_string())
    };
    assert_eq!(with("{podman: }").unwrap(), Runtime::Podman { socket: None });
    let at = |socket: &str| Runtime::Podman { socket: Some(socket.into()) };
    assert_eq!(with("{podman: {socket: 'unix:///run/p.sock'}}").unwrap(), at("/run/p.sock"));
    assert_eq!(with("{podman: {socket: p.sock}}").unwrap(), at("/srv/demo/p.sock"));
    assert!(with("{podman: {socket: 'tcp://h:1'}}").unwrap_err().contains("not a unix socket"));
    assert!(with("{}").unwrap_err().contains("exactly one of `lima` and `podman` is needed"));
    assert!(with("{podman: {}, lima: {instance: a, template: t}}").unwrap_err().contains("both `lima` and `podman`"));
}

#[test]
fn a_virtual_machine_has_its_template_and_its_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let template = dir.path().join("t.yaml");
    std::fs::write(&template, "cpus: 2\n").unwrap();
    let with = |more: &str, agent_more: &str| {
        let lima = format!("{{lima: {{instance: a, template: {}{more}}}}}", template.display());
        let text = agent(agent_more).replace("{podman: {}}", &lima);
        load_with(text, HOME).map_err(|err| err.to_string())
    };
    let vm = |more: &str| with(more, "").unwrap().desired.vm().unwrap().clone();
    let spec = vm("");
    assert_eq!((spec.instance.as_str(), spec.home.to_str().unwrap()), ("a", "/home/u/.lima"));
    assert_eq!((spec.cpus, spec.memory, spec.disk), (None, None, None));
    assert_eq!(spec.restart_after, Duration::from_secs(300));
    let spec = vm(", cpus: 4, memory: 4GiB, disk: 512m, restartAfter: 1m, home: /l");
    assert_eq!((spec.cpus, spec.memory, spec.disk), (Some(4), Some(4 << 30), Some(512 << 20)));
    assert_eq!((spec.restart_after, spec.home.to_str().unwrap()), (Duration::from_secs(60), "/l"));
    let refused = |more: &str, agent_more: &str| with(more, agent_more).unwrap_err();
    assert!(refused(", memory: 4", "").contains("has no unit"));
    assert!(refused(", disk: 4 parsecs", "").contains("expected a size like"));
    let long = refused(&format!(", home: /{}", "x".repeat(90)), "");
    assert!(long.contains("has 93 bytes, and its sockets leave room for "), "{long}");
    assert!(refused("", "container: {ports: ['192.168.1.2:80:80']}").contains("write 127.0.0.1 or 0.0.0.0"));
    assert!(refused("", "container: {ports: ['80:80/sctp']}").contains("only tcp and udp are"));
    let forwards: Vec<_> = with("", "container: {ports: ['127.0.0.1:8080:80', '53:53/udp']}")
        .unwrap()
        .desired
        .forwards()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(forwards, ["0.0.0.0:53/udp", "127.0.0.1:8080/tcp"]);
}

#[test]
fn the_key_is_not_asked_for_a_broken_file() {
    let key = |_: &Path| -> HostKey { panic!("asked") };
    let context = Context { key: &key, ..context(HOME, &key) };
    assert!(load(&input("name: x"), &context).is_err());
}

#[test]
fn a_value_from_the_environment_is_not_in_its_own_error() {
    let canary = "canary;rm -rf";
    for (line, field) in [
        ("image: \"${env:V}\"", "image"),
        ("state: \"${env:V}\"", "state"),
        ("suspend: \"${env:V}\"", "suspend"),
        ("container: {name: \"${env:V}\"}", "name"),
        ("container: {ports: [\"${env:V}:80\"]}", "ports[0]"),
        ("container: {addHosts: [\"${env:V}\"]}", "addHosts[0]"),
        ("container: {mounts: [{source: \"~${env:V}\", target: \"${env:V}\"}]}", "mounts[0].source"),
        ("container: {healthcheck: {test: up, interval: \"${env:V}\", retries: \"${env:V}\"}}", "interval"),
        ("sha256: {x64: \"${env:V}\"}", "x64"),
    ] {
        let err = load_with(agent(line), &[("HOME", "/h"), ("V", canary)]).unwrap_err();
        let told = format!("{err} {err:?} {}", err.render(true));
        assert!(!told.contains("canary") && told.contains(field), "{told}");
    }
}

#[test]
fn a_secret_beside_a_problem_is_masked() {
    for text in [
        agent("container: {env: {TOKEN: canary, A: }}"),
        agent("container:\n  env: {A: , TOKEN: \"canary\", B: ok}"),
        agent("container:\n  env: [API_KEY=canary, NOTHING]"),
        agent("container:\n  env:\n    - API_KEY=canary\n    - 2A=x"),
        agent("container:\n  env:\n    - API_KEY=canary\n   - A=1"),
        agent("container:\n  env:\n    DB_PASSWORD: canary\n   bad: 1"),
        agent("container:\n  env:\n    PRIVATE_KEY: |\n      canary one\n\tcanary two: x\n"),
        agent("container:\n  env:\n    TOKEN: &t canary\n    TOKEN: *t"),
        agent("container:\n  env: {X: &t canary, TOKEN: *t, Y: }"),
        agent("container: {env: {TOKEN: \"canary\\q\"}}"),
    ] {
        let err = load_with(text.clone(), HOME).unwrap_err();
        let told = format!("{err} {err:?} {}", err.render(false));
        assert!(!told.contains("canary"), "{text}\n{told}");
    }
}

#[test]
fn everything_wrong_is_reported_at_once_and_in_order() {
    let told = bad(agent("verison: 1\ncontainer:\n  restrat: no\n  ports: [\"0:1\"]"));
    assert_eq!(
        told,
        "7:5: agents.a.verison: unknown field `verison`; did you mean `version`?\n\
         9:7: agents.a.container.restrat: unknown field `restrat`; did you mean `restart`?\n\
         10:15: agents.a.container.ports[0]: the host port `0` is out of range: ports go from 1 to 65535"
    );
}

#[test]
fn a_thousand_problems_are_counted_not_reported() {
    let lines: String = (0..1000).fold(String::new(), |text, n| text + &format!("x{n}: 1\n"));
    let err = load_with(agent(&lines), HOME).unwrap_err();
    assert_eq!(err.problems().len(), 100);
    assert!(err.to_string().ends_with("s.yaml: and 900 more problems"));
}

/// The error of a file that must be refused quickly.
fn refused(text: String) -> String {
    let start = Instant::now();
    let told = bad(text);
    // Debug builds on a busy machine are slow; what this guards against takes minutes or all memory.
    assert!(start.elapsed() < Duration::from_secs(300), "took {:?}", start.elapsed());
    told
}

#[test]
fn alias_bombs_are_refused() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let row = vec![format!("*a{}", level - 1); 9].join(", ");
        let _ = writeln!(laughs, "a{level}: &a{level} [{row}]");
    }
    assert!(refused(laughs).contains("aliases of this file expand to too much"));
    let quadratic = format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 40_000].join(","), vec!["*a"; 40_000].join(","));
    assert!(quadratic.len() < 260_000);
    assert!(refused(quadratic).contains("expand to too much"));
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(200_000), vec!["*a"; 1000].join(","));
    assert!(refused(long).contains("expand to too much"));
    let many: String = (0..20_000).map(|n| format!("- &a{n} x\n")).collect();
    assert!(refused(many).contains("more than 10000 anchors"));
    assert!(refused("a: &a [*a]\n".into()).contains("this alias stands inside what it refers to"));
}

#[test]
fn deep_and_wide_files_are_refused() {
    assert!(refused("[".repeat(100_000)).contains("nested more than 64 levels deep"));
    assert!(refused("{a: ".repeat(100_000)).contains("nested more than 64 levels deep"));
    assert!(refused("- ".repeat(100_000)).contains("nested more than 64 levels deep"));
    assert!(refused("- \n".repeat(MAX_BYTES / 3)).contains("more than 2000000 values"));
    assert!(load_with("#".repeat(MAX_BYTES + 1), HOME).unwrap_err().to_string().contains("larger than 16 MiB"));
}

#[test]
fn nothing_that_is_said_of_a_file_is_obeyed_by_a_terminal() {
    for text in [
        "a: *b\u{2028}\u{202e}c\n".to_owned(),
        "a: 1\nb\u{202e}: 1\n\u{202e}: 2\n\u{202e}: 2\n".to_owned(),
        agent(
            "image: \"a\u{202e}b\"\nstate: \"\u{9b}31m\"\ncontainer: {ports: [\"\u{2066}:80\"], env: {\"\u{85}\": 1}}",
        ),
        agent("container: {restart: \"\\e[2J\\L\", mounts: [{source: \"\\x9b\", target: \"\u{200f}\"}]}"),
        "%\u{202e} 1\n---\na: !\u{202e} 1\n".to_owned(),
    ] {
        let err = load_with(text, HOME).unwrap_err();
        for said in [err.to_string(), err.render(false)] {
            let acts = said.find(|c| crate::visible::acts(c) && c != '\n');
            assert!(acts.is_none(), "at {acts:?}: {said:?}");
        }
    }
}

#[test]
fn problems_that_are_only_counted_cost_little() {
    let keys: String = (0..200_000).map(|n| format!("imag{n}: 1\n")).collect();
    assert!(refused(format!("apiVersion: steadfast/v1\n{keys}")).contains("more problems"));
    let references: String = (0..50_000).map(|n| format!("'${{env:HOM{n}}}', ")).collect();
    let names: Vec<_> = (0..300).map(|n| format!("HOME_OF_{n}")).collect();
    let vars: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let start = Instant::now();
    let err = load_with(agent(&format!("container: {{command: [{references}]}}")), &vars).unwrap_err();
    assert!(err.to_string().contains("more problems") && start.elapsed() < Duration::from_secs(300));
    let twice = "a: 1\n".repeat(200_000);
    assert!(refused(twice).contains("more problems"));
    // A file that is one line, and a secret at its end.
    let line = format!("{{{}, \"API_TOKEN\": \"hunter2\"}}", vec!["\"x\": 1"; 400_000].join(", "));
    assert!(!refused(line).contains("hunter2"));
}

#[test]
fn odd_files_do_not_panic() {
    for text in [
        "",
        "\u{feff}",
        "\0",
        "---",
        "...",
        "%YAML 3.0\n---\n",
        "? ",
        ": ",
        "&a",
        "*a",
        "!",
        "!!",
        "|",
        ">\n ",
        "\"",
        "'",
        "{",
        "]",
        "- - - -",
        "a: b: c",
        "é: \"\\ud800\"",
        "\u{2028}a: \t",
        "<<: 1",
        "? [a]\n: b",
        "null",
        "~",
        "[]",
        "agents: {a: {container: {env: {é: }}}}",
    ] {
        let err = load_with(text, HOME).unwrap_err();
        assert!(!err.render(true).is_empty() && !err.to_string().is_empty(), "{text:?}");
    }
}

#[test]
fn merge_keys_give_what_the_mapping_lacks() {
    let text = agent("container: &c {restart: always, command: [a]}")
        + "  b:\n    version: \"2\"\n    container: {<<: *c, restart: on-failure}\n";
    let loaded = load_with(text, HOME).unwrap_or_else(|err| panic!("{}", err.render(false)));
    let spec = &loaded.desired.agents[&AgentName::new("b").unwrap()].container;
    assert_eq!(spec.restart, RestartPolicy::OnFailure);
    assert_eq!(spec.command.as_ref().unwrap()[0].expose(), "a");
}

#[test]
fn a_manifest_can_be_anywhere() {
    let at = |url: &str| {
        let text = format!("manifest: {{url: \"{url}\"}}\n{}", agent(""));
        load_with(text, HOME)
            .map(|loaded| loaded.desired.manifest.map(|manifest| manifest.at))
            .map_err(|err| err.to_string())
    };
    assert_eq!(at("~/m.json").unwrap(), Some(Location::File("/home/u/m.json".into())));
    assert_eq!(at("file:///m.json").unwrap(), Some(Location::File("/m.json".into())));
    assert!(at("ftp://x/m.json").unwrap_err().contains("`ftp:` is not supported"));
}

#[test]
fn ten_thousand_agents_fit() {
    let text = generate(10_000);
    let loaded = load_with(text, HOME).unwrap_or_else(|err| panic!("{err}"));
    assert_eq!(loaded.desired.agents.len(), 10_000);
}

/// A state file with so many agents of about 56 lines.
fn generate(agents: u32) -> String {
    let mut text = "apiVersion: steadfast/v1\nname: big\nruntime:\n  podman: {}\nagents:\n".to_owned();
    for n in 0..agents {
        let _ = write!(
            text,
            "  agent-{n}:\n    version: \"1.{n}\"\n    image: registry.example.com/team/agent\n    source: registry\n    \
             container:\n      command:\n        - serve\n        - --port\n        - \"8080\"\n      env:\n"
        );
        for variable in 0..20 {
            let _ = writeln!(text, "        VARIABLE_{variable}: value-{n}");
        }
        let _ = writeln!(text, "      mounts:");
        for mount in 0..3 {
            let _ = write!(
                text,
                "        - source: /srv/{n}/{mount}\n          target: /data/{mount}\n          readOnly: true\n"
            );
        }
        let _ = write!(
            text,
            "      ports:\n        - \"127.0.{}.{}:8080:80\"\n      restart: always\n      addHosts:\n        - \"db:10.0.0.1\"\n      \
             healthcheck:\n        test:\n          - CMD\n          - check\n        interval: 30s\n        timeout: 5s\n        retries: 3\n        startPeriod: 1s\n",
            n / 250,
            n % 250 + 1
        );
    }
    text
}

/// Whatever a problem quotes of the file is short.
#[test]
fn a_word_of_megabytes_is_not_quoted_whole() {
    let huge = "a9é.".repeat(1 << 14);
    let places = [
        "version: {}",
        "image: {}",
        "image: \"http://{}\"",
        "source: {}",
        "state: {}",
        "arches: [{}]",
        "sha256: {x64: {}}",
        "{}: 1",
        "suspend: {}",
        "envFile: {}",
    ];
    let in_container = [
        "name: {}",
        "name: \"{}.next\"",
        "ports: [\"{}\"]",
        "ports: [\"1:2/{}\"]",
        "ports: [\"{}:1:2\"]",
        "ports: [{hostPort: {}}]",
        "mounts: [\"{}:/a\"]",
        "mounts: [{source: \"~{}/x\", target: /a}]",
        "mounts: [{source: /a, target: {}}]",
        "mounts: [{source: /a, target: \"/a:{}\"}]",
        "restart: {}",
        "addHosts: [\"{}\"]",
        "addHosts: [\"a:{}\"]",
        "healthcheck: {test: x, interval: {}}",
        "healthcheck: {test: x, retries: {}}",
        "healthcheck: {test: [{}]}",
        "env: {\"{}\": x}",
        "env: {A: \"${env:{}}\"}",
        "env: {A: \"${{}}\"}",
        "envFile: ./{}",
        "{}: 1",
    ];
    let good = "version: \"1\"\nimage: a/b\nsource: registry\n";
    let whole = [
        "apiVersion: {}",
        "name: {}",
        "root: \"~{}\"",
        "manifest: {url: \"ftp://{}\"}",
        "runtime: {podman: {socket: \"ssh://{}\"}}",
    ];
    let texts = (whole
        .iter()
        .map(|line| format!("apiVersion: steadfast/v1\nname: demo\n{}\nagents: {{}}\n", line.replace("{}", &huge))))
    .chain(places.iter().map(|line| agent(&format!("{good}{}", line.replace("{}", &huge)))))
    .chain(in_container.iter().map(|line| agent(&format!("{good}container:\n  {}", line.replace("{}", &huge)))));
    for text in texts {
        let Err(err) = load_with(text.clone(), HOME) else { continue };
        let line = text.lines().find(|line| line.len() > 1000).unwrap().chars().take(40).collect::<String>();
        for problem in err.problems() {
            let told = problem.to_string();
            assert!(told.len() < 4000, "`{line}`: {} bytes, {:.300}", told.len(), told);
            assert!(problem.message.len() < 1000 && problem.path.len() < 1000, "`{line}`: {:.300}", problem.message);
        }
        assert!(err.render(false).len() < 4000 * err.problems().len(), "`{line}`");
    }
}
