//! The values of a GGUF header: numbers and texts are kept, lists are gone over.

use std::fmt::{self, Arguments};
use std::io::{Read, Seek};

use super::cursor::{FileCursor, HeaderError};
use super::gguf::MAX_KEPT;
use crate::oci::digest::{Digest, Hasher};

/// Bytes of a text, by the format's readers.
pub(crate) const MAX_TEXT: u64 = 64 << 20;
/// Bytes of a text that is kept; of a longer one, its digest is.
pub(crate) const MAX_KEPT_TEXT: u64 = 1 << 20;
/// How deep lists may lie in each other.
const MAX_DEPTH: u32 = 4;
/// Texts and lists in all lists of a header.
const MAX_ITEMS: u64 = 1 << 22;
/// Texts of a list that is kept, and the bytes of each.
const MAX_LIST: u64 = 64;
const MAX_LIST_TEXT: u64 = 256;

/// What kind of value a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum GgufKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl GgufKind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::List,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The kind with this number in the file.
    #[must_use]
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Bytes of a value; `None` for texts and lists, which differ.
    #[must_use]
    pub(crate) const fn bytes(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::List => None,
        }
    }
}

/// What a key says.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// A whole number that cannot be negative.
    Unsigned(u64),
    /// A whole number that can be.
    Signed(i64),
    /// 32 bits.
    Float32(f32),
    /// 64 bits.
    Float64(f64),
    /// Yes or no.
    Bool(bool),
    /// Text.
    Text(String),
    /// Text that is not kept: it is longer than [`MAX_KEPT_TEXT`], or no UTF-8.
    Opaque {
        /// Its bytes.
        length: u64,
        /// Their digest.
        digest: Digest,
    },
    /// A short list of short texts.
    Texts(Vec<String>),
    /// Any other list: not kept.
    List {
        /// What is in it.
        kind: GgufKind,
        /// How many.
        length: u64,
    },
}

impl GgufValue {
    /// The digest of a text; `None` for anything else.
    #[must_use]
    pub(crate) fn text_digest(&self) -> Option<Digest> {
        match self {
            Self::Text(text) => Some(Digest::of(text.as_bytes())),
            Self::Opaque { digest, .. } => Some(*digest),
            _ => None,
        }
    }
}

impl fmt::Display for GgufValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number) => number.fmt(f),
            Self::Signed(number) => number.fmt(f),
            Self::Float32(number) => number.fmt(f),
            Self::Float64(number) => number.fmt(f),
            Self::Bool(bool) => bool.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Opaque { length, .. } => write!(f, "text of {length} bytes"),
            Self::Texts(texts) => texts.join(", ").fmt(f),
            Self::List { length, .. } => write!(f, "list of {length}"),
        }
    }
}

/// What of a header may still be kept and gone over.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: u64,
    items: u64,
}

impl Room {
    pub(crate) const fn new() -> Self {
        Self { bytes: MAX_KEPT, items: MAX_ITEMS }
    }

    fn takes(&mut self, bytes: u64) -> bool {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.unwrap_or(self.bytes);
        left.is_some()
    }

    fn item(&mut self, at: u64) -> Result<(), HeaderError> {
        let left = self.items.checked_sub(1);
        self.items =
            left.ok_or_else(|| HeaderError::too_much(at, format!("its lists have more than {MAX_ITEMS} items")))?;
        Ok(())
    }
}

/// A name: always kept, so there must be room for it.
pub(crate) fn name<R: Read + Seek>(
    from: &mut FileCursor<R>,
    limit: u64,
    room: &mut Room,
    what: Arguments<'_>,
) -> Result<String, HeaderError> {
    let start = from.position();
    let length = length(from, limit, what)?;
    if !room.takes(length) {
        return Err(HeaderError::too_much(start, format!("its names have more than {MAX_KEPT} bytes")));
    }
    let text = kept(from, length, what)?;
    text.map_err(|_| HeaderError::invalid(start, format!("{what} is no UTF-8")))
}

/// The length of a text, of which all bytes are there.
fn length<R: Read + Seek>(from: &mut FileCursor<R>, limit: u64, what: Arguments<'_>) -> Result<u64, HeaderError> {
    let start = from.position();
    let length = from.u64(what)?;
    // More than there is in the file is damage; more than is read is not.
    from.need(length, what)?;
    if length > limit {
        return Err(HeaderError::too_much(
            start,
            format!("{what} has {length} bytes, and no more than {limit} are read"),
        ));
    }
    Ok(length)
}

