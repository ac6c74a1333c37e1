//! What a file is, by its first bytes: a model, or one of the things that are saved under a model's name.

use std::fmt;

use super::gguf::MAGIC;

/// The bytes that are enough to tell.
pub(crate) const HEAD: usize = 1024;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// GGUF, of any version.
    Gguf,
    /// safetensors.
    Safetensors,
    /// Nothing.
    Empty,
    /// A page of the web: what a server says instead of a file.
    Html,
    /// XML: what a storage server says instead of a file.
    Xml,
    /// A line of text: what a server says instead of a file.
    Text(String),
    /// JSON: an error of a server, or a file that describes a model.
    Json,
    /// What Git keeps in the place of a large file.
    LfsPointer {
        /// The SHA-256 of the file.
        oid: String,
        /// Its bytes, if the pointer says so.
        size: Option<u64>,
    },
    /// A ZIP archive: PyTorch's own format, or a download.
    Zip,
    /// Python's pickle: PyTorch's format from before 2020.
    Pickle,
    /// GGML's format from before GGUF.
    OldGgml,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// A tar archive.
    Tar,
    /// None of these.
    Unknown,
}

/// What the file is that begins with these bytes; the first [`HEAD`] are enough.
#[must_use]
pub fn sniff(head: &[u8]) -> FileKind {
    let begins = |bytes: &[u8]| head.starts_with(bytes);
    if head.is_empty() {
        return FileKind::Empty;
    }
    if begins(&MAGIC) {
        return FileKind::Gguf;
    }
    if is_safetensors(head) {
        return FileKind::Safetensors;
    }
    if begins(b"PK\x03\x04") || begins(b"PK\x05\x06") {
        return FileKind::Zip;
    }
    if begins(&[0x1f, 0x8b]) {
        return FileKind::Gzip;
    }
    if begins(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return FileKind::Zstd;
    }
    if head.get(257..262) == Some(b"ustar") {
        return FileKind::Tar;
    }
    // `ggml`, `ggmf`, `ggjt` and `ggla` as numbers of 32 bits.
    if [b"lmgg", b"fmgg", b"tjgg", b"algg"].iter().any(|magic| begins(*magic)) {
        return FileKind::OldGgml;
    }
    if let [0x80, 2..=5, ..] = head {
        return FileKind::Pickle;
    }
    text(head)
}

/// A length of the header that can be, and the brace that it begins with.
fn is_safetensors(head: &[u8]) -> bool {
    let length = head.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    length.is_some_and(|length| (2..=super::safetensors::MAX_HEADER).contains(&length)) && head.get(8) == Some(&b'{')
}

fn text(head: &[u8]) -> FileKind {
    let head = &head[..head.len().min(HEAD)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A character that is cut in two.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or(""),
        Err(_) => return FileKind::Unknown,
    };
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() || text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) {
        return FileKind::Unknown;
    }
    if let Some(pointer) = text.strip_prefix("version https://git-lfs.github.com/spec/v1") {
        let line = |key: &str| pointer.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let oid = line("oid sha256:").filter(|oid| oid.len() == 64 && oid.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if let Some(oid) = oid {
            return FileKind::LfsPointer {
                oid: oid.to_owned(),
                size: line("size ").and_then(|size| size.parse().ok()),
            };
        }
    }
    let lower = text.to_ascii_lowercase();
    if ["<!doctype html", "<html", "<head", "<body"].iter().any(|tag| lower.starts_with(tag)) {
        return FileKind::Html;
    }
    if lower.starts_with("<?xml") {
        return if lower.contains("<html") { FileKind::Html } else { FileKind::Xml };
    }
    if text.starts_with(['{', '[']) {
        return FileKind::Json;
    }
    let first = text.lines().next().unwrap_or_default().trim();
    FileKind::Text(first.chars().take(120).collect())
}

