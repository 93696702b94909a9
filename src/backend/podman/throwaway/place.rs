//! The directory of a Podman of our own. Whoever holds the lock in it lives; one that nobody holds was left by a kill, and the
//! next one takes it away.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::Ways;
use crate::files::{self, Lock};
use crate::model::ids::clean;

/// What its name begins with.
const PREFIX: &str = "sfp-";
/// Podman (4.3) refuses a longer run root, and that in the clean-up of a container alone, where nobody sees it.
const MAX_RUN_ROOT: usize = 50;
/// Whoever makes one locks it at once; one without a lock for so long was left by a kill.
const FRESH: Duration = Duration::from_secs(60);
/// How long Podman may take to remove what runs.
const REMOVAL: Duration = Duration::from_secs(30);
/// What may be left of a Podman, by the names of programs.
const LEFT: [&str; 5] = ["podman", "conmon", "conmon-rs", "catatonit", "fuse-overlayfs"];
/// What would lead Podman elsewhere.
const UNSET: [&str; 8] = [
    "CONTAINER_HOST",
    "CONTAINER_CONNECTION",
    "DOCKER_HOST",
    "CONTAINERS_CONF_OVERRIDE",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
    "REGISTRY_AUTH_FILE",
    "NOTIFY_SOCKET",
];

/// A directory of our own, locked while this value lives. Goes with it.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    program: PathBuf,
    vars: BTreeMap<String, String>,
    /// Its lock: given back when all is gone.
    _lock: File,
}

