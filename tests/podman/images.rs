//! Loading, naming and removing images.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use steadfast::backend::{ByteStream, Engine, EngineErrorKind};
use steadfast::model::{ImageId, ImageRef};

use crate::bench::{Bench, NOW, whole, within};
use crate::support::archive::{Compression, docker_archive};

pub async fn names_are_reported_as_podman_files_them<E: Engine>(bench: &Bench<E>) {
    let short = format!("{}-short:1", bench.owner);
    let full = format!("ghcr.io/acme/{}:2", bench.owner);
    let image = docker_archive().tag(&short).tag(&full).file("two", bench.owner.to_string());
    let mut names = bench.engine.load(whole(image.build())).await.unwrap();
    names.sort();
    assert_eq!(names, [full.clone(), format!("localhost/{short}")]);
    let id = ImageId::from(image.id());
    assert_eq!(bench.engine.image(&ImageRef::new(full).unwrap()).await.unwrap(), Some(id.clone()));
    let again = bench.engine.load(whole(image.build())).await.unwrap();
    assert_eq!(again.len(), 2, "loading again is fine");
    bench.engine.remove_image(&id).await.unwrap();
}

pub async fn an_image_without_a_name_has_its_id<E: Engine>(bench: &Bench<E>) {
    let image = docker_archive().file("nameless", bench.owner.to_string());
    let names = bench.engine.load(whole(image.build())).await.unwrap();
    assert_eq!(names, [format!("sha256:{}", image.id())]);
    let id = ImageId::from(image.id());
    let name = ImageRef::new(format!("localhost/{}-named:1", bench.owner)).unwrap();
    bench.engine.tag(&id, &name).await.unwrap();
    assert_eq!(bench.engine.image(&name).await.unwrap(), Some(id.clone()));
    bench.engine.remove_image(&id).await.unwrap();
}

pub async fn compressed_archives_load_once_decompressed<E: Engine>(bench: &Bench<E>) {
    for how in [Compression::Gzip, Compression::Zstd] {
        let image = docker_archive().file("packed", format!("{} {how:?}", bench.owner)).compress(how);
        let packed = image.build();
        let plain = match how {
            Compression::Zstd => zstd::decode_all(packed.as_slice()).unwrap(),
            _ => {
                let mut plain = Vec::new();
                io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut plain).unwrap();
                plain
            }
        };
        let names = bench.engine.load(whole(plain)).await.unwrap();
        assert_eq!(names, [format!("sha256:{}", image.id())]);
        bench.engine.remove_image(&ImageId::from(image.id())).await.unwrap();
    }
}

pub async fn a_broken_archive_is_refused_and_leaves_nothing<E: Engine>(bench: &Bench<E>) {
    let name = ImageRef::new(format!("localhost/{}-broken:1", bench.owner)).unwrap();
    let good = docker_archive().tag(name.as_str()).file("broken", bench.owner.to_string()).build();
    let garbage = vec![b'#'; 100_000];
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    for (what, bytes) in
        [("truncated", good[..middle].to_vec()), ("garbage", garbage), ("flipped", flipped), ("empty", vec![])]
    {
        let err = bench.engine.load(whole(bytes)).await.expect_err(what);
        assert_eq!(err.kind, bench.refusal(), "{what}: {err}");
        bench.assert_details(&err, 500);
        assert!(err.message.starts_with("failed to load an image: "), "{what}: {err}");
        assert!(err.message.len() > 40, "{what}: Podman's own sentence is there: {err}");
        assert_eq!(bench.engine.image(&name).await.unwrap(), None, "{what}");
    }
}

pub async fn free_space_is_reported<E: Engine>(bench: &Bench<E>) {
    let room = within(bench.engine.room()).await.unwrap().expect("Podman 4.0 and later tell it");
    assert!((1 << 20..1 << 60).contains(&room), "{room}");
}

pub async fn an_archive_that_cannot_be_read_is_not_podmans_fault<E: Engine>(bench: &Bench<E>) {
    let name = ImageRef::new(format!("localhost/{}-cut:1", bench.owner)).unwrap();
    let good = docker_archive().tag(name.as_str()).file("cut", bench.owner.to_string()).build();
    let half = Bytes::copy_from_slice(&good[..good.len() / 2]);
    let broken: ByteStream =
        Box::pin(stream::iter([Ok(half), Err(io::Error::other("the gzip stream is corrupt at byte 17"))]));
    let err = within(bench.engine.load(broken)).await.unwrap_err();
    assert!(err.message.contains("the gzip stream is corrupt at byte 17"), "{err}");
    assert_eq!(err.status, None);
    assert_eq!(bench.engine.image(&name).await.unwrap(), None);
}

