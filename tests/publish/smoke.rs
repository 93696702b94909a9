//! Tarballs that are tried before anybody fetches them, in a Podman that goes with the trial.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::archive::{Compression, Image, docker_archive};
use crate::support::command::skip;
use crate::world::{World, listed, sha256, until};

const HOST: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
const OTHER: &str = if cfg!(target_arch = "aarch64") { "x64" } else { "arm64" };
const OTHER_GO: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };

pub const IMAGE: &str = "localhost/smoke/app";

pub fn image() -> Image {
    docker_archive().tag(format!("{IMAGE}:1")).compress(Compression::Gzip)
}

/// The tarball of an image with its sidecar, below `dist/images`.
pub fn pack(world: &World, name: &str, image: &Image) -> PathBuf {
    let bytes = image.build();
    world.sandbox.write(&format!("dist/images/{name}.sha256"), format!("{}  {name}\n", sha256(&bytes)));
    world.sandbox.write(&format!("dist/images/{name}"), bytes)
}

fn bundle(world: &World, smoke: Value) {
    let mut agent = json!({"name": "app", "image": IMAGE, "version": "1"});
    if !smoke.is_null() {
        agent["smoke"] = smoke;
    }
    world.sandbox.write("bundle.json", json!({"agents": [agent]}).to_string());
}

fn words(name: &str) -> String {
    format!("publish smoke --bundle bundle.json --agent app --arch {HOST} --tarball dist/images/{name}")
}

/// What a Podman of its own left, wherever it may be made.
pub fn left(world: &World) -> Vec<PathBuf> {
    let tmp = world.sandbox.work().parent().unwrap().join("tmp");
    std::fs::read_dir(tmp).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Processes that mention a directory.
fn processes(world: &World) -> Vec<String> {
    let tmp = world.sandbox.work().parent().unwrap().join("tmp").display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&tmp)).collect()
}

/// What is in the Podman of whoever runs it.
fn users_podman() -> (Value, Value) {
    let names = |path: &str| {
        let list = listed(path);
        let ids = list.iter().filter(|one| one.to_string().contains("smoke"));
        json!(ids.map(|one| one["Id"].clone()).collect::<Vec<_>>())
    };
    (names("/v4.0.0/libpod/images/json?all=true"), names("/v4.0.0/libpod/containers/json?all=true"))
}

#[track_caller]
fn nothing_is_left(world: &World) {
    assert_eq!(left(world), Vec::<PathBuf>::new());
    assert_eq!(processes(world), Vec::<String>::new());
    assert_eq!(users_podman(), (json!([]), json!([])), "the user's own Podman is not touched");
}

#[test]
fn a_good_tarball_is_told_to_be_good_and_by_what() {
    let world = World::bare();
    pack(&world, "a.tar.gz", &image());
    let shown = |words: String| world.run(words).expect(0);
    bundle(&world, Value::Null);
    let said = shown(words("a.tar.gz"));
    assert!(said.stdout.contains("nothing was run, since the bundle has no `smoke` for it"), "{}", said.stdout);
    bundle(&world, json!({"command": ["sh", "-c", "echo fine; exit 3"], "exitCode": 3}));
    let tried = shown(words("a.tar.gz") + " -o json").json();
    let bytes = std::fs::read(world.sandbox.path("dist/images/a.tar.gz")).unwrap();
    let expected = json!({"agent": "app", "arch": HOST, "image": format!("{IMAGE}:1"), "imageId": image().id(),
        "sha256": sha256(&bytes), "smoke": {"kind": "command", "exitCode": 3}});
    assert_eq!(tried, expected);
    let check = json!({"Test": ["CMD-SHELL", "cat /tmp/up"], "Interval": 30_000_000_000u64, "Retries": 1});
    let slow = ["sh", "-c", "sleep 1; touch /tmp/up; exec sleep 1000"];
    pack(&world, "b.tar.gz", &image().command(&slow).config("Healthcheck", check));
    bundle(&world, json!({"healthy": "60s"}));
    let tried = shown(words("b.tar.gz") + " -o json").json();
    assert_eq!(tried["smoke"]["kind"], "healthy", "{tried}");
    nothing_is_left(&world);
}

