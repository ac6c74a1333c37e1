//! `storage.conf` and its drop-ins: a store that is added is there, once, and nothing else has changed.
//! The first line is the store, the rest is the file.

use std::path::Path;

use windlass::internals::podman::storage::storage_conf::{Missing, StorageConf, drop_in, with_store, without};

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (store, text) = text.split_once('\n').unwrap_or((text, ""));
    let path = Path::new("storage.conf");
    let own = StorageConf::parse(&drop_in(store), path).expect("a drop-in of ours is one");
    assert_eq!(own.additional, [store]);
    let Ok(before) = StorageConf::parse(text, path) else { return false };
    let missing = [Missing { key: "driver", value: "overlay" }];
    if let Ok(with) = with_store(text, path, store, &missing) {
        let after = StorageConf::parse(&with, path).expect("what was written can be read");
        let mut expected = before.clone();
        expected.driver = expected.driver.or(Some("overlay".to_owned()));
        let same = |other: &String| Path::new(other).components().eq(Path::new(store).components());
        if !before.additional.iter().any(same) {
            expected.additional.push(store.to_owned());
        }
        assert_eq!(after, expected, "{with}");
        assert_eq!(with_store(&with, path, store, &missing).unwrap(), with, "twice is once");
        // Comments stay.
        assert!(text.matches('#').count() <= with.matches('#').count(), "{with}");
    }
    if let Some(driver) = &before.driver
        && let Ok(less) = without(text, path, "driver", driver)
    {
        let after = StorageConf::parse(&less, path).expect("what was written can be read");
        assert_eq!(after, StorageConf { driver: after.driver.clone(), ..before.clone() });
    }
    true
}
