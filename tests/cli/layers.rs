//! Several state files that are merged, as they are named and as they are told of.

use serde_json::json;

use crate::support::command::Sandbox;

const BASE: &str = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {socket: /nowhere/p.sock}}\n\
                    agents:\n  a: {version: \"1\", image: r.example/a, source: local, container: {envFile: a.env}}\n";
const PROD: &str = "agents:\n  a: {version: \"2\", workspaces: {w: {source: ./w, target: /w}}}\n  b: {version: \"1\", image: r.example/b, source: local}\n";

/// A sandbox with a file and one that goes upon it, in another directory.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", BASE);
    sandbox.write("a.env", "A=1\n");
    sandbox.write("prod/prod.yaml", PROD);
    sandbox
}

const BOTH: &str = "-f steadfast.yaml -f prod/prod.yaml";

#[test]
fn files_are_merged_in_the_order_in_which_they_are_named() {
    let sandbox = sandbox();
    let said = sandbox.run(format!("validate {BOTH} -o json")).expect(0).json();
    assert_eq!((&said["agents"], &said["warnings"]), (&json!(["a", "b"]), &json!([])));
    sandbox.run(format!("{BOTH} validate")).expect(0);
    let text = sandbox.run(format!("validate {BOTH}")).expect(0).stdout;
    assert_eq!(text, "`steadfast.yaml, prod/prod.yaml` is valid: `demo`, 2 agents.\n");
    // Upon each other the other way round, it is not all there until the second.
    sandbox.run("validate -f prod/prod.yaml -f steadfast.yaml").expect(0);
    sandbox.run("validate -f prod/prod.yaml").expect(65).says("the field `name` is missing");
    let piped = sandbox.feed("validate -f steadfast.yaml -f - -o json", "agents: {a: null, c: {version: \"3\"}}\n");
    assert_eq!(piped.expect(0).json()["agents"], json!(["c"]));
    sandbox.feed("validate -f - -f -", BASE).expect(65).says("standard input can be read once");
    sandbox.run(format!("validate {BOTH} -f none.yaml")).expect(65).says("there is no state file `none.yaml`");
    sandbox.run(format!("init {BOTH}")).expect(64).says("`init` writes one file");
}

#[test]
fn each_problem_is_told_with_its_file() {
    let sandbox = sandbox();
    sandbox.write("steadfast.yaml", BASE.replace("a.env", "none.env"));
    sandbox.write("prod/prod.yaml", PROD.replace("version: \"2\"", "version: 2.10, sourc: local"));
    let told = sandbox.run(format!("validate {BOTH} -o json")).expect(65).json();
    let places: Vec<_> =
        told["problems"].as_array().unwrap().iter().map(|one| (&one["file"], &one["line"], &one["path"])).collect();
    let (base, prod) = (json!("steadfast.yaml"), json!("prod/prod.yaml"));
    assert_eq!(
        places,
        [
            (&base, &json!(5), &json!("agents.a.container.envFile")),
            (&prod, &json!(2), &json!("agents.a.version")),
            (&prod, &json!(2), &json!("agents.a.sourc")),
        ]
    );
    sandbox
        .run(format!("validate {BOTH}"))
        .expect(65)
        .says("--> prod/prod.yaml:2:16")
        .says("steadfast.yaml, prod/prod.yaml: 3 problems");
}

#[test]
fn a_name_belongs_to_the_files_together() {
    let sandbox = sandbox();
    let dir = sandbox.root().join("state/demo");
    std::fs::create_dir_all(&dir).unwrap();
    let path = |file: &str| sandbox.path(file).display().to_string();
    let owner = json!({"file": path("steadfast.yaml"), "layers": [path("prod/prod.yaml")], "meaning": "01".repeat(32), "agents": ["a", "b"]});
    std::fs::write(dir.join("file.json"), json!({"heldBy": owner, "unlabelled": false}).to_string()).unwrap();
    let refused = sandbox.run("plan").expect(1);
    let both =
        format!("belongs to `{}, {}` (agents `a`, `b`), not to `", path("steadfast.yaml"), path("prod/prod.yaml"));
    refused.says(&both).says("name the same files with `-f`, in the same order");
    sandbox.run(format!("plan {BOTH}")).expect(1).says("no Podman socket at `/nowhere/p.sock`");
    sandbox.run("plan -f prod/prod.yaml -f steadfast.yaml").expect(1).says("belongs to `");
}

#[test]
fn a_message_names_them_all() {
    let sandbox = sandbox();
    sandbox.run(format!("{BOTH} vm status")).expect(1).says("`steadfast.yaml, prod/prod.yaml` runs its agents");
}

#[test]
fn config_prints_what_the_files_come_to() {
    let mut sandbox = sandbox();
    sandbox.set("SECRET", "canary");
    sandbox.write(
        "prod/prod.yaml",
        "templates:\n  t:\n    version: \"1\"\n    image: r.example/t\n    source: local\n    container:\n      command: [sh, -c, \"echo a\\necho b\\n\"]\n      \
         env: {TOKEN: \"${env:SECRET}\", WHO: \"${agent:name}\", RATIO: 1.10}\n      ports: [{hostPort: \"808${agent:index}\", containerPort: 80}]\n      \
         mounts: [{source: ./data, target: /data}]\n\
         agents:\n  a: {container: {envFile: ./b.env}}\n  w: {from: t, count: 2}\n",
    );
    sandbox.write("prod/b.env", "B=canary\n");
    let printed = sandbox.run(format!("config {BOTH}")).expect(0).stdout;
    let shown = printed.replace(&sandbox.work().display().to_string(), "<work>");
    insta::assert_snapshot!("config", shown);
    assert_eq!(sandbox.run(format!("config {BOTH} -o yaml")).expect(0).stdout, printed);
    sandbox.write("elsewhere/all.yaml", &printed);
    sandbox.write("elsewhere/all.json", sandbox.run(format!("config {BOTH} -o json")).expect(0).stdout);
    assert_eq!(sandbox.run("config -f elsewhere/all.yaml").expect(0).stdout, printed);
    let json = |file: &str| sandbox.run(format!("config -f {file} -o json")).expect(0).json();
    assert_eq!(json("elsewhere/all.yaml"), json("elsewhere/all.json"));
    for file in ["elsewhere/all.yaml", "elsewhere/all.json"] {
        let agents = sandbox.run(format!("validate -f {file} -o json")).expect(0).json()["agents"].clone();
        assert_eq!(agents, json!(["a", "w-1", "w-2"]));
    }
    // As `validate` says what is wrong.
    sandbox.write("steadfast.yaml", "name: [\n");
    sandbox.run("config").expect(65).says("steadfast.yaml:1:7");
    assert_eq!(sandbox.run("config -o json").expect(65).json(), sandbox.run("validate -o json").expect(65).json());
}
