//! `extends`: a service that begins as another one, of this file or of one that lies beside or below it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::variables::{Variables, interpolate};
use super::yaml::{self, Entry, MAX_DEPTH, MAX_NODES, MERGED, Mark, Node, Value};
use super::{ImportError, read_file};
use crate::spec::service::is_name;

/// Services with what they extend put into them.
pub(crate) struct Extender<'a> {
    /// The folder of the file that was asked for: nothing outside of it is read.
    pub(crate) folder: PathBuf,
    pub(crate) variables: &'a Variables,
    /// The files by their index.
    pub(crate) files: Vec<PathBuf>,
    /// What relative paths of each file are relative to.
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) roots: BTreeMap<usize, Node>,
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
    ) -> Result<Node, ImportError> {
        let step = (file, name.to_owned());
        let wrong = |this: &Self, mark: Mark, message: String| ImportError::Shape {
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
        let text = |this: &Self, node: &Node| match &node.value {
            Value::Scalar { text, .. } => interpolate(text, this.variables)
                .map(|text| text.value)
                .map_err(|message| wrong(this, node.mark, message)),
            _ => Err(wrong(this, node.mark, format!("expected a string, found {}", node.kind()))),
        };
        let (other, place) = match &extends.value {
            Value::Map(_) => {
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
    pub(crate) fn whole(&mut self, file: usize) -> Result<Node, ImportError> {
        let mut root = self.roots[&file].clone();
        let wrong = |this: &Self, node: &Node, path: String, message: String| ImportError::Shape {
            file: this.files[node.mark.file].display().to_string(),
            mark: node.mark,
            path,
            message,
        };
        let Value::Map(entries) = &mut root.value else { return Ok(root) };
        let Some(services) = entries.iter_mut().find(|entry| entry.key == "services") else { return Ok(root) };
        let Value::Map(all) = &mut services.value.value else { return Ok(root) };
        let mut whole: Vec<Entry> = Vec::new();
        for entry in all.iter().filter(|entry| entry.key != MERGED) {
            if !is_name(&entry.key) {
                let path = format!("services.{:?}", entry.key);
                return Err(wrong(self, &entry.value, path, "is not a name of a service".to_owned()));
            }
            let value = self.service(file, &entry.key, &mut Vec::new())?;
            if !matches!(value.value, Value::Map(_)) {
                let message = format!("expected a mapping, found {}", value.kind());
                return Err(wrong(self, &value, format!("services.{}", entry.key), message));
            }
            whole.push(Entry { value, ..entry.clone() });
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
            Opened::Failed(ImportError::Yaml { file: shown, mark: error.mark, message: error.message })
        })?;
        self.files.push(path);
        self.directories.push(self.directories[from].join(Path::new(place).parent().unwrap_or(Path::new(""))));
        self.roots.insert(index, document.root);
        Ok(index)
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 1,
        Value::List(entries) | Value::Map(entries) => {
            1 + entries.iter().map(|entry| count(&entry.value)).sum::<usize>()
        }
    }
}

/// Why a file is not read.
pub(crate) enum Opened {
    Outside,
    Failed(ImportError),
}

/// Keys that are one value, or a list of them: both are in the end.
const ONE_OR_MORE: [&str; 6] = ["dns", "dns_opt", "dns_search", "env_file", "label_file", "tmpfs"];

/// One service over another.
pub(crate) fn merge(base: Node, own: Node, path: &[&str]) -> Node {
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
        (Value::Map(base), Value::Map(own)) => Value::Map(maps(base, own, path)),
        (Value::List(base), Value::List(own)) => Value::List(lists(base, own, path == ["volumes"])),
        // One of them in the form of a list: the names decide.
        (Value::List(base), Value::Map(own)) => Value::Map(maps(base.iter().filter_map(as_pair).collect(), own, path)),
        (Value::Map(base), Value::List(own)) => Value::Map(maps(base, own.iter().filter_map(as_pair).collect(), path)),
        (_, own) => own,
    };
    Node { mark: own_mark, value }
}

fn maps(base: Vec<Entry>, mut own: Vec<Entry>, path: &[&str]) -> Vec<Entry> {
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

fn as_list(node: Node) -> Node {
    if matches!(node.value, Value::List(_)) {
        return node;
    }
    let mark = node.mark;
    Node { mark, value: Value::List(vec![Entry { key: "0".to_owned(), mark, value: node }]) }
}

/// The service's own items keep their numbers; of two that mean the same name or place its own stays.
fn lists(base: Vec<Entry>, own: Vec<Entry>, volumes: bool) -> Vec<Entry> {
    let key = |entry: &Entry| if volumes { target_of(entry) } else { name_of(entry) };
    let mut all: Vec<Entry> = Vec::new();
    for entry in base {
        let replaced = own.iter().any(|other| key(other).is_some() && key(other) == key(&entry));
        if !replaced {
            all.push(Entry { key: format!("extended.{}", entry.key), ..entry });
        }
    }
    all.extend(own);
    all
}

fn text_of(entry: &Entry) -> Option<&str> {
    match &entry.value.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// `NAME` of `NAME=value`, or the whole text.
fn name_of(entry: &Entry) -> Option<String> {
    text_of(entry).map(|text| text.split_once('=').map_or(text, |(name, _)| name).to_owned())
}

fn target_of(entry: &Entry) -> Option<String> {
    match text_of(entry) {
        Some(text) => Some(text.split(':').nth(1).unwrap_or(text).to_owned()),
        None => match &entry.value.get("target")?.value.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            _ => None,
        },
    }
}

/// `NAME=value`, or a name alone, as a key of a mapping.
fn as_pair(entry: &Entry) -> Option<Entry> {
    let text = text_of(entry)?;
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let quoted = text.contains('=');
    let value = Node { mark: entry.value.mark, value: Value::Scalar { text: value.to_owned(), quoted } };
    Some(Entry { key: name.to_owned(), mark: entry.mark, value })
}
