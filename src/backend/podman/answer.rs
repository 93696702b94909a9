//! Podman's answers as values. A few bytes of JSON may become many in memory (`[0,0,…` takes eighty times as much), so what an
//! answer will take is estimated before it is parsed.

use serde_json::Value;

/// The most that the values of one answer may take, by the estimate below: a list of five thousand containers. Up to three
/// answers are held at once.
const MOST: usize = 64 << 20;
/// What one more value takes in a list that grows as it is read, and in an object with its key (64-bit, serde_json 1.0).
const VALUE: usize = 160;
/// What an object takes before anything is in it.
const OBJECT: usize = 480;

/// Parses an answer.
///
/// # Errors
/// What keeps it from being read, in words.
pub(super) fn parse(answer: &[u8]) -> Result<Value, String> {
    check(answer)?;
    serde_json::from_slice(answer).map_err(|err| err.to_string())
}

/// JSON values in a row, lists taken apart only by the caller; ends at what is none.
///
/// # Errors
/// When they would take too much.
pub(super) fn values(answer: &[u8]) -> Result<impl Iterator<Item = Value> + '_, String> {
    check(answer)?;
    Ok(serde_json::Deserializer::from_slice(answer).into_iter().map_while(Result::ok))
}

fn check(answer: &[u8]) -> Result<(), String> {
    match estimate(answer) > MOST {
        true => Err(format!("its values would take more than {} of memory, the most", crate::sizes::limit(MOST))),
        false => Ok(()),
    }
}

/// What stands between strings tells how many values there are; strings take what they are long.
fn estimate(answer: &[u8]) -> usize {
    let (mut takes, mut is_string, mut is_escaped) = (0, false, false);
    for byte in answer {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_string => is_escaped = true,
            b'"' => is_string = !is_string,
            b',' | b'[' if !is_string => takes += VALUE,
            b'{' if !is_string => takes += VALUE + OBJECT,
            _ => {}
        }
    }
    takes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_grow_in_memory_is_refused_before_it_does() {
        for bomb in ["0,", "[],", "{\"a\":1},", "\"\","] {
            let text = format!("[{}0]", bomb.repeat((8 << 20) / bomb.len()));
            let err = parse(text.as_bytes()).unwrap_err();
            assert!(err.contains("64 MiB of memory"), "{bomb}: {err}");
            assert!(values(text.as_bytes()).is_err(), "{bomb}");
        }
    }

    #[test]
    fn honest_answers_are_read() {
        let two = include_str!("../../../tests/fixtures/podman/list-4.3.1.json").trim();
        let few = two.trim_start_matches('[').trim_end_matches(']');
        let times = 5000 / parse(two.as_bytes()).unwrap().as_array().unwrap().len();
        let list = format!("[{}]", vec![few; times].join(","));
        assert!(parse(list.as_bytes()).is_ok());
        // Commas and brackets in strings are none.
        let text = serde_json::json!({ "a": ",[{\"\\\"".repeat(1_000_000) }).to_string();
        assert!(parse(text.as_bytes()).is_ok());
        assert_eq!(parse(b"{").unwrap_err(), "EOF while parsing an object at line 1 column 1");
        assert_eq!(values(b"1 [2] x").unwrap().collect::<Vec<_>>(), [serde_json::json!(1), serde_json::json!([2])]);
    }
}
