//! State that cannot be written down: agents are kept all the same, and what is not recorded is said.

use crate::keeper::kill;
use crate::support::command::Outcome;
use crate::world::{World, until};

/// Runs `run` after these commands, where nobody else sees what they mount, while `meanwhile` happens. Its output is in
/// the files `out` and `err`, its code and the end of everything in what is yielded.
fn kept(world: &World, prepare: &str, meanwhile: impl FnOnce()) -> Option<Outcome> {
    let script = format!(
        "{prepare}; $STEADFAST run --resync 1s >out 2>err & pid=$!; \
         while [ ! -e stop ] && kill -0 $pid 2>/dev/null; do \
           if [ -e ask ]; then $STEADFAST status -o json >answer.new 2>&1 || true; mv answer.new answer; rm ask; fi; sleep 0.05; \
         done; \
         kill $pid || true; code=0; wait $pid || code=$?; echo \"code $code\"; ls -la {}/state/{}",
        world.sandbox.root().display(),
        world.owner
    );
    /// Ends the script, also when the test has failed meanwhile.
    struct Stop<'w>(&'w World);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.sandbox.write("stop", "");
        }
    }
    std::thread::scope(|scope| {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let script = std::thread::Builder::new().name(name).spawn_scoped(scope, || world.sandbox.mounting(&script));
        let script = script.expect("a thread");
        let stop = Stop(world);
        until("it runs, or cannot", || world.sandbox.path("err").exists() || script.is_finished());
        if !script.is_finished() {
            meanwhile();
        }
        drop(stop);
        script.join().expect("the script")
    })
}

fn read(world: &World, name: &str) -> String {
    std::fs::read_to_string(world.sandbox.path(name)).unwrap_or_default()
}

/// `status -o json`, asked where the mounts are seen.
fn status(world: &World) -> serde_json::Value {
    let _ = std::fs::remove_file(world.sandbox.path("answer"));
    world.sandbox.write("ask", "");
    until("an answer", || world.sandbox.path("answer").exists());
    serde_json::from_str(&read(world, "answer")).unwrap_or_default()
}

fn repairs(world: &World) {
    until("it has begun", || read(world, "err").contains("converged: "));
    let ids = world.ids();
    kill(world, "a");
    until("it runs again", || world.runs("a"));
    world.remove("b");
    until("it is there again", || world.runs("b"));
    assert_eq!(world.ids()[&world.name("a")], ids[&world.name("a")]);
    world.state(&[&world.agent("a", ""), &world.agent("b", ""), &world.agent("c", "")]);
    until("the new one runs", || world.runs("c"));
    until("all is well", || read(world, "err").matches("converged: ").count() >= 2);
}

#[test]
fn a_state_directory_that_cannot_be_written_keeps_nobody_from_work() {
    let world = World::new();
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    world.applied();
    let root = world.sandbox.root().display().to_string();
    let prepare = format!("mount --bind {root} {root}; mount -o remount,bind,ro {root}");
    let Some(outcome) = kept(&world, &prepare, || repairs(&world)) else { return };
    let said = read(&world, "err");
    assert!(outcome.stdout.contains("code 143"), "{outcome:?}\n{said}");
    for words in ["Read-only file system", "going on", "journal"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.lines().filter(|line| line.contains("Read-only file system")).count() < 8, "each once: {said}");
    assert_eq!((world.ids().len(), world.leftovers()), (3, Vec::new()));
    // With a disk again, there is nothing to do.
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}

#[test]
fn a_full_disk_keeps_nobody_from_work() {
    let world = World::new();
    world.state(&[&world.agent("a", ""), &world.agent("b", "")]);
    world.applied();
    let root = world.sandbox.root().display().to_string();
    let prepare = format!(
        "mkdir kept; cp -a {root}/. kept; mount -t tmpfs -o size=1m,mode=0700 tmpfs {root}; cp -a kept/. {root}; \
         dd if=/dev/zero of={root}/fill bs=1k 2>/dev/null || true"
    );
    let told = std::cell::RefCell::new(serde_json::Value::Null);
    let outcome = kept(&world, &prepare, || {
        repairs(&world);
        *told.borrow_mut() = status(&world);
    });
    let Some(outcome) = outcome else { return };
    let (said, told) = (read(&world, "err"), told.into_inner());
    assert!(outcome.stdout.contains("code 143"), "{outcome:?}\n{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.lines().filter(|line| line.contains("No space left on device")).count() < 8, "each once: {said}");
    // A socket needs no room in a file system of memory, so the status can say it too.
    assert!(told["run"]["notRecorded"].as_str().is_some_and(|why| why.contains("No space left")), "{told}\n{said}");
    assert_eq!((world.ids().len(), world.leftovers()), (3, Vec::new()));
    assert_eq!(world.apply_kinds(), Vec::<String>::new());
}
