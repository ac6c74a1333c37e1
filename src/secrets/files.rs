//! What looks like a secret among files: by name, by the first bytes, and by who may read it on the host.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::SecretFinding;
use super::table::{Table, fits_name, table};
use super::values::token;
use crate::nix::store_path::StorePath;
use crate::oci::digest::Digest;

/// Bytes of a file that are looked at: a chain of certificates with its key behind it is shorter.
pub(crate) const HEAD: usize = 16 * 1024;
/// Bytes that show whether a file is a text, which most files are not. No mark of a key lies behind them.
pub(crate) const FIRST: usize = 512;
/// Larger files are not searched for tokens: these are in files that a person wrote.
const TEXT: u64 = 256 * 1024;

/// A file or directory on its way into a layer.
#[derive(Debug)]
pub(crate) struct SearchedFile<'a> {
    /// Its path in the image, without the first `/`.
    path: &'a [u8],
    /// Where it comes from.
    host: &'a Path,
    /// Whether others on this host may not read it.
    hidden: bool,
    /// `None` for a directory.
    size: Option<u64>,
    head: SearchedHead,
}

/// The first bytes of a file, up to [`HEAD`].
#[derive(Debug)]
enum SearchedHead {
    /// So many are wanted, and these have passed.
    Coming(usize, Vec<u8>),
    /// All have passed, and this is what they are.
    Judged(Option<String>),
}

impl<'a> SearchedFile<'a> {
    /// At what comes from `host` to `path` of the image, which has no `/` before it; `size` is `None` for a directory.
    #[must_use]
    pub(crate) fn new(path: &'a [u8], host: &'a Path, hidden: bool, size: Option<u64>) -> Self {
        let wanted = usize::try_from(size.unwrap_or(0)).map_or(HEAD, |size| size.min(HEAD));
        Self { path, host, hidden, size, head: SearchedHead::Coming(wanted, Vec::new()) }
    }

    /// Sees the first bytes of the file, alone: [`FIRST`], or all. Where they are no text and look like nothing, the others would say no more, and `false`
    /// is the answer; else all are to [come](Self::update), from the first on.
    pub(crate) fn begin(&mut self, first: &[u8]) -> bool {
        let is_decided = as_text(first).is_none() && self.judge(first).is_none();
        if is_decided {
            self.head = SearchedHead::Judged(None);
        }
        !is_decided
    }

    /// Sees the next bytes of the file.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let SearchedHead::Coming(wanted, before) = &mut self.head else { return };
        let bytes = &bytes[..bytes.len().min(*wanted - before.len())];
        let reason = if bytes.len() == *wanted {
            // Most files come at once, and need not be copied.
            self.judge(bytes)
        } else {
            before.extend_from_slice(bytes);
            if before.len() < *wanted {
                return;
            }
            let head = std::mem::take(before);
            self.judge(&head)
        };
        self.head = SearchedHead::Judged(reason);
    }

    /// What was found, the first reason of each kind.
    #[must_use]
    pub(crate) fn end(self) -> Option<SecretFinding> {
        let reason = match &self.head {
            SearchedHead::Judged(reason) => reason.clone(),
            SearchedHead::Coming(_, head) => self.judge(head),
        };
        let reason = match reason {
            Some(reason) => {
                let who = if self.hidden { ", and others on this host may not read it" } else { "" };
                format!("{reason}{who}")
            }
            // In an empty file there is nothing to read.
            None if self.size == Some(0) => return None,
            None if self.hidden && self.size.is_none() => {
                "is a directory that others on this host may not enter".to_owned()
            }
            None if self.hidden => "is a file that others on this host may not read".to_owned(),
            None => return None,
        };
        let place = format!("/{}", String::from_utf8_lossy(self.path));
        // A text of the spec comes from nowhere else.
        let source = (self.host.as_os_str() != OsStr::new(&place)).then(|| self.host.to_owned());
        Some(SecretFinding { place, source, reason })
    }

    /// What its name and its first bytes say that it is.
    fn judge(&self, head: &[u8]) -> Option<String> {
        let size = self.size.filter(|_| !head.is_empty())?;
        let (table, text) = (table(), as_text(head));
        let inside = private_key(table, self.path, (head, text, size))
            .or_else(|| text.filter(|_| size <= TEXT).and_then(|text| token(text.as_bytes())));
        let by_name = by_name(table, self.path, self.named(), text).map(|what| format!("is {what}"));
        let reason = by_name.or_else(|| inside.map(|what| format!("has {what} in it")))?;
        let is_public = is_public(table, self.host) || is_public_key(table, head, size);
        (!is_public).then_some(reason)
    }

    /// The name that it has on the host, without the hash of a store path: `files."/root/key" = ./id_ed25519`.
    fn named(&self) -> &[u8] {
        let path = self.host.as_os_str().as_bytes();
        let name = self.host.file_name().and_then(OsStr::to_str).unwrap_or_default();
        match StorePath::from_base_name(name) {
            Ok(store) => &path[path.len() - store.name().len()..],
            Err(_) => path,
        }
    }
}

