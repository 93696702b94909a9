//! `source: registry`, from a real one on loopback.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::world::{World, api, until};

struct Registry {
    address: String,
    child: Option<(Child, tempfile::TempDir)>,
}

impl Registry {
    fn reachable() -> Self {
        let address = std::env::var("STEADFAST_TEST_REGISTRY").unwrap_or_else(|_| "127.0.0.1:5097".to_owned());
        if TcpStream::connect(&address).is_ok() {
            return Self { address, child: None };
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\nhttp: {{addr: \"{address}\"}}\n"
        );
        std::fs::write(directory.path().join("config.yml"), config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(directory.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts; install Debian's `docker-registry`, or set STEADFAST_TEST_REGISTRY");
        until("the registry listens", || TcpStream::connect(&address).is_ok());
        Self { address, child: Some((child, directory)) }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `podman login` of whoever runs steadfast, not of whoever runs Podman's service.
#[test]
fn pulled_with_the_clients_login() {
    let mut registry = crate::support::registry::Registry::open();
    let mut world = World::new();
    let repository = format!("{}/{}", registry.address, world.owner);
    let push =
        format!("/v4.0.0/libpod/images/localhost/{}:1/push?destination={repository}:1&tlsVerify=false", world.owner);
    let (status, said) = api("POST", &push, b"");
    assert_eq!(status, 200, "{said}");
    let id = world.image("1").id();
    let (status, _) = api("DELETE", &format!("/v4.0.0/libpod/images/{id}?force=true"), b"");
    assert_eq!(status, 200);
    registry.wants_login();
    world.state(&[&format!("a: {{version: \"1\", image: \"{repository}\", source: registry}}")]);

    // Nobody is logged in, or somebody by a helper that is not there, or with the wrong password.
    let hint = format!("`podman login {}`", registry.address);
    world.run("apply").expect(1).says("unauthorized").says(&hint);
    let helper = json!({"credHelpers": {&registry.address: "steadfast-test-nowhere"}}).to_string();
    world.sandbox.write("logins.json", helper);
    world.sandbox.set("REGISTRY_AUTH_FILE", world.sandbox.path("logins.json").display().to_string());
    world.run("apply").expect(1).says("docker-credential-steadfast-test-nowhere").says("unauthorized").says(&hint);
    let wrong = json!({"auths": {&registry.address: {"username": "somebody", "password": "canary-wrong"}}}).to_string();
    world.sandbox.write("logins.json", wrong);
    world.run("apply -vv").expect(1).keeps_quiet_about(&["canary"]).says(&hint);

    world.sandbox.write("logins.json", crate::support::registry::login(&registry.address));
    world.run("apply -vv").expect(0).keeps_quiet_about(&["canary", "c29tZWJvZHk6"]);
    assert_eq!(world.inspect("a")["Image"], json!(id));
    world.run("down").expect(0);
    let _ = api("DELETE", &format!("/v4.0.0/libpod/images/{id}?force=true"), b"");
}

#[test]
fn pulled_by_tag_and_by_digest() {
    let registry = Registry::reachable();
    let world = World::new();
    let local = format!("localhost/{}:1", world.owner);
    let repository = format!("{}/{}", registry.address, world.owner);
    let push = format!("/v4.0.0/libpod/images/{local}/push?destination={repository}:1.0&tlsVerify=false");
    let (status, said) = api("POST", &push, b"");
    assert_eq!(status, 200, "{said}");
    let id = world.image("1").id();
    let (status, _) = api("DELETE", &format!("/v4.0.0/libpod/images/{id}?force=true"), b"");
    assert_eq!(status, 200);

    let agent = |version: &str| format!("a: {{version: \"{version}\", image: \"{repository}\", source: registry}}");
    world.state(&[&agent("1.0")]);
    let took = world.apply_kinds();
    assert_eq!(took, ["pullImage", "createContainer"]);
    assert!(world.runs("a"));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());

    let (_, image) = api("GET", &format!("/v4.0.0/libpod/images/{id}/json"), b"");
    let digest = image["RepoDigests"][0].as_str().unwrap().split_once('@').unwrap().1.to_owned();
    world.state(&[&agent(&digest)]);
    let took = world.apply_kinds();
    assert!(took.contains(&"replaceContainer".to_owned()), "{took:?}");
    assert_eq!(world.inspect("a")["Image"], json!(id), "the same image by another name");
    assert_eq!(world.apply_kinds(), Vec::<String>::new());

    // What is not there: the registry's words, and what runs goes on.
    let ids = world.ids();
    world.state(&[&agent("9.9")]);
    world.run("apply").expect(1).says("manifest unknown").says(&format!("failed to pull image `{repository}:9.9`"));
    assert_eq!((world.ids(), world.runs("a")), (ids, true));
    world.state(&[&format!("a: {{version: \"1\", image: \"127.0.0.1:9/{}\", source: registry}}", world.owner)]);
    world.run("apply").expect(1).says("connection refused");
}
