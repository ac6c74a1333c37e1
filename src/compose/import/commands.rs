//! Commands: words, or a script for a shell. A secret among them is not written down and the rest is: the word takes it from a
//! variable of the container, by a shell; where there may be none, or the program is given it in another way, the option is left
//! out, and the account says so.

use std::collections::BTreeSet;

use super::account::PlacedValue;
use super::context::{Draft, ImportContext, NOT_COPIED};
use super::taint::has;
use crate::compose::read::ComposeImportError;
use crate::compose::read::variables::{CLOSE, OPEN, hidden};
use crate::compose::read::yaml::YamlValue;
use crate::oci::reference::image_name;
use crate::secrets::values::{given, words};

/// The words of a command; secrets stand in them by names of variables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Words {
    pub(crate) words: Vec<String>,
    /// These variables.
    pub(crate) secrets: BTreeSet<String>,
}

/// Programs that images of Docker Hub start when a command begins with an option.
const PROGRAMS: [(&str, &str); 6] = [
    ("mariadb", "mariadbd"),
    ("mysql", "mysqld"),
    ("pgvector/pgvector", "postgres"),
    ("postgres", "postgres"),
    ("redis", "redis-server"),
    ("valkey/valkey", "valkey-server"),
];

/// A command: a list, or a string that is split.
pub(crate) fn words_of(cx: &mut ImportContext<'_>, at: &PlacedValue<'_>) -> Result<Words, ComposeImportError> {
    let mut texts = Vec::new();
    match &at.node.value {
        YamlValue::List(_) => {
            for (_, item) in at.children() {
                texts.push(cx.hiding(&item)?);
            }
        }
        YamlValue::Scalar { .. } if at.node.is_null() => {}
        YamlValue::Scalar { .. } => texts.push(cx.hiding(at)?),
        YamlValue::Map(_) => return Err(cx.wrong(at, "expected a string or a list of strings, found a mapping")),
    }
    let mut secrets: BTreeSet<String> = texts.iter().flat_map(|text| text.hidden.clone().unwrap_or_default()).collect();
    let whole: Vec<String> = texts.iter().map(|text| text.value.clone()).collect();
    let mut words = if matches!(at.node.value, YamlValue::List(_)) {
        whole
    } else {
        words(&whole.concat()).ok_or_else(|| cx.wrong(at, "has a quote without its end"))?
    };
    texts.iter().for_each(|text| cx.demand(at, text));
    hide(cx, &mut words, &mut secrets);
    Ok(Words { words, secrets })
}

/// Puts names in the place of secrets that are written in the file itself.
pub(crate) fn hide(cx: &ImportContext<'_>, words: &mut [String], secrets: &mut BTreeSet<String>) {
    let mut put = |word: &mut String, value: &str, what: &str| {
        let name = variable_of(what);
        *word = word.replace(value, &hidden(&name));
        secrets.insert(name);
    };
    for found in given(words) {
        if !found.value.contains(OPEN) {
            put(&mut words[found.argument], &found.value, &found.option);
        }
    }
    for (value, what) in &cx.tainted {
        for word in words.iter_mut().filter(|word| has(word, value)) {
            put(word, value, what);
        }
    }
}

/// The variable that a secret is taken from, which the file has written down: `--requirepass` is `REQUIREPASS`.
fn variable_of(option: &str) -> String {
    let option = match option {
        "a URL with a password" => "URL_PASSWORD",
        "a header" => "AUTHORIZATION",
        option => option,
    };
    let upper = option.to_ascii_uppercase();
    let words: Vec<&str> = upper.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let name = words.join("_");
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() { format!("SECRET_{name}") } else { name }
}

fn is_hidden(word: &str) -> bool {
    word.contains(OPEN)
}