#[test]
fn what_is_not_as_the_bundle_says_fails_with_its_last_lines() {
    let world = World::bare();
    pack(&world, "a.tar.gz", &image());
    let fails = |name: &str, code: i32, parts: &[&str]| {
        let said = world.run(words(name)).expect(code).stderr;
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
        nothing_is_left(&world);
    };
    bundle(&world, json!({"command": ["sh", "-c", "echo some\u{1b}[2J words; exit 7"]}));
    fails("a.tar.gz", 1, &["ended with exit code 7, not 0; its last log lines:", "| some\\x1b[2J words"]);
    bundle(&world, json!({"command": ["nothing-of-that-name"]}));
    fails("a.tar.gz", 1, &["does not start: ", "nothing-of-that-name", "after the image's entrypoint"]);
    bundle(&world, json!({"healthy": "6s"}));
    fails("a.tar.gz", 1, &["has no health check", "give the image a HEALTHCHECK"]);
    let check = json!({"Test": ["CMD-SHELL", "echo not yet; exit 1"], "Interval": 1_000_000_000u64, "Retries": 1});
    let sick = image().command(&["sh", "-c", "echo up; exec sleep 1000"]).config("Healthcheck", check.clone());
    pack(&world, "b.tar.gz", &sick);
    fails("b.tar.gz", 1, &["was not healthy within 6s: its check ended with 1", "  | up"]);
    pack(&world, "c.tar.gz", &image().command(&["sh", "-c", "echo bye; exit 4"]).config("Healthcheck", check));
    fails("c.tar.gz", 1, &["was not healthy within 6s: it ended with exit code 4", "  | bye"]);
    bundle(&world, json!({"command": ["sleep", "1000"]}));
    let said = world.run(words("a.tar.gz") + " --timeout 1s").expect(1).stderr;
    assert!(said.contains("did not end within 1s") && said.contains("--timeout gives it longer"), "{said}");
    nothing_is_left(&world);
}

#[test]
fn what_is_in_a_tarball_is_the_image_it_is_published_for_and_nothing_else() {
    let world = World::bare();
    bundle(&world, Value::Null);
    let fails = |name: &str, code: i32, part: &str| {
        let said = world.run(words(name)).expect(code).stderr;
        assert!(said.contains(part), "{part}: {said}");
    };
    pack(&world, "arch.tar.gz", &image().arch(OTHER_GO));
    fails("arch.tar.gz", 1, &format!("is built for linux/{OTHER_GO}, not for linux/"));
    pack(&world, "name.tar.gz", &docker_archive().tag("localhost/smoke/other:1"));
    fails("name.tar.gz", 1, &format!("holds `localhost/smoke/other:1`, not `{IMAGE}:1` alone"));
    pack(&world, "version.tar.gz", &docker_archive().tag(format!("{IMAGE}:2")));
    fails("version.tar.gz", 1, &format!("holds `{IMAGE}:2`, not `{IMAGE}:1` alone"));
    pack(&world, "two.tar.gz", &image().tag("localhost/smoke/too:1"));
    fails("two.tar.gz", 1, "`localhost/smoke/too:1`, not `");
    pack(&world, "nameless.tar.gz", &docker_archive());
    fails("nameless.tar.gz", 1, &format!("not `{IMAGE}:1` alone"));
    // What is no tarball, in three ways.
    world.sandbox.write("dist/images/none.tar.gz", "<html>");
    world.sandbox.write("dist/images/none.tar.gz.sha256", format!("{}  none.tar.gz\n", sha256(b"<html>")));
    fails("none.tar.gz", 1, "is not a tarball: it begins neither like gzip");
    let packed = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &[7; 100_000]).unwrap();
        encoder.finish().unwrap()
    };
    world.sandbox.write("dist/images/gz.tar.gz.sha256", format!("{}  gz.tar.gz\n", sha256(&packed)));
    world.sandbox.write("dist/images/gz.tar.gz", packed);
    fails("gz.tar.gz", 1, "is not an archive of an image that Podman loads");
    let whole = image().build();
    let half = &whole[..whole.len() / 2];
    world.sandbox.write("dist/images/half.tar.gz.sha256", format!("{}  half.tar.gz\n", sha256(half)));
    world.sandbox.write("dist/images/half.tar.gz", half);
    fails("half.tar.gz", 1, "is not an archive of an image that Podman loads");
    // And its sidecar.
    pack(&world, "a.tar.gz", &image());
    world.sandbox.write("dist/images/a.tar.gz.sha256", format!("{}  a.tar.gz\n", "0".repeat(64)));
    fails("a.tar.gz", 6, "sha256 mismatch for `dist/images/a.tar.gz`");
    std::fs::remove_file(world.sandbox.path("dist/images/a.tar.gz.sha256")).unwrap();
    fails("a.tar.gz", 1, "cannot read `dist/images/a.tar.gz.sha256`");
    nothing_is_left(&world);
}

