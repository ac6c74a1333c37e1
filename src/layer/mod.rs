//! One layer as a stream of bytes.
//!
//! [`Recipe::stream`] gives the bytes of a layer, in order, to a [`Sink`]. The same stream serves to hash a layer
//! ([`digest_of`]), to write it as a blob and to put it into an archive: there is no second way to make a layer, so
//! what was hashed is what is written. Files reach the sink as open files, so that it can share their data instead of
//! copying it.
//!
//! Reproducibility: the bytes depend on the recipe, and on names, types, link targets, executable bits and contents
//! below the paths it names.

mod checksums;
mod claim;
pub(crate) mod erofs;
mod extent;
pub(crate) mod file_tree;
mod hashing;
mod noted;
pub(crate) mod output;
pub(crate) mod patch;
pub(crate) mod piece_sink;
mod plain_tree;
mod recipe;
mod survey;
mod tar;
pub(crate) mod tar_reader;
mod walk;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use regex::bytes::Regex;

pub(crate) use self::checksums::Checksums;
pub(crate) use self::extent::{Extent, extent, on_disk};
pub use self::hashing::digest_of;
pub(crate) use self::hashing::{HashSink, Hashed};
use self::noted::FileNote;
pub(crate) use self::noted::{Known, LayerFile, NotedFiles};
pub use self::recipe::{FORMAT, Input, Recipe};
pub(crate) use self::recipe::{Mode, Perm, compile};
pub use self::survey::secrets;
pub(crate) use self::survey::{LargeFile, LargeFiles, Survey, large_files, survey};
use self::tar::header_length;
pub(crate) use self::tar::{ALIGN_FROM, MTIME, padding};
pub use self::tar::{TRAILER, TarEntry, TarEntryKind, header};
pub(crate) use self::walk::HostFile;
use self::walk::{Files, Item, WalkedContent};
use crate::class::{Class, Classified};
use crate::disk::bounded;
use crate::disk::parts::files_of;
use crate::disk::pipe::{PipeError, Readers};

/// What names of a layer begin with that stand for something removed (image-spec, *layer.md*).
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// Where the bytes of a layer go.
pub trait Sink {
    /// Takes these bytes.
    ///
    /// # Errors
    /// What the place to write to says.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes exactly `size` bytes of an open file, from its beginning. `in_store` says that it lies in the Nix store.
    /// All of `readers` must see every one of them.
    ///
    /// # Errors
    /// Which side failed. A file that ends early is a [`PipeError::Read`] of kind `UnexpectedEof`.
    fn file(&mut self, file: &File, size: u64, in_store: bool, readers: Readers<'_>) -> Result<(), PipeError>;
}

/// Why the bytes of a layer cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A path of the recipe, or below one, cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file has another size than a moment before.
    #[error("{path} changed while it was read: an input must not be written to during a build", path = .0.display())]
    Changed(PathBuf),
    /// Something that no layer can hold.
    #[error("{path} is a {kind}: a layer holds files, directories and symbolic links only; leave it out of the input", path = path.display())]
    Special {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A link to be followed leads to where nothing may be taken from.
    #[error(
        "{link} leads to {target}, which is not below {within}; links are followed, but not out of the store",
        link = link.display(), target = target.display(), within = within.display()
    )]
    LeadsOut {
        /// The link.
        link: PathBuf,
        /// Where it leads.
        target: PathBuf,
        /// Where it must stay.
        within: PathBuf,
    },
    /// A name that container engines read as an order to remove something (image-spec, *layer.md*, "Whiteouts").
    #[error(
        "{path} cannot be in a layer: to container engines a name that begins with '.wh.' stands for something that was removed; rename it, or leave it out of the input",
        path = path.display()
    )]
    Whiteout {
        /// The host path; of what the spec itself puts there, the place in the image.
        path: PathBuf,
    },
    /// Following links would have no end.
    #[error("{link} leads back to {target}, which it is in: following it would have no end", link = link.display(), target = target.display())]
    Loop {
        /// The link.
        link: PathBuf,
        /// A directory above it.
        target: PathBuf,
    },
    /// Two inputs give different things at one path.
    #[error(
        "two inputs give different things at {target} of the image: {first} and {second}; leave one out",
        first = first.display(), second = second.display()
    )]
    Conflict {
        /// The path in the image.
        target: String,
        /// The first input's host path.
        first: PathBuf,
        /// The other input's host path.
        second: PathBuf,
    },
    /// Something is asked for below a path where an input has no directory.
    #[error("{target} of the image is asked for, but {file} is put above it and is not a directory", file = file.display())]
    BelowFile {
        /// The path in the image.
        target: String,
        /// The host path of what is in the way.
        file: PathBuf,
    },
    /// An input that is merged into `/` is not a directory.
    #[error("{path} is put at / of the image, but is not a directory; give the file a name there with `files`", path = .0.display())]
    RootIsNoDirectory(PathBuf),
    /// A place in the image that is not an absolute path without `..`.
    #[error("'{path}' is not a place in an image: expected an absolute path without '..'", path = .0.display())]
    BadTarget(PathBuf),
    /// A rule's regular expression is not one.
    #[error("'{regex}' in a perms rule is not a regular expression: {message}")]
    BadRegex {
        /// The text.
        regex: String,
        /// Why not.
        message: String,
    },
    /// A rule names an input that the layer does not have.
    #[error("a perms rule is for {path}, which is not an input of this layer", path = .0.display())]
    PermWithoutInput(PathBuf),
    /// A layer that is there as a file is taken for one that is made of parts.
    #[error("{path} is a whole layer: it stands alone in a recipe, and its members are not listed here", path = .0.display())]
    Whole(PathBuf),
    /// The recipe is of a format that this version does not know.
    #[error("layer format {0} is newer than this windlass, which knows format {FORMAT}; update windlass")]
    UnknownFormat(u32),
    /// The place to write to failed.
    #[error(transparent)]
    Sink(io::Error),
}

