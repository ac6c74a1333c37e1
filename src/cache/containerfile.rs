//! Which images a Containerfile is built from: those of `FROM`, `COPY --from=` and `RUN --mount=…,from=`.
//!
//! Sources: the *Dockerfile reference* of moby/buildkit, and containers/buildah (*docs/Containerfile*).

use std::collections::{BTreeMap, BTreeSet};

use crate::oci::platform::Platform;

/// What of a Containerfile decides where its images come from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Containerfile {
    /// The images, as they are named once all variables are filled in; without `scratch` and the stages.
    pub(crate) images: BTreeSet<String>,
    /// The names of its stages.
    pub(crate) stages: BTreeSet<String>,
    /// The arguments that it declares anywhere.
    arguments: BTreeSet<String>,
    /// Whether it runs commands or fetches files, so that what it gives depends on more than its inputs.
    pub(crate) runs: bool,
}

impl Containerfile {
    /// Reads it, with the values of build arguments, and with the names of other contexts.
    ///
    /// # Errors
    /// With the line at fault.
    pub(crate) fn parse(
        text: &str,
        given: &BTreeMap<String, String>,
        contexts: &BTreeSet<String>,
        platform: &Platform,
    ) -> Result<Self, String> {
        let mut file = Self::default();
        let mut variables = platform_variables(platform);
        let mut stages = 0;
        for (number, instruction) in instructions(text) {
            let (word, rest) = instruction.split_once(char::is_whitespace).unwrap_or((&instruction, ""));
            let at = |message: String| format!("line {number}: {message}");
            let word = word.to_ascii_uppercase();
            let mut sources = Vec::new();
            match word.as_str() {
                "ARG" => {
                    for (name, default) in rest.split_whitespace().map(argument) {
                        file.arguments.insert(name.to_owned());
                        // Those of a stage are not for FROM.
                        if stages == 0
                            && let Some(value) = given.get(name).cloned().or_else(|| default.map(unquoted))
                        {
                            let value = fill(&value, &variables).map_err(at)?;
                            variables.insert(name.to_owned(), value);
                        }
                    }
                }
                "FROM" => {
                    let mut words = rest.split_whitespace().filter(|word| !word.starts_with("--"));
                    let image = words.next().ok_or_else(|| at("FROM names no image".to_owned()))?;
                    let image = fill(&unquoted(image), &variables).map_err(at)?;
                    if image.is_empty() {
                        return Err(at("FROM names no image once its variables are filled in".to_owned()));
                    }
                    if image != "scratch" {
                        sources.push(image);
                    }
                    file.take(sources, contexts);
                    stages += 1;
                    if let (Some(to), Some(name)) = (words.next(), words.next())
                        && to.eq_ignore_ascii_case("as")
                    {
                        file.stages.insert(name.to_ascii_lowercase());
                    }
                    continue;
                }
                "COPY" | "ADD" => {
                    let options = rest.split_whitespace().take_while(|word| word.starts_with("--"));
                    sources.extend(options.filter_map(|word| word.strip_prefix("--from=")).map(unquoted));
                    let is_remote = |word: &str| word.contains("://") || word.starts_with("git@");
                    file.runs |= word == "ADD" && rest.split_whitespace().any(is_remote);
                }
                "RUN" => {
                    file.runs = true;
                    let options = rest.split_whitespace().take_while(|word| word.starts_with("--"));
                    let mounts = options.filter_map(|word| word.strip_prefix("--mount="));
                    let from = mounts.flat_map(|mount| mount.split(',').filter_map(|part| part.strip_prefix("from=")));
                    sources.extend(from.map(unquoted));
                }
                _ => {}
            }
            sources.retain(|name| name.parse::<usize>().is_err());
            file.take(sources, contexts);
        }
        if stages == 0 { Err("it has no FROM".to_owned()) } else { Ok(file) }
    }

    /// Whether it declares an argument.
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.arguments.contains(name)
    }

    fn take(&mut self, names: Vec<String>, contexts: &BTreeSet<String>) {
        let is_image = |name: &String| !self.stages.contains(&name.to_ascii_lowercase()) && !contexts.contains(name);
        let images: Vec<String> = names.into_iter().filter(is_image).collect();
        self.images.extend(images);
    }
}

/// `NAME` or `NAME=DEFAULT`.
fn argument(word: &str) -> (&str, Option<&str>) {
    word.split_once('=').map_or((word, None), |(name, default)| (name, Some(default)))
}

fn unquoted(text: &str) -> String {
    text.trim_matches(['"', '\'']).to_owned()
}

/// The variables that every build has before the first stage.
fn platform_variables(platform: &Platform) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for kind in ["TARGET", "BUILD"] {
        let mut set = |what: &str, value: String| variables.insert(format!("{kind}{what}"), value);
        set("PLATFORM", platform.to_string());
        set("OS", platform.os.clone());
        set("ARCH", platform.architecture.clone());
        set("VARIANT", platform.variant.clone().unwrap_or_default());
    }
    variables
}

