//! Scripts for the guest's shell (POSIX), and how what may be secret travels in them.
//!
//! The guest runs `sh -c 'eval "$(dd bs=1 count=N)"'` and reads the script from standard input; what follows the script's N
//! bytes is left to the command. So no word of it is an argument on this machine, nor of `sh` or `sudo` in the guest.

/// The words that run a script of this length, whatever it says.
pub(super) fn receiver(script: &str) -> Vec<String> {
    // Byte by byte, since any other reader may take what comes after the script.
    let line = format!("eval \"$(dd bs=1 count={} 2>/dev/null)\"", script.len());
    ["sh".to_owned(), "-c".to_owned(), line].into()
}

/// The line by which a guest on a terminal says that the script may come: nothing is echoed, and a line may have any length.
pub(super) const READY: &str = "steadfast: the script may come\n";

/// As [`receiver`], where standard input is a terminal. Nothing may be sent before [`READY`].
pub(super) fn receiver_on_terminal(script: &str) -> Vec<String> {
    let ready = READY.trim_end();
    let line = format!("stty raw -echo; echo '{ready}'; eval \"$(dd bs=1 count={} 2>/dev/null)\"", script.len());
    ["sh".to_owned(), "-c".to_owned(), line].into()
}

/// One word for the shell, whatever is in it.
pub(super) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `podman VERB` with these variables for the container, `flags`, and what comes after them.
///
/// In braces: of a script that breaks off, a shell would run the lines that have come.
pub(super) fn podman(
    before: &str,
    verb: &str,
    variables: &Variables,
    words: impl IntoIterator<Item = String>,
) -> Result<String, String> {
    let mut line = String::new();
    for (name, value) in &variables.own {
        line.push_str(&format!("{name}={} ", quote(value)));
    }
    line.push_str("podman ");
    line.push_str(verb);
    if !variables.lines.is_empty() {
        line.push_str(" --env-file /dev/fd/3");
    }
    for (name, _) in &variables.own {
        line.push_str(&format!(" --env {name}"));
    }
    for word in words {
        line.push(' ');
        line.push_str(&quote(&word));
    }
    // `printf` is part of the shell, and so its words are no arguments of any process.
    let script = match variables.lines.as_slice() {
        [] => format!("{{\n{before}{line}\n}}"),
        lines => {
            let lines = lines.iter().map(|line| quote(line)).collect::<Vec<_>>().join(" ");
            format!("{{\n{before}printf '%s\\n' {lines} | {line} 3<&0 0<&4 4<&-\n}} 4<&0")
        }
    };
    match script.contains('\0') {
        true => Err("a zero byte cannot be passed on".to_owned()),
        false => Ok(script),
    }
}

/// A container's variables, by the way they go.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Lines of an env file, which Podman reads from a pipe. This way they cannot be taken for Podman's own: `HOME` and
    /// `PATH` are among the commonest.
    lines: Vec<String>,
    /// What an env file cannot hold goes through Podman's own environment, where `--env NAME` finds it.
    own: Vec<(String, String)>,
}

/// Longer lines of an env file are lost (Go's `bufio.Scanner`: 64 KiB).
const LINE_LIMIT: usize = 32 << 10;

impl Variables {
    /// Sorts them. Fails with a sentence for one that cannot be passed on.
    pub(super) fn new<'a>(of: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut variables = Self::default();
        for (name, value) in of {
            let steers = steers_podman(name);
            let one_line = !value.contains(['\n', '\r']) && name.len() + value.len() < LINE_LIMIT;
            // Podman 4.6.0 takes quotes around a value in an env file away.
            let quoted = value.starts_with(['"', '\'']);
            let fits = one_line && !name.contains(['\n', '\r']) && !name.starts_with(['#', ' ', '\t']);
            match (fits, is_identifier(name) && !steers) {
                (true, true) if quoted => variables.own.push((name.to_owned(), value.to_owned())),
                (true, _) => variables.lines.push(format!("{name}={value}")),
                (false, true) => variables.own.push((name.to_owned(), value.to_owned())),
                (false, false) => {
                    return Err(format!(
                        "variable `{name}` has several lines or is very long, and cannot be passed on under that name"
                    ));
                }
            }
        }
        Ok(variables)
    }
}

fn is_identifier(name: &str) -> bool {
    !name.starts_with(|letter: char| letter.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|letter| letter == '_' || letter.is_ascii_alphanumeric())
}

/// Whether Podman, Go, the loader or the shell would act on it.
fn steers_podman(name: &str) -> bool {
    const NAMES: [&str; 24] = [
        "HOME",
        "PATH",
        "USER",
        "LOGNAME",
        "SHELL",
        "TERM",
        "TMPDIR",
        "TZ",
        "LANG",
        "IFS",
        "ENV",
        "PPID",
        "UID",
        "EUID",
        "GODEBUG",
        "GOGC",
        "GOMAXPROCS",
        "GOMEMLIMIT",
        "GOTRACEBACK",
        "REGISTRY_AUTH_FILE",
        "NOTIFY_SOCKET",
        "OPTIND",
        "SHELLOPTS",
        "GCONV_PATH",
    ];
    const BEGINNINGS: [&str; 14] = [
        "XDG_",
        "DBUS_",
        "LD_",
        "LC_",
        "BASH",
        "CONTAINER_",
        "CONTAINERS_",
        "_CONTAINERS_",
        "DOCKER_",
        "PODMAN_",
        "STORAGE_",
        "BUILDAH_",
        "LISTEN_",
        "SSL_CERT_",
    ];
    NAMES.contains(&name)
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || name.to_ascii_lowercase().ends_with("_proxy")
}

/// Runs `podman "$@"` until it ends, or standard input does: without a terminal nothing in the guest notices that we are
/// gone, until it writes.
pub(super) const WATCHED: &str = "exec 3<&0 </dev/null
podman \"$@\" 3<&- & child=$!
(while read -r _; do :; done; kill \"$child\") <&3 3<&- >/dev/null 2>&1 & watcher=$!
exec 3<&-
wait \"$child\"; code=$?
kill \"$watcher\" 2>/dev/null
exit \"$code\"
";