/// Whether it is a key that is known to everybody, byte for byte.
fn is_public_key(table: &Table, head: &[u8], size: u64) -> bool {
    let digest = (head.len() as u64 == size).then(|| Digest::of(head));
    table.public_keys.iter().any(|key| Some(key.sha256) == digest)
}

/// Whether it lies in a directory of a package where keys are that everybody has: for tests, or to show how it is done. Only
/// below a store path: what is named by itself, or lies elsewhere on the host, was put there by a person.
fn is_public(table: &Table, host: &Path) -> bool {
    let parts: Vec<&OsStr> = host.iter().collect();
    let is_store_path = |part: &&OsStr| part.to_str().is_some_and(|name| StorePath::from_base_name(name).is_ok());
    let Some(at) = parts.iter().position(is_store_path) else { return false };
    let below = parts.get(at + 1..parts.len() - 1).unwrap_or_default();
    let is_word = |word: &[u8]| table.public_directories.iter().any(|known| known.as_bytes() == word);
    below.iter().any(|part| {
        let small = part.as_bytes().to_ascii_lowercase();
        small.split(|byte| !byte.is_ascii_alphanumeric()).any(is_word)
    })
}

/// The bytes as text, if they are: the last character may be cut.
fn as_text(head: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}

/// By the name in the image or on the host, where the content agrees.
fn by_name<'t>(table: &'t Table, path: &[u8], host: &[u8], text: Option<&str>) -> Option<&'t str> {
    if !table.ends.may_fit(path) && !table.ends.may_fit(host) {
        return None;
    }
    let any = |names: &[String], path: &[u8]| names.iter().any(|name| fits_name(path, name));
    let rule = table.files.iter().find(|rule| {
        let named = |path| any(&rule.names, path) && !any(&rule.except, path);
        let contains = |needle: &String| text.is_some_and(|text| text.contains(needle.as_str()));
        (named(path) || named(host))
            && rule.contains.as_ref().is_none_or(contains)
            && rule.content.as_ref().is_none_or(|content| text.is_some_and(|text| content.is_match(text)))
    });
    rule.map(|rule| rule.what.as_str())
}

/// By its bytes.
fn private_key<'t>(table: &'t Table, path: &[u8], (head, text, size): (&[u8], Option<&str>, u64)) -> Option<&'t str> {
    let keys = &table.private_keys;
    if let Some(start) = keys.starts.iter().find(|start| head.starts_with(start.text.as_bytes())) {
        return Some(&start.what);
    }
    let named = |names: &[String]| names.iter().any(|name| fits_name(path, name));
    if let Some(text) = text {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let searched = text.starts_with("---") || text.starts_with("Bag Attributes") || named(&keys.inside);
        return (searched && has_block(table, text)).then_some("a private key");
    }
    (is_openpgp(head) || (named(&keys.der) && is_der(head, size))).then_some("a private key")
}

/// Whether a block of a private key is in a text, with something in it: `-----BEGIN … PRIVATE KEY-----` at the start of a line.
fn has_block(table: &Table, text: &str) -> bool {
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let label = line.trim_start_matches('-').trim_end_matches('-').trim();
        let is_first = line.starts_with("----")
            && label
                .strip_prefix("BEGIN ")
                .is_some_and(|label| table.private_keys.labels.iter().any(|known| known == label));
        let is_data = |line: &str| {
            let line = line.trim();
            line.len() >= 16 && line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
        };
        // Headers may come before the data: Proc-Type, Version, Comment.
        if is_first && lines.clone().take(8).take_while(|line| !line.starts_with("----")).any(is_data) {
            return true;
        }
    }
    false
}

