//! What the fuzz targets reach of the cache: the filter for archives of images, and what is fetched of a tarball.

use std::ops::Range;

use bytes::Bytes;

use super::archive::{self, Filter, Refusal};
use super::recipe::Recipe;
use crate::model::{ImageRef, LayerIndex, Member};

/// A path as whoever looks for a file in an archive sees it.
pub fn clean_path(path: &[u8]) -> String {
    archive::clean_path(path)
}

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

/// The ranges that are fetched of a tarball of which the members are here that `has` says; `None` where it is fetched whole.
pub fn ranges(index: &LayerIndex, has: impl Fn(&Member) -> bool) -> Option<Vec<Range<u64>>> {
    Recipe::new(index.members(), has).map(|recipe| recipe.ranges().to_vec())
}
