//! `${VAR:-default}` in the values of a compose file, and the files that variables come from.
//!
//! The environment of the shell is never read: the same files give the same result. What a variable held whose name
//! says that it is a secret is marked, so that it does not end in a configuration that everybody may read.

use std::collections::{BTreeMap, BTreeSet};

use crate::secrets::values::is_secret;

/// How deep defaults may lie in each other.
const MAX_DEPTH: usize = 16;

/// The bytes of a text with variables: Linux gives no program a longer argument. It also keeps variables that are made of
/// each other from growing without end.
const MAX_BYTES: usize = 128 << 10;

/// Variables by name, each with what is to know of its value.
pub type ComposeVariables = BTreeMap<String, Text>;

/// A value with its variables put in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    pub value: String,
    /// Variables without a value and without a default, for which nothing was put in.
    pub(crate) unset: BTreeSet<String>,
    /// Variables that must have a value and have none, each with what the file says of it.
    pub(crate) required: BTreeMap<String, String>,
    /// A variable in it that holds a secret, by its name.
    pub(crate) secret: Option<String>,
    /// A variable in it whose value is from a file of variables, and may be a secret.
    pub(crate) private: Option<String>,
    /// Whether nothing gives it a value: what the file has for its default is a secret.
    pub(crate) absent: bool,
    /// Variables that may be secrets and stand in the text by their names, between [`OPEN`] and [`CLOSE`]; `None` where their
    /// values are in it.
    pub(crate) hidden: Option<BTreeSet<String>>,
}

/// What stands before the name of a variable that is hidden; no text has it.
pub(crate) const OPEN: char = '\u{fdd1}';
/// What stands after it.
pub(crate) const CLOSE: char = '\u{fdd2}';

/// How a variable stands in a text in which it is hidden.
#[must_use]
pub(crate) fn hidden(name: &str) -> String {
    format!("{OPEN}{name}{CLOSE}")
}

/// A variable that has a value.
#[must_use]
pub(crate) fn given<'a>(variables: &'a ComposeVariables, name: &str) -> Option<&'a Text> {
    variables.get(name).filter(|text| !text.absent)
}

/// Marks a variable as one that holds a secret, wherever its value is from; whether it was not marked before.
pub(crate) fn taint(variables: &mut ComposeVariables, name: &str) -> bool {
    let text = variables.entry(name.to_owned()).or_insert_with(|| Text { absent: true, ..Text::default() });
    let is_new = text.secret.is_none();
    text.secret.get_or_insert_with(|| name.to_owned());
    is_new
}

impl From<&str> for Text {
    fn from(value: &str) -> Self {
        Self { value: value.to_owned(), ..Self::default() }
    }
}

/// Puts the variables in.
///
/// # Errors
/// With what is wrong, without the text.
pub fn interpolate(text: &str, variables: &ComposeVariables) -> Result<Text, String> {
    interpolate_as(text, variables, None)
}

/// Puts the variables in, but for those that may be secrets: these stand in the text by their names.
///
/// # Errors
/// As [`interpolate`].
pub(crate) fn interpolate_hiding(text: &str, variables: &ComposeVariables) -> Result<Text, String> {
    interpolate_as(text, variables, Some(BTreeSet::new()))
}

fn interpolate_as(text: &str, variables: &ComposeVariables, hidden: Option<BTreeSet<String>>) -> Result<Text, String> {
    if text.contains([OPEN, CLOSE]) {
        return Err("has a character in it that stands for no text (U+FDD1, U+FDD2)".to_owned());
    }
    let mut result = Text { hidden, ..Text::default() };
    result.value = expand(text, variables, &mut result, 0)?;
    Ok(result)
}

