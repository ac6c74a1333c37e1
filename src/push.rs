//! Images to a registry, from their recipes: no layer is written to a disk.
//!
//! A layer that the registry has is not sent, one that it has in another repository is taken over from there. With
//! compression a layer's digest is known when it was sent; it is remembered, so that a second push sends nothing. The
//! config, and with it the image's ID, stays what it is; the manifest is another one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::canonical;
use crate::compression::Compression;
use crate::digest::{Digest, Hasher};
use crate::forms::{FormError, ModelDir};
use crate::image::{Blob, LayerRecord};
use crate::layer::{LayerError, Recipe, Sink};
use crate::layout::{ImageDir, LayoutError};
use crate::model::artifact::Artifact;
use crate::pipe::{PipeError, Readers, fan_out};
use crate::progress::Progress;
use crate::registry::client::Client;
use crate::registry::error::RegistryError;
use crate::registry::location::Location;

/// Why an image is not in the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The registry.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The image.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// A model.
    #[error("{0}")]
    Form(#[from] FormError),
    /// A manifest of the image.
    #[error("manifest {0}: {1}")]
    Manifest(Digest, String),
    /// The registry names something else than what was just sent.
    #[error(
        "{at} is {found} in the registry instead of {expected}; somebody else pushed there, or the registry changes what it gets"
    )]
    Other {
        /// The name.
        at: String,
        /// What was sent.
        expected: Digest,
        /// What is there.
        found: String,
    },
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pushed {
    /// Blobs that were sent.
    pub uploaded: usize,
    /// Blobs that were there.
    pub present: usize,
    /// Blobs that were taken over from another repository.
    pub mounted: usize,
    /// Bytes of the blobs that were sent.
    pub bytes: u64,
}

/// A blob as the registry has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    digest: Digest,
    size: u64,
    compression: Option<Compression>,
}

/// Pushes images to one registry.
#[derive(Debug)]
pub struct Pusher<'a> {
    /// How to talk to it.
    pub client: &'a Client,
    /// How layers are to be packed that are not.
    pub compression: Compression,
    /// A folder to remember in what layers were packed to.
    pub cache: Option<&'a Path>,
    /// How many layers are sent at a time.
    pub parallel: usize,
    /// Counts.
    pub progress: &'a Progress,
    /// Where blobs are that were sent in this run, or found.
    known: Mutex<BTreeMap<Digest, String>>,
    pushed: Mutex<Pushed>,
}

impl<'a> Pusher<'a> {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(client: &'a Client, compression: Compression, cache: Option<&'a Path>, progress: &'a Progress) -> Self {
        Self { client, compression, cache, parallel: 4, progress, known: Mutex::default(), pushed: Mutex::default() }
    }

