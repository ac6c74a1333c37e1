//! A recipe: what the bytes of one layer are made from.
//!
//! A lean image holds recipes instead of layer blobs. A recipe and the store paths it names give the same bytes on
//! every machine, so it stands for the blob; it names every store path in full, which is what keeps them alive when the
//! recipe itself lies in the Nix store.

use std::path::{Path, PathBuf};

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

use crate::names::{link, maybe_place, place};
use crate::nix::store_path::NarHash;

/// The layer format that this version of windlass writes. A change to any byte is a new number.
pub const FORMAT: u32 = 1;

/// The store paths and rules that one layer's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recipe {
    /// Layer format, [`FORMAT`].
    pub format: u32,
    /// What is put in, in the order in which it was asked for. The order has no influence on the bytes.
    pub inputs: Vec<Input>,
    /// Modes and owners that differ from the store's; of several that fit an entry the last one wins, field by field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub perms: Vec<Perm>,
}

/// One thing that is put into a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Input {
    /// A store path, at its own place: `/nix/store/…` becomes `nix/store/…`.
    StorePath {
        /// Absolute path of the store path.
        #[serde(deserialize_with = "place")]
        path: PathBuf,
        /// What Nix recorded as the hash of its archive; names the culprit when bytes no longer match.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nar_hash: Option<NarHash>,
    },
    /// The file or tree at `source`, moved to `target`.
    Copy {
        /// Absolute path on the host.
        #[serde(deserialize_with = "place")]
        source: PathBuf,
        /// Absolute path in the image; `/` merges a tree into the root.
        #[serde(deserialize_with = "place")]
        target: PathBuf,
        /// Follow symbolic links that lead below this directory, so that what they point to is in the layer; one that
        /// leads elsewhere is an error. Links are kept as links when absent.
        #[serde(default, deserialize_with = "maybe_place", skip_serializing_if = "Option::is_none")]
        follow: Option<PathBuf>,
        /// As in [`Input::StorePath`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nar_hash: Option<NarHash>,
    },
    /// The directories of `source` are made in `/`, everything else becomes a symbolic link to its place in `source`.
    Links {
        /// Absolute path of a store path that is a directory.
        #[serde(deserialize_with = "place")]
        source: PathBuf,
    },
    /// An empty directory.
    Directory {
        /// Absolute path in the image.
        #[serde(deserialize_with = "place")]
        path: PathBuf,
        /// Octal permission bits.
        #[serde(default = "Mode::directory")]
        mode: Mode,
    },
    /// A symbolic link.
    Symlink {
        /// Absolute path in the image.
        #[serde(deserialize_with = "place")]
        path: PathBuf,
        /// What it points to.
        #[serde(deserialize_with = "link")]
        target: PathBuf,
    },
    /// A small file with the text given here.
    Text {
        /// Absolute path in the image.
        #[serde(deserialize_with = "place")]
        path: PathBuf,
        /// Its bytes.
        text: String,
        /// Octal permission bits.
        #[serde(default = "Mode::text")]
        mode: Mode,
    },
    /// A file that is the layer, byte for byte: a blob of an image that was not built here. It stands alone, because nothing
    /// can be added to it.
    Blob {
        /// Absolute path of the file.
        #[serde(deserialize_with = "place")]
        path: PathBuf,
    },
    /// The places that a container engine mounts over, wherever no other input says what is there.
    ///
    /// Podman makes them in the container's own layer; for a rootless user it cannot when the image's files belong to
    /// root in a read-only store (`creating /etc/mtab symlink: permission denied`, Podman 4.3 and 5.4).
    MountPoints,
    /// `/etc/passwd` and `/etc/group`, where no other input gives them.
    ///
    /// Podman adds the container's user to a passwd that does not have it; for a rootless user it cannot when the image's
    /// files belong to root in a read-only store (`creating temporary passwd file: permission denied`, Podman 4.3).
    Accounts {
        /// Text of `/etc/passwd`.
        passwd: String,
        /// Text of `/etc/group`.
        group: String,
    },
}