fn expand(text: &str, variables: &ComposeVariables, result: &mut Text, depth: usize) -> Result<String, String> {
    if depth > MAX_DEPTH {
        return Err(format!("has defaults more than {MAX_DEPTH} levels deep"));
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let end = closing(after).ok_or("has a '${' without its '}'; write '$$' for a dollar sign")?;
            out.push_str(&braced(&after[..end], variables, result, depth)?);
            rest = &after[end + 1..];
        } else {
            let name = name_of(after);
            if name.is_empty() {
                return Err(
                    "has a '$' before something that is not a variable; write '$$' for a dollar sign".to_owned()
                );
            }
            out.push_str(&value_of(name, variables, result));
            rest = &after[name.len()..];
        }
        if out.len() > MAX_BYTES {
            return Err(format!("is longer than {} KiB with its variables put in", MAX_BYTES >> 10));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the `}` is that ends what began before `text`.
fn closing(text: &str) -> Option<usize> {
    let (mut open, mut previous) = (0_usize, None);
    for (at, c) in text.char_indices() {
        match c {
            '{' if previous == Some('$') => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
        previous = Some(c);
    }
    None
}

fn name_of(text: &str) -> &str {
    let fits = |(at, c): &(usize, char)| c.is_ascii_alphabetic() || *c == '_' || (*at > 0 && c.is_ascii_digit());
    let end = text.char_indices().find(|at| !fits(at)).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn braced(text: &str, variables: &ComposeVariables, result: &mut Text, depth: usize) -> Result<String, String> {
    let name = name_of(text);
    if name.is_empty() {
        return Err("has a '${' that is not followed by the name of a variable".to_owned());
    }
    let rest = &text[name.len()..];
    let (or_empty, operation) = match rest.strip_prefix(':') {
        Some(operation) => (true, operation),
        None => (false, rest),
    };
    let value = given(variables, name).filter(|text| !or_empty || !text.value.is_empty());
    let mut operator = operation.chars();
    let kind = operator.next();
    let word = operator.as_str();
    match (kind, value) {
        (None, _) if rest.is_empty() => Ok(value_of(name, variables, result)),
        (Some('-'), None) => {
            let default = expand(word, variables, result, depth + 1)?;
            note_secret(name, &default, result);
            let tainted = variables.get(name).and_then(|text| text.secret.clone());
            result.secret = result.secret.take().or_else(|| tainted.clone());
            let may_be = tainted.is_some() || is_secret(name, &default);
            Ok(hide(name, may_be, result).unwrap_or(default))
        }
        (Some('?'), None) => {
            let message = expand(word, variables, result, depth + 1)?;
            result.required.insert(name.to_owned(), message);
            Ok(String::new())
        }
        (Some('-' | '?'), Some(_)) => Ok(value_of(name, variables, result)),
        (Some('+'), Some(_)) => expand(word, variables, result, depth + 1),
        (Some('+'), None) => Ok(String::new()),
        _ => Err(format!("has '${{{name}…}}' with something else than '-', '?' or '+' after the name")),
    }
}

fn value_of(name: &str, variables: &ComposeVariables, result: &mut Text) -> String {
    let Some(text) = given(variables, name) else {
        result.unset.insert(name.to_owned());
        return String::new();
    };
    // What holds of a variable holds of everything that is made of it.
    result.unset.extend(text.unset.iter().cloned());
    result.required.extend(text.required.clone());
    result.secret = result.secret.take().or_else(|| text.secret.clone());
    result.private = result.private.take().or_else(|| text.private.clone());
    note_secret(name, &text.value, result);
    let may_be = text.secret.is_some() || text.private.is_some() || is_secret(name, &text.value);
    hide(name, may_be, result).unwrap_or_else(|| text.value.clone())
}

/// The name of a variable in the place of its value, where it may be a secret and such are hidden.
fn hide(name: &str, may_be_secret: bool, result: &mut Text) -> Option<String> {
    let names = result.hidden.as_mut().filter(|_| may_be_secret)?;
    names.insert(name.to_owned());
    Some(hidden(name))
}

fn note_secret(name: &str, value: &str, result: &mut Text) {
    if is_secret(name, value) {
        result.secret.get_or_insert_with(|| name.to_owned());
    }
}

/// Reads a file of `NAME=value` lines as compose does: comments, `export`, quotes, values over several lines in
/// quotes, and variables from above.
///
/// # Errors
/// With the number of the line and what is wrong with it, without its text.
pub fn parse_env_file(text: &str, variables: &mut ComposeVariables) -> Result<(), (usize, String)> {
    if let Some(at) = text.find([OPEN, CLOSE]) {
        let line = text[..at].matches('\n').count() + 1;
        return Err((line, "has a character in it that stands for no text (U+FDD1, U+FDD2)".to_owned()));
    }
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut line, mut counted) = (1, 0);
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(());
        }
        let here = text.len() - rest.len();
        line += text[counted..here].matches('\n').count();
        counted = here;
        let (this, after) = rest.split_once('\n').unwrap_or((rest, ""));
        if this.starts_with('#') {
            rest = after;
            continue;
        }
        let exported = this.strip_prefix("export").filter(|this| this.starts_with([' ', '\t']));
        let this = exported.map_or(this, str::trim_start);
        let end = this.find(['=', ':']).unwrap_or(this.len());
        let name = this[..end].trim();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
            return Err((line, "expected NAME=value".to_owned()));
        }
        if end == this.len() {
            // A name alone takes its value from the shell, which is not read.
            rest = after;
            continue;
        }
        let begin = text.len() - rest.len() + (rest.find(this).unwrap_or(0)) + end + 1;
        let value = text[begin..].trim_start_matches([' ', '\t']);
        let unclosed = || (line, "has a quote without its end".to_owned());
        let (value, after) = if let Some(quoted) = value.strip_prefix('\'') {
            let end = quoted.find('\'').ok_or_else(unclosed)?;
            (Text::from(&quoted[..end]), &quoted[end + 1..])
        } else if let Some(quoted) = value.strip_prefix('"') {
            let end = end_of_quotes(quoted).ok_or_else(unclosed)?;
            let value = interpolate(&unescape(&quoted[..end]), variables).map_err(|message| (line, message))?;
            (value, &quoted[end + 1..])
        } else {
            let (value, after) = value.split_once('\n').map_or((value, ""), |(value, after)| (value, after));
            let comment = if value.starts_with('#') { Some(0) } else { value.find(" #").or(value.find("\t#")) };
            let value = value[..comment.unwrap_or(value.len())].trim_end();
            let value = interpolate(value, variables).map_err(|message| (line, message))?;
            variables.insert(name.to_owned(), value);
            rest = after;
            continue;
        };
        variables.insert(name.to_owned(), value);
        // After a quote only a comment can follow.
        let (tail, after) = after.split_once('\n').unwrap_or((after, ""));
        if !tail.trim().is_empty() && !tail.trim_start().starts_with('#') {
            return Err((line, "has something after the quotes".to_owned()));
        }
        rest = after;
    }
}

