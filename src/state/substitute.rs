//! `${env:NAME}` and `${env:NAME:-default}`, and of an agent `${agent:name}` and `${agent:index}`: the only substitutions of the
//! state file.
//!
//! With `:-`, the default also stands in for a variable that is set and empty, as in a shell. `$${` is a literal `${`.
//! Any other `${` is refused: whoever writes `${TOKEN}` as in a Compose file does not want an agent whose token is that
//! text, which anybody can guess. A `$` without a brace is left alone, so `$HOME` in a shell line needs no escaping.

use std::collections::BTreeMap;
use std::ops::Range;

use super::decode::{cut, near};

const OPEN: &str = "${";
const ENV: &str = "${env:";
const AGENT: &str = "${agent:";

/// Whose values are being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    /// No agent's.
    Nobody,
    /// Those of whichever agents take them up.
    Several,
    /// This agent's.
    Agent {
        /// Its name.
        name: String,
        /// Which of the agents it is that one entry of the file makes.
        index: Option<u32>,
    },
}

/// A string with its substitutions made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Substituted {
    pub(super) value: String,
    /// Whether anything came from the environment.
    pub(super) from_env: bool,
    /// Whether part of it depends on which agent it is for.
    pub(super) is_open: bool,
}

/// What is wrong with a string's substitutions, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// Where in the string, in bytes, when it is not as a whole.
    pub(super) at: Option<Range<usize>>,
}

/// A `${` of a string, with the place where it starts.
enum Brace {
    /// `$${`.
    Escaped(usize),
    Plain(usize),
}

/// The next `${` in `text` from `from` on.
fn brace(text: &str, from: usize) -> Option<Brace> {
    let at = from + text.get(from..)?.find(OPEN)?;
    match at > from && text.as_bytes()[at - 1] == b'$' {
        true => Some(Brace::Escaped(at)),
        false => Some(Brace::Plain(at)),
    }
}

/// Makes the substitutions in `text`. Only where `is_told`, the name is looked for that was meant by one which is not set.
pub(super) fn substitute(
    text: &str,
    vars: &BTreeMap<String, String>,
    whose: &Whose,
    is_told: bool,
) -> Result<Substituted, Wrong> {
    let mut value = String::new();
    let (mut from_env, mut is_open) = (false, false);
    let mut done = 0;
    while let Some(brace) = brace(text, done) {
        let at = match brace {
            Brace::Escaped(at) => {
                value.push_str(&text[done..at - 1]);
                value.push_str(OPEN);
                done = at + OPEN.len();
                continue;
            }
            Brace::Plain(at) => at,
        };
        value.push_str(&text[done..at]);
        let reference = &text[at..];
        let end = reference.find('}');
        let span = at..at + end.map_or(OPEN.len(), |end| end + 1);
        let wrong = |message: String, help: String| Wrong { message, help: Some(help), at: None };
        if let (Some(inside), Some(end)) = (reference.strip_prefix(AGENT), end) {
            match of_agent(&inside[..end - AGENT.len()], whose) {
                Ok(Some(part)) => value.push_str(&part),
                Ok(None) => is_open = true,
                Err((message, help)) => return Err(Wrong { at: Some(span), ..wrong(message, help) }),
            }
            done = span.end;
            continue;
        }
        let Some(inside) = reference.strip_prefix(ENV) else {
            let (message, help) = foreign(&reference[OPEN.len()..end.unwrap_or(OPEN.len())]);
            return Err(Wrong { at: Some(span), ..wrong(message, help) });
        };
        let Some(end) = end else {
            return Err(wrong("`${env:` is never closed".into(), "write `${env:NAME}`".into()));
        };
        let inside = &inside[..end - ENV.len()];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_variable(name) {
            let message = format!("`${{env:{}}}` does not name a variable", cut(inside));
            return Err(wrong(message, "write `${env:NAME}` or `${env:NAME:-default}`".into()));
        }
        match (vars.get(name), default) {
            (Some(set), _) if !set.is_empty() => value.push_str(set),
            (_, Some(default)) => value.push_str(default),
            (Some(_), None) => {}
            (None, None) => {
                let known = vars.keys().filter(|_| is_told);
                let help = match near(name, known.map(String::as_str)) {
                    Some(near) => format!("did you mean `${{env:{near}}}`?"),
                    None => format!("set it, or give a default: `${{env:{name}:-default}}`"),
                };
                return Err(wrong(format!("the environment variable `{name}` is not set"), help));
            }
        }
        from_env = true;
        done = span.end;
    }
    value.push_str(&text[done..]);
    Ok(Substituted { value, from_env, is_open })
}

