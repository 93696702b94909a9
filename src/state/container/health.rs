//! The health check of a container.

use std::time::Duration;

use crate::model::{HealthCheck, HealthTest, NO_CHECK};
use crate::state::decode::{At, Cx, Path};
use crate::state::document::{HealthDoc, TestEntry};
use crate::state::record::missing_key;
use crate::state::variables::text;

/// What a `healthcheck` says.
pub(super) enum Check {
    Run(HealthCheck),
    /// None at all, whatever the image brings.
    Off,
}

/// `None` where it is wrong, which was reported.
pub(super) fn resolve(cx: &mut Cx<'_>, doc: At<HealthDoc>, path: Path<'_>) -> Option<Check> {
    let At { node, value } = doc;
    let HealthDoc { test, disable, interval, timeout, retries, start_period, start_interval, on_failure } = value;
    for (key, time) in [("interval", &interval), ("timeout", &timeout), ("startInterval", &start_interval)] {
        if let Some(time) = time
            && time.value.0 < Duration::from_millis(1)
        {
            cx.wrong(time.node, path.key(key), format!("a health check's {key} must be at least 1ms"));
        }
    }
    let is_disabled = disable.as_ref().is_some_and(|flag| flag.value.0);
    if is_disabled && test.is_some() {
        let message = "`disable: true` and a `test` contradict each other";
        cx.wrong_help(node, path, message, "leave one of the two out");
        return None;
    }
    if is_disabled {
        return Some(Check::Off);
    }
    let Some(test) = test else {
        if !cx.partial && !crate::state::decode::has_key(cx.tree, node, "test") {
            missing_key(cx, node, path, "test");
        }
        return None;
    };
    let Some(test) = self::test(cx, test, path.key("test"))? else { return Some(Check::Off) };
    Some(Check::Run(HealthCheck {
        test,
        interval: interval.map_or(HealthCheck::INTERVAL, |time| time.value.0),
        timeout: timeout.map_or(HealthCheck::TIMEOUT, |time| time.value.0),
        retries: retries.map_or(3, |retries| retries.value.0),
        start_period: start_period.map_or(Duration::ZERO, |time| time.value.0),
        start_interval: start_interval.map(|time| time.value.0),
        on_failure: on_failure.map(|word| word.value.0).unwrap_or_default(),
    }))
}

/// What a health check runs; `Some(None)` is `NONE`: nothing.
fn test(cx: &mut Cx<'_>, At { node, value }: At<TestEntry>, path: Path<'_>) -> Option<Option<HealthTest>> {
    let off = |word: &str| word.trim().eq_ignore_ascii_case(NO_CHECK);
    let words = match value {
        TestEntry::Line(line) if off(&line.0.value) => return Some(None),
        TestEntry::Line(line) if line.0.value.trim().is_empty() => {
            cx.wrong(node, path, "the health check runs nothing");
            return None;
        }
        TestEntry::Line(line) => return Some(Some(HealthTest::Shell(text(line.0, false)))),
        TestEntry::Words(list) => list.0,
    };
    let mut words = words.into_iter().map(|(_, word)| word.value.0);
    let first = words.next().map(|word| word.value).unwrap_or_default();
    let mut rest: Vec<_> = words.map(|word| text(word, false)).collect();
    match (first.as_str(), rest.len()) {
        (word, 0) if off(word) => Some(None),
        (word, _) if off(word) => {
            let help = "write `test: NONE` for no health check at all, or put CMD before the program";
            cx.wrong_help(node, path, "NONE takes nothing after it", help);
            None
        }
        ("CMD", 0) | ("CMD-SHELL", 0) => {
            cx.wrong(node, path, format!("{first} runs nothing: a command must follow it"));
            None
        }
        ("CMD", _) => Some(Some(HealthTest::Command(rest))),
        ("CMD-SHELL", 1) => rest.pop().map(HealthTest::Shell).map(Some),
        ("CMD-SHELL", _) => {
            cx.wrong_help(node, path, "CMD-SHELL takes one line", "quote the whole line, or use CMD");
            None
        }
        _ => {
            let message = "a health check's list starts with CMD or CMD-SHELL, or is [NONE]";
            cx.wrong_help(node, path, message, "put CMD before the program to run it as it is");
            None
        }
    }
}
