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
    assert!(error(&sandbox, "publish sign --file manifest.json", 64).contains("no secret key is named"));
    assert!(error(&sandbox, "publish sign --file manifest.json --key k --expires 0s", 64).contains("over at once"));
    assert!(error(&sandbox, "publish sign --file none.json --key k", 1).contains("cannot read `none.json`"));
    assert!(error(&sandbox, "publish sign --file manifest.json --key none", 1).contains("cannot read `none`"));
    let public = error(&sandbox, "publish sign --file manifest.json --key k.pub", 1);
    assert!(public.contains("the secret key in `k.pub`: it is a public key"), "{public}");
    let fed = sandbox.feed("publish sign --file manifest.json --key -", "rubbish").expect(1).stderr;
    assert!(fed.contains("from standard input: it is not a minisign secret key") && !fed.contains("rubbish"), "{fed}");
    for (held, said) in [("", "it is empty"), ("k", "the variable holds the key itself, not where it lies")] {
        sandbox.set("STEADFAST_SIGNING_KEY", held);
        let said = format!("the secret key in $STEADFAST_SIGNING_KEY: {said}");
        assert!(error(&sandbox, "publish sign --file manifest.json", 1).contains(&said), "{said}");
    }
    sandbox.set("STEADFAST_SIGNING_PASSWORD", "");
    let empty = error(&sandbox, "publish keygen --out other", 1);
    assert!(empty.contains("the password is empty") && empty.contains("--no-password"), "{empty}");
    assert!(!sandbox.path("other").exists());
    sandbox.set("STEADFAST_SIGNING_PASSWORD", "canary-wrong");
    let wrong = error(&sandbox, "publish sign --file manifest.json --key k", 1);
    assert!(wrong.contains("the password is wrong") && !wrong.contains("canary"), "{wrong}");
    sandbox.write("bad.json", "{}");
    assert!(error(&sandbox, "publish sign --file bad.json --key k", 65).contains("it has no schemaVersion"));
    sandbox.write("dated.json", MANIFEST.replace("2026-04-27T00:00:00.123Z", "yesterday"));
    assert!(error(&sandbox, "publish sign --file dated.json --key k", 65).contains("its updatedAt is `yesterday`"));
    assert!(!sandbox.path("manifest.json.minisig").exists());
}

#[test]
fn a_key_that_could_not_be_written_is_in_nobodys_way() {
    let sandbox = Sandbox::new();
    let script = "mkdir full && mount -t tmpfs -o size=64k tmpfs full && (dd if=/dev/zero of=full/fill bs=1k || true)\n\
                  $STEADFAST publish keygen --no-password --out full/k && exit 1\n\
                  rm full/fill && ls -A full | grep . && exit 2; $STEADFAST publish keygen --no-password --out full/k";
    if let Some(outcome) = sandbox.mounting(script) {
        assert!(outcome.expect(0).stderr.contains("cannot write `full/k`"));
    }
}

