//! Words of others in GitHub's Markdown, where they could make links, mentions, tables or HTML.

use std::fmt::Write;

use super::terminal;

/// A value: code, whatever is in it.
pub(super) fn code(text: &str) -> String {
    let text = terminal::line(text);
    if text.is_empty() {
        return String::new();
    }
    if !text.contains(['`', '|', '\\']) && text.trim() == text {
        return format!("`{text}`");
    }
    // A table takes a backslash and a pipe apart even in code, so this is HTML in which nothing means anything.
    let mut out = String::from("<code>");
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || matches!(c, ' ' | '-' | '=' | '(' | ')' | ',' | ';' | '%') => out.push(c),
            c => _ = write!(out, "&#{};", c as u32),
        }
    }
    out + "</code>"
}

/// A value beside another: a plain word as it is, else code.
pub(super) fn value(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '.'));
    if plain && !text.contains("www.") && text.trim() == text { text.to_owned() } else { code(text) }
}

/// A sentence: what stands between backticks in it is code, the rest is text and nothing else.
pub(super) fn prose(text: &str) -> String {
    let text = text.replace('\n', " ");
    let parts: Vec<_> = text.split('`').collect();
    // With a backtick too many, nobody knows which is which.
    if parts.len().is_multiple_of(2) {
        return plain(&text);
    }
    let part = |(index, part): (usize, &&str)| if index % 2 == 1 { code(part) } else { plain(part) };
    parts.iter().enumerate().map(part).collect()
}

fn plain(text: &str) -> String {
    let text = terminal::line(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '&' | '<' | '>' | '|' | '`' | '*' | '_' | '~' | '[' | ']' | '\\' | '!' => {
                _ = write!(out, "&#{};", c as u32)
            }
            // A comment parts what would become a mention, an issue or a link.
            '@' | '#' => _ = write!(out, "{c}<!-- -->"),
            ':' if rest.as_str().starts_with("//") => out.push_str(":<!-- -->"),
            '.' if out.to_ascii_lowercase().ends_with("www") => out.push_str("<!-- -->."),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_code_whatever_is_in_it() {
        assert_eq!(code("/srv/data:ro"), "`/srv/data:ro`");
        assert_eq!(code("<b>@all #1 https://x</b>"), "`<b>@all #1 https://x</b>`", "code has no HTML and no mentions");
        for nasty in ["a|b", "a\\|b", "`x` <b>", " lead", "a\nb", "\u{1b}[31m", "``"] {
            let code = code(nasty);
            let inside = code.strip_prefix("<code>").and_then(|rest| rest.strip_suffix("</code>"));
            let inside = inside.unwrap_or_else(|| panic!("{nasty:?}: {code}"));
            assert!(!inside.contains(['<', '>', '|', '`', '\\', '\n', '\u{1b}', '@', '_', '*']), "{nasty:?}: {code}");
        }
    }

    #[test]
    fn a_plain_word_needs_no_code() {
        assert_eq!(
            ["two", "1.4 GiB", "", "www.x.y", "a_b", "a:b"].map(value),
            ["two", "1.4 GiB", "", "`www.x.y`", "`a_b`", "`a:b`"]
        );
    }

    #[test]
    fn a_sentence_is_text_and_nothing_else() {
        assert_eq!(prose("create container `demo-a`"), "create container `demo-a`");
        let said = prose("it says <b>x</b> | *y* _z_ [a](b) @me #99 https://evil.example www.evil.example `a|b`\nnext");
        for nasty in ["<b>", " | ", "*y*", "_z_", "[a]", "@me", "#99", "https://", "www.", "a|b", "\n"] {
            assert!(!said.contains(nasty), "{nasty}: {said}");
        }
        assert!(!prose("one ` backtick <b>").contains(['`', '>']), "an odd backtick hides nothing");
    }
}
