//! A proxy before Podman's socket that does one thing wrong: at one request, before Podman has seen it or after it has done it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::errors::judge;
use crate::stage::{Kind, Stage};
use crate::support;
use crate::sweep::{points, sweep};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// The connection ends without an answer.
    Cut,
    /// The answer comes later.
    Late,
    /// Half of the answer comes.
    Half,
    /// Nothing but the first byte comes.
    Byte,
    /// Bytes of the body are others.
    Garbled,
    /// Each byte comes by itself.
    Split,
    /// Another status, with an error of Podman's kind.
    Status(u16),
    /// A status without any body.
    Bare(u16),
    /// 200 and the beginning of some JSON.
    Unfinished,
    /// 200 and JSON of another kind.
    Other(&'static str),
    /// Much more than was asked for.
    Flood,
    /// No HTTP at all.
    Noise,
    /// The head says more bytes than come.
    Short,
    /// A head without end.
    Headers,
}

const MANNERS: [Manner; 27] = [
    Manner::Cut,
    Manner::Late,
    Manner::Half,
    Manner::Byte,
    Manner::Garbled,
    Manner::Split,
    Manner::Status(500),
    Manner::Status(404),
    Manner::Status(409),
    Manner::Status(400),
    Manner::Status(503),
    Manner::Status(304),
    Manner::Status(204),
    Manner::Status(301),
    Manner::Status(999),
    Manner::Bare(200),
    Manner::Bare(201),
    Manner::Bare(500),
    Manner::Unfinished,
    Manner::Other("[]"),
    Manner::Other("{}"),
    Manner::Other("null"),
    Manner::Other("[[[[[[[[{\"Id\":1}]]]]]]]]"),
    Manner::Flood,
    Manner::Noise,
    Manner::Short,
    Manner::Headers,
];

#[derive(Debug, Clone, Copy)]
struct Fault {
    /// At which request.
    nth: usize,
    /// Podman never sees the request.
    before: bool,
    manner: Manner,
}

#[derive(Default)]
struct Shared {
    seen: usize,
    fault: Option<Fault>,
    /// The first line of the request it happened to.
    happened: Option<String>,
}

/// Ends with the test's process.
struct Proxy(Arc<Mutex<Shared>>);

impl Proxy {
    fn start(stage: &mut Stage) -> Self {
        let socket = stage.world.sandbox.path("proxy.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        stage.world.sandbox.set("CONTAINER_HOST", format!("unix://{}", socket.display()));
        let shared = Arc::<Mutex<Shared>>::default();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // Who hangs up is served no more.
                std::thread::spawn(move || drop(serve(client, &shared)));
            }
        });
        Self(shared)
    }

    /// From now on requests are counted anew, and this goes wrong.
    fn set(&self, fault: Option<Fault>) {
        *self.0.lock().unwrap() = Shared { fault, ..Shared::default() };
    }

    fn seen(&self) -> usize {
        self.0.lock().unwrap().seen
    }

    fn happened(&self) -> Option<String> {
        self.0.lock().unwrap().happened.clone()
    }
}

/// Serves one request, and closes the connection.
fn serve(mut client: UnixStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut read = Vec::new();
    let mut piece = [0; 16 * 1024];
    let head = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match client.read(&mut piece)? {
            0 => return Ok(()),
            count => read.extend_from_slice(&piece[..count]),
        }
    };
    let text = String::from_utf8_lossy(&read[..head]).into_owned();
    let line = text.lines().next().unwrap_or_default().to_owned();
    // What goes on and on is passed on as it comes.
    let goes_on =
        text.to_ascii_lowercase().contains("upgrade:") || line.contains("/events") || line.contains("follow=true");
    let fault = {
        let mut shared = shared.lock().unwrap();
        let nth = shared.seen;
        shared.seen += usize::from(!goes_on);
        let fault = shared.fault.filter(|fault| !goes_on && fault.nth == nth);
        if fault.is_some() {
            shared.happened = Some(line.clone());
        }
        fault
    };
    let answer = if fault.is_some_and(|fault| fault.before) {
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".to_vec()
    } else {
        let mut podman = UnixStream::connect(support::podman_socket())?;
        let close = if goes_on && !line.contains("/events") { "" } else { "\r\nConnection: close" };
        podman.write_all(format!("{text}{close}").as_bytes())?;
        podman.write_all(&read[head..])?;
        let (from, to) = (client.try_clone()?, podman.try_clone()?);
        std::thread::spawn(move || support::pass_on(from, to, Duration::ZERO));
        if fault.is_none() {
            support::pass_on(podman, client, Duration::ZERO);
            return Ok(());
        }
        let mut answer = Vec::new();
        podman.read_to_end(&mut answer)?;
        answer
    };
    if let Some(fault) = fault {
        let sent = spoil(&mut client, fault.manner, &answer);
        let _ = client.shutdown(Shutdown::Both);
        sent?;
    }
    Ok(())
}

