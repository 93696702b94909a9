//! The template as it is given to Lima: the user's, with what the state file adds to it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::backend::limactl::{is_agents_rule, rule};
use crate::model::vm::{PARAM_NAME, PARAM_ROOT, PARAM_TEMPLATE};
use crate::model::{Forward, VmMake};

/// Where a guest sees the artifacts, if it does.
const IMAGES: &str = "/mnt/steadfast/images";

/// The template in YAML.
///
/// # Errors
/// None that is known: a template is made of what YAML can write.
pub(crate) fn render(make: &VmMake) -> Result<String, serde_yaml::Error> {
    let mut template = match &make.spec.template.content {
        Value::Object(template) => template.clone(),
        _ => Map::new(),
    };
    let spec = &make.spec;
    make_paths_absolute(&mut template, spec.template.path.parent().unwrap_or(Path::new("/")));
    if let Some(cpus) = spec.cpus {
        template.insert("cpus".to_owned(), json!(cpus));
    }
    for (field, size) in [("memory", spec.memory), ("disk", spec.disk)] {
        if let Some(size) = size {
            template.insert(field.to_owned(), json!(format!("{size}B")));
        }
    }
    let rules = list(&template, "portForwards");
    template.insert("portForwards".to_owned(), port_forwards(&rules, &make.forwards).into());
    if mounts_natively(&template) {
        let mut mounts = list(&template, "mounts");
        mounts.push(json!({ "location": make.images, "mountPoint": IMAGES, "writable": false }));
        template.insert("mounts".to_owned(), mounts.into());
    }
    own(&mut template, make);
    serde_yaml::to_string(&Value::Object(template))
}

/// Whose it is and what it was made from, where `limactl list --json` tells it. Lima refuses a parameter that nothing uses.
fn own(template: &mut Map<String, Value>, make: &VmMake) {
    let mut params = match template.remove("param") {
        Some(Value::Object(params)) => params,
        _ => Map::new(),
    };
    params.insert(PARAM_NAME.to_owned(), json!(make.owner.name));
    params.insert(PARAM_TEMPLATE.to_owned(), json!(make.spec.template.digest.to_string()));
    let mut used = vec![("name", PARAM_NAME), ("template", PARAM_TEMPLATE)];
    if let Some(root) = make.owner.root.mark() {
        params.insert(PARAM_ROOT.to_owned(), json!(root));
        used.push(("root", PARAM_ROOT));
    }
    template.insert("param".to_owned(), params.into());
    let words: String = used.iter().map(|(word, _)| format!("{word}=%s\\n")).collect();
    let values: String = used.iter().map(|(_, param)| format!(" '{{{{.Param.{param}}}}}'")).collect();
    let script = format!("#!/bin/sh\nset -eu\nprintf '{words}'{values} >/etc/steadfast\n");
    let mut provision = list(template, "provision");
    provision.push(json!({ "mode": "system", "script": script }));
    template.insert("provision".to_owned(), provision.into());
}

/// The rules of a template or an instance, with those for the ports of agents replaced by these. They stand before the first
/// that ignores ports: Lima takes the first that fits.
pub(super) fn port_forwards(rules: &[Value], forwards: &BTreeSet<Forward>) -> Vec<Value> {
    let mut kept: Vec<_> = rules.iter().filter(|rule| !is_agents_rule(rule)).cloned().collect();
    let ignores = |rule: &Value| rule.get("ignore") == Some(&Value::Bool(true));
    let at = kept.iter().position(ignores).unwrap_or(kept.len());
    kept.splice(at..at, forwards.iter().map(rule));
    kept
}

/// Lima reads the template from its standard input, where a relative path would be relative to nothing.
fn make_paths_absolute(template: &mut Map<String, Value>, dir: &Path) {
    if let Some(base) = template.get_mut("base") {
        match base {
            Value::Array(bases) => bases.iter_mut().for_each(|base| locate(base, dir)),
            one => locate(one, dir),
        }
    }
    for field in ["provision", "probes"] {
        let scripts = template.get_mut(field).and_then(Value::as_array_mut);
        for script in scripts.into_iter().flatten() {
            if let Some(file) = script.get_mut("file") {
                locate(file, dir);
            }
        }
    }
}

/// A path, a URL, or a mapping with either in `url`.
fn locate(place: &mut Value, dir: &Path) {
    if let Value::Object(fields) = place {
        if let Some(url) = fields.get_mut("url") {
            locate(url, dir);
        }
        return;
    }
    let Some(text) = place.as_str() else { return };
    let is_path = !text.is_empty() && !text.starts_with(['/', '~']) && !text.contains(':');
    if is_path {
        *place = json!(dir.join(text));
    }
}

/// Whether a mount costs the guest nothing: macOS has virtiofs. Debian's cloud kernel has no 9p, and reverse-sshfs encrypts
/// every byte like a stream of its own would, without being faster.
fn mounts_natively(template: &Map<String, Value>) -> bool {
    let vm_type = template.get("vmType").and_then(Value::as_str);
    let kind = template.get("mountType").and_then(Value::as_str);
    cfg!(target_os = "macos") && vm_type.is_none_or(|vm| vm == "vz") && kind.is_none_or(|kind| kind == "virtiofs")
}

