//! Data that a new version of a program does not read: said before anything restarts.

use std::collections::BTreeSet;

use super::view::ViewedImage;
use crate::compose::import::known::{DataFormat, data_formats};

/// What of these images has data of another format than those of the same names before.
pub(super) fn breaks(old: &[ViewedImage], new: &[ViewedImage]) -> Vec<String> {
    let mut found = Vec::new();
    for image in new {
        let before = old.iter().find(|before| before.name == image.name && before.platform == image.platform);
        let Some(before) = before else { continue };
        for (service, format) in data_formats() {
            let (from, to) = (majors(before, format), majors(image, format));
            if !from.is_empty() && !to.is_empty() && from != to {
                let list = |majors: BTreeSet<String>| majors.into_iter().collect::<Vec<_>>().join(", ");
                let (name, from, to) = (&image.name, list(from), list(to));
                found.push(format!(
                    "{name}: {service} {from} → {to}: {to} does not read the data of {from}; before it restarts, {}",
                    format.upgrade
                ));
            }
        }
    }
    found.dedup();
    found
}

/// The major versions of the programs whose version is that of the data.
fn majors(image: &ViewedImage, format: &DataFormat) -> BTreeSet<String> {
    let versions = super::diff::versions_in(image);
    let of_packages = format.packages.iter().filter_map(|package| versions.get(*package)).flatten().cloned();
    let of_variable = image.environment().filter_map(|line| line.strip_prefix(format.variable)?.strip_prefix('='));
    let major = |version: String| version.split(['.', '-']).next().unwrap_or_default().to_owned();
    of_packages.chain(of_variable.map(str::to_owned)).map(major).filter(|major| !major.is_empty()).collect()
}
