//! How the settings of a container that hold no secret are recorded: a field for each that is set.

use std::collections::BTreeMap;

use super::Value;
use crate::model::spec::{Attachment, Logging, Memory, NetworkMode, Networking, Process, Resources, Security};
use crate::model::text::Text;
use crate::sizes;

/// Every field that [`fields`] may make, without those in a mapping.
const EXACT: [&str; 25] = [
    "container.user",
    "container.groupAdd",
    "container.workingDir",
    "container.init",
    "container.stopSignal",
    "container.stopTimeout",
    "container.hostname",
    "container.dns",
    "container.networks",
    "container.resources.cpus",
    "container.resources.cpuset",
    "container.resources.memory",
    "container.resources.memorySwap",
    "container.resources.pids",
    "container.resources.shm",
    "container.userns",
    "container.capAdd",
    "container.capDrop",
    "container.securityOpt",
    "container.noNewPrivileges",
    "container.privileged",
    "container.readOnlyRoot",
    "container.devices",
    "container.logging.driver",
    "container.logging.maxSize",
];

/// What the fields of a mapping begin with.
const BEGINNINGS: [&str; 3] = ["container.networks.", "container.ulimits.", "container.sysctls."];

/// What stands for no limit at all.
const UNLIMITED: &str = "unlimited";

/// Whether this build records such a field.
pub(super) fn is_one(field: &str) -> bool {
    EXACT.contains(&field) || BEGINNINGS.iter().any(|start| field.starts_with(start))
}

/// The settings that are set. What is not set has no field, so that a container of an older build has none either.
pub(super) fn fields(
    process: &Process,
    network: &Networking,
    resources: &Resources,
    security: &Security,
    logging: &Logging,
) -> BTreeMap<String, Value> {
    let mut fields = Fields::default();
    of_process(process, &mut fields);
    of_network(network, &mut fields);
    of_resources(resources, &mut fields);
    of_security(security, &mut fields);
    let Logging { driver, max_size } = logging;
    fields.one("logging.driver", driver.map(|driver| driver.as_str().to_owned()));
    fields.one("logging.maxSize", max_size.map(sizes::exact));
    fields.0
}

#[derive(Default)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn one(&mut self, field: &str, value: Option<String>) {
        self.0.extend(value.map(|value| (format!("container.{field}"), Value::plain(value))));
    }

    fn flag(&mut self, field: &str, set: bool) {
        self.one(field, set.then(|| "true".to_owned()));
    }

    fn many<'a>(&mut self, field: &str, values: impl IntoIterator<Item = &'a String>) {
        let values: Vec<_> = values.into_iter().map(|value| Text::plain(value.as_str())).collect();
        if !values.is_empty() {
            self.0.insert(format!("container.{field}"), Value::Many(values));
        }
    }
}

fn of_process(process: &Process, fields: &mut Fields) {
    let Process { user, groups, working_dir, init, stop_signal, stop_timeout, ulimits, sysctls } = process;
    fields.one("user", user.clone());
    fields.many("groupAdd", groups);
    fields.one("workingDir", working_dir.clone());
    fields.flag("init", *init);
    fields.one("stopSignal", stop_signal.map(|signal| signal.to_string()));
    fields.one("stopTimeout", stop_timeout.map(|time| humantime::format_duration(time).to_string()));
    for (name, limit) in ulimits {
        fields.one(&format!("ulimits.{name}"), Some(limit.to_string()));
    }
    for (name, value) in sysctls {
        fields.one(&format!("sysctls.{name}"), Some(value.clone()));
    }
}

fn of_network(network: &Networking, fields: &mut Fields) {
    let Networking { hostname, dns, mode } = network;
    fields.one("hostname", hostname.clone());
    fields.many("dns", &dns.iter().map(ToString::to_string).collect::<Vec<_>>());
    match mode {
        NetworkMode::Usual => {}
        NetworkMode::None => fields.one("networks", Some("none".to_owned())),
        NetworkMode::Host => fields.one("networks", Some("host".to_owned())),
        NetworkMode::Networks(networks) => {
            for (name, Attachment { aliases, ip }) in networks {
                // The network itself, then what it is called and addressed by there.
                let parts: Vec<_> = aliases.iter().cloned().chain(ip.iter().map(|ip| format!("ip={ip}"))).collect();
                let parts = parts.into_iter().map(Text::plain).collect();
                fields.0.insert(format!("container.networks.{name}"), Value::Many(parts));
            }
        }
    }
}

fn of_resources(resources: &Resources, fields: &mut Fields) {
    let Resources { cpus, cpuset, memory: Memory { limit, swap }, pids, shm } = resources;
    fields.one("resources.cpus", cpus.map(|cpus| cpus.to_string()));
    fields.one("resources.cpuset", cpuset.clone());
    fields.one("resources.memory", limit.map(sizes::exact));
    fields.one(
        "resources.memorySwap",
        swap.map(|bytes| if bytes == u64::MAX { UNLIMITED.to_owned() } else { sizes::exact(bytes) }),
    );
    fields.one(
        "resources.pids",
        pids.map(|count| if count == i64::MAX { UNLIMITED.to_owned() } else { count.to_string() }),
    );
    fields.one("resources.shm", shm.map(sizes::exact));
}

fn of_security(security: &Security, fields: &mut Fields) {
    let Security { userns, cap_add, cap_drop, options, no_new_privileges, privileged, read_only_root, devices } =
        security;
    fields.one("userns", userns.clone());
    fields.many("capAdd", cap_add);
    fields.many("capDrop", cap_drop);
    fields.many("securityOpt", options);
    fields.flag("noNewPrivileges", *no_new_privileges);
    fields.flag("privileged", *privileged);
    fields.flag("readOnlyRoot", *read_only_root);
    fields.many("devices", devices);
}