    /// What all pushes did so far.
    pub fn pushed(&self) -> Pushed {
        *self.pushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pushes an image with all its platforms, manifests last, and gives back the digest that the tag has then.
    ///
    /// # Errors
    /// See [`PushError`]. Blobs that were sent stay.
    pub fn push(&self, image: &ImageDir, at: &Location, tag: &str) -> Result<Digest, PushError> {
        let layers = image.summary().layers();
        self.progress.expect(layers.iter().map(|layer| layer.size).sum());
        let stored = self.layers(image, at, layers)?;
        let small: BTreeMap<Digest, &Blob> = image.image().small_blobs().map(|blob| (blob.digest, blob)).collect();
        let mut renamed: BTreeMap<Digest, (Digest, u64)> = BTreeMap::new();
        let top = image.summary().digest;
        let blob = |digest: Digest| {
            small.get(&digest).copied().ok_or_else(|| PushError::Manifest(digest, "it is not in the image".to_owned()))
        };
        for platform in &image.summary().platforms {
            let config = blob(platform.config_digest)?;
            self.send(at, config.digest, config.bytes.len() as u64, &|to| to.write_all(&config.bytes))?;
            let manifest = blob(platform.digest)?;
            let bytes = with_layers(manifest, &stored)?;
            let digest = Digest::of(&bytes);
            renamed.insert(platform.digest, (digest, bytes.len() as u64));
            if platform.digest == top {
                return self.tag(at, tag, manifest.media_type.as_ref(), &bytes);
            }
            let media_type = manifest.media_type.to_string();
            self.client.push_manifest(at, &digest.to_string(), &media_type, &bytes, self.progress)?;
        }
        let index = blob(top)?;
        self.tag(at, tag, index.media_type.as_ref(), &with_manifests(index, &renamed)?)
    }

    /// Pushes a model as an artifact: its files are the blobs, as they are.
    ///
    /// # Errors
    /// See [`PushError`]. Blobs that were sent stay.
    pub fn push_model(
        &self,
        model: &ModelDir,
        artifact: &Artifact,
        at: &Location,
        tag: &str,
    ) -> Result<Digest, PushError> {
        self.progress.expect(model.payload());
        for (digest, size) in &artifact.layers {
            let source = Bytes { file: Some(model.file(*digest)), recipe: None, progress: self.progress };
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

    /// Sends the layers, several at a time; by their digests, what the registry has of each.
    fn layers(
        &self,
        image: &ImageDir,
        at: &Location,
        layers: Vec<&LayerRecord>,
    ) -> Result<BTreeMap<Digest, Stored>, PushError> {
        let (queue, done) = (Mutex::new(layers), Mutex::new((BTreeMap::new(), None)));
        // Not in the head of the loop, where the lock would be held for as long as a layer takes.
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            while let Some(layer) = next() {
                let result = self.layer(image, at, layer);
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(stored) => drop(done.0.insert(layer.digest, stored)),
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
            (stored, None) => Ok(stored),
        }
    }

    fn layer(&self, image: &ImageDir, at: &Location, layer: &LayerRecord) -> Result<Stored, PushError> {
        let file = image.layer_blob(layer)?;
        let recipe = if file.is_some() { None } else { Some(&image.description(layer)?.recipe) };
        let source = Bytes { file: file.as_deref(), recipe, progress: self.progress };
        let whole = recipe.is_some_and(|recipe| recipe.blob().is_some());
        if self.compression == Compression::None || layer.packed.is_some() || whole {
            let sent = self.send(at, layer.digest, layer.size, &|to| source.write(to));
            if let Err(error) = sent {
                // Bytes that the registry refuses may be of a store path that changed, which is worth a better word.
                if matches!(error, RegistryError::Refused { .. } | RegistryError::Source { .. }) {
                    image.verify_layer(layer, true, self.progress)?;
                }
                return Err(error.into());
            }
            return Ok(Stored { digest: layer.digest, size: layer.size, compression: None });
        }
        if let Some(stored) = self.remembered(layer.digest)
            && self.take_over(at, stored.digest)?
        {
            return Ok(stored);
        }
        let found = Mutex::new(None);
        let (digest, size) = self
            .client
            .push_stream(
                at,
                &format!("layer {} for {}", layer.digest, at.name()),
                &|to| {
                    let mut unpacked = Hashing { to: self.compression.encoder(to)?, hasher: Hasher::new() };
                    source.write(&mut unpacked)?;
                    unpacked.to.finish()?;
                    let (digest, _) = unpacked.hasher.finish();
                    *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
                    if digest == layer.digest {
                        Ok(())
                    } else {
                        Err(io::Error::other("its bytes changed since it was built"))
                    }
                },
                self.progress,
            )
            .map_err(|error| {
                let found = *found.lock().unwrap_or_else(PoisonError::into_inner);
                match found.filter(|found| *found != layer.digest) {
                    Some(_) => image
                        .verify_layer(layer, true, self.progress)
                        .err()
                        .map_or(PushError::Registry(error), PushError::from),
                    None => error.into(),
                }
            })?;
        self.count(|pushed| (pushed.uploaded, pushed.bytes) = (pushed.uploaded + 1, pushed.bytes + size));
        self.note(digest, at);
        let stored = Stored { digest, size, compression: Some(self.compression) };
        self.remember(layer.digest, stored);
        Ok(stored)
    }

    /// Sends a blob unless it is there.
    fn send(
        &self,
        at: &Location,
        digest: Digest,
        size: u64,
        write: &(dyn Fn(&mut (dyn Write + Send)) -> io::Result<()> + Sync),
    ) -> Result<(), RegistryError> {
        if self.take_over(at, digest)? {
            self.progress.count_kept(size);
            return Ok(());
        }
        self.client.push_blob(at, digest, size, write, self.progress)?;
        self.count(|pushed| (pushed.uploaded, pushed.bytes) = (pushed.uploaded + 1, pushed.bytes + size));
        self.note(digest, at);
        Ok(())
    }

    /// Whether a blob need not be sent: it is there, or in another repository that it can be taken over from.
    fn take_over(&self, at: &Location, digest: Digest) -> Result<bool, RegistryError> {
        if self.client.has_blob(at, digest, self.progress)? {
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
    fn remembered(&self, diff_id: Digest) -> Option<Stored> {
        let text = fs::read_to_string(self.memory(diff_id)?).ok()?;
        let (digest, size) = text.trim_end().split_once(' ')?;
        Some(Stored { digest: digest.parse().ok()?, size: size.parse().ok()?, compression: Some(self.compression) })
    }

    fn remember(&self, diff_id: Digest, stored: Stored) {
        if let Some(path) = self.memory(diff_id)
            && let Some(folder) = path.parent()
        {
            // A note that could not be written costs a push, and a torn one is none.
            drop(fs::create_dir_all(folder));
            drop(fs::write(&path, format!("{} {}\n", stored.digest, stored.size)));
        }
    }
}

/// The bytes of a layer: a file, or what a recipe makes.
struct Bytes<'a> {
    file: Option<&'a Path>,
    recipe: Option<&'a Recipe>,
    progress: &'a Progress,
}

impl Bytes<'_> {
    fn write(&self, to: &mut (dyn Write + Send)) -> io::Result<()> {
        let mut sink = WriteSink { to, progress: self.progress };
        if let Some(path) = self.file {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            return sink.file(&file, size, false, Readers::default()).map_err(|error| match error {
                PipeError::Read(error) | PipeError::Write(error) => error,
            });
        }
        match self.recipe.map(|recipe| recipe.stream(&mut sink)) {
            Some(Err(LayerError::Sink(error))) => Err(error),
            Some(Err(error)) => Err(io::Error::other(error)),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

struct WriteSink<'a> {
    to: &'a mut (dyn Write + Send),
    progress: &'a Progress,
}

impl Sink for WriteSink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)
    }

    fn file(&mut self, file: &File, size: u64, _: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        let (to, mut readers): (_, Readers<'_>) = (&mut self.to, readers);
        readers.here.push(Box::new(|chunk| to.write_all(chunk)));
        fan_out(file, size, readers, self.progress)
    }
}

/// Hashes what passes.
struct Hashing<W> {
    to: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A manifest with its layers as they were sent: the same bytes where none was packed.
fn with_layers(manifest: &Blob, stored: &BTreeMap<Digest, Stored>) -> Result<Vec<u8>, PushError> {
    changed(manifest, "layers", |layer, digest| {
        let Some(Stored { digest, size, compression: Some(compression) }) = stored.get(&digest) else { return false };
        layer["digest"] = json!(digest);
        layer["size"] = json!(size);
        layer["mediaType"] = json!(compression.media_type());
        true
    })
}

/// An index with its manifests as they were sent.
fn with_manifests(index: &Blob, renamed: &BTreeMap<Digest, (Digest, u64)>) -> Result<Vec<u8>, PushError> {
    changed(index, "manifests", |manifest, old| match renamed.get(&old) {
        Some((digest, size)) if *digest != old => {
            manifest["digest"] = json!(digest);
            manifest["size"] = json!(size);
            true
        }
        _ => false,
    })
}

fn changed(blob: &Blob, key: &str, mut change: impl FnMut(&mut Value, Digest) -> bool) -> Result<Vec<u8>, PushError> {
    let malformed = |reason: String| PushError::Manifest(blob.digest, reason);
    let mut document: Value = serde_json::from_slice(&blob.bytes).map_err(|error| malformed(error.to_string()))?;
    let entries = document[key].as_array_mut().ok_or_else(|| malformed(format!("it has no {key}")))?;
    let mut any = false;
    for entry in entries {
        let digest = entry["digest"].as_str().and_then(|digest| digest.parse().ok());
        any |= change(entry, digest.ok_or_else(|| malformed(format!("its {key} have no digest")))?);
    }
    Ok(if any { canonical::to_bytes(&document) } else { blob.bytes.clone() })
}
