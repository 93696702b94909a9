use super::*;
use crate::model::spec::{Attachment, Cpus, LogDriver, MountSource, NetworkMode, Relabel, Signal, Ulimit};
use crate::model::{ContainerName, HealthTest, Mount, Protocol, RestartPolicy};

fn spec() -> ContainerSpec {
    ContainerSpec {
        command: Some(vec![Text::plain("serve")]),
        env: BTreeMap::from([
            ("HOME".to_owned(), Text::plain("/home/node")),
            ("TOKEN".to_owned(), Text::sensitive("canary")),
        ]),
        mounts: vec![Mount::bind(Text::plain("/srv"), "/data", true)],
        ports: vec![Port { host_ip: "127.0.0.1".into(), host_port: 8080, container_port: 80, protocol: Protocol::Tcp }],
        ..ContainerSpec::new(ContainerName::new("demo-a").unwrap())
    }
}

#[test]
fn every_field_that_is_recorded_is_known_when_it_goes() {
    let check = HealthCheck {
        test: HealthTest::Shell("true".into()),
        interval: HealthCheck::INTERVAL,
        timeout: HealthCheck::TIMEOUT,
        retries: 3,
        ..HealthCheck::new(HealthTest::Shell("true".into()))
    };
    let full = ContainerSpec { add_hosts: vec!["a:::1".into()], healthcheck: Some(check), ..spec() };
    for spec in [full, hidden(), ContainerSpec { no_healthcheck: true, ..spec() }] {
        let fields = wanted_fields(&spec, &image(), &key(1));
        let unknown: Vec<_> = fields.keys().filter(|field| !known_field(field)).collect();
        assert!(fields.len() > 4 && unknown.is_empty(), "{unknown:?}");
    }
}

fn image() -> ImageRef {
    ImageRef::new("ghcr.io/a/a:1").unwrap()
}

fn key(seed: u8) -> HostKey {
    HostKey::from_bytes([seed; 32])
}

fn changed(label: &CanonicalSpec, spec: &ContainerSpec, live: Option<&Live>) -> Vec<String> {
    let changes = label.changes(SPEC_VERSION, spec, &image(), &key(1), live);
    changes.into_iter().map(|change| change.field).collect()
}

#[test]
fn a_label_round_trips_and_differs_from_nothing() {
    let label = CanonicalSpec::new(&spec(), &image(), None, &key(1)).to_label();
    assert!(!label.contains("canary"), "{label}");
    let read = CanonicalSpec::from_label(&label).unwrap();
    assert_eq!(changed(&read, &spec(), None), Vec::<String>::new());
}

#[test]
fn each_edit_names_its_field_and_hides_its_secret() {
    let label = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    let mut edited = spec();
    edited.env.insert("TOKEN".into(), Text::sensitive("canary two"));
    edited.env.remove("HOME");
    edited.mounts[0].read_only = false;
    let changes = label.changes(SPEC_VERSION, &edited, &image(), &key(1), None);
    let fields: Vec<_> = changes.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(fields, ["container.env.HOME", "container.env.TOKEN", "container.mounts[/data]"]);
    assert!(changes[1].from.as_ref().unwrap().starts_with("(sensitive) #"));
    assert_ne!(changes[1].from, changes[1].to);
    assert!(!format!("{changes:?}").contains("canary"));
    assert_eq!(changes[2].from.as_deref(), Some("/srv:ro"));
}

#[test]
fn what_becomes_a_secret_is_hidden_on_both_sides() {
    let label = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    let mut edited = spec();
    edited.env.insert("HOME".into(), Text::sensitive("/home/other"));
    let changes = label.changes(SPEC_VERSION, &edited, &image(), &key(1), None);
    assert_eq!(changes[0].from.as_deref(), Some("(sensitive)"));
    assert!(!format!("{changes:?}").contains("/home"), "{changes:?}");
}

#[test]
fn becoming_sensitive_without_changing_is_no_change() {
    let label = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    let mut edited = spec();
    edited.env.insert("HOME".into(), Text::sensitive("/home/node"));
    edited.env.insert("TOKEN".into(), Text::plain("canary"));
    assert_eq!(changed(&label, &edited, None), Vec::<String>::new());
}

#[test]
fn a_lost_key_is_made_good_by_the_live_value() {
    let label = CanonicalSpec::new(&spec(), &image(), None, &key(9));
    assert!(!label.readable_with(&key(1)));
    assert_eq!(changed(&label, &spec(), None), Vec::<String>::new(), "unseen is not changed");
    let live = Live { env: BTreeMap::from([("TOKEN".into(), "canary".into())]), ..Live::default() };
    assert_eq!(changed(&label, &spec(), Some(&live)), Vec::<String>::new());
    let live = Live { env: BTreeMap::from([("TOKEN".into(), "older".into())]), ..Live::default() };
    assert_eq!(changed(&label, &spec(), Some(&live)), ["container.env.TOKEN"]);
}

