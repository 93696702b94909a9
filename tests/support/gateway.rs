//! A real S3-compatible store on loopback: versitygw over a directory.
#![allow(dead_code)] // each test binary uses its own part

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The bucket that is there.
pub const BUCKET: &str = "agents";

/// One that runs until it is dropped.
pub struct Gateway {
    child: Child,
    dir: tempfile::TempDir,
    /// Where it listens.
    pub url: String,
}

impl Gateway {
    /// Starts one, or none and says so where there is no program.
    pub fn start() -> Self {
        let program = std::env::var_os("STEADFAST_TEST_VERSITYGW").filter(|path| !path.is_empty());
        let program = program.unwrap_or_else(|| {
            panic!(
                "STEADFAST_TEST_VERSITYGW is not set: these tests need a real store to write to. `go install \
                 github.com/versity/versitygw/cmd/versitygw@v1.8.0` makes the program, and the variable is its path"
            )
        });
        // It keeps what it knows of an object in extended attributes, which not every /tmp has.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = Command::new(&program)
                .args(["--port", &format!("127.0.0.1:{port}"), "--quiet", "posix"])
                .arg(dir.path())
                .env("ROOT_ACCESS_KEY", "test")
                .env("ROOT_SECRET_KEY", "secret")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(30) && child.try_wait().unwrap().is_none() {
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { child, dir, url: format!("http://127.0.0.1:{port}") };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            // Somebody else has taken the port.
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("{} does not start", Path::new(&program).display());
    }

    /// The variables by which it is reached.
    pub fn vars(&self) -> BTreeMap<String, String> {
        vars(&self.url)
    }

    /// The file that an object is in the gateway's directory.
    pub fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join(BUCKET).join(key)
    }
}

/// The variables by which whatever stands before it is reached.
pub fn vars(url: &str) -> BTreeMap<String, String> {
    [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", url),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
