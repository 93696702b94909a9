use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

/// Asks, and yields all frames of the answer.
fn asked(target: &Path, question: &Question, list: &[u8]) -> Vec<frame::Frame> {
    let mut input = frame::message(Kind::Ask, question);
    input.extend_from_slice(list);
    let mut out = Vec::new();
    converse(target, &mut input.as_slice(), &mut out).unwrap();
    let (mut frames, mut from) = (Vec::new(), out.as_slice());
    while let Some(frame) = frame::read(&mut from).unwrap() {
        frames.push(frame);
    }
    frames
}

fn sheet(items: &[impl Wire]) -> Vec<u8> {
    let mut list = Vec::new();
    let mut sheet = Sheet::asking(&mut list);
    items.iter().for_each(|item| sheet.add(item).unwrap());
    sheet.finish().unwrap();
    frame::write(&mut list, Kind::End, &[]).unwrap();
    list
}

fn entries<T: Wire>(frames: &[frame::Frame]) -> Vec<T> {
    let mut items = Vec::new();
    frames
        .iter()
        .filter(|frame| frame.kind == Kind::Entries)
        .for_each(|frame| wire::read_all(&frame.payload, &mut items).unwrap());
    items
}

fn look(target: &Path) -> (Top, Vec<Entry>) {
    let frames = asked(target, &Question::Look { clear: true }, &[]);
    let Ok(Told::Top(top)) = serde_json::from_slice(&frames[0].payload) else { panic!("{frames:?}") };
    let mut found = entries::<Entry>(&frames);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    (top, found)
}

fn place(target: &Path, steps: &[Step]) -> Vec<Outcome> {
    entries(&asked(target, &Question::Place { stage: ".steadfast-incoming-x".into() }, &sheet(steps)))
}

fn step(path: &[u8], expected: Expected, task: Task) -> Step {
    Step { path: path.to_vec(), expected, task }
}

#[test]
fn a_tree_is_told_with_whatever_names_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a/tree");
    let (top, found) = look(&target);
    assert!(!top.exists && found.is_empty());
    assert_eq!(top.missing, [Word::from("a"), Word::from("tree")]);
    assert_eq!(top.base.os(), std::fs::canonicalize(dir.path()).unwrap());

    std::fs::create_dir_all(target.join("d/.git")).unwrap();
    std::fs::create_dir_all(target.join(".git/refs/heads/x")).unwrap();
    std::fs::create_dir_all(target.join(".git/objects/ab")).unwrap();
    std::fs::create_dir_all(target.join(".steadfast-incoming-dead")).unwrap();
    let odd = b"d/new\nline\xff";
    std::fs::write(target.join(OsStr::from_bytes(odd)), "x").unwrap();
    symlink("../out", target.join("l")).unwrap();
    std::fs::write(target.join(".git/HEAD"), "ref: refs/heads/x/y\n").unwrap();
    std::fs::write(target.join(".git/packed-refs"), "# pack-refs\n12 refs/heads/x/y\n34 refs/tags/t\n^56\n").unwrap();
    std::fs::write(target.join(".git/refs/heads/x/y"), "78\n").unwrap();
    std::fs::write(target.join(".git/objects/ab/cd"), "123").unwrap();
    let (top, found) = look(&target);
    let names: Vec<&[u8]> = found.iter().map(|entry| entry.path.as_slice()).collect();
    assert_eq!(names, [b"d".as_slice(), b"d/.git", odd, b"l"]);
    assert_eq!((found[3].kind, found[3].link.as_slice()), (EntryKind::Link, b"../out".as_slice()));
    assert_eq!(top.repository.head, Word::from("ref: refs/heads/x/y"));
    let refs = [("refs/tags/t", "34"), ("refs/heads/x/y", "78")].map(|(name, to)| (Word::from(name), Word::from(to)));
    assert_eq!(top.repository.refs, refs);
    assert_eq!(top.repository.objects, [(Word::from("objects/ab/cd"), 3)]);
    assert!(!target.join(".steadfast-incoming-dead").exists());

    let digests: Vec<Entry> = entries(&asked(&target, &Question::Digests, &sheet(&[Word(odd.to_vec()), "l".into()])));
    assert_eq!(digests[0].digest.unwrap()[..4], [0x2d, 0x71, 0x16, 0x42]);
    assert_eq!(digests[1].digest, None);
}

