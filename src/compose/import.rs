//! From a compose file to a NixOS configuration, with an account of every key.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;

use super::account::{Account, At, Fate, Row};
use super::context::{Context, Draft, absolute};
use super::extends::Extender;
use super::known::known;
use super::nix::Set;
use super::variables::{Variables, parse_env_file};
use super::yaml::{self, Entry, Mark, Node, Value};
use super::{convert, runtime, storage, top};
use crate::service::{Service, is_name};

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not YAML, or with more in it than a compose file has.
    #[error("{file}:{mark}: {message}")]
    Yaml {
        /// The file.
        file: String,
        /// Where.
        mark: Mark,
        /// What is wrong.
        message: String,
    },
    /// A key with something else than what compose takes there.
    #[error("{file}:{mark}: {path}: {message}")]
    Shape {
        /// The file.
        file: String,
        /// Where.
        mark: Mark,
        /// The key.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A line of a file of variables.
    #[error("{file}:{line}: {message}")]
    Variables {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Variables that the file demands, and that nothing gives.
    #[error("{file}: no value for {names}; give them with --env-file")]
    Required {
        /// The file.
        file: String,
        /// Each with its line and what the file says of it.
        names: String,
    },
}

/// What to import, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The compose file.
    pub file: PathBuf,
    /// What relative paths are relative to; absolute.
    pub directory: PathBuf,
    /// Files of variables, later ones over earlier ones; if there are none, `.env` in the folder of the file.
    pub env_files: Vec<PathBuf>,
    /// Profiles that are asked for; `*` is all.
    pub profiles: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// The configuration, a NixOS module.
    pub nix: String,
    /// Every key of the file and what became of it, in the order of the file.
    pub account: Vec<Row>,
    /// What to know beside that.
    pub notes: Vec<String>,
    /// The numbers.
    pub counts: Counts,
}

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Services of the file.
    pub services: usize,
    /// Services of the AI stack.
    pub ai_stack: usize,
    /// Other services that were taken over.
    pub others: usize,
    /// Services of profiles that were not asked for.
    pub left_out: usize,
    /// Keys that were taken over.
    pub taken: usize,
    /// Keys that were not.
    pub left: usize,
}

pub(super) fn read_file(path: &Path) -> Result<String, ImportError> {
    let failed = |source| ImportError::Read { path: path.to_owned(), source };
    // Before it is in memory.
    if path.metadata().is_ok_and(|metadata| metadata.len() > yaml::MAX_BYTES as u64) {
        let message = format!("it is larger than {} MiB", yaml::MAX_BYTES >> 20);
        return Err(failed(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message)));
    }
    let bytes = crate::blobs::read_file(path).map_err(failed)?;
    String::from_utf8(bytes)
        .map_err(|_| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8")))
}

/// A compose file with everything that `extends` brings in.
pub(super) struct Whole {
    pub(super) document: yaml::Document,
    /// The root of it all.
    pub(super) root: Node,
    pub(super) variables: Variables,
    /// What relative paths of each file are relative to.
    directories: Vec<PathBuf>,
    pub(super) files: Vec<String>,
    folder: PathBuf,
}

