//! Where a model is to come from, as people say it: `hf:ORG/REPO@REVISION/FILE`, an address, or a path.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::class::{Class, Classified};
use crate::model::read::facts::ModelFormat;
use crate::model::read::named::{Named, is_weights, named};
use crate::model::read::shards::ShardName;
use crate::registry::web::{host_of, is_allowed, unescaped};

/// Hugging Face.
pub const HUB: &str = "https://huggingface.co";
/// What else it is called.
const HUB_HOSTS: [&str; 3] = ["huggingface.co", "hf.co", "www.huggingface.co"];
/// Names of what changes, in addresses.
const MOVING: [&str; 8] = ["main", "master", "latest", "head", "HEAD", "nightly", "dev", "stable"];
/// More shards than any model has.
const MOST_SHARDS: u32 = 4096;

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    /// In a repository of Hugging Face.
    Hub(HubSource),
    /// At an address.
    Web(String),
    /// On this machine.
    Local(PathBuf),
}

/// A file of a repository of Hugging Face.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSource {
    /// `ORG/REPO`.
    pub repo: String,
    /// A commit, a branch or a tag.
    pub(crate) revision: String,
    /// The file in it; `None` if none was named.
    pub file: Option<String>,
}

/// A text that says of no model where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSourceError {
    /// After `hf:`.
    #[error("'{0}' names no file of Hugging Face: expected hf:ORG/REPO/FILE or hf:ORG/REPO@REVISION/FILE")]
    Hub(String),
    /// A page of Hugging Face that is not a file.
    #[error("'{address}' is a page, not a file; name one with: hf:{repo}/FILE")]
    Page {
        /// What was given.
        address: String,
        /// The repository.
        repo: String,
    },
    /// Text that is not an address.
    #[error("'{0}' is not an address of a file: expected https://HOST/PATH, with no login in it")]
    Address(String),
    /// An address that anybody on the way could answer for.
    #[error("'{0}' is by plain HTTP, which is for servers of this machine only; use https://")]
    Insecure(String),
    /// One shard of very many.
    #[error("'{0}' says that it is one of more shards than any model has")]
    Shards(String),
}

impl Classified for ParseSourceError {
    fn class(&self) -> Class {
        match self {
            Self::Hub(_) | Self::Page { .. } | Self::Address(_) | Self::Insecure(_) | Self::Shards(_) => Class::Usage,
        }
    }
}