impl Classified for LayerError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Sink(error) => error.class(),
            Self::Changed(_)
            | Self::Special { .. }
            | Self::Whiteout { .. }
            | Self::LeadsOut { .. }
            | Self::Loop { .. }
            | Self::Conflict { .. }
            | Self::BelowFile { .. }
            | Self::RootIsNoDirectory(_)
            | Self::BadTarget(_)
            | Self::BadRegex { .. }
            | Self::PermWithoutInput(_)
            | Self::Whole(_)
            | Self::UnknownFormat(_) => Class::Failed,
        }
    }
}

impl LayerError {
    fn reading(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

/// One member of a layer: what its header says, and where its content comes from.
#[derive(Debug)]
pub struct LayerMember<'a> {
    /// What the header says.
    pub entry: TarEntry,
    /// What follows it.
    pub content: MemberContent<'a>,
    /// The host path that it comes from.
    pub(crate) host: &'a Path,
    /// Whether others on the host cannot read it there.
    pub(crate) hidden: bool,
}

/// What follows a header.
#[derive(Debug)]
pub enum MemberContent<'a> {
    /// Nothing: a directory or a link.
    None,
    /// These bytes.
    Text(Vec<u8>),
    /// As many bytes of a file as its header says, and whether it lies in the Nix store.
    File(HostFile<'a>, bool),
}

type VisitLayerMember<'v> = dyn FnMut(LayerMember<'_>) -> Result<(), LayerError> + 'v;

impl Recipe {
    /// Calls `visit` for every member of the layer, in the order of the archive.
    ///
    /// # Errors
    /// See [`LayerError`]; `visit` returns what it likes of them.
    pub fn members(&self, visit: &mut VisitLayerMember<'_>) -> Result<(), LayerError> {
        self.walk(Files::See, visit)
    }

    fn walk(&self, files: Files, visit: &mut VisitLayerMember<'_>) -> Result<(), LayerError> {
        if self.format != FORMAT {
            return Err(LayerError::UnknownFormat(self.format));
        }
        let rules = Rules::new(self)?;
        walk::walk(self, files, &mut |item| {
            let entry = rules.entry(&item);
            let content = match item.what {
                WalkedContent::Directory | WalkedContent::Symlink(_) => MemberContent::None,
                WalkedContent::Text(text) => MemberContent::Text(text),
                WalkedContent::File(file) => MemberContent::File(file, item.in_store),
            };
            visit(LayerMember { entry, content, host: item.host, hidden: item.hidden })
        })
    }

    /// Gives every byte of the layer to `sink`.
    ///
    /// # Errors
    /// See [`LayerError`]; the sink has then seen the beginning of the layer.
    pub fn stream(&self, sink: &mut dyn Sink) -> Result<(), LayerError> {
        self.give(sink, None)
    }

    /// The same, with the sums of its files, for which every byte of them is read. `known` asks for the digest of each file
    /// as well, and has those that need not be made.
    ///
    /// # Errors
    /// As for [`stream`](Self::stream).
    pub(crate) fn stream_and_note(&self, sink: &mut dyn Sink, known: Option<&Known>) -> Result<NotedFiles, LayerError> {
        let mut noted = NotedFiles::default();
        self.give(sink, Some((&mut noted, known)))?;
        Ok(noted)
    }

