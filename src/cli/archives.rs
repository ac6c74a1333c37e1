//! Archives on the command line: images in one file, of windlass or of other programs, unpacked to image directories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::failure::{Result, no_space, usage};
use super::printer::size;
use super::session::Session;
use crate::build::{import_image, upstream_image};
use crate::disk::AtPath;
use crate::disk::files::free_space;
use crate::disk::progress::Progress;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::spec::OciSpec;

/// Archives that are unpacked for as long as this lives.
#[derive(Debug, Default)]
pub(super) struct UnpackedArchives {
    /// Their image directories, by the paths of the archives.
    images: BTreeMap<PathBuf, PathBuf>,
    folders: Vec<TempDir>,
}

impl UnpackedArchives {
    /// Unpacks those of these paths that are files, to where Podman too has its temporary files.
    pub(super) fn of(paths: &[PathBuf], session: &Session) -> Result<Self> {
        let mut unpacked = Self::default();
        for path in paths.iter().filter(|path| path.is_file()) {
            let place = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
            let (needed, free) = (path.metadata().map_or(0, |found| found.len()), free_space(&place)?);
            if needed > free {
                let (path, place) = (path.display(), place.display());
                let message =
                    format!("{path} is unpacked to {place} first, which needs {} and has {}", size(needed), size(free));
                return Err(no_space(message).hint("set TMPDIR to a folder with more room"));
            }
            let folder = tempfile::Builder::new().prefix("windlass-load-").tempdir_in(&place);
            let folder = folder.at("create a folder in", &place)?;
            let _drawing = session.draw("unpacking");
            unpacked.images.insert(path.clone(), unpack(path, folder.path(), session.progress())?);
            unpacked.folders.push(folder);
        }
        Ok(unpacked)
    }

    /// The image directory of an archive, or what is there itself.
    pub(super) fn place<'a>(&'a self, path: &'a Path) -> &'a Path {
        self.images.get(path).map_or(path, PathBuf::as_path)
    }
}

/// Unpacks an archive, under the name that it has in there.
fn unpack(archive: &Path, folder: &Path, progress: &Progress) -> Result<PathBuf> {
    let (layout, image) = (folder.join("layout"), folder.join("image"));
    for folder in [&layout, &image] {
        std::fs::create_dir(folder).at("create", folder)?;
    }
    import_image::unpack(archive, &layout, progress)?;
    // The name counts, which is known when the archive is read.
    let spec = OciSpec {
        name: "localhost/archive".to_owned(),
        tag: None,
        platform: Platform::default(),
        layout,
        reference: None,
    };
    let mut found = import_image::upstream(&spec)?;
    let named = found.source.take().and_then(|name| name.parse::<Reference>().ok());
    let named = named.ok_or_else(|| {
        usage(format!("{} does not say what its image is called, by name and tag", archive.display()))
            .hint(format!("`podman load --input {}` loads it without a name", archive.display()))
    })?;
    found.name = named.name().to_owned();
    found.tag = named.rsplit_once(':').map(|(_, tag)| tag.to_owned());
    upstream_image::image(&found, progress)?.write_lean(&image, progress)?;
    Ok(image)
}
