//! The filter through which a tarball reaches an engine: of a docker-archive or an OCI archive only the wanted image goes
//! on, without a name. An engine gives an archive's images every name that stands in it, before anybody can look; so what it
//! never sees, it cannot give.
//!
//! What goes on is rewritten, from what was understood of it: a header that says one thing to us and another to the engine
//! (readers of tar differ in which name counts, readers of JSON in which key) never reaches it. The files that list images are
//! held back (they are small), and what is left of them follows at the end. With both kinds of list in one archive, as newer
//! Docker writes them, Docker's counts. A pure push parser: bytes in, bytes out.

use bytes::{Buf, Bytes, BytesMut};
use serde_json::{Map, Value};

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

fn up_to(bytes: &mut Bytes, left: &mut u64) -> Bytes {
    let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= length as u64;
    let piece = bytes.slice(..length);
    bytes.advance(length);
    piece
}

fn after(left: u64, state: impl FnOnce(u64) -> State) -> State {
    if left == 0 { State::Header } else { state(left) }
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal text; or, with the highest bit set, binary.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => {
            let value = rest.iter().try_fold(0u64, |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)))?;
            (value < 1 << 62).then_some(value)
        }
        (first, _) if *first >= 0x80 => None,
        _ => {
            let text = std::str::from_utf8(until_zero(field)).ok()?.trim_matches(' ');
            if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
        }
    }
}

fn has_right_checksum(header: &[u8]) -> bool {
    number(&header[148..156]) == Some(checksum(header))
}

/// The sum of all bytes, with spaces for the sum itself.
fn checksum(header: &[u8]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(&header[..148]) + 8 * u64::from(b' ') + sum(&header[156..])
}

