use std::sync::atomic::Ordering::Relaxed;

use super::*;

/// A Podman whose container ends as soon as it is started, so that no stop finds it running.
struct Restless {
    stops: Stops,
    now: Mutex<Now>,
    /// It tidies up the last run between an init and a stop, once.
    tidies_late: std::sync::atomic::AtomicBool,
    /// It restarts the container between a stop and its tidying up, so that it refuses the latter, once.
    refuses: std::sync::atomic::AtomicBool,
    /// It is never found running, and restarted between any two inspections.
    is_never_seen: bool,
    restarts: std::sync::atomic::AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Now {
    Running,
    Between,
    Ready,
    Down,
}

impl Restless {
    fn new(tidies_late: bool, refuses: bool) -> Self {
        Self {
            stops: Stops::new(1),
            now: Mutex::new(Now::Running),
            tidies_late: tidies_late.into(),
            refuses: refuses.into(),
            is_never_seen: false,
            restarts: 0.into(),
        }
    }

    fn seen(&self) -> ContainerState {
        let status = match *self.now.lock().unwrap() {
            Now::Running if !self.is_never_seen => "running",
            Now::Running | Now::Between => "stopping",
            Now::Ready => "initialized",
            Now::Down => "exited",
        };
        let answer = serde_json::json!({
            "Id": "c".repeat(64), "Name": "a", "RestartCount": self.restarts.load(Relaxed), "State": {"Status": status},
            "HostConfig": {"RestartPolicy": {"Name": "always"}},
        });
        crate::backend::podman::wire::inspected(&answer).unwrap().1
    }

    fn refused(&self) -> EngineError {
        EngineError::new(EngineErrorKind::Conflict, format!("{:?}", self.now.lock().unwrap()))
    }
}

impl Lifecycle for Restless {
    async fn inspect(&self, _: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        let seen = self.seen();
        let mut now = self.now.lock().unwrap();
        if *now == Now::Between {
            *now = Now::Running;
        } else if *now == Now::Running {
            self.restarts.fetch_add(1, Relaxed);
        }
        Ok(Some(seen))
    }

    async fn stoppable(&self, _: &ContainerId) -> Result<Option<Stoppable>, EngineError> {
        Ok(Some(Stoppable { state: self.seen(), signal: "15".into(), timeout: None }))
    }

    async fn stop_once(&self, _: &ContainerId, _: Duration) -> Result<(), EngineError> {
        let late = self.tidies_late.load(Relaxed);
        let mut now = self.now.lock().unwrap();
        match *now {
            Now::Ready if late => self.tidies_late.store(false, Relaxed),
            Now::Ready => *now = Now::Down,
            Now::Running => *now = Now::Between,
            Now::Between | Now::Down => {}
        }
        if self.refuses.swap(false, Relaxed) {
            return Err(EngineError::new(EngineErrorKind::CommandFailed, "running or paused, refusing to clean up"));
        }
        Ok(())
    }

    async fn init(&self, _: &ContainerId) -> Result<(), EngineError> {
        *self.now.lock().unwrap() = Now::Ready;
        Ok(())
    }

    async fn version(&self) -> Result<String, EngineError> {
        Ok("4.3.1".into())
    }

    fn stops(&self) -> &Stops {
        &self.stops
    }

    async fn start_once(&self, _: &ContainerId) -> Result<super::super::lifecycle::Started, EngineError> {
        Err(self.refused())
    }

    async fn list(&self, _: &BTreeSet<ContainerId>) -> Result<BTreeMap<ContainerId, Listing>, EngineError> {
        Ok(BTreeMap::new())
    }

    async fn signal(&self, _: &ContainerId, _: &str) -> Result<(), EngineError> {
        Err(self.refused())
    }

    async fn process(&self, _: u32) -> Option<String> {
        None
    }

    async fn unpause(&self, _: &ContainerId) -> Result<(), EngineError> {
        Err(self.refused())
    }

    async fn remove_by_force(&self, _: &ContainerId) -> Result<(), EngineError> {
        Err(self.refused())
    }

    fn surely_alive(&self, _: &ContainerState) -> bool {
        false
    }
}

#[tokio::test]
async fn what_is_down_at_each_stop_is_held_between_two_restarts() {
    let id = ContainerId::new("c".repeat(64)).unwrap();
    for (tidies_late, refuses) in [(false, false), (true, false), (false, true), (true, true)] {
        for is_never_seen in [false, true] {
            let podman = Restless { is_never_seen, ..Restless::new(tidies_late, refuses) };
            stop(&podman, &id, Duration::from_secs(1)).await.unwrap();
            assert_eq!(*podman.now.lock().unwrap(), Now::Down, "{tidies_late} {refuses} {is_never_seen}");
        }
    }
}

#[test]
fn a_signal_is_final_from_4_7_on() {
    for (version, is) in [("4.3.1", false), ("4.6.2", false), ("4.7.0", true), ("4.10.0", true), ("5.0.3", true)] {
        assert_eq!(is_final(version), is, "{version}");
    }
    assert!(!is_final("who knows"));
}

#[test]
fn a_first_process_honours_what_it_catches_or_holds_back() {
    let status = |pids: &str, blocked: u64, ignored: u64, caught: u64| {
        format!(
            "Name:\tsleep\nNSpid:\t{pids}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    };
    let term = 1 << 14;
    for (shown, honoured) in [
        (status("812\t1", 0, 0, 0), Some(false)),
        (status("812\t1", 0, 0, term), Some(true)),
        (status("812\t1", term, 0, 0), Some(true)),
        (status("812\t1", term, term, term), Some(false)),
        (status("812\t1", 0, 0, term << 1), Some(false)),
        (status("812", 0, 0, 0), Some(true)),
        (status("812\t7", 0, 0, 0), Some(true)),
        ("Name:\tsleep\n".to_owned(), None),
    ] {
        assert_eq!(honours(&shown, 15), honoured, "{shown}");
    }
    assert_eq!(honours(&status("1", 0, 0, 0), 0), None);
    assert_eq!(honours(&status("1", 0, 0, 0), 65), None);
}

#[test]
fn a_signal_has_a_number_however_it_is_reported() {
    for (told, wanted) in
        [("15", 15), ("SIGTERM", 15), ("TERM", 15), ("SIGQUIT", 3), ("usr1", 10), ("", 15), ("0", 15), ("37", 37)]
    {
        assert_eq!(number(told), Some(wanted), "{told}");
    }
    assert_eq!(number("SIGRTMIN+3"), None);
}
