//! `include`: files whose services, networks, volumes, secrets and configs are those of the file that includes them.

use std::path::PathBuf;

use super::extends::{Extender, Opened, merge};
use super::variables::{ComposeVariables, given, interpolate, parse_env_file};
use super::yaml::{self, MAX_DEPTH, MERGED, YamlEntry, YamlNode, YamlValue};
use super::{ComposeImportError, read_file};

/// What an included file has that the whole gets.
const SECTIONS: [&str; 5] = ["services", "volumes", "networks", "secrets", "configs"];

/// One entry of `include`: files that are put over each other.
struct Included {
    paths: Vec<String>,
    /// What their relative paths are relative to, if that is not their folder.
    directory: Option<String>,
    env_files: Vec<String>,
}

/// Whether an entry is on a server; such are not read.
pub(crate) fn is_remote(path: &str) -> bool {
    path.contains("://") || path.starts_with("oci:") || path.starts_with("git@")
}

fn texts(node: Option<&YamlNode>, variables: &ComposeVariables) -> Vec<String> {
    let text = |node: &YamlNode| match &node.value {
        YamlValue::Scalar { text, .. } if !node.is_null() => interpolate(text, variables).ok().map(|text| text.value),
        _ => None,
    };
    match node.map(|node| (&node.value, node)) {
        None => Vec::new(),
        Some((YamlValue::List(entries), _)) => entries.iter().filter_map(|entry| text(&entry.value)).collect(),
        Some((_, node)) => text(node).into_iter().collect(),
    }
}

fn entries(root: &YamlNode, variables: &ComposeVariables) -> Vec<(YamlNode, Included)> {
    let Some(YamlValue::List(items)) = root.get("include").map(|entry| &entry.value.value) else { return Vec::new() };
    let of = |item: &YamlEntry| {
        let get = |key: &str| item.value.get(key).map(|entry| &entry.value);
        let paths = match item.value.value {
            YamlValue::Map(_) => texts(get("path"), variables),
            _ => texts(Some(&item.value), variables),
        };
        let directory = texts(get("project_directory"), variables).into_iter().next();
        (item.value.clone(), Included { paths, directory, env_files: texts(get("env_file"), variables) })
    };
    items.iter().map(of).filter(|(_, included)| !included.paths.iter().any(|path| is_remote(path))).collect()
}

/// Puts everything that a file includes into `root`, its own tree.
pub(super) fn include(
    extender: &mut Extender<'_>,
    file: usize,
    root: &mut YamlNode,
    way: &mut Vec<usize>,
) -> Result<(), ComposeImportError> {
    let wrong = |extender: &Extender<'_>, node: &YamlNode, message: String| ComposeImportError::Shape {
        file: extender.files[node.mark.file].display().to_string(),
        mark: node.mark,
        path: "include".to_owned(),
        message,
    };
    let here = extender.roots[&file].clone();
    for (item, included) in entries(&here, extender.variables) {
        if included.paths.is_empty() {
            return Err(wrong(extender, &item, "expected a path, or a mapping with a key 'path'".to_owned()));
        }
        let mut whole: Option<YamlNode> = None;
        for path in &included.paths {
            let other = extender.open(file, path).map_err(|error| match error {
                Opened::Outside => {
                    let message =
                        format!("{path} is outside of the folder of the compose file, and is not read: copy it there");
                    wrong(extender, &item, message)
                }
                Opened::Failed(error) => error,
            })?;
            if let Some(directory) = &included.directory {
                extender.directories[other] = extender.directories[file].join(directory);
            }
            if way.contains(&other) || way.len() > MAX_DEPTH {
                return Err(wrong(extender, &item, format!("{path} includes the file that it is included by")));
            }
            let mut tree = extender.whole(other)?;
            way.push(other);
            include(extender, other, &mut tree, way)?;
            way.pop();
            whole = Some(match whole {
                None => tree,
                Some(base) => over(base, tree),
            });
        }
        if let Some(tree) = whole {
            put(root, tree).map_err(|(node, message)| wrong(extender, &node, message))?;
        }
    }
    Ok(())
}

