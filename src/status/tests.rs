use super::*;

fn with(status: ConditionStatus, reason: ConditionReason, time: &str) -> Status {
    let condition = Condition {
        kind: ConditionKind::Ready,
        status,
        reason,
        message: String::new(),
        last_transition_time: time.to_owned(),
        to_do: None,
    };
    let agent = AgentStatus {
        desired: DesiredStatus { state: "running".into(), version: "1".into(), rollback: None, suspend: false },
        sync: SyncStatus::OutOfSync,
        health: HealthStatus::Degraded,
        health_check: CheckedBy::None,
        ready: false,
        container: None,
        image: None,
        artifact: None,
        sessions: BTreeMap::new(),
        workspaces: BTreeMap::new(),
        conditions: vec![condition],
        last_log: None,
        last_failure: None,
    };
    Status {
        name: "demo".parse().unwrap(),
        converged: false,
        observed_at: time.to_owned(),
        manifest: None,
        vm: None,
        podman: PodmanStatus { reachable: true, version: None, error: None },
        agents: BTreeMap::from([("a".parse().unwrap(), agent)]),
        orphans: Vec::new(),
    }
}

#[test]
fn a_condition_keeps_its_time_until_its_status_or_reason_changes() {
    use ConditionReason::{Pending, Unhealthy};
    use ConditionStatus::{False, True};
    let before = with(False, Pending, "t1");
    let cases = [((False, Pending), "t1"), ((False, Unhealthy), "t2"), ((True, Pending), "t2")];
    for ((status, reason), wanted) in cases {
        let mut now = with(status, reason, "t2");
        carry_over(&mut now, &before);
        let agent = now.agents.values().next().unwrap();
        assert_eq!(agent.conditions[0].last_transition_time, wanted, "{status} {reason}");
        assert_eq!(now.observed_at, "t2");
    }
}

/// Scripts read them.
#[test]
fn the_fields_of_a_machine_keep_their_names() {
    let vm = VmStatus {
        instance: "dev".to_owned(),
        status: "Running".to_owned(),
        transport: Some("api"),
        route: Some("forward"),
        tries: BTreeMap::from([("forward", 1)]),
        cpus: Some(2),
        memory: None,
        disk: None,
        error: None,
    };
    let shown = serde_json::to_string(&vm).unwrap();
    let wanted =
        r#"{"instance":"dev","status":"Running","transport":"api","rung":"forward","tries":{"forward":1},"cpus":2}"#;
    assert_eq!(shown, wanted);
}
