//! Bundles, as they are written. What is in one, [`crate::image::bundle`] says.
//!
//! Blobs are called by their digests: what is there under its name and in its size stays, everything else is written beside
//! its name, synced and renamed. What names a blob comes after it, `SHA256SUMS` last, and what nothing names any more goes
//! after that. So a kill at any moment leaves the old bundle, or a beginning that the next run goes on with.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::bundle_content::{ImageBundle, Patches};
use super::bundle_files::{BundleBlob, are_as_told, create_beside, is_name_of_blob, write_blob};
use super::check_archives::sums;
use super::stack::{Form, SERVICES, describe, services_file};
use crate::class::{Class, Classified};
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::parts::MOST_PARTS;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError, own_lock};
use crate::image::bundle::{BLOBS, SUMS};
use crate::image::closure::{CLOSURE, ImageClosure, PACKAGES};
use crate::image::delta;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::Summary;
use crate::image::{SmallBlob, index_of, oci_layout};
use crate::layer::output::Verify;
use crate::names::Name;
use crate::oci::canonical;
use crate::oci::digest::Digest;

/// The file for the person who finds a bundle; it is there first, and says that the directory is one.
pub(super) const README: &str = "README.txt";
/// How it begins.
const FIRST_LINE: &str = "This directory is a bundle of container images, written by `windlass export --bundle`.\n";
/// What else a directory has that may be something else than a bundle.
const NAMES: [&str; 7] = ["index.json", "stack.json", "oci-layout", SUMS, "blobs", "images", "models"];

/// Why a bundle cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BundleError {
    /// An image.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file of the bundle.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Something else is there.
    #[error("{path} is there, and no bundle of the same form that windlass wrote is around it; give another directory", path = path.display())]
    Foreign { path: PathBuf },
    /// Only one of them could have the name.
    #[error("{one} and {two} are not the same image and would both be {name} in the bundle; make a bundle of each", one = one.display(), two = two.display())]
    SameName { name: String, one: PathBuf, two: PathBuf },
    /// A platform that was asked for, and is not there.
    #[error("{image} is not for {asked}; it is for {has}")]
    NoPlatform { image: String, asked: String, has: String },
    /// Files so small that there would be too many.
    #[error("--max-file {most} would cut blob {digest} of {size} bytes into more than {MOST_PARTS} parts; give a larger size", digest = digest.short())]
    TooManyParts { most: u64, digest: Digest, size: u64 },
}

impl Classified for BundleError {
    fn class(&self) -> Class {
        match self {
            Self::Layout(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Foreign { .. } | Self::SameName { .. } | Self::NoPlatform { .. } | Self::TooManyParts { .. } => {
                Class::Usage
            }
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BundleWritten {
    /// How many files the bundle had and has no more.
    pub(crate) removed: usize,
    /// How many layers are there as patches.
    pub(crate) patched: usize,
    /// How many bytes fewer these are.
    pub(crate) saved: u64,
}

/// What writing a bundle would do.
#[derive(Debug)]
pub(crate) struct BundlePlan<'a> {
    blobs: Vec<BundleBlob<'a>>,
    /// The sums of parts that are there.
    sums: BTreeMap<PathBuf, Digest>,
}

impl BundlePlan<'_> {
    /// How many blobs of layers there are.
    pub(crate) fn blobs(&self) -> usize {
        self.blobs.len()
    }

    /// Bytes of all of them.
    pub(crate) fn size(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.layer.size).sum()
    }

    /// Bytes of those that are not there.
    pub(crate) fn missing(&self) -> u64 {
        self.blobs.iter().filter(|blob| !blob.is_there).map(|blob| blob.layer.size).sum()
    }

    /// How many are cut.
    pub(crate) fn cut(&self) -> usize {
        self.blobs.iter().filter(|blob| blob.parts.is_some()).count()
    }
}

impl ImageBundle {
    /// Compares with what is in a directory. Nothing is written, and no blob is read.
    ///
    /// # Errors
    /// If something else is there, a layer is neither there nor can be had, or a blob had to be cut too often.
    pub(crate) fn plan(&self, directory: &Path) -> Result<BundlePlan<'_>, BundleError> {
        if !self.shared {
            refuse_foreign(directory, FIRST_LINE)?;
        }
        let sums = sums(&bounded::text(&directory.join(SUMS), Cap::Document).unwrap_or_default());
        let mut blobs: Vec<BundleBlob<'_>> = Vec::new();
        for image in self.all() {
            let without = self.without(image);
            for layer in image.summary().layers().into_iter().filter(|layer| !without.leaves_out(layer)) {
                if blobs.iter().any(|blob| blob.layer.digest == layer.digest) {
                    continue;
                }
                let parts = self.most.filter(|most| layer.size > *most).map(|most| (layer.size.div_ceil(most), most));
                if let Some((_, most)) = parts.filter(|(count, _)| *count > MOST_PARTS) {
                    return Err(BundleError::TooManyParts { most, digest: layer.digest, size: layer.size });
                }
                let mut blob = BundleBlob { image, layer, parts, is_there: false };
                blob.is_there = blob.files().iter().all(|(path, size)| {
                    // A part is not called by its digest.
                    let known = parts.is_none() || sums.contains_key(path);
                    known && fs::metadata(directory.join(path)).is_ok_and(|found| found.len() == *size)
                });
                if !blob.is_there && image.layer_blob(layer)?.is_none() {
                    image.recipe(layer)?;
                }
                blobs.push(blob);
            }
        }
        Ok(BundlePlan { blobs, sums })
    }

