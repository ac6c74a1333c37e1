//! What lies on the disk while an image is handed over to Podman, and how the programs are called.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use oci_spec::image::MediaType;
use toml_edit::{DocumentMut, Item, Table, value};

use super::pull::{PullError, permanent_name, place_of_work};
use crate::disk::bounded;
use crate::disk::files::write_file;
use crate::disk::pieces::PieceSender;
use crate::disk::pipe::CHUNK;
use crate::disk::progress::Progress;
use crate::disk::served::ServedFile;
use crate::disk::size::size;
use crate::disk::{AtPath, Staging, WriteError};
use crate::engine::process::{ProgramError, run};
use crate::image::LayerRecord;
use crate::image::bundle::BLOBS;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::{ImageKind, LayerPatch, PlatformRecord};
use crate::layer::Sink as _;
use crate::layer::output::{Output, Verify};
use crate::layer::patch::{OldBytes, PatchedLayer};
use crate::layer::piece_sink::PieceSink;
use crate::oci::digest::Digest;
use crate::podman::linked::stored_archive::StoredArchive;
use crate::podman::storage::client::PodmanClient;
use crate::podman::storage::places::Places;
use crate::podman::storage::snapshot::StoreSnapshot;

/// What is on disk while an image is handed over.
pub(super) struct PullWork {
    staging: Staging,
    /// The OCI layout's name in there. Podman 4.3 makes it the image's name, so it is one that no other image has.
    pub(super) layout: String,
}

impl PullWork {
    pub(super) fn new(places: &Places, image: &ImageDir) -> Result<Self, WriteError> {
        let staging = Staging::directory(&place_of_work(places))?;
        let layout = format!("windlass-{}", &image.summary().digest.hex()[..32]);
        Ok(Self { staging, layout })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.staging.path().join(name)
    }

    /// Everything but layers.
    pub(super) fn write(&self, places: &Places, image: &ImageDir, progress: &Progress) -> Result<(), PullError> {
        for name in ["tmp", &self.layout] {
            fs::create_dir(self.path(name)).at("create", &self.path(name))?;
        }
        write_file(&self.path("storage.conf"), alone(places).to_string().as_bytes(), progress)?;
        Ok(image.image().write_oci(&self.path(&self.layout), progress)?)
    }

    pub(super) fn add_layer(
        &self,
        image: &ImageDir,
        layer: &LayerRecord,
        blob: Option<PathBuf>,
        progress: &Progress,
    ) -> Result<(), PullError> {
        let path = self.path(&self.layout).join("blobs/sha256").join(layer.digest.hex());
        if let Some(blob) = blob {
            let blob = fs::canonicalize(&blob).map_err(|source| LayoutError::Read { path: blob, source })?;
            symlink(blob, &path).at("create", &path)?;
            return Ok(());
        }
        let mut output = Output::create(&path, Verify::Never, false, progress)?;
        image.write_layer(layer, &mut output)?;
        output.finish()?;
        Ok(())
    }

