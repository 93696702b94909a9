//! The demo agent for machines that have no static busybox for Linux, such as a Mac: answers every HTTP request on port
//! 8080 with its version and `$GREETING`. Compiled by `image.sh`; no part of the steadfast crate.

use std::io::{Read, Write};
use std::net::TcpListener;

fn main() -> std::io::Result<()> {
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
