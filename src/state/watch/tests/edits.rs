//! Ways to save, and what is saved.

use super::*;

#[tokio::test]
async fn every_way_to_save_is_noticed() {
    let ways = [
        ("in place", "cat next > conf/s.yaml"),
        ("slowly in place", "head -c 40 next > conf/s.yaml; tail -c +41 next >> conf/s.yaml"),
        ("atomic rename", "cp next conf/.s.yaml.tmp; mv conf/.s.yaml.tmp conf/s.yaml"),
        ("vim", "mv conf/s.yaml conf/s.yaml~; cp next conf/s.yaml; rm conf/s.yaml~"),
        ("vim, its backup elsewhere", "cp conf/s.yaml backup; cat next > conf/s.yaml; rm backup"),
        ("emacs", "cp next conf/.#s.yaml; ln conf/s.yaml conf/s.yaml~; mv conf/.#s.yaml conf/s.yaml; rm conf/s.yaml~"),
        ("mv", "mv next conf/s.yaml"),
        ("delete and recreate", "rm conf/s.yaml; cp next conf/s.yaml"),
        ("delete, wait, recreate", "rm conf/s.yaml; sleep 0.2; cp next conf/s.yaml"),
        ("dd", "dd if=next of=conf/s.yaml conv=fsync 2>/dev/null"),
        ("install", "cp next tmp; chmod 600 tmp; mv -f tmp conf/s.yaml"),
        ("another link", "cat next > other"),
        ("directory replaced", "rm -r conf; mkdir conf; cp next conf/s.yaml"),
        ("directory replaced slowly", "rm -r conf; sleep 0.2; mkdir conf; sleep 0.2; cp next conf/s.yaml"),
        ("directory renamed over", "mkdir new; cp next new/s.yaml; mv conf old; mv new conf; rm -r old"),
    ];
    for (way, script) in ways {
        let place = Place::new();
        place.write("conf/s.yaml", version("0"));
        std::fs::hard_link(place.path("conf/s.yaml"), place.path("other")).unwrap();
        let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
        assert_eq!((seen.now().as_str(), seen.mode().as_str()), ("0", "events"), "{way}");
        // More than once, since a watch can be lost by the first.
        for round in 1..=3 {
            place.write("next", version(&round.to_string()));
            place.shell(script);
            println!("{way}, {round}");
            seen.becomes(&round.to_string()).await;
            if way == "another link" {
                continue;
            }
            place.shell("ln -f conf/s.yaml other");
        }
    }
}

#[tokio::test]
async fn sed_and_appending_are_noticed() {
    let place = Place::new();
    place.write("conf/s.yaml", version("1"));
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    for round in 2..5 {
        place.shell(&format!("sed -i.bak 's/version: .*/version: \"{round}\"}}/' conf/s.yaml"));
        seen.becomes(&round.to_string()).await;
    }
    place.shell("echo '  b: {version: 1}' >> conf/s.yaml");
    seen.becomes("bad").await;
}

#[tokio::test]
async fn an_ancestor_may_go_and_come() {
    let place = Place::new();
    place.write("a/b/c/s.yaml", version("1"));
    let mut seen = Seen::of(&place.path("a/b/c/s.yaml")).await;
    for round in 2..5 {
        place.write("new/b/c/s.yaml", version(&round.to_string()));
        // What was there lives on, so that only its ancestor tells.
        place.shell(&format!("mv a gone{round}; mv new a"));
        seen.becomes(&round.to_string()).await;
    }
    place.shell("rm -r a");
    seen.becomes("bad").await;
    place.write("a/b/c/s.yaml", version("5"));
    seen.becomes("5").await;
}

