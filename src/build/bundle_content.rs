//! What goes into a bundle: images and models, without what is left out, and what is said of that.

use std::collections::{BTreeMap, BTreeSet};

use super::bundle::BundleError;
use super::since::OldImages;
use super::stack::StackDir;
use crate::image::archive::Without;
use crate::image::delta::delta_manifest;
use crate::image::layout::ImageDir;
use crate::image::referrer::ImageStatement;
use crate::image::summary::{ExpectedImage, ImageKind, LayerPatch, PlatformRecord, Summary};
use crate::image::{LayerRecord, SmallBlob};
use crate::names::Name;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::spec::service::ServiceConfig;

/// The layers that are there as patches.
pub(super) type Patches = BTreeMap<Digest, LayerPatch>;

/// What a bundle is made of.
#[derive(Debug, Default)]
pub(crate) struct ImageBundle {
    pub(super) images: Vec<ImageDir>,
    pub(super) models: Vec<(Name, ImageDir)>,
    pub(super) services: BTreeMap<String, ServiceConfig>,
    /// What is left out of the images.
    pub(super) without: Without,
    /// What there was before.
    pub(super) old: OldImages,
    /// Whether layers that changed become patches.
    pub(super) patch: bool,
    /// The largest file.
    pub(super) most: Option<u64>,
    /// Whether it is written over a folder of blobs that others have a part in.
    pub(super) shared: bool,
    /// What is stated of its images, by their digests.
    pub(super) statements: Vec<(Digest, ImageStatement)>,
    /// Whether blobs that are there are read and compared, instead of being known by their sizes.
    pub(crate) compare: bool,
}

impl ImageBundle {
    /// One without images, and with no file larger than `most`.
    #[must_use]
    pub(crate) fn new(most: Option<u64>) -> Self {
        Self { most, ..Self::default() }
    }

    /// The same for a new directory over a folder of blobs that others have a part in. Who writes it holds the lock of what is
    /// around it.
    #[must_use]
    pub(crate) fn over_shared_blobs(self) -> Self {
        Self { shared: true, ..self }
    }

    /// Adds a lean stack.
    ///
    /// # Errors
    /// If something of the same name is there already and is not the same.
    pub(crate) fn add_stack(&mut self, stack: StackDir) -> Result<(), BundleError> {
        stack.models.into_iter().try_for_each(|(name, model)| self.add(Some(name), model))?;
        stack.images.into_iter().try_for_each(|image| self.add(None, image))?;
        self.services.extend(stack.services);
        Ok(())
    }

    /// Adds an image or a model.
    ///
    /// # Errors
    /// As for [`add_stack`](Self::add_stack).
    pub(crate) fn add_image(&mut self, image: ImageDir) -> Result<(), BundleError> {
        let is_model = image.summary().kind == ImageKind::Model;
        self.add(is_model.then(|| image.summary().name.file_name()), image)
    }

    fn add(&mut self, model: Option<Name>, image: ImageDir) -> Result<(), BundleError> {
        let name = model.clone().unwrap_or_else(|| image.summary().name.file_name());
        let models = self.models.iter().map(|(name, image)| (true, name.clone(), image));
        let images = self.images.iter().map(|image| (false, image.summary().name.file_name(), image));
        let mut all = models.chain(images);
        let has = |(is_model, other, there): &(bool, Name, &ImageDir)| {
            (*is_model == model.is_some() && *other == name) || there.summary().reference == image.summary().reference
        };
        if let Some((_, _, there)) = all.find(has) {
            if there.summary().digest == image.summary().digest {
                return Ok(());
            }
            let (one, two) = (there.path().to_owned(), image.path().to_owned());
            return Err(BundleError::SameName { name: name.to_string(), one, two });
        }
        drop(all);
        match model {
            Some(name) => self.models.push((name, image)),
            None => self.images.push(image),
        }
        Ok(())
    }

    /// Takes along what is stated of an image; `false` if it has no image of this digest.
    pub(crate) fn carry(&mut self, image: Digest, statement: &ImageStatement) -> bool {
        let is_there = self.all().any(|there| there.summary().digest == image);
        if is_there {
            self.statements.push((image, statement.clone()));
        }
        is_there
    }

    /// Leaves out the models, or everything else.
    pub(crate) fn keep(&mut self, images: bool, models: bool) {
        if !models {
            self.models.clear();
            self.without.models = true;
        }
        if !images {
            self.images.clear();
            self.services.clear();
        }
    }

    /// Leaves out all platforms but these; models are for all.
    ///
    /// # Errors
    /// If an image has none of them, or no image has one of them.
    pub(crate) fn only(&mut self, asked: &[Platform]) -> Result<(), BundleError> {
        let list = |all: &mut dyn Iterator<Item = &Platform>| {
            let all: BTreeSet<String> = all.map(ToString::to_string).collect();
            all.into_iter().collect::<Vec<_>>().join(", ")
        };
        let data = Platform::of_data();
        let is_wanted = |platform: &PlatformRecord| {
            platform.platform == data || asked.iter().any(|asked| platform.platform.is_one_of(asked))
        };
        for image in &mut self.images {
            let platforms = &image.summary().platforms;
            if !platforms.iter().any(is_wanted) {
                let (image, asked) = (image.summary().reference.to_string(), list(&mut asked.iter()));
                let has = list(&mut platforms.iter().map(|platform| &platform.platform));
                return Err(BundleError::NoPlatform { image, asked, has });
            }
        }
        let there = || self.images.iter().flat_map(|image| &image.summary().platforms).map(|found| &found.platform);
        if let Some(asked) =
            asked.iter().find(|asked| !self.images.is_empty() && !there().any(|has| has.is_one_of(asked)))
        {
            let (asked, has) = (asked.to_string(), list(&mut there()));
            return Err(BundleError::NoPlatform { image: "what was given".to_owned(), asked, has });
        }
        self.images = self.images.drain(..).map(|image| image.only(&is_wanted)).collect();
        Ok(())
    }

