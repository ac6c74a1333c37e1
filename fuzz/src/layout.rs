//! Image directories: what is opened is what its digests say, names nothing outside of it, and is written again as the
//! same directory.
//!
//! A section `blob X` is a blob, `false X` lies in its place, `recipe X` and `sums X` belong to a layer. In what follows, `@X` stands for the digest of
//! the blob in hex, and `#X` for its size, so that a change of one file leads past the digests of the others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use windlass::internals::disk::progress::Progress;
use windlass::internals::image::layout::ImageDir;
use windlass::internals::oci::digest::Digest;

use super::{sections, stays_inside};

/// Writes the image directory that the sections describe.
pub(super) fn write<'a>(directory: &Path, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    fs::create_dir_all(directory.join("recipes")).unwrap();
    let mut blobs: BTreeMap<u8, (String, usize)> = BTreeMap::new();
    for (name, content) in files {
        let content = filled(content, &blobs);
        let (kind, key) = name.split_once(' ').unwrap_or((name, "@"));
        let key = key.bytes().next().unwrap_or(b'@');
        let hex = |blobs: &BTreeMap<u8, (String, usize)>| blobs.get(&key).map(|(hex, _)| hex.clone());
        let place = match kind {
            "blob" => {
                let hex = Digest::of(&content).hex();
                blobs.insert(key, (hex.clone(), content.len()));
                Some(format!("blobs/sha256/{hex}"))
            }
            "false" => hex(&blobs).map(|hex| format!("blobs/sha256/{hex}")),
            "recipe" => hex(&blobs).map(|hex| format!("recipes/{hex}.json")),
            "sums" => hex(&blobs).map(|hex| format!("recipes/{hex}.crc64")),
            "image.json" | "index.json" | "oci-layout" => Some(kind.to_owned()),
            _ => None,
        };
        if let Some(place) = place {
            fs::write(directory.join(place), content).unwrap();
        }
    }
}

/// The text with digests and sizes put in.
pub(super) fn filled(text: &[u8], blobs: &BTreeMap<u8, (String, usize)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek().and_then(|key| blobs.get(key))) {
            (b'@', Some((hex, _))) => out.extend(hex.as_bytes()),
            (b'#', Some((_, size))) => out.extend(size.to_string().as_bytes()),
            _ => {
                out.push(byte);
                continue;
            }
        }
        bytes.next();
    }
    out
}

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    write(&first, sections(data));
    let Ok(image) = ImageDir::open(&first) else { return false };
    let summary = image.summary();
    stays_inside(Path::new(&*summary.name.file_name()));
    for blob in image.image().small_blobs() {
        assert_eq!(Digest::of(&blob.bytes), blob.digest);
    }
    let readable = image.check_readable().is_ok();
    for platform in &summary.platforms {
        for layer in &platform.layers {
            if let Ok(Some(blob)) = image.layer_blob(layer) {
                assert!(blob.starts_with(&first) && fs::metadata(&blob).unwrap().len() == layer.size);
            }
        }
        platform.models.iter().for_each(|model| stays_inside(Path::new(&**model)));
    }
    fs::create_dir(&second).unwrap();
    image.image().write_lean(&second, &Progress::new()).unwrap();
    let again = ImageDir::open(&second).expect("what was written can be opened");
    assert_eq!(again.image(), image.image());
    assert_eq!(again.check_readable().is_ok(), readable);
    true
}