/// Where the script of `sh -c SCRIPT` is.
fn script_at(words: &[String]) -> Option<usize> {
    let program = words.first()?.rsplit('/').next()?;
    if !matches!(program, "sh" | "bash" | "ash" | "dash" | "zsh") {
        return None;
    }
    let is_command = |word: &String| {
        let letters = word.strip_prefix('-').unwrap_or_default();
        letters.ends_with('c') && letters.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    let options = words.iter().skip(1).take_while(|word| word.starts_with('-')).position(is_command)?;
    Some(options + 2).filter(|at| *at < words.len())
}

/// A script with variables of the shell where secrets were; one without a value ends it.
pub(crate) fn in_script(script: &str) -> String {
    let (mut out, mut single, mut double) = (String::new(), false, false);
    let mut rest = script.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            OPEN => {
                let name: String = rest.by_ref().take_while(|c| *c != CLOSE).collect();
                let variable = format!("${{{name}:?}}");
                let parts = if single {
                    ["'\"", &variable, "\"'"]
                } else if double {
                    ["", &variable, ""]
                } else {
                    ["\"", &variable, "\""]
                };
                out.extend(parts);
            }
            '\\' if !single => {
                out.push(c);
                out.extend(rest.next());
            }
            '\'' if !double => {
                single = !single;
                out.push(c);
            }
            '"' if !single => {
                double = !double;
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// One word for a shell, with variables where secrets were.
fn quoted(word: &str) -> String {
    let mut out = String::new();
    for (n, part) in word.split(OPEN).enumerate() {
        let literal = match part.split_once(CLOSE).filter(|_| n > 0) {
            Some((name, after)) => {
                out.extend(["\"${", name, ":?}\""]);
                after
            }
            None => part,
        };
        if !literal.is_empty() {
            out.push_str(&crate::sh::word(literal));
        }
    }
    if out.is_empty() { "''".to_owned() } else { out }
}

/// The words as a shell runs them; as they are, where there is nothing to be put in. `more` is for what comes after them.
fn by_shell(words: &[String], more: bool) -> Vec<String> {
    if !words.iter().any(|word| is_hidden(word)) {
        return words.to_vec();
    }
    if let Some(at) = script_at(words)
        && words.iter().enumerate().all(|(n, word)| n == at || !is_hidden(word))
    {
        let mut words = words.to_vec();
        words[at] = in_script(&words[at]);
        return words;
    }
    let line = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let mut all =
        vec!["/bin/sh".to_owned(), "-c".to_owned(), format!("exec {line}{}", if more { " \"$@\"" } else { "" })];
    all.extend(more.then(|| "sh".to_owned()));
    all
}

/// The words of a health check as they are run, with a shell for secrets.
pub(crate) fn checked(words: &[String]) -> Vec<String> {
    by_shell(words, false)
}

/// Takes away the words with secrets, each with the option that is before it; the names of the options.
fn without_secrets(words: &mut Vec<String>) -> Vec<String> {
    let (mut kept, mut options): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for word in words.drain(..) {
        if !is_hidden(&word) {
            kept.push(word);
            continue;
        }
        let own = word.split('=').next().filter(|name| name.starts_with('-') && !is_hidden(name)).map(str::to_owned);
        let is_option = kept.last().is_some_and(|last| last.starts_with('-') && !last.contains('='));
        match own {
            Some(own) => options.push(own),
            None if is_option => options.extend(kept.pop()),
            None => options.push("a word".to_owned()),
        }
    }
    *words = kept;
    options
}

/// What the host has to have for what was taken from the environment.
pub(crate) fn needs(secrets: &BTreeSet<String>) -> String {
    let names: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let (all, lines) =
        (names.join(", "), names.iter().map(|name| format!("{name}=…")).collect::<Vec<_>>().join(" and "));
    format!(
        "takes {all} from its environment, because {NOT_COPIED}: write {lines} to a file of the host and name it in environmentFiles"
    )
}

fn left_out(draft: &Draft, options: &[String]) -> String {
    let how = draft.known.and_then(|known| known.password).map_or_else(
        || "let the program read it from a file below /run/secrets, or from its environment".to_owned(),
        |password| super::runtime::secret_file(draft, password),
    );
    format!("without {}, whose value may be a secret: {NOT_COPIED}; {how}", options.join(", "))
}

/// The name of an image of Docker Hub without its registry.
fn hub_name(image: &str) -> &str {
    let (name, _) = image_name(image);
    let name = ["docker.io/", "index.docker.io/"].iter().find_map(|hub| name.strip_prefix(hub)).unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

fn entrypoint_of<'n>(cx: &ImportContext<'n>, draft: &Draft) -> Option<PlacedValue<'n>> {
    cx.root.get("services")?.get(&draft.name)?.get("entrypoint").filter(|at| !at.node.is_null())
}

pub(crate) fn command(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    let Words { mut words, secrets } = words_of(cx, at)?;
    if words.is_empty() {
        cx.account.take(at, "", "nothing: the command is that of the image");
        return Ok(());
    }
    let entrypoint = entrypoint_of(cx, draft);
    if draft.known.is_some_and(|known| known.built) {
        return of_built(cx, draft, at, words, entrypoint.as_ref());
    }
    let mut why = String::new();
    if words.iter().any(|word| is_hidden(word)) {
        let image = hub_name(&draft.service.image).to_owned();
        let program = PROGRAMS.iter().find(|(name, _)| *name == image).map(|(_, program)| (*program).to_owned());
        // Images of Docker's own library run whatever command they are given; with an entrypoint of its own no image does.
        let runs_all = entrypoint.is_none() && (program.is_some() || (!image.contains('/') && !image.is_empty()));
        let is_option = words[0].starts_with('-');
        let is_script = match &entrypoint {
            Some(entrypoint) => {
                let before = words_of(cx, entrypoint)?.words;
                before.len() > 1 && script_at(&[before, vec![String::new()]].concat()).is_some()
            }
            None => false,
        };
        if is_script {
            // `entrypoint: [sh, -c]`, and the script as the command.
            words[0] = in_script(&words[0]);
        } else if entrypoint.is_none() && script_at(&words).is_some() {
            words = by_shell(&words, false);
        } else if runs_all && (!is_option || program.is_some()) {
            if let Some(program) = program.filter(|_| is_option) {
                words.insert(0, program);
            }
            words = by_shell(&words, false);
        }
        why = match words.iter().any(|word| is_hidden(word)) {
            false => needs(&secrets),
            true => {
                draft.lost_secret = true;
                let options = without_secrets(&mut words);
                left_out(draft, &options)
            }
        };
        draft.comment("command", why.clone());
    }
    draft.service.command = words;
    cx.account.take(at, "command", why);
    Ok(())
}

/// The command of an image that is built here, which starts its own program.
fn of_built(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
    mut words: Vec<String>,
    entrypoint: Option<&PlacedValue<'_>>,
) -> Result<(), ComposeImportError> {
    let Some(known) = draft.known else { return Ok(()) };
    let base = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(entrypoint) = entrypoint {
        let before = words_of(cx, entrypoint)?.words;
        let program = before.first().map(|word| base(word)).unwrap_or_default();
        if !known.programs.contains(&program.as_str()) {
            cx.account.leave(
                at,
                format!("is for {program}, the entrypoint of the file, and no list of options for the program of the image that is built"),
            );
            return Ok(());
        }
        words = [before, words].concat();
    }
    let mut why = String::new();
    let program = base(&words[0]);
    let is_shell = matches!(program.as_str(), "sh" | "bash" | "ash" | "dash" | "env");
    if known.script {
        // The image begins with a script that knows the program's name.
        if known.programs.contains(&program.as_str()) {
            known.programs[0].clone_into(&mut words[0]);
        } else if !is_shell && !words[0].starts_with('-') && words[0].contains('/') && !words[0].ends_with(".conf") {
            cx.account.leave(at, format!("runs {}, which the image that is built does not have", words[0]));
            return Ok(());
        }
    } else if is_shell {
        let why = "runs a shell, and the image that is built has none: use environment, or files that are mounted";
        cx.account.leave(at, why);
        return Ok(());
    } else if known.programs.contains(&program.as_str()) {
        words.remove(0);
        "without the program, which the image that is built starts by itself".clone_into(&mut why);
    } else if words[0].contains('/') || words[0].ends_with(".sh") {
        cx.account.leave(at, format!("runs {}, which the image that is built does not have", words[0]));
        return Ok(());
    } else {
        "arguments for the program of the image that is built: see that it knows them".clone_into(&mut why);
    }
    if known.name == "llama-cpp" && without_model(&mut words) {
        "without the model: services.ai-stack.models has it, and activeModel.chat says which".clone_into(&mut why);
    }
    if words.iter().any(|word| is_hidden(word)) {
        if known.script
            && let Some(script) = script_at(&words)
        {
            words[script] = in_script(&words[script]);
        }
        let options = without_secrets(&mut words);
        if !options.is_empty() {
            why = left_out(draft, &options);
        }
    }
    if words.is_empty() || (words.len() == 1 && known.programs.first() == Some(&words[0].as_str())) {
        cx.account.take(at, "", why);
        return Ok(());
    }
    draft.service.command = words;
    cx.account.take(at, "command", why);
    Ok(())
}

/// Takes `--model FILE` away; whether it was there.
fn without_model(command: &mut Vec<String>) -> bool {
    let Some(at) =
        command.iter().position(|word| matches!(word.as_str(), "-m" | "--model") || word.starts_with("--model="))
    else {
        return false;
    };
    let words = if command[at].contains('=') { 1 } else { 2 };
    command.drain(at..command.len().min(at + words));
    true
}

pub(crate) fn entrypoint(
    cx: &mut ImportContext<'_>,
    draft: &mut Draft,
    at: &PlacedValue<'_>,
) -> Result<(), ComposeImportError> {
    if draft.known.is_some_and(|known| known.built) {
        cx.account.leave(at, "is a program of the upstream image: the one that is built starts its own");
        return Ok(());
    }
    if at.node.is_null() {
        cx.account.take(at, "", "nothing: the entrypoint is that of the image");
        return Ok(());
    }
    let Words { words, secrets } = words_of(cx, at)?;
    if words.is_empty() {
        draft.service.extra_options.push("--entrypoint=".to_owned());
        cx.account.take(at, "extraOptions --entrypoint", "");
        return Ok(());
    }
    let why = if words.iter().any(|word| is_hidden(word)) { needs(&secrets) } else { String::new() };
    // What the command has comes after it.
    draft.service.entrypoint = Some(by_shell(&words, true));
    cx.account.take(at, "entrypoint", why);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn secrets_become_variables_of_a_shell() {
        let pass = hidden("PASS");
        let run = |words: &[&str]| by_shell(&list(words), false);
        assert_eq!(run(&["a", "b c"]), ["a", "b c"]);
        let program = run(&["redis-server", "--requirepass", &pass, "--save", "60 1"]);
        assert_eq!(program, ["/bin/sh", "-c", "exec redis-server --requirepass \"${PASS:?}\" --save '60 1'"]);
        let url = format!("--url=redis://:{pass}@db/$HOME");
        assert_eq!(
            run(&["x", &url])[2],
            "exec x '--url=redis://:'\"${PASS:?}\"'@db/$HOME'"
                .replace("'--url=redis://:'", &crate::sh::word("--url=redis://:"))
        );
        for (script, expected) in [
            (format!("a -p {pass} b"), "a -p \"${PASS:?}\" b"),
            (format!("a -p \"{pass}\""), "a -p \"${PASS:?}\""),
            (format!("a -p '{pass}'"), "a -p ''\"${PASS:?}\"''"),
            (format!("a \\\"{pass}"), "a \\\"\"${PASS:?}\""),
        ] {
            assert_eq!(run(&["bash", "-ec", &script])[2], expected);
        }
        assert_eq!(by_shell(&list(&["x", &pass]), true)[2..], ["exec x \"${PASS:?}\" \"$@\"", "sh"]);
    }

    #[test]
    fn an_option_goes_with_its_secret_and_nothing_else_does() {
        let (one, two) = (hidden("A"), format!("--b={}", hidden("B")));
        let mut words = list(&["--a", &one, "--keep", "1", &two, "last"]);
        assert_eq!(without_secrets(&mut words), ["--a", "--b"]);
        assert_eq!(words, ["--keep", "1", "last"]);
        assert_eq!(
            [variable_of("--require-pass"), variable_of("a header"), variable_of("-1")],
            ["REQUIRE_PASS", "AUTHORIZATION", "SECRET_1"]
        );
    }
}
