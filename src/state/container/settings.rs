//! Who a container's process is, what it may take, and what it is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::mounts::check_target;
use crate::model::spec::{self, Cpus, LogDriver, Logging, Memory, Resources, Signal, Ulimit};
use crate::state::decode::{At, Cx, List, Path, Table, near};
use crate::state::document::{LoggingDoc, Pairs, ResourcesDoc, UlimitDoc, UlimitEntry};
use crate::state::resolve::{HasStr, checked};
use crate::state::scalar::{Choice, Flag, Loose, Size, Time, Word};

/// Who the process is, and how it is begun and ended.
pub(super) struct Process {
    pub(super) user: Option<At<Loose>>,
    pub(super) group_add: Option<At<List<Loose>>>,
    pub(super) working_dir: Option<At<Word>>,
    pub(super) init: Option<At<Flag>>,
    pub(super) stop_signal: Option<At<Loose>>,
    pub(super) stop_timeout: Option<At<Time>>,
    pub(super) ulimits: Option<At<Table<UlimitEntry>>>,
    pub(super) sysctls: Option<At<Pairs>>,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Process {
    pub(super) fn resolve(self, cx: &mut Cx<'_>, path: Path<'_>) -> spec::Process {
        let Self { user, group_add, working_dir, init, stop_signal, stop_timeout, ulimits, sysctls } = self;
        if let Some(time) = &stop_timeout
            && (time.value.0.subsec_nanos() != 0 || time.value.0 > DAY)
        {
            cx.wrong(time.node, path.key("stopTimeout"), "a time to stop is of whole seconds, and at most a day");
        }
        spec::Process {
            user: user.and_then(|user| checked(cx, &user, path.key("user"), check_user)),
            groups: words(cx, group_add, path.key("groupAdd"), check_user),
            working_dir: working_dir.and_then(|dir| checked(cx, &dir, path.key("workingDir"), check_directory)),
            init: is_set(init),
            stop_signal: stop_signal.and_then(|signal| checked(cx, &signal, path.key("stopSignal"), check_signal)),
            stop_timeout: stop_timeout.map(|time| time.value.0),
            ulimits: self::ulimits(cx, ulimits, path.key("ulimits")),
            sysctls: self::sysctls(cx, sysctls, path.key("sysctls")),
        }
    }
}

fn is_set(flag: Option<At<Flag>>) -> bool {
    flag.is_some_and(|flag| flag.value.0)
}

/// A list of words, each checked.
fn words<T: HasStr, V>(
    cx: &mut Cx<'_>,
    list: Option<At<List<T>>>,
    path: Path<'_>,
    check: impl Fn(&str) -> Result<V, String>,
) -> Vec<V> {
    let items = list.map(|list| list.value.0).unwrap_or_default();
    items.iter().filter_map(|(index, word)| checked(cx, word, path.index(*index), &check)).collect()
}

fn check_user(text: &str) -> Result<String, String> {
    let fine = !text.is_empty() && !text.contains(char::is_whitespace) && text.matches(':').count() < 2;
    fine.then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not a user: write a name or number, like `1000:1000`"))
}

/// The root is fine here, other than for a mount.
fn check_directory(text: &str) -> Result<String, String> {
    if text == "/" { Ok(text.to_owned()) } else { check_target(text) }
}

fn check_signal(text: &str) -> Result<Signal, String> {
    Signal::parse(text)
        .ok_or_else(|| format!("`{text}` is not a signal: write a name like SIGINT, or a number from 1 to 64"))
}

/// The limits that the runtime specification knows (`setrlimit(2)`).
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn ulimits(cx: &mut Cx<'_>, table: Option<At<Table<UlimitEntry>>>, path: Path<'_>) -> BTreeMap<String, Ulimit> {
    let mut limits = BTreeMap::new();
    for entry in table.map(|table| table.value.0).unwrap_or_default() {
        let path = path.key(&entry.name);
        let name = entry.name.to_ascii_lowercase();
        if !ULIMITS.contains(&name.as_str()) {
            let help = match near(&name, ULIMITS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", ULIMITS.join(", ")),
            };
            cx.wrong_help(entry.key, path, "there is no such limit", help);
            continue;
        }
        let (soft, hard) = match entry.at.value {
            UlimitEntry::Both(word) => {
                let at = At { node: entry.at.node, value: word };
                let both = |text: &str| match text.split_once(':') {
                    Some((soft, hard)) => Ok((limit(soft)?, limit(hard)?)),
                    None => limit(text).map(|limit| (limit, limit)),
                };
                let Some(both) = checked(cx, &at, path, both) else { continue };
                both
            }
            UlimitEntry::Each(UlimitDoc { soft, hard }) => {
                let soft = soft.and_then(|soft| checked(cx, &soft, path.key("soft"), limit));
                let hard = hard.and_then(|hard| checked(cx, &hard, path.key("hard"), limit));
                let Some(both) = soft.zip(hard) else { continue };
                both
            }
        };
        if soft > hard {
            cx.wrong(entry.at.node, path, "the limit that holds is above the one up to which it may be raised");
        }
        limits.insert(name, Ulimit { soft, hard });
    }
    limits
}

fn limit(text: &str) -> Result<u64, String> {
    match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().map_err(|_| format!("`{text}` is too large a limit"))
        }
        _ => Err(format!("`{text}` is not a limit: write a number, or -1 for none")),
    }
}

