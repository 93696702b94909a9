//! Sockets that are not there, are not Podman, hang, or close midway.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::command::Sandbox;

/// How a fake socket behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A Podman with nothing in it.
    Podman,
    /// Docker: answers, and knows no libpod.
    Docker,
    /// Something else that speaks HTTP.
    WebServer,
    /// Something that speaks no HTTP.
    Noise,
    /// Takes the request and never answers.
    Hang,
    /// Closes every connection at once.
    Close,
    /// A Podman whose list ends in the middle.
    CloseMidway,
    /// A Podman that answers with what is no JSON.
    Garbled,
}

/// A listening socket; its threads end with the process.
pub struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    pub fn start(manner: Manner) -> Self {
        let dir = tempfile::Builder::new().prefix("sft-").tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("podman.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || serve(stream, manner));
            }
        });
        Self { dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("podman.sock")
    }
}

fn serve(mut stream: UnixStream, manner: Manner) {
    let mut buffered = Vec::new();
    let mut buffer = [0; 4096];
    if manner == Manner::Close {
        return;
    }
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        buffered.extend_from_slice(&buffer[..read]);
        let Some(end) = buffered.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffered[..end]).into_owned();
        buffered.clear();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let ping = path.ends_with("/_ping");
        let (status, body, more) = match manner {
            Manner::Hang => {
                std::thread::sleep(Duration::from_secs(100));
                return;
            }
            Manner::Noise => {
                let _ = stream.write_all(b"\x00\x01SSH-2.0-OpenSSH_9.2\r\n");
                return;
            }
            Manner::WebServer => ("404 Not Found", "<h1>404</h1>", ""),
            Manner::Docker if ping => ("200 OK", "OK", "Api-Version: 1.41\r\nDocker-Experimental: false\r\n"),
            Manner::Docker => ("404 Not Found", "{\"message\":\"page not found\"}", ""),
            _ if ping => ("200 OK", "OK", "Api-Version: 1.41\r\nLibpod-API-Version: 4.3.1\r\n"),
            Manner::CloseMidway => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{\"Id\":");
                return;
            }
            Manner::Garbled => ("200 OK", "[{]", ""),
            _ => ("200 OK", "[]", ""),
        };
        let answer = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

pub fn state(socket: &Path) -> String {
    format!(
        "apiVersion: steadfast/v1\nname: demo\nruntime: {{podman: {{socket: {}}}}}\nagents:\n  hello: {{version: \"1\", image: a/b, source: local}}\n",
        socket.display()
    )
}

pub fn on(manner: Manner) -> (Sandbox, Fake) {
    let (sandbox, fake) = (Sandbox::new(), Fake::start(manner));
    sandbox.write("steadfast.yaml", state(&fake.path()));
    (sandbox, fake)
}

/// What `plan` says on it; every other verb that needs Podman fails too.
fn said(manner: Manner) -> String {
    let (sandbox, fake) = on(manner);
    for verb in ["apply", "status", "down", "logs hello", "doctor"] {
        let outcome = sandbox.run(verb);
        assert_eq!(outcome.code, 1, "`{verb}` on {manner:?}: {}{}", outcome.stdout, outcome.stderr);
    }
    sandbox.run("exec hello -- true").expect(125);
    let plan = sandbox.run("plan --detailed-exitcode").expect(1);
    let shown = plan.shown().replace(&fake.path().display().to_string(), "<socket>");
    // Which end notices first, and so in which words, is the kernel's to say.
    let lines = shown.lines().map(|line| match line.split_once(" broke (") {
        Some((before, _)) => format!("{before} broke (…)\n"),
        None => format!("{line}\n"),
    });
    lines.collect::<String>().trim_end().to_owned()
}