#[test]
fn a_step_is_taken_only_while_it_is_as_it_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path();
    let stage = target.join(".steadfast-incoming-x");
    let came = |files: &[(&str, &str)]| {
        std::fs::create_dir_all(&stage).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(stage.join(name), text).unwrap());
    };
    came(&[("0", "zero"), ("1", "one")]);
    let done = place(
        target,
        &[
            step(b"d", Expected::Absent, Task::Dir(0o750)),
            step(b"d/f", Expected::Absent, Task::File(0)),
            step(b"l", Expected::Absent, Task::Link(b"d/f".to_vec())),
            step(b"../x", Expected::Anything, Task::File(1)),
        ],
    );
    let Outcome::Placed(placed) = &done[1] else { panic!("{done:?}") };
    assert!(matches!(&done[3], Outcome::Kept(path, _) if path == b"../x"), "{done:?}");
    assert_eq!(std::fs::metadata(target.join("d")).unwrap().permissions().mode() & 0o777, 0o750);
    assert_eq!(std::fs::read(target.join("l")).unwrap(), b"zero");
    assert!(!stage.exists());

    // Written by somebody else since.
    std::fs::write(target.join("d/f"), "guest").unwrap();
    came(&[("0", "host")]);
    let seen = Expected::Seen(EntryKind::File, placed.stamp);
    let done = place(target, &[step(b"d/f", seen, Task::File(0)), step(b"d/f", seen, Task::Remove)]);
    assert!(done.iter().all(|outcome| matches!(outcome, Outcome::Kept(..))), "{done:?}");
    assert_eq!(std::fs::read(target.join("d/f")).unwrap(), b"guest");
    came(&[("0", "host")]);
    place(target, &[step(b"d/f", Expected::Anything, Task::File(0))]);
    assert_eq!(std::fs::read(target.join("d/f")).unwrap(), b"host");

    // A link in the place of a directory leads nowhere.
    let outside = tempfile::tempdir().unwrap();
    std::fs::remove_file(target.join("l")).unwrap();
    symlink(outside.path(), target.join("l")).unwrap();
    came(&[("0", "host")]);
    let done = place(target, &[step(b"l/f", Expected::Absent, Task::File(0))]);
    assert!(matches!(&done[0], Outcome::Kept(..)), "{done:?}");
    assert!(!outside.path().join("f").exists());

    // A directory goes when it is empty.
    let dir_seen = Expected::Seen(EntryKind::Dir, Stamp::default());
    place(target, &[step(b"d", dir_seen, Task::Remove)]);
    assert!(target.join("d/f").exists());
    let done = place(target, &[step(b"d/f", Expected::Anything, Task::Remove), step(b"d", dir_seen, Task::Remove)]);
    assert_eq!(done, [Outcome::Gone(b"d/f".to_vec()), Outcome::Gone(b"d".to_vec())]);
}

#[test]
fn a_file_is_sent_whole_and_what_is_none_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = vec![7; PIECE + 1];
    std::fs::write(dir.path().join("f"), &bytes).unwrap();
    symlink("f", dir.path().join("l")).unwrap();
    let frames = asked(dir.path(), &Question::Read, &sheet(&[Word::from("f"), Word::from("l")]));
    let data: Vec<u8> =
        frames.iter().filter(|frame| frame.kind == Kind::Data).flat_map(|frame| frame.payload.clone()).collect();
    assert_eq!(data, bytes);
    let told: Vec<String> = frames
        .iter()
        .filter(|frame| frame.kind == Kind::Told)
        .map(|frame| String::from_utf8_lossy(&frame.payload).into_owned())
        .collect();
    assert_eq!(told, [format!("{{\"length\":{}}}", bytes.len()), "{\"length\":null}".to_owned()]);
}

#[test]
fn writing_is_tried_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    let before = std::fs::metadata(dir.path().join("f")).unwrap().ctime_nsec();
    let frames = asked(dir.path(), &Question::TryWrite, &[]);
    let told: Told = serde_json::from_slice(&frames[0].payload).unwrap();
    assert!(matches!(told, Told::Writable(Some(_))), "{told:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(std::fs::metadata(dir.path().join("f")).unwrap().ctime_nsec(), before);
}
