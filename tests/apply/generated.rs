//! Generated containers on the real Podman: each is created once, a second look finds nothing to do, and a change of one field
//! moves exactly that agent and names that field.
//!
//! `STEADFAST_TEST_SPECS` says how many (200 when not set), `STEADFAST_TEST_SPECS_SEED` which.

use std::collections::BTreeMap;

use crate::world::World;

/// Each field with the values it is drawn from; the last part of its path stands in `container`. None needs anything of the
/// machine that not every Linux has.
const FIELDS: [(&str, &[&str]); 33] = [
    ("entrypoint", &["[sh]", "[]", "\"sh -c\"", "[tini, --, \"a b\"]"]),
    ("command", &["[sleep, \"1000\"]", "\"sleep 1000 'a b'\"", "[a, \"\", \"ä \\\"q\\\" $HOME\"]"]),
    ("user", &["1000", "\"1000:1000\"", "root"]),
    ("groupAdd", &["[44]", "[44, 45]"]),
    ("workingDir", &["/", "/srv", "/tmp/a b"]),
    ("hostname", &["coder", "a.b.example"]),
    ("env.PLAIN", &["\"\"", "\"a=b c\"", "\"$HOME\"", "7"]),
    ("env.PATH", &["/bin:/else"]),
    ("labels.team", &["a", "\"b=c, d\"", "\"\""]),
    ("labels.io.example/x", &["\"1\""]),
    ("init", &["true"]),
    ("stopSignal", &["INT", "9", "RTMIN+3"]),
    ("stopTimeout", &["0s", "3s", "1m"]),
    ("dns", &["1.1.1.1", "[1.1.1.1, \"fd00::1\"]"]),
    ("addHosts", &["[\"a:10.1.2.3\"]", "[\"b:host-gateway\", \"c:fd00::2\"]"]),
    ("resources.cpus", &["1", "0.25", "1.5"]),
    ("resources.cpuset", &["0", "\"0-1\""]),
    ("resources.memory", &["64MiB", "1GiB"]),
    ("resources.pids", &["77", "-1"]),
    ("resources.shm", &["1MiB", "64MiB"]),
    ("ulimits.nofile", &["100", "\"100:200\""]),
    ("ulimits.core", &["0"]),
    ("sysctls.net.ipv4.ip_unprivileged_port_start", &["80", "0"]),
    ("devices", &["[/dev/null]", "[\"/dev/null:/dev/other:r\"]"]),
    ("capAdd", &["[NET_ADMIN]", "[SYS_NICE, CAP_NET_RAW]"]),
    ("capDrop", &["[ALL]", "[CHOWN]"]),
    ("securityOpt", &["[label=disable]", "[seccomp=unconfined]", "[\"mask=/proc/cmdline\"]"]),
    ("noNewPrivileges", &["true"]),
    ("readOnlyRoot", &["true"]),
    ("logging.maxSize", &["1MiB", "20MiB"]),
    ("restart", &["no", "on-failure", "on-failure:3", "always"]),
    ("ports", &["[\"127.0.0.1::80\"]", "[\"80\", \"81/udp\"]"]),
    (
        "mounts[/data]",
        &["{volume: data, target: /data}", "{tmpfs: true, target: /data}", "{tmpfs: true, target: /data, size: 1MiB}"],
    ),
];

/// A container: which value each of its fields has.
type Spec = BTreeMap<usize, usize>;

/// Numbers that a seed fixes (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }

    fn spec(&mut self) -> Spec {
        let mut spec = Spec::new();
        for (field, (_, values)) in FIELDS.iter().enumerate() {
            if self.below(4) == 0 {
                spec.insert(field, self.below(values.len()));
            }
        }
        spec
    }

    /// The same but for one field, which is set, gone, or another.
    fn change(&mut self, spec: &Spec) -> (Spec, usize) {
        let (mut changed, field) = (spec.clone(), self.below(FIELDS.len()));
        let values = FIELDS[field].1.len();
        match spec.get(&field) {
            Some(value) if values > 1 && self.below(2) == 0 => {
                changed.insert(field, (value + 1 + self.below(values - 1)) % values);
            }
            Some(_) => drop(changed.remove(&field)),
            None => drop(changed.insert(field, self.below(values))),
        }
        (changed, field)
    }
}