/// One file over another, section by section and name by name.
fn over(mut base: YamlNode, own: YamlNode) -> YamlNode {
    let (YamlValue::Map(sections), YamlValue::Map(own)) = (&mut base.value, own.value) else { return base };
    for section in own.into_iter().filter(|section| SECTIONS.contains(&section.key.as_str())) {
        let Some(there) = sections.iter_mut().find(|other| other.key == section.key) else {
            sections.push(section);
            continue;
        };
        let (YamlValue::Map(there), YamlValue::Map(names)) = (&mut there.value.value, section.value.value) else {
            continue;
        };
        for entry in names {
            match there.iter_mut().find(|other| other.key == entry.key) {
                Some(other) => other.value = merge(other.value.clone(), entry.value, &[]),
                None => there.push(entry),
            }
        }
    }
    base
}

/// Adds what an included file has; the same name with something else is an error, as it is to compose.
fn put(root: &mut YamlNode, tree: YamlNode) -> Result<(), (YamlNode, String)> {
    let (YamlValue::Map(sections), YamlValue::Map(own)) = (&mut root.value, tree.value) else { return Ok(()) };
    for section in own.into_iter().filter(|section| SECTIONS.contains(&section.key.as_str())) {
        let Some(there) = sections.iter_mut().find(|other| other.key == section.key) else {
            sections.push(section);
            continue;
        };
        let YamlValue::Map(names) = section.value.value else { continue };
        if there.value.is_null() {
            there.value.value = YamlValue::Map(Vec::new());
        }
        let YamlValue::Map(there) = &mut there.value.value else { continue };
        for entry in names.into_iter().filter(|entry| entry.key != MERGED) {
            match there.iter().find(|other| other.key == entry.key) {
                Some(other) if same(&other.value, &entry.value) => {}
                Some(_) => {
                    let message = format!(
                        "has {}.{} too, and something else under it: give one of them another name",
                        section.key, entry.key
                    );
                    return Err((entry.value, message));
                }
                None => there.push(entry),
            }
        }
    }
    Ok(())
}

/// Whether two values say the same, wherever they stand.
fn same(one: &YamlNode, two: &YamlNode) -> bool {
    let all = |one: &[YamlEntry], two: &[YamlEntry]| {
        one.len() == two.len() && one.iter().zip(two).all(|(a, b)| a.key == b.key && same(&a.value, &b.value))
    };
    match (&one.value, &two.value) {
        (YamlValue::Scalar { text: a, .. }, YamlValue::Scalar { text: b, .. }) => a == b,
        (YamlValue::List(a), YamlValue::List(b)) | (YamlValue::Map(a), YamlValue::Map(b)) => all(a, b),
        _ => false,
    }
}

/// The files of variables of everything that a file includes: `.env` beside each, unless the entry names others. What is there
/// already goes before.
pub(super) fn environment(
    root: &YamlNode,
    file: &std::path::Path,
    variables: &mut ComposeVariables,
    depth: usize,
) -> Result<(), ComposeImportError> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    let folder = file.parent().unwrap_or(std::path::Path::new("")).to_owned();
    for (_, included) in entries(root, variables) {
        for path in &included.paths {
            let path = folder.join(path);
            let beside = path.parent().unwrap_or(&folder).join(".env");
            let files: Vec<PathBuf> = match &included.env_files[..] {
                [] => Some(beside).filter(|file| file.is_file()).into_iter().collect(),
                files => files.iter().map(|file| folder.join(file)).collect(),
            };
            for file in files {
                let mut own = variables.clone();
                parse_env_file(&read_file(&file)?, &mut own).map_err(|(line, message)| {
                    let file = file.display().to_string();
                    ComposeImportError::Variables { file, line, message }
                })?;
                own.retain(|name, _| given(variables, name).is_none());
                variables.extend(own);
            }
            // What is wrong with the file is told where it is read for its services.
            if let Ok(Ok(document)) = read_file(&path).map(|text| yaml::parse(&text, 0)) {
                environment(&document.root, &path, variables, depth + 1)?;
            }
        }
    }
    Ok(())
}
