//! What a person sees when the store says no, from the program itself.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use crate::dist::Dist;
use crate::gateway::{Gateway, vars};
use crate::proxy::{Fate, Proxy};

fn push(dist: &Dist, to: &str, vars: &BTreeMap<String, String>, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_steadfast"))
        .args(["publish", "push", "--dist-dir"])
        .arg(dist.path())
        .arg("--bundle")
        .arg(dist.path().join("bundle.json"))
        .args(["--to", to])
        .args(more)
        .env_clear()
        .env("HOME", dist.path())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(vars)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_publication_is_reported_and_can_be_repeated() {
    let (gateway, dist) = (Gateway::start(), Dist::of(&[("a", "1")]));
    let done = push(&dist, "s3://agents/p", &gateway.vars(), &[]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.starts_with("published `s3://agents/p/vm/manifest.json`, updated at 20"), "{text}");
    assert!(text.ends_with("; 2 tarballs sent, 0 there already\n"), "{text}");
    let again = push(&dist, "s3://agents/p", &gateway.vars(), &["-o", "json"]);
    let value: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(value["manifest"]["changed"], false);
    assert_eq!(value["skipped"][0], "vm/images/a-1-arm64.tar.gz");
}

#[test]
fn each_refusal_says_what_to_do() {
    let (gateway, dist) = (Gateway::start(), Dist::of(&[("a", "1")]));
    let with = |changes: &[(&str, &str)]| {
        let mut vars = gateway.vars();
        for (name, value) in changes {
            vars.insert((*name).to_owned(), (*value).to_owned());
        }
        vars
    };
    let mut nobody = gateway.vars();
    nobody.retain(|name, _| !name.contains("KEY"));
    for (to, vars, code, words) in [
        ("s3://agents", nobody, 1, &["no credentials for the store", "AWS_ACCESS_KEY_ID"][..]),
        (
            "s3://agents",
            with(&[("AWS_SECRET_ACCESS_KEY", "wrong")]),
            1,
            &["SignatureDoesNotMatch", "the keys are wrong"],
        ),
        (
            "s3://agents",
            with(&[("AWS_ACCESS_KEY_ID", "who")]),
            1,
            &["No user exists with the provided access key ID", "the keys are wrong"],
        ),
        ("s3://nothing", gateway.vars(), 1, &["NoSuchBucket", "--to names it"]),
        ("s3://agents", with(&[("AWS_ENDPOINT_URL", "here")]), 1, &["the endpoint is `here`: expected an URL"]),
        ("s3://agents", with(&[("AWS_ACCESS_KEY_ID", "test\n")]), 1, &["AWS_ACCESS_KEY_ID has a line break in it"]),
        ("s3://agents", with(&[("AWS_REGION", "eu west")]), 1, &["AWS_REGION has a space in it"]),
        (
            "s3://agents",
            with(&[("AWS_REGION", "eu-west-1")]),
            1,
            &["the region \"eu-west-1\" is wrong", "AWS_REGION names"],
        ),
        ("s3://Agents", gateway.vars(), 64, &["small letters"]),
        ("s3:/agents", gateway.vars(), 64, &["expected s3://BUCKET"]),
        ("s3://agents/../x", gateway.vars(), 64, &["`..`"]),
    ] {
        let output = push(&dist, to, &vars, &[]);
        assert_eq!(output.status.code(), Some(code), "{to}: {}", said(&output));
        for word in words {
            assert!(said(&output).contains(word), "{word}: {}", said(&output));
        }
        assert!(!said(&output).contains("secret"), "{}", said(&output));
    }
    assert!(!gateway.path("vm").exists());
}

#[test]
fn a_clock_that_is_wrong_is_named() {
    let (gateway, dist) = (Gateway::start(), Dist::of(&[("a", "1")]));
    let theirs = humantime::format_rfc3339_seconds(std::time::SystemTime::now() - std::time::Duration::from_secs(3700));
    let body = format!(
        "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message><ServerTime>{theirs}</ServerTime></Error>"
    );
    let proxy = Proxy::before(&gateway.url, move |_| Fate::Answer(403, body.clone()));
    let output = push(&dist, "s3://agents", &vars(&proxy.url), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("this machine's clock says") && said(&output).contains("which is 1h 1m"),
        "{}",
        said(&output)
    );
    assert!(said(&output).contains("timedatectl"), "{}", said(&output));
}

/// A program that is killed at any moment leaves the old manifest or the new one, and the next run finishes.
#[test]
fn a_kill_at_any_moment_leaves_nothing_half_published() {
    let gateway = Gateway::start();
    let first = Dist::of(&[("a", "0")]);
    assert!(push(&first, "s3://agents", &gateway.vars(), &[]).status.success());
    for at in 1..=12_u64 {
        let version = at.to_string();
        let dist = Dist::with(&[("a", &version)], |_, version, arch| {
            let mut bytes = vec![0x1f, 0x8b];
            bytes.extend(format!("{version}{arch}").bytes().cycle().take(9 << 20));
            bytes
        });
        let mut child = Command::new(env!("CARGO_BIN_EXE_steadfast"))
            .args(["publish", "push", "--to", "s3://agents", "--dist-dir"])
            .arg(dist.path())
            .arg("--bundle")
            .arg(dist.path().join("bundle.json"))
            .envs(gateway.vars())
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(40 * at));
        let _ = child.kill();
        child.wait().unwrap();
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(gateway.path("vm/manifest.json")).unwrap()).unwrap();
        for tarball in manifest["agents"]["a"]["tarballs"].as_object().unwrap().values() {
            let bytes = std::fs::read(gateway.path(tarball["key"].as_str().unwrap())).unwrap();
            assert_eq!(bytes.len() as u64, tarball["sizeBytes"]);
        }
        let output = push(&dist, "s3://agents", &gateway.vars(), &[]);
        assert!(output.status.success(), "{}", said(&output));
        let text = std::fs::read_to_string(gateway.path("vm/manifest.json")).unwrap();
        assert!(text.contains(&format!("a-{at}-x64")), "{text}");
        let left: Vec<_> =
            std::fs::read_dir(dist.path().join("images")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 4, "{left:?}");
    }
}

