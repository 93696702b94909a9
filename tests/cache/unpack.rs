//! Artifacts as plain tars, and what is wrong with some.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use steadfast::backend::Progress;
use steadfast::backend::cache::damage;

use crate::world::{KEY, World, key, noise};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn read(packed: &[u8]) -> Result<(Vec<u8>, (u64, u64)), std::io::Error> {
    let world = World::new();
    world.write(KEY, packed);
    let progress = Progress::new(0);
    let mut stream = world.cache.open_plain(&key(KEY), progress.clone()).await.unwrap();
    let mut plain = Vec::new();
    while let Some(piece) = stream.next().await {
        plain.extend_from_slice(&piece?);
    }
    Ok((plain, progress.get()))
}

#[tokio::test]
async fn every_packing_yields_the_same_tar() {
    let plain = noise(3 * 1024 * 1024 + 7);
    let members: Vec<u8> = plain.chunks(1_000_000).flat_map(gzip).collect();
    for packed in [gzip(&plain), members, zstd(&plain), plain.clone()] {
        let (got, progress) = read(&packed).await.unwrap();
        assert!(got == plain, "{} bytes came", got.len());
        assert_eq!(progress, (packed.len() as u64, packed.len() as u64), "progress counts packed bytes");
    }
    assert_eq!(read(b"").await.unwrap().0, b"");
}

#[tokio::test]
async fn damage_is_distinguished_from_other_errors() {
    let plain = noise(1024 * 1024);
    for packed in [gzip(&plain), zstd(&plain)] {
        let mut corrupt = packed.clone();
        let last = corrupt.len() - 5;
        corrupt[last] ^= 0xff;
        for (broken, name) in [(&packed[..packed.len() / 2], "cut"), (corrupt.as_slice(), "corrupt")] {
            let err = read(broken).await.map(|(plain, _)| plain.len()).expect_err(name);
            let found = damage(&err).unwrap_or_else(|| panic!("{name}: {err:?}"));
            assert!(found.to_string().starts_with(&format!("artifact `{KEY}` is damaged: ")), "{found}");
        }
    }
    assert!(damage(&std::io::Error::other("connection lost")).is_none());
}

#[tokio::test]
async fn a_missing_artifact_is_an_error_at_once() {
    let err = World::new().cache.open_plain(&key(KEY), Progress::new(0)).await.err().unwrap();
    assert!(err.to_string().starts_with("failed to open `"), "{err}");
}