    /// Writes what is missing, and removes what the bundle had and has no more.
    ///
    /// # Errors
    /// With the file or the layer at fault. What was written before stays, for the next run.
    pub(crate) fn write(
        &self,
        directory: &Path,
        verify: Verify,
        progress: &Progress,
    ) -> Result<BundleWritten, BundleError> {
        let _lock = if self.shared { None } else { Some(lock(directory, progress)?) };
        let root = Dir::open(directory)?;
        let mut files = BundleFiles { directory, progress, sums: BTreeMap::new() };
        // Another one may have changed it meanwhile.
        let plan = self.plan(directory)?;
        files.put(README, self.readme(&plan).as_bytes())?;
        files.folder(BLOBS)?;
        let (known, mut patches, mut old, mut saved) = (self.known_patches(directory), Patches::new(), None, 0);
        for blob in &plan.blobs {
            if let Some((path, patch)) = self.patch(blob, (directory, &known), &mut old, progress)? {
                files.sums.insert(path, patch.digest);
                saved += blob.layer.size - patch.size;
                patches.insert(blob.layer.digest, patch);
                continue;
            }
            let known = |(path, _): (PathBuf, u64)| {
                let digest = plan.sums.get(&path).copied().unwrap_or(blob.layer.digest);
                (path, if blob.parts.is_some() { digest } else { blob.layer.digest })
            };
            let there: Vec<(PathBuf, Digest)> = blob.files().into_iter().map(known).collect();
            if blob.is_there && (!self.compare || are_as_told(&there, directory, progress)?) {
                progress.count_kept(blob.layer.size);
                files.sums.extend(there);
            } else {
                files.sums.extend(write_blob(blob, directory, verify, progress)?);
            }
        }
        let mut entries = Vec::new();
        for image in self.all() {
            for blob in image.image().small_blobs() {
                files.put(&format!("{BLOBS}/{}", blob.digest.hex()), &blob.bytes)?;
            }
            entries.push((image.image().top.clone(), image.summary().reference.to_string()));
        }
        let deltas: Vec<_> = self.all().flat_map(|image| self.deltas(image, &patches)).collect();
        if !deltas.is_empty() {
            files.put(&format!("{BLOBS}/{}", Digest::of(delta::EMPTY).hex()), delta::EMPTY)?;
        }
        for (manifest, _) in &deltas {
            files.put(&format!("{BLOBS}/{}", manifest.digest.hex()), &manifest.bytes)?;
        }
        entries.extend(deltas);
        let images: Vec<Summary> = self.images.iter().map(|image| self.named(image, &patches)).collect();
        let models: Vec<(&Name, Summary)> =
            self.models.iter().map(|(name, image)| (name, self.named(image, &patches))).collect();
        let paths: Vec<&Path> = self.all().map(ImageDir::path).collect();
        let folders = images.iter().map(|summary| (format!("images/{}", summary.name.file_name()), summary));
        let folders = folders.chain(models.iter().map(|(name, model)| (format!("models/{name}"), model)));
        for ((folder, summary), path) in folders.zip(paths) {
            files.folder(&folder)?;
            files.put(&format!("{folder}/image.json"), &canonical::to_pretty(summary))?;
            for (name, json) in ImageClosure::read(path)?.files() {
                files.put(&format!("{folder}/{name}"), &json)?;
            }
        }
        let (images, models): (Vec<_>, Vec<_>) =
            (images.iter().collect(), models.iter().map(|(name, model)| (*name, model)).collect());
        files.put("stack.json", &canonical::to_pretty(&describe(&images, &models, Form::Lean)))?;
        if let Some(services) = services_file(&self.services) {
            files.put(SERVICES, &services)?;
        }
        if plan.cut() > 0 {
            files.put("join.sh", include_bytes!("join.sh"))?;
        }
        files.put("oci-layout", &oci_layout())?;
        let mut about = Vec::new();
        for (digest, statement) in &self.statements {
            let mut tops = self.all().map(|image| &image.image().top);
            let Some(top) = tops.find(|top| top.digest == *digest) else { continue };
            let made = statement.manifest(top.media_type.as_ref(), *digest, top.bytes.len() as u64);
            for bytes in made.blobs.iter().chain([&made.manifest.bytes]) {
                files.put(&format!("{BLOBS}/{}", Digest::of(bytes).hex()), bytes)?;
            }
            about.push(made.descriptor());
        }
        let entries: Vec<(&SmallBlob, &str)> = entries.iter().map(|(blob, name)| (blob, name.as_str())).collect();
        files.put("index.json", &index_of(&entries, about))?;
        files.finish(&root)?;
        let removed = if self.shared { 0 } else { files.remove_rest()? };
        Ok(BundleWritten { removed, patched: patches.len(), saved })
    }

