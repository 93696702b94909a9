//! The program: one verb for each thing that is asked of it in a container. People use `steadfast session`.

use std::env::args_os;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use steadfast_keeper::{child, connect, frame, keep, list, start, tree, watch};

const USAGE: &str = "keeps a command in a container; `steadfast session` speaks to it

  start BASE            starts the session whose specification comes on standard input
  list BASE [NAME]      how the sessions are, or this one
  connect BASE NAME     speaks with the keeper of one, over standard input and output
  watch BASE            tells that something has changed about any session, until standard input ends
  remove BASE NAME      removes what is left of one that has ended
  tree BASE TARGET      speaks about the source tree there, over standard input and output
  version               the version of the protocol";

fn main() -> ExitCode {
    let mut words = args_os().skip(1);
    let verb = words.next().unwrap_or_default();
    let rest: Vec<OsString> = words.collect();
    let name = |word: &OsString| word.to_string_lossy().into_owned();
    match (verb.to_str().unwrap_or_default(), rest.as_slice()) {
        ("start", [base]) => start::main(&PathBuf::from(base)),
        ("keep", [dir]) => keep::main(&PathBuf::from(dir)),
        ("child", words) => child::main(words),
        ("list", [base]) => list::main(&PathBuf::from(base), None),
        ("list", [base, only]) => list::main(&PathBuf::from(base), Some(&name(only))),
        ("connect", [base, session]) => connect::main(&PathBuf::from(base), &name(session)),
        ("watch", [base]) => watch::main(&PathBuf::from(base)),
        ("remove", [base, session]) => start::remove_main(&PathBuf::from(base), &name(session)),
        ("tree", [_, target]) => tree::main(target),
        ("version", []) => {
            println!("{}", frame::VERSION);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}
