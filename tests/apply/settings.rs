//! A container as people write it, from the file to what is inside of it; volumes and networks on the way.

use serde_json::Value;

use crate::declared::steps;
use crate::world::{World, api, until};

/// Writes a state file with these top-level fields and agents.
fn state(world: &World, top: &str, agents: &[&str]) {
    world.state(agents);
    let file = std::fs::read_to_string(world.sandbox.path("steadfast.yaml")).unwrap();
    world.sandbox.write("steadfast.yaml", file.replacen("agents:", &format!("{top}\nagents:"), 1));
}

fn inside(world: &World, agent: &str, line: &str) -> String {
    world.run(["exec", agent, "--", "sh", "-c", line]).expect(0).stdout
}

fn is_there(kind: &str, name: &str) -> bool {
    api("GET", &format!("/v4.0.0/libpod/{kind}/{name}/json"), b"").0 == 200
}

#[test]
fn agents_share_networks_and_volumes_that_are_made_for_them() {
    let world = World::new();
    let owner = world.owner.clone();
    let top = "networks: {default: {}}\nvolumes: {data: {labels: {team: a}}}";
    let writer = world.agent("writer", "command: [sleep, \"1000\"], mounts: [\"data:/data\"]");
    let reader =
        world.agent("reader", "command: [sleep, \"1000\"], mounts: [{volume: data, target: /seen, readOnly: true}]");
    state(&world, top, &[&writer, &reader]);
    let planned = world.run("plan").expect(0).stdout;
    for line in [format!("create network `{owner}-default`"), format!("create volume `{owner}-data`")] {
        assert!(planned.contains(&line), "{planned}");
    }
    let made = steps(&world.applied());
    let at = |step: String| made.iter().position(|made| *made == step).unwrap_or_else(|| panic!("{step}: {made:?}"));
    assert!(at(format!("createNetwork {owner}-default")) < at(format!("createContainer {owner}-writer")), "{made:?}");
    assert!(at(format!("createVolume {owner}-data")) < at(format!("createContainer {owner}-reader")), "{made:?}");
    assert_eq!(steps(&world.applied()), Vec::<String>::new(), "nothing is left to do");
    world.run("plan --detailed-exitcode").expect(0);

    // They find each other by the names they have in the file.
    until("names are served", || {
        let found = world.run(["exec", "reader", "--", "sh", "-c", "busybox nslookup writer || nslookup writer"]);
        found.code == 0 && !found.stdout.contains("NXDOMAIN")
    });
    inside(&world, "writer", "echo kept >/data/note");
    assert_eq!(
        inside(&world, "reader", "cat /seen/note; touch /seen/x 2>/dev/null || echo read-only"),
        "kept\nread-only\n"
    );

    // What was made stays with what is in it, whatever becomes of its containers.
    world.run("down").expect(0);
    assert!(is_there("networks", &format!("{owner}-default")) && is_there("volumes", &format!("{owner}-data")));
    assert_eq!(world.apply_kinds(), ["createContainer", "createContainer"]);
    assert_eq!(inside(&world, "reader", "cat /seen/note"), "kept\n");

    // One that left the file stays; asked for, all go.
    state(&world, "networks: {default: {}}", &[&world.agent("other", "command: [sleep, \"1000\"]")]);
    world.applied();
    assert!(is_there("volumes", &format!("{owner}-data")));
    let gone = world.run("down --volumes -o json").expect(0).json();
    let gone = steps(&gone);
    assert_eq!(gone.last().map(String::as_str), Some(format!("removeVolume {owner}-data").as_str()), "{gone:?}");
    assert!(!is_there("networks", &format!("{owner}-default")) && !is_there("volumes", &format!("{owner}-data")));
}