#[test]
fn a_newer_builds_fields_are_ignored_by_an_older_one() {
    let mut label = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    label.fields.insert("container.gpu".into(), Leaf::Plain("all".into()));
    let at = |version| label.changes(version, &spec(), &image(), &key(1), None).len();
    assert_eq!(at(SPEC_VERSION + 1), 0);
    assert_eq!(at(SPEC_VERSION), 1);
}

#[test]
fn switching_a_health_check_off_and_on_is_a_change() {
    let off = ContainerSpec { no_healthcheck: true, ..spec() };
    let label = CanonicalSpec::new(&off, &image(), None, &key(1));
    assert_eq!(changed(&label, &off, None), Vec::<String>::new());
    assert_eq!(changed(&label, &spec(), None), ["container.healthcheck.test"]);
    let label = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    let change = &label.changes(SPEC_VERSION, &off, &image(), &key(1), None)[0];
    assert_eq!((change.field.as_str(), change.to.as_deref()), ("container.healthcheck.test", Some("[NONE]")));
}

/// The same with its mount's target and its port from the environment.
fn hidden() -> ContainerSpec {
    let mut hidden = spec();
    hidden.mounts[0].target = Text::sensitive("/data");
    hidden.hidden_ports = hidden.ports.iter().cloned().collect();
    hidden
}

#[test]
fn a_hidden_target_and_port_are_in_no_label_and_no_change() {
    let label = CanonicalSpec::new(&hidden(), &image(), None, &key(1));
    let text = label.to_label();
    assert!(!text.contains("/data") && !text.contains("8080"), "{text}");
    let read = CanonicalSpec::from_label(&text).unwrap();
    assert_eq!(changed(&read, &hidden(), None), Vec::<String>::new());
    let mut edited = hidden();
    edited.mounts[0].source = MountSource::Bind(Text::plain("/other"));
    edited.mounts[0].target = Text::sensitive("/elsewhere");
    edited.ports[0].host_port = 9090;
    edited.hidden_ports = edited.ports.iter().cloned().collect();
    let changes = read.changes(SPEC_VERSION, &edited, &image(), &key(1), None);
    assert_eq!(changes.len(), 3, "one mount goes, one comes, and the port: {changes:?}");
    let said = format!("{changes:?}");
    for secret in ["/data", "/elsewhere", "8080", "9090"] {
        assert!(!said.contains(secret), "{said}");
    }
    assert!(changes[1].field.starts_with("container.mounts[(sensitive) #") && changes[1].field.len() < 40, "{said}");
}

#[test]
fn a_target_and_a_port_that_are_hidden_from_now_on_are_no_change() {
    let before = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    assert_eq!(changed(&before, &hidden(), None), Vec::<String>::new(), "by an upgrade");
    let before = CanonicalSpec::new(&hidden(), &image(), None, &key(1));
    assert_eq!(changed(&before, &spec(), None), Vec::<String>::new(), "and back");
    let mut moved = hidden();
    moved.mounts[0].target = Text::sensitive("/elsewhere");
    let before = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    let changes = before.changes(SPEC_VERSION, &moved, &image(), &key(1), None);
    assert!(changes.len() == 2 && !format!("{changes:?}").contains("/data"), "{changes:?}");
    let mut edited = hidden();
    edited.mounts[0].read_only = false;
    let before = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    assert_eq!(changed(&before, &edited, None).len(), 1);
}

#[test]
fn a_lost_key_leaves_a_hidden_mount_alone_unless_the_live_one_differs() {
    let label = CanonicalSpec::new(&hidden(), &image(), None, &key(9));
    assert!(!label.readable_with(&key(1)));
    assert_eq!(changed(&label, &hidden(), None), Vec::<String>::new());
    let live = |source: &str| Live { mounts: BTreeMap::from([("/data".into(), source.into())]), ..Live::default() };
    assert_eq!(changed(&label, &hidden(), Some(&live("/srv:ro"))), Vec::<String>::new());
    assert_eq!(changed(&label, &hidden(), Some(&live("/other"))).len(), 1);
}

#[test]
fn the_order_of_ports_and_hosts_does_not_matter() {
    let mut two = spec();
    two.ports.push(Port { host_port: 9090, ..two.ports[0].clone() });
    let label = CanonicalSpec::new(&two, &image(), None, &key(1));
    two.ports.reverse();
    assert_eq!(changed(&label, &two, None), Vec::<String>::new());
}