#[test]
fn an_architecture_that_cannot_run_here_is_said_at_once_where_anything_is_to_be_run() {
    let world = World::bare();
    pack(&world, "a.tar.gz", &image().arch(OTHER_GO));
    let words = words("a.tar.gz").replace(&format!("--arch {HOST}"), &format!("--arch {OTHER}"));
    bundle(&world, Value::Null);
    world.run(words.as_str()).expect(0);
    let handlers = std::fs::read_dir("/proc/sys/fs/binfmt_misc").into_iter().flatten().flatten();
    if handlers.filter(|entry| entry.file_name().to_string_lossy().contains("qemu")).count() > 0 {
        return skip("this machine may emulate the other architecture");
    }
    bundle(&world, json!({"command": ["true"]}));
    std::fs::remove_file(world.sandbox.path("dist/images/a.tar.gz")).unwrap();
    let said = world.run(words.as_str()).expect(1).stderr;
    assert!(said.contains(&format!("for {OTHER} cannot run on this machine")), "{said}");
    nothing_is_left(&world);
}

#[test]
fn ctrl_c_leaves_nothing_and_what_a_kill_leaves_goes_with_the_next_trial() {
    let world = World::bare();
    pack(&world, "a.tar.gz", &image());
    bundle(&world, json!({"command": ["sh", "-c", "echo up; exec sleep 987654"]}));
    let is_up = || processes_of("sleep 987654").len() == 1;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let running = world.spawn(words("a.tar.gz"));
        until("the command runs", is_up);
        running.signal(signal);
        running.end().expect(code);
        assert_eq!(processes_of("sleep 987654"), Vec::<i32>::new());
        nothing_is_left(&world);
    }
    let running = world.spawn(words("a.tar.gz"));
    until("the command runs", is_up);
    running.signal(Signal::KILL);
    running.end();
    let killed = left(&world);
    assert_eq!(killed.len(), 1, "nobody could take it away");
    // One that lives is left alone meanwhile.
    let beside = world.spawn(words("a.tar.gz"));
    until("only the second one is left", || left(&world).len() == 1 && left(&world) != killed);
    until("its command runs", is_up);
    bundle(&world, Value::Null);
    world.run(words("a.tar.gz")).expect(0);
    assert!(is_up(), "another's trial goes on");
    beside.signal(Signal::INT);
    beside.end().expect(130);
    nothing_is_left(&world);
}

#[test]
fn where_the_kernel_cannot_mount_its_layers_they_are_copied() {
    let world = World::bare();
    if !rustix::process::geteuid().is_root() {
        return skip("only root mounts what this needs");
    }
    pack(&world, "a.tar.gz", &image());
    bundle(&world, json!({"command": ["true"]}));
    let script = format!(
        "mkdir m bin; mount -t tmpfs tmpfs m; mkdir m/l m/u m/w m/t\n\
         mount -t overlay overlay -o lowerdir=m/l,upperdir=m/u,workdir=m/w m/t\n\
         for tool in podman conmon crun runc; do tool=$(command -v $tool) && ln -s $tool bin; done\n\
         export TMPDIR=$PWD/m/t PATH=$PWD/bin; $STEADFAST {}\n/bin/ls m/t",
        words("a.tar.gz")
    );
    if let Some(tried) = world.sandbox.mounting(&script) {
        let tried = tried.expect(0);
        assert_eq!(tried.stdout.lines().count(), 1, "nothing is left: {}", tried.stdout);
        assert!(tried.stdout.contains("is good: its command ended with exit code 0"), "{}", tried.stdout);
    }
}

#[test]
fn a_full_place_for_the_trial_is_not_the_tarballs_fault() {
    let world = World::bare();
    bundle(&world, Value::Null);
    let mut noise = vec![0; 40_000_000];
    for (at, byte) in noise.iter_mut().enumerate() {
        *byte = ((at as u32).wrapping_mul(2_654_435_761) >> 24) as u8;
    }
    pack(&world, "app.tar.gz", &image().file("noise", noise));
    let script = format!(
        "mkdir full && mount -t tmpfs -o size=16m tmpfs full && export TMPDIR=$PWD/full\n$STEADFAST {} && exit 1\n\
         ls -A full | grep . && exit 2; exit 0",
        words("app.tar.gz")
    );
    if let Some(outcome) = world.sandbox.mounting(&script) {
        let said = outcome.expect(0).stderr;
        assert!(said.contains("error: no space is left in `") && said.contains("work/full/"), "{said}");
        assert!(said.contains("hint: $TMPDIR chooses another place"), "{said}");
    }
}

fn processes_of(line: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ") == line
    };
    pids.filter(is_it).collect()
}

#[test]
fn without_podman_it_says_what_is_needed() {
    let mut world = World::bare();
    world.sandbox.set("PATH", "/nowhere");
    pack(&world, "a.tar.gz", &image());
    bundle(&world, Value::Null);
    if std::path::Path::new("/usr/sbin/podman").exists() || std::path::Path::new("/sbin/podman").exists() {
        return skip("Podman is where every PATH leads");
    }
    let said = world.run(words("a.tar.gz")).expect(1).stderr;
    assert!(said.contains("no `podman` in the PATH") && said.contains("a remote one does not do"), "{said}");
}
