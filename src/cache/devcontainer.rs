//! The build section of a `devcontainer.json`, as a definition.
//!
//! Source: the *Dev Container metadata reference* of containers.dev. The file is JSON with comments and commas after the last item.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::definition::CachedImage;
use super::{CacheError, wrong};
use crate::disk::bounded::{self, Cap};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DevContainer {
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    docker_compose_file: Option<serde_json::Value>,
    #[serde(default)]
    build: Option<DevContainerBuild>,
    /// As the build section was written before there was one.
    #[serde(default)]
    docker_file: Option<PathBuf>,
    #[serde(default)]
    context: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DevContainerBuild {
    dockerfile: PathBuf,
    #[serde(default)]
    context: Option<PathBuf>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    args: BTreeMap<String, String>,
    #[serde(default)]
    options: Vec<String>,
}

/// Reads the file; its paths become relative to `root`.
pub(crate) fn read(path: &Path, root: &Path) -> Result<CachedImage, CacheError> {
    let text = bounded::text(path, Cap::Settings).map_err(|error| wrong(path, error.to_string()))?;
    let parsed: DevContainer = serde_json::from_str(&plain(&text)).map_err(|error| wrong(path, error.to_string()))?;
    let build = match (parsed.build, parsed.docker_file) {
        (Some(build), _) => build,
        (None, Some(dockerfile)) => DevContainerBuild {
            dockerfile,
            context: parsed.context,
            target: None,
            args: BTreeMap::new(),
            options: Vec::new(),
        },
        _ => {
            let has = match (parsed.image, parsed.docker_compose_file) {
                (Some(image), _) => format!("it takes the image {image} as it is"),
                (_, Some(_)) => "it takes a compose file".to_owned(),
                _ => "it has neither".to_owned(),
            };
            return Err(wrong(path, format!("there is no build section to cache: {has}")));
        }
    };
    if let Some(option) = build.options.first() {
        return Err(wrong(path, format!("build.options has {option}, which the cache cannot take over")));
    }
    let real = std::fs::canonicalize(path).map_err(|error| wrong(path, error.to_string()))?;
    let folder = real.parent().unwrap_or(Path::new("/"));
    let below = |place: &Path| {
        let whole = normal(&folder.join(place));
        let inside = whole.strip_prefix(root).map(Path::to_owned);
        inside.map_err(|_| wrong(path, format!("{} is not below {}", place.display(), root.display())))
    };
    let variable = |text: &str| text.contains("${");
    if let Some((name, _)) = build.args.iter().find(|(_, value)| variable(value)) {
        return Err(wrong(
            path,
            format!("build.args.{name} takes a variable of the editor; give its value to `cache init --build-arg`"),
        ));
    }
    let context = below(build.context.as_deref().unwrap_or(Path::new(".")))?;
    let context = if context.as_os_str().is_empty() { PathBuf::from(".") } else { context };
    let image = CachedImage::new(below(&build.dockerfile)?, context);
    Ok(CachedImage { target: build.target, arguments: build.args, ..image })
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// JSON without comments, and without commas after the last item. What is in strings stays.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('"', _) => {
                plain.push(c);
                let mut escaped = false;
                for c in chars.by_ref() {
                    plain.push(c);
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
            }
            ('/', Some('/')) => while chars.next_if(|c| *c != '\n').is_some() {},
            ('/', Some('*')) => {
                chars.next();
                let mut last = ' ';
                for c in chars.by_ref() {
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
                plain.push(' ');
            }
            ('}' | ']', _) => {
                let end = plain.trim_end().len();
                if plain[..end].ends_with(',') {
                    plain.truncate(end - 1);
                }
                plain.push(c);
            }
            _ => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_last_commas_go_and_strings_stay() {
        let text = "{ // a\n \"a\": \"x // y, ]\", /* , */ \"b\": [1, 2, ], \"c\\\"\": \"/*\",\n}";
        let value: serde_json::Value = serde_json::from_str(&plain(text)).unwrap();
        assert_eq!(value, serde_json::json!({ "a": "x // y, ]", "b": [1, 2], "c\"": "/*" }));
    }
}