fn kept<R: Read + Seek>(
    from: &mut FileCursor<R>,
    length: u64,
    what: Arguments<'_>,
) -> Result<Result<String, std::string::FromUtf8Error>, HeaderError> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    from.fill(&mut bytes, what)?;
    Ok(String::from_utf8(bytes))
}

/// The value of a key.
pub(crate) fn value<R: Read + Seek>(
    from: &mut FileCursor<R>,
    kind: GgufKind,
    key: &str,
    room: &mut Room,
) -> Result<GgufValue, HeaderError> {
    let what = format_args!("the value of key '{key}'");
    Ok(match kind {
        GgufKind::U8 => GgufValue::Unsigned(from.u8(what)?.into()),
        GgufKind::I8 => GgufValue::Signed(from.u8(what)?.cast_signed().into()),
        GgufKind::U16 => GgufValue::Unsigned(from.u16(what)?.into()),
        GgufKind::I16 => GgufValue::Signed(from.u16(what)?.cast_signed().into()),
        GgufKind::U32 => GgufValue::Unsigned(from.u32(what)?.into()),
        GgufKind::I32 => GgufValue::Signed(from.u32(what)?.cast_signed().into()),
        GgufKind::U64 => GgufValue::Unsigned(from.u64(what)?),
        GgufKind::I64 => GgufValue::Signed(from.u64(what)?.cast_signed()),
        GgufKind::F32 => GgufValue::Float32(f32::from_bits(from.u32(what)?)),
        GgufKind::F64 => GgufValue::Float64(f64::from_bits(from.u64(what)?)),
        GgufKind::Bool => GgufValue::Bool(from.u8(what)? != 0),
        GgufKind::Text => text(from, room, what)?,
        GgufKind::List => list(from, 1, room, what)?,
    })
}

fn text<R: Read + Seek>(
    from: &mut FileCursor<R>,
    room: &mut Room,
    what: Arguments<'_>,
) -> Result<GgufValue, HeaderError> {
    let length = length(from, MAX_TEXT, what)?;
    if length <= MAX_KEPT_TEXT && room.takes(length) {
        return Ok(kept(from, length, what)?
            .map_or_else(|error| GgufValue::Opaque { length, digest: Digest::of(error.as_bytes()) }, GgufValue::Text));
    }
    let (mut hasher, mut buffer, mut left) = (Hasher::new(), [0; 8192], length);
    while left > 0 {
        let part = &mut buffer[..usize::try_from(left.min(8192)).unwrap_or(8192)];
        from.fill(part, what)?;
        hasher.update(part);
        left -= part.len() as u64;
    }
    Ok(GgufValue::Opaque { length, digest: hasher.finish().0 })
}

/// Goes over a list. Numbers are jumped over; texts and lists say their length one by one.
fn list<R: Read + Seek>(
    from: &mut FileCursor<R>,
    depth: u32,
    room: &mut Room,
    what: Arguments<'_>,
) -> Result<GgufValue, HeaderError> {
    let start = from.position();
    let number = from.u32(what)?;
    let kind = GgufKind::from_number(number)
        .ok_or_else(|| HeaderError::invalid(start, format!("{what} is a list of an unknown kind, {number}")))?;
    let length = from.u64(what)?;
    if let Some(bytes) = kind.bytes() {
        // No list is as long as 64 bits count; what does not fit counts as all of it.
        from.skip(length.saturating_mul(bytes), what)?;
        return Ok(GgufValue::List { kind, length });
    }
    // A text has a length, and a list a kind and a length.
    from.need(length.saturating_mul(if kind == GgufKind::Text { 8 } else { 12 }), what)?;
    if kind == GgufKind::List && depth >= MAX_DEPTH {
        return Err(HeaderError::too_much(start, format!("{what} has lists in lists, more than {MAX_DEPTH} deep")));
    }
    let mut texts = (kind == GgufKind::Text && length <= MAX_LIST && depth == 1).then(Vec::new);
    for _ in 0..length {
        room.item(start)?;
        if kind == GgufKind::List {
            list(from, depth + 1, room, what)?;
            continue;
        }
        let bytes = self::length(from, MAX_TEXT, what)?;
        if texts.is_none() || bytes > MAX_LIST_TEXT || !room.takes(bytes) {
            texts = None;
            from.skip(bytes, what)?;
        } else if let (Some(kept), Ok(text)) = (&mut texts, kept(from, bytes, what)?) {
            kept.push(text);
        } else {
            texts = None;
        }
    }
    Ok(texts.map_or(GgufValue::List { kind, length }, GgufValue::Texts))
}
