//! The members of a layer's archive, read as a stream: what `archive/tar` of Go, and so Podman, takes for a member.
//!
//! The `tar` crate is not used for this: it keeps the bytes between two files' contents to itself, which a tar-split record
//! is made of, and in the mode that does not it knows neither sizes beyond 8 GiB nor sparse files. Formats: POSIX.1-2001
//! (*pax Interchange Format*), and "Basic Tar Format" and "Sparse Formats, PAX" of the GNU tar manual.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::class::{Class, Classified};
use crate::layer::padding;

/// Size of a header, and what every size in an archive is filled up to.
const BLOCK: usize = 512;
/// The longest extended header, as in Go.
const EXTENDED: u64 = 1024 * 1024;
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadArchive {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it ends in the middle of {0}")]
    CutOff(&'static str),
    #[error("it is not an archive: {0}")]
    Header(&'static str),
    #[error("{} is of the type '{}', which Podman does not unpack", String::from_utf8_lossy(.0), char::from(*.1))]
    Type(Vec<u8>, u8),
}

impl Classified for BadArchive {
    fn class(&self) -> Class {
        match self {
            Self::Read(error) => error.class(),
            Self::CutOff(_) | Self::Header(_) | Self::Type(..) => Class::Failed,
        }
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TarMemberKind {
    Directory,
    File,
    Symlink(Vec<u8>),
    Link(Vec<u8>),
    Fifo,
    Character(u32, u32),
    Block(u32, u32),
}

/// A file with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Its size with the holes.
    pub(crate) size: u64,
    /// Where its data lies: offsets and lengths, in order.
    pub(crate) map: Vec<(u64, u64)>,
}

/// One member, as far as its headers tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TarMember {
    /// As it is in the archive.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: TarMemberKind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds, and nanoseconds after them.
    pub(crate) mtime: (i64, i64),
    /// Extended attributes.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of content that follow in the archive.
    pub(crate) size: u64,
    /// Where they belong, for a file with holes.
    pub(crate) sparse: Option<Sparse>,
}

impl TarMember {
    /// Where it is below the root, by its name alone.
    pub(crate) fn path(&self) -> PathBuf {
        clean(&self.name)
    }

    /// Whether it is about the root directory in a way that Podman heeds: `/` or `..`, but not `.`.
    pub(crate) fn is_root(&self) -> bool {
        let steps = || self.name.split(|byte| *byte == b'/').filter(|step| !matches!(*step, b"" | b"."));
        self.name.starts_with(b"/") || steps().next() == Some(b"..")
    }
}

/// A name of an archive as a path below the root: no `.`, and `..` leads no further up than to the root.
pub(crate) fn clean(name: &[u8]) -> PathBuf {
    let mut path = PathBuf::new();
    for step in name.split(|byte| *byte == b'/') {
        match step {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            step => path.push(OsString::from_vec(step.to_owned())),
        }
    }
    path
}

/// The next member; `None` at the end of the archive, behind which there may be anything.
pub(crate) fn next(from: &mut dyn Read) -> Result<Option<TarMember>, BadArchive> {
    let (mut extended, mut long_name, mut long_link) = (BTreeMap::new(), None, None);
    loop {
        let Some(header) = block(from)? else { return Ok(None) };
        if header == [0; BLOCK] {
            return match block(from)? {
                Some(second) if second != [0; BLOCK] => Err(BadArchive::Header("a header does not follow another")),
                _ => Ok(None),
            };
        }
        if !is_sound(&header) {
            return Err(BadArchive::Header("the checksum of a header is wrong"));
        }
        match header[156] {
            b'x' => extended = records(&data(from, &header)?)?,
            b'g' => drop(data(from, &header)?),
            b'L' => long_name = Some(text(&data(from, &header)?)),
            b'K' => long_link = Some(text(&data(from, &header)?)),
            _ => return member(from, &header, extended, long_name, long_link).map(Some),
        }
    }
}

fn member(
    from: &mut dyn Read,
    header: &[u8; BLOCK],
    mut extended: BTreeMap<Vec<u8>, Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
) -> Result<TarMember, BadArchive> {
    // An empty value stands for the one in the header.
    extended.retain(|_, value| !value.is_empty());
    let is_ustar = &header[257..263] == b"ustar\0";
    let prefix = if is_ustar { text(&header[345..500]) } else { Vec::new() };
    let mut name = text(&header[..100]);
    if !prefix.is_empty() {
        name = [&prefix[..], b"/", &name].concat();
    }
    let taken = |key: &[u8]| extended.get(key).cloned();
    let mut name = long_name.or_else(|| taken(b"path")).unwrap_or(name);
    let link = long_link.or_else(|| taken(b"linkpath")).unwrap_or_else(|| text(&header[157..257]));
    let told = |key: &[u8], field: &[u8]| -> Result<u64, BadArchive> {
        let value = match extended.get(key) {
            Some(value) => decimal(value),
            None => number(field).and_then(|value| u64::try_from(value).ok()),
        };
        value.ok_or(BadArchive::Header("a number in a header is not a number"))
    };
    let device = || -> Result<(u32, u32), BadArchive> {
        let part = |field: &[u8]| number(field).and_then(|value| u32::try_from(value).ok());
        part(&header[329..337]).zip(part(&header[337..345])).ok_or(BadArchive::Header("a device has no number"))
    };
    let mut size = told(b"size", &header[124..136])?;
    let kind = match header[156] {
        b'5' => TarMemberKind::Directory,
        0 if name.ends_with(b"/") => TarMemberKind::Directory,
        0 | b'0' => TarMemberKind::File,
        b'1' => TarMemberKind::Link(link),
        b'2' => TarMemberKind::Symlink(link),
        b'3' => device().map(|(major, minor)| TarMemberKind::Character(major, minor))?,
        b'4' => device().map(|(major, minor)| TarMemberKind::Block(major, minor))?,
        b'6' => TarMemberKind::Fifo,
        other => return Err(BadArchive::Type(name, other)),
    };
    let mut sparse = None;
    if kind == TarMemberKind::File {
        sparse = holes(from, &extended, &mut size)?;
        if let Some(real) = taken(b"GNU.sparse.name").filter(|_| sparse.is_some()) {
            name = real;
        }
    } else {
        size = 0;
    }
    if [&name]
        .into_iter()
        .chain(match &kind {
            TarMemberKind::Link(to) | TarMemberKind::Symlink(to) => Some(to),
            _ => None,
        })
        .any(|path| path.contains(&0))
    {
        return Err(BadArchive::Header("a name has a zero byte in it"));
    }
    let mtime = match extended.get(&b"mtime"[..]) {
        Some(value) => time(value),
        None => number(&header[136..148]).map(|seconds| (seconds, 0)),
    };
    let xattr = |(key, value): (&Vec<u8>, &Vec<u8>)| Some((key.strip_prefix(XATTR)?.to_owned(), value.clone()));
    Ok(TarMember {
        mode: u32::try_from(told(b"", &header[100..108])? & 0o7777).unwrap_or(0),
        uid: told(b"uid", &header[108..116])?,
        gid: told(b"gid", &header[116..124])?,
        mtime: mtime.ok_or(BadArchive::Header("a time in a header is not a time"))?,
        xattrs: extended.iter().filter_map(xattr).collect(),
        name,
        kind,
        size,
        sparse,
    })
}

/// A block; `None` at the end of the stream.
fn block(from: &mut dyn Read) -> Result<Option<[u8; BLOCK]>, BadArchive> {
    let (mut block, mut filled) = ([0; BLOCK], 0);
    while filled < BLOCK {
        match from.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(BadArchive::CutOff("a header")),
            Ok(read) => filled += read,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(block))
}

/// What an extended header says.
fn data(from: &mut dyn Read, header: &[u8; BLOCK]) -> Result<Vec<u8>, BadArchive> {
    let size = number(&header[124..136]).and_then(|size| u64::try_from(size).ok());
    let size = size.ok_or(BadArchive::Header("an extended header has no size"))?;
    if size > EXTENDED {
        return Err(BadArchive::Header("an extended header is larger than 1 MiB"));
    }
    let whole = size + padding(size);
    let mut data = Vec::new();
    if from.take(whole).read_to_end(&mut data)? as u64 != whole {
        return Err(BadArchive::CutOff("an extended header"));
    }
    data.truncate(usize::try_from(size).unwrap_or(0));
    Ok(data)
}

/// Whether the sum of a header's bytes is what it says; as signed bytes too, as old programs wrote it.
fn is_sound(header: &[u8; BLOCK]) -> bool {
    let bytes = || header.iter().enumerate().map(|(n, byte)| if (148..156).contains(&n) { b' ' } else { *byte });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    number(&header[148..156]).is_some_and(|told| told == unsigned || told == signed)
}

/// The bytes before the first zero.
fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_owned()
}

/// A number of a header: octal, or GNU's base 256, of which the first bit is set and the second is the sign.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let start = i128::from(first & 0x3f) - i128::from(first & 0x40);
        let value =
            field[1..].iter().try_fold(start, |value, byte| value.checked_mul(256)?.checked_add((*byte).into()));
        return value.and_then(|value| i64::try_from(value).ok());
    }
    let is_blank = |byte: &u8| matches!(byte, 0 | b' ');
    let Some(start) = field.iter().position(|byte| !is_blank(byte)) else { return Some(0) };
    let end = field.iter().rposition(|byte| !is_blank(byte)).unwrap_or(start);
    let digits = text(&field[start..=end]);
    i64::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok().filter(|value| *value >= 0)
}

