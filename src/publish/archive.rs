//! A docker-archive as Podman saves it, rewritten so that the same image is the same bytes: on another day, in another
//! directory, by another version of Podman.
//!
//! The layers keep their bytes and their order, and are checked against the image's configuration. Everything else is ours:
//! names, headers, `manifest.json`. Each layer begins a member of its own, behind the one that its header ends.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::Deserialize;
use serde_json::{Value, json};
use tar::{Archive, EntryType, Header};

use super::members::Written;
use super::packing::{Packer, Packing};
use crate::model::{Arch, ImageRef, Sha256Digest, hashing};

/// The largest configuration or list of an archive (8 MiB).
const MAX_HELD: u64 = 8 * 1024 * 1024;

/// Why an archive cannot be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// It cannot be read, or what comes of it cannot be written.
    #[error("cannot copy what Podman saves")]
    Io(#[from] io::Error),
    /// It is no docker-archive of one image.
    #[error("what Podman saved is not a docker-archive of one image: {0}")]
    NotOne(String),
    /// It is built for something else.
    #[error("image `{image}` is built for {found}, not for linux/{wanted}")]
    Architecture {
        /// Its name.
        image: ImageRef,
        /// What its configuration says, e.g. `linux/arm64`.
        found: String,
        /// What was asked for, as images call it.
        wanted: &'static str,
    },
}

/// What images call an architecture.
pub(crate) fn oci_arch(arch: Arch) -> &'static str {
    match arch {
        Arch::Arm64 => "arm64",
        Arch::X64 => "amd64",
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    layers: Vec<String>,
}

/// Copies the archive of one image, which is to be called `image` and built for `arch`.
///
/// # Errors
/// When it is something else, cannot be read, or cannot be written.
pub(crate) fn copy<W: Write>(
    from: impl Read,
    to: W,
    image: &ImageRef,
    arch: Arch,
    packing: Packing,
) -> Result<(W, Written), ArchiveError> {
    let not_one = |why: String| ArchiveError::NotOne(why);
    let mut out = Packer::new(to, packing)?;
    let mut archive = Archive::new(from);
    // Layers go on as they come, under what they hash to; so what lists them is written last.
    let mut layers = BTreeMap::new();
    let mut buffered = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            // An older form of the same archive names layers by links.
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target).rsplit("../").next().unwrap_or_default().to_owned();
                buffered.insert(name, Part::SameAs(target));
                continue;
            }
            _ => continue,
        }
        if name.ends_with(".tar") {
            let layer = write_layer(&mut entry, &name, layers.len(), &mut out)?;
            layers.insert(name, layer);
        } else if entry.size() <= MAX_HELD {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            buffered.insert(name, Part::Bytes(bytes));
        } else {
            return Err(not_one(format!("`{name}` has {} bytes", entry.size())));
        }
    }
    let bytes = |name: &str| match buffered.get(name) {
        Some(Part::Bytes(bytes)) => Ok(bytes),
        _ => Err(not_one(format!("`{name}` is not in it"))),
    };
    let list: Vec<Listed> = serde_json::from_slice(bytes("manifest.json")?).map_err(|err| not_one(err.to_string()))?;
    let [listed] = list.as_slice() else { return Err(not_one(format!("it has {} images", list.len()))) };
    let config = bytes(&listed.config)?;
    let (mut names, mut digests) = (Vec::new(), Vec::new());
    for name in &listed.layers {
        let name = match buffered.get(name) {
            Some(Part::SameAs(target)) => target,
            _ => name,
        };
        let layer = layers.get(name).ok_or_else(|| not_one(format!("`{name}` is not in it")))?;
        names.push(layer.name.clone());
        digests.push(format!("sha256:{}", layer.sha256));
    }
    check_config(config, &digests, image, arch)?;
    out.begin_member()?;
    let config_name = format!("{}.json", Sha256Digest::of(config));
    write_file(&mut out, &config_name, config)?;
    let list = json!([{ "Config": config_name, "RepoTags": [image.as_str()], "Layers": names }]);
    write_file(&mut out, "manifest.json", list.to_string().as_bytes())?;
    out.write_all(&[0; 1024])?;
    Ok(out.finish()?)
}

enum Part {
    Bytes(Vec<u8>),
    SameAs(String),
}

struct Layer {
    /// What it is called in what is written.
    name: String,
    /// What its bytes hash to.
    sha256: Sha256Digest,
}

fn write_layer(
    from: &mut tar::Entry<'_, impl Read>,
    name: &str,
    at: usize,
    out: &mut Packer<impl Write>,
) -> io::Result<Layer> {
    // Podman calls a layer after what it hashes to. What is called otherwise is counted.
    let is_digest = name.strip_suffix(".tar").is_some_and(|name| Sha256Digest::parse(name).is_ok());
    let name = if is_digest { name.to_owned() } else { format!("layer-{at}.tar") };
    let size = from.size();
    out.write_all(header(&name, size)?.as_bytes())?;
    out.begin_member()?;
    let (sha256, copied) = hashing::copy(from, out, |_| {})?;
    if copied < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    pad(out, size)?;
    out.begin_member()?;
    Ok(Layer { name, sha256 })
}

fn check_config(config: &[u8], layers: &[String], image: &ImageRef, arch: Arch) -> Result<(), ArchiveError> {
    let config: Value = serde_json::from_slice(config).map_err(|err| ArchiveError::NotOne(err.to_string()))?;
    let told = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or("unknown");
    let (os, found) = (told("os"), told("architecture"));
    if os != "linux" || found != oci_arch(arch) {
        let (image, found) = (image.clone(), format!("{os}/{found}"));
        return Err(ArchiveError::Architecture { image, found, wanted: oci_arch(arch) });
    }
    let wanted = config.pointer("/rootfs/diff_ids").and_then(Value::as_array).into_iter().flatten();
    match wanted.filter_map(Value::as_str).eq(layers.iter().map(String::as_str)) {
        true => Ok(()),
        false => Err(ArchiveError::NotOne("its layers are not those of its configuration".to_owned())),
    }
}

fn header(name: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

fn write_file(out: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    out.write_all(header(name, bytes.len() as u64)?.as_bytes())?;
    out.write_all(bytes)?;
    pad(out, bytes.len() as u64)
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let padding = size.next_multiple_of(512) - size;
    out.write_all(&[0; 512][..usize::try_from(padding).unwrap_or_default()])
}

#[cfg(test)]
pub(super) mod tests;
