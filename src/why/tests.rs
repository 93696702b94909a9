use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::cli::render::why as render;
use crate::model::{
    Arch, CanonicalSpec, ContainerState, Guest, HostKey, ImageRef, Observed, Owner, SPEC_VERSION, Seen,
};
use crate::plan::Policy;
use crate::state::{self, Context, Input};

const FILE: &str = "apiVersion: steadfast/v1\nname: demo\nroot: /r\nruntime: {podman: {}}\nagents:\n  hello:\n    version: \"1\"\n    \
                    image: r.example/hello\n    source: local\n    container: {env: {TOKEN: canary-new}}\n";

fn desired(text: &str) -> Desired {
    let input = Input { name: "steadfast.yaml".into(), text: text.into(), dir: "/srv".into() };
    let key = |_: &std::path::Path| HostKey::from_bytes([1; 32]);
    let context = Context { vars: BTreeMap::new(), root: None, manifest_url: None, host_arch: Arch::X64, key: &key };
    state::load(&input, &context).unwrap().desired
}

fn agent() -> AgentName {
    "hello".parse().unwrap()
}

fn now() -> SystemTime {
    humantime::parse_rfc3339("2026-04-24T12:00:00Z").unwrap()
}

/// A Podman with the image, and with the container that the file says, in this phase.
fn guest(desired: &Desired, phase: Phase) -> Guest {
    let reference = ImageRef::new("r.example/hello:1").unwrap();
    let wanted = &desired.agents[&agent()].container;
    let spec = CanonicalSpec::new(wanted, &reference, None, &desired.key);
    let container = ContainerState {
        image_name: reference.to_string(),
        started_at: Some(now() - Duration::from_secs(3600)),
        ..ContainerState::bare(
            "0123456789abcdef".parse().unwrap(),
            Owner::Ours { agent: Some(agent()), spec: Some(spec), version: SPEC_VERSION },
            phase,
        )
    };
    Guest {
        version: "4.3.1".into(),
        looked_at: Some(now()),
        images: [(reference, "feed".into())].into(),
        containers: [(wanted.name.clone(), container)].into(),
        ..Guest::default()
    }
}

fn told(desired: &Desired, guest: Seen<Guest>, journal: &[Value]) -> Why {
    let observed = Observed { guest, ..Observed::nothing() };
    let snapshot = Snapshot::of(desired, observed, &Policy::default(), None);
    let mut past = Past::of(&agent());
    for entry in journal {
        past.add(&Entry::parse(entry.to_string().as_bytes()).unwrap());
    }
    why(&agent(), desired, &snapshot, past, now())
}

fn at(minute: u32, trigger: &str, event: &str, more: Value) -> Value {
    let mut entry = json!({"time": format!("2026-04-24T11:{minute:02}:00Z"), "trigger": trigger, "event": event});
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    entry
}

fn step(minute: u32, result: &str) -> Value {
    let fields = json!({"kind": "startContainer", "agent": "hello", "target": "demo-hello", "result": result,
        "action": "start container `demo-hello`", "reason": "it exited with code 1",
        "error": {"kind": "conflict", "message": "host port 1 is taken"}});
    at(minute, "retry", "step", fields)
}

fn pass(minute: u32, converged: bool, message: Option<&str>) -> Value {
    let problems: Vec<_> =
        message.iter().map(|message| json!({"agent": "hello", "kind": "endedAtOnce", "message": message})).collect();
    at(minute, "retry", "pass", json!({"converged": converged, "troubles": problems}))
}

#[test]
fn one_that_is_ready_says_since_when_and_what_changed_last() {
    let desired = desired(FILE);
    let why = told(&desired, Seen::Present(guest(&desired, Phase::Running)), &[step(1, "failed"), step(2, "done")]);
    insta::assert_snapshot!(render::text(&why, false));
}

#[test]
fn one_that_is_down_tells_the_whole_chain() {
    let desired = desired(FILE);
    let backing_off = at(
        9,
        "retry",
        "backingOff",
        json!({"agent": "hello", "until": "2026-04-24T12:05:00Z", "why": "it failed 2 times"}),
    );
    let journal = [
        step(1, "done"),
        pass(1, false, Some("container `demo-hello` exited with code 1:\n  last words")),
        step(5, "failed"),
        pass(5, false, Some("host port 1 is taken")),
        step(8, "failed"),
        pass(8, false, Some("host port 1 is taken")),
        backing_off,
    ];
    let why = told(&desired, Seen::Present(guest(&desired, Phase::Exited { code: 1 })), &journal);
    assert_eq!(why.failures.iter().map(|failure| failure.times).collect::<Vec<_>>(), [1, 2]);
    insta::assert_snapshot!(render::text(&why, false));
    insta::assert_snapshot!("down_as_json", serde_json::to_string_pretty(&render::json(&why)).unwrap());
}

