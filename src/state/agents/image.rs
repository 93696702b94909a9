//! What an agent's image and version may be.

use crate::model::{Sha256Digest, Version};

/// A version is an image's tag (the OCI distribution spec's grammar), a digest, or `latest`.
pub(crate) fn check_version(text: &str) -> Result<Version, String> {
    if text == "latest" {
        return Ok(Version::Latest);
    }
    if let Some(hex) = text.strip_prefix("sha256:") {
        return match Sha256Digest::parse(hex) {
            Ok(digest) => Ok(Version::Exact(format!("sha256:{digest}"))),
            Err(_) => Err(format!("`{text}` is not a digest: expected `sha256:` and 64 hex digits")),
        };
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
        && text.len() <= 128;
    if ok {
        return Ok(Version::Exact(text.to_owned()));
    }
    Err(format!("`{text}` is not a version: it is the image's tag, so letters, digits, `_`, `.` and `-`, at most 128"))
}

/// Checks an image's repository. `pinned`: the version is a digest already, and stays so.
pub(super) fn check_image(text: &str, pinned: bool) -> Result<String, String> {
    let last = text.rsplit('/').next().unwrap_or_default();
    match text.rsplit_once(':') {
        Some((repository, _)) if pinned && last.contains(':') && !text.contains('@') && !text.contains("://") => {
            let repository = check_repository(repository)?;
            Err(format!("`{text}` has a tag, and the version is a digest, which says all: write `image: {repository}`"))
        }
        _ => check_repository(text),
    }
}

pub(crate) fn check_repository(text: &str) -> Result<String, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!("`{text}` is not an image repository: leave `{scheme}://` out, like `image: {rest}`"));
    }
    // A digest stands behind the tag, and says alone which image it is.
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    let last = named.rsplit('/').next().unwrap_or_default();
    let (repository, tag) = match named.rsplit_once(':') {
        Some((repository, tag)) if last.contains(':') => (repository, Some(tag)),
        _ => (named, None),
    };
    if let Some(version) = digest.or(tag) {
        // What is advised must be right itself.
        let repository = check_repository(repository)?;
        check_version(version)?;
        let what = match (digest, tag) {
            (Some(_), Some(_)) => "a tag and a digest",
            (Some(_), None) => "a digest",
            _ => "a tag",
        };
        return Err(format!("`{text}` has {what}: write `image: {repository}` and `version: \"{version}\"`"));
    }
    let (host, path) = match text.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("", text),
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("`{text}` is not an image repository: it must be lower case"));
    }
    let part_ok = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let host_ok = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    if host_ok && text.len() <= 255 && path.split('/').all(part_ok) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not an image repository, like ghcr.io/openclaw/openclaw"))
}

#[cfg(test)]
mod tests {
    use super::{check_repository, check_version};

    /// The `image` and `version` that a message advises.
    fn advised(message: &str) -> (String, String) {
        let between = |from: &str, to: &str| {
            let start = message.find(from).unwrap_or_else(|| panic!("{message}")) + from.len();
            message[start..start + message[start..].find(to).unwrap()].to_owned()
        };
        (between("`image: ", "`"), between("`version: \"", "\""))
    }

    #[test]
    fn what_is_advised_for_a_tag_or_digest_is_right_itself() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, repository, version) in [
            ("ghcr.io/acme/app:1.4".to_owned(), "ghcr.io/acme/app", "1.4"),
            (format!("ghcr.io/acme/app@{digest}"), "ghcr.io/acme/app", digest.as_str()),
            (format!("ghcr.io/acme/app:1.4@{digest}"), "ghcr.io/acme/app", digest.as_str()),
            (format!("127.0.0.1:5000/app:1.4@{digest}"), "127.0.0.1:5000/app", digest.as_str()),
            ("localhost:5000/app:latest".to_owned(), "localhost:5000/app", "latest"),
            ("app:1".to_owned(), "app", "1"),
        ] {
            let message = check_repository(&image).unwrap_err();
            let (said, tagged) = advised(&message);
            assert_eq!((said.as_str(), tagged.as_str()), (repository, version), "{message}");
            assert!(check_repository(&said).is_ok() && check_version(&tagged).is_ok(), "{message}");
        }
        assert!(check_repository("127.0.0.1:5000/app").is_ok(), "a registry's port is no tag");
    }

    #[test]
    fn a_tag_beside_a_digest_is_one_too_many() {
        let message = super::check_image("ghcr.io/acme/app:1.4", true).unwrap_err();
        assert!(message.ends_with("write `image: ghcr.io/acme/app`") && !message.contains("version:"), "{message}");
        assert!(super::check_image("127.0.0.1:5000/app", true).is_ok());
        assert!(super::check_image("ghcr.io/acme/app:1.4", false).unwrap_err().contains("`version: \"1.4\"`"));
    }

    #[test]
    fn no_advice_is_given_that_would_be_refused() {
        for (image, words) in [
            ("ghcr.io/acme/app@sha256:00", "`sha256:00` is not a digest"),
            ("ghcr.io/Acme/app:1", "must be lower case"),
            ("docker://ghcr.io/acme/app:1", "leave `docker://` out"),
            ("app:", "is not a version"),
            ("app@", "is not a version"),
        ] {
            let message = check_repository(image).unwrap_err();
            assert!(message.contains(words) && !message.contains("has a"), "{message}");
        }
    }
}