    fn readme(&self, plan: &BundlePlan<'_>) -> String {
        let names: Vec<String> = self.all().map(|image| format!("  {}\n", image.summary().reference)).collect();
        let left_out =
            if self.without.models { "\nThe layers of models were left out; another bundle has them.\n" } else { "" };
        let expected: Vec<String> =
            self.expected().iter().map(|old| format!("  {} ({})\n", old.reference, old.digest)).collect();
        let expected = match &expected[..] {
            [] => String::new(),
            all => format!(
                "\nIt is a delta: layers are left out that are expected where it is loaded, from\n{}",
                all.concat()
            ),
        };
        let cut = "\nSome blobs are cut into parts: copy this directory to a disk that holds large files, and run `sh join.sh` there first.\n";
        let cut = if plan.cut() > 0 { cut } else { "" };
        format!(
            "{FIRST_LINE}\n{}{left_out}{expected}\nIs it whole?       sha256sum --check --quiet SHA256SUMS\nWith windlass:     windlass load .\n\
             With other tools:  it is an OCI image layout\n  \
             skopeo copy oci:.:NAME containers-storage:NAME     into Podman\n  \
             skopeo copy oci:.:NAME docker://REGISTRY/NAME      to a registry\n{cut}",
            names.concat()
        )
    }
}

/// Refuses a directory that has what a bundle has, and not the README.txt of one that begins with this line.
pub(super) fn refuse_foreign(directory: &Path, first_line: &str) -> Result<(), BundleError> {
    let readme = bounded::text(&directory.join(README), Cap::Document).unwrap_or_default();
    let mut names = NAMES.iter().chain([&README]).map(|name| directory.join(name));
    match names.find(|path| path.exists()).filter(|_| !readme.starts_with(first_line)) {
        Some(path) => Err(BundleError::Foreign { path }),
        None => Ok(()),
    }
}

