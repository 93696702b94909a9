//! A proxy before the store that does to each request what a test says.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request's first lines.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn is_part(&self) -> bool {
        self.method == "PUT" && self.target.contains("partNumber=")
    }

    /// Whether it puts an object whose key ends so.
    pub fn puts(&self, ending: &str) -> bool {
        self.method == "PUT" && self.target.ends_with(ending)
    }
}

/// What becomes of it.
#[derive(Debug, Clone)]
pub enum Fate {
    Pass,
    /// The store never hears of it.
    Answer(u16, String),
    /// The connection breaks while it is sent.
    Cut,
    /// The store does it, and the answer is lost.
    Deaf,
    /// The store does it, and another answer comes.
    Instead(u16),
    Delay(Duration),
}

type Judge = dyn Fn(&Request) -> Fate + Send + Sync;

pub struct Proxy {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
}

impl Proxy {
    pub fn before(upstream: &str, judge: impl Fn(&Request) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let (seen, stopped): (Arc<Mutex<Vec<Request>>>, _) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (judge, own_seen, own_stopped): (Arc<Judge>, _, _) =
            (Arc::new(judge), Arc::clone(&seen), Arc::clone(&stopped));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if own_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (upstream, judge, seen) = (upstream.clone(), Arc::clone(&judge), Arc::clone(&own_seen));
                // Whoever breaks off is none of the test's business.
                std::thread::spawn(move || serve(client, &upstream, &*judge, &seen));
            }
        });
        Self { url, seen, stopped }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub fn parts(&self) -> usize {
        self.seen().iter().filter(|request| request.is_part()).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.url.strip_prefix("http://").unwrap());
    }
}

/// One request of a connection, which ends with its answer.
fn serve(client: TcpStream, upstream: &str, judge: &Judge, seen: &Mutex<Vec<Request>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let mut words = lines[0].split(' ').map(str::to_owned);
    let headers = lines[1..].iter().filter_map(|line| line.split_once(':'));
    let request = Request {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
    };
    seen.lock().unwrap().push(request.clone());
    let length: u64 = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let fate = judge(&request);
    let answer = |status: u16, body: &str| {
        let mut client = &client;
        write!(
            client,
            "HTTP/1.1 {status} X\r\nETag: \"x\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        client.shutdown(Shutdown::Both)
    };
    match fate {
        Fate::Answer(status, body) => {
            io::copy(&mut reader.take(length), &mut io::sink())?;
            return answer(status, &body);
        }
        Fate::Cut => {
            io::copy(&mut reader.take(length / 2), &mut io::sink())?;
            return client.shutdown(Shutdown::Both);
        }
        Fate::Delay(pause) => std::thread::sleep(pause),
        Fate::Pass | Fate::Deaf | Fate::Instead(_) => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    let mut head = format!("{}\r\n", lines[0]);
    for (name, value) in request.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection")) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    write!(server, "{head}Connection: close\r\n\r\n")?;
    io::copy(&mut reader.take(length), &mut server)?;
    match fate {
        Fate::Deaf => {
            io::copy(&mut server, &mut io::sink())?;
            client.shutdown(Shutdown::Both)
        }
        Fate::Instead(status) => {
            io::copy(&mut server, &mut io::sink())?;
            answer(status, "")
        }
        _ => {
            io::copy(&mut server, &mut &client)?;
            client.shutdown(Shutdown::Both)
        }
    }
}
