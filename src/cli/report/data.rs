//! What is known of the images, in the form that the page reads: everything once, and by numbers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::image::summary::ImageKind;
use crate::inventory::graph::{PathSizes, ReferenceGraph};
use crate::inventory::{Inventory, PathForm};
use crate::names::Name;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// The format of the data in the page.
const VERSION: u32 = 1;

/// All that a page shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportData {
    version: u32,
    pub(super) title: String,
    /// The directory that the store paths are in.
    pub(super) store: String,
    pub(super) images: Vec<ReportImage>,
    pub(super) layers: Vec<ReportLayer>,
    pub(super) paths: Vec<ReportPath>,
    /// The numbers of these, by their names with the hash.
    #[serde(skip)]
    numbers: BTreeMap<String, usize>,
    /// For each store path its directories and files, the bytes of one that is a file, or 0 where nothing of it is listed.
    pub(super) trees: Vec<Value>,
    /// Files of fewer bytes are counted in their directories.
    pub(super) below: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) against: Option<super::changes::ReportChanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<super::here::ReportHost>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportImage {
    name: Name,
    #[serde(rename = "ref")]
    reference: Reference,
    platform: Platform,
    digest: Digest,
    size: u64,
    /// Whether it is the own image of a model.
    is_model: bool,
    models: Vec<Name>,
    /// Where it came from, for an image of a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    /// Numbers of its layers, bottom first.
    layers: Vec<usize>,
    /// Numbers of the store paths that it is made for.
    roots: SortedNumbers,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportLayer {
    pub(super) digest: Digest,
    size: u64,
    kind: &'static str,
    title: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    /// Numbers of the store paths that it has at their own places.
    pub(super) paths: SortedNumbers,
    /// Numbers of those that it has at other places.
    #[serde(skip_serializing_if = "SortedNumbers::is_empty")]
    moved: SortedNumbers,
    /// What else is in it.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(super) tree: Value,
    /// Why not all of its files are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unlisted: Option<String>,
}

/// A store path.
#[derive(Debug)]
pub(super) struct ReportPath {
    /// Its name with the hash.
    pub(super) base: String,
    references: SortedNumbers,
    /// None of them is known where Nix recorded nothing.
    sizes: Option<PathSizes>,
}

/// `[name, references, own, closure, added]`. The last two are left out where they are no more than its own bytes.
impl Serialize for ReportPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own = self.sizes.map(|sizes| sizes.own);
        match self.sizes {
            Some(PathSizes { own, closure, added }) if closure != own || added != own => {
                (&self.base, &self.references, own, closure, added).serialize(serializer)
            }
            _ => (&self.base, &self.references, own).serialize(serializer),
        }
    }
}

/// Numbers in their order. Each is written as what it is more than the one before, five bits a character, the lowest first, and
/// all but the last of a number with the sixth bit: as source maps have them, without a sign. In digits a page of three
/// thousand store paths would have no room for files.
#[derive(Debug, Default)]
pub(super) struct SortedNumbers(BTreeSet<usize>);

impl SortedNumbers {
    pub(super) fn iter(&self) -> impl Iterator<Item = &usize> {
        self.0.iter()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<usize> for SortedNumbers {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl Serialize for SortedNumbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let (mut text, mut last) = (String::new(), 0);
        for number in &self.0 {
            let mut more = number - std::mem::replace(&mut last, *number);
            loop {
                let (digit, rest) = (more % 32, more / 32);
                let follows = if rest > 0 { 32 } else { 0 };
                text.push(char::from(DIGITS[digit + follows]));
                if rest == 0 {
                    break;
                }
                more = rest;
            }
        }
        serializer.serialize_str(&text)
    }
}

impl ReportData {
    pub(super) fn new(title: String, inventory: &Inventory) -> Self {
        let mut referrers: BTreeMap<&String, usize> = BTreeMap::new();
        for reference in inventory.paths.values().flat_map(|path| &path.references) {
            *referrers.entry(reference).or_default() += 1;
        }
        // What many refer to gets a short number.
        let mut names: Vec<&String> = inventory.paths.keys().collect();
        names.sort_by_key(|name| (Reverse(referrers.get(*name).copied().unwrap_or_default()), *name));
        let number: BTreeMap<&str, usize> = names.iter().enumerate().map(|(n, name)| (name.as_str(), n)).collect();
        let numbers = |names: &mut dyn Iterator<Item = &String>| -> SortedNumbers {
            names.filter_map(|name| number.get(name.as_str()).copied()).collect()
        };
        let graph = ReferenceGraph::of_all(inventory);
        let sizes = graph.sizes();
        let path = |name: &&String| {
            let path = &inventory.paths[*name];
            let (_, base) = name.rsplit_once('/').unwrap_or_default();
            ReportPath {
                base: base.to_owned(),
                references: numbers(&mut path.references.iter()),
                sizes: path.nar_size.and_then(|_| sizes.get(name.as_str()).copied()),
            }
        };
        let mut order: Vec<Digest> = Vec::new();
        for digest in inventory.images.iter().flat_map(|image| &image.layers) {
            if !order.contains(digest) {
                order.push(*digest);
            }
        }
        let layer = |digest: &Digest| {
            let layer = &inventory.layers[digest];
            let of = |form: PathForm| {
                let has = |name: &&String| inventory.paths[*name].layers.get(digest) == Some(&form);
                numbers(&mut layer.paths.iter().filter(has))
            };
            ReportLayer {
                digest: *digest,
                size: layer.size,
                kind: layer.kind.word(),
                title: layer.title.clone(),
                why: layer.why.clone(),
                paths: of(PathForm::Whole),
                moved: of(PathForm::Moved),
                tree: Value::Null,
                unlisted: None,
            }
        };
        let place = |digest: &Digest| order.iter().position(|other| other == digest);
        let images = inventory.images.iter().map(|image| ReportImage {
            name: image.name.clone(),
            reference: image.reference.clone(),
            platform: image.platform.clone(),
            digest: image.digest,
            size: image.size,
            is_model: image.kind == ImageKind::Model,
            models: image.models.clone(),
            origin: image.origin.as_ref().and_then(|origin| origin.reference.clone()),
            layers: image.layers.iter().filter_map(place).collect(),
            roots: numbers(&mut image.roots.iter()),
        });
        let paths: Vec<ReportPath> = names.iter().map(path).collect();
        let store = names.first().and_then(|name| name.rsplit_once('/')).map_or("/nix/store", |(store, _)| store);
        Self {
            version: VERSION,
            title,
            store: store.to_owned(),
            images: images.collect(),
            layers: order.iter().map(layer).collect(),
            numbers: paths.iter().enumerate().map(|(n, path)| (path.base.clone(), n)).collect(),
            paths,
            trees: Vec::new(),
            below: 0,
            against: None,
            host: None,
        }
    }

    /// The number of a store path, by its name with the hash.
    pub(super) fn number(&self, base: &str) -> Option<usize> {
        self.numbers.get(base).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_steps_of_five_bits() {
        let text =
            |numbers: &[usize]| serde_json::to_value(numbers.iter().copied().collect::<SortedNumbers>()).unwrap();
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[0, 1, 32, 64]), "ABfgB");
        // 3000 is 2 · 1024 + 29 · 32 + 24.
        assert_eq!(text(&[3000]), "49C");
    }
}
