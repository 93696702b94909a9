//! What the fuzz targets reach of the cache: the filter for archives of images.

use bytes::Bytes;

use super::archive::{Filter, Refusal};
use crate::model::ImageRef;

/// What the filter passes on of an archive that comes in these pieces.
///
/// # Errors
/// Why it does not, in words.
pub fn filter<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, wanted: &ImageRef) -> Result<Vec<u8>, String> {
    let words = |refusal| match refusal {
        Refusal::Damaged(why) => why,
        Refusal::Other(found) => format!("{found:?}"),
    };
    let mut filter = Filter::new(wanted);
    let mut out = Vec::new();
    for piece in pieces {
        filter.push(Bytes::copy_from_slice(piece), &mut out).map_err(words)?;
    }
    filter.finish(&mut out).map_err(words)?;
    Ok(out.concat())
}

/// Whether an archive may be loaded as it is.
pub fn holds_only(bytes: &[u8], wanted: &ImageRef) -> bool {
    let mut filter = Filter::new(wanted);
    filter.push(Bytes::copy_from_slice(bytes), &mut Vec::new()).is_ok() && filter.holds_only()
}
