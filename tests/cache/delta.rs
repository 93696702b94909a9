//! An artifact of which a part is in the cache already: what travels, and servers, lists and files that make it hard.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use steadfast::backend::cache::GcRequest;
use steadfast::backend::{Progress, Store, StoreError, Transferred};
use steadfast::model::{Artifact, Layers, Member};

use crate::processes::{finish, said, spawn};
use crate::server::{End, Reply, Request, Server};
use crate::world::{World, at, key, sha256};

const V1: &str = "vm/images/openclaw-1-x64.tar.gz";
const V2: &str = "vm/images/openclaw-2-x64.tar.gz";
const LAYER: usize = 1024 * 1024;

/// Five layers, each of two members behind a small one, and a last small one; the same seed is the same layer.
#[derive(Clone)]
struct Tarball {
    key: &'static str,
    bytes: Vec<u8>,
    list: Vec<u8>,
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn members(parts: &[Vec<u8>]) -> Vec<Member> {
    let mut offset = 0;
    let mut member = |part: &Vec<u8>| {
        let member = Member { sha256: sha256(part), offset, length: part.len() as u64 };
        offset = member.end();
        member
    };
    parts.iter().map(&mut member).collect()
}

impl Tarball {
    fn new(key: &'static str, seeds: [u64; 5]) -> Self {
        let layer = |seed: &u64| {
            let bytes = random(*seed, LAYER);
            let (one, two) = bytes.split_at(LAYER / 2);
            [random(seed + 1000, 300), one.to_vec(), two.to_vec()]
        };
        let mut parts: Vec<_> = seeds.iter().flat_map(layer).collect();
        parts.push(random(seeds.iter().sum::<u64>() + 2000, 700));
        let list = serde_json::to_vec(&members(&parts)).unwrap();
        Self { key, bytes: parts.concat(), list }
    }

    fn first() -> Self {
        Self::new(V1, [1, 2, 3, 4, 5])
    }

    /// One layer of five is another.
    fn second() -> Self {
        Self::new(V2, [1, 2, 7, 4, 5])
    }

    fn artifact(&self) -> Artifact {
        let list = key(&format!("{}.layers.json", self.key));
        Artifact {
            key: key(self.key),
            sha256: sha256(&self.bytes),
            size_bytes: self.bytes.len() as u64,
            layers: Some(Layers { key: list, sha256: sha256(&self.list) }),
        }
    }

