//! Who asks: keys from the environment, from a profile, or from the machine's role.
//!
//! `R2_*` and `AWS_*` variables come first, then the files that the AWS command line keeps
//! (<https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html>), of which static keys, region and endpoint are
//! read; what is left is the role of a web identity, a container or a machine, as `object_store` finds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{StoreError, StoreErrorKind};
use crate::model::ids::clean;

/// The largest of such files that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// What is said beside the bucket.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Where the store is. `None`: Amazon's.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// The keys. `None`: a role's, which are still to be asked for.
    pub keys: Option<Keys>,
}

/// A pair of keys.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// Names whose they are.
    pub id: String,
    /// Proves it. Never shown.
    pub secret: String,
    /// Of those that are lent for a while.
    pub token: Option<String>,
}

/// The roles that the environment may name, each by one variable.
const ROLES: [&str; 3] =
    ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];

/// What goes into a request as it is.
const HEADERS: [&str; 10] = [
    "R2_ACCESS_KEY_ID",
    "R2_SECRET_ACCESS_KEY",
    "R2_ACCOUNT_ID",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
];

/// A secret that was pasted often has a line break at its end, and no request could carry it. Its value is not shown.
fn check(name: &str, value: &str) -> Result<(), StoreError> {
    let what = match value.chars().find(|c| !c.is_ascii_graphic()) {
        None => return Ok(()),
        Some('\n' | '\r') => "a line break",
        Some(c) if c.is_whitespace() => "a space",
        Some(_) => "a character that is no ASCII",
    };
    Err(none(&format!("{name} has {what} in it")))
}

impl Account {
    /// Finds it. `endpoint` is what the command line says.
    pub(super) fn find(endpoint: Option<&str>, vars: &BTreeMap<String, String>) -> Result<Self, StoreError> {
        let var = |name: &str| vars.get(name).filter(|value| !value.is_empty()).cloned();
        for name in HEADERS {
            if let Some(value) = var(name) {
                check(name, &value)?;
            }
        }
        let endpoint = endpoint.map(str::to_owned);
        if let Some(keys) = pair(&var, "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", None)? {
            let of_account = || {
                let account = var("R2_ACCOUNT_ID").ok_or_else(|| {
                    none("R2_ACCESS_KEY_ID is set, and neither R2_ACCOUNT_ID nor --endpoint says where its store is")
                })?;
                Ok(format!("https://{account}.r2.cloudflarestorage.com"))
            };
            let endpoint = endpoint.map_or_else(of_account, Ok)?;
            return Ok(Self { endpoint: Some(endpoint), region: Some("auto".to_owned()), keys: Some(keys) });
        }
        let endpoint = endpoint.or_else(|| var("AWS_ENDPOINT_URL_S3")).or_else(|| var("AWS_ENDPOINT_URL"));
        let region = var("AWS_REGION").or_else(|| var("AWS_DEFAULT_REGION"));
        let keys = pair(&var, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", Some("AWS_SESSION_TOKEN"))?;
        if keys.is_some() || ROLES.iter().any(|role| var(role).is_some()) {
            return Ok(Self { endpoint, region, keys });
        }
        let profile = Profile::find(&var)?;
        if let Some(Keys { id, secret, token }) = &profile.keys {
            check("the profile's aws_access_key_id", id)?;
            check("the profile's aws_secret_access_key", secret)?;
            check("the profile's aws_session_token", token.as_deref().unwrap_or_default())?;
        }
        check("the profile's region", profile.region.as_deref().unwrap_or_default())?;
        Ok(Self { endpoint: endpoint.or(profile.endpoint), region: region.or(profile.region), keys: profile.keys })
    }
}

/// Both, or neither.
fn pair(
    var: &impl Fn(&str) -> Option<String>,
    id: &str,
    secret: &str,
    token: Option<&str>,
) -> Result<Option<Keys>, StoreError> {
    match (var(id), var(secret)) {
        (Some(id), Some(secret)) => Ok(Some(Keys { id, secret, token: token.and_then(var) })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(none(&format!("{id} is set, and {secret} is not"))),
        (None, Some(_)) => Err(none(&format!("{secret} is set, and {id} is not"))),
    }
}

fn none(why: &str) -> StoreError {
    StoreError::new(StoreErrorKind::NoCredentials, "no credentials for the store", why)
}

/// What a profile says.
#[derive(Default)]
struct Profile {
    endpoint: Option<String>,
    region: Option<String>,
    keys: Option<Keys>,
}

impl Profile {
    fn find(var: &impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        let home = var("HOME").map(PathBuf::from);
        let file = |name: &str, below: &str| {
            var(name).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".aws").join(below)))
        };
        let named = var("AWS_PROFILE");
        let name = named.as_deref().unwrap_or("default");
        let credentials = match file("AWS_SHARED_CREDENTIALS_FILE", "credentials") {
            Some(path) => section(&path, &[name])?,
            None => None,
        };
        let config = match file("AWS_CONFIG_FILE", "config") {
            Some(path) => section(&path, &[&format!("profile {name}"), name])?,
            None => None,
        };
        if let (Some(name), None, None) = (&named, &credentials, &config) {
            let name = clean(name, 80);
            return Err(none(&format!("AWS_PROFILE is `{name}`, and neither file of the AWS command line has it")));
        }
        let (credentials, config) = (credentials.unwrap_or_default(), config.unwrap_or_default());
        let value = |key: &str| credentials.get(key).or_else(|| config.get(key)).cloned();
        let keys = match (value("aws_access_key_id"), value("aws_secret_access_key")) {
            (Some(id), Some(secret)) => Some(Keys { id, secret, token: value("aws_session_token") }),
            _ => None,
        };
        let unread = ["sso_session", "sso_start_url", "credential_process", "role_arn"];
        if let (None, Some(field)) = (&keys, unread.iter().find(|field| config.contains_key(**field))) {
            let name = clean(name, 80);
            return Err(none(&format!(
                "profile `{name}` has `{field}`, which is not read: `aws configure export-credentials --format env` \
                 turns it into variables that are"
            )));
        }
        Ok(Self { endpoint: value("endpoint_url"), region: value("region"), keys })
    }
}

