//! Networks that the modules have made: which of them nothing needs any more.
//!
//! Ours are those with our label, which the units of the modules give them. Such a unit takes its network away when it stops,
//! unless a container is still in it; what is left then is found here. Networks without the label are never touched.

use std::path::{Path, PathBuf};

use super::gc::{GarbageClass, KeptItem, Removal, Thing};
use crate::disk::progress::Progress;
use crate::engine::process::ProgramError;
use crate::podman::load::decide::PodmanHost;
use crate::podman::storage::others::OtherUsers;

/// What the networks of the modules have: their name once more.
const LABEL: &str = "windlass.network";

/// Where the unit of a network may be: the system's, a user's, and those of a home.
const UNITS: [&str; 4] =
    ["/etc/systemd/system", "/etc/systemd/user", "/run/systemd/system", "/usr/local/lib/systemd/system"];

/// The networks that go; those that stay are told.
pub(super) fn find(
    host: &PodmanHost,
    others: &OtherUsers,
    keep: &mut Vec<KeptItem>,
    progress: &Progress,
) -> Result<Vec<Removal>, ProgramError> {
    let names = host.engine.podman("list its networks")?.networks(LABEL, progress)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let containers = host.engine.containers(progress)?;
    let (folders, mut removals) = (units(others), Vec::new());
    for name in names {
        let user = containers.iter().find(|container| container.networks().any(|network| network == name));
        let unit = format!("windlass-network-{name}.service");
        let why = match (user, folders.iter().any(|folder| folder.join(&unit).symlink_metadata().is_ok())) {
            (_, true) => Some(format!("{unit} makes it")),
            (Some(container), false) => Some(format!("used by container {}", container.name)),
            (None, false) => None,
        };
        match why {
            Some(why) => keep.push(KeptItem { class: GarbageClass::Networks, name: format!("network {name}"), why }),
            None => removals.push(Removal {
                class: GarbageClass::Networks,
                name: format!("network {name}"),
                place: host.places.graph_root.clone(),
                bytes: 0,
                collectable: 0,
                thing: Thing::Network(name),
            }),
        }
    }
    Ok(removals)
}

/// Where units are: those of the system and of every user.
fn units(others: &OtherUsers) -> Vec<PathBuf> {
    let homes = others.homes().into_iter().map(|home| home.join(".config/systemd/user"));
    let own = Path::new("/root/.config/systemd/user").to_owned();
    UNITS.iter().map(PathBuf::from).chain([own]).chain(homes).collect()
}
