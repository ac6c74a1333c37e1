//! What of a context a build does not see: the rules of `.containerignore` and `.dockerignore`, as buildah has them.
//!
//! buildah takes them from the first of `FILE.dockerignore`, `FILE.containerignore`, `.containerignore` and `.dockerignore`,
//! `FILE` being the Containerfile. A pattern is a regular expression in disguise: of what has a meaning there, only `*`, `?`,
//! `.` and `$` are translated. The last rule that fits a path or one of the folders above it decides.
//!
//! `COPY .` does not go into an ignored folder for a rule like `!**/*.md`, and `COPY folder/a.md` finds the file all the same. So
//! what a build can reach is what the rules say of each file by itself, and that is what counts here. Where nothing in a folder
//! could be kept, it is not entered; the build gets one more rule for it, because `COPY` of a file deep in it could find that too.
//!
//! Sources: containers/buildah (*pkg/parse*, *copier*) and containers/storage (*pkg/fileutils*), tried with Podman 4.3 and later.

use std::path::{Path, PathBuf};

use regex::Regex;

use crate::disk::bounded::{self, Cap};

/// The rules of one context.
#[derive(Debug, Default)]
pub struct IgnoreRules {
    rules: Vec<IgnoreRule>,
}

#[derive(Debug)]
struct IgnoreRule {
    /// Whether what fits is left in: `!` came before it.
    keeps: bool,
    /// As it was typed, cleaned.
    pattern: String,
    regex: Regex,
}