/// A dist directory with one agent.
fn dist(sandbox: &Sandbox) {
    sandbox.write("bundle.json", r#"{"agents": [{"name": "app", "image": "r.example/app", "version": "1"}]}"#);
    let script = "mkdir -p dist/images && cd dist/images && for a in arm64 x64; do f=app-1-$a.tar.gz; printf '\\037\\213%s' $a >$f; \
                  sha256sum $f >$f.sha256; done";
    sandbox.shell(script).expect(0);
}

const MAKE: &str = "publish manifest --bundle bundle.json --dist-dir dist --out dist/manifest.json";
const EXPORT: &str = "publish export --bundle bundle.json --dist-dir dist --out a.tar";

#[test]
fn a_signature_that_does_not_go_with_its_manifest_is_reported_and_not_exported() {
    let mut sandbox = Sandbox::new();
    dist(&sandbox);
    sandbox.run("publish keygen --no-password --out k").expect(0);
    sandbox.set("SOURCE_DATE_EPOCH", "1777248000");
    assert_eq!(sandbox.run(MAKE).expect(0).stderr, "");
    sandbox.run("publish sign --file dist/manifest.json --key k").expect(0);
    assert!(sandbox.run(EXPORT).expect(0).stdout.contains(", with a signature"));
    assert_eq!(sandbox.run(MAKE).expect(0).stderr, "", "the same manifest has the same signature");
    sandbox.set("SOURCE_DATE_EPOCH", "1777248001");
    let stale = sandbox.run(MAKE).expect(0).stderr;
    assert!(stale.contains("`dist/manifest.json.minisig` is the signature of another manifest"), "{stale}");
    std::fs::remove_file(sandbox.path("a.tar")).unwrap();
    let refused = sandbox.run(EXPORT).expect(6).stderr;
    assert!(refused.contains("`dist/manifest.json.minisig` does not go with `dist/manifest.json`: "), "{refused}");
    assert!(refused.contains("updated at 2026-04-27T00:00:00.000Z") && !sandbox.path("a.tar").exists(), "{refused}");
    sandbox.write("dist/manifest.json.minisig", "no signature");
    sandbox.run(EXPORT).expect(6);
    sandbox.run("publish sign --file dist/manifest.json --key k").expect(0);
    sandbox.run(EXPORT).expect(0);
}

#[test]
fn what_is_wrong_with_the_inputs_is_said_with_its_code_and_a_way_out() {
    let sandbox = Sandbox::unprivileged();
    dist(&sandbox);
    let fails = |words: &str, code: i32, parts: &[&str]| {
        let said = sandbox.run(words).expect(code).stderr;
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    };
    let make = |more: &str| format!("publish manifest --bundle bundle.json --dist-dir dist --out m.json {more}");
    fails(
        "publish push --registry r.example/a --bundle bundle.json --dist-dir dist --agent other",
        64,
        &["no agent `other`"],
    );
    let smoke = "publish smoke --bundle bundle.json --agent app --tarball t --arch";
    fails(&format!("{smoke} mips"), 64, &["error: unsupported architecture: mips", "takes arm64"]);
    sandbox.write("none.json", "{}");
    fails(&make("--slice agents:app --merge-from none.json"), 65, &["is not a manifest"]);
    let missing = "publish manifest --bundle bundle.json --out m.json --dist-dir none";
    fails(missing, 1, &["error: missing tarball inputs for app/arm64", "hint: `none` is not there"]);
    let sidecar = format!("{}  b-1-x64.tar.gz\n", "0".repeat(64));
    let right = std::fs::read(sandbox.path("dist/images/app-1-x64.tar.gz.sha256")).unwrap();
    sandbox.write("dist/images/app-1-x64.tar.gz.sha256", &sidecar);
    fails(&make(""), 1, &[&format!("found `{}`", sidecar.trim_end()), "sha256sum"]);
    sandbox.write("dist/images/app-1-x64.tar.gz.sha256", right);
    sandbox.write("dist/images/app-1-x64.tar.gz.layers.json", "[]");
    fails(&make(""), 1, &["does not list the members", "makes tarball and list anew"]);
    sandbox.write("dist/images/app-1-x64.tar.zst", "");
    fails(&make(""), 1, &["which one is meant?", "hint: remove the one that is not meant"]);
    sandbox.shell("chmod 000 dist/images").expect(0);
    fails(&make(""), 1, &["cannot read `dist/images/app-1-arm64.tar.gz`: Permission denied"]);
    sandbox.shell("chmod 755 dist/images").expect(0);
}

#[test]
fn who_is_stopped_leaves_nothing_half_written() {
    let sandbox = Sandbox::new();
    dist(&sandbox);
    // Large enough to be caught in the middle of.
    let script = "cd dist/images && f=app-1-x64.tar.gz && printf '\\037\\213' >$f && truncate -s 400M $f && sha256sum $f >$f.sha256";
    sandbox.shell(script).expect(0);
    let to = format!("file://{}", sandbox.path("to").display());
    let mut push = sandbox.spawn(format!("publish push --bundle bundle.json --dist-dir dist --to {to}"));
    let temporary = sandbox.path("to/vm/images/.steadfast-tmp-app-1-x64.tar.gz~");
    push.until("it is written", |_| temporary.metadata().is_ok_and(|found| found.len() > 0));
    push.signal(rustix::process::Signal::INT);
    push.end().expect(130);
    let left = sandbox.shell("find to -name '.steadfast-tmp-*'").stdout;
    assert_eq!(left, "");
}