#[test]
fn somebody_elses_network_is_not_touched() {
    let world = World::new();
    let name = format!("{}-theirs", world.owner);
    assert_eq!(api("POST", "/v4.0.0/libpod/networks/create", format!(r#"{{"name":"{name}"}}"#).as_bytes()).0, 200);
    let agent = world.agent("a", "command: [sleep, \"1000\"], networks: [theirs]");
    state(&world, "networks: {theirs: {}}", &[&agent]);
    let refused = world.run("apply");
    assert_eq!(refused.code, 1, "{}", refused.shown());
    assert!(
        refused.stderr.contains("somebody else's") && refused.stderr.contains("external: true"),
        "{}",
        refused.shown()
    );
    state(&world, &format!("networks: {{theirs: {{external: true, name: {name}}}}}"), &[&agent]);
    assert_eq!(world.apply_kinds(), ["createContainer"]);
    world.run("down --volumes").expect(0);
    assert!(is_there("networks", &name), "it is somebody else's");
    state(&world, "networks: {theirs: {external: true, name: not-there-at-all}}", &[&agent]);
    let missing = world.run("apply");
    assert_eq!(missing.code, 1, "{}", missing.shown());
    assert!(missing.stderr.contains("podman network create not-there-at-all"), "{}", missing.shown());
}

#[test]
fn settings_hold_and_a_change_of_one_is_told() {
    let world = World::new();
    let fields = "entrypoint: sh, command: \"-c 'trap : INT; echo $0 $1; sleep 1000 & wait' zero 'one two'\", user: 1000, \
                  workingDir: /tmp, hostname: coder, domainname: agents.example, labels: [team=a], stopSignal: INT, \
                  stopTimeout: 3s, resources: {memory: 64MiB, pids: 99}, capDrop: [ALL], noNewPrivileges: true, \
                  readOnlyRoot: true, mounts: [{tmpfs: true, target: /tmp, size: 1MiB}], ports: [\"127.0.0.1::8080\"], \
                  sysctls: {net.ipv4.ip_unprivileged_port_start: 80}, logging: {maxSize: 1MiB}";
    world.state(&[&world.agent("a", fields)]);
    assert_eq!(world.apply_kinds(), ["createContainer"]);
    let told =
        inside(&world, "a", "id -u; pwd; hostname; touch /x 2>/dev/null || echo read-only; grep CapBnd /proc/1/status");
    assert_eq!(told, "1000\n/tmp\ncoder.agents.example\nread-only\nCapBnd:\t0000000000000000\n");
    assert_eq!(world.run("logs a").expect(0).stdout, "zero one two\n");
    let before = world.inspect("a");
    assert_eq!(before["HostConfig"]["Memory"], 64 << 20);
    let port = &before["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostPort"];
    let status = world.run("status -o json").expect(0).json();
    assert!(status["agents"]["a"].to_string().contains(port.as_str().unwrap()), "{status}");
    assert_eq!(steps(&world.applied()), Vec::<String>::new(), "nothing is left to do");
    assert_eq!(world.inspect("a")["Id"], before["Id"]);

    world.state(&[&world.agent("a", &fields.replace("pids: 99", "pids: 98"))]);
    let plan = world.run("plan -o json").expect(0).json();
    let changes: Vec<&Value> =
        plan["actions"][0]["changes"].as_array().unwrap().iter().map(|one| &one["field"]).collect();
    assert_eq!(changes, ["container.resources.pids"], "{plan}");
    assert_eq!(world.apply_kinds(), ["replaceContainer"]);
}

#[test]
fn a_failure_that_is_not_to_be_tried_for_ever_stays() {
    let world = World::new();
    world.state(&[&world.agent("a", "command: [sh, -c, \"exit 3\"], restart: \"on-failure:2\"")]);
    world.run("apply");
    until("Podman gave up", || {
        let seen = world.inspect("a");
        seen["State"]["Status"] == "exited" && seen["RestartCount"] == 2
    });
    let id = world.inspect("a")["Id"].clone();
    let status = world.run("status");
    assert!(status.stdout.contains("`restart: on-failure:2` it stays so"), "{}", status.shown());
    let again = world.run("apply");
    assert_ne!(again.code, 0, "it has failed: {}", again.shown());
    assert_eq!(
        (&world.inspect("a")["Id"], world.inspect("a")["RestartCount"].as_i64()),
        (&id, Some(2)),
        "nothing was begun"
    );
}
