//! Whose login counts, and what a missing one breaks.

use super::*;

fn reference(text: &str) -> ImageRef {
    ImageRef::new(text).unwrap()
}

fn password(text: &str) -> Option<Login> {
    let (username, password) = text.split_once(':')?;
    Some(Login::Password { username: username.to_owned(), password: password.to_owned() })
}

fn auth(text: &str) -> serde_json::Value {
    json!({ "auth": STANDARD.encode(text) })
}

/// A directory with these files, and the logins of a user whose home it is.
fn home(files: &[(&str, &serde_json::Value)]) -> (tempfile::TempDir, Logins) {
    let home = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content.to_string()).unwrap();
    }
    let at = home.path().display().to_string();
    let logins = Logins::of(|name| match name {
        "HOME" => Some(at.clone()),
        "XDG_RUNTIME_DIR" => Some(format!("{at}/run")),
        _ => None,
    });
    (home, logins)
}

#[tokio::test]
async fn the_most_specific_entry_counts() {
    let file = json!({"auths": {
        "reg.example:5000": auth("whole:1"),
        "reg.example:5000/ns": auth("space:2"),
        "reg.example:5000/ns/repo": auth("repo:3"),
        "https://other.example/v2/": auth("url:4"),
        "https://index.docker.io/v1/": auth("hub:5:6"),
        "broken.example": {"auth": "%%%"},
        "empty.example": {},
        "token.example": {"auth": STANDARD.encode("x:y"), "identitytoken": "canary"},
    }});
    let (_home, logins) = home(&[("run/containers/auth.json", &file)]);
    for (image, login) in [
        ("reg.example:5000/ns/repo:1", "repo:3"),
        ("reg.example:5000/ns/repo@sha256:00", "repo:3"),
        ("reg.example:5000/ns/repo2:1", "space:2"),
        ("reg.example:5000/ns/deep/er:1", "space:2"),
        ("reg.example:5000/nsx/repo:1", "whole:1"),
        ("reg.example:5000/repo", "whole:1"),
        ("other.example/a/b:1", "url:4"),
        ("alpine:3", "hub:5:6"),
        ("docker.io/library/alpine:3", "hub:5:6"),
        ("reg.example/ns/repo:1", ""),
        ("broken.example/a:1", ""),
        ("empty.example/a:1", ""),
    ] {
        assert_eq!(logins.find(&reference(image)).await, password(login), "{image}");
    }
    assert_eq!(logins.find(&reference("token.example/a:1")).await, Some(Login::Token("canary".into())));
}

#[tokio::test]
async fn the_first_file_that_has_any_counts() {
    let of = |who: &str| json!({"auths": {"reg.example": auth(who)}});
    let (home, logins) = home(&[
        ("run/containers/auth.json", &json!({"auths": {"elsewhere.example": auth("a:1")}})),
        (".config/containers/auth.json", &of("podman:2")),
        (".docker/config.json", &of("docker:3")),
    ]);
    let image = reference("reg.example/a:1");
    assert_eq!(logins.find(&image).await, password("podman:2"));
    std::fs::write(home.path().join(".config/containers/auth.json"), "{ no JSON").unwrap();
    assert_eq!(logins.find(&image).await, password("docker:3"), "what cannot be read breaks nothing");
    let named = home.path().join("named.json");
    std::fs::write(&named, of("named:4").to_string()).unwrap();
    let only = Logins::of(|name| (name == "REGISTRY_AUTH_FILE").then(|| named.display().to_string()));
    assert_eq!(only.find(&image).await, password("named:4"));
    assert_eq!(only.find(&reference("elsewhere.example/a:1")).await, None);
}

#[tokio::test]
async fn a_missing_helper_breaks_no_other_registry() {
    let file = json!({
        "auths": {"plain.example": auth("a:1"), "stored.example": {}},
        "credHelpers": {"helped.example": "steadfast-test-is-not-there", "odd.example": "../../bin/sh"},
        "credsStore": "steadfast-test-is-not-there-either",
    });
    let (_home, logins) = home(&[(".docker/config.json", &file)]);
    for (image, login) in
        [("plain.example/a:1", "a:1"), ("helped.example/a:1", ""), ("odd.example/a:1", ""), ("stored.example/a:1", "")]
    {
        assert_eq!(logins.find(&reference(image)).await, password(login), "{image}");
    }
}

#[tokio::test]
async fn a_helper_is_asked_by_the_name_that_it_knows() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("docker-credential-x");
    let script = "#!/bin/sh\n[ \"$1\" = get ] || exit 2\nread -r name\ncase $name in\n\
                  reg.example) echo '{\"ServerURL\":\"\",\"Username\":\"u\",\"Secret\":\"p\"}' ;;\n\
                  https://index.docker.io/v1/) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}' ;;\n\
                  garbage.example) echo hello ;;\n\
                  *) echo credentials not found in native keychain; exit 1 ;;\nesac\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.display().to_string();
    assert_eq!(run(&program, "reg.example").await.unwrap(), password("u:p"));
    assert_eq!(run(&program, DOCKER_HUB).await.unwrap(), Some(Login::Token("t".into())));
    assert_eq!(run(&program, "other.example").await.unwrap(), None);
    assert!(run(&program, "garbage.example").await.is_err());
    assert_eq!(run("/nowhere/docker-credential-x", "a").await.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_login_does_not_print() {
    let login = password("somebody:canary").unwrap();
    assert!(!format!("{login:?}").contains("canary"));
    assert_eq!(login.secrets().redact("wrong password canary for r"), "wrong password (sensitive) for r");
    let file: serde_json::Value = serde_json::from_str(&login.file("reg.example")).unwrap();
    assert_eq!(file, json!({"auths": {"reg.example": auth("somebody:canary")}}));
}