#[test]
fn no_socket_names_what_was_tried() {
    let mut sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", state(Path::new("/nowhere/p.sock")).replace("{socket: /nowhere/p.sock}", "{}"));
    sandbox.set("CONTAINER_HOST", "unix:///nowhere/c.sock");
    for verb in ["plan", "apply", "status", "down"] {
        let outcome = sandbox.run(verb).expect(1);
        assert!(outcome.stderr.contains("`/nowhere/c.sock`, named by `$CONTAINER_HOST`"), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    insta::assert_snapshot!("socket_by_variable", sandbox.run("plan").shown());
    sandbox.set("CONTAINER_HOST", "ssh://me:canary@host/run/podman.sock");
    sandbox.run("plan").expect(1).says("`$CONTAINER_HOST` is not a unix socket (ssh)").keeps_quiet_about(&["canary"]);
    sandbox.write("steadfast.yaml", state(Path::new("/nowhere/p.sock")));
    insta::assert_snapshot!("socket_by_state_file", sandbox.run("plan").shown());
    let doctor = sandbox.run("doctor").expect(1);
    assert!(
        doctor.stdout.contains("\nthe first that fails: podman socket, no Podman socket at `/nowhere/p.sock`"),
        "{}",
        doctor.stdout
    );
}

/// That a socket is there says little: somebody must listen on it.
#[test]
fn doctor_tells_a_socket_that_nobody_listens_on_and_how_to_start_podman() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("stale.sock");
    drop(UnixListener::bind(&socket).unwrap());
    sandbox.write("steadfast.yaml", state(&socket));
    let doctor = sandbox.run("doctor -o json").expect(1).json();
    assert_eq!(doctor["firstFailure"], "podman socket", "{doctor}");
    let failed = doctor["checks"].as_array().unwrap().iter().find(|check| check["ok"] == false).unwrap();
    assert!(failed["found"].as_str().unwrap().contains("nobody listens"), "{failed}");
    let start = format!("podman system service --time=0 unix://{}", socket.display());
    assert!(failed["fix"].as_str().unwrap().contains(&start), "{failed}");
    // What nobody can see, nobody says anything of.
    let plan = sandbox.run("plan -o json").expect(1).json();
    let waiting = &plan["waiting"][0];
    assert_eq!((&waiting["kind"], &waiting["on"]), (&"createContainer".into(), &"sight".into()), "{plan}");
    for verb in ["plan", "why hello"] {
        let said = sandbox.run(verb).expect(1).stdout;
        assert!(!said.contains("create container") && said.contains("observe container"), "{verb}: {said}");
    }
}

#[test]
fn an_agent_that_nobody_knows_is_refused_alike_by_every_verb() {
    let (sandbox, _fake) = on(Manner::Podman);
    for (verb, code) in [
        ("why helo", 64),
        ("history helo", 64),
        ("logs helo", 64),
        ("exec helo -- true", 125),
        ("plan --only helo", 64),
        ("apply --only helo", 64),
    ] {
        sandbox.run(verb).expect(code).says("an agent `helo`").says("did you mean `hello`?");
    }
}

#[test]
fn a_root_that_is_a_file_is_reported_as_one() {
    let (mut sandbox, _fake) = on(Manner::Podman);
    let root = sandbox.write("a-file", "");
    sandbox.set("STEADFAST_ROOT", &root);
    for verb in ["status", "plan", "apply", "why hello", "exec hello -- true"] {
        let outcome = sandbox.run(verb);
        assert_ne!(outcome.code, 0, "{verb}");
        assert!(!outcome.stderr.contains("take-over"), "{verb}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("must be a directory"), "{verb}: {}", outcome.stderr);
    }
    let doctor = sandbox.run("doctor").expect(1).stdout;
    assert!(doctor.contains("is a file") && !doctor.contains("take-over"), "{doctor}");
}

#[test]
fn none_of_the_usual_sockets() {
    let sandbox = Sandbox::new();
    sandbox.write("steadfast.yaml", state(Path::new("x")).replace("{socket: x}", "{}"));
    let outcome = sandbox.run("plan");
    // A machine with a Podman of its own has one of them.
    if ["/run/podman/podman.sock", "/run/user/0/podman/podman.sock"].iter().all(|path| !Path::new(path).exists()) {
        let outcome = outcome.expect(1).says("no Podman socket found (tried ");
        for tried in ["/run/podman/podman.sock", "/podman/podman.sock`"] {
            assert!(outcome.stderr.contains(tried), "{}", outcome.stderr);
        }
    }
}

#[test]
fn a_file_that_is_no_socket() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("p.sock", "not a socket");
    sandbox.write("steadfast.yaml", state(&file));
    insta::assert_snapshot!("a_file_that_is_no_socket", sandbox.run("plan").expect(1).shown());
    // A stale socket: nobody listens any more.
    let stale = sandbox.path("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    sandbox.write("steadfast.yaml", state(&stale));
    insta::assert_snapshot!("a_stale_socket", sandbox.run("plan").expect(1).shown());
}

#[test]
fn sockets_that_are_not_podman() {
    insta::assert_snapshot!("socket_docker", said(Manner::Docker));
    insta::assert_snapshot!("socket_web_server", said(Manner::WebServer));
    insta::assert_snapshot!("socket_noise", said(Manner::Noise));
    insta::assert_snapshot!("socket_closes", said(Manner::Close));
    insta::assert_snapshot!("socket_closes_midway", said(Manner::CloseMidway));
    insta::assert_snapshot!("socket_garbled", said(Manner::Garbled));
}

#[test]
fn a_socket_that_hangs_is_given_up() {
    let (sandbox, fake) = on(Manner::Hang);
    let running: Vec<_> = ["plan", "apply", "status", "exec hello -- true"].map(|verb| sandbox.spawn(verb)).into();
    let ended: Vec<_> = running.into_iter().map(|running| running.end()).collect();
    assert_eq!(ended.iter().map(|outcome| outcome.code).collect::<Vec<_>>(), [1, 1, 1, 125]);
    for outcome in &ended {
        assert!(outcome.took < Duration::from_secs(40), "{:?}", outcome.took);
    }
    let shown = ended[0].shown().replace(&fake.path().display().to_string(), "<socket>");
    insta::assert_snapshot!("socket_hangs", shown);
}

#[test]
fn what_cannot_be_seen_is_not_guessed() {
    let (sandbox, _fake) = on(Manner::CloseMidway);
    let plan = sandbox.run("plan -o json").expect(1).json();
    assert_eq!(plan["converged"], false);
    assert_eq!(plan["actions"], serde_json::json!([]));
    let status = sandbox.run("status -o json").expect(1).json();
    assert_eq!(status["podman"]["reachable"], false);
    assert_eq!(status["agents"]["hello"]["sync"], "Unknown");
    assert_eq!(status["agents"]["hello"]["health"], "Unknown");
    let ready = &status["agents"]["hello"]["conditions"][0];
    let words = ["type", "status", "reason"].map(|key| ready[key].as_str().unwrap());
    assert_eq!(words, ["Ready", "Unknown", "SocketUnreachable"]);
    let apply = sandbox.run("apply -o json").expect(1).json();
    assert_eq!((&apply["converged"], &apply["actions"]), (&false.into(), &serde_json::json!([])));
}

#[test]
fn one_problem_of_many_agents_is_reported_once() {
    let sandbox = Sandbox::new();
    let stale = sandbox.path("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let agents: String =
        (10..30).map(|number| format!("  a{number}: {{version: \"1\", image: a/b, source: local}}\n")).collect();
    let head = state(&stale);
    let (head, _) = head.split_once("  hello:").unwrap();
    sandbox.write("steadfast.yaml", format!("{head}{agents}"));
    for verb in ["plan", "apply", "plan -o markdown"] {
        let outcome = sandbox.run(verb).expect(1);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        // A comment on a pull request is read without what is beside it.
        let times = if verb.ends_with("markdown") { 2 } else { 1 };
        assert_eq!(said.matches("nobody listens on the Podman socket").count(), times, "{verb}: {said}");
        assert!(said.contains("20 agents") && said.lines().count() < 15, "{verb}: {said}");
    }
    let plan = sandbox.run("plan -o json").expect(1).json();
    assert!(plan["waiting"].as_array().unwrap().len() >= 20, "programs are told all of it");
}

#[test]
fn an_empty_podman_is_planned_for() {
    let (sandbox, _fake) = on(Manner::Podman);
    insta::assert_snapshot!("plan_a_missing_local_image", sandbox.run("plan").shown());
    let status = sandbox.run("status").expect(3);
    insta::assert_snapshot!("status_of_nothing", status.shown());
    sandbox.run("status --exit-zero").expect(0);
}

/// An `apply` that waits for the lock applies what the file says once it has it.
#[test]
fn what_waited_for_the_lock_reads_the_file_anew() {
    let (sandbox, fake) = on(Manner::Podman);
    let none = state(&fake.path()).replace("\n  hello: {version: \"1\", image: a/b, source: local}", " {}");
    let dir = sandbox.root().join("state/demo");
    std::fs::create_dir_all(&dir).unwrap();
    let lock = std::fs::File::create(dir.join("lock")).unwrap();
    let cases = [
        (none.clone(), 0, ""),
        (none.replace("name: demo", "name: other"), 1, "changed its name from `demo` to `other`"),
        (format!("root: ./elsewhere\n{none}"), 1, "changed its root from `"),
        ("broken".to_owned(), 65, "expected a mapping"),
    ];
    for (text, code, words) in cases {
        sandbox.write("steadfast.yaml", state(&fake.path()));
        lock.lock().unwrap();
        let mut waiting = sandbox.spawn("apply --lock-timeout 60s");
        waiting.until("it waits", |waiting| waiting.stderr().contains("waiting: the lock `"));
        sandbox.write("steadfast.yaml", text);
        lock.unlock().unwrap();
        let outcome = waiting.end().expect(code).says(words);
        assert_eq!(outcome.stdout.contains("nothing to do"), code == 0, "{}", outcome.stdout);
    }
    // One that came through a pipe is not there a second time.
    let piped = sandbox.feed("apply -f -", none).expect(0);
    assert!(piped.stdout.contains("nothing to do"), "{}", piped.stdout);
}

/// A state file that came through a pipe is not there a second time, and what is not ready is told once.
#[test]
fn a_watch_reads_a_pipe_once_and_repeats_nothing() {
    let (sandbox, _fake) = on(Manner::Podman);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "cat steadfast.yaml | timeout 6 \"$0\" --root r status -f - --watch -o json"]);
    command.arg(env!("CARGO_BIN_EXE_steadfast")).current_dir(sandbox.work()).env_clear().env("PATH", "/usr/bin:/bin");
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(124), "it went on until it was stopped\n{said}");
    assert_eq!(said.matches("\"observedAt\"").count(), 1, "{said}");
}
