//! tar-split records: what containers-storage keeps of a layer's archive beside the unpacked tree, so that `podman save`
//! and `podman push` give the very bytes again (github.com/vbatts/tar-split, `tar/storage`).
//!
//! A gzip file of JSON values, one a line. A *segment* (type 2) holds bytes of the archive that are no file's content:
//! headers, padding, the end. A *file* (type 1) stands for the content of a file of the tree, with its size and CRC-64
//! (GO-ISO, big-endian). In the order of the archive, both together are the archive.
//!
//! With such a record a tree is checked without any other source ([`mod@super::check`]), for a layer of ours and for one that
//! Podman unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm::Crc64GoIso;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use serde::Deserialize;

use crate::blobs::{At, WriteError};
use crate::pipe::{Consumer, PipeError, Readers, fan_out};
use crate::progress::Progress;

const FILE: u8 = 1;
const SEGMENT: u8 = 2;
/// The longest segment in bytes.
const LONGEST: usize = 1024 * 1024;

/// Writes a record.
#[derive(Debug)]
pub struct Writer {
    out: GzEncoder<BufWriter<File>>,
    path: PathBuf,
    segment: Vec<u8>,
    position: u64,
    line: String,
}

impl Writer {
    /// A record in a new file at `path`.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        Ok(Self::new(File::create(path).at("create", path)?, path))
    }

    /// A record in an open file, which is empty; `path` is what messages call it.
    pub(crate) fn new(file: File, path: &Path) -> Self {
        // The headers of a layer are alike: more effort would gain little.
        let out = GzEncoder::new(BufWriter::new(file), Compression::fast());
        Self { out, path: path.to_owned(), segment: Vec::new(), position: 0, line: String::new() }
    }

    /// Bytes of the archive that are no file's content.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn segment(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.segment.extend_from_slice(bytes);
        // Behind the end of an archive there may be gigabytes.
        if self.segment.len() > LONGEST { self.end_segment() } else { Ok(()) }
    }

    /// A member follows whose header was given as a segment; `content` is the size and the CRC-64 of a file's bytes.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn member(&mut self, name: &[u8], content: Option<(u64, u64)>) -> Result<(), WriteError> {
        self.end_segment()?;
        let name = match std::str::from_utf8(name) {
            Ok(name) => format!("\"name\":{}", serde_json::Value::from(name)),
            Err(_) => format!("\"name_raw\":\"{}\"", BASE64.encode(name)),
        };
        let content = match content {
            Some((size, sum)) => format!("\"size\":{size},\"payload\":\"{}\"", BASE64.encode(sum.to_be_bytes())),
            None => "\"payload\":null".to_owned(),
        };
        self.entry(FILE, &format!("{name},{content}"))
    }

    /// A member whose content lies in the segments before it, because the file in the tree has holes that the archive has
    /// not; `sum` is the CRC-64 of the file with its holes. containers-storage skips what has no size.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn with_holes(&mut self, name: &[u8], sum: u64) -> Result<(), WriteError> {
        self.member(name, Some((0, sum)))
    }

    /// Everything is there; the compressed size.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn finish(mut self) -> Result<u64, WriteError> {
        self.end_segment()?;
        let file = self.out.finish().and_then(|out| Ok(out.into_inner()?)).at("write", &self.path)?;
        Ok(file.metadata().at("read", &self.path)?.len())
    }

    fn end_segment(&mut self) -> Result<(), WriteError> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let mut fields = String::with_capacity(self.segment.len() * 4 / 3 + 16);
        fields.push_str("\"payload\":\"");
        BASE64.encode_string(&self.segment, &mut fields);
        fields.push('"');
        self.segment.clear();
        self.entry(SEGMENT, &fields)
    }

    fn entry(&mut self, kind: u8, fields: &str) -> Result<(), WriteError> {
        use std::fmt::Write as _;
        self.line.clear();
        let position = self.position;
        writeln!(self.line, "{{\"type\":{kind},{fields},\"position\":{position}}}").expect("a String takes all");
        self.position += 1;
        self.out.write_all(self.line.as_bytes()).at("write", &self.path)
    }
}

/// One line of a record.
#[derive(Debug)]
pub(super) enum Line {
    /// Bytes of the archive that are no file's content.
    Segment(Vec<u8>),
    /// A member.
    Member {
        /// Its name.
        name: Vec<u8>,
        /// Bytes of its content in the archive.
        size: u64,
        /// The CRC-64 of its file.
        sum: Option<u64>,
    },
}

#[derive(Deserialize)]
struct Entry {
    r#type: u8,
    #[serde(default)]
    name: String,
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    payload: Option<String>,
}

/// Reads the record at `path` line by line.
pub(super) fn read(
    file: File,
    path: &Path,
    each: &mut dyn FnMut(Line) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut lines = BufReader::new(GzDecoder::new(BufReader::new(file)));
    let mut line = String::new();
    let bytes = |text: &Option<String>| BASE64.decode(text.as_deref().unwrap_or_default()).map_err(io::Error::other);
    while lines.read_line(&mut line).at("read", path)? > 0 {
        let entry: Entry = serde_json::from_str(&line).map_err(io::Error::from).at("read", path)?;
        let payload = bytes(&entry.payload).at("read", path)?;
        let line_of = match entry.r#type {
            SEGMENT => Some(Line::Segment(payload)),
            FILE => {
                let raw = entry.name_raw.is_some();
                let name = if raw { bytes(&entry.name_raw).at("read", path)? } else { entry.name.into_bytes() };
                let sum = <[u8; 8]>::try_from(payload).ok().map(u64::from_be_bytes);
                Some(Line::Member { name, size: entry.size, sum })
            }
            _ => None,
        };
        line_of.map_or(Ok(()), &mut *each)?;
        line.clear();
    }
    Ok(())
}

/// The CRC-64 of bytes.
pub(super) fn sum_of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64GoIso, bytes)
}

/// The CRC-64 of a file's bytes.
pub(super) fn sum_of_file(file: &File, size: u64, progress: &Progress) -> Result<u64, PipeError> {
    let mut crc = crc_fast::Digest::new(Crc64GoIso);
    let summing: Consumer<'_> = Box::new(|chunk| {
        crc.update(chunk);
        Ok(())
    });
    fan_out(file, size, Readers { here: vec![summing], beside: Vec::new() }, progress)?;
    Ok(crc.finalize())
}
