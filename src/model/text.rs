//! Strings from the state file that may hold a secret.

use std::fmt;

use super::redact::HIDDEN;

/// A string of the state file. It is sensitive when any part of it came from `${env:…}` or an env file, when the variable it
/// belongs to is named like a secret, or when it holds a URL with a password; then its value is never printed, logged or
/// stored in clear.
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

    /// The value, or a word that stands for it where it must be hidden.
    pub fn shown(&self) -> &str {
        if self.sensitive { HIDDEN } else { &self.value }
    }
}

/// A value that may be shown.
impl From<&str> for Text {
    fn from(value: &str) -> Self {
        Self::plain(value)
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.value == other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sensitive { f.write_str(HIDDEN) } else { fmt::Debug::fmt(&self.value, f) }
    }
}

/// Whether a variable of this name is taken to hold a secret: it has, as a word or at the end of one, `token`, `key`,
/// `secret`, `password`, `passwd`, `passphrase`, `pass`, `pwd`, `pw`, `credential`, `cred`, `auth`, `private`, `jwt`,
/// `bearer` or `cookie`. Words end at a mark and where capitals begin.
pub(crate) fn names_a_secret(variable: &str) -> bool {
    // The working directory, in every shell.
    if matches!(variable, "PWD" | "OLDPWD") {
        return false;
    }
    may_name_a_secret(variable) && words(variable).iter().any(|word| is_secret(word))
}

/// Whether how any such word begins stands in a name at all: a broken file has millions of names, and few have.
fn may_name_a_secret(name: &str) -> bool {
    const BEGINNINGS: [&[u8; 3]; 11] =
        [b"tok", b"key", b"sec", b"pas", b"pwd", b"cre", b"aut", b"pri", b"jwt", b"bea", b"coo"];
    let begins = |at: &[u8]| BEGINNINGS.iter().any(|word| at.eq_ignore_ascii_case(*word));
    // Some letters beyond ASCII are `k` or `s` in lower case.
    !name.is_ascii() || name.as_bytes().windows(3).any(begins) || name.to_ascii_lowercase().contains("pw")
}

fn is_secret(word: &str) -> bool {
    const LONG: [&str; 6] = ["secret", "password", "passwd", "passphrase", "credential", "private"];
    /// What ends like one of the short words and is none.
    const OTHERS: [&str; 16] = [
        "monkey",
        "donkey",
        "turkey",
        "hockey",
        "jockey",
        "whiskey",
        "hotkey",
        "turnkey",
        "compass",
        "bypass",
        "encompass",
        "trespass",
        "overpass",
        "underpass",
        "surpass",
        "sacred",
    ];
    let one = word.strip_suffix('s').filter(|one| !one.ends_with('s')).unwrap_or(word);
    if OTHERS.contains(&word) || OTHERS.contains(&one) || word.starts_with("secretar") {
        return false;
    }
    LONG.iter().any(|long| word.contains(long))
        || word.contains("token") && !word.contains("tokeni")
        || matches!(one, "pw" | "bearer" | "authorization" | "authorisation" | "authentication")
        || ["key", "pass", "pwd", "cred", "auth", "jwt", "cookie"].iter().any(|short| one.ends_with(short))
}

