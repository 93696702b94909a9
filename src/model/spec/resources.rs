//! What a container may take of its machine.

use std::fmt;

/// How much memory a container may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Bytes of memory.
    pub limit: Option<u64>,
    /// Bytes of memory and swap together; `u64::MAX` is no limit. `None`: Podman takes twice the memory.
    pub swap: Option<u64>,
}

impl Memory {
    /// Memory and swap together as Podman is told: `podman create --memory` takes twice the memory, its API nothing.
    pub(crate) fn swap_or_twice(&self) -> Option<u64> {
        self.swap.or(self.limit.map(|limit| limit.saturating_mul(2)))
    }
}

/// What a container may take of its machine. What is `None` has no limit of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Processors, in thousandths.
    pub cpus: Option<Cpus>,
    /// The processors it may run on, in the kernel's words: `0-2,4`.
    pub cpuset: Option<String>,
    /// Memory.
    pub memory: Memory,
    /// Processes and threads; `i64::MAX` is no limit. `None`: Podman's own choice (2048).
    pub pids: Option<i64>,
    /// Bytes of `/dev/shm`. `None`: Podman's own choice (64 MB). Fixed once the container is created.
    pub shm: Option<u64>,
}

/// A number of processors, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(pub u32);

impl Cpus {
    /// The time in which the quota counts: 100 ms (as Podman has it).
    pub const PERIOD_US: u64 = 100_000;

    /// Microseconds of processor time per period.
    pub fn quota_us(self) -> i64 {
        i64::from(self.0) * 100
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        match rest {
            0 => write!(f, "{whole}"),
            _ => f.write_str(format!("{whole}.{rest:03}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cpus;

    #[test]
    fn processors_are_shown_as_they_are_written() {
        for (thousandths, shown) in [(1000, "1"), (1500, "1.5"), (250, "0.25"), (1, "0.001"), (12_040, "12.04")] {
            assert_eq!(Cpus(thousandths).to_string(), shown);
        }
        assert_eq!(Cpus(1500).quota_us(), 150_000);
    }
}