    /// A layer that is made while it is read. Whether it is what it should be, who reads it says.
    pub(super) fn served<'a>(
        &self,
        image: &'a ImageDir,
        layer: &'a LayerRecord,
        progress: &'a Progress,
    ) -> ServedFile<'a> {
        let path = self.path(&self.layout).join(BLOBS).join(layer.digest.hex());
        let make = move |pieces: PieceSender| {
            let mut sink = PieceSink::new(pieces, progress);
            if image.stream_layer(layer, &mut sink, &path).is_ok() {
                drop(sink.finish());
            }
        };
        ServedFile { name: layer.digest.hex(), size: layer.size, digest: layer.digest, make: Box::new(make) }
    }

    /// A layer that the bundle of the image leaves out, as another store of Podman has it.
    pub(super) fn add_stored(
        &self,
        layer: &LayerRecord,
        stored: &StoredArchive,
        progress: &Progress,
    ) -> Result<(), PullError> {
        let path = self.path(&self.layout).join(BLOBS).join(layer.digest.hex());
        let mut output = Output::create(&path, Verify::Never, false, progress)?;
        stored.stream(&mut |bytes| output.bytes(bytes), progress)?;
        output.finish()?;
        Ok(())
    }

    /// A layer that is there as a patch of layers that any store of Podman has.
    pub(super) fn add_patched(
        &self,
        image: &ImageDir,
        (layer, patch): (&LayerRecord, &LayerPatch),
        stored: &StoreSnapshot,
        progress: &Progress,
    ) -> Result<(), PullError> {
        let mut find = |from: Digest| -> io::Result<Box<dyn OldBytes>> {
            let archive = StoredArchive::find(stored, from).ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(archive.open().map_err(|error| error.source)?))
        };
        let wrong = |why: String| {
            image.verify_patch(patch, true, progress)?;
            Err(LayoutError::Unpatched { digest: layer.digest, title: layer.title.clone(), why }.into())
        };
        let (from, to) = (image.patch_path(patch), self.path(&self.layout).join(BLOBS).join(layer.digest.hex()));
        let open = bounded::open(&from).map_err(|source| LayoutError::Read { path: from, source })?;
        let mut patched = match PatchedLayer::new(Box::new(open), (layer.digest, layer.size), &mut find) {
            Ok(patched) => patched,
            Err(error) => return wrong(error.to_string()),
        };
        let mut output = Output::create(&to, Verify::Always, true, progress)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            progress.check().at("write", &to)?;
            match patched.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => output.bytes(&chunk[..read]).at("write", &to)?,
                Err(error) => return wrong(error.to_string()),
            }
        }
        match output.finish()? {
            Some((found, _)) if found != layer.digest => wrong("its bytes are others".to_owned()),
            _ => Ok(()),
        }
    }

    /// Has a program take it; which one. skopeo has its copies of layers in `temporary`.
    pub(super) fn hand_over(
        &self,
        engine: &PodmanClient,
        places: &Places,
        (image, platform): (&ImageDir, &PlatformRecord),
        temporary: &Path,
        progress: &Progress,
    ) -> Result<&'static str, PullError> {
        let writer = engine.writing(places, &self.path("storage.conf"), &self.path("tmp"));
        let summary = image.summary();
        let name = permanent_name(image);
        let action = format!("load {name}");
        let size = size(platform.layers.iter().map(|layer| layer.diff_size()).sum());
        let _step = progress.step(format!("Podman unpacks {} ({size})", summary.reference));
        // By their names skopeo and Podman find manifests of OCI's types alone; it is the only one there.
        let named = matches!(image.image().top.media_type, MediaType::ImageManifest | MediaType::ImageIndex);
        let reference = if named { format!(":{}", summary.reference) } else { String::new() };
        let source = format!("oci:{}{reference}", self.layout);
        // In an index, the one that was asked for; a single manifest needs no choice.
        let choice: Vec<(&str, &str)> = if summary.kind == ImageKind::Index {
            let platform = &platform.platform;
            let variant = platform.variant.iter().map(|variant| ("variant", variant.as_str()));
            [("os", platform.os.as_str()), ("arch", &platform.architecture)].into_iter().chain(variant).collect()
        } else {
            Vec::new()
        };
        let options =
            |prefix| choice.iter().map(move |(key, value)| OsString::from(format!("--{prefix}{key}={value}")));

        // Names are relative: a colon in the graph root's own would end the path.
        let next = "see whether `podman info` works";
        let mut command = writer.command("skopeo");
        command.current_dir(self.staging.path()).arg("--insecure-policy").arg("--tmpdir").arg(temporary);
        command.args(options("override-")).args(["copy", "--quiet", &source, &format!("containers-storage:{name}")]);
        let id = platform.config_digest.hex();
        match run("skopeo", &mut command, progress) {
            Ok(outcome) => {
                outcome.ok("skopeo", &action, next)?;
                self.tag(engine, "skopeo", &id, image, progress)?;
                Ok("skopeo")
            }
            Err(ProgramError::Missing { .. }) => {
                let mut command = writer.command("podman");
                command.current_dir(self.staging.path()).args(["pull", "--quiet"]).args(options("")).arg(&source);
                run("podman", &mut command, progress)?.ok("podman", &action, next)?;
                self.tag(engine, "podman", &id, image, progress)?;
                // Podman 4.3 has named it by its path; others say that there is no such name.
                match engine.untag(&id, &format!("localhost/{}:latest", self.layout), progress) {
                    Ok(()) | Err(ProgramError::Failed { .. }) => Ok("podman"),
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tags the image that a program says it has taken.
    fn tag(
        &self,
        engine: &PodmanClient,
        program: &'static str,
        id: &str,
        image: &ImageDir,
        progress: &Progress,
    ) -> Result<(), PullError> {
        match engine.tag(id, &image.summary().reference, progress) {
            Err(ProgramError::Failed { said, .. }) if said.contains("image not known") => {
                Err(PullError::NotThere { program, name: permanent_name(image) })
            }
            result => Ok(result?),
        }
    }
}

/// A `storage.conf` for the same storage without additional image stores.
pub(crate) fn alone(places: &Places) -> DocumentMut {
    let mut conf = DocumentMut::new();
    let text = |path: &Path| value(path.to_string_lossy().into_owned());
    let mut storage = Table::new();
    storage.insert("driver", value(&places.driver));
    storage.insert("graphroot", text(&places.graph_root));
    storage.insert("runroot", text(&places.run_root));
    // What a rootless Podman takes as graph root from a file that a variable names.
    storage.insert("rootless_storage_path", text(&places.graph_root));
    if let Some(store) = &places.separate_store {
        storage.insert("imagestore", text(store));
    }
    let mut driver = Table::new();
    for (name, option) in &places.driver_options {
        driver.insert(name, value(option));
    }
    if !driver.is_empty() {
        storage.insert("options", Item::Table([(places.driver.as_str(), driver)].into_iter().collect()));
    }
    conf.insert("storage", Item::Table(storage));
    conf
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_private_conf_has_the_places_and_options_of_podman_and_no_store() {
        let mut places = Places {
            graph_root: "/var/lib/g".into(),
            run_root: "/run/r".into(),
            driver: "overlay".to_owned(),
            image_stores: vec!["/stores/one".into()],
            separate_store: None,
            driver_options: BTreeMap::new(),
            temporary: None,
            conf: Some("/etc/containers/storage.conf".into()),
            rootless: true,
        };
        let roots = "[storage]\ndriver = \"overlay\"\ngraphroot = \"/var/lib/g\"\nrunroot = \"/run/r\"\n\
                     rootless_storage_path = \"/var/lib/g\"\n";
        assert_eq!(alone(&places).to_string(), roots);
        places.separate_store = Some("/images".into());
        for (name, value) in [("mount_program", "/usr/bin/fuse-overlayfs"), ("ignore_chown_errors", "true")] {
            places.driver_options.insert(name.to_owned(), value.to_owned());
        }
        let options = "imagestore = \"/images\"\n\n[storage.options.overlay]\nignore_chown_errors = \"true\"\n\
                       mount_program = \"/usr/bin/fuse-overlayfs\"\n";
        assert_eq!(
            alone(&places).to_string().replace("[storage.options]\n", "").replace("\n\n\n", "\n\n"),
            format!("{roots}{options}")
        );
    }
}
