//! Several processes, killed processes, and file systems that refuse. The test binary runs itself again for these.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use steadfast::backend::cache::Cache;
use steadfast::backend::{Progress, Store, StoreError};
use steadfast::error::Chain;
use steadfast::model::Location;

use crate::server::{Reply, Server};
use crate::world::{
    KEY, TARBALL, World, artifact, at, key, manifest, noise, options, publish, published, sha256, sync,
};

const TASK: &str = "STEADFAST_TEST_TASK";
const ROOT: &str = "STEADFAST_TEST_ROOT";
const FROM: &str = "STEADFAST_TEST_FROM";
const MIB: usize = 1024 * 1024;

/// Runs `task` of [`child`] in a process of its own, below `before` (a wrapper such as `unshare`).
pub fn spawn(before: &[&str], task: &str, root: &Path, from: &str) -> Child {
    let this = std::env::current_exe().unwrap();
    let mut words: Vec<_> = before.iter().map(std::ffi::OsString::from).collect();
    words.extend([this.into(), "--exact".into(), "processes::child".into(), "--nocapture".into()]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env(TASK, task).env(ROOT, root).env(FROM, from);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub async fn finish(child: Child) -> Output {
    tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap()
}

pub fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The harness prints its own words before and after.
    text.lines()
        .find_map(|line| line.split_once("said: "))
        .map(|(_, said)| said.to_owned())
        .unwrap_or_else(|| panic!("{text}"))
}

/// Not a test of its own: what the other processes do. Without a task it has nothing to say.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let root = std::env::var_os(ROOT).unwrap();
    let from = Location::parse(&std::env::var(FROM).unwrap()).unwrap();
    let cache = || Cache::open(root.as_ref(), options()).unwrap();
    let outcome = match task.as_str() {
        "sync" => match sync(&cache(), &from).await {
            Ok(report) => format!("skipped {}", report.skipped),
            Err(err) => Chain(&err).to_string(),
        },
        "measure" => {
            // One cache for both: a second client would read the certificates again, and that is no small read.
            let cache = cache();
            let outcome = sync(&cache, &from).await.unwrap();
            let read = proc_number("/proc/self/io", "rchar:");
            let again = sync(&cache, &from).await.unwrap();
            let read = proc_number("/proc/self/io", "rchar:") - read;
            let peak = proc_number("/proc/self/status", "VmHWM:");
            format!("{} {} {read} {peak}", outcome.skipped, again.skipped)
        }
        "full disk" => {
            mount(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"], root.as_ref());
            let cache = cache();
            // Others fill the disk once the download has begun.
            let bytes = noise(3 * MIB);
            let fill = std::path::Path::new(&root).join("fill");
            let partial = std::path::Path::new(&root).join("cache").join(format!("{KEY}.partial"));
            let filler = async {
                while std::fs::metadata(&partial).map_or(0, |found| found.len()) == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                std::fs::write(&fill, vec![0; 2 * MIB]).unwrap();
            };
            let (first, ()) = tokio::join!(sync(&cache, &from), filler);
            let err = first.unwrap_err();
            let no_room = matches!(err, StoreError::NoSpace { .. });
            let early = matches!(sync(&cache, &from).await, Err(StoreError::NoSpace { .. }));
            std::fs::remove_file(&fill).unwrap();
            let late = sync(&cache, &from).await.unwrap();
            let whole = std::fs::read(cache.artifact_path(&key(KEY))).unwrap() == bytes;
            format!("{no_room} {early} {} {whole}: {err}", late.skipped)
        }
        "read only" => {
            mount(&["--bind"], root.as_ref());
            let remounted = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&root).status().unwrap();
            assert!(remounted.success());
            let cache = cache();
            let listed = cache.list().await.unwrap().len();
            let proved = cache.prove(&key(KEY)).await.unwrap() == Some(sha256(TARBALL));
            let opened = cache.open_plain(&key(KEY), Progress::new(0)).await.is_ok();
            let local = cache.local(None).await.unwrap().is_some();
            let kept = cache.fetch(&artifact(TARBALL), &from, Progress::new(0)).await.unwrap();
            let err = cache.fetch(&artifact(b"other"), &from, Progress::new(0)).await.unwrap_err();
            format!("{listed} {proved} {opened} {local} {kept}: {}", Chain(&err))
        }
        other => panic!("no such task: {other}"),
    };
    println!("\nsaid: {outcome}");
}

fn mount(how: &[&str], root: &Path) {
    let mut command = Command::new("mount");
    command.args(how);
    if how.contains(&"--bind") {
        command.arg(root);
    }
    assert!(command.arg(root).status().unwrap().success());
}

