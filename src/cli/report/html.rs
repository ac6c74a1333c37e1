//! The page: a frame of markup, the style, the data, and the program that draws it.
//!
//! A policy in the page allows this style and this program, by their hashes, and nothing else: no other script, no request.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, PreEscaped, html};

use super::data::ReportData;
use super::files::{ListedFiles, STEPS};
use crate::cli::printer::shown;
use crate::names::is_unprintable;
use crate::oci::canonical;
use crate::oci::digest::Digest;

const STYLE: &str = include_str!("page/style.css");

/// The program, in the order in which its parts build on each other; in a function of its own, so that it adds no name to the page's.
const PROGRAM: &str = concat!(
    "(() => {\n",
    include_str!("page/base.js"),
    include_str!("page/stack.js"),
    include_str!("page/treemap.js"),
    include_str!("page/files.js"),
    include_str!("page/why.js"),
    include_str!("page/changes.js"),
    include_str!("page/host.js"),
    include_str!("page/start.js"),
    "})();\n"
);

/// A ship's windlass from the side: a drum with its bars.
const ICON: &str = "M12 2v5M12 17v5M2 12h5M17 12h5M5 5l3.5 3.5M15.5 15.5 19 19M19 5l-3.5 3.5M8.5 15.5 5 19";

/// So large is a page at most, unless what is not files alone is larger.
pub(super) const MOST: usize = 495_000;

/// The whole page; what is listed of the files is as much as fits.
pub(super) fn page(data: &mut ReportData, listed: &ListedFiles) -> String {
    let (program, style) = (lean(PROGRAM), lean(STYLE));
    let frame_of = |data: &ReportData, json: &str| frame(data, json, &program, &style);
    let frame = frame_of(data, "").len();
    for below in STEPS {
        listed.fill(data, below);
        let json = escaped(&canonical::to_string(data));
        if frame + json.len() <= MOST || below == u64::MAX {
            return frame_of(data, &json);
        }
    }
    String::new()
}

/// JSON that ends no script, and has no character that is not seen.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match matches!(c, '<' | '>' | '&') || is_unprintable(c) {
            true => drop(write!(out, "\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// As a Content-Security-Policy names a style or a script.
fn source(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Digest::of(text.as_bytes()).as_bytes()))
}

/// A program or a style without its indent and the comments that have lines of their own.
fn lean(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn frame(data: &ReportData, json: &str, program: &str, style: &str) -> String {
    let title = shown(&data.title);
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; img-src data:; base-uri 'none'; form-action 'none'",
        source(style),
        source(program)
    );
    let mut views = vec![("#stack", "Stack"), ("#files", "Files"), ("#why", "Why")];
    views.extend(data.against.as_ref().map(|_| ("#changes", "Changes")));
    views.extend(data.host.as_ref().map(|_| ("#host", "This host")));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content="windlass";
                meta name="referrer" content="no-referrer";
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(style)) }
            }
            body {
                a class="skip" href="#view" { "Skip to the content" }
                header class="page" {
                    div class="wrap" {
                        h1 {
                            svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" aria-hidden="true" {
                                circle cx="12" cy="12" r="5" {}
                                circle cx="12" cy="12" r="1.2" {}
                                path d=(ICON) {}
                            }
                            span class="name" { (title) }
                        }
                        nav class="views" aria-label="Views" {
                            @for (to, name) in &views {
                                a href=(to) { (name) }
                            }
                        }
                        div class="search" role="search" {
                            label class="hidden" for="search" { "Search images, layers, store paths and files" }
                            input id="search" type="text" role="combobox" aria-expanded="false" aria-controls="found"
                                aria-autocomplete="list" autocomplete="off" spellcheck="false"
                                placeholder="Search store paths, files, layers";
                            kbd aria-hidden="true" { "/" }
                            ul id="found" role="listbox" aria-label="Found" hidden {}
                        }
                    }
                }
                main class="wrap" id="view" tabindex="-1" {
                    noscript { p { "This page is drawn by the script in it. What it shows is JSON, in the element with the id data." } }
                }
                div id="live" class="hidden" aria-live="polite" {}
                footer {
                    div class="wrap" {
                        p {
                            "Made by " code { "windlass report" } ". Keys: " kbd { "/" } " search, " kbd { "1" } "–" kbd { (views.len()) }
                            " views, arrows move between layers and tiles, " kbd { "Enter" } " opens, " kbd { "Backspace" } " goes up in the treemap."
                        }
                    }
                }
                script type="application/json" id="data" { (PreEscaped(json)) }
                script { (PreEscaped(program)) }
            }
        }
    }
    .into_string()
        + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_the_script_that_it_is_in() {
        let text = "</script><!--\u{202e}&\u{2028}\u{7}é";
        let json = escaped(&canonical::to_string(&text));
        assert!(!json.contains(['<', '>', '&', '\u{202e}', '\u{2028}', '\u{7}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