impl PinSource {
    /// Reads what people write; `hub` is the address of Hugging Face, or of what stands in for it.
    ///
    /// # Errors
    /// See [`ParseSourceError`].
    pub fn parse(text: &str, hub: &str) -> Result<Self, ParseSourceError> {
        if let Some(rest) = text.strip_prefix("hf:") {
            return hub_source(rest.trim_start_matches('/')).ok_or_else(|| ParseSourceError::Hub(text.to_owned()));
        }
        if !text.contains("://") {
            return Ok(Self::Local(text.into()));
        }
        let none = || ParseSourceError::Address(text.to_owned());
        // An address is ASCII without spaces (RFC 3986); what is not would be another text on a terminal or in a lock.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(none());
        }
        let host = host_of(text).ok_or_else(none)?;
        if !is_allowed(text) {
            return Err(ParseSourceError::Insecure(text.to_owned()));
        }
        let rest = text.split_once("://").and_then(|(_, rest)| rest.split_once('/')).ok_or_else(none)?.1;
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        if HUB_HOSTS.contains(&host.as_str()) || host_of(hub).as_ref() == Some(&host) {
            match path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>()[..] {
                [org, repo, "blob" | "resolve" | "raw", revision, ref file @ ..] if !file.is_empty() => {
                    let file = unescaped(&file.join("/")).ok_or_else(none)?;
                    let revision = unescaped(revision).ok_or_else(none)?;
                    let source = HubSource { repo: format!("{org}/{repo}"), revision, file: Some(file) };
                    return Some(Self::Hub(source)).filter(Self::is_sound).ok_or_else(none);
                }
                [org, repo] | [org, repo, "tree" | "blob" | "resolve", ..] => {
                    return Err(ParseSourceError::Page { address: text.to_owned(), repo: format!("{org}/{repo}") });
                }
                _ => {}
            }
        }
        if path.is_empty() || path.ends_with('/') {
            return Err(none());
        }
        // The lock knows a scheme by its usual letters.
        let (scheme, address) = text.split('#').next().and_then(|text| text.split_once("://")).ok_or_else(none)?;
        Ok(Self::Web(format!("{}://{address}", scheme.to_ascii_lowercase())))
    }

    /// Whether it can name other bytes tomorrow without anyone having done wrong. For an address that is not known; one that
    /// says it is floating, any other is what its server keeps it to be.
    #[must_use]
    pub fn is_floating(&self) -> bool {
        match self {
            Self::Hub(source) => !is_commit(&source.revision),
            Self::Web(address) => {
                let path = address.split(['?', '#']).next().unwrap_or_default();
                path.split('/').skip(3).any(|part| MOVING.contains(&part))
            }
            Self::Local(_) => false,
        }
    }

    /// The file's own name, as far as one was named. That of an address is not unescaped, so that Nix finds the same.
    #[must_use]
    pub(crate) fn file_name(&self) -> Option<&str> {
        let last = |path: &'_ str| path.rsplit('/').next().map(str::len);
        let path = match self {
            Self::Hub(source) => source.file.as_deref()?,
            Self::Web(address) => address.split(['?', '#']).next()?,
            Self::Local(path) => path.file_name()?.to_str()?,
        };
        Some(&path[path.len() - last(path)?..])
    }

    /// What the model is called unless a name is given: its file, without what tells shards and formats apart, or its
    /// repository where the file has a name that all models have.
    #[must_use]
    pub fn default_name(&self) -> Option<String> {
        let file = self.file_name().unwrap_or_default();
        let stem = shard(file).map_or_else(
            || file.rsplit_once('.').filter(|_| is_weights(file)).map_or(file, |(stem, _)| stem).to_owned(),
            |shard| shard.base.rsplit('/').next().unwrap_or_default().to_owned(),
        );
        let common = matches!(stem.as_str(), "" | "model" | "ggml-model" | "pytorch_model" | "consolidated");
        let stem = match self {
            Self::Hub(source) if common => source.repo.rsplit('/').next().unwrap_or_default().to_owned(),
            _ => stem,
        };
        let mut name = String::new();
        for c in stem.to_ascii_lowercase().chars() {
            // One sign between letters: what images are called.
            let sign = !c.is_ascii_alphanumeric();
            match (sign, name.ends_with(|last: char| !last.is_ascii_alphanumeric())) {
                (true, true) => {}
                (true, false) => name.push(if "._-".contains(c) { c } else { '-' }),
                (false, _) => name.push(c),
            }
        }
        let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        super::lock::is_name(name).then(|| name.to_owned())
    }

    fn is_sound(&self) -> bool {
        let Self::Hub(HubSource { repo, revision, file }) = self else { return true };
        let plain = |text: &str| {
            !text.is_empty() && !text.chars().any(char::is_control) && text.split('/').all(|part| !is_step(part))
        };
        let word =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let [org, name] = repo.split('/').collect::<Vec<_>>()[..] else { return false };
        [org, name].iter().all(|part| word(part) && !is_step(part))
            && plain(revision)
            && file.as_deref().is_none_or(plain)
    }
}

fn is_step(part: &str) -> bool {
    matches!(part, "" | "." | "..")
}

/// `ORG/REPO[@REVISION][/FILE]`; a revision with a `/` in it is escaped (`refs%2Fpr%2F1`).
fn hub_source(text: &str) -> Option<PinSource> {
    let mut parts = text.splitn(3, '/');
    let (org, repo, file) = (parts.next()?, parts.next()?, parts.next());
    let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
    let revision = unescaped(revision)?;
    let source = HubSource { repo: format!("{org}/{repo}"), revision, file: file.map(str::to_owned) };
    Some(PinSource::Hub(source)).filter(PinSource::is_sound)
}

impl fmt::Display for HubSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}@{}", self.repo, self.revision.replace('%', "%25").replace('/', "%2F"))?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, "/{file}"))
    }
}

