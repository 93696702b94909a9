//! How a tarball is packed.

use std::io::{self, Write};
use std::str::FromStr;

use super::members::{Members, Written};
use crate::model::hashing::Hashing;

/// zlib-rs's level. gzip(1) at its usual one takes a tenth longer on one processor, and makes it a hundredth larger; 6 and 7 take half as
/// long and make it larger than that.
const GZIP_LEVEL: u32 = 9;
/// Zstandard's: about as fast as it reads.
const ZSTD_LEVEL: i32 = 9;

/// How a tarball is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// gzip, in members, of which a fetcher may have some already.
    #[default]
    Gzip,
    /// Zstandard: smaller, and whole or not at all.
    Zstd,
}

impl Packing {
    /// Each.
    pub const ALL: [Packing; 2] = [Packing::Gzip, Packing::Zstd];

    /// How the name of such a tarball ends.
    pub fn ending(self) -> &'static str {
        match self {
            Packing::Gzip => ".tar.gz",
            Packing::Zstd => ".tar.zst",
        }
    }
}

impl FromStr for Packing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            other => Err(format!("`{other}` is not a compression: gzip or zstd")),
        }
    }
}

/// Packs what is written to it.
pub(super) enum Packer<W: Write> {
    Gzip(Members<W>),
    Zstd(zstd::stream::write::Encoder<'static, Hashing<W>>),
}

impl<W: Write> Packer<W> {
    pub(super) fn new(to: W, packing: Packing) -> io::Result<Self> {
        match packing {
            Packing::Gzip => Ok(Self::Gzip(Members::new(to, GZIP_LEVEL))),
            Packing::Zstd => zstd::stream::write::Encoder::new(Hashing::new(to), ZSTD_LEVEL).map(Self::Zstd),
        }
    }

    /// What follows is worth a member of its own, where there are any.
    pub(super) fn begin_member(&mut self) -> io::Result<()> {
        match self {
            Packer::Gzip(members) => members.begin_member(),
            Packer::Zstd(_) => Ok(()),
        }
    }

    pub(super) fn finish(self) -> io::Result<(W, Written)> {
        match self {
            Packer::Gzip(members) => members.finish(),
            Packer::Zstd(encoder) => {
                let (mut to, sha256, size_bytes) = encoder.finish()?.finish();
                to.flush()?;
                Ok((to, Written { sha256, size_bytes, members: Vec::new() }))
            }
        }
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Packer::Gzip(members) => members.write(bytes),
            Packer::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
