//! `docs/functions-reference.md` is made from the heads of the files in `nix/lib`: the comment at the top, and each argument with its
//! default and the comment above it.
//!
//! `UPDATE_DOCS=1 ./dev test -E 'test(/^docs_functions::/)'` writes it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use rnix::{SyntaxKind, SyntaxNode};

const FUNCTIONS: [&str; 9] = [
    "buildImage",
    "buildLayer",
    "buildModel",
    "buildIndex",
    "buildOllama",
    "buildStack",
    "fetchImage",
    "fetchModel",
    "importImage",
];

/// The lines of the comments that end right before a node.
fn comments_above(node: &SyntaxNode) -> Vec<String> {
    let mut lines = Vec::new();
    let mut before = node.first_token().and_then(|token| token.prev_token());
    while let Some(token) = before {
        match token.kind() {
            SyntaxKind::TOKEN_COMMENT => lines.push(token.text().trim_start_matches('#').to_owned()),
            // An empty line ends what belongs to the node.
            SyntaxKind::TOKEN_WHITESPACE if token.text().matches('\n').count() < 2 => {}
            _ => break,
        }
        before = token.prev_token();
    }
    lines.reverse();
    lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line).to_owned()).collect()
}

/// The comment at the top of a file as Markdown: what follows `Type:`, `Example:` and the like is code.
fn head(lines: &[String]) -> String {
    let (mut page, mut code) = (String::new(), false);
    for line in lines {
        let starts = ["Type:", "Example:", "Examples:", "The result:"].iter().any(|word| line.starts_with(word));
        let goes_on = line.starts_with("  ");
        if code && !goes_on && !line.is_empty() {
            page.truncate(page.trim_end().len());
            page.push_str("\n```\n\n");
            code = false;
        }
        if starts && !code {
            let (word, rest) = line.split_once(':').unwrap();
            write!(page, "**{word}**\n\n```text\n").unwrap();
            code = true;
            if !rest.trim().is_empty() {
                writeln!(page, "{}", rest.trim()).unwrap();
            }
        } else {
            writeln!(page, "{}", if code { line.strip_prefix("  ").unwrap_or(line) } else { line }).unwrap();
        }
    }
    let end = page.trim_end().to_owned();
    if code { format!("{end}\n```\n") } else { format!("{end}\n") }
}

/// The comment at the top of a file, and the arguments of the function behind `internal:`.
fn function(text: &str) -> (Vec<String>, Vec<SyntaxNode>) {
    let root = rnix::Root::parse(text).syntax();
    let child = |node: &SyntaxNode, kind| node.children().find(|child| child.kind() == kind);
    let outer = child(&root, SyntaxKind::NODE_LAMBDA).expect("a function of `internal`");
    let inner = child(&outer, SyntaxKind::NODE_LAMBDA).expect("a function of `internal` gives a function");
    let pattern = child(&inner, SyntaxKind::NODE_PATTERN).expect("it takes an attribute set");
    let arguments = pattern.children().filter(|child| child.kind() == SyntaxKind::NODE_PAT_ENTRY);
    (comments_above(&outer), arguments.collect())
}

/// An argument as an item of a list.
fn argument(entry: &SyntaxNode) -> String {
    let text = entry.to_string();
    let mut item = match text.split_once('?') {
        Some((name, value)) => format!("- **`{}`** (default `{}`)\n", name.trim(), one_line(value)),
        None => format!("- **`{}`** (required)\n", text.trim()),
    };
    let comment = comments_above(entry);
    // A comment with a shape in it, over several lines, keeps its lines.
    let shape = comment.iter().any(|line| line.starts_with("  ") || line.ends_with('{') || line.starts_with('}'));
    if shape {
        item.push_str("\n  ```text\n");
        comment.iter().for_each(|line| writeln!(item, "  {}", line.trim_end()).unwrap());
        item.push_str("  ```\n");
    } else if !comment.is_empty() {
        comment.iter().for_each(|line| writeln!(item, "  {line}").unwrap());
    }
    item
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn page(lib: &Path) -> String {
    let mut page = String::from(
        "# The Nix functions, argument by argument\n\n<!-- Made from the heads of the files in nix/lib; a test compares it. -->\n\n\
         [The Nix functions](functions.md) says which one to take, and what they give.\n",
    );
    for name in FUNCTIONS {
        let text = fs::read_to_string(lib.join(format!("{name}.nix"))).unwrap();
        let (top, arguments) = function(&text);
        write!(page, "\n## {name}\n\n{}\nArguments:\n\n", head(&top)).unwrap();
        arguments.iter().for_each(|entry| page.push_str(&argument(entry)));
    }
    page
}

#[test]
fn the_reference_of_the_functions_is_what_their_heads_say() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (made, file) = (page(&top.join("nix/lib")), top.join("docs/functions-reference.md"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == made, "docs/functions-reference.md is not what nix/lib says; write it with UPDATE_DOCS=1");
}

#[test]
fn every_argument_and_every_function_is_described() {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("nix/lib");
    for name in FUNCTIONS {
        let (top, arguments) = function(&fs::read_to_string(lib.join(format!("{name}.nix"))).unwrap());
        assert!(top.iter().any(|line| line.starts_with("Type:")), "{name} has no line `Type:`");
        // One comment may describe several arguments that follow each other.
        let first = arguments.first().unwrap_or_else(|| panic!("{name} takes nothing"));
        assert!(!comments_above(first).is_empty(), "{name}: the first argument is not described");
    }
    // Nothing that users get is missing here.
    let files = fs::read_dir(lib).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut functions: Vec<String> = files.filter_map(|file| file.strip_suffix(".nix").map(str::to_owned)).collect();
    functions.retain(|name| !["default", "internal", "migration", "packages"].contains(&name.as_str()));
    functions.sort();
    let mut described = FUNCTIONS.to_vec();
    described.sort_unstable();
    assert_eq!(functions, described);
}
