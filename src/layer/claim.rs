//! Who wants to be where: the inputs of a recipe as claims on places of the layer, and what each turns out to be.

use std::collections::BTreeMap;
use std::fs::{self, FileType};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use super::LayerError;
use super::recipe::{Input, Mode};

/// Where Podman and runc mount over, and what stands there when nothing else does.
const MOUNT_DIRECTORIES: [(&str, u32); 12] = [
    ("/dev", 0o755),
    ("/dev/mqueue", 0o755),
    ("/dev/pts", 0o755),
    ("/dev/shm", 0o755),
    ("/etc", 0o755),
    ("/proc", 0o555),
    ("/run", 0o755),
    ("/run/secrets", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var", 0o755),
    ("/var/tmp", 0o1777),
];
const MOUNT_FILES: [&str; 4] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/.containerenv"];
const MOUNT_LINKS: [(&str, &str); 1] = [("/etc/mtab", "/proc/mounts")];

/// A place in the layer, and everything that claims to be there.
#[derive(Default)]
pub(super) struct Node<'a> {
    pub(super) claims: Vec<Claim<'a>>,
    pub(super) children: BTreeMap<Vec<u8>, Self>,
}

/// One input's wish for one place.
#[derive(Clone)]
pub(super) struct Claim<'a> {
    /// The input, as rules and messages name it.
    pub(super) input: &'a Path,
    what: What<'a>,
    /// Gives way to any claim that is not weak.
    pub(super) weak: bool,
}