fn sysctls(cx: &mut Cx<'_>, pairs: Option<At<Pairs>>, path: Path<'_>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for entry in pairs.map(|pairs| pairs.value.0.0).unwrap_or_default() {
        let fine =
            entry.name.contains('.') && entry.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
        if fine {
            settings.insert(entry.name, entry.at.value.0.value);
        } else {
            let message = "a setting of the kernel is written with dots, like `net.core.somaxconn`";
            cx.wrong(entry.key, path.key(&entry.name), message);
        }
    }
    settings
}

/// The least memory that Podman takes (4.3 to 5).
const LEAST_MEMORY: u64 = 6 << 20;

pub(super) fn resources(cx: &mut Cx<'_>, doc: Option<At<ResourcesDoc>>, path: Path<'_>) -> Resources {
    let Some(doc) = doc else { return Resources::default() };
    let ResourcesDoc { cpus, cpuset, memory, memory_swap, pids, shm } = doc.value;
    let limit = memory.as_ref().map(|memory| memory.value.0);
    if let Some(memory) = memory.filter(|memory| memory.value.0 < LEAST_MEMORY) {
        cx.wrong(memory.node, path.key("memory"), "a container takes at least 6MiB of memory");
    }
    let swap = memory_swap.as_ref().and_then(|swap| checked(cx, swap, path.key("memorySwap"), amount));
    if let Some(at) = &memory_swap {
        match (swap, limit) {
            (Some(_), None) => {
                let help = "write `memory` as well";
                cx.wrong_help(at.node, path.key("memorySwap"), "memory and swap together need a limit of memory", help);
            }
            (Some(swap), Some(limit)) if swap < limit => {
                let message = "memory and swap together are less than the memory alone";
                cx.wrong(at.node, path.key("memorySwap"), message);
            }
            _ => {}
        }
    }
    Resources {
        cpus: cpus.and_then(|cpus| checked(cx, &cpus, path.key("cpus"), check_cpus)),
        cpuset: cpuset.and_then(|set| checked(cx, &set, path.key("cpuset"), check_cpuset)),
        memory: Memory { limit, swap },
        pids: pids.and_then(|pids| checked(cx, &pids, path.key("pids"), check_pids)),
        shm: shm.map(|At { value: Size(size), .. }| size),
    }
}

fn amount(text: &str) -> Result<u64, String> {
    match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => crate::sizes::parse(text.trim())
            .ok_or_else(|| format!("`{text}` is not a size: write `4GiB`, or `unlimited`")),
    }
}

fn check_cpus(text: &str) -> Result<Cpus, String> {
    let wrong = || format!("`{text}` is not a number of processors, like 1.5, with at most three decimals");
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(rest) || rest.len() > 3 {
        return Err(wrong());
    }
    let rest: u32 = format!("{rest:0<3}").parse().map_err(|_| wrong())?;
    let thousandths = whole.parse::<u32>().ok().and_then(|whole| whole.checked_mul(1000)?.checked_add(rest));
    match thousandths {
        Some(thousandths @ 10..=1_024_000) => Ok(Cpus(thousandths)),
        Some(_) => Err(format!("`{text}` processors: from 0.01 to 1024 can be given")),
        None => Err(wrong()),
    }
}

