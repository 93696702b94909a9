//! `${env:NAME}` and `${env:NAME:-default}`, the only substitution of the state file.
//!
//! With `:-`, the default also stands in for a variable that is set and empty, as in a shell. `$${env:` is a literal
//! `${env:`; any other `$` is left alone, so shell lines need no escaping.

use std::collections::BTreeMap;

use super::decode::near;

/// A string with its substitutions made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Substituted {
    pub(super) value: String,
    /// Whether anything came from the environment.
    pub(super) from_env: bool,
}

/// What is wrong with a string's substitutions, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// Makes the substitutions in `text`.
pub(super) fn substitute(text: &str, vars: &BTreeMap<String, String>) -> Result<Substituted, Wrong> {
    if !text.contains('$') {
        return Ok(Substituted { value: text.to_owned(), from_env: false });
    }
    let mut value = String::new();
    let mut from_env = false;
    let mut rest = text;
    while let Some(at) = rest.find("${env:") {
        let (before, reference) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            value.push_str(before);
            value.push_str("${env:");
            rest = &reference["${env:".len()..];
            continue;
        }
        value.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err(Wrong { message: "`${env:` is never closed".into(), help: Some("write `${env:NAME}`".into()) });
        };
        let inside = &reference["${env:".len()..end];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_variable(name) {
            return Err(Wrong {
                message: format!("`${{env:{}}}` does not name a variable", super::decode::cut(inside)),
                help: Some("write `${env:NAME}` or `${env:NAME:-default}`".into()),
            });
        }
        match (vars.get(name), default) {
            (Some(set), _) if !set.is_empty() => value.push_str(set),
            (_, Some(default)) => value.push_str(default),
            (Some(_), None) => {}
            (None, None) => {
                let help = match near(name, vars.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean `${{env:{near}}}`?"),
                    None => format!("set it, or give a default: `${{env:{name}:-default}}`"),
                };
                return Err(Wrong {
                    message: format!("the environment variable `{name}` is not set"),
                    help: Some(help),
                });
            }
        }
        from_env = true;
        rest = &reference[end + 1..];
    }
    value.push_str(rest);
    Ok(Substituted { value, from_env })
}

/// The variables that `text` refers to, and whether the reference has a default.
pub(super) fn references(text: &str) -> Vec<(&str, bool)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${env:") {
        let (before, reference) = rest.split_at(at);
        let inside = &reference["${env:".len()..];
        rest = inside;
        if before.ends_with('$') {
            continue;
        }
        let Some(end) = inside.find('}') else { break };
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, _)) => (name, true),
            None => (&inside[..end], false),
        };
        if is_variable(name) {
            found.push((name, default));
        }
        rest = &inside[end..];
    }
    found
}

fn is_variable(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Substituted, Wrong> {
        let vars = [("TOKEN", "t0p"), ("EMPTY", ""), ("NESTED", "${env:TOKEN}")];
        substitute(text, &vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        let value = |text: &str| with(text).unwrap().value;
        assert_eq!(value("a ${env:TOKEN}-${env:NONE:-b:-c} z"), "a t0p-b:-c z");
        assert_eq!(value("[${env:EMPTY}][${env:EMPTY:-x}][${env:NONE:-}]"), "[][x][]");
        assert_eq!(value("${env:NESTED}"), "${env:TOKEN}", "a value is not looked at again");
    }

    #[test]
    fn references_are_listed_as_they_are_replaced() {
        let text = "a ${env:TOKEN}-${env:NONE:-b} $${env:ESCAPED} ${env:1A} ${env:LAST";
        assert_eq!(references(text), [("TOKEN", false), ("NONE", true)]);
    }

    #[test]
    fn only_references_are_touched() {
        for text in ["$HOME ${HOME} $$ $${HOME}", "", "$", "é${"] {
            assert_eq!(with(text).unwrap(), Substituted { value: text.into(), from_env: false });
        }
        let escaped = with("$${env:TOKEN} ${env:TOKEN}").unwrap();
        assert_eq!((escaped.value.as_str(), escaped.from_env), ("${env:TOKEN} t0p", true));
        assert!(!with("$${env:TOKEN}").unwrap().from_env);
    }

    #[test]
    fn what_cannot_be_replaced_is_said() {
        let wrong = |text: &str| with(text).unwrap_err();
        assert_eq!(wrong("${env:NONE}").message, "the environment variable `NONE` is not set");
        assert_eq!(wrong("${env:TOKN}").help.unwrap(), "did you mean `${env:TOKEN}`?");
        assert_eq!(wrong("${env:TOKEN").message, "`${env:` is never closed");
        for text in ["${env:}", "${env:A B}", "${env:1A}", "${env::-x}", "${env:A:?x}"] {
            assert!(wrong(text).message.ends_with("does not name a variable"), "{text}");
        }
    }
}
