//! The demo agent for machines that have no static busybox for Linux, such as a Mac: answers every HTTP request on port
//! 8080 with its version and `$GREETING`. Called as `wget` it fetches a URL and throws it away, for health checks. Compiled by
//! `image.sh`; no part of the steadfast crate.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let words: Vec<_> = std::env::args().collect();
    if words.first().is_some_and(|name| name.ends_with("wget")) {
        return fetch(words.iter().find_map(|word| word.strip_prefix("http://")).unwrap_or_default());
    }
    let version = std::fs::read_to_string("/etc/agent-version").unwrap_or_default();
    let version = version.trim();
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".into());
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "no greeting set".into());
    let body = format!("hello from agent {version}: {greeting}\n");
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("agent {version} listens on port {port}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = [0; 4096];
        // One read is enough for a demo: the answer is the same whatever was asked.
        if stream.read(&mut request).is_ok() {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length";
            let _gone = write!(stream, "{head}: {}\r\n\r\n{body}", body.len());
        }
    }
    Ok(())
}

fn fetch(url: &str) -> std::io::Result<()> {
    let (host, path) = url.split_once('/').unwrap_or((url, ""));
    let mut stream = TcpStream::connect(host)?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let is_fine = answer.split(' ').nth(1) == Some("200");
    if is_fine { Ok(()) } else { Err(std::io::Error::other("the answer is not 200")) }
}
