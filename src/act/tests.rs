use super::*;

#[test]
fn a_failure_in_one_line_leaves_its_log_out() {
    let log = "one\ntwo";
    let failure = ActError::Unhealthy { container: "a".into(), why: "it said no".into(), log: log.into() };
    assert_eq!(failure.to_string(), "container `a` is not healthy: it said no; its last log lines:\n  | one\n  | two");
    assert_eq!(in_one_line(&failure.to_string()), "container `a` is not healthy: it said no");
    assert_eq!(in_one_line("no log"), "no log");
    assert_eq!(in_one_line(""), "");
}
