use super::*;

#[test]
fn of_an_instance_of_anybodys_nothing_big_is_read_and_nothing_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lima.yaml");
    let owner = || param(dir.path(), "steadfastName");
    assert_eq!(owner(), None);
    let ours = "images: []\nparam:\n  steadfastName: demo\n";
    std::fs::write(&file, ours).unwrap();
    assert_eq!(owner().as_deref(), Some("demo"));
    std::fs::write(&file, format!("{ours}#{}", "x".repeat(MAX_SMALL as usize))).unwrap();
    assert_eq!(owner(), None);
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, 0o600.into()).unwrap();
    assert_eq!(owner(), None);
}

#[test]
fn a_machine_is_degraded_by_its_newest_event() {
    let good = r#"{"time":"t","status":{"running":true,"sshLocalPort":1}}"#;
    let bad = r#"{"time":"t","status":{"running":true,"degraded":true,"errors":["probe 1","copy"],"sshLocalPort":1}}"#;
    assert_eq!(degraded_by(&format!("{good}\n{bad}\n")), Some("probe 1; copy".to_owned()));
    assert_eq!(degraded_by(&format!("{bad}\n{good}\n")), None);
    assert_eq!(degraded_by(&format!("{bad}\n{{\"time\":")), Some("probe 1; copy".to_owned()), "a line half written");
    assert_eq!(degraded_by(""), None);
}

#[test]
fn versions_are_compared_by_number() {
    for (version, older) in
        [("1.2.3", true), ("2.0.0", false), ("2.10.0", false), ("1.99.99", true), ("2.0.0-rc.1", false)]
    {
        assert_eq!(is_older(version, OLDEST), older, "{version}");
    }
    assert!(!is_older("<unknown>", OLDEST), "one that was built without a version");
    assert!(is_older("2.0.3", "2.1.0"));
}

#[test]
fn an_error_is_what_lima_said_last() {
    let log = "time=\"t\" level=info msg=\"Starting\"\ntime=\"t\" level=error msg=\"first\"\n\
                   time=\"t\" level=fatal msg=\"did not receive \\\"running\\\"\"\n";
    assert_eq!(last_words(log), "did not receive \"running\"");
    assert_eq!(last_words("level=fatal msg=short\n"), "short");
    assert_eq!(last_words("panic: boom\n\n"), "panic: boom");
    assert_eq!(last_words(""), "");
    let log = "level=warning msg=\"instance broken: \\\"no driver\\\"\"\nlevel=warning msg=\"No instance found\"\n";
    assert_eq!(warnings(log), "instance broken: \"no driver\"");
}