#[tokio::test]
async fn the_same_content_is_no_event() {
    let place = Place::new();
    place.write("conf/s.yaml", version("1"));
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    let loads = seen.loads.load(Ordering::SeqCst);
    place.shell("touch conf/s.yaml");
    seen.is_quiet().await;
    place.shell("cp conf/s.yaml tmp; mv tmp conf/s.yaml; chmod 600 conf/s.yaml");
    seen.is_quiet().await;
    place.write("conf/other.yaml", version("2"));
    seen.is_quiet().await;
    assert_eq!(seen.loads.load(Ordering::SeqCst), loads, "it was loaded again");
    place.write("conf/s.yaml", version("2"));
    seen.becomes("2").await;
}

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_one() {
    let place = Place::new();
    place.write("conf/s.yaml", version("1"));
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    let half = &version("2")[..60];
    for bad in ["", "# only this\n", "\n\n", "---\n", "{}", "null", half, "a: [", &"[".repeat(1000)] {
        place.write("conf/s.yaml", bad);
        seen.becomes("bad").await;
        place.write("conf/s.yaml", version("1"));
        seen.becomes("1").await;
    }
    place.shell("rm conf/s.yaml");
    seen.becomes("bad").await;
    place.shell("mkdir conf/s.yaml");
    for (made, what) in [("", "a directory"), ("rmdir conf/s.yaml; mkfifo conf/s.yaml", "a FIFO")] {
        place.shell(made);
        let ends = format!("is {what}, not a file");
        let told = |revision: &Revision| revision.error().is_some_and(|err| err.to_string().ends_with(&ends));
        tokio::time::timeout(PATIENCE, seen.watching.revisions.wait_for(told)).await.unwrap().unwrap();
    }
    place.shell("rm conf/s.yaml");
    place.write("conf/s.yaml", version("2"));
    seen.becomes("2").await;
}

#[tokio::test]
async fn half_a_file_is_bad_until_the_rest_comes() {
    let place = Place::new();
    let text = version("2");
    place.write("conf/s.yaml", version("1"));
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    place.write("conf/s.yaml", &text[..70]);
    seen.becomes("bad").await;
    place.write("conf/s.yaml", &text[..75]);
    seen.watching.reload_and_wait().await;
    place.write("conf/s.yaml", text);
    seen.becomes("2").await;
}

#[tokio::test]
async fn the_same_error_is_reported_once() {
    let place = Place::new();
    place.write("conf/s.yaml", "a: [");
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    assert_eq!(seen.now(), "bad");
    place.write("conf/s.yaml", "a: [\n# and a comment");
    place.write("conf/s.yaml", "a: [");
    seen.is_quiet().await;
    place.shell("rm conf/s.yaml");
    let missing =
        |revision: &Revision| revision.error().is_some_and(|err| err.to_string().contains("there is no state"));
    tokio::time::timeout(PATIENCE, seen.watching.revisions.wait_for(missing)).await.unwrap().unwrap();
    seen.is_quiet().await;
    place.write("conf/s.yaml", version("1"));
    seen.becomes("1").await;
}

#[tokio::test]
async fn env_files_and_the_template_belong_to_it() {
    let place = Place::new();
    place.write("env/a.env", "A=1\n");
    place.write("conf/s.yaml", env_file("../env/a.env"));
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    assert_eq!(seen.now(), "1 A=1");
    place.write("env/a.env", "A=2\n");
    seen.becomes("1 A=2").await;
    place.shell("touch env/a.env; cp env/a.env new; mv new env/a.env");
    seen.is_quiet().await;
    place.shell("rm env/a.env");
    seen.becomes("bad").await;
    place.write("env/a.env", "A=3\n");
    seen.becomes("1 A=3").await;
    place.shell("rm -r env");
    seen.becomes("bad").await;
    place.write("env/a.env", "A=4\n");
    seen.becomes("1 A=4").await;
    // Another env file, in another directory that is yet to come: while it is bad, its place is known all the same.
    place.write("conf/s.yaml", env_file("../later/b.env"));
    seen.becomes("bad").await;
    place.write("later/b.env", "B=1\n");
    seen.becomes("1 B=1").await;
    place.write("later/b.env", "B=2\n");
    seen.becomes("1 B=2").await;
    place.write("env/a.env", "A=5\n");
    seen.is_quiet().await;

    place.write("vm/t.yaml", "cpus: 1\n");
    place.write("conf/s.yaml", lima("../vm/t.yaml"));
    seen.becomes("1").await;
    seen.is_quiet().await;
    for change in ["echo 'cpus: 2' > vm/t.yaml", "rm vm/t.yaml", "echo 'cpus: 3' > vm/t.yaml"] {
        seen.watching.revisions.mark_unchanged();
        place.shell(change);
        tokio::time::timeout(PATIENCE, seen.watching.revisions.changed()).await.expect(change).unwrap();
    }
}