impl Place {
    /// Makes one.
    pub(super) fn make(program: &Path, vars: &BTreeMap<String, String>) -> Result<Self, (PathBuf, io::Error)> {
        let base = base(vars);
        let failed = |err| (base.clone(), err);
        let dir = loop {
            let dir = base.join(format!("{PREFIX}{:08x}", fastrand::u32(..)));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => break dir,
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(failed(err)),
            }
        };
        let lock = match lock_in(&dir) {
            Ok(lock) => lock,
            Err(err) => {
                let _ = fs::remove_dir_all(&dir);
                return Err(failed(err));
            }
        };
        let place = Self { dir, program: program.to_owned(), vars: vars.clone(), _lock: lock };
        place.clear().map_err(failed)?;
        Ok(place)
    }

    /// Begins anew: of another way to keep images Podman wants no trace.
    pub(super) fn clear(&self) -> io::Result<()> {
        unmount_below(&self.dir);
        for below in ["root", "run", "tmp", "vol", "net", "cwd", "xdg"] {
            let below = self.dir.join(below);
            match fs::remove_dir_all(&below) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => DirBuilder::new().mode(0o700).create(&below)?,
            }
        }
        Ok(())
    }

    /// Takes away what was left by kills: what is ours, and nobody holds.
    pub(super) fn sweep(program: &Path, vars: &BTreeMap<String, String>) {
        for entry in fs::read_dir(base(vars)).into_iter().flatten().flatten() {
            let dir = entry.path();
            let Ok(found) = dir.symlink_metadata() else { continue };
            let is_ours = found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0;
            if !is_ours || !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                continue;
            }
            let lock = match crate::files::open(&dir.join("lock"), File::options().read(true).write(true)) {
                Ok(lock) => lock,
                Err(_) if age(&found) < FRESH => continue,
                // Half made, or half taken away.
                Err(_) => match File::create(dir.join("lock")) {
                    Ok(lock) => lock,
                    Err(_) => continue,
                },
            };
            if !files::lock(&lock, Lock::Alone, Duration::ZERO).unwrap_or(false) {
                continue;
            }
            tracing::info!(path = %dir.display(), "removing what a kill left of a private Podman");
            drop(Self { dir, program: program.to_owned(), vars: vars.clone(), _lock: lock });
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn vars(&self) -> &BTreeMap<String, String> {
        &self.vars
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("podman.sock")
    }

    /// What its service says.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("service.log")
    }

    /// Why its service is not there, in its own words.
    pub(super) fn last_words(&self, ended: bool) -> String {
        let said = crate::files::read(&self.log()).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        match said.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => clean(line, 500),
            None if ended => "it ended, and said nothing".to_owned(),
            None => "it does not answer".to_owned(),
        }
    }

    /// Writes what Podman goes by.
    pub(super) fn configure(&self, ways: &Ways) -> io::Result<()> {
        let dir = self.dir.display();
        let runtime = ways.runtime.map(|runtime| format!("runtime = \"{runtime}\"\n")).unwrap_or_default();
        // Inherited limits, since raising them may not be allowed; locks in a file, since those in memory are shared by all
        // Podmans of the machine, and a fresh one clears them.
        let conf = format!(
            "[containers]\ndefault_ulimits = []\nlog_driver = \"k8s-file\"\n[engine]\n{runtime}cgroup_manager = \"cgroupfs\"\n\
             events_logger = \"file\"\nlock_type = \"file\"\ntmp_dir = \"{dir}/tmp\"\nvolume_path = \"{dir}/vol\"\n[network]\n\
             network_config_dir = \"{dir}/net\"\n"
        );
        let (driver, mounter) = ways.storage.clone().unwrap_or(("vfs", None));
        let options =
            mounter.map(|program| format!("[storage.options.overlay]\nmount_program = \"{}\"\n", program.display()));
        let storage = format!(
            "[storage]\ndriver = \"{driver}\"\ngraphroot = \"{dir}/root\"\nrunroot = \"{dir}/run\"\n{}",
            options.unwrap_or_default()
        );
        fs::write(self.dir.join("storage.conf"), storage)?;
        fs::write(self.dir.join("containers.conf"), conf)
    }

    /// Podman on this place, in a process group of its own: Ctrl-C is ours to hear.
    pub(super) fn podman(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(&self.vars);
        for name in UNSET {
            command.env_remove(name);
        }
        let path = self.vars.get("PATH").map(String::as_str).unwrap_or_default();
        // By flags too: a normal user's Podman (4.3) does not go by the file for where it keeps images.
        for (flag, below) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.dir.join(below));
        }
        command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"))
            .env("XDG_RUNTIME_DIR", self.dir.join("xdg"))
            .env("XDG_DATA_HOME", self.dir.join("xdg"))
            .env("TMPDIR", self.dir.join("tmp"));
        if !self.has_policy() {
            command.env("HOME", self.own_home());
        }
        command.current_dir(self.dir.join("cwd")).process_group(0);
        command
    }

    /// Whether there is a home, and a policy for images. Without one Podman takes none.
    fn has_policy(&self) -> bool {
        let Some(home) = self.vars.get("HOME").map(Path::new).filter(|home| home.is_dir()) else { return false };
        [home.join(".config/containers/policy.json"), PathBuf::from("/etc/containers/policy.json")]
            .iter()
            .any(|path| path.exists())
    }

    /// A home with a policy that takes what we give it: we have verified it.
    fn own_home(&self) -> PathBuf {
        let home = self.dir.join("home");
        let policy = home.join(".config/containers/policy.json");
        let made = fs::create_dir_all(home.join(".config/containers"));
        let _ = made.and_then(|()| fs::write(policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#));
        home
    }

    /// Ends and removes all of it. What cannot be removed is told, and left to the next one.
    fn take_away(&self) {
        let is_root = geteuid().is_root();
        if self.dir.join("containers.conf").exists() {
            self.run(&["rm", "--all", "--force", "--time", "0"]);
            if !is_root {
                // Files of a normal user's images belong to other users of its namespace.
                let below =
                    ["root", "run", "vol", "xdg/containers"].map(|below| self.dir.join(below).display().to_string());
                self.run(&[&["unshare", "rm", "-rf"][..], &below.each_ref().map(String::as_str)].concat());
            }
        }
        end_processes(&self.dir);
        unmount_below(&self.dir);
        // The lock last, so that what is left half-way is known to be ours.
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name() != "lock" {
                let path = entry.path();
                let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        }
        if let Err(err) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), error = %err, "cannot remove all files of a private Podman");
        }
    }

    fn run(&self, words: &[&str]) {
        let mut command = self.podman();
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else { return };
        let since = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if since.elapsed() > REMOVAL {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.take_away();
    }
}

