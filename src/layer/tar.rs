//! Layer format version 1: tar headers, byte for byte.
//!
//! - POSIX ustar (IEEE Std 1003.1, *pax*, "ustar Interchange Format"). A PAX extended header comes before it only where
//!   ustar cannot say it: a path or link over its limits, a name with bytes outside ASCII, a size of 8 GiB or more, an
//!   owner above 2,097,151.
//! - The data of a file of [`ALIGN_FROM`] and more begins at a multiple of [`ALIGNMENT`] from the archive's start: a PAX
//!   `comment` record makes the header as long as that needs. XFS and Btrfs can then share the data between a store
//!   path, a layer blob and an archive.
//! - mtime is [`MTIME`]; GNU extensions, sparse entries, hard links, xattrs and devices are never written.
//! - Two zero blocks end the archive ([`TRAILER`]), and nothing pads it further.
//!
//! Any change here is a new format version: digests of format 1 are for ever, and `tests/it/golden.rs` guards them.
//!
//! Reproducibility: the bytes depend on the entry and on its offset in the archive.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

/// Bytes of one tar block.
pub(crate) const BLOCK: u64 = 512;
/// What ends an archive: two zero blocks.
pub const TRAILER: [u8; 1024] = [0; 1024];
/// Data of large files begins at a multiple of this many bytes.
pub(crate) const ALIGNMENT: u64 = 4096;
/// Files of this many bytes are aligned, smaller ones are not.
pub(crate) const ALIGN_FROM: u64 = 1024 * 1024;
/// Modification time of every entry, in seconds after the epoch: the same as in the Nix store.
pub(crate) const MTIME: u64 = 1;

/// First size, in bytes, that eleven octal digits cannot say.
const SIZE_LIMIT: u64 = 1 << 33;
/// First owner that seven octal digits cannot say.
const ID_LIMIT: u64 = 1 << 21;
const NAME_LIMIT: usize = 100;
const PREFIX_LIMIT: usize = 155;

/// What one archive member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEntryKind {
    /// A directory.
    Directory,
    /// A regular file with this many bytes of data.
    File(u64),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
}

/// One archive member as its header tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Relative path, without a leading or trailing `/`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TarEntryKind,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner's number.
    pub uid: u64,
    /// Group's number.
    pub gid: u64,
    /// Owner's name, empty unless asked for.
    pub uname: String,
    /// Group's name, empty unless asked for.
    pub gname: String,
}

impl TarEntry {
    /// Bytes of data that follow the header.
    #[must_use]
    pub(crate) const fn size(&self) -> u64 {
        match self.kind {
            TarEntryKind::File(size) => size,
            TarEntryKind::Directory | TarEntryKind::Symlink(_) => 0,
        }
    }

    /// Where it is in the image, absolute.
    #[must_use]
    pub(crate) fn place(&self) -> PathBuf {
        Path::new("/").join(OsStr::from_bytes(&self.path))
    }
}

/// Zero bytes that follow `size` bytes of data.
#[must_use]
pub(crate) const fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// The header blocks of an entry that begins `offset` bytes into the archive.
#[must_use]
pub fn header(entry: &TarEntry, offset: u64) -> Vec<u8> {
    let size = entry.size();
    let names = HeaderNames::of(entry);
    let mut blocks = records(entry, &names).into_blocks(offset, size);
    let HeaderNames { path, split, link } = names;
    let path = if split.is_none() { Cow::Owned(ascii(&path)) } else { path };
    let target = if is_plain_link(link) { Cow::Borrowed(link) } else { Cow::Owned(ascii(link)) };
    let mut ustar = plain_header(entry.mode);
    ustar.set_entry_type(match entry.kind {
        TarEntryKind::Directory => EntryType::Directory,
        TarEntryKind::File(_) => EntryType::Regular,
        TarEntryKind::Symlink(_) => EntryType::Symlink,
    });
    let below = |value: u64, limit| if value < limit { value } else { 0 };
    ustar.set_uid(below(entry.uid, ID_LIMIT));
    ustar.set_gid(below(entry.gid, ID_LIMIT));
    ustar.set_size(below(size, SIZE_LIMIT));
    if let Some(fields) = ustar.as_ustar_mut() {
        let (prefix, name) = split.unwrap_or((0, 0)).into_slices(&path);
        put(&mut fields.prefix, prefix);
        put(&mut fields.name, name);
        put(&mut fields.linkname, &target);
        put(&mut fields.uname, &ascii(entry.uname.as_bytes()));
        put(&mut fields.gname, &ascii(entry.gname.as_bytes()));
    }
    ustar.set_cksum();
    blocks.extend_from_slice(ustar.as_bytes());
    blocks
}

