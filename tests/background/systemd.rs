//! What a service manager is told (`sd_notify(3)`), and what it is not.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::keeper::Keeper;
use crate::world::{World, until};

/// A service manager's ears.
struct Manager {
    socket: UnixDatagram,
    received: Vec<String>,
}

impl Manager {
    fn new(world: &mut World) -> Self {
        let path = world.sandbox.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        world.sandbox.set("NOTIFY_SOCKET", path);
        Self { socket, received: Vec::new() }
    }

    fn listen(&mut self) {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            self.received.extend(message.lines().map(str::to_owned));
        }
    }

    /// Where a line with these words stands among the heard.
    fn at(&self, words: &str) -> Option<usize> {
        self.received.iter().position(|line| line.contains(words))
    }

    #[track_caller]
    fn receives(&mut self, words: &str) -> usize {
        until(words, || {
            self.listen();
            self.at(words).is_some()
        });
        self.at(words).unwrap()
    }
}

#[test]
fn systemd_is_reported_what_it_wants_to_know() {
    let mut world = World::new();
    let mut manager = Manager::new(&mut world);
    world.sandbox.set("WATCHDOG_USEC", "400000");
    // systemd's journal has times of its own.
    world.sandbox.set("JOURNAL_STREAM", "8:1");
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    let mut keeper = Keeper::spawn(&world, "");
    manager.receives("READY=1");
    manager.receives("STATUS=2 of 2 agents ready");
    keeper.converged();
    assert!(keeper.run.stderr().lines().all(|line| !line.starts_with("20")), "{}", keeper.run.stderr());
    // Alive, though nothing happens.
    manager.received.clear();
    until("it beats", || {
        manager.listen();
        manager.received.iter().filter(|line| *line == "WATCHDOG=1").count() >= 3
    });

    manager.received.clear();
    keeper.run.signal(Signal::HUP);
    let reloading = manager.receives("RELOADING=1");
    let ready = manager.receives("READY=1");
    assert!(reloading < ready, "{:?}", manager.received);
    let now = manager.received.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(now.parse::<u64>().is_ok_and(|now| now > 0), "{now}");

    std::fs::write(world.sandbox.path("steadfast.yaml"), "nonsense").unwrap();
    manager.receives("the state file cannot be used, the last good state goes on");
    manager.received.clear();
    let outcome = keeper.stop();
    manager.receives("STOPPING=1");
    assert_eq!(outcome.code, 143);
}

/// READY comes after the first observation, and that is not available from a Podman that is not there; but a service that is
/// never ready is one that systemd ends.
#[test]
fn a_first_look_that_shows_no_podman_is_one_too() {
    let mut world = World::new();
    let mut manager = Manager::new(&mut world);
    world.state(&[&world.agent("a", "")]);
    world.sandbox.set("CONTAINER_HOST", "unix:///nowhere/podman.sock");
    let keeper = Keeper::spawn(&world, "");
    manager.receives("READY=1");
    manager.receives("Podman cannot be reached");
    keeper.stop();
}