#[tokio::test]
async fn what_was_read_is_not_shown() {
    let place = Place::new();
    place.write("a.env", "A=canary\n");
    place.write("conf/s.yaml", env_file("../a.env"));
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    let shown = format!("{:?}", seen.watching);
    assert!(shown.contains("a.env") && !shown.contains("canary"), "{shown}");
    place.write("a.env", "canary\n");
    seen.becomes("bad").await;
    let shown = format!("{:?} {}", seen.watching, seen.watching.revisions.borrow().error().unwrap().render(false));
    assert!(shown.contains("expected `NAME=value`") && !shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn constant_writing_does_not_put_it_off_for_ever() {
    let place = Place::new();
    place.write("conf/s.yaml", version("1"));
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    let (file, stop) = (place.path("conf/s.yaml"), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || {
        let mut round = 2_u64;
        while !stopped.load(Ordering::SeqCst) {
            let next = file.with_extension("next");
            std::fs::write(&next, version(&round.to_string())).unwrap();
            std::fs::rename(&next, &file).unwrap();
            round += 1;
        }
        round - 1
    });
    for _ in 0..3 {
        tokio::time::timeout(PATIENCE, seen.watching.revisions.changed()).await.expect("a revision").unwrap();
        assert!(!seen.now().starts_with("bad"));
    }
    stop.store(true, Ordering::SeqCst);
    let last = tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
    seen.becomes(&last.to_string()).await;
    seen.watching.reload_and_wait().await;
    seen.is_quiet().await;
}

/// However long it is to be quiet first.
#[tokio::test]
async fn who_asks_does_not_wait_for_quiet() {
    let place = Place::new();
    place.write("conf/s.yaml", version("0"));
    let patient = WatchOptions { debounce: NEVER, ..options() };
    let seen = Seen::with(&place.path("conf/s.yaml"), patient, ChangeSource::default()).await;
    // The first time the event may come only after the answer; then it is being waited out.
    for round in 1..=5 {
        place.write("conf/s.yaml", version(&round.to_string()));
        tokio::time::timeout(PATIENCE, seen.watching.reload_and_wait()).await.expect("an answer");
        assert_eq!(seen.now(), round.to_string());
    }
}

/// Files that are merged are one state file.
#[tokio::test]
async fn each_of_several_files_is_watched() {
    let place = Place::new();
    place.write("conf/s.yaml", version("1"));
    place.write("over/over.yaml", "agents: {a: {container: {env: {A: \"1\"}}}}\n");
    let files = [place.path("conf/s.yaml"), place.path("over/over.yaml")];
    let named = files.clone();
    let load = move || {
        let inputs = named.iter().map(|file| state::read(file)).collect::<Result<Vec<_>, _>>()?;
        let key = |_: &Path| HostKey::from_bytes([7; 32]);
        let vars = [("HOME".to_owned(), "/home/u".to_owned())].into();
        let context = Context { vars, root: None, manifest_url: None, host_arch: Arch::X64, key: &key };
        state::load_all(&inputs, &context)
    };
    let watching = watch_with(&files, options(), Box::new(load), ChangeSource::default()).await;
    let mut seen = Seen { watching, loads: Arc::default() };
    assert_eq!((seen.now().as_str(), seen.mode().as_str()), ("1 A=1", "events"));
    place.write("over/over.yaml", "agents: {a: {container: {env: {A: \"2\"}}}}\n");
    seen.becomes("1 A=2").await;
    place.write("conf/s.yaml", version("2"));
    seen.becomes("2 A=2").await;
    std::fs::remove_file(place.path("over/over.yaml")).unwrap();
    seen.becomes("bad").await;
    place.write("over/over.yaml", "agents: {a: {version: \"3\"}}\n");
    seen.becomes("3").await;
}