/// The lock of a directory that is new. Under its name it is never seen without a holder.
fn lock_in(dir: &Path) -> io::Result<File> {
    let fresh = dir.join("lock.new");
    let lock = File::create(&fresh)?;
    files::lock(&lock, Lock::Alone, Duration::ZERO)?;
    fs::rename(&fresh, dir.join("lock"))?;
    Ok(lock)
}

/// Where it is made: for large things, as Podman's own temporary files are; short, for its sockets.
fn base(vars: &BTreeMap<String, String>) -> PathBuf {
    let fits = |dir: &Path| {
        dir.is_absolute()
            && dir.as_os_str().len() + PREFIX.len() + "/12345678/run".len() <= MAX_RUN_ROOT
            && dir.is_dir()
    };
    let given = vars.get("TMPDIR").map(PathBuf::from);
    let places = given.into_iter().chain(["/var/tmp", "/tmp"].map(PathBuf::from));
    places.into_iter().find(|dir| fits(dir)).unwrap_or_else(|| PathBuf::from("/tmp"))
}

fn age(found: &fs::Metadata) -> Duration {
    found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default()
}

/// Ends what is left of Podman's processes that work on this directory, and what they run.
fn end_processes(at: &Path) {
    let dir = at.as_os_str().as_encoded_bytes();
    let mentions = |words: &[u8]| words.windows(dir.len()).any(|window| window == dir);
    let is_podmans = |words: &[u8]| {
        let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        LEFT.iter().any(|left| left.as_bytes() == name)
    };
    let pids = || {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
    };
    let ours: Vec<_> = pids()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| is_podmans(&words) && mentions(&words))
        })
        .collect();
    let parent = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let children: Vec<_> = pids().filter(|pid| parent(pid).is_some_and(|parent| ours.contains(&parent))).collect();
    // The pause process of a normal user's Podman names no directory, but its environment does. After a reboot its number may be
    // that of the user's own.
    let of_pause = |below: &str| {
        let text = fs::read_to_string(at.join(below)).ok()?;
        let pid = text.trim().parse::<i32>().ok()?;
        let of = |file: &str| fs::read(format!("/proc/{pid}/{file}"));
        let is_ours =
            of("cmdline").is_ok_and(|words| is_podmans(&words)) && of("environ").is_ok_and(|it| mentions(&it));
        is_ours.then_some(pid)
    };
    let pause = ["tmp/pause.pid", "xdg/libpod/tmp/pause.pid"].into_iter().filter_map(of_pause);
    for pid in children.into_iter().chain(ours).chain(pause) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(target_os = "linux")]
fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(dir) && *point != dir).collect();
    below.sort_unstable_by(|one, other| other.cmp(one));
    for point in below {
        let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    }
}

#[cfg(not(target_os = "linux"))]
fn unmount_below(_: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(dir: &Path) -> BTreeMap<String, String> {
        BTreeMap::from([("TMPDIR".to_owned(), dir.display().to_string())])
    }

    #[test]
    fn what_a_kill_left_is_taken_away_and_what_lives_or_is_another_s_is_not() {
        let dir = tempfile::Builder::new().prefix("p").tempdir_in("/tmp").unwrap();
        let program = Path::new("/bin/true");
        let make = || Place::make(program, &vars(dir.path())).unwrap();
        let (lives, left) = (make(), make());
        let gone = left.dir().to_owned();
        let Place { _lock, .. } = &left;
        _lock.unlock().unwrap();
        std::mem::forget(left);
        for other in ["sfp-file", "other", "sfp-open"] {
            match other {
                "sfp-file" => fs::write(dir.path().join(other), "").unwrap(),
                _ => fs::create_dir(dir.path().join(other)).unwrap(),
            }
        }
        Place::sweep(program, &vars(dir.path()));
        assert!(!gone.exists() && lives.dir().exists());
        assert!(["sfp-file", "other", "sfp-open"].iter().all(|other| dir.path().join(other).exists()));
        let was = lives.dir().to_owned();
        drop(lives);
        assert!(!was.exists());
    }

    #[test]
    fn a_long_path_is_no_place_for_its_sockets() {
        let dir = tempfile::Builder::new().prefix(&"long".repeat(10)).tempdir_in("/tmp").unwrap();
        assert_ne!(base(&vars(dir.path())), dir.path());
    }
}
