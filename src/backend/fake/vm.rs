//! The virtual machine of the fake world, with the manners of Lima 2.1.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream;
use tokio::time::Instant;

use super::{Broken, Fake, State};
use crate::backend::{Vm, VmError, VmEvents};
use crate::model::{Boot, Forward, Ownership, Phase, VmMake, VmPhase, VmState};

/// A virtual machine.
#[derive(Debug, Clone)]
pub struct FakeVm {
    /// Where it stands.
    pub phase: VmPhase,
    /// Whose it is.
    pub owner: Option<String>,
    /// Below which root.
    pub root: Option<String>,
    /// The digest of the template it was made from.
    pub template: Option<String>,
    /// Processors.
    pub cpus: u32,
    /// Ports that lead into it.
    pub forwards: std::collections::BTreeSet<Forward>,
    /// Since when nothing in it answers though it runs, as after a hang of the guest.
    pub silent_since: Option<Instant>,
    /// A start does not repair that.
    pub stays_silent: bool,
    /// Boots that it was silent after.
    pub failed_boots: u32,
}

impl FakeVm {
    /// Whether Podman in it can be asked.
    pub fn answers(&self) -> bool {
        self.phase == VmPhase::Running && self.silent_since.is_none()
    }

    /// What an observation of it shows.
    fn state(&self) -> VmState {
        VmState {
            phase: self.phase.clone(),
            owner: self.owner.clone(),
            root: self.root.clone(),
            template: self.template.clone(),
            dir: PathBuf::from("/lima/fake"),
            vm_type: "qemu".to_owned(),
            lima_version: "2.1.4".to_owned(),
            cpus: self.cpus,
            memory: 2 << 30,
            disk: 20 << 30,
            ssh_port: Some(60022),
            ssh_config: PathBuf::from("/lima/fake/ssh.config"),
            host_agent: None,
            driver: None,
            socket: None,
            mounts: Vec::new(),
            forwards: self.forwards.clone(),
        }
    }
}

impl Broken for VmError {
    fn broken(call: &str, transient: bool) -> Self {
        if transient {
            Self::Failed { command: call.to_owned(), why: "ordered failure".to_owned() }
        } else {
            Self::NotReady { instance: call.to_owned(), why: "ordered failure".to_owned() }
        }
    }
}

impl State {
    /// The machine goes down: everything in it stops, as by a power cut.
    pub fn vm_goes_down(&mut self, phase: VmPhase) {
        if let Some(vm) = &mut self.vm {
            vm.phase = phase;
            vm.silent_since = None;
        }
        for container in self.containers.values_mut() {
            if matches!(container.phase, Phase::Running | Phase::Paused | Phase::Stopping) {
                container.phase = Phase::Exited { code: 137 };
            }
        }
    }

    fn vm(&mut self) -> Result<&mut FakeVm, VmError> {
        let gone = || VmError::Failed { command: "limactl".to_owned(), why: "no such instance".to_owned() };
        self.vm.as_mut().ok_or_else(gone)
    }

    fn vm_boots(&mut self, make: &VmMake) -> Result<(), VmError> {
        let vm = self.vm()?;
        vm.phase = VmPhase::Running;
        vm.silent_since = vm.stays_silent.then(Instant::now);
        vm.failed_boots += u32::from(vm.stays_silent);
        vm.forwards.clone_from(&make.forwards);
        if let Some(cpus) = make.spec.cpus {
            vm.cpus = cpus;
        }
        Ok(())
    }
}

impl Vm for Fake {
    async fn look(&self) -> Result<Option<VmState>, VmError> {
        self.call("vm_look", "", |state| Ok(state.vm.as_ref().map(FakeVm::state))).await
    }

    async fn adopt(&self, owner: &Ownership) -> Result<(), VmError> {
        self.call("vm_adopt", owner.name.as_str(), |state| {
            let vm = state.vm()?;
            vm.owner = Some(owner.name.to_string());
            vm.root = owner.root.mark();
            state.changed("vm_adopt", "", None);
            Ok(())
        })
        .await
    }

    async fn create(&self, make: &VmMake) -> Result<(), VmError> {
        self.call("vm_create", make.spec.instance.as_str(), |state| {
            if state.vm.is_none() {
                state.vm = Some(FakeVm {
                    phase: VmPhase::Stopped,
                    owner: Some(make.owner.name.to_string()),
                    root: make.owner.root.mark(),
                    template: Some(make.spec.template.digest.to_string()),
                    cpus: make.spec.cpus.unwrap_or(2),
                    forwards: make.forwards.clone(),
                    silent_since: None,
                    stays_silent: false,
                    failed_boots: 0,
                });
                state.changed("vm_create", "", None);
            }
            Ok(())
        })
        .await
    }

    async fn validate(&self, make: &VmMake) -> Result<(), VmError> {
        self.call("vm_validate", make.spec.instance.as_str(), |_| Ok(())).await
    }

    async fn start(&self, how: Boot, make: &VmMake) -> Result<(), VmError> {
        self.call("vm_start", make.spec.instance.as_str(), |state| {
            let runs = state.vm()?.phase == VmPhase::Running;
            if runs && how != Boot::Restart {
                return Ok(());
            }
            if runs {
                state.vm_goes_down(VmPhase::Stopped);
            }
            state.vm_boots(make)?;
            state.changed("vm_start", "", None);
            Ok(())
        })
        .await
    }

    async fn stop(&self, _: bool) -> Result<(), VmError> {
        self.call("vm_stop", "", |state| {
            state.vm_goes_down(VmPhase::Stopped);
            state.changed("vm_stop", "", None);
            Ok(())
        })
        .await
    }

    async fn delete(&self) -> Result<(), VmError> {
        self.call("vm_delete", "", |state| {
            state.vm = None;
            state.containers.clear();
            state.images.clear();
            state.image_store.clear();
            state.changed("vm_delete", "", None);
            Ok(())
        })
        .await
    }

    async fn forward(&self, ports: &[Forward]) -> Result<(), VmError> {
        self.call("vm_forward", "", |state| {
            state.vm()?.forwards.extend(ports.iter().cloned());
            state.changed("vm_forward", "", None);
            Ok(())
        })
        .await
    }

    async fn is_connectable(&self, port: &Forward) -> bool {
        self.state().busy_ports.contains(&port.port)
    }

    async fn events(&self) -> Result<Option<VmEvents>, VmError> {
        Ok(Some(Box::pin(stream::pending())))
    }
}

/// How long nothing in the machine has answered.
pub(super) fn silent_for(vm: Option<&FakeVm>) -> Option<Duration> {
    vm?.silent_since.map(|since| since.elapsed())
}
