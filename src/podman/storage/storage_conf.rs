//! `storage.conf`: what of it decides where things are, and how an additional image store is named in it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value, value};

use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};

/// Why a `storage.conf` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfError {
    /// It cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not TOML. Podman's commands fail or, worse, take their defaults.
    #[error("{path}, line {line}: {message}; mend the line, then `podman info` says whether Podman can read the file", path = path.display())]
    Syntax {
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A key has a value of the wrong kind.
    #[error("{path}: {key} must be {expected}; correct it", path = path.display())]
    Kind {
        path: PathBuf,
        /// The key with its tables.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Two keys of a table differ only in case. Podman's parser takes both for the same, in no certain order.
    #[error("{path}: '{one}' and '{other}' are the same key for Podman, which takes either; remove one of them", path = path.display())]
    Twice {
        path: PathBuf,
        /// The one.
        one: String,
        /// The other.
        other: String,
    },
}

impl Classified for ConfError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Syntax { .. } | Self::Kind { .. } | Self::Twice { .. } => Class::Failed,
        }
    }
}

/// What is read of a `storage.conf`, for what Podman cannot be asked. An empty text counts as nothing, as for Podman.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageConf {
    /// `driver`
    pub driver: Option<String>,
    /// `graphroot`
    pub graph_root: Option<String>,
    /// `rootless_storage_path`
    pub rootless_storage_path: Option<String>,
    /// `imagestore`, which Podman 5 knows
    pub image_store: Option<String>,
    /// The paths of `additionalimagestores`
    pub additional: Vec<String>,
}

impl StorageConf {
    /// Reads the file at `path`; `None` if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or has a value of the wrong kind.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, ConfError> {
        match bounded::text(path, Cap::Settings) {
            Ok(text) => Self::parse(&text, path).map(Some),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(None),
            Err(source) => Err(ConfError::Read { path: path.to_owned(), source }),
        }
    }

    /// Reads `text`, which is from `path`.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfError> {
        let document = document(text, path)?;
        let Some(storage) = table_in(document.as_table(), "storage", "storage", path)? else {
            return Ok(Self::default());
        };
        let text = |key: &str| text_in(storage, key, path);
        let options = table_in(storage, "options", "storage.options", path)?;
        let stores =
            options.map(|options| named(options, STORES, path)).transpose()?.flatten().and_then(Item::as_array);
        let additional = stores.into_iter().flat_map(Array::iter).filter_map(|store| Some(store.as_str()?.to_owned()));
        Ok(Self {
            driver: text("driver")?,
            graph_root: text("graphroot")?,
            rootless_storage_path: text("rootless_storage_path")?,
            image_store: text("imagestore")?,
            additional: additional.collect(),
        })
    }
}

const STORES: &str = "additionalimagestores";
const STORES_KEY: &str = "storage.options.additionalimagestores";

/// What [`with_store`] writes where the key is missing: without them Podman guesses, or refuses.
#[derive(Debug, Clone, Copy)]
pub struct Missing<'a> {
    /// The key in `[storage]`.
    pub key: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// The text of a `storage.conf` with `store` among its additional image stores and `missing` filled in; everything else
/// stays as it is, comments included. The same text comes back if there is nothing to add.
///
/// # Errors
/// If `text` is not a `storage.conf`; `path` is for the message.
pub fn with_store(text: &str, path: &Path, store: &str, missing: &[Missing<'_>]) -> Result<String, ConfError> {
    let mut document = document(text, path)?;
    let storage = child(document.as_table_mut(), "storage", "storage", path)?;
    for Missing { key, value: text } in missing {
        // An empty text means the same as no text.
        if text_in(storage, key, path)?.is_none() {
            let name = name_of(storage, key, path)?;
            let mut new = Value::from(*text);
            if let Some(empty) = storage.get(&name).and_then(Item::as_value) {
                // With the comment behind it.
                empty.decor().clone_into(new.decor_mut());
            }
            storage.insert(&name, Item::Value(new));
        }
    }
    let options = child(storage, "options", "storage.options", path)?;
    let name = name_of(options, STORES, path)?;
    let stores = options.entry(&name).or_insert_with(|| value(Array::new()));
    let stores = stores.as_array_mut().ok_or_else(|| kind(path, STORES_KEY, "a list"))?;
    if !stores.iter().any(|other| other.as_str().is_some_and(|other| same(other, store))) {
        push(stores, store);
    }
    Ok(document.to_string())
}

/// A drop-in of our own that names `store`, and leaves what other files name.
#[must_use]
pub fn drop_in(store: &str) -> String {
    let store = Value::from(store);
    format!(
        "# Written by `windlass doctor --fix`: images of the linked store, beside those of other files.\n\
         [storage.options]\nadditionalimagestores = [{store}, {{append = true}}]\n"
    )
}

/// The text of a `storage.conf` without `key` in `[storage]`, if it is there with this value.
///
/// # Errors
/// As for [`with_store`].
pub fn without(text: &str, path: &Path, key: &str, value: &str) -> Result<String, ConfError> {
    let mut document = document(text, path)?;
    let Some(storage) = document.get_mut("storage").and_then(Item::as_table_like_mut) else {
        return Ok(text.to_owned());
    };
    if text_in(storage, key, path)?.as_deref() == Some(value) {
        let name = name_of(storage, key, path)?;
        storage.remove(&name);
    }
    Ok(document.to_string())
}

/// Whether two spellings of a path are the same for Podman.
fn same(one: &str, other: &str) -> bool {
    Path::new(one).components().eq(Path::new(other).components())
}

/// Adds a text in the way the list is written: on a line of its own, or beside the others.
fn push(array: &mut Array, text: &str) {
    let mut new = Value::from(text);
    let rest = |raw: Option<&toml_edit::RawString>| raw.and_then(|raw| raw.as_str()).unwrap_or_default().to_owned();
    let mut indent = String::new();
    if let Some(last) = array.iter_mut().last() {
        let before = rest(last.decor().prefix());
        indent = before.rfind('\n').map_or_else(|| " ".to_owned(), |at| before[at..].to_owned());
        // What stood after the last text, often a line break, now stands after ours.
        let after = rest(last.decor().suffix());
        last.decor_mut().set_suffix("");
        new.decor_mut().set_suffix(after);
    } else if rest(Some(array.trailing())).contains('\n') {
        "\n  ".clone_into(&mut indent);
    }
    new.decor_mut().set_prefix(indent);
    array.push_formatted(new);
}

fn document(text: &str, path: &Path) -> Result<DocumentMut, ConfError> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfError::Syntax { path: path.to_owned(), line, message: error.message().replace('\n', ", ") }
    })
}