#[test]
fn a_field_that_differs_is_named_and_a_secret_is_not() {
    let before = desired(&FILE.replace("canary-new", "canary-old"));
    let why = told(&desired(FILE), Seen::Present(guest(&before, Phase::Running)), &[]);
    let (text, json) = (render::text(&why, false), serde_json::to_string(&render::json(&why)).unwrap());
    assert!(text.contains("differs      container.env.TOKEN: is (sensitive) #"), "{text}");
    assert!(
        !text.contains("canary") && !json.contains("canary") && !format!("{why:?}").contains("canary"),
        "{text}{json}"
    );
}

#[test]
fn what_is_over_is_not_reported() {
    let desired = desired(FILE);
    let down = || Seen::Present(guest(&desired, Phase::Exited { code: 1 }));
    let failures = |journal: &[Value]| told(&desired, down(), journal).failures.len();
    assert_eq!(failures(&[step(1, "failed")]), 1);
    assert_eq!(failures(&[step(1, "failed"), step(2, "done")]), 0, "that very step works now");
    assert_eq!(failures(&[pass(1, false, Some("m")), pass(2, true, None)]), 0, "all was well since");
    assert_eq!(failures(&[pass(1, false, Some("m")), pass(2, false, None)]), 1, "others were in trouble");
    let many: Vec<_> = (0..9).map(|minute| pass(minute, false, Some(&format!("error {minute}")))).collect();
    assert_eq!(told(&desired, down(), &many).failures[0].message, "error 6", "three are enough, the last ones");
    let said = |event: &str, message: &str| at(3, "", event, json!({"agent": "hello", "message": message}));
    assert_eq!(failures(&[said("trouble", "m"), said("recovered", "")]), 0);
    // In whatever words `run` goes on about it.
    let mut again = said("trouble", "once more: host port 1 is taken, and later we try again");
    again["cause"] = "host port 1 is taken".into();
    assert_eq!(failures(&[step(1, "failed"), again]), 1, "`run` tells what its step said");
    let other = said("trouble", "host port 1 is taken; and the disk is full");
    assert_eq!(failures(&[step(1, "failed"), other]), 2, "another failure, although it begins alike");
    let other = |minute: u32, kind: &str, action: &str, result: &str| {
        let fields = json!({"kind": kind, "agent": "hello", "target": "x", "action": action, "reason": "r", "result": result,
            "error": {"kind": "conflict", "message": "host port 1 is taken"}});
        at(minute, "apply", "step", fields)
    };
    let replaced = |result: &str| other(1, "replaceContainer", "replace container `demo-hello`", result);
    assert_eq!(
        failures(&[replaced("failed"), step(2, "done")]),
        0,
        "an edit that was reverted, and a step that was done since"
    );
    // Whatever the sentence is.
    for action in ["load image `r.example/hello:1`", "replace what was there"] {
        let loaded = other(2, "loadImage", action, "done");
        assert_eq!(failures(&[replaced("failed"), loaded]), 1, "it did not come as far again");
    }
    for action in ["remove container `demo-hello.prev`", "replace what was there"] {
        let mut cleared = other(2, "removeContainer", action, "done");
        cleared["target"] = "demo-hello.prev".into();
        assert_eq!(failures(&[replaced("failed"), cleared]), 1, "to clear away is no success");
    }
    let mut of_tomorrow = other(2, "polishContainer", "polish container `demo-hello`", "done");
    assert_eq!(failures(&[replaced("failed"), of_tomorrow.clone()]), 0, "a step of a later version");
    of_tomorrow["error"]["kind"] = "wornOut".into();
    of_tomorrow["result"] = "failed".into();
    let why = told(&desired, down(), &[of_tomorrow]);
    assert_eq!(serde_json::to_value(&why.failures[0]).unwrap()["kind"], "wornOut", "its words are kept");
    let again = told(
        &desired,
        down(),
        &[step(1, "done"), pass(1, false, Some("m")), step(2, "done"), pass(2, false, Some("m"))],
    );
    assert_eq!(again.failures[0].times, 2, "what comes back counts on");
    let late = at(9, "retry", "backingOff", json!({"agent": "hello", "until": "2026-04-24T11:59:59Z"}));
    assert_eq!(told(&desired, down(), &[late]).backoff, None);
}

#[test]
fn a_failed_check_tells_its_exit_code_where_podman_knows_it() {
    let said = |code: i32, output: &str| {
        let check = crate::model::CheckResult { code, output: output.to_owned() };
        crate::act::failed_check_in_words(&desired(FILE).agents[&agent()].container, Some(&check))
    };
    let failed = "its health check failed as often as its retries allow";
    assert_eq!(said(7, " \n"), format!("{failed} with exit code 7, and printed nothing"));
    assert_eq!(said(7, "no disk\n"), format!("{failed} with exit code 7; it printed: no disk"));
    assert_eq!(said(1, ""), format!("{failed}, and printed nothing"), "Podman 4.3 keeps 1 for all");
}

