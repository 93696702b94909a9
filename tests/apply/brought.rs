//! Workspaces that a state file declares: brought into their agent, and again when their source changed.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::declared::{coder, declare, is_settled, pid, problems, said, steps};
use crate::world::{World, kinds, nap, processes_with};

/// With git on this machine, and the checkout `repo` with one file.
fn checkout() -> World {
    let mut world = World::new();
    for (name, value) in [
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.com"),
        ("GIT_COMMITTER_NAME", "A"),
        ("GIT_COMMITTER_EMAIL", "a@example.com"),
    ] {
        world.sandbox.set(name, value);
    }
    sh(
        &world,
        "git init -q -b main repo; cd repo; echo one > file; echo '*.log' > .gitignore; git add -A; git commit -qm one",
    );
    world
}

#[track_caller]
fn sh(world: &World, line: &str) -> String {
    world.sandbox.shell(&format!("set -e; {line}")).expect(0).stdout
}

/// Runs a line of the shell in the agent.
#[track_caller]
fn guest(world: &World, line: &str) -> String {
    world.run(["exec", "coder", "--", "sh", "-c", &format!("set -e; {line}")]).expect(0).stdout
}

fn repo(world: &World, more: &str) {
    declare(world, "", &format!("workspaces: {{repo: {{source: ./repo, target: /root/repo{more}}}}}"));
}

#[track_caller]
fn workspace(world: &World) -> Value {
    coder(world)["workspaces"]["repo"].clone()
}

const PREPARES: [&str; 1] = ["prepareWorkspace coder/repo"];

#[test]
fn what_changed_here_is_brought_and_what_changed_there_stays() {
    let world = checkout();
    repo(&world, "");
    world.applied();
    let first = workspace(&world);
    assert_eq!((&first["status"], &first["kept"]), (&json!("prepared"), &json!(0)), "{first}");
    assert_eq!(
        first["commit"].as_str().map(str::to_owned),
        Some(sh(&world, "git -C repo rev-parse HEAD").trim().to_owned())
    );
    is_settled(&world);

    // A file that is not committed, and then a commit.
    sh(&world, "echo new > repo/new");
    let plan = world.run("plan -o json").expect(0).json();
    assert_eq!(
        (steps(&plan), &plan["actions"][0]["reason"]),
        (PREPARES.map(str::to_owned).into(), &json!("its source changed"))
    );
    assert_eq!(workspace(&world)["status"], "outdated");
    assert_eq!(steps(&world.applied()), PREPARES);
    assert_eq!(guest(&world, "cat /root/repo/new"), "new\n");
    sh(&world, "cd repo; git add -A; git commit -qm two");
    assert_eq!(steps(&world.applied()), PREPARES);
    assert_eq!(
        guest(&world, "cat /root/repo/.git/refs/heads/main").trim(),
        sh(&world, "git -C repo rev-parse HEAD").trim()
    );
    is_settled(&world);
    // What git ignores is nothing new.
    sh(&world, "echo noise > repo/noise.log");
    is_settled(&world);

    // The agent works on: that is no difference.
    guest(&world, "cd /root/repo; echo theirs > new; echo mine > mine; rm .gitignore");
    is_settled(&world);
    assert_eq!((workspace(&world)["status"].clone(), workspace(&world)["kept"].clone()), (json!("prepared"), json!(0)));
    // The same file changed here: it is kept, told, and no reason to try again.
    sh(&world, "echo ours > repo/new; echo two > repo/file");
    assert_eq!(steps(&world.applied()), PREPARES);
    assert_eq!(guest(&world, "cd /root/repo; cat file new mine; ls -A"), "two\ntheirs\nmine\n.git\nfile\nmine\nnew\n");
    is_settled(&world);
    let kept = workspace(&world);
    assert_eq!((&kept["status"], &kept["kept"]), (&json!("prepared"), &json!(1)), "{kept}");
    assert_eq!(coder(&world)["ready"], true);

    // `workspace prepare --force` is the way out.
    world.run("workspace prepare coder repo /root/repo --force").expect(0);
    assert_eq!(guest(&world, "cat /root/repo/new"), "ours\n");
    is_settled(&world);
    assert_eq!(workspace(&world)["kept"], 0);
}

