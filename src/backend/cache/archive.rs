//! The filter through which a tarball reaches an engine: of a docker-archive or an OCI archive only the wanted image goes
//! on, without a name. An engine gives an archive's images every name that stands in it, before anybody can look; so what it
//! never sees, it cannot give.
//!
//! What goes on is rewritten, from what was understood of it: a header that says one thing to us and another to the engine
//! (readers of tar differ in which name counts, readers of JSON in which key) never reaches it. The files that list images are
//! held back (they are small), and what is left of them follows at the end. With both kinds of list in one archive, as newer
//! Docker writes them, Docker's counts. A pure push parser: bytes in, bytes out.

mod header;
mod lists;

use bytes::{Bytes, BytesMut};
pub(super) use header::clean_path;
use header::*;
pub use lists::names_image;
use lists::*;
use serde_json::Value;

use crate::model::ImageRef;

/// A tar archive is a row of these.
const BLOCK: usize = 512;
/// The longest name that a header has room for.
const NAME: usize = 100;
/// What Docker says of an image in its list. Go's reader of JSON takes `repotags` for `RepoTags`.
const DOCKER_KEYS: [&str; 5] = ["Config", "RepoTags", "Layers", "Parent", "LayerSources"];
/// The largest list of images, and the largest record about one entry, that is held in memory.
const MAX_HELD: u64 = 8 * 1024 * 1024;

/// What becomes of an archive that does not go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot be read as an archive of images.
    Damaged(String),
    /// It does not hold the wanted image, but these.
    Other(Vec<String>),
}

fn damaged(why: impl Into<String>) -> Refusal {
    Refusal::Damaged(why.into())
}

/// The lists of images in an archive.
#[derive(Debug, Default)]
struct Lists {
    /// `manifest.json` of a docker-archive.
    docker: Option<Bytes>,
    /// `index.json` of an OCI layout.
    oci: Option<Bytes>,
    /// Its `oci-layout`.
    layout: Option<Bytes>,
}

/// What the parser is in the middle of.
#[derive(Debug)]
enum State {
    /// Collecting the next header.
    Header,
    /// Passing on so many bytes.
    Passing(u64),
    /// Holding back the content of an entry: what it is, the bytes so far, how many are to come, and padding after them.
    Buffering { what: Buffered, bytes: BytesMut, left: u64, padding: u64 },
    /// Dropping so many bytes.
    Dropping(u64),
    /// After the end mark.
    Over,
}

/// What an entry that is held back is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Buffered {
    /// A record about the entry after it.
    Record(Record),
    Docker,
    Oci,
    Layout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// GNU: the name of the next entry.
    LongName,
    /// GNU: the target of its link.
    LongLink,
    /// PAX: any of its attributes.
    Pax,
}

/// What records say of the entry after them.
#[derive(Debug, Default)]
struct Records {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    link_path: Option<Vec<u8>>,
    size: Option<u64>,
}

/// The filter.
#[derive(Debug)]
pub(super) struct Filter {
    wanted: ImageRef,
    state: State,
    header: BytesMut,
    records: Records,
    lists: Lists,
    any: bool,
    /// Whether there is anything in it that readers of tar do not all read alike.
    is_ambiguous: bool,
}

impl Filter {
    pub(super) fn new(wanted: &ImageRef) -> Self {
        Self {
            wanted: wanted.qualified(),
            state: State::Header,
            header: BytesMut::with_capacity(BLOCK),
            records: Records::default(),
            lists: Lists::default(),
            any: false,
            is_ambiguous: false,
        }
    }

