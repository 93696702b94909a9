use super::*;

#[test]
fn the_log_of_what_is_backed_off_stays_at_the_end() {
    let off = |cause: &str| BackingOff {
        agent: None,
        kind: FailureKind::RolledBack,
        cause: cause.to_owned(),
        failures: 1,
        retry_at: None,
        is_a_step: true,
        step: None,
    };
    assert_eq!(off("it failed").to_string(), "it failed; not retried until the desired state changes");
    assert_eq!(
        off("it failed; its last log lines:\n  | one").to_string(),
        "it failed; not retried until the desired state changes; its last log lines:\n  | one"
    );
}
