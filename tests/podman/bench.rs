//! What every test of the suite starts from: an owner and an image of its own, and clearing up whatever happens.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use steadfast::backend::{ByteStream, Chunk, Engine, EngineError, EngineErrorKind, Exec, Look};
use steadfast::model::{
    CanonicalSpec, ContainerId, ContainerName, ContainerSpec, ContainerState, Create, Guest, HostKey, ImageId,
    ImageRef, Name, RestartPolicy, SPEC_VERSION, Text,
};

use crate::support;
use crate::support::archive::docker_archive;

/// No grace: the shells of the test images need none.
pub const NOW: Duration = Duration::ZERO;

/// A Podman to be tested, and what a test may take for granted there.
pub struct Place<E> {
    pub engine: E,
    /// Through the API: failures have a status and a body, else an exit code and standard error.
    pub api: bool,
    /// On this machine: one file system, one loopback, one table of processes.
    pub local: bool,
    /// The API of the same Podman, for requests beside the engine.
    pub socket: PathBuf,
    /// What has to stay until the test is over.
    pub keep: Box<dyn Any + Send + Sync>,
}

pub struct Bench<E> {
    pub engine: E,
    pub api: bool,
    pub local: bool,
    socket: PathBuf,
    _keep: Box<dyn Any + Send + Sync>,
    pub owner: Name,
    pub image: ImageRef,
    pub image_id: ImageId,
    pub key: HostKey,
}

