//! The tree that a layer's members make, before it has a place in an EROFS file system.
//!
//! A layer says what is to be removed from the layers below it by names (OCI image-spec, *layer.md*, "Whiteouts"). A file system that
//! overlayfs lays over others says it by devices with the number 0, and by an attribute of directories.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::format::{check_name, check_xattrs, refuse, show};
use crate::layer::{MTIME, WHITEOUT};

/// What overlayfs asks of a directory that hides the one below it.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// InodeAttributes of this kind are orders to overlayfs: those that a layer brings along are not for it.
pub(super) const OVERLAY: &[u8] = b"trusted.overlay.";

/// Links that are followed one after another, as in Linux.
const LINKS: usize = 40;
/// The longest target of a link that Linux follows.
const TARGET_LIMIT: usize = 4095;

/// Which of the tree's nodes.
pub(super) type NodeNumber = usize;
pub(super) const ROOT: NodeNumber = 0;

/// What an inode has beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InodeAttributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds, and nanoseconds after them.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl InodeAttributes {
    /// Those of what no member of the layer speaks of.
    pub(super) const fn plain(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: (MTIME as i64, 0), xattrs: BTreeMap::new() }
    }
}

/// Where a file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErofsFile {
    pub(super) size: u64,
    /// The first block of those that are whole.
    pub(super) block: u32,
    /// Where its last bytes are kept until they have a place behind its inode, and how many they are.
    pub(super) tail: Option<(u64, u32)>,
}

/// What is neither a file nor a directory nor a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpecialKind {
    Character,
    Block,
    Fifo,
}

impl SpecialKind {
    pub(super) const fn mode(self) -> u16 {
        match self {
            Self::Character => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
        }
    }

