//! How a container's process is begun and ended.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How a container's process is begun and ended, beside its command and environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Whom it runs as: a name or number of the container, with `:GROUP` behind it or not. `None`: the image's user.
    pub user: Option<String>,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    /// Where it begins: an absolute path in the container. `None`: the image's.
    pub working_dir: Option<String>,
    /// Whether a small init runs as the first process, which hands on signals and reaps what is left behind.
    pub init: bool,
    /// The signal it is asked to end with. `None`: the image's, else TERM.
    pub stop_signal: Option<Signal>,
    /// How long it may take to end before KILL. `None`: [`Process::STOP_TIMEOUT`].
    pub stop_timeout: Option<Duration>,
    /// Limits of the process by name, without `RLIMIT_`, in lower case.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Settings of the kernel that belong to the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
}

impl Process {
    /// How long a container may take to end where nobody says otherwise (as Docker and Podman have it).
    pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
}

/// A limit of a process. `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// The one that holds.
    pub soft: u64,
    /// How far the process itself may raise it.
    pub hard: u64,
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |limit: u64| if limit == u64::MAX { "-1".to_owned() } else { limit.to_string() };
        write!(f, "{}:{}", word(self.soft), word(self.hard))
    }
}

/// A signal of Linux, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(u8);

/// The signals with a name (`signal(7)`; the numbers of x86 and ARM).
const SIGNALS: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The first and the last real-time signal that programs may use (glibc).
const REAL_TIME: (u8, u8) = (34, 64);

impl Signal {
    /// Reads `SIGINT`, `INT`, `RTMIN+3` or a number, in any case.
    pub fn parse(word: &str) -> Option<Self> {
        if let Ok(number) = word.parse::<u8>() {
            return (1..=REAL_TIME.1).contains(&number).then_some(Self(number));
        }
        let upper = word.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
            return Some(Self(*number));
        }
        let (first, last) = REAL_TIME;
        let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(""), _) => first,
            (Some(more), _) => first.checked_add(more.strip_prefix('+')?.parse().ok()?)?,
            (_, Some("")) => last,
            (_, Some(less)) => last.checked_sub(less.strip_prefix('-')?.parse().ok()?)?,
            _ => return None,
        };
        (first..=last).contains(&number).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }
}

/// `SIGINT`; of a real-time signal `SIGRTMIN+3`, and the number where there is no name.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 == REAL_TIME.0 => f.write_str("SIGRTMIN"),
            None if self.0 > REAL_TIME.0 => write!(f, "SIGRTMIN+{}", self.0 - REAL_TIME.0),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Signal;

    #[test]
    fn a_signal_is_a_name_or_a_number() {
        for (word, number, shown) in [
            ("SIGINT", 2, "SIGINT"),
            ("int", 2, "SIGINT"),
            ("15", 15, "SIGTERM"),
            ("SIGRTMIN", 34, "SIGRTMIN"),
            ("RTMIN+3", 37, "SIGRTMIN+3"),
            ("SIGRTMAX-1", 63, "SIGRTMIN+29"),
            ("RTMAX", 64, "SIGRTMIN+30"),
            ("32", 32, "32"),
        ] {
            let signal = Signal::parse(word).unwrap_or_else(|| panic!("{word}"));
            assert_eq!((signal.number(), signal.to_string().as_str()), (number, shown), "{word}");
        }
        for word in ["", "0", "65", "-1", "SIG", "SIGFOO", "RTMIN-1", "RTMIN+31", "RTMIN+x", "RTMAX+1", "SIGSIGINT"] {
            assert_eq!(Signal::parse(word), None, "{word}");
        }
    }
}
