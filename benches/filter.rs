//! What the filter costs through which tarballs are loaded: the same tarball with it and without it, in turns.
//!
//! `STEADFAST_TEST_PODMAN_SOCKET=… cargo bench --features podman-tests --bench filter [-- MEBIBYTES [ROUNDS]]`

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use sha2::Digest;
use steadfast::backend::cache::{Cache, CacheOptions};
use steadfast::backend::podman::Podman;
use steadfast::backend::{ByteStream, Engine, Progress, Store};
use steadfast::model::{Artifact, ArtifactKey, ImageId, ImageRef, Sha256Digest};
use support::archive::{Compression, docker_archive};

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().filter_map(|word| word.parse::<usize>().ok());
    let (mebibytes, rounds) = (numbers.next().unwrap_or(400), numbers.next().unwrap_or(7));
    let mut noise = vec![0; mebibytes << 20];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    let image = docker_archive().tag("localhost/filter:1").file("noise", noise);
    let id = ImageId::from(image.id());
    let bytes = image.compress(Compression::Gzip).build();

    let root = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(root.path(), CacheOptions::default()).expect("a cache");
    let key = ArtifactKey::new("vm/images/filter-1-x64.tar.gz").expect("a key");
    let path = cache.artifact_path(&key);
    std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
    std::fs::write(&path, &bytes).expect("written");
    let digest = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let sha256 = Sha256Digest::parse(&digest).expect("a digest");
    let artifact = Artifact { key, sha256, size_bytes: bytes.len() as u64, layers: None };
    drop(bytes);
    cache.prove(&artifact.key).await.expect("hashed");
    let wanted = ImageRef::new("localhost/filter:1").expect("a name");

    let podman = Podman::connect(Some(&support::podman_socket()), |_| None).expect("Podman");
    let (mut with, mut without, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        without
            .push(load(&podman, &id, cache.open_plain(&artifact.key, Progress::new(0)).await.expect("opened")).await);
        with.push(
            load(&podman, &id, cache.open_image(&artifact, &wanted, Progress::new(0)).await.expect("opened")).await,
        );
        let plain = drained(cache.open_plain(&artifact.key, Progress::new(0)).await.expect("opened")).await;
        let filtered = drained(cache.open_image(&artifact, &wanted, Progress::new(0)).await.expect("opened")).await;
        alone.push(filtered.as_secs_f64() / plain.as_secs_f64());
    }
    let (with, without) = (median(with), median(without));
    println!("{mebibytes} MiB, {rounds} rounds in turns, medians");
    println!("loaded without the filter  {without:.3} s");
    println!("loaded through the filter  {with:.3} s  {:.3}×", with / without);
    println!("unpacked alone, through it {:.3}×", median(alone));
}

async fn load(podman: &Podman, id: &ImageId, tar: ByteStream) -> f64 {
    let began = Instant::now();
    podman.load(tar).await.expect("loaded");
    let took = began.elapsed().as_secs_f64();
    podman.remove_image(id).await.expect("removed");
    took
}

async fn drained(mut tar: ByteStream) -> Duration {
    let began = Instant::now();
    while let Some(piece) = tar.next().await {
        piece.expect("whole");
    }
    began.elapsed()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
