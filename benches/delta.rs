//! What a new version costs of which one layer in five is another: bytes over the wire beside that layer, and the time beside a
//! download of all of it, from a server that sends 100 Mbit/s.
//!
//! `cargo bench --bench delta [-- MEBIBYTES [ROUNDS]]`

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use steadfast::backend::cache::{Cache, CacheOptions};
use steadfast::backend::{Progress, Store};
use steadfast::model::{Artifact, ArtifactKey, Layers, Location, Sha256Digest};
use steadfast::publish::members::Members;

/// Bytes a second: 100 Mbit/s.
const RATE: f64 = 100e6 / 8.0;
const LAYERS: usize = 5;

struct Tarball {
    artifact: Artifact,
    bytes: Vec<u8>,
    list: Vec<u8>,
}

fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

fn key(text: &str) -> ArtifactKey {
    ArtifactKey::new(text).expect("a key")
}

/// Layers of bytes that cannot be compressed, each behind a header of its own, as `publish tarball` packs them.
fn tarball(version: usize, seeds: [u64; LAYERS], size: usize) -> Tarball {
    let mut members = Members::new(Vec::new(), 6);
    for seed in seeds {
        let mut layer = vec![0; size / LAYERS];
        fastrand::Rng::with_seed(seed).fill(&mut layer);
        members.write_all(&layer[..512]).and_then(|()| members.begin_member()).expect("written");
        members.write_all(&layer).and_then(|()| members.begin_member()).expect("written");
    }
    members.write_all(format!("{seeds:?}").as_bytes()).expect("written");
    let (bytes, written) = members.finish().expect("written");
    let list = serde_json::to_vec(&written.members).expect("a list");
    let name = format!("vm/images/bench-{version}-x64.tar.gz");
    let layers = Layers { key: key(&format!("{name}.layers.json")), sha256: sha256(&list) };
    let artifact =
        Artifact { key: key(&name), sha256: written.sha256, size_bytes: written.size_bytes, layers: Some(layers) };
    Tarball { artifact, bytes, list }
}

/// Sends files, and parts of them, over all connections together no faster than [`RATE`].
struct Server {
    files: BTreeMap<String, Vec<u8>>,
    sent: AtomicU64,
    free_at: Mutex<Instant>,
    is_limited: std::sync::atomic::AtomicBool,
}

impl Server {
    fn start(files: BTreeMap<String, Vec<u8>>) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Arc::new(Self {
            files,
            sent: AtomicU64::new(0),
            free_at: Mutex::new(Instant::now()),
            is_limited: false.into(),
        });
        let shared = Arc::clone(&server);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A client that hangs up is its own business.
                std::thread::spawn(move || shared.serve(stream).ok());
            }
        });
        (server, url)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let (mut path, mut range) = (String::new(), None);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                match line.trim_end().split_once(' ') {
                    Some(("GET", rest)) => path = rest.split(' ').next().unwrap_or_default().to_owned(),
                    Some((name, value)) if name.eq_ignore_ascii_case("range:") => range = Some(value.to_owned()),
                    Some(_) => {}
                    None if line.trim().is_empty() => break,
                    None => {}
                }
            }
            let Some(file) = self.files.get(&path) else {
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            };
            let asked = range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
            let (from, last) = asked.map_or((0, None), |(from, last)| (from.parse().unwrap_or(0), last.parse().ok()));
            let end = last.map_or(file.len(), |last: usize| last + 1);
            let status = match asked {
                Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", end - 1, file.len()),
                None => "200 OK".to_owned(),
            };
            let length = end - from;
            write!(stream, "HTTP/1.1 {status}\r\nETag: \"{}\"\r\nContent-Length: {length}\r\n\r\n", file.len())?;
            for piece in file[from..end].chunks(64 * 1024) {
                self.wait_for(piece.len());
                stream.write_all(piece)?;
                self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Waits until so many bytes may be sent.
    fn wait_for(&self, bytes: usize) {
        if !self.is_limited.load(Ordering::Relaxed) {
            return;
        }
        let until = {
            let mut free_at = self.free_at.lock().expect("nobody panics");
            *free_at = (*free_at).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / RATE);
            *free_at
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().filter_map(|word| word.parse::<usize>().ok());
    let (mebibytes, rounds) = (numbers.next().unwrap_or(100), numbers.next().unwrap_or(5));
    let size = mebibytes << 20;
    let (first, second) = (tarball(1, [1, 2, 3, 4, 5], size), tarball(2, [1, 2, 30, 4, 5], size));
    let files = [&first, &second].into_iter().flat_map(|tarball| {
        let path = format!("/{}", tarball.artifact.key);
        [(path.clone(), tarball.bytes.clone()), (format!("{path}.layers.json"), tarball.list.clone())]
    });
    let (server, url) = Server::start(files.collect());
    let at = |tarball: &Tarball| Location::parse(&format!("{url}/{}", tarball.artifact.key)).expect("a URL");
    let fetch = async |cache: &Cache, tarball: &Tarball, limited: bool| {
        server.is_limited.store(limited, Ordering::Relaxed);
        let (began, sent) = (Instant::now(), server.sent.load(Ordering::Relaxed));
        cache.fetch(&tarball.artifact, &at(tarball), Progress::new(0)).await.expect("fetched");
        (began.elapsed().as_secs_f64(), server.sent.load(Ordering::Relaxed) - sent)
    };
    let (mut whole, mut parts, mut bytes) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let root = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(root.path(), CacheOptions::default()).expect("a cache");
        let (took, _) = fetch(&cache, &second, true).await;
        whole.push(took);
        let root = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(root.path(), CacheOptions::default()).expect("a cache");
        fetch(&cache, &first, false).await;
        let (took, sent) = fetch(&cache, &second, true).await;
        (bytes, _) = (sent, parts.push(took));
        eprintln!("round {}: {:.2} s for all of it, {took:.2} s for a layer", round + 1, whole[round]);
    }
    let (whole, parts) = (median(whole), median(parts));
    let layer = (size / LAYERS) as f64;
    println!("| {mebibytes} MiB, one layer of five changed, 100 Mbit/s | | must be |\n|---|---|---|");
    println!("| bytes over the wire | {:.4}× that layer | ≤ 1.05× |", bytes as f64 / layer);
    println!("| time | {parts:.2} s, {:.2}× a full fetch of {whole:.2} s | < 0.5× |", parts / whole);
    assert!(bytes as f64 <= 1.05 * layer && parts < whole / 2.0, "a target is missed");
}
