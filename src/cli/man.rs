//! Man pages: what clap has of a verb, then sections that have a place of their own in a manual.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};

use super::Cli;
use super::failure::{Context, Result};
use super::printer::Printer;

/// Write the man pages into a directory.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The directory, which must exist.
    directory: PathBuf,
}

/// An argument that a verb has, and what goes with it.
struct ManRow {
    /// The name of the argument; of all verbs, if it is empty.
    argument: &'static str,
    variables: &'static [(&'static str, &'static str)],
    files: &'static [(&'static str, &'static str)],
    see: &'static [&'static str],
}

const ROWS: [ManRow; 6] = [
    ManRow {
        argument: "",
        variables: &[
            ("NO_COLOR", "If it is set, and not empty, nothing has a colour."),
            ("COLUMNS", "How wide a terminal is, where that is not what it says itself."),
        ],
        files: &[],
        see: &[],
    },
    ManRow {
        argument: "storage_conf",
        variables: &[
            ("CONTAINERS_STORAGE_CONF", "The storage.conf that Podman reads."),
            ("WINDLASS_LOCK_WAIT", "Seconds to wait for a lock of Podman's; 600 without it."),
            ("NIX_STORE_DIR, NIX_STATE_DIR", "Where Nix keeps its things, if that is not /nix."),
        ],
        files: &[
            ("GRAPHROOT/windlass", "Generations, slots and notes of loads."),
            (
                "/etc/containers/storage.conf, ~/.config/containers/storage.conf",
                "Where Podman's images and the linked store are.",
            ),
        ],
        see: &["podman(1)", "containers-storage.conf(5)"],
    },
    ManRow {
        argument: "authfile",
        variables: &[
            ("REGISTRY_AUTH_FILE", "The file with logins, instead of those of podman login and of Docker."),
            ("NIX_SSL_CERT_FILE, SSL_CERT_FILE", "Certificates to trust, in PEM."),
            ("https_proxy, all_proxy, no_proxy", "The proxy for HTTPS, and hosts that are reached without it."),
            ("WINDLASS_NETWORK_WAIT", "Seconds that a server may send nothing; 30 to 120 without it."),
        ],
        files: &[("~/.config/containers/auth.json, ~/.docker/config.json", "Logins.")],
        see: &["podman-login(1)", "containers-auth.json(5)"],
    },
    ManRow {
        argument: "state",
        variables: &[("XDG_STATE_HOME", "Where times of checks are kept, if that is not ~/.local/state.")],
        files: &[
            ("images.lock.json", "The lock: which bytes each image is. It belongs into version control."),
            ("~/.local/state/windlass/upstream/", "When images were looked up, and how they stood."),
        ],
        see: &["windlass-upstream(1)"],
    },
    ManRow {
        argument: "any_file",
        variables: &[
            ("HF_TOKEN, HF_TOKEN_PATH, HF_HOME", "The token for Hugging Face, as its own tools find it."),
            ("HF_ENDPOINT", "A mirror of Hugging Face."),
        ],
        files: &[
            ("models.lock.json", "The lock: which bytes each model is. It belongs into version control."),
            ("~/.cache/windlass/models/", "Downloads that are not complete."),
        ],
        see: &["windlass-model-fetch(1)", "windlass-model-check(1)"],
    },
    ManRow { argument: "closure", variables: &[], files: &[], see: &["nix(1)"] },
];

const EXIT: [(&str, &str); 8] = [
    ("0", "Done."),
    ("1", "Failed, for a reason that has no code of its own."),
    ("2", "An argument or a spec is wrong."),
    ("4", "Bytes, a digest or a signature are not what they should be."),
    ("5", "There is not enough space."),
    ("6", "The network would be needed, and may not be used."),
    ("7", "The environment is wrong: something that windlass needs is not there, or a login is needed."),
    ("8", "Upstream has something newer."),
];

pub(super) fn run(args: &ManArgs, printer: &Printer) -> Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write(&command, "windlass", None, &args.directory)?;
    printer.line(format!("man pages are in {}", args.directory.display()))
}

/// The page of a verb, and those of the verbs below it.
fn write(command: &Command, name: &str, parent: Option<&str>, directory: &Path) -> Result<()> {
    let verbs: Vec<&Command> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
    let page = page(command, name, parent, &verbs)?;
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
    verbs.iter().try_for_each(|verb| write(verb, &format!("{name}-{}", verb.get_name()), Some(name), directory))
}

fn page(command: &Command, name: &str, parent: Option<&str>, verbs: &[&Command]) -> Result<String> {
    let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let man = clap_mangen::Man::new(command.clone());
    let mut bytes = Vec::new();
    man.render_title(&mut bytes)?;
    man.render_name_section(&mut bytes)?;
    man.render_synopsis_section(&mut bytes)?;
    man.render_description_section(&mut bytes)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut bytes)?;
    }
    if !verbs.is_empty() {
        man.render_subcommands_section(&mut bytes)?;
    }
    let mut page = String::from_utf8(bytes)?;
    if !examples.is_empty() {
        // As they are typed: not filled, and not joined to one line.
        page.push_str(".SH EXAMPLES\n.nf\n");
        let lines = examples.lines().skip_while(|line| matches!(line.trim_end(), "Examples:" | "Example:"));
        lines.for_each(|line| page.extend([&escaped(line), "\n"]));
        page.push_str(".fi\n");
    }
    let rows: Vec<&ManRow> = ROWS.iter().filter(|row| row.argument.is_empty() || has(command, row.argument)).collect();
    list(&mut page, "ENVIRONMENT", rows.iter().flat_map(|row| row.variables));
    list(&mut page, "FILES", rows.iter().flat_map(|row| row.files));
    list(&mut page, "EXIT STATUS", &EXIT);
    let below = verbs.iter().map(|verb| format!("{name}-{}(1)", verb.get_name()));
    let others = rows.iter().flat_map(|row| row.see).map(|other| (*other).to_owned());
    let own = format!("{name}(1)");
    let mut all: Vec<String> = parent.map(|parent| format!("{parent}(1)")).into_iter().chain(below).collect();
    for other in others.filter(|other| *other != own) {
        if !all.contains(&other) {
            all.push(other);
        }
    }
    if all.is_empty() {
        all.push("windlass(1)".to_owned());
    }
    page.push_str(".SH \"SEE ALSO\"\n");
    let all: Vec<String> = all.iter().map(|name| escaped(name)).collect();
    page.extend([&all.join(", "), "\n"]);
    Ok(page)
}

fn has(command: &Command, argument: &str) -> bool {
    command.get_arguments().any(|known| known.get_id() == argument)
}

fn list<'a>(page: &mut String, title: &str, rows: impl IntoIterator<Item = &'a (&'static str, &'static str)>) {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return;
    }
    page.extend([".SH \"", title, "\"\n"]);
    for (name, text) in rows {
        page.extend([".TP\n\\fB", &escaped(name), "\\fR\n", &escaped(text), "\n"]);
    }
}

/// A line for roff: nothing in it is a request, and a hyphen is the one that is typed.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}
