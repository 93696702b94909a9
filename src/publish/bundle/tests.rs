//! What is a bundle, and what is said of what is none.

use super::*;

fn parsed(text: &str) -> Result<Bundle, String> {
    Bundle::parse(text, Path::new("/srv/b"))
}

#[test]
fn json_and_yaml_say_the_same() {
    let json = r#"{"agents": [
        {"name": "openclaw", "image": "ghcr.io/openclaw/openclaw", "version": "2026.4.12"},
        {"name": "own", "image": "localhost/own", "version": "1", "context": "own", "containerfile": "C", "buildArgs": {"A": "b"},
         "smoke": {"command": ["true"], "exitCode": 3}},
        {"name": "web", "image": "localhost/web", "version": "1", "smoke": {"healthy": "60s"}}
    ]}"#;
    let yaml = "agents:\n- {name: openclaw, image: ghcr.io/openclaw/openclaw, version: 2026.4.12}\n\
                - name: own\n  image: localhost/own\n  version: \"1\"\n  context: own\n  containerfile: C\n  buildArgs: {A: b}\n  \
                smoke: {command: [\"true\"], exitCode: 3}\n\
                - {name: web, image: localhost/web, version: \"1\", smoke: {healthy: 1m}}\n";
    let bundle = parsed(json).unwrap();
    assert_eq!(parsed(yaml).unwrap(), bundle);
    let own = bundle.agent("own").unwrap();
    assert_eq!(own.build.as_ref().unwrap().context, Path::new("/srv/b/own"));
    assert_eq!(own.reference().as_str(), "localhost/own:1");
    assert_eq!(own.key(Arch::Arm64, Packing::Gzip).as_str(), "vm/images/own-1-arm64.tar.gz");
    assert_eq!(bundle.agent("web").unwrap().smoke, Some(Smoke::Healthy(Duration::from_secs(60))));
    let err = bundle.agent("other").unwrap_err().to_string();
    assert_eq!(err, "the bundle has no agent `other`; it has `openclaw`, `own`, `web`");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let agent = |more: &str| format!("{{agents: [{{name: a, image: localhost/a, version: '1'{more}}}]}}");
    for (text, words) in [
        ("{}".to_owned(), "missing field `agents`"),
        ("{agents: []}".to_owned(), "`agents` is empty"),
        (agent(", imagee: x"), "agents[0]: unknown field `imagee`"),
        (agent(", smoke: {}"), "agents[0] (`a`): smoke: it needs `command` or `healthy`"),
        (agent(", smoke: {exitCode: 1}"), "smoke: exitCode: goes with `command`"),
        (agent(", smoke: {command: [], exitCode: 1}"), "smoke: command: is empty"),
        (agent(", smoke: {command: [x], healthy: 1s}"), "one of them decides"),
        (agent(", smoke: {healthy: soon}"), "`soon`: "),
        (agent(", containerfile: x"), "containerfile: goes with `context`"),
        (agent(", buildArgs: {}"), "buildArgs: goes with `context`"),
        ("{agents: [{name: A/b, image: x, version: '1'}]}".to_owned(), "agents[0] (`A/b`): name: "),
        ("{agents: [{name: a, image: 'x:1', version: '1'}]}".to_owned(), "agents[0] (`a`): image: "),
        ("{agents: [{name: a, image: x, version: '../1'}]}".to_owned(), "agents[0] (`a`): version: "),
        ("{agents: [{name: a, image: x, version: latest}]}".to_owned(), "version: `latest` says nothing"),
        (
            format!("{{agents: [{{name: a, image: x, version: 'sha256:{}'}}]}}", "0".repeat(64)),
            "version: a digest is no version",
        ),
        (
            "{agents: [{name: a, image: x, version: '1'}, {name: a, image: y, version: '2'}]}".to_owned(),
            "agents[1] (`a`): there is another agent of this name",
        ),
    ] {
        let err = parsed(&text).unwrap_err();
        assert!(err.contains(words), "{text}: {err}");
    }
}

#[test]
fn a_bundle_that_cannot_be_read_is_reported_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| Bundle::read(&dir.path().join(name)).unwrap_err().to_string();
    assert!(read("none.json").contains("none.json`: No such file"), "{}", read("none.json"));
    std::fs::create_dir(dir.path().join("dir.json")).unwrap();
    assert!(read("dir.json").contains("it is a directory, not a file"));
    std::fs::write(dir.path().join("large.json"), vec![b' '; MAX_BYTES as usize + 1]).unwrap();
    assert!(read("large.json").contains("larger than 1 MiB"));
    std::fs::write(dir.path().join("bad.json"), "{\"agents\": 7}").unwrap();
    assert!(read("bad.json").contains("bad.json` is not valid: agents: invalid type"), "{}", read("bad.json"));
}