/// Runs one test and clears up after it, also when it fails.
pub async fn run<E: Engine>(place: Place<E>, test: impl AsyncFnOnce(&Bench<E>)) {
    let Place { engine, api, local, socket, keep } = place;
    let owner = support::unique("t");
    // In a machine that is emulated a load takes seconds: there the tests share an image.
    let whose = if local { owner.clone() } else { "sf-shared".to_owned() };
    let image = docker_archive().tag(format!("localhost/{whose}:1")).file("owner", whose.clone());
    let reference = ImageRef::new(format!("localhost/{whose}:1")).expect("a reference");
    if local || engine.image(&reference).await.expect("a look at an image").is_none() {
        engine.load(whole(image.build())).await.expect("the test's image loads");
    }
    let bench = Bench {
        engine,
        api,
        local,
        socket,
        _keep: keep,
        image: reference,
        image_id: ImageId::from(image.id()),
        owner: Name::new(owner).expect("a name"),
        key: HostKey::from_bytes([7; 32]),
    };
    let outcome = AssertUnwindSafe(test(&bench)).catch_unwind().await;
    bench.clear().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl<E: Engine> Bench<E> {
    async fn clear(&self) {
        for state in self.guest().await.containers.values() {
            let _ = self.engine.remove(&state.id, NOW).await;
        }
        if self.local {
            let _ = self.engine.remove_image(&self.image_id).await;
        }
    }

    pub fn name(&self, suffix: &str) -> ContainerName {
        ContainerName::new(format!("{}-{suffix}", self.owner)).expect("a container name")
    }

    /// A container that runs a shell line.
    pub fn shell(&self, suffix: &str, line: &str) -> Create {
        self.command(suffix, &["sh", "-c", line])
    }

    pub fn command(&self, suffix: &str, words: &[&str]) -> Create {
        let spec = ContainerSpec {
            command: Some(words.iter().map(|word| Text::plain(*word)).collect()),
            restart: RestartPolicy::No,
            ..ContainerSpec::new(self.name(suffix))
        };
        let mut create = Create {
            name: spec.name.clone(),
            image: self.image.clone(),
            image_id: None,
            spec,
            labels: BTreeMap::new(),
            volumes: Vec::new(),
        };
        self.label(&mut create);
        create
    }

    /// Gives it the labels that fit its spec.
    pub fn label(&self, create: &mut Create) {
        let spec = CanonicalSpec::new(&create.spec, &create.image, None, &self.key);
        create.labels = BTreeMap::from([
            ("steadfast.name".to_owned(), self.owner.to_string()),
            ("steadfast.agent".to_owned(), "agent".to_owned()),
            ("steadfast.spec".to_owned(), spec.to_label()),
            ("steadfast.spec-version".to_owned(), SPEC_VERSION.to_string()),
        ]);
    }

    pub async fn made(&self, create: &Create) -> ContainerId {
        self.engine.create(create).await.unwrap_or_else(|err| panic!("{err} {:?}", err.body))
    }

    pub async fn started(&self, create: &Create) -> ContainerId {
        let id = self.made(create).await;
        self.engine.start(&id).await.unwrap_or_else(|err| panic!("{err} {:?}", err.body));
        id
    }

    pub fn looking_for(&self, names: &[&ContainerName]) -> Look {
        Look {
            owner: self.owner.clone().into(),
            names: names.iter().map(|name| (*name).clone()).collect(),
            health: BTreeSet::new(),
            key: self.key.clone(),
        }
    }

    pub async fn guest(&self) -> Guest {
        self.engine.look(&self.looking_for(&[])).await.expect("a look")
    }

    pub async fn state(&self, id: &ContainerId) -> ContainerState {
        let guest = self.guest().await;
        guest.containers.into_values().find(|state| state.id == *id).expect("the container is seen")
    }

    /// The kind of a refusal that has no better one.
    pub fn refusal(&self) -> EngineErrorKind {
        if self.api { EngineErrorKind::ApiError } else { EngineErrorKind::CommandFailed }
    }

    /// The details of a refusal: what was asked, and how and with which words it was refused.
    pub fn assert_details(&self, err: &EngineError, status: u16) {
        assert!(err.command.is_some(), "{err:?}");
        match self.api {
            true => assert_eq!((err.status, err.body.is_some()), (Some(status), true), "{err:?}"),
            false => assert_eq!((err.exit_code, err.stderr.is_some()), (Some(125), true), "{err:?}"),
        }
    }

    /// A request to Podman beside the engine, for what no engine offers.
    pub async fn aside(&self, method: reqwest::Method, path: &str) -> reqwest::Response {
        self.aside_with(method, path, String::new()).await
    }

    /// The same with a body of JSON.
    pub async fn aside_with(&self, method: reqwest::Method, path: &str, body: String) -> reqwest::Response {
        let tls =
            rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let client = reqwest::Client::builder()
            .unix_socket(self.socket.clone())
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .build()
            .expect("a client");
        let request = client.request(method, format!("http://d/v4.0.0/libpod{path}"));
        request.header("Content-Type", "application/json").body(body).send().await.expect("an answer")
    }

    /// `podman commit` of a container, under a name of this test's.
    pub async fn commit(&self, id: &ContainerId, tag: &str) -> ImageRef {
        let path = format!("/commit?container={id}&repo=localhost/{}&tag={tag}", self.owner);
        let answer = self.aside(reqwest::Method::POST, &path).await;
        assert!(answer.status().is_success(), "{answer:?}");
        ImageRef::new(format!("localhost/{}:{tag}", self.owner)).expect("a reference")
    }

    /// Looks until the container is as wanted.
    pub async fn until(&self, id: &ContainerId, wanted: impl Fn(&ContainerState) -> bool) -> ContainerState {
        let began = Instant::now();
        loop {
            let state = self.state(id).await;
            if wanted(&state) {
                return state;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "not as wanted after 20 s: {state:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

/// What came out on standard output and standard error.
#[derive(Debug, Default, PartialEq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    pub async fn of<S, X>(mut chunks: Pin<Box<S>>) -> Self
    where
        S: futures_util::Stream<Item = Result<Chunk, X>> + ?Sized,
        X: std::fmt::Display,
    {
        let mut output = Self::default();
        while let Some(chunk) = chunks.next().await {
            match chunk.unwrap_or_else(|err| panic!("{err}")) {
                Chunk::Stdout(bytes) => output.stdout.extend(bytes),
                Chunk::Stderr(bytes) => output.stderr.extend(bytes),
            }
        }
        output
    }

    pub fn text(&self) -> (String, String) {
        (String::from_utf8_lossy(&self.stdout).into_owned(), String::from_utf8_lossy(&self.stderr).into_owned())
    }
}

/// The output of a command that is sent nothing.
pub async fn output(exec: Exec) -> Output {
    within(Output::of(exec.output)).await
}

/// A test that would hang fails instead.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("done within a minute")
}

/// An archive as a stream, in pieces that are no multiple of anything.
pub fn whole(bytes: Vec<u8>) -> ByteStream {
    let pieces: Vec<_> = bytes.chunks(65_521).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}
