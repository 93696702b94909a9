//! The logins of whoever runs steadfast, for pulls: what `podman login` and `docker login` wrote, read anew for each pull.
//!
//! Podman's service knows its own user's logins and not the client's, so they are passed on, as `podman --remote` does. The
//! files and the order in which they count are those of containers-auth.json(5); helpers (`docker-credential-NAME get`) are
//! asked as Docker asks them. What cannot be read, or a helper that is missing, is warned about, and the pull goes on
//! without.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::files::regular;
use crate::model::{ImageRef, Secrets};

/// How long a helper may take. It may have to ask a keychain, or a cloud.
const HELPER: Duration = Duration::from_secs(30);
/// The largest file of logins that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// What Docker's own files call its hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Whether padding is there is nobody's concern.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where this user's logins stand, the first that counts first.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    files: Vec<PathBuf>,
}

/// A login at one registry. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// By name and password.
    Password {
        /// Who.
        username: String,
        /// Their secret.
        password: String,
    },
    /// By a token that stands for somebody.
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

impl Login {
    /// What bollard makes the header `X-Registry-Auth` of.
    pub(super) fn for_docker(self, registry: String) -> DockerCredentials {
        let serveraddress = Some(registry);
        match self {
            Self::Password { username, password } => DockerCredentials {
                username: Some(username),
                password: Some(password),
                serveraddress,
                ..DockerCredentials::default()
            },
            Self::Token(token) => {
                DockerCredentials { identitytoken: Some(token), serveraddress, ..DockerCredentials::default() }
            }
        }
    }

    /// As a file that holds nothing else.
    pub(super) fn file(&self, registry: &str) -> String {
        let login = match self {
            Self::Password { username, password } => json!({"auth": STANDARD.encode(format!("{username}:{password}"))}),
            Self::Token(token) => {
                json!({"auth": STANDARD.encode("00000000-0000-0000-0000-000000000000:"), "identitytoken": token})
            }
        };
        json!({"auths": {registry: login}}).to_string()
    }

    /// What must not be told of it.
    pub(super) fn secrets(&self) -> Secrets {
        let secret = match self {
            Self::Password { password, .. } => password,
            Self::Token(token) => token,
        };
        let encoded = match self {
            Self::Password { username, password } => STANDARD.encode(format!("{username}:{password}")),
            Self::Token(token) => token.clone(),
        };
        Secrets::new([secret.as_str(), &encoded])
    }
}

/// The registry of an image, as logins name it.
pub(super) fn registry(reference: &ImageRef) -> String {
    let full = reference.qualified();
    full.as_str().split('/').next().unwrap_or_default().to_owned()
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry(..)")
    }
}

impl Entry {
    fn login(&self) -> Option<Login> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Some(Login::Token(token));
        }
        let pair = match given(&self.auth) {
            Some(auth) => {
                let text = String::from_utf8(LENIENT.decode(auth.trim()).ok()?).ok()?;
                let (username, password) = text.split_once(':')?;
                (username.to_owned(), password.trim_matches('\0').to_owned())
            }
            None => (given(&self.username)?, given(&self.password)?),
        };
        let (username, password) = pair;
        (!username.is_empty()).then_some(Login::Password { username, password })
    }
}

