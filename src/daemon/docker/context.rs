//! Contexts of Docker's own client (`docker context`): names for Dockers, each with the address of one.
//!
//! The client takes that of `DOCKER_CONTEXT`, else what `currentContext` of its `config.json` says; `default` stands for the Docker
//! of this host. A context is described in `contexts/meta/<SHA-256 of its name>/meta.json` beside that file (docker/cli, `cli/context/store`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::oci::digest::Digest;

/// Why a context says nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ContextError {
    #[error("read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not what Docker writes there: {source}", path = path.display())]
    Format { path: PathBuf, source: serde_json::Error },
    #[error("{by} names the context '{name}' of Docker, which is not there")]
    Missing { name: String, by: String },
}

impl Classified for ContextError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Format { .. } | Self::Missing { .. } => Class::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(
            "`docker context ls` lists them, and `docker context use default` goes back to the Docker of this host"
                .to_owned(),
        )
    }
}

/// A context that was chosen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DockerContext {
    pub(crate) name: String,
    /// The address of its Docker, `unix://…` or of another host.
    pub(crate) host: String,
}

#[derive(Deserialize)]
struct ClientConfig {
    #[serde(default, rename = "currentContext")]
    current: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextMeta {
    endpoints: BTreeMap<String, ContextEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextEndpoint {
    host: String,
}

/// The context that Docker's client takes; `None` where that is `default`. `folder` is the one of its `config.json`.
///
/// # Errors
/// If a file is not readable, or there is no context of that name.
pub(crate) fn context(folder: &Path, asked: Option<&str>) -> Result<Option<DockerContext>, ContextError> {
    let config = folder.join("config.json");
    let (name, by) = match asked.filter(|name| !name.is_empty()) {
        Some(name) => (name.to_owned(), "DOCKER_CONTEXT".to_owned()),
        None => {
            let current = read::<ClientConfig>(&config)?.map(|config| config.current).unwrap_or_default();
            (current, config.display().to_string())
        }
    };
    if name.is_empty() || name == "default" {
        return Ok(None);
    }
    let meta = folder.join("contexts/meta").join(Digest::of(name.as_bytes()).hex()).join("meta.json");
    let endpoint = read::<ContextMeta>(&meta)?.and_then(|mut meta| meta.endpoints.remove("docker"));
    match endpoint {
        Some(ContextEndpoint { host }) => Ok(Some(DockerContext { name, host })),
        None => Err(ContextError::Missing { name, by }),
    }
}

/// What a file says; `None` if it is not there.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, ContextError> {
    let text = match bounded::read(path, Cap::Settings) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ContextError::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| ContextError::Format { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_context_is_the_one_that_the_client_takes() {
        let folder = tempfile::tempdir().unwrap();
        let of = |asked| context(folder.path(), asked);
        assert_eq!(of(None).unwrap(), None);
        fs::write(folder.path().join("config.json"), r#"{"auths":{},"currentContext":"rootless"}"#).unwrap();
        let missing = of(None).unwrap_err().to_string();
        assert!(missing.ends_with("config.json names the context 'rootless' of Docker, which is not there"));
        // As Docker 28 writes it, at the place where it does.
        let meta = "contexts/meta/12b961af5feb3e9d39f93b2cefb9a1a944f18d02cca0cac2f04f5a982240605f";
        let meta = folder.path().join(meta);
        fs::create_dir_all(&meta).unwrap();
        let text = r#"{"Name":"rootless","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///run/user/1/docker.sock","SkipTLSVerify":false}}}"#;
        fs::write(meta.join("meta.json"), text).unwrap();
        let rootless = DockerContext { name: "rootless".to_owned(), host: "unix:///run/user/1/docker.sock".to_owned() };
        assert_eq!(of(None).unwrap().unwrap(), rootless);
        assert_eq!(of(Some("default")).unwrap(), None);
        assert!(of(Some("else")).unwrap_err().to_string().starts_with("DOCKER_CONTEXT names the context 'else'"));
        fs::write(meta.join("meta.json"), "{").unwrap();
        assert!(matches!(of(Some("rootless")), Err(ContextError::Format { .. })));
    }
}
