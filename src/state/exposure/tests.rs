use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::model::{Arch, HostKey};
use crate::state::{Context, Input, load};

/// The warnings of `<dir>/s.yaml`, with its root in `root` and these lines for its agent `a`, less the file's name.
fn warned(dir: &Path, root: &str, runtime: &str, lines: &str) -> Vec<String> {
    let mut text = format!(
        "apiVersion: steadfast/v1\nname: demo\nroot: {root}\nruntime: {runtime}\nagents:\n  a:\n    version: \"1\"\n    \
         source: local\n    image: localhost/a\n"
    );
    lines.lines().for_each(|line| text += &format!("    {line}\n"));
    loaded(dir, text)
}

fn loaded(dir: &Path, text: String) -> Vec<String> {
    fs::write(dir.join("s.yaml"), &text).unwrap();
    let input = Input { name: "s.yaml".into(), text, dir: dir.to_owned() };
    let key = |_: &Path| HostKey::from_bytes([7; 32]);
    let vars = [("HOME", "/nowhere/u"), ("WHERE", "e.env")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let context = Context { vars: vars.into(), root: None, manifest_url: None, host_arch: Arch::X64, key: &key };
    let loaded = load(&input, &context).unwrap_or_else(|err| panic!("{}", err.render(false)));
    assert!(loaded.warnings.iter().all(|warning| !warning.planned));
    loaded.warnings.iter().map(|warning| warning.to_string().replace("s.yaml:", "")).collect()
}

const PODMAN: &str = "{podman: {}}";

#[test]
fn a_writable_mount_that_holds_what_decides_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir_all(dir.join("data")).unwrap();
    fs::create_dir_all(dir.join("root")).unwrap();
    fs::write(dir.join("e.env"), "A=b\n").unwrap();
    let mount = |source: &str| format!("container: {{mounts: [{{source: {source}, target: /w}}]}}");
    let warned = |lines: &str| warned(dir, "./root", PODMAN, lines);
    let told = |what: &str, it: &str| {
        vec![format!(
            "10:35: agents.a.container.mounts[0].source: {what} in this mount, to which the agent can write; keep {it} elsewhere, \
             mount another directory, or write `readOnly: true`"
        )]
    };
    assert_eq!(warned(&mount(".")), told("the state file and the root lie", "them"));
    assert_eq!(warned(&mount("/")), told("the state file and the root lie", "them"));
    assert_eq!(warned(&mount("s.yaml")), told("the state file lies", "it"));
    assert_eq!(warned(&mount("root")), told("the root lies", "it"));
    assert_eq!(warned(&mount("data/..")), told("the state file and the root lie", "them"));
    for fine in [
        mount("data"),
        mount("/nowhere/else"),
        "container: {mounts: [{source: ., target: /w, readOnly: true}]}".to_owned(),
        format!("state: absent\n{}", mount(".")),
    ] {
        assert_eq!(warned(&fine), Vec::<String>::new(), "{fine}");
    }
    let second = "container:\n  envFile: \"${env:WHERE}\"\n  mounts:\n    - {source: data, target: /d}\n    - {source: e.env, target: /e}";
    let all = warned(second);
    assert_eq!(all.len(), 1, "{all:?}");
    let expected = "14:20: agents.a.container.mounts[1].source: the env file `${env:WHERE}` lies in this mount";
    assert!(all[0].starts_with(expected), "{all:?}");
}

