//! A list of a tarball's members: what is accepted makes up the tarball, and what is fetched and what is copied of it is all of it.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use steadfast::fuzzing::cache::ranges;
use steadfast::model::{LayerIndex, Member};
use steadfast_fuzz::{bounded, check_message, expand, mutate_json};

fn check(bytes: &[u8]) {
    // As many bytes as its last member says, so that a list is refused for what is wrong with it.
    let said = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let number = |name: &str| said.as_ref().and_then(|list| list.as_array()?.last()?.get(name)?.as_u64()).unwrap_or(0);
    let size = number("offset").saturating_add(number("length"));
    let index = match LayerIndex::parse(bytes, size) {
        Ok(index) => index,
        Err(err) => return check_message(&err.to_string()),
    };
    let mut end = 0;
    for member in index.members() {
        assert!(member.offset == end && member.length > 0, "{member:?} does not follow {end}");
        end = member.end();
    }
    assert!(end == size, "{end} bytes of {size}");
    assert!(LayerIndex::parse(bytes, size ^ 1).is_err(), "it is of one length");
    let list = serde_json::to_vec(index.members()).unwrap();
    assert!(LayerIndex::parse(&list, size).as_ref() == Ok(&index), "what is written is what was read");

    let has_none = |_: &Member| false;
    let has_all = |_: &Member| true;
    let has_some = |member: &Member| member.sha256.as_bytes()[31].is_multiple_of(2);
    assert!(ranges(&index, has_none).is_none(), "nothing is here, and something is copied");
    assert!(ranges(&index, has_all).is_none_or(|ranges| ranges.is_empty()), "all is here, and something is fetched");
    let Some(ranges) = ranges(&index, has_some) else { return };
    let mut end = 0;
    for (at, range) in ranges.iter().enumerate() {
        assert!(range.start < range.end && (at == 0 || range.start > end), "{range:?} does not stand apart");
        end = range.end;
    }
    assert!(end <= size);
    for member in index.members() {
        let is_fetched = ranges.iter().any(|range| range.start <= member.offset && member.end() <= range.end);
        let is_touched = ranges.iter().any(|range| range.start < member.end() && member.offset < range.end);
        assert!(is_fetched == is_touched, "half of {member:?} is fetched");
        assert!(is_fetched || has_some(member), "{member:?} is nowhere");
    }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_json(data, size, max_size, seed, 0)
});

fuzz_target!(|data: &[u8]| {
    let bytes = expand(data);
    bounded(|| check(&bytes));
});
