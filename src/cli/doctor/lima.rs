//! The layers of a virtual machine: limactl, what it needs on this host, the instance, ssh, the socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Checks, units};
use crate::backend::lima::Lima;
use crate::backend::podman::PodmanAt;
use crate::backend::{Engine, Routing, Vm};
use crate::cli::Settings;
use crate::cli::render::errors::CliError;
use crate::error::Chain;
use crate::model::{Desired, VmPhase, VmSpec, VmState};

/// How long ssh may take to run a command that does nothing.
const SSH: Duration = Duration::from_secs(15);

/// Checks up to the socket. Yields whether it is worth asking Podman.
pub(super) async fn layers(settings: &Settings, desired: &Desired, engine: &PodmanAt, checks: &mut Checks) -> bool {
    let (Some(spec), Some(vm)) = (desired.vm(), settings.vm(desired)) else { return true };
    if !limactl(&vm, checks).await {
        return false;
    }
    home(spec, checks);
    host(settings, checks);
    let Some(seen) = instance(desired, spec, &vm, checks).await else { return false };
    engine.locate(Some(&seen));
    if !ssh(&vm, checks).await {
        return false;
    }
    socket(&seen, engine, checks).await
}

async fn limactl(vm: &Lima, checks: &mut Checks) -> bool {
    match vm.limactl().version().await {
        Ok(version) => {
            checks.ok("limactl", format!("version {version}"));
            true
        }
        Err(err) => {
            let err = CliError::from_vm(&err);
            checks.bad("limactl", err.message, err.hints.first().cloned().unwrap_or_default());
            false
        }
    }
}

/// That its sockets fit below it was checked with the state file.
fn home(spec: &VmSpec, checks: &mut Checks) {
    let home = &spec.home;
    if !home.exists() {
        return checks.ok("lima home", format!("`{}` is not there yet; Lima makes it", home.display()));
    }
    match tempfile::tempfile_in(home) {
        Ok(_) => checks.ok("lima home", format!("`{}`, {} bytes long", home.display(), home.as_os_str().len())),
        Err(err) => checks.bad(
            "lima home",
            format!("`{}` cannot be written to: {err}", home.display()),
            "run as the user it belongs to, or choose another with `runtime.lima.home` or $LIMA_HOME",
        ),
    }
}

/// What runs the machine: macOS brings it along, Linux needs QEMU and, to be fast, KVM.
fn host(settings: &Settings, checks: &mut Checks) {
    if cfg!(target_os = "macos") {
        return checks.ok("accel", "Virtualization.framework (vz)");
    }
    let arch = std::env::consts::ARCH;
    let named = settings.vars.get(&format!("QEMU_SYSTEM_{}", arch.to_uppercase())).map(PathBuf::from);
    let program = format!("qemu-system-{arch}");
    let found = named.or_else(|| in_path(settings, &program));
    match found.filter(|path| path.exists()) {
        Some(path) => checks.ok("qemu", path.display().to_string()),
        None => {
            return checks.bad(
                "qemu",
                format!("there is no `{program}` in PATH"),
                "install it: `apt-get install qemu-system-x86 qemu-utils`, `dnf install qemu-kvm qemu-img`",
            );
        }
    }
    if in_path(settings, "qemu-img").is_none() {
        checks.bad(
            "qemu",
            "there is no `qemu-img` in PATH",
            "install it: `apt-get install qemu-utils`, `dnf install qemu-img`",
        );
    }
    let kvm = Path::new("/dev/kvm");
    match std::fs::OpenOptions::new().read(true).write(true).open(kvm) {
        Ok(_) => checks.ok("accel", "KVM"),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            checks.ok("accel", "none: there is no /dev/kvm, the machine is emulated and slow");
        }
        // Lima takes it because it is there, and QEMU then fails.
        Err(err) if settings.vars.contains_key(&format!("QEMU_SYSTEM_{}", arch.to_uppercase())) => {
            checks
                .ok("accel", format!("/dev/kvm cannot be opened ({err}); what $QEMU_SYSTEM_* names has to do without"));
        }
        Err(err) => checks.bad(
            "accel",
            format!("/dev/kvm cannot be opened: {err}"),
            "`sudo usermod -aG kvm $USER`, then log in again",
        ),
    }
}

fn in_path(settings: &Settings, program: &str) -> Option<PathBuf> {
    let path = settings.vars.get("PATH")?;
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|path| path.exists())
}

async fn instance(desired: &Desired, spec: &VmSpec, vm: &Lima, checks: &mut Checks) -> Option<VmState> {
    let name = &spec.instance;
    let seen = match vm.look().await {
        Ok(Some(seen)) => seen,
        Ok(None) => {
            checks.bad("vm", format!("there is no instance `{name}`"), "`steadfast apply` makes it");
            return None;
        }
        Err(err) => {
            let fix = CliError::from_vm(&err).hints.first().cloned().unwrap_or_default();
            checks.bad("vm", Chain(&err).to_string(), fix);
            return None;
        }
    };
    if let Some(whose) = seen.foreign_to(&desired.ownership()) {
        checks.bad("vm", format!("instance `{name}` {whose}"), "choose another `instance`, or `apply --adopt`");
        return None;
    }
    let size = |bytes: u64| units::bytes(bytes);
    let found = format!(
        "`{name}` {}, {} of Lima {}, {} cpus, {} memory, {} disk",
        seen.phase,
        seen.vm_type,
        seen.lima_version,
        seen.cpus,
        size(seen.memory),
        size(seen.disk)
    );
    if seen.phase != VmPhase::Running {
        checks.bad("vm", found, "`steadfast apply` brings it up; its own log is `ha.stderr.log` in its directory");
        return None;
    }
    checks.ok("vm", found);
    Some(seen)
}

async fn ssh(vm: &Lima, checks: &mut Checks) -> bool {
    let mut command = vm.limactl().shell(vm.instance().as_str());
    command.arg("true");
    let fix =
        "it may be booting, or hang: `limactl shell` in a terminal tells more, `steadfast vm restart` restarts it";
    let (ok, found) = match tokio::time::timeout(SSH, command.output()).await {
        Ok(Ok(output)) if output.status.success() => (true, "answers".to_owned()),
        Ok(Ok(output)) => (false, String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Ok(Err(err)) => (false, err.to_string()),
        Err(_) => (false, format!("does not answer within {} s", SSH.as_secs())),
    };
    if ok {
        checks.ok("ssh", found)
    } else {
        checks.bad("ssh", found, fix)
    }
    ok
}

async fn socket(seen: &VmState, engine: &PodmanAt, checks: &mut Checks) -> bool {
    if seen.socket.is_none() {
        checks.bad(
            "podman socket",
            "the instance forwards no podman.sock to this host",
            "its template should have it among `portForwards`; without it Podman is reached by ssh or `limactl shell`",
        );
    }
    match engine.ping().await {
        Ok(()) => {
            let route = engine.reach().route.map_or("unknown", crate::model::Route::word);
            let at = engine
                .socket()
                .map_or_else(|| "through `limactl shell`".to_owned(), |socket| socket.display().to_string());
            checks.ok("podman socket", format!("answers ({route}): {at}"));
            true
        }
        Err(err) => {
            checks.bad(
                "podman socket",
                err.message,
                "`steadfast vm shell -- systemctl status podman.socket` tells more",
            );
            false
        }
    }
}