#[test]
fn an_unhealthy_one_that_is_to_be_restarted_is_unhealthy_in_words_and_checked_by_nobody_is_running() {
    let desired = desired(FILE);
    let mut guest = guest(&desired, Phase::Running);
    guest.containers.values_mut().for_each(|seen| seen.health = Some(crate::model::Health::Unhealthy));
    let text = render::text(&told(&desired, Seen::Present(guest.clone()), &[]), false);
    assert!(text.starts_with("hello is not ready: Unhealthy\n"), "{text}");
    assert!(text.contains("to do        restart container `demo-hello`"), "{text}");
    guest.containers.values_mut().for_each(|seen| seen.health = None);
    let text = render::text(&told(&desired, Seen::Present(guest), &[]), false);
    assert!(text.contains("health running") && !text.contains("Healthy"), "{text}");
}

#[test]
fn after_a_failure_the_hint_is_not_only_to_apply_again() {
    let desired = desired(&FILE.replace("source: local", "source: registry"));
    let pull = |message: &str, why: &str| {
        let fields = json!({"kind": "pullImage", "agent": "hello", "target": "r.example/hello:1", "result": "failed",
            "action": "pull image `r.example/hello:1`", "reason": "the image is not there",
            "error": {"kind": "apiError", "message": message, "pull": {"registry": "r.example", "why": why}}});
        at(1, "apply", "step", fields)
    };
    let hints = |journal: &[Value]| {
        let why = told(&desired, Seen::Present(Guest { version: "4.3.1".into(), ..Guest::default() }), journal);
        render::text(&why, false).lines().filter(|line| line.contains("hint")).collect::<String>()
    };
    let unknown = hints(&[pull("reworded", "noSuchImage")]);
    assert!(unknown.contains("its registry has no such image") && !unknown.contains("does it now"), "{unknown}");
    let odd = hints(&[pull("failed to pull image `r.example/hello:1`: manifest unknown", "odd")]);
    assert!(odd.contains("fix what stopped it") && !odd.contains("does it now"), "{odd}");
    let mut other = pull("reworded", "noSuchImage");
    other["target"] = "r.example/hello:9".into();
    other["action"] = "pull image `r.example/hello:9`".into();
    assert!(hints(&[other]).contains("`steadfast apply` does it now"), "an image that is not wanted any more");
}

#[test]
fn a_step_that_another_agent_takes_for_it_too_may_have_stopped_it() {
    let pulled = json!({"kind": "pullImage", "agent": "other", "target": "r.example/hello:1", "result": "failed",
        "action": "pull image `r.example/hello:1`", "reason": "the image is not there",
        "error": {"kind": "apiError", "message": "manifest unknown"}});
    let entry = Entry::parse(at(1, "apply", "step", pulled).to_string().as_bytes()).unwrap();
    let newest = |shared: &[&str]| {
        let mut past = Past::sharing(&agent(), shared.iter().map(|target| (*target).to_owned()).collect());
        past.add(&entry);
        past.newest_failure().map(|failure| failure.message.clone())
    };
    assert_eq!(newest(&["r.example/hello:1"]).as_deref(), Some("manifest unknown"));
    assert_eq!(newest(&["r.example/hello:2"]), None);
}

#[test]
fn what_blocks_it_comes_with_the_way_out() {
    let desired = desired(FILE);
    let why = told(&desired, Seen::Present(Guest { version: "4.3.1".into(), ..Guest::default() }), &[]);
    insta::assert_snapshot!(render::text(&why, false));
}

#[test]
fn a_podman_that_cannot_be_seen_is_said_and_nothing_is_guessed() {
    let desired = desired(FILE);
    let why = told(&desired, Seen::Unknown { why: "it hangs".into() }, &[]);
    let text = render::text(&why, false);
    assert!(
        text.starts_with("hello cannot be seen\n") && text.contains("Podman cannot be observed: it hangs"),
        "{text}"
    );
    assert!(!text.contains("it has no container") && text.contains("steadfast doctor"), "{text}");
}

#[test]
fn one_that_is_suspended_tells_what_would_be_done() {
    let desired = desired(&format!("{FILE}    suspend: true\n"));
    let why = told(&desired, Seen::Present(guest(&desired, Phase::Exited { code: 1 })), &[]);
    let text = render::text(&why, false);
    assert!(text.contains("suspended    otherwise: start container `demo-hello`"), "{text}");
    assert!(text.starts_with("hello is suspended and left alone\n") && !text.contains("not ready"), "{text}");
}

#[test]
fn one_that_left_the_file_is_an_orphan() {
    let before = desired(FILE);
    let after = desired(&FILE.replace("hello", "other"));
    let why = told(&after, Seen::Present(guest(&before, Phase::Running)), &[step(1, "done")]);
    assert!(why.known.is_none());
    insta::assert_snapshot!(render::text(&why, false));
}