/// Whether this is the name of a commit, which never names another one.
#[must_use]
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The files that a model of this file needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Family {
    /// Without these it is not a model; of shards all of them, the first one first.
    pub(crate) required: Vec<String>,
    /// These say more about it, where they are there.
    pub(crate) optional: Vec<String>,
}

/// What belongs to a file: all shards of one, and what safetensors have beside them.
///
/// # Errors
/// If there would be too many.
pub(crate) fn family(path: &str) -> Result<Family, ParseSourceError> {
    let beside = |name: &str| match path.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{name}"),
        None => name.to_owned(),
    };
    let format = match named(path) {
        Named::Weights(format) => Some(format),
        _ => None,
    };
    let optional = format.into_iter().flat_map(ModelFormat::beside).map(|name| beside(name)).collect();
    let Some(shard) = shard(path) else { return Ok(Family { required: vec![path.to_owned()], optional }) };
    if shard.count > MOST_SHARDS {
        return Err(ParseSourceError::Shards(path.to_owned()));
    }
    let index = format.and_then(ModelFormat::index_ending).map(|ending| format!("{}{ending}", shard.base));
    Ok(Family { required: shard.all().chain(index).collect(), optional })
}

/// A shard of a model, by its name or path: `<base>-00001-of-00003.gguf`.
fn shard(path: &str) -> Option<ShardName> {
    ShardName::parse(path).filter(|_| is_weights(path))
}

/// Whether a pattern names a path: `*` is any text without a `/`, `?` one such character.
#[must_use]
pub(crate) fn is_match(pattern: &str, path: &str) -> bool {
    let escaped = regex::escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]");
    regex::Regex::new(&format!("^{escaped}$")).is_ok_and(|regex| regex.is_match(path))
}

