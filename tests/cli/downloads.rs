//! Servers that misbehave: what `cache sync` says, with which code, and how long it bears it.

use std::time::Duration;

use rustix::process::Signal;

use crate::published::{KEY, TARBALL, agent, good, manifest, sandbox, served};
use crate::server::{End, Reply, Request, Server};
use crate::sockets::{Manner, on, state};
use crate::support::command::{Outcome, Sandbox};

fn sync(sandbox: &Sandbox, server: &Server, more: &str) -> Outcome {
    let mut outcome = sandbox.run(format!("cache sync --manifest-url {}/vm/manifest.json {more}", server.url));
    outcome.stderr = outcome.stderr.replace(&server.url, "<server>");
    outcome
}

/// The error lines alone: what is logged before them, retry by retry, has times in it.
fn error(outcome: &Outcome) -> String {
    let lines = outcome.stderr.lines().skip_while(|line| !line.starts_with("error:"));
    lines.collect::<Vec<_>>().join("\n")
}

async fn tarball_server(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    served(&good(), reply).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_retry_can_help_is_not_retried() {
    let server = Server::start(|_| Reply::new(404, "")).await;
    let outcome = sync(&sandbox(), &server, "").expect(1);
    assert_eq!(server.requests("").len(), 1);
    insta::assert_snapshot!("manifest_404", outcome.shown());

    let server = tarball_server(|_| Reply::new(404, "")).await;
    let outcome = sync(&sandbox(), &server, "").expect(1);
    assert_eq!(server.requests(KEY).len(), 1);
    insta::assert_snapshot!("tarball_404", outcome.shown());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_loop_ends() {
    let server = Server::start(|request| Reply::new(302, "").header("Location", request.path.clone())).await;
    let outcome = sync(&sandbox(), &server, "").expect(1);
    assert!(outcome.stderr.contains("manifest fetch failed: <server>/vm/manifest.json ("), "{}", outcome.stderr);
    assert!(server.requests("").len() < 50);
    insta::assert_snapshot!("manifest_redirect_loop", error(&outcome));

    let server = tarball_server(|request| Reply::new(302, "").header("Location", request.path.clone())).await;
    let outcome = sync(&sandbox(), &server, "").expect(1);
    insta::assert_snapshot!("tarball_redirect_loop", error(&outcome));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_503_then_a_good_answer_is_a_success() {
    let server = Server::start(|request| {
        if request.nth == 0 {
            return Reply::new(503, "").header("Retry-After", "0");
        }
        match request.path.as_str() {
            "/vm/manifest.json" => Reply::good(request, good().to_string().as_bytes(), "\"m\""),
            _ => Reply::good(request, TARBALL, "\"t\""),
        }
    })
    .await;
    let sandbox = sandbox();
    sync(&sandbox, &server, "").expect(0);
    assert_eq!((server.requests("manifest.json").len(), server.requests(KEY).len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_503_for_ever_ends_after_the_retries() {
    let server = tarball_server(|_| Reply::new(503, "").header("Retry-After", "0")).await;
    let outcome = sync(&sandbox(), &server, "--retries 2").expect(1);
    assert_eq!(server.requests(KEY).len(), 3);
    insta::assert_snapshot!("tarball_503", error(&outcome));
    let server = tarball_server(|_| Reply::new(503, "")).await;
    let outcome = sync(&sandbox(), &server, "--retries 0").expect(1);
    assert_eq!(server.requests(KEY).len(), 1);
    assert!(outcome.took < Duration::from_secs(5), "{:?}", outcome.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_is_resumed_and_reported_when_it_goes_on_so() {
    let server = tarball_server(|request| {
        let reply = Reply::good(request, TARBALL, "\"t\"");
        if request.nth == 0 { reply.end(End::Cut(5)) } else { reply }
    })
    .await;
    let sandbox = sandbox();
    sync(&sandbox, &server, "").expect(0);
    let asked = server.requests(KEY);
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].from(), Some(5), "the rest only: {asked:?}");

    let server = tarball_server(|request| Reply::good(request, TARBALL, "\"t\"").end(End::Cut(0))).await;
    let outcome = sync(&crate::published::sandbox(), &server, "--retries 1").expect(1);
    insta::assert_snapshot!("tarball_ends_early", error(&outcome));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_cut_at_its_promised_size() {
    let server = tarball_server(|_| Reply::new(200, vec![b'x'; 1 << 20]).end(End::Endless)).await;
    let sandbox = sandbox();
    let outcome = sync(&sandbox, &server, "").expect(6);
    insta::assert_snapshot!("tarball_never_ends", error(&outcome));
    assert!(server.sent() < 64 << 20, "{}", server.sent());
    let left = std::fs::read_dir(sandbox.root().join("cache/vm/images")).unwrap();
    let bytes: u64 = left.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes were left");

    let server = Server::start(|_| Reply::new(200, vec![b' '; 1 << 20]).end(End::Endless)).await;
    sync(&crate::published::sandbox(), &server, "").expect(65).says("manifest is larger than 4 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_given_up_by_progress() {
    let server = tarball_server(|request| Reply::good(request, TARBALL, "\"t\"").end(End::Stall(4))).await;
    let outcome = sync(&sandbox(), &server, "--retries 0 --stall-timeout 300ms").expect(1);
    insta::assert_snapshot!("tarball_stalls", error(&outcome));
    assert!(outcome.took < Duration::from_secs(10), "{:?}", outcome.took);

    let server = Server::start(|_| Reply::new(200, good().to_string()).end(End::Stall(4))).await;
    let outcome = sync(&sandbox(), &server, "--retries 0 --stall-timeout 300ms").expect(1);
    insta::assert_snapshot!("manifest_stalls", error(&outcome));

    // Slow is not stalled: it moves all the time, and takes longer than the stall timeout as a whole.
    let body = vec![b'y'; 40 * 16 * 1024];
    let published = manifest(serde_json::json!({"openclaw": agent("openclaw", "2026.4.12", &body)}));
    let pace = Duration::from_millis(50);
    let server = served(&published, move |request| Reply::good(request, &body, "\"t\"").pace(pace)).await;
    let outcome = sync(&sandbox(), &server, "--retries 0 --stall-timeout 1500ms").expect(0);
    assert!(outcome.took > Duration::from_millis(1500), "{:?}", outcome.took);
}

#[test]
fn nobody_listens() {
    let sandbox = sandbox();
    let outcome = sandbox.run("cache sync --manifest-url http://127.0.0.1:9/vm/manifest.json --retries 0").expect(1);
    insta::assert_snapshot!("nobody_listens", error(&outcome));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_the_url_is_not_shown() {
    let server = tarball_server(|_| Reply::new(404, "")).await;
    let url = server.url.replace("http://", "http://user:canary@");
    let sandbox = sandbox();
    for args in ["", "-vv", "-o json", "--log-format json -vv"] {
        let outcome = sandbox.run(format!("cache sync --manifest-url {url}/vm/manifest.json?token=canary {args}"));
        outcome.expect(1).keeps_quiet_about(&["canary"]);
    }
    assert_eq!(sandbox.files_with(&["canary"]), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_keeps_what_came_and_goes_on() {
    let body: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let published = manifest(serde_json::json!({"openclaw": agent("openclaw", "2026.4.12", &body)}));
    let whole = body.clone();
    let server = served(&published, move |request| {
        let reply = Reply::good(request, &whole, "\"t\"");
        if request.nth == 0 { reply.end(End::Stall(2_000_000)) } else { reply }
    })
    .await;
    for (signal, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let sandbox = sandbox();
        let server = if code == 130 { &server } else { &again(&published, &body).await };
        let mut running = sandbox.spawn(format!("cache sync --manifest-url {}/vm/manifest.json", server.url));
        let partial = sandbox.root().join("cache").join(format!("{KEY}.partial"));
        running.until("the first half", |_| std::fs::metadata(&partial).is_ok_and(|file| file.len() >= 1_500_000));
        running.signal(signal);
        let outcome = running.end().expect(code);
        assert!(outcome.stderr.contains("resumed next time"), "{}", outcome.stderr);
        let before = server.sent();
        sync(&sandbox, server, "").expect(0);
        let sent = server.sent() - before;
        assert!(sent < 3_100_000, "{sent} bytes were sent again");
        assert_eq!(std::fs::read(sandbox.root().join("cache").join(KEY)).unwrap(), body);
    }
}

async fn again(published: &serde_json::Value, body: &[u8]) -> Server {
    let whole = body.to_vec();
    served(published, move |request| {
        let reply = Reply::good(request, &whole, "\"t\"");
        if request.nth == 0 { reply.end(End::Stall(2_000_000)) } else { reply }
    })
    .await
}

/// A sandbox whose state file wants an agent of this server's manifest, and a Podman with nothing in it.
fn wanting(server: &Server) -> (Sandbox, impl Sized) {
    let (mut sandbox, fake) = on(Manner::Podman);
    sandbox.set("STEADFAST_HOST_ARCH", "x86_64");
    let manifest = format!("manifest: {{url: \"{}/vm/manifest.json\"}}\nagents:", server.url);
    let agents = state(&fake.path()).replace("agents:", &manifest);
    sandbox.write(
        "steadfast.yaml",
        agents.replace("hello: {version: \"1\", image: a/b, source: local}", "openclaw: {version: latest}"),
    );
    (sandbox, fake)
}

/// Longer than any one answer may take, with all that it is asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn an_apply_waits_no_longer_for_a_manifest_than_it_may() {
    let server = Server::start(|_| Reply::new(200, "{").length(Some(100)).end(End::Stall(1))).await;
    let (sandbox, _fake) = wanting(&server);
    let outcome = sandbox.run("apply --timeout 1s");
    assert!(matches!(outcome.code, 1 | 3), "{}", outcome.shown());
    assert!(outcome.took < Duration::from_secs(20), "{:?}", outcome.took);
    outcome.says("timed out before the manifest's server had answered");

    let mut running = sandbox.spawn("apply");
    running.until("it is asked", |_| server.requests("").len() > 1);
    running.signal(Signal::INT);
    let outcome = running.end().expect(130);
    assert!(outcome.took < Duration::from_secs(20), "{:?}", outcome.took);
}
