//! The inputs of a recipe as one sorted tree.
//!
//! Depth first, the children of a directory in the order of their bytes, every parent before its children. Directories
//! of several inputs are merged; anything else may come from several inputs only if they agree. The tree is never held
//! in memory: a directory is read when the walk reaches it.
//!
//! Of the file system only these reach a layer: names, types, link targets, bytes, and whether the owner may execute a
//! file. Owners, other modes, times, hard links and extended attributes do not.

use std::collections::BTreeMap;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::LayerError;
use super::recipe::{Input, Mode, Recipe};

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

/// What the walk finds at one path of the layer.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// Relative path in the layer.
    pub(super) path: &'a [u8],
    /// What is there.
    pub(super) what: Found,
    /// Permission bits before any rule.
    pub(super) mode: u32,
    /// The inputs that give it, for rules that name one; none for a parent that no input provides.
    pub(super) inputs: Vec<&'a Path>,
    /// The host path it comes from, for messages.
    pub(super) host: PathBuf,
}

/// What is at one path.
#[derive(Debug)]
pub(super) enum Found {
    Directory,
    Symlink(Vec<u8>),
    /// An open regular file and its size.
    File(File, u64),
    Text(Vec<u8>),
}

/// Calls `visit` for every entry of the layer, in order.
pub(super) fn walk(recipe: &Recipe, visit: &mut Visit<'_>) -> Result<(), LayerError> {
    let mut root = Node::default();
    for input in &recipe.inputs {
        root.plant(input)?;
    }
    descend(root, &mut Vec::new(), visit)
}

pub(super) type Visit<'v> = dyn FnMut(Item<'_>) -> Result<(), LayerError> + 'v;

/// A place in the layer, and everything that claims to be there.
#[derive(Default)]
struct Node<'a> {
    claims: Vec<Claim<'a>>,
    children: BTreeMap<Vec<u8>, Self>,
}

#[derive(Clone)]
struct Claim<'a> {
    /// The input, as rules and messages name it.
    input: &'a Path,
    what: What<'a>,
    /// Gives way to any claim that is not weak.
    weak: bool,
}