/// A packet of `OpenPGP` with a secret key (RFC 9580, 4.2 and 5.5): its tag and length, a version, a time, an algorithm.
fn is_openpgp(head: &[u8]) -> bool {
    let body = match head {
        [0x94, _, rest @ ..] | [0x95, _, _, rest @ ..] => rest,
        [0xc5, first, rest @ ..] if *first < 192 => rest,
        [0xc5, first, _, rest @ ..] if *first < 224 => rest,
        _ => return false,
    };
    // A key of this century has a time from 0x38… on.
    matches!(body, [4 | 6, 0x38..=0x9f, _, _, _, 1..=3 | 16..=19 | 22 | 25..=28, ..])
}

/// A private key in DER: a sequence as long as the file, that begins with a version (PKCS #1, PKCS #8, RFC 5915).
fn is_der(head: &[u8], size: u64) -> bool {
    let (length, body) = match head {
        [0x30, length, body @ ..] if *length < 0x80 => (2 + u64::from(*length), body),
        [0x30, 0x81, length, body @ ..] => (3 + u64::from(*length), body),
        [0x30, 0x82, high, low, body @ ..] => (4 + u64::from(u16::from_be_bytes([*high, *low])), body),
        _ => return false,
    };
    let begins =
        matches!(body, [2, 1, 0, 2, 0x40 | 0x41 | 0x81 | 0x82, ..] | [2, 1, 0 | 1, 0x30, ..] | [2, 1, 1, 4, ..]);
    begins && length == size
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_that_everybody_has_is_none() {
        // What makes it known is its digest, so one that is not known is made known here.
        let mut known: Table = serde_json::from_str(include_str!("patterns.json")).unwrap();
        assert!(known.public_keys.len() > 10);
        let key = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFmM8mGxr7vz\n-----END PRIVATE KEY-----\n";
        let look = || {
            let mut look = SearchedFile::new(b"a.pem", Path::new("/a.pem"), false, Some(key.len() as u64));
            // However the bytes come.
            key.chunks(7).for_each(|chunk| look.update(chunk));
            look
        };
        assert!(!is_public_key(&known, key, key.len() as u64));
        assert_eq!(look().end().unwrap().reason, "has a private key in it");
        known.public_keys[0].sha256 = Digest::of(key);
        assert!(is_public_key(&known, key, key.len() as u64));
        assert!(!is_public_key(&known, key, key.len() as u64 + 1));
    }

    #[test]
    fn der_is_as_long_as_the_file() {
        let key = [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70][..], &[7; 36]].concat();
        assert!(is_der(&key, 48) && !is_der(&key, 47) && !is_der(&key[..11], 11));
        // A certificate, and a public key.
        assert!(!is_der(&[&[0x30, 0x2e, 0x30][..], &[7; 45]].concat(), 48));
    }

    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let key = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFmM8mGxr7vz\n-----END PRIVATE KEY-----\n";
        let starts: Vec<&[u8]> =
            vec![b"", b"\0", b"\xff", b"PuTTY-User-Key-File-3", key, &[0x95, 1, 2, 4, 0x50, 0, 0, 0, 1]];
        let der = [&[0x30, 0x82, 4, 0, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70][..], &[0xf7; 1014]].concat();
        let bytes = proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'\n'), Just(0), Just(0xc3)], 0..1200);
        let end = prop_oneof![Just(Vec::new()), Just(key.to_vec())];
        let mixed = (proptest::sample::select(starts), bytes, end);
        prop_oneof![Just(der), mixed.prop_map(|(start, bytes, end)| [start, &bytes, &end].concat())]
    }

    proptest! {
        /// A file that is no text is decided by its first bytes as it is by all of them.
        #[test]
        fn the_first_bytes_decide_nothing_else_than_all(
            name in proptest::sample::select(vec!["id_rsa", "a.pem", "server.key", "a.der", ".env", "plain.txt", "lib.so"]),
            head in heads(), first in 64..600_usize,
        ) {
            let new = || SearchedFile::new(name.as_bytes(), Path::new(name), false, Some(head.len() as u64));
            let (mut whole, mut begun) = (new(), new());
            whole.update(&head);
            if begun.begin(&head[..first.min(head.len())]) {
                begun.update(&head);
            }
            prop_assert_eq!(begun.end(), whole.end());
        }
    }
}
