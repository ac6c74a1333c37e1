//! CRI-O, which keeps images in the same kind of store as Podman: where it keeps them, and what it says of them.
//!
//! | question | program |
//! |---|---|
//! | which graph root, driver and additional image stores does it have? | `crio status config`, which asks the CRI-O that runs |
//! | which images and containers does it know? | `crictl`, which speaks the kubelet's language |
//!
//! CRI-O 1.37 reads records and additional stores anew for each request: an image that was linked is there without a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use toml_edit::{DocumentMut, Item};

use super::client::PodmanContainer;
use super::places::Places;
use crate::disk::progress::Progress;
use crate::engine::process::{ProgramError, ProgramOutcome, run};
use crate::oci::digest::Digest;

/// Where CRI-O listens unless it is told otherwise.
pub(crate) const SOCKET: &str = "/var/run/crio/crio.sock";
const ANSWERS: &str =
    "see whether CRI-O runs (`systemctl status crio`), and whether CONTAINER_RUNTIME_ENDPOINT is its socket";

/// The CRI-O of this host.
#[derive(Debug, Clone)]
pub(crate) struct CrioClient {
    socket: PathBuf,
}

/// What `crictl images` prints.
#[derive(Debug, Deserialize)]
struct CriImages {
    #[serde(default)]
    images: Vec<CriImage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CriImage {
    id: String,
    #[serde(default)]
    repo_tags: Vec<String>,
    #[serde(default)]
    repo_digests: Vec<String>,
}

/// What `crictl ps` prints.
#[derive(Debug, Deserialize)]
struct CriContainers {
    #[serde(default)]
    containers: Vec<CriContainer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CriContainer {
    id: String,
    metadata: CriName,
    #[serde(default)]
    image_ref: String,
    #[serde(default)]
    image_id: String,
    #[serde(default)]
    state: String,
}

#[derive(Debug, Deserialize)]
struct CriName {
    name: String,
}

impl CrioClient {
    /// The CRI-O at this socket.
    pub(crate) const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Where it keeps its things, as the CRI-O that runs has them.
    ///
    /// # Errors
    /// If it does not answer, or answers something else.
    pub(crate) fn places(&self, progress: &Progress) -> Result<Places, ProgramError> {
        let mut command = Command::new("crio");
        command.arg("status").arg("--socket").arg(&self.socket).arg("config");
        let action = format!("say where CRI-O at {} keeps its images", self.socket.display());
        let answer = run("crio", &mut command, progress)?.ok("crio", &action, ANSWERS)?;
        places(&answer).ok_or_else(|| ProgramError::Answer {
            program: "crio",
            action,
            answer: answer.trim().chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect(),
        })
    }

    /// The image ID of each of these names (`NAME:TAG`, `NAME@sha256:…`); `None` where it knows no such image.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(super) fn exists(&self, names: &[&str], progress: &Progress) -> Result<Vec<Option<Digest>>, ProgramError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let list: CriImages = self.list(&["images", "--output", "json"], "list its images", progress)?;
        let mut known = BTreeMap::new();
        for image in &list.images {
            let id: Option<Digest> = format!("sha256:{}", image.id.trim_start_matches("sha256:")).parse().ok();
            known.extend(image.repo_tags.iter().chain(&image.repo_digests).map(|name| (name.as_str(), id)));
        }
        Ok(names.iter().map(|name| known.get(name).copied().flatten()).collect())
    }

    /// Takes a name from an image of its own store, and the image away if that was its last one.
    ///
    /// # Errors
    /// See [`ProgramError`]. CRI-O refuses it for an image that a container uses.
    pub(super) fn remove(&self, name: &str, progress: &Progress) -> Result<(), ProgramError> {
        self.crictl(&["rmi", name], &format!("remove {name}"), progress).map(drop)
    }

