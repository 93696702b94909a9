//! Standard output and error that take nothing: a full disk, a reader that left, none at all.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::sockets::{Manner, on};
use crate::support::command::Sandbox;

const BROKEN: &str = "apiVersion: steadfast/v1\nname: 7seven\nagents: {}\nruntimes: {}\n";

/// Every verb that ends by itself, in the formats it has.
const VERBS: [&str; 26] = [
    "--help",
    "--version",
    "apply --help",
    "bogus",
    "validate",
    "validate -o json",
    "-f broken.yaml validate",
    "-f broken.yaml validate -o json",
    "-f broken.yaml plan --log-format json",
    "-f none.yaml status",
    "schema",
    "completions bash",
    "plan",
    "plan -o json",
    "plan -o markdown",
    "apply",
    "apply -o json",
    "status",
    "status -o json",
    "why hello",
    "history",
    "history -o json",
    "logs hello",
    "exec hello -- true",
    "cache list",
    "doctor",
];

fn code(command: &mut Command) -> i32 {
    // A signal is as bad as a panic's 101.
    command.status().unwrap().code().unwrap_or(101)
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// The write end of a pipe that nobody reads.
fn unread() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

/// The sandbox with all that `VERBS` need, and no colour of the last verb's work in it.
fn place() -> (Sandbox, impl Sized) {
    let (mut sandbox, fake) = on(Manner::Podman);
    sandbox.write("broken.yaml", BROKEN);
    // Much is logged, so that much cannot be.
    sandbox.set("STEADFAST_LOG", "debug");
    (sandbox, fake)
}

#[test]
fn an_output_that_takes_nothing_is_no_reason_to_panic() {
    let (sandbox, _fake) = place();
    for verb in VERBS {
        let usual = sandbox.run(verb);
        let run = |out: Stdio, err: Stdio| code(sandbox.command(verb).stdout(out).stderr(err));
        let lost = if usual.stdout.is_empty() || usual.code == 125 { usual.code } else { 1 };
        assert_eq!(run(full().into(), Stdio::null()), lost, "`{verb}` with its output lost");
        assert_eq!(run(Stdio::null(), full().into()), usual.code, "`{verb}` with its errors lost");
        assert_eq!(run(full().into(), full().into()), lost, "`{verb}` with both lost");
        assert_eq!(run(unread().into(), unread().into()), usual.code, "`{verb}` with nobody reading");
    }
}

#[test]
fn outputs_that_were_closed_are_no_reason_to_panic() {
    let (sandbox, _fake) = place();
    for verb in VERBS {
        let usual = sandbox.run(verb);
        let mut shell = Command::new("sh");
        let program = sandbox.command("");
        shell.args(["-c", &format!("exec \"$0\" {verb} >&- 2>&-")]).arg(program.get_program());
        shell.current_dir(sandbox.work()).env_clear().stdin(Stdio::null());
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        assert_eq!(code(&mut shell), usual.code, "`{verb}`");
    }
}

/// A command under limits that a shell sets.
fn limited(sandbox: &Sandbox, limits: &str, verb: &str) -> crate::support::command::Outcome {
    let program = sandbox.command("");
    // What is called `-u` in one shell is `-p` in another.
    let limits = limits.replace("threads", "-u 1 2>/dev/null || ulimit -p");
    let line = format!("ulimit {limits} && exec '{}' {verb}", program.get_program().display());
    sandbox.shell(&line)
}

#[test]
fn no_thread_at_all_is_an_error_with_a_way_out() {
    // Root has no such limit.
    let sandbox = Sandbox::unprivileged();
    for verb in ["validate", "plan", "cache list"] {
        let outcome = limited(&sandbox, "threads 1", verb);
        let outcome = outcome.expect(1).says("error: cannot start: the machine refuses threads or files: ");
        outcome.says("hint: `ulimit -u`");
    }
}

#[test]
fn however_few_files_may_be_open_it_does_not_panic() {
    let (sandbox, _fake) = on(Manner::Podman);
    let mut told = 0;
    for files in 4..40 {
        for verb in ["plan", "apply", "cache list"] {
            let outcome = limited(&sandbox, &format!("-n {files}"), verb);
            // The loader itself cannot open what it needs.
            let is_loader = outcome.code == 127;
            assert!(is_loader || outcome.code < 100, "`{verb}` with {files} files: {}", outcome.shown());
            assert!(!outcome.stderr.contains("panicked"), "`{verb}` with {files} files: {}", outcome.shown());
            if outcome.code == 1 {
                assert!(outcome.stderr.contains("error: "), "`{verb}` with {files} files: {}", outcome.shown());
                told += 1;
            }
        }
    }
    assert!(told > 0, "nothing was refused, so nothing was proved");
}