/// What stands for `${agent:…}`; `None` when that is not known yet.
fn of_agent(inside: &str, whose: &Whose) -> Result<Option<String>, (String, String)> {
    let known = match inside {
        "name" | "index" => inside,
        _ => {
            let message = format!("there is no `${{agent:{}}}`", cut(inside));
            let near = near(inside, ["name", "index"]).map(|near| format!("did you mean `${{agent:{near}}}`?"));
            return Err((message, near.unwrap_or_else(|| "there are `${agent:name}` and `${agent:index}`".to_owned())));
        }
    };
    match whose {
        Whose::Several => Ok(None),
        Whose::Agent { name, .. } if known == "name" => Ok(Some(name.clone())),
        Whose::Agent { index: Some(index), .. } => Ok(Some(index.to_string())),
        Whose::Agent { name, index: None } => Err((
            format!("agent `{}` has no `count`, and so no `${{agent:index}}`", cut(name)),
            "write `count:` beside its `version`, or `${agent:name}` here".to_owned(),
        )),
        Whose::Nobody => Err((
            format!("`${{agent:{known}}}` is part of no agent here"),
            "it is replaced below `agents`, `templates` and `defaults`; `$${` is a literal `${`".to_owned(),
        )),
    }
}

/// The text with what stands for the agent in it, and all else as it is written.
pub(super) fn of_agent_alone(text: &str, whose: &Whose) -> String {
    let mut value = String::new();
    let mut done = 0;
    while let Some(brace) = brace(text, done) {
        let (Brace::Plain(at) | Brace::Escaped(at)) = brace;
        let part = match brace {
            Brace::Plain(_) => text[at..].strip_prefix(AGENT).and_then(|inside| inside.split_once('}')),
            Brace::Escaped(_) => None,
        };
        let part = part.and_then(|(inside, _)| Some((of_agent(inside, whose).ok()??, inside.len() + 1)));
        let (put, length) = part.map_or((OPEN.to_owned(), OPEN.len()), |(put, length)| (put, AGENT.len() + length));
        value.push_str(&text[done..at]);
        value.push_str(&put);
        done = at + length;
    }
    value.push_str(&text[done..]);
    value
}

/// What to say of a `${…}` that is not ours, from what stands in its braces. A default in it may be a secret and is not
/// repeated.
fn foreign(inside: &str) -> (String, String) {
    let literal = "`$${` is a literal `${`";
    let inside = inside.trim();
    // `${ENV:NAME}`, `${env.NAME}` and the like.
    let env = inside.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("env"));
    let bare = inside.get(..4).filter(|word| env && word.ends_with([':', '.']));
    let named = inside[bare.map_or(0, str::len)..].trim_start();
    let end = named.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(named.len());
    let (name, rest) = named.split_at(end);
    let rest = rest.trim_start();
    if !is_variable(name) {
        return (
            "nothing replaces this `${`: the text itself would be used".into(),
            format!("write `${{env:NAME}}`; {literal}"),
        );
    }
    let ours = match rest {
        "" => format!("did you mean `${{env:{name}}}`? "),
        // In a shell, `:?` fails where the variable is not set, which is what happens here anyway.
        _ if rest.starts_with(":?") || rest.starts_with('?') => {
            format!("did you mean `${{env:{name}}}`? It fails by itself when the variable is not set. ")
        }
        _ if rest.starts_with(":-") || rest.starts_with('-') => format!("did you mean `${{env:{name}:-…}}`? "),
        // `${NAME%.*}`, `${NAME:+x}`: a shell's own.
        _ => format!("`${{env:{name}}}` is the variable's value. "),
    };
    let written = format!("`${{{name}{}}}`", if rest.is_empty() { "" } else { "…" });
    (format!("nothing replaces {written}: the text itself would be used"), ours + literal)
}

/// The variables that `text` refers to, and whether the reference has a default.
pub(super) fn references(text: &str) -> Vec<(&str, bool)> {
    let mut found = Vec::new();
    let mut done = 0;
    while let Some(brace) = brace(text, done) {
        let at = match brace {
            Brace::Escaped(at) => {
                done = at + OPEN.len();
                continue;
            }
            Brace::Plain(at) => at,
        };
        done = at + OPEN.len();
        let Some(inside) = text[at..].strip_prefix(ENV) else { continue };
        let Some(end) = inside.find('}') else { break };
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, _)) => (name, true),
            None => (&inside[..end], false),
        };
        if is_variable(name) {
            found.push((name, default));
        }
        done = at + ENV.len() + end;
    }
    found
}

