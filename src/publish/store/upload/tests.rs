use super::*;

#[test]
fn parts_are_large_enough_for_ten_thousand_of_them() {
    for (size, wanted) in [(1, PART), (PART * MOST_PARTS, PART), (PART * MOST_PARTS + 1, PART + MEBIBYTE)] {
        assert_eq!(part_bytes(size), wanted);
    }
    for size in [u64::from(u32::MAX), 1 << 40, 5 << 40] {
        assert!(size.div_ceil(part_bytes(size)) <= MOST_PARTS);
    }
}

#[test]
fn a_record_is_taken_up_by_the_same_upload_alone() {
    let dir = tempfile::tempdir().unwrap();
    let of = dir.path().join("a.tar.gz");
    let wanted = RecordHead {
        to: "http://s3/b/k".into(),
        sha256: Sha256Digest::from_bytes([7; 32]),
        part_bytes: PART,
        identity: None,
        upload: String::new(),
    };
    assert!(Record::open(&of, &wanted).is_none());
    let begun = Record::begin(&of, RecordHead { upload: "u1".into(), ..wanted.clone() });
    begun.add(3, "e3".into());
    begun.add(0, "e0".into());
    assert!(Record::open(&of, &wanted).is_none(), "somebody is at it");
    drop(begun);
    let path = Record::path_of(&of, &wanted.to);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{{\"part\":1,\"et")).unwrap();
    let again = Record::open(&of, &wanted).unwrap();
    assert_eq!((again.head.upload.as_str(), again.arrived().len()), ("u1", 2));
    again.add(1, "e1".into());
    drop(again);
    assert_eq!(Record::open(&of, &wanted).unwrap().arrived().into_keys().collect::<Vec<_>>(), [0, 1, 3]);
    let other = RecordHead { sha256: Sha256Digest::from_bytes([8; 32]), ..wanted };
    assert!(Record::open(&of, &other).is_none(), "other bytes are another upload");
}
