//! An image handed over to Podman: only the layers that it lacks, and no network.
//!
//! In a directory of its own inside the graph root, which is gone afterwards, lies an OCI layout with the image's small
//! blobs and the missing layers: links to blobs that are on disk, else to files that are made while they are read
//! ([`crate::disk::served`]), or where those cannot be, the bytes that their recipes make. skopeo, or a Podman without one,
//! reads it. Nothing is hashed here: they compare every blob with its digest, and skopeo the manifest too.
//!
//! | | skopeo | Podman alone |
//! |---|---|---|
//! | name | `NAME@sha256:…`, which no tag that moves takes away, and the tag | the tag |
//! | manifest compared with its digest | by skopeo | by asking for `NAME@sha256:…` afterwards |
//! | temporary files | with `--tmpdir`; it ignores `TMPDIR` | in `TMPDIR` |
//!
//! **Image stores beside the graph root are hidden from them.** containers-storage would take a layer that such a store
//! has from there, and an image whose lower layers are in another store breaks with that store: Podman 4.3 then lists
//! nothing at all, and loading the image again mends nothing.
//!
//! Space: both keep a copy of every new layer in the temporary directory until the last one is in its place. Nothing of a layer
//! lies there a third time, unless it cannot be served.
//!
//! Layers that were finished before a failure stay in the graph root, without an image, and a next try takes them over.
//! No command of Podman 4.3 shows or removes such layers; `windlass gc` does (`keep/half_layers.rs`).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use oci_spec::image::MediaType;
use rustix::fs::syncfs;
use toml_edit::{DocumentMut, Item, Table, value};

use super::large_files::WrittenFiles;
pub use super::pull_error::PullError;
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::files::{free_space, write_file};
use crate::disk::pieces::PieceSender;
use crate::disk::pipe::CHUNK;
use crate::disk::progress::Progress;
use crate::disk::served::{ServedFile, ServedPlace};
use crate::disk::size::size;
use crate::disk::write_back::writing_back;
use crate::disk::{AtPath, Staging, WriteError};
use crate::engine::process::{ProgramError, run};
use crate::image::bundle::BLOBS;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::{ImageKind, LayerPatch, PlatformRecord};
use crate::image::{LayerKind, LayerRecord};
use crate::layer::{Recipe, Sink as _};
use crate::layer::output::{Output, Verify, can_share};
use crate::layer::patch::{OldBytes, PatchedLayer};
use crate::layer::piece_sink::PieceSink;
use crate::oci::digest::Digest;
use crate::podman::linked::stored_archive::StoredArchive;
use crate::podman::storage::client::PodmanClient;
use crate::podman::storage::places::Places;
use crate::podman::storage::snapshot::StoreSnapshot;

/// An image that Podman now has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its permanent name, `NAME@sha256:…`.
    pub name: String,
    /// The program that took it: `skopeo` or `podman`.
    pub program: &'static str,
    /// How many layers Podman lacked.
    pub layers: usize,
    /// Bytes that the programs wrote, temporary files included, as the kernel has counted them; where it does not, those
    /// of these layers.
    pub bytes: u64,
}

