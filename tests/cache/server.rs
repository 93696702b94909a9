//! A small HTTP/1.1 server on loopback that does exactly what a test tells it to, and counts what it sends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// How many requests for this path came before.
    pub nth: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The start of `Range: bytes=N-` and of `Range: bytes=N-M`.
    pub fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split_once('-')?.0.parse().ok()
    }

    /// M + 1 of `Range: bytes=N-M`.
    pub fn upto(&self) -> Option<usize> {
        let last: usize = self.header("range")?.split_once('-')?.1.parse().ok()?;
        Some(last + 1)
    }
}

#[derive(Debug, Clone)]
pub enum End {
    /// The body is complete.
    Complete,
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// As `Cut`, by a reset.
    Reset(usize),
    /// Nothing comes after so many bytes.
    Stall(usize),
    /// The body is repeated for ever, without a length.
    Endless,
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Arc<Vec<u8>>,
    /// `Content-Length`; `None` for a body that ends with the connection.
    pub length: Option<u64>,
    pub end: End,
    /// In chunks, so that its end is marked.
    pub chunked: bool,
    /// A rest after every 16 KiB.
    pub pace: Duration,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = Arc::new(body.into());
        let length = Some(body.len() as u64);
        Self { status, headers: vec![], body, length, end: End::Complete, chunked: false, pace: Duration::ZERO }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn end(self, end: End) -> Self {
        Self { end, ..self }
    }

    pub fn length(self, length: Option<u64>) -> Self {
        Self { length, ..self }
    }

    pub fn chunked(self) -> Self {
        Self { chunked: true, length: None, ..self }
    }

    pub fn pace(self, pace: Duration) -> Self {
        Self { pace, ..self }
    }

    /// What a good server says: `Range`, `If-Range`, `If-None-Match` with an ETag.
    pub fn good(request: &Request, body: &[u8], etag: &str) -> Self {
        if request.header("if-none-match") == Some(etag) {
            return Self::new(304, "").length(None).header("ETag", etag);
        }
        let current = request.header("if-range").is_none_or(|wanted| wanted == etag);
        match request.from().filter(|_| current) {
            Some(from) if from >= body.len() => {
                Self::new(416, "").header("Content-Range", format!("bytes */{}", body.len()))
            }
            Some(from) => {
                let end = request.upto().unwrap_or(body.len()).min(body.len());
                Self::new(206, &body[from..end])
                    .header("Content-Range", format!("bytes {from}-{}/{}", end - 1, body.len()))
            }
            None => Self::new(200, body),
        }
        .header("ETag", etag)
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// Serves until dropped.
pub struct Server {
    pub url: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    handler: Box<Handler>,
    requests: Mutex<Vec<Request>>,
    sent: AtomicU64,
}

impl Server {
    pub async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state =
            Arc::new(State { handler: Box::new(handler), requests: Mutex::default(), sent: AtomicU64::default() });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                // A client that hangs up is its own business.
                tokio::spawn(async move { shared.serve(stream).await.ok() });
            }
        });
        Self { url, state, task }
    }

    /// Requests whose path ends so.
    pub fn requests(&self, end: &str) -> Vec<Request> {
        self.state.requests.lock().unwrap().iter().filter(|request| request.path.ends_with(end)).cloned().collect()
    }

    /// Bytes of bodies sent so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    async fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 || line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let request = {
            let mut requests = self.requests.lock().unwrap();
            let nth = requests.iter().filter(|earlier| earlier.path == path).count();
            let request = Request { path, headers, nth };
            requests.push(request.clone());
            request
        };
        let reply = (self.handler)(&request);
        let mut stream = stream.into_inner();
        let mut head = format!("HTTP/1.1 {} Said\r\nConnection: close\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let (Some(length), false) = (reply.length, matches!(reply.end, End::Endless)) {
            head += &format!("Content-Length: {length}\r\n");
        }
        if reply.chunked {
            head += "Transfer-Encoding: chunked\r\n";
        }
        stream.write_all((head + "\r\n").as_bytes()).await?;
        let upto = match reply.end {
            End::Complete | End::Endless => reply.body.len(),
            End::Cut(at) | End::Reset(at) | End::Stall(at) => at.min(reply.body.len()),
        };
        loop {
            for piece in reply.body[..upto].chunks(16 * 1024) {
                if reply.chunked {
                    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                }
                stream.write_all(piece).await?;
                if reply.chunked {
                    stream.write_all(b"\r\n").await?;
                }
                self.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                if !reply.pace.is_zero() {
                    tokio::time::sleep(reply.pace).await;
                }
            }
            match reply.end {
                End::Endless => {}
                End::Stall(_) => std::future::pending().await,
                End::Reset(_) => {
                    // Long enough for the client to have read what came before.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    stream.set_zero_linger()?;
                    return Ok(());
                }
                _ if reply.chunked => {
                    stream.write_all(b"0\r\n\r\n").await?;
                    return stream.shutdown().await;
                }
                _ => return stream.shutdown().await,
            }
        }
    }
}