pub async fn an_image_is_named_again_and_removed_with_all_names<E: Engine>(bench: &Bench<E>) {
    let second = ImageRef::new(format!("localhost:5000/{}:two", bench.owner)).unwrap();
    for _ in 0..2 {
        bench.engine.tag(&bench.image_id, &second).await.unwrap();
    }
    let guest = bench.guest().await;
    assert_eq!(guest.images.get(&second), Some(&bench.image_id));
    assert_eq!(guest.images.get(&bench.image), Some(&bench.image_id), "the first name stays");
    bench.engine.remove_image(&bench.image_id).await.unwrap();
    for name in [&second, &bench.image] {
        assert_eq!(bench.engine.image(name).await.unwrap(), None);
    }
    bench.engine.remove_image(&bench.image_id).await.unwrap();
}

pub async fn an_image_in_use_stays_with_its_names<E: Engine>(bench: &Bench<E>) {
    let id = bench.made(&bench.shell("user", "true")).await;
    let second = ImageRef::new(format!("localhost/{}:two", bench.owner)).unwrap();
    for names in 1..=2 {
        let err = bench.engine.remove_image(&bench.image_id).await.unwrap_err();
        assert_eq!(err.kind, EngineErrorKind::Conflict, "{names} names: {err}");
        assert_eq!(bench.engine.image(&bench.image).await.unwrap(), Some(bench.image_id.clone()));
        bench.engine.tag(&bench.image_id, &second).await.unwrap();
    }
    assert_eq!(bench.engine.image(&second).await.unwrap(), Some(bench.image_id.clone()));
    bench.engine.remove(&id, NOW).await.unwrap();
    bench.engine.remove_image(&bench.image_id).await.unwrap();
}

pub async fn a_container_is_made_from_the_image_whatever_its_name_points_to<E: Engine>(bench: &Bench<E>) {
    let other = docker_archive().file("other", bench.owner.to_string());
    bench.engine.load(whole(other.build())).await.unwrap();
    let other = ImageId::from(other.id());
    bench.engine.tag(&other, &bench.image).await.unwrap();
    let mut create = bench.shell("by-id", "true");
    create.image_id = Some(bench.image_id.clone());
    let id = bench.made(&create).await;
    assert_eq!(bench.engine.inspect(&id).await.unwrap().unwrap().image, bench.image_id);
    let images = bench.engine.images().await.unwrap();
    assert_eq!(images.names.get(&bench.image), Some(&other), "the name is where it was");
    assert!(images.store[&bench.image_id].tags.is_empty(), "and the image is there without one");
    bench.engine.remove(&id, NOW).await.unwrap();

    create.image_id = Some(ImageId::from("0123456789abcdef".repeat(4)));
    let err = bench.engine.create(&create).await.unwrap_err();
    assert_eq!(err.kind, EngineErrorKind::NotFound, "{err}");
    bench.engine.remove_image(&other).await.unwrap();
}

pub async fn an_image_says_what_it_is_built_for_and_where_it_keeps_data<E: Engine>(bench: &Bench<E>) {
    let tag = format!("localhost/{}:facts", bench.owner);
    let image = docker_archive().tag(&tag).volume("/data").volume("/var/lib/x/").arch("riscv64");
    bench.engine.load(whole(image.build())).await.unwrap();
    let facts = bench.engine.image_facts(&tag).await.unwrap().expect("the image");
    let _ = bench.engine.remove_image(&ImageId::from(image.id())).await;
    assert_eq!((facts.os.as_str(), facts.arch.as_str()), ("linux", "riscv64"));
    let volumes: Vec<_> = facts.volumes.iter().map(|path| path.trim_end_matches('/')).collect();
    assert_eq!(volumes, ["/data", "/var/lib/x"]);
    assert_eq!(bench.engine.image_facts(&tag).await.unwrap(), None);
    // Its machine is one that runs the tests' own images.
    let own = bench.engine.image_facts(bench.image.as_str()).await.unwrap().expect("the image");
    let machine = bench.engine.machine().await.unwrap();
    assert_eq!((machine.os, machine.arch), (own.os, own.arch));
}
