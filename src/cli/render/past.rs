//! What was done, and why it had to be. A plan says it in the present tense, and so do the journal and what is for programs; once
//! it is done, people read `started container …: it had exited with code 137`.

/// `create container …` → `created container …`.
pub(super) fn done(action: &str) -> String {
    let (verb, rest) = action.split_once(' ').unwrap_or((action, ""));
    let past = match verb {
        "write" => "wrote",
        "fetch" => "fetched",
        "load" => "loaded",
        "tag" => "tagged",
        "pull" => "pulled",
        "create" => "created",
        "start" => "started",
        "restart" => "restarted",
        "unpause" => "unpaused",
        "stop" => "stopped",
        "prepare" => "prepared",
        "rename" => "renamed",
        "replace" => "replaced",
        "remove" => "removed",
        "prune" => "pruned",
        "delete" => "deleted",
        "recreate" => "recreated",
        "forward" => "forwarded",
        "take" => "took",
        other => other,
    };
    format!("{past} {rest}").trim_end().to_owned()
}

/// `it does not exist` → `it did not exist`. Word by word: reasons are short, and say what is seen in few verbs.
pub(super) fn reason(reason: &str) -> String {
    let reason = match reason {
        "the image is not there" => return "it was missing".to_owned(),
        "not in the cache" => "it is not in the cache",
        reason => reason,
    };
    let words = reason.replace("was never ", "had never been ");
    let past = words.split(' ').map(|word| {
        let (word, mark) = match word.strip_suffix([',', ':', ';']) {
            Some(bare) => (bare, &word[bare.len()..]),
            None => (word, ""),
        };
        let past = match word {
            "is" => "was",
            "are" => "were",
            "does" => "did",
            "do" => "did",
            "has" => "had",
            "have" => "had",
            "can" => "could",
            "cannot" => "could not",
            "stands" => "stood",
            "points" => "pointed",
            "keeps" => "kept",
            "runs" => "ran",
            "backs" => "backed",
            "takes" => "took",
            "holds" => "held",
            "promises" => "promised",
            "exited" => "had exited",
            "changed" => "had changed",
            "left" => "had left",
            word => word,
        };
        format!("{past}{mark}")
    });
    past.collect::<Vec<_>>().join(" ")
}

/// Both, as one sentence.
pub(super) fn sentence(action: &str, why: &str) -> String {
    let done = done(action);
    if why.is_empty() { done } else { format!("{done}: {}", reason(why)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Phase;
    use crate::plan::Reason;

    #[test]
    fn a_reason_reads_as_a_cause() {
        for (now, then) in [
            ("it exited with code 137", "it had exited with code 137"),
            ("it was never started", "it had never been started"),
            ("it does not exist", "it did not exist"),
            ("the image is not there", "it was missing"),
            ("not in the cache", "it was not in the cache"),
            ("container.env.TOKEN, image.id changed", "container.env.TOKEN, image.id had changed"),
            ("it runs, and Podman in it does not answer", "it ran, and Podman in it did not answer"),
            ("an interrupted replacement left it", "an interrupted replacement had left it"),
            ("its spec label cannot be read", "its spec label could not be read"),
            ("as asked", "as asked"),
        ] {
            assert_eq!(reason(now), then);
        }
    }

    #[test]
    fn no_reason_stays_in_the_present() {
        let reasons = [
            Reason::NotCached,
            Reason::WrongBytes,
            Reason::ManifestMissing,
            Reason::ManifestChanged,
            Reason::VmMissing,
            Reason::VmSilent,
            Reason::TemplateChanged,
            Reason::NotForwarded,
            Reason::ImageMissing,
            Reason::ImageUnknown,
            Reason::ImageUntagged,
            Reason::BeingReplaced,
            Reason::ContainerMissing,
            Reason::NotSeen,
            Reason::NotRunning(Phase::Created),
            Reason::NotRunning(Phase::Paused),
            Reason::NotRunning(Phase::Exited { code: 1 }),
            Reason::Unhealthy,
            Reason::CrashLoop,
            Reason::WantedStopped,
            Reason::Changed(Vec::new()),
            Reason::SpecUnreadable,
            Reason::Adopted,
            Reason::Orphaned,
            Reason::WantedAbsent,
            Reason::Leftover,
            Reason::Unproved,
            Reason::PortSwap,
            Reason::TakenDown,
            Reason::Superseded,
        ];
        for now in reasons.map(|reason| reason.to_string()) {
            let then = reason(&now);
            let present =
                ["is", "are", "does", "has", "cannot", "exited", "changed", "keeps", "stands", "takes", "runs"];
            let words: Vec<_> = then.split(' ').collect();
            let is_past = |at: usize| at > 0 && matches!(words[at - 1], "had" | "was");
            let odd = words.iter().enumerate().find(|(at, word)| present.contains(word) && !is_past(*at));
            assert!(then != now && odd.is_none(), "{now} → {then}");
        }
    }

    #[test]
    fn what_was_done_comes_first() {
        assert_eq!(
            sentence("start container `a`", "it exited with code 1"),
            "started container `a`: it had exited with code 1"
        );
        assert_eq!(sentence("startContainer `a`", ""), "startContainer `a`");
        assert_eq!(done("write"), "wrote");
    }
}
