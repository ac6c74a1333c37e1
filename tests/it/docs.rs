//! The docs: what is made from the program is current, links lead somewhere, and every page is in the book.
//!
//! `UPDATE_DOCS=1 ./dev test -E 'test(/^docs::/)'` writes what is made from the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::env::Env;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page for people, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let in_folder = |folder: &Path| {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect::<Vec<_>>()
    };
    let mut paths = [in_folder(top()), in_folder(&top().join("docs"))].concat();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The text outside of blocks of code.
fn prose(text: &str) -> String {
    let mut inside = false;
    let is_prose = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    };
    text.lines().filter(is_prose).collect::<Vec<_>>().join("\n")
}

/// The targets of the links of a page: `](target)`.
fn links(text: &str) -> Vec<String> {
    let target = |rest: &str| rest.split(')').next().map(str::to_owned);
    // Not what is between backticks.
    let text = prose(text);
    let outside: String = text.split('`').step_by(2).collect::<Vec<_>>().join("`");
    outside.split("](").skip(1).filter_map(target).collect()
}

/// Whether a target is a page of ours: not an address, and not what a pattern in a type looks like.
fn is_path(target: &str) -> bool {
    !target.starts_with("http") && target.chars().all(|c| c.is_ascii_alphanumeric() || "_./#-".contains(c))
}

/// What a heading is called in an address, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| kept(*c))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn the_command_line_is_what_the_program_says() {
    let (env, file) = (Env::new(), top().join("docs/command-line.md"));
    let said = env.ok(["reference"]);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &said).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        said == written,
        "docs/command-line.md is not what `windlass reference` prints; write it with UPDATE_DOCS=1"
    );
    assert!(said.lines().all(|line| line.chars().count() <= 100), "a line is wider than 100 columns");
    // Every verb of the program's own list has a part, and its help is that of `--help`.
    let help = env.ok(["load", "--help"]);
    assert!(said.contains("\n### windlass load\n") && said.contains("\n#### windlass model use\n"), "{said}");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let part = said.split("\n### windlass load\n").nth(1).unwrap().split("\n### ").next().unwrap();
    assert_eq!(words(part.replace("```text", "").trim_end().trim_end_matches("```")), words(&help));
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut seen = 0;
    for (path, text) in &pages {
        for link in links(text).iter().filter(|link| is_path(link)) {
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: the link to {link} leads nowhere", path.display());
            if !part.is_empty() {
                let there = prose(&fs::read_to_string(&target).unwrap());
                let mut headings = there.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|heading| anchor(heading) == part), "{}: {link}: no such heading", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} links were looked at");
}

#[test]
fn every_page_is_in_the_book() {
    let docs = top().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: BTreeSet<PathBuf> = links(&summary).into_iter().map(|link| docs.join(link)).collect();
    let is_page = |path: &PathBuf| path.parent() == Some(&docs) && !path.ends_with("SUMMARY.md");
    let there: BTreeSet<PathBuf> = pages().into_iter().map(|(path, _)| path).filter(is_page).collect();
    assert_eq!(listed, there);
}

/// Words that native readers stumble over, each with what to write instead. One of them is also a user of the host.
const STUMBLES: [(&str, &str); 5] = [
    ("is none", "is not one"),
    ("nobody", "no user, no process, not"),
    ("somebody", "another user, another program"),
    ("whoever", "the user who, a process that"),
    ("as good as", "almost, the same as"),
];

#[test]
fn messages_comments_and_docs_are_plain_english() {
    fn below(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| below(&entry.unwrap().path(), found));
        } else if path.extension().is_some_and(|kind| ["rs", "nix", "sh", "md"].iter().any(|known| kind == *known)) {
            found.push(path.to_owned());
        }
    }
    let mut files = Vec::new();
    ["src", "nix", "docs", "README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"]
        .iter()
        .for_each(|name| below(&top().join(name), &mut files));
    let tests = files.len();
    ["tests/it", "fuzz/src"].iter().for_each(|name| below(&top().join(name), &mut files));
    assert!(files.len() > 200, "{} files were read", files.len());
    for (index, file) in files.into_iter().enumerate() {
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let is_comment = ["//", "# "].iter().any(|start| line.trim_start().starts_with(start));
            let begins = line.trim_start_matches([' ', '/', '!', '#']);
            let place = format!("{}:{}", file.display(), number + 1);
            assert!(!(is_comment && begins.starts_with("Of ")), "{place}: begin with the subject, not with 'Of'");
            // What a test gives to windlass may have any words.
            if index >= tests && !is_comment {
                continue;
            }
            // The user and group of that name.
            let said =
                ["`nobody`", "nobody:", "\"nobody\"", "let nobody", "user, nobody", "USER=nobody", "# nobody"].iter();
            let said = said.fold(line.to_owned(), |line, name| line.replace(name, "")).to_lowercase();
            for (word, better) in STUMBLES {
                assert!(!said.contains(word), "{place}: '{word}'; better: {better}");
            }
        }
    }
}