#[test]
fn what_cannot_go_in_is_blocked_with_its_reason_and_nothing_else_waits() {
    let world = checkout();
    let session = "other: {command: [sleep, \"1000\"]}, here: {command: [sleep, \"1000\"], cwd: /root/repo}";
    let state = |more: &str| {
        declare(
            &world,
            "",
            &format!("workspaces: {{repo: {{source: ./repo, target: /root/repo{more}}}}}, sessions: {{{session}}}"),
        );
    };
    sh(&world, "echo more >> repo/file");
    state(", dirty: refuse");
    let outcome = world.run("apply -o json").expect(1);
    assert!(steps(&outcome.json()).contains(&"startSession coder/other".to_owned()), "{}", outcome.shown());
    assert!(!steps(&outcome.json()).contains(&"startSession coder/here".to_owned()), "{}", outcome.shown());
    let told = problems(&outcome);
    assert!(told.iter().any(|told| told.contains("coder/repo") && told.contains("file")), "{told:?}");
    sh(&world, "git -C repo checkout -q file");
    assert_eq!(steps(&world.applied()), ["prepareWorkspace coder/repo", "startSession coder/here"]);
    let here = pid(&world, "here");
    // Later it keeps what there is.
    sh(&world, "echo more >> repo/file");
    let outcome = world.run("apply -o json").expect(1);
    assert_eq!(kinds(&outcome.json()), Vec::<String>::new(), "{}", outcome.shown());
    let told = problems(&outcome);
    assert!(told.len() == 1 && told[0].contains("coder/repo") && told[0].contains("file"), "{told:?}");
    let plan = world.run("plan -o json").json();
    assert_eq!(
        (&plan["waiting"][0]["on"], &plan["waiting"][0]["blocked"]),
        (&json!("precondition"), &json!(true)),
        "{plan}"
    );
    assert_eq!((pid(&world, "here"), workspace(&world)["status"].clone()), (here, json!("outdated")));

    for (line, word) in [("mv repo elsewhere", "No such file or directory"), ("echo x > repo", "directory")] {
        sh(&world, line);
        let outcome = world.run("apply -o json").expect(1);
        let told = problems(&outcome);
        let names_it = |told: &String| told.contains("/work/repo") && told.contains(word);
        assert!(told.len() == 1 && names_it(&told[0]), "{line}: {told:?}");
    }
    sh(&world, "rm repo; mv elsewhere repo; git -C repo checkout -q file");
    // It was written meanwhile, which tells that it may be another.
    assert_eq!(steps(&world.applied()), PREPARES);
    is_settled(&world);
    assert_eq!(pid(&world, "here"), here);
}

#[test]
fn another_way_to_bring_it_is_a_change() {
    let world = checkout();
    sh(&world, "echo secret > repo/a.log; echo dirty >> repo/file");
    // By hand first, in other ways.
    declare(&world, "", "");
    world.applied();
    world.run("workspace prepare coder repo /root/repo --dirty ignore").expect(0);
    assert_eq!(guest(&world, "cat /root/repo/file"), "one\n");
    repo(&world, "");
    let plan = world.run("plan -o json").expect(0).json();
    assert!(plan["actions"][0]["changes"].to_string().contains("workspaces.repo.dirty"), "{plan}");
    assert_eq!(steps(&world.applied()), PREPARES);
    assert_eq!(guest(&world, "cat /root/repo/file"), "one\ndirty\n");
    is_settled(&world);
    repo(&world, ", include: [a.log]");
    assert_eq!(steps(&world.applied()), PREPARES);
    assert_eq!(guest(&world, "cat /root/repo/a.log"), "secret\n");
    is_settled(&world);
    // Another source at the same place.
    sh(&world, "cp -a repo other; echo other > other/file");
    declare(&world, "", "workspaces: {repo: {source: ./other, target: /root/repo}}");
    assert_eq!(steps(&world.applied()), PREPARES);
    assert_eq!(guest(&world, "cat /root/repo/file"), "other\n");
    is_settled(&world);
    // By hand again, over what is declared: it comes back.
    world.run("workspace prepare coder repo /root/repo").expect(0);
    assert_eq!(steps(&world.applied()), PREPARES);
    assert_eq!(guest(&world, "cat /root/repo/file"), "other\n");
    // Declared no more, it stays where it is.
    declare(&world, "", "");
    is_settled(&world);
    assert_eq!(guest(&world, "cat /root/repo/file"), "other\n");
    // To root nothing is read-only.
    repo(&world, ", readOnly: true");
    let outcome = world.run("apply -o json").expect(1);
    assert!(
        problems(&outcome).iter().any(|told| told.contains("coder/repo") && told.contains("root")),
        "{}",
        outcome.shown()
    );
}

