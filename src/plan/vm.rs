//! The virtual machine: whether it is there, runs, answers, and is what is wanted.
//!
//! Only one that we made is ever touched. It is deleted where the state file says `onTemplateChange: recreate`, and nowhere
//! else.

use super::{Action, Note, Plan, Policy, Reason, WaitingOn};
use crate::model::{
    Boot, Desired, FieldChange, Observed, Protocol, Seen, TemplateChange, VmMake, VmPhase, VmSpec, VmState,
};
use crate::sizes;

/// How often the wait for a restart is doubled while restarts are in vain.
const MOST_DOUBLINGS: u32 = 5;

/// Plans for the machine. Yields what everything in it waits for; `None` when Podman can be asked.
pub(super) fn plan(desired: &Desired, observed: &Observed, policy: &Policy, plan: &mut Plan) -> Option<WaitingOn> {
    let make = Box::new(desired.vm_make()?);
    let instance = &make.spec.instance;
    let on_vm = WaitingOn::Vm { instance: instance.clone() };
    let vm = match &observed.vm {
        Seen::Present(vm) => vm,
        Seen::Absent => {
            let start = Action::StartVm { make: make.clone(), how: Boot::Start };
            plan.wait(None, &start, Reason::VmMissing, WaitingOn::Made { instance: instance.clone() });
            plan.step(None, Action::CreateVm { make }, Reason::VmMissing);
            return Some(on_vm);
        }
        Seen::Unknown { why } => {
            let on = WaitingOn::Sight { why: why.clone() };
            plan.wait(None, &Action::StartVm { make, how: Boot::Start }, Reason::NotSeen, on.clone());
            return Some(on);
        }
    };
    if let Some(on) = foreign(desired, &make.spec, vm) {
        let adopt = Action::AdoptVm { instance: instance.clone(), owner: desired.ownership() };
        if policy.adopt {
            plan.step(None, adopt, Reason::Adopted);
            return Some(on_vm);
        }
        plan.wait(None, &adopt, Reason::Adopted, on);
        return Some(on_vm);
    }
    if template_changed(&make, vm) {
        if make.spec.on_template_change == TemplateChange::Recreate && vm.phase != VmPhase::Starting {
            plan.step(None, Action::RecreateVm { make }, Reason::TemplateChanged);
            return Some(on_vm);
        }
        plan.notes.push(Note::TemplateChanged { instance: instance.clone() });
    }
    let start = |how| Action::StartVm { make: make.clone(), how };
    match &vm.phase {
        VmPhase::Running => running(desired, observed, &make, vm, plan),
        // A restart takes what has changed along.
        VmPhase::Stopped => {
            plan.step(None, start(Boot::Start), Reason::VmDown(vm.phase.clone()));
            Some(on_vm)
        }
        VmPhase::Broken(_) => {
            plan.step(None, start(Boot::Repair), Reason::VmDown(vm.phase.clone()));
            Some(on_vm)
        }
        VmPhase::Starting => {
            let on = WaitingOn::Answer { instance: instance.clone(), why: "Lima is starting it".to_owned() };
            plan.wait(None, &start(Boot::Start), Reason::VmDown(vm.phase.clone()), on);
            Some(on_vm)
        }
        VmPhase::Other(word) => {
            let on = WaitingOn::Sight { why: format!("Lima says VM `{instance}` is `{word}`") };
            plan.wait(None, &start(Boot::Start), Reason::VmDown(vm.phase.clone()), on.clone());
            Some(on)
        }
    }
}

/// What waits on its being given to us, when it is somebody else's.
pub(super) fn foreign(desired: &Desired, spec: &VmSpec, vm: &VmState) -> Option<WaitingOn> {
    let whose = vm.foreign_to(&desired.ownership())?;
    Some(WaitingOn::ForeignVm { instance: spec.instance.clone(), whose })
}

/// What stands before Podman in it while it does not run.
pub(super) fn down(spec: &VmSpec, vm: &VmState) -> Option<WaitingOn> {
    let phase = vm.phase.clone();
    (phase != VmPhase::Running).then(|| WaitingOn::Down { instance: spec.instance.clone(), phase })
}

