//! What must not be shown of Podman's words: values that a request carried and an answer may repeat.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::backend::EngineError;

/// Stands where a value stood.
const MASK: &str = "(sensitive)";

/// The values of one request that no error and no log may repeat.
#[derive(Clone, Default)]
pub(super) struct Secrets(BTreeSet<String>);

impl Secrets {
    /// Values of one or two characters are left out: they are no secrets, and would blank whole sentences. Of a value of
    /// several lines each is one by itself, since Podman may repeat them apart.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut forms = BTreeSet::new();
        for value in values {
            for piece in std::iter::once(value).chain(value.lines().map(str::trim)) {
                if piece.chars().nth(2).is_none() {
                    continue;
                }
                // Podman quotes some of what it repeats, as Go's `%q` does.
                let quoted = Value::from(piece).to_string();
                forms.insert(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or(piece).to_owned());
                forms.insert(piece.to_owned());
            }
        }
        Self(forms)
    }

    /// An error without the values, wherever it repeats them.
    pub fn hide_in(&self, mut err: EngineError) -> EngineError {
        err.message = self.scrub(&err.message);
        err.stderr = err.stderr.map(|text| self.scrub(&text));
        err.body = err.body.map(|body| self.scrub_body(&body));
        err
    }

    /// `text` with a mask for every stretch of it that is part of a value, also where values overlap.
    pub fn scrub(&self, text: &str) -> String {
        let mut hidden = vec![false; text.len()];
        for value in &self.0 {
            let mut from = 0;
            while let Some(at) = text.get(from..).and_then(|rest| rest.find(value.as_str())) {
                let begin = from + at;
                hidden.iter_mut().skip(begin).take(value.len()).for_each(|byte| *byte = true);
                from = begin + value.chars().next().map_or(1, char::len_utf8);
            }
        }
        let mut shown = String::with_capacity(text.len());
        let mut before = false;
        for (at, letter) in text.char_indices() {
            let hide = hidden.get(at) == Some(&true);
            match (before, hide) {
                (_, false) => shown.push(letter),
                (false, true) => shown.push_str(MASK),
                (true, true) => {}
            }
            before = hide;
        }
        shown
    }

    /// An answer's body. In JSON the strings are scrubbed as they read, whatever escapes they are written with.
    pub fn scrub_body(&self, body: &str) -> String {
        if self.0.is_empty() {
            return body.to_owned();
        }
        match serde_json::from_str::<Value>(body) {
            Ok(mut json) => {
                self.scrub_json(&mut json);
                json.to_string()
            }
            Err(_) => self.scrub(body),
        }
    }

    fn scrub_json(&self, json: &mut Value) {
        match json {
            Value::String(text) => *text = self.scrub(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.scrub_json(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.scrub_json(field)),
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

    #[test]
    fn values_are_hidden_whole_by_line_quoted_and_overlapping() {
        let secrets = Secrets::new(["abc", "bcdefgh", "no", "äß", "first line\n  second \"line\"\n}", "üöä"]);
        for (text, shown) in [
            ("x abcdefgh y", "x (sensitive) y"),
            ("no äß } remain", "no äß } remain"),
            ("first line\n  second \"line\"\n}.", "(sensitive)."),
            ("at `second \"line\"`", "at `(sensitive)`"),
            (r#"at "second \"line\"""#, r#"at "(sensitive)""#),
            ("üüöäöä", "ü(sensitive)öä"),
            ("abcabc", "(sensitive)"),
            ("", ""),
        ] {
            assert_eq!(secrets.scrub(text), shown);
        }
        assert_eq!(
            Secrets::new(["a&b"]).scrub_body(r#"{"message":"bad a\u0026b"}"#),
            r#"{"message":"bad (sensitive)"}"#
        );
        assert_eq!(Secrets::new(["abc"]).scrub_body("not json: abc"), "not json: (sensitive)");
        assert!(!format!("{secrets:?}").contains("abc"));
    }
}
