//! The template as it is given to Lima: the user's, with what the state file adds to it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::backend::limactl::{is_agents_rule, rule};
use crate::model::vm::{PARAM_NAME, PARAM_TEMPLATE};
use crate::model::{Forward, VmMake};

/// Where a guest sees the artifacts, if it does.
const IMAGES: &str = "/mnt/steadfast/images";

/// The template in YAML.
pub fn render(make: &VmMake) -> String {
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
    serde_yaml::to_string(&Value::Object(template)).unwrap_or_default()
}

/// Whose it is and what it was made from, where `limactl list --json` tells it. Lima refuses a parameter that nothing uses.
fn own(template: &mut Map<String, Value>, make: &VmMake) {
    let mut params = match template.remove("param") {
        Some(Value::Object(params)) => params,
        _ => Map::new(),
    };
    params.insert(PARAM_NAME.to_owned(), json!(make.owner));
    params.insert(PARAM_TEMPLATE.to_owned(), json!(make.spec.template.digest.to_string()));
    template.insert("param".to_owned(), params.into());
    let script = format!(
        "#!/bin/sh\nset -eu\nprintf 'name=%s\\ntemplate=%s\\n' '{{{{.Param.{PARAM_NAME}}}}}' '{{{{.Param.{PARAM_TEMPLATE}}}}}' \
         >/etc/steadfast\n"
    );
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
