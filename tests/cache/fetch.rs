//! One artifact, and a server that makes it hard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use steadfast::backend::cache::CacheOptions;
use steadfast::backend::{Progress, Store, StoreError};
use steadfast::model::{Artifact, FailureKind, Location};

use crate::server::{End, Reply, Request, Server};
use crate::world::{KEY, TARBALL, World, artifact, at, impatient, key, noise, options, publish, sha256};

const MIB: usize = 1024 * 1024;

async fn serve(handler: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static, bytes: Vec<u8>) -> Server {
    Server::start(move |request| handler(request, &bytes)).await
}

#[tokio::test]
async fn what_is_fetched_is_there_whole_private_and_without_leftovers() {
    use std::os::unix::fs::PermissionsExt;
    let (world, bytes) = (World::new(), noise(3 * MIB + 5));
    let server = serve(|request, bytes| Reply::good(request, bytes, "\"1\""), bytes.clone()).await;
    let progress = Progress::new(0);
    let from = at(&server, KEY);
    assert!(world.cache.fetch(&artifact(&bytes), &from, Arc::clone(&progress)).await.unwrap());
    assert_eq!(world.read(KEY), bytes);
    assert_eq!(progress.get(), (bytes.len() as u64, bytes.len() as u64));
    assert!(!world.has(&format!("{KEY}.partial")) && !world.has(&format!("{KEY}.partial.json")));
    assert_eq!(std::fs::metadata(world.path(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(world.path("vm/images")).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(
        !world.cache.fetch(&artifact(&bytes), &from, progress).await.unwrap(),
        "the second time nothing is fetched"
    );
    assert_eq!(server.requests(KEY).len(), 1);
}

/// In the moment between its being there and its being written down as good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_cut_short_as_soon_as_it_is_there_is_not_believed() {
    let (world, bytes) = (World::new(), noise(MIB));
    let server = serve(|request, bytes| Reply::good(request, bytes, "\"1\""), bytes.clone()).await;
    for round in 0..20 {
        let path = world.path(KEY);
        let cutter = std::thread::spawn(move || {
            loop {
                if let Ok(file) = std::fs::File::options().write(true).open(&path) {
                    return file.set_len(1000).unwrap();
                }
                std::thread::yield_now();
            }
        });
        world.fetch(&artifact(&bytes), &server).await.unwrap();
        cutter.join().unwrap();
        assert!(world.fetch(&artifact(&bytes), &server).await.unwrap(), "round {round}: it was taken for whole");
        assert_eq!(world.read(KEY), bytes);
        std::fs::remove_file(world.path(KEY)).unwrap();
    }
}

#[tokio::test]
async fn a_dropped_connection_is_resumed_where_it_broke() {
    for reset in [false, true] {
        let (world, bytes) = (World::new(), noise(4 * MIB));
        let server = serve(
            move |request, bytes| {
                let reply = Reply::good(request, bytes, "\"1\"");
                let end = if reset { End::Reset(MIB) } else { End::Cut(MIB) };
                if request.nth < 3 { reply.end(end) } else { reply }
            },
            bytes.clone(),
        )
        .await;
        assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
        assert_eq!(world.read(KEY), bytes);
        assert!(server.sent() <= (bytes.len() + MIB) as u64, "{} bytes were sent", server.sent());
        let requests = server.requests(KEY);
        assert_eq!(requests.len(), 4);
        assert!(requests[0].from().is_none());
        assert_eq!(requests[1].header("if-range"), Some("\"1\""));
        assert!(requests[1].from().unwrap() > 0);
    }
}

/// It goes on under one ETag with the bytes of another file: the resume is not to be believed, the artifact may be there.
#[tokio::test]
async fn a_server_that_splices_two_files_gets_one_more_try_from_the_start() {
    for is_there in [true, false] {
        let (world, bytes) = (World::new(), noise(2 * MIB));
        let server = serve(
            move |request, bytes| {
                let other = vec![b'x'; bytes.len()];
                let whole = request.from().is_none() && is_there;
                let reply = Reply::good(request, if whole || request.nth == 0 { bytes } else { &other }, "\"1\"");
                if request.nth == 0 { reply.end(End::Cut(MIB)) } else { reply }
            },
            bytes.clone(),
        )
        .await;
        let fetched = world.fetch(&artifact(&bytes), &server).await;
        let requests = server.requests(KEY);
        assert!(requests.len() == 3 && requests[1].from().is_some() && requests[2].from().is_none(), "{requests:?}");
        if is_there {
            assert!(fetched.unwrap());
            assert_eq!(world.read(KEY), bytes);
        } else {
            assert!(matches!(fetched, Err(StoreError::DigestMismatch { .. })), "{fetched:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_resume_sends_everything_again() {
    let (world, bytes) = (World::new(), noise(2 * MIB));
    let server = serve(
        |request, bytes| {
            let reply = Reply::new(200, bytes);
            if request.nth == 0 { reply.end(End::Cut(MIB)) } else { reply }
        },
        bytes.clone(),
    )
    .await;
    assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
    assert_eq!(world.read(KEY), bytes);
    assert_eq!(server.requests(KEY).len(), 2);
}

#[tokio::test]
async fn another_version_on_the_server_is_not_glued_to_the_old_bytes() {
    let (world, bytes) = (World::new(), noise(2 * MIB));
    let server = serve(|request, bytes| Reply::good(request, bytes, "\"new\""), bytes.clone()).await;
    let url = at(&server, KEY).to_string();
    world.leave_partial(&vec![b'x'; MIB], &url, Some("\"old\""), sha256(&bytes));
    assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
    assert_eq!(world.read(KEY), bytes);
    let requests = server.requests(KEY);
    assert_eq!((requests.len(), requests[0].header("if-range")), (1, Some("\"old\"")));
}

#[tokio::test]
async fn an_answer_with_the_wrong_range_is_not_believed() {
    for range in ["bytes 0-9/*", "bytes 7-2097151/2097152", "rubbish"] {
        let (world, bytes) = (World::new(), noise(2 * MIB));
        let server = serve(
            move |request, bytes| match request.from() {
                Some(from) => Reply::new(206, &bytes[from..]).header("Content-Range", range),
                None if request.nth == 0 => Reply::new(200, bytes).end(End::Cut(MIB)),
                None => Reply::new(200, bytes),
            },
            bytes.clone(),
        )
        .await;
        assert!(world.fetch(&artifact(&bytes), &server).await.unwrap(), "{range}");
        assert_eq!(world.read(KEY), bytes);
        assert_eq!(server.requests(KEY).len(), 3, "{range}");
    }
}

#[tokio::test]
async fn past_the_end_means_another_size_or_from_the_start() {
    let (world, bytes) = (World::new(), noise(MIB));
    let server = serve(
        |request, bytes| match request.from() {
            Some(_) => Reply::new(416, ""),
            None if request.nth == 0 => Reply::new(200, bytes).end(End::Cut(MIB / 2)),
            None => Reply::new(200, bytes),
        },
        bytes.clone(),
    )
    .await;
    assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
    assert_eq!(world.read(KEY), bytes);

    let world = World::new();
    let server = serve(|request, bytes| Reply::good(request, &bytes[..100], "\"1\""), bytes.clone()).await;
    world.leave_partial(&bytes[..200], &at(&server, KEY).to_string(), None, sha256(&bytes));
    let err = world.fetch(&artifact(&bytes), &server).await.unwrap_err();
    let got = sha256(&bytes[..100]);
    let expected = sha256(&bytes);
    let wanted = format!("sha256 mismatch for {KEY}: expected {expected}, got {got} (100 bytes instead of 1048576)");
    assert_eq!(err.to_string(), wanted);
}

/// Said as for any other wrong bytes: what came is hashed to its end, whether its length is told before or not.
#[tokio::test]
async fn a_body_of_the_wrong_length_is_hashed_to_its_end() {
    let promised = noise(16);
    for came in [&b"short bytes"[..], &noise(17), &noise(MIB)] {
        for (told, chunked) in [(true, false), (false, true), (false, false)] {
            // Without a mark at its end, a short body may have broken off.
            if !told && !chunked && came.len() < promised.len() {
                continue;
            }
            let world = World::new();
            let reply = move |_: &_, bytes: &[u8]| match (told, chunked) {
                (true, _) => Reply::new(200, bytes),
                (false, true) => Reply::new(200, bytes).chunked(),
                (false, false) => Reply::new(200, bytes).length(None),
            };
            let server = serve(reply, came.to_vec()).await;
            let err = world.fetch(&artifact(&promised), &server).await.unwrap_err();
            let (expected, got) = (sha256(&promised), sha256(came));
            let length = came.len();
            let wanted =
                format!("sha256 mismatch for {KEY}: expected {expected}, got {got} ({length} bytes instead of 16)");
            assert_eq!(err.to_string(), wanted);
            assert_eq!((err.kind(), err.is_retryable()), (FailureKind::DigestMismatch, false));
            assert_eq!(server.requests(KEY).len(), 1, "{length}");
            assert!(!world.has(&format!("{KEY}.partial")) && !world.has(KEY));
        }
    }
}

#[tokio::test]
async fn a_length_far_beyond_the_promised_one_is_refused_before_the_body() {
    let world = World::new();
    let server = serve(|_, _| Reply::new(200, b"x").length(Some(1 << 40)).end(End::Stall(1)), vec![]).await;
    let err = world.fetch(&Artifact { size_bytes: 1000, ..artifact(TARBALL) }, &server).await.unwrap_err();
    assert_eq!(err.to_string(), format!("size mismatch for {KEY}: expected 1000 bytes, got {}", 1u64 << 40));
}

#[tokio::test]
async fn the_right_bytes_of_a_wrong_length_are_refused() {
    let world = World::new();
    let server = serve(|_, bytes| Reply::new(200, bytes), noise(MIB)).await;
    let wanted = Artifact { size_bytes: 1000, ..artifact(&noise(MIB)) };
    let err = world.fetch(&wanted, &server).await.unwrap_err();
    assert!(matches!(err, StoreError::SizeMismatch { expected: 1000, got: Some(1_048_576), .. }), "{err}");
    assert!(!world.has(&format!("{KEY}.partial")));
    assert_eq!(server.requests(KEY).len(), 1);
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for() {
    let world = World::new();
    let server = serve(|_, bytes| Reply::new(200, bytes).end(End::Endless), noise(MIB)).await;
    let err = world.fetch(&Artifact { size_bytes: 1000, ..artifact(TARBALL) }, &server).await.unwrap_err();
    assert!(matches!(err, StoreError::SizeMismatch { expected: 1000, .. }), "{err}");
    assert!(!world.has(&format!("{KEY}.partial")));
}

#[tokio::test]
async fn a_body_that_ends_early_each_time_is_an_error_that_keeps_what_came() {
    let (world, bytes) = (World::new(), noise(MIB));
    let server =
        serve(|request, bytes| Reply::good(request, &bytes[..bytes.len() / 2], "\"1\"").length(None), bytes.clone())
            .await;
    let wanted = artifact(&bytes);
    let err = world.fetch(&wanted, &server).await.unwrap_err();
    // The second answer, to a range past its end, tells that this was all.
    let (expected, got) = (sha256(&bytes), sha256(&bytes[..MIB / 2]));
    let wrong = format!("sha256 mismatch for {KEY}: expected {expected}, got {got} (524288 bytes instead of 1048576)");
    assert_eq!(err.to_string(), wrong);

    let world = World::new();
    let server = serve(|_, bytes| Reply::new(200, &bytes[..bytes.len() / 2]).length(None), bytes).await;
    let err = world.fetch(&wanted, &server).await.unwrap_err().to_string();
    let url = at(&server, KEY);
    assert_eq!(err, format!("download failed: {url} (ended early, after 524288 of 1048576 bytes)"));
    assert_eq!(server.requests(KEY).len(), 6, "the first try and five more");
    assert_eq!(world.read(&format!("{KEY}.partial")).len(), MIB / 2);
}

#[tokio::test]
async fn a_stalled_body_times_out_and_is_resumed() {
    let (world, bytes) = (World::with(impatient()), noise(2 * MIB));
    let server = serve(
        |request, bytes| {
            let reply = Reply::good(request, bytes, "\"1\"");
            if request.nth == 0 { reply.end(End::Stall(MIB)) } else { reply }
        },
        bytes.clone(),
    )
    .await;
    assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
    assert_eq!(world.read(KEY), bytes);
    assert_eq!(server.requests(KEY)[1].from(), Some(MIB), "everything that came was kept");
}

#[tokio::test]
async fn a_slow_body_is_not_a_stalled_one() {
    let world = World::with(CacheOptions { stall_timeout: Duration::from_secs(1), ..options() });
    let bytes = noise(256 * 1024);
    let pace = Duration::from_millis(80);
    let server = serve(move |request, bytes| Reply::good(request, bytes, "\"1\"").pace(pace), bytes.clone()).await;
    let started = Instant::now();
    assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
    assert!(started.elapsed() > Duration::from_secs(1), "it took longer than the stall timeout");
    assert_eq!(server.requests(KEY).len(), 1);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_a_refusal_is_final() {
    for status in [503, 500, 429, 408] {
        let world = World::new();
        let server = serve(
            move |request, bytes| match request.nth {
                0 | 1 => Reply::new(status, "busy"),
                _ => Reply::good(request, bytes, "\"1\""),
            },
            TARBALL.to_vec(),
        )
        .await;
        assert!(world.fetch(&artifact(TARBALL), &server).await.unwrap(), "{status}");
        assert_eq!(server.requests(KEY).len(), 3);
    }
    for status in [404, 403, 410, 400] {
        let world = World::new();
        let server = serve(move |_, _| Reply::new(status, "no"), vec![]).await;
        let err = world.fetch(&artifact(TARBALL), &server).await.unwrap_err();
        assert_eq!(err.to_string(), format!("download failed: {} ({status})", at(&server, KEY)));
        assert!(!err.is_retryable());
        assert_eq!(server.requests(KEY).len(), 1, "{status}");
        assert!(!world.has(&format!("{KEY}.partial")), "an empty partial is not left behind");
    }
}

#[tokio::test]
async fn retry_after_is_respected_and_bounded() {
    let world = World::new();
    let server = serve(
        |request, bytes| match request.nth {
            0 => Reply::new(429, "").header("Retry-After", "1"),
            _ => Reply::good(request, bytes, "\"1\""),
        },
        TARBALL.to_vec(),
    )
    .await;
    let started = Instant::now();
    assert!(world.fetch(&artifact(TARBALL), &server).await.unwrap());
    assert!(started.elapsed() >= Duration::from_secs(1));

    let server = serve(|_, _| Reply::new(503, "").header("Retry-After", "86400"), vec![]).await;
    let err = World::new().fetch(&artifact(TARBALL), &server).await.unwrap_err();
    assert_eq!(err.to_string(), format!("download failed: {} (503)", at(&server, KEY)));
    assert!(err.is_retryable(), "later, by somebody with more time");
    assert_eq!(server.requests(KEY).len(), 1);
}

#[tokio::test]
async fn redirects_are_followed_but_not_round_and_round() {
    let server = Server::start(|request| match request.path.as_str() {
        "/real" => Reply::good(request, TARBALL, "\"1\""),
        path if path.ends_with("loop") => Reply::new(302, "").header("Location", path),
        _ => Reply::new(302, "").header("Location", "/real"),
    })
    .await;
    assert!(World::new().fetch(&artifact(TARBALL), &server).await.unwrap());
    let round = at(&server, "loop");
    let err = World::new().cache.fetch(&artifact(TARBALL), &round, Progress::new(0)).await.unwrap_err();
    assert_eq!(err.to_string(), format!("download failed: {round} (too many redirects)"));
    assert!(server.requests("loop").len() <= 12);
}

#[tokio::test]
async fn wrong_bytes_are_removed_and_not_asked_for_again() {
    let world = World::new();
    let server = serve(|request, bytes| Reply::good(request, bytes, "\"1\""), b"openclaw-TARBALL".to_vec()).await;
    let err = world.fetch(&artifact(TARBALL), &server).await.unwrap_err();
    let (expected, got) = (sha256(TARBALL), sha256(b"openclaw-TARBALL"));
    assert_eq!(err.to_string(), format!("sha256 mismatch for {KEY}: expected {expected}, got {got}"));
    assert!(!world.has(&format!("{KEY}.partial")) && !world.has(&format!("{KEY}.partial.json")) && !world.has(KEY));
    assert_eq!(server.requests(KEY).len(), 1);
}

#[tokio::test]
async fn kept_bytes_that_have_suffered_cost_a_second_download_not_an_error() {
    let (world, bytes) = (World::new(), noise(MIB));
    let server = serve(|request, bytes| Reply::good(request, bytes, "\"1\""), bytes.clone()).await;
    world.leave_partial(&[0; 1000], &at(&server, KEY).to_string(), Some("\"1\""), sha256(&bytes));
    assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
    assert_eq!(world.read(KEY), bytes);
    assert_eq!(server.requests(KEY).iter().map(Request::from).collect::<Vec<_>>(), [Some(1000), None]);
}

#[tokio::test]
async fn what_a_download_leaves_is_private_and_has_no_credentials() {
    use std::os::unix::fs::PermissionsExt;
    let bytes = noise(MIB);
    let server = serve(|request, bytes| Reply::good(request, bytes, "\"1\"").end(End::Cut(1000)), bytes.clone()).await;
    let world = World::with(CacheOptions { retries: 0, ..options() });
    for user in ["canary", "u:canary"] {
        let from = format!("{}/{KEY}", server.url.replace("://", &format!("://{user}@")));
        let from = Location::parse(&from).unwrap();
        world.cache.fetch(&artifact(&bytes), &from, Progress::new(0)).await.unwrap_err();
        let sidecar = world.path(&format!("{KEY}.partial.json"));
        assert_eq!(std::fs::metadata(&sidecar).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&sidecar).unwrap();
        assert!(text.contains("***@127.0.0.1") && !text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn a_partial_is_only_taken_up_for_the_same_bytes() {
    let bytes = noise(MIB);
    let from = |request: &Request| request.from();
    let server = serve(|request, bytes| Reply::good(request, bytes, "\"1\""), bytes.clone()).await;
    let url = at(&server, KEY).to_string();
    // Ours: taken up.
    let world = World::new();
    world.leave_partial(&bytes[..1000], &url, Some("\"1\""), sha256(&bytes));
    assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
    assert_eq!(from(server.requests(KEY).last().unwrap()), Some(1000));
    // Complete: no request at all.
    let world = World::new();
    world.leave_partial(&bytes, &url, Some("\"1\""), sha256(&bytes));
    assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
    assert_eq!(server.requests(KEY).len(), 1);
    // Another's, one that is too long, and one that does not say whose it is.
    for spoil in 0..3 {
        let world = World::new();
        match spoil {
            0 => world.leave_partial(&bytes[..1000], &url, Some("\"1\""), sha256(TARBALL)),
            1 => world.leave_partial(&[bytes.as_slice(), b"x"].concat(), &url, Some("\"1\""), sha256(&bytes)),
            _ => {
                world.leave_partial(&bytes[..1000], &url, None, sha256(&bytes));
                world.write(&format!("{KEY}.partial.json"), "{garbage");
            }
        }
        assert!(world.fetch(&artifact(&bytes), &server).await.unwrap());
        assert_eq!(from(server.requests(KEY).last().unwrap()), None, "{spoil}");
        assert_eq!(world.read(KEY), bytes);
    }
}

#[tokio::test]
async fn one_fetch_per_artifact() {
    let (world, bytes) = (World::new(), noise(512 * 1024));
    let pace = Duration::from_millis(2);
    let server = serve(move |request, bytes| Reply::good(request, bytes, "\"1\"").pace(pace), bytes.clone()).await;
    let wanted = artifact(&bytes);
    let other = world.reopened();
    let from = at(&server, KEY);
    let (a, b, c) = tokio::join!(
        world.fetch(&wanted, &server),
        world.fetch(&wanted, &server),
        other.fetch(&wanted, &from, Progress::new(0)),
    );
    let fetched = [a.unwrap(), b.unwrap(), c.unwrap()];
    assert_eq!(fetched.iter().filter(|fetched| **fetched).count(), 1, "{fetched:?}");
    assert_eq!(server.requests(KEY).len(), 1);
}

#[tokio::test]
async fn a_failed_fetch_is_forgotten() {
    let world = World::new();
    let server = serve(
        |request, bytes| if request.nth == 0 { Reply::new(404, "") } else { Reply::good(request, bytes, "\"1\"") },
        TARBALL.to_vec(),
    )
    .await;
    world.fetch(&artifact(TARBALL), &server).await.unwrap_err();
    assert!(world.fetch(&artifact(TARBALL), &server).await.unwrap());
}

#[tokio::test]
async fn a_dropped_fetch_gives_its_lock_back_and_keeps_its_bytes() {
    let world = World::with(CacheOptions { stall_timeout: Duration::from_secs(60), ..options() });
    let bytes = noise(2 * MIB);
    let server = serve(
        |request, bytes| {
            let reply = Reply::good(request, bytes, "\"1\"");
            if request.nth == 0 { reply.end(End::Stall(MIB)) } else { reply }
        },
        bytes.clone(),
    )
    .await;
    let partial = world.path(&format!("{KEY}.partial"));
    let wanted = artifact(&bytes);
    tokio::select! {
        done = world.fetch(&wanted, &server) => panic!("it cannot end: {done:?}"),
        () = async {
            while std::fs::metadata(&partial).map_or(0, |found| found.len()) < MIB as u64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    assert!(world.fetch(&wanted, &server).await.unwrap());
    assert_eq!(server.requests(KEY)[1].from(), Some(MIB));
}

#[tokio::test]
async fn different_roots_never_wait_for_each_other() {
    let stuck = World::with(CacheOptions { stall_timeout: Duration::from_secs(60), ..options() });
    let free = World::new();
    let server = serve(
        |request, bytes| {
            let reply = Reply::good(request, bytes, "\"1\"");
            if request.nth == 0 { reply.end(End::Stall(3)) } else { reply }
        },
        TARBALL.to_vec(),
    )
    .await;
    let wanted = artifact(TARBALL);
    tokio::select! {
        done = stuck.fetch(&wanted, &server) => panic!("it cannot end: {done:?}"),
        fetched = async {
            while server.requests(KEY).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            free.fetch(&wanted, &server).await
        } => assert!(fetched.unwrap()),
    }
}

#[tokio::test]
async fn only_so_many_artifacts_are_downloaded_at_a_time() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let world = World::with(CacheOptions { parallel: 2, ..options() });
    let open = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&open);
    let server = Server::start(move |request| {
        seen.fetch_add(1, Ordering::SeqCst);
        Reply::good(request, TARBALL, "\"1\"").end(End::Stall(3))
    })
    .await;
    let fetches = (0..6).map(|n| {
        let wanted = Artifact { key: key(&format!("vm/images/a-{n}-x64.tar.gz")), ..artifact(TARBALL) };
        let from = at(&server, wanted.key.as_str());
        let cache = world.cache.clone();
        async move { cache.fetch(&wanted, &from, Progress::new(0)).await }
    });
    let _ = tokio::time::timeout(Duration::from_millis(300), futures_util::future::join_all(fetches)).await;
    assert_eq!(open.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn nobody_there_is_said_in_words() {
    let world = World::with(CacheOptions { retries: 1, ..options() });
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = Location::parse(&format!("http://u:canary@127.0.0.1:{port}/{KEY}?sig=canary")).unwrap();
    let err = world.cache.fetch(&artifact(TARBALL), &nowhere, Progress::new(0)).await.unwrap_err();
    let told = err.to_string();
    assert_eq!(told, format!("download failed: http://u:***@127.0.0.1:{port}/{KEY}?*** (connection refused)"));
    assert!(err.is_retryable());
}

#[tokio::test]
async fn a_file_is_as_good_as_a_server() {
    let (world, source) = (World::new(), tempfile::tempdir().unwrap());
    let bytes = noise(MIB);
    publish(source.path(), &bytes);
    let from = Location::File(source.path().join(KEY));
    world.leave_partial(&bytes[..1000], &from.to_string(), None, sha256(&bytes));
    assert!(world.cache.fetch(&artifact(&bytes), &from, Progress::new(0)).await.unwrap());
    assert_eq!(world.read(KEY), bytes);

    let world = World::new();
    let missing = Location::File(source.path().join("none"));
    let err = world.cache.fetch(&artifact(&bytes), &missing, Progress::new(0)).await.unwrap_err();
    assert_eq!(err.to_string(), format!("download failed: {missing} (no such file or directory)"));
    assert!(!err.is_retryable());
}

#[tokio::test]
async fn an_artifact_larger_than_the_disk_is_not_begun() {
    let world = World::new();
    let server = serve(|request, bytes| Reply::good(request, bytes, "\"1\""), TARBALL.to_vec()).await;
    let huge = Artifact { size_bytes: 1 << 60, ..artifact(TARBALL) };
    let err = world.fetch(&huge, &server).await.unwrap_err();
    assert!(matches!(err, StoreError::NoSpace { need, .. } if need == 1 << 60), "{err}");
    assert_eq!(server.requests(KEY).len(), 0);
    assert!(!world.has(&format!("{KEY}.partial")));
}