/// The spec as the fields of a `container` in flow style.
fn written(spec: &Spec) -> String {
    let mut maps = BTreeMap::<&str, Vec<String>>::new();
    let mut plain = Vec::new();
    for (field, value) in spec {
        let (path, value) = (FIELDS[*field].0, FIELDS[*field].1[*value]);
        if path.starts_with("mounts[") {
            plain.push(format!("mounts: [{value}]"));
        } else if let Some((map, key)) = path.split_once('.') {
            maps.entry(map).or_default().push(format!("\"{key}\": {value}"));
        } else {
            plain.push(format!("{path}: {value}"));
        }
    }
    plain.extend(maps.iter().map(|(map, entries)| format!("{map}: {{{}}}", entries.join(", "))));
    plain.join(", ")
}

/// Without it an entrypoint or a command alone may leave nothing to run, which Podman refuses.
fn runs_something(mut spec: Spec) -> Spec {
    if spec.contains_key(&0) {
        spec.entry(1).or_insert(0);
    }
    spec
}

fn of_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn a_generated_container_is_created_once_and_a_change_of_one_field_is_told() {
    const AT_ONCE: usize = 40;
    let specs = usize::try_from(of_environment("STEADFAST_TEST_SPECS", 200)).unwrap();
    let first = of_environment("STEADFAST_TEST_SPECS_SEED", 1);
    let world = World::new();
    let name = |at: usize| format!("a{at}");
    for round in 0..specs.div_ceil(AT_ONCE) {
        let seed = first + round as u64;
        let mut numbers = Numbers(seed);
        let specs: Vec<_> = (0..AT_ONCE).map(|_| runs_something(numbers.spec())).collect();
        let state = |specs: &[Spec]| {
            let agents = specs.iter().enumerate().map(|(at, spec)| {
                // Created is enough: what it comes to inside, other tests tell.
                world.agent(&name(at), &written(spec)).replacen("{version", "{state: stopped, version", 1)
            });
            let agents: Vec<_> = agents.collect();
            let agents: Vec<_> = agents.iter().map(String::as_str).collect();
            world.state(&agents);
            let file = world.sandbox.path("steadfast.yaml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replacen("agents:", "volumes: {data: {}}\nagents:", 1)).unwrap();
        };
        state(&specs);
        let replay = format!("STEADFAST_TEST_SPECS_SEED={seed} STEADFAST_TEST_SPECS={AT_ONCE}");
        let applied = world.run("apply -o json");
        assert_eq!(applied.code, 0, "{replay}\n{}", applied.shown());
        let ids = world.ids();
        let again = world.run("plan -o json").json();
        assert_eq!(again["actions"].as_array().map(Vec::len), Some(0), "{replay}: something is left to do: {again}");
        assert_eq!(again["waiting"].as_array().map(Vec::len), Some(0), "{replay}: {again}");
        for at in 0..AT_ONCE {
            let (changed, field) = numbers.change(&specs[at]);
            if changed != runs_something(changed.clone()) {
                continue;
            }
            let mut edited = specs.clone();
            edited[at] = changed;
            state(&edited);
            let plan = world.run("plan -o json").json();
            let steps = plan["actions"].as_array().cloned().unwrap_or_default();
            let container = steps.iter().filter(|step| step["kind"] != "createVolume").collect::<Vec<_>>();
            let told = format!(
                "{replay}, agent {at}, {}: {} -> {}: {plan}",
                FIELDS[field].0,
                written(&specs[at]),
                written(&edited[at])
            );
            assert_eq!(container.len(), 1, "{told}");
            assert_eq!(
                (&container[0]["agent"], &container[0]["kind"]),
                (&name(at).into(), &"replaceContainer".into()),
                "{told}"
            );
            let fields: Vec<_> =
                container[0]["changes"].as_array().unwrap().iter().map(|one| one["field"].clone()).collect();
            assert_eq!(fields, [format!("container.{}", FIELDS[field].0)], "{told}");
        }
        state(&specs);
        assert_eq!(
            world.run("apply -o json").expect(0).json()["actions"].as_array().map(Vec::len),
            Some(0),
            "{replay}"
        );
        assert_eq!(world.ids(), ids, "{replay}");
        world.run("down").expect(0);
    }
}
