//! Archives as different Podmans save them, and such that are none.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use super::*;

fn digest(bytes: &[u8]) -> String {
    Sha256Digest::of(bytes).to_string()
}

struct Saved {
    files: Vec<(String, Vec<u8>)>,
    links: Vec<(String, String)>,
    mtime: u64,
}

/// As Podman 4.3 saves it.
fn saved(layers: &[&[u8]], arch: &str) -> Saved {
    let names: Vec<_> = layers.iter().map(|layer| format!("{}.tar", digest(layer))).collect();
    let ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", digest(layer))).collect();
    let config =
        json!({"architecture": arch, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}).to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let list = json!([{"Config": config_name, "RepoTags": ["r.example/other:7"], "Layers": names}]).to_string();
    let mut files: Vec<_> = names.into_iter().zip(layers.iter().map(|layer| layer.to_vec())).collect();
    files.dedup();
    files.push((config_name, config.into_bytes()));
    files.push(("repositories".to_owned(), b"{}".to_vec()));
    files.push(("manifest.json".to_owned(), list.into_bytes()));
    Saved { files, links: Vec::new(), mtime: 0 }
}

impl Saved {
    fn build(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(self.mtime);
        for (name, bytes) in &self.files {
            header.set_entry_type(EntryType::Regular);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        for (name, target) in &self.links {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, target).unwrap();
        }
        archive.into_inner().unwrap()
    }
}

/// An archive that is right, for x64.
pub(crate) fn of_one_layer(layer: &[u8]) -> Vec<u8> {
    saved(&[layer], "amd64").build()
}

fn copied(bytes: &[u8]) -> Result<(Vec<u8>, Written), ArchiveError> {
    copy(bytes, Vec::new(), &ImageRef::new("r.example/a:1").unwrap(), Arch::X64, Packing::Gzip)
}

fn files(packed: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(packed).read_to_end(&mut plain).unwrap();
    let mut archive = Archive::new(plain.as_slice());
    let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    };
    archive.entries().unwrap().map(read).collect()
}

#[test]
fn the_layers_stay_and_the_rest_is_ours() {
    let layers: [&[u8]; 3] = [b"one", &[7; 700_000], b""];
    let (packed, written) = copied(&saved(&layers, "amd64").build()).unwrap();
    let files = files(&packed);
    let names: Vec<_> = layers.iter().map(|layer| format!("{}.tar", digest(layer))).collect();
    assert_eq!(files[..3], names.iter().cloned().zip(layers.map(<[u8]>::to_vec)).collect::<Vec<_>>());
    let list: Value = serde_json::from_slice(&files[4].1).unwrap();
    assert_eq!((files[4].0.as_str(), &list[0]["RepoTags"]), ("manifest.json", &json!(["r.example/a:1"])));
    assert_eq!(list[0]["Layers"], json!(names));
    assert_eq!(list[0]["Config"], json!(files[3].0));
    assert_eq!(files.len(), 5);
    assert_eq!(written.size_bytes, packed.len() as u64);
}

/// Another day, another version of Podman with older names beside the new ones, other tags: the same image.
#[test]
fn the_same_image_is_the_same_bytes() {
    let layers: [&[u8]; 2] = [b"one", &[7; 700_000]];
    let one = saved(&layers, "amd64");
    let mut other = saved(&layers, "amd64");
    other.mtime = 1_700_000_000;
    other.links.push((format!("{}/layer.tar", "f".repeat(64)), format!("../{}.tar", digest(b"one"))));
    other.files.insert(2, (format!("{}/VERSION", "f".repeat(64)), b"1.0".to_vec()));
    assert_eq!(copied(&one.build()).unwrap(), copied(&other.build()).unwrap());
}

#[test]
fn an_unchanged_layer_is_the_same_members() {
    let mut noise = vec![0; 5_000_000];
    fastrand::Rng::with_seed(3).fill(&mut noise);
    let (_, old) = copied(&saved(&[&noise, b"app 1"], "amd64").build()).unwrap();
    let (_, new) = copied(&saved(&[b"patch", &noise, b"app 2"], "amd64").build()).unwrap();
    let kept = new.members.iter().filter(|member| old.members.iter().any(|other| other.sha256 == member.sha256));
    assert!(kept.map(|member| member.length).sum::<u64>() > 4_900_000);
}

#[test]
fn layers_by_links_and_by_other_names_are_found() {
    let layers: [&[u8]; 2] = [b"one", b"two"];
    let mut old = saved(&layers, "amd64");
    let list = &mut old.files.last_mut().unwrap().1;
    let mut value: Value = serde_json::from_slice(list).unwrap();
    value[0]["Layers"] = json!(["x/layer.tar", "odd.tar"]);
    *list = value.to_string().into_bytes();
    old.files[1].0 = "odd.tar".to_owned();
    old.links.push(("x/layer.tar".to_owned(), format!("../{}.tar", digest(b"one"))));
    let files = files(&copied(&old.build()).unwrap().0);
    let list: Value = serde_json::from_slice(&files.last().unwrap().1).unwrap();
    assert_eq!(list[0]["Layers"], json!([format!("{}.tar", digest(b"one")), "layer-1.tar"]));
}

#[test]
fn what_is_something_else_is_refused() {
    let refused = |saved: &Saved| copied(&saved.build()).unwrap_err().to_string();
    assert_eq!(
        refused(&saved(&[b"one"], "arm64")),
        "image `r.example/a:1` is built for linux/arm64, not for linux/amd64"
    );
    let whole = || saved(&[b"one", b"two"], "amd64");
    let mut lacks = whole();
    lacks.files.remove(1);
    assert!(refused(&lacks).contains("` is not in it"));
    let mut changed = whole();
    changed.files[1].1 = b"2wo".to_vec();
    assert!(refused(&changed).contains("its layers are not those of its configuration"));
    let mut two = whole();
    let list: Value = serde_json::from_slice(&two.files.last().unwrap().1).unwrap();
    two.files.last_mut().unwrap().1 = json!([list[0], list[0]]).to_string().into_bytes();
    assert!(refused(&two).contains("it has 2 images"));
    let cut = &whole().build()[..700];
    assert!(copied(cut).is_err());
    assert!(copied(b"").unwrap_err().to_string().contains("`manifest.json` is not in it"));
}