/// The words of a name in lower case: `API_KEY`, `api-key`, `apiKey` and `APIKey` have two.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    let letters: Vec<char> = name.chars().collect();
    for (at, c) in letters.iter().enumerate() {
        if !c.is_alphabetic() {
            words.push(String::new());
            continue;
        }
        let before = at.checked_sub(1).and_then(|at| letters.get(at));
        let after = letters.get(at + 1);
        let begins = c.is_uppercase()
            && (before.is_some_and(|before| before.is_lowercase())
                || before.is_some_and(|before| before.is_uppercase())
                    && after.is_some_and(|after| after.is_lowercase()));
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Where a URL with a password begins in a text, and the password: `postgres://user:password@host`, or `https://token@host`,
/// where a name that stands alone is mostly a token.
pub(crate) fn url_with_password(text: &str) -> Option<(usize, &str)> {
    let mut from = 0;
    while let Some(at) = text.get(from..)?.find("://") {
        let mark = from + at;
        from = mark + "://".len();
        let scheme = text[..mark]
            .rfind(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c))
            .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
        let rest = &text[from..];
        let authority =
            &rest[..rest.find(|c: char| "/?#\"'`<>".contains(c) || c.is_whitespace()).unwrap_or(rest.len())];
        let Some((userinfo, _)) = authority.rsplit_once('@') else { continue };
        let password = match userinfo.split_once(':') {
            Some((_, password)) => password,
            None if text[scheme..mark].starts_with("http") => userinfo,
            None => continue,
        };
        if scheme < mark && !password.is_empty() {
            return Some((scheme, password));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// What is not looked at closely names no secret.
        #[test]
        fn no_secret_is_passed_over(
            parts in proptest::collection::vec(proptest::sample::select(vec![
                "token", "key", "secret", "password", "passwd", "passphrase", "pass", "pwd", "pw", "credential", "cred", "auth",
                "private", "jwt", "bearer", "cookie", "authorization", "a", "_", "-", "s", "\u{212a}ey", "P", "w", "1",
            ]), 0..5),
            capitals in proptest::collection::vec(proptest::bool::ANY, 60),
        ) {
            let name: String = parts.concat().chars().zip(capitals.into_iter().cycle())
                .map(|(c, capital)| if capital { c.to_ascii_uppercase() } else { c }).collect();
            let slow = !matches!(name.as_str(), "PWD" | "OLDPWD") && words(&name).iter().any(|word| is_secret(word));
            proptest::prop_assert_eq!(names_a_secret(&name), slow, "{}", name);
        }
    }

    #[test]
    fn a_sensitive_text_does_not_print() {
        assert_eq!(format!("{:?}", Text::sensitive("canary")), "(sensitive)");
        assert_eq!(format!("{:?}", Text::plain("shown")), "\"shown\"");
    }

    #[test]
    fn secret_names_are_recognised_in_any_case() {
        for name in [
            "OPENCLAW_TOKEN",
            "apiKey",
            "APIKey",
            "APIKEY",
            "DB_PASSWORD",
            "PGPASSWORD",
            "AWS_SECRET_ACCESS_KEY",
            "Authorization",
            "DB_PASS",
            "DBPASS",
            "MYSQL_PWD",
            "ADMIN_PW",
            "API_CREDS",
            "GCP_CREDENTIALS",
            "JWT",
            "JWT_SIGNING",
            "BEARER",
            "SESSION_COOKIE",
            "cookies",
            "OAUTH2",
            "BASIC_AUTH",
            "SSH_KEYS",
            "private.pem",
            "GITHUBTOKEN",
            "smtp-passwd",
            "PASS1",
        ] {
            assert!(names_a_secret(name), "{name}");
        }
        for name in [
            "HOME",
            "LANG",
            "PORT",
            "PASSENGER",
            "PASSENGER_COUNT",
            "COMPASS",
            "KEYBOARD",
            "KEYBOARD_LAYOUT",
            "AUTHOR",
            "AUTHORS",
            "MONKEY",
            "MONKEYS",
            "BYPASS",
            "TOKENIZERS_PARALLELISM",
            "PWD",
            "OLDPWD",
            "PWM",
            "CREDITS",
            "SECRETARY",
            "PASSIVE_MODE",
            "SACRED",
            "COMPASSES",
            "",
        ] {
            assert!(!names_a_secret(name), "{name}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_found_wherever_it_stands() {
        for (text, at, password) in [
            ("postgres://user:pw@host/db", 0, "pw"),
            ("--db=postgresql+asyncpg://u:p%40x@h:5432", 5, "p%40x"),
            ("a http://h/x?y and amqp://:only@h", 19, "only"),
            ("https://ghp_token@github.com/x.git", 0, "ghp_token"),
            ("redis://u:p@ss@h", 0, "p@ss"),
        ] {
            assert_eq!(url_with_password(text), Some((at, password)), "{text}");
        }
        for text in [
            "postgres://host/db",
            "https://host/a@b",
            "ssh://git@host/x",
            "mailto:a:b@c",
            "postgres://user:@host",
            "http://h?x=u:p@h",
            "://u:p@h",
            "a://",
            "é://",
            "x y@z",
        ] {
            assert_eq!(url_with_password(text), None, "{text}");
        }
    }
}
