//! An HTTP server that says what is not so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::errors::judge;
use crate::server::{End, Reply, Request};
use crate::stage::{Kind, Lie, Stage};
use crate::sweep::{points, sweep};

/// What is said instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The length is this much more, or less.
    Longer,
    Shorter,
    /// The end of the connection is the end.
    NoLength,
    Chunked,
    /// Cut off, by an end, by a reset, or for ever.
    Cut,
    Reset,
    Stall,
    /// Slowly, and then not at all.
    Drip,
    Endless,
    /// Other bytes of the same length.
    Garbled,
    Empty,
    /// One byte more.
    More,
    /// The tag of something else, in odd ways.
    Etag(&'static str),
    Status(u16),
    /// It has not changed, though nobody asked.
    NotModified,
    /// A part of it, though nobody asked, of the wrong place, or in wrong words.
    Part(&'static str),
    /// To itself, and to where nobody is.
    Loop,
    Elsewhere(&'static str),
    /// Said to be compressed.
    Gzip,
    /// A page of a proxy.
    Page,
    /// A head of a MiB.
    Headers,
    /// Two lengths.
    TwoLengths,
}

const MANNERS: [Manner; 47] = [
    Manner::Longer,
    Manner::Shorter,
    Manner::NoLength,
    Manner::Chunked,
    Manner::Cut,
    Manner::Reset,
    Manner::Stall,
    Manner::Drip,
    Manner::Endless,
    Manner::Garbled,
    Manner::Empty,
    Manner::More,
    Manner::Etag("\"wrong\""),
    Manner::Etag("W/\"weak\""),
    Manner::Etag("unquoted"),
    Manner::Etag(""),
    Manner::Etag("\"a\u{7f}\""),
    Manner::Status(100),
    Manner::Status(201),
    Manner::Status(204),
    Manner::Status(206),
    Manner::Status(300),
    Manner::Status(304),
    Manner::Status(400),
    Manner::Status(401),
    Manner::Status(403),
    Manner::Status(404),
    Manner::Status(408),
    Manner::Status(416),
    Manner::Status(429),
    Manner::Status(500),
    Manner::Status(503),
    Manner::Status(599),
    Manner::NotModified,
    Manner::Part("bytes 0-9/10"),
    Manner::Part("bytes 100-200/50"),
    Manner::Part("bytes 5-1/*"),
    Manner::Part("nonsense"),
    Manner::Part("bytes 18446744073709551615-18446744073709551615/18446744073709551615"),
    Manner::Loop,
    Manner::Elsewhere("http://127.0.0.1:1/"),
    Manner::Elsewhere("file:///etc/passwd"),
    Manner::Elsewhere("::not a url::"),
    Manner::Gzip,
    Manner::Page,
    Manner::Headers,
    Manner::TwoLengths,
];

fn said(manner: Manner, request: &Request, reply: Reply, at: usize) -> Reply {
    let size = reply.body.len();
    let at = at % size.max(1);
    let length = reply.length.unwrap_or_default();
    match manner {
        Manner::Longer => reply.length(Some(length + 1 + at as u64)),
        Manner::Shorter => reply.length(Some(length / 2)),
        Manner::NoLength => reply.length(None),
        Manner::Chunked => reply.chunked(),
        Manner::Cut => reply.end(End::Cut(at)),
        Manner::Reset => reply.end(End::Reset(at)),
        Manner::Stall => reply.end(End::Stall(at)),
        Manner::Drip => reply.pace(Duration::from_millis(30)).end(End::Stall(at)),
        Manner::Endless => reply.end(End::Endless),
        Manner::Garbled => {
            let mut body = reply.body.to_vec();
            body.iter_mut().skip(at).step_by(997).for_each(|byte| *byte ^= 0x20);
            Reply { body: Arc::new(body), ..reply }
        }
        Manner::Empty => Reply::new(200, ""),
        Manner::More => {
            let body = [reply.body.as_slice(), b"x"].concat();
            Reply { headers: reply.headers.clone(), ..Reply::new(reply.status, body) }
        }
        Manner::Etag(tag) => Reply { headers: vec![("ETag".to_owned(), tag.to_owned())], ..reply },
        Manner::Status(status @ (100 | 204 | 304)) => Reply { status, ..Reply::new(status, "").length(None) },
        Manner::Status(status) => Reply { status, ..reply },
        Manner::NotModified => Reply::new(304, "").length(None).header("ETag", "\"never sent\""),
        Manner::Part(range) => Reply { status: 206, ..reply }.header("Content-Range", range),
        Manner::Loop => Reply::new(302, "").header("Location", request.path.clone()),
        Manner::Elsewhere(place) => Reply::new(307, "").header("Location", place),
        Manner::Gzip => reply.header("Content-Encoding", "gzip"),
        Manner::Page => Reply::new(200, "<html><body>Log in, please</body></html>").header("Content-Type", "text/html"),
        Manner::Headers => (0..1000).fold(reply, |reply, at| reply.header(&format!("X-More-{at}"), "x".repeat(1000))),
        Manner::TwoLengths => reply.header("Content-Length", "3"),
    }
}

#[test]
fn whatever_a_server_says_only_what_was_promised_counts() {
    let kinds = [(Kind::Fetch, 4), (Kind::Install, 2), (Kind::Upgrade, 1)];
    sweep("the HTTP server", &kinds, points(30), |stage, share, rng, tally| {
        let mut faults: Vec<_> = ["manifest.json", ".tar.gz"]
            .into_iter()
            // Once, and every time.
            .flat_map(|file| [1, usize::MAX].map(|times| (file, times)))
            .flat_map(|(file, times)| MANNERS.map(|manner| (file, times, manner)))
            .collect();
        // With the usual patience, which is for people on slow lines.
        let is_patient = stage.kind != Kind::Fetch;
        faults.retain(|(_, times, manner)| {
            !is_patient
                || *times == 1 && !matches!(manner, Manner::Stall | Manner::Drip | Manner::Shorter | Manner::Longer)
        });
        // Who asks whether it has changed has to believe that it has not.
        let asks = |file: &str, manner: Manner| {
            stage.kind == Kind::Upgrade
                && file == "manifest.json"
                && matches!(manner, Manner::NotModified | Manner::Status(304))
        };
        faults.retain(|(file, _, manner)| !asks(file, *manner));
        rng.shuffle(&mut faults);
        for (file, times, manner) in faults.into_iter().cycle().take(3 * share) {
            if tally.done >= share {
                break;
            }
            let at = rng.usize(..1 << 20);
            stage.prepare();
            let happened = lie(stage, file, times, move |request, reply| said(manner, request, reply, at));
            let ended = stage.work();
            *stage.lie.lock().unwrap() = None;
            match happened.load(Ordering::SeqCst) {
                0 => tally.missed += 1,
                _ => tally.count(format!("{manner:?}")),
            }
            let what = format!("{manner:?} at {at} of {file}, {times} times at most");
            judge(stage, &ended, true, &what, tally);
        }
    });
}

/// Lies about files that end so, so often. Yields how often that has happened.
fn lie(
    stage: &Stage,
    file: &'static str,
    times: usize,
    said: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let happened = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&happened);
    let lie: Lie = Box::new(move |request, reply| {
        if request.path.ends_with(file) && counted.fetch_add(1, Ordering::SeqCst) < times {
            said(request, reply)
        } else {
            reply
        }
    });
    *stage.lie.lock().unwrap() = Some(lie);
    happened
}
