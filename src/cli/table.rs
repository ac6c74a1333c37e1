//! Tables that fit the terminal, and colour for what is wrong.
//!
//! Without a terminal a row is one line, however long: scripts read it. On one, cells are wrapped in their columns.

use std::borrow::Cow;

/// Columns are no narrower, where there is more to show.
const NARROWEST: usize = 12;
/// Between two columns.
const GAP: usize = 2;

/// Words that begin a cell about something that is wrong, and those about something to look at.
const WRONG: [&str; 7] = ["missing", "damaged", "changed", "gone", "failed", "unknown", "moved"];
const LOOK: [&str; 5] = ["update", "newer", "pending", "another", "not"];

/// The rows with columns of equal width, as wide as `width` if that is possible.
pub(super) fn lines(rows: &[Vec<Cow<'_, str>>], width: Option<usize>, colour: bool) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let longest =
        |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths = fitted((0..columns).map(longest).collect(), width);
    let of_numbers: Vec<bool> = (0..columns).map(|n| is_of_numbers(rows, n)).collect();
    let mut lines = Vec::new();
    for row in rows {
        let cells: Vec<Vec<String>> = row.iter().zip(&widths).map(|(cell, width)| wrapped(cell, *width)).collect();
        for n in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
            let mut line = String::new();
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let text = cell.get(n).map_or("", String::as_str);
                let pad = width - text.chars().count();
                let is_right = of_numbers[column] && is_number(&row[column]);
                let (before, after) = if is_right { (pad, 0) } else { (0, pad) };
                line.extend(std::iter::repeat_n(' ', before));
                line.push_str(&painted(text, &row[column], colour));
                line.extend(std::iter::repeat_n(' ', after + GAP));
            }
            lines.push(line.trim_end().to_owned());
        }
    }
    lines
}

/// Whether a cell is a number or a size; these end in one line.
fn is_number(cell: &str) -> bool {
    let is_size = cell.starts_with(|c: char| c.is_ascii_digit()) && cell.ends_with('B');
    is_size || (!cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether most of what a column has are numbers: among texts a number begins where they do.
fn is_of_numbers(rows: &[Vec<Cow<'_, str>>], column: usize) -> bool {
    let cells: Vec<&str> =
        rows.iter().filter_map(|row| row.get(column)).map(AsRef::as_ref).filter(|cell| !cell.is_empty()).collect();
    cells.iter().filter(|cell| is_number(cell)).count() * 2 >= cells.len()
}

/// Makes the widest columns narrower until all of them fit, or none can be.
fn fitted(mut widths: Vec<usize>, width: Option<usize>) -> Vec<usize> {
    let Some(width) = width else { return widths };
    let gaps = GAP * widths.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
    while excess > 0 {
        let Some(widest) = widths.iter().copied().max().filter(|widest| *widest > NARROWEST) else { break };
        let next = widths.iter().copied().filter(|other| *other < widest).max().unwrap_or(0).max(NARROWEST);
        let many = widths.iter().filter(|other| **other == widest).count();
        // All of the widest ones shrink together, down to the next one or as far as is needed.
        let by = (widest - next).min(excess.div_ceil(many));
        widths.iter_mut().filter(|other| **other == widest).for_each(|other| *other -= by);
        excess = excess.saturating_sub(by * many);
    }
    widths
}

/// A text in lines of at most `width` characters, broken at spaces where there are some.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut rest: Vec<char> = text.chars().collect();
    let mut lines = Vec::new();
    while rest.len() > width && width > 0 {
        let space = rest[..=width].iter().rposition(|c| *c == ' ').filter(|at| *at > 0);
        let sign =
            || rest[..width].iter().rposition(|c| "/,;:".contains(*c)).map(|at| at + 1).filter(|at| *at * 2 > width);
        let at = space.or_else(sign).unwrap_or(width);
        let line: String = rest.drain(..at).collect();
        lines.push(line.trim_end().to_owned());
        while rest.first() == Some(&' ') {
            rest.remove(0);
        }
    }
    lines.push(rest.into_iter().collect());
    lines
}

/// In red or yellow, if its cell says that something is wrong.
fn painted<'t>(text: &'t str, cell: &str, colour: bool) -> Cow<'t, str> {
    let first = cell.split([' ', ',', ':']).next().unwrap_or_default();
    match () {
        () if !colour || text.is_empty() => text.into(),
        () if WRONG.contains(&first) => format!("\u{1b}[31m{text}\u{1b}[0m").into(),
        () if LOOK.contains(&first) => format!("\u{1b}[33m{text}\u{1b}[0m").into(),
        () => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<Cow<'static, str>>> {
        rows.iter().map(|row| row.iter().map(|cell| Cow::Owned((*cell).to_owned())).collect()).collect()
    }

    #[test]
    fn a_table_is_as_wide_as_the_terminal() {
        let table = rows(&[
            &["name", "state", "why"],
            &["redis", "missing: its layer is gone from the store", "2 MB"],
            &["a-very-long-name-of-an-image", "present", "12 MB"],
        ]);
        let wide = lines(&table, None, false);
        assert_eq!(wide.len(), 3);
        assert_eq!(wide[1], "redis                         missing: its layer is gone from the store   2 MB");
        for width in [40, 50, 60, 70] {
            let narrow = lines(&table, Some(width), false);
            assert!(narrow.iter().all(|line| line.chars().count() <= width), "{width}: {narrow:#?}");
            // Nothing is lost.
            let text = |lines: &[String]| lines.concat().chars().filter(|c| *c != ' ').count();
            assert_eq!(text(&narrow), text(&wide), "{narrow:#?}");
        }
        // A terminal that has no room gets what it can.
        assert!(lines(&table, Some(5), false).iter().all(|line| line.chars().count() <= 3 * NARROWEST + 2 * GAP));
        assert_eq!(wrapped("/nix/store/0123456789-name", 12).concat(), "/nix/store/0123456789-name");
    }

    #[test]
    fn what_is_wrong_has_a_colour() {
        let table = rows(&[&["redis", "missing: gone"], &["db", "present"]]);
        let painted = lines(&table, None, true);
        assert_eq!(painted[0], "redis  \u{1b}[31mmissing: gone\u{1b}[0m");
        assert!(!painted[1].contains('\u{1b}'));
    }
}
