//! Killed before a system call.

use crate::stage::{Kind, Stage};
use crate::sweep::{points, sweep};
use crate::trace::{self, Fault, Point};

/// Calls before which something is half done.
const CHANGING: [&str; 22] = [
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "flock",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "ftruncate",
    "fchmod",
    "linkat",
    "sendto",
    "sendmsg",
    "recvfrom",
    "connect",
    "openat",
];

/// Calls of which each is another moment of the work: a request, an answer, a file that is there or not.
const ASKING: [&str; 7] = ["sendto", "sendmsg", "writev", "recvfrom", "write", "rename", "unlink"];

/// Draws from the points, so that each kind of call has its turn, and those that matter more have several.
pub fn draw(points: &[Point], rng: &mut fastrand::Rng, mut is_wanted: impl FnMut(&Point) -> bool) -> Vec<Point> {
    let mut groups = std::collections::BTreeMap::<&str, Vec<&Point>>::new();
    for point in points.iter().filter(|point| is_wanted(point)) {
        groups.entry(point.call.as_str()).or_default().push(point);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.iter_mut().for_each(|(_, group)| rng.shuffle(group));
    rng.shuffle(&mut groups);
    let mut drawn = Vec::new();
    while groups.iter().any(|(_, group)| !group.is_empty()) {
        for (call, group) in &mut groups {
            let turns = match *call {
                call if ASKING.contains(&call) => 4,
                call if CHANGING.contains(&call) => 2,
                _ => 1,
            };
            drawn.extend((0..turns).filter_map(|_| group.pop()).cloned());
        }
    }
    drawn
}

#[test]
fn killed_before_any_system_call_the_next_run_finishes_it() {
    if !trace::is_possible() {
        return;
    }
    let kinds = Kind::CHANGING.map(|kind| (kind, if kind == Kind::Undo { 1 } else { 2 }));
    sweep("kills", &kinds, points(40), |stage, share, rng, tally| {
        let recorded = stage.record();
        let drawn = draw(&recorded, rng, |_| true);
        // Where there are fewer points than kills, no two runs are the same all the same.
        for point in drawn.iter().cycle().take(3 * share) {
            if tally.done >= share {
                break;
            }
            play(stage, &Fault::kill(point.clone()), tally);
        }
    });
}

fn play(stage: &mut Stage, fault: &Fault, tally: &mut crate::sweep::Tally) {
    stage.prepare();
    let ended = stage.disturbed(fault);
    tally.peak = tally.peak.max(ended.peak);
    if ended.is_killed() {
        tally.count(&fault.point.call);
    } else {
        tally.missed += 1;
    }
    let mut wrong = Vec::new();
    if ended.hangs {
        wrong.push("it hangs".to_owned());
    }
    wrong.extend(crate::errors::afterwards(stage, tally));
    if !wrong.is_empty() {
        let told = format!("killed: {fault}: {}\n--- stderr\n{}", wrong.join("; "), ended.stderr);
        eprintln!("wrong: {} {told}", stage.kind.name());
        tally.wrong.push(told);
    }
}
