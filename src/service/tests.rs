use std::process::Command;

use super::*;

fn service(scope: Scope) -> Service {
    Service {
        name: "demo".parse().unwrap(),
        scope,
        program: "/usr/local/bin/steadfast".into(),
        files: Path::new("/etc/steadfast/demo.yaml").into(),
        flags: Vec::new(),
        root: "/var/lib/steadfast".into(),
        home: "/home/me".into(),
        environment: BTreeMap::new(),
        needs: Vec::new(),
        podman_socket: true,
        vm: false,
    }
}

fn odd() -> Service {
    Service {
        program: "/opt/my $tools/50% off;/steadfast".into(),
        files: Path::new("/srv/a b/50%/$HOME/<x> & 'y'\\z.yaml").into(),
        flags: vec!["--resync".into(), "1m; rm".into(), String::new()],
        root: "/home/me/my root/100%".into(),
        environment: BTreeMap::from([("CONTAINER_HOST".into(), "unix:///run/my podman/$p%.sock".into())]),
        needs: vec!["OPENCLAW_TOKEN".into(), "OTHER".into()],
        podman_socket: false,
        vm: false,
        ..service(Scope::System)
    }
}

/// systemd itself reads the unit, where there is one, and finds the program by the path that the unit gives it.
fn verify(name: &str, service: &Service) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join(service.program.strip_prefix("/").unwrap());
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    std::fs::copy("/bin/sh", &program).unwrap();
    let service = Service { program, ..service.clone() };
    let unit = dir.path().join(Service::id(&service.name, Manager::Systemd));
    std::fs::write(&unit, service.render(Manager::Systemd).unwrap()).unwrap();
    let mut command = Command::new("systemd-analyze");
    command
        .arg("--man=no")
        .arg(if service.scope == Scope::User { "--user" } else { "--system" })
        .arg("verify")
        .arg(&unit);
    match command.env("XDG_RUNTIME_DIR", dir.path()).env("HOME", dir.path()).output() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => eprintln!("skipped: {name}: no systemd-analyze here"),
        Err(err) => panic!("{err}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            // It may speak of the machine's own units too.
            let ours: Vec<_> = said.lines().filter(|line| line.contains("steadfast-demo")).collect();
            assert!(ours.is_empty(), "{name}: {said}");
        }
    }
}

#[test]
fn a_unit_of_the_system() {
    let service = service(Scope::System);
    insta::assert_snapshot!(service.render(Manager::Systemd).unwrap());
    verify("system", &service);
}

#[test]
fn a_unit_of_the_user() {
    let service = service(Scope::User);
    insta::assert_snapshot!(service.render(Manager::Systemd).unwrap());
    verify("user", &service);
}

/// What it starts goes on running when it is stopped, and is not bound by what binds it.
#[test]
fn a_service_that_has_a_virtual_machine() {
    let service = Service { vm: true, ..service(Scope::User) };
    let unit = service.render(Manager::Systemd).unwrap();
    assert!(unit.contains("\nKillMode=process\n"), "{unit}");
    for bound in [
        "KillMode=mixed",
        "MemoryDenyWriteExecute",
        "SystemCallFilter",
        "RestrictNamespaces",
        "RestrictAddressFamilies",
    ] {
        assert!(!unit.contains(bound), "{bound}: {unit}");
    }
    verify("vm", &service);
    assert!(service.render(Manager::Launchd).unwrap().contains("<key>AbandonProcessGroup</key>\n  <true/>"));
}

#[test]
fn odd_paths_are_quoted() {
    insta::assert_snapshot!("odd_unit", odd().render(Manager::Systemd).unwrap());
    verify("odd", &odd());
    insta::assert_snapshot!("odd_property_list", odd().render(Manager::Launchd).unwrap());
}

#[test]
fn property_lists() {
    insta::assert_snapshot!("agent", service(Scope::User).render(Manager::Launchd).unwrap());
}

#[test]
fn a_path_that_no_unit_can_hold_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let broken = |file: &[u8]| {
        let files = Path::new(std::ffi::OsStr::from_bytes(file)).into();
        Service { files, ..service(Scope::User) }.render(Manager::Systemd).unwrap_err().to_string()
    };
    assert_eq!(
        broken(b"/a\nExecStart=/b"),
        "`/a\u{fffd}ExecStart=/b` cannot stand in a service file: it has a control character"
    );
    assert!(broken(b"/a\xff").ends_with("it is not UTF-8"));
    let quoted = Service { program: "/a\"b".into(), ..service(Scope::User) };
    assert!(quoted.render(Manager::Systemd).unwrap_err().to_string().contains("quotes"));
    assert!(quoted.render(Manager::Launchd).is_ok());
}

#[test]
fn only_what_we_wrote_is_ours() {
    for manager in [Manager::Systemd, Manager::Launchd] {
        let text = service(Scope::User).render(manager).unwrap();
        assert!(Service::is_ours(&text));
        assert!(!Service::is_ours("[Unit]\nDescription=mine\n"));
    }
}

#[test]
fn files_are_kept_where_the_manager_looks() {
    let path = |manager, scope| {
        let name = "demo".parse().unwrap();
        Service::path(&name, manager, scope, Path::new("/h/.config"), Path::new("/h")).display().to_string()
    };
    assert_eq!(path(Manager::Systemd, Scope::User), "/h/.config/systemd/user/steadfast-demo.service");
    assert_eq!(path(Manager::Systemd, Scope::System), "/etc/systemd/system/steadfast-demo.service");
    assert_eq!(path(Manager::Launchd, Scope::User), "/h/Library/LaunchAgents/io.steadfast.demo.plist");
    assert_eq!(path(Manager::Launchd, Scope::System), "/Library/LaunchDaemons/io.steadfast.demo.plist");
}

/// `examples/service` shows what `install` writes for `examples/minimal.yaml`.
#[test]
fn the_examples_are_what_is_written_today() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    assert!(std::fs::read_to_string(examples.join("minimal.yaml")).unwrap().contains("\nname: demo\n"));
    let unit = Service {
        files: Path::new("/etc/steadfast/minimal.yaml").into(),
        flags: vec!["--root".into(), "/var/lib/steadfast".into()],
        home: "/root".into(),
        ..service(Scope::System)
    };
    let list = Service {
        files: Path::new("/Users/me/agents/minimal.yaml").into(),
        root: "/Users/me/.steadfast".into(),
        home: "/Users/me".into(),
        ..service(Scope::User)
    };
    for (file, service, manager) in
        [("steadfast.service", unit, Manager::Systemd), ("io.steadfast.demo.plist", list, Manager::Launchd)]
    {
        let (path, text) = (examples.join("service").join(file), service.render(manager).unwrap());
        if std::env::var_os("STEADFAST_WRITE_EXAMPLES").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(there, text, "{} is stale: run this test with STEADFAST_WRITE_EXAMPLES=1", path.display());
    }
}