    pub(super) const fn entry_kind(self) -> u8 {
        match self {
            Self::Character => 3,
            Self::Block => 4,
            Self::Fifo => 5,
        }
    }
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ErofsContent {
    Directory(BTreeMap<Vec<u8>, NodeNumber>),
    File(ErofsFile),
    Symlink(Vec<u8>),
    /// With its device number, as Linux encodes it.
    Special(SpecialKind, u32),
}

/// What overlayfs takes for a name that was removed.
const REMOVED: ErofsContent = ErofsContent::Special(SpecialKind::Character, 0);

/// A device number as Linux encodes it in 32 bits.
pub(super) const fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// An inode of the tree.
#[derive(Debug)]
pub(super) struct ErofsNode {
    pub(super) attributes: InodeAttributes,
    pub(super) content: ErofsContent,
}

/// The steps of a path that are still to be gone, the next one last.
#[derive(Debug, Default)]
struct Ahead(Vec<Vec<u8>>);

impl Ahead {
    /// A path that is to be gone first.
    fn put(&mut self, path: &[u8]) {
        let steps = path.split(|byte| *byte == b'/').filter(|step| !matches!(*step, b"" | b"."));
        self.0.extend(steps.rev().map(<[u8]>::to_vec));
    }
}

/// The tree: nodes that no directory leads to any more stay where they are.
#[derive(Debug)]
pub(super) struct ErofsTree {
    pub(super) nodes: Vec<ErofsNode>,
}

impl Default for ErofsTree {
    fn default() -> Self {
        let content = ErofsContent::Directory(BTreeMap::new());
        Self { nodes: vec![ErofsNode { attributes: InodeAttributes::plain(0o755), content }] }
    }
}

impl ErofsTree {
    /// Puts a member of the layer at its path. A name that stands for something removed becomes what overlayfs knows.
    ///
    /// # Errors
    /// If nothing can be at that path.
    pub(super) fn put(&mut self, path: &Path, attributes: InodeAttributes, content: ErofsContent) -> io::Result<()> {
        check_xattrs(&attributes.xattrs).map_err(|why| refuse(format!("{} {why}", path.display())))?;
        if matches!(&content, ErofsContent::Symlink(target) if target.len() > TARGET_LIMIT) {
            return Err(refuse(format!(
                "the target of the link {} is longer than {TARGET_LIMIT} bytes",
                path.display()
            )));
        }
        let is_whiteout = path.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT));
        if is_whiteout && self.is_removed(path) {
            return Ok(());
        }
        let (directory, name) = self.place(path)?;
        let Some(name) = name else {
            // The root itself.
            if matches!(content, ErofsContent::Directory(_)) {
                self.take_attributes(ROOT, attributes);
            }
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            self.remove(directory, hidden, attributes);
            return Ok(());
        }
        let there = self.children(directory).get(name).copied();
        if let Some(there) = there.filter(|_| matches!(content, ErofsContent::Directory(_))) {
            match &self.nodes[there].content {
                ErofsContent::Directory(_) => self.take_attributes(there, attributes),
                content => {
                    let hides = *content == REMOVED;
                    let directory = self.add_directory(directory, name, attributes)?;
                    if hides {
                        self.hide_below(directory);
                    }
                }
            }
            return Ok(());
        }
        // Whatever a header says: Linux knows no other.
        let mode = if matches!(content, ErofsContent::Symlink(_)) { 0o777 } else { attributes.mode };
        self.add(directory, name, ErofsNode { attributes: InodeAttributes { mode, ..attributes }, content }).map(drop)
    }

    /// Gives what is at `target` another name. What is said there of its mode, owner and time holds for all of them.
    ///
    /// # Errors
    /// If there is no such file in the layer.
    pub(super) fn link(&mut self, path: &Path, target: &Path, attributes: InodeAttributes) -> io::Result<()> {
        let missing = || {
            refuse(format!(
                "the hard link {} leads to {}, which the layer does not have",
                path.display(),
                target.display()
            ))
        };
        let (within, Some(last)) = self.place(target)? else { return Err(missing()) };
        let there = self.children(within).get(last).copied().ok_or_else(missing)?;
        if matches!(self.nodes[there].content, ErofsContent::Directory(_)) {
            return Err(refuse(format!("the hard link {} leads to a directory", path.display())));
        }
        let (directory, Some(name)) = self.place(path)? else { return Err(missing()) };
        check_name(name)?;
        self.children_mut(directory).insert(name.to_owned(), there);
        let node = &mut self.nodes[there];
        let is_link = matches!(node.content, ErofsContent::Symlink(_));
        let mode = if is_link { node.attributes.mode } else { attributes.mode };
        // Others would change how much of the file has a place behind its inode.
        let xattrs = std::mem::take(&mut node.attributes.xattrs);
        node.attributes = InodeAttributes { mode, xattrs, ..attributes };
        Ok(())
    }

    /// Whether something above a path is hidden itself, so that nothing is to be hidden there.
    fn is_removed(&self, path: &Path) -> bool {
        let mut here = ROOT;
        path.iter().any(|step| match self.children(here).get(step.as_bytes()) {
            Some(there) => {
                here = *there;
                self.nodes[here].content == REMOVED
            }
            None => false,
        })
    }

    /// The directory of a path, made where it is missing, and the name in it; no name for the root.
    fn place<'p>(&mut self, path: &'p Path) -> io::Result<(NodeNumber, Option<&'p [u8]>)> {
        let Some(name) = path.file_name() else { return Ok((ROOT, None)) };
        let (mut trail, mut ahead, mut links) = (vec![ROOT], Ahead::default(), 0);
        ahead.put(path.parent().map_or(&b""[..], |parent| parent.as_os_str().as_bytes()));
        while let Some(step) = ahead.0.pop() {
            let here = trail.last().copied().unwrap_or(ROOT);
            let there = self.children(here).get(&step).copied();
            match there.map(|there| (there, &self.nodes[there].content)) {
                _ if step == b".." => drop(trail.pop()),
                Some((there, ErofsContent::Directory(_))) => trail.push(there),
                // As the programs do that unpack layers: a link leads out of the layer nowhere.
                Some((_, ErofsContent::Symlink(target))) if links < LINKS => {
                    if target.starts_with(b"/") {
                        trail.clear();
                    }
                    ahead.put(target);
                    links += 1;
                }
                Some((_, content)) if *content != REMOVED => {
                    let below =
                        format!("{} is below {}, which is no directory in the layer", path.display(), show(&step));
                    return Err(refuse(below));
                }
                hidden => {
                    let hides = hidden.is_some();
                    let made = self.add_directory(here, &step, InodeAttributes::plain(0o755))?;
                    if hides {
                        self.hide_below(made);
                    }
                    trail.push(made);
                }
            }
        }
        Ok((trail.last().copied().unwrap_or(ROOT), Some(name.as_bytes())))
    }

    /// What is to be hidden of the layers below: a name, or all of a directory.
    fn remove(&mut self, directory: NodeNumber, hidden: &[u8], attributes: InodeAttributes) {
        match hidden {
            b".wh..opq" => self.hide_below(directory),
            // Notes of aufs for itself, and what is no name.
            name if name.starts_with(WHITEOUT) || matches!(name, b"" | b"." | b"..") || check_name(name).is_err() => {}
            name => match self.children(directory).get(name).copied() {
                Some(there) if matches!(self.nodes[there].content, ErofsContent::Directory(_)) => {
                    self.hide_below(there);
                }
                Some(_) => {}
                None => {
                    let InodeAttributes { uid, gid, .. } = attributes;
                    let attributes = InodeAttributes { uid, gid, ..InodeAttributes::plain(0) };
                    let removed = ErofsNode { attributes, content: REMOVED };
                    // The name was found to be one.
                    drop(self.add(directory, name, removed));
                }
            },
        }
    }

    fn hide_below(&mut self, directory: NodeNumber) {
        self.nodes[directory].attributes.xattrs.insert(OPAQUE.to_vec(), b"y".to_vec());
    }

    fn take_attributes(&mut self, directory: NodeNumber, mut attributes: InodeAttributes) {
        let there = &mut self.nodes[directory].attributes;
        if let Some(opaque) = there.xattrs.remove(OPAQUE) {
            attributes.xattrs.insert(OPAQUE.to_vec(), opaque);
        }
        *there = attributes;
    }

    fn add_directory(
        &mut self,
        parent: NodeNumber,
        name: &[u8],
        attributes: InodeAttributes,
    ) -> io::Result<NodeNumber> {
        self.add(parent, name, ErofsNode { attributes, content: ErofsContent::Directory(BTreeMap::new()) })
    }

    fn add(&mut self, parent: NodeNumber, name: &[u8], node: ErofsNode) -> io::Result<NodeNumber> {
        check_name(name)?;
        let number = self.nodes.len();
        self.nodes.push(node);
        self.children_mut(parent).insert(name.to_owned(), number);
        Ok(number)
    }

    /// What a directory has by name; of anything else nothing.
    pub(super) fn children(&self, directory: NodeNumber) -> &BTreeMap<Vec<u8>, NodeNumber> {
        static NOTHING: BTreeMap<Vec<u8>, NodeNumber> = BTreeMap::new();
        match &self.nodes[directory].content {
            ErofsContent::Directory(children) => children,
            _ => &NOTHING,
        }
    }

    fn children_mut(&mut self, directory: NodeNumber) -> &mut BTreeMap<Vec<u8>, NodeNumber> {
        let content = &mut self.nodes[directory].content;
        match content {
            ErofsContent::Directory(children) => children,
            _ => unreachable!("only directories are added to"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64) -> ErofsContent {
        ErofsContent::File(ErofsFile { size, block: 0, tail: None })
    }

    fn directory() -> ErofsContent {
        ErofsContent::Directory(BTreeMap::new())
    }

    fn tree(members: &[(&str, ErofsContent)]) -> ErofsTree {
        let mut tree = ErofsTree::default();
        for (path, content) in members {
            tree.put(Path::new(path), InodeAttributes::plain(0o700), content.clone()).unwrap();
        }
        tree
    }

    fn find(tree: &ErofsTree, path: &str) -> NodeNumber {
        path.split('/').fold(ROOT, |here, name| tree.children(here)[name.as_bytes()])
    }

    fn at<'t>(tree: &'t ErofsTree, path: &str) -> &'t ErofsNode {
        &tree.nodes[find(tree, path)]
    }

    fn is_opaque(node: &ErofsNode) -> bool {
        node.attributes.xattrs.contains_key(OPAQUE)
    }

    #[test]
    fn what_is_removed_below_and_made_anew_hides_what_was_there() {
        for members in [
            vec![("etc/.wh.a", file(0)), ("etc/a", directory()), ("etc/a/b", file(1))],
            vec![("etc/.wh.a", file(0)), ("etc/a/b", file(1))],
            vec![("etc/a/b", file(1)), ("etc/.wh.a", file(0))],
            vec![("etc/a/.wh..wh..opq", file(0)), ("etc/a", directory()), ("etc/a/b", file(1))],
        ] {
            let tree = tree(&members);
            assert!(is_opaque(at(&tree, "etc/a")) && !is_opaque(at(&tree, "etc")), "{members:?}");
            assert_eq!(at(&tree, "etc/a/b").content, file(1));
        }
        let tree = tree(&[
            ("x/.wh.a", file(0)),
            ("x/a", file(2)),
            ("x/b", file(3)),
            ("x/.wh.b", file(0)),
            ("x/.wh.c", file(0)),
        ]);
        assert_eq!([at(&tree, "x/a"), at(&tree, "x/b")].map(|node| &node.content), [&file(2), &file(3)]);
        assert_eq!((&at(&tree, "x/c").content, at(&tree, "x/c").attributes.mode), (&REMOVED, 0));
    }

    #[test]
    fn later_members_replace_earlier_ones_and_directories_keep_what_they_have() {
        let mut tree = tree(&[
            ("a/b", file(1)),
            ("a", directory()),
            ("a/b", file(2)),
            ("c", file(3)),
            ("c", directory()),
            (".", directory()),
        ]);
        assert_eq!((&at(&tree, "a/b").content, at(&tree, "a").attributes.mode), (&file(2), 0o700));
        assert_eq!((&at(&tree, "c").content, tree.nodes[ROOT].attributes.mode), (&directory(), 0o700));
        tree.link(Path::new("d/e"), Path::new("a/b"), InodeAttributes::plain(0o600)).unwrap();
        assert_eq!((find(&tree, "d/e"), at(&tree, "a/b").attributes.mode), (find(&tree, "a/b"), 0o600));
        let told = |result: io::Result<()>| result.unwrap_err().to_string();
        assert_eq!(
            told(tree.link(Path::new("f"), Path::new("g"), InodeAttributes::plain(0))),
            "the hard link f leads to g, which the layer does not have"
        );
        assert_eq!(
            told(tree.link(Path::new("f"), Path::new("a"), InodeAttributes::plain(0))),
            "the hard link f leads to a directory"
        );
        let below = tree.put(Path::new("a/b/c"), InodeAttributes::plain(0), file(0));
        assert_eq!(told(below), "a/b/c is below b, which is no directory in the layer");
    }
}
