//! Env files: `NAME=value` lines, as Podman and Compose read them.
//!
//! Lines may start with `export `; empty lines and those starting with `#` are left out. A value in single quotes is
//! taken as it is; in double quotes `\n`, `\t`, `\"`, `\\` and `\$` are escapes; without quotes it ends at ` #` or the
//! end of the line, less the blanks around it. A line that is anything else is an error: guessing here sets wrong secrets.
//! Nothing is substituted; but outside single quotes, `${` is refused, since elsewhere it begins a reference, and `$${` is
//! a literal `${`.

use std::path::Path;

use super::substitute::unescape;
use crate::files::regular::{self, NotOpened};

/// The most bytes of one env file.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;

/// What is wrong with an env file. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Line and column, from 1; `None` when the whole file is meant.
    pub(super) at: Option<(u64, u64)>,
    pub(super) message: String,
    pub(super) help: Option<&'static str>,
}

/// What an env file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EnvFile {
    /// In order, the last of a name winning.
    pub(super) variables: Vec<(String, String)>,
    /// What is probably not meant.
    pub(super) warnings: Vec<Wrong>,
}

/// Reads an env file.
pub(super) fn read(path: &Path) -> Result<EnvFile, Vec<Wrong>> {
    let whole = |message: String| vec![Wrong { at: None, message, help: None }];
    let io = |err: std::io::Error| match err.kind() {
        std::io::ErrorKind::NotFound => whole(format!("there is no env file `{}`", path.display())),
        _ => whole(format!("failed to read the env file `{}`: {err}", path.display())),
    };
    let bytes = regular::read(path, MAX_BYTES).map_err(|err| match err {
        NotOpened::Is(what) => whole(format!("`{}` is {what}, not a file", path.display())),
        NotOpened::Io(err) => io(err),
    })?;
    let limit = crate::sizes::limit(MAX_BYTES);
    let bytes = bytes.ok_or_else(|| whole(format!("the env file `{}` is larger than {limit}", path.display())))?;
    let text =
        String::from_utf8(bytes).map_err(|_| whole(format!("the env file `{}` is not UTF-8 text", path.display())))?;
    parse(&text)
}

fn parse(text: &str) -> Result<EnvFile, Vec<Wrong>> {
    let mut file = EnvFile::default();
    let mut wrong = Vec::new();
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let at = |from: &str| {
            let offset = (from.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
            let before = line.get(..offset).unwrap_or_default();
            Some((index as u64 + 1, before.chars().count() as u64 + 1))
        };
        match parse_line(line) {
            Ok(Some(Line { name, value, comment })) => {
                file.variables.push((name.to_owned(), value));
                file.warnings.extend(comment.map(|comment| Wrong {
                    at: at(comment),
                    message: format!("what follows this `#` is a comment, not part of `{name}`"),
                    help: Some("put the value in quotes where it belongs to it, like NAME='a #b'; else put the comment on a line of its own"),
                }));
            }
            Ok(None) => {}
            Err(Bad { from, message, help }) => {
                wrong.push(Wrong { at: at(from.unwrap_or(line)), message: message.to_owned(), help });
            }
        }
    }
    if wrong.is_empty() { Ok(file) } else { Err(wrong) }
}

/// A line that sets a variable.
struct Line<'l> {
    name: &'l str,
    value: String,
    /// What was left out behind an unquoted value.
    comment: Option<&'l str>,
}

/// A line that is malformed.
struct Bad<'l> {
    /// Where in the line; its start when it is `None`.
    from: Option<&'l str>,
    message: &'static str,
    help: Option<&'static str>,
}

impl From<&'static str> for Bad<'_> {
    fn from(message: &'static str) -> Self {
        Self { from: None, message, help: None }
    }
}

/// A `${` that would be taken as it is.
fn reference(from: &str) -> Bad<'_> {
    Bad {
        from: Some(from),
        message: "nothing replaces a `${` in an env file: the text itself would be used",
        help: Some(
            "did you mean `${env:NAME}`? Write that variable under `env` in the state file; here, `$${` is a literal `${`",
        ),
    }
}

fn parse_line(line: &str) -> Result<Option<Line<'_>>, Bad<'_>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let Some((name, value)) = line.split_once('=') else {
        return Err("expected `NAME=value`, found no `=`".into());
    };
    if !is_name(name) {
        return Err("expected `NAME=value`, where the name has letters, digits, `_`, `.` and `-` only".into());
    }
    let value = value.trim_start();
    let (value, comment) = match value.chars().next() {
        Some('\'') => (single_quoted(&value[1..])?, None),
        Some('"') => (double_quoted(&value[1..])?, None),
        _ => {
            let (value, comment) = unquoted(value);
            (unescape(value).map_err(|at| reference(&value[at..]))?, comment)
        }
    };
    if value.contains('\0') {
        return Err("a NUL character cannot be passed on".into());
    }
    Ok(Some(Line { name, value, comment }))
}

