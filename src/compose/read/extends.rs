//! `extends`: a service that begins as another one, of this file or of one that lies beside or below it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::variables::{ComposeVariables, interpolate};
use super::yaml::{self, MAX_DEPTH, MAX_NODES, MERGED, Mark, YamlEntry, YamlNode, YamlValue};
use super::{ComposeImportError, read_file};
use crate::spec::service::is_name;

/// Services with what they extend put into them.
pub(crate) struct Extender<'a> {
    /// The folder of the file that was asked for: nothing outside of it is read.
    pub(crate) folder: PathBuf,
    pub(crate) variables: &'a ComposeVariables,
    /// The files by their index.
    pub(crate) files: Vec<PathBuf>,
    /// What relative paths of each file are relative to.
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) roots: BTreeMap<usize, YamlNode>,
    /// The values that were copied so far.
    pub(crate) copied: usize,
}

impl Extender<'_> {
    /// One service of a file, whole.
    pub(crate) fn service(
        &mut self,
        file: usize,
        name: &str,
        way: &mut Vec<(usize, String)>,
    ) -> Result<YamlNode, ComposeImportError> {
        let step = (file, name.to_owned());
        let wrong = |this: &Self, mark: Mark, message: String| ComposeImportError::Shape {
            file: this.files[mark.file].display().to_string(),
            mark,
            path: format!("services.{name}.extends"),
            message,
        };
        let services = self.roots[&file].get("services").map(|entry| &entry.value);
        let Some(own) = services.and_then(|services| services.get(name)).map(|entry| entry.value.clone()) else {
            let mark = Mark { line: 1, column: 1, file };
            return Err(wrong(self, mark, "there is no service of this name".to_owned()));
        };
        if way.contains(&step) {
            return Err(wrong(self, own.mark, "is a circle".to_owned()));
        }
        if way.len() >= MAX_DEPTH {
            return Err(wrong(self, own.mark, format!("goes over more than {MAX_DEPTH} services")));
        }
        let Some(extends) = own.get("extends").map(|entry| entry.value.clone()).filter(|node| !node.is_null()) else {
            return Ok(own);
        };
        way.push(step);
        let text = |this: &Self, node: &YamlNode| match &node.value {
            YamlValue::Scalar { text, .. } => interpolate(text, this.variables)
                .map(|text| text.value)
                .map_err(|message| wrong(this, node.mark, message)),
            _ => Err(wrong(this, node.mark, format!("expected a string, found {}", node.kind()))),
        };
        let (other, place) = match &extends.value {
            YamlValue::Map(_) => {
                let get = |key: &str| extends.get(key).map(|entry| text(self, &entry.value)).transpose();
                let service =
                    get("service")?.ok_or_else(|| wrong(self, extends.mark, "expected a key 'service'".to_owned()))?;
                (service, get("file")?)
            }
            _ => (text(self, &extends)?, None),
        };
        let from = match place {
            None => file,
            Some(place) => self.open(file, &place).map_err(|error| match error {
                Opened::Outside => wrong(
                    self,
                    extends.mark,
                    "names a file outside of the folder of the compose file, which is not read: copy it there"
                        .to_owned(),
                ),
                Opened::Failed(error) => error,
            })?,
        };
        let base = self.service(from, &other, way)?;
        way.pop();
        self.copied += count(&base);
        if self.copied > MAX_NODES {
            return Err(wrong(self, extends.mark, format!("makes more than {MAX_NODES} values")));
        }
        Ok(merge(base, own, &[]))
    }

    /// The tree of a file, each service with what it extends put into it.
    pub(crate) fn whole(&mut self, file: usize) -> Result<YamlNode, ComposeImportError> {
        let mut root = self.roots[&file].clone();
        let wrong = |this: &Self, node: &YamlNode, path: String, message: String| ComposeImportError::Shape {
            file: this.files[node.mark.file].display().to_string(),
            mark: node.mark,
            path,
            message,
        };
        let YamlValue::Map(entries) = &mut root.value else { return Ok(root) };
        let Some(services) = entries.iter_mut().find(|entry| entry.key == "services") else { return Ok(root) };
        let YamlValue::Map(all) = &mut services.value.value else { return Ok(root) };
        let mut whole: Vec<YamlEntry> = Vec::new();
        for entry in all.iter().filter(|entry| entry.key != MERGED) {
            if !is_name(&entry.key) {
                let path = format!("services.{:?}", entry.key);
                return Err(wrong(self, &entry.value, path, "is not a name of a service".to_owned()));
            }
            let value = self.service(file, &entry.key, &mut Vec::new())?;
            if !matches!(value.value, YamlValue::Map(_)) {
                let message = format!("expected a mapping, found {}", value.kind());
                return Err(wrong(self, &value, format!("services.{}", entry.key), message));
            }
            whole.push(YamlEntry { value, ..entry.clone() });
        }
        *all = whole;
        Ok(root)
    }

    /// Opens a file that another one names.
    pub(crate) fn open(&mut self, from: usize, place: &str) -> Result<usize, Opened> {
        let parent = self.files[from].parent().unwrap_or(Path::new("")).to_owned();
        let path = parent.join(place);
        // By what it leads to, so that a link is no way out.
        let (real, folder) = (path.canonicalize(), self.folder.canonicalize());
        if let (Ok(real), Ok(folder)) = (&real, &folder)
            && !real.starts_with(folder)
        {
            return Err(Opened::Outside);
        }
        if let Some(index) = self.files.iter().position(|file| *file == path) {
            return Ok(index);
        }
        let index = self.files.len();
        let text = read_file(&path).map_err(Opened::Failed)?;
        let shown = path.display().to_string();
        let document = yaml::parse(&text, index).map_err(|error| {
            Opened::Failed(ComposeImportError::Yaml { file: shown, mark: error.mark, message: error.message })
        })?;
        self.files.push(path);
        self.directories.push(self.directories[from].join(Path::new(place).parent().unwrap_or(Path::new(""))));
        self.roots.insert(index, document.root);
        Ok(index)
    }
}

