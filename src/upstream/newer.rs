//! Whether there are newer versions than the one that a tag names.
//!
//! A tag is text around numbers: `v1.16.2`, `8.0.2-alpine`, `server-b4567`. Only tags with the same text around as many numbers
//! are compared, so that `-alpine` stays `-alpine` and a date is not a version. The first of several numbers is the major
//! version; so is a number alone below 1000 (`postgres:17`), where a larger one counts builds.

use serde::{Deserialize, Serialize};

/// A newer version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct NewerVersion {
    /// Its tag.
    pub(crate) tag: String,
    /// When it was made, RFC 3339; only where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
}

/// The newest versions beside a tag.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct NewerVersions {
    /// The newest of the same major version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) minor: Option<NewerVersion>,
    /// The newest of all, if its major version is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) major: Option<NewerVersion>,
}

impl NewerVersions {
    /// Whether it names no version.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.minor.is_none() && self.major.is_none()
    }
}

/// Numbers of a tag, and the text around them.
#[derive(Debug, PartialEq, Eq)]
struct VersionTag<'a> {
    before: &'a str,
    numbers: Vec<u64>,
    after: &'a str,
}

impl<'a> VersionTag<'a> {
    fn parse(tag: &'a str) -> Option<Self> {
        let start = tag.find(|c: char| c.is_ascii_digit())?;
        let (before, rest) = tag.split_at(start);
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (numbers, after) = rest.split_at(end);
        // `1a2b3c` is a hash, and `1.2.` nothing.
        let ends = after.is_empty() || after.starts_with(['-', '_']);
        let numbers: Option<Vec<u64>> = numbers.split('.').map(|number| number.parse().ok()).collect();
        Some(Self { before, numbers: numbers?, after }).filter(|_| ends)
    }

    fn is_beside(&self, other: &Self) -> bool {
        (self.before, self.numbers.len(), self.after) == (other.before, other.numbers.len(), other.after)
    }

    /// The major version: everything that has another one may break what is there.
    fn major(&self) -> Option<u64> {
        match self.numbers.as_slice() {
            [build] if *build >= 1000 => None,
            numbers => numbers.first().copied(),
        }
    }
}

/// The newest versions among the tags of a repository; none for a tag that is not a version.
#[must_use]
pub(crate) fn newer_versions<'t>(tag: &str, tags: impl IntoIterator<Item = &'t str>) -> NewerVersions {
    let Some(own) = VersionTag::parse(tag) else { return NewerVersions::default() };
    let mut newer: Vec<(VersionTag<'_>, &str)> = tags
        .into_iter()
        .filter_map(|tag| Some((VersionTag::parse(tag)?, tag)))
        .filter(|(version, _)| version.is_beside(&own) && version.numbers > own.numbers)
        .collect();
    newer.sort_by(|(a, tag), (b, other)| a.numbers.cmp(&b.numbers).then_with(|| other.cmp(tag)));
    let version = |tag: &str| NewerVersion { tag: tag.to_owned(), created: None };
    let minor = newer.iter().rev().find(|(version, _)| version.major() == own.major());
    let major = newer.last().filter(|(version, _)| version.major() != own.major());
    NewerVersions { minor: minor.map(|(_, tag)| version(tag)), major: major.map(|(_, tag)| version(tag)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_of_the_same_pattern_are_newer() {
        for (tag, tags, minor, major) in [
            (
                "v1.16.2",
                &["v1.16.3", "v1.9.9", "v1.17.0", "1.18.0", "v1.18", "v1.18.0-rc1", "latest"][..],
                Some("v1.17.0"),
                None,
            ),
            ("v1.16.2", &["v1.16.1", "v2.0.0", "v1.16.2"], None, Some("v2.0.0")),
            (
                "8.0.2-alpine",
                &["8.0.3", "8.0.3-alpine", "8.0.4-bookworm", "9.1.0-alpine"],
                Some("8.0.3-alpine"),
                Some("9.1.0-alpine"),
            ),
            (
                "server-b4567",
                &["server-b4600", "server-b999", "full-b5000", "server-cuda-b5000"],
                Some("server-b4600"),
                None,
            ),
            ("17", &["16", "18", "17.1", "19-alpine"], None, Some("18")),
            ("pg17", &["pg16", "pg18", "0.8.0-pg18"], None, Some("pg18")),
            ("0.8.0-pg17", &["0.8.1-pg17", "0.8.1-pg18"], Some("0.8.1-pg17"), None),
            // Zeros in front are the same number.
            ("1.09.0", &["1.9.0", "1.10.0"], Some("1.10.0"), None),
            ("sha-1a2b3c", &["sha-2a2b3c", "sha-9"], None, None),
            ("main", &["v1"], None, None),
            ("99999999999999999999999", &["1", "99999999999999999999999999"], None, None),
        ] {
            let newer = newer_versions(tag, tags.iter().copied());
            let found = (newer.minor.as_ref().map(|n| n.tag.as_str()), newer.major.as_ref().map(|n| n.tag.as_str()));
            assert_eq!(found, (minor, major), "{tag} among {tags:?}");
        }
    }
}