#[derive(Clone)]
enum What<'a> {
    /// Whatever is at this host path; its type where a directory listing told it.
    Host(PathBuf, How<'a>, Option<FileType>),
    Directory(Mode),
    Symlink(&'a [u8]),
    Text(&'a str, Mode),
}

/// How a host path becomes part of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum How<'a> {
    /// As it is, links as links.
    Copy,
    /// With links followed that stay below this directory.
    Follow(&'a Path),
    /// Directories as directories, everything else as a link to its place.
    Link,
}

/// What one claim turns out to be.
pub(super) enum Seen<'a> {
    /// A directory: with a mode that was asked for, or one on the host.
    Directory(Option<Mode>, Option<(PathBuf, How<'a>)>),
    /// A link with this target.
    Symlink(Vec<u8>),
    /// A regular file.
    File(PathBuf),
    /// A small file.
    Text(&'a str, Mode),
}

impl<'a> Node<'a> {
    /// Adds the claims of one input.
    pub(super) fn plant(&mut self, input: &'a Input) -> Result<(), LayerError> {
        let host = |path: &Path, how| What::Host(path.to_owned(), how, None);
        let (place, input, what) = match input {
            Input::StorePath { path, .. } => (path.as_path(), path, host(path, How::Copy)),
            Input::Copy { source, target, follow, .. } => {
                let how = follow.as_deref().map_or(How::Copy, How::Follow);
                (target.as_path(), source, host(source, how))
            }
            Input::Links { source } => (Path::new("/"), source, host(source, How::Link)),
            Input::Directory { path, mode } => (path.as_path(), path, What::Directory(*mode)),
            Input::Symlink { path, target } => (path.as_path(), path, What::Symlink(target.as_os_str().as_bytes())),
            Input::Text { path, text, mode } => (path.as_path(), path, What::Text(text, *mode)),
            Input::MountPoints => {
                let directories = MOUNT_DIRECTORIES.map(|(path, mode)| (path, What::Directory(Mode(mode))));
                let files = MOUNT_FILES.map(|path| (path, What::Text("", Mode(0o644))));
                let links = MOUNT_LINKS.map(|(path, target)| (path, What::Symlink(target.as_bytes())));
                for (path, what) in directories.into_iter().chain(files).chain(links) {
                    self.claim(Path::new(path), Claim { input: Path::new(path), what, weak: true })?;
                }
                return Ok(());
            }
        };
        self.claim(place, Claim { input, what, weak: false })
    }

    fn claim(&mut self, place: &Path, mut claim: Claim<'a>) -> Result<(), LayerError> {
        let names = components(place)?;
        if names.is_empty()
            && let What::Host(path, _, known @ None) = &mut claim.what
            && let Ok(resolved) = fs::canonicalize(&*path)
            && fs::symlink_metadata(&*path).is_ok_and(|metadata| metadata.is_symlink())
        {
            // What is merged into `/` is a tree: a link to one, as `ln -s` leaves it in `$out`, stands for it.
            *known = fs::metadata(&resolved).ok().map(|metadata| metadata.file_type());
            *path = resolved;
        }
        let mut node = self;
        for name in names {
            node = node.children.entry(name.to_vec()).or_default();
        }
        node.claims.push(claim);
        Ok(())
    }

    /// Whether anything at or below this place is asked for by more than a weak claim.
    pub(super) fn is_strong(&self) -> bool {
        self.claims.iter().any(|claim| !claim.weak) || self.children.values().any(Node::is_strong)
    }
}

/// The components of an absolute path in the image.
pub(super) fn components(place: &Path) -> Result<Vec<&[u8]>, LayerError> {
    let mut parts = place.components();
    let absolute = parts.next() == Some(Component::RootDir);
    let names: Option<Vec<_>> = parts
        .map(|part| match part {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect();
    names.filter(|_| absolute).ok_or_else(|| LayerError::BadTarget(place.to_owned()))
}

impl<'a> Claim<'a> {
    /// The claim of an entry that a directory listing told.
    pub(super) fn of_entry(input: &'a Path, path: PathBuf, how: How<'a>, known: FileType) -> Self {
        Self { input, what: What::Host(path, how, Some(known)), weak: false }
    }

    /// Looks at the host.
    pub(super) fn look(&self) -> Result<Seen<'a>, LayerError> {
        let (path, how, known) = match &self.what {
            What::Directory(mode) => return Ok(Seen::Directory(Some(*mode), None)),
            What::Symlink(target) => return Ok(Seen::Symlink(target.to_vec())),
            What::Text(text, mode) => return Ok(Seen::Text(text, *mode)),
            What::Host(path, how, known) => (path, *how, *known),
        };
        let reading = |error| LayerError::reading(path, error);
        let kind = match known {
            Some(kind) => kind,
            None => fs::symlink_metadata(path).map_err(reading)?.file_type(),
        };
        match (how, kind.is_symlink()) {
            (How::Copy, true) => Ok(Seen::Symlink(fs::read_link(path).map_err(reading)?.into_os_string().into_vec())),
            (How::Follow(within), true) => {
                let resolved = fs::canonicalize(path).map_err(reading)?;
                let within = fs::canonicalize(within).map_err(|error| LayerError::reading(within, error))?;
                if !resolved.starts_with(&within) {
                    return Err(LayerError::LeadsOut { link: path.clone(), target: resolved, within });
                }
                let kind = fs::metadata(&resolved).map_err(reading)?.file_type();
                seen(resolved, how, kind)
            }
            (How::Link, _) if !kind.is_dir() => Ok(Seen::Symlink(path.as_os_str().as_bytes().to_vec())),
            _ => seen(path.clone(), how, kind),
        }
    }

    /// For a link to a directory that was to be linked to: the directory, so that it can be merged with others.
    pub(super) fn as_directory(&self) -> Option<Seen<'a>> {
        let What::Host(path, How::Link, _) = &self.what else { return None };
        let resolved = fs::canonicalize(path).ok().filter(|resolved| resolved.is_dir())?;
        Some(Seen::Directory(None, Some((resolved, How::Link))))
    }

    /// The host path, or the input's name for what is not on the host.
    pub(super) fn host(&self) -> PathBuf {
        match &self.what {
            What::Host(path, ..) => path.clone(),
            _ => self.input.to_owned(),
        }
    }
}

fn seen<'a>(path: PathBuf, how: How<'a>, kind: FileType) -> Result<Seen<'a>, LayerError> {
    if kind.is_dir() {
        return Ok(Seen::Directory(None, Some((path, how))));
    }
    if kind.is_file() {
        return Ok(Seen::File(path));
    }
    let kind = match kind {
        kind if kind.is_socket() => "socket",
        kind if kind.is_fifo() => "FIFO",
        kind if kind.is_block_device() => "block device",
        _ => "character device",
    };
    Err(LayerError::Special { path, kind })
}
