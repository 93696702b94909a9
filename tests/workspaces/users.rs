//! Whose it is, and who may write to it.

use serde_json::json;

use crate::bench::Bench;
use crate::world::api;

const SOURCE: &str = "cd src; mkdir d; echo one >a; echo two >d/b; chmod 600 a; printf '#!/bin/sh\\necho ran\\n' >run; chmod 700 run; \
                      git add -A; git commit -qm one";

#[test]
fn it_belongs_to_the_agents_user() {
    let bench = Bench::new("1000:1001");
    bench.sh(SOURCE);
    bench.prepared("");
    let owners = bench
        .guest("cd /work/repo; /bin/busybox find . -exec /bin/busybox stat -c '%u:%g' '{}' ';' | /bin/busybox sort -u");
    assert_eq!(owners, "1000:1001\n");
    assert_eq!(bench.guest("cd /work/repo; echo mine >>a; cat a; ./run; echo x >.git/x"), "one\nmine\nran\n");
    bench.sh("cd src; echo host >d/b");
    assert_eq!(bench.prepared("")["put"], json!(1));
    assert_eq!(bench.guest("cat /work/repo/d/b; echo mine >>/work/repo/d/b"), "host\n");
    // What belongs to somebody else is not taken over, and what cannot be reached is said.
    bench.world.run("workspace prepare a src /www").expect(1).says("belongs to user 0 in the container");
    bench.world.run("workspace rm a /work/repo --force").expect(0);
    assert_eq!(bench.guest("ls -A /work"), "");
    assert_eq!(bench.world.run("workspace status -o json").expect(0).json(), json!([]));
}

#[test]
fn read_only_is_proved_by_trying() {
    let bench = Bench::new("1000");
    bench.sh(SOURCE);
    let told = bench.prepared("--read-only");
    assert_eq!((&told["readOnly"], &told["put"]), (&json!(true), &json!(3)), "{told}");
    assert_eq!(bench.guest("cd /work/repo; cat a d/b; ./run; cat .git/HEAD"), "one\ntwo\nran\nref: refs/heads/main\n");
    for line in
        ["echo x >a", "echo x >new", "echo x >d/new", "/bin/busybox rm a", "/bin/busybox mv d e", "echo x >.git/x"]
    {
        let refused = bench.world.run(["exec", "a", "--", "sh", "-c", &format!("cd /work/repo; {line}")]);
        assert_ne!(refused.code, 0, "{line}");
    }
    assert_eq!(bench.guest("cat /etc/gitconfig"), "[safe]\n\tdirectory = \"/work/repo\"\n");
    bench.sh("cd src; echo host >a");
    assert_eq!(bench.prepared("--read-only")["put"], json!(1));
    assert_eq!(bench.guest("cat /work/repo/a /etc/gitconfig").matches("safe").count(), 1);
    bench.world.run("workspace rm a /work/repo").expect(0);
    assert_eq!(bench.guest("test ! -e /etc/gitconfig; ls -A /work"), "");
    // Where it is the agent's already it would be no promise.
    bench.world.run("workspace prepare a src /work/own").expect(0);
    let refused = bench.world.run("workspace prepare a src /work/own --read-only").expect(1);
    refused.says("is not read-only: the agent's user can write `/work/own").says("`steadfast workspace rm`");
}

#[test]
fn to_root_nothing_is_read_only() {
    let bench = Bench::new("0");
    bench.sh(SOURCE);
    bench.prepare("--read-only").expect(1).says("cannot be read-only: the agent's user is root");
    bench.guest("test ! -e /work");
    bench.world.run("workspace prepare a src repo").expect(1).says("target `repo` is not absolute");
    bench.world.run("workspace prepare a src /").expect(1).says("is the root of the container");
    bench.world.run("workspace prepare a src /www/index.html").expect(1).says("is not a directory");
    bench.world.run("workspace prepare nobody src /x").expect(64).says("does not have an agent `nobody`");
}

#[test]
fn a_read_only_root_has_room_below_its_mounts() {
    let bench = Bench::new("0");
    bench.sh(SOURCE);
    let name = bench.world.name("a");
    let labels = crate::world::inspect(&name).unwrap()["Config"]["Labels"].clone();
    bench.world.remove("a");
    let spec = json!({
        "name": name, "image": format!("localhost/{}:1", bench.world.owner), "read_only_filesystem": true, "labels": labels,
        "mounts": [{"destination": "/run", "type": "tmpfs", "source": "tmpfs"}, {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}],
        "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"],
    });
    assert_eq!(api("POST", "/v4.0.0/libpod/containers/create", spec.to_string().as_bytes()).0, 201);
    assert_eq!(api("POST", &format!("/v4.0.0/libpod/containers/{name}/start"), b"").0, 204);
    bench.prepare("").expect(1).says("read-only file system");
    bench.world.run("workspace prepare a src /tmp/repo").expect(0);
    assert_eq!(bench.guest("cat /tmp/repo/a"), "one\n");
    assert_eq!(bench.world.run("workspace prepare a src /tmp/repo -o json").expect(0).json()["put"], json!(0));
}