/// Hands one platform of an image over to Podman, and makes sure that it is there, under its tag and its digest.
///
/// `present` are the layers that the graph root has, whatever lies below them there. A layer that only an additional
/// image store has is not present: see the [module](self).
///
/// # Errors
/// See [`PullError`]. Nothing is left behind then but finished layers that a next try takes over.
pub fn pull(
    engine: &PodmanClient,
    places: &Places,
    image: &ImageDir,
    platform: &PlatformRecord,
    present: &BTreeSet<Digest>,
    progress: &Progress,
) -> Result<Pulled, PullError> {
    let mut missing: Vec<&LayerRecord> = Vec::new();
    for layer in &platform.layers {
        if !present.contains(&layer.diff_id()) && !missing.contains(&layer) {
            missing.push(layer);
        }
    }
    // Podman makes it like this on its first run.
    let root = &places.graph_root;
    DirBuilder::new().recursive(true).mode(0o700).create(root).at("create", root)?;
    let work = PullWork::new(places, image)?;
    let bytes = missing.iter().map(|layer| layer.diff_size()).sum();
    let blobs = missing.iter().map(|layer| blob(image, layer)).collect::<Result<Vec<_>, LayoutError>>()?;
    let needed = temporary(image, &missing, root)? + bytes;
    let free = free_space(root)?;
    if needed > free {
        let image = image.summary().reference.to_string();
        return Err(PullError::NoSpace { image, graph_root: root.clone(), needed, layers: bytes, free });
    }

    let left_out = |layer: &&LayerRecord| image.summary().leaves_out(layer) && layer.packed.is_none();
    let stored = match missing.iter().any(left_out) {
        true => Some(StoreSnapshot::read(places, progress)?),
        false => None,
    };
    work.write(places, image, progress)?;
    progress.expect(missing.iter().zip(&blobs).filter(|(_, blob)| blob.is_none()).map(|(layer, _)| layer.size).sum());
    let is_served = |(layer, blob): &(&&LayerRecord, &Option<PathBuf>)| {
        blob.is_none() && !image.summary().leaves_out(layer) && !shares(layer, root)
    };
    let served: Vec<&LayerRecord> = missing.iter().zip(&blobs).filter(is_served).map(|(layer, _)| *layer).collect();
    let place = if served.is_empty() { None } else { ServedPlace::new().ok() };
    for (layer, blob) in missing.iter().zip(blobs) {
        let stored = stored.as_ref().filter(|_| left_out(layer));
        let same = stored.and_then(|stored| StoredArchive::find(stored, layer.diff_id()));
        if let Some(place) = place.as_ref().filter(|_| served.contains(layer)) {
            let path = work.path(&work.layout).join(BLOBS).join(layer.digest.hex());
            symlink(place.path(&layer.digest.hex()), &path).at("create", &path)?;
            continue;
        }
        match (same, stored.zip(image.summary().patch_of(layer))) {
            (Some(same), _) => work.add_stored(layer, &same, progress)?,
            (None, Some((stored, patch))) => work.add_patched(image, (layer, patch), stored, progress)?,
            (None, None) => work.add_layer(image, layer, blob, progress)?,
        }
    }
    let before = written();
    let mut weights = WrittenFiles::of(places, image, platform, &missing);
    let mut hand_over =
        || writing_back(|| weights.sync(), || work.hand_over(engine, places, image, platform, progress));
    let program = match place {
        Some(place) => {
            let files: Vec<_> = served.into_iter().map(|layer| work.served(image, layer, progress)).collect();
            place.serve(&files, progress, hand_over).at("serve", &work.path(&work.layout))?
        }
        None => hand_over(),
    };
    let program = program.map_err(|error| match error {
        PullError::Engine(error) => explained(error, places, image, platform, &missing, progress),
        error => error,
    })?;
    let bytes = written().zip(before).map_or(bytes, |(after, before)| after.saturating_sub(before));
    let pulled = Pulled { name: permanent_name(image), program, layers: missing.len(), bytes };
    // What is removed need not be written first.
    drop(work);
    // Podman syncs its records, but no layer: after a power loss a layer could have holes that no check finds.
    let _step = progress.step(format!("the disk of {} writes what it holds back", root.display()));
    syncfs(Dir::open(root)?).at("sync", root)?;
    check(engine, &pulled, &image.summary().reference, platform.config_digest, progress)?;
    Ok(pulled)
}

/// Removes what killed runs have left in the graph root: up to twice the bytes of an image.
pub(crate) fn sweep(places: &Places) {
    Staging::sweep(&place_of_work(places));
}

pub(crate) fn place_of_work(places: &Places) -> PathBuf {
    places.graph_root.join("pull")
}

/// `NAME@sha256:…` with the digest that `index.json` names.
fn permanent_name(image: &ImageDir) -> String {
    format!("{}@{}", image.summary().name, image.summary().digest)
}