    fn give(
        &self,
        sink: &mut dyn Sink,
        mut noting: Option<(&mut NotedFiles, Option<&Known>)>,
    ) -> Result<(), LayerError> {
        if let Some(path) = self.blob() {
            return give_blob(path, sink);
        }
        let mut offset = 0;
        self.walk(Files::Open, &mut |LayerMember { entry, content, host, hidden }| {
            let header = header(&entry, offset);
            offset += header.len() as u64;
            sink.bytes(&header).map_err(LayerError::Sink)?;
            let size = entry.size();
            let mut note = noting.as_ref().map(|(_, known)| FileNote::new(&entry, (host, hidden), *known));
            match content {
                MemberContent::None => {}
                MemberContent::Text(text) => {
                    if let Some(note) = &mut note {
                        note.update(&text);
                    }
                    sink.bytes(&text).map_err(LayerError::Sink)?;
                }
                MemberContent::File(mut file, in_store) => {
                    let opened = file.take()?;
                    let readers = note.as_mut().map(FileNote::readers).unwrap_or_default();
                    sink.file(&opened, size, in_store, readers).map_err(|error| failed_file(error, host))?;
                    if opened.metadata().map_err(|e| LayerError::reading(host, e))?.len() != size {
                        return Err(LayerError::Changed(host.to_owned()));
                    }
                    if let Some((noted, _)) = &mut noting {
                        noted.large.extend(LargeFile::of(&entry, &file));
                    }
                }
            }
            if let (Some((noted, _)), Some(note)) = (&mut noting, note) {
                note.end(size, noted);
            }
            let padding = padding(size);
            sink.bytes(&TRAILER[..usize::try_from(padding).unwrap_or(0)]).map_err(LayerError::Sink)?;
            offset += size + padding;
            Ok(())
        })?;
        sink.bytes(&TRAILER).map_err(LayerError::Sink)
    }
}

/// Gives a layer that is there as a file; its checksums are those of the files in it, which are not looked at.
fn give_blob(path: &Path, sink: &mut dyn Sink) -> Result<(), LayerError> {
    let reading = |source| LayerError::reading(path, source);
    for (part, size) in files_of(path).map_err(reading)? {
        let file = bounded::open(&part).map_err(reading)?;
        sink.file(&file, size, false, Readers::default()).map_err(|error| failed_file(error, &part))?;
    }
    Ok(())
}

/// Which side failed when a sink took a file.
fn failed_file(error: PipeError, path: &Path) -> LayerError {
    match error {
        PipeError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => LayerError::Changed(path.to_owned()),
        PipeError::Read(error) => LayerError::reading(path, error),
        PipeError::Write(error) => LayerError::Sink(error),
    }
}

/// Bytes of a layer that is there as a file.
fn blob_size(path: &Path) -> Result<u64, LayerError> {
    let reading = |source| LayerError::reading(path, source);
    Ok(files_of(path).map_err(reading)?.iter().map(|(_, size)| size).sum())
}

/// The perms rules, ready to use.
struct Rules<'a>(Vec<(Regex, &'a Perm)>);

impl<'a> Rules<'a> {
    fn new(recipe: &'a Recipe) -> Result<Self, LayerError> {
        let sources = recipe.sources();
        let compile = |perm: &'a Perm| {
            if let Some(path) = &perm.path
                && !sources.contains(&path)
            {
                return Err(LayerError::PermWithoutInput(path.clone()));
            }
            let bad = |message| LayerError::BadRegex { regex: perm.regex.clone(), message };
            Ok((perm.compile().map_err(bad)?, perm))
        };
        recipe.perms.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    fn entry(&self, item: &Item<'_>) -> TarEntry {
        let kind = match &item.what {
            WalkedContent::Directory => TarEntryKind::Directory,
            WalkedContent::Symlink(target) => TarEntryKind::Symlink(target.clone()),
            WalkedContent::File(file) => TarEntryKind::File(file.size()),
            WalkedContent::Text(text) => TarEntryKind::File(text.len() as u64),
        };
        let path = item.path.to_vec();
        let mut entry =
            TarEntry { path, kind, mode: item.mode, uid: 0, gid: 0, uname: String::new(), gname: String::new() };
        if self.0.is_empty() {
            return entry;
        }
        let absolute = [b"/", item.path].concat();
        for (regex, perm) in &self.0 {
            let from_input = perm.path.as_deref().is_none_or(|path| item.inputs.contains(&path));
            if !from_input || !regex.is_match(&absolute) {
                continue;
            }
            if let (Some(Mode(mode)), false) = (perm.mode, matches!(entry.kind, TarEntryKind::Symlink(_))) {
                entry.mode = mode;
            }
            entry.uid = perm.uid.map_or(entry.uid, u64::from);
            entry.gid = perm.gid.map_or(entry.gid, u64::from);
            if let Some(name) = &perm.uname {
                entry.uname.clone_from(name);
            }
            if let Some(name) = &perm.gname {
                entry.gname.clone_from(name);
            }
        }
        entry
    }
}

/// The size in bytes of the layer that a recipe makes, from names and sizes alone.
///
/// # Errors
/// See [`LayerError`].
pub fn measure(recipe: &Recipe) -> Result<u64, LayerError> {
    Ok(extent(recipe)?.archive)
}
