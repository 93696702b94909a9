//! Strings from the state file that may hold a secret.

use std::collections::BTreeSet;
use std::fmt;

/// A string of the state file. It is sensitive when any part of it came from `${env:…}` or an env file, or when the
/// variable it belongs to is named like a secret; then its value is never printed, logged or stored in clear.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text {
    value: String,
    sensitive: bool,
}

impl Text {
    /// A value that may be shown.
    pub fn plain(value: impl Into<String>) -> Self {
        Self { value: value.into(), sensitive: false }
    }

    /// A value that must never be shown.
    pub fn sensitive(value: impl Into<String>) -> Self {
        Self { value: value.into(), sensitive: true }
    }

    /// The value itself. Only for handing it to the container engine or for comparing; never for showing.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// Whether it must be hidden.
    pub fn is_sensitive(&self) -> bool {
        self.sensitive
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sensitive { f.write_str("(sensitive)") } else { fmt::Debug::fmt(&self.value, f) }
    }
}

/// `text` with `(sensitive)` in the place of every one of `values`, overlapping ones together. A value of several lines
/// is hidden in each of its lines too (of 4 or more characters), and as it looks with its white space collapsed or
/// escaped as in JSON: so it comes back in logs and error messages. Fewer than 3 characters are no secret, and would
/// blank whole sentences.
pub fn hide<'a>(text: &str, values: impl IntoIterator<Item = &'a str>) -> String {
    let mut needles = BTreeSet::new();
    for value in values {
        needles.insert(value.to_owned());
        needles.insert(value.split_whitespace().collect::<Vec<_>>().join(" "));
        let quoted = serde_json::Value::from(value).to_string();
        needles.insert(quoted[1..quoted.len() - 1].to_owned());
        if value.lines().nth(1).is_some() {
            needles.extend(value.lines().map(|line| line.trim().to_owned()).filter(|line| line.chars().count() > 3));
        }
    }
    let mut hidden: Vec<(usize, usize)> = Vec::new();
    for needle in needles.iter().filter(|needle| needle.chars().count() > 2) {
        let first = needle.chars().next().map_or(1, char::len_utf8);
        let mut from = 0;
        // Occurrences of one value may overlap each other, so the search goes on one character further.
        while let Some(at) = text[from..].find(needle.as_str()) {
            hidden.push((from + at, from + at + needle.len()));
            from += at + first;
        }
    }
    hidden.sort_unstable();
    let mut shown = String::with_capacity(text.len());
    let mut end = None;
    for (from, to) in hidden {
        match end {
            Some(known) if from < known => end = Some(known.max(to)),
            _ => {
                shown.push_str(&text[end.unwrap_or(0)..from]);
                shown.push_str("(sensitive)");
                end = Some(to);
            }
        }
    }
    shown.push_str(&text[end.unwrap_or(0)..]);
    shown
}

/// Whether a variable of this name is taken to hold a secret: its name contains, as a word or part of one, `token`,
/// `key`, `secret`, `password`, `passwd`, `passphrase`, `credential`, `auth` or `private`.
pub fn names_a_secret(variable: &str) -> bool {
    const WORDS: [&str; 9] =
        ["token", "key", "secret", "password", "passwd", "passphrase", "credential", "auth", "private"];
    let lower = variable.to_ascii_lowercase();
    WORDS.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensitive_text_does_not_print() {
        assert_eq!(format!("{:?}", Text::sensitive("canary")), "(sensitive)");
        assert_eq!(format!("{:?}", Text::plain("shown")), "\"shown\"");
    }

    #[test]
    fn what_is_hidden_leaves_no_rest() {
        let hidden = |text: &str, values: &[&str]| hide(text, values.iter().copied());
        assert_eq!(hidden("is abcdefgh", &["abcd", "abcdefgh"]), "is (sensitive)", "the longer one wins");
        assert_eq!(hidden("abcdef", &["abc", "bcdef"]), "(sensitive)", "overlapping ones go together");
        assert_eq!(hidden("xababay", &["aba"]), "x(sensitive)y", "so do those of one value");
        assert_eq!(hidden("a canary, canary", &["canary", "sens"]), "a (sensitive), (sensitive)", "and not twice");
        assert_eq!(hidden("at it", &["at", "", "it"]), "at it", "two characters are no secret");
        assert_eq!(hidden("é äöü", &["äöü"]), "é (sensitive)");
    }

    #[test]
    fn a_value_of_several_lines_is_hidden_in_every_shape() {
        let value = "-----BEGIN\n  first line\nabc\nlast \"line\"\n";
        for text in [
            "first line",
            "-----BEGIN first line abc last \"line\"",
            r#"-----BEGIN\n  first line\nabc\nlast \"line\"\n"#,
        ] {
            assert_eq!(hide(text, [value]), "(sensitive)", "{text}");
        }
        assert_eq!(hide("abc", [value]), "abc", "a line of three characters hides nothing");
    }

    #[test]
    fn secret_names_are_recognised_in_any_case() {
        for name in ["OPENCLAW_TOKEN", "apiKey", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "Authorization"] {
            assert!(names_a_secret(name), "{name}");
        }
        for name in ["HOME", "LANG", "PORT"] {
            assert!(!names_a_secret(name), "{name}");
        }
    }
}
