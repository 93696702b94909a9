use super::*;

#[test]
fn an_exec_request_prints_without_values() {
    let request = ExecRequest {
        command: vec!["login".into(), "--token=canary".into()],
        env: vec!["TOKEN=canary".into()],
        ..ExecRequest::default()
    };
    let shown = format!("{request:?}");
    assert!(shown.contains("login") && shown.contains("TOKEN") && !shown.contains("canary"), "{shown}");
}
