use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::read::{Entry, Filter, Reader, ReportedError};
use super::write::older;
use super::*;
use crate::model::FailureKind;
use crate::plan::Plan;
use crate::words::Word;

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/demo/journal.jsonl");
    (dir, path)
}

fn all(path: &Path) -> (Vec<Entry>, u64) {
    let mut reader = Reader::open(path).unwrap();
    let entries = reader.last(&Filter::default(), usize::MAX).unwrap();
    (entries.into(), reader.skipped())
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.fields["n"].as_u64().unwrap()).collect()
}

fn report(converged: bool) -> Report {
    Report { converged, ..Report::of_plan("demo".parse().unwrap(), Plan::default(), None) }
}

#[test]
fn an_entry_has_its_envelope_whatever_its_fields_are_called() {
    let (_dir, path) = place();
    let journal = Journal::new(&path, "start");
    journal.note("runStarted", json!({"event": "other", "pid": 0, "file": "a.yaml"}));
    journal.woken_by("resync");
    journal.note("backingOff", json!({"agent": "a"}));
    let (entries, _) = all(&path);
    assert_eq!(entries[0].event(), "runStarted");
    assert_eq!(entries[0].fields["pid"], std::process::id());
    assert_eq!((entries[0].text("trigger"), entries[0].text("file")), ("start", "a.yaml"));
    assert_eq!((entries[1].text("trigger"), entries[1].agent()), ("resync", Some("a")));
}

#[test]
fn it_stays_within_two_files_and_the_newest_are_kept() {
    let (_dir, path) = place();
    let journal = Journal::bounded(&path, "start", 2000);
    for n in 0..500 {
        journal.note("n", json!({"n": n}));
    }
    for file in [&path, &older(&path)] {
        let size = std::fs::metadata(file).unwrap().len();
        assert!((1..=2000).contains(&size), "{size} bytes in {}", file.display());
    }
    let (entries, skipped) = all(&path);
    let kept = numbers(&entries);
    assert_eq!(skipped, 0);
    assert!(kept.len() > 20, "{kept:?}");
    let newest: Vec<u64> = (500 - kept.len() as u64..500).collect();
    assert_eq!(kept, newest, "in order, without a gap, up to the last");
}

/// As many processes would: each has its own open file, and its own moment to find that it is full.
#[test]
fn writers_side_by_side_lose_nothing_while_the_files_are_put_aside() {
    let (_dir, path) = place();
    let write = |most: u64, each: u64| {
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let journal = Journal::bounded(path, "start", most);
                    for n in 0..each {
                        journal.note("n", json!({"n": writer * each + n}));
                    }
                    assert_eq!(journal.problem(), None);
                });
            }
        });
    };
    // Lines of about a hundred bytes: it is put aside once, so all of them must still be there.
    write(60_000, 200);
    let (entries, skipped) = all(&path);
    assert!(older(&path).exists(), "it was put aside");
    assert_eq!((entries.len(), skipped), (800, 0));
    assert_eq!(numbers(&entries).into_iter().collect::<BTreeSet<_>>().len(), 800, "each of them once");
    // Again and again: what is left are whole lines.
    write(1000, 200);
    let (entries, skipped) = all(&path);
    assert!(entries.len() > 5 && skipped == 0, "{} entries, {skipped} torn", entries.len());
}

#[test]
fn one_that_was_put_aside_or_removed_under_our_hands_is_begun_anew() {
    let (_dir, path) = place();
    let journal = Journal::new(&path, "start");
    journal.note("n", json!({"n": 1}));
    std::fs::rename(&path, older(&path)).unwrap();
    journal.note("n", json!({"n": 2}));
    assert_eq!(numbers(&all(&path).0), [1, 2]);
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    journal.note("n", json!({"n": 3}));
    assert_eq!(numbers(&all(&path).0), [3]);
}

#[test]
fn a_torn_line_costs_itself_alone() {
    let (_dir, path) = place();
    let journal = Journal::new(&path, "start");
    journal.note("n", json!({"n": 1}));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{}", &text[..text.len() / 2])).unwrap();
    assert_eq!((numbers(&all(&path).0), all(&path).1), (vec![1], 1));
    // Another one, which begins where this one was killed, and this one, which never heard of it.
    Journal::new(&path, "start").note("n", json!({"n": 2}));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{{\"time\":")).unwrap();
    journal.note("n", json!({"n": 3}));
    assert_eq!((numbers(&all(&path).0), all(&path).1), (vec![1, 2, 3], 2));
}

#[test]
fn garbage_is_counted_and_an_endless_line_is_not_kept_in_memory() {
    let (_dir, path) = place();
    Journal::new(&path, "start").note("n", json!({"n": 1}));
    let good = std::fs::read(&path).unwrap();
    let mut bytes = b"\n[]\nnull\n{\"event\":\"step\"}\n{\"time\":\"soon\"}\n\xff\xfe\n".to_vec();
    bytes.extend(vec![b'x'; 3 * 1024 * 1024]);
    bytes.push(b'\n');
    bytes.extend(&good);
    std::fs::write(&path, &bytes).unwrap();
    let (entries, skipped) = all(&path);
    assert_eq!((numbers(&entries), skipped), (vec![1], 6));
}

