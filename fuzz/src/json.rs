//! Mutations of JSON that are JSON: of bytes changed at random little is read any further than the first brace.

use serde_json::{Value, json};

/// Numbers that observation random enough.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % sides.max(1)
    }
}

/// Changes one of the JSON documents between `separator`s half of the time, and bytes otherwise. Yields the new length.
pub fn mutate_json(data: &mut [u8], size: usize, max_size: usize, seed: u32, separator: u8) -> usize {
    let mut dice = Dice(u64::from(seed));
    if dice.roll(2) == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let mut parts: Vec<Vec<u8>> = data[..size].split(|byte| *byte == separator).map(<[u8]>::to_vec).collect();
    let at = dice.roll(parts.len());
    let Ok(mut document) = serde_json::from_slice::<Value>(&parts[at]) else {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    };
    for _ in 0..=dice.roll(3) {
        mutate(&mut document, &mut dice);
    }
    parts[at] = document.to_string().into_bytes();
    let whole = parts.join(&separator);
    if whole.len() > max_size {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    data[..whole.len()].copy_from_slice(&whole);
    whole.len()
}

fn mutate(document: &mut Value, dice: &mut Dice) {
    let mut places = Vec::new();
    find(document, "", &mut places);
    let place = places[dice.roll(places.len())].clone();
    let other = document.pointer(&places[dice.roll(places.len())]).cloned().unwrap_or_default();
    let Some(value) = document.pointer_mut(&place) else { return };
    match (dice.roll(4), value) {
        (0, Value::Array(items)) if !items.is_empty() => {
            let at = dice.roll(items.len());
            match dice.roll(2) {
                0 => drop(items.remove(at)),
                _ => items.insert(at, other),
            }
        }
        (0, Value::Object(fields)) if !fields.is_empty() => {
            let name = fields.keys().nth(dice.roll(fields.len())).cloned().unwrap_or_default();
            match dice.roll(3) {
                0 => drop(fields.shift_remove(&name)),
                1 => drop(fields.insert(name, other)),
                _ => {
                    let field = fields.shift_remove(&name).unwrap_or_default();
                    fields.insert(odd_text(&name, dice), field);
                }
            }
        }
        (0 | 1, value) => *value = other,
        (2, Value::String(text)) => *text = odd_text(text, dice),
        (_, value) => *value = odd(dice),
    }
}

fn find(value: &Value, at: &str, places: &mut Vec<String>) {
    places.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| find(item, &format!("{at}/{index}"), places));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            find(field, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), places);
        }),
        _ => {}
    }
}

/// What something may stumble over.
fn odd(dice: &mut Dice) -> Value {
    const NUMBERS: [i64; 14] = [
        i64::MIN,
        -62_135_596_800,
        -1,
        0,
        1,
        7,
        65_535,
        65_536,
        4_294_967_296,
        253_402_300_799,
        253_402_300_800,
        9_000_000_000_000_000_000,
        1 << 53,
        i64::MAX,
    ];
    const TEXTS: [&str; 16] = [
        "",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
        "9999-12-31T23:59:59-14:00",
        "1969-12-31T23:59:59+99:99",
        "253402300800",
        "1e300",
        "\u{1b}[2J\u{202e}\u{9b}31m",
        "a\nb\r\tc\u{2028}d",
        "../../etc/passwd",
        "vm/images/a-1-x64.tar.gz",
        "running",
        "stopped",
        "unhealthy",
        "`|<b>@all \\",
        "/",
    ];
    match dice.roll(9) {
        0..=2 => NUMBERS[dice.roll(NUMBERS.len())].into(),
        3..=5 => TEXTS[dice.roll(TEXTS.len())].into(),
        6 => "é\u{301}x".repeat(1 << dice.roll(12)).into(),
        7 => json!(u64::MAX as f64 * 1e200),
        _ => [json!(null), json!(true), json!([]), json!({}), json!([null]), json!(1e300)][dice.roll(6)].clone(),
    }
}

fn odd_text(text: &str, dice: &mut Dice) -> String {
    const PARTS: [&str; 8] = ["\u{1b}[2J", "\u{202e}", "\n", "`", "/../", " ", "é", "\u{fdd0}"];
    match dice.roll(4) {
        0 => text.repeat(2),
        1 => text.chars().take(dice.roll(text.chars().count().max(1))).collect(),
        2 => format!("{text}{}", PARTS[dice.roll(PARTS.len())]),
        _ => format!("{}{text}", PARTS[dice.roll(PARTS.len())]),
    }
}