/// Takes a directory for writing a bundle into it, waiting for another windlass that does.
pub(crate) fn lock(directory: &Path, progress: &Progress) -> Result<(Dir, File), BundleError> {
    fs::create_dir_all(directory).at("create", directory)?;
    let root = Dir::open(directory)?;
    let lock = root.again()?.into_file();
    let attempt = || match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    };
    own_lock::wait(directory, progress, attempt)?;
    Ok((root, lock))
}

/// The files of a bundle that is written.
pub(super) struct BundleFiles<'a> {
    pub(super) directory: &'a Path,
    pub(super) progress: &'a Progress,
    /// All that belong to it, by their paths in it.
    pub(super) sums: BTreeMap<PathBuf, Digest>,
}

impl BundleFiles<'_> {
    pub(super) fn folder(&self, name: &str) -> Result<(), WriteError> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).at("create", &path)
    }

    /// Writes a small file, unless it is there.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let path = self.directory.join(name);
        self.sums.insert(name.into(), Digest::of(bytes));
        let beside = self.directory.join(format!("{name}.new"));
        if bounded::read(&path, Cap::Document).is_ok_and(|there| there == bytes) {
            // A killed run may have begun another one.
            drop(fs::remove_file(beside));
            return Ok(());
        }
        create_beside(&beside)?.write_all(bytes).at("write", &beside)?;
        self.progress.count_written(bytes.len() as u64);
        publish(&beside, &path)
    }

    /// Writes the sums of all files, when these are on the disk.
    pub(super) fn finish(&mut self, root: &Dir) -> Result<(), WriteError> {
        let step = format!("the disk of {} writes what it holds back", self.directory.display());
        {
            let _step = self.progress.step(step);
            rustix::fs::syncfs(root).at("sync", self.directory)?;
        }
        self.put_sums()?;
        root.sync()
    }

    /// Writes the sums of the files that are there by now.
    pub(super) fn put_sums(&mut self) -> Result<(), WriteError> {
        let line = |(path, digest): (&PathBuf, &Digest)| format!("{}  {}\n", digest.hex(), path.display());
        let lines: String = self.sums.iter().filter(|(path, _)| !path.ends_with(SUMS)).map(line).collect();
        self.put(SUMS, lines.as_bytes())
    }

    /// Removes what a bundle has had here and does not name any more. Whatever else lies here is not ours.
    fn remove_rest(&self) -> Result<usize, BundleError> {
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(self.directory.join(folder)).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let mut old: Vec<PathBuf> = Vec::new();
        old.extend(
            names(BLOBS).into_iter().filter(|name| is_name_of_blob(name)).map(|name| Path::new(BLOBS).join(name)),
        );
        let mut folders = BTreeSet::new();
        for folder in ["images", "models"] {
            for name in names(folder) {
                let path = Path::new(folder).join(name);
                for file in ["image.json", CLOSURE, PACKAGES] {
                    old.extend([file.to_owned(), format!("{file}.new")].map(|file| path.join(file)));
                }
                folders.insert(path);
            }
        }
        old.extend(["join.sh", SERVICES].map(PathBuf::from));
        // On FAT a name in other letters is the same name: what is listed as IMAGES/APP may be what was just written.
        let folded = |path: &Path| path.as_os_str().to_ascii_lowercase();
        let ours: BTreeSet<OsString> = self.sums.keys().map(|path| folded(path)).collect();
        let mut removed = 0;
        for path in old.iter().filter(|path| !ours.contains(&folded(path))) {
            let path = self.directory.join(path);
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                error => error.at("remove", &path)?,
            }
        }
        // One that has something of others stays.
        folders.iter().for_each(|folder| drop(fs::remove_dir(self.directory.join(folder))));
        Ok(removed)
    }
}

/// Gives a file that was written beside it its name.
pub(super) fn publish(beside: &Path, path: &Path) -> Result<(), WriteError> {
    let sync = || File::options().write(true).open(beside)?.sync_all();
    sync().at("sync", beside)?;
    fs::rename(beside, path).at("create", path)
}
