//! A guest that wants more than to give its commits back.

use crate::bench::{Bench, shows};

#[test]
fn nothing_of_the_guests_repository_is_run_or_followed() {
    let bench = Bench::new("0");
    bench.sh("cd src; echo one >a; git add -A; git commit -qm one; cd ..; mkdir -p secret; echo secret >secret/s");
    bench.prepared("");
    let out = bench.taken("there");
    bench.guest("echo guest >/work/repo/a");
    let touched = bench.world.sandbox.path("touched");
    let evil = format!("!touch {}", touched.display());
    bench.sh(&format!(
        "cd there; echo guest >a; git commit -qam guest; \
         mkdir -p .git/hooks; for hook in pre-receive post-update reference-transaction post-checkout pre-auto-gc; do \
         printf '#!/bin/sh\\ntouch {touched}\\n' >.git/hooks/$hook; chmod 755 .git/hooks/$hook; done; \
         git config core.fsmonitor 'touch {touched}'; git config uploadpack.packObjectsHook 'touch {touched}'; \
         git config alias.fetch '{evil}'; git config core.sshCommand 'touch {touched}'; \
         mkdir -p .git/objects/info .git/refs/heads/x; printf '%s\\n' /etc ../../../../secret >.git/objects/info/alternates; \
         ln -s /etc/passwd .git/refs/heads/link; echo ../../../etc >.git/refs/heads/x/..lock; \
         echo 'ref: ../../../../etc/passwd' >.git/refs/heads/odd; ln -s /etc/passwd .git/objects/aa; \
         printf 'PACK garbage' >.git/objects/pack/pack-../../x.pack 2>/dev/null || true",
        touched = touched.display(),
    ));
    bench.bring("there/.git", "/work/repo/.git");
    shows(bench.world.run("workspace pull a /work/repo"), 0, "steadfast/a/repo");
    assert!(!touched.exists());
    assert_eq!(bench.sh("git -C src log --format=%s steadfast/a/repo; ls src/.git/objects/info"), "guest\none\n");
    assert_eq!(bench.sh("git -C src config --get core.sshCommand || echo none"), "none\n");

    // A commit of a tree that would leave the repository.
    let blob = bench.sh("git -C there hash-object -w a");
    let blob = blob.trim();
    std::fs::remove_file(out.join(".git/objects/info/alternates")).unwrap();
    bench.sh(&format!(
        "cd there; tree=$(printf '100644 blob {blob}\\tconfig\\n' | git mktree); \
         bad=$(printf \"040000 tree $tree\\t.git\\n\" | git mktree); \
         rm -f .git/hooks/*; git config --unset core.fsmonitor; git update-ref refs/heads/main $(git commit-tree -p HEAD -m bad $bad)"
    ));
    bench.bring("there/.git", "/work/repo/.git");
    let before = bench.sh("git -C src rev-parse steadfast/a/repo");
    bench.world.run("workspace pull a /work/repo").expect(1).says("hasDotgit");
    assert_eq!(bench.sh("git -C src rev-parse steadfast/a/repo"), before);

    // A head that points nowhere, and one that is none.
    for head in ["ref: ../../../../etc/passwd", "--upload-pack=touch", "0000000000000000000000000000000000000000"] {
        bench.guest(&format!("echo '{head}' >/work/repo/.git/HEAD"));
        bench.world.run("workspace pull a /work/repo").expect(1);
        assert!(!touched.exists());
    }
}

#[test]
fn a_link_in_the_place_of_a_directory_is_not_written_through() {
    let bench = Bench::new("0");
    bench.sh("cd src; mkdir d; echo one >d/a; git add -A; git commit -qm one");
    bench.prepared("");
    bench.guest(
        "cd /work; /bin/busybox mkdir /elsewhere; /bin/busybox mv repo/d gone; /bin/busybox ln -s /elsewhere repo/d",
    );
    bench.sh("cd src; echo two >d/a; echo new >d/new");
    bench.prepare("").expect(3);
    assert_eq!(bench.guest("ls -A /elsewhere; cat /work/gone/a"), "one\n");
    // Forced, the link goes and what is behind it stays.
    bench.prepared("--force");
    assert_eq!(bench.guest("ls -A /elsewhere; cat /work/repo/d/a /work/repo/d/new"), "two\nnew\n");
}