fn decimal(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    digits.parse::<i64>().ok().and_then(|value| u64::try_from(value).ok())
}

/// A time of an extended header: seconds, with a fraction.
fn time(value: &[u8]) -> Option<(i64, i64)> {
    let value = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9.9}").parse().ok()?;
    let whole: i64 = seconds.parse().ok()?;
    if seconds.starts_with('-') && nanos > 0 {
        Some((whole.checked_sub(1)?, 1_000_000_000 - nanos))
    } else {
        Some((whole, nanos))
    }
}

/// The records of an extended header: `<length> <key>=<value>\n`.
fn records(mut data: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, BadArchive> {
    const BAD: BadArchive = BadArchive::Header("an extended header cannot be read");
    let (mut records, mut holes) = (BTreeMap::new(), Vec::new());
    while !data.is_empty() {
        let space = data.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
        let length = decimal(&data[..space]).and_then(|length| usize::try_from(length).ok()).ok_or(BAD)?;
        let record = data.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or(BAD)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() {
            return Err(BAD);
        }
        data = &data[length..];
        // The oldest form of holes, which says the same key again and again.
        if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            holes.push(value);
        } else {
            records.insert(key.to_owned(), value.to_owned());
        }
    }
    if !holes.is_empty() {
        records.insert(b"GNU.sparse.map".to_vec(), holes.join(&b","[..]));
    }
    Ok(records)
}

