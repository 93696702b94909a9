//! Files on their way into a guest: one archive that is written while it is sent, and the digests of what was sent.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::gather::stamp_of;
use super::git::Git;
use super::hex;
use super::source::Content;
use crate::backend::{ByteStream, written};
use crate::mutex::guard;

/// How much is handed on at once, in bytes.
const PIECE: usize = 256 << 10;

/// Something in the archive.
#[derive(Debug)]
pub(super) enum Item {
    /// A directory.
    Dir { path: String, mode: u32 },
    /// A file. Its digest is told under this number.
    File { path: String, mode: u32, content: Content, number: usize },
}

impl Item {
    /// The same again, when it is a directory.
    fn as_dir(&self) -> Option<Self> {
        match self {
            Self::Dir { path, mode } => Some(Self::Dir { path: path.clone(), mode: *mode }),
            Self::File { .. } => None,
        }
    }
}

/// What was sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// In hex, by number.
    pub(super) digests: Vec<(usize, String)>,
    /// Bytes of files.
    pub(super) bytes: u64,
}

/// How long nothing is sent while more is waited for: less than a transfer may stand still.
const QUIET: Duration = Duration::from_secs(20);

/// The archive of these and of what comes later, all of this owner, and what will have been sent once it was read to its end. What
/// comes later comes once, or the archive breaks off.
pub(super) fn stream(
    items: Vec<Item>,
    later: Option<Receiver<Vec<Item>>>,
    owner: (u32, u32),
) -> (ByteStream, Arc<Mutex<Sent>>) {
    let sent = Arc::new(Mutex::new(Sent::default()));
    let tell = sent.clone();
    let archive = written(PIECE, move |out| {
        let mut archive = begin(out, owner, &tell)?;
        let aside = items.iter().rev().find_map(Item::as_dir);
        archive.write(items)?;
        if let Some(later) = later {
            archive.write_later(&later, aside)?;
        }
        archive.archive.into_inner()?.flush()
    });
    (archive, sent)
}

struct Archive<'a, W: Write> {
    archive: tar::Builder<W>,
    owner: (u32, u32),
    sent: &'a Mutex<Sent>,
}

fn begin<W: Write>(out: W, owner: (u32, u32), sent: &Mutex<Sent>) -> io::Result<Archive<'_, W>> {
    Ok(Archive { archive: tar::Builder::new(out), owner, sent })
}

impl<W: Write> Archive<'_, W> {
    /// Waits for what comes later. A directory that is there already is said again meanwhile, so that something moves.
    fn write_later(&mut self, later: &Receiver<Vec<Item>>, aside: Option<Item>) -> io::Result<()> {
        loop {
            match later.recv_timeout(QUIET) {
                Ok(items) => return self.write(items),
                Err(RecvTimeoutError::Timeout) => self.write(aside.iter().filter_map(Item::as_dir).collect())?,
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the rest of it did not come")),
            }
        }
    }

    fn write(&mut self, items: Vec<Item>) -> io::Result<()> {
        let (uid, gid) = self.owner;
        let (archive, sent) = (&mut self.archive, self.sent);
        let mut blobs = Blobs::default();
        let header = |kind, mode, size| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(size);
            header.set_uid(uid.into());
            header.set_gid(gid.into());
            header
        };
        for item in items {
            match item {
                Item::Dir { path, mode } => {
                    let mut header = header(tar::EntryType::Directory, mode, 0);
                    header.set_mtime(now());
                    archive.append_data(&mut header, path, io::empty())?;
                }
                Item::File { path, mode, content, number } => {
                    let mut append = |size: u64, mtime: u64, from: &mut dyn Read| {
                        let mut header = header(tar::EntryType::Regular, mode, size);
                        header.set_mtime(mtime);
                        let mut hashing = Hashing { from, hash: Sha256::new(), left: size };
                        archive.append_data(&mut header, &path, &mut hashing)?;
                        let mut sent = guard(sent);
                        sent.digests.push((number, hex(&hashing.hash.finalize())));
                        sent.bytes += size;
                        io::Result::Ok(())
                    };
                    match &content {
                        Content::None => append(0, now(), &mut io::empty())?,
                        Content::Disk(file, stamp) => {
                            let mut opened = open(file, stamp.ino).map_err(|err| about(file, &err))?;
                            let mtime = u64::try_from(stamp.mtime / 1_000_000_000).unwrap_or_default();
                            let size = opened.metadata()?.len();
                            append(size, mtime, &mut opened).map_err(|err| about(file, &err))?;
                        }
                        Content::Blob(checkout, oid) => {
                            blobs.read(checkout, oid, |size, from| append(size, now(), from))?
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn about(file: &Path, err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), format!("`{}`: {err}", file.display()))
}

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// Opens the file that was looked at, and no other that took its name since.
fn open(path: &Path, ino: u64) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let file = File::options().read(true).custom_flags(flags as i32).open(path)?;
    let found = file.metadata()?;
    if found.is_file() && stamp_of(&found).ino == ino {
        return Ok(file);
    }
    Err(io::Error::other("it was replaced while the workspace was being prepared; prepare it again"))
}

/// Reads exactly what was announced.
struct Hashing<'a> {
    from: &'a mut dyn Read,
    hash: Sha256,
    left: u64,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let read = self.from.read(buffer)?;
        if read == 0 {
            return Err(io::Error::other("it became shorter while it was read; prepare the workspace again"));
        }
        self.hash.update(buffer.get(..read).unwrap_or_default());
        self.left -= read as u64;
        Ok(read)
    }
}

/// The digest of a file here, in hex.
pub(super) fn digest(content: &Content) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut copy = |from: &mut dyn Read| {
        let mut piece = vec![0; PIECE];
        loop {
            match from.read(&mut piece)? {
                0 => return io::Result::Ok(()),
                read => hash.update(piece.get(..read).unwrap_or_default()),
            }
        }
    };
    match content {
        Content::None => {}
        Content::Disk(file, stamp) => {
            open(file, stamp.ino).and_then(|mut file| copy(&mut file)).map_err(|err| about(file, &err))?
        }
        Content::Blob(checkout, oid) => Blobs::default().read(checkout, oid, |_, from| copy(from))?,
    }
    Ok(hex(&hash.finalize()))
}

/// Objects of one repository after the other, each from one `git cat-file`.
#[derive(Default)]
struct Blobs {
    of: Option<(Arc<Path>, Batch)>,
}

struct Batch {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Blobs {
    fn read(
        &mut self,
        checkout: &Arc<Path>,
        oid: &str,
        take: impl FnOnce(u64, &mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.of.as_ref().is_none_or(|(of, _)| of != checkout) {
            let mut command = Git::of_source(checkout).command(&["cat-file", "--batch"]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
            let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
            self.of = Some((checkout.clone(), Batch { child, out: BufReader::with_capacity(PIECE, out) }));
        }
        let Some((_, batch)) = &mut self.of else { return Ok(()) };
        let stdin = batch.child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{oid}")?;
        stdin.flush()?;
        let mut head = String::new();
        batch.out.read_line(&mut head)?;
        let size = head.trim_end().strip_prefix(&format!("{oid} blob ")).and_then(|size| size.parse().ok());
        let Some(size) = size else {
            return Err(io::Error::other(format!("object {oid} cannot be had from `{}`", checkout.display())));
        };
        let mut blob = (&mut batch.out).take(size);
        take(size, &mut blob)?;
        io::copy(&mut blob, &mut io::sink())?;
        let mut end = [0];
        batch.out.read_exact(&mut end)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