fn end_of_quotes(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

/// `\n`, `\"`, …; `\$` stays a dollar sign that begins no variable.
fn unescape(text: &str) -> String {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('$') => out.push_str("$$"),
            Some(other @ ('"' | '\\' | '\'')) => out.push(other),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> ComposeVariables {
        let pairs = [("A", "a"), ("EMPTY", ""), ("DB_PASSWORD", "hidden")];
        pairs.map(|(name, value)| (name.to_owned(), value.into())).into()
    }

    #[test]
    fn every_form_of_a_variable() {
        for (text, value) in [
            ("", ""),
            ("$A-${A}-$$A-$${A}", "a-a-$A-${A}"),
            ("${A:-x}${A-x}${EMPTY:-x}[${EMPTY-x}]${NONE:-x}${NONE-x}", "aax[]xx"),
            ("${A:+x}${A+x}[${EMPTY:+x}]${EMPTY+x}[${NONE:+x}][${NONE+x}]", "xx[]x[][]"),
            ("${A:?no}${A?no}${EMPTY?no}", "aa"),
            ("${NONE:-${ALSO:-${A}}}", "a"),
            ("${NONE:-a-b:c}/${NONE:-}", "a-b:c/"),
            ("${NONE:-$${A}}", "${A}"),
            ("a$A/b", "aa/b"),
        ] {
            assert_eq!(interpolate(text, &variables()).map(|text| text.value), Ok(value.to_owned()), "{text}");
        }
        for text in ["$", "a$ b", "${", "${A", "${}", "${1}", "$1", "${A!x}", "${A:}", "${A x}"] {
            assert!(interpolate(text, &variables()).is_err(), "{text}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(40), "}".repeat(40));
        assert!(interpolate(&deep, &variables()).is_err());
    }

    #[test]
    fn what_has_no_value_and_what_is_secret_is_told() {
        let text = interpolate("${NONE}$ALSO${NEEDED:?give one}", &variables()).unwrap();
        assert_eq!(text.unset, ["ALSO", "NONE"].map(str::to_owned).into());
        assert_eq!(text.required, [("NEEDED".to_owned(), "give one".to_owned())].into());
        assert_eq!(text.secret, None);
        for text in ["x${DB_PASSWORD}", "${API_KEY:-sk-123}", "${A:+${DB_PASSWORD}}"] {
            assert!(interpolate(text, &variables()).unwrap().secret.is_some(), "{text}");
        }
    }

    #[test]
    fn env_files_are_read_as_compose_reads_them() {
        let text = "# comment\nA=1\n export B = two words  # comment\nC='single $A # no'\nD=\"double $A\\n\\$A\" # c\n\
                    E=\nF=\"over\nlines\"\nG: yaml\nH\nI=${A}b\nJ=a#b\nK=http://x:1/y=z\n";
        let mut found = ComposeVariables::new();
        parse_env_file(text, &mut found).unwrap();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "single $A # no"),
            ("D", "double 1\n$A"),
            ("E", ""),
            ("F", "over\nlines"),
            ("G", "yaml"),
            ("I", "1b"),
            ("J", "a#b"),
            ("K", "http://x:1/y=z"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.into())).into());
        for (text, line) in [("A=1\nA B=2", 2), ("A=1\n\n'x", 3), ("A=\"x", 1), ("A='x' y", 1), ("=x", 1)] {
            assert_eq!(parse_env_file(text, &mut ComposeVariables::new()).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn what_is_made_of_a_secret_is_one() {
        let mut found = ComposeVariables::new();
        parse_env_file("DB_PASSWORD=hidden\nA=x${DB_PASSWORD}\nB=\"$A\"\nC=${NONE}${D:?say}\n", &mut found).unwrap();
        assert_eq!(interpolate("-$B-", &found).unwrap().secret.as_deref(), Some("DB_PASSWORD"));
        let text = interpolate("$C", &found).unwrap();
        assert_eq!((text.unset.first().unwrap().as_str(), text.required["D"].as_str()), ("NONE", "say"));
    }

    #[test]
    fn what_may_be_a_secret_stands_by_its_name_where_it_is_hidden() {
        let mut found = variables();
        parse_env_file("DB_PASSWORD=hidden\n", &mut found).unwrap();
        found.get_mut("A").unwrap().private = Some("A".to_owned());
        taint(&mut found, "NONE");
        let text = interpolate_hiding("x $A ${DB_PASSWORD}${NONE:-default}${B}", &found).unwrap();
        let expected = format!("x {} {}{}", hidden("A"), hidden("DB_PASSWORD"), hidden("NONE"));
        assert!(text.value.starts_with(&expected), "{text:?}");
        assert_eq!(text.hidden.unwrap().len(), 3);
        let plain = interpolate("${NONE:-default}", &found).unwrap();
        assert_eq!((plain.value.as_str(), plain.secret.as_deref(), plain.hidden), ("default", Some("NONE"), None));
        assert!(interpolate("a\u{fdd1}b", &found).is_err());
        assert_eq!(parse_env_file("A=1\nB='\u{fdd2}'\n", &mut ComposeVariables::new()).unwrap_err().0, 2);
    }

    #[test]
    fn variables_do_not_grow_without_end() {
        let tens = |first: &str| {
            let lines = (1..40).map(|n| format!("A{n}={}\n", format!("${{A{}}}", n - 1).repeat(10)));
            format!("A0={first}\n") + &lines.collect::<String>()
        };
        assert_eq!(parse_env_file(&tens("x"), &mut ComposeVariables::new()).unwrap_err().0, 7);
        assert_eq!(parse_env_file(&tens("$NONE"), &mut ComposeVariables::new()), Ok(()));
        let many = "A=1\n".repeat(200_000) + "'";
        assert_eq!(parse_env_file(&many, &mut ComposeVariables::new()).unwrap_err().0, 200_001);
    }
}
