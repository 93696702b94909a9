//! The root and what is in it: whom it must belong to, what is not followed in it, and what a kill leaves in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::published::{KEY, TARBALL, good, in_directory};
use crate::sockets::{Fake, Manner, state};
use crate::support::command::{Sandbox, skip};

/// A sandbox whose state file wants nothing of an empty Podman.
fn sandbox() -> (Sandbox, Fake) {
    let (mut sandbox, fake) = (Sandbox::new(), Fake::start(Manner::Podman));
    sandbox.set("STEADFAST_HOST_ARCH", "x86_64");
    let agent = "\n  hello: {version: \"1\", image: a/b, source: local}";
    sandbox.write("steadfast.yaml", state(&fake.path()).replace(agent, " {}"));
    in_directory(&sandbox, &good(), &[(KEY, TARBALL)]);
    (sandbox, fake)
}

const SYNC: &str = "cache sync --manifest-url published/vm/manifest.json";
const VERBS: [&str; 13] = [
    "plan",
    "apply",
    "down",
    "status",
    "run",
    "history",
    "why a",
    "logs a",
    "exec a -- true",
    "cache list",
    "cache gc",
    "doctor",
    "service install --no-start",
];

/// Syncs all that is published: without a state file, which would want nothing.
fn sync(sandbox: &Sandbox) {
    let (file, away) = (sandbox.path("steadfast.yaml"), sandbox.path("away.yaml"));
    fs::rename(&file, &away).unwrap();
    sandbox.run(SYNC).expect(0);
    fs::rename(&away, &file).unwrap();
}

/// Everything below the root.
fn tree(sandbox: &Sandbox) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            found.push(entry.path());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&sandbox.root(), &mut found);
    found.iter_mut().for_each(|path| *path = path.strip_prefix(sandbox.root()).unwrap().to_owned());
    found.sort();
    found
}

#[test]
fn a_root_that_others_can_write_to_is_refused_by_every_verb_that_uses_it() {
    for below in ["", "state", "state/demo", "cache"] {
        let (sandbox, _fake) = sandbox();
        let dir = sandbox.root().join(below);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o775)).unwrap();
        let before = tree(&sandbox);
        let shown = dir.display().to_string();
        for verb in VERBS {
            let outcome = sandbox.run(verb);
            assert!(outcome.code == 1 || verb.starts_with("exec"), "{verb}: {} {}", outcome.code, outcome.stderr);
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            let shown = shown.trim_end_matches('/');
            for words in [shown, "mode 0775): group or others can write to it", "chmod go-w '"] {
                assert!(said.contains(words), "{verb}: {words}\n{said}");
            }
        }
        sandbox.run("validate").expect(0);
        assert_eq!(tree(&sandbox), before, "nothing is written");
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        sandbox.run("apply").expect(0);
    }
    // Without a state file there are the directories alone.
    let (sandbox, _fake) = sandbox();
    fs::remove_file(sandbox.path("steadfast.yaml")).unwrap();
    fs::create_dir_all(sandbox.root().join("cache")).unwrap();
    fs::set_permissions(sandbox.root().join("cache"), Permissions::from_mode(0o777)).unwrap();
    sandbox.run(SYNC).expect(1).says("mode 0777): group or others can write to it");
}

#[test]
fn a_root_of_another_user_is_refused_but_not_that_of_who_called_sudo() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can give files away");
    }
    const STRANGER: u32 = 4711;
    for below in ["", "state", "state/demo", "cache"] {
        let (mut sandbox, _fake) = sandbox();
        let dir = sandbox.root().join(below);
        fs::create_dir_all(&dir).unwrap();
        chown(&dir, Some(STRANGER), None).unwrap();
        for verb in VERBS {
            let outcome = sandbox.run(verb);
            let said = format!("{}{}", outcome.stdout, outcome.stderr);
            assert!(said.contains("(owner uid 4711, mode 0755): it belongs to another user"), "{verb}: {said}");
            assert!(said.contains("chown -h 0 '"), "{verb}: {said}");
        }
        sandbox.set("SUDO_UID", "4711");
        sandbox.run("apply").expect(0);
    }
    // A link counts as whose it is, wherever it leads.
    let (sandbox, _fake) = sandbox();
    fs::create_dir_all(sandbox.path("mine")).unwrap();
    symlink(sandbox.path("mine"), sandbox.root()).unwrap();
    sandbox.run("plan").expect(0);
    std::os::unix::fs::lchown(sandbox.root(), Some(STRANGER), None).unwrap();
    sandbox.run("plan").expect(1).says("it belongs to another user");
}