/// The first of these sections of an INI file. `None` where there is no file, or no such section.
fn section(path: &Path, names: &[&str]) -> Result<Option<BTreeMap<String, String>>, StoreError> {
    let unreadable = |err: &std::io::Error| StoreError::io("read", path, err);
    let text = match std::fs::metadata(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(unreadable(&err)),
        Ok(found) if !found.is_file() || found.len() > MAX_FILE => {
            let err = std::io::Error::other("it is not a regular file of at most 1 MiB");
            return Err(unreadable(&err));
        }
        Ok(_) => std::fs::read_to_string(path).map_err(|err| unreadable(&err))?,
    };
    Ok(names.iter().find_map(|name| read_section(&text, name)))
}

fn read_section(text: &str, wanted: &str) -> Option<BTreeMap<String, String>> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut is_in = false;
    for line in text.lines() {
        // What is indented belongs to a value that has parts, of which none is read.
        let is_indented = line.starts_with([' ', '\t']);
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name) {
            is_in = name.split_whitespace().eq(wanted.split_whitespace());
            if is_in {
                found.get_or_insert_default();
            }
        } else if let (true, false, Some((key, value))) = (is_in, is_indented, line.split_once('=')) {
            let is_comment = line.starts_with(['#', ';']);
            if let (false, Some(found)) = (is_comment, &mut found) {
                found.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(endpoint: Option<&str>, vars: &[(&str, &str)]) -> Result<Account, String> {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Account::find(endpoint, &vars).map_err(|err| {
            assert_eq!(err.kind, StoreErrorKind::NoCredentials);
            err.to_string()
        })
    }

    fn id(account: &Account) -> Option<&str> {
        account.keys.as_ref().map(|keys| keys.id.as_str())
    }

    #[test]
    fn variables_come_before_files_and_r2_before_aws() {
        let aws = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "eu-1")];
        let account = find(Some("http://here"), &aws).ok().unwrap();
        assert_eq!((id(&account), account.region.as_deref()), (Some("a"), Some("eu-1")));
        assert_eq!(account.endpoint.as_deref(), Some("http://here"));
        let r2 = [("R2_ACCOUNT_ID", "acc"), ("R2_ACCESS_KEY_ID", "r"), ("R2_SECRET_ACCESS_KEY", "s")];
        let account = find(None, &[&aws[..], &r2[..]].concat()).ok().unwrap();
        assert_eq!((id(&account), account.region.as_deref()), (Some("r"), Some("auto")));
        assert_eq!(account.endpoint.as_deref(), Some("https://acc.r2.cloudflarestorage.com"));
        assert!(find(None, &r2[1..]).err().unwrap().contains("neither R2_ACCOUNT_ID nor --endpoint"));
        for (value, what) in [("a\n", "a line break"), ("a b", "a space"), ("ä", "no ASCII")] {
            let err = find(None, &[("AWS_ACCESS_KEY_ID", value), ("AWS_SECRET_ACCESS_KEY", "s")]).err().unwrap();
            assert!(err.contains("AWS_ACCESS_KEY_ID has ") && err.contains(what) && !err.contains(value), "{err}");
        }
        let half = find(None, &r2[..2]).err().unwrap();
        assert!(half.ends_with("R2_ACCESS_KEY_ID is set, and R2_SECRET_ACCESS_KEY is not"), "{half}");
    }

    #[test]
    fn a_profile_is_read_as_the_aws_command_line_keeps_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".aws");
        std::fs::create_dir(&dir).unwrap();
        let credentials = "[default]\naws_access_key_id = d\naws_secret_access_key=s\n\n# [x]\n[ work ]\n\
                           aws_access_key_id = w\naws_secret_access_key = a=b\naws_session_token = t\n";
        std::fs::write(dir.join("credentials"), credentials).unwrap();
        let config = "[default]\nregion = us-1\ns3 =\n  region = no\n[profile work]\nregion = eu-9\n\
                      endpoint_url = https://s3.work\n[profile sso]\nsso_session = x\n";
        std::fs::write(dir.join("config"), config).unwrap();
        let at_home = ("HOME", home.path().to_str().unwrap());
        let account = find(None, &[at_home]).ok().unwrap();
        assert_eq!((id(&account), account.region.as_deref()), (Some("d"), Some("us-1")));
        let account = find(None, &[at_home, ("AWS_PROFILE", "work")]).ok().unwrap();
        let keys = account.keys.as_ref().unwrap();
        assert_eq!((&*keys.id, &*keys.secret, keys.token.as_deref()), ("w", "a=b", Some("t")));
        assert_eq!(account.endpoint.as_deref(), Some("https://s3.work"));
        assert!(find(None, &[at_home, ("AWS_PROFILE", "none")]).err().unwrap().contains("AWS_PROFILE is `none`"));
        assert!(find(None, &[at_home, ("AWS_PROFILE", "sso")]).err().unwrap().contains("`sso_session`"));
        let nobody = find(None, &[("HOME", "/nonexistent")]).ok().unwrap();
        assert!(nobody == Account::default());
        let role = [at_home, ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")];
        assert!(find(None, &role).ok().unwrap().keys.is_none(), "a role that is named comes before a profile");
    }
}
