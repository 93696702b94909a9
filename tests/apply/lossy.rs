//! A proxy before Podman that passes a request on and loses the answer: it breaks the connection once Podman has done what
//! it was asked for. Or it answers by itself.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support;
use crate::world::World;

/// The answer that is lost next: to a request whose first line holds all of these words, but for so many before it.
struct Loss {
    words: Vec<String>,
    skip: usize,
}

/// What is answered to each request whose first line holds this word.
type Said = (String, String);

pub struct Lossy {
    loss: Arc<Mutex<Option<Loss>>>,
    said: Arc<Mutex<Option<Said>>>,
}

impl Lossy {
    /// Starts it, and has the world's commands use it. It ends with the test's process.
    pub fn start(world: &mut World) -> Self {
        let socket = world.sandbox.path("lossy.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        world.sandbox.set("CONTAINER_HOST", format!("unix://{}", socket.display()));
        let loss = Arc::new(Mutex::new(None));
        let said = Arc::new(Mutex::new(None));
        let (serving, saying) = (Arc::clone(&loss), Arc::clone(&said));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let (loss, said) = (Arc::clone(&serving), Arc::clone(&saying));
                std::thread::spawn(move || serve(client, &loss, &said));
            }
        });
        Self { loss, said }
    }

    /// Answers so, from now on, without asking Podman.
    pub fn say(&self, word: &str, body: &str) {
        *self.said.lock().expect("not poisoned") = Some((word.to_owned(), body.to_owned()));
    }

    /// Loses the answer to such a request, the one after `skip` others.
    pub fn lose(&self, words: &[&str], skip: usize) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        *self.loss.lock().expect("not poisoned") = Some(Loss { words, skip });
    }

    /// Whether the answer was lost.
    pub fn is_lost(&self) -> bool {
        self.loss.lock().expect("not poisoned").is_none()
    }
}

/// Serves one request, and closes the connection.
fn serve(mut client: UnixStream, loss: &Mutex<Option<Loss>>, said: &Mutex<Option<Said>>) {
    let mut read = Vec::new();
    let mut piece = [0; 16 * 1024];
    let head = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match client.read(&mut piece) {
            Ok(count @ 1..) => read.extend_from_slice(&piece[..count]),
            _ => return,
        }
    };
    let text = String::from_utf8_lossy(&read[..head]).into_owned();
    let line = text.lines().next().unwrap_or_default();
    if let Some((word, body)) = &*said.lock().expect("not poisoned")
        && line.contains(word.as_str())
    {
        let length = body.len();
        let _ = write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        return;
    }
    let is_lost = {
        let mut loss = loss.lock().expect("not poisoned");
        match loss.as_mut() {
            Some(Loss { words, skip }) if words.iter().all(|word| line.contains(word.as_str())) => {
                let now = *skip == 0;
                *skip = skip.saturating_sub(1);
                if now {
                    *loss = None;
                }
                now
            }
            _ => false,
        }
    };
    let Ok(mut podman) = UnixStream::connect(support::podman_socket()) else { return };
    // One request for each connection, unless it becomes something else.
    let close = if text.to_ascii_lowercase().contains("upgrade:") { "" } else { "\r\nConnection: close" };
    let sent = podman.write_all(format!("{text}{close}").as_bytes()).and_then(|()| podman.write_all(&read[head..]));
    let (Ok(()), Ok(from), Ok(to)) = (sent, client.try_clone(), podman.try_clone()) else { return };
    std::thread::spawn(move || support::pass_on(from, to, Duration::ZERO));
    if is_lost {
        // Podman has done it once it says so.
        let _ = podman.read(&mut piece);
        let _ = client.shutdown(Shutdown::Both);
        let _ = podman.shutdown(Shutdown::Both);
    } else {
        support::pass_on(podman, client, Duration::ZERO);
    }
}
