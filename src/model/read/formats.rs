//! The table of model formats, `formats.json`: how files are called, what lies beside them, and what goes with a model. The Nix
//! functions read the same file (`nix/formats.nix`).
//!
//! [`named`](super::named) answers by it what a file is. First bytes are for [`sniff`](super::sniff), and each format has a
//! reader: [`gguf`](super::gguf), [`safetensors`](super::safetensors).

use std::sync::OnceLock;

use regex::Regex;
use serde::Deserialize;

use super::facts::ModelFormat;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FormatTable {
    formats: Rows,
    /// The first rule that fits says what a file is.
    roles: Vec<RoleRule>,
    /// How the names of weights end that windlass does not read.
    unread: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    gguf: FormatRow,
    safetensors: FormatRow,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FormatRow {
    ending: String,
    index: Option<String>,
    beside: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleRule {
    role: CompanionRole,
    /// Whole names in small letters; `*` is any text.
    names: Vec<FileNamePattern>,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct FileNamePattern(Regex);

impl TryFrom<String> for FileNamePattern {
    type Error = regex::Error;

    fn try_from(pattern: String) -> Result<Self, regex::Error> {
        Regex::new(&format!("(?s)^{}$", regex::escape(&pattern).replace(r"\*", ".*"))).map(Self)
    }
}

/// What describes a model, or comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum CompanionRole {
    ChatTemplate,
    Licence,
    Text,
    Config,
}

impl CompanionRole {
    /// That of a file that is not weights, by its name in small letters.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let fits = |rule: &&RoleRule| rule.names.iter().any(|pattern| pattern.0.is_match(name));
        table().roles.iter().find(fits).map(|rule| rule.role)
    }
}

fn table() -> &'static FormatTable {
    static TABLE: OnceLock<FormatTable> = OnceLock::new();
    TABLE.get_or_init(|| serde_json::from_str(include_str!("formats.json")).expect("a test reads it"))
}

impl ModelFormat {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Gguf, Self::Safetensors];

    fn row(self) -> &'static FormatRow {
        match self {
            Self::Gguf => &table().formats.gguf,
            Self::Safetensors => &table().formats.safetensors,
        }
    }

    /// How the names of its files end, with the dot.
    #[must_use]
    pub(crate) fn ending(self) -> &'static str {
        &self.row().ending
    }

    /// The same without the dot.
    #[must_use]
    pub(crate) fn extension(self) -> &'static str {
        self.ending().trim_start_matches('.')
    }

    /// How the name of the file ends that says which shard has what.
    #[must_use]
    pub(crate) fn index_ending(self) -> Option<&'static str> {
        self.row().index.as_deref()
    }

    /// The files beside its own that say more about a model.
    #[must_use]
    pub(crate) fn beside(self) -> &'static [String] {
        &self.row().beside
    }
}

/// Whether a name ends as those of weights do in formats that windlass does not read.
#[must_use]
pub(crate) fn is_unread(name: &str) -> bool {
    table().unread.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_a_row_that_fits_its_name() {
        for format in ModelFormat::ALL {
            assert_eq!(format.extension(), format.as_str());
            assert!(format.index_ending().is_none_or(|index| index.starts_with(format.ending())));
        }
        assert_eq!(CompanionRole::of_name("a.md"), Some(CompanionRole::Text));
        assert!(is_unread("a.bin") && !is_unread("a.gguf"));
    }
}