#[test]
fn links_lead_nobody_astray() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir_all(dir.join("conf")).unwrap();
    fs::create_dir_all(dir.join("kept")).unwrap();
    fs::create_dir_all(dir.join("links")).unwrap();
    symlink(dir.join("conf"), dir.join("to-conf")).unwrap();
    fs::create_dir_all(dir.join("more")).unwrap();
    symlink("../more/to-kept/e.env", dir.join("links/e.env")).unwrap();
    symlink("../kept", dir.join("more/to-kept")).unwrap();
    fs::write(dir.join("kept/e.env"), "A=b\n").unwrap();
    let warned = |source: &str| {
        let lines = format!("container: {{envFile: ../links/e.env, mounts: [{{source: ../{source}, target: /w}}]}}");
        let told = warned(&dir.join("conf"), "/nowhere/r", PODMAN, &lines);
        let what = |told: &String| told.split(" in this").next().unwrap().rsplit(": ").next().unwrap().to_owned();
        told.iter().map(what).collect::<Vec<_>>()
    };
    assert_eq!(warned("to-conf"), ["the state file lies"], "a mount's source may be a link");
    assert_eq!(warned("links"), ["the env file `../links/e.env` lies"], "who can replace the link chooses the file");
    assert_eq!(warned("more"), ["the env file `../links/e.env` lies"], "wherever on the way it stands");
    assert_eq!(warned("kept"), ["the env file `../links/e.env` lies"], "and so can who has the file");
    assert_eq!(warned("none"), Vec::<String>::new());
}

#[test]
fn a_root_that_is_not_made_yet_counts() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("conf")).unwrap();
    fs::create_dir_all(dir.path().join("data")).unwrap();
    let warned = |root: &str, source: &str| {
        let lines = format!("container: {{mounts: [{{source: {source}, target: /w}}]}}");
        warned(&dir.path().join("conf"), root, PODMAN, &lines).len()
    };
    assert_eq!(warned("../data/later/root", "../data"), 1);
    assert_eq!(warned("../data/", "../data"), 1);
    assert_eq!(warned("../data/../data/..", ".."), 1);
    assert_eq!(warned("/nowhere/later/root", "/nowhere/later"), 1);
    assert_eq!(warned("/nowhere/later/root", "/nowhere/lat"), 0);
}

#[test]
fn a_workspace_that_brings_what_decides_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir_all(dir.join("repo")).unwrap();
    let lines = "workspaces:\n  all: {source: ., target: /a}\n  one: {source: repo, target: /b}\n  ro: {source: ., target: /c, readOnly: true}";
    let expected = "11:21: agents.a.workspaces.all.source: the state file lies in the source of this workspace: the agent gets a copy \
                    of what git does not ignore, and `workspace pull` brings its commits back beside it; keep it outside of the \
                    source, or write `readOnly: true`";
    assert_eq!(warned(dir, "/nowhere/r", PODMAN, lines), [expected]);

    // The source of a mount is in the machine, that of a workspace is here.
    fs::write(dir.join("t.yaml"), "cpus: 2\n").unwrap();
    let vm = format!("{{lima: {{instance: a, template: t.yaml, home: {}}}}}", "/nowhere/l");
    let lines = format!("container: {{mounts: [{{source: {}, target: /w}}]}}\n{lines}", dir.display());
    let told = warned(dir, "/nowhere/r", &vm, &lines);
    assert!(told.len() == 1 && told[0].contains("workspaces.all.source"), "{told:?}");
}

#[test]
fn of_many_env_files_some_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let agent = |name: &str, container: &str| {
        format!("  {name}: {{version: \"1\", source: local, image: localhost/a, container: {{{container}}}}}\n")
    };
    let mut text =
        "apiVersion: steadfast/v1\nname: demo\nroot: /nowhere/r\nruntime: {podman: {}}\nagents:\n".to_owned();
    text += &agent("a", "mounts: [{source: ., target: /w}]");
    for n in 0..5 {
        fs::write(dir.join(format!("{n}.env")), "A=b\n").unwrap();
        text += &agent(&format!("b{n}"), &format!("envFile: {n}.env"));
    }
    let told = loaded(dir, text);
    let expected = "the state file, the env file `0.env`, the env file `1.env` and 3 more env files lie in this mount";
    assert!(told.len() == 1 && told[0].contains(expected), "{told:?}");
}