fn kind(path: &Path, key: &str, expected: &'static str) -> ConfError {
    ConfError::Kind { path: path.to_owned(), key: key.to_owned(), expected }
}

/// The key as it is written: Podman's parser takes any case.
fn name_of(table: &dyn TableLike, key: &str, path: &Path) -> Result<String, ConfError> {
    let mut names = table.iter().map(|(name, _)| name).filter(|name| name.eq_ignore_ascii_case(key));
    let name = names.next().unwrap_or(key).to_owned();
    match names.next() {
        Some(other) => Err(ConfError::Twice { path: path.to_owned(), one: name, other: other.to_owned() }),
        None => Ok(name),
    }
}

fn named<'t>(table: &'t dyn TableLike, key: &str, path: &Path) -> Result<Option<&'t Item>, ConfError> {
    Ok(table.get(&name_of(table, key, path)?))
}

fn table_in<'t>(
    table: &'t dyn TableLike,
    key: &str,
    full: &str,
    path: &Path,
) -> Result<Option<&'t dyn TableLike>, ConfError> {
    let as_table = |item: &'t Item| item.as_table_like().ok_or_else(|| kind(path, full, "a table"));
    named(table, key, path)?.map(as_table).transpose()
}

fn text_in(table: &dyn TableLike, key: &str, path: &Path) -> Result<Option<String>, ConfError> {
    let as_text =
        |item: &Item| item.as_str().map(str::to_owned).ok_or_else(|| kind(path, &format!("storage.{key}"), "a text"));
    Ok(named(table, key, path)?.map(as_text).transpose()?.filter(|text| !text.is_empty()))
}

