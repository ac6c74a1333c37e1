//! Podman's own records in another user's store: no panic, and no walk along layers that does not end.

use std::fs;
use std::path::Path;

use windlass::internals::disk::progress::Progress;
use windlass::internals::podman::storage::records::{StoreRecords, big_data_file};

use super::sections;

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["images", "layers", "containers"] {
        let folder = dir.path().join(format!("overlay-{kind}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(format!("{kind}.lock")), "").unwrap();
    }
    for (name, content) in sections(data) {
        let kind = name.trim_start_matches("volatile-");
        if ["images", "layers", "containers"].contains(&kind) {
            fs::write(dir.path().join(format!("overlay-{kind}/{name}.json")), content).unwrap();
        }
    }
    let glanced = StoreRecords::glance(dir.path(), "overlay").ok();
    let read = StoreRecords::read(dir.path(), "overlay", &Progress::new()).ok();
    assert_eq!(glanced, read, "with locks and without");
    let Some(records) = read else { return false };
    for layer in records.layers.keys() {
        assert!(records.chain(layer).count() <= 1000);
        let _ = records.layers[layer].is_incomplete();
    }
    for image in &records.images {
        assert!(image.is_called("localhost/app:1") || !image.names.iter().any(|name| name == "localhost/app:1"));
        for name in [&image.id, "manifest"] {
            let file = big_data_file(name);
            assert!(Path::new(&file).components().count() == 1 && !file.contains('/'), "{file} is not a file's name");
        }
    }
    true
}
