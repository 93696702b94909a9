//! Words of others on their way to a terminal or a pull request: labels, log lines in errors, words of a manifest.
//!
//! A control character in them could move the cursor, rename the window, or hide and fake lines. So everything that is
//! written passes [`finish`], which makes each of them visible (`\x1b`). Our own colours survive that, since [`styled`]
//! marks them with what nobody else knows. What `logs` and `exec` pass through stays as it is.

use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use anstyle::Style;

use crate::visible::{acts, visible};

/// Stands for the escape character of our own colours until they are written. Different in each process.
fn mark() -> &'static str {
    static MARK: OnceLock<String> = OnceLock::new();
    MARK.get_or_init(|| format!("\u{fdd0}{:016x}\u{fdd0}", RandomState::new().hash_one("steadfast")))
}

/// Text in a style, or plain. For [`finish`].
pub(in crate::cli) fn styled(text: &str, style: Style, color: bool) -> String {
    if !color {
        return text.to_owned();
    }
    let ours = |code: String| code.replace('\u{1b}', mark());
    format!("{}{text}{}", ours(style.render().to_string()), ours(style.render_reset().to_string()))
}

/// Text on one line, every control character in it visible, line breaks too.
pub(in crate::cli) fn line(text: &str) -> Cow<'_, str> {
    visible(text, |_| false)
}

/// What is written: every control character but line breaks and tabs is visible, our own colours are colours.
pub(super) fn finish(text: &str) -> Cow<'_, str> {
    let text = visible(text, |c| matches!(c, '\n' | '\t'));
    if text.contains('\u{fdd0}') { Cow::Owned(text.replace(mark(), "\u{1b}")) } else { text }
}

/// JSON in which every control character is written as JSON escapes it, those that it need not escape too.
pub(super) fn json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| acts(c) && c != '\n') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match acts(c) && c != '\n' {
            true => _ = write!(out, "\\u{:04x}", c as u32),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    #[test]
    fn control_characters_are_seen_and_do_nothing() {
        let nasty = "a\u{1b}[2Jb\u{7}\rc\u{9b}31m\u{7f}\u{202e}d\u{2028}e\n\tf ä";
        assert_eq!(finish(nasty), "a\\x1b[2Jb\\x07\\rc\\x9b31m\\x7f\\u{202e}d\\u{2028}e\n\tf ä");
        assert_eq!(line("a\nb\tc"), "a\\nb\\tc");
        assert!(matches!(finish("plain ✓ → …\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn our_own_colours_are_colours_and_nobody_elses() {
        let red = AnsiColor::Red.on_default();
        assert_eq!(finish(&styled("x\u{1b}[1m", red, true)), "\u{1b}[31mx\\x1b[1m\u{1b}[0m");
        assert_eq!(finish(&styled("x", red, false)), "x");
        assert!(
            !finish("\u{fdd0}[31m \u{fdd0}0000000000000000\u{fdd0}[31m").contains('\u{1b}'),
            "nobody knows the mark"
        );
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({"a": "\u{1b}\u{7f}\u{9b}\u{202e}\n"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let safe = json(&text);
        assert!(!safe.chars().any(|c| acts(c) && c != '\n'), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
