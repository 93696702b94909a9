//! Commits that come back, and go on from there.

use serde_json::json;

use crate::bench::{Bench, shows};

#[test]
fn commits_come_back_as_a_branch_that_only_moves_on() {
    let bench = Bench::new("0");
    bench.sh("cd src; echo one >a; echo one >b; git add -A; git commit -qm one");
    bench.prepared("");
    let told = bench.world.run("workspace pull a /work/repo -o json").expect(0).json();
    assert_eq!((&told["branch"], &told["commits"]), (&json!(null), &json!(0)));
    bench.world.run("workspace pull a /work/other").expect(1).says("has no workspace at /work/other");

    bench.guest("cd /work/repo; echo guest >a; echo own >c");
    bench.commit_there("there", "guest");
    let status = bench.world.run("workspace status -o json").expect(0).json();
    assert_eq!(status[0]["guest"]["hasCommits"], true, "{status}");
    bench.world.run("workspace rm a /work/repo").expect(1).says("commit ");
    let told = bench.world.run("workspace pull a /work/repo -o json").expect(0).json();
    assert_eq!((&told["branch"], &told["commits"]), (&json!("steadfast/a/repo"), &json!(1)), "{told}");
    assert_eq!(bench.sh("git -C src log --format=%s steadfast/a/repo"), "guest\none\n");
    assert_eq!(bench.sh("cat src/a; git -C src status --porcelain; git -C src show steadfast/a/repo:c"), "one\nown\n");
    assert_eq!(bench.world.run("workspace pull a /work/repo -o json").expect(0).json()["upToDate"], true);

    // The host goes on: the guest's commits are not written over.
    bench.sh("cd src; echo host >b; git commit -qam host");
    let told = bench.prepare("").expect(3).json();
    assert_eq!(told["repository"], "kept", "{told}");
    assert_eq!(bench.guest("cd /work/repo; cat a b c"), "guest\nhost\nown\n");
    // Until they are merged.
    bench.sh("cd src; git merge -q -m merge steadfast/a/repo");
    let told = bench.prepared("");
    assert_eq!((&told["repository"], &told["kept"]), (&json!("updated"), &json!([])), "{told}");
    bench.taken("merged");
    assert_eq!(
        bench.sh("git -C merged log --format=%s; git -C merged status --porcelain"),
        bench.sh("git -C src log --format=%s")
    );

    // A branch that went elsewhere is not moved.
    bench.guest("echo more >/work/repo/c");
    bench.commit_there("more", "more");
    bench.sh("cd src; git branch -f steadfast/a/repo HEAD~0; git checkout -q steadfast/a/repo; echo mine >m; git add m; git commit -qm mine; git checkout -q main");
    let before = bench.sh("git -C src rev-parse steadfast/a/repo");
    bench.world.run("workspace pull a /work/repo").expect(1).says("does not build on").says("git branch -m");
    assert_eq!(bench.sh("git -C src rev-parse steadfast/a/repo"), before);
    bench.sh("git -C src branch -m steadfast/a/repo steadfast/a/repo-before");
    shows(bench.world.run("workspace pull a /work/repo"), 0, "of a:/work/repo came back");
    bench.world.run("workspace rm a /work/repo").expect(0);
    bench.guest("test ! -e /work/repo");
}

#[test]
fn forced_the_guests_repository_is_put_again() {
    let bench = Bench::new("0");
    bench.sh("cd src; echo one >a; git add -A; git commit -qm one");
    bench.prepared("");
    bench.guest("echo guest >/work/repo/a");
    bench.commit_there("there", "guest");
    bench.sh("cd src; echo host >a; git commit -qam host");
    bench.prepare("").expect(3);
    let told = bench.prepared("--force");
    assert_eq!(told["repository"], "put", "{told}");
    bench.taken("out");
    assert_eq!(bench.sh("git -C out status --porcelain; cat out/a; git -C out log --format=%s"), "host\nhost\none\n");
}

#[test]
fn new_commits_move_alone() {
    let bench = Bench::new("0");
    bench.sh("cd src; head -c 3000000 /dev/urandom >big; git add -A; git commit -qm one");
    assert!(bench.prepared("")["bytes"].as_u64().unwrap() > 6_000_000);
    bench.sh("cd src; echo small >small; git add -A; git commit -qm two");
    let told = bench.prepared("");
    assert_eq!((&told["repository"], &told["put"]), (&json!("updated"), &json!(1)), "{told}");
    assert!(told["bytes"].as_u64().unwrap() < 20_000, "{told}");
    bench.taken("out");
    assert_eq!(
        bench.sh("git -C out fsck --no-dangling; git -C out status --porcelain; git -C out log --format=%s"),
        "two\none\n"
    );
}
