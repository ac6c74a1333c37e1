//! The logins of the user: Podman's `auth.json`, Docker's `config.json`, and the helpers that these name.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::location::familiar_host;

use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};

/// A secret. It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides this.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A login, and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// What the registry is told.
    pub(crate) login: Login,
    /// The file or helper, for messages.
    pub(crate) source: String,
}

/// What a login consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// A name and a password.
    Password {
        user: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token.
    Identity(Secret),
}

/// Why the login of a registry could not be read. A login that is not there is no error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// What is in it.
    #[error("{path}: no file of logins: {reason}", path = path.display())]
    Malformed {
        path: PathBuf,
        /// What is wrong, and nothing of what is there.
        reason: String,
    },
    /// A helper that is not installed, or does not run.
    #[error("{path}: the login of {host} is kept by {program}, which cannot be run: {source}", path = path.display())]
    NoHelper {
        /// The file that names it.
        path: PathBuf,
        /// The registry.
        host: String,
        program: String,
        source: io::Error,
    },
    /// A helper that failed.
    #[error("{path}: {program} gave no login for {host}: {reason}", path = path.display())]
    Helper {
        /// The file that names it.
        path: PathBuf,
        /// The registry.
        host: String,
        program: String,
        /// What it said.
        reason: String,
    },
}

impl Classified for CredentialsError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } | Self::NoHelper { source, .. } => source.class(),
            Self::Malformed { .. } | Self::Helper { .. } => Class::Failed,
        }
    }
}

/// `auth.json` and `config.json`, what is read of them.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: BTreeMap<String, Option<CredentialsEntry>>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CredentialsEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What `docker-credential-NAME get` prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// The login for a repository, from the first of these files that has one.
///
/// In a file, the helper of the registry comes first, then the login of the longest part of `HOST/a/b` that it has one
/// for (containers-auth.json(5)), then the helper of all registries.
///
/// # Errors
/// If a file or a helper is there and cannot be used: what comes after it would be another user's login.
pub(crate) fn find(files: &[PathBuf], host: &str, repository: &str) -> Result<Option<Credentials>, CredentialsError> {
    for path in files {
        let Some(file) = read(path)? else { continue };
        let helper = file.cred_helpers.iter().find(|(key, _)| normal(key) == host);
        if let Some((_, helper)) = helper.filter(|(_, helper)| !helper.is_empty()) {
            if let Some(found) = ask_helper(path, helper, host)? {
                return Ok(Some(found));
            }
            continue;
        }
        if let Some(found) = look_up(path, &file.auths, host, repository)? {
            return Ok(Some(found));
        }
        if !file.creds_store.is_empty()
            && let Some(found) = ask_helper(path, &file.creds_store, host)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<AuthFile>, CredentialsError> {
    let text = match bounded::read(path, Cap::Settings) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(source) => return Err(CredentialsError::Read { path: path.to_owned(), source }),
    };
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // serde_json's own sentence may quote what it did not expect.
    let place = |error: serde_json::Error| format!("line {}, column {}", error.line(), error.column());
    serde_json::from_slice(&text).map(Some).map_err(|error| malformed(path, place(error)))
}

fn malformed(path: &Path, reason: String) -> CredentialsError {
    CredentialsError::Malformed { path: path.to_owned(), reason }
}

/// `HOST/a/b`, `HOST/a`, `HOST`: the first that the file has something for.
fn look_up(
    path: &Path,
    auths: &BTreeMap<String, Option<CredentialsEntry>>,
    host: &str,
    repository: &str,
) -> Result<Option<Credentials>, CredentialsError> {
    let mut name = format!("{host}/{repository}");
    loop {
        // Several keys may mean the same; the first that has a login is it.
        for (key, entry) in auths.iter().filter(|(key, _)| normal(key) == name) {
            if let Some(login) = entry.as_ref().map_or(Ok(None), |entry| login(path, key, entry))? {
                return Ok(Some(Credentials { login, source: path.display().to_string() }));
            }
        }
        match name.rfind('/') {
            Some(end) => name.truncate(end),
            None => return Ok(None),
        }
    }
}

fn login(path: &Path, key: &str, entry: &CredentialsEntry) -> Result<Option<Login>, CredentialsError> {
    if let Some(token) = entry.identitytoken.as_deref().filter(|token| !token.is_empty()) {
        return Ok(Some(Login::Identity(Secret::new(token))));
    }
    if let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
        let decoded = STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        // Docker pads the password with zero bytes.
        let pair = decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
        let Some((user, password)) = pair else {
            return Err(malformed(path, format!("the auth of '{key}' is not the base64 of USER:PASSWORD")));
        };
        return Ok(Some(password_of(user, password)));
    }
    let pair = entry.username.as_deref().zip(entry.password.as_deref());
    Ok(pair.filter(|(user, _)| !user.is_empty()).map(|(user, password)| password_of(user, password)))
}