/// The paths without the folders that all of them are in.
#[must_use]
pub(crate) fn without_common_folder(paths: &[String]) -> Vec<String> {
    let folders = |path: &str| Path::new(path).parent().map(Path::to_owned).unwrap_or_default();
    let mut common = paths.first().map(|path| folders(path)).unwrap_or_default();
    while !paths.iter().all(|path| folders(path).starts_with(&common)) {
        common.pop();
    }
    let strip = |path: &String| Path::new(path).strip_prefix(&common).map_or(path.clone(), |p| p.display().to_string());
    paths.iter().map(strip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parse(text: &str) -> Result<PinSource, ParseSourceError> {
        PinSource::parse(text, HUB)
    }

    fn hub(repo: &str, revision: &str, file: Option<&str>) -> PinSource {
        let (repo, revision) = (repo.to_owned(), revision.to_owned());
        PinSource::Hub(HubSource { repo, revision, file: file.map(str::to_owned) })
    }

    #[test]
    fn files_of_the_hub_by_all_their_names() {
        for (text, expected) in [
            ("hf:org/repo/m.gguf", hub("org/repo", "main", Some("m.gguf"))),
            ("hf://org/repo/sub/m.gguf", hub("org/repo", "main", Some("sub/m.gguf"))),
            ("hf:org/repo@v1/m.gguf", hub("org/repo", "v1", Some("m.gguf"))),
            ("hf:org/repo@refs%2Fpr%2F1/m.gguf", hub("org/repo", "refs/pr/1", Some("m.gguf"))),
            ("hf:org/repo", hub("org/repo", "main", None)),
            ("https://huggingface.co/org/repo/blob/main/m.gguf", hub("org/repo", "main", Some("m.gguf"))),
            ("https://hf.co/org/repo/resolve/v1/a%20b.gguf?download=true", hub("org/repo", "v1", Some("a b.gguf"))),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        let pinned = format!("hf:org/repo@{COMMIT}/m.gguf");
        assert!(!parse(&pinned).unwrap().is_floating() && parse("hf:org/repo/m.gguf").unwrap().is_floating());
        let PinSource::Hub(source) = parse(&pinned).unwrap() else { panic!() };
        assert_eq!(source.to_string(), pinned);
        let odd = hub("org/repo", "50%2F/a", Some("%.gguf"));
        let PinSource::Hub(source) = &odd else { panic!() };
        assert_eq!(parse(&source.to_string()).unwrap(), odd, "what is shown can be typed");
        let mirror = PinSource::parse("http://127.0.0.1:8000/org/repo/resolve/main/m.gguf", "http://127.0.0.1:8000");
        assert_eq!(mirror.unwrap(), hub("org/repo", "main", Some("m.gguf")));
    }

    #[test]
    fn what_names_no_file_is_told() {
        for text in ["hf:", "hf:org", "hf:org/", "hf:org/repo@/m", "hf:../repo/m", "hf:org/re po/m", "hf:org/repo/../m"]
        {
            assert_eq!(parse(text).unwrap_err(), ParseSourceError::Hub(text.to_owned()));
        }
        for text in ["https://huggingface.co/org/repo", "https://huggingface.co/org/repo/tree/main"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.ends_with("is a page, not a file; name one with: hf:org/repo/FILE"), "{error}");
        }
        for text in ["ftp://h/x", "https://me:pw@h.example/x", "https://h.example", "https://h.example/a/"] {
            assert_eq!(parse(text).unwrap_err(), ParseSourceError::Address(text.to_owned()));
        }
    }

    #[test]
    fn addresses_and_paths_are_kept_as_they_are() {
        let address = "https://mirror.example/resolve/main/m.gguf?x=y";
        assert_eq!(parse(&format!("{address}#z")).unwrap(), PinSource::Web(address.to_owned()));
        assert_eq!(parse("HTTPS://h.example/M.gguf").unwrap(), PinSource::Web("https://h.example/M.gguf".to_owned()));
        assert!(parse(address).unwrap().is_floating());
        assert!(!parse("https://main.example/v1/m.gguf").unwrap().is_floating());
        assert_eq!(parse(address).unwrap().file_name(), Some("m.gguf"));
        assert_eq!(parse("models/m.gguf").unwrap(), PinSource::Local("models/m.gguf".into()));
    }

    #[test]
    fn models_are_called_by_their_files() {
        for (text, name) in [
            ("hf:o/r/SmolLM2-135M-Instruct.Q4_1.gguf", Some("smollm2-135m-instruct.q4_1")),
            ("hf:o/r/q4/Big-00001-of-00003.gguf", Some("big")),
            ("hf:o/all-MiniLM/model.safetensors", Some("all-minilm")),
            ("hf:o/all-MiniLM/model-00001-of-00002.safetensors", Some("all-minilm")),
            ("/tmp/My  Model (1).gguf", Some("my-model-1")),
            ("hf:o/r", Some("r")),
            ("/tmp/...", None),
        ] {
            assert_eq!(parse(text).unwrap().default_name().as_deref(), name, "{text}");
        }
    }

    #[test]
    fn a_shard_brings_the_others() {
        let gguf = family("q4/m-00001-of-00002.gguf").unwrap();
        assert_eq!(gguf.required, ["q4/m-00001-of-00002.gguf", "q4/m-00002-of-00002.gguf"]);
        assert!(gguf.optional.is_empty());
        let safe = family("m-00002-of-00002.safetensors").unwrap();
        let shards = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m.safetensors.index.json"];
        assert_eq!(
            (safe.required, safe.optional),
            (shards.map(str::to_owned).to_vec(), vec!["config.json".to_owned()])
        );
        assert_eq!(family("a/model.safetensors").unwrap().optional, ["a/config.json"]);
        for alone in
            ["m.gguf", "m-1-of-2.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-00001-of-00002.bin"]
        {
            assert_eq!(family(alone).unwrap().required, [alone]);
        }
        assert!(family("m-00001-of-99999.gguf").is_err());
    }

    #[test]
    fn patterns_and_common_folders() {
        assert!(
            is_match("*.json", "config.json") && !is_match("*.json", "a/config.json") && is_match("a/?.b", "a/x.b")
        );
        assert!(!is_match("a.b", "axb"));
        let paths = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
        assert_eq!(without_common_folder(&paths(&["q/a/1", "q/a/2"])), ["1", "2"]);
        assert_eq!(without_common_folder(&paths(&["q/a/1", "q/b"])), ["a/1", "b"]);
        assert_eq!(without_common_folder(&paths(&["a/1", "ab"])), ["a/1", "ab"]);
    }
}
