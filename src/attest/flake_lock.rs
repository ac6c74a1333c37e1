//! `flake.lock`: what the inputs of a flake were locked to.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// The inputs of a flake that are locked.
#[derive(Debug, Deserialize)]
pub(crate) struct FlakeLock {
    nodes: BTreeMap<String, LockedNode>,
}

#[derive(Debug, Deserialize)]
struct LockedNode {
    locked: Option<LockedInput>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LockedInput {
    #[serde(rename = "type")]
    kind: String,
    owner: Option<String>,
    repo: Option<String>,
    host: Option<String>,
    url: Option<String>,
    path: Option<String>,
    rev: Option<String>,
    nar_hash: Option<String>,
}

impl FlakeLock {
    /// Reads a lock.
    ///
    /// # Errors
    /// If it is not one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("not a flake.lock: {error}"))
    }

    /// The inputs, as SLSA describes what something was made of.
    pub(crate) fn dependencies(&self) -> Vec<Value> {
        let locked = self.nodes.iter().filter_map(|(name, node)| Some((name, node.locked.as_ref()?)));
        locked.map(|(name, input)| input.dependency(name)).collect()
    }
}

impl LockedInput {
    fn dependency(&self, name: &str) -> Value {
        let mut dependency = json!({ "name": format!("flake input {name}"), "uri": self.uri() });
        if let Some(rev) = &self.rev {
            dependency["digest"] = json!({ "gitCommit": rev });
        }
        if let Some(hash) = &self.nar_hash {
            dependency["annotations"] = json!({ "narHash": hash });
        }
        dependency
    }

    /// As Nix writes a reference to a flake.
    fn uri(&self) -> String {
        let Self { kind, owner, repo, host, url, path, rev, .. } = self;
        let rev = rev.as_deref().unwrap_or_default();
        match (kind.as_str(), owner, repo, url, path) {
            ("github" | "gitlab" | "sourcehut", Some(owner), Some(repo), ..) => {
                let host = host.as_ref().map(|host| format!("?host={host}")).unwrap_or_default();
                format!("{kind}:{owner}/{repo}/{rev}{host}")
            }
            ("git" | "hg", _, _, Some(url), _) => format!("{kind}+{url}?rev={rev}"),
            (_, _, _, Some(url), _) => url.clone(),
            (_, _, _, None, Some(path)) => format!("path:{path}"),
            _ => format!("{kind}:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_named_as_nix_names_them() {
        let lock = r#"{ "version": 7, "root": "root", "nodes": {
            "nixpkgs": { "locked": { "type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": "8eee", "narHash": "sha256-l", "lastModified": 1 },
                "original": { "type": "github", "owner": "NixOS", "repo": "nixpkgs", "ref": "nixos-26.05" } },
            "own": { "locked": { "type": "git", "url": "https://example.org/a.git", "rev": "77", "narHash": "sha256-m" } },
            "tar": { "locked": { "type": "tarball", "url": "https://example.org/a.tar.gz", "narHash": "sha256-n" } },
            "root": { "inputs": { "nixpkgs": "nixpkgs" } } } }"#;
        let found = FlakeLock::parse(lock).unwrap().dependencies();
        let uris: Vec<_> = found.iter().map(|dependency| dependency["uri"].as_str().unwrap()).collect();
        assert_eq!(
            uris,
            ["github:NixOS/nixpkgs/8eee", "git+https://example.org/a.git?rev=77", "https://example.org/a.tar.gz"]
        );
        assert_eq!(found[0]["digest"], json!({ "gitCommit": "8eee" }));
        assert_eq!(found[0]["annotations"]["narHash"], "sha256-l");
        assert!(FlakeLock::parse("{}").unwrap_err().starts_with("not a flake.lock: missing field `nodes`"));
    }
}