pub(super) fn whole(options: &Options) -> Result<Whole, ImportError> {
    let shown = options.file.display().to_string();
    let document = yaml::parse(&read_file(&options.file)?, 0).map_err(|error| ImportError::Yaml {
        file: shown.clone(),
        mark: error.mark,
        message: error.message,
    })?;
    let shape = |node: &Node, path: &str, message: String| ImportError::Shape {
        file: shown.clone(),
        mark: node.mark,
        path: path.to_owned(),
        message,
    };
    let folder =
        options.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let variables = variables(options, &folder)?;
    let services = document.root.get("services").map(|entry| &entry.value);
    let Some(Node { value: Value::Map(services), .. }) = services else {
        return Err(shape(&document.root, "services", "expected a mapping with the services".to_owned()));
    };
    // The tree with everything that `extends` brings in is what is converted.
    let mut extender = Extender {
        folder: folder.clone(),
        variables: &variables,
        files: vec![options.file.clone()],
        directories: vec![options.directory.clone()],
        roots: BTreeMap::from([(0, document.root.clone())]),
        copied: 0,
    };
    let mut whole: Vec<Entry> = Vec::new();
    for entry in services.iter().filter(|entry| entry.key != yaml::MERGED) {
        if !is_name(&entry.key) {
            return Err(shape(
                &entry.value,
                &format!("services.{:?}", entry.key),
                "is no name of a service".to_owned(),
            ));
        }
        let value = extender.service(0, &entry.key, &mut Vec::new())?;
        if !matches!(value.value, Value::Map(_)) {
            return Err(shape(
                &value,
                &format!("services.{}", entry.key),
                format!("expected a mapping, found {}", value.kind()),
            ));
        }
        whole.push(Entry { value, ..entry.clone() });
    }
    let directories = extender.directories;
    let files: Vec<String> = extender.files.iter().map(|file| file.display().to_string()).collect();
    let mut root = document.root.clone();
    if let Value::Map(entries) = &mut root.value
        && let Some(services) = entries.iter_mut().find(|entry| entry.key == "services")
    {
        services.value.value = Value::Map(whole);
    }
    Ok(Whole { document, root, variables, directories, files, folder })
}