/// One that was taken over was made from nobody knows what.
fn template_changed(make: &VmMake, vm: &VmState) -> bool {
    vm.template.as_ref().is_some_and(|made_from| *made_from != make.spec.template.digest.to_string())
}

fn running(desired: &Desired, observed: &Observed, make: &VmMake, vm: &VmState, plan: &mut Plan) -> Option<WaitingOn> {
    let instance = &make.spec.instance;
    if let Some(wanted) = make.spec.disk.filter(|disk| *disk < vm.disk) {
        plan.notes.push(Note::DiskLarger {
            instance: instance.clone(),
            has: sizes::exact(vm.disk),
            wanted: sizes::exact(wanted),
        });
    }
    let changes = pending_settings(make, vm);
    if !changes.is_empty() {
        plan.notes.push(Note::VmRestartNeeded { instance: instance.clone(), changes });
    }
    if let (Seen::Unknown { why }, None) = (&observed.guest, observed.reach.route) {
        let restart = Action::StartVm { make: Box::new(make.clone()), how: Boot::Restart };
        let on_vm = WaitingOn::Vm { instance: instance.clone() };
        // What a restart did not help is not restarted all the time.
        let patience = make.spec.restart_after * (1 << observed.reach.failed_boots.min(MOST_DOUBLINGS));
        if observed.reach.silent_for.is_some_and(|silent| silent >= patience) {
            plan.step(None, restart, Reason::VmSilent);
        } else {
            let on = WaitingOn::Answer { instance: instance.clone(), why: why.clone() };
            plan.wait(None, &restart, Reason::VmSilent, on);
        }
        return Some(on_vm);
    }
    let missing: Vec<_> = desired.forwards().into_iter().filter(|port| !vm.forwards.contains(port)).collect();
    // ssh forwards no UDP; Lima does, once it is started with the port in its configuration.
    let (live, later): (Vec<_>, Vec<_>) = missing.into_iter().partition(|port| port.protocol == Protocol::Tcp);
    if !live.is_empty() && observed.guest.present().is_some() {
        let action = Action::ForwardPorts { instance: instance.clone(), ports: live };
        plan.step(None, action, Reason::NotForwarded);
    }
    if !later.is_empty() {
        let shown = later.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let change = FieldChange { field: "ports".to_owned(), from: None, to: Some(shown) };
        plan.notes.push(Note::VmRestartNeeded { instance: instance.clone(), changes: vec![change] });
    }
    None
}

/// Settings that a running machine cannot take over.
fn pending_settings(make: &VmMake, vm: &VmState) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    let mut change = |field: &str, from: String, to: String| {
        changes.push(FieldChange { field: format!("runtime.lima.{field}"), from: Some(from), to: Some(to) });
    };
    if let Some(cpus) = make.spec.cpus.filter(|cpus| *cpus != vm.cpus) {
        change("cpus", vm.cpus.to_string(), cpus.to_string());
    }
    if let Some(memory) = make.spec.memory.filter(|memory| *memory != vm.memory) {
        change("memory", sizes::exact(vm.memory), sizes::exact(memory));
    }
    if let Some(disk) = make.spec.disk.filter(|disk| *disk > vm.disk) {
        change("disk", sizes::exact(vm.disk), sizes::exact(disk));
    }
    changes
}

/// The machine goes, with all that is in it.
pub(super) fn plan_down(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    let Some(spec) = desired.vm() else { return };
    let action = Action::DeleteVm { instance: spec.instance.clone() };
    match &observed.vm {
        Seen::Present(vm) => match foreign(desired, spec, vm) {
            None => plan.step(None, action, Reason::TakenDown),
            Some(on) => plan.wait(None, &action, Reason::TakenDown, on),
        },
        Seen::Absent => {}
        Seen::Unknown { why } => {
            plan.wait(None, &action, Reason::TakenDown, WaitingOn::Sight { why: why.clone() });
        }
    }
}
