//! Podman's command line on a place of our own: pushing. Its API (4.3) does not tell the digest of what it pushed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Throwaway;
use crate::backend::command::{self, RunError};
use crate::backend::podman::{auth, error};
use crate::backend::{EngineError, EngineErrorKind};
use crate::model::{ImageId, ImageRef, Secrets, Sha256Digest};

/// How long one push may take.
const PUSH: Duration = Duration::from_secs(60 * 60);
/// How long what is asked of a registry, or done here alone, may take.
const ASK: Duration = Duration::from_secs(5 * 60);

/// Where to push, and how.
#[derive(Debug, Clone, Copy)]
pub struct PushTo<'a> {
    /// The name it gets there.
    pub reference: &'a ImageRef,
    /// Whether the registry must speak TLS, with a certificate that is trusted.
    pub tls_verify: bool,
}

impl Throwaway {
    /// Pushes an image. Yields the digest of its manifest there.
    ///
    /// # Errors
    /// What Podman or the registry says.
    pub async fn push(&self, image: &ImageId, to: PushTo<'_>) -> Result<Sha256Digest, EngineError> {
        let what = format!("push `{}`", to.reference);
        let file = self.digest_file();
        let destination = format!("docker://{}", to.reference);
        let words = ["push", "--digestfile", &file.display().to_string(), image.as_str(), &destination];
        self.run(&what, &words, Some(to), PUSH).await?;
        read_digest(&what, &file)
    }

    /// Pushes a list of images that are in the same repository already. Yields the list's own digest.
    ///
    /// # Errors
    /// As [`Throwaway::push`].
    pub async fn push_list(&self, of: &[String], to: PushTo<'_>) -> Result<Sha256Digest, EngineError> {
        let what = format!("push the list of images `{}`", to.reference);
        // A name that is nobody's, and that nothing keeps: the next tarball is to be alone again.
        let name = format!("localhost/list-{:08x}:1", fastrand::u32(..));
        let pushed = self.push_named(&what, &name, of, to).await;
        let removed = self.run(&what, &["rmi", "--force", &name], None, ASK).await;
        pushed.and_then(|digest| removed.map(|()| digest))
    }

    async fn push_named(
        &self,
        what: &str,
        name: &str,
        of: &[String],
        to: PushTo<'_>,
    ) -> Result<Sha256Digest, EngineError> {
        self.run(what, &["manifest", "create", name], None, ASK).await?;
        for image in of {
            self.run(what, &["manifest", "add", name, &format!("docker://{image}")], Some(to), ASK).await?;
        }
        let file = self.digest_file();
        let destination = format!("docker://{}", to.reference);
        let digest = file.display().to_string();
        let words = ["manifest", "push", "--all=false", "--digestfile", &digest, name, &destination];
        self.run(what, &words, Some(to), PUSH).await?;
        read_digest(what, &file)
    }

    fn digest_file(&self) -> PathBuf {
        self.place.dir().join(format!("digest-{:08x}", fastrand::u32(..)))
    }

    /// Runs a command that may speak to the registry of `to`, with the login there is for it.
    async fn run(
        &self,
        what: &str,
        words: &[&str],
        to: Option<PushTo<'_>>,
        limit: Duration,
    ) -> Result<(), EngineError> {
        let shown = format!("podman {}", words.join(" "));
        let failed = |kind, why: String| EngineError {
            command: Some(shown.clone()),
            ..EngineError::new(kind, format!("failed to {what}: {why}"))
        };
        let mut command = self.place.podman();
        // The verb first, then flags; what follows them is names.
        let verb = if words.first() == Some(&"manifest") { 2 } else { 1 };
        let (verb, rest) = words.split_at(verb);
        command.args(verb);
        let mut secrets = Secrets::default();
        let mut logins = None;
        if let Some(to) = to {
            let registry = auth::registry(to.reference);
            let login = self.logins.find(to.reference).await;
            secrets = login.as_ref().map(auth::Login::secrets).unwrap_or_default();
            let text = login.map_or_else(|| r#"{"auths": {}}"#.to_owned(), |login| login.file(&registry));
            let path = self.place.dir().join(format!("auth-{:08x}", fastrand::u32(..)));
            write_secret(&path, &text).map_err(|err| failed(EngineErrorKind::Unknown, err.to_string()))?;
            command.arg("--authfile").arg(&path).arg(format!("--tls-verify={}", to.tls_verify));
            logins = Some(path);
        }
        command.args(rest);
        let ran = command::run(command.into(), &[], limit).await;
        if let Some(path) = logins {
            let _ = fs::remove_file(path);
        }
        match ran {
            Ok(output) if output.code == Some(0) => Ok(()),
            Ok(output) => {
                let err = error::of_registry(what, &shown, output.code, &output.stderr);
                Err(err.hiding(&secrets))
            }
            Err(RunError::Io(err)) => Err(failed(EngineErrorKind::Unknown, format!("`podman` cannot be run ({err})"))),
            Err(RunError::TimedOut) => {
                let limit = humantime::format_duration(limit);
                Err(failed(EngineErrorKind::Timeout, format!("it was not done within {limit}")))
            }
            Err(RunError::TooMuch) => {
                Err(failed(EngineErrorKind::Unknown, "Podman's output is longer than what is read".to_owned()))
            }
        }
    }
}

/// Nobody but its owner may read it, from the first byte on.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn read_digest(what: &str, file: &Path) -> Result<Sha256Digest, EngineError> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let digest = text.trim().strip_prefix("sha256:").and_then(|hex| Sha256Digest::parse(hex).ok());
    digest.ok_or_else(|| {
        EngineError::new(EngineErrorKind::Unknown, format!("failed to {what}: Podman does not tell its digest"))
    })
}