/// How many bytes [`header`] gives.
pub(super) fn header_length(entry: &TarEntry, offset: u64) -> u64 {
    records(entry, &HeaderNames::of(entry)).into_blocks(offset, entry.size()).len() as u64 + BLOCK
}

/// What a header has to say of places.
struct HeaderNames<'a> {
    /// With a slash at the end of a directory's.
    path: Cow<'a, [u8]>,
    /// `None` where it does not fit.
    split: Option<PathSplit>,
    link: &'a [u8],
}

impl<'a> HeaderNames<'a> {
    fn of(entry: &'a TarEntry) -> Self {
        let (path, link) = match &entry.kind {
            TarEntryKind::Directory => (Cow::Owned([&entry.path[..], b"/"].concat()), &[][..]),
            TarEntryKind::File(_) => (Cow::Borrowed(&entry.path[..]), &[][..]),
            TarEntryKind::Symlink(target) => (Cow::Borrowed(&entry.path[..]), &target[..]),
        };
        let split = if path.is_ascii() { split(&path) } else { None };
        Self { path, split, link }
    }
}

fn is_plain_link(link: &[u8]) -> bool {
    link.is_ascii() && link.len() <= NAME_LIMIT
}

/// What does not fit into the fields of a ustar header.
fn records(entry: &TarEntry, names: &HeaderNames<'_>) -> PaxRecords {
    let HeaderNames { path, split, link } = names;
    let mut records = PaxRecords::default();
    if [&path[..], link, entry.uname.as_bytes(), entry.gname.as_bytes()]
        .iter()
        .any(|text| std::str::from_utf8(text).is_err())
    {
        // POSIX: without this, values are UTF-8. It comes before the first of them.
        records.add("hdrcharset", b"BINARY");
    }
    if split.is_none() {
        records.add("path", path);
    }
    if !is_plain_link(link) {
        records.add("linkpath", link);
    }
    for (key, value) in [("uname", &entry.uname), ("gname", &entry.gname)] {
        if !value.is_ascii() || value.len() > 32 {
            records.add(key, value.as_bytes());
        }
    }
    for (key, value, limit) in
        [("uid", entry.uid, ID_LIMIT), ("gid", entry.gid, ID_LIMIT), ("size", entry.size(), SIZE_LIMIT)]
    {
        if value >= limit {
            records.add(key, value.to_string().as_bytes());
        }
    }
    records
}

