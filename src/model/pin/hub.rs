//! Hugging Face: which commit a revision is, and which files that has. The files' digests are known before any of them
//! is downloaded, where they are large: the LFS oid of a file is its SHA-256.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::source::is_commit;
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::names::RelativePath;
use crate::oci::digest::Digest;
use crate::registry::error::RegistryError;
use crate::registry::web::{Web, escaped_path};

/// The largest answer that is read.
const MAX_ANSWER: u64 = 16 << 20;
/// Pages of a list of files; each has a thousand.
const MAX_PAGES: usize = 200;

/// Why Hugging Face did not say it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HubError {
    /// It did not answer, or not well.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is not for everybody.
    #[error(
        "{host} does not give {repo} to {}: it is private or gated, or there is no such repository; accept its terms at {page}, then {}",
        if *token { "the owner of this token" } else { "everybody" },
        if *token { "run this again, or set HF_TOKEN to a token that may read it" } else { "set HF_TOKEN to a token of your account and run this again" }
    )]
    Gated {
        /// Hugging Face's host.
        host: String,
        /// `ORG/REPO`.
        repo: String,
        /// The page of the repository.
        page: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// No such repository, or no such revision of it.
    #[error("{host} has no {repo} with a revision '{revision}'; see {page}")]
    Missing {
        /// Hugging Face's host.
        host: String,
        /// `ORG/REPO`.
        repo: String,
        /// What was asked for.
        revision: String,
        /// The page of the repository.
        page: String,
    },
    /// An answer that its API does not give.
    #[error("{address}: no answer of Hugging Face's API: {reason}")]
    Answer {
        /// What was asked.
        address: String,
        reason: String,
    },
}

impl Classified for HubError {
    fn class(&self) -> Class {
        match self {
            Self::Registry(error) => error.class(),
            Self::Gated { .. } => Class::Environment,
            Self::Missing { .. } | Self::Answer { .. } => Class::Failed,
        }
    }
}

/// Hugging Face, or what stands in for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hub<'a> {
    /// `https://huggingface.co`, without a slash at the end.
    pub(crate) endpoint: &'a str,
    /// How to talk to it; its options have the token.
    pub(crate) web: &'a Web,
    /// Whether they have one.
    pub(crate) token: bool,
}

/// A revision of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revision {
    /// Its commit.
    pub(crate) commit: String,
    /// The licence that its page says, in Hugging Face's words.
    pub(crate) licence: Option<String>,
    /// What such a licence is called, if it is `other`.
    pub(crate) licence_name: Option<String>,
}

/// A file of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HubFile {
    pub(crate) size: u64,
    /// Its digest, for large files.
    pub(crate) digest: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HubInfo {
    sha: String,
    #[serde(default)]
    card_data: Option<HubCard>,
}

#[derive(Deserialize, Default)]
struct HubCard {
    #[serde(default)]
    license: serde_json::Value,
    #[serde(default)]
    license_name: serde_json::Value,
}

#[derive(Deserialize)]
struct HubEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub<'_> {
    /// The address of a file of a commit.
    #[must_use]
    pub(crate) fn file_address(&self, repo: &str, commit: &str, path: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, escaped_path(path))
    }

    /// What a revision is now.
    ///
    /// # Errors
    /// See [`HubError`].
    pub(crate) fn revision(&self, repo: &str, revision: &str, progress: &Progress) -> Result<Revision, HubError> {
        // A `/` in a revision is escaped like anything else.
        let escaped = escaped_path(revision).replace('/', "%2F");
        let address = format!("{}/api/models/{repo}/revision/{escaped}", self.endpoint);
        let (info, _): (HubInfo, _) =
            self.read(&address, progress).map_err(|error| self.explain(error, repo, Some(revision)))?;
        if !is_commit(&info.sha) || (is_commit(revision) && info.sha != revision) {
            return Err(HubError::Answer { address, reason: format!("'{}' is not the commit", info.sha) });
        }
        let card = info.card_data.unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Revision { commit: info.sha, licence: text(&card.license), licence_name: text(&card.license_name) })
    }

    /// The files of a commit.
    ///
    /// # Errors
    /// See [`HubError`].
    pub(crate) fn files(
        &self,
        repo: &str,
        commit: &str,
        progress: &Progress,
    ) -> Result<BTreeMap<String, HubFile>, HubError> {
        let first = format!("{}/api/models/{repo}/tree/{commit}?recursive=true", self.endpoint);
        let (mut files, mut next) = (BTreeMap::new(), Some(first.clone()));
        for _ in 0..MAX_PAGES {
            let Some(address) = next else { return Ok(files) };
            let (entries, more): (Vec<HubEntry>, _) =
                self.read(&address, progress).map_err(|error| self.explain(error, repo, Some(commit)))?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                RelativePath::new(&entry.path)
                    .map_err(|error| HubError::Answer { address: address.clone(), reason: error.to_string() })?;
                let file = match &entry.lfs {
                    None => HubFile { size: entry.size, digest: None },
                    Some(lfs) => {
                        let oid = lfs.oid.trim_start_matches("sha256:");
                        let digest = Digest::from_hex(oid).map_err(|_| HubError::Answer {
                            address: address.clone(),
                            reason: format!("the LFS oid of {} is no SHA-256", entry.path),
                        })?;
                        HubFile { size: lfs.size, digest: Some(digest) }
                    }
                };
                files.insert(entry.path, file);
            }
            next = more;
        }
        Err(HubError::Answer { address: first, reason: format!("more than {MAX_PAGES} pages of files") })
    }

    fn read<T: DeserializeOwned>(&self, address: &str, progress: &Progress) -> Result<(T, Option<String>), HubError> {
        let page = self.web.read(address, MAX_ANSWER, progress)?;
        let value = serde_json::from_slice(&page.bytes);
        let value =
            value.map_err(|error| HubError::Answer { address: address.to_owned(), reason: error.to_string() })?;
        Ok((value, page.next))
    }

    /// What a refusal means where repositories are gated.
    pub(crate) fn explain(&self, error: HubError, repo: &str, revision: Option<&str>) -> HubError {
        let (host, page) =
            (self.endpoint.split("//").last().unwrap_or_default().to_owned(), format!("{}/{repo}", self.endpoint));
        let repo = repo.to_owned();
        match (error, revision) {
            (HubError::Registry(RegistryError::Unauthorized { .. } | RegistryError::Denied { .. }), _) => {
                HubError::Gated { host, repo, page, token: self.token }
            }
            (HubError::Registry(RegistryError::NotFound { .. }), Some(revision)) => {
                HubError::Missing { host, repo, revision: revision.to_owned(), page }
            }
            (other, _) => other,
        }
    }
}
