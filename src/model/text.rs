//! Strings from the state file that may hold a secret.

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
    fn secret_names_are_recognised_in_any_case() {
        for name in ["OPENCLAW_TOKEN", "apiKey", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "Authorization"] {
            assert!(names_a_secret(name), "{name}");
        }
        for name in ["HOME", "LANG", "PORT"] {
            assert!(!names_a_secret(name), "{name}");
        }
    }
}
