//! Images to a registry, from their recipes: no layer is written to a disk.
//!
//! A layer that the registry has is not sent, one that it has in another repository is taken over from there. With
//! compression a layer's digest is known when it was sent; it is remembered here, and beside the image in the registry
//! ([`packed_map`](super::packed_map)), so that a second push sends nothing, of another machine neither. The config, and with
//! it the image's ID, stays what it is; the manifest is another one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci_spec::image::MediaType;

use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::{LayerRecord, SmallBlob};
use crate::model::forms::artifact::Artifact;
use crate::oci::compression::Compression;
use crate::oci::digest::Digest;
use crate::publish::model_dir::{FormError, ModelDir};
use crate::publish::pack::{LayerBytes, PackError, packed, with_layers};
use crate::publish::packed_map::{FoundMaps, MOST_ROWS, PackedBlob, PackedMap, find, is_packed_form};
use crate::registry::client::RegistryClient;
use crate::registry::error::RegistryError;
use crate::registry::location::Location;
use crate::signing::key::SignatureKey;
use crate::signing::signer::Signer;

/// Why an image is not in the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PushError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A model.
    #[error(transparent)]
    Form(#[from] FormError),
    /// Its manifests.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The registry names something else than what was just sent.
    #[error(
        "{at} is {found} in the registry instead of {expected}; another client pushed there, or the registry changes what it gets"
    )]
    Other {
        at: String,
        /// What was sent.
        expected: Digest,
        /// What is there.
        found: String,
    },
}

impl Classified for PushError {
    fn class(&self) -> Class {
        match self {
            Self::Registry(error) => error.class(),
            Self::Layout(error) => error.class(),
            Self::Form(error) => error.class(),
            Self::Pack(error) => error.class(),
            Self::Other { .. } => Class::Failed,
        }
    }
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pushed {
    /// Blobs that were sent.
    pub(crate) uploaded: usize,
    /// Blobs that were there.
    pub(crate) present: usize,
    /// Blobs that were taken over from another repository.
    pub(crate) mounted: usize,
    /// Bytes of the blobs that were sent.
    pub(crate) bytes: u64,
    /// Layers that another machine had packed.
    pub(crate) packed_elsewhere: usize,
    /// Bytes that were read out of the registry to prove that.
    pub(crate) received: u64,
}

/// Pushes images to one registry.
#[derive(Debug)]
pub(crate) struct Pusher<'a> {
    /// How to talk to it.
    pub(crate) client: &'a RegistryClient,
    /// How layers are to be packed that are not.
    pub(crate) compression: Compression,
    /// A folder to remember in what layers were packed to.
    pub(crate) cache: Option<&'a Path>,
    /// How many layers are sent at a time.
    pub(crate) parallel: usize,
    /// Counts.
    pub(crate) progress: &'a Progress,
    /// Whose list of packed layers is believed.
    pub(crate) packed_by: Option<&'a SignatureKey>,
    /// Who signs the list of what is packed here.
    pub(crate) signer: Option<&'a Signer>,
    warnings: Mutex<Vec<String>>,
    /// Where blobs are that were sent in this run, or found.
    known: Mutex<BTreeMap<Digest, String>>,
    pushed: Mutex<Pushed>,
}

impl<'a> Pusher<'a> {
    /// One that knows nothing yet.
    #[must_use]
    pub(crate) fn new(
        client: &'a RegistryClient,
        compression: Compression,
        cache: Option<&'a Path>,
        progress: &'a Progress,
    ) -> Self {
        let (known, pushed, warnings) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (packed_by, signer) = (None, None);
        Self { client, compression, cache, parallel: 4, progress, packed_by, signer, warnings, known, pushed }
    }

