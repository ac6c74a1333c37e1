//! The same in a comment for a pull request: what is to be written, and which packages came, went or changed.

use std::collections::BTreeMap;

use super::changes::ReportChanges;
use super::data::ReportData;
use crate::cli::diff::{ImageChange, ServiceChange};
use crate::cli::printer::{count, shown, size};
use crate::inventory::Inventory;

/// So many rows of one table are shown: services refuse comments of more than 65,536 characters.
const ROWS: usize = 80;

/// Names of files and packages are text, whatever is in them: no markup, no mention, no end of a cell.
fn code(text: &str) -> String {
    let text = shown(text).replace('|', "\\|");
    // A fence is longer than what it fences.
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest + 1);
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    if text.is_empty() { String::new() } else { format!("{fence}{space}{text}{space}{fence}") }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// A table, cut off with a line that says so.
fn table(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        return;
    }
    let row = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    line(out, &row(&head));
    line(out, &format!("|{}", "---|".repeat(head.len())));
    rows.iter().take(ROWS).for_each(|cells| line(out, &row(cells)));
    if rows.len() > ROWS {
        line(out, &format!("\nand {} more", rows.len() - ROWS));
    }
    out.push('\n');
}

pub(super) fn markdown(data: &ReportData, inventory: &Inventory) -> String {
    // By this line a program finds its comment again.
    let mut out = String::from("<!-- windlass report -->\n");
    line(&mut out, &format!("### {}\n", code(&data.title)));
    match &data.against {
        Some(changes) => against(&mut out, changes),
        None => images(&mut out, inventory),
    }
    let licence = |(name, model): (&crate::names::Name, &crate::inventory::InventoryModel)| {
        let bytes = model.layers.iter().filter_map(|digest| inventory.layers.get(digest)).map(|layer| layer.size).sum();
        vec![code(name), size(bytes), model.licence.as_deref().map_or_else(|| "not known".to_owned(), code)]
    };
    table(&mut out, &["model", "size", "licence"], &inventory.models.iter().map(licence).collect::<Vec<_>>());
    out.truncate(out.trim_end().len());
    out + "\n"
}

/// What there is, where it is compared with nothing.
fn images(out: &mut String, inventory: &Inventory) {
    let once: u64 = inventory.layers.values().map(|layer| layer.size).sum();
    let shared = inventory.layers.values().filter(|layer| layer.places.len() > 1).count();
    line(
        out,
        &format!(
            "{}, {} ({shared} of them shared), {}; **{}**, each layer once\n",
            count(inventory.images.len(), "image"),
            count(inventory.layers.len(), "layer"),
            count(inventory.paths.len(), "store path"),
            size(once)
        ),
    );
    let row = |image: &crate::inventory::InventoryImage| {
        vec![code(&image.name), image.platform.to_string(), size(image.size), image.layers.len().to_string()]
    };
    let rows: Vec<_> = inventory.images.iter().map(row).collect();
    table(out, &["image", "platform", "size", "layers"], &rows);
}

fn against(out: &mut String, changes: &ReportChanges) {
    let diff = &changes.diff;
    let again = match diff.bytes_regrouped {
        0 => String::new(),
        bytes => format!("; where Podman unpacks layers, {} again", size(bytes)),
    };
    line(
        out,
        &format!("**{} to write** on a host that has {}{again}\n", size(diff.bytes_to_write), code(&changes.title)),
    );
    diff.warnings.iter().for_each(|warning| line(out, &format!("> **Warning:** {}\n", code(warning))));
    let layers = |change: &ImageChange| {
        let of = |number: usize, word: &str| (number > 0).then(|| format!("{number} {word}"));
        let words = [
            of(change.new_blobs.len(), "new"),
            of(change.rewritten.len(), "rewritten"),
            of(change.regrouped.len(), "regrouped"),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    };
    let differ: Vec<&ImageChange> = diff.changes.iter().filter(|change| change.state != "identical").collect();
    let row = |change: &&ImageChange| {
        let settings = change.settings.iter().map(|setting| code(&setting.to_string())).collect::<Vec<_>>().join(", ");
        vec![code(&change.name), change.state.to_owned(), size(change.bytes_to_write), layers(change), settings]
    };
    let mut rows: Vec<Vec<String>> = differ.iter().map(row).collect();
    let gone = |name: &String| vec![code(name), "removed".to_owned(), size(0), String::new(), String::new()];
    rows.extend(diff.removed.iter().map(gone));
    if rows.is_empty() {
        out.push_str("No image differs.\n\n");
    }
    table(out, &["image", "", "to write", "layers", "settings"], &rows);
    packages(out, &differ);
    for ServiceChange { name, action, why } in &diff.services {
        let why = if why.is_empty() { String::new() } else { format!(": {}", code(&why.join(", "))) };
        line(out, &format!("- service {} would {action}{why}", code(name)));
    }
    if !diff.services.is_empty() {
        out.push('\n');
    }
    let identical = diff.changes.len() - differ.len();
    if identical > 0 && !differ.is_empty() {
        line(
            out,
            &format!(
                "{} identical\n",
                if identical == 1 { "1 image is".to_owned() } else { format!("{identical} images are") }
            ),
        );
    }
    let list = |out: &mut String, word: &str, names: &[String]| {
        if names.is_empty() {
            return;
        }
        line(out, &format!("<details><summary>{} {word}</summary>\n", count(names.len(), "store path")));
        names.iter().take(ROWS).for_each(|name| line(out, &format!("- {}", code(name))));
        if names.len() > ROWS {
            line(out, &format!("- and {} more", names.len() - ROWS));
        }
        out.push_str("\n</details>\n\n");
    };
    list(out, "new", &changes.new_names);
    let gone: Vec<String> = changes.gone_paths.iter().map(|(name, _)| name.clone()).collect();
    list(out, "gone", &gone);
}

/// The packages that changed, each once with the images that have it.
fn packages(out: &mut String, changes: &[&ImageChange]) {
    let mut packages: BTreeMap<(&str, String, String), Vec<&str>> = BTreeMap::new();
    for change in changes {
        for (name, before, after) in &change.packages {
            let versions = |versions: &[String]| match versions {
                [] => String::new(),
                [one] if one.is_empty() => "(no version)".to_owned(),
                versions => code(&versions.join(", ")),
            };
            packages.entry((name, versions(before), versions(after))).or_default().push(&change.name);
        }
    }
    let row = |((name, before, after), images): (&(&str, String, String), &Vec<&str>)| {
        let images = match images.len() {
            1..=3 => images.iter().map(|name| code(name)).collect::<Vec<_>>().join(", "),
            more => format!("{more} images"),
        };
        let word = match (before.is_empty(), after.is_empty()) {
            (true, _) => "new",
            (_, true) => "gone",
            _ => "changed",
        };
        vec![code(name), word.to_owned(), before.clone(), after.clone(), images]
    };
    // Changed ones first: they are what a reader looks for.
    let mut rows: Vec<Vec<String>> = packages.iter().map(row).collect();
    rows.sort_by_key(|row| row[1].clone());
    table(out, &["package", "", "before", "after", "images"], &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_code() {
        assert_eq!(code("redis-8.0.2"), "`redis-8.0.2`");
        assert_eq!(code("a`b``|\nc @someone <b>"), "```a`b``\\|\u{fffd}c @someone <b>```");
        assert_eq!(code("`"), "`` ` ``");
    }
}
