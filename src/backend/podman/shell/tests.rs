//! Words, scripts and answers, with a stand-in for limactl that is a line of shell.

mod terminal;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::stream;

use super::images::loaded;
use super::run::Call;
use super::script::{self, Variables, quote, receiver};
use super::*;
use crate::backend::podman::wire;
use crate::backend::{EngineEvent, ExecRequest, LogRequest, Look};
use crate::model::{HealthCheck, HealthTest, HostKey, Mount, Name, Port, Protocol, Secrets, Text};

const ERRORS: &str = include_str!("../../../../tests/fixtures/podman/errors-cli-4.3.1.txt");
const EVENTS: &str = include_str!("../../../../tests/fixtures/podman/events-cli-4.3.1.jsonl");
const LIST: &str = include_str!("../../../../tests/fixtures/podman/list-cli-4.3.1.json");
const IMAGES: &str = include_str!("../../../../tests/fixtures/podman/images-cli-4.3.1.json");

/// An instance where everything is this script; `$DIR` is a directory of its own.
struct Fake {
    directory: tempfile::TempDir,
    shell: Shell,
}

impl Fake {
    fn new(script: &str, sudo: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("limactl");
        let dir = directory.path().display();
        std::fs::write(&program, format!("#!/bin/sh\nDIR={dir}\necho x >>$DIR/calls\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let shell = Shell::new(Limactl::new(program, directory.path()), "agents", sudo);
        Self { directory, shell }
    }

    fn calls(&self) -> usize {
        std::fs::read_to_string(self.directory.path().join("calls")).unwrap_or_default().lines().count()
    }
}

fn id() -> ContainerId {
    ContainerId::new("abc").unwrap()
}

fn call(about: About) -> Call {
    Call::new("do it".into(), about, "podman do it".into(), vec![], "agents")
}

#[test]
fn failures_are_sorted_by_who_speaks() {
    let mut seen = 0;
    for line in ERRORS.lines().filter(|line| !line.starts_with('#')) {
        let [about, code, kind, stderr] = line.splitn(4, " | ").collect::<Vec<_>>().try_into().expect("four columns");
        let about = match about {
            "container" => About::Container,
            "healthcheck" => About::Healthcheck,
            "image" => About::Image,
            "creation" => About::Creation,
            _ => About::Other,
        };
        let err = error::refused(&call(about), code.parse().ok(), stderr.replace("\\n", "\n").as_bytes());
        assert_eq!(err.kind.as_str(), kind, "{line}: {err}");
        assert!(err.message.starts_with("failed to do it: ") && !err.message.contains('\n'), "{err}");
        assert!(!err.message.contains("level=") && !err.message.contains("Error: "), "{err}");
        assert_eq!((err.exit_code, err.command.as_deref()), (code.parse().ok(), Some("podman do it")));
        assert!(err.stderr.is_some());
        seen += 1;
    }
    assert!(seen > 20);
    let busy = error::refused(
        &call(About::Container),
        Some(125),
        b"Error: listen tcp4 127.0.0.1:80: bind: address already in use",
    );
    assert_eq!(busy.message, "failed to do it: the host port 127.0.0.1:80 is taken by another process or container");
    let silent = error::refused(&call(About::Other), Some(3), b"");
    assert_eq!(silent.message, "failed to do it: it ended with exit code 3");
    let killed = error::refused(&call(About::Other), None, b"");
    assert_eq!(killed.kind, EngineErrorKind::TransportUnavailable);
}

#[test]
fn what_podman_repeats_of_a_secret_is_hidden() {
    let call = call(About::Creation).hiding(Secrets::new(["canary image not known"]));
    let err = error::refused(&call, Some(125), b"Error: bad `canary image not known`");
    assert_eq!(err.message, "failed to do it: bad `(sensitive)`");
    assert!(!format!("{err:?}").contains("canary"));
}

#[test]
fn a_container_in_podmans_words() {
    let spec = crate::model::ContainerSpec {
        command: Some(["-x", "it's"].map(Text::plain).into()),
        mounts: vec![Mount::bind(Text::plain("/s"), "/t", true), Mount::bind(Text::plain("/a,\"b"), "/u", false)],
        ports: [("0.0.0.0", 1, Protocol::Tcp), ("127.0.0.1", 2, Protocol::Udp), ("::1", 3, Protocol::Tcp)]
            .map(|(host_ip, host_port, protocol)| Port {
                host_ip: host_ip.into(),
                host_port,
                container_port: 9,
                protocol,
            })
            .into(),
        restart: crate::model::RestartPolicy::Always,
        add_hosts: ["host.containers.internal:host-gateway", "d:host-gateway"].map(Text::plain).into(),
        ..crate::model::ContainerSpec::new(ContainerName::new("a").unwrap())
    };
    let image = crate::model::ImageRef::new("localhost/a:1").unwrap();
    let mut create = Create {
        name: spec.name.clone(),
        image,
        image_id: None,
        spec,
        labels: [("k".to_owned(), "v w".to_owned())].into(),
        volumes: Vec::new(),
    };
    let words = create::words(&create, Some("10.0.0.1"), None);
    let wanted = [
        "--pull=never",
        "--http-proxy=false",
        "--name",
        "a",
        "--label",
        "k=v w",
        "--mount",
        "type=bind,source=/s,destination=/t,ro=true",
        "--mount",
        "type=bind,\"source=/a,\"\"b\",destination=/u,ro=false",
        "--publish",
        "1:9/tcp",
        "--publish",
        "127.0.0.1:2:9/udp",
        "--publish",
        "[::1]:3:9/tcp",
        "--restart",
        "always",
        "--add-host",
        "d:10.0.0.1",
        "--stop-timeout",
        "10",
        "--log-opt",
        "max-size=10485760b",
        "--",
        "localhost/a:1",
        "-x",
        "it's",
    ];
    assert_eq!(words, wanted);

    let words = |words: &[&str]| HealthTest::Command(words.iter().map(|word| Text::plain(*word)).collect());
    for (test, wanted) in [
        (HealthTest::Shell(Text::plain("a \"b\"")), r#"["CMD-SHELL","a \"b\""]"#),
        (words(&["a", "b c"]), r#"["a","b c"]"#),
        (words(&["/check"]), "CMD /check"),
        (words(&["/a b"]), r#"["CMD-SHELL","'/a b'"]"#),
    ] {
        let second = Duration::from_secs(1);
        let check = HealthCheck {
            test,
            interval: second,
            timeout: second,
            retries: 3,
            ..HealthCheck::new(HealthTest::Shell("".into()))
        };
        create.spec.healthcheck = Some(check);
        let words = create::words(&create, None, None);
        let at = words.iter().position(|word| word == "--health-cmd").unwrap();
        assert_eq!(words[at + 1], wanted);
        assert_eq!(words[at + 3], "1000000000ns");
    }
}

/// Runs a script as the guest does, where `podman` prints its words, some variables, the env file, and standard input.
fn in_a_guest(script: &str, send: &str) -> (String, Option<i32>) {
    let directory = tempfile::tempdir().unwrap();
    let podman = directory.path().join("podman");
    let lines = "#!/bin/sh\necho \"$*\"\nfor word; do [ \"$word\" = --env-file ] && cat <&3; done\nprintf '%s|%s|' \"$A\" \"$HOME\"\ncat\nexit 7\n";
    std::fs::write(&podman, lines).unwrap();
    std::fs::set_permissions(&podman, std::fs::Permissions::from_mode(0o755)).unwrap();
    let [program, rest @ ..] = &receiver(script)[..] else { panic!() };
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let mut child = Command::new(program)
        .args(rest)
        .env_clear()
        .env("PATH", path)
        .env("HOME", "/root")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(send.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

#[test]
fn variables_reach_podman_and_do_not_steer_it() {
    let values = [("A", "two\nlines's"), ("HOME", "/it's"), ("x.y", "z")];
    let variables = Variables::new(values).unwrap();
    let script = script::podman("", "exec", &variables, ["a b".to_owned()]).unwrap();
    let (said, code) = in_a_guest(&script, &format!("{script}and the rest"));
    let wanted = "exec --env-file /dev/fd/3 --env A a b\nHOME=/it's\nx.y=z\ntwo\nlines's|/root|and the rest";
    assert_eq!((said.as_str(), code), (wanted, Some(7)));

    let none = Variables::new([]).unwrap();
    let script = script::podman("", "exec", &none, ["c".to_owned()]).unwrap();
    assert_eq!(in_a_guest(&script, &format!("{script}rest")), ("exec c\n|/root|rest".to_owned(), Some(7)));

    for (name, value) in [("HOME", "two\nlines"), ("x.y", "two\nlines"), ("a\nb", "")] {
        let why = Variables::new([(name, value)]).unwrap_err();
        assert!(why.contains("cannot be passed on"), "{why}");
    }
    assert!(script::podman("", "create", &none, ["a\0".to_owned()]).is_err());
}

/// Half a `podman create` makes another container than was asked for.
#[test]
fn a_script_that_breaks_off_does_nothing() {
    let variables = Variables::new([("A", "two\nlines"), ("B", "c")]).unwrap();
    let script = script::podman("", "create", &variables, ["--name".to_owned(), "a".to_owned()]).unwrap();
    for end in 0..script.len() - "4<&0".len() {
        let (said, code) = in_a_guest(&script, &script[..end]);
        assert_eq!(said, "", "{end} bytes of {script}");
        assert_ne!(code, Some(7));
    }
}

#[test]
fn words_survive_the_shell() {
    for word in ["", "a b", "it's", "'", "\\", "$HOME `id`", "a\nb", "*"] {
        let output = Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}

#[test]
fn loaded_names_are_read() {
    for (stdout, names) in [
        ("Loaded image: localhost/a:1\n", vec!["localhost/a:1"]),
        ("Loaded image: localhost/a:1\nLoaded image: ghcr.io/b:2\n", vec!["localhost/a:1", "ghcr.io/b:2"]),
        ("Loaded image(s): localhost/a:1,ghcr.io/b:2\n", vec!["localhost/a:1", "ghcr.io/b:2"]),
        ("Loaded image: sha256:abc\n", vec!["sha256:abc"]),
        ("", vec![]),
    ] {
        assert_eq!(loaded(stdout.as_bytes()), names);
    }
}

#[test]
fn events_of_the_command_line_are_read() {
    let owner = Name::new("demo").unwrap().into();
    let seen: Vec<_> = EVENTS.lines().filter_map(|line| wire::event(line.as_bytes(), &owner)).collect();
    let event = |word: &str, container: Option<&str>, exit_code| EngineEvent {
        kind: wire::event_kind(word),
        container: container.map(str::to_owned),
        exit_code,
    };
    let web = Some("demo-web");
    assert_eq!(seen, [event("loadfromarchive", None, None), event("start", web, None), event("died", web, Some(137))]);
}

#[tokio::test]
async fn a_look_is_one_call() {
    let fake = Fake::new("case \"$*\" in *version*) echo '\"4.3.1\"';; esac; cat $DIR/list $DIR/images", true);
    std::fs::write(fake.directory.path().join("list"), LIST).unwrap();
    std::fs::write(fake.directory.path().join("images"), IMAGES).unwrap();
    let names = BTreeSet::from([ContainerName::new("c1").unwrap()]);
    let owner = Name::new("demo").unwrap().into();
    let look = Look { owner, health: names.clone(), names, key: HostKey::from_bytes([1; 32]) };
    for round in 1..=2 {
        let guest = fake.shell.look(&look).await.unwrap();
        assert_eq!((guest.version.as_str(), guest.containers.len()), ("4.3.1", 1));
        let state = guest.containers.values().next().unwrap();
        assert_eq!((&state.phase, &state.health), (&Phase::Running, &Some(crate::model::Health::Healthy)));
        assert!(guest.images.keys().any(|name| name.as_str() == "localhost/a:1"), "{:?}", guest.images);
        assert_eq!(fake.calls(), round);
    }
    for garbage in ["", "[] 1", "[]", "{} []", "<html>"] {
        std::fs::write(fake.directory.path().join("list"), garbage).unwrap();
        std::fs::write(fake.directory.path().join("images"), "").unwrap();
        let err = fake.shell.look(&look).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::Unknown, "{garbage}: {err}");
    }
}

#[tokio::test]
async fn sudo_goes_before_podman_and_nothing_secret_into_words() {
    for (sudo, wanted) in [
        (true, "--tty=false shell --workdir / agents sudo -n podman rename abc b"),
        (false, "--tty=false shell --workdir / agents podman rename abc b"),
    ] {
        let fake = Fake::new("echo \"$*\" >$DIR/words", sudo);
        fake.shell.rename(&id(), &ContainerName::new("b").unwrap()).await.unwrap();
        let words = std::fs::read_to_string(fake.directory.path().join("words")).unwrap();
        assert_eq!(words.trim(), wanted);
        let sent = fake.shell.sent("x".into(), About::Other, "podman x".into(), "secret".into());
        assert!(!sent.words().join(" ").contains("secret") && !format!("{sent:?}").contains("secret"));
        assert_eq!(sent.shown(), format!("limactl shell agents {}podman x", if sudo { "sudo -n " } else { "" }));
    }
}

#[tokio::test]
async fn what_hangs_is_given_up_and_ended() {
    let fake = Fake::new("sleep 300 & echo $! >$DIR/child; wait", false);
    let call = fake.shell.podman("reach Podman", About::Other, ["version"]).within(Duration::from_millis(300));
    let err = fake.shell.run(&call).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::Timeout, "{err}");
    assert_eq!(err.message, "failed to reach Podman: Podman did not answer within 300ms");
    let child = std::fs::read_to_string(fake.directory.path().join("child")).unwrap();
    let began = Instant::now();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while cfg!(target_os = "linux") && lives() {
        assert!(began.elapsed() < Duration::from_secs(5), "the child's own child goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_broken_way_is_a_broken_transport() {
    let missing = Shell::new(Limactl::new("/none/limactl", "/none"), "agents", false);
    let err = missing.ping().await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::TransportUnavailable);
    assert!(err.message.contains("install Lima"), "{err}");

    let fake = Fake::new("echo 'ssh: connect to host 127.0.0.1 port 60022: Connection refused' >&2; exit 255", true);
    let shell = &fake.shell;
    let request = ExecRequest { command: vec!["true".into()], ..ExecRequest::default() };
    let failures = [
        shell.ping().await.unwrap_err(),
        shell.stop(&id(), Duration::ZERO).await.unwrap_err(),
        shell.exec(&id(), &request).await.unwrap_err(),
        shell.logs(&id(), &LogRequest::default()).await.err().unwrap(),
        shell.events(&Name::new("demo").unwrap().into()).await.err().unwrap(),
        shell.run_healthcheck(&id()).await.unwrap_err(),
        shell.load(Box::pin(stream::iter([Ok(bytes::Bytes::from_static(b"x"))]))).await.unwrap_err(),
    ];
    for err in failures {
        assert_eq!(err.kind, EngineErrorKind::TransportUnavailable, "{err}");
        assert!(err.message.contains("ssh does not reach instance `agents` (ssh: connect"), "{err}");
        assert_eq!(err.exit_code, Some(255));
    }
}

#[tokio::test]
async fn an_answer_is_bounded_and_reported_with_its_command() {
    let fake = Fake::new("exec head -c 70000000 /dev/zero", false);
    let err = fake.shell.run(&call(About::Container)).await.unwrap_err();
    assert!(err.message.contains("`podman do it` yields more than 32 MiB, the most that is read"), "{err}");
}