fn check_cpuset(text: &str) -> Result<String, String> {
    let number = |part: &str| part.parse::<u16>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => matches!((number(from), number(to)), (Some(from), Some(to)) if from <= to),
        None => number(part).is_some(),
    };
    match text.split(',').all(range) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` names no processors: write numbers and ranges, like `0-2,4`")),
    }
}

fn check_pids(text: &str) -> Result<i64, String> {
    match text {
        "-1" | "unlimited" => Ok(i64::MAX),
        _ => match text.parse::<u32>() {
            Ok(count) if count > 0 => Ok(i64::from(count)),
            _ => Err(format!("`{text}` is not a number of processes: write one, or `unlimited`")),
        },
    }
}

/// The kernel's capabilities (`capabilities(7)`, Linux 5.9).
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The fields that say what a container is allowed.
pub(super) struct Security {
    pub(super) userns: Option<At<Word>>,
    pub(super) cap_add: Option<At<List<Word>>>,
    pub(super) cap_drop: Option<At<List<Word>>>,
    pub(super) security_opt: Option<At<List<Word>>>,
    pub(super) no_new_privileges: Option<At<Flag>>,
    pub(super) privileged: Option<At<Flag>>,
    pub(super) read_only_root: Option<At<Flag>>,
    pub(super) devices: Option<At<List<Word>>>,
    pub(super) gpus: Option<At<Loose>>,
}

impl Security {
    pub(super) fn resolve(self, cx: &mut Cx<'_>, path: Path<'_>) -> spec::Security {
        let Self {
            userns,
            cap_add,
            cap_drop,
            security_opt,
            no_new_privileges,
            privileged,
            read_only_root,
            devices,
            gpus,
        } = self;
        let options = words(cx, security_opt, path.key("securityOpt"), check_option);
        // Two ways to say the same are one.
        let (strict, options): (Vec<_>, Vec<_>) = options.into_iter().partition(|option| option == NO_NEW_PRIVILEGES);
        let mut devices = words(cx, devices, path.key("devices"), check_device);
        devices.extend(gpus.and_then(|gpus| checked(cx, &gpus, path.key("gpus"), check_gpus)).unwrap_or_default());
        let drop_path = path.key("capDrop");
        spec::Security {
            userns: userns.and_then(|userns| checked(cx, &userns, path.key("userns"), check_userns)),
            cap_add: words(cx, cap_add, path.key("capAdd"), check_capability).into_iter().collect::<BTreeSet<_>>(),
            cap_drop: words(cx, cap_drop, drop_path, check_capability).into_iter().collect(),
            options,
            no_new_privileges: is_set(no_new_privileges) || !strict.is_empty(),
            privileged: is_set(privileged),
            read_only_root: is_set(read_only_root),
            devices,
        }
    }
}

const NO_NEW_PRIVILEGES: &str = "no-new-privileges";

/// What `securityOpt` takes. Compose writes a colon where Podman writes an equals sign.
fn check_option(text: &str) -> Result<String, String> {
    let text = match text.split_once([':', '=']) {
        Some((NO_NEW_PRIVILEGES, "true")) => NO_NEW_PRIVILEGES.to_owned(),
        Some((key @ ("label" | "seccomp" | "apparmor"), value)) => format!("{key}={value}"),
        _ => text.to_owned(),
    };
    let known = ["label", "seccomp", "apparmor", "mask", "unmask", "proc-opts"];
    let fine = text.split_once('=').is_some_and(|(key, value)| known.contains(&key) && !value.is_empty());
    if fine || text == NO_NEW_PRIVILEGES {
        return Ok(text);
    }
    Err(format!(
        "`{text}` is not an option of security: write `label=…`, `seccomp=…`, `apparmor=…`, `mask=…`, `unmask=…` or \
         `proc-opts=…`"
    ))
}

fn check_capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" || CAPABILITIES.contains(&name) {
        return Ok(name.to_owned());
    }
    let near = near(name, CAPABILITIES).map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
    Err(format!("there is no capability `{text}`{near}"))
}

fn check_userns(text: &str) -> Result<String, String> {
    let mode = text.split_once(':').map_or(text, |(mode, _)| mode);
    match mode {
        "host" | "nomap" if mode != text => Err(format!("`{mode}` takes no options")),
        "keep-id" | "auto" | "host" | "nomap" => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not a user namespace: write `keep-id`, `auto`, `nomap` or `host`")),
    }
}

/// A path of a device with where and how it is seen, or the name of one that CDI knows: `VENDOR/CLASS=DEVICE`.
fn check_device(text: &str) -> Result<String, String> {
    if text.starts_with("/dev/") || text == "/dev" {
        let mut parts = text.split(':').skip(1);
        let access = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b"rwm".contains(&b));
        let (second, third, more) = (parts.next(), parts.next(), parts.next());
        let fine = match (second, third, more) {
            (None, ..) => true,
            (Some(part), None, _) => part.starts_with('/') || access(part),
            (Some(path), Some(part), None) => path.starts_with('/') && access(part),
            _ => false,
        };
        return match fine {
            true => Ok(text.to_owned()),
            false => Err(format!("`{text}` is not a device: write `/dev/NAME[:/dev/OTHER][:rwm]`")),
        };
    }
    let cdi = text.split_once('=').is_some_and(|(kind, device)| {
        !device.is_empty()
            && kind.split_once('/').is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty())
    });
    match cdi && !text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("`{text}` is not a device: write a path below `/dev`, or a CDI name like `nvidia.com/gpu=0`"))
        }
    }
}

/// The devices of CDI that stand for so many GPUs.
fn check_gpus(text: &str) -> Result<Vec<String>, String> {
    match text {
        "all" => Ok(vec!["nvidia.com/gpu=all".to_owned()]),
        _ => match text.parse::<u32>() {
            Ok(count @ 1..=64) => Ok((0..count).map(|index| format!("nvidia.com/gpu={index}")).collect()),
            _ => Err(format!("`{text}` is not a number of GPUs: write `all`, or how many")),
        },
    }
}

pub(super) fn logging(cx: &mut Cx<'_>, doc: Option<At<LoggingDoc>>, path: Path<'_>) -> Logging {
    let Some(doc) = doc else { return Logging::default() };
    let LoggingDoc { driver, max_size } = doc.value;
    let driver = driver.map(|At { value: Choice(driver), .. }| driver);
    if let Some(size) = max_size.as_ref().filter(|_| matches!(driver, Some(LogDriver::Journald | LogDriver::None))) {
        cx.wrong(size.node, path.key("maxSize"), "only `k8s-file` keeps so much and no more: leave `maxSize` out");
    }
    Logging { driver, max_size: max_size.map(|At { value: Size(size), .. }| size) }
}