#[test]
fn what_cannot_be_written_is_reported_once_and_heard_all_the_same() {
    let (dir, path) = place();
    // A file where the directory should be: also root cannot write there.
    std::fs::write(dir.path().join("state"), "").unwrap();
    let journal = Journal::new(&path, "start");
    let mut live = journal.subscribe();
    assert_eq!(journal.problem(), None);
    for n in 0..3 {
        journal.note("n", json!({"n": n}));
        assert_eq!(live.try_recv().unwrap()["n"], n);
    }
    let problem = journal.problem().unwrap();
    assert!(problem.contains("journal.jsonl`: "), "{problem}");
    std::fs::remove_file(dir.path().join("state")).unwrap();
    journal.note("n", json!({"n": 3}));
    assert_eq!(journal.problem(), None);
    let (entries, _) = all(&path);
    assert_eq!((entries[0].event(), &entries[0].fields["entries"]), ("notRecorded", &json!(3)));
    assert_eq!(entries[1].fields["n"], 3);
    assert_eq!(entries.len(), 2);
}

#[test]
fn one_that_is_off_is_observed_and_not_written() {
    let journal = Journal::off();
    let mut live = journal.subscribe();
    journal.note("n", json!({"n": 1}));
    assert_eq!(live.try_recv().unwrap()["event"], "n");
}

#[tokio::test]
async fn a_pass_that_changes_nothing_is_not_written_down() {
    let (_dir, path) = place();
    let journal = Journal::new(&path, "resync");
    for converged in [true, true, false, false, true, true] {
        journal.pass(&report(converged)).await;
    }
    let passes: Vec<bool> = all(&path).0.iter().map(|entry| entry.fields["converged"].as_bool().unwrap()).collect();
    assert_eq!(passes, [false, true]);
}

#[tokio::test]
async fn that_all_is_well_again_is_written_down_by_the_next_process_too() {
    let (_dir, path) = place();
    for converged in [true, false, true, true] {
        Journal::new(&path, "apply").pass(&report(converged)).await;
    }
    let passes: Vec<bool> = all(&path).0.iter().map(|entry| entry.fields["converged"].as_bool().unwrap()).collect();
    assert_eq!(passes, [false, true]);
}

#[test]
fn only_what_concerns_an_agent_and_only_what_is_new_enough() {
    let (_dir, path) = place();
    let journal = Journal::new(&path, "start");
    journal.note("step", json!({"agent": "a", "n": 1}));
    journal.note("step", json!({"agent": "b", "n": 2}));
    journal.note("pass", json!({"troubles": [{"agent": "a", "kind": "io", "message": "m"}], "n": 3}));
    journal.note("pass", json!({"troubles": ["m"], "n": 4}));
    let last = |agent: Option<&str>, since: Option<SystemTime>, most| {
        let filter = Filter { agent: agent.map(str::to_owned), since };
        numbers(Reader::open(&path).unwrap().last(&filter, most).unwrap().make_contiguous())
    };
    assert_eq!(last(Some("a"), None, 9), [1, 3]);
    assert_eq!(last(None, None, 2), [3, 4]);
    let later = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(last(None, Some(later), 9), Vec::<u64>::new());
    assert_eq!(last(None, None, 0), Vec::<u64>::new());
}

#[test]
fn one_that_follows_goes_on_over_everything_that_may_happen_to_the_file() {
    let (_dir, path) = place();
    let mut reader = Reader::open(&path).unwrap();
    let mut next = move || reader.poll().unwrap().map(|entry| entry.fields["n"].as_u64().unwrap());
    assert_eq!(next(), None, "there is no journal yet");
    let journal = Journal::new(&path, "start");
    let note = |n: u64| journal.note("n", json!({"n": n}));
    note(1);
    assert_eq!((next(), next()), (Some(1), None));
    // Half a line is waited for.
    let whole = std::fs::read(&path).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &whole[..20]).unwrap();
    assert_eq!(next(), None);
    std::io::Write::write_all(&mut file, &whole[20..]).unwrap();
    assert_eq!((next(), next()), (Some(1), None));
    // Put aside with something in it that was not read yet.
    note(2);
    std::fs::rename(&path, older(&path)).unwrap();
    note(3);
    assert_eq!((next(), next(), next()), (Some(2), Some(3), None));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(next(), None);
    note(4);
    assert_eq!((next(), next()), (Some(4), None));
    std::fs::File::options().write(true).truncate(true).open(&path).unwrap();
    assert_eq!(next(), None);
    note(5);
    assert_eq!((next(), next()), (Some(5), None));
}

#[test]
fn an_entry_is_bounded_and_pushes_nothing_out() {
    let (_dir, path) = place();
    let journal = Journal::new(&path, "start");
    let mut received = journal.subscribe();
    journal.note("n", json!({"n": 0}));
    let huge = "é".repeat(15 << 20);
    journal.note("step", json!({"n": 1, "error": {"kind": "apiError", "message": format!("failed: {huge}!")}}));
    let problems: Vec<_> =
        (0..20_000).map(|n| json!({"agent": format!("a{n}"), "message": "no ".repeat(500)})).collect();
    journal.note("pass", json!({"n": 2, "troubles": problems}));
    let changes: Vec<_> = (0..100_000).map(|n| json!([n, huge[..2000]])).collect();
    journal.note("step", json!({"n": 3, "changes": changes}));
    let (entries, skipped) = all(&path);
    assert_eq!((numbers(&entries), skipped), (vec![0, 1, 2, 3], 0));
    let ReportedError { kind, message, .. } = entries[1].error().unwrap();
    assert!(
        kind == Word::Known(FailureKind::ApiError) && message.starts_with("failed: éé") && message.ends_with("é!"),
        "{kind}"
    );
    assert!(message.len() < 5_000 && message.contains("bytes left out"), "{} bytes", message.len());
    assert_eq!(entries[2].problems().last().unwrap().message, "… and 19936 more");
    assert!(std::fs::metadata(&path).unwrap().len() < 400 << 10);
    while let Ok(entry) = received.try_recv() {
        assert!(entry.to_string().len() < 300 << 10);
    }
}
