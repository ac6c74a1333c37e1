//! The archives that `ctr images import` reads: an OCI layout as one tar, with a name for the image.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::disk::AtPath;
use crate::disk::progress::Progress;
use crate::image::archive::write_members;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::{LayerRecord, index_of, oci_layout};
use crate::layer::output::{Output, Verify};

/// Bytes in memory, as a file that a program reads from its beginning.
pub(super) fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("windlass", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The archive of an image without any layer, in memory: kilobytes.
pub(super) fn of_records(image: &ImageDir, name: &str, progress: &Progress) -> Result<File, LayoutError> {
    let path = Path::new("the records of an image");
    let file = in_memory(&[]).at("write", path)?;
    let mut other = file.try_clone().at("write", path)?;
    write(image, &[], name, path, Output::new(file, path, Verify::Never, false, progress))?;
    other.rewind().at("write", path)?;
    Ok(other)
}

/// Writes the archive of an image with these layers, and no others. `path` is what messages call it.
pub(super) fn write(
    image: &ImageDir,
    layers: &[&LayerRecord],
    name: &str,
    path: &Path,
    mut output: Output<'_>,
) -> Result<(), LayoutError> {
    let mut small = vec![
        ("oci-layout".to_owned(), oci_layout()),
        ("index.json".to_owned(), index_of(&[(&image.image().top, name)], Vec::new())),
    ];
    let blobs = image.image().small_blobs();
    small.extend(blobs.map(|blob| (format!("blobs/sha256/{}", blob.digest.hex()), blob.bytes.clone())));
    write_members(image, small, layers.iter().copied(), &mut output, path)?;
    output.finish()?;
    Ok(())
}
