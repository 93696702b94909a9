use std::path::Path;

use super::*;
use crate::model::FieldChange;
use crate::model::wanted::ManifestCause;
use crate::model::{Arch, Artifact, ArtifactKey, HostKey, Location, Observed, Sha256Digest};
use crate::plan::{Step, WaitingOn};
use crate::state::{Context, Input, load};

fn desired() -> Desired {
    let text = "apiVersion: steadfast/v1\nname: demo\nruntime: {podman: {}}\nagents:\n  a:\n    version: \"1.4\"\n    \
                    image: ghcr.io/acme/app\n    source: registry\n    container:\n      ports: [\"127.0.0.1:8080:80\"]\n      \
                    mounts: [{source: \"/srv/<b>|x\", target: /data, readOnly: true}, {source: \"${env:V}\", target: \"/${env:V}\"}]\n      \
                    env: {MODE: canary-mode, API_TOKEN: canary-token}\n";
    let input = Input { name: "s.yaml".into(), text: text.into(), dir: "/".into() };
    let vars = [("HOME".to_owned(), "/h".to_owned()), ("V".to_owned(), "/canary-v".to_owned())].into();
    let key = |_: &Path| HostKey::from_bytes([7; 32]);
    let context = Context { vars, root: None, manifest_url: None, host_arch: Arch::X64, key: &key };
    load(&input, &context).unwrap_or_else(|err| panic!("{}", err.render(false))).desired
}

/// Of no agent: the plan alone is looked at here.
fn status() -> Status {
    Status {
        name: "demo".parse().unwrap(),
        converged: false,
        observed_at: String::new(),
        manifest: None,
        vm: None,
        podman: crate::status::PodmanStatus { reachable: true, version: None, error: None },
        agents: Default::default(),
        orphans: Vec::new(),
    }
}

fn shown(plan: &Plan) -> Snapshot {
    Snapshot { observed: Observed::nothing(), plan: plan.clone(), status: status(), manifest_fault: None }
}

fn waiting(on: WaitingOn, reason: Reason) -> Plan {
    let agent = Some("a".parse().unwrap());
    let waiting = Waiting { agent, kind: ActionKind::CreateContainer, target: "demo-a".into(), reason, on };
    Plan { waiting: vec![waiting], ..Plan::default() }
}