fn proc_number(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A mount namespace of its own, where this user may have one. CI must.
fn namespace() -> Option<&'static [&'static str]> {
    let candidates: [&[&str]; 2] =
        [&["unshare", "--mount", "--propagation", "private"], &["unshare", "--mount", "--map-root-user"]];
    let works = |words: &&&[&str]| {
        let mut command = Command::new(words[0]);
        let probe = command.args(&words[1..]).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
        probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let found = candidates.iter().find(works).copied();
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "CI must be able to mount");
    if found.is_none() {
        eprintln!("skipped: no mount namespace may be made here");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_dash_nine_loses_nothing_that_came() {
    let (world, bytes) = (World::new(), noise(6 * MIB));
    let (served, text) = (bytes.clone(), manifest(&bytes));
    let server = Server::start(move |request| match request.path.ends_with("json") {
        true => Reply::good(request, text.as_bytes(), "\"m\""),
        false => Reply::good(request, &served, "\"t\"").pace(Duration::from_millis(2)),
    })
    .await;
    let url = at(&server, "vm/manifest.json").to_string();
    let mut kills = 0;
    for part in [2 * MIB, 4 * MIB] {
        let mut child = spawn(&[], "sync", world.dir.path(), &url);
        let partial = world.path(&format!("{KEY}.partial"));
        while std::fs::metadata(&partial).map_or(0, |found| found.len()) < part as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(!world.has("vm/manifest.json") && !world.has(KEY));
    }
    let output = finish(spawn(&[], "sync", world.dir.path(), &url)).await;
    assert_eq!(said(&output), "skipped false");
    assert_eq!(world.read(KEY), bytes);
    let sent = server.sent() - 3 * manifest(&bytes).len() as u64;
    let twice = sent - bytes.len() as u64;
    assert!(twice <= kills * MIB as u64, "{twice} bytes were sent twice");
    assert!(server.requests(KEY)[1..].iter().all(|request| request.from().is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_one_download() {
    let (world, bytes) = (World::new(), noise(2 * MIB));
    let (served, text) = (bytes.clone(), manifest(&bytes));
    let server = Server::start(move |request| match request.path.ends_with("json") {
        true => Reply::good(request, text.as_bytes(), "\"m\""),
        false => Reply::good(request, &served, "\"t\"").pace(Duration::from_millis(5)),
    })
    .await;
    let url = at(&server, "vm/manifest.json").to_string();
    let children: Vec<_> = (0..3).map(|_| spawn(&[], "sync", world.dir.path(), &url)).collect();
    let mut outcomes = Vec::new();
    for child in children {
        outcomes.push(said(&finish(child).await));
    }
    outcomes.sort();
    assert_eq!(outcomes, ["skipped false", "skipped true", "skipped true"]);
    assert_eq!(server.requests(KEY).len(), 1);
    assert_eq!(world.read(KEY), bytes);
    assert_eq!(world.cache.list().await.unwrap()[&key(KEY)].digest, Some(sha256(&bytes)));
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_constant_and_a_warm_look_reads_no_artifact() {
    let (world, bytes) = (World::new(), noise(128 * MIB));
    let server = published(&bytes).await;
    let url = at(&server, "vm/manifest.json").to_string();
    let output = finish(spawn(&[], "measure", world.dir.path(), &url)).await;
    let said = said(&output);
    let words: Vec<&str> = said.split(' ').collect();
    assert_eq!(words[..2], ["false", "true"]);
    let (read, peak): (u64, u64) = (words[2].parse().unwrap(), words[3].parse().unwrap());
    assert!(read < 256 * 1024, "the warm sync read {read} bytes");
    assert!(peak < 64 * 1024, "the peak was {peak} KiB, in a build that is not optimised");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_so_and_what_came_is_kept() {
    let Some(namespace) = namespace() else { return };
    let (world, bytes) = (World::new(), noise(3 * MIB));
    let (served, text) = (bytes.clone(), manifest(&bytes));
    let server = Server::start(move |request| match request.path.ends_with("json") {
        true => Reply::good(request, text.as_bytes(), "\"m\""),
        false => Reply::good(request, &served, "\"t\"").pace(Duration::from_millis(2)),
    })
    .await;
    let url = at(&server, "vm/manifest.json").to_string();
    let output = finish(spawn(namespace, "full disk", world.dir.path(), &url)).await;
    let said = said(&output);
    assert!(said.starts_with("true true false true: not enough space in "), "{said}");
    assert!(server.requests(KEY).last().unwrap().from().is_some_and(|from| from > 0), "the last try resumed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_cache_is_good_to_read() {
    let Some(namespace) = namespace() else { return };
    let (world, source) = (World::new(), tempfile::tempdir().unwrap());
    let manifest = publish(source.path(), TARBALL);
    world.sync(&Location::File(manifest)).await.unwrap();
    std::fs::remove_file(world.path("index.json")).unwrap();
    let from = source.path().join(KEY).display().to_string();
    let output = finish(spawn(namespace, "read only", world.dir.path(), &from)).await;
    let said = said(&output);
    assert!(said.starts_with("1 true true true false: failed to create `"), "{said}");
    assert!(said.ends_with("Read-only file system (os error 30)"), "{said}");
}
