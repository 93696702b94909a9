//! What is signed with a manifest: the trusted comment.

use std::time::SystemTime;

use super::FILE;
use crate::model::ids::clean;

/// What a trusted comment says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) serial: u64,
    pub(super) expires: Option<SystemTime>,
}

impl About {
    pub(super) fn read(comment: &str, updated_at: &str) -> Result<Self, String> {
        let field = |name: &str| -> Result<Option<&str>, String> {
            let mut found = comment.split_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let first = found.next();
            match found.next() {
                Some(_) => Err(format!("its comment says `{name}` twice")),
                None => Ok(first),
            }
        };
        let needed = |name: &str| field(name)?.ok_or_else(|| format!("its comment does not say `{name}`"));
        let file = needed("file")?;
        if file != FILE {
            return Err(format!("it is of `{}`", clean(file, 100)));
        }
        let told = needed("updatedAt")?;
        if told != updated_at {
            return Err(format!(
                "it is of one updated at {}, and this one was at {}",
                clean(told, 40),
                clean(updated_at, 40)
            ));
        }
        let serial = needed("serial")?;
        let serial = serial.parse().map_err(|_| format!("its serial is `{}`: expected a number", clean(serial, 40)))?;
        let expires = field("expires")?
            .map(|text| crate::time::parse(text).map_err(|err| format!("it expires at `{}`: {err}", clean(text, 40))));
        Ok(Self { serial, expires: expires.transpose()? })
    }
}