#[test]
fn a_new_agent_is_shown_with_what_it_will_be() {
    let image = WaitingOn::Image { reference: ImageRef::new("ghcr.io/acme/app:1.4").unwrap() };
    let plan = waiting(image, Reason::ContainerMissing);
    let text = text(&desired(), &shown(&plan), false);
    for line in [
        "Then:\n",
        "        image: ghcr.io/acme/app:1.4\n",
        "        ports: 127.0.0.1:8080:80/tcp\n",
        "        mounts: /srv/<b>|x → /data (read-only), (sensitive) → (sensitive)\n",
        "        env: API_TOKEN, MODE\n",
        "Plan: 1 to create.",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let markdown = markdown(&desired(), &shown(&plan));
    assert!(
        markdown.contains("image: `ghcr.io/acme/app:1.4`<br>ports: `127.0.0.1:8080:80/tcp`<br>mounts: "),
        "{markdown}"
    );
    assert!(markdown.contains("<br>env: `API_TOKEN`, `MODE`<br>"), "{markdown}");
    assert!(!markdown.contains("<b>") && !markdown.contains("|x"), "{markdown}");
    assert!(!format!("{text}{markdown}").contains("canary"), "{text}{markdown}");
}

#[test]
fn what_travels_is_shown_where_it_is_less_than_all() {
    let artifact = |name: &str| Artifact {
        key: ArtifactKey::new(format!("vm/images/{name}-1-x64.tar.gz")).unwrap(),
        sha256: Sha256Digest::from_bytes([7; 32]),
        size_bytes: 60 << 20,
        layers: None,
    };
    let fetch = |name: &str, transfer: u64| Step {
        agent: None,
        action: Action::FetchArtifact {
            artifact: artifact(name),
            from: Location::parse("https://m.example/a").unwrap(),
            transfer,
        },
        reason: Reason::NotCached,
    };
    let plan = Plan { ready: vec![fetch("a", 12 << 20), fetch("b", 60 << 20)], ..Plan::default() };
    let text = text(&desired(), &shown(&plan), false);
    assert!(text.contains("a-1-x64.tar.gz` (12.00 MiB of 60.00 MiB)\n"), "{text}");
    assert!(text.contains("b-1-x64.tar.gz` (60.00 MiB)\n"), "{text}");
    assert!(text.contains("Plan: 2 artifacts to fetch (72.00 MiB of 120.00 MiB)."), "{text}");
    assert!(markdown(&desired(), &shown(&plan)).contains("(12.00 MiB of 60.00 MiB)"));
    let json = serde_json::to_value(super::json(&desired().name, &plan, None, false)).unwrap();
    assert_eq!(json["summary"]["transferBytes"], 72 << 20);
    assert_eq!(json["summary"]["fetchBytes"], 120 << 20);
    assert_eq!(
        (&json["actions"][0]["bytes"], &json["actions"][0]["transferBytes"]),
        (&(60 << 20).into(), &(12 << 20).into())
    );
    assert_eq!(json["actions"][1].get("transferBytes"), None, "all of it travels");
    let whole = Plan { ready: vec![fetch("b", 60 << 20)], ..Plan::default() };
    let json = serde_json::to_value(super::json(&desired().name, &whole, None, false)).unwrap();
    assert_eq!(json["summary"].get("transferBytes"), None);
}

#[test]
fn what_is_blocked_is_called_so_and_is_nothing_to_create() {
    let cause = ManifestCause::NotOffered { why: "no manifest is <b>*here*</b>".to_owned() };
    let plan = waiting(WaitingOn::Manifest { cause }, Reason::ContainerMissing);
    let text = text(&desired(), &shown(&plan), false);
    assert!(
        text.contains("Blocked:\n    + create container `demo-a`") && text.contains("\nPlan: 1 blocked.\n"),
        "{text}"
    );
    assert!(!text.contains("Then:") && !text.contains("to create"), "{text}");
    let markdown = markdown(&desired(), &shown(&plan));
    assert!(markdown.contains("**blocked**") && !markdown.contains("<b>"), "{markdown}");
    let json = serde_json::to_value(super::json(&desired().name, &plan, None, false)).unwrap();
    assert_eq!((&json["summary"]["create"], &json["summary"]["blocked"]), (&0.into(), &1.into()), "{json}");
    assert_eq!(json["waiting"][0]["blocked"], true);
    // What cannot be seen is told apart: nobody knows whether there is anything to do.
    let unseen = waiting(WaitingOn::Sight { why: "no answer".into() }, Reason::ContainerMissing);
    assert_eq!((unseen.summary().unknown, unseen.summary().blocked), (1, 0));
}

#[test]
fn a_changed_value_is_on_one_line_and_does_nothing() {
    let change = FieldChange {
        field: "container.env.MODE".into(),
        from: Some("one".into()),
        to: Some("two\nPlan: \u{1b}[2J | <img> @me".into()),
    };
    let image = WaitingOn::Image { reference: ImageRef::new("ghcr.io/acme/app:1.4").unwrap() };
    let mut plan = waiting(image, Reason::Changed(vec![change]));
    plan.waiting[0].kind = ActionKind::ReplaceContainer;
    let text = text(&desired(), &shown(&plan), false);
    assert!(text.contains("container.env.MODE: one → two\\nPlan: \\x1b[2J | <img> @me\n"), "{text}");
    let markdown = markdown(&desired(), &shown(&plan));
    let row = markdown.lines().find(|line| line.contains("container.env.MODE")).unwrap();
    assert!(row.contains("`container.env.MODE`: one → <code>two") && row.ends_with('|'), "{row}");
    for nasty in ["<img>", "@me", "\u{1b}"] {
        assert!(!markdown.contains(nasty), "{nasty}: {markdown}");
    }
}