#[test]
fn a_workspace_that_was_taken_away_is_brought_again() {
    let world = checkout();
    repo(&world, "");
    world.applied();
    world.run("workspace rm coder /root/repo").expect(0);
    assert_eq!(workspace(&world)["status"], "absent");
    assert_eq!(steps(&world.applied()), PREPARES);
    assert_eq!(guest(&world, "cat /root/repo/file"), "one\n");
    is_settled(&world);
    // What this machine remembers is lost: it is adopted as it is.
    std::fs::remove_dir_all(world.state_dir().join("workspaces")).expect("it is there");
    assert_eq!(steps(&world.applied()), PREPARES);
    is_settled(&world);
}

/// 3,000 files and 50 MB.
fn large(world: &World) {
    let line = "mkdir -p big; i=0; while [ $i -lt 3000 ]; do head -c 17000 /dev/urandom > big/$i; i=$((i+1)); done";
    sh(world, line);
}

fn is_whole(world: &World) {
    let sum = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let there = guest(
        world,
        "cd /root/big; busybox find . -type f | busybox sort | busybox xargs busybox md5sum | busybox md5sum",
    );
    let here = sh(world, "cd big; find . -type f | LC_ALL=C sort | xargs md5sum | md5sum");
    assert_eq!(sum(&there), sum(&here));
    let left = guest(world, "ls -A /root /root/big | busybox grep -c steadfast || true");
    assert_eq!(left, "0\n", "nothing of a preparation is left");
}

#[test]
fn kill_dash_nine_while_much_is_brought_and_while_sessions_start() {
    let world = World::new();
    large(&world);
    let nap = nap(100);
    let state = |round: u32| {
        let owner = &world.owner;
        declare(
            &world,
            &format!("env: {{X: \"{owner}-{round}\"}}"),
            &format!(
                "workspaces: {{big: {{source: ./big, target: /root/big}}}}, sessions: {{pi: {{command: [sh, -c, \"echo begun; exec sleep {nap}\"], \
                 cwd: /root/big}}}}"
            ),
        );
    };
    state(0);
    let began = Instant::now();
    world.applied();
    let whole = began.elapsed();
    is_whole(&world);
    let mut midway = 0;
    const MOMENTS: u32 = 8;
    for moment in 1..=MOMENTS {
        state(moment);
        let running = world.spawn("apply");
        std::thread::sleep(whole * moment / (MOMENTS + 1));
        running.signal(Signal::KILL);
        running.end();
        let left = world.run("plan -o json").json();
        midway += usize::from(left["converged"] == false && !kinds(&left).contains(&"replaceContainer".to_owned()));
        let report = world.applied();
        assert_eq!(report["converged"], true, "moment {moment}: {report}");
        assert_eq!(processes_with(&nap), 1, "moment {moment}: one session, one process");
        assert_eq!(guest(&world, "ls -A /run/steadfast/sessions"), "pi\n", "moment {moment}");
        assert_eq!(said(&world, "pi"), "begun\n", "moment {moment}");
        is_whole(&world);
        is_settled(&world);
    }
    assert!(midway > 0, "no kill came in the middle, so nothing was proved");
}

#[test]
fn ctrl_c_while_much_is_brought_ends_soon_and_the_next_run_goes_on() {
    let world = World::new();
    large(&world);
    declare(&world, "", "");
    world.applied();
    declare(
        &world,
        "",
        "workspaces: {big: {source: ./big, target: /root/big}}, sessions: {pi: {command: [sleep, \"1000\"], cwd: /root/big}}",
    );
    let mut running = world.spawn("apply");
    running.until("it has begun", |running| running.stderr().contains("workspace `coder/big`"));
    running.signal(Signal::INT);
    let outcome = running.end().expect(130);
    assert!(outcome.took < Duration::from_secs(30), "{:?}", outcome.took);
    outcome.says("stopped; left to do: ").says("the next run continues from here");
    world.applied();
    is_whole(&world);
    pid(&world, "pi");
    is_settled(&world);
}