    fn with_list(self, list: impl Into<Vec<u8>>) -> Self {
        Self { list: list.into(), ..self }
    }
}

/// Serves tarballs and their lists; what is asked for of the second one is answered by `second`.
async fn shop(tarballs: &[&Tarball], second: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static) -> Server {
    let mut files = BTreeMap::new();
    for tarball in tarballs {
        files.insert(format!("/{}", tarball.key), tarball.bytes.clone());
        files.insert(format!("/{}.layers.json", tarball.key), tarball.list.clone());
    }
    let files = Arc::new(files);
    Server::start(move |request| match files.get(&request.path) {
        Some(bytes) if request.path.ends_with(V2) => second(request, bytes),
        Some(bytes) => Reply::good(request, bytes, "\"1\""),
        None => Reply::new(404, ""),
    })
    .await
}

fn good(request: &Request, bytes: &[u8]) -> Reply {
    Reply::good(request, bytes, "\"2\"")
}

async fn fetch(world: &World, tarball: &Tarball, server: &Server) -> Result<Transferred, StoreError> {
    let progress = Progress::new(0);
    let artifact = tarball.artifact();
    let fetched = world.cache.fetch(&artifact, &at(server, tarball.key), Arc::clone(&progress)).await?;
    assert!(fetched && world.read(tarball.key) == tarball.bytes, "it is there, to the byte");
    assert!(!world.has(&format!("{}.partial", tarball.key)));
    assert_eq!(progress.get().0, tarball.bytes.len() as u64);
    Ok(progress.transferred())
}

/// A world with the first version in its cache, and what is published.
async fn with_first(second: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static) -> (World, Server) {
    let (world, first) = (World::new(), Tarball::first());
    let server = shop(&[&first, &Tarball::second()], second).await;
    let came = fetch(&world, &first, &server).await.unwrap();
    assert_eq!(came, Transferred { received: (first.bytes.len() + first.list.len()) as u64, reused: 0 });
    (world, server)
}

#[tokio::test]
async fn of_one_changed_layer_in_five_that_layer_travels() {
    let (world, server) = with_first(good).await;
    let second = Tarball::second();
    let before = server.sent();
    let told = world.cache.transfer(&second.artifact(), &at(&server, V2), true).await;
    let came = fetch(&world, &second, &server).await.unwrap();
    let sent = server.sent() - before;
    assert!(sent as f64 <= 1.05 * LAYER as f64, "{sent} bytes over the wire");
    assert!(told >= LAYER as u64 && told + second.list.len() as u64 == sent, "{told} were announced, {sent} sent");
    assert_eq!(
        came,
        Transferred { received: told, reused: second.bytes.len() as u64 - told },
        "the list was here by then"
    );
    let requests = server.requests(V2);
    assert_eq!(requests.len(), 2, "one range for the layer, one for what follows the last: {requests:?}");
    assert_eq!((requests[0].header("if-range"), requests[1].header("if-range")), (None, Some("\"2\"")));
    assert_eq!(requests[0].upto().unwrap() - requests[0].from().unwrap(), LAYER + 300);
    // What was put together is a source itself.
    let third = Tarball::new("vm/images/openclaw-3-x64.tar.gz", [1, 2, 7, 4, 9]);
    let server = shop(&[&third], good).await;
    let came = fetch(&world, &third, &server).await.unwrap();
    assert!(came.received as f64 <= 1.05 * LAYER as f64, "{came:?}");
}

#[tokio::test]
async fn who_knows_nothing_of_it_gets_the_same_bytes() {
    let second = Tarball::second();
    // An old client, and an old manifest: no layers are known.
    let plain = Artifact { layers: None, ..second.artifact() };
    let (world, server) = with_first(good).await;
    assert!(world.fetch(&plain, &server).await.unwrap());
    assert_eq!(world.read(V2), second.bytes);
    assert_eq!(server.requests(V2).len(), 1);
    assert_eq!(server.requests(V2)[0].header("range"), None);
    assert_eq!(server.requests(&format!("{V2}.layers.json")).len(), 0);
    // One without anything in its cache, and one on the publisher's machine.
    let world = World::new();
    assert_eq!(fetch(&world, &second, &server).await.unwrap().reused, 0);
    assert!(server.requests(V2)[1].header("range").is_none());
    let (world, server) = with_first(good).await;
    drop(server);
    let published = tempfile::tempdir().unwrap();
    let file = published.path().join(V2);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, &second.bytes).unwrap();
    let from = steadfast::model::Location::File(file);
    assert_eq!(world.cache.transfer(&second.artifact(), &from, true).await, second.bytes.len() as u64);
    assert!(world.cache.fetch(&second.artifact(), &from, Progress::new(0)).await.unwrap());
    assert_eq!(world.read(V2), second.bytes);
}