/// The table of this name, made if it is missing.
fn child<'t>(
    table: &'t mut dyn TableLike,
    key: &str,
    full: &str,
    path: &Path,
) -> Result<&'t mut dyn TableLike, ConfError> {
    let name = name_of(table, key, path)?;
    let item = table.entry(&name).or_insert_with(|| Item::Table(Table::new()));
    item.as_table_like_mut().ok_or_else(|| kind(path, full, "a table"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "/nix/var/windlass/storage";

    fn parse(text: &str) -> Result<StorageConf, String> {
        StorageConf::parse(text, Path::new("s.conf")).map_err(|error| error.to_string())
    }

    fn add(text: &str) -> String {
        with_store(text, Path::new("s.conf"), STORE, &[]).unwrap()
    }

    #[test]
    fn reads_what_names_places_and_leaves_the_rest() {
        let text = "[storage]\ndriver = \"overlay\"\nGraphRoot = \"/g\"\nrunroot = \"\"\nunknown = 1\nimagestore = \"\"\n\
                    [storage.options]\nadditionalimagestores = [ '/a', {append = true} ]\nsize = \"1\"\n";
        let driver = Some("overlay".to_owned());
        let expected = StorageConf {
            driver,
            graph_root: Some("/g".to_owned()),
            additional: vec!["/a".to_owned()],
            ..StorageConf::default()
        };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(StorageConf::default()));
    }

    #[test]
    fn names_the_key_or_the_line_that_is_wrong() {
        assert_eq!(
            parse("[storage]\ngraphroot = 3").unwrap_err(),
            "s.conf: storage.graphroot must be a text; correct it"
        );
        for (text, message) in [
            ("storage = 1", "s.conf: storage must be a table; correct it"),
            ("[storage]\noptions = 1", "s.conf: storage.options must be a table; correct it"),
            (
                "[storage.options]\nadditionalimagestores = '/a'",
                "s.conf: storage.options.additionalimagestores must be a list; correct it",
            ),
        ] {
            assert_eq!(with_store(text, Path::new("s.conf"), STORE, &[]).unwrap_err().to_string(), message);
        }
        for (text, keys) in [
            ("storage.driver = \"overlay\"\nsTorage.options.size = \"1\"", "'storage' and 'sTorage'"),
            ("[storage]\ngraphroot = \"/a\"\nGraphRoot = \"/b\"", "'graphroot' and 'GraphRoot'"),
            (
                "[storage.options]\nadditionalImageStores = []\nadditionalimagestores = []",
                "'additionalImageStores' and",
            ),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(&format!("s.conf: {keys}")), "{message}");
        }
        let torn = parse("[storage]\ndriver = \"over").unwrap_err();
        assert!(torn.starts_with("s.conf, line 2: ") && !torn.contains('\n'), "{torn}");
    }

    #[test]
    fn the_drop_in_is_toml_and_only_usual_places_are_taken_out() {
        let text = drop_in("/a \"b");
        let stores = document(&text, Path::new("d")).unwrap()["storage"]["options"][STORES].as_array().unwrap().clone();
        assert_eq!(stores.get(0).unwrap().as_str(), Some("/a \"b"));
        assert_eq!(stores.get(1).unwrap().as_inline_table().unwrap()["append"].as_bool(), Some(true));
        let without = |text: &str| without(text, Path::new("s"), "graphroot", "/g").unwrap();
        assert_eq!(without("[storage]\ndriver = 'x' # y\ngraphroot = '/g'\n"), "[storage]\ndriver = 'x' # y\n");
        for text in ["[storage]\ngraphroot = '/h'\n", "", "# a\n"] {
            assert_eq!(without(text), text);
        }
    }

    #[test]
    fn adds_the_store_and_keeps_every_comment() {
        for (text, expected) in [
            ("", "[storage]\n\n[storage.options]\nadditionalimagestores = [\"$S\"]\n"),
            (
                "# a\n[storage] # b\ndriver = 'overlay'\n\n# c\n",
                "# a\n[storage] # b\ndriver = 'overlay'\n\n[storage.options]\nadditionalimagestores = [\"$S\"]\n\n# c\n",
            ),
            (
                "[storage]\n[storage.options]\n# one\nadditionalimagestores = [\n]\nsize = ''\n",
                "[storage]\n[storage.options]\n# one\nadditionalimagestores = [\n  \"$S\"\n]\nsize = ''\n",
            ),
            (
                "[storage.options]\nadditionalimagestores = [\"/a\"] # mine\n",
                "[storage.options]\nadditionalimagestores = [\"/a\", \"$S\"] # mine\n",
            ),
            (
                "[storage.options]\nadditionalimagestores = [\n    # first\n    \"/a\",\n    \"/b\", # second\n]\n",
                "[storage.options]\nadditionalimagestores = [\n    # first\n    \"/a\",\n    \"/b\",\n    \"$S\", # second\n]\n",
            ),
            (
                "[storage.options]\nadditionalimagestores = [\n  \"/a\"\n]\n",
                "[storage.options]\nadditionalimagestores = [\n  \"/a\",\n  \"$S\"\n]\n",
            ),
            (
                "[storage]\noptions = { size = '' }\n",
                "[storage]\noptions = { size = '' , additionalimagestores = [\"$S\"] }\n",
            ),
            (
                "[storage.options.overlay]\nmountopt = 'nodev' # d\n",
                "[storage.options]\nadditionalimagestores = [\"$S\"]\n[storage.options.overlay]\nmountopt = 'nodev' # d\n",
            ),
        ] {
            let expected = expected.replace("$S", STORE);
            let new = add(text);
            assert_eq!(new, expected, "from {text}");
            assert_eq!(add(&new), new, "a second time");
            let stores = document(&new, Path::new("s")).unwrap()["storage"]["options"][STORES].clone();
            assert_eq!(stores.as_array().unwrap().iter().last().unwrap().as_str(), Some(STORE));
        }
        let spelt = format!("[storage.options]\nadditionalimagestores = [\"{STORE}/\"]\n");
        assert_eq!(add(&spelt), spelt);
    }

    #[test]
    fn fills_in_only_what_is_missing() {
        let missing = [Missing { key: "driver", value: "overlay" }, Missing { key: "runroot", value: "/r" }];
        let text = "[storage]\ndriver = 'btrfs'\nrunroot = '' # mine\n";
        let new = with_store(text, Path::new("s.conf"), STORE, &missing).unwrap();
        assert!(new.starts_with("[storage]\ndriver = 'btrfs'\nrunroot = \"/r\" # mine\n"), "{new}");
    }
}
