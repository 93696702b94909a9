//! System calls that the kernel refuses.

use crate::kills::draw;
use crate::stage::{Kind, Stage};
use crate::sweep::{Tally, points, sweep};
use crate::trace::{self, Ended, Fault, Point};

/// What the kernel may well answer to a call. What it never does is not asked of anybody: no descriptor for wake-ups gives EIO, and
/// who says EAGAIN of a socket says later that it is ready.
fn answers(point: &Point) -> &'static [&'static str] {
    let on_path = point.path.is_some();
    match point.call.as_str() {
        "openat" if on_path => &["ENOSPC", "EIO", "EMFILE", "ENOMEM", "EACCES", "EINTR"],
        "read" | "pread64" | "getdents64" if on_path => &["EIO", "EINTR", "ENOMEM"],
        "write" | "pwrite64" | "writev" if on_path => &["ENOSPC", "EIO", "EINTR", "EPIPE", "EAGAIN"],
        "fsync" | "fdatasync" => &["EIO", "ENOSPC", "EINTR"],
        "flock" => &["ENOMEM", "EINTR", "EAGAIN", "EIO"],
        "rename" | "renameat" | "renameat2" | "linkat" | "symlink" => &["ENOSPC", "EIO", "EACCES", "ENOMEM"],
        "unlink" | "unlinkat" | "rmdir" => &["EIO", "EACCES", "ENOMEM"],
        "mkdir" | "mkdirat" => &["ENOSPC", "EIO", "EACCES", "ENOMEM"],
        "ftruncate" => &["ENOSPC", "EIO", "EACCES", "EINTR"],
        "fchmod" | "fchmodat" => &["EIO", "EACCES", "ENOMEM"],
        "statx" | "newfstatat" | "statfs" | "fstatfs" | "lseek" | "readlink" if on_path => &["EIO", "EACCES", "ENOMEM"],
        "getcwd" => &["ENOMEM", "EACCES", "ENOENT"],
        "socket" => &["EMFILE", "ENOMEM", "EACCES"],
        "connect" => &["EACCES", "EAGAIN", "ECONNRESET", "ECONNREFUSED", "EINTR", "ENOMEM"],
        "bind" | "listen" => &["EACCES", "ENOMEM", "EIO"],
        "accept4" => &["EMFILE", "ENOMEM", "ECONNRESET"],
        "sendto" | "sendmsg" => &["EPIPE", "ECONNRESET", "ENOMEM", "EIO"],
        "recvfrom" | "recvmsg" => &["ECONNRESET", "EIO", "ENOMEM", "EINTR"],
        "socketpair" | "pipe2" | "eventfd2" | "epoll_create1" | "inotify_init1" => &["EMFILE", "ENOMEM"],
        "inotify_add_watch" => &["ENOSPC", "EACCES", "ENOMEM"],
        "epoll_ctl" => &["ENOSPC", "ENOMEM"],
        "clone3" => &["EAGAIN", "ENOMEM"],
        "getrandom" => &["EINTR"],
        _ => &[],
    }
}

/// What goes wrong only once: asked again at once, as everybody does, it would go wrong for ever.
const PASSING: [&str; 2] = ["EINTR", "EAGAIN"];

fn fault(point: Point, rng: &mut fastrand::Rng) -> Fault {
    let answers = answers(&point);
    let answer = answers[rng.usize(..answers.len())];
    let nth = point.nth;
    let is_passing = PASSING.contains(&answer) && point.call != "clone3";
    let when = match rng.u8(..4) {
        _ if is_passing => nth.to_string(),
        0 => format!("{nth}+"),
        1 => format!("{nth}..{}", nth + 2),
        _ => nth.to_string(),
    };
    Fault { point, what: format!("error={answer}"), when }
}

