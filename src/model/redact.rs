//! Texts without the secrets in them. The one place that hides values in what others say: Podman's refusals, the logs of
//! containers, the output of health checks. What a secret is, `text.rs` says.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

/// Stands where a value stood that must not be shown.
pub(crate) const HIDDEN: &str = "(sensitive)";

/// Fewer characters are no secret, and would blank whole sentences.
const FEWEST: usize = 3;

/// Values that no error and no log may repeat.
#[derive(Clone, Default)]
pub struct Secrets(BTreeSet<String>);

impl Secrets {
    /// Each value is found as it stands, with its white space folded into single spaces, in each of its lines alone, and each
    /// of these as JSON and Go's `%q` escape it: so values come back. Values of one or two characters, and such lines, are
    /// left out. Other encodings, as base64, are values of their own, for whoever sends them to name.
    pub fn new<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Self {
        let mut forms = BTreeSet::new();
        for value in values {
            let value = value.as_ref();
            let folded = value.split_whitespace().collect::<Vec<_>>().join(" ");
            for piece in [value, &folded].into_iter().chain(value.lines().map(str::trim)) {
                if piece.chars().count() >= FEWEST {
                    let quoted = Value::from(piece).to_string();
                    forms.insert(quoted[1..quoted.len() - 1].to_owned());
                    forms.insert(piece.to_owned());
                }
            }
        }
        Self(forms)
    }

    /// `text` with one [`HIDDEN`] for every stretch of it that is part of a value, also where values overlap or touch.
    pub fn redact(&self, text: &str) -> String {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for form in &self.0 {
            let first = form.chars().next().map_or(1, char::len_utf8);
            let mut from = 0;
            // Occurrences of one value may overlap each other, so the search goes on one character further.
            while let Some(at) = text[from..].find(form.as_str()) {
                found.push((from + at, from + at + form.len()));
                from += at + first;
            }
        }
        found.sort_unstable();
        let mut shown = String::with_capacity(text.len());
        let mut told = 0;
        for (from, to) in found {
            if from > told || shown.is_empty() {
                shown.push_str(&text[told..from]);
                shown.push_str(HIDDEN);
            }
            told = told.max(to);
        }
        shown.push_str(&text[told..]);
        shown
    }

    /// As [`Secrets::redact`], for what may be JSON: its strings are redacted as they read, whatever escapes they are
    /// written with.
    pub fn redact_body(&self, body: &str) -> String {
        match serde_json::from_str::<Value>(body) {
            Ok(mut json) if !self.0.is_empty() => {
                self.redact_json(&mut json);
                json.to_string()
            }
            _ => self.redact(body),
        }
    }

    fn redact_json(&self, json: &mut Value) {
        match json {
            Value::String(text) => *text = self.redact(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact_json(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.redact_json(field)),
            _ => {}
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDED: &str = "-----BEGIN\n  first line\nabc\n}\nlast \"line\"\n";

    #[test]
    fn what_is_right_for_each_kind_of_value() {
        for (about, values, text, shown) in [
            ("a value", &["canary"][..], "a canary, canary", "a (sensitive), (sensitive)"),
            ("two characters are no secret", &["at", "", "it", "äß"], "at it äß", "at it äß"),
            ("three are", &["abc", "äöü"], "x abc y äöü", "x (sensitive) y (sensitive)"),
            ("the longer one wins", &["abcd", "abcdefgh"], "is abcdefgh", "is (sensitive)"),
            ("overlapping ones go together", &["abc", "bcdef"], "abcdef", "(sensitive)"),
            ("so do those of one value", &["aba", "üöä"], "xababay üüöäöä", "x(sensitive)y ü(sensitive)öä"),
            ("and those that touch: how many they are is not told", &["abc"], "abcabc.", "(sensitive)."),
            ("our own word is no place to look", &["sens", "canary"], "canary", "(sensitive)"),
            ("several lines, as they stand", &[FOLDED], FOLDED, "(sensitive)"),
            ("folded", &[FOLDED], "at -----BEGIN first line abc } last \"line\".", "at (sensitive)."),
            ("one by one", &[FOLDED], "at `  first line`", "at `  (sensitive)`"),
            ("a short line as a short value", &[FOLDED], "abc }", "(sensitive) }"),
            (
                "escaped",
                &[FOLDED],
                r"x -----BEGIN\n  first line\nabc\n}\nlast \u",
                r"x (sensitive)\n  (sensitive)\n(sensitive)\n}\nlast \u",
            ),
            ("escaped whole", &[FOLDED], r#"-----BEGIN\n  first line\nabc\n}\nlast \"line\"\n"#, "(sensitive)"),
            ("a line, escaped", &[FOLDED], r#"at "last \"line\"""#, r#"at "(sensitive)""#),
            ("blanks at the ends are no part that must come back", &[" canary \n"], "`canary`", "`(sensitive)`"),
            ("base64 is its sender's to name", &["u:canary", "dTpjYW5hcnk="], "dTpjYW5hcnk=", "(sensitive)"),
            ("nothing", &[], "", ""),
        ] {
            assert_eq!(Secrets::new(values).redact(text), shown, "{about}");
        }
        assert!(!format!("{:?}", Secrets::new(["canary"])).contains("canary"));
    }

    #[test]
    fn json_is_redacted_as_it_reads() {
        let secrets = Secrets::new(["a&b", "message"]);
        let body = secrets.redact_body(r#"{"message":["bad a\u0026b"],"response":500}"#);
        assert_eq!(body, r#"{"message":["bad (sensitive)"],"response":500}"#);
        assert_eq!(secrets.redact_body("not json: a&b"), "not json: (sensitive)");
        assert_eq!(Secrets::default().redact_body("{ }"), "{ }");
    }
}
