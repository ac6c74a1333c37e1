//! What `docker save` gives, read as a stream: nothing of it is kept but digests.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Deserialize;

use crate::disk::progress::Progress;
use crate::image::summary::PlatformRecord;
use crate::oci::digest::{Digest, Hasher};

/// The longest `manifest.json` that is read.
const MANIFEST: u64 = 4 << 20;

/// The files of an archive.
#[derive(Debug, Default)]
pub(super) struct SavedImage {
    /// By path, the digest of each.
    files: BTreeMap<String, Digest>,
    /// Links, by path, to the path of a file: Docker before 25 has them for layers that are in the archive twice.
    links: BTreeMap<String, String>,
    manifest: Vec<SavedManifest>,
}

/// An image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedManifest {
    config: String,
    layers: Vec<String>,
}

/// Reads an archive to its end.
pub(super) fn read(archive: impl Read, progress: &Progress) -> io::Result<SavedImage> {
    let mut saved = SavedImage::default();
    let mut archive = tar::Archive::new(archive);
    let mut buffer = vec![0; 256 << 10];
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if let Some(link) = entry.link_name_bytes() {
            let target = resolve(&path, &String::from_utf8_lossy(&link));
            saved.links.insert(path, target);
            continue;
        }
        if path == "manifest.json" {
            saved.manifest = serde_json::from_reader((&mut entry).take(MANIFEST))?;
            continue;
        }
        let mut hasher = Hasher::new();
        loop {
            progress.check()?;
            let read = entry.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            progress.count_read(read as u64);
            hasher.update(&buffer[..read]);
        }
        saved.files.insert(path, hasher.finish().0);
    }
    Ok(saved)
}

/// The path that a link of an archive leads to.
fn resolve(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl SavedImage {
    fn digest(&self, path: &str) -> Option<Digest> {
        let path = self.links.get(path).map_or(path, String::as_str);
        self.files.get(path).copied()
    }

    /// What of it is not as it was built: a sentence for each thing.
    pub(super) fn differences(&self, platform: &PlatformRecord, layers: &[Digest]) -> Vec<String> {
        let [image] = &self.manifest[..] else {
            return vec![format!("its archive has {} images instead of one", self.manifest.len())];
        };
        let mut wrong = Vec::new();
        if self.digest(&image.config) != Some(platform.config_digest) {
            wrong.push("its config has other bytes".to_owned());
        }
        if image.layers.len() != layers.len() {
            wrong.push(format!("it has {} layers instead of {}", image.layers.len(), layers.len()));
        }
        for ((path, wanted), record) in image.layers.iter().zip(layers).zip(&platform.layers) {
            match self.digest(path) {
                Some(found) if found == *wanted => {}
                Some(_) => wrong.push(format!("layer {} ({}) has other bytes", record.title, record.digest.short())),
                None => wrong.push(format!("layer {} ({}) is missing", record.title, record.digest.short())),
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_files_of_the_archive() {
        assert_eq!(resolve("b/layer.tar", "../a/layer.tar"), "a/layer.tar");
        assert_eq!(resolve("b/layer.tar", "../../../a/./x"), "a/x");
    }
}