#[test]
fn nothing_is_written_through_a_planted_link() {
    for (file, refused) in [
        ("state/demo/lock", true),
        ("state/demo/journal.jsonl", false),
        ("state/demo/journal.1.jsonl", false),
        ("state/demo/handles.json", false),
        ("state/demo/file.json", true),
        ("state/demo/control.sock", false),
        ("state/key", false),
        ("state/id", false),
        ("cache/index.json", false),
        ("cache/index.lock", false),
        ("cache/vm/manifest.json", false),
        ("cache/vm/.steadfast-tmp-manifest.json~", false),
        (&format!("cache/{KEY}"), false),
        (&format!("cache/{KEY}.partial"), false),
        (&format!("cache/{KEY}.partial.json"), false),
    ] {
        for precious in [Some("precious"), None] {
            let (sandbox, _fake) = sandbox();
            let (link, victim) = (sandbox.root().join(file), sandbox.path("victim"));
            if let Some(precious) = precious {
                fs::write(&victim, precious).unwrap();
            }
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&victim, &link).unwrap();
            let applied = sandbox.run("apply");
            // What dangles is not there to be read.
            if refused && !(file.ends_with("file.json") && precious.is_none()) {
                applied.expect(1).says("it is a symbolic link, and steadfast follows none here; remove it");
                // Which goes on where nothing can be written.
                sandbox.run("run").expect(1).says("it is a symbolic link");
            } else if !refused {
                applied.expect(0);
            }
            sync(&sandbox);
            assert_eq!(fs::read(sandbox.root().join("cache").join(KEY)).unwrap(), TARBALL);
            assert_eq!(fs::read_to_string(&victim).ok().as_deref(), precious, "{file}");
        }
    }
}

#[test]
fn what_a_kill_left_is_gone_after_the_next_run() {
    let leave = |sandbox: &Sandbox, file: String| {
        fs::write(sandbox.root().join(file), "half of someth").unwrap();
    };
    let (undisturbed, _fake) = sandbox();
    sync(&undisturbed);
    undisturbed.run("apply").expect(0);
    undisturbed.run("apply").expect(0);
    let (sandbox, _fake) = sandbox();
    sync(&sandbox);
    sandbox.run("apply").expect(0);
    let place = fs::read_dir(sandbox.root().join("cache/manifests")).unwrap().next().unwrap().unwrap();
    let place = place.file_name().into_string().unwrap();
    for (dir, name) in [
        ("state", "key"),
        ("state", "id"),
        ("state/demo", "file.json"),
        ("state/demo", "handles.json"),
        ("cache", "index.json"),
        ("cache/vm", "manifest.json"),
        ("cache/manifests", &place),
    ] {
        leave(&sandbox, format!("{dir}/.steadfast-tmp-{name}~"));
    }
    // As earlier versions named them.
    for file in ["state/.tmpAb3xY9", "state/demo/.tmpq8ZkL2", "cache/manifests/.steadfast-tmp-q8ZkL2"] {
        leave(&sandbox, file.to_owned());
    }
    leave(&sandbox, format!("cache/{KEY}.partial.json"));
    let partial = sandbox.root().join(format!("cache/{}.partial", KEY.replace("openclaw-", "other-")));
    fs::write(&partial, "").unwrap();
    sandbox.run("plan").expect(0);
    assert!(partial.exists(), "a plan touches nothing");
    sandbox.run("apply").expect(0);
    let same = |path: &PathBuf| path.strip_prefix("cache/manifests").map_or(path.clone(), |_| "cache/manifests".into());
    let listed = |sandbox: &Sandbox| tree(sandbox).iter().map(same).collect::<Vec<_>>();
    assert_eq!(listed(&sandbox), listed(&undisturbed));
    // Each verb that writes to the cache does as much for it.
    for verb in ["cache sync", "cache gc", "cache verify", "cache verify --deep"] {
        leave(&sandbox, "cache/.steadfast-tmp-index.json~".to_owned());
        leave(&sandbox, format!("cache/{KEY}.partial.json"));
        if verb == "cache gc" {
            sandbox.run("cache gc --dry-run").expect(0);
            assert_ne!(listed(&sandbox), listed(&undisturbed), "a dry run touches nothing");
        }
        if verb == "cache sync" {
            sync(&sandbox)
        } else {
            drop(sandbox.run(verb).expect(0))
        }
        assert_eq!(listed(&sandbox), listed(&undisturbed), "{verb}");
    }
}
