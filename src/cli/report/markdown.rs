//! The same in a comment for a pull request: what is to be written, and which packages came, went or changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::changes::{Licences, ReportChanges, licences};
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
        Some(changes) => against(&mut out, changes, &licences(inventory)),
        None => images(&mut out, inventory),
    }
    of_packages(&mut out, inventory);
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

/// How many packages have which licence: those that the bill of materials has.
fn of_packages(out: &mut String, inventory: &Inventory) {
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, licences) in licences(inventory) {
        packages.entry(told(&licences)).or_default().push(name);
    }
    if packages.is_empty() {
        return;
    }
    line(out, &format!("<details><summary>{}</summary>\n", count(packages.len(), "licence")));
    let row = |(licence, names): (&String, &Vec<String>)| {
        let more = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
        let some = names.iter().take(5).map(|name| code(name)).collect::<Vec<_>>().join(", ");
        vec![licence.clone(), names.len().to_string(), some + &more]
    };
    let mut rows: Vec<Vec<String>> = packages.iter().map(row).collect();
    rows.sort_by_key(|row| Reverse(row[1].parse::<usize>().unwrap_or_default()));
    table(out, &["licence", "packages", ""], &rows);
    out.push_str("</details>\n\n");
}

/// Licences in a cell.
fn told(licences: &BTreeSet<String>) -> String {
    let told = licences.iter().map(|licence| code(licence)).collect::<Vec<_>>().join(", ");
    if told.is_empty() { "not known".to_owned() } else { told }
}

fn against(out: &mut String, changes: &ReportChanges, licences: &Licences) {
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
    packages(out, &differ, &changes.old_licences, licences);
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

/// The packages that changed, each once with the images that have it, and with its licence: both where that changed too.
fn packages(out: &mut String, changes: &[&ImageChange], old: &Licences, new: &Licences) {
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
        let licence = match [old, new].map(|licences| licences.get(*name).map(told)) {
            [Some(before), Some(after)] if before != after && word == "changed" => format!("{before} → **{after}**"),
            [_, Some(after)] => after,
            [before, None] => before.unwrap_or_else(|| "not known".to_owned()),
        };
        vec![code(name), word.to_owned(), before.clone(), after.clone(), licence, images]
    };
    // Changed ones first: they are what a reader looks for.
    let mut rows: Vec<Vec<String>> = packages.iter().map(row).collect();
    rows.sort_by_key(|row| row[1].clone());
    table(out, &["package", "", "before", "after", "licence", "images"], &rows);
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

    #[test]
    fn a_package_is_told_with_its_licence_and_with_what_that_was() {
        let versions = |before: &str, after: &str| {
            let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            (list(before), list(after))
        };
        let package = |name: &str, (before, after)| (name.to_owned(), before, after);
        let change = ImageChange {
            name: "web".to_owned(),
            platform: "linux/amd64".to_owned(),
            state: "changed",
            settings: Vec::new(),
            packages: vec![
                package("redis", versions("7.2.4", "8.0.2")),
                package("zlib", versions("1.3", "1.4")),
                package("curl", versions("", "8.1")),
                package("gzip", versions("1.13", "")),
            ],
            new_blobs: Vec::new(),
            rewritten: Vec::new(),
            regrouped: Vec::new(),
            bytes_to_write: 1,
            bytes_regrouped: 0,
        };
        let licences = |all: &[(&str, &str)]| -> Licences {
            let known = |text: &str| text.split_whitespace().map(str::to_owned).collect();
            all.iter().map(|(name, licence)| ((*name).to_owned(), known(licence))).collect()
        };
        let old = licences(&[("redis", "BSD-3-Clause"), ("zlib", "Zlib"), ("gzip", "GPL-3.0-or-later")]);
        let new = licences(&[("redis", "AGPL-3.0-only"), ("zlib", "Zlib"), ("curl", "")]);
        let mut out = String::new();
        packages(&mut out, &[&change], &old, &new);
        let rows: Vec<&str> = out.lines().skip(2).filter(|row| !row.is_empty()).collect();
        assert_eq!(
            rows,
            [
                "| `redis` | changed | `7.2.4` | `8.0.2` | `BSD-3-Clause` → **`AGPL-3.0-only`** | `web` |",
                "| `zlib` | changed | `1.3` | `1.4` | `Zlib` | `web` |",
                "| `gzip` | gone | `1.13` |  | `GPL-3.0-or-later` | `web` |",
                "| `curl` | new |  | `8.1` | not known | `web` |",
            ]
        );
    }
}
