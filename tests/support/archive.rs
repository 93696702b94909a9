//! Small docker-archive tarballs, the same bytes every time: busybox, a web server as agent, and whatever a test adds.

use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// An image to be.
#[derive(Debug, Clone, Default)]
pub struct Image {
    tags: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    command: Option<Vec<String>>,
    /// Further fields of its `config`.
    config: serde_json::Map<String, serde_json::Value>,
    volumes: Vec<String>,
    arch: Option<&'static str>,
    bare: bool,
    compression: Compression,
}

/// Starts an image. Without more it has no name and runs [`AGENT`].
pub fn docker_archive() -> Image {
    Image::default()
}

/// The agent in every image, `/agent`: serves `/www` over HTTP on port 8080 (or `$PORT`), and ends at once on TERM.
pub const AGENT: &str = "#!/bin/sh\n\
    echo \"agent listens on ${PORT:-8080}\"\n\
    trap 'kill $server; exit 0' TERM\n\
    httpd -f -p \"${PORT:-8080}\" -h /www &\n\
    server=$!\n\
    wait $server\n";

impl Image {
    /// Adds a name, as `RepoTags` has it.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds a file, readable by all. Another content makes another image id.
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.trim_start_matches('/').to_owned(), content.into()));
        self
    }

    /// The command instead of the agent.
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = Some(words.iter().map(|word| (*word).to_owned()).collect());
        self
    }

    /// A further field of the image's `config`, as `Healthcheck` is one.
    pub fn config(mut self, field: &str, value: serde_json::Value) -> Self {
        self.config.insert(field.to_owned(), value);
        self
    }

    /// Declares a volume.
    pub fn volume(mut self, target: &str) -> Self {
        self.volumes.push(target.to_owned());
        self
    }

    /// Says that it is built for this architecture, in Go's word.
    pub fn arch(mut self, arch: &'static str) -> Self {
        self.arch = Some(arch);
        self
    }

    /// With nothing in it but one program, `/busybox`, and what a test adds: no shell, no directory.
    pub fn bare(self) -> Self {
        Self { bare: true, ..self }.command(&["/busybox", "sleep", "1000"])
    }

    /// Compresses the archive.
    pub fn compress(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The archive's bytes.
    pub fn build(&self) -> Vec<u8> {
        let layer = self.layer();
        let diff_id = hex(&Sha256::digest(&layer));
        let command = self.command.clone().unwrap_or_else(|| vec!["/agent".to_owned()]);
        let mut config = serde_json::json!({
            "architecture": self.arch.unwrap_or(if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Cmd": command, "Env": ["PATH=/bin", "BUILT=yes"], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "test" }],
        });
        for (field, value) in &self.config {
            config["config"][field] = value.clone();
        }
        if !self.volumes.is_empty() {
            config["config"]["Volumes"] =
                self.volumes.iter().map(|volume| (volume.clone(), serde_json::json!({}))).collect();
        }
        let config = config.to_string().into_bytes();
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{diff_id}/layer.tar");
        let tags = if self.tags.is_empty() { serde_json::Value::Null } else { serde_json::json!(self.tags) };
        let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": tags, "Layers": [layer_name] }]);

        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, &config_name, 0o644, &config);
        append(&mut archive, &layer_name, 0o644, &layer);
        append(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
        compress(archive.into_inner().expect("a Vec takes every byte"), self.compression)
    }

    /// The image id that loading it yields: the digest of its config.
    pub fn id(&self) -> String {
        let plain = Self { compression: Compression::None, ..self.clone() }.build();
        let mut archive = tar::Archive::new(plain.as_slice());
        let first = archive.entries().expect("an archive").next().expect("an entry").expect("readable");
        let name = first.path().expect("a path").display().to_string();
        name.trim_end_matches(".json").to_owned()
    }

    /// Writes the archive and yields its sha256 in hex.
    pub fn write(&self, path: &Path) -> String {
        let bytes = self.build();
        std::fs::write(path, &bytes).expect("the archive is written");
        hex(&Sha256::digest(&bytes))
    }

    fn layer(&self) -> Vec<u8> {
        let busybox = std::fs::read(super::busybox()).expect("busybox is readable");
        let mut layer = tar::Builder::new(Vec::new());
        if self.bare {
            append(&mut layer, "busybox", 0o755, &busybox);
            self.files.iter().for_each(|(path, content)| append(&mut layer, path, 0o644, content));
            return layer.into_inner().expect("a Vec takes every byte");
        }
        for directory in ["bin/", "etc/", "tmp/", "www/", "proc/", "sys/", "dev/"] {
            let mut header = header(tar::EntryType::Directory, 0o755, 0);
            layer.append_data(&mut header, directory, std::io::empty()).expect("a Vec takes every byte");
        }
        append(&mut layer, "bin/busybox", 0o755, &busybox);
        for tool in [
            "cat", "echo", "false", "httpd", "kill", "ls", "printf", "sh", "sleep", "true", "wget", "head", "env",
            "touch",
        ] {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            layer.append_link(&mut header, format!("bin/{tool}"), "busybox").expect("a Vec takes every byte");
        }
        append(&mut layer, "agent", 0o755, AGENT.as_bytes());
        append(&mut layer, "www/index.html", 0o644, b"hello from the agent\n");
        for (path, content) in &self.files {
            append(&mut layer, path, 0o644, content);
        }
        layer.into_inner().expect("a Vec takes every byte")
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(to: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
    to.append_data(&mut header, path, content).expect("a Vec takes every byte");
}

fn compress(plain: Vec<u8>, how: Compression) -> Vec<u8> {
    match how {
        Compression::None => plain,
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain).expect("a Vec takes every byte");
            encoder.finish().expect("a Vec takes every byte")
        }
        Compression::Zstd => zstd::encode_all(plain.as_slice(), 1).expect("a Vec takes every byte"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
