//! Templates, defaults, copies and several files, through the whole loader.

use super::*;
use crate::model::{Agent, Text};

const HEAD: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nmanifest: {url: /m.json}\n";

fn agents(text: &str) -> BTreeMap<String, Agent> {
    let loaded = load_with(format!("{HEAD}{text}"), HOME).unwrap_or_else(|err| panic!("{}", err.render(false)));
    loaded.desired.agents.into_iter().map(|(name, agent)| (name.to_string(), agent)).collect()
}

fn env(agent: &Agent) -> Vec<(&str, &str)> {
    agent.container.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect()
}

#[test]
fn an_agent_lies_on_its_template_and_that_on_the_defaults() {
    let all = agents(
        "defaults: {arches: [arm64], container: {command: [d], restart: always, env: {A: d, B: d, C: d, D: d}}}\n\
         templates:\n  base: {version: \"1\", container: {command: [b, b], env: {B: b, C: b, D: null}}}\n  \
         t: {from: base, container: {env: {C: t}, restart: null}}\n\
         agents:\n  a: {from: t, container: {env: {E: a}}}\n  b: {version: \"2\", arches: null}\n  c: {from: t, version: \"3\", container: null}\n  \
         d: {from: base, container: {command: [], env: null}}\n",
    );
    let a = &all["a"];
    assert_eq!(env(a), [("A", "d"), ("B", "b"), ("C", "t"), ("E", "a")]);
    assert_eq!(a.container.command, Some(["b", "b"].map(Text::from).into()), "a list is replaced as a whole");
    assert_eq!((a.container.restart, &a.arches[..]), (RestartPolicy::UnlessStopped, &[Arch::Arm64][..]));
    assert_eq!(a.place.to_string(), "s.yaml:10:3");
    let b = &all["b"];
    assert_eq!((env(b).len(), b.container.restart, &b.arches[..]), (4, RestartPolicy::Always, &[Arch::X64][..]));
    assert_eq!((env(&all["c"]).len(), all["c"].version.to_string()), (0, "3".to_owned()));
    assert_eq!((env(&all["d"]).len(), &all["d"].container.command), (0, &Some(Vec::new())));
}

#[test]
fn what_lies_below_without_a_word_of_the_agent_is_the_agent() {
    let all = agents("defaults: {version: \"1\", container: {env: {A: d}}}\nagents: {a: , b: {}, c: null}\n");
    assert_eq!(all.len(), 3);
    assert!(all.values().all(|agent| env(agent) == [("A", "d")]));
}

#[test]
fn a_count_makes_agents_that_know_who_they_are() {
    let text = |count: u32| {
        format!(
            "agents:\n  w:\n    version: \"1\"\n    count: {count}\n    container:\n      command: [\"${{agent:name}}\", \"${{agent:index}}\", \"$${{agent:name}}\"]\n      \
             ports: [{{hostPort: \"1808${{agent:index}}\", containerPort: 80}}]\n  v: {{version: \"1\", container: {{name: \"${{agent:name}}\"}}}}\n"
        )
    };
    let all = agents(&text(3));
    assert_eq!(all.keys().collect::<Vec<_>>(), ["v", "w-1", "w-2", "w-3"]);
    let second = &all["w-2"].container;
    assert_eq!(second.command, Some(["w-2", "2", "${agent:name}"].map(Text::from).into()));
    assert_eq!((second.ports[0].host_port, second.name.as_str()), (18082, "demo-w-2"));
    assert!(second.command.iter().flatten().all(|word| !word.is_sensitive()), "a name is no secret");
    assert_eq!(all["v"].container.name.as_str(), "v");
    assert_eq!(agents(&text(0)).keys().collect::<Vec<_>>(), ["v"]);
    // A copy is what it would be, written by hand.
    let one = agents("agents: {w-1: {version: \"1\", container: {env: {A: w-1}}}}\n");
    let copy = agents("agents: {w: {version: \"1\", count: 1, container: {env: {A: \"${agent:name}\"}}}}\n");
    assert!(one["w-1"].wants_same(&copy["w-1"]));
}

