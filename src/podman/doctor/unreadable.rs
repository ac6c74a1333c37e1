//! Images of windlass that Podman cannot read, as a check.

use std::path::Path;

use super::{CheckState, HostCheck};
use crate::podman::linked::{DRIVER, LinkedStore};
use crate::podman::load::undo;
use crate::podman::load::unreadable::{Unreadable, all};
use crate::podman::storage::places::Places;
use crate::podman::storage::records::StoreRecords;
use crate::podman::storage::snapshot::StoreSnapshot;

/// What `windlass doctor` says of them.
pub(crate) fn checks(places: &Places) -> Vec<HostCheck> {
    let stores = places.image_stores.iter().filter(|store| places.driver == DRIVER && LinkedStore::is_at(store));
    let stores = std::iter::once(&places.graph_root).chain(stores);
    // Without locks, and what cannot be read is told of elsewhere.
    let stores = stores.filter_map(|store| StoreRecords::glance(store, &places.driver).ok()).collect();
    let found = all(&StoreSnapshot { stores }, places);
    let unconfirmed = || {
        let message = "a load was killed before Podman confirmed it";
        let fix = "`windlass repair` asks Podman, and takes away what it does not know";
        HostCheck::new("images", CheckState::Problem, message, fix)
    };
    let check = |image: &Unreadable| {
        HostCheck::new("images", CheckState::Problem, image.to_string(), how(&image.store, places))
    };
    let left = undo::is_left(&places.graph_root);
    found.iter().map(check).chain(left.then(unconfirmed)).collect()
}

fn how(store: &Path, places: &Places) -> &'static str {
    let is_root = rustix::process::geteuid().is_root();
    if is_root || store == places.graph_root {
        "`windlass repair` takes it away"
    } else {
        "`sudo windlass repair` takes it away"
    }
}
