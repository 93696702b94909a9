//! `manifest.publicKeys` and `trust show|reset`, as typed.

use std::time::Duration;

use minisign::{KeyPair, SecretKey};
use rustix::process::Signal;
use serde_json::{Value, json};
use steadfast::backend::Store;
use steadfast::backend::cache::{Cache, CacheOptions};
use steadfast::model::{Location, ManifestSource};
use steadfast::trust::{Trust, TrustedKey, sign};

use crate::published::{KEY, TARBALL, agent, in_directory, manifest, sandbox, sha256};
use crate::sockets::{Fake, Manner};
use crate::support::command::{Outcome, Sandbox, skip};

const AT: &str = "2026-04-24T00:00:00.000Z";

fn pair() -> (TrustedKey, SecretKey) {
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
    (TrustedKey::parse(&pk.to_base64()).unwrap(), sk)
}

/// A sandbox with a state file that trusts one key, and something published that is signed with it.
struct World {
    sandbox: Sandbox,
    podman: Fake,
    key: TrustedKey,
    secret: SecretKey,
}

impl World {
    fn new() -> Self {
        let (key, secret) = pair();
        let world = Self { sandbox: sandbox(), podman: Fake::start(Manner::Podman), key, secret };
        world.trust(&[&world.key]);
        world.publish("2026.4.12", 5);
        world
    }

