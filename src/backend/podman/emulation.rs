//! Which foreign programs Linux runs by emulation: what its `binfmt_misc` has handlers for.
//!
//! A handler is known by the file it is registered under, whatever program it names (qemu, Rosetta, FEX): lines of words,
//! among them `enabled` and `magic`, the first bytes of the files it is for. In those of an ELF file stands the machine.

use std::collections::BTreeSet;
use std::path::Path;

const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// What this machine emulates, in Go's words.
pub fn here() -> BTreeSet<String> {
    read(Path::new(HANDLERS))
}

fn read(handlers: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(handlers).into_iter().flatten().flatten();
    // `register` may not be read, and `status` is no handler.
    let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.flat_map(|text| of_handlers(&text)).collect()
}

/// What these handlers, one text after the other, are for. One that is disabled is for nothing.
pub(super) fn of_handlers(texts: &str) -> BTreeSet<String> {
    let mut emulated = BTreeSet::new();
    let mut enabled = false;
    for line in texts.lines() {
        match line.split_once(' ') {
            None if line == "enabled" => enabled = true,
            None if line == "disabled" => enabled = false,
            Some(("magic", magic)) if enabled => emulated.extend(machine(magic.trim()).map(str::to_owned)),
            _ => {}
        }
    }
    emulated
}

/// The architecture of an ELF file that begins so: `e_machine`, in the file's own byte order.
fn machine(magic: &str) -> Option<&'static str> {
    let byte = |at: usize| magic.get(2 * at..2 * at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    if [byte(0)?, byte(1)?, byte(2)?, byte(3)?] != *b"\x7fELF" {
        return None;
    }
    let (class, big_endian, pair) = (byte(4)?, byte(5)? == 2, [byte(18)?, byte(19)?]);
    let number = if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
    Some(match (number, class, big_endian) {
        (3 | 6, ..) => "386",
        (62, ..) => "amd64",
        (40, ..) => "arm",
        (183, ..) => "arm64",
        (21, _, false) => "ppc64le",
        (21, _, true) => "ppc64",
        (22, ..) => "s390x",
        (243, 2, _) => "riscv64",
        (258, 2, _) => "loong64",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AARCH64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
                           magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn a_handler_is_known_by_the_files_it_is_for_and_counts_while_it_is_enabled() {
        let s390x = AARCH64.replace("7f454c4602010100", "7f454c4602020100").replace("0200b700", "00020016");
        let rosetta = AARCH64.replace("qemu-aarch64-static", "rosetta").replace("0200b700", "02003e00");
        let python = "enabled\ninterpreter /usr/bin/python3\nflags: \noffset 0\nmagic 6f0d0d0a\n";
        let emulated = of_handlers(&[python, AARCH64, &s390x, &rosetta].concat());
        assert_eq!(emulated.into_iter().collect::<Vec<_>>(), ["amd64", "arm64", "s390x"]);
        assert_eq!(of_handlers(&AARCH64.replace("enabled", "disabled")), BTreeSet::new());
        assert_eq!(of_handlers("enabled\n"), BTreeSet::new(), "`status` says only that handlers work");
    }
}
