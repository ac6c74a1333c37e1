//! What a layer will be, found out in one walk before it is made: of its files no more than the first bytes is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::extent::Measuring;
use super::tar::TarEntry;
use super::walk::Files;
use super::{ALIGN_FROM, Extent, HostFile, LayerError, LayerMember, MemberContent, Recipe, noted, walk};
use crate::secrets::{FIRST, HEAD, SecretFinding};

/// What was found out.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// What it takes.
    pub(crate) extent: Extent,
    /// Files of [`ALIGN_FROM`] and more.
    pub(crate) large: Vec<LargeFile>,
    /// What looks like a secret, in the order of the layer.
    pub(crate) secrets: Vec<SecretFinding>,
}

/// A large file of a layer that is made of parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LargeFile {
    /// Where it is in the image, absolute.
    pub(crate) path: PathBuf,
    /// The file that it comes from, with no link in the last place.
    host: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// The large files of layers, by how these are made.
pub(crate) type LargeFiles = BTreeMap<Recipe, Vec<LargeFile>>;

impl LargeFile {
    /// A file of a layer, if it is large.
    pub(super) fn of(entry: &TarEntry, file: &HostFile<'_>) -> Option<Self> {
        let size = entry.size();
        (size >= ALIGN_FROM).then(|| Self { path: entry.place(), host: file.path().to_owned(), size })
    }

    /// The file, to be read from its beginning.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(&self) -> Result<File, LayerError> {
        walk::open(&self.host)
    }
}

/// Looks at the layer that a recipe makes. Of a layer that is there as a file only the size is told.
///
/// # Errors
/// See [`LayerError`].
pub(crate) fn survey(recipe: &Recipe) -> Result<Survey, LayerError> {
    if recipe.blob().is_some() {
        return Ok(Survey { extent: super::extent(recipe)?, ..Survey::default() });
    }
    let mut survey = Survey::default();
    let mut measuring = Measuring::default();
    let mut head = Vec::new();
    recipe.walk(Files::Open, &mut |LayerMember { entry, content, host, hidden }| {
        measuring.member(&entry);
        let Some(mut look) = noted::look(&entry, (host, hidden)) else { return Ok(()) };
        match content {
            MemberContent::None => {}
            MemberContent::Text(text) => look.update(&text),
            MemberContent::File(mut file, _) => {
                let opened = file.take()?;
                let reading = |error| LayerError::reading(file.path(), error);
                head.resize(usize::try_from(file.size()).map_or(HEAD, |size| size.min(HEAD)), 0);
                let at = head.len().min(FIRST);
                let (first, rest) = head.split_at_mut(at);
                opened.read_exact_at(first, 0).map_err(reading)?;
                if look.begin(first) {
                    opened.read_exact_at(rest, FIRST as u64).map_err(reading)?;
                    look.update(&head);
                }
                survey.large.extend(LargeFile::of(&entry, &file));
            }
        }
        survey.secrets.extend(look.end());
        Ok(())
    })?;
    survey.extent = measuring.end();
    Ok(survey)
}

/// What looks like a secret in the layer that a recipe makes, in its order: of a file no more than its first bytes is read.
///
/// # Errors
/// See [`LayerError`].
pub fn secrets(recipe: &Recipe) -> Result<Vec<SecretFinding>, LayerError> {
    Ok(survey(recipe)?.secrets)
}

/// The large files of the layer that a recipe makes. No file is opened.
///
/// # Errors
/// See [`LayerError`].
pub(crate) fn large_files(recipe: &Recipe) -> Result<Vec<LargeFile>, LayerError> {
    let mut large = Vec::new();
    recipe.members(&mut |LayerMember { entry, content, .. }| {
        if let MemberContent::File(file, _) = content {
            large.extend(LargeFile::of(&entry, &file));
        }
        Ok(())
    })?;
    Ok(large)
}
