//! Who uses which image: containers running and stopped, mounts, other users, other graph roots.
//!
//! | what | where it is written |
//! |---|---|
//! | a container's image | `containers.json` of its graph root |
//! | an image mounted by a container (`--mount type=image`) | Podman's database; Podman 4.3 itself does not look there before it removes the image |
//! | a layer or an image over a layer of another store | `layers.json` and `images.json` of the graph root that it is in |
//! | everything that runs now, whoever runs it | `/proc/<process>/mountinfo`, and the arguments of fuse-overlayfs |
//! | a model that a service has now | the slots beside the generations ([`super::model`]) |
//! | what other graph roots loaded | their generations, noted in the linked store; those of every user in passwd(5) |
//!
//! The linked store is used by every user of the host, so all of that is asked for it. Of somebody else's graph root that
//! cannot be understood there is a warning: no Podman works on it, and what runs is seen in `/proc` all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::conf_files::ConfFiles;
use super::decide::Host;
use super::engine::EngineError;
use super::generations::{GenerationError, Generations};
use super::linked::{DRIVER, LinkedStore, link_name};
use super::model::{self, ModelError};
use super::places::Caller;
use super::records::{Records, RecordsError, StoredImage};
use super::survey::Survey;
use crate::blobs::At;
use crate::progress::Progress;

/// Where to look for others that use the same images.
#[derive(Debug, Clone)]
pub struct Others {
    /// The host's users: `/etc/passwd`.
    pub passwd: PathBuf,
    /// The host's processes: `/proc`.
    pub proc: PathBuf,
}

impl Default for Others {
    fn default() -> Self {
        Self { passwd: "/etc/passwd".into(), proc: "/proc".into() }
    }
}

impl Others {
    /// The graph roots of the host's users, as far as they are there.
    #[must_use]
    pub fn graph_roots(&self) -> BTreeSet<PathBuf> {
        let text = fs::read(&self.passwd).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut roots = BTreeSet::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, uid, _, _, home, ..] = fields[..] else { continue };
            let Ok(uid) = uid.parse() else { continue };
            if !home.starts_with('/') {
                continue;
            }
            roots.insert(Path::new(home).join(".local/share/containers/storage"));
            // Another user's Podman is not asked: what any file says that may count for it is a root, which only keeps more.
            let caller = Caller { uid, home: Some(home.into()), ..Caller::default() };
            roots.extend(ConfFiles { system: Path::new("/"), caller: &caller }.graph_roots());
        }
        roots.extend(fs::canonicalize("/var/lib/containers/storage").ok());
        roots.into_iter().filter_map(|root| fs::canonicalize(root).ok()).collect()
    }

    /// The home directories of the host's users but root's.
    pub(super) fn homes(&self) -> Vec<PathBuf> {
        let text = fs::read(&self.passwd).unwrap_or_default();
        let home = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, uid, _, _, home, ..] = fields[..] else { return None };
            (uid != "0" && home.starts_with('/')).then(|| PathBuf::from(home))
        };
        String::from_utf8_lossy(&text).lines().filter_map(home).collect()
    }

    /// What overlay mounts name as their layers: link names (26 letters and digits) and layer IDs.
    #[must_use]
    pub fn mounted(&self) -> BTreeSet<String> {
        let (mut names, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let processes = fs::read_dir(&self.proc).into_iter().flatten().flatten();
        let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        for process in processes.filter(|entry| entry.file_name().to_str().is_some_and(is_process)) {
            let process = process.path();
            let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
            if arguments.split(|byte| *byte == 0).next().is_some_and(|program| program.ends_with(b"fuse-overlayfs")) {
                layers_in(&String::from_utf8_lossy(&arguments), &mut names);
            }
            // Processes that share their mounts have the same list.
            let namespace = fs::read_link(process.join("ns/mnt")).ok();
            if namespace.is_none_or(|namespace| seen.insert(namespace)) {
                let mounts = fs::read(process.join("mountinfo")).unwrap_or_default();
                for line in String::from_utf8_lossy(&mounts).lines().filter(|line| line.contains("overlay")) {
                    layers_in(line, &mut names);
                }
            }
        }
        names
    }
}