fn list(template: &Map<String, Value>, field: &str) -> Vec<Value> {
    template.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Name, Protocol, RootId, Sha256Digest, Template, TemplateChange, Transport, VmSpec};

    fn make(content: Value) -> VmMake {
        VmMake {
            spec: VmSpec {
                instance: "agents".parse().unwrap(),
                home: "/l".into(),
                template: Template {
                    path: "/srv/t/vm.yaml".into(),
                    content,
                    digest: Sha256Digest::from_bytes([7; 32]),
                },
                cpus: Some(3),
                memory: Some(2 << 30),
                disk: None,
                transport: Transport::Auto,
                on_template_change: TemplateChange::Warn,
                restart_after: std::time::Duration::from_secs(300),
            },
            owner: Name::new("demo").unwrap().into(),
            forwards: BTreeSet::from([Forward { host_ip: "127.0.0.1".into(), port: 8080, protocol: Protocol::Tcp }]),
            images: "/root/cache/vm/images".into(),
        }
    }

    fn rendered(content: Value) -> Value {
        serde_yaml::from_str(&render(&make(content)).unwrap()).unwrap()
    }

    #[test]
    fn what_the_state_file_says_is_added_to_the_template() {
        let out = rendered(json!({
            "minimumLimaVersion": "2.0.0",
            "cpus": 2,
            "disk": "20GiB",
            "param": {"MINE": "x"},
            "provision": [{"mode": "user", "script": "#!/bin/sh\ntrue\n"}],
            "portForwards": [
                {"guestSocket": "/run/podman/podman.sock", "hostSocket": "{{.Dir}}/sock/podman.sock"},
                {"guestPort": 9090, "hostPort": 9091},
                {"guestIP": "0.0.0.0", "guestPortRange": [1, 65535], "ignore": true},
            ],
        }));
        assert_eq!((&out["cpus"], &out["memory"], &out["disk"]), (&json!(3), &json!("2147483648B"), &json!("20GiB")));
        let digest = "07".repeat(32);
        assert_eq!(out["param"], json!({"MINE": "x", "steadfastName": "demo", "steadfastTemplate": digest}));
        let provision = out["provision"].as_array().unwrap();
        assert_eq!(provision[0]["script"], "#!/bin/sh\ntrue\n", "the template's own comes first, as it was");
        for param in [PARAM_NAME, PARAM_TEMPLATE] {
            let script = provision[1]["script"].as_str().unwrap();
            assert!(
                script.contains(&format!("'{{{{.Param.{param}}}}}'")),
                "Lima refuses one that nothing uses: {script}"
            );
        }
        let rules = out["portForwards"].as_array().unwrap();
        let shown: Vec<_> = rules.iter().map(|rule| (&rule["guestPort"], &rule["hostIP"], &rule["ignore"])).collect();
        let null = &Value::Null;
        let (nine, eight, here, yes) = (&json!(9090), &json!(8080), &json!("127.0.0.1"), &json!(true));
        assert_eq!(shown, [(null, null, null), (nine, null, null), (eight, here, null), (null, null, yes)]);
    }

    #[test]
    fn the_root_stands_in_it_where_it_has_an_id() {
        let mut make = make(json!({}));
        make.owner.root.id = RootId::parse(&"a1".repeat(16));
        let out: Value = serde_yaml::from_str(&render(&make).unwrap()).unwrap();
        assert_eq!(out["param"]["steadfastRoot"], "a1".repeat(16));
        let script = out["provision"][0]["script"].as_str().unwrap();
        let printed = "printf 'name=%s\\ntemplate=%s\\nroot=%s\\n' '{{.Param.steadfastName}}' '{{.Param.steadfastTemplate}}' \
                       '{{.Param.steadfastRoot}}' >/etc/steadfast\n";
        assert!(script.ends_with(printed), "{script}");
    }

    #[test]
    fn rules_are_replaced_and_not_heaped_up() {
        let forward = |port| Forward { host_ip: "0.0.0.0".into(), port, protocol: Protocol::Udp };
        let own = vec![json!({"guestPort": 9090, "hostPort": 9091})];
        let one = port_forwards(&own, &BTreeSet::from([forward(1), forward(2)]));
        assert_eq!(one.len(), 3);
        // As Lima lists it once it has filled it in.
        let filled: Vec<_> = one
            .iter()
            .map(|rule| {
                let mut rule = rule.clone();
                let (guest, host) = (rule["guestPort"].clone(), rule["hostPort"].clone());
                rule["guestPortRange"] = json!([guest, guest]);
                rule["hostPortRange"] = json!([host, host]);
                rule
            })
            .collect();
        let other = port_forwards(&filled, &BTreeSet::from([forward(3)]));
        let ports: Vec<_> = other.iter().map(|rule| rule["guestPort"].as_u64().unwrap()).collect();
        assert_eq!(ports, [9090, 3]);
    }

    #[test]
    fn paths_are_relative_to_the_template_and_nothing_else_is_touched() {
        let out = rendered(json!({
            "base": ["_images/debian.yaml", "template:debian", "https://x.example/a.yaml", {"url": "more.yaml", "digest": "d"}],
            "probes": [{"file": "probe.sh"}, {"script": "./not-a-path"}],
            "provision": [{"mode": "system", "file": {"url": "/abs.sh"}}],
        }));
        assert_eq!(
            out["base"],
            json!(["/srv/t/_images/debian.yaml", "template:debian", "https://x.example/a.yaml", {"url": "/srv/t/more.yaml", "digest": "d"}])
        );
        assert_eq!(out["probes"], json!([{"file": "/srv/t/probe.sh"}, {"script": "./not-a-path"}]));
        assert_eq!(out["provision"][0]["file"]["url"], "/abs.sh");
    }

    #[test]
    fn text_that_yaml_would_read_as_something_else_stays_text() {
        let out =
            rendered(json!({"env": {"A": "1", "B": "true", "C": "null", "D": "1e3", "E": "a: b # c", "F": "0x10"}}));
        assert_eq!(out["env"], json!({"A": "1", "B": "true", "C": "null", "D": "1e3", "E": "a: b # c", "F": "0x10"}));
    }
}