impl FileKind {
    /// What to do about it, where it is not a model that can be read.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Gguf | Self::Safetensors => "inspect it",
            Self::Empty => "get it again",
            Self::Html | Self::Xml | Self::Text(_) => {
                "get the file itself: a link of Hugging Face has /resolve/, not /blob/, and a gated model needs a login"
            }
            Self::Json => "name a .gguf or .safetensors file, or the directory that it is in",
            Self::LfsPointer { .. } => "run `git lfs pull` where it is from, or download the file",
            Self::Zip | Self::Pickle => {
                "PyTorch's own format can run code when it is read: get the model as safetensors or GGUF"
            }
            Self::OldGgml => "llama.cpp reads it no more: get the model as GGUF",
            Self::Gzip | Self::Zstd | Self::Tar => "unpack it, and name the model in it",
            Self::Unknown => "a model is a .gguf or .safetensors file",
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gguf => f.write_str("a GGUF file"),
            Self::Safetensors => f.write_str("a safetensors file"),
            Self::Empty => f.write_str("an empty file"),
            Self::Html => f.write_str("a web page (HTML)"),
            Self::Xml => f.write_str("an XML file, most likely a server's error"),
            Self::Text(line) => write!(f, "text, most likely a server's error: '{line}'"),
            Self::Json => f.write_str("a JSON file"),
            Self::LfsPointer { oid, size: Some(size) } => {
                write!(f, "a Git LFS pointer to the file with SHA-256 {oid} and {size} bytes")
            }
            Self::LfsPointer { oid, size: None } => write!(f, "a Git LFS pointer to the file with SHA-256 {oid}"),
            Self::Zip => f.write_str("a ZIP archive, such as PyTorch writes"),
            Self::Pickle => f.write_str("a Python pickle, such as PyTorch writes"),
            Self::OldGgml => f.write_str("a GGML file from before GGUF"),
            Self::Gzip => f.write_str("compressed with gzip"),
            Self::Zstd => f.write_str("compressed with zstd"),
            Self::Tar => f.write_str("a tar archive"),
            Self::Unknown => f.write_str("of an unknown kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

    #[test]
    fn files_are_named_for_what_they_are() {
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 98362432\n");
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (head, found) in [
            (&b""[..], FileKind::Empty),
            (b"GGUF\x03\0\0\0", FileKind::Gguf),
            (b"\x10\0\0\0\0\0\0\0{}              ", FileKind::Safetensors),
            (b"<!DOCTYPE html>\n<html class=\"\">", FileKind::Html),
            (b"\xef\xbb\xbf  <HTML>", FileKind::Html),
            (b"<?xml version=\"1.0\"?><!DOCTYPE html><html>", FileKind::Html),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", FileKind::Xml),
            (b"Entry not found", FileKind::Text("Entry not found".to_owned())),
            (b"{\"error\":\"x\"}", FileKind::Json),
            (pointer.as_bytes(), FileKind::LfsPointer { oid: OID.to_owned(), size: Some(98_362_432) }),
            (b"PK\x03\x04\0\0", FileKind::Zip),
            (b"\x80\x02\x8a\x0al", FileKind::Pickle),
            (b"tjgg\x03\0\0\0", FileKind::OldGgml),
            (b"\x1f\x8b\x08", FileKind::Gzip),
            (b"\x28\xb5\x2f\xfd", FileKind::Zstd),
            (&tar, FileKind::Tar),
            (b"\0\0\0\0", FileKind::Unknown),
            (b"\xff\xfe", FileKind::Unknown),
            (b"GGU", FileKind::Text("GGU".to_owned())),
        ] {
            assert_eq!(sniff(head), found, "{head:?}");
        }
    }

    #[test]
    fn a_pointer_is_told_with_its_file() {
        let found = FileKind::LfsPointer { oid: OID.to_owned(), size: Some(7) };
        assert_eq!(found.to_string(), format!("a Git LFS pointer to the file with SHA-256 {OID} and 7 bytes"));
        assert!(found.advice().contains("git lfs pull"));
        // Without an object it is a text as any other.
        assert!(matches!(sniff(b"version https://git-lfs.github.com/spec/v1\nsize 1\n"), FileKind::Text(_)));
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let long = "é".repeat(HEAD);
        assert_eq!(sniff(&long.as_bytes()[..HEAD - 1]), FileKind::Text("é".repeat(120)));
    }
}