    /// What did not stop a push, and is worth a word.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What all pushes did so far.
    pub(crate) fn pushed(&self) -> Pushed {
        *self.pushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pushes an image with all its platforms, manifests last, and gives back the digest that the tag has then.
    ///
    /// # Errors
    /// See [`PushError`]. Blobs that were sent stay.
    pub(crate) fn push(&self, image: &ImageDir, at: &Location, tag: &str) -> Result<Digest, PushError> {
        let layers = image.summary().layers();
        self.progress.expect(layers.iter().map(|layer| layer.size).sum());
        let built = &image.image().top;
        let maps = self.maps(built, at, &layers)?;
        let packed = self.layers(image, at, layers, &maps)?;
        let image = with_layers(image.image(), &packed)?;
        let (manifests, configs): (Vec<&SmallBlob>, Vec<&SmallBlob>) =
            image.blobs.iter().partition(|blob| blob.media_type == MediaType::ImageManifest);
        for config in configs {
            self.send(at, config.digest, config.bytes.len() as u64, &|to| to.write_all(&config.bytes))?;
        }
        for SmallBlob { media_type, digest, bytes } in manifests {
            self.client.push_manifest(at, &digest.to_string(), media_type.as_ref(), bytes, self.progress)?;
        }
        let digest = self.tag(at, tag, image.top.media_type.as_ref(), &image.top.bytes)?;
        if !packed.is_empty() {
            let blob = |layer: &LayerRecord| PackedBlob { digest: layer.digest, size: layer.size };
            let layers: BTreeMap<Digest, PackedBlob> =
                packed.iter().map(|(diff_id, layer)| (*diff_id, blob(layer))).collect();
            // A signature is another one each time.
            let is_kept = self.signer.is_some() && layers.iter().all(|(layer, blob)| maps.has_signed(*layer, *blob));
            let map = PackedMap::new(built.digest, self.compression, layers);
            // The image is there: what could not be kept costs another machine its time.
            if !is_kept && let Err(error) = map.attach(self.client, at, built, self.signer, &maps.listed, self.progress)
            {
                self.warn(format!("{at}: what layers became could not be kept beside it: {error}"));
            }
        }
        Ok(digest)
    }

    /// What other machines have written down of an image, read if a layer would have to be packed. What our own key has signed is
    /// believed too.
    fn maps(&self, built: &SmallBlob, at: &Location, layers: &[&LayerRecord]) -> Result<FoundMaps, PushError> {
        if self.compression == Compression::None {
            return Ok(FoundMaps::default());
        }
        let is_unknown = |layer: &&LayerRecord| layer.packed.is_none() && self.remembered(layer).is_none();
        let read = self.signer.is_some() || layers.iter().any(is_unknown);
        let keys: Vec<&SignatureKey> = self.packed_by.into_iter().chain(self.signer.map(Signer::public)).collect();
        Ok(find(self.client, at, built.digest, self.compression, (read, &keys), self.progress)?)
    }

    fn warn(&self, warning: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    /// Pushes a model as an artifact: its files are the blobs, as they are.
    ///
    /// # Errors
    /// See [`PushError`]. Blobs that were sent stay.
    pub(crate) fn push_model(
        &self,
        model: &ModelDir,
        artifact: &Artifact,
        at: &Location,
        tag: &str,
    ) -> Result<Digest, PushError> {
        self.progress.expect(model.payload());
        for (digest, size) in &artifact.layers {
            let source = LayerBytes::file(model.file(*digest), self.progress);
            if let Err(error) = self.send(at, *digest, *size, &|to| source.write(to)) {
                if matches!(error, RegistryError::Refused { .. } | RegistryError::Source { .. }) {
                    model.check(*digest, self.progress)?;
                }
                return Err(error.into());
            }
        }
        let config = &artifact.config;
        self.send(at, config.digest, config.bytes.len() as u64, &|to| to.write_all(&config.bytes))?;
        self.tag(at, tag, artifact.manifest.media_type, &artifact.manifest.bytes)
    }

    /// The last step. What the tag names then is asked for once more.
    fn tag(&self, at: &Location, tag: &str, media_type: &str, bytes: &[u8]) -> Result<Digest, PushError> {
        let expected = self.client.push_manifest(at, tag, media_type, bytes, self.progress)?;
        let found = self.client.head(at, tag, self.progress)?.digest;
        if found == Some(expected) {
            return Ok(expected);
        }
        let found = found.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
        Err(PushError::Other { at: format!("{}:{tag}", at.name()), expected, found })
    }

    /// Sends the layers, several at a time; by their digests, what those are that were packed.
    fn layers(
        &self,
        image: &ImageDir,
        at: &Location,
        layers: Vec<&LayerRecord>,
        maps: &FoundMaps,
    ) -> Result<BTreeMap<Digest, LayerRecord>, PushError> {
        let (queue, done) = (Mutex::new(layers), Mutex::new((BTreeMap::new(), None)));
        // Not in the head of the loop, where the lock would be held for as long as a layer takes.
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            while let Some(layer) = next() {
                let result = self.layer(image, at, layer, maps);
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(packed) => done.0.extend(packed.map(|packed| (layer.digest, packed))),
                    Err(error) => done.1 = done.1.take().or(Some(error)),
                }
                if done.1.is_some() {
                    break;
                }
            }
        };
        std::thread::scope(|scope| (0..self.parallel.max(1)).for_each(|_| drop(scope.spawn(work))));
        match done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            (_, Some(error)) => Err(error),
            (packed, None) => Ok(packed),
        }
    }

    /// Sends a layer, and gives back what there is to say of it there if it was packed.
    fn layer(
        &self,
        image: &ImageDir,
        at: &Location,
        layer: &LayerRecord,
        maps: &FoundMaps,
    ) -> Result<Option<LayerRecord>, PushError> {
        let source = LayerBytes::layer(image, layer, self.progress)?;
        let explained = |error: RegistryError| {
            // Bytes that the registry refuses may be of a store path that changed, which is worth a better word.
            let is_of_the_layer = matches!(error, RegistryError::Refused { .. } | RegistryError::Source { .. });
            let found = if is_of_the_layer { image.verify_layer(layer, true, self.progress).err() } else { None };
            found.map_or(PushError::Registry(error), PushError::Layout)
        };
        if self.compression == Compression::None || layer.packed.is_some() || source.is_whole() {
            self.send(at, layer.digest, layer.size, &|to| source.write(to)).map_err(explained)?;
            return Ok(None);
        }
        if let Some(packed) = self.remembered(layer)
            && self.take_over(at, packed.digest, packed.size)?
        {
            return Ok(Some(packed));
        }
        if let Some(packed) = self.packed_elsewhere(at, layer, maps)? {
            return Ok(Some(packed));
        }
        let what = format!("layer {} for {}", layer.digest, at.name());
        let pack = |to: &mut (dyn Write + Send)| source.pack(layer.digest, self.compression, to);
        let (digest, size) = self.client.push_stream(at, &what, &pack, self.progress).map_err(explained)?;
        self.count(|pushed| (pushed.uploaded, pushed.bytes) = (pushed.uploaded + 1, pushed.bytes + size));
        self.note(digest, at);
        self.remember(layer.digest, digest, size);
        Ok(Some(packed(layer, self.compression, digest, size)))
    }

    /// What another machine has packed a layer to, if that is there and was proven or signed.
    fn packed_elsewhere(
        &self,
        at: &Location,
        layer: &LayerRecord,
        maps: &FoundMaps,
    ) -> Result<Option<LayerRecord>, PushError> {
        // What is signed needs no proof, so it comes first.
        let mut rows: Vec<&(PackedBlob, bool)> = maps.rows.get(&layer.digest).into_iter().flatten().collect();
        rows.sort_by_key(|(_, signed)| !signed);
        for (blob, signed) in rows.into_iter().take(MOST_ROWS) {
            let PackedBlob { digest, size } = *blob;
            // Packing makes nothing much larger; what is need not be read to know that it is not the layer.
            let most = layer.size + layer.size / 64 + (64 << 10);
            if size > most || !self.client.has_blob(at, digest, size, self.progress)? {
                continue;
            }
            if !signed {
                let of = (layer.digest, layer.size);
                let proven = is_packed_form(self.client, at, *blob, of, self.compression, self.progress)?;
                self.count(|pushed| pushed.received += size);
                if !proven {
                    self.warn(format!(
                        "{at}: a list of packed layers says that {digest} is the layer {}, which it is not; it was packed here. \
                         Who may push there?",
                        layer.digest
                    ));
                    continue;
                }
            }
            self.progress.count_kept(layer.size);
            self.count(|pushed| {
                (pushed.present, pushed.packed_elsewhere) = (pushed.present + 1, pushed.packed_elsewhere + 1);
            });
            self.note(digest, at);
            self.remember(layer.digest, digest, size);
            return Ok(Some(packed(layer, self.compression, digest, size)));
        }
        Ok(None)
    }

    /// Sends a blob unless it is there.
    fn send(
        &self,
        at: &Location,
        digest: Digest,
        size: u64,
        write: &(dyn Fn(&mut (dyn Write + Send)) -> io::Result<()> + Sync),
    ) -> Result<(), RegistryError> {
        if self.take_over(at, digest, size)? {
            self.progress.count_kept(size);
            return Ok(());
        }
        self.client.push_blob(at, digest, size, write, self.progress)?;
        self.count(|pushed| (pushed.uploaded, pushed.bytes) = (pushed.uploaded + 1, pushed.bytes + size));
        self.note(digest, at);
        Ok(())
    }

    /// Whether a blob need not be sent: it is there, or in another repository that it can be taken over from.
    fn take_over(&self, at: &Location, digest: Digest, size: u64) -> Result<bool, RegistryError> {
        if self.client.has_blob(at, digest, size, self.progress)? {
            self.count(|pushed| pushed.present += 1);
            self.note(digest, at);
            return Ok(true);
        }
        let from = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let Some(from) = from.filter(|from| from != at.repository()) else { return Ok(false) };
        let mounted = self.client.mount_blob(at, digest, &from, self.progress)?;
        self.count(|pushed| pushed.mounted += usize::from(mounted));
        Ok(mounted)
    }

    fn note(&self, digest: Digest, at: &Location) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(digest).or_insert_with(|| at.repository().to_owned());
    }

    fn count(&self, change: impl FnOnce(&mut Pushed)) {
        change(&mut self.pushed.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn memory(&self, diff_id: Digest) -> Option<PathBuf> {
        let folder = match self.compression {
            Compression::None => return None,
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        Some(self.cache?.join(folder).join(diff_id.hex()))
    }

    /// What a layer was packed to before. The registry is asked whether it has that, so nothing depends on this.
    fn remembered(&self, layer: &LayerRecord) -> Option<LayerRecord> {
        let text = bounded::text(&self.memory(layer.digest)?, Cap::Settings).ok()?;
        let (digest, size) = text.trim_end().split_once(' ')?;
        Some(packed(layer, self.compression, digest.parse().ok()?, size.parse().ok()?))
    }

    fn remember(&self, diff_id: Digest, digest: Digest, size: u64) {
        if let Some(path) = self.memory(diff_id)
            && let Some(folder) = path.parent()
        {
            // A note that could not be written costs a push, and a torn one is ignored.
            drop(fs::create_dir_all(folder));
            drop(fs::write(&path, format!("{digest} {size}\n")));
        }
    }
}