#[test]
fn a_secret_of_a_template_is_as_secret_as_an_agents() {
    let text = format!(
        "{HEAD}templates: {{t: {{version: \"1\", container: {{env: {{API_KEY: canary}}, restart: x}}}}}}\nagents: {{a: {{from: t}}}}\n"
    );
    let err = load_with(&text, HOME).unwrap_err();
    assert!(!err.render(false).contains("canary") && err.render(false).contains("******"), "{}", err.render(false));
    let all = agents(&text.replace(", restart: x", "").replace(HEAD, ""));
    assert!(all["a"].container.env["API_KEY"].is_sensitive());
}

/// How many agents a file has, or what is wrong with it; told in time.
fn told(text: String) -> String {
    let began = Instant::now();
    let told = load_with(text, HOME).map(|loaded| loaded.desired.agents.len());
    let told = told.map_or_else(|err| err.to_string(), |agents| format!("{agents} agents"));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}: {told}", began.elapsed());
    told
}

#[test]
fn what_is_taken_up_is_bounded() {
    let many = |how: &str| (0..10_000).map(|at| format!("  a{at}: {{{how}}}\n")).collect::<String>();
    let large = |entries: usize| (0..entries).map(|at| format!("V{at}: x, ")).collect::<String>();
    let with = |entries: usize, agents: &str| {
        let env = large(entries);
        format!("{HEAD}templates: {{t: {{version: \"1\", container: {{env: {{{env}}}}}}}}}\nagents:\n{agents}")
    };
    assert_eq!(told(with(20, &many("from: t, container: {env: {A: b}}"))), "10000 agents");
    let much = "all that agents take up from templates and defaults comes to too much";
    assert!(told(with(2_000, &many("from: t"))).contains(much));
    assert!(told(with(2_000, &many("from: t, container: {env: {A: b}}"))).contains(much));
    // A long chain, each with something of its own.
    let chain: String = (1..10_000).map(|at| format!("  t{at}: {{from: t{}, version: \"{at}\"}}\n", at - 1)).collect();
    let chain = format!("{HEAD}templates:\n  t0: {{}}\n{chain}agents: {{a: {{from: t9999}}}}\n");
    assert_eq!(told(chain), "1 agents");
    let doubled = |name: &str| {
        let lines = (1..30).map(|at| format!("  x{at}: &{name}{at} {{l: *{name}{}, r: *{name}{0}}}\n", at - 1));
        format!("  x0: &{name}0 {{l: {{}}, r: {{}}}}\n{}", lines.collect::<String>())
    };
    let bombs = format!("{HEAD}templates:\n{}agents: {{}}\n", doubled("a"));
    assert!(told(bombs).contains("the aliases of this file expand to too much"));
    let copies = format!("{HEAD}agents: {{a: {{version: \"1\", count: 10000, container: {{env: {{A: b}}}}}}}}\n");
    assert_eq!(told(copies), "10000 agents");
    let large = large(2_000);
    let copies = format!("{HEAD}agents: {{a: {{version: \"1\", count: 10000, container: {{env: {{{large}}}}}}}}}\n");
    assert!(told(copies).contains("all that `count` makes comes to too much"));
}

// ------------------------------------------------------------------------------------------------------ several files

fn file(name: &str, text: &str) -> Input {
    Input { name: format!("{name}.yaml"), text: text.to_owned(), dir: format!("/srv/{name}").into() }
}

fn merged(files: &[Input]) -> Result<Loaded, StateError> {
    load_all(files, &context(HOME, &key))
}