/// Whether a name can be a variable's.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// The value, and the comment behind it.
fn unquoted(value: &str) -> (&str, Option<&str>) {
    let comment = value
        .char_indices()
        .find(|(at, c)| *c == '#' && (*at == 0 || value[..*at].ends_with([' ', '\t'])))
        .map(|(at, _)| &value[at..]);
    let end = value.len() - comment.map_or(0, str::len);
    (value[..end].trim_end(), comment)
}

fn single_quoted(rest: &str) -> Result<String, &'static str> {
    let (value, after) = rest.split_once('\'').ok_or("the single quote is never closed; a value is one line")?;
    nothing_after(after)?;
    Ok(value.to_owned())
}

fn double_quoted(rest: &str) -> Result<String, Bad<'_>> {
    let mut value = String::new();
    let mut chars = rest.char_indices();
    // Whether the character before was a `$` without a backslash.
    let mut dollar = false;
    loop {
        let Some((at, c)) = chars.next() else {
            return Err("the double quote is never closed; a value is one line, `\\n` breaks it".into());
        };
        let after_dollar = std::mem::take(&mut dollar);
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c @ ('"' | '\\' | '$' | '`'))) => value.push(c),
                _ => {
                    return Err("unknown escape in double quotes; use single quotes to take a value as it is".into());
                }
            },
            '$' if rest[at + 1..].starts_with('{') => match after_dollar {
                true => {}
                false => return Err(reference(&rest[at..])),
            },
            c => {
                dollar = c == '$';
                value.push(c);
            }
        }
    }
    nothing_after(chars.as_str())?;
    Ok(value)
}

fn nothing_after(rest: &str) -> Result<(), &'static str> {
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') { Ok(()) } else { Err("there is text after the closing quote") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_lines_are_read() {
        let text = "\u{feff}# comment\n\nA=1\nexport B = two\n";
        assert_eq!(parse(text).unwrap_err()[0].at, Some((4, 1)), "no blank before `=`");
        let text = "A=1\r\nexport B=two words # note\n C='as $is # \\n' # note\nD=\"a\\nb\\\"c\\$\"\nE=\nF=x#y=z\nA=2\nG=#none\n";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "as $is # \\n"),
            ("D", "a\nb\"c$"),
            ("E", ""),
            ("F", "x#y=z"),
            ("A", "2"),
            ("G", ""),
        ];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(parse(text).unwrap().variables, expected);
    }

    #[test]
    fn a_comment_behind_an_unquoted_value_is_warned_of_without_its_text() {
        let text = "A=canary # canary\nB='canary #1' # fine\nC=\"x #1\"\n# D=1\nE=x#y\n  F=\t#canary\nG=ä\t#\n";
        let warnings = parse(text).unwrap().warnings;
        let places: Vec<_> = warnings.iter().filter_map(|warning| warning.at).collect();
        assert_eq!(places, [(1, 10), (6, 6), (7, 5)]);
        assert_eq!(warnings[1].message, "what follows this `#` is a comment, not part of `F`");
        assert!(!format!("{warnings:?}").contains("canary"));
    }

    #[test]
    fn a_reference_is_refused_with_its_place_and_without_its_text() {
        let text = "A=1\nB=x${canary}\nexport C=\"a\\${b} ${canary:-canary}\"\nD='${canary}'\nE=$canary\n";
        let wrong = parse(text).unwrap_err();
        let places: Vec<_> = wrong.iter().filter_map(|wrong| wrong.at).collect();
        assert_eq!(places, [(2, 4), (3, 18)]);
        assert!(wrong[0].help.unwrap().starts_with("did you mean `${env:NAME}`?"));
        assert!(!format!("{wrong:?}").contains("canary"));
        let text = "A=x$${y}$${\nB=\"$${y} \\${y} $$ $y $\\${\"\nC='$${y} ${z}'\n";
        let expected = [("A", "x${y}${"), ("B", "${y} ${y} $$ $y $${"), ("C", "$${y} ${z}")];
        assert_eq!(parse(text).unwrap().variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn each_malformed_line_is_named_and_none_is_shown() {
        let text = "canary\n=canary\nA B=canary\n1A=canary\nB='canary\nC=\"canary\nD='a'canary\nE=\"\\canary\"\nOK=1\n";
        let wrong = parse(text).unwrap_err();
        let lines: Vec<_> = wrong.iter().filter_map(|wrong| Some(wrong.at?.0)).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(!format!("{wrong:?}").contains("canary"));
    }

    #[test]
    fn what_is_no_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| read(path).unwrap_err()[0].message.clone();
        assert!(message(&dir.path().join("none.env")).starts_with("there is no env file"));
        assert!(message(dir.path()).ends_with("is a directory, not a file"));
        let huge = dir.path().join("huge.env");
        std::fs::write(&huge, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        assert!(message(&huge).ends_with("is larger than 1 MiB"));
    }
}
