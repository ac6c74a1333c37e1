//! The only door to standard output and standard error.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::{Display, Write as _};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::Serialize;

use super::failure::Result;
use super::table;
pub(super) use crate::disk::size::{parse_size, size};
use crate::names::is_unprintable;
use crate::oci::canonical;

/// The format of what is printed with `--json`: it grows when a key is taken away or means something else.
pub(super) const JSON_VERSION: u32 = 1;

/// When there is colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// Prints results and messages.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    quiet: bool,
    colour: bool,
    out: RefCell<BufWriter<io::Stdout>>,
    /// Whether there is a result on standard output.
    has_printed: Cell<bool>,
}

impl Printer {
    pub(super) fn new(json: bool, quiet: bool, colour: Colour) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let colour = match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => io::stdout().is_terminal() && !set("NO_COLOR"),
        };
        QUIET.store(quiet, Ordering::Relaxed);
        Self { json, quiet, colour, out: RefCell::new(BufWriter::new(io::stdout())), has_printed: Cell::new(false) }
    }

    /// Whether there is a result on standard output.
    pub(super) const fn has_printed(&self) -> bool {
        self.has_printed.get()
    }

    /// Whether results are JSON.
    pub(super) const fn json(&self) -> bool {
        self.json
    }

    /// A line of the result.
    pub(super) fn line(&self, line: impl Display) -> Result<()> {
        self.has_printed.set(true);
        Ok(writeln!(self.out.borrow_mut(), "{}", shown(&line.to_string()))?)
    }

    /// The whole result as JSON: an object, with the version of its format. What is printed has a schema: `schemas.rs`.
    pub(super) fn value<T: Serialize + JsonSchema>(&self, value: &T) -> Result<()> {
        let mut value = serde_json::to_value(value)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("version".to_owned(), JSON_VERSION.into());
        }
        self.document(&value)
    }

    /// JSON that is the result by itself.
    pub(super) fn document<T: Serialize>(&self, value: &T) -> Result<()> {
        // JSON escapes what moves a cursor, and not what turns the direction of writing.
        let text = String::from_utf8(canonical::to_pretty(value))?;
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c != '\n' && is_unprintable(c) {
                true => drop(write!(out, "\\u{:04x}", u32::from(c))),
                false => out.push(c),
            }
        }
        self.bytes(out.as_bytes())
    }

    /// Bytes of the result as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        self.has_printed.set(true);
        Ok(self.out.borrow_mut().write_all(bytes)?)
    }

    /// A line for people beside the result.
    pub(super) fn note(&self, line: impl Display) {
        if !self.quiet {
            note(line);
        }
    }

    /// Everything so far is out.
    pub(super) fn flush(&self) -> Result<()> {
        Ok(self.out.borrow_mut().flush()?)
    }

    /// Rows with columns of equal width, which fit the terminal if there is one.
    pub(super) fn table(&self, rows: &[Vec<String>]) -> Result<()> {
        let rows: Vec<Vec<Cow<'_, str>>> =
            rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
        self.has_printed.set(true);
        // What has no control characters but ours.
        for line in table::lines(&rows, width_of(&io::stdout()), self.colour) {
            writeln!(self.out.borrow_mut(), "{line}")?;
        }
        Ok(())
    }

    /// The same beside the result.
    pub(super) fn note_table(&self, rows: &[Vec<String>]) {
        let rows: Vec<Vec<Cow<'_, str>>> =
            rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
        table::lines(&rows, width_of(&io::stderr()), false).iter().for_each(|line| self.note(line));
    }
}

/// Whether only results and errors are printed.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Whether only results and errors are printed, for what has no printer.
pub(super) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// How wide the terminal is that this leads to; `COLUMNS` says otherwise.
fn width_of(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let size = || terminal_size::terminal_size_of(stream).map(|(width, _)| usize::from(width.0));
    said.or_else(size).filter(|_| stream.is_terminal()).filter(|width| *width > 0)
}

/// A line for people, from wherever it is said.
pub(super) fn note(line: impl Display) {
    drop(writeln!(io::stderr(), "{}", shown(&line.to_string())));
}

/// Text for a terminal: titles in images and answers of registries are strangers', and could move its cursor, recolour it or
/// turn the direction of writing. What is printed is one line, so that no name can begin one of ours.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    if text.contains(is_unprintable) { text.replace(is_unprintable, "\u{fffd}").into() } else { text.into() }
}

/// `1 layer`, `2 layers`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_commands() {
        assert_eq!(shown("é ⚓ \u{202e}b\nwindlass: good\tc"), "é ⚓ \u{fffd}b\u{fffd}windlass: good\u{fffd}c");
        assert_eq!(shown("\u{1b}[2Ja\r\u{9b}1m"), "\u{fffd}[2Ja\u{fffd}\u{fffd}1m");
    }
}
