//! Processes of this host: since when they run and what they are. A pid alone says nothing: it may be used again.

use std::time::{Duration, SystemTime};

use crate::model::vm::Process;

/// A process that runs; `None` when there is none of this pid.
pub(super) fn of(pid: u32) -> Option<Process> {
    alive(pid).then(|| Process { pid, started_at: started_at(pid) })
}

fn alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(target_os = "linux")]
fn started_at(pid: u32) -> Option<SystemTime> {
    // proc(5): the 22nd field, in ticks since the boot; the second, in brackets, may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let hertz = rustix::param::clock_ticks_per_second().max(1);
    let since_boot = Duration::from_millis(ticks.saturating_mul(1000) / hertz);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(boot))?.checked_add(since_boot)
}

/// The command line, arguments separated by blanks; `None` where it cannot be told.
#[cfg(target_os = "linux")]
pub(super) fn command_line(pid: u32) -> Option<String> {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    (!words.trim().is_empty()).then_some(words)
}

#[cfg(not(target_os = "linux"))]
fn started_at(pid: u32) -> Option<SystemTime> {
    // ps(1) of POSIX: the time since it was started, as [[dd-]hh:]mm:ss.
    let elapsed = ps(pid, "etime=")?;
    let (days, clock) = elapsed.trim().split_once('-').unwrap_or(("0", elapsed.trim()));
    let seconds = clock.split(':').try_fold(0_u64, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
    SystemTime::now().checked_sub(Duration::from_secs(days.parse::<u64>().ok()? * 86_400 + seconds))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn command_line(pid: u32) -> Option<String> {
    ps(pid, "command=")
}

#[cfg(not(target_os = "linux"))]
fn ps(pid: u32, field: &str) -> Option<String> {
    let output = std::process::Command::new("ps").args(["-ww", "-o", field, "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_since_a_moment_ago_and_says_what_it_is() {
        let me = of(std::process::id()).unwrap();
        let age = SystemTime::now().duration_since(me.started_at.unwrap()).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
        assert!(command_line(me.pid).unwrap().contains("steadfast"));
    }

    #[test]
    fn there_is_no_process_of_a_pid_that_is_too_large() {
        assert_eq!(of(4_000_000_000), None);
        assert_eq!(of(0), None);
    }
}