/// Where the rules of a context are, if it has any.
pub(crate) fn file_of(context: &Path, containerfile: &Path) -> Option<PathBuf> {
    let beside = |ending: &str| {
        let mut name = containerfile.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let names = [beside(".dockerignore"), beside(".containerignore")];
    let own = [".containerignore", ".dockerignore"].map(|name| context.join(name));
    names.into_iter().chain(own).find(|path| path.exists())
}

/// The text of the rules of a context. A context without a file of rules has an empty text.
///
/// # Errors
/// With what is wrong with the file.
pub(crate) fn text_of(file: Option<&Path>) -> Result<String, String> {
    let Some(file) = file else { return Ok(String::new()) };
    bounded::text(file, Cap::Settings).map_err(|error| format!("read {}: {error}", file.display()))
}

impl IgnoreRules {
    /// Reads rules, a line each.
    ///
    /// # Errors
    /// With the first line that buildah refuses.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rules = text.lines().filter(|line| !line.starts_with('#')).map(str::trim).filter(|line| !line.is_empty());
        let rules = rules.map(IgnoreRule::parse).filter_map(Result::transpose).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// The rules as `--ignorefile` takes them: Podman 4.3 cleans those of a file that it is given less than those that it finds.
    pub(crate) fn text(&self) -> String {
        let line = |rule: &IgnoreRule| format!("{}{}\n", if rule.keeps { "!" } else { "" }, rule.pattern);
        self.rules.iter().map(line).collect()
    }

    /// Whether a path of the context is left out.
    #[must_use]
    pub(crate) fn leaves_out(&self, path: &str) -> bool {
        let mut out = false;
        for rule in &self.rules {
            // One that cannot change the answer is not asked.
            if rule.keeps == out && rule.fits(path) {
                out = !rule.keeps;
            }
        }
        out
    }

    /// Whether a folder is left out with all that is in it.
    #[must_use]
    pub(crate) fn closes(&self, folder: &str) -> bool {
        self.leaves_out(folder) && !self.may_keep_below(folder)
    }

    /// Whether a build can see a file.
    #[must_use]
    pub fn shows(&self, path: &str) -> bool {
        !path.match_indices('/').any(|(at, _)| self.closes(&path[..at])) && !self.leaves_out(path)
    }

    /// Whether something in a folder that is left out may be left in.
    #[must_use]
    fn may_keep_below(&self, folder: &str) -> bool {
        self.rules.iter().filter(|rule| rule.keeps).any(|rule| rule.may_fit_below(folder))
    }
}

impl IgnoreRule {
    /// A line that is not empty; `None` for one that fits nothing.
    fn parse(line: &str) -> Result<Option<Self>, String> {
        let (keeps, pattern) = match line.strip_prefix('!') {
            Some("") => return Err("the rule '!' is not complete".to_owned()),
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let pattern = clean(pattern);
        if pattern.is_empty() {
            return Ok(None);
        }
        let regex = translate(&pattern).and_then(|text| Regex::new(&text).ok());
        let regex = regex.ok_or_else(|| format!("the rule '{line}' is not a pattern"))?;
        Ok(Some(Self { keeps, pattern, regex }))
    }

    fn fits(&self, path: &str) -> bool {
        if self.regex.is_match(path) {
            return true;
        }
        // The folder above it that has as many parts as the pattern.
        let parts = self.pattern.split('/').count();
        let end = path.match_indices('/').nth(parts - 1).map(|(at, _)| at);
        end.is_some_and(|end| self.regex.is_match(&path[..end]))
    }

    fn may_fit_below(&self, folder: &str) -> bool {
        let mut parts = self.pattern.split('/');
        for name in folder.split('/') {
            match parts.next() {
                // A folder fits with all that is in it.
                None => return true,
                Some(part) if part.contains("**") => return true,
                Some(part) => {
                    let fits = translate(part).and_then(|text| Regex::new(&text).ok());
                    if !fits.is_some_and(|regex| regex.is_match(name)) {
                        return false;
                    }
                }
            }
        }
        true
    }
}

/// A path without `.`, `..`, doubled slashes, and slashes at its ends.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            ("..", None) if pattern.starts_with('/') => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The regular expression of a pattern; `None` if it is not a pattern.
fn translate(pattern: &str) -> Option<String> {
    let mut regex = String::from("(?s)^");
    let mut chars = pattern.chars().peekable();
    let (mut in_class, mut class_is_empty) = (false, false);
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                chars.next_if_eq(&'/');
                regex.push_str(if chars.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '.' | '$' => regex.extend(['\\', c]),
            '\\' => {
                let next = chars.next()?;
                // Rust's expressions know no escape of a letter that means nothing.
                regex.push_str(&regex::escape(&next.to_string()));
            }
            _ => {
                match c {
                    '[' if !in_class => {
                        (in_class, class_is_empty) = (true, true);
                        regex.push(c);
                        if let Some(not) = chars.next_if_eq(&'^') {
                            regex.push(not);
                        }
                        continue;
                    }
                    ']' if in_class && !class_is_empty => in_class = false,
                    '[' | '&' | '~' if in_class => regex.push('\\'),
                    _ => {}
                }
                regex.push(c);
            }
        }
        class_is_empty = false;
    }
    regex.push('$');
    (!in_class).then_some(regex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_left_out_is_only_entered_where_something_in_it_may_stay() {
        let rules = |text| IgnoreRules::parse(text).unwrap();
        for (text, folder, expected) in [
            ("*", "a", false),
            ("*\n!src", "a", false),
            ("*\n!src", "src", true),
            ("*\n!src", "src/deep/er", true),
            ("*\n!src/*/x", "src/deep", true),
            ("*\n!src/*/x", "src/deep/er", false),
            ("*\n!s?c/x", "src", true),
            ("*\n!**/x", "a/b", true),
        ] {
            assert_eq!(rules(text).may_keep_below(folder), expected, "{text:?} {folder}");
        }
    }

    #[test]
    fn paths_are_cleaned_and_what_is_no_pattern_is_refused() {
        for (pattern, expected) in [
            ("./a//b/", "a/b"),
            ("/a", "a"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("/../a", "a"),
            ("/", ""),
            ("a/.", "a"),
        ] {
            assert_eq!(clean(pattern), expected);
        }
        for text in ["!", "[a", "a\\", "[]"] {
            assert!(IgnoreRules::parse(text).is_err(), "{text}");
        }
        assert!(IgnoreRules::parse("# [a\n\n/\n").unwrap().rules.is_empty());
    }
}