/// Everything between separators that a layer may be called.
fn layers_in(text: &str, names: &mut BTreeSet<String>) {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_name = |word: &&str| {
        let link = word.len() == 26 && word.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'));
        link || (word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    names.extend(words.filter(is_name).map(str::to_owned));
}

/// What is used, each with by whom, in words that follow *used by*.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Image IDs.
    pub images: BTreeMap<String, String>,
    /// Layer IDs.
    pub layers: BTreeMap<String, String>,
    /// Image IDs that generations of somebody else name.
    pub loaded: BTreeMap<String, String>,
    /// Notes in the linked store of generations that are gone.
    pub stale_notes: Vec<PathBuf>,
    /// What could not be looked at.
    pub warnings: Vec<String>,
    mounted: BTreeSet<String>,
}

/// What of the own graph root counts as gone.
#[derive(Debug, Clone, Default)]
pub struct Except {
    /// Containers, by their IDs.
    pub containers: BTreeSet<String>,
    /// Names that images have from here: an image that has no other one goes with what it lies over.
    pub names: BTreeSet<String>,
}

/// Why nobody knows what is used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// Records of a store.
    #[error("{0}")]
    Records(#[from] RecordsError),
    /// Podman.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// Somebody's generations.
    #[error("{0}")]
    Generations(#[from] GenerationError),
    /// Somebody's active models.
    #[error("{0}")]
    Models(#[from] ModelError),
}

impl Usage {
    /// The models that services of a graph root have now, and those to go back to.
    fn add_models(&mut self, graph_root: &Path, place: &str) -> Result<(), ModelError> {
        for model in model::active(graph_root)? {
            let who = format!("the slot {}{place}, whose model it is", model.slot);
            self.images.entry(model.entry.config_digest.hex()).or_insert(who);
        }
        Ok(())
    }

    /// What the containers of a graph root use, and what of it lies over layers of other stores. `place` follows the name
    /// of a container: ` of …`.
    fn add(&mut self, records: &Records, place: &str, except: &Except) {
        let Except { containers: without, names: ours } = except;
        for container in records.containers.iter().filter(|container| !without.contains(&container.id)) {
            let name = container.names.first().unwrap_or(&container.id);
            let who = format!("container {name}{place}");
            for layer in records.chain(&container.layer) {
                self.layers.entry(layer.to_owned()).or_insert_with(|| who.clone());
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

    /// By whom a layer of a store is used itself.
    fn of_layer(&self, records: &Records, layer: &str) -> Option<&str> {
        if let Some(who) = self.layers.get(layer) {
            return Some(who);
        }
        let link = || {
            let text = fs::read_to_string(records.store.join(&records.driver).join(layer).join("link")).ok();
            text.map_or_else(|| link_name(layer), |text| text.trim().to_owned())
        };
        (self.mounted.contains(layer) || self.mounted.contains(&link())).then_some("a mount")
    }

    /// By whom an image is used: a container's, a mounted one, or one with something over its top layer.
    #[must_use]
    pub fn of_image(&self, records: &Records, id: &str, top: &str) -> Option<&str> {
        self.images.get(id).map(String::as_str).or_else(|| self.of_layer(records, top))
    }

    /// By whom one of these layers, or something over it, is used.
    #[must_use]
    pub fn of_layers<'a>(&self, records: &Records, layers: impl IntoIterator<Item = &'a str>) -> Option<&str> {
        layers.into_iter().find_map(|layer| self.of_layer(records, layer))
    }
}

impl Host {
    /// Who uses which image.
    ///
    /// # Errors
    /// If the records, Podman or generations cannot be read. Then nothing may be removed.
    pub fn usage(
        &self,
        survey: &Survey,
        others: &Others,
        except: &Except,
        progress: &Progress,
    ) -> Result<Usage, UsageError> {
        let mut usage = Usage { mounted: others.mounted(), ..Usage::default() };
        usage.add_models(&self.places.graph_root, "")?;
        if let Some(own) = survey.stores.first() {
            usage.add(own, "", except);
            if !own.containers.is_empty() {
                self.add_image_mounts(&mut usage, survey, except, progress)?;
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
        survey: &Survey,
        except: &Except,
        progress: &Progress,
    ) -> Result<(), UsageError> {
        for container in self.engine.containers(progress)? {
            if except.containers.contains(&container.id) {
                continue;
            }
            let who = format!("container {}, which mounts it", container.name);
            for name in container.image_mounts() {
                let known = survey.called(name).map(|(_, image)| image.id.clone());
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
            let Some(own) = survey.stores.first() else { continue };
            let path = own.store.join(format!("{}-containers/{}/userdata/config.json", own.driver, container.id));
            let mut layers = BTreeSet::new();
            layers_in(&fs::read_to_string(path).unwrap_or_default(), &mut layers);
            for layer in layers.into_iter().filter(|layer| own.layers.contains_key(layer)) {
                usage.layers.entry(layer).or_insert_with(|| who.clone());
            }
        }
        Ok(())
    }

    /// Everybody else who may use the linked store.
    fn add_others(&self, usage: &mut Usage, linked: &LinkedStore, others: &Others) -> Result<(), UsageError> {
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
            others.graph_roots().into_iter().chain(noted).filter(|root| *root != own).collect();
        for root in roots {
            match Records::glance(&root, DRIVER) {
                Ok(records) => usage.add(&records, &format!(" of {}", root.display()), &Except::default()),
                Err(error) => usage.warnings.push(format!("containers of another graph root cannot be seen: {error}")),
            }
            let generations = Generations::of(&root);
            let is_noted = folders.contains(generations.folder());
            match usage.add_models(&root, &format!(" of {}", root.display())) {
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
        let roots = Others { passwd: path("passwd"), proc: path("proc") }.graph_roots();
        assert!(roots.contains(&usual) && roots.contains(&chosen), "{roots:?}");
    }
}
