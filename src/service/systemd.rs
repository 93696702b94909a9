//! The systemd unit. Every setting says why it is there, or why its stricter sister is not.
//!
//! The rule behind the hardening: steadfast must see the machine as Podman does, since it checks bind sources and host
//! ports before it acts. So nothing is hidden from it (no `PrivateTmp`, `PrivateDevices`, `PrivateNetwork`, no
//! `ProtectHome=yes`), and everything but its root may be read-only.

use std::fmt::Write;
use std::path::Path;

use super::{MARK, STOP_SECONDS, Scope, Service, Unfit, fit};

pub(super) fn render(service: &Service) -> Result<String, Unfit> {
    let mut unit = String::new();
    let line = |unit: &mut String, text: &str| {
        unit.push_str(text);
        unit.push('\n');
    };
    let user = service.scope == Scope::User;
    line(&mut unit, &format!("# {MARK}"));
    if !service.needs.is_empty() {
        let edit = if user { "systemctl --user edit" } else { "systemctl edit" };
        let _ = write!(
            unit,
            "#\n# The state file needs these variables, which do not belong in this file. Put them into a file of mode 0600 and\n\
             # name it in a drop-in: `{edit} {}`, then\n#   [Service]\n#   EnvironmentFile=/path/to/that/file\n",
            Service::id(&service.name, super::Manager::Systemd)
        );
        for name in &service.needs {
            let _ = writeln!(unit, "# needs: {name}");
        }
    }
    line(&mut unit, "\n[Unit]");
    line(&mut unit, &format!("Description=steadfast keeps the agents of `{}` as their state file says", service.name));
    let mut after: Vec<&str> = Vec::new();
    if service.podman_socket {
        after.push("podman.socket");
    }
    if !user {
        // There is no such target in a user's manager.
        after.push("network-online.target");
    }
    if !after.is_empty() {
        line(&mut unit, &format!("Wants={}\nAfter={}", after.join(" "), after.join(" ")));
    }
    line(&mut unit, "\n[Service]");
    line(&mut unit, "Type=notify");
    if let Some(program) = service.program.to_str().filter(|path| path.contains(['"', '\'', '\\'])) {
        // Seen with systemd 252: "Executable name contains special characters".
        return Err(Unfit { what: program.to_owned(), why: "systemd takes no program with quotes or backslashes" });
    }
    let mut command = Vec::new();
    for (at, word) in service.command()?.iter().enumerate() {
        // The program itself is no place for variables, and `$$` would be taken literally there.
        command.push(quote(word, at > 0));
    }
    line(&mut unit, &format!("ExecStart={}", command.join(" ")));
    line(&mut unit, "ExecReload=/bin/kill -HUP $MAINPID");
    for (name, value) in &service.environment()? {
        line(&mut unit, &format!("Environment={}", quote(&format!("{name}={value}"), false)));
    }
    line(&mut unit, "Restart=always\nRestartSec=5");
    line(&mut unit, "# Wrong flags stay wrong.\nRestartPreventExitStatus=64");
    line(&mut unit, "# On SIGTERM and SIGINT it exits with 143 and 130.\nSuccessExitStatus=130 143");
    line(&mut unit, "WatchdogSec=60");
    line(&mut unit, &format!("TimeoutStopSec={STOP_SECONDS}"));
    if service.vm {
        line(
            &mut unit,
            "# The virtual machine belongs to this unit once it was started from here, and goes on running when the unit is stopped.\n\
             KillMode=process",
        );
    } else {
        line(
            &mut unit,
            "# Containers are not ours to kill: their conmon belongs to Podman's service or to a scope of its own, never to this\n\
             # unit. So what is left here after a stop is only what steadfast itself started.\nKillMode=mixed",
        );
    }
    line(&mut unit, "UMask=0077");
    line(&mut unit, "\n# Works without privileges.\nNoNewPrivileges=yes");
    if service.vm {
        line(
            &mut unit,
            "# What else could be forbidden here would be forbidden to the virtual machine's processes too.",
        );
    } else {
        line(&mut unit, "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK");
        line(
            &mut unit,
            "SystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM\nSystemCallArchitectures=native",
        );
        line(&mut unit, "MemoryDenyWriteExecute=yes\nLockPersonality=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes");
        line(&mut unit, "RestrictNamespaces=yes");
    }
    if user {
        line(
            &mut unit,
            "# What follows in a system's unit (ProtectSystem and the like) needs user namespaces here, which not every machine\n\
             # gives its users, and hides who owns what.",
        );
    } else {
        let root = fit(&service.root)?;
        line(
            &mut unit,
            "\n# Everything is read-only but the root. Nothing is hidden: bind sources are looked for before they are mounted, so",
        );
        line(
            &mut unit,
            "# PrivateTmp=, PrivateDevices= and ProtectHome=yes would make steadfast see another machine than Podman.",
        );
        line(&mut unit, "ProtectSystem=strict");
        line(&mut unit, &format!("ReadWritePaths={}", quote(&format!("-{root}"), false)));
        if !is_in_home(&service.root, &service.home) {
            line(&mut unit, "ProtectHome=read-only");
        }
        line(&mut unit, "ProtectKernelTunables=yes\nProtectControlGroups=yes\nProtectHostname=yes");
        line(
            &mut unit,
            "# For state and env files of others, a root of others, and to try host ports below 1024.\n\
             CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_NET_BIND_SERVICE",
        );
    }
    let target = if user { "default.target" } else { "multi-user.target" };
    line(&mut unit, &format!("\n[Install]\nWantedBy={target}"));
    Ok(unit)
}

/// Whether `ProtectHome=` would cover it.
fn is_in_home(root: &Path, home: &Path) -> bool {
    [Path::new("/home"), Path::new("/root"), Path::new("/run/user"), home].iter().any(|home| root.starts_with(home))
}

/// A word of a unit file: in quotes where it must be, `%` doubled since it begins a specifier, `$` where it would begin a
/// variable.
fn quote(word: &str, variables: bool) -> String {
    let plain = |char: char| char.is_alphanumeric() || "/._-+=:,@%$".contains(char);
    let mut text = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    if variables {
        text = text.replace('$', "$$");
    }
    if !word.is_empty() && word.chars().all(plain) { text } else { format!("\"{text}\"") }
}