fn password_of(user: &str, password: &str) -> Login {
    Login::Password { user: user.to_owned(), password: Secret::new(password) }
}

/// What a key of such a file means: `HOST` or `HOST/a/b`. Docker's keys may be URLs, of which the host counts.
fn normal(key: &str) -> String {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = rest.unwrap_or(key).split_once('/').unwrap_or((rest.unwrap_or(key), ""));
    let host = familiar_host(host);
    let path = path.trim_end_matches('/');
    if rest.is_some() || matches!(path, "" | "v1" | "v2") { host } else { format!("{host}/{path}") }
}

/// Asks `docker-credential-NAME`, as a program of its own and without a shell. `None` if it has no login.
fn ask_helper(path: &Path, name: &str, host: &str) -> Result<Option<Credentials>, CredentialsError> {
    let program = format!("docker-credential-{name}");
    if name.contains('/') {
        return Err(malformed(path, format!("'{name}' is not a name of a helper")));
    }
    let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
    let no_helper = |source| CredentialsError::NoHelper {
        path: path.to_owned(),
        host: host.to_owned(),
        program: program.clone(),
        source,
    };
    let failed = |reason: String| CredentialsError::Helper {
        path: path.to_owned(),
        host: host.to_owned(),
        program: program.clone(),
        reason,
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_helper)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it ends with what it has to say.
        drop(writeln!(stdin, "{server}"));
    }
    let output = child.wait_with_output().map_err(no_helper)?;
    if !output.status.success() {
        // Helpers say this on standard output.
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("it ended with {}", output.status)));
    }
    let helped: Helped =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("it printed something else".to_owned()))?;
    if helped.secret.is_empty() {
        return Ok(None);
    }
    let login = match helped.username.as_str() {
        "<token>" => Login::Identity(Secret::new(helped.secret)),
        user => password_of(user, &helped.secret),
    };
    Ok(Some(Credentials { login, source: program }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, host: &str, repository: &str) -> Result<Option<String>, CredentialsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auth.json");
        std::fs::write(&path, json).unwrap();
        let files = [folder.path().join("missing.json"), path];
        Ok(find(&files, host, repository)?.map(|found| match found.login {
            Login::Password { user, password } => format!("{user}:{}", password.expose()),
            Login::Identity(token) => format!("token:{}", token.expose()),
        }))
    }

    fn auth(user: &str) -> String {
        STANDARD.encode(format!("{user}:pa:ss"))
    }

    #[test]
    fn the_longest_key_decides() {
        let json = format!(
            r#"{{"auths":{{"quay.io":{{"auth":"{}"}},"quay.io/org":{{"auth":"{}"}},"quay.io/org/x":{{"auth":"{}"}}}}}}"#,
            auth("host"),
            auth("org"),
            auth("x")
        );
        for (repository, user) in
            [("a", "host"), ("org/y", "org"), ("org/x", "x"), ("org/x/z", "x"), ("organ/x", "host")]
        {
            assert_eq!(found(&json, "quay.io", repository).unwrap(), Some(format!("{user}:pa:ss")), "{repository}");
        }
        assert_eq!(found(&json, "ghcr.io", "org/x").unwrap(), None);
        assert_eq!(found(&json, "quay.io:443", "org/x").unwrap(), None);
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in ["https://index.docker.io/v1/", "index.docker.io/v1/", "docker.io", "registry-1.docker.io"] {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"{}"}}}}}}"#, auth("me"));
            assert_eq!(found(&json, "docker.io", "library/redis").unwrap().as_deref(), Some("me:pa:ss"), "{key}");
        }
    }

    #[test]
    fn tokens_and_empty_entries() {
        let json = r#"{"auths":{"a.b":{"auth":"","identitytoken":"t"},"c.d":{},"e.f":null},"credsStore":""}"#;
        assert_eq!(found(json, "a.b", "x").unwrap().as_deref(), Some("token:t"));
        assert_eq!(found(json, "c.d", "x").unwrap(), None);
        assert_eq!(found(json, "e.f", "x").unwrap(), None);
        assert_eq!(found("", "e.f", "x").unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_told_without_the_secret() {
        let hidden = STANDARD.encode("hunter2");
        for json in [
            format!(r#"{{"auths":{{"a.b":{{"auth":"{hidden}"}}}}}}"#),
            r#"{"auths":{"a.b":{"auth":"hunter2!"}}}"#.to_owned(),
            r#"{"auths":{"a.b":"hunter2"}}"#.to_owned(),
            r#"{"auths":{"a.b":{"auth":"hunter2""#.to_owned(),
            r#"{"credHelpers":{"a.b":"../../hunter"}}"#.to_owned(),
            r#"{"credsStore":"windlass-has-no-such-helper"}"#.to_owned(),
        ] {
            let error = found(&json, "a.b", "x").unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "(secret)");
    }
}