/// Whether the call that failed is one that can: without a path to go by, the same number may be another's.
fn can_be(line: &str) -> bool {
    let is_wake_up = line.contains("anon_inode:[event") && !line.contains("epoll_c") && !line.contains("eventfd2(");
    // A pipe to ourselves, by which tokio hears of signals: nothing in the kernel is in its way.
    let is_own_pipe = line.contains("recvfrom(") && line.contains(", 128, 0, NULL")
        || line.contains("sendto(") && line.contains(r#", "\1", 1, MSG_NOSIGNAL"#);
    !is_wake_up && !is_own_pipe
}

#[test]
fn whatever_the_kernel_refuses_it_is_done_right_or_reported() {
    if !trace::is_possible() {
        return;
    }
    let changing = Kind::CHANGING.map(|kind| (kind, if kind == Kind::Undo { 1 } else { 4 }));
    let kinds: Vec<_> = changing.into_iter().chain(Kind::LOOKING.map(|kind| (kind, 3))).collect();
    sweep("refused system calls", &kinds, points(60), |stage, share, rng, tally| {
        let recorded = stage.record();
        let drawn = draw(&recorded, rng, |point| !answers(point).is_empty());
        for point in drawn.iter().cycle().take(3 * share) {
            if tally.done >= share {
                break;
            }
            let fault = fault(point.clone(), rng);
            play(stage, &fault, tally);
        }
    });
}

/// From the first thread on, from the second on, …
#[test]
fn a_machine_without_threads_is_reported_as_that_or_made_do_with() {
    if !trace::is_possible() {
        return;
    }
    let kinds = [(Kind::Keep, 1), (Kind::Install, 1), (Kind::Fetch, 1)];
    sweep("refused threads", &kinds, 3 * THREADS, |stage, share, _, tally| {
        for nth in 1..=share {
            let point = Point { call: "clone3".to_owned(), path: None, nth };
            let fault = Fault { point, what: "error=EAGAIN".to_owned(), when: format!("{nth}+") };
            play(stage, &fault, tally);
        }
    });
}

/// As many as are made: two that work, four for what blocks, and by `run` one that watches files.
const THREADS: usize = 7;

fn play(stage: &mut Stage, fault: &Fault, tally: &mut Tally) {
    stage.prepare();
    let ended = stage.disturbed(fault);
    let injected = ended.injected();
    if injected.is_empty() {
        tally.missed += 1;
    } else if !injected.iter().all(|line| can_be(line)) {
        tally.missed += 1;
        tally.note("an answer that cannot be");
        if let Err(err) = stage.finish() {
            tally.wrong.push(format!("{fault}: {err}"));
        }
        return;
    } else {
        tally.count(format!("{} {}", fault.point.call, fault.what.trim_start_matches("error=")));
    }
    let to_stderr = fault.point.path.as_ref().is_some_and(|path| path.ends_with("/err"));
    judge(stage, &ended, !to_stderr, &format!("{fault}\n{}", injected.join("\n")), tally);
}

/// What must be so of a run that something went wrong in.
pub fn judge(stage: &mut Stage, ended: &Ended, is_heard: bool, what: &str, tally: &mut Tally) {
    tally.peak = tally.peak.max(ended.peak);
    let mut wrong = Vec::new();
    if ended.hangs {
        wrong.push("it hangs".to_owned());
    } else if ended.code == 101 || ended.code >= 1000 || ended.stderr.contains("panicked at") {
        wrong.push(format!("it ended with {}", ended.code));
    }
    // An answer of 32 MiB, twice while it grows, and the pages of a program that was not optimised.
    if ended.peak > 80 * 1024 {
        wrong.push(format!("it took {} KiB", ended.peak));
    }
    match ended.code {
        // Without it, the last good manifest is as good as any.
        0 if ended.stderr.contains("going on with the last good manifest") => {}
        0 => wrong.extend(stage.is_true().err().map(|err| format!("it said it was done: {err}"))),
        code if code == stage.kind.usual_code() => {}
        // What is not ready is told as that, and not as an error; and to tell what is wrong is what some verbs are for.
        2..=4 if !ended.stdout.is_empty() || !ended.stderr.is_empty() => {}
        1 if stage.kind.tells()
            && ["hint", "fix:", "cannot be observed: "].iter().any(|word| ended.stdout.contains(word)) => {}
        _ if !is_heard || ended.hangs => {}
        _ => {
            let error = ended.stderr.lines().find_map(|line| line.split_once("error: "));
            match error {
                None => wrong.push(format!("it ended with {} and no error", ended.code)),
                Some((_, told)) if !told.contains(": ") && !ended.stderr.contains("hint: ") => {
                    wrong.push(format!("an error without cause or hint: {told}"));
                }
                Some(_) => {}
            }
        }
    }
    wrong.extend(afterwards(stage, tally));
    if !wrong.is_empty() {
        let (stdout, stderr) = (crop(&ended.stdout), crop(&ended.stderr));
        let told = format!(
            "{what}\n{}\n--- exit code {}\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
            wrong.join("; "),
            ended.code
        );
        eprintln!("wrong: {} {told}", stage.kind.name());
        tally.wrong.push(told);
    }
}

/// What is wrong of what a fault left, for the moment and after the next run.
pub fn afterwards(stage: &mut Stage, tally: &mut Tally) -> Vec<String> {
    let serving = stage.serving().map(|serves| {
        if !serves {
            tally.note("nobody serves for the moment");
        }
    });
    [serving, stage.finish()].into_iter().filter_map(Result::err).collect()
}

fn crop(text: &str) -> &str {
    let end = text.char_indices().map(|(at, _)| at).nth(3000).unwrap_or(text.len());
    &text[..end]
}