fn spoil(client: &mut UnixStream, manner: Manner, answer: &[u8]) -> std::io::Result<()> {
    let json = |status: u16, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |end| end + 4);
    match manner {
        Manner::Cut => Ok(()),
        Manner::Late => {
            std::thread::sleep(Duration::from_millis(1500));
            client.write_all(answer)
        }
        Manner::Half => client.write_all(&answer[..answer.len() / 2]),
        Manner::Byte => client.write_all(&answer[..1]),
        Manner::Garbled => {
            let mut answer = answer.to_vec();
            let step = (answer.len() - body) / 5 + 1;
            for at in (body..answer.len()).step_by(step) {
                answer[at] ^= 0x15;
            }
            client.write_all(&answer)
        }
        Manner::Split => {
            // An answer of many bytes only so far: it is the beginning that is parsed piece by piece.
            let (pieces, rest) = answer.split_at(answer.len().min(2000));
            pieces.iter().try_for_each(|byte| client.write_all(&[*byte]))?;
            client.write_all(rest)
        }
        Manner::Status(status) => {
            let body = format!(r#"{{"cause":"said so","message":"said so by a proxy","response":{status}}}"#);
            client.write_all(json(status, if matches!(status, 204 | 304) { "" } else { &body }).as_bytes())
        }
        Manner::Bare(status) => client.write_all(json(status, "").as_bytes()),
        Manner::Unfinished => client.write_all(json(200, r#"{"Id":"0123456789abcdef","Names":["#).as_bytes()),
        Manner::Other(body) => client.write_all(json(200, body).as_bytes()),
        Manner::Flood => {
            client.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n[")?;
            let piece = vec![b' '; 1 << 20];
            // More than it may have in memory, and not for ever.
            (0..256).try_for_each(|_| client.write_all(&piece))
        }
        Manner::Noise => {
            client.write_all(&(0..4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>())
        }
        Manner::Short => {
            let head = String::from_utf8_lossy(&answer[..body]).to_ascii_lowercase();
            let first = head.lines().next().unwrap_or("HTTP/1.1 200 OK").to_ascii_uppercase();
            client.write_all(
                format!("{first}\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n").as_bytes(),
            )?;
            client.write_all(&answer[body..])
        }
        Manner::Headers => {
            client.write_all(b"HTTP/1.1 200 OK\r\n")?;
            let line = format!("X-More: {}\r\n", "x".repeat(1000));
            (0..100_000).try_for_each(|_| client.write_all(line.as_bytes()))
        }
    }
}

#[test]
fn whatever_podmans_socket_does_it_is_done_right_or_reported() {
    let kinds = [
        (Kind::Install, 3),
        (Kind::Replace, 6),
        (Kind::Checked, 3),
        (Kind::Upgrade, 3),
        (Kind::Prune, 1),
        (Kind::Down, 3),
        (Kind::Keep, 3),
        (Kind::Undo, 1),
        (Kind::Plan, 1),
        (Kind::Status, 1),
        (Kind::Why, 1),
        (Kind::Doctor, 1),
        (Kind::Logs, 1),
    ];
    sweep("Podman's socket", &kinds, points(30), |stage, share, rng, tally| {
        let proxy = Proxy::start(stage);
        stage.prepare();
        let ended = stage.work();
        assert_eq!(ended.code, stage.kind.usual_code(), "through the proxy: {}", ended.stderr);
        let requests = proxy.seen();
        stage.finish().unwrap_or_else(|wrong| panic!("through the proxy: {wrong}"));
        let mut faults: Vec<_> = (0..requests)
            .flat_map(|nth| [true, false].map(|before| (nth, before)))
            .flat_map(|(nth, before)| MANNERS.map(|manner| Fault { nth, before, manner }))
            // What is late or in pieces is only told of what there is.
            .filter(|fault| {
                !fault.before || !matches!(fault.manner, Manner::Late | Manner::Split | Manner::Garbled | Manner::Half)
            })
            .collect();
        rng.shuffle(&mut faults);
        for fault in faults.into_iter().cycle().take(3 * share) {
            if tally.done >= share {
                break;
            }
            stage.prepare();
            proxy.set(Some(fault));
            let ended = stage.work();
            let happened = proxy.happened();
            proxy.set(None);
            match &happened {
                Some(_) => tally.count(format!("{:?}", fault.manner)),
                None => tally.missed += 1,
            }
            judge(stage, &ended, true, &format!("{fault:?}: {}", happened.unwrap_or_default()), tally);
        }
    });
}
