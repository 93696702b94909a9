use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    replace(path, true, |mut file| file.write_all(text.as_bytes()))
}

#[test]
fn whatever_a_kill_left_the_next_replacement_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/handles.json");
    write(&path, "first").unwrap();
    for left in ["", "half", &"much longer than what comes next".repeat(100)] {
        fs::write(temporary_of(&path), left).unwrap();
        fs::set_permissions(temporary_of(&path), Permissions::from_mode(0o644)).unwrap();
        write(&path, "next").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "next");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(names(path.parent().unwrap()), ["handles.json"]);
        fs::write(temporary_of(&path), left).unwrap();
        sweep(&path);
        assert_eq!(names(path.parent().unwrap()), ["handles.json"]);
    }
}

#[test]
fn what_earlier_versions_left_goes_from_directories_of_our_own() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = [".tmpAb3xY9", ".tmp000000", ".steadfast-tmp-q8ZkL2", ".steadfast-tmp-name.json~"];
    let others = [".tmp", ".tmp-notes", ".tmpAb3xY", ".tmpAb3xY9z", ".tmpAb.xY9", "tmpAb3xY9", "name.json"];
    let make = |name: &&str| fs::write(dir.path().join(name), "half").unwrap();
    earlier.iter().chain(&others).for_each(make);
    // What is no file, or leads elsewhere, was not left by us.
    fs::create_dir(dir.path().join(".tmpDirect")).unwrap();
    symlink(dir.path().join("name.json"), dir.path().join(".tmpLink00")).unwrap();
    sweep_directory(dir.path());
    assert_eq!(names(dir.path()).iter().filter(|name| earlier.contains(&name.as_str())).count(), 2);
    sweep_own_directory(dir.path());
    let mut kept = [&others[..], &[".tmpDirect", ".tmpLink00"]].concat();
    kept.sort_unstable();
    assert_eq!(names(dir.path()), kept);
}

#[test]
fn what_fails_leaves_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    write(&path, "first").unwrap();
    replace(&path, false, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    assert_eq!(names(dir.path()), ["f"]);
}

#[test]
fn writers_take_turns_and_a_sweep_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let long = |writer: usize| writer.to_string().repeat(10_000);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (path, dir) = (&path, dir.path());
            scope.spawn(move || {
                for _ in 0..50 {
                    replace(path, false, |mut file| file.write_all(long(writer).as_bytes())).unwrap();
                    sweep_directory(dir);
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    assert!((0..4).any(|writer| text == long(writer)), "{} bytes", text.len());
    assert_eq!(names(dir.path()), ["f"]);
}

#[test]
fn a_link_is_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let (path, victim) = (dir.path().join("f"), dir.path().join("victim"));
    for target in ["precious", ""] {
        let _ = fs::remove_file(&victim);
        if !target.is_empty() {
            fs::write(&victim, target).unwrap();
        }
        symlink(&victim, &path).unwrap();
        for opened in [open_or_create(&path).map(drop), read(&path).map(drop)] {
            assert_eq!(unfit(&opened.unwrap_err()), Some(Unfit::Link));
        }
        symlink(&victim, temporary_of(&path)).unwrap();
        assert_eq!(unfit(&write(&path, "x").unwrap_err()), Some(Unfit::Link));
        sweep_directory(dir.path());
        fs::remove_file(temporary_of(&path)).unwrap();
        // The link itself is replaced.
        write(&path, "x").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
        assert_eq!(fs::read_to_string(&victim).unwrap_or_default(), target);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn only_regular_files_are_opened_and_a_pipe_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::create_dir(&path).unwrap();
    for opened in [open_or_create(&path).map(drop), read(&path).map(drop)] {
        assert_eq!(unfit(&opened.unwrap_err()), Some(Unfit::NotAFile));
    }
    fs::remove_dir(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    for opened in [open_or_create(&path).map(drop), read(&path).map(drop)] {
        assert_eq!(unfit(&opened.unwrap_err()), Some(Unfit::NotAFile));
    }
    assert_eq!(read(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn root_and_who_called_sudo_are_trusted_as_oneself_and_nobody_else() {
    assert!(trusts(1000, || None, 1000) && trusts(1000, || None, 0));
    assert!(!trusts(1000, || Some(1001), 1001), "whatever the environment says");
    assert!(trusts(0, || None, 0) && trusts(0, || Some(1000), 1000));
    assert!(!trusts(0, || None, 1000) && !trusts(0, || Some(1000), 1001));
}

#[test]
fn a_directory_that_others_can_write_to_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    check_directory(&root).unwrap();
    fs::create_dir(&root).unwrap();
    for (mode, fine) in [(0o700, true), (0o755, true), (0o775, false), (0o757, false), (0o1777, false)] {
        fs::set_permissions(&root, Permissions::from_mode(mode)).unwrap();
        assert_eq!(check_directory(&root).is_ok(), fine, "{mode:o}");
    }
    let link = dir.path().join("link");
    symlink(&root, &link).unwrap();
    let err = check_directory(&link).unwrap_err();
    assert!(err.to_string().contains("mode 1777): group or others can write to it"), "{err}");
    assert!(err.way_out().contains(&format!("`chmod go-w '{}'`", link.display())), "{}", err.way_out());
}
