//! Env files: `NAME=value` lines, as Podman and Compose read them.
//!
//! Lines may start with `export `; empty lines and those starting with `#` are left out. A value in single quotes is
//! taken as it is; in double quotes `\n`, `\t`, `\"`, `\\` and `\$` are escapes; without quotes it ends at ` #` or the
//! end of the line, less the blanks around it. A line that is anything else is an error: guessing here sets wrong secrets.
//! Nothing is substituted.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The most bytes of one env file.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;

/// What is wrong with an env file. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// From 1; `None` when the whole file is meant.
    pub(super) line: Option<u64>,
    pub(super) message: String,
}

/// Reads an env file: its variables in order, the last of a name winning.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>, Vec<Wrong>> {
    let whole = |message: String| vec![Wrong { line: None, message }];
    let io = |err: std::io::Error| match err.kind() {
        std::io::ErrorKind::NotFound => whole(format!("there is no env file `{}`", path.display())),
        _ => whole(format!("failed to read the env file `{}`: {err}", path.display())),
    };
    // Opening a fifo would wait for its writer, so the kind is asked first.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(whole(format!("`{}` is not a file", path.display())));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(whole(format!("the env file `{}` is larger than {} KiB", path.display(), MAX_BYTES / 1024)));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| whole(format!("the env file `{}` is not UTF-8 text", path.display())))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<(String, String)>, Vec<Wrong>> {
    let mut variables = Vec::new();
    let mut wrong = Vec::new();
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        match parse_line(line) {
            Ok(Some(variable)) => variables.push(variable),
            Ok(None) => {}
            Err(message) => wrong.push(Wrong { line: Some(index as u64 + 1), message: message.to_owned() }),
        }
    }
    if wrong.is_empty() { Ok(variables) } else { Err(wrong) }
}

fn parse_line(line: &str) -> Result<Option<(String, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let Some((name, value)) = line.split_once('=') else {
        return Err("expected `NAME=value`, found no `=`");
    };
    if !is_name(name) {
        return Err("expected `NAME=value`, where the name has letters, digits, `_`, `.` and `-` only");
    }
    let value = value.trim_start();
    let value = match value.chars().next() {
        Some('\'') => single_quoted(&value[1..])?,
        Some('"') => double_quoted(&value[1..])?,
        _ => unquoted(value).to_owned(),
    };
    if value.contains('\0') {
        return Err("a NUL character cannot be passed on");
    }
    Ok(Some((name.to_owned(), value)))
}

/// Whether a name can be a variable's.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn unquoted(value: &str) -> &str {
    let end = value
        .char_indices()
        .find(|(at, c)| *c == '#' && (*at == 0 || value[..*at].ends_with([' ', '\t'])))
        .map_or(value.len(), |(at, _)| at);
    value[..end].trim_end()
}

fn single_quoted(rest: &str) -> Result<String, &'static str> {
    let (value, after) = rest.split_once('\'').ok_or("the single quote is never closed; a value is one line")?;
    nothing_after(after)?;
    Ok(value.to_owned())
}

fn double_quoted(rest: &str) -> Result<String, &'static str> {
    let mut value = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next() {
            None => return Err("the double quote is never closed; a value is one line, `\\n` breaks it"),
            Some('"') => break,
            Some('\\') => match chars.next() {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some(c @ ('"' | '\\' | '$' | '`')) => value.push(c),
                _ => return Err("unknown escape in double quotes; use single quotes to take a value as it is"),
            },
            Some(c) => value.push(c),
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
        assert_eq!(parse(text).unwrap_err()[0].line, Some(4), "no blank before `=`");
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
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn each_malformed_line_is_named_and_none_is_shown() {
        let text = "canary\n=canary\nA B=canary\n1A=canary\nB='canary\nC=\"canary\nD='a'canary\nE=\"\\canary\"\nOK=1\n";
        let wrong = parse(text).unwrap_err();
        let lines: Vec<_> = wrong.iter().filter_map(|wrong| wrong.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(!format!("{wrong:?}").contains("canary"));
    }

    #[test]
    fn what_is_no_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| read(path).unwrap_err()[0].message.clone();
        assert!(message(&dir.path().join("none.env")).starts_with("there is no env file"));
        assert!(message(dir.path()).ends_with("is not a file"));
        let huge = dir.path().join("huge.env");
        std::fs::write(&huge, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        assert!(message(&huge).ends_with("is larger than 1024 KiB"));
    }
}
