//! How many requests Podman gets: counted by a socket in between.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use crate::support;
use crate::world::World;

/// Passes everything on, and keeps the first line of each request.
pub struct Proxy {
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn start(at: &std::path::Path) -> Self {
        let listener = UnixListener::bind(at).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || pass(client, &kept));
            }
        });
        Self { seen }
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn pass(mut client: UnixStream, seen: &Mutex<Vec<String>>) {
    let mut podman = UnixStream::connect(support::podman_socket()).unwrap();
    let (mut back, mut to) = (podman.try_clone().unwrap(), client.try_clone().unwrap());
    let answers = std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        // A request of a no-op has no body, and its head fits one read.
        for line in String::from_utf8_lossy(&buffer[..read]).lines().filter(|line| line.ends_with(" HTTP/1.1")) {
            seen.lock().unwrap().push(line.to_owned());
        }
        if podman.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = podman.shutdown(std::net::Shutdown::Write);
    let _ = answers.join();
}

#[test]
fn nothing_to_do_costs_at_most_four() {
    let mut world = World::new();
    let socket = world.sandbox.path("proxy.sock");
    let proxy = Proxy::start(&socket);
    world.sandbox.set("CONTAINER_HOST", format!("unix://{}", socket.display()));
    world.publish(&[("p", "1")]);
    let agents: Vec<_> = (0..6).map(|n| world.agent(&format!("a{n}"), "env: {API_TOKEN: x}")).collect();
    let published = world.published("p", "1");
    let checked = world.agent("checked", "healthcheck: {test: [CMD, \"true\"]}");
    let mut all: Vec<&str> = agents.iter().map(String::as_str).collect();
    all.extend([published.as_str(), checked.as_str()]);
    world.state(&all);
    world.applied();
    for verb in ["apply", "plan --detailed-exitcode"] {
        proxy.take();
        world.run(verb).expect(0);
        let requests = proxy.take();
        assert!(!requests.is_empty() && requests.len() <= 4, "{verb}: {requests:#?}");
        assert!(requests.iter().all(|line| line.starts_with("GET ")), "{verb} only looks: {requests:#?}");
    }
}
