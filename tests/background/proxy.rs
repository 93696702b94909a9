//! A Podman that may be ill: a service of our own on the shared storage, to be killed and stopped at will, and a proxy
//! before the shared one, which answers as it is told.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support;
use crate::support::command::skip;
use crate::world::{World, until};

/// A `podman system service` of our own, on the storage of the shared one. Ended when dropped.
pub struct Service {
    socket: PathBuf,
    vars: Vec<(String, String)>,
    child: Option<Child>,
}

impl Service {
    /// Starts it, and has the world's commands use it. `None` where the shared Podman is no private one of this machine.
    pub fn start(world: &mut World) -> Option<Self> {
        let shared = support::podman_socket();
        let vars = shared.parent().and_then(|dir| std::fs::read_to_string(dir.join("local.env")).ok());
        let Some(vars) = vars else {
            skip("the Podman of these tests is none that scripts/podman-env.sh started on this machine");
            return None;
        };
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let socket = world.sandbox.path("podman.sock");
        let mut service = Self { socket, vars: vars.lines().filter_map(pair).collect(), child: None };
        service.again();
        world.sandbox.set("CONTAINER_HOST", format!("unix://{}", service.socket.display()));
        Some(service)
    }

    /// Starts it anew, and waits until it answers.
    pub fn again(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let mut command = Command::new("podman");
        command.args(["system", "service", "--time=0", &format!("unix://{}", self.socket.display())]);
        command.env_remove("CONTAINER_HOST").env_remove("DOCKER_HOST").envs(self.vars.clone());
        // Beside its socket: conmon drops files where its parent stands.
        command.current_dir(self.socket.parent().expect("a directory")).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("podman starts"));
        until("Podman answers", || answers(&self.socket));
    }

    fn signal(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        let _ = kill_process(pid, signal);
    }

    /// Ends it, politely or not.
    pub fn end(&mut self, signal: Signal) {
        // One that was stopped hears nothing else.
        self.signal(signal);
        self.signal(Signal::CONT);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("waitable");
        }
    }

    /// It hangs from now on. Amid a request it may hold the lock of Podman's storage, which everybody else would wait for.
    pub fn hang(&self) {
        loop {
            self.signal(Signal::STOP);
            if !self.holds_a_lock() {
                return;
            }
            self.signal(Signal::CONT);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn holds_a_lock(&self) -> bool {
        let pid = self.child.as_ref().map(|child| child.id().to_string());
        // A stop takes effect a moment later.
        std::thread::sleep(Duration::from_millis(20));
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| line.split_whitespace().nth(4) == pid.as_deref())
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: d\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.ends_with("OK")
}

/// How a proxy answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As Podman does.
    Faithful,
    /// As Podman does, piece by piece with a pause before each.
    Slow,
    /// With an error of the server's.
    Failing,
    /// With the first half of an answer, and no more.
    Half,
    /// Not at all.
    Silent,
}

struct Shared {
    manner: Manner,
    /// Those that are served.
    open: Vec<UnixStream>,
}

/// A proxy before the shared Podman.
pub struct Proxy {
    shared: Arc<Mutex<Shared>>,
}

impl Proxy {
    /// Starts it, faithful, and has the world's commands use it.
    pub fn start(world: &mut World) -> Self {
        let socket = world.sandbox.path("podman.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        world.sandbox.set("CONTAINER_HOST", format!("unix://{}", socket.display()));
        let shared = Arc::new(Mutex::new(Shared { manner: Manner::Faithful, open: Vec::new() }));
        let serving = Arc::clone(&shared);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let manner = {
                    let mut shared = serving.lock().expect("not poisoned");
                    shared.open.extend(client.try_clone());
                    shared.manner
                };
                std::thread::spawn(move || serve(client, manner));
            }
        });
        Self { shared }
    }

    /// From now on it answers so; whatever is under way is cut off.
    pub fn set(&self, manner: Manner) {
        let mut shared = self.shared.lock().expect("not poisoned");
        shared.manner = manner;
        for client in shared.open.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// Serves one connection to its end.
fn serve(mut client: UnixStream, manner: Manner) {
    match manner {
        Manner::Faithful | Manner::Slow => {
            let Ok(podman) = UnixStream::connect(support::podman_socket()) else { return };
            let (Ok(from), Ok(to)) = (client.try_clone(), podman.try_clone()) else { return };
            std::thread::spawn(move || support::pass_on(from, to, Duration::ZERO));
            let pause = if manner == Manner::Slow { Duration::from_millis(150) } else { Duration::ZERO };
            support::pass_on(podman, client, pause);
        }
        Manner::Failing | Manner::Half => {
            let mut request = [0; 4096];
            while let Ok(1..) = client.read(&mut request) {
                let said = r#"{"cause":"disk I/O error","message":"disk I/O error","response":500}"#;
                let (status, length) = if manner == Manner::Half {
                    ("200 OK", 2 * said.len())
                } else {
                    ("500 Internal Server Error", said.len())
                };
                let kind = "Content-Type: application/json";
                let answer = format!("HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{said}");
                if client.write_all(answer.as_bytes()).is_err() || manner == Manner::Half {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        }
        Manner::Silent => {
            let _ = client.read_to_end(&mut Vec::new());
        }
    }
}
