//! The only file that knows ssh's arguments (OpenSSH, ssh(1) and ssh_config(5)). Lima writes a configuration for each instance.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::model::{Forward, InstanceName};

/// A connection of our own. Lima's configuration shares its master connection, which may be the very one that is gone: words
/// given here come before those of the file.
pub(super) fn own(config: &Path, instance: &InstanceName, more: &[&str], command: &str) -> Command {
    let mut ssh = base(config);
    for option in ["ControlMaster=no", "ControlPath=none", "ConnectTimeout=5", "LogLevel=ERROR"] {
        ssh.args(["-o", option]);
    }
    ssh.args(more).arg(host(instance)).arg(command);
    ssh
}

/// A connection that brings the guest's socket here for as long as its standard input stays open: its end is the end of the
/// command in the guest, and so of ssh. It prints `ready` once the forward stands.
pub(super) fn forwarding(config: &Path, instance: &InstanceName, guest: &str, here: &Path) -> Command {
    let line = format!("{}:{guest}", here.display());
    let more = [
        "-o",
        "ServerAliveInterval=5",
        "-o",
        "ServerAliveCountMax=4",
        "-o",
        "ExitOnForwardFailure=yes",
        "-o",
        "StreamLocalBindUnlink=yes",
        "-L",
        &line,
    ];
    own(config, instance, &more, "echo ready; exec cat >/dev/null")
}

/// Asks the master connection that Lima keeps to lead a port of this host to the same port of the guest.
pub(super) fn ask_master(config: &Path, instance: &InstanceName, port: &Forward) -> Command {
    let colons = port.host_ip.contains(':');
    let here = if colons { format!("[{}]", port.host_ip) } else { port.host_ip.clone() };
    let there = if colons { "[::1]" } else { "127.0.0.1" };
    let mut ssh = base(config);
    ssh.args(["-O", "forward", "-L", &format!("{here}:{0}:{there}:{0}", port.port)]).arg(host(instance));
    ssh
}

/// Asks that connection to bring a socket of the guest here, where nothing may be yet.
pub(super) fn ask_master_for(config: &Path, instance: &InstanceName, guest: &str, here: &Path) -> Command {
    about_socket("forward", config, instance, guest, here)
}

/// Asks it to bring that socket no more. One whose file is gone it would believe to be there, and do nothing when asked for it.
pub(super) fn ask_master_to_drop(config: &Path, instance: &InstanceName, guest: &str, here: &Path) -> Command {
    about_socket("cancel", config, instance, guest, here)
}

fn about_socket(verb: &str, config: &Path, instance: &InstanceName, guest: &str, here: &Path) -> Command {
    let mut ssh = base(config);
    ssh.args(["-O", verb, "-L", &format!("{}:{guest}", here.display())]).arg(host(instance));
    ssh
}

/// Ctrl-C in a terminal is for us, who end what we began in the right order.
fn base(config: &Path) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(config).args(["-o", "BatchMode=yes"]);
    ssh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    ssh
}

/// As Lima calls the instance in its configuration.
fn host(instance: &InstanceName) -> String {
    format!("lima-{instance}")
}
