//! Broken YAML in words a person can act on.

use granit_parser::{ErrorKind, ScanError};

use super::problem::Draft;
use super::tree::MAX_DEPTH;

/// What is wrong with broken YAML, and the usual ways out.
pub(super) fn explain(err: &ScanError, source: &str) -> Draft {
    let at = err.marker().byte_offset().unwrap_or_default().min(source.len());
    let (line_start, line) = line_at(source, at);
    let found = |needle: &str| line.find(needle).map(|index| line_start + index);
    let (message, help): (String, Option<&str>) = match err.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => {
            let at = found("\t").unwrap_or(at);
            return Draft::at(at..at + 1, String::new(), "a tab is used for indentation")
                .help("YAML takes spaces only; most editors can be told to insert them");
        }
        ErrorKind::RecursionLimitExceeded => (format!("nested more than {MAX_DEPTH} levels deep"), None),
        ErrorKind::UnclosedQuotedScalar => ("this quote is never closed".into(), None),
        ErrorKind::UnclosedFlowCollection { open } => (format!("this `{open}` is never closed"), None),
        ErrorKind::UnknownQuotedScalarEscape => (
            "unknown escape in a double-quoted string".into(),
            Some("write `\\\\` for a backslash, or use single quotes, where it stands for itself"),
        ),
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidSimpleKey | ErrorKind::SimpleKeyExpected => (
            format!("broken YAML: {}", err.kind()),
            Some("a value that holds `: ` must be quoted, and the keys of one mapping must be indented alike"),
        ),
        ErrorKind::InvalidQuotedScalarIndent | ErrorKind::DocumentIndicatorInQuotedScalar => {
            (format!("broken YAML: {}", err.kind()), Some("a quote above is probably never closed"))
        }
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => (
            format!("broken YAML: {}", err.kind()),
            Some("a comma is missing here, or a bracket above is never closed"),
        ),
        ErrorKind::ExpectedBlockMappingKey | ErrorKind::ExpectedBlockSequenceEntry => (
            format!("broken YAML: {}", err.kind()),
            Some("look at the indentation: the keys of one mapping, and the items of one list, stand under each other"),
        ),
        kind => (format!("broken YAML: {kind}"), None),
    };
    // `{TOKEN: ${env:TOKEN}}` is the trap of this file format.
    let flow_substitution = found("${").filter(|at| line[..at - line_start].contains(['{', '[']));
    let help = match flow_substitution {
        Some(_) => Some("inside `{…}` and `[…]`, write `\"${env:NAME}\"` with quotes"),
        None => help,
    };
    let width = source[at..].chars().next().filter(|c| *c != '\n' && *c != '\r').map_or(0, char::len_utf8);
    let draft = Draft::at(at..at + width, String::new(), message);
    match help {
        Some(help) => draft.help(help),
        None => draft,
    }
}

fn line_at(source: &str, at: usize) -> (usize, &str) {
    let start = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = source[at..].find('\n').map_or(source.len(), |newline| at + newline);
    (start, &source[start..end])
}
