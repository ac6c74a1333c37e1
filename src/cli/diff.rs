//! `windlass diff`

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::data_format::breaks;
use super::failure::Result;
use super::printer::{Printer, count, size};
use super::view::{self, SeenLayer, ViewedImage, short};
use crate::image::{LayerKind, LayerRecord, chain_ids};
use crate::nix::store_path::name_and_version;
use crate::oci::digest::Digest;

/// Show what changed from one image or stack to another, and what a host that has OLD would write for NEW.
///
/// A layer is written if its blob is new, or if a layer below it changed: Podman names a layer by everything below it,
/// and stores the same blob again above another parent.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// What the host has: an image directory, a lean stack, or a stack of archives.
    old: PathBuf,
    /// What it would get.
    new: PathBuf,
}

/// What a host would do for one image.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ImageChange {
    name: String,
    platform: String,
    /// `identical`, `changed` or `new`.
    state: &'static str,
    /// Packages that came, went, or have another version: name, before, after.
    packages: Vec<(String, Vec<String>, Vec<String>)>,
    new_blobs: Vec<LayerChange>,
    rewritten: Vec<LayerChange>,
    bytes_to_write: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LayerChange {
    digest: Digest,
    size: u64,
    title: String,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiffReport {
    changes: Vec<ImageChange>,
    removed: Vec<String>,
    bytes_to_write: u64,
    /// Data that the new version of a program does not read.
    warnings: Vec<String>,
}

pub(super) fn run(args: &DiffArgs, printer: &Printer) -> Result<()> {
    let report = compare(&view::look(&args.old)?, &view::look(&args.new)?);
    if printer.json() {
        return printer.value(&report);
    }
    let mut identical = 0;
    for change in &report.changes {
        if change.state == "identical" {
            identical += 1;
            continue;
        }
        let layers = change.new_blobs.len() + change.rewritten.len();
        let to_write = format!("{}, {} to write", count(layers, "layer"), size(change.bytes_to_write));
        printer.line(format!("{}{}: {to_write}", change.name, versions(change)))?;
        for layer in &change.new_blobs {
            printer.line(format!("  new        {:>9}  {}  {}", size(layer.size), layer.digest.short(), layer.title))?;
        }
        for layer in &change.rewritten {
            let why = "written again: a layer below it changed";
            printer.line(format!(
                "  rewritten  {:>9}  {}  {}, {why}",
                size(layer.size),
                layer.digest.short(),
                layer.title
            ))?;
        }
        for (name, before, after) in &change.packages {
            let version =
                |versions: &[String]| if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
            printer.line(format!("  package    {name} {} → {}", version(before), version(after)))?;
        }
    }
    report.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    report.removed.iter().try_for_each(|name| printer.line(format!("{name}: removed")))?;
    printer.line(format!(
        "{} changed, {identical} identical, {} removed; {} to write",
        report.changes.len() - identical,
        report.removed.len(),
        size(report.bytes_to_write)
    ))
}

/// ` 1.16.2 → 1.16.3` where the package that gave the image its name has another version.
fn versions(change: &ImageChange) -> String {
    match change.packages.iter().find(|(name, _, _)| *name == change.name) {
        Some((_, before, after)) if !before.is_empty() && !after.is_empty() => {
            format!(" {} → {}", before.join(", "), after.join(", "))
        }
        _ if change.state == "new" => " (new)".to_owned(),
        _ => String::new(),
    }
}

fn compare(old: &[ViewedImage], new: &[ViewedImage]) -> DiffReport {
    let layers = || old.iter().flat_map(|image| image.layers.iter().filter_map(|layer| layer.digest));
    let blobs: BTreeSet<Digest> = layers().collect();
    let mut chains: BTreeSet<Digest> = old.iter().flat_map(chain).collect();
    let mut changes = Vec::new();
    for image in new {
        let before = old.iter().find(|before| before.name == image.name && before.platform == image.platform);
        let (mut new_blobs, mut rewritten) = (Vec::new(), Vec::new());
        for (layer, chain) in image.layers.iter().zip(chain(image)) {
            let Some(digest) = layer.digest else { continue };
            // A chain that an earlier image of this list brings is written once.
            if chains.insert(chain) {
                let change = LayerChange { digest, size: layer.diff_size(), title: layer.title.clone() };
                if blobs.contains(&digest) { rewritten.push(change) } else { new_blobs.push(change) }
            }
        }
        let state = match before {
            None => "new",
            Some(before) if before.digest == image.digest => "identical",
            Some(_) => "changed",
        };
        let bytes_to_write = new_blobs.iter().chain(&rewritten).map(|layer| layer.size).sum();
        let packages = before.map(|before| packages(before, image)).unwrap_or_default();
        let (name, platform) = (image.name.to_string(), image.platform.to_string());
        changes.push(ImageChange { name, platform, state, packages, new_blobs, rewritten, bytes_to_write });
    }
    let gone = old
        .iter()
        .filter(|before| !new.iter().any(|image| image.name == before.name && image.platform == before.platform));
    let bytes_to_write = changes.iter().map(|change| change.bytes_to_write).sum();
    DiffReport {
        changes,
        removed: gone.map(|image| image.name.to_string()).collect(),
        bytes_to_write,
        warnings: breaks(old, new),
    }
}

fn chain(image: &ViewedImage) -> Vec<Digest> {
    let record = |layer: &SeenLayer| {
        let (title, why, owners) = (String::new(), String::new(), Vec::new());
        let (size, packed, kind) = (layer.size, layer.packed.clone(), layer.kind);
        layer.digest.map(|digest| LayerRecord { digest, size, packed, kind, part: None, title, why, owners })
    };
    chain_ids(&image.layers.iter().filter_map(record).collect::<Vec<_>>())
}

fn packages(old: &ViewedImage, new: &ViewedImage) -> Vec<(String, Vec<String>, Vec<String>)> {
    let (before, after) = (versions_in(old), versions_in(new));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let of = |map: &BTreeMap<String, BTreeSet<String>>, name| {
        map.get(name).map(|set| set.iter().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    names
        .into_iter()
        .map(|name| (name.clone(), of(&before, name), of(&after, name)))
        .filter(|(_, before, after)| before != after)
        .collect()
}

pub(super) fn versions_in(image: &ViewedImage) -> BTreeMap<String, BTreeSet<String>> {
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for layer in image.layers.iter().filter(|layer| layer.kind != LayerKind::Root) {
        for owner in &layer.owners {
            let (package, version) = name_and_version(short(owner));
            packages.entry(package.to_owned()).or_default().insert(version.to_owned());
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Name;
    use crate::oci::platform::Platform;
    use crate::oci::reference::Reference;

    fn image(name: &str, layers: &[(&str, u64)]) -> ViewedImage {
        let layer = |(owner, size): &(&str, u64)| SeenLayer {
            digest: Some(Digest::of(owner.as_bytes())),
            size: *size,
            packed: None,
            kind: LayerKind::Closure,
            part: None,
            title: (*owner).to_owned(),
            why: String::new(),
            owners: vec![(*owner).to_owned()],
            on_disk: None,
        };
        let all: String = layers.iter().map(|(owner, _)| *owner).collect();
        ViewedImage {
            name: Name::new(name).unwrap(),
            reference: Reference::new(name, "0").unwrap(),
            platform: Platform::of_data(),
            digest: Digest::of(all.as_bytes()),
            config_digest: Digest::of(b""),
            size: 0,
            models: Vec::new(),
            layers: layers.iter().map(layer).collect(),
            model: None,
            environment: Vec::new(),
        }
    }

    #[test]
    fn data_that_a_new_version_does_not_read_are_told() {
        let of = |owner: &str| [image("postgres", &[("glibc-1", 30), (owner, 3)])];
        let told = |old: &str, new: &str| compare(&of(old), &of(new)).warnings;
        let [warning] = &told("postgresql-17.6", "postgresql-18.1")[..] else { panic!() };
        assert!(
            warning.starts_with("postgres: postgres 17 → 18: 18 does not read the data of 17; before it"),
            "{warning}"
        );
        assert_eq!(told("postgresql-and-plugins-17.6", "postgresql-18.1").len(), 1);
        assert_eq!(told("postgresql-17.5", "postgresql-17.6"), [""; 0]);
        // An image of upstream's says it in a variable.
        let mut both = [of("upstream"), of("upstream")];
        both[0][0].environment = vec!["PG_MAJOR=17".to_owned()];
        both[1][0].environment = vec!["PG_MAJOR=18".to_owned()];
        assert_eq!(compare(&both[0], &both[1]).warnings.len(), 1);
    }

    #[test]
    fn a_bump_in_the_middle_rewrites_what_lies_above() {
        let old =
            [image("redis", &[("glibc-1", 30), ("openssl-1", 6), ("redis-1", 3)]), image("other", &[("glibc-1", 30)])];
        let new =
            [image("redis", &[("glibc-1", 30), ("openssl-2", 7), ("redis-1", 3)]), image("other", &[("glibc-1", 30)])];
        let report = compare(&old, &new);
        let [redis, other] = &report.changes[..] else { panic!() };
        assert_eq!((redis.state, redis.bytes_to_write), ("changed", 10));
        assert_eq!(redis.new_blobs[0].title, "openssl-2");
        assert_eq!(redis.rewritten[0].title, "redis-1");
        assert_eq!(redis.packages, [("openssl".to_owned(), vec!["1".to_owned()], vec!["2".to_owned()])]);
        assert_eq!((other.state, other.bytes_to_write), ("identical", 0));
    }
}
