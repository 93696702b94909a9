//! `publish keygen|sign` beside minisign itself.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::support::command::{Sandbox, skip};

const MANIFEST: &str = r#"{"schemaVersion": 2, "updatedAt": "2026-04-27T00:00:00.123Z", "agents": {}}"#;

fn minisign(sandbox: &Sandbox, words: &[&str]) -> Option<(bool, String)> {
    let Ok(output) = Command::new("minisign").args(words).current_dir(sandbox.work()).output() else {
        skip("there is no minisign here");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), said))
}

#[test]
fn minisign_verifies_what_we_sign() {
    let mut sandbox = Sandbox::new();
    sandbox.write("manifest.json", MANIFEST);
    for password in [None, Some("a good word")] {
        let name = if password.is_some() { "with" } else { "without" };
        let flag = if password.is_some() { "" } else { " --no-password" };
        if let Some(password) = password {
            sandbox.set("STEADFAST_SIGNING_PASSWORD", password);
        }
        let made = sandbox.run(format!("publish keygen --out {name}{flag} -o json")).expect(0).json();
        let mode = std::fs::metadata(sandbox.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let signed = sandbox.run(format!("publish sign --file manifest.json --key {name} -o json")).expect(0).json();
        assert_eq!(signed, json!({"path": "manifest.json.minisig", "serial": 1_777_248_000_123u64, "expires": null}));
        let key = made["key"].as_str().unwrap();
        let public = format!("{name}.pub");
        for by in [["-P", key], ["-p", public.as_str()]] {
            let words = [&["-Vm", "manifest.json"][..], &by].concat();
            let Some((is_good, said)) = minisign(&sandbox, &words) else { return };
            assert!(is_good, "{said}");
            let comment = "file=manifest.json serial=1777248000123 updatedAt=2026-04-27T00:00:00.123Z";
            assert!(said.contains(&format!("Trusted comment: {comment}")), "{said}");
        }
    }
    sandbox.write("manifest.json", MANIFEST.replace("2026", "2027"));
    let Some((is_good, said)) = minisign(&sandbox, &["-Vm", "manifest.json", "-p", "with.pub"]) else { return };
    assert!(!is_good, "{said}");
}

#[test]
fn a_key_of_minisign_signs() {
    let mut sandbox = Sandbox::new();
    sandbox.write("manifest.json", MANIFEST);
    let Some((made, said)) = minisign(&sandbox, &["-G", "-W", "-p", "own.pub", "-s", "own.key"]) else { return };
    assert!(made, "{said}");
    let signed = sandbox.run("publish sign --file manifest.json --key own.key --serial 5 --expires 30d").expect(0);
    assert!(signed.stdout.contains("serial 5, good until "), "{signed:?}");
    let Some((is_good, said)) = minisign(&sandbox, &["-Vm", "manifest.json", "-p", "own.pub"]) else { return };
    assert!(is_good && said.contains("serial=5") && said.contains("expires="), "{said}");
    // From standard input, and from the environment.
    let secret = std::fs::read_to_string(sandbox.path("own.key")).unwrap();
    sandbox.feed("publish sign --file manifest.json --key -", &secret).expect(0);
    sandbox.set("STEADFAST_SIGNING_KEY", &secret);
    let said = sandbox.run("publish sign --file manifest.json").expect(0);
    let body = secret.lines().nth(1).unwrap();
    assert!(!said.stdout.contains(body) && !said.stderr.contains(body));
}

#[test]
fn what_cannot_be_signed_is_said_and_no_secret_shown() {
    let mut sandbox = Sandbox::new();
    sandbox.write("manifest.json", MANIFEST);
    let error = |sandbox: &Sandbox, words: &str, code: i32| sandbox.run(words).expect(code).stderr;
    assert!(error(&sandbox, "publish keygen --out k", 1).contains("$STEADFAST_SIGNING_PASSWORD holds it"));
    sandbox.set("STEADFAST_SIGNING_PASSWORD", "right");
    sandbox.run("publish keygen --out k").expect(0);
    assert!(error(&sandbox, "publish keygen --out k", 1).contains("`k` is there already"));
    assert!(error(&sandbox, "publish sign --file manifest.json", 1).contains("no secret key is named"));
    assert!(error(&sandbox, "publish sign --file none.json --key k", 1).contains("cannot read `none.json`"));
    assert!(error(&sandbox, "publish sign --file manifest.json --key none", 1).contains("cannot read `none`"));
    assert!(
        error(&sandbox, "publish sign --file manifest.json --key k.pub", 1).contains("it is no minisign secret key")
    );
    sandbox.set("STEADFAST_SIGNING_PASSWORD", "canary-wrong");
    let wrong = error(&sandbox, "publish sign --file manifest.json --key k", 1);
    assert!(wrong.contains("the password is wrong") && !wrong.contains("canary"), "{wrong}");
    sandbox.write("bad.json", "{}");
    assert!(error(&sandbox, "publish sign --file bad.json --key k", 65).contains("it has no schemaVersion"));
    sandbox.write("dated.json", MANIFEST.replace("2026-04-27T00:00:00.123Z", "yesterday"));
    assert!(error(&sandbox, "publish sign --file dated.json --key k", 65).contains("its updatedAt is `yesterday`"));
    assert!(!sandbox.path("manifest.json.minisig").exists());
}