const BASE: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nmanifest: {url: m.json}\n\
                    templates: {t: {version: \"1\", container: {mounts: [{source: data, target: /data}]}}}\n\
                    agents:\n  a: {from: t, workspaces: {w: {source: ./w, target: /w}}}\n  b: {version: \"2\"}\n";

#[test]
fn files_are_merged_and_each_path_is_that_of_its_file() {
    let over = "root: ./state\nagents:\n  a: {version: \"3\", workspaces: {x: {source: ./x, target: /x}}}\n  b: null\n  c: {from: t}\n";
    let loaded = merged(&[file("base", BASE), file("over", over)]).unwrap_or_else(|err| panic!("{err}"));
    let desired = loaded.desired;
    assert_eq!(desired.agents.keys().map(AgentName::as_str).collect::<Vec<_>>(), ["a", "c"]);
    let (a, c) = (&desired.agents["a"], &desired.agents["c"]);
    assert_eq!((a.version.to_string(), c.version.to_string()), ("3".to_owned(), "1".to_owned()));
    let bound = |agent: &Agent| agent.container.mounts[0].bind_source().map(|source| source.expose().to_owned());
    assert_eq!(bound(a).unwrap(), "/srv/base/data");
    assert_eq!(bound(c).unwrap(), "/srv/base/data", "a template's is its file's");
    let sources: Vec<_> = a.workspaces.values().map(|workspace| workspace.source.display().to_string()).collect();
    assert_eq!(sources, ["/srv/base/w", "/srv/over/x"]);
    assert_eq!(desired.root.display().to_string(), "/srv/over/state");
    assert_eq!(desired.manifest.unwrap().to_string(), "/srv/base/m.json");
    assert_eq!((a.place.to_string(), c.place.to_string()), ("base.yaml:7:3".into(), "over.yaml:5:3".into()));
}

#[test]
fn each_problem_points_into_its_own_file() {
    let base = BASE.replace("/data}", "data}").replace("b: {version", "b: {verison");
    let over = "apiVersion: steadfast/v2\nagents:\n  a: {state: on}\n  c: {from: s}\nextra: 1\nname: Demo\n";
    let err = merged(&[file("base", &base), file("over", over)]).unwrap_err();
    insta::assert_snapshot!(err.render(false));
    assert!(err.to_string().contains("(first at base.yaml:1)"), "{err}");
}

#[test]
fn a_file_that_cannot_be_merged_is_told_with_what_is_wrong_with_the_others() {
    let told = |first: &str, second: &str| merged(&[file("a", first), file("b", second)]).unwrap_err().to_string();
    assert_eq!(told(BASE, "- 1\n"), "b.yaml:1:1: expected a mapping, found a list");
    assert_eq!(told(BASE, "# nothing\n").lines().count(), 1);
    let both = told("name: [", "a:\n\t- b\n");
    assert!(both.contains("a.yaml:1:7: this `[` is never closed") && both.contains("b.yaml:2:1: a tab"), "{both}");
    let whole = told("apiVersion: steadfast/v1\n", "name: x\n");
    assert!(whole.contains("a.yaml:1:1: the field `runtime` is missing"), "{whole}");
    // Both are there, and none of them alone is too large.
    let large = format!("{BASE}#{}", " ".repeat(9 << 20));
    assert!(told(&large, &large).starts_with("`a.yaml, b.yaml` is larger than 16 MiB"));
}

#[test]
fn who_they_are_is_told_of_several_files_too() {
    let files = [file("a", "name: x\nroot: ./r\n"), file("b", "agents: 7\n"), file("c", "name: y\nagents: {}\n")];
    let (name, root) = identity(&files, None, &context(HOME, &key).vars).unwrap();
    assert_eq!((name.as_str(), root.display().to_string()), ("y", "/srv/a/r".to_owned()));
    let named = variables(&[file("a", "a: ${env:A}"), file("b", "a: ${env:A:-x}\nb: ${env:B:-x}")]);
    assert_eq!(named, BTreeMap::from([("A".to_owned(), false), ("B".to_owned(), true)]));
}
