//! Who uses which image: containers running and stopped, mounts, other users, other graph roots.
//!
//! | what | where it is written |
//! |---|---|
//! | a container's image | `containers.json` of its graph root |
//! | an image mounted by a container (`--mount type=image`) | Podman's database; Podman 4.3 itself does not look there before it removes the image |
//! | a layer or an image over a layer of another store | `layers.json` and `images.json` of the graph root that it is in |
//! | everything that runs now, as any user | `/proc/<process>/mountinfo`, and the arguments of fuse-overlayfs |
//! | a model that a service has now | the slots beside the generations ([`crate::podman::slots`]) |
//! | what other graph roots loaded | their generations, noted in the linked store; those of every user in passwd(5) |
//!
//! The linked store is used by every user of the host, so all of that is asked for it. For another user's graph root that
//! cannot be understood there is a warning: no Podman works on it, and what runs is seen in `/proc` all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::class::{Class, Classified};
use crate::disk::AtPath;
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::engine::generations::{GenerationError, Generations};
use crate::engine::process::ProgramError;
use crate::oci::digest::Digest;
use crate::podman::linked::{DRIVER, LinkedStore, link_name};
use crate::podman::load::decide::PodmanHost;
use crate::podman::slots::{self, ModelError, Slots};
use crate::podman::storage::others::{OtherUsers, layers_in};
use crate::podman::storage::places::state_of;
use crate::podman::storage::records::{RecordsError, StoreRecords, StoredContainer, StoredImage};
use crate::podman::storage::snapshot::StoreSnapshot;

/// What is used, each with by whom, in words that follow *used by*.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// Image IDs.
    pub(crate) images: BTreeMap<String, String>,
    /// Layer IDs.
    pub(crate) layers: BTreeMap<String, String>,
    /// Image IDs that other users' generations name.
    pub(crate) loaded: BTreeMap<String, String>,
    /// Notes in the linked store of generations that are gone.
    pub(crate) stale_notes: Vec<PathBuf>,
    /// What could not be looked at.
    pub(crate) warnings: Vec<String>,
    mounted: BTreeSet<String>,
    /// What images are called, and their digests, by their IDs.
    known: BTreeMap<String, (Vec<String>, Option<Digest>)>,
}

/// What of the own graph root counts as gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Except {
    /// Containers, by their IDs.
    pub(crate) containers: BTreeSet<String>,
    /// Names that images have from here: an image that has no other one goes with what it lies over.
    pub(crate) names: BTreeSet<String>,
}