    fn trust(&self, keys: &[&TrustedKey]) {
        let keys = match keys {
            [] => String::new(),
            keys => format!(", publicKeys: [{}]", keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let text = format!(
            "apiVersion: steadfast/v1\nname: demo\nmanifest: {{url: published/vm/manifest.json{keys}}}\n\
             runtime: {{podman: {{socket: {}}}}}\nagents: {{openclaw: {{version: latest}}}}\n",
            self.podman.path().display()
        );
        self.sandbox.write("steadfast.yaml", text);
    }

    fn publish(&self, version: &str, serial: u64) -> String {
        let manifest = manifest(json!({"openclaw": agent("openclaw", version, TARBALL)}));
        let key = format!("vm/images/openclaw-{version}-x64.tar.gz");
        in_directory(&self.sandbox, &manifest, &[(key.as_str(), TARBALL)]);
        let text = manifest.to_string();
        let signature = sign(text.as_bytes(), AT, serial, None, &self.secret).unwrap();
        self.sandbox.write("published/vm/manifest.json.minisig", signature);
        sha256(text.as_bytes())
    }

    fn run(&self, args: &str) -> Outcome {
        self.sandbox.run(args)
    }

    #[track_caller]
    fn prints(&self, args: &str, words: &str) {
        let outcome = self.run(args);
        assert!(outcome.stdout.contains(words), "`{words}` is missing\n{}", outcome.shown());
    }
}

#[test]
fn a_rollback_is_refused_with_6_and_said_wherever_one_looks() {
    let world = World::new();
    let id = world.key.id().to_string();
    let synced = world.run("cache sync -o json").expect(0).json();
    assert_eq!(synced["downloaded"], json!([KEY]));
    assert_eq!(synced["signed"], json!({"key": id, "serial": 5, "expires": null}));
    world.prints("cache sync", &format!("signed with key {id}"));
    world.prints("status", &format!("signed with key {id} (serial 5)"));
    assert_eq!(world.run("status -o json").json()["manifest"]["signed"]["serial"], 5);
    assert_eq!(world.run("plan").code, 0);

    world.publish("2026.4.11", 4);
    let why = "the manifest has serial 4, and one with serial 5 was seen before";
    for verb in ["cache sync", "plan", "apply"] {
        world.run(verb).expect(6).says(why).says("trust reset` lets");
    }
    let problems = world.run("apply -o json").expect(6).json()["problems"].clone();
    let untrusted =
        |problem: &Value| problem["kind"] == "untrusted" && problem["message"].as_str().unwrap().contains(why);
    assert!(problems.as_array().unwrap().iter().any(untrusted), "{problems}");
    let status = world.run("status -o json").json();
    assert_eq!(status["manifest"]["signed"]["serial"], 5, "the last good one goes on");
    assert!(status["manifest"]["offline"].as_str().unwrap().contains(why), "{status}");
    world.prints("status", why);
    world.prints("why openclaw", why);
    assert!(world.run("why openclaw -o json").json()["manifestRefused"].as_str().unwrap().contains(why));
    let doctor = world.run("doctor -o json").json();
    let manifest = doctor["checks"].as_array().unwrap().iter().find(|check| check["layer"] == "manifest").unwrap();
    assert!(manifest["ok"] == false && manifest["found"].as_str().unwrap().contains(why), "{manifest}");
    // The old one is good for who forgets.
    world.prints("trust reset --yes", "forgot that the manifest with serial 5");
    world.run("cache sync").expect(0);
    assert_eq!(world.run("trust show -o json").expect(0).json()["accepted"]["serial"], 4);
}

#[test]
fn nothing_is_called_signed_where_nobody_checks() {
    let world = World::new();
    world.trust(&[]);
    for words in ["cache sync", "status", "status -o json", "cache sync -o json", "doctor", "plan", "cache list"] {
        let outcome = world.run(words);
        assert!(!format!("{}{}", outcome.stdout, outcome.stderr).contains("signed"), "{words}: {}", outcome.shown());
    }
    assert!(!world.sandbox.root().join("state/trust").exists());
    world.prints("trust show", "nobody checks who made the manifest");
    // What was there before the keys does not count, and offline there is nothing else.
    world.trust(&[&world.key]);
    std::fs::remove_dir_all(world.sandbox.path("published")).unwrap();
    for verb in ["plan", "apply", "cache sync"] {
        let said = world.run(verb).expect(6).says("was not verified with a trusted key").stderr;
        let wrong = ["is refused", "nothing of it is used", "trust reset"];
        assert!(!wrong.iter().any(|words| said.contains(words)), "it could not be had: {said}");
    }
}

#[test]
fn who_only_looks_raises_no_floor() {
    let world = World::new();
    for verb in ["plan", "status", "why openclaw", "doctor", "trust show"] {
        world.run(verb);
    }
    assert!(!world.sandbox.root().join("state/trust").exists());
    // Who acts does, before anything else comes of it.
    world.run("apply");
    assert_eq!(world.run("trust show -o json").json()["accepted"]["serial"], 5);
}

#[test]
fn show_says_what_is_known() {
    let world = World::new();
    let id = world.key.id().to_string();
    let keys = json!([{"id": id, "key": world.key.to_string()}]);
    let manifest = world.sandbox.path("published/vm/manifest.json").display().to_string();
    let none = world.run("trust show -o json").expect(0).json();
    assert_eq!(none, json!({"name": "demo", "manifest": manifest, "keys": keys, "accepted": null}));
    world.prints("trust show", "no manifest was accepted yet");
    let digest = world.publish("2026.4.12", 5);
    world.run("cache sync").expect(0);
    let shown = world.run("trust show -o json").expect(0).json();
    let accepted = json!({
        "serial": 5, "sha256": digest, "updatedAt": AT, "expires": null, "expired": false, "key": id, "trusted": true,
    });
    assert_eq!(shown["accepted"], accepted);
    let text = world.run("trust show").expect(0).stdout;
    assert!(text.contains(&format!("accepted last: serial 5 of {AT}\n  sha256 {digest}")), "{text}");
    assert!(text.contains("good for ever"), "{text}");
    let (other, _) = pair();
    world.trust(&[&other]);
    world.prints("trust show", "which is not in the state file any more");
    assert!(world.run("trust show -o yaml").expect(0).stdout.contains("trusted: false"));
}

#[test]
fn reset_says_what_it_forgets_and_does_it_when_reported_so() {
    let world = World::new();
    assert_eq!(world.run("trust reset -o json").expect(0).json(), json!({"name": "demo", "forgot": false}));
    world.run("cache sync").expect(0);
    world.run("trust reset").expect(64).says("--yes does it").says("would forget that the manifest with serial 5");
    assert_eq!(world.run("trust show -o json").json()["accepted"]["serial"], 5, "nothing was forgotten");
    // A record that was torn is an error with this way out, and no fresh start.
    let floor = world.sandbox.root().join("state/trust/demo.floor.json");
    std::fs::write(&floor, "{\"version\": 1, ").unwrap();
    for verb in ["cache sync", "plan", "apply", "trust show"] {
        world.run(verb).expect(6).says("is damaged").says("trust reset` forgets");
    }
    let doctor = world.run("doctor").expect(1);
    assert!(doctor.stdout.contains("is damaged") && doctor.stdout.contains("trust reset"), "{}", doctor.shown());
    world.prints("trust reset --yes", "which can no longer be read");
    world.run("cache sync").expect(0);
    std::fs::remove_file(&floor).unwrap();
    world.run("cache sync").expect(6).says("is gone, and a manifest that was accepted is in the cache");
    assert_eq!(world.run("trust reset --yes -o json").expect(0).json(), json!({"name": "demo", "forgot": true}));
    world.run("cache sync").expect(0);
}

#[test]
fn what_minisign_signs_is_accepted() {
    let world = World::new();
    let minisign = |words: &[&str]| {
        let output = std::process::Command::new("minisign").args(words).current_dir(world.sandbox.work()).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !minisign(&["-G", "-W", "-p", "own.pub", "-s", "own.key"]) {
        return skip("there is no minisign here");
    }
    let public = std::fs::read_to_string(world.sandbox.path("own.pub")).unwrap();
    world.trust(&[&TrustedKey::parse(public.lines().nth(1).unwrap()).unwrap()]);
    world.run("cache sync").expect(6).says("is signed with key");
    let comment = format!("file=manifest.json serial=3 updatedAt={AT} expires=2999-01-01T00:00:00Z");
    assert!(minisign(&["-S", "-s", "own.key", "-m", "published/vm/manifest.json", "-t", &comment]));
    world.run("cache sync").expect(0);
    let accepted = world.run("trust show -o json").expect(0).json()["accepted"].clone();
    assert_eq!((&accepted["serial"], &accepted["expires"]), (&json!(3), &json!("2999-01-01T00:00:00Z")));
    world.prints("trust show", "good until 2999-01-01T00:00:00Z");
}

/// Wherever it is killed: what was accepted can be told, one good manifest is left, and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn kill_dash_nine_loses_neither_the_floor_nor_the_last_good_manifest() {
    let world = World::new();
    world.run("cache sync").expect(0);
    let at = Location::File(world.sandbox.path("published/vm/manifest.json"));
    let trust = Trust { owner: "demo".parse().unwrap(), keys: vec![world.key.clone()] };
    let from = ManifestSource { at, trust: Some(trust) };
    let mut killed = 0;
    for serial in 6..66 {
        world.publish(&format!("1.{serial}"), serial);
        let child = world.sandbox.spawn("cache sync");
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..30_000))).await;
        child.signal(Signal::KILL);
        killed += u64::from(child.end().code != 0);
        let cache = Cache::open(&world.sandbox.root(), CacheOptions::default()).unwrap();
        let floor = cache.accepted(&"demo".parse().unwrap()).unwrap().unwrap().accepted.serial;
        let local = cache.local(Some(&from)).await.unwrap().expect("a good one is left").signed.unwrap().serial;
        assert!(local <= floor && floor <= serial, "{local} {floor} {serial}");
    }
    assert!(killed > 0);
    world.publish("1.66", 66);
    world.run("cache sync").expect(0);
    assert_eq!(world.run("trust show -o json").json()["accepted"]["serial"], 66);
}

#[test]
fn the_directory_of_floors_is_no_state_file() {
    let world = World::new();
    world.run("cache sync").expect(0);
    // Alone below its root, or so it would not say what may go.
    world.run("cache gc").expect(0);
    assert_eq!(world.run("trust show -o json").json()["accepted"]["serial"], 5);
    // One of that name has its own files beside them.
    let text = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    world.sandbox.write("steadfast.yaml", text.replace("name: demo", "name: trust"));
    world.run("apply");
    assert!(world.sandbox.root().join("state/trust/trust.floor.json").exists());
    world.publish("2026.4.11", 4);
    world.run("cache sync").expect(6);
}
