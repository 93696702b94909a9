//! The virtual machine on the fake world: made, started, repaired, restarted, and never touched without need.

use std::time::Duration;

use steadfast::backend::fake::{FakeVm, Fault, FaultPoint};
use steadfast::model::{Phase, Port, Protocol, TemplateChange, VmPhase};
use steadfast::plan::WaitingOn;
use steadfast::reconcile::Problem;
use tokio::time::Instant;

use crate::worlds::{self, Story, problems, taken};

/// Two agents in a machine that is yet to be made.
fn story() -> Story {
    let mut story = Story::new(&["a", "b"]);
    story.desired = worlds::in_vm(story.desired);
    story.fake.state().in_vm = true;
    worlds::publish(&mut story.fake.state(), &[("a", "1"), ("b", "1")]);
    story
}

async fn converged() -> Story {
    let story = story();
    assert!(story.converge().await.converged);
    assert!(story.plan().await.is_empty(), "a second apply has nothing to do");
    story.fake.restart();
    story
}

fn vm(story: &Story, change: impl FnOnce(&mut FakeVm)) {
    change(story.fake.state().vm.as_mut().expect("there is a machine"));
}

fn effects(story: &Story) -> Vec<String> {
    story.fake.state().effects.iter().map(|effect| effect.call.word.to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn from_nothing_to_agents_that_run() {
    let story = story();
    let plan = story.plan().await;
    assert!(plan.contains(&"create VM `agents`: there is no such VM".to_owned()), "{plan:#?}");
    let later = "later observeContainer `demo-a`: it cannot be observed, unknown until VM `agents` runs and answers";
    assert!(plan.contains(&later.to_owned()), "{plan:#?}");
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    let steps = taken(&report);
    let at =
        |step: &str| steps.iter().position(|taken| taken == step).unwrap_or_else(|| panic!("no {step}: {steps:?}"));
    assert!(at("create VM `agents`") < at("start VM `agents`"));
    assert!(at("start VM `agents`") < at("create container `demo-a`"));
    assert!(story.plan().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_machine_is_started_with_what_ran_in_it() {
    let story = converged().await;
    story.fake.state().vm_goes_down(VmPhase::Stopped);
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    assert_eq!(taken(&report)[0], "start VM `agents`");
    assert_eq!(story.phase("demo-a"), Phase::Running);
    assert!(!effects(&story).contains(&"create".to_owned()), "nothing is made anew");
}

#[tokio::test(start_paused = true)]
async fn a_broken_machine_is_repaired_and_never_deleted() {
    let story = converged().await;
    story.fake.state().vm_goes_down(VmPhase::Broken("driver is gone".into()));
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    assert_eq!(effects(&story)[0], "vm_start");
    assert!(!effects(&story).contains(&"vm_delete".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn words_of_lima_that_are_not_known_are_waited_out() {
    for phase in [VmPhase::Other("Hibernating".into()), VmPhase::Starting] {
        let mut story = converged().await;
        story.options.timeout = Duration::from_secs(20);
        vm(&story, |vm| vm.phase = phase.clone());
        let report = story.converge().await;
        assert!(!report.converged);
        assert_eq!(effects(&story), Vec::<String>::new(), "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_of_somebody_else_is_not_touched_unless_it_is_given() {
    let root = "b2".repeat(16);
    for (owner, root, why) in [
        (None, None, "was not made by this state file"),
        (Some("other"), None, "belongs to state file `other`"),
        (
            Some("demo"),
            Some(root.as_str()),
            "belongs to a state file of the same name below another root (id b2b2b2b2…)",
        ),
    ] {
        let mut story = converged().await;
        story.fake.state().vm_goes_down(VmPhase::Stopped);
        vm(&story, |vm| (vm.owner, vm.root) = (owner.map(str::to_owned), root.map(str::to_owned)));
        let report = story.converge().await;
        assert_eq!(effects(&story), Vec::<String>::new());
        let said = problems(&report).join("\n");
        assert!(said.contains(why), "{said}");
        story.options.policy.adopt = true;
        let report = story.converge().await;
        assert!(report.converged, "{:?}", problems(&report));
        assert_eq!(effects(&story)[..2], ["vm_adopt", "vm_start"]);
        story.options.policy.adopt = false;
        assert!(story.plan().await.is_empty(), "it is ours from now on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_of_somebody_else_is_not_reached_into() {
    let mut story = converged().await;
    story.fake.state().calls.clear();
    vm(&story, |vm| vm.owner = None);
    let report = story.converge().await;
    assert!(problems(&report).join("\n").contains("was not made by this state file"), "{:?}", problems(&report));
    let words: Vec<_> = story.fake.state().calls.iter().map(|call| call.word).collect();
    assert!(words.contains(&"vm_look") && !words.contains(&"look"), "{words:?}");
    let down = story.down().await;
    assert!(problems(&down).join("\n").contains("was not made by this state file"), "{:?}", problems(&down));
    let is_strange = |problem: &Problem| matches!(problem, Problem::Blocked { waiting } if matches!(waiting.on, WaitingOn::ForeignVm { .. }));
    assert!(down.problems.iter().all(is_strange), "{down:?}");
    story.options.policy.adopt = true;
    assert!(story.converge().await.converged);
}

#[tokio::test(start_paused = true)]
async fn only_who_acts_repairs_the_way_in() {
    let story = converged().await;
    let is_kept = || std::mem::take(&mut story.fake.state().is_kept);
    is_kept();
    story.plan().await;
    assert!(!is_kept(), "looking changes nothing");
    story.converge().await;
    assert!(is_kept());
    story.down().await;
    assert!(is_kept());
}

#[tokio::test(start_paused = true)]
async fn one_that_runs_and_does_not_answer_is_waited_for_and_then_restarted() {
    let mut story = converged().await;
    let silent = Instant::now();
    vm(&story, |vm| vm.silent_since = Some(silent));
    let plan = story.plan().await;
    assert!(
        plan[0].starts_with("later startVm `agents`: it runs, and Podman in it does not answer, once Podman"),
        "{plan:#?}"
    );
    story.options.timeout = Duration::from_secs(600);
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    assert_eq!(taken(&report)[0], "restart VM `agents`");
    assert!(silent.elapsed() >= Duration::from_secs(300), "{:?}", silent.elapsed());
    assert!(silent.elapsed() < Duration::from_secs(330), "{:?}", silent.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_restart_does_not_help_is_restarted_ever_more_rarely() {
    let mut story = converged().await;
    vm(&story, |vm| {
        vm.silent_since = Some(Instant::now());
        vm.stays_silent = true;
    });
    story.options.timeout = Duration::from_secs(3600);
    let report = story.converge().await;
    assert!(!report.converged);
    let starts: Vec<_> =
        story.fake.state().calls.iter().filter(|call| call.word == "vm_start").map(|call| call.at).collect();
    let waits: Vec<_> = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert!(waits.iter().all(|wait| *wait >= 600), "{waits:?}");
    assert!(problems(&report).join("\n").contains("NonConvergent"), "{:?}", problems(&report));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_reboots_is_waited_for() {
    let story = converged().await;
    {
        let mut state = story.fake.state();
        state.vm_goes_down(VmPhase::Running);
        state.vm.as_mut().unwrap().silent_since = Some(Instant::now());
    }
    let back = async {
        tokio::time::sleep(Duration::from_secs(45)).await;
        vm(&story, |vm| vm.silent_since = None);
        Instant::now()
    };
    let (report, back) = tokio::join!(story.converge(), back);
    assert!(report.converged, "{:?}", problems(&report));
    assert!(!effects(&story).contains(&"vm_start".to_owned()));
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    assert_eq!(story.phase("demo-a"), Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn a_changed_template_is_reported_and_the_machine_kept() {
    let mut story = converged().await;
    worlds::spec(&mut story.desired).template = worlds::template("cpus: 3");
    let plan = story.plan().await;
    assert_eq!(plan.len(), 1, "{plan:#?}");
    assert!(
        plan[0].starts_with("note: VM `agents` was made from another version of its template and is kept"),
        "{plan:#?}"
    );
    let report = story.converge().await;
    assert!(report.converged && effects(&story).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_changed_template_makes_it_anew_where_the_file_says_so() {
    let mut story = converged().await;
    let spec = worlds::spec(&mut story.desired);
    spec.template = worlds::template("cpus: 3");
    spec.on_template_change = TemplateChange::Recreate;
    let plan = story.plan().await;
    assert_eq!(plan[0], "recreate VM `agents`: its template changed");
    assert_eq!(
        plan[1],
        "later observeContainer `demo-a`: it cannot be observed, unknown until VM `agents` runs and answers"
    );
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    assert_eq!(effects(&story)[..3], ["vm_delete", "vm_create", "vm_start"]);
    assert!(story.plan().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn other_settings_wait_for_the_next_start_and_interrupt_nobody() {
    let mut story = converged().await;
    worlds::spec(&mut story.desired).cpus = Some(8);
    let plan = story.plan().await;
    assert_eq!(
        plan,
        [
            "note: takes effect when VM `agents` is next started (`steadfast vm restart`, once no `run` keeps it): runtime.lima.cpus 2 → 8"
        ]
    );
    assert!(story.converge().await.converged && effects(&story).is_empty());
    story.fake.state().vm_goes_down(VmPhase::Stopped);
    assert!(story.converge().await.converged);
    assert!(story.plan().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_new_port_is_led_into_the_running_machine() {
    let mut story = converged().await;
    let port = Port { host_ip: "127.0.0.1".into(), host_port: 9, container_port: 80, protocol: Protocol::Tcp };
    let agent = story.desired.agents.values_mut().next().unwrap();
    agent.container.ports.push(port);
    let plan = story.plan().await;
    assert!(
        plan.contains(&"forward `127.0.0.1:9/tcp`: the port is not forwarded into the VM yet".to_owned()),
        "{plan:#?}"
    );
    let report = story.converge().await;
    assert!(report.converged, "{:?}", problems(&report));
    assert!(!effects(&story).contains(&"vm_start".to_owned()));
    assert!(story.plan().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_looked_at_is_neither_made_nor_deleted() {
    let mut story = converged().await;
    story.options.timeout = Duration::from_secs(20);
    story.fake.order(Fault::lasting("vm_look"));
    let report = story.converge().await;
    assert!(!report.converged);
    assert_eq!(effects(&story), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_for_good_is_reported_and_not_repeated() {
    let mut story = story();
    story.options.timeout = Duration::from_secs(60);
    story.fake.order(Fault::lasting("vm_start"));
    let report = story.converge().await;
    assert!(!report.converged);
    assert_eq!(story.fake.state().count("vm_start"), 1);
    assert!(problems(&report).join("\n").contains("did not become ready"), "{:?}", problems(&report));
}

#[tokio::test(start_paused = true)]
async fn killed_between_any_two_steps_the_next_run_gets_there() {
    for point in [FaultPoint::Before, FaultPoint::After] {
        for word in ["vm_create", "vm_start", "load", "create"] {
            let story = story();
            story.fake.order(Fault { times: 1, ..Fault::transient(word, point, 1) });
            let report = story.converge().await;
            assert!(report.converged, "{word} {point:?}: {:?}", problems(&report));
        }
    }
    for effects in 0..12 {
        let story = story();
        story.fake.kill_after(effects);
        tokio::select! {
            _ = story.converge() => {}
            () = story.fake.killed() => {}
        }
        story.fake.restart();
        let report = story.converge().await;
        assert!(report.converged, "after {effects}: {:?}", problems(&report));
        assert!(story.plan().await.is_empty());
    }
}
