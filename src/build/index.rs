//! The images of several platforms under one name.

use std::collections::BTreeMap;

use crate::build::BuildError;
use crate::image;
use crate::image::closure::ImageClosure;
use crate::image::layout::{ImageDir, ImageInMemory, VERSION};
use crate::image::summary::{ImageKind, PlatformRecord, Summary};
use crate::oci::reference::{Reference, full_name};
use crate::spec::IndexSpec;

/// Puts the images of several platforms under one name.
///
/// # Errors
/// If one of them is an index itself, or two are for one platform.
pub(crate) fn build(spec: &IndexSpec) -> Result<ImageInMemory, BuildError> {
    let mut platforms: Vec<PlatformRecord> = Vec::new();
    let (mut blobs, mut recipes, mut entries) = (Vec::new(), BTreeMap::new(), Vec::new());
    let (mut checksums, mut closure) = (BTreeMap::new(), ImageClosure::default());
    for path in &spec.images {
        let image = ImageDir::open(path)?.to_memory()?;
        let unfit = |message: String| BuildError::Unfit { path: path.clone(), message };
        let [platform] = &image.summary.platforms[..] else {
            return Err(unfit("is an index itself; give its images instead".to_owned()));
        };
        if let Some(other) = platforms.iter().find(|other| other.platform == platform.platform) {
            return Err(unfit(format!("is for {}, as another image of the index is", other.platform)));
        }
        let top = &image.top;
        entries.push((platform.platform.clone(), top.media_type.clone(), platform.digest, top.bytes.len() as u64));
        platforms.push(platform.clone());
        blobs.extend(image.small_blobs().cloned());
        recipes.extend(image.recipes);
        checksums.extend(image.checksums);
        closure.merge(image.closure);
    }
    blobs.sort_by_key(|blob| blob.digest);
    blobs.dedup_by_key(|blob| blob.digest);
    let top = image::index(&entries, &spec.annotations);
    let short = top.digest.short();
    let reference = Reference::new(&full_name(&spec.name)?, spec.tag.as_deref().unwrap_or(&short))?;
    let (kind, name) = (ImageKind::Index, reference.repository());
    let summary = Summary {
        version: VERSION,
        kind,
        name,
        reference,
        digest: top.digest,
        origin: None,
        base: None,
        model: None,
        without: Vec::new(),
        expects: Vec::new(),
        patches: Vec::new(),
        platforms,
    };
    Ok(ImageInMemory { summary, top, blobs, recipes, checksums, closure })
}
