//! A registry of the test's own on loopback, with a login or without.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where it listens. The test's Podman must call this registry insecure.
pub fn address() -> String {
    std::env::var("STEADFAST_TEST_LOGIN_REGISTRY").unwrap_or_else(|_| "127.0.0.1:5098".to_owned())
}

/// Who may pull from it, and by which password.
pub const USER: &str = "somebody";
/// See [`USER`].
pub const PASSWORD: &str = "canary-password";
const HTPASSWD: &str = "somebody:$2b$04$bLJVlm3pYSyE1rTY8FdsZuBnYKn5hKev8i8CjnOUwlE7Pxq9lFi3S\n";

/// What `podman login` writes.
pub fn login(registry: &str) -> String {
    // somebody:canary-password
    format!(r#"{{"auths": {{"{registry}": {{"auth": "c29tZWJvZHk6Y2FuYXJ5LXBhc3N3b3Jk"}}}}}}"#)
}

/// Ends with this handle.
pub struct Registry {
    pub address: String,
    directory: tempfile::TempDir,
    child: Child,
    /// One at a time: there is one address.
    _turn: std::fs::File,
}

impl Registry {
    /// Starts one that takes anything from anybody.
    pub fn open() -> Self {
        let (address, directory) = (address(), tempfile::tempdir().expect("a directory"));
        let turn = super::turn(&address);
        let child = start(&address, directory.path(), "");
        Self { address, directory, child, _turn: turn }
    }

    /// From now on it wants a login.
    pub fn wants_login(&mut self) {
        self.end();
        std::fs::write(self.directory.path().join("htpasswd"), HTPASSWD).expect("written");
        let auth =
            format!("auth: {{htpasswd: {{realm: tests, path: {}/htpasswd}}}}\n", self.directory.path().display());
        self.child = start(&self.address, self.directory.path(), &auth);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}

fn start(address: &str, directory: &Path, auth: &str) -> Child {
    let root = directory.display();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
         http: {{addr: \"{address}\"}}\n{auth}"
    );
    std::fs::write(directory.join("config.yml"), config).expect("written");
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(directory.join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry starts; install Debian's `docker-registry`");
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the registry never listened on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}
