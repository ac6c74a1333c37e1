//! Archives of layers, unpacked as root beside a canary: nothing outside of the workplace changes, the digest is that of
//! the bytes, and record and tree give the archive again.
//!
//! The first byte says what the rest is: an archive whose checksums are put right, for an even one, or else a short
//! program of members (see [`program`]), for which a change of one byte is a change of one member.

use std::fs;
use std::path::Path;

use windlass::internals::disk::beneath::Dir;
use windlass::internals::disk::progress::Progress;
use windlass::internals::oci::digest::Digest;
use windlass::internals::podman::linked::check_tree::check as compare;
use windlass::internals::podman::linked::unpack::unpack;

use super::jail;

/// Bytes that an archive may have.
const LIMIT: u64 = 1 << 20;
const BLOCK: usize = 512;

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let Some((kind, rest)) = data.split_first() else { return false };
    let archive = if kind % 2 == 0 { mended(rest) } else { program(rest) };
    jail::run(move |workplace| is_unpacked(&archive, workplace))
}

/// Whether an archive is unpacked; then everything about it is checked.
pub(super) fn is_unpacked(archive: &[u8], workplace: &Path) -> bool {
    let progress = Progress::new();
    let mut from = archive;
    let unpacked = unpack(&mut from, &Dir::open(workplace).unwrap(), LIMIT, &progress);
    for entry in fs::read_dir(workplace).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(name == "diff" || name == "tar-split.gz", "{} appeared beside the tree", name.display());
    }
    let Ok(unpacked) = unpacked else { return false };
    assert_eq!((unpacked.diff_id, unpacked.size), (Digest::of(archive), archive.len() as u64));
    let (record, tree) = (workplace.join("tar-split.gz"), workplace.join("diff"));
    let compared = compare(&record, &tree, true, &progress).expect("what was unpacked can be read");
    assert!(compared.bad.is_empty(), "{:?}", compared.bad);
    assert_eq!(compared.digest, unpacked.diff_id, "record and tree give another archive");
    true
}

/// The bytes with right checksums in everything that looks like a header.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    for header in archive.chunks_exact_mut(BLOCK).filter(|block| block[257..262] == *b"ustar") {
        seal(header);
    }
    archive
}

fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

const STEPS: [&[u8]; 16] = [
    b"a",
    b"b",
    b"..",
    b".",
    b"",
    b"canary",
    b"file",
    b"link",
    b".wh.a",
    b".wh.b",
    b".wh..wh..opq",
    b"place",
    b"in",
    b"diff",
    b"proc/self/root/canary",
    b"closed/secret",
];
const KINDS: [u8; 12] = [b'0', b'5', b'2', b'1', b'3', b'4', b'6', b'x', b'L', b'K', b'g', 0];
const MODES: [&[u8]; 6] = [b"0000644\0", b"0004755\0", b"0001777\0", b"0000000\0", b"7777777\0", b"0000700\0"];
const IDS: [&[u8]; 5] =
    [b"0000000\0", b"0001750\0", b"7777777\0", b"\x80\0\0\0\xff\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff"];
const KEYS: [&str; 14] = [
    "path",
    "linkpath",
    "size",
    "mtime",
    "uid",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.trusted.overlay.redirect",
    "SCHILY.xattr.security.capability",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.realsize",
    "GNU.sparse.name",
    "GNU.sparse.map",
    "GNU.sparse.numblocks",
];
const VALUES: [&[u8]; 12] = [
    b"",
    b"0",
    b"1",
    b"4096",
    b"18446744073709551615",
    b"-1",
    b"1.5",
    b"0,1,8,1",
    b"y",
    b"opaque",
    b"8589934592",
    b"1099511627776",
];

/// The bytes of a program, one after the other; zeros behind its end.
struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    fn of<T: Copy>(&mut self, table: &[T]) -> T {
        table[self.byte() % table.len()]
    }

    /// Up to four steps of the table. A path that begins with an empty one is absolute.
    fn path(&mut self) -> Vec<u8> {
        let steps = self.byte() % 5;
        (0..steps).map(|_| self.of(&STEPS)).collect::<Vec<_>>().join(&b'/')
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Members: for each a kind, a name, a link, a mode, two owners, a time and the length of the content. The content of an
/// extended header is records from tables, that of a long name a path, and of a file the next bytes of the program.
fn program(bytes: &[u8]) -> Vec<u8> {
    let mut program = Program(bytes);
    let mut archive = Vec::new();
    while !program.0.is_empty() && archive.len() < 1 << 16 {
        let kind = program.of(&KINDS);
        let content = match kind {
            b'x' | b'g' => records(&mut program),
            b'L' | b'K' => [program.path(), vec![0]].concat(),
            _ => Vec::new(),
        };
        let (name, link) = (program.path(), program.path());
        let mut header = [0; BLOCK];
        let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
        put(0, &name[..name.len().min(100)]);
        put(100, program.of(&MODES));
        put(108, program.of(&IDS));
        put(116, program.of(&IDS));
        let length = if content.is_empty() { program.byte() } else { content.len() };
        let content = if content.is_empty() { program.take(length).to_vec() } else { content };
        // A length that is not that of what follows is told too.
        let told = if program.byte() == 255 { length + 1 } else { content.len() };
        put(124, format!("{told:011o}\0").as_bytes());
        put(136, format!("{:011o}\0", program.byte()).as_bytes());
        put(156, &[kind]);
        put(157, &link[..link.len().min(100)]);
        put(257, if program.byte() == 255 { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, b"0000001\0");
        put(337, b"0000003\0");
        seal(&mut header);
        archive.extend(header);
        archive.extend(&content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn records(program: &mut Program<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    for _ in 0..program.byte() % 6 {
        let key = program.of(&KEYS);
        let value = match key {
            "path" | "linkpath" | "GNU.sparse.name" => program.path(),
            _ => program.of(&VALUES).to_vec(),
        };
        let body = [b" ", key.as_bytes(), b"=", &value[..], b"\n"].concat();
        // The length counts its own digits.
        let length =
            (1..4).map(|digits| body.len() + digits).find(|length| body.len() + length.to_string().len() == *length);
        records.extend(length.expect("a record is short").to_string().as_bytes());
        records.extend(body);
    }
    records
}
