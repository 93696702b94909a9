//! Amounts of bytes as text, and text as amounts. The one place that words them.

const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];

/// As people read them: `16 B`, `1.50 KiB`, `2.00 GiB`.
pub(crate) fn about(count: u64) -> String {
    let mut amount = count as f64;
    let mut unit = None;
    for next in UNITS {
        if amount < 1024.0 {
            break;
        }
        (amount, unit) = (amount / 1024.0, Some(next));
    }
    unit.map_or_else(|| format!("{count} B"), |unit| format!("{amount:.2} {unit}"))
}

/// Exactly, as the state file has them: `4GiB`, `1536MiB`, `5B`.
pub(crate) fn exact(count: u64) -> String {
    let (amount, unit) = whole(count);
    format!("{amount}{unit}")
}

/// Exactly, in a sentence: `16 MiB`.
pub(crate) fn limit(count: impl TryInto<u64>) -> String {
    let (amount, unit) = whole(count.try_into().unwrap_or(u64::MAX));
    format!("{amount} {unit}")
}

/// In the largest unit that leaves nothing over.
fn whole(count: u64) -> (u64, &'static str) {
    let mut whole = (count, "B");
    for unit in UNITS {
        if whole.0 == 0 || !whole.0.is_multiple_of(1024) {
            break;
        }
        whole = (whole.0 / 1024, unit);
    }
    whole
}

/// Reads an amount as Lima does: `k`, `m`, `g` and `t`, with or without `b` or `ib`, are powers of 1024.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_amount_has_its_words() {
        for (count, shown, written) in [
            (0, "0 B", "0B"),
            (1023, "1023 B", "1023B"),
            (1536, "1.50 KiB", "1536B"),
            (1 << 20, "1.00 MiB", "1MiB"),
            (3 << 29, "1.50 GiB", "1536MiB"),
            (5 << 40, "5.00 TiB", "5TiB"),
            (2 << 50, "2048.00 TiB", "2048TiB"),
        ] {
            assert_eq!((about(count).as_str(), exact(count).as_str()), (shown, written));
            assert!(parse(written).is_none_or(|read| read == count), "{written}");
        }
        assert_eq!(limit(16 << 20), "16 MiB");
        assert_eq!(
            [parse("512m"), parse("4 GiB"), parse("4"), parse("0k"), parse("99999999t")],
            [Some(512 << 20), Some(4 << 30), None, None, None]
        );
    }
}