/// What is asked for without its bytes is refused without a reason; a person is told one all the same.
#[test]
fn one_object_is_reported_of_truly() {
    let (gateway, dist) = (Gateway::start(), Dist::of(&[("a", "1")]));
    let run = |args: &[&str], change: &[(&str, &str)]| {
        let mut vars = gateway.vars();
        vars.extend(change.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Command::new(env!("CARGO_BIN_EXE_steadfast"))
            .arg("publish")
            .args(args)
            .current_dir(dist.path())
            .env_clear()
            .envs(vars)
            .output()
            .unwrap()
    };
    let down = ["download", "--key", "y", "--out", "dl", "--to"];
    for (to, change, words) in [
        ("s3://nobkt", &[][..], "NoSuchBucket"),
        ("s3://agents", &[("AWS_ACCESS_KEY_ID", "who")], "No user exists"),
        ("s3://agents", &[("AWS_REGION", "eu-west-1")], "AWS_REGION names"),
        ("s3://agents", &[], "there is no such object"),
    ] {
        let output = run(&[&down[..], &[to]].concat(), change);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    let up = ["upload", "--file", "bundle.json", "--key", "vm/manifest.json", "--to", "s3://agents"];
    let done = |more: &[&str]| String::from_utf8(run(&[&up[..], more].concat(), &[]).stdout).unwrap();
    assert!(done(&[]).starts_with("uploaded "));
    assert!(done(&[]).starts_with("there already: "));
    assert!(done(&["--content-type", "application/json"]).starts_with("uploaded "), "other headers are another object");
    assert!(done(&["--content-type", "application/json"]).starts_with("there already: "));
    for bad in [["--content-type", "a\nb"], ["--cache-control", "zürich"]] {
        let output = run(&[&up[..], &bad].concat(), &[]);
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    }
    for more in [&["--agent", "a"][..], &["--arch", "x64"], &["--tls-verify=false"], &["--expires", "0s"]] {
        let output = push(&dist, "s3://agents", &gateway.vars(), more);
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    }
}
