//! A compose file with its variables, and with what `extends` brings in, before anything is made of it.

mod extends;
pub(crate) mod images;
pub(super) mod include;
pub(crate) mod variables;
pub(crate) mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::extends::Extender;
use self::variables::{ComposeVariables, given, interpolate, parse_env_file};
use self::yaml::{Mark, YamlNode, YamlValue};
use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::secrets::harmless::is_harmless;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComposeImportError {
    /// A file cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not YAML, or with more in it than a compose file has.
    #[error("{file}:{mark}: {message}")]
    Yaml { file: String, mark: Mark, message: String },
    /// A key with something else than what compose takes there.
    #[error("{file}:{mark}: {path}: {message}")]
    Shape { file: String, mark: Mark, path: String, message: String },
    /// A line of a file of variables.
    #[error("{file}:{line}: {message}")]
    Variables {
        file: String,
        /// The line.
        line: usize,
        message: String,
    },
    /// Variables that the file demands, and that nothing gives.
    #[error("{file}: no value for {names}; give them with --env-file")]
    Required {
        file: String,
        /// Each with its line and what the file says of it.
        names: String,
    },
}

impl Classified for ComposeImportError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Yaml { .. } | Self::Shape { .. } | Self::Variables { .. } | Self::Required { .. } => Class::Usage,
        }
    }
}

/// What compose calls the project's name in variables.
const PROJECT: &str = "COMPOSE_PROJECT_NAME";

/// What to import, and how.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The compose file.
    pub file: PathBuf,
    /// What relative paths are relative to; absolute.
    pub directory: PathBuf,
    /// Files of variables, later ones over earlier ones; if there are none, `.env` in the folder of the file.
    pub env_files: Vec<PathBuf>,
    /// Profiles that are asked for; `*` is all.
    pub profiles: Vec<String>,
    /// The images of a lock.
    pub pinned: Pinned,
}

/// Images that are pinned: what a compose file calls them, and what a lock does.
#[derive(Debug, Clone, Default)]
pub struct Pinned {
    /// The lock, as Nix is to find it from the configuration: `./images.lock.json`.
    pub(crate) lock: String,
    /// Reference, whole (`docker.io/library/redis:8`) → name in the lock.
    pub(crate) images: BTreeMap<String, String>,
}

pub(super) fn read_file(path: &Path) -> Result<String, ComposeImportError> {
    let failed = |source| ComposeImportError::Read { path: path.to_owned(), source };
    // Before it is in memory.
    if path.metadata().is_ok_and(|metadata| metadata.len() > yaml::MAX_BYTES as u64) {
        let message = format!("it is larger than {} MiB", yaml::MAX_BYTES >> 20);
        return Err(failed(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message)));
    }
    let bytes = bounded::read(path, Cap::Document).map_err(failed)?;
    String::from_utf8(bytes)
        .map_err(|_| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8")))
}

/// A compose file with everything that `extends` brings in.
pub(super) struct WholeFile {
    pub(super) document: yaml::YamlDocument,
    /// The root of it all.
    pub(super) root: YamlNode,
    pub(super) variables: ComposeVariables,
    /// What relative paths of each file are relative to.
    pub(super) directories: Vec<PathBuf>,
    pub(super) files: Vec<String>,
    /// What it is called.
    pub(super) project: String,
}

pub(super) fn whole(options: &ImportOptions) -> Result<WholeFile, ComposeImportError> {
    let shown = options.file.display().to_string();
    let document = yaml::parse(&read_file(&options.file)?, 0).map_err(|error| ComposeImportError::Yaml {
        file: shown.clone(),
        mark: error.mark,
        message: error.message,
    })?;
    let shape = |node: &YamlNode, path: &str, message: String| ComposeImportError::Shape {
        file: shown.clone(),
        mark: node.mark,
        path: path.to_owned(),
        message,
    };
    let folder =
        options.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let services = document.root.get("services").map(|entry| &entry.value);
    let has_include = document.root.get("include").is_some();
    // What a file includes may be all that it has.
    let is_right = match services {
        Some(node) => matches!(node.value, YamlValue::Map(_)) || (has_include && node.is_null()),
        None => has_include,
    };
    if !is_right {
        return Err(shape(&document.root, "services", "expected a mapping with the services".to_owned()));
    }
    // The project's name may have variables, and variables may have the project's name.
    let first = variables(options, &folder, &document.root, None)?;
    let project = project(&document.root, &first, &folder);
    let mut variables = variables(options, &folder, &document.root, Some(&project))?;
    // The tree with everything that `extends` and `include` bring in is what is converted.
    let mut extender = Extender {
        folder: folder.clone(),
        variables: &variables,
        files: vec![options.file.clone()],
        directories: vec![options.directory.clone()],
        roots: BTreeMap::from([(0, document.root.clone())]),
        copied: 0,
    };
    let mut root = extender.whole(0)?;
    include::include(&mut extender, 0, &mut root, &mut vec![0])?;
    let directories = extender.directories;
    let files: Vec<String> = extender.files.iter().map(|file| file.display().to_string()).collect();
    mark_private(&root, &project, &mut variables);
    Ok(WholeFile { document, root, variables, directories, files, project })
}

/// What compose puts before names of volumes and networks, and calls `COMPOSE_PROJECT_NAME`.
fn project(root: &YamlNode, variables: &ComposeVariables, folder: &Path) -> String {
    let name = root.get("name").and_then(|entry| match &entry.value.value {
        YamlValue::Scalar { text, .. } => interpolate(text, variables).ok().map(|text| text.value),
        _ => None,
    });
    let of_folder = || folder.canonicalize().ok()?.file_name().map(|name| name.to_string_lossy().into_owned());
    let given = given(variables, PROJECT).map(|text| text.value.clone());
    let name = given.or(name).or_else(of_folder).unwrap_or_default();
    let name: String =
        name.to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect();
    let name = name.trim_start_matches(['_', '-']);
    if name.is_empty() { "compose".to_owned() } else { name.to_owned() }
}

/// Marks what may be a secret among the variables: all that comes from files of them, but for what clearly is not one.
fn mark_private(root: &YamlNode, project: &str, variables: &mut ComposeVariables) {
    let services = root.get("services").map(|entry| &entry.value.value);
    let mut names = BTreeSet::from([project.to_owned()]);
    if let Some(YamlValue::Map(services)) = services {
        names.extend(services.iter().map(|entry| entry.key.clone()));
    }
    for (name, text) in variables.iter_mut().filter(|(name, _)| !matches!(name.as_str(), "PWD" | PROJECT)) {
        if !is_harmless(&text.value, &names) {
            text.private = Some(name.clone());
        }
    }
}

fn variables(
    options: &ImportOptions,
    folder: &Path,
    root: &YamlNode,
    project: Option<&str>,
) -> Result<ComposeVariables, ComposeImportError> {
    // What compose has from the shell, and what is known without one.
    let mut variables =
        ComposeVariables::from([("PWD".to_owned(), options.directory.display().to_string().as_str().into())]);
    variables.extend(project.map(|project| (PROJECT.to_owned(), project.into())));
    let beside = folder.join(".env");
    let files = match &options.env_files[..] {
        [] if beside.is_file() => vec![beside],
        files => files.to_vec(),
    };
    for file in files {
        parse_env_file(&read_file(&file)?, &mut variables).map_err(|(line, message)| {
            let file = file.display().to_string();
            ComposeImportError::Variables { file, line, message }
        })?;
    }
    include::environment(root, &options.file, &mut variables, 0)?;
    variables.extend(project.map(|project| (PROJECT.to_owned(), project.into())));
    Ok(variables)
}