    /// Takes the next bytes of the archive, and adds what goes on to `out`.
    pub(super) fn push(&mut self, mut bytes: Bytes, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Over => return Ok(()),
                State::Passing(left) => {
                    let piece = up_to(&mut bytes, left);
                    out.push(piece);
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::Dropping(left) => {
                    up_to(&mut bytes, left);
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::Buffering { bytes: buffered, left, padding, .. } => {
                    buffered.extend_from_slice(&up_to(&mut bytes, left));
                    if *left == 0 {
                        let padding = *padding;
                        self.take_buffered()?;
                        self.state = if padding > 0 { State::Dropping(padding) } else { State::Header };
                    }
                }
                State::Header => {
                    let missing = BLOCK - self.header.len();
                    self.header.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
                    if self.header.len() == BLOCK {
                        let header = self.header.split().freeze();
                        self.entry(header, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// One entry begins.
    fn entry(&mut self, header: Bytes, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        if header.iter().all(|byte| *byte == 0) {
            if !self.any {
                return Err(damaged("it is not a tar archive"));
            }
            self.state = State::Over;
            return Ok(());
        }
        if !has_right_checksum(&header) {
            return Err(damaged(if self.any { "it is broken in the middle" } else { "it is not a tar archive" }));
        }
        self.any = true;
        let kind = header[156];
        let told = number(&header[124..136]).ok_or_else(|| damaged("an entry has no size"))?;
        let record = match kind {
            b'L' => Some(Record::LongName),
            b'K' => Some(Record::LongLink),
            b'x' => Some(Record::Pax),
            _ => None,
        };
        if let Some(record) = record {
            return self.buffer(Buffered::Record(record), told);
        }
        // Its size is not the whole of what follows.
        if kind == b'S' {
            return Err(damaged("it has a sparse file"));
        }
        let records = std::mem::take(&mut self.records);
        self.is_ambiguous |= records.long_name.is_some() && records.path.is_some() || is_star(&header);
        let name = records.long_name.or(records.path).unwrap_or_else(|| name_in(&header));
        let clean = clean_path(&name);
        let buffered = match clean.as_str() {
            "manifest.json" => Some(Buffered::Docker),
            "index.json" => Some(Buffered::Oci),
            "oci-layout" => Some(Buffered::Layout),
            _ => None,
        };
        // Before POSIX, a directory was a file with a slash at its end.
        let kind = match kind {
            0 if name.ends_with(b"/") => {
                self.is_ambiguous = true;
                b'5'
            }
            0 | b'7' => b'0',
            kind => kind,
        };
        // Links, directories and devices have no content, whatever they say.
        let has_content = !matches!(kind, b'1'..=b'6');
        let size = if has_content { records.size.unwrap_or(told) } else { 0 };
        match buffered {
            Some(_) if kind != b'0' => return Err(damaged(format!("its {clean} is no file"))),
            Some(buffered) => return self.buffer(buffered, size),
            None => {}
        }
        let is_kept = match kind {
            // But for the list of names in an older form, and the directory that everything is in.
            b'0' | b'1' | b'2' | b'5' => !matches!(clean.as_str(), "" | "repositories"),
            // Devices are of no use to anybody.
            b'3' | b'4' | b'6' => false,
            // What is meant for all entries, and what nobody knows.
            _ => {
                self.is_ambiguous = true;
                false
            }
        };
        if !is_kept {
            self.state = after(padded(size), State::Dropping);
            return Ok(());
        }
        let link = matches!(kind, b'1' | b'2').then(|| {
            let there = || until_zero(&header[157..257]).to_vec();
            records.long_link.or(records.link_path).unwrap_or_else(there)
        });
        write_entry(out, &name, kind, link.as_deref(), size);
        self.state = after(padded(size), State::Passing);
        Ok(())
    }

    fn buffer(&mut self, what: Buffered, size: u64) -> Result<(), Refusal> {
        if size > MAX_HELD {
            return Err(damaged(format!("its lists are larger than {}", crate::sizes::limit(MAX_HELD))));
        }
        self.state = State::Buffering { what, bytes: BytesMut::new(), left: size, padding: padded(size) - size };
        if size == 0 {
            self.take_buffered()?;
            self.state = State::Header;
        }
        Ok(())
    }

    /// What was held back is complete.
    fn take_buffered(&mut self) -> Result<(), Refusal> {
        let State::Buffering { what, bytes, .. } = std::mem::replace(&mut self.state, State::Header) else {
            return Ok(());
        };
        let bytes = bytes.freeze();
        match what {
            Buffered::Record(record) => {
                let whole = || Some(until_zero(&bytes).to_vec());
                match record {
                    Record::LongName => self.is_ambiguous |= replaced(&mut self.records.long_name, whole()),
                    Record::LongLink => self.is_ambiguous |= replaced(&mut self.records.long_link, whole()),
                    Record::Pax => self.read_pax(&bytes)?,
                }
            }
            // Whoever reads the archive takes the first.
            Buffered::Docker => self.is_ambiguous |= !first(&mut self.lists.docker, bytes),
            Buffered::Oci => self.is_ambiguous |= !first(&mut self.lists.oci, bytes),
            Buffered::Layout => self.is_ambiguous |= !first(&mut self.lists.layout, bytes),
        }
        Ok(())
    }

    /// `LENGTH KEY=VALUE\n`, of which three change what follows. An empty value takes back what was said for all.
    fn read_pax(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        let broken = || damaged("it has a broken record about an entry");
        let before = std::mem::take(&mut self.records);
        let mut records = Records { long_name: before.long_name, long_link: before.long_link, ..Records::default() };
        self.is_ambiguous |= before.path.is_some() || before.link_path.is_some() || before.size.is_some();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
            let text = std::str::from_utf8(&bytes[..space]).map_err(|_| broken())?;
            let length = text.parse::<usize>().ok().filter(|length| *length > space).ok_or_else(broken)?;
            let record =
                bytes.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(broken)?;
            bytes = &bytes[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let told = || (!value.is_empty()).then(|| until_zero(value).to_vec());
            match key {
                b"path" => self.is_ambiguous |= replaced(&mut records.path, told()),
                b"linkpath" => self.is_ambiguous |= replaced(&mut records.link_path, told()),
                b"size" if value.is_empty() => records.size = None,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    records.size = Some(size.filter(|size| *size < 1 << 62).ok_or_else(broken)?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(damaged("it has a sparse file")),
                _ => {}
            }
        }
        self.records = records;
        Ok(())
    }

    /// The archive has been read to its end. Yields what is to follow.
    pub(super) fn finish(self, out: &mut Vec<Bytes>) -> Result<(), Refusal> {
        match self.state {
            State::Header if self.header.is_empty() && self.any => {}
            State::Over => {}
            _ => return Err(damaged(if self.any { "it ends in the middle" } else { "it is not a tar archive" })),
        }
        for (name, bytes) in only(&self.lists, &self.wanted)? {
            write_file(out, name.as_bytes(), b'0', &bytes);
        }
        out.push(Bytes::from(vec![0; 2 * BLOCK]));
        Ok(())
    }

    /// The archive has been read to its end. Whether it holds one image, and no name but the wanted one.
    pub(super) fn holds_only(self) -> bool {
        let Some(docker) = &self.lists.docker else { return false };
        if self.lists.oci.is_some() || self.is_ambiguous {
            return false;
        }
        let Ok(Value::Array(images)) = serde_json::from_slice::<Value>(docker) else { return false };
        match images.as_slice() {
            [Value::Object(fields)] if !fields.keys().all(|key| DOCKER_KEYS.contains(&key.as_str())) => false,
            [image] => tags_of(image).all(|tag| tag == self.wanted.as_str()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