fn name_in(header: &[u8]) -> Vec<u8> {
    let name = until_zero(&header[..100]);
    let prefix = match header[257..263] == *b"ustar\0" {
        true if is_star(header) => until_zero(&header[345..476]),
        true => until_zero(&header[345..500]),
        false => &[],
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// Joerg Schilling's star has times where others have the end of a name.
fn is_star(header: &[u8]) -> bool {
    header[257..263] == *b"ustar\0" && header[508..] == *b"tar\0"
}

/// Sets what may have been set before. Yields whether it was.
fn replaced(place: &mut Option<Vec<u8>>, with: Option<Vec<u8>>) -> bool {
    std::mem::replace(place, with).is_some()
}

/// Sets what has not been set. Yields whether that was so.
fn first(place: &mut Option<Bytes>, bytes: Bytes) -> bool {
    let is_first = place.is_none();
    place.get_or_insert(bytes);
    is_first
}

/// Without `.`, `..` and superfluous slashes, as whoever looks for a file in an archive sees it.
pub(super) fn clean_path(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// One entry, but for its content: in the form that every reader of tar understands alike, with GNU's records for what is long.
fn write_entry(out: &mut Vec<Bytes>, name: &[u8], kind: u8, link: Option<&[u8]>, size: u64) {
    for (what, kind) in [(link.unwrap_or_default(), b'K'), (name, b'L')] {
        if what.len() > NAME {
            write_file(out, b"././@LongLink", kind, &[what, b"\0"].concat());
        }
    }
    out.push(header_of(name, kind, link.unwrap_or_default(), size));
}

fn write_file(out: &mut Vec<Bytes>, name: &[u8], kind: u8, content: &[u8]) {
    out.push(header_of(name, kind, &[], content.len() as u64));
    let mut padded = content.to_vec();
    padded.resize(content.len().next_multiple_of(BLOCK), 0);
    out.push(padded.into());
}

/// Names are cut where they are too long: a record has them whole.
fn header_of(name: &[u8], kind: u8, link: &[u8], size: u64) -> Bytes {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(NAME)]);
    put(100, if kind == b'5' { b"0000755\0" } else { b"0000644\0" });
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    match size < 1 << 33 {
        true => put(124, format!("{size:011o}\0").as_bytes()),
        // What eleven octal digits cannot say is binary.
        false => {
            put(124, &[0x80]);
            put(128, &size.to_be_bytes());
        }
    }
    put(136, b"00000000000\0");
    put(156, &[kind]);
    put(157, &link[..link.len().min(NAME)]);
    put(257, b"ustar  \0");
    let sum = checksum(&header);
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Bytes::copy_from_slice(&header)
}

/// The fields of this object that have these very names.
fn fields(of: &Value, keys: &[&str]) -> Map<String, Value> {
    let field = |key: &&str| Some(((*key).to_owned(), of.get(*key)?.clone()));
    keys.iter().filter_map(field).collect()
}

/// The lists with nothing in them but the wanted image, without a name.
fn only(lists: &Lists, wanted: &ImageRef) -> Result<Vec<(&'static str, Vec<u8>)>, Refusal> {
    let unreadable = |name: &str, why: &dyn std::fmt::Display| damaged(format!("its {name} cannot be read: {why}"));
    if let Some(text) = &lists.docker {
        let images: Vec<Value> = serde_json::from_slice(text).map_err(|err| unreadable("manifest.json", &err))?;
        let names = images.iter().map(|image| tags_of(image).collect());
        let image = &images[pick(names.collect(), wanted)?];
        if !image.is_object() {
            return Err(unreadable("manifest.json", &"it lists no images"));
        }
        let mut image = fields(image, &["Config", "Layers"]);
        image.insert("RepoTags".to_owned(), Value::Null);
        return Ok(vec![("manifest.json", Value::from(vec![Value::Object(image)]).to_string().into_bytes())]);
    }
    let Some(text) = &lists.oci else { return Err(damaged("it has neither manifest.json nor index.json")) };
    let index: Value = serde_json::from_slice(text).map_err(|err| unreadable("index.json", &err))?;
    let Some(images) = index.get("manifests").and_then(Value::as_array) else {
        return Err(unreadable("index.json", &"it lists no manifests"));
    };
    let names: Vec<_> = images.iter().map(annotated_name).collect();
    // The only one is meant whatever it is called: most builders write a tag alone, or nothing.
    let at = match names.len() {
        1 => 0,
        _ => pick(names.into_iter().map(|name| name.into_iter().collect()).collect(), wanted)?,
    };
    let image = fields(&images[at], &["mediaType", "digest", "size", "platform"]);
    let mut index = fields(&index, &["schemaVersion", "mediaType"]);
    index.insert("manifests".to_owned(), Value::from(vec![Value::Object(image)]));
    let index = Value::Object(index);
    let layout = lists.layout.as_ref().map(|layout| ("oci-layout", layout.to_vec()));
    Ok(layout.into_iter().chain([("index.json", index.to_string().into_bytes())]).collect())
}

fn tags_of(image: &Value) -> impl Iterator<Item = &str> {
    image.get("RepoTags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn annotated_name(image: &Value) -> Option<&str> {
    let annotations = image.get("annotations")?;
    let name = |key: &str| annotations.get(key)?.as_str();
    name("io.containerd.image.name").or_else(|| name("org.opencontainers.image.ref.name"))
}

/// Which of an archive's images is the wanted one, by the names of each: the one that is called so, else the only one when it
/// has no name.
fn pick(names: Vec<Vec<&str>>, wanted: &ImageRef) -> Result<usize, Refusal> {
    let exact = |name: &&str| ImageRef::new(*name).is_ok_and(|name| name.qualified() == *wanted);
    let called = names.iter().position(|names| names.iter().any(exact));
    let called = called.or_else(|| names.iter().position(|names| names.iter().any(|name| names_image(name, wanted))));
    match (called, names.as_slice()) {
        (Some(at), _) => Ok(at),
        (None, [none]) if none.is_empty() => Ok(0),
        _ => Err(Refusal::Other(names.into_iter().flatten().map(str::to_owned).collect())),
    }
}

/// Whether a name that stands in an archive may mean this image. A short one is Docker's for its hub, and the one that
/// Podman puts `localhost/` before.
pub fn names_image(name: &str, wanted: &ImageRef) -> bool {
    let Ok(name) = ImageRef::new(name) else { return false };
    let full = name.qualified();
    full == *wanted || full != name && wanted.as_str().strip_prefix("localhost/") == Some(name.as_str())
}

#[cfg(test)]
mod tests;