fn count(node: &YamlNode) -> usize {
    match &node.value {
        YamlValue::Scalar { .. } => 1,
        YamlValue::List(entries) | YamlValue::Map(entries) => {
            1 + entries.iter().map(|entry| count(&entry.value)).sum::<usize>()
        }
    }
}

/// Why a file is not read.
pub(crate) enum Opened {
    Outside,
    Failed(ComposeImportError),
}

/// Keys that are one value, or a list of them: both are in the end.
const ONE_OR_MORE: [&str; 6] = ["dns", "dns_opt", "dns_search", "env_file", "label_file", "tmpfs"];

/// One service over another.
pub(crate) fn merge(base: YamlNode, own: YamlNode, path: &[&str]) -> YamlNode {
    // Keys whose list is one value: the service's own takes the place of that which it extends.
    if matches!(path, ["command" | "entrypoint"] | ["healthcheck", "test"]) {
        return own;
    }
    if own.is_null() {
        return base;
    }
    let own_mark = own.mark;
    let (base, own) = match path {
        [key] if ONE_OR_MORE.contains(key) => (as_list(base), as_list(own)),
        _ => (base, own),
    };
    let value = match (base.value, own.value) {
        (YamlValue::Map(base), YamlValue::Map(own)) => YamlValue::Map(maps(base, own, path)),
        (YamlValue::List(base), YamlValue::List(own)) => YamlValue::List(lists(base, own, path == ["volumes"])),
        // One of them in the form of a list: the names decide.
        (YamlValue::List(base), YamlValue::Map(own)) => {
            YamlValue::Map(maps(base.iter().filter_map(as_pair).collect(), own, path))
        }
        (YamlValue::Map(base), YamlValue::List(own)) => {
            YamlValue::Map(maps(base, own.iter().filter_map(as_pair).collect(), path))
        }
        (_, own) => own,
    };
    YamlNode { mark: own_mark, value }
}

fn maps(base: Vec<YamlEntry>, mut own: Vec<YamlEntry>, path: &[&str]) -> Vec<YamlEntry> {
    for entry in base {
        if entry.key == MERGED || (path.is_empty() && entry.key == "extends") {
            continue;
        }
        match own.iter_mut().find(|other| other.key == entry.key) {
            None => own.push(entry),
            Some(other) => {
                let deeper: Vec<&str> = path.iter().copied().chain([entry.key.as_str()]).collect();
                other.value = merge(entry.value, other.value.clone(), &deeper);
            }
        }
    }
    own
}

fn as_list(node: YamlNode) -> YamlNode {
    if matches!(node.value, YamlValue::List(_)) {
        return node;
    }
    let mark = node.mark;
    YamlNode { mark, value: YamlValue::List(vec![YamlEntry { key: "0".to_owned(), mark, value: node }]) }
}

/// The service's own items keep their numbers; of two that mean the same name or place its own stays.
fn lists(base: Vec<YamlEntry>, own: Vec<YamlEntry>, volumes: bool) -> Vec<YamlEntry> {
    let key = |entry: &YamlEntry| if volumes { target_of(entry) } else { name_of(entry) };
    let mut all: Vec<YamlEntry> = Vec::new();
    for entry in base {
        let replaced = own.iter().any(|other| key(other).is_some() && key(other) == key(&entry));
        if !replaced {
            all.push(YamlEntry { key: format!("extended.{}", entry.key), ..entry });
        }
    }
    all.extend(own);
    all
}

fn text_of(entry: &YamlEntry) -> Option<&str> {
    match &entry.value.value {
        YamlValue::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// `NAME` of `NAME=value`, or the whole text.
fn name_of(entry: &YamlEntry) -> Option<String> {
    text_of(entry).map(|text| text.split_once('=').map_or(text, |(name, _)| name).to_owned())
}

fn target_of(entry: &YamlEntry) -> Option<String> {
    match text_of(entry) {
        Some(text) => Some(text.split(':').nth(1).unwrap_or(text).to_owned()),
        None => match &entry.value.get("target")?.value.value {
            YamlValue::Scalar { text, .. } => Some(text.clone()),
            _ => None,
        },
    }
}

/// `NAME=value`, or a name alone, as a key of a mapping.
fn as_pair(entry: &YamlEntry) -> Option<YamlEntry> {
    let text = text_of(entry)?;
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let quoted = text.contains('=');
    let value = YamlNode { mark: entry.value.mark, value: YamlValue::Scalar { text: value.to_owned(), quoted } };
    Some(YamlEntry { key: name.to_owned(), mark: entry.mark, value })
}