    /// Every container that it knows, running or not.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub(super) fn containers(&self, progress: &Progress) -> Result<Vec<PodmanContainer>, ProgramError> {
        let list: CriContainers = self.list(&["ps", "--all", "--output", "json"], "list its containers", progress)?;
        let of = |container: CriContainer| {
            let image = if container.image_id.is_empty() { container.image_ref } else { container.image_id };
            let is_stopped = matches!(container.state.as_str(), "CONTAINER_CREATED" | "CONTAINER_EXITED");
            let image = image.trim_start_matches("sha256:").to_owned();
            PodmanContainer::told(container.id, container.metadata.name, image, is_stopped)
        };
        Ok(list.containers.into_iter().map(of).collect())
    }

    fn list<T: for<'de> Deserialize<'de>>(
        &self,
        arguments: &[&str],
        action: &str,
        progress: &Progress,
    ) -> Result<T, ProgramError> {
        let answer = self.crictl(arguments, action, progress)?;
        serde_json::from_str(&answer).map_err(|_| ProgramError::Answer {
            program: "crictl",
            action: action.to_owned(),
            answer: answer.trim().chars().take(80).collect(),
        })
    }

    fn crictl(&self, arguments: &[&str], action: &str, progress: &Progress) -> Result<String, ProgramError> {
        let endpoint = format!("unix://{}", self.socket.display());
        let mut command = Command::new("crictl");
        // Without a file of settings of its own it warns, and may take another endpoint.
        command.args(["--config", "/dev/null", "--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]);
        let outcome: ProgramOutcome = run("crictl", command.args(arguments), progress)?;
        outcome.ok("crictl", action, ANSWERS)
    }
}

/// What of CRI-O's settings says where it keeps its things.
fn places(settings: &str) -> Option<Places> {
    let document: DocumentMut = settings.parse().ok()?;
    let crio = document.get("crio")?.as_table_like()?;
    let text = |key: &str| crio.get(key).and_then(Item::as_str).filter(|text| !text.is_empty());
    let options = crio.get("storage_option").and_then(Item::as_array);
    let (mut image_stores, mut driver_options): (Vec<PathBuf>, BTreeMap<String, String>) = Default::default();
    let pairs = options.into_iter().flatten().filter_map(|option| option.as_str()?.split_once('='));
    for (key, value) in pairs {
        let name = key.rsplit_once('.').map_or(key, |(_, name)| name);
        if name == "imagestore" {
            // One text may be several stores, separated by commas.
            image_stores.extend(value.split(',').map(|path| Path::new(path.trim()).components().collect::<PathBuf>()));
        } else {
            driver_options.insert(name.to_owned(), value.to_owned());
        }
    }
    let separate_store = text("imagestore").map(PathBuf::from);
    image_stores.splice(0..0, separate_store.clone());
    Some(Places {
        graph_root: text("root")?.into(),
        run_root: text("runroot")?.into(),
        driver: text("storage_driver")?.to_owned(),
        image_stores,
        separate_store,
        driver_options,
        temporary: None,
        conf: None,
        rootless: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_a_running_crio_say_where_its_images_are() {
        let settings = "[crio]\n  root = \"/var/lib/containers/storage\"\n  runroot = \"/run/containers/storage\"\n  imagestore = \"\"\n  \
                        storage_driver = \"overlay\"\n  storage_option = [\"overlay.imagestore=/a\", \"overlay.imagestore=/b/,/c\", \
                        \"overlay.mountopt=nodev\"]\n  [crio.api]\n    listen = \"/run/crio/crio.sock\"\n";
        let found = places(settings).unwrap();
        assert_eq!(found.graph_root, Path::new("/var/lib/containers/storage"));
        assert_eq!(found.image_stores, ["/a", "/b", "/c"].map(PathBuf::from));
        assert_eq!(found.separate_store, None);
        assert_eq!(found.driver_options, [("mountopt".to_owned(), "nodev".to_owned())].into());
        let separate = places(&settings.replace("imagestore = \"\"", "imagestore = \"/s\"")).unwrap();
        assert_eq!(separate.image_stores, ["/s", "/a", "/b", "/c"].map(PathBuf::from));
        for text in ["", "[crio]\nroot = \"/r\"\n", "[crio", "crio = 1"] {
            assert_eq!(places(text), None, "{text}");
        }
    }
}
