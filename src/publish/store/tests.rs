use super::*;

#[test]
fn a_destination_is_a_bucket_or_a_directory() {
    let s3 = |bucket: &str, prefix: &str| Destination::S3 { bucket: bucket.into(), prefix: prefix.into() };
    for (text, wanted) in [
        ("s3://bkt", s3("bkt", "")),
        ("s3://bkt/", s3("bkt", "")),
        ("s3://my.bucket-1/a/b/", s3("my.bucket-1", "a/b/")),
        ("file:///srv/www", Destination::Directory("/srv/www".into())),
    ] {
        assert_eq!(text.parse(), Ok(wanted), "{text}");
    }
    for good in ["vm/manifest.json", "a", "a b/c+d"] {
        assert_eq!(ObjectKey::new(good).unwrap().as_str(), good);
    }
    for bad in ["", "/a", "a/", "a//b", "../a", "a/..", "a\\b", "a\nb"] {
        assert!(ObjectKey::new(bad).is_err(), "{bad}");
    }
    for bad in [
        "",
        "b",
        "s3://",
        "s3:///x",
        "s3://bkt/../c",
        "s3://a@b/c",
        "file://srv",
        "https://x/y",
        "s3://bkt//x",
        "s3://Bkt",
        "s3://b",
    ] {
        let err = bad.parse::<Destination>().unwrap_err();
        assert!(err.contains("expected s3://BUCKET, s3://BUCKET/PREFIX or file:///DIR"), "{err}");
    }
}
