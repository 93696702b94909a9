//! Characters that a terminal obeys, made visible: an escape character is `\x1b`.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character does something instead of being seen. A line break and a tab are fine in most texts.
pub(crate) fn acts(c: char) -> bool {
    // Besides the control characters: marks that turn the direction of writing, and separators of lines.
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(out: &mut String, c: char) {
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if (c as u32) < 0x100 => write!(out, "\\x{:02x}", c as u32),
        c => write!(out, "\\u{{{:x}}}", c as u32),
    };
}

/// The text with every character that does something in a visible form, but for those that are kept.
pub(crate) fn visible(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| acts(c) && !keep(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match acts(c) && !keep(c) {
            true => escaped(&mut out, c),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}