/// What of a value in an env file begins a reference, in bytes; with `$${` made `${` where there is none.
pub(super) fn unescape(value: &str) -> Result<String, usize> {
    let mut plain = String::new();
    let mut done = 0;
    while let Some(brace) = brace(value, done) {
        match brace {
            Brace::Plain(at) => return Err(at),
            Brace::Escaped(at) => {
                plain.push_str(&value[done..at - 1]);
                plain.push_str(OPEN);
                done = at + OPEN.len();
            }
        }
    }
    plain.push_str(&value[done..]);
    Ok(plain)
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
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        substitute(text, &vars, &Whose::Nobody, true)
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
        for text in ["$HOME $$ $(id)", "", "$", "é$", "{$}"] {
            assert_eq!(with(text).unwrap(), Substituted { value: text.into(), from_env: false, is_open: false });
        }
        for (text, value) in [
            ("$${env:TOKEN} ${env:TOKEN}", "${env:TOKEN} t0p"),
            ("$${HOME} $${x%.*} $${", "${HOME} ${x%.*} ${"),
            ("$$${HOME}", "$${HOME}"),
            ("a$${b}$${c}", "a${b}${c}"),
        ] {
            let escaped = with(text).unwrap();
            assert_eq!((escaped.value.as_str(), escaped.from_env), (value, text.contains(" ${env:")), "{text}");
        }
    }

    #[test]
    fn other_braces_are_refused_with_what_was_probably_meant() {
        let wrong = |text: &str| {
            let Wrong { message, help, at } = with(text).unwrap_err();
            (message, help.unwrap(), text[at.unwrap()].to_owned())
        };
        let (message, help, at) = wrong("postgres://${DB_USER}@db");
        assert_eq!(message, "nothing replaces `${DB_USER}`: the text itself would be used");
        assert_eq!(help, "did you mean `${env:DB_USER}`? `$${` is a literal `${`");
        assert_eq!(at, "${DB_USER}");
        for (text, meant) in [
            ("${MODE:-canary}", "did you mean `${env:MODE:-…}`?"),
            ("${MODE-canary}", "did you mean `${env:MODE:-…}`?"),
            ("${MODE:?canary}", "did you mean `${env:MODE}`? It fails by itself"),
            ("${MODE?canary}", "did you mean `${env:MODE}`? It fails by itself"),
            ("${ENV:MODE}", "did you mean `${env:MODE}`?"),
            ("${env.MODE}", "did you mean `${env:MODE}`?"),
            ("${ MODE }", "did you mean `${env:MODE}`?"),
            ("x ${MODE%canary}", "`${env:MODE}` is the variable's value."),
            ("${MODE:+canary}", "`${env:MODE}` is the variable's value."),
            ("${1}", "write `${env:NAME}`;"),
            ("${{ canary }}", "write `${env:NAME}`;"),
            ("${}", "write `${env:NAME}`;"),
            ("${canary", "write `${env:NAME}`;"),
            ("${é}", "write `${env:NAME}`;"),
            ("${en", "write `${env:NAME}`;"),
        ] {
            let (message, help, _) = wrong(text);
            assert!(help.starts_with(meant) && help.ends_with("`$${` is a literal `${`"), "{text}: {help}");
            assert!(!message.contains("canary") && !help.contains("canary"), "{text}: {message} {help}");
        }
    }

    #[test]
    fn an_agent_has_a_name_and_perhaps_an_index() {
        let of = |whose: &Whose, text: &str| substitute(text, &BTreeMap::new(), whose, true);
        let agent = |index| Whose::Agent { name: "w-2".into(), index };
        let text = "${agent:name}:80${agent:index} $${agent:name} ${env:X:-d}";
        assert_eq!(of(&agent(Some(2)), text).unwrap().value, "w-2:802 ${agent:name} d");
        assert_eq!(of_agent_alone(text, &agent(Some(2))), "w-2:802 $${agent:name} ${env:X:-d}");
        assert!(of(&Whose::Several, text).unwrap().is_open);
        let wrong = |whose: &Whose, text: &str| of(whose, text).unwrap_err();
        assert_eq!(wrong(&agent(None), text).message, "agent `w-2` has no `count`, and so no `${agent:index}`");
        assert_eq!(wrong(&agent(None), "x ${agent:index}").at, Some(2..16));
        assert!(wrong(&Whose::Nobody, text).help.unwrap().starts_with("it is replaced below `agents`"));
        assert_eq!(wrong(&Whose::Several, "${agent:nam}").help.unwrap(), "did you mean `${agent:name}`?");
        assert!(wrong(&Whose::Several, "${agent:name").message.starts_with("nothing replaces this"));
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
