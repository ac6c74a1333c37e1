//! The only door to standard output and standard error.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::{Display, Write as _};
use std::io::{self, BufWriter, Write};

use anyhow::Result;
use serde::Serialize;

use crate::canonical;
use crate::names::is_unprintable;

/// Prints results and messages.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    out: RefCell<BufWriter<io::Stdout>>,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self { json, out: RefCell::new(BufWriter::new(io::stdout())) }
    }

    /// Whether results are JSON.
    pub(super) const fn json(&self) -> bool {
        self.json
    }

    /// A line of the result.
    pub(super) fn line(&self, line: impl Display) -> Result<()> {
        Ok(writeln!(self.out.borrow_mut(), "{}", shown(&line.to_string()))?)
    }

    /// The whole result as JSON.
    pub(super) fn value<T: Serialize>(&self, value: &T) -> Result<()> {
        // JSON escapes what moves a cursor, and not what turns the direction of writing.
        let text = String::from_utf8(canonical::to_pretty(value))?;
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c != '\n' && is_unprintable(c) {
                true => write!(out, "\\u{:04x}", u32::from(c))?,
                false => out.push(c),
            }
        }
        self.bytes(out.as_bytes())
    }

    /// Bytes of the result as they are.
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        Ok(self.out.borrow_mut().write_all(bytes)?)
    }

    /// A line for people beside the result.
    pub(super) fn note(&self, line: impl Display) {
        note(line);
    }

    /// Everything so far is out.
    pub(super) fn flush(&self) -> Result<()> {
        Ok(self.out.borrow_mut().flush()?)
    }

    /// Rows with columns of equal width; the last column is as long as it likes.
    pub(super) fn table(&self, rows: &[Vec<String>]) -> Result<()> {
        let rows: Vec<Vec<Cow<'_, str>>> =
            rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &rows {
            let mut line = String::new();
            for (n, cell) in row.iter().enumerate() {
                let pad = widths[n] - cell.chars().count();
                let number = cell.starts_with(|c: char| c.is_ascii_digit()) && cell.ends_with('B');
                let (before, after) = if number { (pad, 0) } else { (0, pad) };
                line.extend(std::iter::repeat_n(' ', before));
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', after + 2));
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// A line for people, from wherever it is said.
pub(super) fn note(line: impl Display) {
    drop(writeln!(io::stderr(), "{}", shown(&line.to_string())));
}

/// Text for a terminal: titles in images and answers of registries are strangers', and could move its cursor, recolour it or
/// turn the direction of writing. What is printed is one line, so that no name can begin one of ours.
fn shown(text: &str) -> Cow<'_, str> {
    if text.contains(is_unprintable) { text.replace(is_unprintable, "\u{fffd}").into() } else { text.into() }
}

/// Bytes for people, in powers of ten: `79.2 MB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut divisor = 1_u64;
    while bytes / divisor >= 1000 && unit + 1 < UNITS.len() {
        divisor *= 1000;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10 + u128::from(divisor) / 2) / u128::from(divisor);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
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

    #[test]
    fn sizes_are_in_powers_of_ten() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (79_249_000, "79.2 MB"),
            (4_294_967_296, "4.3 GB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