#[derive(Clone)]
enum What<'a> {
    /// Whatever is at this host path.
    Host {
        path: PathBuf,
        links: bool,
        dereference: bool,
        known: Option<FileType>,
    },
    Directory(Mode),
    Symlink(&'a [u8]),
    Text(&'a str, Mode),
}

impl<'a> Node<'a> {
    fn plant(&mut self, input: &'a Input) -> Result<(), LayerError> {
        let host =
            |path: &Path, links, dereference| What::Host { path: path.to_owned(), links, dereference, known: None };
        let (place, input, what) = match input {
            Input::StorePath { path, .. } => (path.as_path(), path, host(path, false, false)),
            Input::Copy { source, target, dereference, .. } => {
                (target.as_path(), source, host(source, false, *dereference))
            }
            Input::Links { source } => (Path::new("/"), source, host(source, true, false)),
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

    fn claim(&mut self, place: &Path, claim: Claim<'a>) -> Result<(), LayerError> {
        let mut node = self;
        for name in components(place)? {
            node = node.children.entry(name.to_vec()).or_default();
        }
        node.claims.push(claim);
        Ok(())
    }

    /// Whether anything at or below this place is asked for by more than a weak claim.
    fn is_strong(&self) -> bool {
        self.claims.iter().any(|claim| !claim.weak) || self.children.values().any(Node::is_strong)
    }
}

/// The components of an absolute path in the image.
fn components(place: &Path) -> Result<Vec<&[u8]>, LayerError> {
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

/// What one claim turns out to be.
enum Seen<'a> {
    Directory { mode: Option<Mode>, host: Option<(PathBuf, bool, bool)> },
    Symlink(Vec<u8>),
    File(PathBuf, bool),
    Text(&'a str, Mode),
}

impl<'a> Claim<'a> {
    fn look(&self) -> Result<Seen<'a>, LayerError> {
        let (path, links, dereference, known) = match &self.what {
            What::Directory(mode) => return Ok(Seen::Directory { mode: Some(*mode), host: None }),
            What::Symlink(target) => return Ok(Seen::Symlink(target.to_vec())),
            What::Text(text, mode) => return Ok(Seen::Text(text, *mode)),
            What::Host { path, links, dereference, known } => (path, *links, *dereference, *known),
        };
        let kind = match known.filter(|kind| !(dereference && kind.is_symlink())) {
            Some(kind) => kind,
            None if dereference => fs::metadata(path).map_err(|e| LayerError::reading(path, e))?.file_type(),
            None => fs::symlink_metadata(path).map_err(|e| LayerError::reading(path, e))?.file_type(),
        };
        if kind.is_dir() {
            Ok(Seen::Directory { mode: None, host: Some((path.clone(), links, dereference)) })
        } else if links {
            Ok(Seen::Symlink(path.as_os_str().as_bytes().to_vec()))
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|e| LayerError::reading(path, e))?;
            Ok(Seen::Symlink(target.into_os_string().into_vec()))
        } else if kind.is_file() {
            Ok(Seen::File(path.clone(), dereference))
        } else {
            let kind = match kind {
                kind if kind.is_socket() => "socket",
                kind if kind.is_fifo() => "FIFO",
                kind if kind.is_block_device() => "block device",
                _ => "character device",
            };
            Err(LayerError::Special { path: path.clone(), kind })
        }
    }

    /// The host path, or the input's name for what is not on the host.
    fn host(&self) -> PathBuf {
        match &self.what {
            What::Host { path, .. } => path.clone(),
            _ => self.input.to_owned(),
        }
    }
}

fn descend(mut node: Node<'_>, path: &mut Vec<u8>, visit: &mut Visit<'_>) -> Result<(), LayerError> {
    if node.claims.iter().any(|claim| !claim.weak) {
        node.claims.retain(|claim| !claim.weak);
    }
    let seen: Vec<Seen<'_>> = node.claims.iter().map(Claim::look).collect::<Result<_, _>>()?;
    let inputs = node.claims.iter().map(|claim| claim.input).collect();
    let conflict = |second: usize| LayerError::Conflict {
        target: display(path),
        first: node.claims[0].host(),
        second: node.claims[second].host(),
    };
    let (what, mode) = match seen.first() {
        None | Some(Seen::Directory { .. }) => {
            let mut mode = None;
            for (n, seen) in seen.iter().enumerate() {
                match seen {
                    Seen::Directory { mode: Some(asked), .. } if mode.is_some_and(|mode| mode != *asked) => {
                        return Err(conflict(n));
                    }
                    Seen::Directory { mode: Some(asked), .. } => mode = Some(*asked),
                    Seen::Directory { .. } => {}
                    _ => return Err(conflict(n)),
                }
            }
            // A tree that is copied brings its directories; those that only hold what we put there are ours.
            let copied = seen.iter().any(|seen| matches!(seen, Seen::Directory { host: Some((_, false, _)), .. }));
            (Found::Directory, mode.map_or(if copied { 0o555 } else { 0o755 }, |Mode(mode)| mode))
        }
        Some(Seen::Symlink(target)) => {
            let other = seen.iter().position(|seen| !matches!(seen, Seen::Symlink(other) if other == target));
            if let Some(other) = other {
                return Err(conflict(other));
            }
            (Found::Symlink(target.clone()), 0o777)
        }
        Some(Seen::Text(text, mode)) => {
            if seen.len() > 1 {
                return Err(conflict(1));
            }
            (Found::Text(text.as_bytes().to_vec()), mode.0)
        }
        Some(Seen::File(host, dereference)) => {
            let (file, size, executable) = open(host, *dereference)?;
            for (n, other) in seen.iter().enumerate().skip(1) {
                let same = match other {
                    Seen::File(other, dereference) => {
                        let (other_file, other_size, other_executable) = open(other, *dereference)?;
                        (size, executable) == (other_size, other_executable)
                            && same_bytes(&file, &other_file).map_err(|e| LayerError::reading(other, e))?
                    }
                    _ => false,
                };
                if !same {
                    return Err(conflict(n));
                }
            }
            if seen.len() > 1 {
                io::Seek::rewind(&mut &file).map_err(|e| LayerError::reading(host, e))?;
            }
            (Found::File(file, size), if executable { 0o555 } else { 0o444 })
        }
    };
    let is_directory = matches!(what, Found::Directory);
    if !is_directory {
        node.children.retain(|_, child| child.is_strong());
        if let Some(name) = node.children.keys().next() {
            let below = [path.as_slice(), b"/", name].concat();
            return Err(LayerError::BelowFile { target: display(&below), file: node.claims[0].host() });
        }
    }
    if !path.is_empty() {
        let host = node.claims.first().map(Claim::host).unwrap_or_default();
        visit(Item { path, what, mode, inputs, host })?;
    } else if !is_directory {
        return Err(LayerError::RootIsNoDirectory(node.claims[0].host()));
    }
    if !is_directory {
        return Ok(());
    }

    let mut children = std::mem::take(&mut node.children);
    for (claim, seen) in node.claims.iter().zip(&seen) {
        if let Seen::Directory { host: Some((host, links, dereference)), .. } = seen {
            for entry in fs::read_dir(host).map_err(|e| LayerError::reading(host, e))? {
                let entry = entry.map_err(|e| LayerError::reading(host, e))?;
                let name = entry.file_name().into_vec();
                if *links && is_bookkeeping(path, &name) {
                    continue;
                }
                let what = What::Host {
                    path: entry.path(),
                    links: *links,
                    dereference: *dereference,
                    known: Some(entry.file_type().map_err(|e| LayerError::reading(&entry.path(), e))?),
                };
                children.entry(name).or_default().claims.push(Claim { input: claim.input, what, weak: false });
            }
        }
    }
    drop(seen);
    let length = path.len();
    for (name, child) in children {
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        descend(child, path, visit)?;
        path.truncate(length);
    }
    Ok(())
}

/// What nixpkgs' `buildEnv` leaves out as well: two packages nearly always differ in them, and no container reads them.
fn is_bookkeeping(directory: &[u8], name: &[u8]) -> bool {
    (directory.is_empty() && name == b"nix-support")
        || (directory.ends_with(b"share/info") && name == b"dir")
        || name == b"perllocal.pod"
}

fn open(path: &Path, follow: bool) -> Result<(File, u64, bool), LayerError> {
    let flags = if follow { rustix::fs::OFlags::empty() } else { rustix::fs::OFlags::NOFOLLOW };
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.map_err(|e| LayerError::reading(path, e))?;
    let metadata = file.metadata().map_err(|e| LayerError::reading(path, e))?;
    Ok((file, metadata.len(), metadata.mode() & 0o100 != 0))
}

fn same_bytes(mut one: &File, mut two: &File) -> io::Result<bool> {
    let (mut a, mut b) = ([0; 64 * 1024], [0; 64 * 1024]);
    loop {
        let count = one.read(&mut a)?;
        if count == 0 {
            return Ok(true);
        }
        two.read_exact(&mut b[..count])?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
}

fn display(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
