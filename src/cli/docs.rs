//! Shell completions and the reference in the docs, made from the same definitions as `--help`.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::env::Shells;

use super::Cli;
use super::complete;
use super::failure::{Result, usage};
use super::printer::Printer;

/// Print the completions for a shell.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// The help of every verb, as one page of Markdown: `docs/command-line.md`.
pub(super) fn reference(printer: &Printer) -> Result<()> {
    let mut page = String::from("# The command line\n\n<!-- Made by `windlass reference`; a test compares it. -->\n");
    // As wide as where there is no terminal; built, so that each verb has the options of all.
    let mut command = Cli::command().term_width(100);
    command.build();
    page.push_str(&conventions(&command));
    add_verb(&mut page, &command, "windlass");
    printer.bytes(page.as_bytes())
}

/// What has the same name everywhere: the name of an option, and what it means.
const CONVENTIONS: [(&str, &str); 9] = [
    ("dry-run", "say what would be done, and do nothing"),
    ("output", "where the result goes; one file goes to standard output with `-`"),
    ("lock", "the lock file"),
    ("image", "only this image; repeatable"),
    ("force", "do it again, although it is done"),
    ("replace", "take the place of one of this name"),
    ("insecure", "plain HTTP, for a registry on this machine"),
    ("yes", "do not ask"),
    ("offline", "ask no server"),
];

/// Which verb has which of these, as a table; no line is wider than the help.
fn conventions(command: &clap::Command) -> String {
    let mut page = String::from(
        "\n## The same everywhere\n\n\
         Every verb has `--json` (an object with `version`; with `error` if it failed before there was a\n\
         result), `--quiet` and `--color`. Sizes are given as `20GB`, `4GiB` or bytes, and printed as\n\
         `660 MB`; with `--json` they are bytes.\n\n",
    );
    for (option, means) in CONVENTIONS {
        page.extend(["- `--", option, "`: ", means, "\n"]);
    }
    page.push_str("\n| verb | of these |\n|---|---|\n");
    for (name, verb) in all_verbs(command, "") {
        let own = CONVENTIONS.iter().filter(|(option, _)| has(verb, option));
        let own: Vec<String> = own.map(|(option, _)| format!("`--{option}`")).collect();
        if !own.is_empty() {
            page.extend(["| `", &name, "` | ", &own.join(" "), " |\n"]);
        }
    }
    page
}

fn has(verb: &clap::Command, option: &str) -> bool {
    verb.get_arguments().any(|argument| argument.get_long() == Some(option))
}

/// The verbs that do something, by their names without the program's.
fn all_verbs<'c>(command: &'c clap::Command, name: &str) -> Vec<(String, &'c clap::Command)> {
    let below = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    let mut verbs = Vec::new();
    for verb in below {
        let name = format!("{name}{}{}", if name.is_empty() { "" } else { " " }, verb.get_name());
        match verb.has_subcommands() {
            true => verbs.extend(all_verbs(verb, &name)),
            false => verbs.push((name, verb)),
        }
    }
    verbs
}

/// A verb and those below it, each under its full name.
fn add_verb(page: &mut String, command: &clap::Command, name: &str) {
    let help = command.clone().render_long_help().to_string();
    let level = "#".repeat(1 + name.split(' ').count());
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let help = lines.join("\n");
    page.extend(["\n", &level, " ", name, "\n\n```text\n", help.trim_end(), "\n```\n"]);
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        add_verb(page, verb, &format!("{name} {}", verb.get_name()));
    }
}

pub(super) fn completions(args: &CompletionsArgs, printer: &Printer) -> Result<()> {
    let shell = args.shell.to_string();
    let shells = Shells::builtins();
    let completer = shells.completer(&shell).ok_or_else(|| usage(format!("there are no completions for {shell}")))?;
    let mut script = Vec::new();
    completer.write_registration(complete::VARIABLE, "windlass", "windlass", "windlass", &mut script)?;
    printer.bytes(&script)
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    /// Each option means the same in every verb that has it: its type, its short name, and whether it may be repeated.
    #[test]
    fn one_option_is_one_thing() {
        let mut command = Cli::command();
        command.build();
        for (name, verb) in all_verbs(&command, "") {
            for global in ["json", "quiet", "color"] {
                assert!(has(verb, global), "{name} lacks --{global}");
            }
            for argument in verb.get_arguments() {
                let Some(long) = argument.get_long() else { continue };
                let value = argument.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
                let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
                let is_path = matches!(value.as_str(), "FILE" | "DIR");
                match long {
                    "output" => assert_eq!(argument.get_short(), Some('o'), "{name} --output"),
                    "lock" => assert!(value == "FILE", "{name} --lock {value}"),
                    "image" => assert!(
                        matches!(argument.get_action(), ArgAction::Append) && value == "NAME",
                        "{name} --image is not repeatable"
                    ),
                    "dry-run" | "force" | "insecure" | "yes" | "offline" | "replace" => {
                        assert!(!takes_value, "{name} --{long} takes a value");
                    }
                    // A result that is written has one name.
                    "to" => assert!(!is_path, "{name} --to {value}: write --output"),
                    "out" | "dest" | "destination" => {
                        panic!("{name} --{long}: write --output")
                    }
                    "max-size" | "check-free" => {
                        assert_eq!(value, "SIZE", "{name} --{long}");
                    }
                    _ => {}
                }
                assert_ne!(value, "BYTES", "{name} --{long}: sizes are SIZE");
            }
        }
    }

    /// What changes something says before what it would do.
    #[test]
    fn what_changes_something_can_be_tried() {
        let mut command = Cli::command();
        command.build();
        // What only writes a new file, or a store that has names for everything, is no change; doctor and gc do nothing without an option.
        let others = [
            "build",
            "plan",
            "lint",
            "diff",
            "simulate",
            "inspect",
            "report",
            "sbom",
            "export",
            "status",
            "verify",
            "generations",
            "gc",
            "doctor",
            "run",
            "schema",
            "cache status",
            "cache verify",
            "cache prune",
            "compose import",
            "compose export",
            "upstream check",
            "upstream list",
            "upstream export",
            "model check",
            "model inspect",
            "model list",
            "model manifest",
            "model artifact",
            "model sign",
            "model split",
        ];
        for (name, verb) in all_verbs(&command, "").into_iter().filter(|(name, _)| !others.contains(&name.as_str())) {
            assert!(has(verb, "dry-run"), "{name} changes something, and has no --dry-run");
        }
    }
}
