//! The second preparation, and what the guest did meanwhile.

use rustix::process::Signal;
use serde_json::json;

use crate::bench::{Bench, names, shows};
use crate::world::{api, until};

fn begun(user: &str) -> Bench {
    let bench = Bench::new(user);
    bench.sh("cd src; mkdir d; for i in 1 2 3 4 5 6 7 8 9; do echo $i >f$i; echo $i >d/g$i; done; git add -A; git commit -qm one");
    assert_eq!(bench.prepared("")["put"], json!(18));
    bench
}

#[test]
fn only_the_difference_moves_and_what_the_guest_changed_stays() {
    let bench = begun("0");
    bench.sh("cd src; echo changed >f1; rm f2; echo new >n; touch f3; chmod 755 f4; rm -r d; echo file >d");
    let told = bench.prepared("");
    assert_eq!(
        (&told["put"], &told["removed"], &told["bytes"]),
        (&json!(4), &json!(10), &json!(8 + 4 + 2 + 5)),
        "{told}"
    );
    assert_eq!(
        bench.guest("cd /work/repo; cat f1 n d; ls; test -x f4"),
        "changed\nnew\nfile\nd\nf1\nf3\nf4\nf5\nf6\nf7\nf8\nf9\nn\n"
    );

    bench.guest("cd /work/repo; echo guest >f5; echo guest >f6; /bin/busybox rm f7 f8; echo own >own; touch f9");
    bench.sh("cd src; echo host >f6; echo host >f8; echo host >own");
    let told = bench.prepare("").expect(3).json();
    let kept: Vec<_> = told["kept"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kept| (kept["path"].as_str().unwrap(), kept["change"].as_str().unwrap(), kept["conflict"] == true))
        .collect();
    let expected = [
        ("f5", "modified", false),
        ("f6", "modified", true),
        ("f7", "deleted", false),
        ("f8", "deleted", true),
        ("own", "added", true),
    ];
    assert_eq!((kept.as_slice(), &told["put"]), (expected.as_slice(), &json!(0)), "{told}");
    assert_eq!(bench.guest("cd /work/repo; cat f5 f6 own"), "guest\nguest\nown\n");
    // Still so when asked again, and told by status.
    bench.prepare("").expect(3);
    let status = bench.world.run("workspace status a -o json").expect(0).json();
    assert_eq!(status[0]["guest"]["modified"], json!(["f5", "f6"]), "{status}");
    assert_eq!((&status[0]["guest"]["deleted"], &status[0]["guest"]["added"]), (&json!(["f7", "f8"]), &json!(["own"])));
    assert_eq!(status[0]["host"]["changed"], json!(3), "{status}");
    shows(bench.world.run("workspace status"), 0, "there: changed `f5`");
    bench.world.run("workspace rm a /work/repo").expect(1).says("holds what is nowhere else: `f5`, `f6`, `own`");

    bench.guest("echo build >/work/repo/build.out");
    let told = bench.prepared("--force");
    assert_eq!((&told["put"], &told["added"]), (&json!(5), &json!(1)), "{told}");
    assert_eq!(bench.guest("cd /work/repo; cat f5 f6 f7 f8 own build.out"), "5\nhost\n7\nhost\nhost\nbuild\n");
    assert_eq!(bench.prepared("")["put"], json!(0));
}

#[test]
fn a_lost_record_and_a_new_container_lose_nothing() {
    let bench = begun("0");
    bench.guest("echo guest >/work/repo/f1");
    let records = bench.world.state_dir().join("workspaces");
    let remove = || {
        for entry in std::fs::read_dir(&records).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    };
    remove();
    let told = bench.prepare("").expect(3).json();
    assert_eq!((names(&told["kept"], "path"), &told["put"]), (vec!["f1".to_owned()], &json!(0)), "{told}");
    assert_eq!(bench.guest("cat /work/repo/f1"), "guest\n");
    // What is adopted is ours again.
    bench.sh("cd src; echo host >f2");
    bench.prepare("").expect(3);
    assert_eq!(bench.guest("cat /work/repo/f2"), "host\n");
    // Garbage is no record, and no danger.
    for entry in std::fs::read_dir(&records).unwrap() {
        std::fs::write(entry.unwrap().path(), "{\"version\": 1").unwrap();
    }
    bench.prepare("").expect(3);
    bench.world.remove("a");
    bench.world.applied();
    assert_eq!(bench.prepared("")["put"], json!(18));
    assert_eq!(bench.guest("cat /work/repo/f1"), "1\n");
}

#[test]
fn a_killed_preparation_is_finished_by_the_next() {
    let bench = Bench::new("0");
    bench.sh("cd src; for i in $(seq 300); do head -c 200000 /dev/urandom >f$i; done; git add -A; git commit -qm one");
    let busy = || {
        let (_, seen) = api("GET", &format!("/v4.0.0/libpod/containers/{}/changes", bench.world.name("a")), b"");
        seen.to_string().contains("steadfast-incoming")
    };
    for round in 0..4 {
        let mut running = bench.world.spawn("workspace prepare a src /work/repo");
        if round > 0 {
            until("it is on its way", || running.has_ended() || busy());
            std::thread::sleep(std::time::Duration::from_millis(150 * round));
        }
        running.signal(Signal::KILL);
        running.end();
        // The source goes on: what was put before is ours all the same.
        bench.sh("cd src; head -c 200000 /dev/urandom >f1; echo more >>f2; git commit -qam more");
    }
    let told = bench.prepared("");
    assert_eq!(told["kept"], json!([]), "{told}");
    bench.taken("out");
    assert_eq!(
        bench.sh("git -C out status --porcelain; git -C out fsck --no-dangling; ls -A out | grep -c steadfast || true"),
        "0\n"
    );
    assert_eq!(bench.sh("git -C out rev-parse HEAD"), bench.sh("git -C src rev-parse HEAD"));
    assert_eq!(bench.sh("cd src; for f in f*; do cmp $f ../out/$f; done"), "");
}

#[test]
fn two_at_once_wait_for_each_other() {
    let bench = begun("0");
    bench.sh("cd src; for i in $(seq 500); do echo $i >x$i; done");
    let first = bench.world.spawn("workspace prepare a src /work/repo -o json");
    let second = bench.world.spawn("workspace prepare a src /work/repo -o json");
    let put = [first, second].map(|running| running.end().expect(0).json()["put"].as_u64().unwrap());
    assert_eq!(put.iter().sum::<u64>(), 500);
}