/// Fills in `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}`.
fn fill(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::new(), text);
    let value = |name: &str| variables.get(name).filter(|value| !value.is_empty());
    while let Some((before, after)) = rest.split_once('$') {
        filled.push_str(before);
        if let Some(braced) = after.strip_prefix('{') {
            let (inside, left) =
                braced.split_once('}').ok_or_else(|| format!("'{text}' has no end of its variable"))?;
            let (name, default) = match inside.split_once(':') {
                Some((name, word)) => (name, Some(word)),
                None => (inside, None),
            };
            match default.map(|word| word.split_at_checked(1)) {
                None => filled.push_str(value(name).map_or("", String::as_str)),
                Some(Some(("-", word))) => filled.push_str(value(name).map_or(word, String::as_str)),
                Some(Some(("+", word))) => filled.push_str(value(name).map_or("", |_| word)),
                Some(_) => return Err(format!("'{text}' has a variable of a form that is not known")),
            }
            rest = left;
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            filled.push_str(value(&after[..end]).map_or("", String::as_str));
            rest = &after[end..];
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Each instruction in one line, with the number of the line that it begins in. Comments, and what is between a `<<WORD` and its
/// end, are left out.
fn instructions(text: &str) -> Vec<(usize, String)> {
    let escape = escape(text);
    let mut lines = text.lines().enumerate();
    let mut found = Vec::new();
    while let Some((number, line)) = lines.next() {
        let is_nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if is_nothing(line) {
            continue;
        }
        let mut whole = String::new();
        let mut next = Some(line);
        while let Some(line) = next {
            if is_nothing(line) {
                next = lines.next().map(|(_, line)| line);
                continue;
            }
            match line.trim_end().strip_suffix(escape) {
                Some(part) => {
                    whole.push_str(part);
                    next = lines.next().map(|(_, line)| line);
                }
                None => {
                    whole.push_str(line);
                    break;
                }
            }
        }
        for end in heredocs(&whole) {
            while lines.next().is_some_and(|(_, line)| line.trim_start_matches('\t') != end) {}
        }
        found.push((number + 1, whole.trim().to_owned()));
    }
    found
}

/// What ends a line that goes on: `# escape=` at the top may say another character than `\`.
fn escape(text: &str) -> char {
    let comments = text.lines().map_while(|line| line.trim().strip_prefix('#'));
    let directives = comments.map_while(|comment| comment.split_once('='));
    let mut directives = directives.filter(|(name, _)| name.trim().eq_ignore_ascii_case("escape"));
    directives.next().and_then(|(_, value)| value.trim().chars().next()).unwrap_or('\\')
}

/// The words that end the texts which an instruction takes from the lines below it.
fn heredocs(instruction: &str) -> Vec<String> {
    let word = instruction.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    if !matches!(word.as_str(), "RUN" | "COPY" | "ADD") {
        return Vec::new();
    }
    let word = |part: &str| {
        let part = part.strip_prefix('-').unwrap_or(part).trim_start_matches(['"', '\'']);
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        (end > 0 && !part.starts_with(|c: char| c.is_ascii_digit())).then(|| part[..end].to_owned())
    };
    instruction.split("<<").skip(1).filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Containerfile, String> {
        let given = [("V".to_owned(), "2".to_owned())].into();
        Containerfile::parse(text, &given, &["other".to_owned()].into(), &Platform::default())
    }

    fn images(text: &str) -> Vec<String> {
        parse(text).unwrap().images.into_iter().collect()
    }

    #[test]
    fn images_are_found_wherever_they_are_named() {
        assert_eq!(
            images("ARG V=1\nFROM base:$V AS One\nFROM one\nCOPY --from=one /a /a\nCOPY --from=0 /a /a\n"),
            ["base:2"]
        );
        assert_eq!(images("FROM scratch\nCOPY --from=tools:1 --chown=1 /a /b\nCOPY --from=other . .\n"), ["tools:1"]);
        assert_eq!(
            images(
                "from --platform=$BUILDPLATFORM a \\\n  # a comment\n\n  as b\nRUN --mount=type=bind,from=m:1,target=/m x\n"
            ),
            ["a", "m:1"]
        );
        assert_eq!(images("# escape=`\nFROM a`\n:1\n"), ["a:1"]);
        assert_eq!(
            images("FROM a\nRUN <<EOF\nFROM b\nEOF\nCOPY <<-'X' <<Y /\nFROM c\n\tX\nFROM d\nY\nFROM e\n"),
            ["a", "e"]
        );
        assert_eq!(images("ARG R\nFROM ${R:-docker.io}/a:${V:+x}${W}\n"), ["docker.io/a:"]);
        assert_eq!(images("ARG V\nARG W=$V-slim\nFROM \"py:${W}\"\n"), ["py:2-slim"]);
        // What a stage declares is not for FROM.
        assert_eq!(images("FROM a\nARG V\nFROM b:${V:-1}\n"), ["a", "b:1"]);
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, said) in [
            ("# nothing\n", "it has no FROM"),
            ("\nFROM\n", "line 2: FROM names no image"),
            ("FROM $X\n", "line 1: FROM names no image once its variables are filled in"),
            ("FROM ${X\n", "line 1: '${X' has no end of its variable"),
            ("FROM ${X:?no}\n", "line 1: '${X:?no}' has a variable of a form that is not known"),
        ] {
            assert_eq!(parse(text).unwrap_err(), said, "{text:?}");
        }
        let file = parse("ARG SOURCE_DATE_EPOCH\nFROM a\nADD https://x/y /y\n").unwrap();
        assert!(file.runs && file.arguments.contains("SOURCE_DATE_EPOCH"));
        assert!(!parse("FROM a\nADD y /y\nCOPY x /x\n").unwrap().runs);
    }
}