impl Input {
    /// The accounts of an image whose containers run as `user`, in the words of an OCI config: `999`, `999:999`. Beside
    /// it there are root and `nobody`.
    #[must_use]
    pub(crate) fn accounts(user: Option<&str>) -> Self {
        let user = user.unwrap_or_default();
        let (user, group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
        let number = |text: &str| text.parse::<u32>().ok();
        let ids = number(user).zip(number(group.unwrap_or("0")));
        let new = |id: &u32| !matches!(id, 0 | 65534);
        // For a user without a group, Podman looks for a group of the same number.
        let group = number(group.unwrap_or(user)).filter(|gid| ids.is_some() && new(gid));
        let group = group.map(|gid| format!("app:x:{gid}:\n"));
        let user = ids.filter(|(uid, _)| new(uid)).map(|(uid, gid)| format!("app:x:{uid}:{gid}:app:/:/bin/sh\n"));
        let between = |first: &str, text: Option<String>, last: &str| [first, &text.unwrap_or_default(), last].concat();
        let nobody = "nobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n";
        let passwd = between("root:x:0:0:root:/root:/bin/sh\n", user, nobody);
        let group = between("root:x:0:\n", group, "nobody:x:65534:\n");
        Self::Accounts { passwd, group }
    }
}

/// A rule for modes and owners.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Perm {
    /// Only for what comes from this input; everything in the layer when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// Only for entries whose absolute path in the image this regular expression matches somewhere.
    #[serde(default = "anything", skip_serializing_if = "is_anything")]
    pub(crate) regex: String,
    /// Octal permission bits; not applied to symbolic links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<Mode>,
    /// Owner's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    /// Group's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gid: Option<u32>,
    /// Owner's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uname: Option<String>,
    /// Group's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gname: Option<String>,
}

impl Perm {
    /// The regular expression, ready to use, or why it is not valid, in a few words.
    pub(crate) fn compile(&self) -> Result<Regex, String> {
        compile(&self.regex)
    }
}

/// A regular expression, or why it is not valid, in a few words.
pub(crate) fn compile(regex: &str) -> Result<Regex, String> {
    Regex::new(regex).map_err(|error| {
        // It comes with a drawing of the place over several lines; the last one says what is wrong.
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

fn anything() -> String {
    ".*".to_owned()
}

fn is_anything(regex: &str) -> bool {
    regex == ".*"
}

/// Permission bits, written as three or four octal digits in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(into = "String", try_from = "String")]
pub struct Mode(pub(crate) u32);

impl Mode {
    const fn directory() -> Self {
        Self(0o755)
    }

    const fn text() -> Self {
        Self(0o644)
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        format!("{:04o}", mode.0)
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = u32::from_str_radix(&text, 8).ok().filter(|_| octal);
        mode.map(Self)
            .ok_or_else(|| format!("'{text}' is not a mode: expected three or four octal digits like \"0755\""))
    }
}

impl Recipe {
    /// The recipe of a layer that is there as a file.
    #[must_use]
    pub(crate) fn of_blob(path: PathBuf) -> Self {
        Self { format: FORMAT, inputs: vec![Input::Blob { path }], perms: Vec::new() }
    }

    /// The file that is the layer, for one that was not made here.
    #[must_use]
    pub(crate) fn blob(&self) -> Option<&Path> {
        match &self.inputs[..] {
            [Input::Blob { path }] => Some(path),
            _ => None,
        }
    }

    /// The places in the image that files or trees are moved to.
    pub fn targets(&self) -> impl Iterator<Item = &PathBuf> {
        self.inputs.iter().filter_map(|input| match input {
            Input::Copy { target, .. } => Some(target),
            _ => None,
        })
    }

    /// The host paths that the bytes come from, each once, in the order of the inputs.
    #[must_use]
    pub fn sources(&self) -> Vec<&PathBuf> {
        let mut sources = Vec::new();
        for input in &self.inputs {
            if let Input::StorePath { path: source, .. }
            | Input::Copy { source, .. }
            | Input::Links { source }
            | Input::Blob { path: source } = input
                && !sources.contains(&source)
            {
                sources.push(source);
            }
        }
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_three_or_four_octal_digits() {
        assert_eq!(Mode::try_from("1777".to_owned()), Ok(Mode(0o1777)));
        assert_eq!(Mode::try_from("755".to_owned()), Ok(Mode(0o755)));
        for text in ["", "7", "+755", "0o755", "888", "07777"] {
            assert!(Mode::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn accounts_have_the_user_of_the_image() {
        let accounts = |user| match Input::accounts(user) {
            Input::Accounts { passwd, group } => [passwd, group].map(|text| text.lines().count()),
            _ => unreachable!(),
        };
        assert_eq!(accounts(None), [2, 2]);
        assert_eq!(accounts(Some("999:998")), [3, 3]);
        assert_eq!(accounts(Some("999")), [3, 3]);
        assert_eq!(accounts(Some("redis")), [2, 2]);
        assert_eq!(accounts(Some("65534:0")), [2, 2]);
    }

    #[test]
    fn a_recipe_reads_back_what_it_wrote() {
        let json = r#"{"format":1,"inputs":[{"path":"/nix/store/a","type":"storePath"},{"source":"/m","target":"/models/m","type":"copy"},{"type":"mountPoints"}],"perms":[{"mode":"0755","regex":"^/bin"}]}"#;
        let recipe: Recipe = serde_json::from_str(json).unwrap();
        assert_eq!(crate::oci::canonical::to_string(&recipe), json);
        assert_eq!(recipe.sources(), [&PathBuf::from("/nix/store/a"), &PathBuf::from("/m")]);
    }
}