/// Why it is not known what is used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UsageError {
    /// StoreRecords of a store.
    #[error(transparent)]
    StoreRecords(#[from] RecordsError),
    /// Podman.
    #[error(transparent)]
    Engine(#[from] ProgramError),
    /// A user's generations.
    #[error(transparent)]
    Generations(#[from] GenerationError),
    /// A user's active models.
    #[error(transparent)]
    Models(#[from] ModelError),
}

impl Classified for UsageError {
    fn class(&self) -> Class {
        match self {
            Self::StoreRecords(error) => error.class(),
            Self::Engine(error) => error.class(),
            Self::Generations(error) => error.class(),
            Self::Models(error) => error.class(),
        }
    }
}

impl Usage {
    /// The models that services of a graph root have now, and those to go back to.
    fn add_models(&mut self, slots: &Slots, place: &str) -> Result<(), ModelError> {
        for model in slots::active(slots)? {
            let who = format!("the slot {}{place}, whose model it is", model.slot);
            self.images.entry(model.entry.config_digest.hex()).or_insert(who);
        }
        Ok(())
    }

    /// What the containers of a graph root use, and what of it lies over layers of other stores. `place` follows the name
    /// of a container: ` of …`.
    fn add(&mut self, records: &StoreRecords, place: &str, except: &Except) {
        let Except { containers: without, names: ours } = except;
        for container in records.containers.iter().filter(|container| !without.contains(&container.id)) {
            let name = container.names.first().unwrap_or(&container.id);
            let moved = self.moved(container);
            let who = format!("container {name}{place}{}", moved.as_deref().unwrap_or_default());
            // Other images may lie on these layers, or on just the same ones.
            let runs = moved.unwrap_or_else(|| format!(", which runs {}", self.called(&container.image)));
            let runs = format!("container {name}{place}{runs}");
            for layer in records.chain(&container.layer) {
                self.layers.entry(layer.to_owned()).or_insert_with(|| runs.clone());
            }
            self.images.entry(container.image.clone()).or_insert(who);
        }
        let skipped: BTreeSet<&str> =
            records.containers.iter().filter(|c| without.contains(&c.id)).map(|c| c.layer.as_str()).collect();
        let root = records.store.display();
        // `podman tag` of a linked image makes a record in the graph root, with all its names.
        let above = |image: &&StoredImage| !image.layer.is_empty() && !records.layers.contains_key(&image.layer);
        for image in records.images.iter().filter(above) {
            if let Some(name) = image.names.iter().find(|name| !ours.contains(*name)) {
                self.layers.entry(image.layer.clone()).or_insert_with(|| format!("image {name} of {root}"));
            }
        }
        for layer in records.layers.values().filter(|layer| !skipped.contains(layer.id.as_str())) {
            if let Some(parent) = layer.parent.as_ref().filter(|parent| !records.layers.contains_key(*parent)) {
                self.layers.entry(parent.clone()).or_insert_with(|| format!("a layer of {root}"));
            }
        }
    }

    /// What an image is called, by its ID: a name, or what it is where it has none.
    fn called(&self, id: &str) -> String {
        let (names, digest) = self.known.get(id).map_or((&[][..], None), |(names, digest)| (&names[..], *digest));
        if let Some(name) = names.iter().find(|name| !name.contains('@')).or(names.first()) {
            return name.clone();
        }
        digest.map_or_else(|| format!("image {id:.12}"), |digest| format!("image {id:.12} ({digest})"))
    }

    /// What a container really runs, where the name that it was made with leads to another image by now.
    fn moved(&self, container: &StoredContainer) -> Option<String> {
        let asked = container.image_name()?;
        let (names, _) = self.known.get(&container.image)?;
        if names.contains(&asked) || container.image.starts_with(&asked) {
            return None;
        }
        let is_another = self.known.values().any(|(names, _)| names.contains(&asked));
        let now = if is_another { "is another image now" } else { "is no image's name any more" };
        Some(format!(", which runs {}; {asked}, its name when it was made, {now}", self.called(&container.image)))
    }

    /// By whom a layer of a store is used itself.
    fn of_layer(&self, records: &StoreRecords, layer: &str) -> Option<&str> {
        if let Some(who) = self.layers.get(layer) {
            return Some(who);
        }
        let link = || {
            let link = Path::new(&records.driver).join(layer).join("link");
            let text = Dir::open(&records.store).and_then(|store| store.read(link, Cap::Settings)).ok();
            text.map_or_else(|| link_name(layer), |text: Vec<u8>| String::from_utf8_lossy(&text).trim().to_owned())
        };
        (self.mounted.contains(layer) || self.mounted.contains(&link())).then_some("a mount")
    }

    /// By whom an image is used: a container's, a mounted one, or one with something over its top layer.
    #[must_use]
    pub(crate) fn of_image(&self, records: &StoreRecords, id: &str, top: &str) -> Option<&str> {
        self.images.get(id).map(String::as_str).or_else(|| self.of_layer(records, top))
    }

    /// By whom one of these layers, or something over it, is used.
    #[must_use]
    pub(crate) fn of_layers<'a>(
        &self,
        records: &StoreRecords,
        layers: impl IntoIterator<Item = &'a str>,
    ) -> Option<&str> {
        layers.into_iter().find_map(|layer| self.of_layer(records, layer))
    }
}

impl PodmanHost {
    /// Who uses which image.
    ///
    /// # Errors
    /// If the records, Podman or generations cannot be read. Then nothing may be removed.
    pub(crate) fn usage(
        &self,
        snapshot: &StoreSnapshot,
        others: &OtherUsers,
        except: &Except,
        progress: &Progress,
    ) -> Result<Usage, UsageError> {
        let images = snapshot.stores.iter().flat_map(|store| &store.images);
        let mut usage = Usage { mounted: others.mounted(), ..Usage::default() };
        // One that was tagged has a record in two stores, and its names in both.
        for image in images {
            let (names, digest) = usage.known.entry(image.id.clone()).or_default();
            names.extend(image.names.iter().cloned());
            *digest = digest.or(image.digest);
        }
        usage.add_models(&Slots::of(&self.places.graph_root), "")?;
        if let Some(own) = snapshot.stores.first() {
            usage.add(own, "", except);
            if !own.containers.is_empty() {
                self.add_image_mounts(&mut usage, snapshot, except, progress)?;
            }
        }
        if let Some(linked) = &self.linked {
            self.add_others(&mut usage, linked, others)?;
        }
        Ok(usage)
    }

    /// Images that containers mount. A name counts for what it leads to now: that is what the next start takes; what was
    /// mounted by the last start is among the mounts.
    fn add_image_mounts(
        &self,
        usage: &mut Usage,
        snapshot: &StoreSnapshot,
        except: &Except,
        progress: &Progress,
    ) -> Result<(), UsageError> {
        for container in self.engine.containers(progress)? {
            if except.containers.contains(&container.id) {
                continue;
            }
            let who = format!("container {}, which mounts it", container.name);
            for name in container.image_mounts() {
                let known = snapshot.called(name).map(|(_, image)| image.id.clone());
                let id = match known {
                    Some(id) => Some(id),
                    // A short name, or an ID.
                    None => self.engine.exists(&[name], progress)?.pop().flatten().map(|id| id.hex()),
                };
                if let Some(id) = id {
                    usage.images.entry(id).or_insert_with(|| who.clone());
                }
            }
            // As the last start had it; after a restart of the host no mount says so.
            let Some(own) = snapshot.stores.first() else { continue };
            let path = own.store.join(format!("{}-containers/{}/userdata/config.json", own.driver, container.id));
            let mut layers = BTreeSet::new();
            layers_in(&bounded::text(&path, Cap::Config).unwrap_or_default(), &mut layers);
            for layer in layers.into_iter().filter(|layer| own.layers.contains_key(layer)) {
                usage.layers.entry(layer).or_insert_with(|| who.clone());
            }
        }
        Ok(())
    }

    /// Everybody else who may use the linked store.
    fn add_others(&self, usage: &mut Usage, linked: &LinkedStore, others: &OtherUsers) -> Result<(), UsageError> {
        let own = fs::canonicalize(&self.places.graph_root).unwrap_or_else(|_| self.places.graph_root.clone());
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        for (note, folder) in linked.users().map_err(RecordsError::from)? {
            // The state folder lies in its graph root.
            match fs::canonicalize(&folder) {
                Ok(folder) => drop(folders.insert(folder)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => usage.stale_notes.push(note),
                // What cannot be looked at now may still need its images.
                error => drop(error.at("open", &folder).map_err(RecordsError::from)?),
            }
        }
        let noted = folders.iter().filter_map(|folder| folder.parent().map(Path::to_owned));
        let roots: BTreeSet<PathBuf> =
            others.graph_roots(&mut usage.warnings).into_iter().chain(noted).filter(|root| *root != own).collect();
        for root in roots {
            match StoreRecords::glance(&root, DRIVER) {
                Ok(records) => usage.add(&records, &format!(" of {}", root.display()), &Except::default()),
                Err(error) => usage.warnings.push(format!("containers of another graph root cannot be seen: {error}")),
            }
            let generations = Generations::of_another(state_of(&root));
            let is_noted = folders.contains(generations.folder());
            match usage.add_models(&Slots::of_another(&root), &format!(" of {}", root.display())) {
                Err(error) if is_noted => return Err(error.into()),
                Err(error) => usage.warnings.push(format!("models of another graph root cannot be read: {error}")),
                Ok(()) => {}
            }
            match generations.all().and_then(|all| Ok((all, generations.attempts()?))) {
                Ok((all, attempts)) => {
                    for generation in all.into_iter().chain(attempts) {
                        let who = format!("generation {} of {}", generation.number, root.display());
                        let ids = generation.entries.iter().map(|entry| entry.config_digest.hex());
                        ids.for_each(|id| drop(usage.loaded.insert(id, who.clone())));
                    }
                }
                // Its images are here, and which they are cannot be known.
                Err(error) if is_noted => return Err(error.into()),
                Err(error) => usage.warnings.push(format!("generations of another graph root cannot be read: {error}")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_name_layers_by_links_and_by_ids() {
        let mut names = BTreeSet::new();
        let id = "a".repeat(64);
        let line = format!(
            "540 36 0:47 / /g/overlay/x/merged rw - overlay overlay rw,lowerdir=/s/overlay/l/ABCDEFGHIJKLMNOPQRSTUVWXYZ:l/234567ABCDEFGHIJKLMNOPQRST,upperdir=/g/overlay/{id}/diff"
        );
        layers_in(&line, &mut names);
        let expected = ["234567ABCDEFGHIJKLMNOPQRST", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", &id];
        assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn users_have_the_usual_graph_root_and_the_one_they_chose() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        let (usual, chosen) = (path("a/.local/share/containers/storage"), path("chosen"));
        for directory in [&usual, &chosen, &path("b/.config/containers")] {
            fs::create_dir_all(directory).unwrap();
        }
        let conf = format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\n", chosen.display());
        fs::write(path("b/.config/containers/storage.conf"), conf).unwrap();
        fs::create_dir_all(path("c/.config/containers")).unwrap();
        let pipe = path("c/.config/containers/storage.conf");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        let line = |name: &str, uid| format!("{name}:x:{uid}:{uid}::{}:/bin/sh\n", path(name).display());
        let passwd = format!(
            "# nobody\nroot\n{}{}{}nobody:x:65534:1::/nonexistent:/bin/sh\n",
            line("a", 1001),
            line("b", 1002),
            line("c", 1003)
        );
        fs::write(path("passwd"), passwd).unwrap();
        let mut warnings = Vec::new();
        let roots = OtherUsers { passwd: path("passwd"), proc: path("proc") }.graph_roots(&mut warnings);
        assert!(warnings.iter().any(|warning| warning.ends_with("storage.conf: it is not a file")), "{warnings:?}");
        assert!(roots.contains(&usual) && roots.contains(&chosen), "{roots:?}");
    }
}
