use super::*;

#[test]
fn content_ranges_are_read_and_rubbish_is_not() {
    let range = |start, last, total| Some(ContentRange { start, last, total });
    assert_eq!(content_range("bytes 5-9/10"), range(Some(5), Some(9), Some(10)));
    assert_eq!(content_range("bytes 5-9/*"), range(Some(5), Some(9), None));
    assert_eq!(content_range("bytes */10"), range(None, None, Some(10)));
    assert_eq!(content_range("pages 1-2/3"), None);
    assert_eq!(content_range("bytes"), None);
}

#[test]
fn a_range_names_its_last_byte() {
    let range = |from, upto| Ask { from, upto, ..Ask::default() }.range();
    assert_eq!(range(0, None), None);
    assert_eq!(range(5, None).as_deref(), Some("bytes=5-"));
    assert_eq!(range(0, Some(10)).as_deref(), Some("bytes=0-9"));
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
    assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
    let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
    let wait = retry_after(&later).unwrap();
    assert!(wait > Duration::from_secs(90) && wait <= Duration::from_secs(100), "{wait:?}");
    assert_eq!(retry_after("soon"), None);
}