/// A server, how many requests for the tarball it gets, and how many of them for all of it.
type Case = (&'static str, fn(&Request, &[u8]) -> Reply, usize, usize);

#[tokio::test]
async fn a_server_that_gives_no_ranges_as_they_should_be_sends_everything_once() {
    let cases: [Case; 9] = [
        ("no ranges", |_, bytes| Reply::new(200, bytes), 1, 0),
        (
            "a range that is not told",
            |request, bytes| match request.from() {
                Some(_) => Reply { headers: vec![], ..good(request, bytes) },
                None => good(request, bytes),
            },
            2,
            1,
        ),
        (
            "another range",
            |request, bytes| match request.from() {
                Some(from) => Reply::new(206, &bytes[from + 1..request.upto().unwrap_or(bytes.len())])
                    .header("Content-Range", format!("bytes {}-{}/{}", from + 1, bytes.len() - 1, bytes.len())),
                None => good(request, bytes),
            },
            2,
            1,
        ),
        (
            "a range to the end",
            |request, bytes| match request.from() {
                Some(from) => Reply::new(206, &bytes[from..])
                    .header("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
                None => good(request, bytes),
            },
            2,
            1,
        ),
        (
            "more than it told",
            |request, bytes| match request.from() {
                Some(from) => Reply { body: Arc::new(bytes[from..].to_vec()), length: None, ..good(request, bytes) },
                None => good(request, bytes),
            },
            2,
            1,
        ),
        (
            "another object by the second range",
            |request, bytes| Reply::good(request, bytes, ["\"a\"", "\"b\""][request.nth.min(1)]),
            2,
            0,
        ),
        (
            "another object, and no If-Range",
            |request, bytes| match request.from() {
                Some(_) => {
                    let mut asked = request.clone();
                    asked.headers.remove("if-range");
                    Reply::good(&asked, bytes, ["\"a\"", "\"b\""][request.nth.min(1)])
                }
                None => good(request, bytes),
            },
            3,
            1,
        ),
        (
            "another object, and not a word",
            |request, bytes| match request.from() {
                Some(_) => Reply {
                    headers: vec![good(request, bytes).headers[0].clone()],
                    ..Reply::new(206, vec![7; request.upto().unwrap_or(bytes.len()) - request.from().unwrap()])
                },
                None => Reply::new(200, bytes),
            },
            3,
            1,
        ),
        (
            "no such range",
            |request, bytes| match request.from() {
                Some(_) => Reply::new(416, "").header("Content-Range", format!("bytes */{}", bytes.len())),
                None => good(request, bytes),
            },
            2,
            1,
        ),
    ];
    for (what, second, requests, whole) in cases {
        let (world, server) = with_first(second).await;
        let came = fetch(&world, &Tarball::second(), &server).await.unwrap_or_else(|err| panic!("{what}: {err}"));
        assert_eq!(came.reused, 0, "{what}");
        let asked = server.requests(V2);
        let for_all = asked.iter().filter(|request| request.header("range").is_none()).count();
        assert_eq!((asked.len(), for_all), (requests, whole), "{what}: {asked:?}");
    }
}

#[tokio::test]
async fn a_range_that_breaks_off_is_asked_for_from_there() {
    let (world, server) = with_first(|request, bytes| match request.nth {
        0 => good(request, bytes).end(End::Cut(LAYER / 2)),
        1 => Reply::new(503, ""),
        _ => good(request, bytes),
    })
    .await;
    let came = fetch(&world, &Tarball::second(), &server).await.unwrap();
    assert!(came.received as f64 <= 1.05 * LAYER as f64, "{came:?}");
    let requests = server.requests(V2);
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert_eq!(requests[2].from().unwrap(), requests[0].from().unwrap() + LAYER / 2);
    assert_eq!((requests[2].upto(), requests[2].header("if-range")), (requests[0].upto(), Some("\"2\"")));
}

#[tokio::test]
async fn wrong_bytes_are_an_error_after_one_more_try() {
    let (world, server) = with_first(|request, bytes| {
        let other = vec![b'x'; bytes.len()];
        Reply::good(request, &other, "\"2\"")
    })
    .await;
    let second = Tarball::second();
    let err = world.fetch(&second.artifact(), &server).await.unwrap_err();
    assert!(matches!(err, StoreError::DigestMismatch { .. }), "{err}");
    assert_eq!(server.requests(V2).len(), 3, "two ranges, and the whole once");
    assert!(!world.has(V2) && !world.has(&format!("{V2}.partial")));
}

#[tokio::test]
async fn a_list_that_is_not_right_costs_a_whole_download_and_no_more() {
    let good_list = Tarball::second().list;
    let listed: Vec<Member> = serde_json::from_slice(&good_list).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<Member>)| {
        let mut members = listed.clone();
        change(&mut members);
        serde_json::to_vec(&members).unwrap()
    };
    let negative = String::from_utf8(good_list.clone()).unwrap().replacen("\"length\":", "\"length\":-", 1);
    let large = [good_list.clone(), vec![b' '; LAYER]].concat();
    let many = format!("[{}]", vec!["0"; 300_000].join(","));
    let cases: [(&str, Vec<u8>); 9] = [
        ("overlapping", changed(&|members| members[1].offset -= 1)),
        ("a hole", changed(&|members| members.retain(|member| member.offset != 300))),
        ("too short in all", changed(&|members| members.truncate(15))),
        ("too long in all", changed(&|members| members.last_mut().unwrap().length += 1)),
        ("nothing in it", b"[]".to_vec()),
        ("negative", negative.into()),
        ("larger than it may be", large),
        ("too many", many.into()),
        ("no JSON", b"<html>".to_vec()),
    ];
    let whole = async |what: &str, world: World, server: Server, second: Tarball| {
        let size = second.bytes.len() as u64;
        assert_eq!(world.cache.transfer(&second.artifact(), &at(&server, V2), true).await, size, "{what}");
        let came = fetch(&world, &second, &server).await.unwrap();
        assert!(came.reused == 0 && came.received >= size, "{what}: {came:?}");
        let asked = server.requests(V2);
        assert!(asked.len() == 1 && asked[0].header("range").is_none(), "{what}: {asked:?}");
    };
    for (what, list) in cases {
        let (world, first, second) = (World::new(), Tarball::first(), Tarball::second().with_list(list));
        let server = shop(&[&first, &second], good).await;
        fetch(&world, &first, &server).await.unwrap();
        whole(what, world, server, second).await;
    }
    // What is not the list that the manifest means: other bytes, and none.
    for (what, published) in
        [("damaged", Some(good_list.iter().map(|byte| byte ^ 1).collect::<Vec<_>>())), ("gone", None)]
    {
        let (world, first) = (World::new(), Tarball::first());
        let (bytes, of_first) = (Tarball::second().bytes, first.clone());
        let server = Server::start(move |request| match (request.path.trim_start_matches('/'), &published) {
            (V1, _) => good(request, &of_first.bytes),
            (V2, _) => good(request, &bytes),
            (path, _) if path.starts_with(V1) => good(request, &of_first.list),
            (_, Some(list)) => good(request, list),
            (_, None) => Reply::new(404, ""),
        })
        .await;
        fetch(&world, &first, &server).await.unwrap();
        whole(what, world, server, Tarball::second()).await;
    }
    // Members that are not what the list says are found out while they are copied, or at the end.
    let lying = changed(&|members| members[1].sha256 = members[2].sha256);
    let (world, first, second) = (World::new(), Tarball::first(), Tarball::second().with_list(lying));
    let server = shop(&[&first, &second], good).await;
    fetch(&world, &first, &server).await.unwrap();
    fetch(&world, &second, &server).await.unwrap();
    assert_eq!(server.requests(V2).iter().filter(|request| request.header("range").is_none()).count(), 1);
}

/// Changes a file behind everybody's back: the index believes it to be what it was.
fn rot(world: &World, key: &str, at: usize) {
    let mut bytes = world.read(key);
    bytes[at] ^= 1;
    std::fs::write(world.path(key), bytes).unwrap();
    let found = std::fs::metadata(world.path(key)).unwrap();
    let mut index: serde_json::Value = serde_json::from_slice(&world.read("index.json")).unwrap();
    let entry = &mut index["files"][key];
    entry["mtime"] = (found.mtime() * 1_000_000_000 + found.mtime_nsec()).into();
    entry["ctime"] = (found.ctime() * 1_000_000_000 + found.ctime_nsec()).into();
    world.write("index.json", index.to_string());
}

#[tokio::test]
async fn a_rotten_tarball_in_the_cache_is_no_source() {
    // In the first layer, in the last, and in a byte that nobody copies.
    for (at, most) in [(5000, 5 * LAYER + 4000), (4 * LAYER + 5000, 3 * LAYER), (2 * LAYER + 5000, LAYER + 4000)] {
        let (world, server) = with_first(good).await;
        rot(&world, V1, at);
        let listed = world.cache.list().await.unwrap();
        assert!(listed[&key(V1)].digest.is_some(), "it is believed to be good");
        let came = fetch(&world, &Tarball::second(), &server).await.unwrap();
        assert!(came.received as usize <= most + 4000, "{at}: {came:?}");
        assert!(server.requests(V2).len() <= 3, "{at}");
        let proved = world.cache.list().await.unwrap()[&key(V1)].digest;
        assert_eq!(proved.is_some(), most < 2 * LAYER, "{at}: what was found out is not forgotten");
    }
    // Where another one has it, that is taken.
    let (world, server) = with_first(good).await;
    let other = Tarball::new("vm/images/openclaw-1.5-x64.tar.gz", [1, 8, 9, 10, 11]);
    let more = shop(&[&other], good).await;
    fetch(&world, &other, &more).await.unwrap();
    rot(&world, other.key, 5000);
    let came = fetch(&world, &Tarball::second(), &server).await.unwrap();
    assert!(came.received as f64 <= 1.05 * LAYER as f64, "{came:?}");
}

#[tokio::test]
async fn a_tarball_that_vanishes_meanwhile_is_fetched_instead() {
    for cut in [false, true] {
        let (world, first) = (World::new(), Tarball::first());
        let second = Tarball::new(V2, [7, 2, 3, 4, 5]);
        let path = world.path(V1);
        let server = shop(&[&first, &second], move |request, bytes| {
            if request.nth == 0 && cut {
                std::fs::File::options().write(true).open(&path).unwrap().set_len(3 * LAYER as u64).unwrap();
            } else if request.nth == 0 {
                std::fs::remove_file(&path).unwrap();
            }
            good(request, bytes)
        })
        .await;
        fetch(&world, &first, &server).await.unwrap();
        let came = fetch(&world, &second, &server).await.unwrap();
        assert_eq!(came.reused > 0, cut, "what can be read of it serves: {came:?}");
        assert_eq!(server.requests(V2).len(), 2);
    }
}

fn manifest(tarball: &Tarball, version: &str) -> String {
    let artifact = tarball.artifact();
    let layers = artifact.layers.unwrap();
    let entry = serde_json::json!({
        "key": tarball.key, "sha256": artifact.sha256, "sizeBytes": artifact.size_bytes,
        "layers": {"key": layers.key, "sha256": layers.sha256},
    });
    let agent = serde_json::json!({"image": "ghcr.io/a/b", "version": version, "tarballs": {"x64": entry}});
    serde_json::json!({"schemaVersion": 2, "updatedAt": "", "agents": {"openclaw": agent}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_loses_nothing_that_came() {
    let (world, first, second) = (World::new(), Tarball::first(), Tarball::second());
    let texts = [manifest(&first, "1"), manifest(&second, "2")];
    let shown = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (files, version) = ((first.clone(), second.clone()), Arc::clone(&shown));
    let server = Server::start(move |request| match request.path.trim_start_matches('/') {
        "vm/manifest.json" => Reply::new(200, texts[version.load(std::sync::atomic::Ordering::SeqCst)].as_bytes()),
        V1 => good(request, &files.0.bytes),
        V2 => good(request, &files.1.bytes).pace(Duration::from_millis(5)),
        path if path.starts_with(V1) => good(request, &files.0.list),
        _ => good(request, &files.1.list),
    })
    .await;
    let url = at(&server, "vm/manifest.json").to_string();
    assert_eq!(said(&finish(spawn(&[], "sync", world.dir.path(), &url)).await), "skipped false");
    shown.store(1, std::sync::atomic::Ordering::SeqCst);
    let mut child = spawn(&[], "sync", world.dir.path(), &url);
    let partial = world.path(&format!("{V2}.partial"));
    let half = 2 * LAYER + LAYER / 2;
    while std::fs::metadata(&partial).map_or(0, |found| found.len()) < half as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = std::fs::metadata(&partial).unwrap().len();
    let told = world.cache.transfer(&second.artifact(), &at(&server, V2), false).await;
    assert!(told < LAYER as u64 / 2 + 2000, "what came is not counted again: {told} with {left} here");
    assert_eq!(said(&finish(spawn(&[], "sync", world.dir.path(), &url)).await), "skipped false");
    assert_eq!(world.read(V2), second.bytes);
    let requests = server.requests(V2);
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert_eq!((requests[1].from(), requests[1].upto()), (Some(left as usize), requests[0].upto()));
    assert_eq!(requests[1].header("if-range"), Some("\"2\""));
}

#[tokio::test]
async fn what_was_left_in_the_middle_of_a_copy_is_gone_on_with_and_proved() {
    for rotten in [false, true] {
        let (world, server) = with_first(good).await;
        let second = Tarball::second();
        // In the middle of a member that is copied.
        let mut begun = second.bytes[..LAYER + 5000].to_vec();
        begun[10] ^= u8::from(rotten);
        world.write(&format!("{V2}.partial"), &begun);
        let url = at(&server, V2).to_string();
        let sidecar = serde_json::json!({"url": url, "place": null, "etag": null, "sha256": sha256(&second.bytes)});
        world.write(&format!("{V2}.partial.json"), sidecar.to_string());
        let came = fetch(&world, &second, &server).await.unwrap();
        let whole = server.requests(V2).iter().filter(|request| request.header("range").is_none()).count();
        assert_eq!((whole, came.reused == 0), (usize::from(rotten), rotten), "{came:?}");
    }
}

#[tokio::test]
async fn lists_are_kept_and_go_with_their_tarballs() {
    let (world, server) = with_first(good).await;
    let (first, second) = (Tarball::first(), Tarball::second());
    let list = |tarball: &Tarball| format!("layers/{}.json", sha256(&tarball.list));
    assert!(world.has(&list(&first)) && !world.has(&list(&second)));
    assert!(!world.has(&format!("{V1}.layers.json")));
    fetch(&world, &second, &server).await.unwrap();
    assert_eq!(world.cache.list().await.unwrap().len(), 2, "they are no artifacts");
    assert_eq!(world.cache.verify(true).await.unwrap().files.len(), 2);
    // What nothing belongs to goes, once it is old enough to be nobody's.
    let foreign = format!("layers/{}.json", sha256(b"other"));
    for name in [foreign.as_str(), "layers/notes.txt"] {
        world.write(name, b"[]");
    }
    let gc = async || {
        let request =
            GcRequest { roots: [key(V2)].into(), agents: ["openclaw".to_owned()].into(), ..GcRequest::default() };
        world.cache.gc(request).await.unwrap().removed.len()
    };
    assert_eq!(gc().await, 1, "the older tarball");
    assert!(!world.has(V1) && !world.has(&list(&first)) && world.has(&list(&second)) && world.has(&foreign));
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 60 * 60);
    for name in [list(&second), foreign.clone()] {
        std::fs::File::options().write(true).open(world.path(&name)).unwrap().set_modified(long_ago).unwrap();
    }
    assert_eq!(gc().await, 1, "the list of nothing");
    assert!(!world.has(&foreign) && world.has(&list(&second)) && world.has("layers/notes.txt"));
    world.cache.remove(&key(V2)).await.unwrap();
    assert!(!world.has(&list(&second)));
}

#[tokio::test]
async fn a_list_that_is_lost_or_damaged_is_asked_for_again() {
    for damage in ["removed", "changed", "a directory"] {
        let (world, first, second) = (World::new(), Tarball::first(), Tarball::second());
        let files = (first.clone(), second.clone());
        let server = Server::start(move |request| match request.path.trim_start_matches('/') {
            "vm/manifest.json" => Reply::new(200, manifest(&files.0, "1")),
            V1 => good(request, &files.0.bytes),
            V2 => good(request, &files.1.bytes),
            path if path.starts_with(V1) => good(request, &files.0.list),
            _ => good(request, &files.1.list),
        })
        .await;
        world.sync(&at(&server, "vm/manifest.json")).await.unwrap();
        let list = format!("layers/{}.json", sha256(&first.list));
        std::fs::remove_file(world.path(&list)).unwrap();
        match damage {
            "changed" => world.write(&list, b"[]"),
            "a directory" => std::fs::create_dir(world.path(&list)).unwrap(),
            _ => {}
        }
        // The index goes too: what the manifest in the cache says is enough.
        std::fs::remove_file(world.path("index.json")).unwrap();
        world.cache.prove(&key(V1)).await.unwrap();
        let came = fetch(&world, &second, &server).await.unwrap();
        assert!(came.reused > 3 * LAYER as u64, "{damage}: {came:?}");
    }
}

#[tokio::test]
async fn what_travels_is_reported_only_where_it_is_known() {
    let (world, server) = with_first(good).await;
    let second = Tarball::second();
    let (artifact, from) = (second.artifact(), at(&server, V2));
    let size = second.bytes.len() as u64;
    assert_eq!(world.cache.transfer(&artifact, &from, false).await, size, "nobody was asked");
    assert_eq!(server.requests("layers.json").len(), 1);
    for _ in 0..3 {
        assert!(world.cache.transfer(&artifact, &from, true).await < size);
    }
    assert_eq!(server.requests("layers.json").len(), 2, "it is asked for once");
    assert!(world.cache.transfer(&artifact, &from, false).await < size, "offline, too");
    assert_eq!(server.requests(V2).len(), 0);
    // A list that is unavailable is not asked for all the time.
    let missing = Artifact { layers: Some(Layers { key: key("vm/none.json"), sha256: sha256(b"none") }), ..artifact };
    for _ in 0..3 {
        assert_eq!(world.cache.transfer(&missing, &from, true).await, size);
    }
    assert_eq!(server.requests("none.json").len(), 1);
}

/// The whole way: from a state file to the bytes that its plan tells and that travel.
#[tokio::test]
async fn a_plan_tells_what_will_travel() {
    use steadfast::backend::fake::Fake;
    use steadfast::model::{Arch, HostKey, Seen};
    use steadfast::observe::{look_at_published, observe};
    use steadfast::plan::{Action, Policy, plan};
    use steadfast::state::{Context, Input, load};

    let (world, first, second) = (World::new(), Tarball::first(), Tarball::second());
    let files = (first.clone(), second.clone());
    let shown = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (texts, version) = ([manifest(&first, "1"), manifest(&second, "2")], Arc::clone(&shown));
    let server = Server::start(move |request| match request.path.trim_start_matches('/') {
        "vm/manifest.json" => Reply::new(200, texts[version.load(std::sync::atomic::Ordering::SeqCst)].as_bytes()),
        V1 => good(request, &files.0.bytes),
        V2 => good(request, &files.1.bytes),
        path if path.starts_with(V1) => good(request, &files.0.list),
        _ => good(request, &files.1.list),
    })
    .await;
    let url = at(&server, "vm/manifest.json");
    world.sync(&url).await.unwrap();
    shown.store(1, std::sync::atomic::Ordering::SeqCst);
    let text = format!(
        "apiVersion: steadfast/v1\nname: demo\nruntime: {{podman: {{}}}}\nmanifest: {{url: \"{url}\"}}\nagents:\n  openclaw: {{version: latest}}\n"
    );
    let key = |_: &std::path::Path| HostKey::from_bytes([7; 32]);
    let context = Context {
        vars: [("HOME".to_owned(), "/h".to_owned())].into(),
        root: None,
        manifest_url: None,
        host_arch: Arch::X64,
        key: &key,
    };
    let input = Input { name: "s.yaml".into(), text, dir: "/".into() };
    let desired = load(&input, &context).unwrap_or_else(|err| panic!("{}", err.render(false))).desired;
    let fake = Fake::new();
    let whole = steadfast::backend::World { vm: fake.clone(), engine: fake, store: world.cache.clone() };
    let published = look_at_published(&whole.store, &desired).await;
    assert!(matches!(published.manifest, Seen::Present(_)));
    let observed = observe(&whole, &desired, &published).await;
    let plan = plan(&desired, &observed, &Policy::default());
    let moved =
        plan.ready.iter().find(|step| matches!(step.action, Action::FetchArtifact { .. })).unwrap().action.moved();
    let moved = moved.unwrap();
    let before = server.sent();
    let came = world.cache.fetch(&second.artifact(), &at(&server, V2), Progress::new(0)).await.unwrap();
    assert!(came);
    assert_eq!((moved.bytes, moved.transfer), (second.bytes.len() as u64, Some(server.sent() - before)));
    assert_eq!(plan.summary().transfer_bytes, moved.transfer);
    // Offline, the last good manifest is asked for nothing.
    drop(server);
    let unseen = steadfast::observe::Published::unseen("offline");
    assert_eq!(observe(&whole, &desired, &unseen).await.transfers, BTreeMap::new());
}
