//! Standard output and error that take nothing: a full disk, a reader that has left, none at all.

use crate::errors::judge;
use crate::stage::{Kind, Stage};
use crate::support::command::skip;
use crate::sweep::{points, sweep};
use crate::trace::{Outputs, Sink};

#[test]
fn whatever_the_outputs_do_it_is_done_right() {
    if !std::path::Path::new("/dev/full").exists() {
        skip("there is no /dev/full here");
        return;
    }
    let kinds: Vec<_> = Kind::CHANGING.into_iter().chain(Kind::LOOKING).filter(|kind| *kind != Kind::Undo).collect();
    let kinds: Vec<_> = kinds.into_iter().map(|kind| (kind, 1)).collect();
    sweep("outputs", &kinds, points(36), |stage, share, rng, tally| {
        const SINKS: [Sink; 4] = [Sink::Kept, Sink::Full, Sink::Unread, Sink::Closed];
        let mut all: Vec<_> = SINKS.into_iter().flat_map(|out| SINKS.map(|err| Outputs { out, err })).skip(1).collect();
        rng.shuffle(&mut all);
        for outputs in all.into_iter().take(share) {
            stage.prepare();
            let ended = stage.work_into(outputs);
            tally.count(format!("{:?}/{:?}", outputs.out, outputs.err));
            if outputs.out == Sink::Full && ended.code == 0 && prints(stage) {
                tally.wrong.push(format!("{outputs:?}: nobody was told that the output was lost"));
            }
            // What is told on standard output when standard error is kept may be told there only.
            let is_heard = outputs == Outputs::default();
            judge(stage, &ended, is_heard, &format!("{outputs:?}"), tally);
        }
    });
}

/// Whether it has something to print, in any case.
fn prints(stage: &Stage) -> bool {
    !matches!(stage.kind, Kind::Exec | Kind::Keep | Kind::Logs)
}
