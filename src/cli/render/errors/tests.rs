use std::io;

use super::*;
use crate::backend::{EngineErrorKind, PullFault, PullRefusal, WayOut};
use crate::model::AgentName;
use crate::model::{Arch, Sha256Digest, VmPhase};
use crate::plan::{ActionKind, Reason, Waiting};

#[test]
fn the_way_out_follows_from_what_failed_and_not_from_its_sentence() {
    let failed = |why| EngineError {
        pull: Some(Box::new(PullFault { registry: "reg.example:5000".to_owned(), why })),
        ..EngineError::new(EngineErrorKind::ApiError, "reworded")
    };
    let hint = |err: &EngineError| engine_hint(err).unwrap_or_default();
    let login = hint(&failed(PullRefusal::LoginWanted));
    assert!(login.starts_with("`podman login reg.example:5000` here"), "{login}");
    assert!(hint(&failed(PullRefusal::NoSuchImage)).starts_with("its registry has no such image"));
    assert!(hint(&failed(PullRefusal::Unreachable)).starts_with("its registry does not answer"));
    let lost = |way_out, message: &str| {
        let kind = EngineErrorKind::TransportUnavailable;
        hint(&EngineError { way_out, ..EngineError::new(kind, message) })
    };
    assert_eq!(lost(WayOut::InLayers, "reworded"), "`steadfast doctor` checks every layer");
    assert_eq!(lost(WayOut::InSentence, "reworded"), "");
    let by_kind = lost(WayOut::ByKind, "a log of VM `dev` speaks of podman system service");
    assert!(by_kind.starts_with("is Podman's service running?"), "{by_kind}");
}

#[test]
fn the_exit_code_and_the_hint_of_a_manifest_follow_from_why_there_is_none() {
    let of = |cause| {
        let agent: AgentName = "a".parse().unwrap();
        let waiting = Waiting {
            agent: Some(agent),
            kind: ActionKind::FetchArtifact,
            target: "a".to_owned(),
            reason: Reason::NotCached,
            on: WaitingOn::Manifest { cause },
        };
        let problem = Problem::Blocked { waiting };
        (problem_status(&problem, None), problem_hint(&problem).is_some())
    };
    let (agent, arch) = ("a".parse::<AgentName>().unwrap(), Arch::X64);
    let digest = |digit: &str| Sha256Digest::parse(&digit.repeat(64)).unwrap();
    let pinned = ManifestCause::Pinned { agent, arch, offered: digest("0"), pinned: digest("1") };
    assert_eq!(of(pinned), (ExitStatus::Unverified, true));
    let why = || "somebody pins a note here: no manifest is configured, which its image is to come from".to_owned();
    assert_eq!(of(ManifestCause::NotOffered { why: why() }), (ExitStatus::Error, true));
    assert_eq!(of(ManifestCause::Unseen { why: why() }), (ExitStatus::Error, true));
    assert_eq!(of(ManifestCause::NotConfigured { help: "reworded".to_owned() }), (ExitStatus::Error, false));
}

#[test]
fn what_a_machine_that_is_down_keeps_is_taken_down_once_it_runs_or_with_it() {
    let waiting = Waiting {
        agent: None,
        kind: ActionKind::RemoveContainer,
        target: "containers".to_owned(),
        reason: Reason::TakenDown,
        on: WaitingOn::Down { instance: InstanceName::new("dev").unwrap(), phase: VmPhase::Stopped },
    };
    let on = waiting.on.clone();
    assert_eq!((on.word(), on.is_blocked(), waiting.hides()), ("sight", true, true));
    let problem = Problem::Blocked { waiting: waiting.clone() };
    assert!(problem_hint(&problem).unwrap().contains("`steadfast down --vm`"));
    assert!(problem.is_unseen() && problem.to_string().starts_with("VM `dev` "));
    let on = WaitingOn::Sight { why: "VM `dev` is mentioned".to_owned() };
    let problem = Problem::Blocked { waiting: Waiting { on, ..waiting } };
    assert_eq!(problem_hint(&problem).unwrap(), "`steadfast doctor` checks every layer");
}

#[test]
fn what_cannot_be_written_comes_with_what_would_help() {
    let hint = |kind: io::ErrorKind| root_hint(&kind.into());
    assert!(hint(io::ErrorKind::StorageFull).contains("cache gc"));
    assert!(hint(io::ErrorKind::NotADirectory).contains("must be a directory"));
    assert!(hint(io::ErrorKind::ReadOnlyFilesystem).contains("must be writable"));
}

#[test]
fn another_run_of_the_name_is_not_to_be_seen_from_this_file() {
    let holder = |file: &str| {
        let line = format!(r#"{{"pid":7,"command":"run","since":"2026-04-24T00:00:00Z","file":"{file}"}}"#);
        serde_json::from_str::<Holder>(&line).unwrap()
    };
    let hints = |file: &str| {
        let held = LockError::Held { path: "/l".into(), holder: Some(holder(file)) };
        CliError::from_lock(&held, &std::path::Path::new("/srv/a.yaml").into()).hints.join("; ")
    };
    assert!(hints("/srv/a.yaml").contains("steadfast status"), "{}", hints("/srv/a.yaml"));
    assert!(!hints("/srv/b.yaml").contains("steadfast status"), "{}", hints("/srv/b.yaml"));
}

#[test]
fn what_fails_on_the_way_into_a_vm_does_not_send_people_to_this_hosts_podman() {
    let unreachable = |way_out| {
        let kind = EngineErrorKind::TransportUnavailable;
        act_hint(&ActError::Engine(EngineError { way_out, ..EngineError::new(kind, "it does not answer") }))
    };
    assert!(unreachable(WayOut::ByKind).unwrap().contains("podman.socket"));
    assert_eq!(unreachable(WayOut::InLayers).unwrap(), "`steadfast doctor` checks every layer");
}