/// Whether the user's own Podman has the image: skopeo only said that it copied it.
fn check(
    engine: &PodmanClient,
    pulled: &Pulled,
    reference: &str,
    expected: Digest,
    progress: &Progress,
) -> Result<(), PullError> {
    let names = [pulled.name.as_str(), reference];
    for (name, found) in names.into_iter().zip(engine.exists(&names, progress)?) {
        let (program, name) = (pulled.program, name.to_owned());
        match found {
            None => return Err(PullError::NotThere { program, name }),
            Some(found) if found != expected => return Err(PullError::OtherImage { program, name, expected, found }),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Bytes that this process, and the programs that it has waited for, have written to disks, without those that were
/// gone again before they got there.
fn written() -> Option<u64> {
    let io = bounded::text(Path::new("/proc/self/io"), Cap::List).ok()?;
    let count = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(count("write_bytes:")?.saturating_sub(count("cancelled_write_bytes:")?))
}

/// The file that is a layer already.
fn blob(image: &ImageDir, layer: &LayerRecord) -> Result<Option<PathBuf>, LayoutError> {
    if let Some(own) = image.layer_blob(layer)? {
        // One that is cut is put together first.
        return Ok(Some(own).filter(|own| own.is_file()));
    }
    let made = image.image().recipes.get(&layer.digest).and_then(Recipe::blob);
    Ok(made.map(Path::to_owned))
}

/// Bytes that lie beside these layers of an image while they are pulled: blobs that are made, and the program's copies of all.
pub(super) fn temporary(image: &ImageDir, missing: &[&LayerRecord], root: &Path) -> Result<u64, LayoutError> {
    let mut bytes = 0;
    for layer in missing {
        let is_served = || !image.summary().leaves_out(layer) && ServedPlace::is_possible();
        let is_made = blob(image, layer)?.is_none() && !shares(layer, root) && !is_served();
        bytes += if is_made { 2 * layer.size } else { layer.size };
    }
    Ok(bytes)
}

/// Whether the bytes of a layer are large files of the same device, whose files can share them. Small ones are copied on every
/// file system.
fn shares(layer: &LayerRecord, root: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    layer.kind == LayerKind::Model
        && layer.owners.iter().all(|owner| device(Path::new(owner)) == device(root))
        && root.ancestors().find(|path| path.exists()).is_some_and(can_share)
}

/// What is on disk while an image is handed over.
struct PullWork {
    staging: Staging,
    /// The OCI layout's name in there. Podman 4.3 makes it the image's name, so it is one that no other image has.
    layout: String,
}

impl PullWork {
    fn new(places: &Places, image: &ImageDir) -> Result<Self, WriteError> {
        let staging = Staging::directory(&place_of_work(places))?;
        let layout = format!("windlass-{}", &image.summary().digest.hex()[..32]);
        Ok(Self { staging, layout })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.staging.path().join(name)
    }

    /// Everything but layers.
    fn write(&self, places: &Places, image: &ImageDir, progress: &Progress) -> Result<(), PullError> {
        for name in ["tmp", &self.layout] {
            fs::create_dir(self.path(name)).at("create", &self.path(name))?;
        }
        write_file(&self.path("storage.conf"), alone(places).to_string().as_bytes(), progress)?;
        Ok(image.image().write_oci(&self.path(&self.layout), progress)?)
    }

    fn add_layer(
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
    fn served<'a>(&self, image: &'a ImageDir, layer: &'a LayerRecord, progress: &'a Progress) -> ServedFile<'a> {
        let path = self.path(&self.layout).join(BLOBS).join(layer.digest.hex());
        let make = move |pieces: PieceSender| {
            let mut sink = PieceSink::new(pieces, progress);
            if image.stream_layer(layer, &mut sink, &path).is_ok() {
                drop(sink.finish());
            }
        };
        ServedFile { name: layer.digest.hex(), size: layer.size, make: Box::new(make) }
    }

    /// A layer that the bundle of the image leaves out, as another store of Podman has it.
    fn add_stored(&self, layer: &LayerRecord, stored: &StoredArchive, progress: &Progress) -> Result<(), PullError> {
        let path = self.path(&self.layout).join(BLOBS).join(layer.digest.hex());
        let mut output = Output::create(&path, Verify::Never, false, progress)?;
        stored.stream(&mut |bytes| output.bytes(bytes), progress)?;
        output.finish()?;
        Ok(())
    }

    /// A layer that is there as a patch of layers that any store of Podman has.
    fn add_patched(
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

    /// Has a program take it; which one.
    fn hand_over(
        &self,
        engine: &PodmanClient,
        places: &Places,
        image: &ImageDir,
        platform: &PlatformRecord,
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
        command.current_dir(self.staging.path()).arg("--insecure-policy").arg("--tmpdir").arg(self.path("tmp"));
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

/// What an error of a program means, where that is known.
fn explained(
    error: ProgramError,
    places: &Places,
    image: &ImageDir,
    platform: &PlatformRecord,
    missing: &[&LayerRecord],
    progress: &Progress,
) -> PullError {
    let ProgramError::Failed { said, .. } = &error else { return error.into() };
    let name = || image.summary().reference.to_string();
    if said.contains("no space left on device") || said.contains("disk quota exceeded") {
        return PullError::Full { image: name(), graph_root: places.graph_root.clone(), said: said.clone() };
    }
    let Some(layer) = platform.layers.iter().find(|layer| said.contains(&layer.digest.hex())) else {
        return error.into();
    };
    if !missing.contains(&layer) {
        return PullError::LayerGone { image: name(), digest: layer.digest, title: layer.title.clone() };
    }
    // Their digests disagree: the bytes, read once more, tell which path is at fault.
    match image.verify_layer(layer, true, progress) {
        Err(cause) => cause.into(),
        Ok(()) => error.into(),
    }
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