/// Each setting with what sets it, and the field that is recorded of it.
type Setting = (&'static str, fn(&mut ContainerSpec));

const SETTINGS: [Setting; 36] = [
    ("container.addHosts", |spec| spec.add_hosts = vec!["a:1.2.3.4".into()]),
    ("container.capAdd", |spec| {
        let _ = spec.security.cap_add.insert("NET_ADMIN".into());
    }),
    ("container.capDrop", |spec| {
        let _ = spec.security.cap_drop.insert("ALL".into());
    }),
    ("container.command", |spec| spec.command = Some(vec!["other".into()])),
    ("container.devices", |spec| spec.security.devices.push("/dev/fuse".into())),
    ("container.dns", |spec| spec.network.dns.push("1.1.1.1".parse().unwrap())),
    ("container.entrypoint", |spec| spec.entrypoint = Some(Vec::new())),
    ("container.env.MORE", |spec| drop(spec.env.insert("MORE".into(), "1".into()))),
    ("container.groupAdd", |spec| spec.process.groups.push("video".into())),
    ("container.healthcheck.test", |spec| spec.no_healthcheck = true),
    ("container.hostname", |spec| spec.network.hostname = Some("coder".into())),
    ("container.init", |spec| spec.process.init = true),
    ("container.labels.team", |spec| drop(spec.labels.insert("team".into(), "a".into()))),
    ("container.logging.driver", |spec| spec.logging.driver = Some(LogDriver::None)),
    ("container.logging.maxSize", |spec| spec.logging.max_size = Some(1 << 20)),
    ("container.mounts[/data]", |spec| spec.mounts[0].selinux = Some(Relabel::Private)),
    ("container.mounts[/tmp]", |spec| {
        spec.mounts.push(Mount::new(MountSource::Tmpfs { size: Some(1 << 20), mode: None }, "/tmp", false));
    }),
    ("container.networks", |spec| spec.network.mode = NetworkMode::Host),
    ("container.networks.demo-net", |spec| {
        spec.network.mode = NetworkMode::Networks([("demo-net".to_owned(), Attachment::default())].into());
    }),
    ("container.noNewPrivileges", |spec| spec.security.no_new_privileges = true),
    ("container.ports", |spec| spec.ports[0].host_port = 0),
    ("container.privileged", |spec| spec.security.privileged = true),
    ("container.readOnlyRoot", |spec| spec.security.read_only_root = true),
    ("container.resources.cpus", |spec| spec.resources.cpus = Some(Cpus(1500))),
    ("container.resources.cpuset", |spec| spec.resources.cpuset = Some("0".into())),
    ("container.resources.memory", |spec| spec.resources.memory.limit = Some(1 << 30)),
    ("container.resources.pids", |spec| spec.resources.pids = Some(i64::MAX)),
    ("container.resources.shm", |spec| spec.resources.shm = Some(1 << 20)),
    ("container.restart", |spec| spec.restart = RestartPolicy::OnFailureAtMost(3)),
    ("container.securityOpt", |spec| spec.security.options.push("label=disable".into())),
    ("container.stopSignal", |spec| spec.process.stop_signal = Signal::parse("INT")),
    ("container.stopTimeout", |spec| spec.process.stop_timeout = Some(Duration::from_secs(3))),
    ("container.sysctls.net.core.somaxconn", |spec| {
        drop(spec.process.sysctls.insert("net.core.somaxconn".into(), "9".into()));
    }),
    ("container.ulimits.nofile", |spec| {
        let _ = spec.process.ulimits.insert("nofile".into(), Ulimit { soft: 1, hard: 2 });
    }),
    ("container.user", |spec| spec.process.user = Some("1000".into())),
    ("container.workingDir", |spec| spec.process.working_dir = Some("/srv".into())),
];

#[test]
fn each_setting_is_a_field_of_its_own() {
    let before = CanonicalSpec::new(&spec(), &image(), None, &key(1));
    for (field, set) in SETTINGS {
        let mut edited = spec();
        set(&mut edited);
        assert_ne!(edited, spec(), "{field}");
        assert_eq!(changed(&before, &edited, None), [field], "set");
        let after = CanonicalSpec::new(&edited, &image(), None, &key(1));
        let read = CanonicalSpec::from_label(&after.to_label()).unwrap();
        assert_eq!(changed(&read, &edited, None), Vec::<String>::new(), "{field} as it was");
        assert_eq!(changed(&read, &spec(), None), [field], "gone again");
    }
}

/// What the first version of the record kept of a container, byte by byte, is what this one keeps of the same.
#[test]
fn a_container_of_an_older_build_is_not_recreated() {
    const FIRST: &str = r#"{"fields":{"container.command":["serve"],"container.env.HOME":"/home/node","container.mounts[/data]":"/srv:ro","container.ports":["127.0.0.1:8080:80/tcp"],"container.restart":"unless-stopped","image":"ghcr.io/a/a:1"},"key":"00000000"}"#;
    let mut older = spec();
    older.env.remove("TOKEN");
    let read = CanonicalSpec::from_label(FIRST).unwrap();
    let changes = read.changes(1, &older, &image(), &key(1), None);
    assert_eq!(changes, []);
}