impl Logins {
    /// Those of the user with these environment variables: `$REGISTRY_AUTH_FILE` alone where it is set; else
    /// `${XDG_RUNTIME_DIR}/containers/auth.json` (`/run/containers/<uid>/auth.json`), `~/.config/containers/auth.json` and
    /// `~/.docker/config.json`.
    pub fn of(vars: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| vars(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(file) = var("REGISTRY_AUTH_FILE") {
            return Self { files: vec![file] };
        }
        let uid = rustix::process::getuid().as_raw();
        let runtime = var("XDG_RUNTIME_DIR").map(|dir| dir.join("containers"));
        let runtime = runtime.unwrap_or_else(|| PathBuf::from(format!("/run/containers/{uid}")));
        let home = var("HOME");
        let config = var("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = var("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        let files = [
            Some(runtime.join("auth.json")),
            config.map(|config| config.join("containers/auth.json")),
            docker.map(|docker| docker.join("config.json")),
        ];
        Self { files: files.into_iter().flatten().collect() }
    }

    /// The login for an image, where there is one: the first file that has any counts, and in it the most specific entry.
    pub(super) async fn find(&self, reference: &ImageRef) -> Option<Login> {
        for path in &self.files {
            if let Some(file) = read(path)
                && let Some(login) = find_in(&file, path, reference).await
            {
                return Some(login);
            }
        }
        None
    }
}

/// `None` also for what cannot be read, after a warning.
fn read(path: &Path) -> Option<File> {
    let text = match regular::read(path, MAX_BYTES).map_err(std::io::Error::from) {
        Ok(Some(text)) => text,
        Ok(None) => {
            tracing::warn!(file = %path.display(), "logins are larger than any are; pulling without them");
            return None;
        }
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
        Err(err) => {
            tracing::warn!(file = %path.display(), error = %err, "cannot read logins; pulling without them");
            return None;
        }
    };
    if text.trim_ascii().is_empty() {
        return None;
    }
    // What the parser says may repeat a secret.
    serde_json::from_slice(&text)
        .inspect_err(|err| {
            let (line, column) = (err.line(), err.column());
            tracing::warn!(file = %path.display(), line, column, "logins are not JSON as expected; pulling without them");
        })
        .ok()
}

async fn find_in(file: &File, path: &Path, reference: &ImageRef) -> Option<Login> {
    let registry = registry(reference);
    let helper = file.cred_helpers.iter().find(|(name, _)| normal(name) == registry).map(|(_, helper)| helper);
    if let Some(helper) = helper
        && let Some(login) = ask(helper, &registry, path).await
    {
        return Some(login);
    }
    for key in keys(reference) {
        if let Some(login) = file.auths.get(&key).and_then(Entry::login) {
            return Some(login);
        }
    }
    let normal = file.auths.iter().find(|(name, _)| normal(name) == registry);
    if let Some(login) = normal.and_then(|(_, entry)| entry.login()) {
        return Some(login);
    }
    match &file.creds_store {
        // Docker notes in `auths` what is in the store. Without that, the store need not be troubled, or be there at all.
        Some(store) if helper.is_none() && normal.is_some() => ask(store, &registry, path).await,
        _ => None,
    }
}

/// Names an image may be filed under, the most specific first: `reg/ns/repo`, `reg/ns`, `reg`.
fn keys(reference: &ImageRef) -> Vec<String> {
    let full = reference.qualified();
    let name = full.as_str().split('@').next().unwrap_or_default();
    // A colon after the last slash parts the tag; one before it belongs to a port.
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    std::iter::successors(Some(name), |key| Some(key.rsplit_once('/')?.0)).map(str::to_owned).collect()
}

/// A file's key as the registry's name: Docker's are URLs. One with a namespace stays what it is.
fn normal(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let bare = bare.map_or(key, |rest| rest.split('/').next().unwrap_or(rest));
    match bare {
        "index.docker.io" | "registry-1.docker.io" | "registry.docker.io" => "docker.io",
        bare => bare,
    }
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper for a login. One that has none, or cannot be asked, has none; the second is warned about.
async fn ask(helper: &str, registry: &str, file: &Path) -> Option<Login> {
    let is_name = !helper.is_empty() && helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !is_name {
        tracing::warn!(file = %file.display(), "a credential helper has a name that no program has; pulling without it");
        return None;
    }
    let program = format!("docker-credential-{helper}");
    // Docker asks for its hub by an address of its own.
    let names: &[&str] = if registry == "docker.io" { &[DOCKER_HUB, "docker.io"] } else { &[registry] };
    for name in names {
        match tokio::time::timeout(HELPER, run(&program, name)).await {
            Ok(Ok(Some(login))) => return Some(login),
            Ok(Ok(None)) => {}
            failed => {
                let why = match failed {
                    Ok(Err(err)) if err.kind() == std::io::ErrorKind::NotFound => "it is not installed".to_owned(),
                    Ok(Err(err)) => err.to_string(),
                    _ => format!("no answer within {}", humantime::format_duration(HELPER)),
                };
                let file = file.display();
                tracing::warn!(
                    "cannot ask the credential helper `{program}` that `{file}` names for `{registry}`: {why}; pulling without it"
                );
                return None;
            }
        }
    }
    None
}

async fn run(program: &str, name: &str) -> std::io::Result<Option<Login>> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended early tells why by its end.
        let _ = stdin.write_all(format!("{name}\n").as_bytes()).await;
    }
    let ended = child.wait_with_output().await?;
    // Its way to say that it has none.
    if !ended.status.success() {
        return Ok(None);
    }
    let answer: Answer = serde_json::from_slice(&ended.stdout)
        .map_err(|_| std::io::Error::other("its answer is not what a credential helper answers"))?;
    Ok(match (answer.username.as_str(), answer.secret) {
        ("", _) => None,
        ("<token>", token) => Some(Login::Token(token)),
        (_, password) => Some(Login::Password { username: answer.username, password }),
    })
}

#[cfg(test)]
mod tests;