    /// Leaves out what these have; with `patch`, layers that changed are told by what the old ones have of them.
    pub(crate) fn since(&mut self, old: OldImages, patch: bool) {
        self.patch = patch;
        self.without.layers = old.layers();
        self.old = old;
    }

    /// The images that are expected for what is left out, each once with all layers that it is expected for.
    pub(crate) fn expected(&self) -> Vec<ExpectedImage> {
        let mut all: Vec<ExpectedImage> = Vec::new();
        for expected in self.all().flat_map(|image| self.named(image, &Patches::new()).expects) {
            match all.iter_mut().find(|other| other.digest == expected.digest) {
                Some(other) => {
                    let more = expected.layers.iter().filter(|layer| !other.layers.contains(layer));
                    let more: Vec<Digest> = more.copied().collect();
                    other.layers.extend(more);
                }
                None => all.push(expected),
            }
        }
        all
    }

    /// Bytes of all layers, with those that are left out for what there was before; and those of the others unpacked, which a
    /// host writes that has what there was.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        let mut seen = BTreeSet::new();
        let (mut full, mut unpacked) = (0, 0);
        for image in self.all() {
            let models = Without { layers: BTreeSet::new(), ..self.without(image) };
            for layer in image.summary().layers().into_iter().filter(|layer| !models.leaves_out(layer)) {
                if seen.insert(layer.digest) {
                    full += layer.size;
                    unpacked += if self.without.layers.contains(&layer.digest) { 0 } else { layer.diff_size() };
                }
            }
        }
        (full, unpacked)
    }

    /// Images, then models.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ImageDir> + Clone {
        self.images.iter().chain(self.models.iter().map(|(_, model)| model))
    }

    /// How many images, and how many models.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.images.len(), self.models.len())
    }

    /// What a model is called in its stack.
    pub(super) fn name_of(&self, model: &ImageDir) -> Name {
        let mut models = self.models.iter().filter(|(_, other)| other.path() == model.path());
        models.next().map_or_else(|| model.summary().name.file_name(), |(name, _)| name.clone())
    }

    /// What is left out of an image.
    pub(crate) fn without(&self, image: &ImageDir) -> Without {
        // A model of its own is there whole.
        let models = self.without.models && image.summary().kind != ImageKind::Model;
        Without { models, ..self.without.clone() }
    }

    /// What `image.json` of the bundle says of an image, where these layers are patches.
    pub(super) fn named(&self, image: &ImageDir, patches: &Patches) -> Summary {
        let (left_out, summary) = (self.without(image), image.summary());
        let patches: Vec<LayerPatch> =
            summary.layers().iter().filter_map(|layer| patches.get(&layer.digest)).cloned().collect();
        let is_patched = |layer: &LayerRecord| patches.iter().any(|patch| patch.layer == layer.digest);
        let layers = summary.layers().into_iter();
        let without = layers.filter(|layer| left_out.leaves_out(layer) || is_patched(layer)).collect::<Vec<_>>();
        let expected = without.iter().filter(|layer| !is_patched(layer)).map(|layer| layer.digest);
        let mut expected: Vec<Digest> = expected.collect();
        for from in patches.iter().flat_map(|patch| &patch.from) {
            if !expected.contains(from) {
                expected.push(*from);
            }
        }
        Summary {
            without: without.iter().map(|layer| layer.digest).collect(),
            expects: self.old.expected(summary, expected),
            patches,
            ..summary.clone()
        }
    }

    /// For other tools: what a delta expects of each image that it has without some layers, with the name that it has in the index.
    pub(super) fn deltas(&self, image: &ImageDir, patches: &Patches) -> Vec<(SmallBlob, String)> {
        let summary = self.named(image, patches);
        let Summary { reference, expects, platforms, .. } = &summary;
        let small = |digest| image.image().small_blobs().find(|blob| blob.digest == digest);
        let mut deltas = Vec::new();
        for platform in platforms {
            let has = |old: &&ExpectedImage| {
                let from = |layer: &LayerRecord| {
                    summary.patch_of(layer).map_or(vec![layer.digest], |patch| patch.from.clone())
                };
                platform.layers.iter().flat_map(from).any(|layer| old.layers.contains(&layer))
            };
            let source = expects.iter().find(has);
            let (Some(source), Some(manifest), Some(config)) =
                (source, small(platform.digest), small(platform.config_digest))
            else {
                continue;
            };
            let name = match &platforms[..] {
                [_] => format!("{reference}-delta"),
                _ => format!("{reference}-delta-{}", platform.platform.to_string().replace('/', "-")),
            };
            deltas.push((delta_manifest(platform, [manifest, config], &summary, source), name));
        }
        deltas
    }
}