/// Where the holes of a file are, if it has any; `size` is then what is left of its content behind the map.
fn holes(
    from: &mut dyn Read,
    extended: &BTreeMap<Vec<u8>, Vec<u8>>,
    size: &mut u64,
) -> Result<Option<Sparse>, BadArchive> {
    const BAD: BadArchive = BadArchive::Header("the map of a sparse file cannot be read");
    let get = |key: &str| extended.get(key.as_bytes());
    let version = |key: &str| get(key).map(Vec::as_slice);
    let is_inside = match (version("GNU.sparse.major"), version("GNU.sparse.minor")) {
        (Some(b"1"), Some(b"0")) => true,
        (Some(b"0"), Some(b"0" | b"1")) => false,
        (None, None) if get("GNU.sparse.map").is_some() => false,
        _ => return Ok(None),
    };
    let real = get("GNU.sparse.size").or_else(|| get("GNU.sparse.realsize"));
    let real = real.and_then(|value| decimal(value)).ok_or(BAD)?;
    let numbers = if is_inside {
        map_inside(from, size)?
    } else {
        let map = get("GNU.sparse.map").map(Vec::as_slice).unwrap_or_default();
        map.split(|byte| *byte == b',').map(|value| decimal(value).ok_or(BAD)).collect::<Result<_, _>>()?
    };
    let map: Vec<(u64, u64)> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let mut end = 0;
    for (offset, length) in &map {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= real);
        end = next.ok_or(BAD)?;
    }
    if numbers.len() % 2 != 0 || map.iter().map(|(_, length)| length).sum::<u64>() != *size {
        return Err(BAD);
    }
    Ok(Some(Sparse { size: real, map }))
}

/// The map in front of a sparse file's data: how many pieces, then their offsets and lengths, a number a line.
fn map_inside(from: &mut dyn Read, size: &mut u64) -> Result<Vec<u64>, BadArchive> {
    const BAD: BadArchive = BadArchive::Header("the map of a sparse file cannot be read");
    let (mut text, mut count, mut numbers) = (Vec::new(), None, Vec::new());
    loop {
        let block = block(from)?.ok_or(BadArchive::CutOff("a sparse file"))?;
        *size = size.checked_sub(BLOCK as u64).ok_or(BAD)?;
        for byte in block {
            if byte != b'\n' {
                text.push(byte);
                continue;
            }
            let value = decimal(&text).ok_or(BAD)?;
            text.clear();
            if count.replace(count.unwrap_or(value)).is_some() {
                numbers.push(value);
            }
            if count.is_some_and(|count| numbers.len() as u64 == count.saturating_mul(2)) {
                return Ok(numbers);
            }
        }
        if text.len() > 20 || numbers.len() as u64 * 2 > EXTENDED {
            return Err(BAD);
        }
    }
}
