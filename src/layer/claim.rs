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
pub(super) struct LayerNode<'a> {
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
    /// Whether it comes from the Nix store, whose files are never written to.
    pub(super) in_store: bool,
    /// The directories that links were followed from and to on the way here: coming back to one would have no end.
    trail: Vec<PathBuf>,
}

#[derive(Clone)]
enum What<'a> {
    /// Whatever is at this host path; its type where a directory listing told it.
    Host(PathBuf, PathUse<'a>, Option<FileType>),
    Directory(Mode),
    Symlink(&'a [u8]),
    Text(&'a str, Mode),
}

/// How a host path becomes part of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum PathUse<'a> {
    /// As it is, links as links.
    Copy,
    /// With links followed that stay below this directory.
    Follow(&'a Path),
    /// Directories as directories, everything else as a link to its place; this is the store that links stay in.
    Link(&'a Path),
}

/// A directory on the host.
#[derive(Clone)]
pub(super) struct HostDirectory<'a> {
    pub(super) path: PathBuf,
    pub(super) how: PathUse<'a>,
    /// See [`Claim::trail`].
    pub(super) trail: Vec<PathBuf>,
}

/// What one claim turns out to be.
pub(super) enum ClaimedContent<'a> {
    /// A directory: with a mode that was asked for, or one on the host.
    Directory(Option<Mode>, Option<HostDirectory<'a>>),
    /// A link with this target.
    Symlink(Vec<u8>),
    /// A regular file.
    File(PathBuf),
    /// A small file.
    Text(&'a str, Mode),
}

impl<'a> LayerNode<'a> {
    /// Adds the claims of one input.
    pub(super) fn plant(&mut self, input: &'a Input) -> Result<(), LayerError> {
        let host = |path: &Path, how| What::Host(path.to_owned(), how, None);
        let (place, name, what) = match input {
            Input::StorePath { path, .. } => (path.as_path(), path, host(path, PathUse::Copy)),
            Input::Copy { source, target, follow, .. } => {
                let how = follow.as_deref().map_or(PathUse::Copy, PathUse::Follow);
                (target.as_path(), source, host(source, how))
            }
            Input::Links { source } => {
                (Path::new("/"), source, host(source, PathUse::Link(source.parent().unwrap_or(source))))
            }
            Input::Directory { path, mode } => (path.as_path(), path, What::Directory(*mode)),
            Input::Symlink { path, target } => (path.as_path(), path, What::Symlink(target.as_os_str().as_bytes())),
            Input::Text { path, text, mode } => (path.as_path(), path, What::Text(text, *mode)),
            Input::Blob { path } => return Err(LayerError::Whole(path.clone())),
            Input::MountPoints => {
                let directories = MOUNT_DIRECTORIES.map(|(path, mode)| (path, What::Directory(Mode(mode))));
                let files = MOUNT_FILES.map(|path| (path, What::Text("", Mode(0o644))));
                let links = MOUNT_LINKS.map(|(path, target)| (path, What::Symlink(target.as_bytes())));
                for (path, what) in directories.into_iter().chain(files).chain(links) {
                    let input = Path::new(path);
                    self.claim(input, Claim { input, what, weak: true, in_store: false, trail: Vec::new() })?;
                }
                return Ok(());
            }
            Input::Accounts { passwd, group } => {
                for (path, text) in [("/etc/passwd", passwd), ("/etc/group", group)] {
                    let (input, what) = (Path::new(path), What::Text(text, Mode(0o644)));
                    self.claim(input, Claim { input, what, weak: true, in_store: false, trail: Vec::new() })?;
                }
                return Ok(());
            }
        };
        let in_store = match input {
            Input::StorePath { .. } => true,
            Input::Copy { nar_hash, follow, .. } => {
                nar_hash.is_some() || follow.as_ref().is_some_and(|within| within.parent().is_some())
            }
            _ => false,
        };
        self.claim(place, Claim { input: name, what, weak: false, in_store, trail: Vec::new() })
    }

    fn claim(&mut self, place: &Path, mut claim: Claim<'a>) -> Result<(), LayerError> {
        let names = components(place)?;
        if names.is_empty()
            && let What::Host(path, how, known @ None) = &mut claim.what
            && let Ok(resolved) = fs::canonicalize(&*path)
            && fs::symlink_metadata(&*path).is_ok_and(|metadata| metadata.is_symlink())
        {
            // What is merged into `/` is a tree: a link to one, as `ln -s` leaves it in `$out`, stands for it. One in the
            // store must not bring a tree of the host.
            let within =
                if let PathUse::Link(store) = how { Some(*store) } else { path.parent().filter(|_| claim.in_store) };
            if let Some(within) = within.filter(|within| !resolved.starts_with(within)) {
                return Err(LayerError::LeadsOut { link: path.clone(), target: resolved, within: within.to_owned() });
            }
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
        self.claims.iter().any(|claim| !claim.weak) || self.children.values().any(LayerNode::is_strong)
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
    /// The claim of an entry of this claim's directory, as the listing told it.
    pub(super) fn of_entry(&self, trail: &[PathBuf], path: PathBuf, how: PathUse<'a>, known: FileType) -> Self {
        let what = What::Host(path, how, Some(known));
        Self { input: self.input, what, weak: false, in_store: self.in_store, trail: trail.to_vec() }
    }

    /// Looks at the host.
    pub(super) fn look(&self) -> Result<ClaimedContent<'a>, LayerError> {
        let (path, how, known) = match &self.what {
            What::Directory(mode) => return Ok(ClaimedContent::Directory(Some(*mode), None)),
            What::Symlink(target) => return Ok(ClaimedContent::Symlink(target.to_vec())),
            What::Text(text, mode) => return Ok(ClaimedContent::Text(text, *mode)),
            What::Host(path, how, known) => (path, *how, *known),
        };
        let reading = |error| LayerError::reading(path, error);
        let kind = match known {
            Some(kind) => kind,
            None => fs::symlink_metadata(path).map_err(reading)?.file_type(),
        };
        match how {
            PathUse::Copy if kind.is_symlink() => {
                Ok(ClaimedContent::Symlink(fs::read_link(path).map_err(reading)?.into_os_string().into_vec()))
            }
            // The input itself may be reached through a link; what a listing told is a link or is not.
            PathUse::Follow(within) if kind.is_symlink() || known.is_none() => {
                let target = self.resolve(path, within)?;
                let kind = fs::metadata(&target).map_err(reading)?.file_type();
                seen(target, how, kind, self.trail_to(path, kind)?)
            }
            PathUse::Link(_) if !kind.is_dir() => Ok(ClaimedContent::Symlink(path.as_os_str().as_bytes().to_vec())),
            _ => seen(path.clone(), how, kind, self.trail.clone()),
        }
    }

    /// Where a path leads, which must be below `within`.
    fn resolve(&self, path: &Path, within: &Path) -> Result<PathBuf, LayerError> {
        let target = fs::canonicalize(path).map_err(|error| LayerError::reading(path, error))?;
        let within = fs::canonicalize(within).map_err(|error| LayerError::reading(within, error))?;
        if target.starts_with(&within) {
            return Ok(target);
        }
        Err(LayerError::LeadsOut { link: path.to_owned(), target, within })
    }

    /// The trail of what lies behind a link, unless that is a directory on the trail or above it.
    fn trail_to(&self, link: &Path, kind: FileType) -> Result<Vec<PathBuf>, LayerError> {
        let mut trail = self.trail.clone();
        if kind.is_dir() {
            let canonical = |path: &Path| fs::canonicalize(path).map_err(|error| LayerError::reading(path, error));
            let target = canonical(link)?;
            if fs::symlink_metadata(link).is_ok_and(|metadata| metadata.is_symlink()) {
                trail.extend(link.parent().map(canonical).transpose()?);
            }
            if trail.iter().any(|directory| directory.starts_with(&target)) {
                return Err(LayerError::Loop { link: link.to_owned(), target });
            }
            trail.push(target);
        }
        Ok(trail)
    }

    /// For a link to a directory that was to be linked to: the directory, so that it can be merged with others. A link
    /// that leads out of the store stays what it is.
    pub(super) fn as_directory(&self) -> Result<Option<ClaimedContent<'a>>, LayerError> {
        let What::Host(path, how @ PathUse::Link(store), _) = &self.what else { return Ok(None) };
        let Ok(target) = self.resolve(path, store) else { return Ok(None) };
        let kind = fs::metadata(&target).map_err(|error| LayerError::reading(path, error))?.file_type();
        if !kind.is_dir() {
            return Ok(None);
        }
        seen(target, *how, kind, self.trail_to(path, kind)?).map(Some)
    }

    /// The mode that a weak claim has for a directory here.
    pub(super) fn weak_mode(&self) -> Option<Mode> {
        match self.what {
            What::Directory(mode) if self.weak => Some(mode),
            _ => None,
        }
    }

    /// The host path, or the input's name for what is not on the host.
    pub(super) fn host(&self) -> PathBuf {
        match &self.what {
            What::Host(path, ..) => path.clone(),
            _ => self.input.to_owned(),
        }
    }
}

fn seen<'a>(
    path: PathBuf,
    how: PathUse<'a>,
    kind: FileType,
    trail: Vec<PathBuf>,
) -> Result<ClaimedContent<'a>, LayerError> {
    if kind.is_dir() {
        return Ok(ClaimedContent::Directory(None, Some(HostDirectory { path, how, trail })));
    }
    if kind.is_file() {
        return Ok(ClaimedContent::File(path));
    }
    Err(special(path, kind))
}

/// That something is of a kind that no layer can hold.
pub(super) fn special(path: PathBuf, kind: FileType) -> LayerError {
    let kind = match kind {
        kind if kind.is_socket() => "socket",
        kind if kind.is_fifo() => "FIFO",
        kind if kind.is_block_device() => "block device",
        _ => "character device",
    };
    LayerError::Special { path, kind }
}