/// Imports a compose file.
///
/// # Errors
/// See [`ImportError`].
pub fn import(options: &Options) -> Result<Imported, ImportError> {
    let Whole { document, root, variables, directories, files, folder } = whole(options)?;
    let mut cx = Context {
        root: At::root(&root),
        account: Account::default(),
        project: project(&root, &variables, &folder),
        directories,
        variables,
        bytes: Cell::new(0),
        ours: root.get("x-windlass").is_some(),
        files,
        containers: BTreeMap::new(),
        mounted: BTreeMap::new(),
        used: BTreeSet::new(),
        unset: BTreeMap::new(),
        required: BTreeMap::new(),
        binds: BTreeMap::new(),
        networks: BTreeMap::new(),
        only_ai_stack: false,
        checked: BTreeSet::new(),
    };
    let all = cx.root.get("services").map(|services| services.children()).unwrap_or_default();
    let mut drafts = choose(&mut cx, &all, options)?;
    for (draft, at) in &mut drafts {
        convert::service(&mut cx, draft, at)?;
    }
    // What is waited for depends on what became of the others.
    let checked = |(draft, _): &&(Draft, At<'_>)| draft.known.is_some() || draft.service.health.is_some();
    cx.checked = drafts.iter().filter(checked).map(|(draft, _)| draft.name.clone()).collect();
    for (draft, at) in &mut drafts {
        runtime::depends_on(&mut cx, draft, at)?;
    }
    // Names of a mapping are read nowhere else.
    for (draft, at) in &drafts {
        draft.service.check_text().map_err(|(key, message)| cx.wrong(at, format!("{key}: {message}")))?;
    }
    top::account(&mut cx, &document);
    let root = cx.root.clone();
    cx.account.sweep(&root, "is no key that windlass knows");
    if !cx.required.is_empty() {
        let name = |(name, (mark, message)): (&String, &(Mark, String))| {
            let message = if message.is_empty() { String::new() } else { format!(": {message}") };
            format!("{name} (line {}{message})", mark.line)
        };
        let names = cx.required.iter().map(name).collect::<Vec<_>>().join(", ");
        return Err(ImportError::Required { file: options.file.display().to_string(), names });
    }
    let account = cx.account.rows(&cx.files);
    let count = |fate: Fate| account.iter().filter(|row| row.fate == fate).count();
    let ai_stack = drafts.iter().filter(|(draft, _)| draft.known.is_some()).count();
    let counts = Counts {
        services: all.len(),
        ai_stack,
        others: drafts.len() - ai_stack,
        left_out: all.len() - drafts.len(),
        taken: count(Fate::Taken),
        left: count(Fate::Left),
    };
    let drafts: Vec<Draft> = drafts.into_iter().map(|(draft, _)| draft).collect();
    Ok(Imported { nix: text(&options.file, &drafts, &cx.networks), notes: notes(&cx, &drafts), account, counts })
}

fn variables(options: &Options, folder: &Path) -> Result<Variables, ImportError> {
    // What compose has from the shell, and what is known without one.
    let mut variables = Variables::from([("PWD".to_owned(), options.directory.display().to_string().as_str().into())]);
    let beside = folder.join(".env");
    let files = match &options.env_files[..] {
        [] if beside.is_file() => vec![beside],
        files => files.to_vec(),
    };
    for file in files {
        parse_env_file(&read_file(&file)?, &mut variables).map_err(|(line, message)| {
            let file = file.display().to_string();
            ImportError::Variables { file, line, message }
        })?;
    }
    Ok(variables)
}

/// What compose puts before names of volumes and networks.
fn project(root: &Node, variables: &Variables, folder: &Path) -> String {
    let given = root.get("name").and_then(|entry| storage::scalar(variables, &entry.value));
    let folder = || folder.canonicalize().ok()?.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = variables
        .get("COMPOSE_PROJECT_NAME")
        .map(|text| text.value.clone())
        .or(given)
        .or_else(folder)
        .unwrap_or_default();
    let name: String =
        name.to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect();
    let name = name.trim_start_matches(['_', '-']);
    if name.is_empty() { "compose".to_owned() } else { name.to_owned() }
}

/// The services that are taken over, each with its container.
fn choose<'n>(
    cx: &mut Context<'n>,
    all: &[(&str, At<'n>)],
    options: &Options,
) -> Result<Vec<(Draft, At<'n>)>, ImportError> {
    let mut wanted: Vec<String> = options.profiles.clone();
    if wanted.is_empty() {
        wanted = cx
            .variables
            .get("COMPOSE_PROFILES")
            .map(|text| text.value.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
    }
    let mut drafts: Vec<(Draft, At<'n>)> = Vec::new();
    for (name, at) in all {
        let list = at.get("profiles").map(|child| cx.strings(&child)).transpose()?.unwrap_or_default();
        let profiles: Vec<&str> = list.iter().map(|(_, name)| name.as_str()).collect();
        let asked =
            profiles.is_empty() || profiles.iter().any(|profile| wanted.iter().any(|one| one == profile || one == "*"));
        if !asked {
            let names = profiles.join(", ");
            cx.account.leave(at, format!("is of the profile {names}: ask for it with --profile {}", profiles[0]));
            continue;
        }
        let image = at.get("image").and_then(|image| storage::scalar(&cx.variables, image.node));
        // A second one of the same kind has no place in the AI stack.
        let known = image.as_deref().and_then(known);
        let known = known.filter(|known| !drafts.iter().any(|(other, _)| other.known == Some(*known)));
        let container = known.map_or_else(|| (*name).to_owned(), |known| known.name.to_owned());
        let draft = Draft {
            name: (*name).to_owned(),
            container,
            service: Service::default(),
            known,
            port: None,
            comments: BTreeMap::new(),
        };
        drafts.push((draft, at.clone()));
    }
    // A container of the AI stack has its name for itself.
    let taken: Vec<&str> = drafts.iter().filter_map(|(draft, _)| draft.known).map(|known| known.name).collect();
    for (draft, _) in drafts.iter_mut().filter(|(draft, _)| draft.known.is_none()) {
        if taken.contains(&draft.container.as_str()) {
            draft.container = format!("{}-{}", cx.project, draft.name);
        }
    }
    cx.only_ai_stack = drafts.iter().all(|(draft, _)| draft.known.is_some_and(|known| known.name == draft.name));
    for (draft, at) in &drafts {
        cx.containers.insert(draft.name.clone(), draft.container.clone());
        let volumes = at.get("volumes").map(|volumes| volumes.children()).unwrap_or_default();
        for (_, item) in volumes {
            if let Some(source) = storage::peek(cx, item.node) {
                *cx.mounted.entry(source).or_default() += 1;
            }
        }
    }
    Ok(drafts)
}

fn notes(cx: &Context<'_>, drafts: &[Draft]) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, mark) in &cx.unset {
        notes.push(format!(
            "line {}: {name} has no value, and nothing is put in for it; --env-file gives values",
            mark.line
        ));
    }
    let external: Vec<&str> =
        cx.networks.iter().filter(|(_, external)| **external).map(|(name, _)| name.as_str()).collect();
    if !external.is_empty() {
        notes.push(format!("these networks are made by somebody else: {}", external.join(", ")));
    }
    let mounts = drafts.iter().flat_map(|draft| &draft.service.volumes).filter_map(|volume| volume.split_once(':'));
    let volumes: BTreeSet<&str> = mounts.map(|(source, _)| source).filter(|source| !source.starts_with('/')).collect();
    if !volumes.is_empty() && !cx.ours {
        let names = volumes.into_iter().collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "volumes are those that podman-compose would have made; what Docker has in its own must be copied: {names}"
        ));
    }
    if !cx.binds.is_empty() {
        let directory = absolute(&cx.directories[0], ".");
        let paths: Vec<String> = cx.binds.keys().cloned().collect();
        let paths = paths.join(", ");
        notes.push(format!("relative paths were taken from {directory}; Podman makes no path of the host, so these must be there: {paths}"));
    }
    notes
}

/// The module: what the AI stack has a service for, and the other containers.
fn text(file: &Path, drafts: &[Draft], networks: &BTreeMap<String, bool>) -> String {
    let (mut stack, mut containers) = (Set::default(), Set::default());
    for draft in drafts {
        let mut set = Set::default();
        let description = serde_json::to_value(&draft.service).unwrap_or_default();
        if let Json::Object(keys) = description {
            for (key, value) in keys.into_iter().filter(|(key, _)| key != "image" || draft.known.is_none()) {
                let comments = draft.comments.get(&key).cloned().unwrap_or_default();
                // These services have an environment of their own, over which that of the file goes.
                let forced = key == "environment" && draft.known.is_some_and(|known| !known.built);
                set.value(&key, value, &comments);
                if forced {
                    set.apply(&key, FORCE);
                }
            }
        }
        if draft.known.is_none() {
            containers.set(&draft.container, set, &[]);
            continue;
        }
        let mut service = Set::default();
        service.value("enable", true, &[]);
        if let Some(port) = draft.port {
            service.value("port", port, &[]);
        }
        if !set.is_empty() {
            service.set("container", set, &[]);
        }
        let mut comments = draft.comments.get("").cloned().unwrap_or_default();
        if draft.name != draft.container {
            comments.insert(0, format!("{} in the compose file.", draft.name));
        }
        stack.set(&draft.container, service, &comments);
    }
    let mut all = Set::default();
    if !stack.is_empty() {
        let mut services = Set::default();
        stack.value("enable", true, &[]);
        services.set("ai-stack", stack, &[]);
        all.set("services", services, &[]);
    }
    let networks: Vec<&String> = networks.iter().filter(|(_, external)| !**external).map(|(name, _)| name).collect();
    let (mut virtualisation, mut windlass) = (Set::default(), Set::default());
    if !networks.is_empty() {
        windlass.value("networks", serde_json::json!(networks), &[]);
    }
    if !containers.is_empty() {
        windlass.set("containers", containers, &[]);
        windlass.value("enable", true, &[]);
    }
    if !windlass.is_empty() {
        virtualisation.set("windlass", windlass, &[]);
        all.set("virtualisation", virtualisation, &[]);
    }
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let all = all.text();
    let head = if all.contains(FORCE) { "{ lib, ... }:\n" } else { "" };
    format!("# {}, imported by windlass.\n{head}{all}\n", name.replace(['\n', '\r'], " "))
}

/// Over what a module says itself.
const FORCE: &str = "lib.mapAttrs (_: lib.mkForce) ";
