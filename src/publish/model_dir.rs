//! A model's image directory in the forms that other tools want: artifacts, and Ollama's directory.
//!
//! One blob, every form: what a form has beside the model's own files is a few small documents
//! ([`model::modelpack`](crate::model::forms::modelpack), [`model::docker_model`](crate::model::forms::docker_model),
//! [`model::ollama`](crate::model::forms::ollama)). The files come from where the layers of the image come from, and get to where
//! they are wanted as cheaply as can be, in this order:
//!
//! | | the Nix store vouches for the file | anything else |
//! |---|---|---|
//! | the file system shares data (XFS, Btrfs) | shared | shared, read and hashed |
//! | one file system | hard link | copied and hashed |
//! | two | copied and hashed | copied and hashed |
//!
//! What is shared or linked is read and compared too where Nix does not vouch for the image directory
//! (`crate::image::vouching`), or on request.
//!
//! A hard link is one file under two names, so only files that are never written to get one. That /nix/store is mounted over
//! itself, as on NixOS, is not a hindrance where the caller may look past it ([`view`](crate::disk::view)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::ioctl_ficlone;

use crate::class::{Class, Classified};
use crate::disk::pipe::{PipeError, Readers};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError, bounded};
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::ImageKind;
use crate::layer::output::{Output, Verify, is_untouched};
use crate::layer::{LayerError, MemberContent, Sink, TarEntryKind};
use crate::model::forms::artifact::{DescribedModel, ModelFile};
use crate::model::forms::ollama::OllamaError;
use crate::oci::digest::Digest;

