//! What goes in, and what does not.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::bench::{Bench, names, shows};

const MANY: usize = 2_000;

#[test]
fn a_checkout_goes_in_as_a_repository_of_its_own() {
    let bench = Bench::new("0");
    let src = bench.world.sandbox.path("src");
    for number in 0..MANY {
        bench.world.sandbox.write(&format!("src/d{}/f {number}.txt", number % 20), format!("{number}\n"));
    }
    let odd = [b"new\nline".as_slice(), b"not \xff text", "umläut".as_bytes(), b"-dash", b"q\"uote", b"tab\t"];
    for name in odd {
        std::fs::write(src.join(OsStr::from_bytes(name)), name).unwrap();
    }
    bench.sh("cd src; printf '#!/bin/sh\\n' >run.sh; chmod 755 run.sh; mkdir -p deep/er; ln -s ../../run.sh deep/er/in; \
              ln -s /etc/passwd out; ln -s ../../up deep/up; printf '*.secret\\nbuild/\\n' >.gitignore; \
              printf '*.bin filter=lfs diff=lfs merge=lfs -text\\n' >.gitattributes; \
              printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:aa\\nsize 3\\n' >big.bin; \
              echo tracked >gone; git add -A; git commit -qm one; echo two >>run.sh; git commit -qam two; \
              git tag v1; git branch other; git remote add origin https://user:token@example.com/x.git; \
              git config core.editor evil; printf '#!/bin/sh\\nexit 1\\n' >.git/hooks/pre-commit; \
              echo dirty >>run.sh; rm gone; echo new >'untracked file'; echo s >a.secret; echo s >b.secret; mkdir build; echo b >build/x; \
              git init -q nested; echo n >nested/n");
    let told = bench.prepared("--include b.secret --include build");
    assert_eq!((&told["repository"], &told["branch"]), (&json!("put"), &json!("main")), "{told}");
    let left = names(&told["leftOut"], "path");
    assert_eq!(left, ["nested/", "deep/up", "out"], "{told}");
    assert!(told["notes"].to_string().contains("only the pointers go in"), "{told}");

    let out = bench.taken("out");
    for name in odd {
        assert_eq!(std::fs::read(out.join(OsStr::from_bytes(name))).unwrap(), name);
    }
    assert_eq!(std::fs::metadata(out.join("run.sh")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(std::fs::read_link(out.join("deep/er/in")).unwrap().to_str(), Some("../../run.sh"));
    assert!(out.join("build/x").exists() && out.join("b.secret").exists() && !out.join("a.secret").exists());
    for absent in ["out", "deep/up", "nested", "gone", ".git/hooks"] {
        assert!(out.join(absent).symlink_metadata().is_err(), "{absent}");
    }
    // git finds there what it finds here: the same history, and the same changes but for what was left out.
    bench.sh("git -C out fsck --strict --no-dangling");
    assert_eq!(bench.sh("git -C out log --format=%H%s"), bench.sh("git -C src log --format=%H%s"));
    let status = bench.sh("git -C out status --porcelain | sort");
    let here = bench.sh("git -C src status --porcelain | grep -v nested | sort");
    let lines: Vec<_> = status.lines().filter(|line| ![" D deep/up", " D out"].contains(line)).collect();
    assert_eq!(lines, here.lines().collect::<Vec<_>>());
    let config = std::fs::read_to_string(out.join(".git/config")).unwrap();
    assert!(!config.contains("token") && !config.contains("evil") && !config.contains("remote"), "{config}");
    assert_eq!(bench.sh("git -C out for-each-ref --format='%(refname)'"), "refs/heads/main\n");

    let again = bench.prepared("--include b.secret --include build");
    assert_eq!((&again["put"], &again["bytes"], &again["repository"]), (&json!(0), &json!(0), &json!("unchanged")));
    assert_eq!(again["kept"], json!([]));
}

#[test]
fn what_is_not_committed_is_refused_or_ignored_as_wished() {
    let bench = Bench::new("0");
    bench.sh("cd src; echo one >a; echo gone >b; ln -s a l; git add -A; git commit -qm one; \
              echo two >a; rm b; echo new >c; rm l; ln -s c l; echo staged >d; git add d");
    bench.prepare("--dirty refuse").expect(1).says("5 changes that are not committed").says("`--dirty ignore`");
    assert_eq!(bench.guest("ls / | head -n 100").matches("work").count(), 0, "nothing was put");
    bench.prepared("--dirty ignore");
    assert_eq!(bench.guest("cd /work/repo; cat a b l; ls"), "one\ngone\none\na\nb\nl\n");
    bench.taken("out");
    assert_eq!(bench.sh("git -C out status --porcelain"), "");
    let told = bench.prepared("--dirty include");
    assert_eq!((&told["put"], &told["removed"]), (&json!(4), &json!(1)), "{told}");
    assert_eq!(bench.guest("cd /work/repo; cat a l d; ls"), "two\nnew\nstaged\na\nc\nd\nl\n");
    bench.sh("cd src; git add -A; git commit -qm two");
    bench.prepared("--dirty refuse");
}

#[test]
fn linked_worktrees_submodules_and_heads_without_a_branch() {
    let bench = Bench::new("0");
    bench.sh("git init -q -b main lib; cd lib; echo lib >l; echo '*.o' >.gitignore; git add -A; git commit -qm lib; cd ../src; \
              echo one >a; git add -A; git commit -qm one; git -c protocol.file.allow=always submodule --quiet add ../lib sub; \
              git commit -qm sub; echo o >sub/x.o; echo changed >sub/l; git worktree add -q ../tree -b topic; \
              cd ../tree; echo two >a; git commit -qam two");
    let told = bench.prepared("");
    assert!(told["notes"][0].as_str().unwrap().contains("submodule `sub` goes in as plain files"), "{told}");
    assert_eq!(bench.guest("cd /work/repo; cat a sub/l; ls sub"), "one\nchanged\nl\n");
    bench.taken("out");
    assert_eq!(bench.sh("git -C out status --porcelain"), "");
    // The linked worktree: another branch, and a submodule that is not checked out.
    let run = |what: &str| bench.world.run(format!("workspace prepare a {what} /work/tree -o json"));
    let told = run("tree").expect(0).json();
    assert_eq!((&told["branch"], &told["name"]), (&json!("topic"), &json!("tree")));
    assert_eq!(bench.guest("cd /work/tree; cat a .git/HEAD; ls sub"), "two\nref: refs/heads/topic\n");
    // A directory in a checkout, one without a checkout, and none.
    bench.sh("mkdir -p src/in; git clone -q --bare src bare.git");
    run("src/in").expect(1).says("lies in the checkout").says("prepare that");
    run("bare.git").expect(1).says("without a checkout");
    run("nowhere").expect(1).says("work/nowhere`: No such file");
    bench.sh("git -C tree checkout -q --detach");
    bench.world.run("workspace prepare a tree /work/detached -o json").expect(0);
    assert_eq!(bench.guest("cat /work/detached/.git/HEAD").trim(), bench.sh("git -C tree rev-parse HEAD").trim());
    bench.sh("git init -q -b trunk first; echo x >first/x");
    shows(bench.world.run("workspace prepare a first /work/first"), 0, "trunk, without a commit");
    assert_eq!(bench.guest("cat /work/first/x /work/first/.git/HEAD"), "x\nref: refs/heads/trunk\n");
}

#[test]
fn a_directory_goes_in_by_the_same_rules() {
    let bench = Bench::without_source("0");
    bench.sh("mkdir -p src/d src/empty/er src/ignored src/repo; cd src; echo a >a; echo b >d/b; echo i >ignored/i; echo ignored/ >.gitignore; \
              ln -s d/b in; ln -s /etc out; mkfifo pipe; git init -q repo; echo r >repo/r; chmod 640 a");
    let told = bench.prepared("");
    assert_eq!((&told["repository"], &told["commit"]), (&json!("none"), &json!(null)));
    assert_eq!(names(&told["leftOut"], "path"), ["repo/", "out"], "{told}");
    assert_eq!(bench.guest("cd /work/repo; ls -A; ls empty; cat in"), ".gitignore\na\nd\nempty\nin\ner\nb\n");
    assert_eq!(bench.guest("ls -l /work/repo/a").get(..10), Some("-rw-r-----"));
    bench.world.run("workspace pull a /work/repo").expect(1).says("went in without a repository");
    assert_eq!(bench.prepared("")["put"], json!(0));
}
