//! What became of every key of a compose file.
//!
//! A row says of one key, and of all that lies below it, where it went or why it went nowhere. What no part of the import
//! has a row for gets one at the end, so that nothing is lost silently: see [`Account::sweep`].

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compose::read::yaml::{MERGED, Mark, YamlNode, YamlValue};

/// Where a key is: `services.web.ports[0]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Path(pub(crate) Vec<PathStep>);

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathStep {
    /// A key of a mapping.
    Key(String),
    /// An item of a list.
    Item(String),
}

/// A value, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct PlacedValue<'a> {
    pub(crate) path: Path,
    /// Where its key was written.
    pub(crate) mark: Mark,
    pub(crate) node: &'a YamlNode,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is in the configuration.
    Taken,
    /// It is not.
    Left,
}

/// One key and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountRow {
    /// Its line.
    pub line: usize,
    /// Its column.
    pub(crate) column: usize,
    /// The file, where it is another one than the one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The service that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    /// The key, below the service.
    pub(crate) key: String,
    /// The whole path.
    pub path: String,
    /// What became of it.
    pub fate: Fate,
    /// What it is now, if it was taken over.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) to: String,
    /// Why not, or what is different now.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// All rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    rows: BTreeMap<Path, (Mark, Fate, String, String)>,
}

impl Path {
    /// With a key added.
    #[must_use]
    pub(crate) fn key(&self, key: &str) -> Self {
        Self(self.0.iter().cloned().chain([PathStep::Key(key.to_owned())]).collect())
    }

    fn text(&self, from: usize) -> String {
        let mut text = String::new();
        for step in &self.0[from.min(self.0.len())..] {
            match step {
                PathStep::Item(item) => text.extend(["[", item, "]"]),
                PathStep::Key(key) => {
                    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-<".contains(c));
                    if !text.is_empty() {
                        text.push('.');
                    }
                    let quoted = format!("{key:?}");
                    text.push_str(if plain { key } else { &quoted });
                }
            }
        }
        text
    }

    fn service(&self) -> Option<&str> {
        match &self.0[..] {
            [PathStep::Key(services), PathStep::Key(service), _, ..] if services == "services" => Some(service),
            _ => None,
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text(0))
    }
}

impl<'a> PlacedValue<'a> {
    /// The whole file.
    #[must_use]
    pub(crate) fn root(node: &'a YamlNode) -> Self {
        Self { path: Path::default(), mark: node.mark, node }
    }

    /// A key of it, if it is a mapping that has it.
    #[must_use]
    pub(crate) fn get(&self, key: &str) -> Option<Self> {
        let entry = self.node.get(key)?;
        Some(Self { path: self.path.key(key), mark: entry.mark, node: &entry.value })
    }

    /// Its keys or items; none if it is a scalar. What is left of a `<<` is not among them.
    #[must_use]
    pub(crate) fn children(&self) -> Vec<(&'a str, Self)> {
        let (entries, step): (_, fn(String) -> PathStep) = match &self.node.value {
            YamlValue::Scalar { .. } => return Vec::new(),
            YamlValue::List(entries) => (entries, PathStep::Item),
            YamlValue::Map(entries) => (entries, PathStep::Key),
        };
        let child = |entry: &'a crate::compose::read::yaml::YamlEntry| {
            let steps = self.path.0.iter().cloned().chain([step(entry.key.clone())]).collect();
            (entry.key.as_str(), Self { path: Path(steps), mark: entry.mark, node: &entry.value })
        };
        entries.iter().filter(|entry| entry.key != MERGED).map(child).collect()
    }
}

impl Account {
    /// The key and all below it is in the configuration, as `to`; `why` says what is different there.
    pub(crate) fn take(&mut self, at: &PlacedValue<'_>, to: impl Into<String>, why: impl Into<String>) {
        self.rows.insert(at.path.clone(), (at.mark, Fate::Taken, to.into(), why.into()));
    }

    /// Says more of a key that has a row.
    pub(crate) fn add(&mut self, at: &PlacedValue<'_>, why: &str) {
        if let Some((.., said)) = self.rows.get_mut(&at.path) {
            *said = if said.is_empty() { why.to_owned() } else { format!("{said}; {why}") };
        }
    }

    /// The key and all below it is not in the configuration.
    pub(crate) fn leave(&mut self, at: &PlacedValue<'_>, why: impl Into<String>) {
        self.rows.insert(at.path.clone(), (at.mark, Fate::Left, String::new(), why.into()));
    }

    /// The key is not in the configuration, and nothing below it is, whatever was said of that.
    pub(crate) fn leave_all(&mut self, at: &PlacedValue<'_>, why: impl Into<String>) {
        self.rows.retain(|path, _| !path.0.starts_with(&at.path.0));
        self.leave(at, why);
    }

    /// Gives every key below `at` that has no row one: what the import does not know.
    pub(crate) fn sweep(&mut self, at: &PlacedValue<'_>, why: &str) {
        if let YamlValue::Map(entries) = &at.node.value {
            for entry in entries.iter().filter(|entry| entry.key == MERGED) {
                if !self.covered(&at.path) {
                    let to = "the keys that it brings in, each with a row of its own";
                    let row = (entry.mark, Fate::Taken, to.to_owned(), String::new());
                    self.rows.insert(at.path.key(MERGED), row);
                }
            }
        }
        if self.covered(&at.path) {
            return;
        }
        // Rows below it come right after it in the order of paths.
        let below = self.rows.range(at.path.clone()..).next();
        if below.is_some_and(|(path, _)| path.0.starts_with(&at.path.0)) {
            at.children().iter().for_each(|(_, child)| self.sweep(child, why));
        } else {
            self.leave(at, why);
        }
    }

    /// Whether the key, or one that it lies below, has a row.
    #[must_use]
    pub(crate) fn covered(&self, path: &Path) -> bool {
        (0..=path.0.len()).any(|end| self.rows.contains_key(&Path(path.0[..end].to_vec())))
    }

    /// Whether the key has a row that says it is not in the configuration.
    #[must_use]
    pub(crate) fn is_left(&self, path: &Path) -> bool {
        self.rows.get(path).is_some_and(|(_, fate, ..)| *fate == Fate::Left)
    }

    /// The rows in the order of the file; `files` has the names of what was read beside the first one.
    #[must_use]
    pub(crate) fn rows(&self, files: &[String]) -> Vec<AccountRow> {
        let row = |(path, (mark, fate, to, why)): (&Path, &(Mark, Fate, String, String))| AccountRow {
            line: mark.line,
            column: mark.column,
            file: (mark.file > 0).then(|| files.get(mark.file).cloned()).flatten(),
            service: path.service().map(str::to_owned),
            key: path.text(if path.service().is_some() { 2 } else { 0 }),
            path: path.to_string(),
            fate: *fate,
            to: to.clone(),
            why: why.clone(),
        };
        let mut rows: Vec<AccountRow> = self.rows.iter().map(row).collect();
        // What came by an alias has the line of its anchor, and stays with its service all the same.
        rows.sort_by(|a, b| (&a.file, a.line, a.column, &a.path).cmp(&(&b.file, b.line, b.column, &b.path)));
        rows
    }
}