/// Why a model cannot be had in a form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// An image directory that is not a model, or of which not enough is known.
    #[error("{path}: {message}", path = path.display())]
    NoModel {
        /// The image directory.
        path: PathBuf,
        message: String,
    },
    /// A file whose bytes are not what they were when the model was built.
    #[error("{path} changed since the model was built: it has the digest {found} instead of {expected}; build the model again", path = path.display())]
    Changed {
        path: PathBuf,
        /// The digest that it had.
        expected: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// The image directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Ollama would not take it.
    #[error(transparent)]
    Ollama(#[from] OllamaError),
    /// A layer cannot be made.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file of the model cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Classified for FormError {
    fn class(&self) -> Class {
        match self {
            Self::Layout(error) => error.class(),
            Self::Ollama(error) => error.class(),
            Self::Layer(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Read { source, .. } => source.class(),
            Self::Changed { .. } => Class::Unverified,
            Self::NoModel { .. } => Class::Failed,
        }
    }
}

/// A model, and where its files are on this machine.
#[derive(Debug, Clone)]
pub struct ModelDir {
    /// The model.
    pub model: DescribedModel,
    /// Name and tag of its image.
    pub(crate) reference: String,
    pub(super) sources: BTreeMap<Digest, LocalFile>,
}

/// A file of a model on this machine.
#[derive(Debug, Clone)]
pub(super) struct LocalFile {
    path: PathBuf,
    pub(super) size: u64,
    in_store: bool,
}

/// The model in an image directory, without looking for its files.
pub(super) fn described(image: &ImageDir) -> Result<(DescribedModel, BTreeMap<Digest, PathBuf>), FormError> {
    let no_model = |message: &str| FormError::NoModel { path: image.path().to_owned(), message: message.to_owned() };
    let summary = image.summary();
    let ([platform], ImageKind::Model) = (&summary.platforms[..], summary.kind) else {
        return Err(no_model("is not a model; build it from a spec with \"kind\": \"model\""));
    };
    let Some(name) = platform.models.first() else { return Err(no_model("is a model without a name; build it again")) };
    let Some(record) = &summary.model else {
        return Err(no_model("was built by a windlass that noted nothing of the model's files; build it again"));
    };
    let Some(facts) = &record.facts else {
        return Err(no_model(
            "none of its files is a GGUF or safetensors file that windlass can read, so that nothing can be said of it",
        ));
    };
    let file = |path: &Path, size, sha256| ModelFile { path: path.to_string_lossy().into_owned(), size, sha256 };
    let files = record.files.iter().map(|of| file(&of.path, of.size, of.sha256)).collect();
    let places = record.files.iter().map(|file| (file.sha256, file.path.clone())).collect();
    Ok((DescribedModel::new(name, facts.clone(), files), places))
}

impl ModelDir {
    /// Reads a model's image directory, and finds the files that its layers are made of.
    ///
    /// # Errors
    /// If it is not a model, or a file is not there any more.
    pub fn open(image: &ImageDir) -> Result<Self, FormError> {
        let (model, places) = described(image)?;
        let mut found: BTreeMap<PathBuf, LocalFile> = BTreeMap::new();
        for layer in image.summary().layers() {
            image.recipe(layer)?.members(&mut |member| {
                if let (MemberContent::File(_, in_store), TarEntryKind::File(size)) =
                    (&member.content, &member.entry.kind)
                {
                    let place = member.entry.place();
                    found.insert(place, LocalFile { path: member.host.to_owned(), size: *size, in_store: *in_store });
                }
                Ok(())
            })?;
        }
        let source = |(digest, place): (&Digest, &PathBuf)| match found.get(place) {
            Some(source) => Ok((*digest, source.clone())),
            None => Err(FormError::NoModel {
                path: image.path().to_owned(),
                message: format!("has no file for {}; build the model again", place.display()),
            }),
        };
        let sources = places.iter().map(source).collect::<Result<_, _>>()?;
        Ok(Self { model, reference: image.summary().reference.to_string(), sources })
    }

    /// The file on this machine that has this digest.
    ///
    /// # Panics
    /// For a digest that no file of the model has.
    #[must_use]
    pub(crate) fn file(&self, digest: Digest) -> &Path {
        &self.source(digest).path
    }

    fn source(&self, digest: Digest) -> &LocalFile {
        self.sources.get(&digest).expect("a form has no other files than the model's")
    }

    /// Compares a file with its digest.
    ///
    /// # Errors
    /// If it has another one.
    pub(crate) fn check(&self, digest: Digest, progress: &Progress) -> Result<(), FormError> {
        let mut output = Output::create(Path::new("/dev/null"), Verify::Always, false, progress)?;
        self.give(digest, &mut output)
    }

    /// Puts the file of this digest at `to`, where nothing is.
    ///
    /// # Errors
    /// If it cannot be read or written, or has other bytes than it should.
    pub(crate) fn put(&self, digest: Digest, to: &Path, verify: Verify, progress: &Progress) -> Result<(), FormError> {
        let source = self.source(digest);
        if self.share(source, to)? {
            progress.count_cloned(source.size);
            if verify == Verify::Always
                && let Err(error) = self.check(digest, progress)
            {
                std::fs::remove_file(to).at("remove", to)?;
                return Err(error);
            }
            return Ok(());
        }
        let mut output = Output::create(to, verify, false, progress)?;
        self.give(digest, &mut output)?;
        output.finish()?;
        Ok(())
    }

    /// Shares the data of a file that the Nix store vouches for, or the file itself. `false` where that cannot be.
    fn share(&self, LocalFile { path, size, in_store }: &LocalFile, to: &Path) -> Result<bool, FormError> {
        let reading = |source| FormError::Read { path: path.clone(), source };
        // What leads to the file may be a link, and a link would be linked.
        let path = std::fs::canonicalize(path).map_err(reading)?;
        let file = bounded::open(&path).map_err(reading)?;
        let metadata = file.metadata().map_err(reading)?;
        if !in_store || !is_untouched(&metadata) || metadata.size() != *size {
            return Ok(false);
        }
        let clone = File::create_new(to).at("create", to)?;
        if ioctl_ficlone(&clone, &file).is_ok() {
            return Ok(true);
        }
        drop(clone);
        std::fs::remove_file(to).at("remove", to)?;
        Ok(crate::disk::view::link(&path, to).is_ok())
    }

    /// Gives the bytes of a file to an output.
    pub(super) fn give(&self, digest: Digest, output: &mut Output<'_>) -> Result<(), FormError> {
        let LocalFile { path, size, in_store } = self.source(digest);
        let reading = |source| FormError::Read { path: path.clone(), source };
        let file = bounded::open(path).map_err(reading)?;
        if file.metadata().map_err(reading)?.len() != *size {
            return Err(LayerError::Changed(path.clone()).into());
        }
        output.begin_blob();
        output.file(&file, *size, *in_store, Readers::default()).map_err(|error| match error {
            PipeError::Read(source) => reading(source),
            PipeError::Write(source) => output.failed(source).into(),
        })?;
        match output.end_blob() {
            Some((found, _)) if found != digest => {
                Err(FormError::Changed { path: path.clone(), expected: digest, found })
            }
            _ => Ok(()),
        }
    }
}
