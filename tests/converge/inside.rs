//! Sessions and workspaces that an agent declares: begun, kept, and given up.

use std::time::Duration;

use steadfast::backend::fake::{Fault, FaultPoint};
use steadfast::model::*;
use steadfast::status::{SessionWord, WorkspaceWord};

use crate::runs::Background;
use crate::worlds::*;

/// `a` and `b` are wanted, and `a` is to have a session in a workspace.
fn wanted() -> Story {
    let mut story = Story::new(&["a", "b"]);
    at_work(story.agent("a"));
    story
}

impl Story {
    fn done(&self) -> Vec<String> {
        const INSIDE: [&str; 3] = ["start_session", "end_session", "prepare_workspace"];
        let state = self.fake.state();
        let inside = state.effects.iter().filter(|effect| INSIDE.contains(&effect.call.word));
        inside.map(|effect| format!("{} {}", effect.call.word, effect.call.target)).collect()
    }

    fn session_id(&self) -> String {
        let state = self.fake.state();
        let found = state.inside.sessions.iter().find(|((_, name), _)| name.as_str() == "pi");
        found.map(|(_, session)| session.id.clone()).expect("the session is there")
    }
}

#[tokio::test(start_paused = true)]
async fn a_workspace_comes_first_then_its_session_and_then_nothing() {
    let story = wanted();
    let report = story.converge().await;
    assert!(report.converged, "{:?}", report.problems);
    assert_eq!(story.done(), ["prepare_workspace a/repo", "start_session a/pi"]);
    assert!(story.fake.state().inside.too_early.is_empty());
    let again = story.converge().await;
    assert!(again.converged && again.taken.is_empty(), "{:?}", again.taken);
    assert!(story.plan().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_replaced_container_gets_its_sessions_again_and_a_changed_session_is_restarted_alone() {
    let mut story = wanted().settled().await;
    let first = story.session_id();
    story.set_env("a", "MODE", "two");
    assert!(story.converge().await.converged);
    assert_eq!(story.done(), ["prepare_workspace a/repo", "start_session a/pi"]);
    story.fake.restart();
    let (second, container) = (story.session_id(), story.id("demo-a"));
    assert_ne!(first, second);
    story.agent("a").sessions.get_mut("pi").unwrap().command = vec!["other".into()];
    assert!(story.converge().await.converged);
    assert_eq!(story.done(), ["end_session a/pi", "start_session a/pi"]);
    assert_eq!(story.id("demo-a"), container, "its container goes on");
    story.fake.restart();
    story.agent("a").sessions.clear();
    assert!(story.converge().await.converged);
    assert_eq!(story.done(), ["end_session a/pi"]);
    story.fake.restart();
    assert!(story.converge().await.converged);
    assert_eq!(story.fake.state().count("sessions"), 0, "nobody looks for sessions that nobody declares");
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_sessions_is_not_looked_into() {
    let story = Story::running(&["a"]).await;
    assert!(story.converge().await.converged);
    assert_eq!(story.fake.state().count("sessions"), 0);
}

#[tokio::test(start_paused = true)]
async fn one_by_hand_of_the_same_name_is_not_fought_and_one_of_another_is_let_be() {
    let mut story = wanted();
    story.agent("a").sessions.clear();
    let mut story = story.settled().await;
    let container = story.id("demo-a");
    for name in ["pi", "mine"] {
        story.fake.state().start_by_hand(&container, &session_name(name));
    }
    at_work(story.agent("a"));
    let report = story.converge().await;
    assert!(!report.converged && story.done().is_empty());
    let told: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("session `a/pi` was started by hand"), "{told:?}");
    story.fake.state().inside.sessions.retain(|(_, name), _| name.as_str() != "pi");
    assert!(story.converge().await.converged);
    assert_eq!(story.done(), ["start_session a/pi"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_an_error_with_its_reason_and_the_others_go_on() {
    let mut story = wanted();
    story.agent("a").sessions.get_mut("pi").unwrap().env.insert("MISSING".into(), "yes".into());
    story.agent("a").sessions.insert(session_name("other"), session(None));
    let report = story.converge().await;
    assert!(!report.converged);
    assert_eq!(problems(&report), ["not on the PATH in a: pi"]);
    assert_eq!(story.done(), ["prepare_workspace a/repo", "start_session a/other"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_keeper_was_killed_is_started_again_once() {
    let story = wanted().settled().await;
    let mut run = Background::start(story);
    run.converged().await;
    {
        let mut state = run.fake.state();
        state.inside.sessions.values_mut().for_each(|session| session.is_lost = true);
        state.effects.clear();
        state.tell("exec_died", "demo-a", None);
    }
    run.mended().await;
    let started = run.fake.state().effects.iter().filter(|effect| effect.call.word == "start_session").count();
    assert_eq!(started, 1);
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changed_is_brought_at_the_next_resync_and_by_whoever_asks() {
    let story = wanted().settled().await;
    let mut run = Background::start(story);
    run.converged().await;
    run.fake.state().inside.sources.insert("/src/repo".into(), 1);
    run.mended().await;
    let prepared = |run: &Background| run.fake.state().count("prepare_workspace");
    assert_eq!(prepared(&run), 1);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(prepared(&run), 1, "once is enough");
    run.fake.state().inside.sources.insert("/src/repo".into(), 2);
    let report = run.ask(Duration::from_secs(60)).await;
    assert!(report.converged && prepared(&run) == 2);
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn idleness_is_told_once_each_time() {
    let mut story = wanted();
    let idle = SessionIdle { after: Duration::from_secs(100), action: IdleAction::Notify };
    story.agent("a").sessions.get_mut("pi").unwrap().idle = Some(idle);
    let story = story.settled().await;
    let mut run = Background::start(story);
    run.converged().await;
    let told = |run: &Background| run.told().iter().filter(|line| line.contains("is idle")).count();
    assert_eq!(told(&run), 0);
    tokio::time::sleep(Duration::from_secs(105)).await;
    assert_eq!(told(&run), 1, "{:?}", run.told());
    tokio::time::sleep(Duration::from_secs(2000)).await;
    assert_eq!(told(&run), 1);
    let now = tokio::time::Instant::now();
    run.fake.state().inside.sessions.values_mut().for_each(|session| session.active = now);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(told(&run), 2, "it was at work in between");
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_begins_at_once_while_a_session_takes_long_to_start() {
    let story = wanted().settled().await;
    let mut run = Background::start(story);
    run.converged().await;
    run.fake.state().latency.insert("start_session", Duration::from_secs(20));
    run.edit(|desired| desired.agents.get_mut("a").unwrap().sessions.get_mut("pi").unwrap().command = vec!["x".into()]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(run.fake.state().count("start_session"), 1);
    run.edit(|desired| {
        let container = &mut desired.agents.get_mut("a").unwrap().container;
        container.env.insert("MODE".into(), Text::plain("two"));
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(run.fake.state().count("create"), 1, "the replacement does not wait for it");
    run.converged().await;
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_that_cannot_be_observed_are_unknown_and_nothing_is_begun() {
    let story = wanted().settled().await;
    story.fake.order(Fault::transient("sessions", FaultPoint::Before, usize::MAX));
    let report = story.converge().await;
    assert!(!report.converged && story.done().is_empty(), "{:?}", story.done());
    let (_, plan) = story.observed_plan().await;
    assert_eq!(plan.summary().unknown, 1, "{plan:?}");
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_them_under_their_agent() {
    let story = wanted().settled().await;
    let mut run = Background::start(story);
    run.converged().await;
    let view = run.look().await;
    let agent = &view.status.agents[&agent_name("a")];
    assert_eq!(agent.sessions[&session_name("pi")].status, SessionWord::Running);
    assert_eq!(agent.workspaces[&WorkspaceName::new("repo").unwrap()].status, WorkspaceWord::Prepared);
    assert!(agent.ready && view.status.agents[&agent_name("b")].sessions.is_empty());
    run.fake.state().inside.sessions.values_mut().for_each(|session| {
        let exit = SessionExit { code: Some(1), ..SessionExit::default() };
        session.ended = Some((exit, steadfast::model::EndedBy::Itself));
    });
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_an_agent_goes_with_its_container() {
    let mut story = wanted().settled().await;
    assert_eq!(story.fake.state().inside.workspaces.len(), 1);
    story.desired.agents.remove("a");
    assert!(story.converge().await.converged);
    let state = story.fake.state();
    assert!(state.inside.workspaces.is_empty() && state.inside.remembered.is_empty());
}
