//! Paths that are given to be read: that one is not there is said before anything is done, and in the same way by every verb.

use std::io;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::failure::{Result, usage};

/// Arguments whose path is made, or may come to be later.
const WRITTEN: [&str; 10] =
    ["output", "bundle", "lock", "state", "root", "runroot", "statement", "storage_dir", "metrics", "write"];

/// Whether all paths that were given to be read are there.
pub(super) fn check(given: &ArgMatches) -> Result<()> {
    for id in given.ids().map(clap::Id::as_str).filter(|id| !WRITTEN.contains(id)) {
        let typed = given.value_source(id) == Some(ValueSource::CommandLine);
        if let Some(paths) = given.try_get_many::<PathBuf>(id).ok().flatten().filter(|_| typed) {
            paths.map(PathBuf::as_path).try_for_each(there)?;
        }
    }
    given.subcommand().map_or(Ok(()), |(_, given)| check(given))
}

/// Whether a path is there, or at least might be.
pub(super) fn there(path: &Path) -> Result<()> {
    match path.metadata() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(usage(format!("{}: there is no such file or directory", path.display())))
        }
        // Who may not look is told so by what reads it.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use clap::{Command, CommandFactory};

    use super::*;
    use crate::cli::Cli;

    /// Every path of every verb that is to be read.
    fn inputs(command: &Command, words: &[&str], found: &mut Vec<Vec<String>>) {
        for argument in command.get_arguments() {
            let is_path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            if is_path && !WRITTEN.contains(&argument.get_id().as_str()) {
                let option = argument.get_long().map(|long| format!("--{long}"));
                found.push(words.iter().map(|word| (*word).to_owned()).chain(option).collect());
            }
        }
        command.get_subcommands().for_each(|verb| inputs(verb, &[words, &[verb.get_name()]].concat(), found));
    }

    fn without_need(command: Command) -> Command {
        command.mut_args(|argument| argument.required(false)).mut_subcommands(without_need)
    }

    #[test]
    fn a_path_that_is_not_there_is_told_the_same_way_by_every_verb() {
        // What else a verb wants does not matter here.
        let mut command = without_need(Cli::command()).ignore_errors(true);
        command.build();
        let mut found = Vec::new();
        inputs(&command, &["windlass"], &mut found);
        assert!(found.len() > 25, "{found:?}");
        for words in found {
            let given = words.iter().map(String::as_str).chain(["/no/such"]);
            let given = command.clone().try_get_matches_from(given).unwrap();
            let said = check(&given).map_err(|error| error.to_string());
            assert_eq!(said, Err("/no/such: there is no such file or directory".to_owned()), "{words:?}");
        }
    }
}