/// A ustar header with everything that no entry changes.
fn plain_header(mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_mtime(MTIME);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Where a path is divided into ustar's prefix and name: (end of prefix, start of name).
type PathSplit = (usize, usize);

trait IntoSlices {
    fn into_slices(self, path: &[u8]) -> (&[u8], &[u8]);
}

impl IntoSlices for PathSplit {
    fn into_slices(self, path: &[u8]) -> (&[u8], &[u8]) {
        (&path[..self.0], &path[self.1..])
    }
}

/// The rightmost division that fits: a name of 1 to 100 bytes, a prefix of at most 155, a `/` between them.
fn split(path: &[u8]) -> Option<PathSplit> {
    if path.len() <= NAME_LIMIT {
        return Some((0, 0));
    }
    // A directory's own trailing slash divides nothing: the name would be empty.
    let end = path.len().saturating_sub(1).min(PREFIX_LIMIT + 1);
    let slash = path[..end].iter().rposition(|&b| b == b'/')?;
    (slash > 0 && path.len() - slash - 1 <= NAME_LIMIT).then_some((slash, slash + 1))
}

/// What the ustar field holds where a PAX record tells the truth: ASCII, cut to fit.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().take(NAME_LIMIT).map(|&b| if b.is_ascii() { b } else { b'_' }).collect()
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// The records of one PAX extended header, in the order they were added.
#[derive(Default)]
struct PaxRecords {
    body: Vec<u8>,
}

impl PaxRecords {
    fn add(&mut self, key: &str, value: &[u8]) {
        self.body.extend_from_slice(&record(key, value));
    }

    /// The PAX header for an entry of `size` bytes at `offset`; empty where none is needed.
    fn into_blocks(mut self, offset: u64, size: u64) -> Vec<u8> {
        if size >= ALIGN_FROM {
            let misaligned = |body: u64| !(offset + BLOCK + body + BLOCK).is_multiple_of(ALIGNMENT);
            if !self.body.is_empty() || !(offset + BLOCK).is_multiple_of(ALIGNMENT) {
                let used = self.body.len() as u64;
                let mut body = used.next_multiple_of(BLOCK);
                // A comment must fit exactly, and the shortest one has a length of its own. No body would be no header.
                while body == 0 || misaligned(body) || (body > used && body - used < SHORTEST_COMMENT) {
                    body += BLOCK;
                }
                if body > used {
                    self.body.extend_from_slice(&comment(body - used));
                }
            }
        }
        if self.body.is_empty() {
            return Vec::new();
        }
        let mut pax = plain_header(0o444);
        pax.set_entry_type(EntryType::XHeader);
        pax.set_size(self.body.len() as u64);
        if let Some(fields) = pax.as_ustar_mut() {
            put(&mut fields.name, b"PaxHeader");
        }
        pax.set_cksum();
        let mut blocks = pax.as_bytes().to_vec();
        let length = blocks.len() + self.body.len();
        blocks.append(&mut self.body);
        blocks.resize(length.next_multiple_of(512), 0);
        blocks
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record, its own digits too.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + digits(length) {
        length = rest + digits(length);
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

const fn digits(number: usize) -> usize {
    number.ilog10() as usize + 1
}

/// `13 comment= \n`: a comment with a value of one byte.
const SHORTEST_COMMENT: u64 = 13;

/// A comment record of exactly `length` bytes.
fn comment(length: u64) -> Vec<u8> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let value = length - digits(length) - " comment=\n".len();
    [length.to_string().as_bytes(), b" comment=", &vec![b' '; value], b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str, kind: TarEntryKind) -> TarEntry {
        TarEntry { path: path.into(), kind, mode: 0o444, uid: 0, gid: 0, uname: String::new(), gname: String::new() }
    }

    #[test]
    fn a_plain_file_is_one_block() {
        let bytes = header(&entry("nix/store/a", TarEntryKind::File(5)), 0);
        assert_eq!(bytes.len(), 512);
        assert_eq!(&bytes[..12], b"nix/store/a\0");
        assert_eq!(&bytes[100..108], b"0000444\0");
        assert_eq!(&bytes[124..148], b"00000000005\x0000000000001\0");
        assert_eq!(bytes[156], b'0');
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        assert_eq!(&bytes[265..329], &[0; 64], "no owner names");
    }

    #[test]
    fn long_names_use_the_prefix_then_pax() {
        let fits = format!("{}/{}", "d".repeat(155), "f".repeat(100));
        assert_eq!(header(&entry(&fits, TarEntryKind::File(0)), 0).len(), 512);
        let long = format!("{}/{}", "d".repeat(155), "f".repeat(101));
        let bytes = header(&entry(&long, TarEntryKind::File(0)), 0);
        assert_eq!(bytes.len(), 3 * 512);
        assert_eq!(bytes[156], b'x');
        assert!(bytes[512..].starts_with(format!("267 path={long}\n").as_bytes()));
        // A directory's slash counts: 100 letters and a slash do not fit the name, and there is nothing to divide at.
        assert_eq!(header(&entry(&"d".repeat(99), TarEntryKind::Directory), 0).len(), 512);
        assert_eq!(header(&entry(&"d".repeat(100), TarEntryKind::Directory), 0).len(), 3 * 512);
    }

    #[test]
    fn sizes_of_8_gib_need_pax() {
        assert!(!header(&entry("m", TarEntryKind::File(SIZE_LIMIT - 1)), 4096 - 512).windows(5).any(|w| w == b"size="));
        let bytes = header(&entry("m", TarEntryKind::File(SIZE_LIMIT)), 0);
        assert!(bytes[512..].starts_with(b"19 size=8589934592\n"));
        assert_eq!(bytes.len() as u64 % ALIGNMENT, 0);
    }

    #[test]
    fn names_that_are_not_utf8_say_so() {
        let mut odd = entry("x", TarEntryKind::File(0));
        odd.path = b"caf\xe9".to_vec();
        let bytes = header(&odd, 0);
        assert!(bytes[512..].starts_with(b"21 hdrcharset=BINARY\n13 path=caf\xe9\n"));
        odd.path = "é".into();
        odd.kind = TarEntryKind::Symlink(b"caf\xe9".to_vec());
        let bytes = header(&odd, 0);
        assert!(bytes[512..].starts_with(b"21 hdrcharset=BINARY\n11 path=\xc3\xa9\n17 linkpath=caf\xe9\n"));
    }

    #[test]
    fn large_files_are_aligned_wherever_they_begin() {
        for offset in (0..8).map(|block| block * BLOCK) {
            let bytes = header(&entry("m", TarEntryKind::File(ALIGN_FROM)), offset);
            assert_eq!((offset + bytes.len() as u64) % ALIGNMENT, 0, "{offset}");
            assert_eq!(bytes.len() as u64 == BLOCK, offset == ALIGNMENT - BLOCK, "{offset}");
        }
    }

    proptest! {
        #[test]
        fn large_files_are_aligned_and_records_are_exact(
            blocks in 0u64..64, size in ALIGN_FROM..(1u64 << 40), length in 1usize..400, utf8 in any::<bool>()
        ) {
            let name = if utf8 { "é".repeat(length) } else { "n".repeat(length) };
            let offset = blocks * 512;
            let bytes = header(&entry(&name, TarEntryKind::File(size)), offset);
            prop_assert_eq!((offset + bytes.len() as u64) % ALIGNMENT, 0);
            prop_assert_eq!(bytes.len() as u64, header_length(&entry(&name, TarEntryKind::File(size)), offset));
            prop_assert!(bytes.len() < 4096 + 2 * 1024);
            // The tar crate, which knows nothing of ours, reads the same back.
            let mut archive = tar::Archive::new(&bytes[..]);
            let read = archive.entries().unwrap().next().unwrap().unwrap();
            let path = read.path_bytes().into_owned();
            prop_assert_eq!(path, name.as_bytes());
            prop_assert_eq!(read.size(), size);
        }

        #[test]
        fn records_count_their_own_digits(length in 0usize..1200) {
            let record = record("path", &vec![b'x'; length]);
            let stated: usize = std::str::from_utf8(&record).unwrap().split(' ').next().unwrap().parse().unwrap();
            prop_assert_eq!(stated, record.len());
        }

        #[test]
        fn comments_have_any_length(length in SHORTEST_COMMENT..6000) {
            prop_assert_eq!(comment(length).len() as u64, length);
        }
    }
}
