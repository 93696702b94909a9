//! Words of others, cut to what somebody reads. A hostile word may have megabytes.

use std::borrow::Cow;

/// About the most bytes of a message, with all the causes in it.
pub(crate) const MESSAGE: usize = 3_600;

/// The text; of one that has more than `most` bytes, so many of them in all from its beginning and its end, with a mark
/// between that says how many were left out.
pub(crate) fn brief(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let (mut begins, mut ends) = (most - most / 3, text.len() - most / 3);
    while !text.is_char_boundary(begins) {
        begins -= 1;
    }
    while !text.is_char_boundary(ends) {
        ends += 1;
    }
    let left_out = ends - begins;
    Cow::Owned(format!("{} … ({left_out} bytes left out) … {}", &text[..begins], &text[ends..]))
}

#[cfg(test)]
mod tests {
    use super::brief;

    #[test]
    fn what_is_long_keeps_its_beginning_and_its_end() {
        assert_eq!(brief("abc", 3), "abc");
        assert_eq!(brief("abcdefgh", 3), "ab … (5 bytes left out) … h");
        assert_eq!(brief("ääää", 3), "ä … (6 bytes left out) … ", "no character is cut");
        assert_eq!(brief("x", 0), " … (1 bytes left out) … ");
        let long = format!("it says `{}`, which is not a port", "é".repeat(10_000_000));
        let cut = brief(&long, 200);
        assert!(cut.len() < 240 && cut.starts_with("it says `éé") && cut.ends_with("é`, which is not a port"), "{cut}");
    }
}
