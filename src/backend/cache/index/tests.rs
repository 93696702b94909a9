use std::fs;

use super::*;

fn key() -> ArtifactKey {
    ArtifactKey::new("vm/images/a-1-x64.tar.gz").unwrap()
}

fn stamp(size: u64) -> Stamp {
    Stamp { device: 1, inode: 2, size, mtime: 3, ctime: 4 }
}

#[test]
fn an_entry_is_believed_only_of_the_very_file() {
    let digest = Sha256Digest::from_bytes([7; 32]);
    let mut index = Index::default();
    index.put(key(), stamp(5), digest, None);
    assert_eq!(index.digest(&key(), &stamp(5)), Some(digest));
    for other in [
        Stamp { device: 9, ..stamp(5) },
        Stamp { inode: 9, ..stamp(5) },
        Stamp { size: 9, ..stamp(5) },
        Stamp { mtime: 9, ..stamp(5) },
        Stamp { ctime: 9, ..stamp(5) },
    ] {
        assert_eq!(index.digest(&key(), &other), None, "{other:?}");
    }
}

#[test]
fn garbage_is_an_empty_index_and_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path()).unwrap();
    fs::create_dir_all(layout.cache()).unwrap();
    for garbage in ["", "{", "[]", r#"{"version":2}"#, r#"{"version":1,"files":{"../x":{}}}"#, "\0\0\0\0"] {
        fs::write(layout.index(), garbage).unwrap();
        let file = IndexFile::new(layout.clone());
        assert_eq!(file.read().digest(&key(), &stamp(5)), None);
        file.update(|index| index.put(key(), stamp(5), Sha256Digest::from_bytes([7; 32]), None)).unwrap();
        assert!(IndexFile::new(layout.clone()).read().digest(&key(), &stamp(5)).is_some(), "{garbage:?}");
    }
}

#[test]
fn what_cannot_be_written_is_remembered_by_this_process() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path()).unwrap();
    // A directory in the lock's place that cannot be moved aside makes writing impossible, even for root.
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir_all(layout.index_lock()).unwrap();
    std::os::unix::fs::symlink(outside.path(), layout.quarantine()).unwrap();
    let digest = Sha256Digest::from_bytes([7; 32]);
    let file = IndexFile::new(layout.clone());
    for before in [None, Some(serde_json::to_vec(&Index::default()).unwrap())] {
        if let Some(bytes) = before {
            fs::write(layout.index(), bytes).unwrap();
            assert_eq!(file.read().digest(&key(), &stamp(5)), None, "the file has changed: it counts");
        }
        file.try_update(|index| index.put(key(), stamp(5), digest, None));
        file.try_update(|index| index.put_image(digest, &ImageId::from("abc")));
        assert_eq!(file.read().digest(&key(), &stamp(5)), Some(digest));
        assert!(file.read().image(&digest).is_some());
        assert_eq!(IndexFile::new(layout.clone()).read().digest(&key(), &stamp(5)), None);
    }
    fs::remove_dir(layout.index_lock()).unwrap();
    file.update(|_| {}).unwrap();
    let written = IndexFile::new(layout).read();
    assert_eq!(written.digest(&key(), &stamp(5)), Some(digest), "written as soon as that works");
}

#[test]
fn writers_keep_each_others_entries() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let layout = layout.clone();
            scope.spawn(move || {
                let file = IndexFile::new(layout);
                for turn in 0..10u8 {
                    let image = ImageId::from("abc");
                    file.update(|index| index.put_image(Sha256Digest::from_bytes([writer * 10 + turn; 32]), &image))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(IndexFile::new(layout).read().images.len(), 80);
}

#[test]
fn a_file_written_a_moment_ago_is_not_settled() {
    let at = |nanos: u64| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    let fresh = Stamp { mtime: 5_000_000_001, ctime: 5_000_000_002, ..stamp(1) };
    assert_eq!(fresh.unsettled_for(at(5_000_000_002)), Some(TICK));
    assert_eq!(fresh.unsettled_for(at(5_100_000_000)), None);
    assert_eq!(fresh.unsettled_for(at(1_000_000_000)), None, "the clock was set back");
    let coarse = Stamp { mtime: 5_000_000_000, ctime: 5_000_000_000, ..stamp(1) };
    assert!(coarse.unsettled_for(at(5_500_000_000)).is_some());
}
